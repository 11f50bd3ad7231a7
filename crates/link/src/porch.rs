//! How many strangers are greeted at once, and from where (**LK-11**).

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections that may be greeted at once. More are refused before they cost anything.
const GREETED_MAX: usize = 64;

/// Those of them that one address may have: a machine that starts all its ranks at once needs many.
const OF_ADDRESS_MAX: usize = 48;

/// Above so many, whoever comes proves first that the address is its own.
const UNPROVED_MAX: usize = 16;

/// Where strangers stand until they are known.
#[derive(Debug, Default)]
pub(crate) struct Porch(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// What is done with one that comes.
#[derive(Debug)]
pub(crate) enum Entry {
    /// It is greeted; the place is its until it is dropped.
    Greet(Place),
    /// It has to prove its address, which costs us nothing to ask.
    Prove,
    /// There is no place for it.
    Refuse,
}

/// A place on the porch.
#[derive(Debug)]
pub(crate) struct Place {
    porch: Porch,
    address: IpAddr,
}

// === impl Porch ===

impl Porch {
    /// Takes a place for one from `address`, which is `proved` to be its own or not.
    pub(crate) fn enter(&self, address: IpAddr, proved: bool) -> Entry {
        let mut places = self.places();
        let taken: usize = places.values().sum();
        if taken >= UNPROVED_MAX && !proved {
            return Entry::Prove;
        }
        let own = places.get(&address).copied().unwrap_or(0);
        if taken >= GREETED_MAX || own >= OF_ADDRESS_MAX {
            return Entry::Refuse;
        }
        places.insert(address, own + 1);
        Entry::Greet(Place { porch: Self(Arc::clone(&self.0)), address })
    }

    fn places(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.porch.places();
        match places.get_mut(&self.address) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(places.remove(&self.address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(porch: &Porch, address: u8, proved: bool) -> Vec<Place> {
        let enter = || match porch.enter([10, 0, 0, address].into(), proved) {
            Entry::Greet(place) => Some(place),
            Entry::Prove | Entry::Refuse => None,
        };
        std::iter::from_fn(enter).collect()
    }

    #[test]
    fn lk11_no_address_has_all_places_and_one_that_is_made_up_has_few() {
        let porch = Porch::default();
        let made_up = fill(&porch, 1, false);
        assert_eq!(made_up.len(), 16);
        assert!(matches!(porch.enter([10, 0, 0, 2].into(), false), Entry::Prove));
        let proved = fill(&porch, 1, true);
        assert_eq!(made_up.len() + proved.len(), 48);
        assert!(matches!(porch.enter([10, 0, 0, 1].into(), true), Entry::Refuse));
        let others = fill(&porch, 2, true);
        assert_eq!(others.len(), 16);
        assert!(matches!(porch.enter([10, 0, 0, 3].into(), true), Entry::Refuse));
        drop((made_up, proved, others));
        assert!(porch.places().is_empty(), "nobody is remembered");
    }
}
