//! Continuous batching as a pure state machine.
//!
//! A [`Scheduler`] owns the queue, the slots and the KV blocks of one replica. Three calls drive it, in
//! the manner of raft-rs' `step`/`ready`/`advance`: [`enqueue`](Scheduler::enqueue) takes in a request,
//! [`plan_step`](Scheduler::plan_step) returns what the engine shall compute, and
//! [`apply`](Scheduler::apply) takes in the outcome. A scheduler has no thread, no clock and no
//! randomness: the same calls give the same plans. Several steps may be in flight, and outcomes come
//! back in the order of the plans. A request in flight is planned again while there are tokens of it
//! that are known and not fed, such as the next chunk of its prompt, or, with [`Limits::lookahead`], the
//! token being sampled.
//!
//! - **S-1** no block leaks or is held twice: each block is in the tables of the requests that hold it
//!   and nowhere else; when no request is left, no block is held.
//! - **S-2** progress: while a request is unfinished and nothing is in flight, `plan_step` returns a
//!   plan with at least one run.
//! - **S-3** order: a request takes a slot only when every request of an earlier priority, and every
//!   request of its own priority and tenant that arrived before it, has a slot or is finished, or when
//!   it is short (S-15). Of the requests with a slot, the last by priority and arrival is the first to
//!   lose it. Without priorities and tenants that is first in, first out.
//! - **S-4** preemption, restart, chunking and prefix hits change when tokens come, never which:
//!   no token is lost or repeated, and each prompt log-probability is emitted once.
//! - **S-5** a request that was cancelled or has finished emits nothing more. Its blocks are free
//!   at once, or, when steps with it are in flight, when the outcome of the last is applied.
//! - **S-6** a plan feeds at most `max_num_batched_tokens` tokens, gives slots to at most `max_num_seqs`
//!   requests and has at most one run per slot.
//! - **S-7** a prefill does not starve decodes: it leaves one token of the budget for every request
//!   behind it that could run.
//! - **S-8** a block in the prefix cache was computed: it is published when the step that filled it
//!   has been applied. A block that a step in flight writes to is not handed out.
//! - **S-9** a request that kills the engine fails alone. A request that was in flight when an engine
//!   died, and again before it was past the point of death, runs alone until it is past that point; a
//!   request in whose step an engine dies a third time before that fails.
//! - **S-10** with several micro-batches a step runs at most its share of the requests that can run,
//!   rounded up, and no more than `micro_batch_max`: the first requests in order that have something to
//!   feed.
//! - **S-11** a reader that applies the prefix events of an epoch in order, from the first or from a
//!   snapshot on, knows which blocks a request enqueued now could hit.
//! - **S-12** a request that another scheduler adopts goes on behind its last token, as after a
//!   restart of its own.
//! - **S-13** a request that had no slot before its deadline never gets one: it expires. A request that
//!   had a slot may go on, because its caller has seen its tokens.
//! - **S-14** tenants that wait with the same priority share the replica: the next slot goes to the
//!   tenant that had the fewest tokens, generated ones counted double. However much one tenant asks for,
//!   the others wait no longer than if it asked for its share. What a tenant did not ask for is not
//!   saved up.
//! - **S-15** a short prompt does not wait for long ones: while there are slots and blocks for every
//!   request that waits, so that no request takes them from another, a quarter of each step's budget is
//!   for the shortest prompts of the earliest priority that fit into it.
//! - **S-16** prompts prolong a step by about [`Limits::prefill_time`] at most, judged by the latest
//!   steps, so that requests that decode and requests that arrive meanwhile do not wait for long
//!   prompts. There is always room for 64 tokens of prompts.
//! - **S-17** an outcome that does not match the oldest plan, run by run, is an error and changes
//!   nothing: outcomes come from another thread or process.
//!
//! Policy, after vLLM V1 (`v1/core/sched/scheduler.py`): there are no prefill and decode phases. Each
//! step has one budget of tokens, spent on running requests in order of priority and arrival, then on
//! the head of the queue. Prompts are fed in chunks, in the same ragged batch as decodes. When blocks
//! run out, the last request in that order gives up all of its own and returns to the queue to be
//! computed again. No running request loses its slot to a waiting one, however early the priority of the
//! latter. The queue waits for its head, so that a large request is not overtaken for ever.
//!
//! Not here: which requests are admitted and how long they may wait (see `cluster`), stop strings and
//! text (see `gateway`), anything about layers, devices or ranks (see `engine`).
#![forbid(unsafe_code)]

mod emitted;
mod hashed_request;
mod limits;
mod queue;
mod scheduler;
mod sequence;
mod served;
mod stats;
mod tempo;
mod terms;

pub use playhouse_kvcache::PoolStats;

pub use emitted::Emitted;
pub use hashed_request::HashedRequest;
pub use limits::{Limits, NeverFits};
pub use scheduler::{BrokenContract, MovedRequest, Scheduler};
pub use stats::{Stats, TIMINGS_MAX, Timings};
pub use terms::{Tenant, Terms};
