//! [`Network`]: hosts, and the faults that a test causes between them.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use playhouse_wire::PeerId;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep};

use super::end::{End, close};
use super::world::{Fault, Listener, Look, Pair, Side, World};
use crate::close::{CloseCode, PeerLost};
use crate::config::LinkConfig;

/// The maximum number of connections that wait to be greeted.
const CONNECTIONS_QUEUED_MAX: usize = 64;

/// A network in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct Network {
    world: Arc<World>,
}

/// A host of the network.
#[derive(Debug)]
pub(crate) struct Host {
    world: Arc<World>,
    id: PeerId,
    addr: SocketAddr,
    config: LinkConfig,
}

// === impl Network ===

impl Network {
    /// Returns a network without hosts and faults. The seed determines which packets are lost.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let world = Arc::<World>::default();
        world.lock().random = seed;
        Self { world }
    }

    /// Adds a host, and returns it with the queue of connections that come to it.
    pub(crate) fn host(&self, id: &PeerId, config: LinkConfig) -> (Host, mpsc::Receiver<End>) {
        let (connections, queue) = mpsc::channel(CONNECTIONS_QUEUED_MAX);
        let addr = self.world.change(|state| {
            let number = u16::try_from(state.addresses.len() + 1).unwrap_or(u16::MAX);
            let [high, low] = number.to_be_bytes();
            let new = SocketAddr::from(([10, 0, high, low], 7000));
            let addr = *state.addresses.entry(id.clone()).or_insert(new);
            let LinkConfig { idle, keep_alive, .. } = config;
            let listener = Listener { id: id.clone(), connections, idle, keep_alive };
            state.hosts.insert(addr, listener);
            addr
        });
        let host = Host { world: Arc::clone(&self.world), id: id.clone(), addr, config };
        (host, queue)
    }

    /// Loses this share of the packets from one host to the other: 0 is nothing, 1 is everything.
    pub fn drop(&self, from: &PeerId, to: &PeerId, share: f64) {
        self.fault(from, to, |fault| fault.share = share);
    }

    /// Delays all packets from one host to the other by this time.
    pub fn delay(&self, from: &PeerId, to: &PeerId, delay: Duration) {
        self.fault(from, to, |fault| fault.delay = delay);
    }

    /// Cuts the network between two hosts, in both directions.
    pub fn cut(&self, a: &PeerId, b: &PeerId) {
        self.fault(a, b, |fault| fault.cut = true);
        self.fault(b, a, |fault| fault.cut = true);
    }

    /// Cuts a host off: it has crashed, hangs, or its cable is out.
    pub fn isolate(&self, host: &PeerId) {
        let mut others: Vec<PeerId> =
            self.world.lock().hosts.values().map(|other| other.id.clone()).collect();
        others.retain(|other| other != host);
        for other in others {
            self.cut(host, &other);
        }
    }

    /// Ends the process of a host: no packet goes to or from it again, and it does not listen. A new
    /// endpoint of that name is another process.
    pub fn crash(&self, host: &PeerId) {
        self.world.change(|state| {
            state.suspended.remove(host);
            state.hosts.retain(|_, listener| listener.id != *host);
            let pairs = state.pairs.values_mut();
            let own = pairs.filter(|pair| pair.sides.iter().any(|side| side.id == *host));
            own.for_each(|pair| pair.crashed = true);
        });
    }

    /// Suspends the process of a host, as `SIGSTOP` does, as far as the network can tell (**TW-4**).
    pub fn suspend(&self, host: &PeerId) {
        self.world.change(|state| state.suspended.insert(host.clone()));
    }

    /// Resumes a suspended host.
    pub fn resume(&self, host: &PeerId) {
        self.world.change(|state| state.suspended.remove(host));
    }

    /// Removes all faults. Packets that were sent meanwhile arrive, if their connection still exists.
    pub fn recover(&self) {
        self.world.change(|state| state.faults.clear());
    }

    fn fault(&self, from: &PeerId, to: &PeerId, change: impl FnOnce(&mut Fault)) {
        let way = (from.clone(), to.clone());
        self.world.change(|state| change(state.faults.entry(way).or_default()));
    }
}

// === impl Host ===

impl Host {
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Connects to the host at `addr`, which takes one round trip.
    pub(crate) async fn connect(&self, addr: SocketAddr, to: &PeerId) -> Result<End, PeerLost> {
        self.world
            .wait(|state, _| match state.suspended.contains(&self.id) {
                true => Look::Again(None),
                false => Look::Done(()),
            })
            .await;
        let now = Instant::now();
        let trip = {
            let mut state = self.world.lock();
            let there = state.hosts.get(&addr).map(|host| host.id.clone());
            let there = there.filter(|_| !state.hosts[&addr].connections.is_closed());
            there.and_then(|id| {
                let (out, back) = (state.fault(&self.id, &id), state.fault(&id, &self.id));
                let lost = out.cut || back.cut;
                let lost = lost || state.loses(out.share) || state.loses(back.share);
                (!lost).then(|| (id, out.delay + back.delay))
            })
        };
        let Some((id, trip)) = trip else {
            sleep(self.config.idle).await;
            return Err(PeerLost::TimedOut);
        };
        sleep(trip).await;
        if id != *to {
            return Err(PeerLost::Certificate(format!("it is of {id}, not of {to}")));
        }
        let (near, far, connections) = self.pair(addr, &id, now).ok_or(PeerLost::TimedOut)?;
        connections.try_send(far).map_err(|_| PeerLost::Closed("too busy".to_owned()))?;
        Ok(near)
    }

    fn pair(
        &self,
        addr: SocketAddr,
        id: &PeerId,
        now: Instant,
    ) -> Option<(End, End, mpsc::Sender<End>)> {
        let mut state = self.world.lock();
        let host = state.hosts.get(&addr)?;
        let (connections, idle) = (host.connections.clone(), host.idle.min(self.config.idle));
        let beats = [self.config.keep_alive, host.keep_alive];
        let pair = state.next_pair;
        state.next_pair += 1;
        let side = |id: &PeerId| Side {
            id: id.clone(),
            lost: None,
            farewell: None,
            heard: now,
            opened: Vec::new(),
        };
        let sides = [side(&self.id), side(id)];
        let (streams, next_stream, crashed) = Default::default();
        state.pairs.insert(pair, Pair { sides, streams, next_stream, crashed });
        for (side, beat) in beats.into_iter().enumerate() {
            tokio::spawn(beat_until_lost(Arc::downgrade(&self.world), pair, side, beat, idle));
        }
        let end = |side, other| End { world: Arc::clone(&self.world), pair, side, other };
        let near = end(0, (id.clone(), addr));
        Some((near, end(1, (self.id.clone(), self.addr)), connections))
    }

    /// Sends a farewell on every connection of this host.
    pub(crate) fn close_all(&self, reason: &str) {
        self.world.change(|state| {
            let mine = |side: &Side| side.id == self.id;
            let ends: Vec<(u64, usize)> = state
                .pairs
                .iter()
                .filter_map(|(&pair, state)| {
                    state.sides.iter().position(mine).map(|side| (pair, side))
                })
                .collect();
            for (pair, side) in ends {
                let heard = CloseCode::heard(CloseCode::Bye.number().into(), reason.to_owned());
                close(state, pair, side, heard);
            }
        });
    }
}

/// Sends keep-alives from one side until it is lost, and loses the other side when it has received
/// nothing for the idle timeout (**TW-3**).
async fn beat_until_lost(
    world: Weak<World>,
    pair: u64,
    side: usize,
    beat: Duration,
    idle: Duration,
) {
    loop {
        sleep(beat).await;
        let Some(world) = world.upgrade() else { return };
        let done = world.change(|state| {
            if state.is_suspended(pair, side) {
                return false;
            }
            let now = Instant::now();
            let gone = state.lost(pair, side, now).is_ready();
            if !gone && state.is_open(pair, side) {
                let sides = &state.pairs[&pair].sides;
                let share = state.fault(&sides[side].id, &sides[1 - side].id).share;
                if !state.loses(share)
                    && let Some(pair) = state.pairs.get_mut(&pair)
                {
                    pair.sides[1 - side].heard = now;
                }
            }
            let Some(sides) = state.pairs.get_mut(&pair).map(|pair| &mut pair.sides) else {
                return true;
            };
            if !gone && now - sides[side].heard >= idle {
                sides[side].lost = Some(PeerLost::TimedOut);
            }
            let done = sides[side].lost.is_some();
            if sides.iter().all(|side| side.lost.is_some()) {
                // The bytes of a lost pair are not read again.
                state.pairs.entry(pair).and_modify(|pair| pair.streams.clear());
            }
            done
        });
        if done {
            return;
        }
    }
}
