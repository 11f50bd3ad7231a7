//! Chaos: a cluster of real processes under load loses something, and its clients must not notice.
//!
//! What is shown here, by the names of ARCHITECTURE.md and the module docs:
//!
//! - **G1** an accepted request ends exactly once, with every token once, whatever dies while some
//!   replica can serve it, or could soon.
//! - **G2** its tokens, texts and log-probabilities are those of an undisturbed run of the same
//!   layout, digit for digit: greedy and seeded, with penalties and stop strings, `n` > 1.
//! - **G3** a crash is seen in less than a second, a hang or a cut link in less than three.
//! - **G5** afterwards no block and no permit is held, no process is left, and no shared memory.
//!
//! A scenario is a cluster, a load and faults (`rig`). One fault at a time is in `shards`, `replicas`,
//! `nodes` and `network`, what is neither dead nor well in `gray`, what happens to the head in `head`; `storm` draws them by a seed. `witness` shows that whoever looks on sees
//! what goes wrong.

#![allow(clippy::print_stdout, reason = "how soon a fault was seen is worth a look")]

#[path = "rig/rig.rs"]
mod rig;

mod changes;
mod gray;
mod head;
#[path = "../process/memory_group.rs"]
mod memory_group;
#[path = "../process/namespaces.rs"]
mod namespaces;
mod network;
mod nodes;
mod replicas;
mod scenario;
mod shards;
mod storm;
mod witness;
