//! The state of a ledger: the sum of its records.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use super::record::Record;
use super::{Drained, Ledger};
use crate::operation::{Change, Desired, Operation, OperationId, OperationStep, Refused};

/// The state to which the records of a ledger add up.
#[derive(Debug, Default)]
pub(super) struct LedgerState {
    pub(super) desired: Option<Desired>,
    pub(super) drained: Drained,
    pub(super) hosts: Option<BTreeSet<String>>,
    /// The last id that was given to an operation.
    pub(super) last: u64,
    /// The operations, ordered by id; the one that is under way, if there is one, is the last.
    pub(super) entries: VecDeque<OperationEntry>,
}

/// An operation, and whether an operator has asked for its end.
#[derive(Debug)]
pub(super) struct OperationEntry {
    pub(super) operation: watch::Sender<Operation>,
    pub(super) aborted: watch::Sender<bool>,
}

// === impl LedgerState ===

impl LedgerState {
    /// Takes in a record: a new one, or one from before a restart.
    pub(super) fn replay(&mut self, record: Record) {
        match record {
            Record::Desired(desired) => self.desired = Some(desired),
            Record::Drained(drained) => self.drained = drained,
            Record::Hosts(hosts) => self.hosts = Some(hosts),
            Record::Last(last) => self.last = self.last.max(last),
            Record::Began(operation) => self.put(operation),
            Record::Ended(operation) => {
                match self.entry(operation.id) {
                    Some(entry) => entry.end(operation),
                    None => self.put(operation),
                }
                self.forget();
            }
        }
    }

    pub(super) fn put(&mut self, operation: Operation) {
        self.last = self.last.max(operation.id.0);
        let (operation, aborted) = (watch::Sender::new(operation), watch::Sender::new(false));
        self.entries.push_back(OperationEntry { operation, aborted });
    }

    /// Drops ended operations except the last ones. Readers of an older one keep what they have.
    pub(super) fn forget(&mut self) {
        let running = usize::from(self.running().is_some());
        while self.entries.len() > Ledger::ENDED_MAX + running {
            self.entries.pop_front();
        }
    }

    /// Returns the records of a shortened journal.
    pub(super) fn records(&self) -> Vec<Record> {
        let mut records = vec![Record::Last(self.last), Record::Drained(self.drained.clone())];
        records.extend(self.desired.clone().map(Record::Desired));
        records.extend(self.hosts.clone().map(Record::Hosts));
        records.extend(self.entries.iter().map(|entry| {
            let operation = entry.operation.borrow().clone();
            let ended = operation.phase.is_end();
            if ended { Record::Ended(operation) } else { Record::Began(operation) }
        }));
        records
    }

    pub(super) fn entry(&self, id: OperationId) -> Option<&OperationEntry> {
        self.entries.iter().rev().find(|entry| entry.operation.borrow().id == id)
    }

    pub(super) fn running(&self) -> Option<OperationId> {
        let last = self.entries.back()?.operation.borrow();
        (!last.phase.is_end()).then_some(last.id)
    }

    /// Returns the operation that has this key, if it is the same change (**LED-1**).
    pub(super) fn keyed(
        &self,
        change: &Change,
        key: Option<&str>,
    ) -> Result<Option<Operation>, Refused> {
        let Some(key) = key else { return Ok(None) };
        if key.is_empty() || key.len() > Ledger::KEY_BYTES_MAX {
            let (length, most) = (key.len(), Ledger::KEY_BYTES_MAX);
            return Err(Refused::Invalid(format!("a key of {length} bytes: 1 to {most} will do")));
        }
        let operations = self.entries.iter().map(|entry| entry.operation.borrow());
        let mut known = operations.filter(|operation| operation.key.as_deref() == Some(key));
        match known.next() {
            None => Ok(None),
            Some(known) if known.change == *change => Ok(Some(known.clone())),
            Some(known) => Err(Refused::KeyTaken { key: key.to_owned(), operation: known.id }),
        }
    }
}

// === impl OperationEntry ===

impl OperationEntry {
    pub(super) fn end(&self, mut ended: Operation) {
        let last = |operation: &Operation| operation.steps.last().map(|step| step.at);
        self.operation.send_modify(|known| {
            // A step may have come while the end was being written.
            if last(known) > last(&ended) {
                ended.steps = std::mem::take(&mut known.steps);
            }
            *known = ended;
        });
    }
}

/// Adds a step to an operation; the oldest goes when there are too many.
pub(super) fn push_step(operation: &mut Operation, text: &str) {
    let at = after(operation);
    if operation.steps.len() == Operation::STEPS_MAX {
        operation.steps.remove(0);
    }
    let phase = operation.phase.clone();
    operation.steps.push(OperationStep { at, phase, text: short(text) });
}

/// Returns the current time, but after everything that happened so far, even if the clock is set back
/// meanwhile (**LED-5**).
pub(super) fn after(operation: &Operation) -> SystemTime {
    let last = operation.steps.last().map_or(operation.started, |step| step.at);
    whole_micros(SystemTime::now()).max(last + Duration::from_micros(1))
}

/// Rounds a time to microseconds, and to 1970 at the earliest, because an earlier time could not be
/// written.
pub(super) fn whole_micros(at: SystemTime) -> SystemTime {
    let micros = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    UNIX_EPOCH + Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

/// Returns as much of a text as is kept.
pub(super) fn short(text: &str) -> String {
    text[..text.floor_char_boundary(Ledger::TEXT_BYTES_MAX)].to_owned()
}
