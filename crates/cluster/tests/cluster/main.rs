//! The guarantees of the crate on the real actors, over engines, machines and networks that are played.

mod actors;
mod caller;
mod engines;
mod life;
mod network;
mod operator;
mod panics;
mod replica;
mod scaling;
mod setup;
mod simulation;
mod waiting;
mod watchdog;
