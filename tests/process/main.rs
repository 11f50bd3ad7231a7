//! The real binary on real sockets: how it starts, answers, drains, and what its README promises.

mod clients;
mod cluster;
mod nodes;
mod plan;
mod python;
mod ranks;
mod readme;
mod serve;
mod server;
