//! A scripted cluster, and requests to its API.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use playhouse_admin::{AdminConfig, AuditLog, Operations, serve, view};
use playhouse_cluster::{
    Answer, Begun, Change, ClusterStatus, DeploymentStatus, Desired, DeviceStatus, Ledger, NoToken,
    NodeStatus, NotRevoked, Operation, OperationId, Phase, Progress, Refused, ReplicaState,
    ReplicaStatus, ShardState, ShardStatus, Share, StageStatus, Whereabouts,
};
use playhouse_types::{Epoch, ParallelSpec, ReplicaId};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub(crate) const TOKEN: &str = "correct horse";

pub(crate) type CreateToken = fn(Duration) -> Result<String, NoToken>;

/// The steps that a dry run returns.
pub(crate) const STEPS: [&str; 2] = ["start replica-1", "serve"];

/// A scripted cluster with a real ledger, in which one operation is under way. It begins every change
/// that the ledger allows, except those that `refusal` refuses, and carries none out.
#[derive(Clone)]
pub(crate) struct Script {
    pub(crate) status: Arc<ClusterStatus>,
    pub(crate) create_token: CreateToken,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) refusal: fn(&Change) -> Option<Refused>,
}

impl Script {
    pub(crate) fn new() -> Self {
        let script = Self::idle();
        let change = Change::UndrainNode { node: "node".to_owned() };
        script.begin(change, None).expect("nothing else is under way");
        script.ledger.step(OperationId(1), Phase::Prepare, "begun");
        script
    }

    fn begin(&self, change: Change, key: Option<String>) -> Result<Begun, Refused> {
        let aims = (self.ledger.desired().unwrap_or_default(), self.ledger.drained());
        self.ledger.begin(change, key, aims, SystemTime::now())
    }

    /// Without an operation.
    pub(crate) fn idle() -> Self {
        let ledger = Arc::new(Ledger::in_memory());
        let layout = ParallelSpec {
            tensor: 2,
            pipeline: 2,
            pipeline_partition: Some(vec![10, 14]),
            ..ParallelSpec::default()
        };
        ledger.set_desired(Desired { replicas: 3, layout }).expect("there is no journal");
        Self {
            status: Arc::new(cluster()),
            create_token: |ttl| Ok(format!("token for {} s", ttl.as_secs())),
            ledger,
            refusal: |_| None,
        }
    }

    /// Serves it on a port of its own until the runtime ends.
    pub(crate) async fn serve(&self, audit: Option<Arc<dyn AuditLog>>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let config = AdminConfig { token: TOKEN.to_owned(), audit, tls: None };
        tokio::spawn(serve(listener, config, self.clone(), std::future::pending()));
        address
    }
}

impl Operations for Script {
    fn status(&self) -> ClusterStatus {
        (*self.status).clone()
    }

    fn create_token(&self, ttl: Duration) -> Result<String, NoToken> {
        (self.create_token)(ttl)
    }

    fn revoke_node(&self, node: &str) -> Result<bool, NotRevoked> {
        match node {
            "full-disk" => Err(NotRevoked::NotKept("no space left".to_owned())),
            "bad name" => Err(NotRevoked::BadName("no such name".to_owned())),
            "alone" => Err(NotRevoked::NotListening),
            name => Ok(name == "node"),
        }
    }

    async fn deployment(&self) -> DeploymentStatus {
        DeploymentStatus::from(&*self.ledger)
    }

    async fn change(
        &self,
        change: Change,
        key: Option<String>,
        dry_run: bool,
    ) -> Result<Answer, Refused> {
        if let Some(refused) = (self.refusal)(&change) {
            return Err(refused);
        }
        let desired = self.ledger.desired().map(|desired| desired.replicas);
        if dry_run
            && matches!(change, Change::Deployment { replicas, layout: None, .. } if replicas == desired)
        {
            return Ok(Answer::Planned(Vec::new()));
        }
        if dry_run {
            return Ok(Answer::Planned(STEPS.map(str::to_owned).to_vec()));
        }
        match self.begin(change, key)? {
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

/// Every change there is.
pub(crate) fn changes() -> Vec<Change> {
    let (replica, node) = (ReplicaId(1), || "node".to_owned());
    let (deadline, force) = (Duration::from_secs(30), true);
    let layout = ParallelSpec {
        tensor: 1,
        pipeline: 2,
        pipeline_partition: Some(vec![1, 2]),
        ..ParallelSpec::default()
    };
    vec![
        Change::Deployment { replicas: None, layout: Some(layout), force },
        Change::Deployment { replicas: Some(0), layout: None, force },
        Change::DrainReplica { replica, deadline, force },
        Change::RestartReplica { replica },
        Change::RemoveReplica { replica, deadline, force },
        Change::DrainNode { node: node(), deadline, force },
        Change::UndrainNode { node: node() },
        Change::RemoveNode { node: node() },
    ]
}

/// Every state once, every optional field both ways.
pub(crate) fn cluster() -> ClusterStatus {
    let shard = |state| {
        let place = || Whereabouts { node: "a\u{1b}[2J".into(), device: "cpu:0".into(), pid: 7 };
        let share = Share { layers: 0..2, query_heads: 4, kv_heads: 2, weight_bytes: 1 << 40 };
        ShardStatus { state, whereabouts: (state != ShardState::Starting).then(place), share }
    };
    let loading = ShardState::Loading { bytes: 1, of: 4 };
    let states = [ShardState::Starting, loading, ShardState::Ready, ShardState::Lost];
    let stage = StageStatus { layers: 0..2, shards: states.map(shard).to_vec() };
    let reason = || "it \"died\"\n".to_owned();
    let states = [
        ReplicaState::Starting,
        ReplicaState::Serving,
        ReplicaState::Restarting { reason: reason() },
        ReplicaState::Failed { reason: reason() },
        ReplicaState::Draining,
        ReplicaState::Drained,
        ReplicaState::Stopped,
    ];
    let replica = |(id, state)| ReplicaStatus {
        id: ReplicaId(id),
        state,
        waits_for: None,
        progress: Progress::default(),
        epoch: Epoch(3),
        running: 2,
        waiting: 1,
        kv_blocks_held: 10,
        kv_blocks: 64,
        prefix_queried_tokens: 100,
        prefix_hit_tokens: 45,
        prefill_tokens: 55,
        generated_tokens: u64::MAX,
        stages: vec![stage.clone()],
    };
    let node = |name: &str, address: Option<&str>| NodeStatus {
        name: name.to_owned(),
        address: address.map(ToOwned::to_owned),
        connected: address.is_none(),
        drained: address.is_some(),
        devices: vec![DeviceStatus { name: "cpu:0".into(), memory_bytes: 1 << 34, threads: 2 }],
    };
    ClusterStatus {
        nodes: vec![node("head", None), node("a\u{1b}[2J", Some("10.0.0.2:4433"))],
        replicas: (0..).zip(states).map(replica).collect(),
        in_flight: 3,
        draining: true,
    }
}

/// Sends bytes; the whole answer.
pub(crate) async fn exchange(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    // It may have enough before it has everything.
    drop(stream.write_all(request).await);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("it answers");
    String::from_utf8(answer).expect("answers are UTF-8")
}

/// Sends bytes; the status and body of the answer.
pub(crate) async fn raw(address: SocketAddr, request: &[u8]) -> (u16, String) {
    let answer = exchange(address, request).await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a header block");
    (head[9..12].parse().expect("a status"), body.to_owned())
}

/// The bytes of a request with the token. `headers` each end with a line feed.
pub(crate) fn request(line: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    let head = format!("authorization: Bearer {TOKEN}\r\ncontent-length: {length}\r\n{headers}");
    format!("{line} HTTP/1.1\r\nhost: localhost\r\n{head}\r\n{body}")
}

pub(crate) async fn ask(address: SocketAddr, line: &str, body: &str) -> (u16, Value) {
    let (status, body) = raw(address, request(line, "", body).as_bytes()).await;
    (status, serde_json::from_str(&body).unwrap_or_else(|why| panic!("{why}: {body}")))
}

pub(crate) fn error(value: Value) -> view::ErrorDetail {
    serde_json::from_value::<view::ErrorBody>(value).expect("ADM-2: the one shape").error
}
