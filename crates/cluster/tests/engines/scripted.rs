//! An engine without a model: it obeys plans as the real one does and says tokens from a script.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use playhouse_cluster::{EngineFactory, EngineSink};
use playhouse_engine::{EngineEvent, StepPort};
use playhouse_types::{
    Epoch, Logits, Run, RunOutcome, Sampled, Slot, StepOutcome, StepPlan, TokenId,
};

/// The token at a position of any sequence whose script is `script`.
pub(crate) type Script = fn(position: usize) -> TokenId;

/// Called before each step; an error ends the engine with that reason.
pub(crate) type Fault = Arc<dyn Fn(&StepPlan) -> Result<(), String> + Send + Sync>;

/// Starts scripted engines that fail when `fault` says so.
pub(crate) fn engines(script: Script, fault: Fault) -> EngineFactory {
    Arc::new(move |epoch, _, sink| start(script, Arc::clone(&fault), epoch, sink))
}

/// Never fails.
pub(crate) fn no_fault() -> Fault {
    Arc::new(|_| Ok(()))
}

fn start(
    script: Script,
    fault: Fault,
    epoch: Epoch,
    sink: EngineSink,
) -> io::Result<(StepPort, JoinHandle<()>)> {
    let (port, plans) = StepPort::bounded();
    let thread = thread::Builder::new().name("scripted".into()).spawn(move || {
        sink(EngineEvent::Ready { epoch });
        let mut lengths = HashMap::new();
        while let Ok(plan) = plans.recv() {
            if let Err(reason) = fault(&plan) {
                return sink(EngineEvent::Exited { epoch, reason });
            }
            sink(EngineEvent::Step(run(script, &mut lengths, plan)));
        }
    })?;
    Ok((port, thread))
}

fn run(script: Script, lengths: &mut HashMap<Slot, usize>, plan: StepPlan) -> StepOutcome {
    for admitted in &plan.admitted {
        lengths.insert(admitted.slot, admitted.tokens.len());
    }
    let outcome = |run: &Run| {
        let length = lengths.get_mut(&run.slot).expect("an admitted slot");
        *length += usize::from(run.sampled.is_some());
        let last = (run.start + run.tokens) as usize == *length;
        let sampled = (last && run.logits != Logits::None)
            .then(|| Sampled { token: script(*length), logprobs: None });
        RunOutcome { slot: run.slot, sampled, prompt_logprobs: Vec::new() }
    };
    let runs = plan.runs.iter().map(outcome).collect();
    StepOutcome { epoch: plan.epoch, step: plan.step, runs }
}
