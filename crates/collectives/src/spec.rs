//! The description of a group.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::JoinError;

/// Most ranks of a group.
pub const RANKS_MAX: usize = 64;
/// Bounds of the bytes of buffer for each direction between two ranks.
pub const BUFFER_BYTES: std::ops::RangeInclusive<usize> = 16 << 10..=1 << 30;

/// A group: its members, and everything that each needs to know to join. The control plane sends the same
/// value to every rank. The value holds the secret, so it travels encrypted or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupSpec {
    /// Name of the group among those that share machines and secrets.
    pub group: String,
    /// The group's incarnation. Ranks of different epochs never exchange a byte of payload.
    pub epoch: u64,
    /// Secret that only the members know.
    pub secret: Secret,
    /// One entry for each rank, in order: 1 to [`RANKS_MAX`].
    pub members: Vec<Member>,
    /// Longest time that joining, or one operation, waits for other ranks. Above zero.
    pub timeout: Duration,
    /// Bytes that may be in flight from one rank to another, for each such pair: the bytes that a send can
    /// leave behind without a matching receive. Between machines both ends buffer as many, and the kernel has
    /// its own buffers. Within [`BUFFER_BYTES`]; used in whole pages.
    pub buffer_bytes: usize,
}

/// The place of a rank.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Name of the rank's machine. Ranks with the same machine exchange data in shared memory: they must see
    /// the same `/dev/shm` and each other's process ids (as threads of one process do, or processes of one
    /// container).
    pub machine: String,
    /// Address at which the rank listens for ranks of other machines. Needed if there are any.
    pub address: Option<SocketAddr>,
}

/// A secret of 32 random bytes. Never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(pub [u8; 32]);

// === impl GroupSpec ===

impl GroupSpec {
    /// Returns a buffer size that suits collectives among `ranks` ranks: small enough to stay in cache and
    /// within 64 MiB for the whole group, the default size of `/dev/shm` in a container.
    #[must_use]
    pub fn collective_buffer_bytes(ranks: usize) -> usize {
        let share = (32 << 20) / ranks.max(1).pow(2);
        share.clamp(*BUFFER_BYTES.start(), 512 << 10)
    }

    /// # Errors
    /// When the spec describes no group, or has no such rank.
    pub(crate) fn check(&self, rank: usize) -> Result<(), JoinError> {
        let Self { members, .. } = self;
        let wrong = |reason: String| Err(JoinError::Invalid(reason));
        if members.is_empty() || members.len() > RANKS_MAX {
            return wrong(format!("{} members; a group has 1 to {RANKS_MAX}", members.len()));
        }
        if rank >= members.len() {
            return wrong(format!("rank {rank} of {}; ranks count from 0", members.len()));
        }
        if self.timeout.is_zero() {
            return wrong("timeout 0; give the time to wait for other ranks".to_owned());
        }
        if !BUFFER_BYTES.contains(&self.buffer_bytes) {
            let bytes = self.buffer_bytes;
            return wrong(format!("buffer_bytes {bytes}; allowed are {BUFFER_BYTES:?}"));
        }
        let one_machine = members.iter().all(|member| member.machine == members[0].machine);
        let homeless = members.iter().position(|member| member.address.is_none());
        match homeless {
            Some(rank) if !one_machine => {
                wrong(format!("rank {rank} has no address; with several machines each needs one"))
            }
            _ => Ok(()),
        }
    }

    /// Returns the ranks on the machine of `rank`, in order.
    pub(crate) fn neighbours(&self, rank: usize) -> Vec<usize> {
        let machine = &self.members[rank].machine;
        let ranks = self.members.iter().enumerate();
        ranks.filter(|(_, member)| member.machine == *machine).map(|(rank, _)| rank).collect()
    }

    /// Returns a digest that is equal on two ranks exactly if their specs are, apart from epoch, secret and
    /// timeout.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        let mut field = |bytes: &[u8]| {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        field(self.group.as_bytes());
        field(&self.buffer_bytes.to_le_bytes());
        for member in &self.members {
            field(member.machine.as_bytes());
            field(member.address.map(|address| address.to_string()).unwrap_or_default().as_bytes());
        }
        digest.finalize().into()
    }
}

// === impl Secret ===

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}
