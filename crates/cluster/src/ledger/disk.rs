//! The disk of a ledger, to which its records are written.

use tracing::warn;

use super::journal::Journal;
use super::record::Record;
use crate::operation::Refused;

/// The journal of a ledger, and the record that could not be written there yet.
#[derive(Debug)]
pub(super) struct Disk {
    /// `None` if nothing outlives the process.
    pub(super) journal: Option<Journal>,
    /// The end of an operation that could not be written when it came. No other operation begins before
    /// it is.
    pub(super) owed: Option<Record>,
}

// === impl Disk ===

impl Disk {
    /// Writes the owed record and `records`, or nothing (**LED-2**).
    pub(super) fn write(&mut self, records: &[Record]) -> Result<(), Refused> {
        let Some(journal) = &mut self.journal else { return Ok(()) };
        let records: Vec<_> = self.owed.iter().chain(records).map(Record::encode).collect();
        journal.append(&records).map_err(|why| Refused::Journal(why.to_string()))?;
        self.owed = None;
        Ok(())
    }

    pub(super) fn is_long(&self) -> bool {
        self.journal.as_ref().is_some_and(Journal::is_long)
    }

    /// Replaces all records by `records`, which leave out what is not needed any more.
    pub(super) fn rewrite(&mut self, records: &[Record]) {
        let Some(journal) = &mut self.journal else { return };
        let records: Vec<_> = records.iter().map(Record::encode).collect();
        match journal.rewrite(&records) {
            Ok(()) => self.owed = None,
            // A long journal is as good, and is shortened with a later change; a lost one takes no
            // records.
            Err(why) => warn!(%why, "cannot rewrite the journal"),
        }
    }
}
