//! Actors of replicas that panic: **A16**, and with it **G1** and **G5**, on the real actors over scripted
//! engines.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use playhouse_cluster::{
    Change, Cluster, Phase, RankHandle, RankStarter, ReplicaState, StartedRank, StepDeadline,
};
use playhouse_telemetry::Metrics;
use playhouse_types::{Epoch, FinishReason, ReplicaId};
use tokio::time::{Instant, sleep};

use crate::caller::{LONG, accepted, collect, count, first_token, until};
use crate::engines::brake::Brake;
use crate::engines::scripted::{engines_of, layout};
use crate::engines::start_gate::StartGate;
use crate::operator::{begin, done, drain, ended, scale, state};
use crate::setup::{Setup, braked};

/// A handle that panics its replica's actor when the actor ends a hung rank, while `armed`.
#[derive(Debug)]
struct PanicOnce {
    armed: Arc<AtomicBool>,
}

impl RankHandle for PanicOnce {
    fn abort(&self) {
        assert!(!self.armed.swap(false, Ordering::SeqCst), "the test wants this actor to panic");
    }

    fn vacate(&self) {}
}

/// Replicas whose actors can be made to panic.
struct Mined {
    cluster: Cluster,
    brake: Brake,
    gate: StartGate,
    /// The next replica that is found to hang panics.
    armed: Arc<AtomicBool>,
    metrics: Arc<Metrics>,
}

/// Longer than any engine here is kept from computing by others who compute on the machine.
const HANGS: Duration = Duration::from_secs(2);

impl Mined {
    async fn open(replicas: u32, no_capacity_timeout: Duration) -> Self {
        let (brake, gate) = (Brake::default(), StartGate::new(&[]));
        let armed = Arc::new(AtomicBool::new(false));
        let (engines, mined) =
            (engines_of(count, &layout(1, 1), braked(&brake)), Arc::clone(&armed));
        let starter: RankStarter = Arc::new(move |epoch, rank, sink| {
            let started = engines(epoch, rank, sink)?;
            Ok(StartedRank { handle: Arc::new(PanicOnce { armed: Arc::clone(&mined) }), ..started })
        });
        let starter = gate.before(starter);
        let step_deadline = StepDeadline::Fixed(HANGS);
        let setup = Setup { replicas, step_deadline, no_capacity_timeout, ..Setup::default() };
        let (cluster, metrics) = setup.start(move |_| Arc::clone(&starter)).await;
        cluster.serving().await.expect("all serve");
        Self { cluster, brake, gate, armed, metrics }
    }

    /// Lets the actor of a replica panic while the replica has all requests.
    async fn panic(&self) {
        self.armed.store(true, Ordering::SeqCst);
        until("an actor panics", || !self.armed.load(Ordering::SeqCst)).await;
    }

    async fn stop(self) {
        drop((self.brake, self.gate));
        assert_eq!(self.cluster.stop(LONG).await, 0);
    }
}

/// **A16**, **G1**: the requests of the only replica go on behind their last tokens when its actor was
/// replaced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_actor_that_panics_is_replaced_and_its_streams_go_on() {
    let mined = Mined::open(1, LONG).await;
    mined.brake.hold_after(0);
    let mut streams: Vec<_> =
        (1..5).map(|n| accepted(mined.cluster.front_door(), n * 20, 50)).collect();
    // All of them are there before the first step ends, however late: each gets its token in three.
    mined.brake.hold_after(3);
    let mut first = Vec::new();
    for stream in &mut streams {
        first.push(first_token(stream).await);
    }
    mined.panic().await;
    mined.brake.release();
    for ((n, stream), first) in (1..5).zip(&mut streams).zip(first) {
        let (rest, finish) = collect(stream).await;
        let tokens: Vec<_> = [first].into_iter().chain(rest).collect();
        assert_eq!(tokens, (n * 20..n * 20 + 50).collect::<Vec<_>>(), "G1: none lost, none twice");
        assert_eq!(finish, FinishReason::Length);
    }
    assert_eq!(state(&mined.cluster, 0), ReplicaState::Serving);
    assert!(mined.cluster.front_door().replicas()[0].epoch > Epoch(1), "A12: a later epoch");
    assert_eq!(mined.metrics.replica(0).kv_blocks_held.get(), 0, "G5");
    mined.stop().await;
}

/// **G1** for a request without anybody else: it ends when it was told to, and costs nothing meanwhile. All
/// actors run on the thread of this test, whose processor time no other test uses.
#[tokio::test(flavor = "current_thread")]
async fn a_request_whose_only_replica_panicked_ends_at_its_first_deadline() {
    let timeout = Duration::from_millis(1500);
    let mined = Mined::open(1, timeout).await;
    mined.brake.hold_after(1);
    let mut stream = accepted(mined.cluster.front_door(), 20, 50);
    first_token(&mut stream).await;
    // The next actor's ranks do not come.
    mined.gate.close(0);
    mined.panic().await;
    mined.brake.release();
    let begin = Instant::now();
    let cpu = processor_time();
    let mut new = accepted(mined.cluster.front_door(), 20, 50);
    let (_, finish) = collect(&mut new).await;
    assert!(matches!(finish, FinishReason::Unserved(_)), "{finish:?}");
    assert!(begin.elapsed() >= timeout, "{:?}", begin.elapsed());
    let (_, finish) = collect(&mut stream).await;
    assert!(matches!(finish, FinishReason::Unserved(_)), "{finish:?}");
    let cpu = processor_time() - cpu;
    assert!(cpu < timeout / 2, "nobody throws it from hand to hand: {cpu:?}");
    assert!(!mined.cluster.front_door().is_ready());
    assert_eq!(mined.cluster.front_door().in_flight(), 0, "C-2");
    mined.gate.open(0);
    mined.stop().await;
}

/// Returns the processor time that this thread has used.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let nanos = u32::try_from(time.tv_nsec).expect("less than a second");
    Duration::new(u64::try_from(time.tv_sec).expect("not negative"), nanos)
}

/// **A16**: a drain that comes while the ranks of a failed actor still compute reaches the actor after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_between_two_actors_reaches_the_second() {
    // It comes before, or while, the next actor waits for those ranks.
    for wait in [0, 20, 200].map(Duration::from_millis) {
        let mined = Mined::open(1, LONG).await;
        mined.brake.hold_after(0);
        let mut stream = accepted(mined.cluster.front_door(), 20, 30);
        mined.panic().await;
        let has_failed = || matches!(state(&mined.cluster, 0), ReplicaState::Failed { .. });
        until("the actor is gone", has_failed).await;
        sleep(wait).await;
        let change = drain(0, Duration::ZERO);
        let operation = begin(&mined.cluster, change).await.expect("accepted");
        mined.brake.release();
        let end = ended(&mined.cluster, &operation).await;
        assert_eq!(end.phase, Phase::Done, "{wait:?}: {end:?}");
        assert_eq!(state(&mined.cluster, 0), ReplicaState::Drained, "{wait:?}");
        done(&mined.cluster, Change::RestartReplica { replica: ReplicaId(0) }).await;
        let (tokens, finish) = collect(&mut stream).await;
        assert_eq!(tokens, (20..50).collect::<Vec<_>>(), "G1: {wait:?}");
        assert_eq!(finish, FinishReason::Length, "{wait:?}");
        mined.stop().await;
    }
}

/// Operators can do with a replica whose actor panicked what they can do with any other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_on_a_replica_that_panicked_do_what_they_say() {
    let changes = [
        Change::RestartReplica { replica: ReplicaId(0) },
        Change::RemoveReplica { replica: ReplicaId(0), deadline: LONG, force: true },
        drain(0, LONG),
        scale(1),
    ];
    for change in changes {
        let mined = Mined::open(2, LONG).await;
        // Both wait: the one that is looked at first panics, and the other restarts.
        mined.brake.hold_after(0);
        let mut streams: Vec<_> =
            (1..5).map(|n| accepted(mined.cluster.front_door(), n * 20, 30)).collect();
        mined.gate.close(0);
        mined.gate.close(1);
        mined.panic().await;
        mined.brake.release();
        mined.gate.open(0);
        mined.gate.open(1);
        done(&mined.cluster, change.clone()).await;
        for (n, stream) in (1..5).zip(&mut streams) {
            let (tokens, finish) = collect(stream).await;
            assert_eq!(tokens, (n * 20..n * 20 + 30).collect::<Vec<_>>(), "{change:?}");
            assert_eq!(finish, FinishReason::Length, "{change:?}");
        }
        let left = mined.cluster.front_door().replicas();
        match change {
            Change::RestartReplica { .. } => assert_eq!(left.len(), 2),
            Change::DrainReplica { .. } => assert_eq!(left[0].state, ReplicaState::Drained),
            _ => assert_eq!(left.len(), 1),
        }
        mined.stop().await;
    }
}
