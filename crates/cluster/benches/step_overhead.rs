//! What it costs to tell the ranks of a replica what to do: a plan for each, over QUIC, to processes
//! whose engines do nothing.
//!
//! `cargo bench -p playhouse-cluster --bench step_overhead` prints a table. The control plane, the
//! links and the rank processes are the real ones. The second process is this program again; its
//! engine answers each plan with the time at which it got it, by the clock of the whole machine.
#![allow(clippy::print_stdout, reason = "the table is the product")]

use std::env;
use std::fs;
use std::future::ready;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use playhouse_cluster::{
    Child, ControlConfig, ControlPlane, Device, ExpectedWeights, Listener, Loading, MemoryNeeds,
    RankEngine, RankEvent, RankHost, RankPort, ReadProgress, RemoteConfig, StartedRank, Way,
    processes, run_rank,
};
use playhouse_engine::{EngineEvent, StepPort};
use playhouse_layout::{RankId, RankMap};
use playhouse_link::{Authority, Identity, Revocations};
use playhouse_types::{
    Appended, BlockSize, CheckpointDigest, Epoch, Logits, ParallelSpec, ReplicaId, Run, RunOutcome,
    Sampled, Slot, StepId, StepOutcome, StepPlan, TokenId,
};
use playhouse_wire::{Dtype, Join, Load, Loaded, Member};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// Rank processes of each row.
const WORLDS: [u32; 4] = [1, 2, 4, 8];
/// Sequences that a plan decodes.
const RUNS: u32 = 16;
const WARM_UP_STEPS: usize = 200;
const STEPS: usize = 2000;
/// About what the ranks compute between two steps of a small model.
const PAUSE: Duration = Duration::from_millis(1);
const EPOCH: Epoch = Epoch(1);

fn main() {
    let args: Vec<String> = env::args().collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[1..] {
        ["shard", "--head", head] => shard(head.parse().expect("an address")),
        _ => {
            let runtime = Builder::new_multi_thread().enable_all().build().expect("a runtime");
            // On a worker, as a replica is.
            runtime.block_on(runtime.spawn(measure())).expect("no panic");
        }
    }
}

/// Nanoseconds on a clock that all processes of the machine read alike.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec)
        .expect("after the start of the machine")
}

// === the rank process ===

/// An engine that says when it got a plan, as the number of the step it has done.
#[derive(Default)]
struct Clockwork {
    /// It is the rank that has the outcomes.
    samples: AtomicBool,
}

fn shard(head: SocketAddr) {
    let mut stdin = io::stdin().lock();
    let mut length = [0; 4];
    stdin.read_exact(&mut length).expect("the length of an identity");
    let mut identity = vec![0; u32::from_le_bytes(length) as usize];
    stdin.read_exact(&mut identity).expect("an identity");
    drop(stdin);
    let identity = Identity::from_bytes(&identity).expect("an identity");
    thread::spawn(|| {
        // Its end is the end of our parent.
        drop(io::copy(&mut io::stdin().lock(), &mut io::sink()));
        std::process::exit(0);
    });
    let mut runtime = Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).enable_all().build().expect("a runtime");
    let served = runtime.block_on(async {
        let way = Way::new(head.into(), head, &identity).expect("a socket");
        run_rank(way, Arc::new(Clockwork::default())).await
    });
    served.expect("the head ends us");
}

impl RankHost for Clockwork {
    fn load(self: Arc<Self>, load: Load, _: ReadProgress) -> Loading {
        self.samples.store(load.share.attention.at == 0, Ordering::Relaxed);
        // Nobody meets there.
        let member = |kind| (kind, Member { machine: String::new(), address: String::new() });
        let members = load.groups.iter().copied().map(member).collect();
        let checkpoint = CheckpointDigest::default();
        Box::pin(ready(Ok(Loaded { members, checkpoint })))
    }

    fn start(&self, join: Join, sink: Box<dyn Fn(EngineEvent) + Send>) -> io::Result<RankEngine> {
        let (port, plans) = StepPort::bounded();
        let (epoch, samples) = (join.epoch, self.samples.load(Ordering::Relaxed));
        let thread = thread::Builder::new().name("engine".into()).spawn(move || {
            sink(EngineEvent::Ready { epoch });
            for plan in plans {
                let step = StepId(now());
                sink(match samples {
                    true => EngineEvent::Step(outcome(step, &plan)),
                    false => EngineEvent::Followed { epoch, step },
                });
            }
        })?;
        Ok(RankEngine::of_thread(port, thread, || {}))
    }
}

/// A token for each run.
fn outcome(step: StepId, plan: &StepPlan) -> StepOutcome {
    let sampled = |run: &Run| RunOutcome {
        slot: run.slot,
        sampled: vec![Sampled { token: run.start, logprobs: None }],
        prompt_logprobs: Vec::new(),
    };
    StepOutcome { epoch: plan.epoch, step, runs: plan.runs.iter().map(sampled).collect() }
}

// === the head ===

/// The ranks of a replica, ready for plans.
struct Ranks {
    started: Vec<StartedRank>,
    heard: UnboundedReceiver<Heard>,
    steps: u64,
}

enum Heard {
    Ready,
    /// A rank got a plan.
    Got {
        at: u64,
        /// When we heard of it, if it has the outcome.
        outcome: Option<u64>,
    },
    Failed(String),
}

/// Nanoseconds since the first plan of a step was handed over.
struct Step {
    first_start: u64,
    last_start: u64,
    outcome: u64,
}

async fn measure() {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!(
        "{}, {} cores; load average {}; plans for {RUNS} decodes, {STEPS} steps; microseconds\n",
        cpu.map_or("unknown CPU", |(_, name)| name),
        thread::available_parallelism().map_or(0, usize::from),
        load.split(' ').next().unwrap_or("unknown"),
    );
    println!(
        "{:<9} {:<16} {:<22} {:>8} {:>8} {:>8}",
        "ranks", "between steps", "", "p50", "p90", "p99"
    );
    for world in WORLDS {
        let mut ranks = Ranks::start(world).await;
        for (name, pause) in [("1 ms", Some(PAUSE)), ("nothing", None)] {
            ranks.steps(WARM_UP_STEPS, pause).await;
            let steps = ranks.steps(STEPS, pause).await;
            let row = |what, time: fn(&Step) -> u64| {
                let mut times: Vec<u64> = steps.iter().map(time).collect();
                times.sort_unstable();
                let at = |percent| times[(times.len() - 1) * percent / 100] as f64 / 1e3;
                let [p50, p90, p99] = [50, 90, 99].map(at);
                println!("{world:<9} {name:<16} {what:<22} {p50:>8.1} {p90:>8.1} {p99:>8.1}");
            };
            row("first rank has started", |step| step.first_start);
            row("all ranks have started", |step| step.last_start);
            row("outcome is back", |step| step.outcome);
        }
        ranks.stop().await;
    }
    println!("\nwanted: all 8 ranks have started, p50 < 150");
}

// === impl Ranks ===

impl Ranks {
    /// Starts the processes, and waits for them.
    async fn start(world: u32) -> Self {
        let authority = Authority::new().expect("an authority");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let control = ControlPlane::start(ControlConfig {
            listener: Listener::bind(address, &authority).expect("a free port"),
            authority,
            children: Child::starter(env::current_exe().expect("our own file")),
            devices: vec![Device { memory_bytes: 1 << 30, threads: 1 }; world as usize],
            admits_nodes: false,
            revocations: Revocations::default(),
            keep_revocations: Box::new(|_| Ok(())),
            tell_renewal: Arc::new(|_| {}),
        });
        let parallel = ParallelSpec { tensor: world, ..ParallelSpec::default() };
        let map = Arc::new(RankMap::of_layers(&parallel, 1));
        let load = |at| Load {
            model: None,
            dtype: Dtype::Auto,
            share: map.share(&at),
            groups: map.group_kinds(),
            threads: 1,
        };
        let config = RemoteConfig {
            loads: map.ranks().map(load).collect(),
            map: Arc::clone(&map),
            memory: MemoryNeeds::none(RUNS),
            weights: ExpectedWeights { folder: None, digest: CheckpointDigest::default() },
            block_size: BlockSize::CPU,
            max_num_seqs: RUNS,
        };
        let starter = processes(config, control);
        let (tell, heard) = unbounded_channel();
        let start = |index| {
            let tell = tell.clone();
            let sink = Arc::new(move |event| drop(Heard::of(event).map(|heard| tell.send(heard))));
            let rank = RankId { replica: ReplicaId(0), index };
            starter(EPOCH, rank, sink).expect("a rank starts")
        };
        let started = (0..world).map(start).collect();
        let mut ranks = Self { started, heard, steps: 0 };
        for _ in 0..world {
            assert!(matches!(ranks.heard().await, Heard::Ready));
        }
        ranks
    }

    async fn steps(&mut self, count: usize, pause: Option<Duration>) -> Vec<Step> {
        let mut steps = Vec::with_capacity(count);
        for _ in 0..count {
            steps.push(self.step().await);
            if let Some(pause) = pause {
                tokio::time::sleep(pause).await;
            }
        }
        steps
    }

    /// Ends when all ranks have said that they have done it.
    async fn step(&mut self) -> Step {
        let plan = plan(self.steps);
        self.steps += 1;
        let sent = now();
        for rank in &self.started {
            let RankPort::Remote(port) = &rank.port else { panic!("a rank of this process") };
            port.try_send(plan.clone()).expect("one step at a time");
        }
        let mut step = Step { first_start: u64::MAX, last_start: 0, outcome: 0 };
        for _ in 0..self.started.len() {
            let Heard::Got { at, outcome } = self.heard().await else {
                panic!("a rank is ready again");
            };
            step.first_start = step.first_start.min(at - sent);
            step.last_start = step.last_start.max(at - sent);
            step.outcome = outcome.map_or(step.outcome, |outcome| outcome - sent);
        }
        step
    }

    async fn heard(&mut self) -> Heard {
        match self.heard.recv().await.expect("a rank says when it ends") {
            Heard::Failed(why) => panic!("a rank is gone: {why}"),
            heard => heard,
        }
    }

    async fn stop(self) {
        for StartedRank { port, ended, .. } in self.started {
            drop(port);
            ended.await;
        }
    }
}

// === impl Heard ===

impl Heard {
    fn of(event: RankEvent) -> Option<Self> {
        match event {
            RankEvent::Ready => Some(Self::Ready),
            RankEvent::Step(StepOutcome { step: StepId(at), .. }) => {
                Some(Self::Got { at, outcome: Some(now()) })
            }
            RankEvent::Followed(StepId(at)) => Some(Self::Got { at, outcome: None }),
            RankEvent::Lost(loss) => Some(Self::Failed(loss.reason)),
            RankEvent::Waits(_)
            | RankEvent::Placed(_)
            | RankEvent::Loading { .. }
            | RankEvent::Cache { .. } => None,
        }
    }
}

/// Each of the sequences gets a token.
fn plan(step: u64) -> StepPlan {
    let run = |slot| Run {
        slot: Slot(slot),
        start: 512,
        tokens: 1,
        appended: Appended::Token(slot as TokenId),
        new_blocks: Vec::new(),
        logits: Logits::Last,
    };
    let runs = (0..RUNS).map(run).collect();
    StepPlan { epoch: EPOCH, step: StepId(step), released: vec![], admitted: vec![], runs }
}
