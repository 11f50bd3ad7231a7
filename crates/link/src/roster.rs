//! Which peers are connected here: at most one connection each (**LK-9**).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use playhouse_wire::{PeerId, Refusal};

use crate::connection::Connection;

/// Peers that may be connected at once.
const PEERS_MAX: u32 = 1024;

#[derive(Debug, Default)]
pub(crate) struct Roster {
    live: Mutex<HashMap<PeerId, Live>>,
}

#[derive(Debug)]
struct Live {
    incarnation: u64,
    connection: Connection,
}

// === impl Roster ===

impl Roster {
    /// Enters a peer. Returns the connection it replaces: that of an earlier start, or of the same
    /// one, whose loss this side has not noticed yet.
    pub(crate) fn enter(
        &self,
        peer: &PeerId,
        incarnation: u64,
        connection: &Connection,
    ) -> Result<Option<Connection>, Refusal> {
        let mut live = self.live();
        match live.get(peer) {
            Some(older) if older.incarnation > incarnation => {
                let (name, live) = (peer.to_string(), older.incarnation);
                return Err(Refusal::DuplicateName { name, live, given: incarnation });
            }
            None if live.len() >= PEERS_MAX as usize => return Err(Refusal::Full(PEERS_MAX)),
            _ => {}
        }
        let entry = Live { incarnation, connection: connection.clone() };
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
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
