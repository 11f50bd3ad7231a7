//! Continuous batching as a pure state machine.
