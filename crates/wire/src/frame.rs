//! Frames: a header of [`HEADER_BYTES`] bytes, then one message.
//!
//! ```text
//! byte 0      the kind's number
//! bytes 1..4  zero
//! bytes 4..8  length of the message, little-endian
//! ```

use rkyv::util::AlignedVec;

use crate::Kind;

/// The number of bytes before each message.
pub const HEADER_BYTES: usize = 8;

/// The memory that is allocated because of a header alone; more is allocated as bytes arrive (**W-1**).
const TRUSTED_BYTES: usize = 64 * 1024;

/// One encoded message, aligned for validation in place.
#[derive(Clone, Debug)]
pub struct Frame {
    pub(crate) kind: Kind,
    pub(crate) message: AlignedVec,
}

/// A decoder that assembles frames from pieces of any size. After an error its stream cannot be used.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    header: [u8; HEADER_BYTES],
    header_filled: usize,
    message: AlignedVec,
}

/// The reason why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No message has this number.
    #[error("a frame begins with {0:#04x}, which is no kind of message of this version")]
    UnknownKind(u8),
    /// The bytes between kind and length are zero in every frame.
    #[error("a {kind} frame has {given:02x?} in its reserved bytes, which must be zero")]
    Reserved {
        /// The kind in the header.
        kind: Kind,
        /// The reserved bytes.
        given: [u8; 3],
    },
    /// The message is longer than its kind allows.
    #[error("a {kind} frame announces {bytes} bytes; at most {max} are allowed")]
    TooLarge {
        /// The kind in the header.
        kind: Kind,
        /// The length in the header.
        bytes: u32,
        /// The maximum, [`Kind::bytes_max`].
        max: u32,
    },
    /// The stream ended inside a frame.
    #[error("the stream ended {missing} bytes before the end of a frame")]
    Truncated {
        /// The minimum number of missing bytes.
        missing: usize,
    },
}

// === impl Frame ===

impl Frame {
    /// Returns the kind of the message.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns a frame of these bytes, valid or not, for tests of decoders.
    #[must_use]
    pub fn raw(kind: Kind, bytes: &[u8]) -> Self {
        let mut message = AlignedVec::with_capacity(bytes.len());
        message.extend_from_slice(bytes);
        Self { kind, message }
    }
}

/// Returns the header of a message of `bytes` bytes.
pub(crate) fn header(kind: Kind, bytes: u32) -> [u8; HEADER_BYTES] {
    let [a, b, c, d] = bytes.to_le_bytes();
    [kind as u8, 0, 0, 0, a, b, c, d]
}

// === impl FrameDecoder ===

impl FrameDecoder {
    /// Takes bytes up to the end of the current frame. Returns how many were taken, and the frame if it
    /// is complete; the remaining bytes belong to the next frame.
    ///
    /// # Errors
    /// Returns a [`FrameError`] when the header is invalid.
    pub fn feed(&mut self, input: &[u8]) -> Result<(usize, Option<Frame>), FrameError> {
        let head = input.len().min(HEADER_BYTES - self.header_filled);
        self.header[self.header_filled..self.header_filled + head].copy_from_slice(&input[..head]);
        self.header_filled += head;
        if self.header_filled < HEADER_BYTES {
            return Ok((head, None));
        }
        let (kind, bytes) = self.announced()?;
        let missing = bytes - self.message.len();
        if self.message.is_empty() {
            self.message.reserve(bytes.min(TRUSTED_BYTES));
        }
        let body = missing.min(input.len() - head);
        self.message.extend_from_slice(&input[head..head + body]);
        if body < missing {
            return Ok((head + body, None));
        }
        self.header_filled = 0;
        let message = std::mem::take(&mut self.message);
        Ok((head + body, Some(Frame { kind, message })))
    }

    /// Checks the end of the stream; to be called when the stream ends.
    ///
    /// # Errors
    /// Returns a [`FrameError`] when the stream ends inside a frame.
    pub fn end(&self) -> Result<(), FrameError> {
        let missing = match self.header_filled {
            0 => return Ok(()),
            HEADER_BYTES => self.announced()?.1 - self.message.len(),
            filled => HEADER_BYTES - filled,
        };
        Err(FrameError::Truncated { missing })
    }

    fn announced(&self) -> Result<(Kind, usize), FrameError> {
        let [number, r0, r1, r2, length @ ..] = self.header;
        let kind = Kind::from_number(number).ok_or(FrameError::UnknownKind(number))?;
        if [r0, r1, r2] != [0; 3] {
            return Err(FrameError::Reserved { kind, given: [r0, r1, r2] });
        }
        let (bytes, max) = (u32::from_le_bytes(length), kind.bytes_max());
        if bytes > max {
            return Err(FrameError::TooLarge { kind, bytes, max });
        }
        Ok((kind, bytes as usize))
    }
}
