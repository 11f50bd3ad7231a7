//! Bounds on concurrent handshakes with unknown clients, in total and by address (**LK-11**).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

/// The maximum number of concurrent handshakes. More are refused before they cost anything.
const HANDSHAKES_MAX: usize = 64;

/// The maximum number of them for one address: a machine that starts all its ranks at once needs many.
const OF_ADDRESS_MAX: usize = 48;

/// The number of handshakes above which an address must be validated first.
const UNPROVED_MAX: usize = 16;

/// The concurrent handshakes, by address.
#[derive(Debug, Default)]
pub(crate) struct Handshakes(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// The decision about an incoming connection.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The handshake begins.
    Begin(Handshake),
    /// The address must be validated first, which costs us nothing.
    Prove,
    /// There are too many handshakes.
    Refuse,
}

/// A permit for a handshake. Dropping a `Handshake` frees it for another.
#[derive(Debug)]
pub(crate) struct Handshake {
    handshakes: Handshakes,
    address: IpAddr,
}

// === impl Handshakes ===

impl Handshakes {
    /// Returns whether a handshake with `address` may begin. `proved` says whether the address is
    /// validated.
    pub(crate) fn begin(&self, address: IpAddr, proved: bool) -> Verdict {
        let mut places = self.places();
        let taken: usize = places.values().sum();
        if taken >= UNPROVED_MAX && !proved {
            return Verdict::Prove;
        }
        let own = places.get(&address).copied().unwrap_or(0);
        if taken >= HANDSHAKES_MAX || own >= OF_ADDRESS_MAX {
            return Verdict::Refuse;
        }
        places.insert(address, own + 1);
        Verdict::Begin(Handshake { handshakes: Self(Arc::clone(&self.0)), address })
    }

    fn places(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock()
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut places = self.handshakes.places();
        match places.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(places.remove(&self.address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(handshakes: &Handshakes, address: u8, proved: bool) -> Vec<Handshake> {
        let begin = || match handshakes.begin([10, 0, 0, address].into(), proved) {
            Verdict::Begin(place) => Some(place),
            Verdict::Prove | Verdict::Refuse => None,
        };
        std::iter::from_fn(begin).collect()
    }

    #[test]
    fn lk11_no_address_has_all_places_and_one_that_is_made_up_has_few() {
        let handshakes = Handshakes::default();
        let made_up = fill(&handshakes, 1, false);
        assert_eq!(made_up.len(), 16);
        assert!(matches!(handshakes.begin([10, 0, 0, 2].into(), false), Verdict::Prove));
        let proved = fill(&handshakes, 1, true);
        assert_eq!(made_up.len() + proved.len(), 48);
        assert!(matches!(handshakes.begin([10, 0, 0, 1].into(), true), Verdict::Refuse));
        let others = fill(&handshakes, 2, true);
        assert_eq!(others.len(), 16);
        assert!(matches!(handshakes.begin([10, 0, 0, 3].into(), true), Verdict::Refuse));
        drop((made_up, proved, others));
        assert!(handshakes.places().is_empty(), "nobody is remembered");
    }
}
