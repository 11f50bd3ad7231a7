//! The actors under a virtual clock: hundreds of short lives of a cluster, drawn by seeds. Ranks
//! die, hang and fail to load and actors panic, while operators scale, drain, restart, divide anew, change
//! their mind and ask for the same again.
//!
//! **G1**, **G4**, **G5**: every request that is not given up gets all its tokens, once and in order; at the
//! end nothing is held. The panic of a life that goes wrong has its seed; `PLAYHOUSE_SIMULATION_SEED` lives it
//! again, `PLAYHOUSE_SIMULATION_SEEDS` says how many lives there are (500).

use std::collections::HashMap;
use std::future::ready;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use playhouse_cluster::{
    AdmissionLimits, Capacity, Cluster, DeploymentConfig, Desired, Ledger, Loss, LossCause, Policy,
    RankEvent, RankPort, RankSink, RankStarter, StartedRank, StepDeadline, WeightsProgress,
};
use playhouse_engine::STEPS_QUEUED_MAX;
use playhouse_scheduler::Limits;
use playhouse_telemetry::Metrics;
use playhouse_types::{BlockSize, Epoch, ParallelSpec, StepPlan};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::caller::count;
use crate::engines::scripted::{Nobody, blueprint, layout, map, run};
use crate::life::audience::clients;
use crate::life::fate::{Fate, LONG};
use crate::life::lives::{alone, live_all};
use crate::life::mine::Mine;
use crate::life::operators::{draw_change, idle, operators, repair};

const LIVES: u64 = 500;
/// The number of seeds that are simulated twice.
const SAME: u64 = 20;

const DEVICES: usize = 6;

const LIMITS: Limits = Limits {
    max_num_seqs: 4,
    max_num_batched_tokens: 32,
    prefill_time: Duration::MAX,
    max_model_len: 256,
    kv_blocks: 24,
    block_size: BlockSize::CPU,
    micro_batches: 1,
    micro_batch_max: usize::MAX,
    lookahead: false,
    prefix_caching: true,
};

/// Returns a starter of ranks that are tasks and take virtual time for each step.
fn ranks(fate: Arc<Fate>, layout: &ParallelSpec) -> RankStarter {
    let map = map(layout);
    Arc::new(move |epoch, rank, sink| {
        // With the actor of the shard; a cluster that cannot start is another test.
        let panics = epoch > Epoch(1) && fate.strikes(50);
        assert!(!panics, "this life wants a shard to panic");
        let (plans, queue) = mpsc::channel(STEPS_QUEUED_MAX);
        let samples = map.samples(rank.index);
        let task = tokio::spawn(play(Arc::clone(&fate), samples, queue, sink));
        let ended = Box::pin(async move { drop(task.await) });
        let handle = Arc::new(Mine::beside(Arc::new(Nobody), &fate));
        Ok(StartedRank { port: RankPort::Remote(plans), handle, ended })
    })
}

async fn play(fate: Arc<Fate>, samples: bool, mut plans: mpsc::Receiver<StepPlan>, sink: RankSink) {
    let lost = |reason: &str, cause| {
        sink(RankEvent::Lost(Loss { reason: reason.to_owned(), cause }));
    };
    sleep(fate.millis(1..40)).await;
    if fate.strikes(30) {
        return lost("it cannot load", LossCause::Outside);
    }
    if fate.strikes(60) {
        return lost("there is no device", LossCause::NoDevice);
    }
    sink(RankEvent::Ready);
    let mut lengths = HashMap::new();
    while let Some(plan) = plans.recv().await {
        sleep(fate.millis(1..6)).await;
        if fate.hangs() {
            // Until it is ended from outside.
            while plans.recv().await.is_some() {}
            return;
        }
        if fate.strikes(250) {
            let cause = if fate.below(2) == 0 { LossCause::Step } else { LossCause::Outside };
            return lost("it was killed", cause);
        }
        let outcome = run(count, &mut lengths, plan);
        sink(match samples {
            true => RankEvent::Step(outcome),
            false => RankEvent::Followed(outcome.step),
        });
    }
}

async fn open(fate: &Arc<Fate>) -> Cluster {
    let ranks_of = Arc::clone(fate);
    let config = DeploymentConfig {
        desired: Desired { replicas: 2, layout: layout(1, 1) },
        blueprints: Arc::new(move |layout| {
            let ranks = ranks(Arc::clone(&ranks_of), &layout);
            Box::pin(ready(Ok(blueprint(&layout, LIMITS, ranks))))
        }),
        limits: LIMITS,
        weights: WeightsProgress::default(),
        ledger: Arc::new(Ledger::in_memory()),
        control: None,
        devices: DEVICES,
        step_deadline: StepDeadline::Fixed(Duration::from_secs(5)),
        policy: Policy::default(),
        admission: AdmissionLimits {
            requests: Capacity::Fixed(64),
            prompt_tokens: 1 << 16,
            no_capacity_timeout: LONG,
        },
        vocab: 1 << 16,
        shared_prompt_max: usize::MAX,
        metrics: Arc::new(Metrics::new("simulation")),
    };
    Cluster::start(config).await.expect("the cluster starts")
}

/// Simulates one cluster and returns the course that it took.
async fn live(seed: u64) -> u64 {
    let fate = Fate::new(seed);
    let cluster = open(&fate).await;
    let (overview, door) = (cluster.overview(), cluster.front_door().clone());
    let requests = tokio::spawn(clients(Arc::clone(&fate), door.clone(), 60));
    let changes = tokio::spawn(operators(Arc::clone(&fate), overview.clone(), draw_change, 120));
    changes.await.unwrap_or_else(|why| resume_unwind(why.into_panic()));
    fate.calm_down();
    repair(&overview).await;
    requests.await.unwrap_or_else(|why| resume_unwind(why.into_panic()));
    timeout(LONG, idle(&overview)).await.expect("G5: what is over holds nothing");
    assert_eq!(door.in_flight(), 0, "G5: every permit is back");
    assert_eq!(cluster.stop(LONG).await, 0, "G4: a drain loses nothing");
    fate.course()
}

#[test]
fn every_life_of_a_cluster_keeps_its_promises() {
    live_all(LIVES, |seed| {
        alone(live(seed));
    });
}

/// A seed alone repeats whatever goes wrong in a life.
#[test]
fn a_seed_always_takes_the_same_course() {
    live_all(SAME, |seed| assert_eq!(alone(live(seed)), alone(live(seed)), "two courses"));
}
