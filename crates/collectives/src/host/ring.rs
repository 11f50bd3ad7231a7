//! A ring of bytes with one writer and one reader, in memory that both map.
//!
//! - **RI-1** the reader sees the bytes that were written, in order, each once; unpublished bytes are not
//!   seen.
//! - **RI-2** no count found in shared memory leads outside of the ring: an impossible count reads as "full"
//!   or "all there", and the message found there is refused later.
//!
//! Not here: waiting (see `watch`), and the meaning of the bytes (see `lane`).

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::bell::Bell;
use super::memory::{Memory, Place, Shared};

/// Positions in a ring are counted in lines, so that no element lies across its end.
pub(super) const LINE: usize = 64;

/// The positions of both ends, in bytes since the start, on cache lines of their own (two each: processors
/// fetch lines in pairs).
#[derive(Debug)]
#[repr(C)]
pub(super) struct Marks {
    written: Mark,
    read: Mark,
}

#[derive(Debug)]
#[repr(C, align(128))]
struct Mark(AtomicU64);

// SAFETY: two atomics.
unsafe impl Shared for Marks {}

/// The place of a ring in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site {
    /// Offset of the [`Marks`].
    pub(super) marks: usize,
    /// Offset of the bytes.
    pub(super) bytes: usize,
    /// Size in bytes; a multiple of the page size.
    pub(super) capacity: usize,
}

#[derive(Debug)]
struct Ring {
    marks: Place<Marks>,
    start: NonNull<u8>,
    capacity: usize,
}

// SAFETY: `start` points into the memory that `marks` keeps mapped. The writer touches bytes between
// the marks `read + capacity` and `written` only, the reader those between `read` and `written`.
unsafe impl Send for Ring {}

/// The writing end of a ring. Each ring has one.
#[derive(Debug)]
pub(super) struct Writer {
    ring: Ring,
    /// Bytes written so far, published or not.
    at: u64,
    /// The reader's mark when the writer last read it.
    read: u64,
    /// Bell that wakes the reader.
    bell: Place<Bell>,
}

/// The reading end of a ring. Each ring has one.
#[derive(Debug)]
pub(super) struct Reader {
    ring: Ring,
    /// Bytes read so far.
    at: u64,
    /// The writer's mark when the reader last read it.
    written: u64,
    /// Bell that wakes the writer.
    bell: Place<Bell>,
}

/// Returns a length rounded up to whole lines.
pub(super) fn padded(len: usize) -> usize {
    len.next_multiple_of(LINE)
}

// === impl Ring ===

impl Ring {
    fn new(memory: &Arc<Memory>, site: Site) -> Self {
        let start = memory.bytes(site.bytes, site.capacity);
        Self { marks: memory.place(site.marks), start, capacity: site.capacity }
    }

    /// Returns the `len` bytes from position `at`, in one or two parts: offset and length of each.
    fn parts(&self, at: u64, len: usize) -> [(usize, usize); 2] {
        assert!(len <= self.capacity, "{len} bytes of a ring of {}", self.capacity);
        let offset = (at % self.capacity as u64) as usize;
        let first = len.min(self.capacity - offset);
        [(offset, first), (0, len - first)]
    }
}

// === impl Writer ===

impl Writer {
    /// Returns the writing end of the fresh ring at `site`, whose pages exist; `bell` wakes the reader.
    pub(super) fn new(memory: &Arc<Memory>, site: Site, bell: Place<Bell>) -> Self {
        Self { ring: Ring::new(memory, site), at: 0, read: 0, bell }
    }

    /// Returns the number of bytes for which there is room.
    pub(super) fn room(&mut self) -> usize {
        self.read = self.ring.marks.read.0.load(Ordering::Acquire);
        self.known_room()
    }

    /// Returns whether there is room for `len` bytes.
    pub(super) fn has_room(&mut self, len: usize) -> bool {
        self.known_room() >= len || self.room() >= len
    }

    fn known_room(&self) -> usize {
        let unread = usize::try_from(self.at.wrapping_sub(self.read)).unwrap_or(usize::MAX);
        self.ring.capacity.saturating_sub(unread)
    }

    /// Returns the next `len` bytes to write, for which there is room.
    pub(super) fn vacant(&mut self, len: usize) -> [&mut [u8]; 2] {
        assert!(len <= self.known_room(), "{len} bytes where {} fit", self.known_room());
        self.ring.parts(self.at, len).map(|(offset, len)| {
            // SAFETY: inside of the ring; the two parts are disjoint; the reader has left these
            // bytes (its mark was read with `Acquire`) and does not look until they are published.
            unsafe { std::slice::from_raw_parts_mut(self.ring.start.as_ptr().add(offset), len) }
        })
    }

    /// Counts `len` bytes as written.
    pub(super) fn advance(&mut self, len: usize) {
        self.at += len as u64;
    }

    /// Writes bytes for which there is room, and pads them to whole lines.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        let [first, second] = self.vacant(bytes.len());
        let (head, tail) = bytes.split_at(first.len());
        first.copy_from_slice(head);
        second.copy_from_slice(tail);
        self.advance(padded(bytes.len()));
    }

    /// Makes the written bytes visible to the reader.
    pub(super) fn publish(&mut self) {
        self.ring.marks.written.0.store(self.at, Ordering::Release);
        self.bell.ring();
    }
}

// === impl Reader ===

impl Reader {
    /// Returns the reading end of the fresh ring at `site`; `bell` wakes the writer.
    pub(super) fn new(memory: &Arc<Memory>, site: Site, bell: Place<Bell>) -> Self {
        Self { ring: Ring::new(memory, site), at: 0, written: 0, bell }
    }

    /// Returns the number of bytes that can be read.
    pub(super) fn available(&mut self) -> usize {
        self.written = self.ring.marks.written.0.load(Ordering::Acquire);
        self.known()
    }

    /// Returns whether `len` bytes can be read.
    pub(super) fn has(&mut self, len: usize) -> bool {
        self.known() >= len || self.available() >= len
    }

    fn known(&self) -> usize {
        let unread = usize::try_from(self.written.wrapping_sub(self.at)).unwrap_or(usize::MAX);
        unread.min(self.ring.capacity)
    }

    /// Returns `len` bytes that can be read, from `offset` after the next byte.
    pub(super) fn peek(&self, offset: usize, len: usize) -> [&[u8]; 2] {
        assert!(offset + len <= self.known(), "{offset} + {len} bytes of {}", self.known());
        self.ring.parts(self.at + offset as u64, len).map(|(offset, len)| {
            // SAFETY: inside of the ring; the writer has published these bytes (its mark was read
            // with `Acquire`) and leaves them alone until this reader's mark has passed them.
            unsafe { std::slice::from_raw_parts(self.ring.start.as_ptr().add(offset), len) }
        })
    }

    /// Frees `len` bytes that could be read for the writer.
    pub(super) fn consume(&mut self, len: usize) {
        assert!(len <= self.known(), "{len} bytes of {}", self.known());
        self.at += len as u64;
        self.ring.marks.read.0.store(self.at, Ordering::Release);
        self.bell.ring();
    }
}

#[cfg(test)]
mod tests;
