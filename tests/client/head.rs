//! A real admin API over a cluster that a test makes up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use playhouse_admin::{AdminConfig, Operations, serve};
use playhouse_cluster::{
    Answer, Begun, Change, ClusterStatus, DeploymentStatus, Desired, DeviceStatus, Ledger, NoToken,
    NodeStatus, NotRevoked, Operation, OperationId, Progress, Refused, ReplicaState, ReplicaStatus,
    ShardState, ShardStatus, Share, StageStatus, Whereabouts,
};
use playhouse_types::{Epoch, ParallelSpec, ReplicaId};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::ports::port;

pub(crate) const TOKEN: &str = "admin-secret";

/// A node's name that would clear a terminal.
pub(crate) const EVIL: &str = "node\u{1b}[2J";

/// An admin API that listens until it is dropped.
pub(crate) struct Head {
    pub(crate) address: SocketAddr,
    pub(crate) ledger: Arc<Ledger>,
    cluster: Arc<Mutex<ClusterStatus>>,
    _runtime: Runtime,
}

/// What a test does with an operation that has begun.
pub(crate) type CarryOut = fn(&Ledger, OperationId);

#[derive(Clone)]
struct Script {
    cluster: Arc<Mutex<ClusterStatus>>,
    ledger: Arc<Ledger>,
    carry_out: CarryOut,
}

// === impl Head ===

impl Head {
    /// One replica of one rank, in this state.
    pub(crate) fn start(state: ReplicaState) -> Self {
        Self::at(free(), state)
    }

    pub(crate) fn at(address: SocketAddr, state: ReplicaState) -> Self {
        let layout = ParallelSpec { tensor: 1, pipeline: 1, ..ParallelSpec::default() };
        let ledger = Ledger::in_memory();
        ledger.set_desired(Desired { replicas: 1, layout }).expect("there is no journal");
        Self::with(address, state, Arc::new(ledger), |_, _| {})
    }

    /// One that carries operations out like this.
    pub(crate) fn doing(carry_out: CarryOut) -> Self {
        let layout = ParallelSpec { tensor: 1, pipeline: 1, ..ParallelSpec::default() };
        let ledger = Ledger::in_memory();
        ledger.set_desired(Desired { replicas: 1, layout }).expect("there is no journal");
        Self::with(free(), ReplicaState::Serving, Arc::new(ledger), carry_out)
    }

    /// One that knows what another knew.
    pub(crate) fn with(
        address: SocketAddr,
        state: ReplicaState,
        ledger: Arc<Ledger>,
        carry_out: CarryOut,
    ) -> Self {
        let runtime = Runtime::new().expect("a runtime starts");
        let listener = runtime.block_on(TcpListener::bind(address)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let cluster = Arc::new(Mutex::new(cluster(state)));
        let config = AdminConfig { token: TOKEN.to_owned(), audit: None, tls: None };
        let (shown, kept) = (Arc::clone(&cluster), Arc::clone(&ledger));
        let script = Script { cluster: shown, ledger: kept, carry_out };
        runtime.spawn(serve(listener, config, script, std::future::pending()));
        Self { address, ledger, cluster, _runtime: runtime }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut ClusterStatus)) {
        change(&mut self.cluster.lock());
    }

    pub(crate) fn status(&self) -> ClusterStatus {
        self.cluster.lock().clone()
    }
}

/// An address that stays this head's while it is away.
fn free() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port()))
}

impl Operations for Script {
    fn status(&self) -> ClusterStatus {
        self.cluster.lock().clone()
    }

    fn create_token(&self, ttl: Duration) -> Result<String, NoToken> {
        Ok(format!("token-for-{}", ttl.as_secs()))
    }

    fn revoke_node(&self, _: &str) -> Result<bool, NotRevoked> {
        Err(NotRevoked::NotListening)
    }

    async fn deployment(&self) -> DeploymentStatus {
        DeploymentStatus::from(&*self.ledger)
    }

    /// There is a replica 0 and a node `rack-1`; nothing else is checked.
    async fn change(
        &self,
        change: Change,
        key: Option<String>,
        dry_run: bool,
    ) -> Result<Answer, Refused> {
        match &change {
            Change::Deployment { replicas: Some(0), force: false, .. } => {
                return Err(Refused::NeedsForce("nothing would serve".to_owned()));
            }
            Change::RestartReplica { replica } if replica.0 > 0 => {
                return Err(Refused::NoReplica(*replica));
            }
            Change::DrainNode { node, .. } if node != "rack-1" => {
                return Err(Refused::NoNode(node.clone()));
            }
            _ => {}
        }
        let desired = self.ledger.desired().map(|desired| desired.replicas);
        if dry_run
            && matches!(change, Change::Deployment { replicas, layout: None, .. } if replicas == desired)
        {
            return Ok(Answer::Planned(Vec::new()));
        }
        if dry_run {
            return Ok(Answer::Planned(vec!["start replica-1".to_owned(), EVIL.to_owned()]));
        }
        let aims = (self.ledger.desired().unwrap_or_default(), self.ledger.drained());
        let begun = self.ledger.begin(change, key, aims, SystemTime::now())?;
        if let Begun::New(operation) = &begun {
            (self.carry_out)(&self.ledger, operation.id);
        }
        match begun {
            Begun::New(operation) | Begun::Known(operation) => {
                Ok(Answer::Accepted(Box::new(operation)))
            }
        }
    }

    async fn operations(&self) -> Vec<Operation> {
        self.ledger.operations()
    }

    async fn operation(&self, id: OperationId) -> Option<watch::Receiver<Operation>> {
        self.ledger.watch(id)
    }

    async fn abort(&self, id: OperationId) -> Result<Operation, Refused> {
        self.ledger.abort(id)
    }
}

fn cluster(state: ReplicaState) -> ClusterStatus {
    let share = Share { layers: 0..24, query_heads: 14, kv_heads: 2, weight_bytes: 1 << 30 };
    let place = Whereabouts { node: EVIL.to_owned(), device: "cpu:0".to_owned(), pid: 4242 };
    let shard = ShardStatus { state: ShardState::Ready, whereabouts: Some(place), share };
    let replica = ReplicaStatus {
        id: ReplicaId(0),
        state,
        waits_for: None,
        progress: Progress::default(),
        epoch: Epoch(1),
        running: 1,
        waiting: 2,
        kv_blocks_held: 16,
        kv_blocks: 64,
        prefix_queried_tokens: 100,
        prefix_hit_tokens: 45,
        prefill_tokens: 55,
        generated_tokens: 1000,
        stages: vec![StageStatus { layers: 0..24, shards: vec![shard] }],
    };
    let device = DeviceStatus { name: "cpu:0".to_owned(), memory_bytes: 1 << 34, threads: 2 };
    let node = NodeStatus {
        name: EVIL.to_owned(),
        address: Some("10.0.0.2:4433".to_owned()),
        connected: true,
        drained: false,
        devices: vec![device],
    };
    ClusterStatus { nodes: vec![node], replicas: vec![replica], in_flight: 3, draining: false }
}
