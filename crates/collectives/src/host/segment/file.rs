//! Files of shared memory and their names, locks and leftovers.
//!
//! A file is held by a shared `flock`, which belongs to the open file: the kernel releases the lock when the
//! last descriptor is closed, even by `SIGKILL`, and enforces it across the namespaces of containers that
//! share a `/dev/shm`, where process ids mean nothing.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, flock, fstat, linkat, openat};
use rustix::io::Errno;
use rustix::process::geteuid;

/// Folder of all segment files.
pub(super) const FOLDER: &str = "/dev/shm";
/// Prefix of their names; [`NAME_DIGITS`] hexadecimal digits follow.
pub(super) const PREFIX: &str = "playhouse-";
const NAME_DIGITS: usize = 32;

/// Opens a file by its name, without following a link.
pub(super) fn open(path: &Path) -> io::Result<File> {
    // A pipe of that name would block.
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).expect("flags are an int");
    OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)
}

/// Creates an empty file without a name, which is deleted with its last descriptor.
pub(super) fn nameless() -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    Ok(openat(CWD, FOLDER, flags, Mode::RUSR | Mode::WUSR)?.into())
}

/// Gives a nameless file a name that no other file has.
pub(super) fn name_file(file: &File, path: &Path) -> io::Result<()> {
    // By number: naming a descriptor itself needs a capability.
    let source = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, source, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

/// Takes a shared lock of a file, unless the file is being swept. Returns whether it did.
pub(super) fn try_hold(file: &File) -> io::Result<bool> {
    try_lock(file, FlockOperation::NonBlockingLockShared)
}

/// Returns whether a file has a name.
pub(super) fn is_named(file: &File) -> io::Result<bool> {
    Ok(fstat(file)?.st_nlink > 0)
}

/// Removes the shared memory that ranks of this user left in `/dev/shm` when all of them were killed in
/// the middle of joining a group. Memory that any process holds stays, also that of other clusters.
/// Returns how many files were removed.
///
/// # Errors
/// When `/dev/shm` cannot be read.
pub fn sweep() -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(FOLDER)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_ours) {
            removed += usize::from(remove_unheld(&entry.path()));
        }
    }
    Ok(removed)
}

/// Removes the name of a file that no process holds. Returns whether it did. A file that cannot be examined
/// belongs to another user, or is gone.
pub(super) fn remove_unheld(path: &Path) -> bool {
    let Ok(file) = open(path) else { return false };
    let is_own =
        file.metadata().is_ok_and(|about| about.is_file() && about.uid() == geteuid().as_raw());
    let lock = || try_lock(&file, FlockOperation::NonBlockingLockExclusive);
    // Without a holder only sweepers could remove the name, and they have no lock.
    is_own
        && lock().is_ok_and(|locked| locked)
        && is_named(&file).is_ok_and(|named| named)
        && fs::remove_file(path).is_ok()
}

/// Returns whether a name is that of a segment.
fn is_ours(name: &str) -> bool {
    let digits = name.strip_prefix(PREFIX).unwrap_or_default();
    digits.len() == NAME_DIGITS && digits.bytes().all(|digit| digit.is_ascii_hexdigit())
}

fn try_lock(file: &File, operation: FlockOperation) -> io::Result<bool> {
    match flock(file, operation) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK | Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
