//! The real server on a real socket, in front of a scripted engine.

mod chat;
mod completions;
mod errors;
mod fuzz;
mod sockets;
mod support;
mod tokens;
