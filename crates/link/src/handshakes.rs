//! How many handshakes with strangers are under way at once, and from where (**LK-11**).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

/// Handshakes that may be under way at once. More are refused before they cost anything.
const HANDSHAKES_MAX: usize = 64;

/// Those of them that one address may have: a machine that starts all its ranks at once needs many.
const OF_ADDRESS_MAX: usize = 48;

/// Above so many, whoever comes proves first that the address is its own.
const UNPROVED_MAX: usize = 16;

/// The handshakes that are under way, by address.
#[derive(Debug, Default)]
pub(crate) struct Handshakes(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// What is done with a connection that comes.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The handshake begins.
    Begin(Handshake),
    /// It has to prove its address, which costs us nothing to ask.
    Prove,
    /// There are too many.
    Refuse,
}

/// A handshake that may be under way. Dropping it lets another begin.
#[derive(Debug)]
pub(crate) struct Handshake {
    handshakes: Handshakes,
    address: IpAddr,
}

// === impl Handshakes ===

impl Handshakes {
    /// Lets a handshake begin with one from `address`, which is `proved` to be its own or not.
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
