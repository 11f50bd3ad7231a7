//! Memory that several threads or processes use at once, and the values in it.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::FallocateFlags;

/// The page size: ranges are reserved, and rings are laid out, in whole pages.
pub(super) const PAGE: usize = 4096;

/// Zero-initialised memory that does not move.
#[derive(Debug)]
pub(super) struct Memory {
    map: MmapRaw,
    /// File of the memory; `None` where the memory belongs to this process alone.
    file: Option<File>,
}

/// A value inside a [`Memory`], which the reference keeps mapped.
#[derive(Debug)]
pub(super) struct Place<T> {
    memory: Arc<Memory>,
    value: NonNull<T>,
}

/// A type that lives in shared memory.
///
/// # Safety
/// Every bit pattern is a valid value, zeros among them, and all access goes through atomics.
pub(super) unsafe trait Shared: Sync {}

// SAFETY: a place gives `&T` only, `T` is `Sync`, and the memory does not move.
unsafe impl<T: Shared> Send for Place<T> {}
// SAFETY: as above.
unsafe impl<T: Shared> Sync for Place<T> {}

// === impl Memory ===

impl Memory {
    /// Returns memory of this process alone. Pages that are not touched cost nothing.
    pub(super) fn private(len: usize) -> io::Result<Arc<Self>> {
        let map = MmapOptions::new().len(len).map_anon()?.into();
        Ok(Arc::new(Self { map, file: None }))
    }

    /// Maps the first `len` bytes of a file, which has at least as many.
    pub(super) fn of_file(file: File, len: usize) -> io::Result<Arc<Self>> {
        let map = MmapOptions::new().len(len).map_raw(&file)?;
        Ok(Arc::new(Self { map, file: Some(file) }))
    }

    /// Makes sure that the pages of a range exist. Without room in the file system this is an error, where a
    /// write to a missing page would end the process (`SIGBUS`).
    pub(super) fn reserve(&self, offset: usize, len: usize) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), offset as u64, len as u64)?)
    }

    /// Returns the value at `offset`.
    pub(super) fn place<T: Shared>(self: &Arc<Self>, offset: usize) -> Place<T> {
        let start = self.bytes(offset, size_of::<T>()).cast::<T>();
        assert!(start.is_aligned(), "offset {offset} for an alignment of {}", align_of::<T>());
        Place { memory: Arc::clone(self), value: start }
    }

    /// Returns the address of the `len` bytes at `offset`.
    pub(super) fn bytes(&self, offset: usize, len: usize) -> NonNull<u8> {
        let end = offset.checked_add(len).expect("an offset in memory");
        assert!(end <= self.map.len(), "{offset} + {len} is outside of {} bytes", self.map.len());
        let start = NonNull::new(self.map.as_mut_ptr()).expect("a map has an address");
        // SAFETY: inside of the map.
        unsafe { start.add(offset) }
    }
}

// === impl Place ===

impl<T> Clone for Place<T> {
    fn clone(&self) -> Self {
        Self { memory: Arc::clone(&self.memory), value: self.value }
    }
}

impl<T: Shared> Deref for Place<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: inside of the memory and aligned (checked by `place`), valid by `Shared`.
        unsafe { self.value.as_ref() }
    }
}
