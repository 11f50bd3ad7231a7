//! The records in the journal of a ledger, as JSON: later versions have to read them, and people whose
//! cluster does not come up. A field that is added needs a default.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Drained;
use crate::operation::{Desired, Operation};

/// A fact in the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    /// The deployment that is wanted.
    Desired(Desired),
    /// The nodes and replicas that shall have no ranks.
    Drained(Drained),
    /// The names of the nodes that have ranks.
    Hosts(BTreeSet<String>),
    /// An operation began.
    Began(Operation),
    /// An operation ended; with everything that it did.
    Ended(Operation),
    /// The last id that was given, even if its operation is forgotten.
    Last(u64),
}

// === impl Record ===

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("times after 1970, names and numbers are JSON")
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}
