//! Working memory of kernels, kept between calls so that a step does not cause page faults again.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// One register of 16 lanes in memory: a cache line.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [f32; 16]);

/// The buffers that are not in use, at most `kept` of them.
#[derive(Debug)]
pub(crate) struct Scratch {
    free: Mutex<Vec<Vec<Line>>>,
    kept: usize,
}

/// A borrowed buffer, with the content that its last user left.
pub(crate) struct Lines<'a> {
    lines: Vec<Line>,
    home: &'a Scratch,
}

// === impl Line ===

impl Line {
    pub(crate) const ZERO: Self = Self([0.0; 16]);
}

// === impl Scratch ===

impl Scratch {
    pub(crate) fn new(kept: usize) -> Self {
        Self { free: Mutex::new(Vec::with_capacity(kept)), kept }
    }

    /// Returns a buffer of `len` lines with unspecified content.
    pub(crate) fn lines(&self, len: usize) -> Lines<'_> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest that fits, else the largest, so that sizes settle.
        let fitting = (0..free.len())
            .min_by_key(|&index| {
                let capacity = free[index].len();
                if capacity >= len { (false, capacity) } else { (true, usize::MAX - capacity) }
            })
            .map(|index| free.swap_remove(index));
        drop(free);
        let mut lines = fitting.unwrap_or_default();
        if lines.len() < len {
            // Grow without copying contents that are not read again.
            lines.clear();
            lines.resize(len, Line::ZERO);
        }
        Lines { lines, home: self }
    }
}

// === impl Lines ===

impl Deref for Lines<'_> {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        &self.lines
    }
}

impl DerefMut for Lines<'_> {
    fn deref_mut(&mut self) -> &mut [Line] {
        &mut self.lines
    }
}

impl Lines<'_> {
    /// Returns the lines as plain numbers, 16 to a line.
    pub(crate) fn floats(&self) -> &[f32] {
        // SAFETY: a line is 16 `f32` without padding (`repr(C)`, 64 bytes).
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), 16 * self.lines.len()) }
    }

    /// Returns the lines as plain numbers, 16 to a line.
    pub(crate) fn floats_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and borrowed mutably.
        unsafe {
            std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), 16 * self.lines.len())
        }
    }
}

impl Drop for Lines<'_> {
    fn drop(&mut self) {
        let mut free = self.home.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < self.home.kept {
            free.push(std::mem::take(&mut self.lines));
        }
    }
}
