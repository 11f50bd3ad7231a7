//! A real admin API over a cluster that a test makes up.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use playhouse_admin::{AdminConfig, Operations, serve};
use playhouse_cluster::{
    ClusterStatus, DeviceStatus, NoToken, NodeStatus, ReplicaState, ReplicaStatus, ShardState,
    ShardStatus, Share, StageStatus, Whereabouts,
};
use playhouse_types::{Epoch, ReplicaId};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

pub(crate) const TOKEN: &str = "admin-secret";

/// A node's name that would clear a terminal.
pub(crate) const EVIL: &str = "node\u{1b}[2J";

/// An admin API that listens until it is dropped.
pub(crate) struct Head {
    pub(crate) address: SocketAddr,
    cluster: Arc<Mutex<ClusterStatus>>,
    _runtime: Runtime,
}

#[derive(Clone)]
struct Script(Arc<Mutex<ClusterStatus>>);

// === impl Head ===

impl Head {
    /// One replica of one rank, in this state.
    pub(crate) fn start(state: ReplicaState) -> Self {
        Self::at("127.0.0.1:0".parse().expect("an address"), state)
    }

    pub(crate) fn at(address: SocketAddr, state: ReplicaState) -> Self {
        let runtime = Runtime::new().expect("a runtime starts");
        let listener = runtime.block_on(TcpListener::bind(address)).expect("a free port");
        let address = listener.local_addr().expect("bound");
        let cluster = Arc::new(Mutex::new(cluster(state)));
        let config = AdminConfig { token: TOKEN.to_owned() };
        let script = Script(Arc::clone(&cluster));
        runtime.spawn(serve(listener, config, script, std::future::pending()));
        Self { address, cluster, _runtime: runtime }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut ClusterStatus)) {
        change(&mut self.cluster.lock().expect("no test panics inside"));
    }

    pub(crate) fn status(&self) -> ClusterStatus {
        self.cluster.lock().expect("no test panics inside").clone()
    }
}

impl Operations for Script {
    fn status(&self) -> ClusterStatus {
        self.0.lock().expect("no test panics inside").clone()
    }

    fn create_token(&self, ttl: Duration) -> Result<String, NoToken> {
        Ok(format!("token-for-{}", ttl.as_secs()))
    }
}

fn cluster(state: ReplicaState) -> ClusterStatus {
    let share = Share { layers: 0..24, query_heads: 14, kv_heads: 2, weight_bytes: 1 << 30 };
    let place = Whereabouts { node: EVIL.to_owned(), device: "cpu:0".to_owned(), pid: 4242 };
    let shard = ShardStatus { state: ShardState::Ready, whereabouts: Some(place), share };
    let replica = ReplicaStatus {
        id: ReplicaId(0),
        state,
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
        devices: vec![device],
    };
    ClusterStatus { nodes: vec![node], replicas: vec![replica], in_flight: 3, draining: false }
}
