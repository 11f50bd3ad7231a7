//! The real server on a real socket, in front of a scripted engine.
#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "tests of sockets wait in real time"
)]

mod chat;
mod completions;
mod errors;
mod fuzz;
mod http2;
mod limits;
mod pages;
mod parked;
mod shutdown;
mod sockets;
mod support;
mod tokens;
