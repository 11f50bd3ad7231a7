//! Read-only memory maps of model files.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::time::SystemTime;

/// The bytes of a file, read by the operating system as they are touched.
#[derive(Debug)]
pub struct Mapped {
    bytes: memmap2::Mmap,
    file: File,
    /// Length and modification time of the file when it was mapped.
    stamp: (u64, SystemTime),
}

/// Maps a file, which must not change while it is mapped; [`Mapped::check`] tells whether it did. A file
/// truncated meanwhile ends the process (`SIGBUS`): replace files by renaming.
///
/// # Errors
/// The operating system's, for example for a directory.
pub fn map_file(file: File) -> io::Result<Mapped> {
    let stamp = stamp(&file)?;
    // SAFETY: the map is private and read-only. Whether the file was written meanwhile is checked after
    // reading; the bytes have no invariant that a change could break.
    let bytes = unsafe { memmap2::Mmap::map(&file) }?;
    Ok(Mapped { bytes, file, stamp })
}

fn stamp(file: &File) -> io::Result<(u64, SystemTime)> {
    let about = file.metadata()?;
    Ok((about.len(), about.modified()?))
}

// === impl Mapped ===

impl Mapped {
    /// Returns an error unless the file is still as it was when mapped. Must be called after the bytes were
    /// used.
    ///
    /// # Errors
    /// When the file was written to or truncated since.
    pub fn check(&self) -> io::Result<()> {
        match stamp(&self.file)? == self.stamp {
            true => Ok(()),
            false => Err(io::Error::other("the file was changed while it was read")),
        }
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_map_holds_the_bytes_of_the_file() -> io::Result<()> {
        let path = std::env::temp_dir().join(format!("playhouse-map-{}", std::process::id()));
        let mut file = File::create_new(&path)?;
        file.write_all(b"weights")?;
        let mapped = map_file(File::open(&path)?)?;
        assert_eq!(&*mapped, b"weights");
        assert!(mapped.check().is_ok());
        file.set_modified(SystemTime::UNIX_EPOCH)?;
        assert!(mapped.check().is_err(), "somebody has written to it");
        std::fs::remove_file(&path)
    }
}
