//! The real binary on real sockets: how it starts, answers, drains, and what its README promises.

mod adoption;
mod clients;
mod cluster;
mod collector;
mod flood;
mod folders;
mod hangs;
mod https;
mod joining;
mod joins;
mod load;
mod memory;
mod namespaces;
mod nodes;
mod observability;
mod out_of_memory;
mod plan;
#[path = "../ports.rs"]
mod ports;
mod prometheus;
mod python;
mod queue;
mod ranks;
mod readme;
mod renewal;
mod revoke;
mod sbom;
mod scaling;
mod secrets;
mod serve;
mod server;
mod shutdown;
mod state;
mod tenants;
mod traces;
mod weights;
