//! Engines that say tokens from a script, and what holds them.

pub(crate) mod brake;
pub(crate) mod scripted;
pub(crate) mod start_gate;
