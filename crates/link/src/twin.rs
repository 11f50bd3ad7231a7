//! The in-memory twin of QUIC, for tests: the same peers, calls and streams on a network that can be made
//! to fail, on tokio's clock and from a seed.
//!
//! - **TW-1** on a paused clock, a test with one seed always takes the same course.
//! - **TW-2** streams keep their order and lose nothing while the connection stands, as QUIC's do:
//!   a lost packet is sent again, which takes time.
//! - **TW-3** an end that receives nothing for the idle timeout is lost, and not before.
//! - **TW-4** a suspended host sends, reads and notices nothing, not even that time passes. When it is
//!   resumed it receives what has come meanwhile, and continues where it was.
//!
//! The twin lacks certificates (a host is the peer it was created as), congestion, and priorities.

mod end;
mod network;
mod pipe;
mod world;

pub use network::Network;

pub(crate) use end::{End, TwinRecvStream, TwinSendStream};
pub(crate) use network::Host;
