//! Continuous batching as a pure state machine.
//!
//! A [`Scheduler`] owns the queue, the seats and the KV blocks of one replica. Three calls drive it,
//! in the manner of raft-rs' `step`/`ready`/`advance`: [`enqueue`](Scheduler::enqueue) a request,
//! [`plan_step`](Scheduler::plan_step) what the engine shall compute, [`apply`](Scheduler::apply)
//! what came of it. It has no thread, no clock and no randomness: the same calls give the same
//! plans. Several steps may be in flight, and outcomes come back in the order of the plans. A
//! request in flight is planned again while there are tokens of it that are known and not fed, such
//! as the next chunk of its prompt, or, with [`Limits::lookahead`], the one being sampled.
//!
//! - **S-1** no block leaks or is held twice: each is in the tables of those that hold it and
//!   nowhere else; with no request left, none is held.
//! - **S-2** progress: while a request is unfinished and nothing is in flight, `plan_step` returns a
//!   plan with at least one run.
//! - **S-3** order: a request takes a seat only when everybody of an earlier priority, and everybody of
//!   its own priority and tenant that arrived before it, has one or is finished, or when it is short
//!   (S-15). Of those with a seat, the last by priority and arrival is the first to lose it. Without
//!   priorities and tenants that is first in, first out.
//! - **S-4** preemption, restart, chunking and prefix hits change when tokens come, never which:
//!   no token is lost or repeated, and each prompt log-probability is emitted once.
//! - **S-5** a request that was cancelled or has finished emits nothing more. Its blocks are free
//!   at once, or, when steps with it are in flight, when the outcome of the last is applied.
//! - **S-6** a plan feeds at most `max_num_batched_tokens` tokens, seats at most `max_num_seqs`
//!   requests and has at most one run per slot.
//! - **S-7** a prefill does not starve decodes: it leaves one token of the budget for every request
//!   behind it which could run.
//! - **S-8** a block in the prefix cache was computed: it is published when the step that filled it
//!   has been applied. A block that a step in flight writes to is not handed out.
//! - **S-9** a request that kills the engine fails alone. What was in flight when an engine died, and
//!   again before it was past the point of death, runs alone until it is; who dies a third time
//!   before that fails.
//! - **S-10** with several micro-batches a step runs at most its share of the requests that can run,
//!   rounded up, and no more than `micro_batch_max`: the first in order that have something to feed.
//! - **S-11** whoever applies the prefix events of an epoch in order, from the first or from a
//!   snapshot on, knows which blocks a request enqueued now could hit.
//! - **S-12** a request that another scheduler adopts goes on behind its last token, as after a
//!   restart of its own.
//! - **S-13** a request that had no seat before its deadline never gets one: it expires. One that had
//!   may go on, because somebody has seen its tokens.
//! - **S-14** tenants that wait with the same priority share the replica: who takes a seat is of the
//!   tenant that had the fewest tokens, generated ones counted double. However much one of them asks
//!   for, the others wait no longer than if it asked for its share. What a tenant did not ask for is
//!   not saved up.
//! - **S-15** a short prompt does not wait for long ones: while there are seats and blocks for everybody
//!   who waits, so that nobody takes them from another, a quarter of each step's budget is for the
//!   shortest prompts of the earliest priority that fit into it.
//! - **S-16** prompts prolong a step by about [`Limits::prefill_time`] at most, judged by the latest
//!   steps, so that those who decode and those who come meanwhile do not wait for long prompts. There
//!   is always room for 64 tokens of prompts.
//! - **S-17** an outcome that is not that of the oldest plan, run by run, is an error and changes
//!   nothing: outcomes come from another thread or process.
//!
//! Policy, after vLLM V1 (`v1/core/sched/scheduler.py`): there are no prefill and decode phases.
//! Each step has one budget of tokens, spent on running requests in order of priority and arrival, then
//! on the head of the queue. Prompts are fed in chunks, in the same ragged batch as decodes. When
//! blocks run out, the last request in that order gives up all of its own and returns to the queue to
//! be computed again. Nobody loses a seat to somebody who waits, however early its priority. The queue
//! waits for its head, so that a large request is not overtaken for ever.
//!
//! Not here: who is let in and how long they may wait (see `cluster`), stop strings and text (see
//! `gateway`), anything about layers, devices or ranks (see `engine`).
#![forbid(unsafe_code)]

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

pub use hashed_request::HashedRequest;
pub use limits::{Limits, NeverFits};
pub use scheduler::{BrokenContract, Emitted, MovedRequest, Scheduler};
pub use stats::{Stats, TIMINGS_MAX, Timings};
pub use terms::{Tenant, Terms};
