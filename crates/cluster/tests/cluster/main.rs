//! The guarantees of the crate on the real actors, over engines, machines and networks that are played.

mod actors;
mod engines;
mod life;
mod network;
mod replica;
mod scaling;
mod simulation;
mod waiting;
mod watchdog;
