//! Changes of what runs while it serves, on the real actors over scripted ranks: **G1**, **G4**, and
//! MV-1, MV-2 of the crate.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use playhouse_cluster::{
    AdmissionLimits, Answer, Capacity, Change, Cluster, DeploymentConfig, Desired, Ledger, Loss,
    LossCause, Operation, Phase, Policy, RankEvent, RankPort, RankStarter, Refused, ReplicaState,
    StartedRank, StepDeadline, Submission, WeightsProgress,
};
use playhouse_engine::StepPort;
use playhouse_scheduler::Limits;
use playhouse_telemetry::Metrics;
use playhouse_types::{BlockSize, FinishReason, ParallelSpec, ReplicaId, SamplingParams, TokenId};
use tokio::time::{sleep, timeout};

use crate::caller::count;
use crate::engines::brake::Brake;
use crate::engines::scripted::{Nobody, RankFault, blueprint, engines_of, layout};
use crate::operator::{begin, ended};
use crate::setup::paced;

const LIMITS: Limits = Limits {
    max_num_seqs: 8,
    max_num_batched_tokens: 64,
    prefill_time: Duration::MAX,
    max_model_len: 1024,
    kv_blocks: 512,
    block_size: BlockSize::CPU,
    micro_batches: 1,
    micro_batch_max: usize::MAX,
    lookahead: false,
    prefix_caching: true,
};

/// The duration of a step, which lets streams outlive the changes.
const STEP: Duration = Duration::from_millis(2);
const TOKENS: u32 = 300;

/// The maximum wait for an event that must happen.
const SOON: Duration = Duration::from_secs(20);

/// A layout whose ranks cannot be loaded.
fn stillborn_layout() -> ParallelSpec {
    layout(1, 4)
}

fn stillborn() -> RankStarter {
    Arc::new(|_, _, sink| {
        let reason = "it cannot be loaded".to_owned();
        sink(RankEvent::Lost(Loss { reason, cause: LossCause::Outside }));
        let (port, _) = StepPort::bounded();
        let (port, handle) = (RankPort::Engine(port), Arc::new(Nobody));
        Ok(StartedRank { port, handle, ended: Box::pin(async {}) })
    })
}

/// A cluster on a machine with so many devices, and ranks as `fault` makes them.
async fn start_with(
    replicas: u32,
    first: ParallelSpec,
    devices: usize,
    fault: RankFault,
) -> Cluster {
    let config = DeploymentConfig {
        desired: Desired { replicas, layout: first },
        blueprints: Arc::new(move |layout| {
            if layout.tensor == 3 {
                return Box::pin(ready(Err("3 heads cannot be had".to_owned())));
            }
            let ranks = engines_of(count, &layout, Arc::clone(&fault));
            let ranks = if layout == stillborn_layout() { stillborn() } else { ranks };
            Box::pin(ready(Ok(blueprint(&layout, LIMITS, ranks))))
        }),
        limits: LIMITS,
        weights: WeightsProgress::default(),
        ledger: Arc::new(Ledger::in_memory()),
        control: None,
        devices,
        // However busy the machine is, nobody hangs here.
        step_deadline: StepDeadline::Never,
        policy: Policy::default(),
        admission: AdmissionLimits {
            requests: Capacity::Fixed(64),
            prompt_tokens: 1 << 16,
            no_capacity_timeout: SOON,
        },
        vocab: 1 << 16,
        shared_prompt_max: usize::MAX,
        metrics: Arc::new(Metrics::new("test")),
    };
    let cluster = Cluster::start(config).await.expect("the cluster starts");
    cluster.serving().await.expect("its replicas serve");
    cluster
}

async fn start(replicas: u32, first: ParallelSpec, devices: usize) -> Cluster {
    start_with(replicas, first, devices, paced(STEP)).await
}

/// Streams that run meanwhile; each says how it ended. **G1**: every one has all its tokens.
struct Streams(Vec<tokio::task::JoinHandle<()>>);

impl Streams {
    fn start(cluster: &Cluster, count: u32) -> Self {
        let stream = |n: u32| {
            let prompt: Vec<TokenId> = (0..n + 1).collect();
            let sampling = Arc::new(SamplingParams::greedy(TOKENS));
            let door = cluster.front_door();
            let mut generation =
                door.submit(Submission::new(prompt.into(), sampling)).expect("accepted");
            tokio::spawn(async move {
                let mut tokens = Vec::new();
                let finish = loop {
                    let emission = generation.next().await.expect("an end comes first");
                    tokens.extend(emission.token.map(|sampled| sampled.token));
                    if let Some(finish) = emission.finish {
                        break finish;
                    }
                };
                assert_eq!(finish, FinishReason::Length, "G1: stream {n}");
                assert_eq!(tokens, (n + 1..n + 1 + TOKENS).collect::<Vec<_>>(), "G1: stream {n}");
            })
        };
        Self((0..count).map(stream).collect())
    }

    async fn finish(self) {
        for stream in self.0 {
            timeout(SOON, stream).await.expect("every stream ends").expect("as it should");
        }
    }
}

fn deployment(replicas: Option<u32>, layout: Option<ParallelSpec>) -> Change {
    Change::Deployment { replicas, layout, force: false }
}

/// Begins a change and waits for its end.
async fn change(cluster: &Cluster, change: Change) -> Operation {
    let operation = begin(cluster, change).await.expect("accepted");
    ended(cluster, &operation).await
}

/// Ids and states, by id.
fn states(cluster: &Cluster) -> Vec<(u32, ReplicaState)> {
    let replicas = cluster.front_door().replicas();
    replicas.into_iter().map(|replica| (replica.id.0, replica.state)).collect()
}

/// Ids of replicas that all serve, with their number of ranks.
fn serving(cluster: &Cluster) -> Vec<(u32, usize)> {
    let replicas = cluster.front_door().replicas();
    assert!(replicas.iter().all(|replica| replica.state == ReplicaState::Serving), "{replicas:?}");
    let ranks = |stages: &[playhouse_cluster::StageStatus]| {
        stages.iter().map(|stage| stage.shards.len()).sum()
    };
    replicas.iter().map(|replica| (replica.id.0, ranks(&replica.stages))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_come_and_go_while_streams_run() {
    let cluster = start(1, layout(1, 1), 4).await;
    let streams = Streams::start(&cluster, 12);
    let up = change(&cluster, deployment(Some(4), None)).await;
    assert_eq!(up.phase, Phase::Done, "{up:?}");
    assert_eq!(serving(&cluster), [(0, 1), (1, 1), (2, 1), (3, 1)]);
    let more = Streams::start(&cluster, 12);
    let down = change(&cluster, deployment(Some(1), None)).await;
    assert_eq!(down.phase, Phase::Done, "{down:?}");
    assert_eq!(serving(&cluster), [(0, 1)]);
    streams.finish().await;
    more.finish().await;
    assert_eq!(cluster.front_door().in_flight(), 0);
    let now = cluster.overview().deployment();
    assert_eq!((now.desired.replicas, now.running), (1, None));
    assert_eq!(cluster.stop(SOON).await, 0);
}

/// G4: a deadline moves what has not ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_deadline_of_a_drain_streams_go_on_elsewhere() {
    let cluster = start(2, layout(1, 1), 2).await;
    let streams = Streams::start(&cluster, 12);
    let drain = Change::DrainReplica {
        replica: ReplicaId(0),
        deadline: Duration::from_millis(50),
        force: false,
    };
    let drained = change(&cluster, drain).await;
    assert_eq!(drained.phase, Phase::Done, "{drained:?}");
    assert_eq!(states(&cluster), [(0, ReplicaState::Drained), (1, ReplicaState::Serving)]);
    streams.finish().await;
    let restarted = change(&cluster, Change::RestartReplica { replica: ReplicaId(0) }).await;
    assert_eq!(restarted.phase, Phase::Done, "{restarted:?}");
    assert_eq!(serving(&cluster).len(), 2);
    let epoch = cluster.front_door().replicas()[0].epoch;
    assert!(epoch.0 > 1, "A12: a later epoch than that of the ranks before: {epoch}");
    Streams::start(&cluster, 4).finish().await;
    assert_eq!(cluster.stop(SOON).await, 0);
}

/// Or a later replica of that id would rest after a restart of the head.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_replica_that_leaves_is_not_remembered_as_drained() {
    let cluster = start(2, layout(1, 1), 2).await;
    let drained = || cluster.overview().deployment().drained.replicas;
    let (replica, deadline) = (ReplicaId(1), Duration::ZERO);
    change(&cluster, Change::DrainReplica { replica, deadline, force: false }).await;
    assert_eq!(drained(), [replica].into());
    for replicas in [1, 2] {
        let replicas = Some(replicas);
        change(&cluster, Change::Deployment { replicas, layout: None, force: false }).await;
        assert_eq!(drained(), [].into());
    }
    assert_eq!(serving(&cluster).len(), 2);
    assert_eq!(cluster.stop(SOON).await, 0);
}

/// MV-2: with devices to spare the new replica serves before the old one leaves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_layout_is_rolled_through_without_a_gap() {
    for wanted in [layout(2, 1), layout(1, 2)] {
        let cluster = start(2, layout(1, 1), 4).await;
        let streams = Streams::start(&cluster, 12);
        let door = cluster.front_door().clone();
        let gap = Arc::new(AtomicBool::new(false));
        let (seen, over) = (Arc::clone(&gap), Arc::new(AtomicBool::new(false)));
        let ends = Arc::clone(&over);
        let watcher = tokio::spawn(async move {
            while !ends.load(Ordering::Relaxed) {
                seen.fetch_or(!door.is_ready(), Ordering::Relaxed);
                sleep(Duration::from_millis(1)).await;
            }
        });
        let rolled = change(&cluster, deployment(None, Some(wanted.clone()))).await;
        assert_eq!(rolled.phase, Phase::Done, "{rolled:?}");
        over.store(true, Ordering::Relaxed);
        watcher.await.expect("it watches");
        assert!(!gap.load(Ordering::Relaxed), "MV-2: somebody serves at every moment");
        assert!(serving(&cluster).iter().all(|&(_, ranks)| ranks == 2), "{wanted:?}");
        streams.finish().await;
        assert_eq!(cluster.stop(SOON).await, 0);
    }
}

/// **G1**: without devices to spare the only replica is divided anew; its streams wait for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_replica_is_divided_anew_on_its_own_devices() {
    let cluster = start(1, layout(2, 1), 2).await;
    let streams = Streams::start(&cluster, 8);
    let operation = begin(&cluster, deployment(None, Some(layout(1, 2)))).await.expect("accepted");
    let aborted = ended(&cluster, &operation).await;
    assert_eq!(aborted.phase, Phase::Done, "{aborted:?}");
    assert_eq!(serving(&cluster), [(1, 2)]);
    streams.finish().await;
    assert_eq!(cluster.stop(SOON).await, 0);
}

/// A layout that does not load is rolled back, with and without devices to spare.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layout_that_does_not_start_is_rolled_back() {
    for devices in [8, 2] {
        let cluster = start(2, layout(1, 1), devices).await;
        let streams = Streams::start(&cluster, 8);
        let before = cluster.overview().deployment();
        let wanted =
            Change::Deployment { replicas: Some(1), layout: Some(stillborn_layout()), force: true };
        if devices == 2 {
            // Four ranks would not fit: two of them do.
            let refused = begin(&cluster, wanted).await.expect_err("too few devices");
            assert!(matches!(refused, Refused::Devices(_)), "{refused}");
        } else {
            let failed = change(&cluster, wanted).await;
            let Phase::Failed { reason } = &failed.phase else { panic!("{failed:?}") };
            assert_eq!(reason, "replica-2: it cannot be loaded");
        }
        assert_eq!(cluster.overview().deployment(), before);
        assert_eq!(serving(&cluster), [(0, 1), (1, 1)]);
        streams.finish().await;
        assert_eq!(cluster.stop(SOON).await, 0);
    }
}

/// The same for the only replica, which has to leave its devices first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_replica_comes_back_when_its_successor_does_not_start() {
    let cluster = start(1, layout(1, 1), 4).await;
    let four = change(&cluster, deployment(None, Some(layout(4, 1)))).await;
    assert_eq!(four.phase, Phase::Done, "{four:?}");
    let streams = Streams::start(&cluster, 8);
    let failed = change(&cluster, deployment(None, Some(stillborn_layout()))).await;
    assert!(matches!(failed.phase, Phase::Failed { .. }), "{failed:?}");
    let ranks: Vec<_> = serving(&cluster).into_iter().map(|(_, ranks)| ranks).collect();
    assert_eq!(ranks, [4]);
    streams.finish().await;
    assert_eq!(cluster.stop(SOON).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_is_refused_with_the_numbers() {
    let cluster = start(1, layout(1, 1), 2).await;
    let refused = |wanted| async { begin(&cluster, wanted).await.expect_err("refused") };
    let text = refused(deployment(Some(3), None)).await.to_string();
    assert_eq!(
        text,
        "3 replicas of 1 ranks need 3 devices, there are 2: let nodes join (`playhouse node`), or \
         start `serve` with more --devices"
    );
    let zero = refused(deployment(Some(0), None)).await;
    assert!(matches!(zero, Refused::NeedsForce(_)), "{zero}");
    let heads = refused(deployment(None, Some(layout(3, 1)))).await;
    assert_eq!(heads, Refused::Invalid("3 heads cannot be had".to_owned()));
    let unknown = refused(Change::RestartReplica { replica: ReplicaId(7) }).await;
    assert_eq!(unknown, Refused::NoReplica(ReplicaId(7)));
    let node = refused(Change::DrainNode {
        node: "nobody".to_owned(),
        deadline: Duration::ZERO,
        force: false,
    });
    assert_eq!(node.await, Refused::NoNode("nobody".to_owned()));
    let last = refused(Change::DrainReplica {
        replica: ReplicaId(0),
        deadline: Duration::ZERO,
        force: false,
    });
    assert!(matches!(last.await, Refused::NeedsForce(_)), "G8");
    let dry = cluster.overview().change(deployment(Some(2), None), None, true).await;
    assert_eq!(dry, Ok(Answer::Planned(vec!["start replica-1 (tp 1 pp 1)".to_owned()])));
    assert_eq!(serving(&cluster).len(), 1, "a dry run changes nothing");
    assert_eq!(cluster.stop(SOON).await, 0);
}

/// One at a time, and the same key is the same operation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_wait_for_nobody_and_are_known_by_their_key() {
    // The drain cannot end: what it waits for is held.
    let brake = Brake::default();
    brake.hold_after(0);
    let brakes = brake.brakes();
    let held: RankFault = Arc::new(move |_, _| brakes.before_a_step());
    let cluster = start_with(2, layout(1, 1), 2, held).await;
    let streams = Streams::start(&cluster, 8);
    let overview = cluster.overview();
    let drain = Change::DrainReplica { replica: ReplicaId(0), deadline: SOON, force: false };
    let key = Some("once".to_owned());
    let first = overview.change(drain.clone(), key.clone(), false).await.expect("accepted");
    let again = overview.change(drain, key, false).await.expect("known");
    let (Answer::Accepted(first), Answer::Accepted(again)) = (first, again) else {
        panic!("no dry runs")
    };
    assert_eq!(first.id, again.id);
    let busy = begin(&cluster, deployment(Some(1), None)).await.expect_err("one at a time");
    assert_eq!(busy, Refused::Busy { running: first.id });
    overview.abort(first.id).expect("it is under way");
    let aborted = ended(&cluster, &first).await;
    assert_eq!(aborted.phase, Phase::Aborted, "{aborted:?}");
    assert_eq!(serving(&cluster).len(), 2, "an aborted drain is taken back");
    brake.release();
    streams.finish().await;
    assert_eq!(cluster.stop(SOON).await, 0);
}
