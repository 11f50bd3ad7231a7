//! The connected peers, with at most one connection each (**LK-9**).

use std::collections::HashMap;
use std::net::SocketAddr;

use parking_lot::{Mutex, MutexGuard};
use playhouse_wire::PeerId;

use crate::connection::Connection;

/// The maximum number of connected peers.
pub(crate) const PEERS_MAX: u32 = 1024;

#[derive(Debug, Default)]
pub(crate) struct Roster {
    live: Mutex<HashMap<PeerId, Live>>,
}

/// The connection of a peer.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    /// The start of the peer's process.
    pub(crate) incarnation: u64,
    /// The address from which the peer connects.
    pub(crate) from: SocketAddr,
    pub(crate) connection: Connection,
}

/// The reason why a peer is not entered.
#[derive(Debug)]
pub(crate) enum NotEntered {
    /// Another process of the same name is connected, as far as this side knows.
    Taken(Box<Live>),
    /// [`PEERS_MAX`] peers are connected.
    Full,
}

// === impl Roster ===

impl Roster {
    /// Enters a peer. Returns the connection that is replaced, which belongs to the same start of the
    /// peer: a process dials again only after it has lost its connection, and this side may not have
    /// detected that yet.
    pub(crate) fn enter(
        &self,
        peer: &PeerId,
        entry: Live,
    ) -> Result<Option<Connection>, NotEntered> {
        let mut live = self.live();
        match live.get(peer) {
            Some(other) if other.incarnation != entry.incarnation => {
                return Err(NotEntered::Taken(Box::new(other.clone())));
            }
            None if live.len() >= PEERS_MAX as usize => return Err(NotEntered::Full),
            _ => {}
        }
        Ok(live.insert(peer.clone(), entry).map(|replaced| replaced.connection))
    }

    /// Removes a peer, unless another connection has taken its place.
    pub(crate) fn leave(&self, peer: &PeerId, connection: &Connection) {
        let mut live = self.live();
        if live.get(peer).is_some_and(|entry| entry.connection.same(connection)) {
            live.remove(peer);
        }
    }

    pub(crate) fn has(&self, peer: &PeerId) -> bool {
        self.live().contains_key(peer)
    }

    fn live(&self) -> MutexGuard<'_, HashMap<PeerId, Live>> {
        self.live.lock()
    }
}
