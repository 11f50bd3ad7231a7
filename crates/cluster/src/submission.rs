//! What is handed to the front door.

use std::sync::Arc;

use playhouse_telemetry::TraceSpan;
use playhouse_types::{SamplingParams, TokenId};
use tokio::time::Instant;

use crate::admission::Client;

/// A request before it is accepted. [`Submission::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Submission<'a> {
    /// Must be non-empty, and together with `max_tokens` within
    /// [`FrontDoor::max_model_len`](crate::FrontDoor::max_model_len).
    pub prompt: Arc<[TokenId]>,
    /// Must have passed [`SamplingParams::check`].
    pub sampling: Arc<SamplingParams>,
    /// Prefixes are shared only with requests of the same salt. Default 0.
    pub cache_salt: u64,
    /// Requests of one session go to one replica where the routing policy is
    /// [`Policy::Session`](crate::Policy::Session).
    pub session: Option<&'a str>,
    /// Who asks; nobody in particular by default.
    pub client: Option<&'a Client>,
    /// Lower is earlier, but no earlier than the client may be. Default 0.
    pub priority: i32,
    /// From then on nobody waits for it: it ends as expired if it has not begun.
    pub deadline: Option<Instant>,
    /// The span that its own are parts of; none by default.
    pub span: TraceSpan,
}

// === impl Submission ===

impl Submission<'_> {
    /// A request of nobody in particular.
    #[must_use]
    pub fn new(prompt: Arc<[TokenId]>, sampling: Arc<SamplingParams>) -> Self {
        let (cache_salt, session, client, priority, deadline) = (0, None, None, 0, None);
        let span = TraceSpan::none();
        Self { prompt, sampling, cache_salt, session, client, priority, deadline, span }
    }
}
