//! A head and nodes that dial it, over QUIC or in memory.

use std::net::SocketAddr;
use std::time::Duration;

use playhouse_link::{
    Arrival, Arrivals, Authority, DialError, Endpoint, Identity, Inbox, Knock, LinkConfig, Network,
    Peer, PeerLost, TurnedAway,
};
use playhouse_types::Epoch;
use playhouse_wire::{NodeStats, PeerId, Role};

use crate::relay::Relay;

/// Longer than anything takes, on a machine that is busy with others.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) const EPOCH: Epoch = Epoch(7);

pub(crate) const STATS: NodeStats = NodeStats { processes: 1, memory_free: 2 };

/// The head, and the network around it.
pub(crate) struct Rig {
    pub(crate) world: World,
    /// Listens as long as the rig lives.
    pub(crate) _head: Endpoint,
    pub(crate) arrivals: Arrivals,
    /// Where nodes find the head.
    pub(crate) addr: SocketAddr,
}

pub(crate) enum World {
    Quic { authority: Box<Authority>, relay: Option<Relay> },
    Twin(Network),
}

/// One side of a connection.
pub(crate) type Side = (Peer, Inbox);

/// A node and the head, connected.
pub(crate) struct Linked {
    /// Listens; unused by most tests.
    pub(crate) node: Endpoint,
    /// The head, as the node sees it.
    pub(crate) to_head: Side,
    /// The node, as the head sees it.
    pub(crate) to_node: Side,
}

pub(crate) fn config() -> LinkConfig {
    LinkConfig::default()
}

pub(crate) fn head_id() -> PeerId {
    PeerId::new(Role::Head, "head").expect("a name")
}

pub(crate) fn node_id(name: &str) -> PeerId {
    PeerId::new(Role::Node, name).expect("a name")
}

/// Listens on loopback as `identity`.
pub(crate) fn bind(identity: &Identity, incarnation: u64) -> (Endpoint, Arrivals) {
    Endpoint::bind(SocketAddr::from(([127, 0, 0, 1], 0)), identity, incarnation, config())
        .expect("loopback has ports")
}

// === impl Rig ===

impl Rig {
    pub(crate) async fn quic() -> Self {
        let authority = Authority::new().expect("an authority");
        let identity = authority.identify(&head_id()).expect("an identity");
        let (head, arrivals) = bind(&identity, 1);
        let relay = Relay::start(head.local_addr().expect("an address")).await;
        let addr = relay.addr;
        Self {
            world: World::Quic { authority: Box::new(authority), relay: Some(relay) },
            _head: head,
            arrivals,
            addr,
        }
    }

    /// The packets are with the kernel alone, so that the test may block its runtime.
    pub(crate) fn quic_without_relay() -> Self {
        let authority = Authority::new().expect("an authority");
        let identity = authority.identify(&head_id()).expect("an identity");
        let (head, arrivals) = bind(&identity, 1);
        let addr = head.local_addr().expect("an address");
        Self {
            world: World::Quic { authority: Box::new(authority), relay: None },
            _head: head,
            arrivals,
            addr,
        }
    }

    pub(crate) async fn twin() -> Self {
        let network = Network::new(1);
        let (head, arrivals) = network.endpoint(&head_id(), 1, config());
        let addr = head.local_addr().expect("an address");
        Self { world: World::Twin(network), _head: head, arrivals, addr }
    }

    /// A node that has not dialled yet.
    pub(crate) fn node(&self, name: &str, incarnation: u64) -> Endpoint {
        match &self.world {
            World::Quic { authority, .. } => {
                let identity = authority.identify(&node_id(name)).expect("an identity");
                bind(&identity, incarnation).0
            }
            World::Twin(network) => network.endpoint(&node_id(name), incarnation, config()).0,
        }
    }

    /// A node called `name`, dialled and admitted.
    pub(crate) async fn link(&mut self, name: &str, incarnation: u64) -> Linked {
        let node = self.node(name, incarnation);
        let (to_head, to_node) = self.admit(&node).await;
        Linked { node, to_head, to_node }
    }

    /// Both sides of a new connection of `node`.
    pub(crate) async fn admit(&mut self, node: &Endpoint) -> (Side, Side) {
        let dialled = dial(node, self.addr, EPOCH);
        let admitted = async {
            let arrival = next_arrival(&mut self.arrivals).await;
            arrival.admit(EPOCH).await
        };
        let (dialled, admitted) = tokio::join!(dialled, admitted);
        (dialled.expect("the head answers"), admitted.expect("the node waits"))
    }

    /// Nothing passes between the head and its nodes.
    pub(crate) fn cut(&self) {
        match &self.world {
            World::Quic { relay, .. } => relay.as_ref().expect("a relay").cut(),
            World::Twin(network) => network.isolate(&head_id()),
        }
    }

    pub(crate) fn mend(&self) {
        match &self.world {
            World::Quic { relay, .. } => relay.as_ref().expect("a relay").mend(),
            World::Twin(network) => network.recover(),
        }
    }
}

pub(crate) async fn next_arrival(arrivals: &mut Arrivals) -> Arrival {
    match soon(arrivals.next()).await.expect("the endpoint lives") {
        Knock::Peer(arrival) => *arrival,
        Knock::TurnedAway(turned) => panic!("{turned}"),
    }
}

pub(crate) async fn next_turned_away(arrivals: &mut Arrivals) -> TurnedAway {
    match soon(arrivals.next()).await.expect("the endpoint lives") {
        Knock::Peer(arrival) => panic!("{} came in", arrival.peer()),
        Knock::TurnedAway(turned) => turned,
    }
}

/// Dials the head as `node`.
pub(crate) async fn dial(
    node: &Endpoint,
    addr: SocketAddr,
    epoch: Epoch,
) -> Result<Side, DialError> {
    node.dial(addr, &head_id(), epoch).await
}

/// Waits until the peer is lost.
pub(crate) async fn lost(peer: &Peer) -> PeerLost {
    soon(peer.until_lost()).await
}

/// Fails when a wait takes too long.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(SOON, future).await.expect("it happens soon")
}

/// One test over QUIC and one on the twin, of the same body.
macro_rules! both {
    ($($name:ident)*) => {
        mod quic {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(crate::rig::Rig::quic().await).await;
            })*
        }
        mod twin {
            $(#[tokio::test(start_paused = true)]
            async fn $name() {
                super::$name(crate::rig::Rig::twin().await).await;
            })*
        }
    };
}
pub(crate) use both;
