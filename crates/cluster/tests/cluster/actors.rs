//! An actor layer that cannot lie: what it says is gone is gone, what it says is over stays over, and
//! what goes wrong inside of it is seen and mended. On the real actors over scripted engines: **A13** to
//! **A15**, and with them **G1**, **G4** and **G5**. Actors that panic are in `panics.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use playhouse_cluster::{
    Change, Generation, Loss, LossCause, Phase, RankEvent, RankPort, RankStarter, ReplicaState,
    StartedRank,
};
use playhouse_engine::StepPort;
use playhouse_telemetry::Exposition;
use playhouse_types::{Epoch, FinishReason, ReplicaId, StepOutcome, StepPlan};
use tokio::time::{Instant, sleep};

use crate::caller::{LONG, accepted, collect, count, first_token, until};
use crate::engines::brake::Brake;
use crate::engines::scripted::{Nobody, RankFault, engines_of, layout};
use crate::engines::start_gate::StartGate;
use crate::operator::{begin, done, drain, ended, scale, state};
use crate::setup::{Setup, braked, paced};

/// An engine that answers each plan with `broken` made of the plan, while `breaks` says so.
fn contract_breakers(breaks: impl Fn(Epoch, u32) -> bool + Send + Sync + 'static) -> RankStarter {
    let good = engines_of(count, &layout(1, 1), Arc::new(|_, _| Ok(())));
    Arc::new(move |epoch, rank, sink| {
        if !breaks(epoch, rank.replica.0) {
            return good(epoch, rank, sink);
        }
        let (port, plans) = StepPort::bounded();
        let thread = std::thread::spawn(move || {
            sink(RankEvent::Ready);
            while let Ok(plan) = plans.recv() {
                let StepPlan { step, .. } = plan;
                sink(RankEvent::Step(StepOutcome { epoch, step, runs: Vec::new() }));
            }
        });
        let ended = Box::pin(async move {
            drop(tokio::task::spawn_blocking(move || thread.join()).await);
        });
        Ok(StartedRank { port: RankPort::Engine(port), handle: Arc::new(Nobody), ended })
    })
}

/// **A15**: what a rank reports is input. One broken outcome costs a restart and no token.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rank_that_breaks_the_contract_is_restarted() {
    let (cluster, metrics) =
        Setup::default().start(|_| contract_breakers(|epoch, _| epoch == Epoch(1))).await;
    cluster.serving().await.expect("it serves");
    let mut generation = accepted(cluster.front_door(), 5, 10);
    let (tokens, finish) = collect(&mut generation).await;
    assert_eq!((tokens, finish), ((5..15).collect(), FinishReason::Length), "G1");
    assert_eq!(metrics.replica(0).replica_restarts.get(), 1);
    assert_eq!(state(&cluster, 0), ReplicaState::Serving);
    assert_eq!(cluster.stop(LONG).await, 0);
}

/// The request that does it each time fails alone, as one that kills its engine does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contract_that_is_broken_again_and_again_ends_the_request_and_not_the_replica() {
    let (cluster, _) = Setup::default().start(|_| contract_breakers(|_, _| true)).await;
    cluster.serving().await.expect("it serves");
    let mut generation = accepted(cluster.front_door(), 5, 10);
    let (tokens, finish) = collect(&mut generation).await;
    assert!(tokens.is_empty());
    let FinishReason::Failed(why) = finish else { panic!("{finish:?}") };
    assert!(why.contains("died twice computing this request"), "{why}");
    assert_eq!(cluster.front_door().in_flight(), 0, "C-2");
    assert_eq!(cluster.stop(LONG).await, 0);
}

/// Scaling down takes first what does not serve, whatever its id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_down_removes_first_what_does_not_serve() {
    let gate = StartGate::new(&[0]);
    let starter = gate.before(engines_of(count, &layout(1, 1), Arc::new(|_, _| Ok(()))));
    let setup = Setup { replicas: 3, ..Setup::default() };
    let (cluster, _) = setup.start(move |_| Arc::clone(&starter)).await;
    let serving = |replica: usize| state(&cluster, replica) == ReplicaState::Serving;
    until("two serve", || serving(1) && serving(2)).await;
    let operation = begin(&cluster, scale(2)).await.expect("accepted");
    until("the first leaves", || state(&cluster, 0) == ReplicaState::Draining).await;
    // Until then its rank cannot end (A14).
    drop(gate);
    assert_eq!(ended(&cluster, &operation).await.phase, Phase::Done);
    let left: Vec<_> = cluster.front_door().replicas().iter().map(|it| it.id.0).collect();
    assert_eq!(left, [1, 2]);
    assert_eq!(cluster.stop(LONG).await, 0);
}

/// **G5**: a caller that leaves while its request is handed out takes it along, wherever it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_leave_while_parked_requests_are_handed_out_leave_nothing() {
    const CALLERS: usize = 200;
    let gate = StartGate::new(&[0, 1]);
    let starter = gate.before(engines_of(count, &layout(1, 1), paced(Duration::from_millis(2))));
    let setup = Setup { replicas: 2, ..Setup::default() };
    let (cluster, _) = setup.start(move |_| Arc::clone(&starter)).await;
    let door = cluster.front_door().clone();
    let mut all: Vec<_> = (0..CALLERS).map(|_| accepted(&door, 12_000, 4_000)).collect();
    until("all are parked", || all.iter().all(Generation::is_parked)).await;
    gate.open(0);
    let leaving = tokio::task::spawn_blocking(move || {
        while all[0].is_parked() {
            std::hint::spin_loop();
        }
        let first = all.remove(0);
        // The last first, so that some are on their way by then.
        while let Some(last) = all.pop() {
            drop(last);
        }
        first
    });
    let mut first = leaving.await.expect("no panic");
    let left = Instant::now();
    until("only one is left", || door.in_flight() == 1).await;
    // All of its tokens take each of them eight seconds.
    assert!(left.elapsed() < Duration::from_secs(4), "C-4: {:?}", left.elapsed());
    first_token(&mut first).await;
    let running: usize = door.replicas().iter().map(|it| it.running + it.waiting).sum();
    assert_eq!((door.in_flight(), running), (1, 1), "C-4");
    drop(first);
    until("nobody is left", || door.in_flight() == 0).await;
    drop(gate);
    assert_eq!(cluster.stop(LONG).await, 0);
}

/// **A13**, **G4**: a deadline is that of its drain, and of no later one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deadline_of_a_drain_that_was_aborted_ends_with_it() {
    let brake = Brake::default();
    let fault = braked(&brake);
    let setup = Setup { replicas: 2, ..Setup::default() };
    let (cluster, _) =
        setup.start(move |_| engines_of(count, &layout(1, 1), Arc::clone(&fault))).await;
    cluster.serving().await.expect("all serve");
    brake.hold_after(0);
    let mut streams: Vec<_> = (1..5).map(|n| accepted(cluster.front_door(), n * 20, 10)).collect();
    let short = Duration::from_secs(1);
    let began = Instant::now();
    let first = begin(&cluster, drain(0, short)).await.expect("accepted");
    until("it drains", || state(&cluster, 0) == ReplicaState::Draining).await;
    cluster.overview().abort(first.id).expect("it is under way");
    let aborted = ended(&cluster, &first).await;
    if began.elapsed() < short {
        assert_eq!(aborted.phase, Phase::Aborted, "{aborted:?}");
    }
    let second = begin(&cluster, drain(0, LONG)).await.expect("accepted");
    until("it drains again", || state(&cluster, 0) == ReplicaState::Draining).await;
    // The first would have been over by now.
    sleep(2 * short).await;
    assert_eq!(state(&cluster, 0), ReplicaState::Draining, "A13");
    let phase = cluster.overview().operation(second.id).expect("known").borrow().phase.clone();
    assert!(!phase.is_end(), "G4: {phase:?}");
    brake.release();
    assert_eq!(ended(&cluster, &second).await.phase, Phase::Done);
    for (n, stream) in (1..5).zip(&mut streams) {
        assert_eq!(collect(stream).await.0, (n * 20..n * 20 + 10).collect::<Vec<_>>());
    }
    assert_eq!(cluster.stop(LONG).await, 0);
}

/// **A14**: a replica is drained when no rank of it runs, of whatever epoch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_is_drained_when_the_ranks_of_older_epochs_have_ended_too() {
    let brake = Brake::default();
    let (brakes, inside) = (brake.brakes(), Arc::new(AtomicUsize::new(0)));
    let held = Arc::clone(&inside);
    // The first stage dies while the second is in a step, which takes as long as the test wants.
    let fault: RankFault = Arc::new(move |rank, plan| {
        if plan.epoch > Epoch(1) || plan.step.0 < 3 {
            return Ok(());
        }
        if rank.index == 0 {
            return Err("killed by the test".to_owned());
        }
        held.fetch_add(1, Ordering::SeqCst);
        let outcome = brakes.before_a_step();
        held.fetch_sub(1, Ordering::SeqCst);
        outcome
    });
    let setup = Setup { layout: layout(1, 2), ..Setup::default() };
    let (cluster, _) =
        setup.start(move |layout| engines_of(count, layout, Arc::clone(&fault))).await;
    cluster.serving().await.expect("it serves");
    brake.hold_after(0);
    let mut stream = accepted(cluster.front_door(), 5, 200);
    // Of the next epoch, which does not wait for ever.
    for position in 5..25 {
        assert_eq!(first_token(&mut stream).await, position);
    }
    assert_eq!(inside.load(Ordering::SeqCst), 1, "a rank of the first epoch is in its step");
    let operation = begin(&cluster, drain(0, Duration::ZERO)).await.expect("accepted");
    until("it drains", || state(&cluster, 0) == ReplicaState::Draining).await;
    sleep(Duration::from_millis(500)).await;
    assert_eq!(state(&cluster, 0), ReplicaState::Draining, "A14: a rank of it still runs");
    brake.release();
    assert_eq!(ended(&cluster, &operation).await.phase, Phase::Done);
    assert_eq!((inside.load(Ordering::SeqCst), state(&cluster, 0)), (0, ReplicaState::Drained));
    done(&cluster, Change::RestartReplica { replica: ReplicaId(0) }).await;
    assert_eq!(collect(&mut stream).await.0, (25..205).collect::<Vec<_>>(), "G1");
    assert_eq!(cluster.stop(LONG).await, 0);
}

/// **G4**: what is on its way to a replica that is removed goes elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_on_their_way_to_a_replica_that_is_removed_go_elsewhere() {
    let setup = Setup { replicas: 3, ..Setup::default() };
    let (cluster, _) =
        setup.start(|_| engines_of(count, &layout(1, 1), Arc::new(|_, _| Ok(())))).await;
    cluster.serving().await.expect("all serve");
    let over = Arc::new(AtomicBool::new(false));
    let client = |_| {
        let (door, over) = (cluster.front_door().clone(), Arc::clone(&over));
        tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let (tokens, finish) = collect(&mut accepted(&door, 3, 1)).await;
                assert_eq!((tokens, finish), (vec![3], FinishReason::Length), "G4");
            }
        })
    };
    let clients: Vec<_> = (0..48).map(client).collect();
    for _ in 0..40 {
        done(&cluster, scale(1)).await;
        done(&cluster, scale(3)).await;
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no request failed");
    }
    assert_eq!(cluster.stop(LONG).await, 0);
}

/// Ranks that cannot be loaded while `away`.
fn loads_unless(away: &Arc<AtomicBool>, fault: RankFault) -> RankStarter {
    let (engines, away) = (engines_of(count, &layout(1, 1), fault), Arc::clone(away));
    Arc::new(move |epoch, rank, sink| {
        if !away.load(Ordering::SeqCst) {
            return engines(epoch, rank, sink);
        }
        let reason = "the folder of the checkpoint is not there".to_owned();
        sink(RankEvent::Lost(Loss { reason, cause: LossCause::Outside }));
        let (port, _) = StepPort::bounded();
        let (port, handle) = (RankPort::Engine(port), Arc::new(Nobody));
        Ok(StartedRank { port, handle, ended: Box::pin(async {}) })
    })
}

/// RB-2: what has served is not given up while requests may wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_is_away_for_a_while_costs_no_stream() {
    let away = Arc::new(AtomicBool::new(false));
    let (brake, gone) = (Brake::default(), Arc::clone(&away));
    let fault = braked(&brake);
    let (cluster, _) =
        Setup::default().start(move |_| loads_unless(&gone, Arc::clone(&fault))).await;
    cluster.serving().await.expect("it serves");
    brake.hold_after(2);
    let mut streams: Vec<_> = (1..5).map(|n| accepted(cluster.front_door(), n * 20, 30)).collect();
    let first = first_token(&mut streams[0]).await;
    away.store(true, Ordering::SeqCst);
    brake.kill();
    // Long after the first five attempts.
    sleep(Duration::from_secs(2)).await;
    assert!(matches!(state(&cluster, 0), ReplicaState::Restarting { .. }));
    brake.release();
    away.store(false, Ordering::SeqCst);
    for (n, stream) in (1..5).zip(&mut streams) {
        let (rest, finish) = collect(stream).await;
        let tokens: Vec<_> = [first].into_iter().filter(|_| n == 1).chain(rest).collect();
        assert_eq!(tokens, (n * 20..n * 20 + 30).collect::<Vec<_>>(), "G1");
        assert_eq!(finish, FinishReason::Length);
    }
    assert_eq!(cluster.stop(LONG).await, 0);
}

/// RB-3: with nobody else left, what was given up is tried again without an operator.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_replica_that_has_failed_tries_again_by_itself() {
    let away = Arc::new(AtomicBool::new(false));
    let (brake, gone) = (Brake::default(), Arc::clone(&away));
    let fault = braked(&brake);
    let setup = Setup { no_capacity_timeout: Duration::from_millis(100), ..Setup::default() };
    let (cluster, _) = setup.start(move |_| loads_unless(&gone, Arc::clone(&fault))).await;
    cluster.serving().await.expect("it serves");
    brake.hold_after(0);
    let mut stream = accepted(cluster.front_door(), 5, 3);
    away.store(true, Ordering::SeqCst);
    brake.kill();
    brake.release();
    let (_, finish) = collect(&mut stream).await;
    assert!(matches!(finish, FinishReason::Unserved(_)), "{finish:?}");
    until("it is given up", || matches!(state(&cluster, 0), ReplicaState::Failed { .. })).await;
    away.store(false, Ordering::SeqCst);
    until("it serves again", || state(&cluster, 0) == ReplicaState::Serving).await;
    assert_eq!(collect(&mut accepted(cluster.front_door(), 5, 3)).await.0, [5, 6, 7]);
    assert_eq!(cluster.stop(LONG).await, 0);
}

/// **OL-1**, **OL-3**: a replica that computes, and is many times slower than its peer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_leave_a_replica_that_is_many_times_slower_than_its_peers() {
    const TOKENS: u32 = 400;
    let (slow, quick) = (paced(Duration::from_millis(200)), paced(Duration::from_millis(2)));
    let fault: RankFault = Arc::new(move |rank, plan| match rank.replica {
        ReplicaId(0) => slow(rank, plan),
        _ => quick(rank, plan),
    });
    let setup = Setup { replicas: 2, ..Setup::default() };
    let (cluster, metrics) =
        setup.start(move |_| engines_of(count, &layout(1, 1), Arc::clone(&fault))).await;
    cluster.serving().await.expect("all serve");
    let door = cluster.front_door();
    let mut streams: Vec<_> = (1..9).map(|n| accepted(door, n * 20, TOKENS)).collect();
    let slower = || door.replicas()[0].progress.slower_than_peers;
    until("it is found slow", || slower().is_some_and(|times| times >= 4)).await;
    assert_eq!(door.replicas()[1].progress.slower_than_peers, None);
    // All of them would take it 80 seconds.
    let left = Instant::now();
    for (n, stream) in (1..9).zip(&mut streams) {
        let (tokens, finish) = collect(stream).await;
        assert_eq!(tokens, (n * 20..n * 20 + TOKENS).collect::<Vec<_>>(), "G1");
        assert_eq!(finish, FinishReason::Length);
    }
    assert!(left.elapsed() < Duration::from_secs(30), "{:?}", left.elapsed());
    let moved = "engine=\"0\",cause=\"slow\"} 4";
    let text = metrics.encode(Exposition::Text);
    assert!(text.contains(moved), "{text}");
    // New ones do not go there while it is left alone.
    for n in 1..5 {
        assert_eq!(collect(&mut accepted(door, n * 10, 3)).await.0.len(), 3);
        assert_eq!(door.replicas()[0].running + door.replicas()[0].waiting, 0);
    }
    assert_eq!(state(&cluster, 0), ReplicaState::Serving, "its ranks go on");
    assert_eq!(cluster.stop(LONG).await, 0);
}
