//! Errors of operations and joins.

use std::fmt;
use std::time::Duration;

/// A failed operation. Every error but [`Misuse`](Self::Misuse) ends the group on every rank: later calls
/// fail at once, with the same root cause. Form a new group of a higher epoch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CollectiveError {
    /// An [`AbortHandle`](crate::AbortHandle) ended the group.
    #[error("the group was aborted at rank {by}")]
    Aborted {
        /// Rank whose handle was used.
        by: usize,
    },
    /// A rank's process ended, its connection broke, or the rank left while others needed it.
    #[error("rank {rank} is lost: its process ended, its connection broke or it left the group")]
    PeerLost {
        /// The lost rank.
        rank: usize,
    },
    /// A rank was waited for longer than the group's timeout.
    #[error("rank {by} waited for rank {on} longer than the group's timeout of {timeout:?}")]
    TimedOut {
        /// Rank that gave up.
        by: usize,
        /// Rank that did not come.
        on: usize,
        /// Timeout of the group.
        timeout: Duration,
    },
    /// Two ranks called different operations, or with different sizes or types.
    #[error("ranks {by} and {with} disagree{detail}")]
    Mismatch {
        /// Rank that detected the mismatch.
        by: usize,
        /// Rank whose message was wrong.
        with: usize,
        /// Both sides of the mismatch; empty on the ranks that did not detect it.
        detail: String,
    },
    /// The device of a rank or NCCL failed, or did not finish within the group's timeout.
    #[error("the GPU of rank {by}, or its way to the others, failed{detail}")]
    Device {
        /// Rank that detected the failure.
        by: usize,
        /// Description of the failure; empty on the other ranks.
        detail: String,
    },
    /// Arguments that do not fit the group or each other. Nothing was sent.
    #[error("{op}: {reason}")]
    Misuse {
        /// The operation.
        op: &'static str,
        /// Values given and values allowed.
        reason: String,
    },
}

/// A rank could not join its group. The rank holds nothing of the group any more, and leaves no file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    /// The spec cannot describe a group.
    #[error("group spec: {0}")]
    Invalid(String),
    /// Some ranks did not come within the group's timeout.
    #[error("ranks {ranks:?} did not come within {waited:?}{}", Refusals(.refused))]
    Missing {
        /// The missing ranks, in order.
        ranks: Vec<usize>,
        /// How long this rank waited.
        waited: Duration,
        /// Connections that were turned away meanwhile, with their source and the reason.
        refused: Vec<String>,
    },
    /// A peer carries another epoch.
    #[error("this rank is of epoch {ours}, its peers are of epoch {theirs}; only the newest joins")]
    Epoch {
        /// Epoch of this rank.
        ours: u64,
        /// Epoch of the group.
        theirs: u64,
    },
    /// A peer was reached and does not admit this rank, or cannot prove that it belongs to the group.
    #[error("rank {rank}: {reason}")]
    Refused {
        /// The peer.
        rank: usize,
        /// Reason for a person.
        reason: String,
    },
    /// The [`AbortHandle`](crate::AbortHandle) of the join was used.
    #[error("the join was aborted")]
    Aborted,
    /// Another rank died, gave up or ended the group before all ranks were in.
    #[error("the group ended while rank {rank} joined it: {cause}")]
    Ended {
        /// Index of this rank.
        rank: usize,
        /// Reason why the group ended.
        cause: CollectiveError,
    },
    /// `/dev/shm` is full.
    #[error(
        "no room in /dev/shm for the {wanted_bytes} bytes of shared memory that rank {rank} needs \
         ({reason}); free some, or enlarge it: --shm-size of a container, an emptyDir of medium \
         Memory in Kubernetes, mount -o remount,size= on a machine"
    )]
    Memory {
        /// Index of this rank.
        rank: usize,
        /// Bytes that were to be reserved.
        wanted_bytes: usize,
        /// The operating system's reason.
        reason: String,
    },
    /// An operation that the operating system refused.
    #[error("cannot {action}: {reason}")]
    System {
        /// Action that was tried, with its object.
        action: String,
        /// The operating system's reason.
        reason: String,
    },
}

/// The refusals as text: `; refused 10.0.0.1:5: wrong secret`, or nothing.
struct Refusals<'a>(&'a [String]);

/// The reason why a group is over, as one word of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    Aborted { by: u16 },
    Lost { rank: u16 },
    TimedOut { by: u16, on: u16 },
    Mismatch { by: u16, with: u16 },
    Device { by: u16 },
}

// === impl Cause ===

impl Cause {
    pub(crate) fn to_word(self) -> u64 {
        let (kind, a, b) = match self {
            Self::Aborted { by } => (1, by, 0),
            Self::Lost { rank } => (2, rank, 0),
            Self::TimedOut { by, on } => (3, by, on),
            Self::Mismatch { by, with } => (4, by, with),
            Self::Device { by } => (5, by, 0),
        };
        kind << 32 | u64::from(a) << 16 | u64::from(b)
    }

    /// Decodes a word; `None` for 0: the group is not over. A word that is no cause reads as an abort.
    pub(crate) fn from_word(word: u64) -> Option<Self> {
        let (a, b) = ((word >> 16) as u16, word as u16);
        match word >> 32 {
            0 => None,
            2 => Some(Self::Lost { rank: a }),
            3 => Some(Self::TimedOut { by: a, on: b }),
            4 => Some(Self::Mismatch { by: a, with: b }),
            5 => Some(Self::Device { by: a }),
            _ => Some(Self::Aborted { by: a }),
        }
    }

    pub(crate) fn into_error(self, timeout: Duration) -> CollectiveError {
        match self {
            Self::Aborted { by } => CollectiveError::Aborted { by: by.into() },
            Self::Lost { rank } => CollectiveError::PeerLost { rank: rank.into() },
            Self::TimedOut { by, on } => {
                CollectiveError::TimedOut { by: by.into(), on: on.into(), timeout }
            }
            Self::Mismatch { by, with } => CollectiveError::Mismatch {
                by: by.into(),
                with: with.into(),
                detail: String::new(),
            },
            Self::Device { by } => CollectiveError::Device { by: by.into(), detail: String::new() },
        }
    }
}

// === impl JoinError ===

impl JoinError {
    pub(crate) fn system(action: impl Into<String>, error: impl fmt::Display) -> Self {
        Self::System { action: action.into(), reason: error.to_string() }
    }

    /// Returns whether the root cause lies with another rank, which can describe it better than this one.
    #[must_use]
    pub fn is_of_another_rank(&self) -> bool {
        matches!(self, Self::Ended { .. })
    }

    /// Returns the cause that the other ranks read when the join of `rank` fails with this error.
    pub(crate) fn cause(&self, rank: usize) -> Cause {
        let narrow = |rank: usize| u16::try_from(rank).unwrap_or(u16::MAX);
        match self {
            Self::Aborted => Cause::Aborted { by: narrow(rank) },
            Self::Ended { cause: CollectiveError::PeerLost { rank }, .. } => {
                Cause::Lost { rank: narrow(*rank) }
            }
            Self::Missing { ranks, .. } => {
                let on = ranks.first().copied().unwrap_or(rank);
                Cause::TimedOut { by: narrow(rank), on: narrow(on) }
            }
            _ => Cause::Lost { rank: narrow(rank) },
        }
    }
}

// === impl CollectiveError ===

pub(crate) fn misuse(op: &'static str, reason: String) -> CollectiveError {
    CollectiveError::Misuse { op, reason }
}

/// A conversion for callers whose own errors are candle's.
impl From<CollectiveError> for candle_core::Error {
    fn from(error: CollectiveError) -> Self {
        Self::wrap(error)
    }
}

// === impl Refusals ===

impl fmt::Display for Refusals<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|refusal| write!(f, "; refused {refusal}"))
    }
}
