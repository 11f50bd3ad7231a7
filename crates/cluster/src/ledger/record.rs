//! What the journal of a ledger holds, as JSON: it has to be read by later versions, and by people
//! whose cluster does not come up. A field that is added needs a default.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::Drained;
use crate::operation::{Desired, Operation};

/// One fact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Record {
    /// What shall run.
    Desired(Desired),
    /// What shall not.
    Drained(Drained),
    /// Names of the nodes that ranks sit on.
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
