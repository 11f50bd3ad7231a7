//! How patient a link is.

use std::time::Duration;

/// Timing of every connection of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// A silent connection says something this often.
    pub keep_alive: Duration,
    /// A peer that says nothing for this long is lost. The shorter of both sides' counts. On bad
    /// networks a little longer: at least three probe timeouts.
    pub idle: Duration,
    /// TLS and hello must be done in this time, and the first frame of a stream must be there.
    pub handshake: Duration,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            keep_alive: Duration::from_millis(100),
            idle: Duration::from_secs(1),
            handshake: Duration::from_secs(5),
        }
    }
}
