//! The frames that machines exchange once both ends have proved themselves.
//!
//! - **FR-1** a frame counts only if it carries the connection's epoch, the next number and a length
//!   within [`FRAME_BYTES_MAX`]; anything else ends the connection.
//!
//! A frame is a header of 24 bytes, little-endian (epoch, number, kind, length), and its bytes.

/// Bytes of a header.
pub(super) const HEADER_BYTES: usize = 24;
/// Bytes of a frame, without its header.
pub(super) const FRAME_BYTES_MAX: usize = 64 << 10;

/// The purpose of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameKind {
    /// Bytes of the ring.
    Data,
    /// The sender has left; no frame follows.
    Bye,
    /// The group is over; the 8 bytes are its cause. No frame follows.
    Abort,
}

/// An error: a frame was announced that cannot come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BadFrame;

/// One direction of a connection: the number of frames so far.
#[derive(Debug)]
pub(super) struct Frames {
    epoch: u64,
    next: u64,
}

// === impl Frames ===

impl Frames {
    pub(super) fn new(epoch: u64) -> Self {
        Self { epoch, next: 0 }
    }

    /// Returns the header of the next frame.
    pub(super) fn announce(&mut self, kind: FrameKind, len: usize) -> [u8; HEADER_BYTES] {
        let number = self.next;
        self.next += 1;
        let kind: u32 = match kind {
            FrameKind::Data => 1,
            FrameKind::Bye => 2,
            FrameKind::Abort => 3,
        };
        let len = u32::try_from(len).expect("a frame has at most 64 KiB");
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&self.epoch.to_le_bytes());
        header[8..16].copy_from_slice(&number.to_le_bytes());
        header[16..20].copy_from_slice(&kind.to_le_bytes());
        header[20..].copy_from_slice(&len.to_le_bytes());
        header
    }

    /// Returns kind and length that a received header announces (**FR-1**).
    pub(super) fn accept(
        &mut self,
        header: &[u8; HEADER_BYTES],
    ) -> Result<(FrameKind, usize), BadFrame> {
        let long = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        let short = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
        if long(0) != self.epoch || long(8) != self.next {
            return Err(BadFrame);
        }
        self.next += 1;
        let len = short(20) as usize;
        match short(16) {
            1 if (1..=FRAME_BYTES_MAX).contains(&len) => Ok((FrameKind::Data, len)),
            2 if len == 0 => Ok((FrameKind::Bye, len)),
            3 if len == 8 => Ok((FrameKind::Abort, len)),
            _ => Err(BadFrame),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_accepted_in_order_only() {
        let (mut out, mut back) = (Frames::new(7), Frames::new(7));
        let first = out.announce(FrameKind::Data, FRAME_BYTES_MAX);
        let second = out.announce(FrameKind::Abort, 8);
        assert_eq!(back.accept(&second), Err(BadFrame), "out of order");
        assert_eq!(back.accept(&first), Ok((FrameKind::Data, FRAME_BYTES_MAX)));
        assert_eq!(back.accept(&first), Err(BadFrame), "twice");
        assert_eq!(back.accept(&second), Ok((FrameKind::Abort, 8)));
    }

    #[test]
    fn frames_of_another_epoch_are_refused() {
        let header = Frames::new(6).announce(FrameKind::Data, 1);
        assert_eq!(Frames::new(7).accept(&header), Err(BadFrame));
    }

    #[test]
    fn lengths_and_kinds_out_of_range_are_refused() {
        for (kind, len) in
            [(FrameKind::Data, FRAME_BYTES_MAX + 1), (FrameKind::Data, 0), (FrameKind::Bye, 1)]
        {
            let header = Frames::new(1).announce(kind, len);
            assert_eq!(Frames::new(1).accept(&header), Err(BadFrame), "{kind:?} {len}");
        }
        let mut header = Frames::new(1).announce(FrameKind::Data, 1);
        header[16] = 9;
        assert_eq!(Frames::new(1).accept(&header), Err(BadFrame));
    }
}
