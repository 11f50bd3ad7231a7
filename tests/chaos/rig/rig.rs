//! What every scenario has: a cluster to break, a load that notices, and the ways to break it.
//!
//! The bench `recovery` is built on it as well.

pub(crate) mod answer;
pub(crate) mod checkpoint;
pub(crate) mod cluster;
pub(crate) mod fault;
pub(crate) mod http;
pub(crate) mod load;
pub(crate) mod patience;
#[path = "../../ports.rs"]
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod throttle;
pub(crate) mod verdict;
