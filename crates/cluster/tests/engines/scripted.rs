//! An engine without a model: it obeys plans as the real one does and says tokens from a script.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread;

use playhouse_cluster::{Rank, RankPort, RankSink, RankStarter, StartedRank};
use playhouse_engine::{EngineEvent, StepPort};
use playhouse_types::{
    Epoch, Logits, Run, RunOutcome, Sampled, Slot, StepOutcome, StepPlan, TokenId,
};

/// The token at a position of any sequence whose script is `script`.
pub(crate) type Script = fn(position: usize) -> TokenId;

/// Called before each step; an error ends the engine with that reason.
pub(crate) type Fault = Arc<dyn Fn(&StepPlan) -> Result<(), String> + Send + Sync>;

/// Starts scripted engines that fail when `fault` says so.
pub(crate) fn engines(script: Script, fault: Fault) -> RankStarter {
    engines_of(script, 1, Arc::new(move |_, plan| fault(plan)))
}

/// As [`engines`], of several ranks; the first of the last of `stages` has the outcomes.
pub(crate) fn engines_of(script: Script, stages: usize, fault: RankFault) -> RankStarter {
    Arc::new(move |epoch, rank, sink| {
        let fault = Arc::clone(&fault);
        let fault: Fault = Arc::new(move |plan| fault(rank, plan));
        let samples = rank.stage + 1 == stages && rank.tensor == 0;
        start(script, samples, fault, epoch, sink)
    })
}

/// As [`Fault`], for a rank.
pub(crate) type RankFault = Arc<dyn Fn(Rank, &StepPlan) -> Result<(), String> + Send + Sync>;

/// Never fails.
pub(crate) fn no_fault() -> Fault {
    Arc::new(|_| Ok(()))
}

fn start(
    script: Script,
    samples: bool,
    fault: Fault,
    epoch: Epoch,
    sink: RankSink,
) -> io::Result<StartedRank> {
    let (port, plans) = StepPort::bounded();
    let sink = move |event: EngineEvent| sink(event.into());
    let thread = thread::Builder::new().name("scripted".into()).spawn(move || {
        sink(EngineEvent::Ready { epoch });
        let mut lengths = HashMap::new();
        while let Ok(plan) = plans.recv() {
            if let Err(reason) = fault(&plan) {
                return sink(EngineEvent::Exited { epoch, reason, of_step: true });
            }
            let outcome = run(script, &mut lengths, plan);
            let step = outcome.step;
            sink(match samples {
                true => EngineEvent::Step(outcome),
                false => EngineEvent::Followed { epoch, step },
            });
        }
    })?;
    let ended = async move {
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        drop(joined.expect("it is not cancelled"));
    };
    Ok(StartedRank { port: RankPort::Engine(port), ended: Box::pin(ended) })
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
