//! The front door, where requests enter: a plain struct on the hot path, not an actor.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use playhouse_scheduler::{HashedRequest, Limits, Terms};
use playhouse_types::{BlockSize, Emission, GenerateRequest, RequestId};
use tokio::sync::mpsc::UnboundedSender;

use crate::admission::{
    Admission, AdmissionLimits, Capacity, Client, ClientLimits, Excess, Full, Measure, Place,
};
use crate::awaited::Awaited;
use crate::generation::{self, Generation};
use crate::mail::{Asked, Pending};
use crate::replicas::Replicas;
use crate::start_error::StartError;
use crate::status::ReplicaStatus;
use crate::submission::Submission;

/// The entrance of a cluster: accepts requests, or refuses them at once. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FrontDoor {
    shared: Arc<Shared>,
}

/// A function that answers a request by sending emissions, in tests of the layers above.
type Script = Box<dyn Fn(GenerateRequest, UnboundedSender<Emission>) + Send + Sync>;

struct Shared {
    replicas: Arc<Replicas>,
    /// The script that answers instead of the replicas.
    script: Option<Script>,
    draining: AtomicBool,
    next_id: AtomicU64,
    admission: Arc<Admission>,
    bounds: Bounds,
}

/// The bounds that requests are checked against; see [`DeploymentConfig`](crate::DeploymentConfig).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) limits: Limits,
    pub(crate) admission: AdmissionLimits,
    pub(crate) vocab: u32,
    pub(crate) shared_prompt_max: usize,
}

/// The reason why a request was not accepted. Nothing of the request remains.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The queues are full; try again after the given time.
    #[error("overloaded: {requests} requests are queued or running, try again later")]
    Overloaded {
        /// When the client should come back.
        retry_after: Duration,
        /// The number of requests in the cluster.
        requests: u32,
    },
    /// The client has as much in the cluster as its limits allow; try again after the given time.
    #[error("you have {limit} {measure} here already, which is your limit")]
    OverLimit {
        /// When the client should come back.
        retry_after: Duration,
        /// The quantity that exceeds the limit.
        measure: Measure,
        /// The client's limit of that quantity.
        limit: u32,
    },
    /// The generations of one request are more than the cluster or the client may have at once.
    #[error(transparent)]
    NeverTogether(#[from] Excess),
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining,
    /// The prompt is larger than the context or the KV cache, whatever else runs.
    #[error(
        "the request needs {tokens} tokens of context (its prompt and one more), there are {limit}"
    )]
    NeverFits {
        /// The tokens of the prompt, and one to generate.
        tokens: usize,
        /// The maximum number of tokens of one sequence.
        limit: usize,
    },
}

// === impl FrontDoor ===

impl FrontDoor {
    pub(crate) fn new(replicas: Arc<Replicas>, bounds: Bounds) -> Self {
        Self::over(replicas, bounds, None)
    }

    fn over(replicas: Arc<Replicas>, bounds: Bounds, script: Option<Script>) -> Self {
        let shared = Shared {
            replicas,
            script,
            draining: AtomicBool::new(false),
            next_id: AtomicU64::new(0),
            admission: Arc::new(Admission::new(&bounds.admission)),
            bounds,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns a front door over a function instead of a cluster, always serving, for tests of the
    /// layers above. `script` is called for each accepted request and may answer it from any thread;
    /// `in_flight` counts a request until its [`Generation`] is dropped.
    pub fn scripted(
        max_model_len: usize,
        vocab: u32,
        max_requests: u32,
        script: impl Fn(GenerateRequest, UnboundedSender<Emission>) + Send + Sync + 'static,
    ) -> Self {
        let limits = Limits {
            max_num_seqs: max_requests as usize,
            max_num_batched_tokens: max_model_len,
            prefill_time: Duration::MAX,
            max_model_len,
            kv_blocks: u32::try_from(max_model_len).unwrap_or(u32::MAX),
            block_size: BlockSize::CPU,
            micro_batches: 1,
            micro_batch_max: usize::MAX,
            lookahead: false,
            prefix_caching: false,
        };
        let admission = AdmissionLimits {
            requests: Capacity::Fixed(max_requests),
            prompt_tokens: 1 << 24,
            no_capacity_timeout: Duration::ZERO,
        };
        let bounds = Bounds { limits, admission, vocab, shared_prompt_max: usize::MAX };
        Self::over(Arc::new(Replicas::scripted()), bounds, Some(Box::new(script)))
    }

    /// Accepts a request, or refuses it without waiting (**C-2**). A request that no replica can serve
    /// now is accepted too, and waits for the first replica that can (**C-7**).
    ///
    /// # Errors
    /// See [`Rejected`].
    pub fn submit(&self, submission: Submission<'_>) -> Result<Generation, Rejected> {
        let Submission { prompt, sampling, cache_salt, session, client, .. } = submission;
        let Submission { priority, deadline, span, .. } = submission;
        let shared = &*self.shared;
        if self.is_draining() {
            return Err(Rejected::Draining);
        }
        let (tokens, limit) = (prompt.len() + 1, shared.bounds.limits.context());
        if tokens > limit {
            return Err(Rejected::NeverFits { tokens, limit });
        }
        let place = self.enter(prompt.len(), client)?;
        // A drain sets the flag before it looks whether the last place is free, so that a request with a
        // place either is waited for or is refused here.
        if self.is_draining() {
            return Err(Rejected::Draining);
        }
        let terms = Terms {
            priority: client.map_or(priority, |client| priority.max(client.priority)),
            tenant: client.map(|client| client.tenant).unwrap_or_default(),
            deadline: deadline.map(|at| shared.replicas.clock().time_of(at)),
        };
        let id = RequestId(shared.next_id.fetch_add(1, Ordering::Relaxed));
        let cache_salt = shared.salt(cache_salt, prompt.len());
        let request = GenerateRequest { id, prompt, sampling, cache_salt };
        if let Some(script) = &shared.script {
            let (emissions, generation) = generation::scripted(id, &shared.replicas, place);
            script(request, emissions);
            return Ok(generation);
        }
        // Here, on the caller's thread: a long prompt takes longer to hash than anything else does.
        let request = HashedRequest::new(request, &shared.bounds.limits);
        let replica = shared.replicas.pick(&request, session);
        let asked = Asked { request, terms, session: session.map(Into::into) };
        let (sink, generation) =
            generation::connect(asked, replica, &shared.replicas, place, &span);
        match replica {
            Some(replica) => shared.replicas.send_or_park(replica, Pending::new(sink)),
            None => shared.replicas.park(Pending::new(sink)),
        }
        Ok(generation)
    }

    /// Checks whether requests with prompts of these lengths, in tokens, could be in the cluster at the same
    /// time if nothing else were there.
    ///
    /// # Errors
    /// [`Rejected::NeverTogether`]
    pub fn check_together(
        &self,
        prompts: impl Iterator<Item = usize> + Clone,
        client: Option<&Client>,
    ) -> Result<(), Rejected> {
        let replicas = self.shared.replicas.routing().replicas();
        Ok(self.shared.admission.check_together(prompts, client, replicas)?)
    }

    fn enter(&self, prompt_tokens: usize, client: Option<&Client>) -> Result<Place, Rejected> {
        let admission = &self.shared.admission;
        let replicas = self.shared.replicas.routing().replicas();
        admission.enter(prompt_tokens, client, replicas).map_err(|full| {
            let requests = self.in_flight();
            let running: usize = self.replicas().iter().map(|replica| replica.running).sum();
            let running = u32::try_from(running).unwrap_or(u32::MAX);
            let retry_after = admission.retry_after(requests.saturating_sub(running));
            match full {
                Full::Cluster => Rejected::Overloaded { retry_after, requests },
                Full::Client(measure, limit) => Rejected::OverLimit { retry_after, measure, limit },
            }
        })
    }

    /// Creates a client with limits of its own. Each call creates another client for good, so the caller
    /// has to bound the number of calls.
    #[must_use]
    pub fn client(&self, limits: &ClientLimits) -> Client {
        self.shared.admission.client(limits)
    }

    /// Returns the number of requests in the cluster: accepted and not yet finished.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.shared.admission.requests()
    }

    /// Returns whether a replica takes work and the front door is not draining.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.is_draining() && self.shared.replicas.any_serves()
    }

    /// Returns what the cluster waits for; `None` while a replica can make progress.
    #[must_use]
    pub fn awaited(&self) -> Option<Awaited> {
        self.shared.replicas.awaited()
    }

    /// Returns whether new requests are refused because the server is going down.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::SeqCst)
    }

    /// Waits until no replica is in its first start.
    pub(crate) async fn all_started(&self) {
        self.shared.replicas.all_started().await;
    }

    /// Waits until some replica serves.
    ///
    /// # Errors
    /// When all of them have failed.
    pub(crate) async fn one_serves(&self) -> Result<(), StartError> {
        self.shared.replicas.one_serves().await
    }

    /// Returns the status of each replica, ordered by id.
    #[must_use]
    pub fn replicas(&self) -> Vec<ReplicaStatus> {
        self.shared.replicas.statuses()
    }

    /// Returns the longest sequence, prompt and output together, in tokens.
    #[must_use]
    pub fn max_model_len(&self) -> usize {
        self.shared.bounds.limits.max_model_len
    }

    /// Returns the size of the vocabulary: all token ids are below this.
    #[must_use]
    pub fn vocab(&self) -> u32 {
        self.shared.bounds.vocab
    }

    /// Refuses new requests from now on.
    pub fn start_drain(&self) {
        self.shared.draining.store(true, Ordering::SeqCst);
    }

    /// Waits until every accepted request has finished. Call [`FrontDoor::start_drain`] first.
    pub async fn drained(&self) {
        self.shared.admission.empty().await;
    }
}

// === impl Shared ===

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { replicas, bounds, .. } = self;
        let mut shared = f.debug_struct("Shared");
        shared.field("replicas", replicas).field("bounds", bounds).finish_non_exhaustive()
    }
}

impl Shared {
    /// Returns a salt that keeps prompts apart whose blocks differ although their tokens do not: see
    /// [`DeploymentConfig::shared_prompt_max`](crate::DeploymentConfig::shared_prompt_max).
    fn salt(&self, salt: u64, prompt_tokens: usize) -> u64 {
        if prompt_tokens <= self.bounds.shared_prompt_max {
            return salt;
        }
        // An odd factor permutes the 64-bit numbers, so lengths stay distinct (Knuth's constant).
        salt ^ (prompt_tokens as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}
