//! The engine from outside: plans in, outcomes out, on the checkpoints of `tests/reference`.
#![allow(clippy::unwrap_used, reason = "a test")]

mod batching;
mod driver;
mod failure;
mod parity;
