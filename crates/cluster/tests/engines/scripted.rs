//! An engine without a model: it obeys plans as the real one does and says tokens from a script.

use std::collections::HashMap;
use std::future::ready;
use std::io;
use std::sync::Arc;
use std::thread;

use playhouse_cluster::{
    Blueprint, Blueprints, Layout, Rank, RankHandle, RankPort, RankSink, RankStarter, Share, Split,
    StartedRank,
};
use playhouse_engine::{EngineEvent, StepPort};
use playhouse_scheduler::Limits;
use playhouse_types::{
    Appended, Epoch, Logits, Run, RunOutcome, Sampled, Slot, StepOutcome, StepPlan, TokenId,
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

/// Replicas whose ranks `starter` starts. A single stage has one step at a time.
pub(crate) fn blueprints(starter: RankStarter, limits: Limits) -> Blueprints {
    Arc::new(move |split| {
        let starter = Arc::clone(&starter);
        Box::pin(ready(Ok(blueprint(&split, limits, starter))))
    })
}

/// A replica of ranks without a model.
pub(crate) fn blueprint(split: &Split, limits: Limits, starter: RankStarter) -> Blueprint {
    let stages = split.pipeline as usize;
    let share = Share { layers: 0..1, query_heads: 1, kv_heads: 1, weight_bytes: 1 };
    Blueprint {
        split: split.clone(),
        layout: Layout { stages, tensor: split.tensor as usize },
        shares: vec![share; split.ranks()],
        concurrent_batches: if stages == 1 { 1 } else { stages + 1 },
        limits: Limits { micro_batches: stages, ..limits },
        starter: Arc::new(move || Arc::clone(&starter)),
    }
}

/// `tensor` ranks for each of `pipeline` stages.
pub(crate) fn split(tensor: u32, pipeline: u32) -> Split {
    Split { tensor, pipeline, partition: None }
}

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
    Ok(StartedRank {
        port: RankPort::Engine(port),
        handle: Arc::new(Nobody),
        ended: Box::pin(ended),
    })
}

/// What a scripted engine is held by: it ends by itself, or when its test lets it.
#[derive(Debug)]
pub(crate) struct Nobody;

impl RankHandle for Nobody {
    fn abort(&self) {}

    fn vacate(&self) {}
}

/// What a plan comes to. `lengths` are those of the sequences, by seat.
pub(crate) fn run(
    script: Script,
    lengths: &mut HashMap<Slot, usize>,
    plan: StepPlan,
) -> StepOutcome {
    for admitted in &plan.admitted {
        lengths.insert(admitted.slot, admitted.tokens.len());
    }
    let outcome = |run: &Run| {
        let length = lengths.get_mut(&run.slot).expect("an admitted slot");
        *length += usize::from(run.appended != Appended::Nothing);
        let last = (run.start + run.tokens) as usize == *length;
        let sampled = (last && run.logits != Logits::None)
            .then(|| Sampled { token: script(*length), logprobs: None });
        RunOutcome { slot: run.slot, sampled, prompt_logprobs: Vec::new() }
    };
    let runs = plan.runs.iter().map(outcome).collect();
    StepOutcome { epoch: plan.epoch, step: plan.step, runs }
}
