//! An actor layer that cannot lie: what it says is gone is gone, what it says is over stays over, and
//! what goes wrong inside of it is seen and mended. On the real actors over scripted engines: **A13** to
//! **A16**, and with them **G1**, **G4**, **G5** and **G10**.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use playhouse_cluster::{
    AdmissionLimits, Answer, Capacity, Change, Cluster, DeploymentConfig, Desired, FrontDoor,
    Generation, Ledger, Loss, LossCause, Operation, Phase, Policy, RankEvent, RankHandle, RankPort,
    RankStarter, ReplicaState, StartedRank, StepDeadline, Submission, WeightsProgress,
};
use playhouse_engine::StepPort;
use playhouse_scheduler::Limits;
use playhouse_telemetry::{Exposition, Metrics};
use playhouse_types::{
    BlockSize, Epoch, FinishReason, ParallelSpec, ReplicaId, SamplingParams, StepOutcome, StepPlan,
    TokenId,
};
use tokio::time::{Instant, sleep, timeout};

use crate::engines::brake::Brake;
use crate::engines::scripted::{Nobody, RankFault, blueprint, engines_of, layout};
use crate::engines::start_gate::StartGate;

const LIMITS: Limits = Limits {
    max_num_seqs: 64,
    max_num_batched_tokens: 1 << 16,
    prefill_time: Duration::MAX,
    max_model_len: 16384,
    kv_blocks: 1 << 14,
    block_size: BlockSize::CPU,
    micro_batches: 1,
    micro_batch_max: usize::MAX,
    lookahead: false,
    prefix_caching: true,
};

/// The maximum wait for an event that must happen, however busy the machine is.
const LONG: Duration = Duration::from_secs(60);

/// The token at a position is the position.
fn count(position: usize) -> TokenId {
    TokenId::try_from(position).expect("a short sequence")
}

/// Ranks that take a time for each step.
#[allow(clippy::disallowed_methods, reason = "computing takes time; nothing is waited for")]
fn paced(step: Duration) -> RankFault {
    Arc::new(move |_, _| {
        std::thread::sleep(step);
        Ok(())
    })
}

/// Ranks before whose steps a brake is.
fn braked(brake: &Brake) -> RankFault {
    let brakes = brake.brakes();
    Arc::new(move |_, _| brakes.before_a_step())
}

struct Setup {
    replicas: u32,
    layout: ParallelSpec,
    step_deadline: StepDeadline,
    no_capacity_timeout: Duration,
}

impl Default for Setup {
    fn default() -> Self {
        let (step_deadline, no_capacity_timeout) = (StepDeadline::Never, LONG);
        Self { replicas: 1, layout: layout(1, 1), step_deadline, no_capacity_timeout }
    }
}

impl Setup {
    async fn start(
        self,
        starter: impl Fn(&ParallelSpec) -> RankStarter + Send + Sync + 'static,
    ) -> (Cluster, Arc<Metrics>) {
        let metrics = Arc::new(Metrics::new("test"));
        let config = DeploymentConfig {
            desired: Desired { replicas: self.replicas, layout: self.layout },
            blueprints: Arc::new(move |layout| {
                let blueprint = blueprint(&layout, LIMITS, starter(&layout));
                Box::pin(std::future::ready(Ok(blueprint)))
            }),
            limits: LIMITS,
            weights: WeightsProgress::default(),
            ledger: Arc::new(Ledger::in_memory()),
            control: None,
            devices: 64,
            step_deadline: self.step_deadline,
            policy: Policy::RoundRobin,
            admission: AdmissionLimits {
                requests: Capacity::Fixed(256),
                prompt_tokens: 1 << 24,
                no_capacity_timeout: self.no_capacity_timeout,
            },
            vocab: 1 << 16,
            shared_prompt_max: usize::MAX,
            metrics: Arc::clone(&metrics),
        };
        (Cluster::start(config).await.expect("the cluster starts"), metrics)
    }
}

fn submit(door: &FrontDoor, prompt: u32, max_tokens: u32) -> Generation {
    let prompt: Vec<TokenId> = (0..prompt).collect();
    let sampling = Arc::new(SamplingParams::greedy(max_tokens));
    door.submit(Submission::new(prompt.into(), sampling)).expect("accepted")
}

/// Everything that is still to come.
async fn collect(generation: &mut Generation) -> (Vec<TokenId>, FinishReason) {
    let mut tokens = Vec::new();
    let all = async {
        while let Some(emission) = generation.next().await {
            tokens.extend(emission.token.map(|sampled| sampled.token));
            if let Some(finish) = emission.finish {
                return finish;
            }
        }
        panic!("C-1: every generation ends with a reason");
    };
    let finish = timeout(LONG, all).await.expect("C-1: every generation ends");
    (tokens, finish)
}

async fn first_token(generation: &mut Generation) -> TokenId {
    let first = timeout(LONG, generation.next()).await.expect("a token comes");
    first.expect("an emission").token.expect("a token").token
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < LONG, "never happened: {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

async fn begin(cluster: &Cluster, change: Change) -> Operation {
    match cluster.overview().change(change, None, false).await.expect("accepted") {
        Answer::Accepted(operation) => *operation,
        Answer::Planned(_) => panic!("it was not a dry run"),
    }
}

async fn ended(cluster: &Cluster, operation: &Operation) -> Operation {
    let mut watch = cluster.overview().operation(operation.id).expect("it is known");
    let end = timeout(LONG, watch.wait_for(|operation| operation.phase.is_end())).await;
    end.expect("operations end").expect("the ledger is there").clone()
}

async fn done(cluster: &Cluster, change: Change) {
    let what = format!("{change:?}");
    let operation = begin(cluster, change).await;
    let end = ended(cluster, &operation).await;
    assert_eq!(end.phase, Phase::Done, "{what}: {end:?}");
}

fn drain(replica: u32, deadline: Duration) -> Change {
    Change::DrainReplica { replica: ReplicaId(replica), deadline, force: true }
}

fn scale(replicas: u32) -> Change {
    Change::Deployment { replicas: Some(replicas), layout: None, force: true }
}

fn state(cluster: &Cluster, replica: usize) -> ReplicaState {
    cluster.front_door().replicas()[replica].state.clone()
}

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
    let mut generation = submit(cluster.front_door(), 5, 10);
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
    let mut generation = submit(cluster.front_door(), 5, 10);
    let (tokens, finish) = collect(&mut generation).await;
    assert!(tokens.is_empty());
    let FinishReason::Failed(why) = finish else { panic!("{finish:?}") };
    assert!(why.contains("died twice computing this request"), "{why}");
    assert_eq!(cluster.front_door().in_flight(), 0, "C-2");
    assert_eq!(cluster.stop(LONG).await, 0);
}

/// Panics its replica's actor when that ends a rank which hangs, while `armed`.
#[derive(Debug)]
struct Mine {
    armed: Arc<AtomicBool>,
}

impl RankHandle for Mine {
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
            Ok(StartedRank { handle: Arc::new(Mine { armed: Arc::clone(&mined) }), ..started })
        });
        let starter = gate.before(starter);
        let step_deadline = StepDeadline::Fixed(HANGS);
        let setup = Setup { replicas, step_deadline, no_capacity_timeout, ..Setup::default() };
        let (cluster, metrics) = setup.start(move |_| Arc::clone(&starter)).await;
        cluster.serving().await.expect("all serve");
        Self { cluster, brake, gate, armed, metrics }
    }

    /// The actor of some replica panics while it has all of these requests.
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
        (1..5).map(|n| submit(mined.cluster.front_door(), n * 20, 50)).collect();
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
    let mut stream = submit(mined.cluster.front_door(), 20, 50);
    first_token(&mut stream).await;
    // The next actor's ranks do not come.
    mined.gate.close(0);
    mined.panic().await;
    mined.brake.release();
    let begin = Instant::now();
    let cpu = processor_time();
    let mut new = submit(mined.cluster.front_door(), 20, 50);
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

/// That this thread has used.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let nanos = u32::try_from(time.tv_nsec).expect("less than a second");
    Duration::new(u64::try_from(time.tv_sec).expect("not negative"), nanos)
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
            (1..5).map(|n| submit(mined.cluster.front_door(), n * 20, 30)).collect();
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

/// Scaling down takes first what does not serve, whatever its id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scaling_down_removes_first_what_does_not_serve() {
    let gate = StartGate::new(&[0]);
    let starter = gate.before(engines_of(count, &layout(1, 1), Arc::new(|_, _| Ok(()))));
    let setup = Setup { replicas: 3, ..Setup::default() };
    let (cluster, _) = setup.start(move |_| Arc::clone(&starter)).await;
    let serving = |replica: usize| state(&cluster, replica) == ReplicaState::Serving;
    until("two serve", || serving(1) && serving(2)).await;
    let operation = begin(&cluster, scale(2)).await;
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
    let mut all: Vec<_> = (0..CALLERS).map(|_| submit(&door, 12_000, 4_000)).collect();
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
    let mut streams: Vec<_> = (1..5).map(|n| submit(cluster.front_door(), n * 20, 10)).collect();
    let short = Duration::from_secs(1);
    let began = Instant::now();
    let first = begin(&cluster, drain(0, short)).await;
    until("it drains", || state(&cluster, 0) == ReplicaState::Draining).await;
    cluster.overview().abort(first.id).expect("it is under way");
    let aborted = ended(&cluster, &first).await;
    if began.elapsed() < short {
        assert_eq!(aborted.phase, Phase::Aborted, "{aborted:?}");
    }
    let second = begin(&cluster, drain(0, LONG)).await;
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
    let mut stream = submit(cluster.front_door(), 5, 200);
    // Of the next epoch, which does not wait for ever.
    for position in 5..25 {
        assert_eq!(first_token(&mut stream).await, position);
    }
    assert_eq!(inside.load(Ordering::SeqCst), 1, "a rank of the first epoch is in its step");
    let operation = begin(&cluster, drain(0, Duration::ZERO)).await;
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
                let (tokens, finish) = collect(&mut submit(&door, 3, 1)).await;
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
    let mut streams: Vec<_> = (1..5).map(|n| submit(cluster.front_door(), n * 20, 30)).collect();
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
    let mut stream = submit(cluster.front_door(), 5, 3);
    away.store(true, Ordering::SeqCst);
    brake.kill();
    brake.release();
    let (_, finish) = collect(&mut stream).await;
    assert!(matches!(finish, FinishReason::Unserved(_)), "{finish:?}");
    until("it is given up", || matches!(state(&cluster, 0), ReplicaState::Failed { .. })).await;
    away.store(false, Ordering::SeqCst);
    until("it serves again", || state(&cluster, 0) == ReplicaState::Serving).await;
    assert_eq!(collect(&mut submit(cluster.front_door(), 5, 3)).await.0, [5, 6, 7]);
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
    let mut streams: Vec<_> = (1..9).map(|n| submit(door, n * 20, TOKENS)).collect();
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
    assert!(
        metrics.encode(Exposition::Text).contains(moved),
        "{}",
        metrics.encode(Exposition::Text)
    );
    // New ones do not go there while it is left alone.
    for n in 1..5 {
        assert_eq!(collect(&mut submit(door, n * 10, 3)).await.0.len(), 3);
        assert_eq!(door.replicas()[0].running + door.replicas()[0].waiting, 0);
    }
    assert_eq!(state(&cluster, 0), ReplicaState::Serving, "its ranks go on");
    assert_eq!(cluster.stop(LONG).await, 0);
}
