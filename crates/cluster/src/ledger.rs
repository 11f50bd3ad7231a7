//! The ledger: what operators asked for, and every operation that came of it.
//!
//! - **LED-1** one operation runs at a time. Asking for a change again under the key of an operation
//!   returns that operation, and never begins a second. Keys are known for as long as their operation
//!   is: [`Ledger::ENDED_MAX`] ended ones.
//! - **LED-2** what was asked for, and that an operation began, is in the journal before it takes
//!   effect; if either record cannot be written, neither takes effect, and the key names nothing. (The
//!   end of an operation takes effect all the same, because it is a fact. It is written with the next
//!   change, which is refused until the end can be written.)
//! - **LED-3** after a restart everything is as it was before, except for an operation that was under
//!   way: that operation has failed.
//! - **LED-4** ids count from 1 over all restarts; no id is given twice.
//! - **LED-5** the steps of an operation have strictly growing times, in microseconds, so that a
//!   reader who saw one knows which come after it.
//! - **LED-6** the names of the nodes with ranks are written as well, soon after they change: a later
//!   head waits for those nodes, and for no others. What is missing from a damaged journal may be the last
//!   of these names, so then none is believed, and the head waits for whatever comes.
//! - **LED-7** the next change notices a journal that was deleted under a running head. The change
//!   writes everything anew, or is refused if that fails.
//!
//! Nothing here acts: the reconciler of the deployment does, and records here how far it has come.

mod disk;
mod journal;
mod record;
mod state;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::{Mutex, MutexGuard};
use playhouse_telemetry::{OperationCounters, OperationOutcome};
use playhouse_types::ReplicaId;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::{JoinError, spawn_blocking};
use tracing::error;

pub use self::journal::JournalError;

use self::disk::Disk;
use self::journal::Journal;
use self::record::Record;
use self::state::{LedgerState, after, push_step, short, whole_micros};
use crate::operation::{Change, Desired, Operation, OperationId, Phase, Refused};

/// The record of everything that operators asked for.
#[derive(Debug)]
pub struct Ledger {
    /// Whether there is a journal.
    durable: bool,
    /// Taken before `state` by every change that is written, for as long as the disk takes.
    disk: Mutex<Disk>,
    /// Never held while the disk is waited for: reading is always quick.
    state: Mutex<LedgerState>,
    /// Operations that have ended in this process.
    outcomes: OperationCounters,
}

/// The nodes and replicas that shall have no ranks until an operator says otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// Names of drained nodes.
    pub nodes: BTreeSet<String>,
    /// Ids of drained replicas.
    pub replicas: BTreeSet<ReplicaId>,
    /// Names of nodes that are refused.
    #[serde(default)]
    pub removed: BTreeSet<String>,
}

/// The result of beginning an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// The operation is under way, and is the caller's to carry out.
    New(Operation),
    /// The operation was asked for before under the same key.
    Known(Operation),
}

/// The state that a ledger recovered from its journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// The deployment that is wanted.
    pub desired: Option<Desired>,
    /// The nodes and replicas that shall have no ranks.
    pub drained: Drained,
    /// The operation that was under way when the head ended, and has failed now.
    pub interrupted: Option<OperationId>,
}

// === impl Ledger ===

impl Ledger {
    /// The number of ended operations that are kept.
    pub const ENDED_MAX: usize = 100;

    /// The longest key, in bytes.
    pub const KEY_BYTES_MAX: usize = 128;

    /// The longest text of a step or of a reason, in bytes. More is cut off.
    pub const TEXT_BYTES_MAX: usize = 1024;

    /// Creates a ledger that ends with the process.
    #[must_use]
    pub fn in_memory() -> Self {
        let disk = Disk { journal: None, owed: None };
        let (state, outcomes) = Default::default();
        Self { durable: false, disk: Mutex::new(disk), state, outcomes }
    }

    /// Opens the ledger whose journal is in `folder`, as the head before this one left it (**LED-3**).
    ///
    /// # Errors
    /// See [`JournalError`].
    pub fn open(folder: &Path) -> Result<(Self, Recovered), JournalError> {
        let (mut journal, records) = Journal::open(folder)?;
        let mut state = LedgerState::default();
        for (number, record) in records.iter().enumerate() {
            let record = Record::decode(record).map_err(|why| JournalError::Foreign {
                path: folder.join("journal"),
                why: format!("record {number}: {why}"),
            })?;
            state.replay(record);
        }
        if journal.was_cut() {
            state.hosts = None;
            // Forgotten on the disk as well: a head that dies before it writes new ones leaves none.
            let records: Vec<_> = state.records().iter().map(Record::encode).collect();
            let path = folder.join("journal");
            journal.rewrite(&records).map_err(|why| JournalError::Io { path, why })?;
        }
        let recovered = Recovered {
            desired: state.desired.clone(),
            drained: state.drained.clone(),
            interrupted: state.running(),
        };
        let disk = Disk { journal: Some(journal), owed: None };
        let (disk, state) = (Mutex::new(disk), Mutex::new(state));
        let ledger = Self { durable: true, disk, state, outcomes: OperationCounters::default() };
        if let Some(id) = recovered.interrupted {
            ledger.end(id, Phase::Failed { reason: "the head was restarted".to_owned() });
        }
        Ok((ledger, recovered))
    }

    /// Returns counts of how operations have ended in this process.
    #[must_use]
    pub fn outcomes(&self) -> &OperationCounters {
        &self.outcomes
    }

    /// Returns whether the ledger outlives the process.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.durable
    }

    /// Does what writes: on a thread that can wait, because writing takes as long as the disk does, or
    /// at once if there is no disk.
    pub(crate) async fn write<T: Send + 'static>(
        self: &Arc<Self>,
        act: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> Result<T, JoinError> {
        if !self.durable {
            return Ok(act(self));
        }
        let ledger = Arc::clone(self);
        spawn_blocking(move || act(&ledger)).await
    }

    /// Returns the operation that has this key.
    ///
    /// # Errors
    /// [`Refused::KeyTaken`], or [`Refused::Invalid`] for a key that is too long.
    pub fn known(&self, change: &Change, key: Option<&str>) -> Result<Option<Operation>, Refused> {
        self.state().keyed(change, key)
    }

    /// Begins an operation, which leads to `aims`, or finds the one that has this key.
    ///
    /// # Errors
    /// [`Refused::KeyTaken`], [`Refused::Busy`], [`Refused::Invalid`] for a key that is too long, or
    /// [`Refused::Journal`]; nothing has changed then (**LED-2**).
    pub fn begin(
        &self,
        change: Change,
        key: Option<String>,
        aims: (Desired, Drained),
        now: SystemTime,
    ) -> Result<Begun, Refused> {
        let mut disk = self.disk();
        let operation = {
            let state = self.state();
            if let Some(known) = state.keyed(&change, key.as_deref())? {
                return Ok(Begun::Known(known));
            }
            if let Some(running) = state.running() {
                return Err(Refused::Busy { running });
            }
            Operation {
                id: OperationId(state.last + 1),
                key,
                change,
                phase: Phase::Plan,
                steps: Vec::new(),
                started: whole_micros(now),
                ended: None,
            }
        };
        let (desired, drained) = aims;
        let began = Record::Began(operation.clone());
        let records = vec![began, Record::Desired(desired), Record::Drained(drained)];
        disk.write(&records)?;
        self.apply(&mut disk, records);
        Ok(Begun::New(operation))
    }

    /// Records what an operation has done, and the phase it is in. An operation that has ended stays as
    /// it is.
    pub fn step(&self, id: OperationId, phase: Phase, text: &str) {
        let state = self.state();
        let Some(entry) = state.entry(id) else { return };
        entry.operation.send_if_modified(|operation| {
            let goes_on = !operation.phase.is_end();
            if goes_on {
                // Only `end` ends it, because an end is written.
                if !phase.is_end() {
                    operation.phase = phase;
                }
                push_step(operation, text);
            }
            goes_on
        });
    }

    /// Ends an operation. An operation that has ended already stays as it is.
    pub fn end(&self, id: OperationId, phase: Phase) {
        let mut disk = self.disk();
        let ended = {
            let state = self.state();
            let Some(entry) = state.entry(id) else { return };
            let mut operation = entry.operation.borrow().clone();
            if operation.phase.is_end() {
                return;
            }
            operation.phase = match phase {
                Phase::Failed { reason } => Phase::Failed { reason: short(&reason) },
                other => other,
            };
            operation.ended = Some(after(&operation));
            operation
        };
        self.outcomes.inc(match ended.phase {
            Phase::Failed { .. } => OperationOutcome::failed,
            Phase::Aborted => OperationOutcome::aborted,
            _ => OperationOutcome::done,
        });
        let records = vec![Record::Ended(ended)];
        if let Err(why) = disk.write(&records) {
            error!(operation = %id, %why, "the end of an operation is written with the next change");
            disk.owed = records.first().cloned();
        }
        self.apply(&mut disk, records);
    }

    /// Returns the deployment that is wanted; `None` before one was set.
    #[must_use]
    pub fn desired(&self) -> Option<Desired> {
        self.state().desired.clone()
    }

    /// Sets the deployment that is wanted.
    ///
    /// # Errors
    /// [`Refused::Journal`]; the wanted deployment has not changed then.
    pub fn set_desired(&self, desired: Desired) -> Result<(), Refused> {
        self.set(vec![Record::Desired(desired)])
    }

    /// Returns the nodes and replicas that shall have no ranks.
    #[must_use]
    pub fn drained(&self) -> Drained {
        self.state().drained.clone()
    }

    /// Sets the nodes and replicas that shall have no ranks.
    ///
    /// # Errors
    /// [`Refused::Journal`]; nothing has changed then.
    pub fn set_drained(&self, drained: Drained) -> Result<(), Refused> {
        self.set(vec![Record::Drained(drained)])
    }

    /// Returns the names of the nodes that have ranks, or had some when the last head ended; `None` if
    /// they were never recorded.
    #[must_use]
    pub fn hosts(&self) -> Option<BTreeSet<String>> {
        self.state().hosts.clone()
    }

    /// Records which nodes have ranks.
    ///
    /// # Errors
    /// [`Refused::Journal`]; nothing has changed then.
    pub fn set_hosts(&self, hosts: BTreeSet<String>) -> Result<(), Refused> {
        self.set(vec![Record::Hosts(hosts)])
    }

    fn set(&self, records: Vec<Record>) -> Result<(), Refused> {
        let mut disk = self.disk();
        disk.write(&records)?;
        self.apply(&mut disk, records);
        Ok(())
    }

    /// Takes in what was written, and shortens the journal if that is worth it.
    fn apply(&self, disk: &mut Disk, written: Vec<Record>) {
        let records = {
            let mut state = self.state();
            written.into_iter().for_each(|record| state.replay(record));
            disk.is_long().then(|| state.records())
        };
        if let Some(records) = records {
            disk.rewrite(&records);
        }
    }

    /// Returns the operation that is under way.
    #[must_use]
    pub fn running(&self) -> Option<OperationId> {
        self.state().running()
    }

    /// Returns every operation that is known, the oldest first.
    #[must_use]
    pub fn operations(&self) -> Vec<Operation> {
        self.state().entries.iter().map(|entry| entry.operation.borrow().clone()).collect()
    }

    /// Returns an operation as it is now, and its changes.
    #[must_use]
    pub fn watch(&self, id: OperationId) -> Option<watch::Receiver<Operation>> {
        self.state().entry(id).map(|entry| entry.operation.subscribe())
    }

    /// Asks the task that carries an operation out to end it.
    ///
    /// # Errors
    /// [`Refused::NoOperation`] or [`Refused::Ended`].
    pub fn abort(&self, id: OperationId) -> Result<Operation, Refused> {
        let state = self.state();
        let entry = state.entry(id).ok_or(Refused::NoOperation(id))?;
        if entry.operation.borrow().phase.is_end() {
            return Err(Refused::Ended(id));
        }
        if !entry.aborted.send_replace(true) {
            entry.operation.send_modify(|operation| push_step(operation, "asked to abort"));
        }
        Ok(entry.operation.borrow().clone())
    }

    /// Returns a receiver that becomes `true` when an operator asks for the end of the operation.
    #[must_use]
    pub fn aborted(&self, id: OperationId) -> Option<watch::Receiver<bool>> {
        self.state().entry(id).map(|entry| entry.aborted.subscribe())
    }

    /// Locks the disk for a change. A journal that was deleted is written anew first (**LED-7**).
    fn disk(&self) -> MutexGuard<'_, Disk> {
        let mut disk = self.disk.lock();
        if let Some(journal) = disk.journal.as_ref().filter(|journal| journal.is_lost()) {
            let file = journal.path();
            error!(file = %file.display(), "the journal was deleted or replaced: it is written anew");
            let records = self.state().records();
            disk.rewrite(&records);
        }
        disk
    }

    fn state(&self) -> MutexGuard<'_, LedgerState> {
        self.state.lock()
    }
}

#[cfg(test)]
pub(crate) mod folder;
#[cfg(test)]
mod tests;
