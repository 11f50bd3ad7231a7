//! Stand-in for the front door, driven by a script: only what the gateway's tests need.
#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use playhouse_types::{Emission, GenerateRequest, RequestId, SamplingParams, TokenId};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Where requests enter.
#[derive(Clone)]
pub struct FrontDoor(Arc<Inner>);

/// What answers a request: sends emissions until the receiver is gone.
pub type Script = dyn Fn(GenerateRequest, UnboundedSender<Emission>) + Send + Sync;

struct Inner {
    max_model_len: usize,
    vocab: u32,
    max_requests: usize,
    active: AtomicUsize,
    next_id: AtomicU64,
    draining: AtomicBool,
    script: Box<Script>,
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// Queues are full.
    #[error("overloaded: try again in {retry_after:?}")]
    Overloaded {
        /// When to try again.
        retry_after: Duration,
    },
    /// Shutting down.
    #[error("draining")]
    Draining,
    /// Larger than the whole KV cache.
    #[error("needs {tokens} tokens, limit {limit}")]
    NeverFits {
        /// Needed.
        tokens: u32,
        /// Available.
        limit: u32,
    },
    /// No replica.
    #[error("unavailable: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

/// One generation; dropping it cancels.
pub struct Generation {
    emissions: UnboundedReceiver<Emission>,
    door: Arc<Inner>,
}

impl FrontDoor {
    /// A front door over a script.
    pub fn scripted(
        max_model_len: usize,
        vocab: u32,
        max_requests: usize,
        script: impl Fn(GenerateRequest, UnboundedSender<Emission>) + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(Inner {
            max_model_len,
            vocab,
            max_requests,
            active: AtomicUsize::new(0),
            next_id: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            script: Box::new(script),
        }))
    }

    /// Takes a permit or refuses at once.
    ///
    /// # Errors
    /// See [`Rejected`].
    pub fn submit(
        &self,
        prompt: Arc<[TokenId]>,
        sampling: Arc<SamplingParams>,
        cache_salt: u64,
    ) -> Result<Generation, Rejected> {
        let door = &self.0;
        if self.is_draining() {
            return Err(Rejected::Draining);
        }
        if door.active.fetch_add(1, Ordering::Relaxed) >= door.max_requests {
            door.active.fetch_sub(1, Ordering::Relaxed);
            return Err(Rejected::Overloaded { retry_after: Duration::from_millis(1500) });
        }
        let (sender, emissions) = unbounded_channel();
        let id = RequestId(door.next_id.fetch_add(1, Ordering::Relaxed));
        (door.script)(GenerateRequest { id, prompt, sampling, cache_salt }, sender);
        Ok(Generation { emissions, door: Arc::clone(door) })
    }

    /// A replica can take work and we are not draining.
    pub fn is_ready(&self) -> bool {
        !self.is_draining()
    }

    /// Shutting down.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Stops taking work.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Longest prompt plus output.
    pub fn max_model_len(&self) -> usize {
        self.0.max_model_len
    }

    /// Vocabulary size.
    pub fn vocab(&self) -> u32 {
        self.0.vocab
    }

    /// Generations alive.
    pub fn active(&self) -> usize {
        self.0.active.load(Ordering::Relaxed)
    }
}

impl Generation {
    /// The next emission.
    pub async fn next(&mut self) -> Option<Emission> {
        self.emissions.recv().await
    }

    /// The next emission, if it is there.
    pub fn try_next(&mut self) -> Option<Emission> {
        self.emissions.try_recv().ok()
    }

    /// The next emission.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Emission>> {
        self.emissions.poll_recv(cx)
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        self.door.active.fetch_sub(1, Ordering::Relaxed);
    }
}
