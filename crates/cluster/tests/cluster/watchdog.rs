//! C-8 of the crate and G3: ranks that hang, on the real actors over scripted engines.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};
use playhouse_cluster::{
    AdmissionLimits, Capacity, Cluster, DeploymentConfig, Desired, Ledger, Policy, RankStarter,
    ReplicaState, StepDeadline, WeightsProgress,
};
use playhouse_layout::RankId;
use playhouse_scheduler::Limits;
use playhouse_telemetry::{Exposition, Metrics};
use playhouse_types::{BlockSize, Epoch, FinishReason, ParallelSpec, ReplicaId, StepPlan};
use tokio::time::Instant;

use crate::caller::{accepted, collect, count, until};
use crate::engines::brake::Brake;
use crate::engines::scripted::{RankFault, blueprints, engines_of, layout, map};

const LIMITS: Limits = Limits {
    max_num_seqs: 8,
    max_num_batched_tokens: 64,
    prefill_time: Duration::MAX,
    max_model_len: 256,
    kv_blocks: 128,
    block_size: BlockSize::CPU,
    micro_batches: 1,
    micro_batch_max: usize::MAX,
    lookahead: false,
    prefix_caching: true,
};

/// Of a step, where it is not the time that is tested: longer than any engine here is kept from
/// computing by others who compute on the machine.
const DEADLINE: StepDeadline = StepDeadline::Fixed(Duration::from_secs(2));

/// Engines that wait here hang, until the last handle to it is dropped.
#[derive(Clone, Default)]
struct Trap(Arc<Spring>);

#[derive(Default)]
struct Spring {
    state: Mutex<Caught>,
    released: Condvar,
}

#[derive(Default)]
struct Caught {
    engines: usize,
    at: Option<Instant>,
    open: bool,
}

// === impl Trap ===

impl Trap {
    fn lock(&self) -> MutexGuard<'_, Caught> {
        self.0.state.lock()
    }

    /// Hangs.
    fn enter(&self) {
        let mut caught = self.lock();
        caught.engines += 1;
        caught.at.get_or_insert_with(Instant::now);
        while !caught.open {
            self.0.released.wait(&mut caught);
        }
    }

    fn engines(&self) -> usize {
        self.lock().engines
    }

    /// Lets whoever hangs go on, and nobody hangs any more.
    fn open(&self) {
        self.lock().open = true;
        self.0.released.notify_all();
    }
}

/// Opens a trap however a test ends: the runtime waits for the threads.
struct Opens(Trap);

impl Drop for Opens {
    fn drop(&mut self) {
        self.0.open();
    }
}

async fn start(
    replicas: u32,
    layout: ParallelSpec,
    step_deadline: StepDeadline,
    fault: RankFault,
) -> (Cluster, Arc<Metrics>) {
    let starter = engines_of(count, &layout, fault);
    start_on(starter, replicas, layout, step_deadline).await
}

async fn start_on(
    starter: RankStarter,
    replicas: u32,
    layout: ParallelSpec,
    step_deadline: StepDeadline,
) -> (Cluster, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::new("test"));
    let config = DeploymentConfig {
        desired: Desired { replicas, layout: layout.clone() },
        blueprints: blueprints(starter, LIMITS),
        limits: LIMITS,
        weights: WeightsProgress::default(),
        ledger: Arc::new(Ledger::in_memory()),
        control: None,
        devices: replicas as usize * map(&layout).replica_ranks(),
        step_deadline,
        policy: Policy::RoundRobin,
        admission: AdmissionLimits {
            requests: Capacity::Fixed(32),
            prompt_tokens: 4096,
            no_capacity_timeout: Duration::from_secs(60),
        },
        vocab: 1 << 16,
        shared_prompt_max: usize::MAX,
        metrics: Arc::clone(&metrics),
    };
    let cluster = Cluster::start(config).await.expect("the cluster starts");
    cluster.serving().await.expect("its replicas serve");
    (cluster, metrics)
}

/// Counted over all labels but these.
fn metric(metrics: &Metrics, name: &str, label: &str) -> f64 {
    let text = metrics.encode(Exposition::Text);
    let lines = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
    lines.map(|line| line.rsplit(' ').next().and_then(|it| it.parse().ok()).unwrap_or(0.0)).sum()
}

/// Hangs once, in a step with this number or a later one, where `rank` says so.
fn hang_once(
    trap: &Trap,
    step: u64,
    rank: impl Fn(RankId) -> bool + Send + Sync + 'static,
) -> RankFault {
    let trap = trap.clone();
    Arc::new(move |own, plan| {
        if plan.step.0 >= step && rank(own) && trap.engines() == 0 {
            trap.enter();
        }
        Ok(())
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hang_is_seen_in_under_3_s_and_what_it_says_later_is_not_heard() {
    let trap = Trap::default();
    let _opens = Opens(trap.clone());
    let fault = hang_once(&trap, 20, |_| true);
    let (cluster, metrics) = start(1, layout(1, 1), StepDeadline::Measured, fault).await;
    let door = cluster.front_door();
    let mut running: Vec<_> = (1..4).map(|n| accepted(door, n * 20, 180)).collect();
    until("it hangs", || trap.engines() == 1).await;
    let caught = trap.lock().at.expect("it was caught");
    until("it is seen", || metrics.replica(0).replica_restarts.get() == 1).await;
    // W-1: not before its time.
    assert!(caught.elapsed() >= Duration::from_millis(2_400), "{:?}", caught.elapsed());
    // As the replica measured it: how long this test took to look is nobody's business.
    let seen = metric(&metrics, "playhouse_hang_detection_seconds_sum", "");
    assert!((2.4..3.0).contains(&seen), "G3: {seen} s");
    // The next epoch is on its way when the old rank has its outcome.
    let first = running[0].next().await.expect("C-1");
    let first = first.token.expect("a token").token;
    trap.open();
    for (n, generation) in (1..4).zip(&mut running) {
        let (tokens, finish) = collect(generation).await;
        let from = n * 20 + u32::from(n == 1);
        assert_eq!(tokens, (from..n * 20 + 180).collect::<Vec<_>>(), "C-8: none lost, none twice");
        assert_eq!(finish, FinishReason::Length);
    }
    assert_eq!(first, 20);
    assert_eq!(metrics.replica(0).replica_restarts.get(), 1);
    assert_eq!(metric(&metrics, "playhouse_replica_restarts_total", "cause=\"hang\""), 1.0);
    assert_eq!(metric(&metrics, "playhouse_hang_detection_seconds_count", ""), 1.0);
    assert_eq!(metric(&metrics, "playhouse_replica_recovery_seconds_count", ""), 1.0);
    assert_eq!(metric(&metrics, "playhouse_replica_epoch", ""), 2.0);
    assert_eq!(metric(&metrics, "vllm:engine_healthy", ""), 1.0);
    assert_eq!(cluster.stop(Duration::from_secs(10)).await, 0);
}

/// A rank without outcomes may hang while the one that has them is ahead of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_rank_hangs_it_is_seen_and_named() {
    for (stage, tensor) in [(0, 1), (1, 0), (1, 1)] {
        let trap = Trap::default();
        let _opens = Opens(trap.clone());
        let fault = hang_once(&trap, 5, move |rank| rank.index == stage * 2 + tensor);
        let engines = engines_of(count, &layout(2, 2), fault);
        // The next epoch begins when its cause was read.
        let gate = trap.clone();
        let starter: RankStarter = Arc::new(move |epoch, rank, sink| {
            if epoch > Epoch(1) {
                gate.enter();
            }
            engines(epoch, rank, sink)
        });
        let (cluster, _) = start_on(starter, 1, layout(2, 2), DEADLINE).await;
        let door = cluster.front_door();
        let mut generation = accepted(door, 20, 60);
        let mut why = String::new();
        until("it is seen", || match &door.replicas()[0].state {
            ReplicaState::Restarting { reason } => {
                why.clone_from(reason);
                true
            }
            _ => false,
        })
        .await;
        let name = format!("hung: stage {stage} shard {tensor} did not run a step of ");
        assert!(why.starts_with(&name), "{why}");
        trap.open();
        let (tokens, _) = collect(&mut generation).await;
        assert_eq!(tokens, (20..80).collect::<Vec<_>>(), "stage {stage} shard {tensor}");
        assert_eq!(cluster.stop(Duration::from_secs(10)).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_requests_of_a_replica_that_hangs_go_on_in_another() {
    let trap = Trap::default();
    let _opens = Opens(trap.clone());
    let fault = hang_once(&trap, 5, |rank| rank.replica == ReplicaId(0));
    let (cluster, metrics) = start(2, layout(1, 1), DEADLINE, fault).await;
    let mut running: Vec<_> = (1..5).map(|n| accepted(cluster.front_door(), n * 20, 100)).collect();
    for (n, generation) in (1..5).zip(&mut running) {
        let (tokens, finish) = collect(generation).await;
        assert_eq!(tokens, (n * 20..n * 20 + 100).collect::<Vec<_>>(), "C-6");
        assert_eq!(finish, FinishReason::Length);
    }
    let moved = metric(&metrics, "playhouse_migrations_total", "engine=\"0\",cause=\"hang\"");
    assert_eq!(moved, 2.0, "{}", metrics.encode(Exposition::Text));
    assert_eq!(metric(&metrics, "playhouse_migrations_total", ""), 2.0);
    trap.open();
    assert_eq!(cluster.stop(Duration::from_secs(10)).await, 0);
}

/// Returns whether the poisoned request takes a slot with this plan, or has taken one before.
fn has_poison(plan: &StepPlan) -> bool {
    plan.admitted.iter().any(|admitted| admitted.prompt_tokens == 77)
}

/// S-9: a request whose steps hang is a death of its step, and fails alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_hangs_every_engine_fails_alone() {
    let trap = Trap::default();
    let _opens = Opens(trap.clone());
    let poisoned = trap.clone();
    // Who is alone with the poison is known only if all are there before the first step.
    let brake = Brake::default();
    brake.hold_after(0);
    let brakes = brake.brakes();
    let fault: RankFault = Arc::new(move |_, plan| {
        brakes.before_a_step()?;
        if has_poison(plan) {
            poisoned.enter();
        }
        Ok(())
    });
    let (cluster, metrics) = start(1, layout(1, 1), DEADLINE, fault).await;
    let door = cluster.front_door();
    let mut healthy: Vec<_> = (1..4).map(|n| accepted(door, n * 10, 50)).collect();
    let mut poison = accepted(door, 77, 50);
    brake.release();
    let (tokens, finish) = collect(&mut poison).await;
    assert!(tokens.is_empty());
    let FinishReason::Failed(why) = finish else { panic!("{finish:?}") };
    assert!(why.contains("died twice computing this request"), "{why}");
    for (n, generation) in (1..4).zip(&mut healthy) {
        let (tokens, finish) = collect(generation).await;
        assert_eq!((tokens, finish), ((n * 10..n * 10 + 50).collect(), FinishReason::Length));
    }
    assert_eq!(metrics.replica(0).replica_restarts.get(), 3);
    trap.open();
    assert_eq!(cluster.stop(Duration::from_secs(10)).await, 0);
}

/// Without a deadline, no rank is ended, and the status shows that the replica is stalled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_work_does_not_move_says_since_when() {
    let trap = Trap::default();
    let _opens = Opens(trap.clone());
    let fault = hang_once(&trap, 5, |_| true);
    let (cluster, _) = start(1, layout(1, 1), StepDeadline::Never, fault).await;
    let door = cluster.front_door();
    assert_eq!(door.replicas()[0].progress.waited(), None, "it has no work");
    let mut generation = accepted(door, 20, 50);
    until("it hangs", || trap.engines() == 1).await;
    let half = Duration::from_millis(500);
    until("that is seen", || door.replicas()[0].progress.waited() > Some(half)).await;
    let status = &door.replicas()[0];
    assert_eq!(status.progress.patience.stalled, Duration::from_secs(10));
    assert!(status.is_healthy() && door.is_ready(), "not stalled yet");
    trap.open();
    assert_eq!(collect(&mut generation).await.0.len(), 50);
    until("it has no work", || door.replicas()[0].progress.waited().is_none()).await;
    assert_eq!(cluster.stop(Duration::from_secs(10)).await, 0);
}

/// W-5: a rank that hangs is avoided before it is known to hang.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_requests_go_past_a_replica_that_hesitates() {
    let trap = Trap::default();
    let _opens = Opens(trap.clone());
    let fault = hang_once(&trap, 40, |rank| rank.replica == ReplicaId(0));
    let (cluster, _) = start(2, layout(1, 1), StepDeadline::Never, fault).await;
    let door = cluster.front_door();
    let mut caught = vec![accepted(door, 20, 100), accepted(door, 40, 100)];
    until("it hangs", || trap.engines() == 1).await;
    until("that is noticed", || !door.replicas()[0].is_quick()).await;
    assert!(door.replicas()[0].is_healthy(), "nothing is done about it yet");
    // In turn, half of them would hang.
    for n in 1..9 {
        let mut generation = accepted(door, n * 10, 20);
        let answer = tokio::time::timeout(Duration::from_secs(30), collect(&mut generation)).await;
        assert_eq!(answer.expect("it is answered").0, (n * 10..n * 10 + 20).collect::<Vec<_>>());
    }
    trap.open();
    for (n, generation) in (1..3).zip(&mut caught) {
        let (tokens, _) = collect(generation).await;
        assert_eq!(tokens, (n * 20..n * 20 + 100).collect::<Vec<_>>());
    }
    until("it is quick again", || door.replicas()[0].is_quick()).await;
    assert_eq!(cluster.stop(Duration::from_secs(10)).await, 0);
}

/// The stop of a cluster does not wait for a hung rank.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_engine_does_not_keep_the_cluster_from_stopping() {
    let trap = Trap::default();
    let _opens = Opens(trap.clone());
    let fault = hang_once(&trap, 5, |_| true);
    let (cluster, _) = start(1, layout(1, 1), DEADLINE, fault).await;
    let mut generation = accepted(cluster.front_door(), 20, 50);
    assert_eq!(collect(&mut generation).await.0, (20..70).collect::<Vec<_>>());
    assert_eq!(trap.engines(), 1);
    let stopped = tokio::time::timeout(Duration::from_secs(5), cluster.stop(Duration::ZERO)).await;
    assert_eq!(stopped, Ok(0));
}
