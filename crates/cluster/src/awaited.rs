//! [`Awaited`]: what a cluster waits for before it serves.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::status::{ReplicaState, ReplicaStatus, ShardState, ShardStatus};

/// What a cluster waits for while no replica can take work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// The cluster prepares its first replicas.
    Start,
    /// Rank processes of an earlier head may come back.
    EarlierRanks,
    /// Ranks have no devices.
    Devices(MissingDevices),
    /// Ranks read their weights.
    Weights(WeightsRead),
    /// So many ranks have started, or join the others, and are not ready.
    Ranks(usize),
    /// Replicas serve, but their work has no results.
    Progress,
    /// A replica restarts or was given up; the text says which and why.
    Replica(String),
    /// Operators have drained or stopped all replicas.
    Operators,
}

/// The devices that ranks wait for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MissingDevices {
    /// The number of devices that have to come; 0 when those that are there do not fit.
    pub count: usize,
    /// The first refusal to place ranks, which names nodes and devices.
    pub reason: String,
}

/// How much of their weights the ranks have read, all of them together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WeightsRead {
    /// The bytes read.
    pub read: u64,
    /// The bytes to read.
    pub total: u64,
    /// The number of ranks that have begun to read.
    pub begun: usize,
    /// The number of ranks.
    pub ranks: usize,
}

/// The progress of weights that are read before there is a replica, for ranks that are threads of this
/// process. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct WeightsProgress(Arc<Mutex<WeightsRead>>);

// === impl WeightsProgress ===

impl WeightsProgress {
    /// Records how much was read.
    pub fn set(&self, read: WeightsRead) {
        *self.0.lock() = read;
    }

    pub(crate) fn get(&self) -> WeightsRead {
        *self.0.lock()
    }
}

// === impl WeightsRead ===

impl WeightsRead {
    /// Returns the progress of the ranks of `replicas`; `None` if none of them has begun to read.
    #[must_use]
    pub fn of(replicas: &[ReplicaStatus]) -> Option<Self> {
        let shards = || shards(replicas);
        let progress = Self {
            read: shards().map(read).sum(),
            total: shards().map(|shard| shard.share.weight_bytes).sum(),
            begun: shards().filter(|shard| has_begun(shard)).count(),
            ranks: shards().count(),
        };
        (progress.begun > 0).then_some(progress)
    }
}

fn shards(replicas: &[ReplicaStatus]) -> impl Iterator<Item = &ShardStatus> {
    replicas.iter().flat_map(|replica| &replica.stages).flat_map(|stage| &stage.shards)
}

fn has_begun(shard: &ShardStatus) -> bool {
    matches!(shard.state, ShardState::Loading { .. } | ShardState::Ready)
}

/// Returns the bytes of its weights that a rank has read.
fn read(shard: &ShardStatus) -> u64 {
    let held = shard.share.weight_bytes;
    match shard.state {
        ShardState::Ready => held,
        // A rank may hold less than it reads.
        ShardState::Loading { bytes, of } => {
            (held as f64 * (bytes as f64 / of.max(1) as f64).min(1.0)) as u64
        }
        ShardState::Starting | ShardState::Lost | ShardState::Ended => 0,
    }
}

// === impl Awaited ===

impl Awaited {
    /// Returns what replicas with these statuses wait for. `devices` are missing on nodes, if any are.
    pub(crate) fn of(replicas: &[ReplicaStatus], devices: Option<MissingDevices>) -> Self {
        let is_due = |replica: &&ReplicaStatus| {
            matches!(replica.state, ReplicaState::Starting | ReplicaState::Restarting { .. })
        };
        let due: Vec<_> = replicas.iter().filter(is_due).cloned().collect();
        let reads = shards(&due).any(|shard| matches!(shard.state, ShardState::Loading { .. }));
        if let Some(read) = WeightsRead::of(&due).filter(|_| reads) {
            return Self::Weights(read);
        }
        if let Some(missing) = devices.filter(|_| !due.is_empty()) {
            return Self::Devices(missing);
        }
        if due.iter().any(|replica| replica.state == ReplicaState::Starting) {
            return Self::Ranks(shards(&due).filter(|it| it.state != ShardState::Ready).count());
        }
        let at_fault = replicas.iter().find_map(|ReplicaStatus { id, state, .. }| match state {
            ReplicaState::Restarting { reason } => Some(format!("{id} restarts: {reason}")),
            ReplicaState::Failed { reason } => Some(format!("{id} failed: {reason}")),
            _ => None,
        });
        match at_fault {
            Some(text) => Self::Replica(text),
            None if replicas.is_empty() => Self::Start,
            None if replicas.iter().any(ReplicaStatus::serves) => Self::Progress,
            None => Self::Operators,
        }
    }

    /// Returns the phrase with the details.
    pub(crate) fn in_full(&self) -> String {
        match self {
            Self::Replica(text) => text.clone(),
            other => {
                other.reason().map_or_else(|| other.to_string(), |why| format!("{other}: {why}"))
            }
        }
    }

    /// Returns the details that name machines and files, for readers who may know them.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Devices(MissingDevices { reason, .. }) => Some(reason),
            Self::Replica(text) => Some(text),
            _ => None,
        }
    }
}

impl fmt::Display for Awaited {
    /// Writes a phrase for everyone: it names no machine and no file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("preparing the first replica"),
            Self::EarlierRanks => f.write_str("looking for the ranks of an earlier head"),
            Self::Devices(MissingDevices { count: 0, .. }) => f.write_str(
                "waiting for devices that fit: those of the nodes are too small or busy",
            ),
            Self::Devices(MissingDevices { count: 1, .. }) => f.write_str("waiting for 1 device"),
            Self::Devices(MissingDevices { count, .. }) => write!(f, "waiting for {count} devices"),
            Self::Weights(WeightsRead { read, total, begun, ranks }) => {
                let (unit, bytes) = unit_of(*total);
                let [read, total] = [read, total].map(|count| *count as f64 / bytes);
                write!(f, "loading weights: {read:.1} of {total:.1} {unit}")?;
                write!(f, " on {begun} of {ranks} rank{}", if *ranks == 1 { "" } else { "s" })
            }
            Self::Ranks(1) => f.write_str("waiting for 1 rank to start"),
            Self::Ranks(count) => write!(f, "waiting for {count} ranks to start"),
            Self::Replica(_) => f.write_str("no replica can take work"),
            Self::Progress => f.write_str("no replica makes progress"),
            Self::Operators => f.write_str("every replica is drained or stopped"),
        }
    }
}

/// Returns the unit in which an amount is written, and its bytes.
fn unit_of(bytes: u64) -> (&'static str, f64) {
    match bytes {
        0x4000_0000.. => ("GiB", f64::from(1 << 30)),
        0x0010_0000.. => ("MiB", f64::from(1 << 20)),
        _ => ("KiB", f64::from(1 << 10)),
    }
}

#[cfg(test)]
mod tests {
    use playhouse_types::{Epoch, ReplicaId};

    use super::*;
    use crate::progress::Progress;
    use crate::status::{Share, StageStatus};

    const GIB: u64 = 1 << 30;

    fn replica(state: ReplicaState, shards: &[ShardState]) -> ReplicaStatus {
        let share = Share { layers: 0..1, query_heads: 1, kv_heads: 1, weight_bytes: 2 * GIB };
        let shard = |state: &ShardState| ShardStatus {
            state: *state,
            whereabouts: None,
            share: share.clone(),
        };
        let stages = vec![StageStatus { layers: 0..1, shards: shards.iter().map(shard).collect() }];
        ReplicaStatus {
            id: ReplicaId(3),
            state,
            waits_for: None,
            progress: Progress::default(),
            epoch: Epoch(1),
            running: 0,
            waiting: 0,
            kv_blocks_held: 0,
            kv_blocks: 1,
            prefix_queried_tokens: 0,
            prefix_hit_tokens: 0,
            prefill_tokens: 0,
            generated_tokens: 0,
            stages,
        }
    }

    #[test]
    fn what_comes_next_is_told_and_names_of_machines_only_as_the_reason() {
        use ReplicaState::{Drained, Failed, Restarting, Serving, Starting};
        use ShardState::{Loading, Ready};
        let begun = Loading { bytes: GIB, of: 4 * GIB };
        let lost = || Restarting { reason: "node a was lost".to_owned() };
        let failed = Failed { reason: "/srv/m is gone".to_owned() };
        let missing =
            |count| Some(MissingDevices { count, reason: "replica-3: node a is small".to_owned() });
        let starts = |shards: &[ShardState]| replica(Starting, shards);
        let idle = ShardState::Starting;
        let cases = [
            (vec![], None, "preparing the first replica", None),
            (vec![starts(&[idle; 4])], None, "waiting for 4 ranks to start", None),
            (vec![starts(&[Ready, idle])], None, "waiting for 1 rank to start", None),
            (
                vec![starts(&[begun, Ready, begun, idle])],
                None,
                "loading weights: 3.0 of 8.0 GiB on 3 of 4 ranks",
                None,
            ),
            (
                vec![starts(&[begun]), starts(&[idle])],
                missing(1),
                "loading weights: 0.5 of 4.0 GiB on 1 of 2 ranks",
                None,
            ),
            (
                vec![starts(&[idle; 2])],
                missing(2),
                "waiting for 2 devices",
                Some("replica-3: node a is small"),
            ),
            (
                vec![replica(lost(), &[ShardState::Lost])],
                missing(1),
                "waiting for 1 device",
                Some("replica-3: node a is small"),
            ),
            (
                vec![starts(&[idle])],
                missing(0),
                "waiting for devices that fit: those of the nodes are too small or busy",
                Some("replica-3: node a is small"),
            ),
            (
                vec![replica(lost(), &[ShardState::Lost])],
                None,
                "no replica can take work",
                Some("replica-3 restarts: node a was lost"),
            ),
            (
                vec![replica(failed, &[ShardState::Lost])],
                missing(1),
                "no replica can take work",
                Some("replica-3 failed: /srv/m is gone"),
            ),
            (vec![replica(Serving, &[Ready])], None, "no replica makes progress", None),
            (vec![replica(Drained, &[])], None, "every replica is drained or stopped", None),
        ];
        for (replicas, missing, text, reason) in cases {
            let awaited = Awaited::of(&replicas, missing);
            assert_eq!((awaited.to_string().as_str(), awaited.reason()), (text, reason));
        }
    }
}
