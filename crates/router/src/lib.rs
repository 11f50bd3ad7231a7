//! Routing: which replica gets a request, as a pure function of what replicas report.
//!
//! A [`Router`] has an index of the prefix caches of all replicas, fed by the events of their block
//! pools, and the load that they report. [`pick`](Router::pick) weighs both against each other. A router
//! has no clock and no randomness but its seed: the same calls give the same picks.
//!
//! - **RO-1** a pick is a replica that was added, not removed since, and eligible; while there is such a
//!   replica, there is a pick.
//! - **RO-2** the index knows of a replica what its events tell and nothing else. When an event is
//!   missing, which the next one shows, the index forgets the replica's blocks and says so; from a
//!   [`Reset`](PrefixEvent::Reset) on it is exact again. Events may come in any order, twice or never;
//!   those of an older epoch change nothing.
//! - **RO-3** the default policy picks the least cost, in tokens of prefill: what is queued there, twice
//!   what the request does not find in the cache there, and [`REQUEST_TOKENS`] for every request there,
//!   which is what their decodes cost. That last number grows as the KV cache fills up, to 16 times as
//!   much, because a replica that runs out of blocks computes again. Equal costs go to the least
//!   recently chosen. So a prefix draws requests until the queue is twice as long as the prefix, and
//!   then spreads.
//! - **RO-4** cold prompts, of which no replica has more than [`COLD_TOKENS`], spread evenly: they go to
//!   the least recently chosen of the replicas whose load exceeds the least by no more than the prompt's
//!   length. A prompt may begin a conversation whose turns follow it, so load comes from how many of
//!   them a replica was given more than from how long each is.
//! - **RO-5** a burst between two reports spreads: a request counts as queued where it was sent until
//!   the reports of that replica say that it has accepted as many, or until the fourth report from then
//!   on: a request that never arrived must not count for ever.
//! - **RO-6** a session stays with its replica while that is eligible, whichever replicas come and go.
//! - **RO-7** `pick` costs O(blocks of the prompt + replicas), `apply` O(blocks of the event + replicas):
//!   one look into a table per block (of a prompt: per block and 64 replicas). Only to forget the blocks
//!   of a replica (it is removed, begins an epoch or has a gap) takes a walk through a table. Memory is
//!   bounded by the blocks that replicas tell of, and [`UNREPORTED_MAX`] requests for each replica.
//!
//! The cost is that of NVIDIA Dynamo's KV router, simplified; the order of cold prompts is llm-d's.
//!
//! Not here: which replicas are alive, draining or full (the caller says which are eligible), asking for
//! a resync and sending anything (see `cluster`).
#![forbid(unsafe_code)]

mod index;
mod policy;
mod replica;
mod router;

pub use policy::{Policy, UnknownPolicy};
pub use replica::{Applied, Load, REQUEST_TOKENS, UNREPORTED_MAX};
pub use router::{Ask, COLD_TOKENS, Pick, Router};

#[cfg(doc)]
use playhouse_types::PrefixEvent;
