//! The file of the audit log: a line of JSON for each entry, with the time in front.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::SystemTime;

use parking_lot::Mutex;
use playhouse_admin::{AuditEntry, AuditLog};
use serde::Serialize;

use crate::date::Date;
use crate::error::CliError;

/// A file that grows by lines. A line that was not written whole is removed.
pub(crate) struct AuditFile(Mutex<File>);

#[derive(Serialize)]
struct AuditLine<'a> {
    time: String,
    #[serde(flatten)]
    entry: &'a AuditEntry,
}

// === impl AuditFile ===

impl AuditFile {
    /// Opens the file, or creates it for its owner alone.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub(crate) fn open(path: &Path) -> Result<Self, CliError> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
        let file = file.map_err(|why| {
            CliError::failure(format!("cannot write --audit-log {}: {why}", path.display()))
        })?;
        Ok(Self(Mutex::new(file)))
    }
}

impl AuditLog for AuditFile {
    fn write(&self, entry: &AuditEntry) -> io::Result<()> {
        let time = Date::of(SystemTime::now()).rfc3339();
        let mut line = serde_json::to_vec(&AuditLine { time, entry })?;
        line.push(b'\n');
        let mut file = self.0.lock();
        let before = file.metadata()?.len();
        let written = file.write_all(&line).and_then(|()| file.sync_data());
        if written.is_err() {
            // A path that is no regular file, such as a pipe, has no length.
            drop(file.set_len(before));
        }
        written
    }
}
