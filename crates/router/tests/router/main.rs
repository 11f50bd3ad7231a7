//! The guarantees of the router, one by one, under arbitrary calls, and on a trace.

mod picks;
mod props;
mod trace;
