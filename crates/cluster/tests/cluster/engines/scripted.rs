//! An engine without a model: it obeys plans as the real one does and says tokens from a script.

use std::collections::HashMap;
use std::future::ready;
use std::io;
use std::sync::Arc;
use std::thread;

use playhouse_cluster::{
    Blueprint, Blueprints, RankHandle, RankPort, RankSink, RankStarter, Share, StartedRank,
};
use playhouse_engine::{EngineEvent, StepPort};
use playhouse_layout::{RankId, RankMap};
use playhouse_scheduler::Limits;
use playhouse_types::{
    Appended, Epoch, Logits, ParallelSpec, Run, RunOutcome, Sampled, Slot, StepOutcome, StepPlan,
    TokenId,
};

/// The token at a position of any sequence whose script is `script`.
pub(crate) type Script = fn(position: usize) -> TokenId;

/// Called before each step; an error ends the engine with that reason.
pub(crate) type Fault = Arc<dyn Fn(&StepPlan) -> Result<(), String> + Send + Sync>;

/// Starts scripted engines that fail when `fault` says so.
pub(crate) fn engines(script: Script, fault: Fault) -> RankStarter {
    engines_of(script, &layout(1, 1), Arc::new(move |_, plan| fault(plan)))
}

/// Returns a starter of the ranks of a layout, as [`engines`] does for one rank.
pub(crate) fn engines_of(script: Script, layout: &ParallelSpec, fault: RankFault) -> RankStarter {
    let map = map(layout);
    Arc::new(move |epoch, rank, sink| {
        let fault = Arc::clone(&fault);
        let fault: Fault = Arc::new(move |plan| fault(rank, plan));
        let samples = map.samples(rank.index);
        start(script, samples, fault, epoch, sink)
    })
}

/// A [`Fault`] of one rank.
pub(crate) type RankFault = Arc<dyn Fn(RankId, &StepPlan) -> Result<(), String> + Send + Sync>;

/// Replicas whose ranks `starter` starts. A single stage has one step at a time.
pub(crate) fn blueprints(starter: RankStarter, limits: Limits) -> Blueprints {
    Arc::new(move |layout| {
        let starter = Arc::clone(&starter);
        Box::pin(ready(Ok(blueprint(&layout, limits, starter))))
    })
}

/// A replica of ranks without a model.
pub(crate) fn blueprint(layout: &ParallelSpec, limits: Limits, starter: RankStarter) -> Blueprint {
    let map = map(layout);
    let stages = map.stages().len();
    let share = Share { layers: 0..1, query_heads: 1, kv_heads: 1, weight_bytes: 1 };
    Blueprint {
        layout: layout.clone(),
        shares: vec![share; map.replica_ranks()],
        map: Arc::new(map),
        concurrent_batches: if stages == 1 { 1 } else { stages + 1 },
        limits: Limits { micro_batches: stages, ..limits },
        starter: Arc::new(move || Arc::clone(&starter)),
    }
}

/// `tensor` ranks for each of `pipeline` stages.
pub(crate) fn layout(tensor: u32, pipeline: u32) -> ParallelSpec {
    ParallelSpec { tensor, pipeline, ..ParallelSpec::default() }
}

/// Returns the rank map of a layout, for a model whose layers do not matter.
pub(crate) fn map(layout: &ParallelSpec) -> RankMap {
    RankMap::of_layers(layout, layout.pipeline.into())
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

/// The handle of a scripted engine, which ends by itself or when its test lets it.
#[derive(Debug)]
pub(crate) struct Nobody;

impl RankHandle for Nobody {
    fn abort(&self) {}

    fn vacate(&self) {}
}

/// Returns the outcome of a plan. `lengths` are the lengths of the sequences, by slot.
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
        RunOutcome { slot: run.slot, sampled: Vec::from_iter(sampled), prompt_logprobs: Vec::new() }
    };
    let runs = plan.runs.iter().map(outcome).collect();
    StepOutcome { epoch: plan.epoch, step: plan.step, runs }
}
