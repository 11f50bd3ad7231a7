//! **G1**, **G5** and **G6** while no replica serves: the guarantees C-7 of the crate and P-1 to P-4 of
//! its waiting room, on the real actors over scripted engines.

use std::sync::Arc;
use std::time::Duration;

use playhouse_cluster::{
    AdmissionLimits, Capacity, Cluster, DeploymentConfig, Desired, FrontDoor, Generation, Ledger,
    Policy, Rejected, ReplicaState, StepDeadline, WeightsProgress,
};
use playhouse_scheduler::Limits;
use playhouse_telemetry::Metrics;
use playhouse_types::{BlockSize, FinishReason, TokenId};
use tokio::time::Instant;

use crate::caller::{LONG, collect, count, submit, until};
use crate::engines::brake::Brake;
use crate::engines::scripted::{RankFault, blueprints, engines_of, layout};
use crate::engines::start_gate::StartGate;

const LIMITS: Limits = Limits {
    max_num_seqs: 4,
    max_num_batched_tokens: 64,
    prefill_time: Duration::MAX,
    max_model_len: 256,
    kv_blocks: 64,
    block_size: BlockSize::CPU,
    micro_batches: 1,
    micro_batch_max: usize::MAX,
    lookahead: false,
    prefix_caching: true,
};

const SHORT: Duration = Duration::from_millis(200);

/// A cluster whose replicas come and go as a test says.
struct TestCluster {
    actors: Cluster,
    gate: StartGate,
    brake: Brake,
    metrics: Arc<Metrics>,
}

// === impl TestCluster ===

impl TestCluster {
    async fn start(replicas: u32, down: &[u32], no_capacity_timeout: Duration) -> Self {
        let brake = Brake::default();
        let brakes = brake.brakes();
        let fault: RankFault = Arc::new(move |_, _| brakes.before_a_step());
        let gate = StartGate::new(down);
        let metrics = Arc::new(Metrics::new("test"));
        let config = DeploymentConfig {
            desired: Desired { replicas, layout: layout(1, 1) },
            blueprints: blueprints(gate.before(engines_of(count, &layout(1, 1), fault)), LIMITS),
            limits: LIMITS,
            weights: WeightsProgress::default(),
            ledger: Arc::new(Ledger::in_memory()),
            control: None,
            devices: replicas as usize,
            // Steps take as long as a test holds them.
            step_deadline: StepDeadline::Never,
            policy: Policy::RoundRobin,
            admission: AdmissionLimits {
                requests: Capacity::Fixed(8),
                prompt_tokens: 1024,
                no_capacity_timeout,
            },
            vocab: 1 << 16,
            shared_prompt_max: usize::MAX,
            metrics: Arc::clone(&metrics),
        };
        let actors = Cluster::start(config).await.expect("the cluster starts");
        if down.is_empty() {
            actors.serving().await.expect("its replicas serve");
        }
        Self { actors, gate, brake, metrics }
    }

    fn door(&self) -> &FrontDoor {
        self.actors.front_door()
    }

    /// Kills the only replica in the step that is held; it does not come back before the gate
    /// opens, and is not held again.
    fn kill_for_long(&self) {
        self.gate.close(0);
        self.brake.kill();
        self.brake.release();
    }

    fn parked(&self) -> i64 {
        self.metrics.requests_parked.get()
    }

    async fn stop(self, deadline: Duration) -> u32 {
        drop((self.gate, self.brake));
        self.actors.stop(deadline).await
    }
}

/// **P-1**: in order, to the first that serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_new_requests_wait_for_the_first_replica_that_serves() {
    let cluster = TestCluster::start(2, &[0, 1], LONG).await;
    let mut waiting: Vec<_> =
        (1..7).map(|n| submit(cluster.door(), n * 20, 5).expect("accepted")).collect();
    assert!(waiting.iter().all(Generation::is_parked), "nobody serves");
    until("all are parked", || cluster.parked() == 6).await;
    cluster.gate.open(1);
    for (n, generation) in (1..7).zip(&mut waiting) {
        let (tokens, finish) = collect(generation).await;
        let expected = (n * 20..n * 20 + 5).collect::<Vec<_>>();
        assert_eq!((tokens, finish), (expected, FinishReason::Length));
        assert!(!generation.is_parked());
    }
    assert_eq!(cluster.parked(), 0);
    assert_eq!(cluster.door().replicas()[0].state, ReplicaState::Starting);
    assert_eq!(cluster.stop(LONG).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_running_requests_are_parked_with_what_they_have_and_go_on() {
    let cluster = TestCluster::start(1, &[], LONG).await;
    cluster.brake.hold_after(0);
    let mut running: Vec<_> =
        (1..4).map(|n| submit(cluster.door(), n * 20, 100).expect("accepted")).collect();
    // In these all prompts are computed, also if the first step is of the first alone.
    cluster.brake.hold_after(3);
    let mut begun = Vec::new();
    for generation in &mut running {
        begun.push(generation.next().await.expect("a first token").token.expect("a token").token);
    }
    cluster.kill_for_long();
    until("all are parked", || running.iter().all(Generation::is_parked)).await;
    let late = submit(cluster.door(), 10, 3).expect("accepted");
    assert!(late.is_parked(), "a new one waits with them");
    cluster.gate.open(0);
    for ((n, generation), first) in (1..4).zip(&mut running).zip(begun) {
        let (rest, finish) = collect(generation).await;
        let tokens: Vec<_> = [first].into_iter().chain(rest).collect();
        let expected = (n * 20..n * 20 + 100).collect::<Vec<_>>();
        assert_eq!((tokens, finish), (expected, FinishReason::Length));
    }
    drop(late);
    assert_eq!(cluster.stop(LONG).await, 0);
}

/// **P-2**, for one that was running and for a new one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g1_a_parked_request_ends_at_the_timeout_with_the_reason() {
    let cluster = TestCluster::start(1, &[], SHORT).await;
    cluster.brake.hold_after(1);
    let mut running = submit(cluster.door(), 20, 200).expect("accepted");
    running.next().await.expect("a first token");
    cluster.kill_for_long();
    until("it is parked", || running.is_parked()).await;
    let start = Instant::now();
    let mut new = submit(cluster.door(), 20, 200).expect("accepted");
    let (tokens, finish) = collect(&mut new).await;
    assert!(start.elapsed() >= SHORT, "{:?}", start.elapsed());
    let why = "no replica could serve it within 0.2 s: replica-0 restarts: killed by the test";
    assert_eq!((tokens, finish), (vec![], FinishReason::Unserved(why.to_owned())));
    let (tokens, finish) = collect(&mut running).await;
    assert_eq!(finish, FinishReason::Unserved(why.to_owned()));
    assert_eq!(tokens, (21..21 + tokens.len() as TokenId).collect::<Vec<_>>(), "none is lost");
    assert_eq!((cluster.door().in_flight(), cluster.parked()), (0, 0), "C-2: every permit returns");
    cluster.gate.open(0);
    cluster.actors.serving().await.expect("it comes back");
    assert_eq!(collect(&mut submit(cluster.door(), 8, 2).expect("accepted")).await.0, [8, 9]);
    assert_eq!(cluster.stop(LONG).await, 0);
}

/// **P-3**: before, and while its replica is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g5_a_client_that_leaves_while_parked_frees_everything() {
    let cluster = TestCluster::start(1, &[], LONG).await;
    cluster.brake.hold_after(1);
    let mut running = submit(cluster.door(), 20, 200).expect("accepted");
    running.next().await.expect("a first token");
    cluster.kill_for_long();
    until("it is parked", || running.is_parked()).await;
    let new = submit(cluster.door(), 20, 200).expect("accepted");
    let stays = submit(cluster.door(), 20, 2).expect("accepted");
    until("all are parked", || cluster.parked() == 3).await;
    drop((running, new));
    // C-2: they leave the room, and then return their permits.
    until("two have left", || (cluster.door().in_flight(), cluster.parked()) == (1, 1)).await;
    cluster.gate.open(0);
    let mut stays = stays;
    assert_eq!(collect(&mut stays).await.0, [20, 21]);
    assert_eq!(cluster.metrics.replica(0).kv_blocks_held.get(), 0, "C-4");
    assert_eq!(cluster.stop(LONG).await, 0);
}

/// **P-4**
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn g6_what_is_parked_is_bounded_like_all_requests() {
    let cluster = TestCluster::start(1, &[0], LONG).await;
    let parked: Vec<_> = (0..8).map(|_| submit(cluster.door(), 8, 2).expect("accepted")).collect();
    let refused = submit(cluster.door(), 8, 2).expect_err("the ninth is refused");
    assert!(matches!(refused, Rejected::Overloaded { requests: 8, .. }), "{refused:?}");
    drop(parked);
    until("they have left", || cluster.door().in_flight() == 0).await;
    assert!(submit(cluster.door(), 8, 2).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_lets_parked_requests_finish() {
    let cluster = TestCluster::start(1, &[0], LONG).await;
    let mut parked = submit(cluster.door(), 8, 5).expect("accepted");
    cluster.door().start_drain();
    assert_eq!(submit(cluster.door(), 8, 1).expect_err("draining"), Rejected::Draining);
    cluster.gate.open(0);
    assert_eq!(collect(&mut parked).await, (vec![8, 9, 10, 11, 12], FinishReason::Length));
    assert_eq!(cluster.stop(LONG).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c1_what_is_parked_when_the_head_stops_ends_too() {
    let cluster = TestCluster::start(2, &[0], LONG).await;
    until("the other serves", || cluster.door().is_ready()).await;
    cluster.gate.close(1);
    cluster.brake.hold_after(1);
    let mut running = submit(cluster.door(), 8, 200).expect("accepted");
    running.next().await.expect("a first token");
    cluster.brake.kill();
    cluster.brake.release();
    until("it is parked", || running.is_parked()).await;
    let stopping = tokio::spawn(cluster.actors.stop(Duration::ZERO));
    let (_, finish) = collect(&mut running).await;
    assert_eq!(finish, FinishReason::Draining);
    drop(cluster.gate);
    assert_eq!(stopping.await.expect("no panic"), 1);
}
