//! The engine from outside: plans in, outcomes out, on the checkpoints of `tests/reference`.

mod batching;
mod driver;
mod failure;
mod parity;
