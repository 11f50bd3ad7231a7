//! [`Submission`]: a request as it is handed to the front door.

use std::sync::Arc;

use playhouse_telemetry::TraceSpan;
use playhouse_types::{SamplingParams, TokenId};
use tokio::time::Instant;

use crate::admission::Client;

/// A request before it is accepted. [`Submission::new`] has the defaults.
#[derive(Clone, Debug)]
pub struct Submission<'a> {
    /// The prompt. Must be non-empty, and together with `max_tokens` within
    /// [`FrontDoor::max_model_len`](crate::FrontDoor::max_model_len).
    pub prompt: Arc<[TokenId]>,
    /// The sampling parameters. Must have passed [`SamplingParams::check`].
    pub sampling: Arc<SamplingParams>,
    /// The salt of the prefix cache: prefixes are shared only among requests of the same salt. Default
    /// 0.
    pub cache_salt: u64,
    /// The session: requests of one session go to one replica where the routing policy is
    /// [`Policy::Session`](crate::Policy::Session).
    pub session: Option<&'a str>,
    /// The client that asks; none by default.
    pub client: Option<&'a Client>,
    /// The priority: lower is earlier, but no earlier than the client's limits allow. Default 0.
    pub priority: i32,
    /// The deadline, after which the caller does not wait: the request ends as expired if it has not
    /// begun.
    pub deadline: Option<Instant>,
    /// The span of which the request's spans are parts; none by default.
    pub span: TraceSpan,
}

// === impl Submission ===

impl Submission<'_> {
    /// Creates a submission without a client.
    #[must_use]
    pub fn new(prompt: Arc<[TokenId]>, sampling: Arc<SamplingParams>) -> Self {
        let (cache_salt, session, client, priority, deadline) = (0, None, None, 0, None);
        let span = TraceSpan::none();
        Self { prompt, sampling, cache_salt, session, client, priority, deadline, span }
    }
}
