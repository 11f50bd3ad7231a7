//! The journal: a file of records that outlives the process and the machine.
//!
//! - **J-1** a record that was appended is on the disk. A record that was refused is not in the file,
//!   nor is any that was to be appended with it.
//! - **J-2** opening gives the records up to the first that is damaged, and cuts the file there:
//!   whatever happened to it, it holds a prefix of what was written.
//! - **J-3** one process at a time has the journal.
//! - **J-4** after a refusal, such as for a full disk, the next record may be accepted.
//! - **J-5** rewriting replaces all records or none.
//! - **J-6** a file that was deleted or replaced takes no record, because it would not be found again; a
//!   rewrite puts the journal back in its place.
//! - **J-7** a journal of version 1 is read, and is one of version 2 from then on.
//!
//! Not here: what records mean (see `ledger`).

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ring::digest::{SHA256, digest};
use tracing::warn;

/// The first bytes of every journal; the digit is the version of the format.
const MAGIC: [u8; 8] = *b"PLAYJNL2";

/// The first bytes of a journal of version 1, in which a replica was stages and tensor ranks. Its
/// records are read as they are.
const MAGIC_1: [u8; 8] = *b"PLAYJNL1";

/// How often the lock is asked for. A process that was being started by the last holder has the lock as
/// well, until it runs a program of its own.
const LOCK_ATTEMPTS: u32 = 40;

/// The pause between two attempts.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// The length of a sum: as much of a SHA-256 as no accident matches.
const SUM_BYTES: usize = 8;

/// The longest record. An operation with as many steps as it keeps is shorter.
const RECORD_BYTES_MAX: usize = 2 << 20;

/// The length from which a file is rewritten, unless most of it would stay.
const LONG_BYTES: u64 = 1 << 20;

/// The largest file that is read. No journal comes near.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// A journal that this process holds.
#[derive(Debug)]
pub(crate) struct Journal {
    folder: PathBuf,
    file: File,
    /// The end of the good records, where the next one goes. Behind it is only what a failed append
    /// left.
    end: u64,
    /// Whether something may be behind the last good record.
    torn: bool,
    /// Whether damaged records were dropped when it was opened.
    was_cut: bool,
    /// The length after the last rewrite.
    base: u64,
    /// The lock, held for as long as the journal is open.
    _lock: File,
}

/// The reason why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process has the journal.
    #[error("{} is in use by another head: give each a state folder of its own", .0.display())]
    InUse(PathBuf),
    /// The file is no journal, or has another version.
    #[error("{} is not a journal of this version of playhouse: {why}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong with the file.
        why: String,
    },
    /// The system refused.
    #[error("{}: {why}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        why: io::Error,
    },
}

// === impl Journal ===

impl Journal {
    /// Opens the journal in `folder`, which is made if it is not there, and returns its records.
    ///
    /// # Errors
    /// See [`JournalError`]. Damaged records are no error (**J-2**).
    pub(crate) fn open(folder: &Path) -> Result<(Self, Vec<Vec<u8>>), JournalError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |why| JournalError::Io { path, why }
        };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io(folder))?;
        let _lock = lock(&folder.join("journal.lock"))?;
        let path = folder.join("journal");
        let file = options().create(true).open(&path).map_err(io(&path))?;
        let mut bytes = Vec::new();
        (&file).take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io(&path))?;
        let (records, whole) = read(&bytes).map_err(|why| {
            let why = why.to_owned();
            JournalError::Foreign { path: path.clone(), why }
        })?;
        let folder = folder.to_owned();
        let (torn, was_cut) = (false, whole > 0 && bytes.len() as u64 > whole);
        let mut journal = Self { folder, file, end: whole, torn, was_cut, base: 0, _lock };
        journal.cut(bytes.len() as u64, records.len()).map_err(io(&path))?;
        if bytes.starts_with(&MAGIC_1) {
            journal.rewrite(&records).map_err(io(&path))?;
        }
        Ok((journal, records))
    }

    /// Removes what is behind the good records, and writes the first bytes if the file is new.
    fn cut(&mut self, length: u64, records: usize) -> io::Result<()> {
        if self.end == 0 {
            self.file.set_len(0)?;
            self.file.write_all_at(&MAGIC, 0)?;
            self.end = MAGIC.len() as u64;
        } else if length > self.end {
            let (file, dropped) = (self.folder.join("journal"), length - self.end);
            warn!(file = %file.display(), records, dropped_bytes = dropped,
                "the journal was damaged: it was cut behind its last good record");
            self.file.set_len(self.end)?;
        }
        self.file.sync_all()?;
        sync_folder(&self.folder)
    }

    /// Returns whether the end of the file was damaged when it was opened, so that the last records are
    /// missing.
    pub(crate) fn was_cut(&self) -> bool {
        self.was_cut
    }

    /// Returns whether the file in the folder is not the open one (**J-6**).
    pub(crate) fn is_lost(&self) -> bool {
        let id = |about: fs::Metadata| (about.dev(), about.ino());
        let found = fs::metadata(self.path()).map(id);
        // A file whose metadata cannot be read will not be written either.
        let own = self.file.metadata().map(id);
        !matches!((found, own), (Ok(found), Ok(own)) if found == own)
    }

    /// Returns the path of the file, for messages.
    pub(crate) fn path(&self) -> PathBuf {
        self.folder.join("journal")
    }

    /// Adds records, and blocks until they are on the disk (**J-1**).
    ///
    /// # Errors
    /// The system's reason. None of the records is kept then (**J-4**).
    pub(crate) fn append(&mut self, records: &[impl AsRef<[u8]>]) -> io::Result<()> {
        if self.is_lost() {
            let why = format!("{} was deleted or replaced", self.path().display());
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        let mut bytes = Vec::new();
        for record in records {
            frame(record.as_ref(), &mut bytes)?;
        }
        self.trim()?;
        self.torn = true;
        let written = self.file.write_all_at(&bytes, self.end);
        if let Err(why) = written.and_then(|()| self.file.sync_data()) {
            // If this fails as well, the next append begins with it.
            drop(self.trim());
            return Err(why);
        }
        self.torn = false;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Removes what a refused record left.
    fn trim(&mut self) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.end)?;
            self.file.sync_data()?;
            self.torn = false;
        }
        Ok(())
    }

    /// Returns whether the file is long enough to be rewritten.
    pub(crate) fn is_long(&self) -> bool {
        self.end > LONG_BYTES.max(2 * self.base)
    }

    /// Replaces all records by `records` (**J-5**).
    ///
    /// # Errors
    /// The system's reason. The records that were there stay.
    pub(crate) fn rewrite(&mut self, records: &[Vec<u8>]) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        for record in records {
            frame(record, &mut bytes)?;
        }
        let (path, new) = (self.folder.join("journal"), self.folder.join("journal.new"));
        let file = options().create(true).truncate(true).open(&new)?;
        let written = file.write_all_at(&bytes, 0).and_then(|()| file.sync_all());
        if let Err(why) = written.and_then(|()| fs::rename(&new, &path)) {
            drop(fs::remove_file(&new));
            return Err(why);
        }
        // From here on this is the journal, whether or not its name is on the disk yet.
        self.file = file;
        self.torn = false;
        self.end = bytes.len() as u64;
        self.base = self.end;
        sync_folder(&self.folder)
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

/// Takes a lock on a file of its own, because the journal is replaced when it is rewritten (**J-3**).
fn lock(path: &Path) -> Result<File, JournalError> {
    let io = |why| JournalError::Io { path: path.to_owned(), why };
    let file = options().create(true).open(path).map_err(io)?;
    for _ in 0..LOCK_ATTEMPTS {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::park_timeout(LOCK_PAUSE),
            Err(TryLockError::Error(why)) => return Err(io(why)),
        }
    }
    Err(JournalError::InUse(path.to_owned()))
}

/// Syncs a folder: a new name of a file is safe once its folder is.
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// Appends the frame of a record as it is in the file: length, sum, bytes.
fn frame(record: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    if record.len() > RECORD_BYTES_MAX {
        let why = format!("a record of {} bytes, {RECORD_BYTES_MAX} at most", record.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let length = u32::try_from(record.len()).expect("2 MiB at most").to_le_bytes();
    out.extend(length);
    out.extend(sum(length, record));
    out.extend(record);
    Ok(())
}

/// Returns the sum of a record. It covers the length too: a damaged length never frames a record that
/// looks good.
fn sum(length: [u8; 4], record: &[u8]) -> [u8; SUM_BYTES] {
    let whole = digest(&SHA256, &[&length[..], record].concat());
    *whole.as_ref().first_chunk().expect("a SHA-256 is longer")
}

/// Returns the good records of a file and how many bytes they have, with the file's first bytes; 0 bytes
/// if the file is empty.
fn read(bytes: &[u8]) -> Result<(Vec<Vec<u8>>, u64), &'static str> {
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("it is too long");
    }
    let begun = bytes.strip_prefix(&MAGIC).or_else(|| bytes.strip_prefix(&MAGIC_1));
    let Some(mut rest) = begun else {
        let is_begin = MAGIC.starts_with(bytes);
        return if is_begin { Ok((Vec::new(), 0)) } else { Err("it begins otherwise") };
    };
    let mut records = Vec::new();
    while let Some((record, behind)) = first(rest) {
        records.push(record.to_vec());
        rest = behind;
    }
    Ok((records, (bytes.len() - rest.len()) as u64))
}

/// Returns the first record, if it is good, and the bytes behind it.
fn first(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (expected, rest) = rest.split_first_chunk::<SUM_BYTES>()?;
    let count = u32::from_le_bytes(*length) as usize;
    let (record, behind) = rest.split_at_checked(count).filter(|_| count <= RECORD_BYTES_MAX)?;
    (sum(*length, record) == *expected).then_some((record, behind))
}

#[cfg(test)]
mod tests;
