//! The guarantees of the crate, each test named after the one it checks.

mod decoders;
mod golden;
mod samples;
