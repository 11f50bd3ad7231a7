//! The image, the compose cluster and the other launchers.
//!
//! - The image is small, and runs without rights on a file system that cannot be written.
//! - The cluster of `docker/docker-compose.yml` answers, grows, stops in order, and loses no token when a
//!   node is killed, paused or cut off.
//! - Its operators drain, scale, renew and revoke it (`operators`), and no key outlives its node.
//! - What it lacks is said in one line.
//! - Prometheus in the overlay reads the head's metrics.
//! - The scripts and manifests for Slurm and Kubernetes start what they say (`slurm`, `kubernetes`).
//!
//! Without docker, or without a way to make its base image, tests that need it say so and pass.

#![allow(clippy::print_stdout, reason = "how long things took is worth a look")]

#[allow(dead_code, reason = "the chaos tests use the rest of it")]
#[path = "../chaos/rig/rig.rs"]
mod rig;

mod cluster;
mod faults;
mod image;
mod kubernetes;
mod missing;
mod operators;
mod overlay;
mod page;
mod shell;
mod slurm;
mod stopping;
mod whole;
