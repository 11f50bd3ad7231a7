//! Lives of a cluster that are drawn by seeds.

pub(crate) mod audience;
pub(crate) mod fate;
pub(crate) mod mine;
pub(crate) mod operators;
