//! The engine of one shard, which executes step plans in order on its own thread.
//!
//! - **E-1** plans are executed in the order they were submitted; each gives one
//!   [`EngineEvent::Step`], unless the engine exits.
//! - **E-2** a step that fails or panics ends the engine, not the process: [`EngineEvent::Exited`] says why,
//!   and is the last event. Dropping the [`StepPort`] ends the engine silently, after the plans that were
//!   already submitted.
//! - **E-3** an outcome depends on the plans, not on how they are batched or chunked, nor on the
//!   thread count (**G2**).
//!
//! An engine decides nothing (**A4**): it neither stops a sequence nor picks a block. A plan that an engine
//! cannot follow (of another epoch, with a position missing, a block table too short) is a broken invariant
//! of the planner, and ends the engine.
#![forbid(unsafe_code)]

mod batch;
mod config;
mod output;
mod sequence_state;
mod slots;
mod worker;

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use playhouse_model::Model;
use playhouse_types::{Epoch, StepId, StepOutcome, StepPlan};

pub use config::EngineConfig;
use worker::Worker;

/// Plans that wait beside the one being executed. A pipeline of one stage keeps two steps in
/// flight; the rest is room for plans that only release slots.
pub const STEPS_QUEUED_MAX: usize = 4;

/// An event that an engine reports from its own thread.
#[derive(Clone, Debug, PartialEq)]
pub enum EngineEvent {
    /// The model is built, and all ranks that compute with it have joined. The first event.
    Ready {
        /// Epoch of the engine.
        epoch: Epoch,
    },
    /// A plan was executed, and this rank has the outcome.
    Step(StepOutcome),
    /// A plan was executed; another rank has its outcome.
    Followed {
        /// Epoch of the engine.
        epoch: Epoch,
        /// Step of the plan.
        step: StepId,
    },
    /// The engine failed. The last event.
    Exited {
        /// Epoch of the engine.
        epoch: Epoch,
        /// Reason for a person.
        reason: String,
        /// Whether the engine failed because of the step that it was computing, as far as it can tell, and
        /// not because another rank was lost or no step had begun.
        of_step: bool,
    },
}

/// The port for submitting plans. Dropping the port ends the engine.
#[derive(Debug)]
pub struct StepPort {
    plans: SyncSender<StepPlan>,
}

/// The reason why a plan was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// [`STEPS_QUEUED_MAX`] plans wait: submit again after an outcome.
    #[error("the engine has {STEPS_QUEUED_MAX} plans waiting; submit again after an outcome")]
    Full,
    /// The engine has exited; an [`EngineEvent::Exited`] says why.
    #[error("the engine has exited")]
    Gone,
}

// === impl StepPort ===

impl StepPort {
    /// Returns a port and its queue, for a consumer that executes the plans.
    #[must_use]
    pub fn bounded() -> (Self, Receiver<StepPlan>) {
        let (plans, queue) = sync_channel(STEPS_QUEUED_MAX);
        (Self { plans }, queue)
    }

    /// Queues a plan. Never blocks.
    ///
    /// # Errors
    /// When the queue is full or the engine has exited; the plan is then lost.
    pub fn submit(&self, plan: StepPlan) -> Result<(), SubmitError> {
        self.plans.try_send(plan).map_err(|error| match error {
            TrySendError::Full(_) => SubmitError::Full,
            TrySendError::Disconnected(_) => SubmitError::Gone,
        })
    }
}

/// Starts an engine on a thread of its own, which first builds the model with `build`: joining other ranks
/// waits for them. `on_event` runs on that thread, between steps: it should pass the event on and return.
///
/// # Errors
/// When the operating system refuses a thread.
pub fn spawn(
    build: impl FnOnce() -> Result<Arc<Model>, String> + Send + 'static,
    config: EngineConfig,
    on_event: impl Fn(EngineEvent) + Send + 'static,
) -> io::Result<(StepPort, JoinHandle<()>)> {
    let (port, queue) = StepPort::bounded();
    let thread = thread::Builder::new().name("engine".to_owned()).spawn(move || {
        let steps = || {
            let model = build().map_err(worker::StepError::Build)?;
            let mut worker = Worker::new(&model, &config)?;
            on_event(EngineEvent::Ready { epoch: config.epoch });
            for plan in &queue {
                let step = plan.step;
                let launched = worker.launch(plan)?;
                on_event(match worker.wait(launched)? {
                    Some(outcome) => EngineEvent::Step(outcome),
                    None => EngineEvent::Followed { epoch: config.epoch, step },
                });
            }
            Ok::<_, worker::StepError>(())
        };
        let (reason, of_step) = match catch_unwind(AssertUnwindSafe(steps)) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => (error.to_string(), error.is_of_step()),
            Err(panic) => (panic_text(panic.as_ref()), true),
        };
        // A receiver of the exit event must find the port closed.
        drop(queue);
        on_event(EngineEvent::Exited { epoch: config.epoch, reason, of_step });
    })?;
    Ok((port, thread))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("no message"))
}
