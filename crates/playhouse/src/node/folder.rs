//! The lock on a node's folder, which one process at a time can use.
//!
//! - **NF-1** a second process is refused at once; the refusal names the folder and the process that has
//!   it.
//! - **NF-2** the lock ends with the process that holds it, however that process ends.
//!
//! Not here: copies of the folder on other machines, which the head tells apart (**LK-9** of `link`).

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use tracing::warn;

use crate::error::CliError;

/// The file that is locked; it holds the id of the process that has the folder.
const LOCK: &str = "lock";

/// The maximum length of a process id that is read.
const PID_BYTES_MAX: u64 = 20;

/// A lock that keeps the folder for this process until it is dropped.
#[derive(Debug)]
pub(super) struct FolderLock {
    _file: File,
}

/// Locks the folder for this process. Creates it if `may_create` says so; a folder that does not exist is
/// not locked. A folder that cannot be written, such as a mounted secret, is not locked either: a warning
/// says so.
///
/// # Errors
/// Returns an error if another process has the folder (**NF-1**).
pub(super) fn lock(dir: &Path, may_create: bool) -> Result<Option<FolderLock>, CliError> {
    if may_create {
        // Writing the certificate into the folder reports why it cannot be made.
        drop(fs::create_dir_all(dir));
    }
    if !dir.is_dir() {
        return Ok(None);
    }
    match take(&dir.join(LOCK)) {
        Ok(Taken::Now(file)) => Ok(Some(FolderLock { _file: file })),
        Ok(Taken::Before(owner)) => Err(in_use(dir, owner.as_deref())),
        Err(why) => {
            let dir = dir.display();
            warn!(
                "{dir} cannot be locked, so a second node with it would go unnoticed here: {why}"
            );
            Ok(None)
        }
    }
}

/// The owner of a lock.
enum Taken {
    /// This process, as long as the file is open.
    Now(File),
    /// Another process, with its id, unless it has not written that yet.
    Before(Option<String>),
}

fn take(path: &Path) -> io::Result<Taken> {
    let mut options = OpenOptions::new();
    let mut file =
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => {
            file.set_len(0)?;
            file.write_all(std::process::id().to_string().as_bytes())?;
            Ok(Taken::Now(file))
        }
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            file.take(PID_BYTES_MAX).read_to_string(&mut owner)?;
            Ok(Taken::Before(Some(owner).filter(|owner| owner.parse::<u32>().is_ok())))
        }
        Err(TryLockError::Error(why)) => Err(why),
    }
}

fn in_use(dir: &Path, owner: Option<&str>) -> CliError {
    let owner = owner.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"));
    CliError::failure(format!("--dir {}: {owner} runs a node with this folder", dir.display())).hint(
        "stop that process; a second node on this machine needs another --dir, --name and --token",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nf1_a_folder_has_one_owner_who_is_named() {
        let dir = std::env::temp_dir().join(format!("playhouse-folder-{}", std::process::id()));
        assert!(lock(&dir, false).expect("nobody has it").is_none(), "there is no folder");
        assert!(!dir.exists());
        let first = lock(&dir, true).expect("nobody has it");
        assert!(first.is_some());
        for may_create in [false, true] {
            let refused = lock(&dir, may_create).map(|_| ()).expect_err("it is taken").text();
            let (dir, pid) = (dir.display(), std::process::id());
            assert!(
                refused.contains(&format!("--dir {dir}: process {pid} runs a node")),
                "{refused}"
            );
            assert_eq!(refused.lines().count(), 2, "{refused}");
        }
        drop(first);
        assert!(lock(&dir, false).expect("it is free again").is_some(), "NF-2");
        fs::remove_dir_all(&dir).expect("it is ours");
    }
}
