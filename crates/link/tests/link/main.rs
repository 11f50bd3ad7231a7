//! The guarantees of the crate, each test named after the one it checks. Tests that do not depend on
//! certificates run twice: over QUIC through a relay that can be cut, and on the in-memory twin with a
//! paused clock.

mod calls;
mod joining;
mod liveness;
mod network;
mod notes;
mod peers;
mod relay;
mod rig;
mod streams;
