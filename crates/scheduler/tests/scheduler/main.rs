//! The guarantees of the scheduler, under arbitrary calls and in scenarios that are written down.

mod props;
mod scenarios;
#[path = "../../../../tests/transcript.rs"]
mod transcript;
