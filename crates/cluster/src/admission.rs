//! Admission: which requests the cluster accepts, and how long the client of a refused request should
//! wait.
//!
//! - **AD-1** the cluster never holds more requests or prompt tokens than its bounds allow, nor more of
//!   one client than the client's limits allow (**G6**). A prompt that is longer than a token bound is
//!   accepted while no other prompt counts against that bound.
//! - **AD-2** a refusal takes nothing and waits for nothing. A client that exceeds its own limit is told
//!   so, whether the cluster is full or not.
//! - **AD-3** a refused client is told to come back when the requests that are queued now will have been
//!   admitted to batches, at the pace at which requests leave: in 1 s to 60 s, which is what
//!   `openai-python` heeds.
//! - **AD-4** generations that exceed a bound together, whatever else is in the cluster, are told apart from
//!   those that have to wait: repeating them would be in vain.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use playhouse_scheduler::Tenant;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::pace::Pace;

/// The bounds of the whole cluster, over running and waiting requests (**G6**).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Maximum number of requests.
    pub requests: Capacity,
    /// Maximum of the prompt tokens of all those requests together.
    pub prompt_tokens: u32,
    /// The longest time that a request waits while no replica can serve it (**C-7**).
    pub no_capacity_timeout: Duration,
}

/// The maximum number of requests in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// The same number, however many replicas there are.
    Fixed(u32),
    /// This number for each replica.
    EachReplica(u32),
}

/// The limits of one client: how much it may have in the cluster, and the earliest priority of its
/// requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientLimits {
    /// Maximum number of requests at once, running and waiting; as many as the cluster takes if not
    /// given.
    pub requests: Option<u32>,
    /// Maximum of the prompt tokens of all those requests together.
    pub prompt_tokens: Option<u32>,
    /// The lowest priority value of this client's requests: none is served earlier. See
    /// [`Submission::priority`](crate::Submission::priority).
    pub priority: i32,
}

/// A client of the cluster, with limits of its own. Among requests of one priority, every client gets
/// its share of the service. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) tenant: Tenant,
    pub(crate) priority: i32,
    budget: Budget,
}

/// The bound that a request would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    /// The bound of the whole cluster.
    Cluster,
    /// A limit of the client: what is limited, and the limit.
    Client(Measure, u32),
}

/// The generations of one request are more than a bound allows, whatever else is in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{asked} {measure} in one request can never fit: at most {limit} are taken at once")]
pub struct Excess {
    /// The holder of the limit.
    pub holder: LimitHolder,
    /// The quantity that exceeds the limit.
    pub measure: Measure,
    /// The quantity that the request needs.
    pub asked: u64,
    /// The limit of that quantity.
    pub limit: u32,
}

/// The holder of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitHolder {
    /// The whole cluster.
    Cluster,
    /// The client.
    Client,
}

/// The quantity that a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Requests, running and waiting.
    Requests,
    /// Prompt tokens of those requests.
    PromptTokens,
}

/// The bounds of the cluster or of a client, with what is taken of them.
#[derive(Clone, Debug)]
struct Budget {
    requests: Bound,
    prompt_tokens: Bound,
}

/// A limited quantity. Clones count together.
#[derive(Clone, Debug)]
struct Bound {
    taken: watch::Sender<u32>,
    most: u32,
}

/// An amount taken from a [`Bound`]. Dropping it gives the amount back.
#[derive(Debug)]
struct Taken {
    of: watch::Sender<u32>,
    amount: u32,
}

/// Counts the queued and running requests of the cluster and of each client.
#[derive(Debug)]
pub(crate) struct Admission {
    cluster: Budget,
    requests: Capacity,
    clients: AtomicU32,
    pace: Mutex<Pace>,
    origin: Instant,
}

/// The place of a request in the cluster. Dropping it frees the place.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Arc<Admission>,
    _cluster: [Taken; 2],
    _client: Option<[Taken; 2]>,
}

// === impl Admission ===

impl Admission {
    pub(crate) fn new(limits: &AdmissionLimits) -> Self {
        Self {
            cluster: Budget::new(u32::MAX, limits.prompt_tokens),
            requests: limits.requests,
            clients: AtomicU32::new(0),
            pace: Mutex::default(),
            origin: Instant::now(),
        }
    }

    pub(crate) fn client(&self, limits: &ClientLimits) -> Client {
        let most = |limit: Option<u32>| limit.unwrap_or(u32::MAX);
        // Tenant 0 is for requests without a client.
        let tenant = Tenant(self.clients.fetch_add(1, Ordering::Relaxed) + 1);
        let budget = Budget::new(most(limits.requests), most(limits.prompt_tokens));
        Client { tenant, priority: limits.priority, budget }
    }

    /// Takes a place in a cluster with this number of replicas, if there is room.
    pub(crate) fn enter(
        self: &Arc<Self>,
        prompt_tokens: usize,
        client: Option<&Client>,
        replicas: usize,
    ) -> Result<Place, Full> {
        let of_client = client.map(|Client { budget, .. }| {
            let most = budget.requests.most;
            budget.take(prompt_tokens, most).map_err(|measure| match measure {
                Measure::Requests => Full::Client(measure, most),
                Measure::PromptTokens => Full::Client(measure, budget.prompt_tokens.most),
            })
        });
        let of_client = of_client.transpose()?;
        let was_empty = self.requests() == 0;
        let most = self.requests.among(replicas);
        let cluster = self.cluster.take(prompt_tokens, most).map_err(|_| Full::Cluster)?;
        if was_empty {
            self.pace().resume(self.origin.elapsed());
        }
        Ok(Place { admission: Arc::clone(self), _cluster: cluster, _client: of_client })
    }

    /// Checks whether requests with prompts of these lengths fit an empty cluster together (**AD-4**).
    pub(crate) fn check_together(
        &self,
        prompts: impl Iterator<Item = usize> + Clone,
        client: Option<&Client>,
        replicas: usize,
    ) -> Result<(), Excess> {
        if let Some(Client { budget, .. }) = client {
            budget.check_together(prompts.clone(), budget.requests.most, LimitHolder::Client)?;
        }
        let most = self.requests.among(replicas);
        self.cluster.check_together(prompts, most, LimitHolder::Cluster)
    }

    /// The number of requests in the cluster.
    pub(crate) fn requests(&self) -> u32 {
        *self.cluster.requests.taken.borrow()
    }

    /// The time after which a refused client should come back, if this many requests wait for a slot
    /// (**AD-3**).
    pub(crate) fn retry_after(&self, waiting: u32) -> Duration {
        self.pace().retry_after(waiting, self.origin.elapsed())
    }

    /// Waits until the cluster is empty.
    pub(crate) async fn empty(&self) {
        let mut taken = self.cluster.requests.taken.subscribe();
        // The sender is ours.
        drop(taken.wait_for(|taken| *taken == 0).await);
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock()
    }
}

// === impl Capacity ===

impl Capacity {
    fn among(self, replicas: usize) -> u32 {
        match self {
            Self::Fixed(requests) => requests,
            // While there is none, requests wait for the first.
            Self::EachReplica(requests) => {
                let replicas = u32::try_from(replicas.max(1)).unwrap_or(u32::MAX);
                requests.saturating_mul(replicas)
            }
        }
    }
}

// === impl Budget ===

impl Budget {
    fn new(requests: u32, prompt_tokens: u32) -> Self {
        Self { requests: Bound::new(requests), prompt_tokens: Bound::new(prompt_tokens) }
    }

    /// Takes one request, of at most `requests`, and its prompt tokens; otherwise returns the quantity
    /// that is exhausted.
    fn take(&self, prompt_tokens: usize, requests: u32) -> Result<[Taken; 2], Measure> {
        let request = self.requests.take(1, requests).ok_or(Measure::Requests)?;
        let tokens = self.counted(prompt_tokens);
        let tokens = self.prompt_tokens.take(tokens, self.prompt_tokens.most);
        Ok([request, tokens.ok_or(Measure::PromptTokens)?])
    }

    /// Returns what a prompt counts: one that is longer than the bound is accepted alone.
    fn counted(&self, prompt_tokens: usize) -> u32 {
        u32::try_from(prompt_tokens).unwrap_or(u32::MAX).min(self.prompt_tokens.most)
    }

    fn check_together(
        &self,
        prompts: impl Iterator<Item = usize> + Clone,
        requests: u32,
        holder: LimitHolder,
    ) -> Result<(), Excess> {
        let tokens: u64 = prompts.clone().map(|tokens| u64::from(self.counted(tokens))).sum();
        let needs = [
            (Measure::Requests, prompts.count() as u64, requests),
            (Measure::PromptTokens, tokens, self.prompt_tokens.most),
        ];
        let excess = needs.into_iter().find(|&(_, asked, limit)| asked > limit.into());
        excess
            .map_or(Ok(()), |(measure, asked, limit)| Err(Excess { holder, measure, asked, limit }))
    }
}

// === impl Bound ===

impl Bound {
    fn new(most: u32) -> Self {
        Self { taken: watch::Sender::new(0), most }
    }

    fn take(&self, amount: u32, most: u32) -> Option<Taken> {
        let take = |taken: &mut u32| match taken.checked_add(amount) {
            Some(more) if more <= most => {
                *taken = more;
                true
            }
            _ => false,
        };
        let of = &self.taken;
        of.send_if_modified(take).then(|| Taken { of: of.clone(), amount })
    }
}

// === impl Taken ===

impl Drop for Taken {
    fn drop(&mut self) {
        self.of.send_modify(|taken| *taken -= self.amount);
    }
}

// === impl Place ===

impl Drop for Place {
    fn drop(&mut self) {
        // The bounds that it took from return after this.
        let admission = &self.admission;
        admission.pace().leave(admission.origin.elapsed());
    }
}

// === impl Measure ===

impl std::fmt::Display for Measure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Requests => "requests",
            Self::PromptTokens => "prompt tokens",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission() -> Arc<Admission> {
        let no_capacity_timeout = Duration::ZERO;
        let limits = AdmissionLimits {
            requests: Capacity::Fixed(4),
            prompt_tokens: 100,
            no_capacity_timeout,
        };
        Arc::new(Admission::new(&limits))
    }

    fn client(admission: &Admission, requests: u32, prompt_tokens: u32) -> Client {
        let (requests, prompt_tokens) = (Some(requests), Some(prompt_tokens));
        admission.client(&ClientLimits { requests, prompt_tokens, priority: 0 })
    }

    /// **AD-1**, **AD-2**
    #[test]
    fn a_client_has_bounds_of_its_own_and_shares_those_of_the_cluster() {
        let cluster = admission();
        let (small, large) = (client(&cluster, 2, 30), client(&cluster, 9, 900));
        let first = cluster.enter(10, Some(&small), 1).expect("room");
        assert_eq!(
            cluster.enter(21, Some(&small), 1).err(),
            Some(Full::Client(Measure::PromptTokens, 30))
        );
        let second = cluster.enter(20, Some(&small), 1).expect("a refusal took nothing");
        assert_eq!(
            cluster.enter(0, Some(&small), 1).err(),
            Some(Full::Client(Measure::Requests, 2))
        );
        let third = cluster.enter(60, Some(&large), 1).expect("room");
        assert_eq!(
            cluster.enter(11, Some(&large), 1).err(),
            Some(Full::Cluster),
            "tokens of the cluster"
        );
        let fourth = cluster.enter(10, None, 1).expect("room");
        assert_eq!(
            cluster.enter(0, Some(&large), 1).err(),
            Some(Full::Cluster),
            "requests of the cluster"
        );
        assert_eq!(
            cluster.enter(0, Some(&small), 1).err(),
            Some(Full::Client(Measure::Requests, 2))
        );
        assert_eq!(cluster.requests(), 4);
        drop((first, second, third, fourth));
        assert_eq!(cluster.requests(), 0);
        assert!(cluster.enter(1000, Some(&small), 1).is_ok(), "a long one is let in alone");
    }

    /// **AD-4**
    #[test]
    fn what_exceeds_a_bound_by_itself_is_told_so_whatever_else_is_there() {
        let cluster = admission();
        let small = client(&cluster, 2, 30);
        let check =
            |prompts: &[usize], client| cluster.check_together(prompts.iter().copied(), client, 1);
        let excess = |holder, measure, asked, limit| Err(Excess { holder, measure, asked, limit });
        assert_eq!(check(&[10, 20], Some(&small)), Ok(()));
        assert_eq!(check(&[1000], Some(&small)), Ok(()), "a long one is let in alone");
        assert_eq!(
            check(&[1, 1, 1], Some(&small)),
            excess(LimitHolder::Client, Measure::Requests, 3, 2)
        );
        assert_eq!(
            check(&[10, 1000], Some(&small)),
            excess(LimitHolder::Client, Measure::PromptTokens, 40, 30)
        );
        assert_eq!(check(&[1; 5], None), excess(LimitHolder::Cluster, Measure::Requests, 5, 4));
        assert_eq!(
            check(&[60, 60], None),
            excess(LimitHolder::Cluster, Measure::PromptTokens, 120, 100)
        );
        let _place = cluster.enter(100, None, 1).expect("room");
        assert_eq!(check(&[100], None), Ok(()), "it waits for room");
    }

    /// **AD-1**
    #[test]
    fn a_cluster_may_be_bounded_by_its_replicas() {
        let limits = AdmissionLimits {
            requests: Capacity::EachReplica(2),
            prompt_tokens: 100,
            no_capacity_timeout: Duration::ZERO,
        };
        let cluster = Arc::new(Admission::new(&limits));
        let mut places: Vec<_> = (0..2).map(|_| cluster.enter(1, None, 0).expect("room")).collect();
        assert_eq!(cluster.enter(1, None, 1).err(), Some(Full::Cluster));
        places.extend((0..2).map(|_| cluster.enter(1, None, 2).expect("there is one more")));
        assert_eq!(cluster.enter(1, None, 1).err(), Some(Full::Cluster), "one has left");
        drop(places.drain(..3));
        assert!(cluster.enter(1, None, 1).is_ok());
    }
}
