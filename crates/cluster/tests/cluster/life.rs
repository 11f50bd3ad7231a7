//! Simulated clusters whose courses are drawn by seeds.

pub(crate) mod audience;
pub(crate) mod fate;
pub(crate) mod lives;
pub(crate) mod mine;
pub(crate) mod operators;
