//! The timing of a link.

use std::time::Duration;

/// The timing of every connection of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// The interval of keep-alives on a silent connection.
    pub keep_alive: Duration,
    /// The idle timeout: a peer that sends nothing for this long is lost. The shorter timeout of both
    /// sides counts. On slow networks the timeout is a little longer: at least three probe timeouts.
    pub idle: Duration,
    /// The time for TLS and hello, and for the first frame of a stream.
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
