//! Where requests enter: a plain struct on the hot path, not an actor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

#[cfg(doc)]
use playhouse_router::Policy;
use playhouse_scheduler::Limits;
use playhouse_types::{Emission, GenerateRequest, RequestId, SamplingParams, TokenId};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, TryAcquireError};

use crate::backend::Backend;
use crate::deployment::StartError;
use crate::generation::{self, Generation};
use crate::replica::ReplicaMsg;
use crate::seats::Seats;
use crate::status::ReplicaStatus;

/// How long a refused caller should stay away. Long enough for a queue to move, short enough that
/// capacity is not left idle.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How much may be in the house at once, running and waiting (**G6**).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmissionLimits {
    /// Requests.
    pub requests: u32,
    /// Prompt tokens of all those requests.
    pub prompt_tokens: u32,
}

/// Accepts requests for a cluster or refuses them at once. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FrontDoor {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    seats: Arc<Seats>,
    draining: AtomicBool,
    next_id: AtomicU64,
    requests: Arc<Semaphore>,
    prompt_tokens: Arc<Semaphore>,
    bounds: Bounds,
}

/// What requests are checked against; see [`DeploymentConfig`](crate::DeploymentConfig).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) limits: Limits,
    pub(crate) admission: AdmissionLimits,
    pub(crate) vocab: u32,
    pub(crate) shared_prompt_max: usize,
}

/// Why a request was not accepted. Nothing of it remains.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// The house is full; try again after the given time.
    #[error("overloaded: {requests} requests are queued or running, try again later")]
    Overloaded {
        /// When to come back.
        retry_after: Duration,
        /// Requests in the house.
        requests: u32,
    },
    /// The server is shutting down.
    #[error("the server is shutting down")]
    Draining,
    /// The prompt is larger than the context or the KV cache, whatever else runs.
    #[error(
        "the request needs {tokens} tokens of context (its prompt and one more), there are {limit}"
    )]
    NeverFits {
        /// Tokens of the prompt, and one to generate.
        tokens: usize,
        /// Tokens one sequence can have.
        limit: usize,
    },
    /// No replica can take work, and none will without help.
    #[error("no replica can serve: {reason}")]
    Unavailable {
        /// Why the replica failed.
        reason: String,
    },
}

// === impl FrontDoor ===

impl FrontDoor {
    pub(crate) fn new(seats: Arc<Seats>, bounds: Bounds) -> Self {
        let semaphore = |permits: u32| Arc::new(Semaphore::new(permits as usize));
        let shared = Shared {
            seats,
            draining: AtomicBool::new(false),
            next_id: AtomicU64::new(0),
            requests: semaphore(bounds.admission.requests),
            prompt_tokens: semaphore(bounds.admission.prompt_tokens),
            bounds,
        };
        Self { shared: Arc::new(shared) }
    }

    /// A front door over a function instead of a cluster, always serving, for tests of the layers
    /// above. `script` is called for each accepted request and answers it from wherever it likes;
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
            max_model_len,
            kv_blocks: u32::try_from(max_model_len).unwrap_or(u32::MAX),
            micro_batches: 1,
            micro_batch_max: usize::MAX,
            prefix_caching: false,
        };
        let admission = AdmissionLimits { requests: max_requests, prompt_tokens: 1 << 24 };
        let bounds = Bounds { limits, admission, vocab, shared_prompt_max: usize::MAX };
        Self::new(Arc::new(Seats::only(Backend::scripted(Box::new(script)))), bounds)
    }

    /// Accepts a request, or refuses it without waiting (**C-2**).
    ///
    /// `sampling` must have passed [`SamplingParams::check`], and `prompt` must be non-empty with
    /// prompt and `max_tokens` together within [`FrontDoor::max_model_len`]. Requests of one
    /// `session` go to one replica where the routing policy is [`Policy::Session`].
    ///
    /// # Errors
    /// See [`Rejected`].
    pub fn submit(
        &self,
        prompt: Arc<[TokenId]>,
        sampling: Arc<SamplingParams>,
        cache_salt: u64,
        session: Option<&str>,
    ) -> Result<Generation, Rejected> {
        let shared = &*self.shared;
        if self.is_draining() {
            return Err(Rejected::Draining);
        }
        let (tokens, limit) = (prompt.len() + 1, shared.bounds.limits.context());
        if tokens > limit {
            return Err(Rejected::NeverFits { tokens, limit });
        }
        let permits = self.permits(prompt.len())?;
        let id = RequestId(shared.next_id.fetch_add(1, Ordering::Relaxed));
        let cache_salt = shared.salt(cache_salt, prompt.len());
        let request = GenerateRequest { id, prompt, sampling, cache_salt };
        let picked = shared.seats.pick(&request, session);
        let replica = picked.map_err(|reason| Rejected::Unavailable { reason })?;
        let seats = Arc::clone(&shared.seats);
        let (sink, generation) = generation::connect(id, replica, seats, permits);
        shared.seats.cast(replica, ReplicaMsg::Admit(request, sink));
        Ok(generation)
    }

    fn permits(&self, prompt_tokens: usize) -> Result<[OwnedSemaphorePermit; 2], Rejected> {
        let shared = &*self.shared;
        // One prompt may be longer than the whole bound; alone it is still let in.
        let tokens = u32::try_from(prompt_tokens).unwrap_or(u32::MAX);
        let tokens = tokens.min(shared.bounds.admission.prompt_tokens);
        let request = Arc::clone(&shared.requests).try_acquire_owned();
        let request = request.map_err(|error| self.refusal(&error))?;
        let tokens = Arc::clone(&shared.prompt_tokens).try_acquire_many_owned(tokens);
        let tokens = tokens.map_err(|error| self.refusal(&error))?;
        Ok([request, tokens])
    }

    fn refusal(&self, error: &TryAcquireError) -> Rejected {
        match error {
            TryAcquireError::Closed => Rejected::Draining,
            TryAcquireError::NoPermits => {
                Rejected::Overloaded { retry_after: RETRY_AFTER, requests: self.in_flight() }
            }
        }
    }

    /// Requests in the house: accepted and not yet finished.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        let free = u32::try_from(self.shared.requests.available_permits()).unwrap_or(u32::MAX);
        self.shared.bounds.admission.requests.saturating_sub(free)
    }

    /// Whether a replica takes work and we are not draining.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.is_draining() && self.shared.seats.any_serves()
    }

    /// Whether new requests are refused because the server is going down.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::Relaxed)
    }

    pub(crate) async fn all_serve(&self) -> Result<(), StartError> {
        self.shared.seats.all_serve().await
    }

    /// How each replica is, by id.
    #[must_use]
    pub fn replicas(&self) -> Vec<ReplicaStatus> {
        self.shared.seats.statuses()
    }

    /// Longest sequence, prompt and output together, in tokens.
    #[must_use]
    pub fn max_model_len(&self) -> usize {
        self.shared.bounds.limits.max_model_len
    }

    /// Token ids are below this.
    #[must_use]
    pub fn vocab(&self) -> u32 {
        self.shared.bounds.vocab
    }

    /// Refuses new requests from now on.
    pub fn start_drain(&self) {
        self.shared.draining.store(true, Ordering::Relaxed);
    }

    /// Waits until every accepted request has finished. Call [`FrontDoor::start_drain`] first.
    pub async fn drained(&self) {
        let all = self.shared.bounds.admission.requests;
        let permits: Result<_, AcquireError> = self.shared.requests.acquire_many(all).await;
        drop(permits.expect("the semaphore is never closed"));
    }
}

// === impl Shared ===

impl Shared {
    /// Keeps prompts apart whose blocks differ although their tokens do not: see
    /// [`DeploymentConfig::shared_prompt_max`](crate::DeploymentConfig::shared_prompt_max).
    fn salt(&self, salt: u64, prompt_tokens: usize) -> u64 {
        if prompt_tokens <= self.bounds.shared_prompt_max {
            return salt;
        }
        // An odd factor permutes the 64-bit numbers, so lengths stay distinct (Knuth's constant).
        salt ^ (prompt_tokens as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}
