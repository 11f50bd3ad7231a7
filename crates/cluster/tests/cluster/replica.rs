//! The guarantees C-1 to C-5 of the crate, on the real actors over scripted engines.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use playhouse_cluster::{
    AdmissionLimits, Awaited, Capacity, Change, Cluster, DeploymentConfig, Desired, Ledger, Policy,
    RankStarter, Refused, Rejected, ReplicaState, StepDeadline, WeightsProgress, WeightsRead,
};
use playhouse_layout::RankId;
use playhouse_scheduler::Limits;
use playhouse_telemetry::Metrics;
use playhouse_types::{BlockSize, FinishReason, ReplicaId};
use tokio::sync::oneshot;

use crate::caller::{collect, count, submit};
use crate::engines::scripted::{
    Fault, RankFault, blueprints, engines, engines_of, layout, no_fault,
};

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
const ADMISSION: AdmissionLimits = AdmissionLimits {
    requests: Capacity::Fixed(8),
    prompt_tokens: 1024,
    no_capacity_timeout: Duration::from_secs(60),
};

fn config(starter: RankStarter, metrics: Arc<Metrics>) -> DeploymentConfig {
    DeploymentConfig {
        desired: Desired { replicas: 1, layout: layout(1, 1) },
        blueprints: blueprints(starter, LIMITS),
        limits: LIMITS,
        weights: WeightsProgress::default(),
        ledger: Arc::new(Ledger::in_memory()),
        control: None,
        devices: 1,
        // Tests hold steps; nobody hangs here.
        step_deadline: StepDeadline::Never,
        policy: Policy::default(),
        admission: ADMISSION,
        vocab: 1 << 16,
        shared_prompt_max: usize::MAX,
        metrics,
    }
}

async fn start(starter: RankStarter, metrics: &Arc<Metrics>) -> Cluster {
    let config = config(starter, Arc::clone(metrics));
    let cluster = Cluster::start(config).await.expect("the cluster starts");
    cluster.serving().await.expect("its replicas serve");
    cluster
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new("test"))
}

/// A fault that lets each step pass only when the test says so, and says when one waits.
fn gate() -> (Fault, Receiver<()>, SyncSender<()>) {
    let (entered, at_gate) = sync_channel(64);
    let (open, opened) = sync_channel::<()>(64);
    let opened = Mutex::new(opened);
    let fault: Fault = Arc::new(move |_| {
        let _ = entered.send(());
        let _ = opened.lock().expect("one engine").recv();
        Ok(())
    });
    (fault, at_gate, open)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_arrive_in_order_and_end_once() {
    let cluster = start(engines(count, no_fault()), &metrics()).await;
    let mut running: Vec<_> =
        (1..8).map(|n| submit(cluster.front_door(), n * 20, 10 + n).expect("accepted")).collect();
    for (n, generation) in (1..8).zip(&mut running) {
        let (tokens, finish) = collect(generation).await;
        assert_eq!(tokens, (n * 20..n * 20 + 10 + n).collect::<Vec<_>>());
        assert_eq!(finish, FinishReason::Length);
    }
    assert_eq!(cluster.stop(Duration::from_secs(10)).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_house_refuses_and_every_permit_returns() {
    let (fault, at_gate, open) = gate();
    let cluster = start(engines(count, fault), &metrics()).await;
    let door = cluster.front_door();
    let mut running: Vec<_> = (0..8).map(|_| submit(door, 8, 2).expect("accepted")).collect();
    at_gate.recv().expect("a step waits");
    let refused = submit(door, 8, 2).expect_err("C-2: the ninth is refused");
    assert!(matches!(refused, Rejected::Overloaded { requests: 8, .. }), "{refused:?}");
    drop(open);
    for generation in &mut running {
        assert_eq!(collect(generation).await.1, FinishReason::Length);
    }
    assert_eq!(door.in_flight(), 0, "C-2: every permit returns");
    assert!(submit(door, 8, 2).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prompt_tokens_are_bounded_too() {
    let (fault, at_gate, open) = gate();
    let cluster = start(engines(count, fault), &metrics()).await;
    let door = cluster.front_door();
    let running: Vec<_> = (0..4).map(|_| submit(door, 250, 2).expect("accepted")).collect();
    at_gate.recv().expect("a step waits");
    let refused = submit(door, 250, 2).expect_err("1,250 prompt tokens are too many");
    assert!(matches!(refused, Rejected::Overloaded { .. }), "{refused:?}");
    assert!(submit(door, 8, 2).is_ok(), "a short one still fits");
    drop((open, running));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_larger_than_the_cache_is_refused_with_both_numbers() {
    let cluster = start(engines(count, no_fault()), &metrics()).await;
    let refused = submit(cluster.front_door(), 64 * 16 + 1, 1).expect_err("it never fits");
    assert_eq!(refused, Rejected::NeverFits { tokens: 1026, limit: 256 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_generation_frees_its_blocks_within_a_step() {
    let (fault, at_gate, open) = gate();
    let metrics = metrics();
    let cluster = start(engines(count, fault), &metrics).await;
    let door = cluster.front_door();
    let left = submit(door, 100, 100).expect("accepted");
    at_gate.recv().expect("its first step waits");
    let mut other = submit(door, 8, 3).expect("accepted");
    drop(left);
    open.send(()).expect("the engine waits"); // ends the step that held the blocks
    at_gate.recv().expect("the step of the other one waits");
    drop(open);
    assert_eq!(collect(&mut other).await.1, FinishReason::Length);
    assert_eq!(door.in_flight(), 0);
    assert_eq!(metrics.replica(0).kv_blocks_held.get(), 0, "C-4: no block is held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_engine_is_replaced_and_streams_go_on() {
    let deaths = AtomicUsize::new(0);
    let fault: Fault = Arc::new(move |plan| {
        let dies = plan.step.0 == 5 && deaths.fetch_add(1, Ordering::Relaxed) < 2;
        if dies { Err("pulled the plug".to_owned()) } else { Ok(()) }
    });
    let metrics = metrics();
    let cluster = start(engines(count, fault), &metrics).await;
    let mut running: Vec<_> =
        (0..3).map(|_| submit(cluster.front_door(), 30, 3).expect("accepted")).collect();
    for generation in &mut running {
        let (tokens, finish) = collect(generation).await;
        assert_eq!((tokens, finish), ((30..33).collect(), FinishReason::Length));
    }
    // Long enough to be running at step 5 of the second epoch too.
    let mut late = submit(cluster.front_door(), 30, 12).expect("accepted");
    let (tokens, finish) = collect(&mut late).await;
    assert_eq!((tokens, finish), ((30..42).collect(), FinishReason::Length), "C-1, C-5");
    assert_eq!(metrics.replica(0).replica_restarts.get(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_loop_ends_in_failed_with_its_reason() {
    let fault: Fault = Arc::new(|_| Err("always".to_owned()));
    let mut config = config(engines(count, fault), metrics());
    config.admission.no_capacity_timeout = Duration::from_millis(100);
    let cluster = Cluster::start(config).await.expect("the cluster starts");
    let door = cluster.front_door();
    // Each poisonous request may kill the engine twice; the budget holds five restarts.
    while door.replicas()[0].state != (ReplicaState::Failed { reason: "always".to_owned() }) {
        if let Ok(mut generation) = submit(door, 8, 2) {
            let (_, finish) = collect(&mut generation).await;
            let failed = matches!(finish, FinishReason::Failed(_) | FinishReason::Unserved(_));
            assert!(failed, "{finish:?}");
        }
    }
    let mut parked = submit(door, 8, 2).expect("C-7: somebody may restart it");
    let (_, finish) = collect(&mut parked).await;
    let why = "no replica could serve it within 0.1 s: replica-0 failed: always";
    assert_eq!(finish, FinishReason::Unserved(why.to_owned()), "C-5: it takes nothing");
    assert!(!door.is_ready());
    assert_eq!(cluster.stop(Duration::from_secs(10)).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_cannot_start_is_a_start_error() {
    let starter: RankStarter = Arc::new(|_, _, _| Err(std::io::Error::other("no thread left")));
    let config = config(starter, metrics());
    let error = Cluster::start(config).await.expect_err("it cannot start");
    assert!(error.to_string().contains("no thread left"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_finishes_what_was_accepted_and_refuses_the_rest() {
    let (fault, at_gate, open) = gate();
    let cluster = start(engines(count, fault), &metrics()).await;
    let door = cluster.front_door().clone();
    let mut accepted = submit(&door, 8, 5).expect("accepted");
    at_gate.recv().expect("a step waits");
    let stopping = tokio::spawn(cluster.stop(Duration::from_secs(10)));
    while !door.is_draining() {
        tokio::task::yield_now().await;
    }
    assert_eq!(submit(&door, 8, 1).expect_err("draining"), Rejected::Draining);
    drop(open);
    let (tokens, finish) = collect(&mut accepted).await;
    assert_eq!((tokens.len(), finish), (5, FinishReason::Length));
    assert_eq!(stopping.await.expect("no panic"), 0);
    assert_eq!(door.replicas()[0].state, ReplicaState::Stopped);
}

/// 2 stages of 2 ranks, of which the first rank of the last stage samples.
async fn start_ranks(fault: RankFault, metrics: &Arc<Metrics>) -> Cluster {
    let starter = engines_of(count, &layout(2, 2), fault);
    let mut config = config(starter, Arc::clone(metrics));
    config.desired.layout = layout(2, 2);
    config.devices = 4;
    let cluster = Cluster::start(config).await.expect("the cluster starts");
    cluster.serving().await.expect("its replicas serve");
    cluster
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rank_gets_every_plan_and_one_answers() {
    let plans = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&plans);
    let fault: RankFault = Arc::new(move |rank, plan| {
        let mut seen = seen.lock().expect("no engine panics");
        seen.push((rank.index, plan.step, plan.runs.len()));
        Ok(())
    });
    let cluster = start_ranks(fault, &metrics()).await;
    let mut running: Vec<_> =
        (1..8).map(|n| submit(cluster.front_door(), n * 20, 10 + n).expect("accepted")).collect();
    for (n, generation) in (1..8).zip(&mut running) {
        let (tokens, _) = collect(generation).await;
        assert_eq!(tokens, (n * 20..n * 20 + 10 + n).collect::<Vec<_>>());
    }
    assert_eq!(cluster.stop(Duration::from_secs(10)).await, 0);
    let plans = plans.lock().expect("no engine panics");
    let of = |index| {
        let of_rank = plans.iter().filter(|plan| plan.0 == index);
        of_rank.map(|plan| (plan.1, plan.2)).collect::<Vec<_>>()
    };
    let first = of(0);
    assert!(first.iter().all(|&(_, runs)| runs <= 2), "a step is shared by 2 stages: {first:?}");
    for index in 1..4 {
        assert_eq!(of(index), first, "rank {index}");
    }
}

/// **C-5** for every rank: whichever dies, all start again, and streams go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_death_of_any_rank_restarts_all_and_loses_no_token() {
    for index in 0..4 {
        let died = AtomicUsize::new(0);
        let fault: RankFault = Arc::new(move |rank, plan| {
            let now = rank == RankId { replica: ReplicaId(0), index } && plan.step.0 == 5;
            if now && died.fetch_add(1, Ordering::Relaxed) == 0 {
                return Err("killed by the test".to_owned());
            }
            Ok(())
        });
        let cluster = start_ranks(fault, &metrics()).await;
        let mut running: Vec<_> =
            (1..5).map(|n| submit(cluster.front_door(), n * 20, 20).expect("accepted")).collect();
        for (n, generation) in (1..5).zip(&mut running) {
            let (tokens, finish) = collect(generation).await;
            assert_eq!(tokens, (n * 20..n * 20 + 20).collect::<Vec<_>>(), "{index}");
            assert_eq!(finish, FinishReason::Length);
        }
        assert_eq!(cluster.stop(Duration::from_secs(10)).await, 0);
    }
}

/// Two replicas, of which the first dies at every fifth step.
async fn start_frail(metrics: &Arc<Metrics>) -> Cluster {
    let fault: RankFault = Arc::new(|rank, plan| match (rank.replica, plan.step.0) {
        (ReplicaId(0), 5..) => Err("killed by the test".to_owned()),
        _ => Ok(()),
    });
    let mut config = config(engines_of(count, &layout(1, 1), fault), Arc::clone(metrics));
    config.desired.replicas = 2;
    config.devices = 2;
    config.policy = Policy::RoundRobin;
    // It is given up when no request would wait for it any more (RB-2).
    config.admission.no_capacity_timeout = Duration::from_millis(500);
    let cluster = Cluster::start(config).await.expect("the cluster starts");
    cluster.serving().await.expect("its replicas serve");
    cluster
}

/// **C-6**: nobody waits for the replica that died, and nobody ends with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_of_a_dying_replica_go_on_in_another() {
    let metrics = metrics();
    let cluster = start_frail(&metrics).await;
    let door = cluster.front_door();
    let failed = ReplicaState::Failed { reason: "killed by the test".to_owned() };
    let mut round = 0;
    while door.replicas()[0].state != failed {
        round += 1;
        let mut running: Vec<_> =
            (1..5).map(|n| submit(door, n * 20, 30).expect("accepted")).collect();
        for (n, generation) in (1..5).zip(&mut running) {
            let (tokens, finish) = collect(generation).await;
            assert_eq!(tokens, (n * 20..n * 20 + 30).collect::<Vec<_>>(), "round {round}");
            assert_eq!(finish, FinishReason::Length);
        }
    }
    assert_eq!(door.replicas()[1].state, ReplicaState::Serving, "C-5: the other lives");
    assert_eq!(metrics.replica(1).replica_restarts.get(), 0);
    assert_eq!(cluster.stop(Duration::from_secs(10)).await, 0);
}

/// **C-4** wherever the request is by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_generation_that_moves_frees_its_blocks() {
    let metrics = metrics();
    let cluster = start_frail(&metrics).await;
    let door = cluster.front_door();
    for _ in 0..40 {
        // Those of the last round may still be on their way out.
        while door.in_flight() > 4 {
            tokio::task::yield_now().await;
        }
        let mut running: Vec<_> =
            (1..5).map(|n| submit(door, n * 20, 100).expect("accepted")).collect();
        for generation in &mut running {
            generation.next().await.expect("a token");
        }
    }
    let held = || metrics.replica(0).kv_blocks_held.get() + metrics.replica(1).kv_blocks_held.get();
    while held() > 0 || door.in_flight() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(cluster.stop(Duration::from_secs(10)).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_cluster_takes_requests_while_its_weights_are_read() {
    let (release, released) = oneshot::channel::<()>();
    let (released, metrics) = (Mutex::new(Some(released)), metrics());
    let mut config = config(engines(count, no_fault()), metrics);
    let (draft, weights) = (config.blueprints.clone(), config.weights.clone());
    config.blueprints = Arc::new(move |layout| {
        // Only the first blueprint has weights to read.
        let (released, draft) = (released.lock().expect("no panic").take(), draft(layout));
        Box::pin(async move {
            if let Some(released) = released {
                drop(released.await);
            }
            draft.await
        })
    });
    let cluster = Cluster::open(config).await.expect("the actors start");
    let door = cluster.front_door();
    assert_eq!(door.awaited(), Some(Awaited::Start));
    let read = WeightsRead { read: 3 << 29, total: 5 << 30, begun: 2, ranks: 3 };
    weights.set(read);
    let text = door.awaited().expect("nothing serves").to_string();
    assert_eq!(text, "loading weights: 1.5 of 5.0 GiB on 2 of 3 ranks");
    let mut early = submit(door, 5, 3).expect("accepted");

    let change = Change::RestartReplica { replica: ReplicaId(0) };
    let refused = cluster.overview().change(change, None, false).await;
    assert_eq!(refused, Err(Refused::Starting), "there is nothing to change yet");

    release.send(()).expect("somebody waits for the weights or will");
    cluster.launch().await.expect("the replica starts");
    cluster.serving().await.expect("it serves");
    assert_eq!(door.awaited(), None);
    let (tokens, finish) = collect(&mut early).await;
    assert_eq!((tokens, finish), (vec![5, 6, 7], FinishReason::Length));
    assert_eq!(cluster.stop(Duration::from_secs(10)).await, 0);
}
