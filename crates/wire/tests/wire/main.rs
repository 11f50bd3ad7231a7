//! The guarantees of the crate, each test named after the one it holds.

mod decoders;
mod golden;
mod samples;
