//! Read-only memory maps of model files.

use std::fs::File;
use std::io;
use std::ops::Deref;

/// The bytes of a file, read by the operating system as they are touched.
#[derive(Debug)]
pub struct Mapped(memmap2::Mmap);

/// Maps a file that nobody changes while it is mapped. Weights are read once, so a file truncated
/// meanwhile ends the process (`SIGBUS`) rather than corrupting it; replace files by renaming.
///
/// # Errors
/// The operating system's, for example for a directory.
pub fn map_file(file: &File) -> io::Result<Mapped> {
    // SAFETY: the map is private and read-only. That the file is not written meanwhile is the
    // documented condition; the bytes have no invariant that a change could break.
    unsafe { memmap2::Mmap::map(file) }.map(Mapped)
}

// === impl Mapped ===

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
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
        let mapped = map_file(&File::open(&path)?)?;
        std::fs::remove_file(&path)?;
        assert_eq!(&*mapped, b"weights");
        Ok(())
    }
}
