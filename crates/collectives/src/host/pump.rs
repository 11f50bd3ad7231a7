//! The pump of a ring whose far end is on another machine: two threads move the ring's bytes over a
//! connection.
//!
//! - **PU-1** bytes that a rank wrote before it left arrive before the rank is seen to have left.
//! - **PU-2** the end of a group crosses machines: the last frame carries its cause.
//!
//! Nothing is buffered beyond the rings: when the reader's ring is full, the connection fills up, and then
//! the writer's ring.

use std::io::{self, IoSlice, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::bell::Bell;
use super::clock::Deadline;
use super::frame::{FRAME_BYTES_MAX, FrameKind, Frames, HEADER_BYTES};
use super::fuse::Fuse;
use super::memory::{Memory, PAGE, Place};
use super::ring::{Marks, Reader, Site, Writer};
use crate::GroupSpec;
use crate::error::Cause;

/// The longest sleep of an idle thread: every event rings its bell.
const NAP: Duration = Duration::from_secs(1);
/// Time between checks whether the group is over, while the peer does not read.
const CLOGGED: Duration = Duration::from_millis(100);

/// The rings and bells of a connection, before its threads run.
#[derive(Debug)]
pub(super) struct Rings {
    memory: Arc<Memory>,
    capacity: usize,
}

/// The threads of a connection.
#[derive(Debug)]
pub(super) struct Pump {
    wire: Arc<Wire>,
    outward: Option<JoinHandle<()>>,
    inward: Option<JoinHandle<()>>,
}

/// The state that both threads of a connection share.
#[derive(Debug)]
struct Wire {
    stream: TcpStream,
    epoch: u64,
    /// Timeout of the group.
    timeout: Duration,
    fuse: Arc<Fuse>,
    /// Whether the rank is leaving: send what is buffered, then a farewell, and end.
    closing: AtomicBool,
    /// Whether no byte will arrive any more.
    gone: Arc<AtomicBool>,
    /// Bells that wake the rank, the sending thread and the receiving thread.
    rank: Place<Bell>,
    outward: Place<Bell>,
    inward: Place<Bell>,
}

// === impl Rings ===

impl Rings {
    pub(super) fn new(capacity: usize) -> io::Result<Self> {
        Ok(Self { memory: Memory::private(PAGE + 2 * capacity)?, capacity })
    }

    /// Returns the bell that wakes the sending thread.
    pub(super) fn outward(&self) -> Place<Bell> {
        self.memory.place(0)
    }

    /// Returns the bell that wakes the receiving thread.
    pub(super) fn inward(&self) -> Place<Bell> {
        self.memory.place(size_of::<Bell>())
    }

    fn site(&self, index: usize) -> Site {
        let marks = 2 * size_of::<Bell>() + index * size_of::<Marks>();
        Site { marks, bytes: PAGE + index * self.capacity, capacity: self.capacity }
    }

    /// Returns the ends of the rings that the rank uses.
    pub(super) fn rank_ends(&self) -> (Writer, Reader) {
        let writer = Writer::new(&self.memory, self.site(0), self.outward());
        let reader = Reader::new(&self.memory, self.site(1), self.inward());
        (writer, reader)
    }
}

// === impl Pump ===

impl Pump {
    /// Starts the threads between `rings` and `stream`. `rank` is the bell of the rank; it is also rung when
    /// `gone` becomes true.
    pub(super) fn start(
        rings: &Rings,
        stream: TcpStream,
        spec: &GroupSpec,
        fuse: Arc<Fuse>,
        rank: Place<Bell>,
        gone: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(Some(CLOGGED))?;
        let from_rank = Reader::new(&rings.memory, rings.site(0), rank.clone());
        let to_rank = Writer::new(&rings.memory, rings.site(1), rank.clone());
        let (outward, inward) = (rings.outward(), rings.inward());
        let (epoch, timeout, closing) = (spec.epoch, spec.timeout, AtomicBool::new(false));
        let wire =
            Arc::new(Wire { stream, epoch, timeout, fuse, closing, gone, rank, outward, inward });
        let mut pump = Self { wire: Arc::clone(&wire), outward: None, inward: None };
        let thread = |name: &str| thread::Builder::new().name(name.to_owned());
        pump.inward = Some(thread("collective-in").spawn(move || wire.receive(to_rank))?);
        let wire = Arc::clone(&pump.wire);
        pump.outward = Some(thread("collective-out").spawn(move || wire.send(from_rank))?);
        Ok(pump)
    }

    /// Begins to leave: bytes in the ring are still sent.
    pub(super) fn close(&self) {
        self.wire.closing.store(true, Ordering::Release);
        self.wire.outward.ring();
    }
}

impl Drop for Pump {
    /// Waits for the peer to read what is left, at most for the group's timeout; only a moment if the group
    /// is over.
    fn drop(&mut self) {
        self.close();
        // The threads do not panic: they return what goes wrong.
        let _ = self.outward.take().map(JoinHandle::join);
        // An error says that the connection is shut down already.
        let _ = self.wire.stream.shutdown(Shutdown::Both);
        self.wire.inward.ring();
        let _ = self.inward.take().map(JoinHandle::join);
    }
}

// === impl Wire ===

impl Wire {
    /// Runs the sending thread.
    fn send(&self, mut ring: Reader) {
        // When the connection breaks, the receiving thread hangs up: what the peer said before, such
        // as that the group is over, may still be there to be read.
        let _ = self.send_frames(&mut ring);
    }

    fn send_frames(&self, ring: &mut Reader) -> io::Result<()> {
        let mut frames = Frames::new(self.epoch);
        loop {
            // In this order: what was written before the rank left is there when it is seen leaving.
            let is_closing = self.closing.load(Ordering::Acquire);
            let len = ring.available().min(FRAME_BYTES_MAX);
            if let Some(cause) = self.fuse.cause() {
                let header = frames.announce(FrameKind::Abort, 8);
                self.write([&header, &cause.to_word().to_le_bytes(), &[]])?;
                return self.stream.shutdown(Shutdown::Write);
            }
            if len > 0 {
                let header = frames.announce(FrameKind::Data, len);
                let [first, second] = ring.peek(0, len);
                self.write([&header, first, second])?;
                ring.consume(len);
            } else if is_closing {
                self.write([&frames.announce(FrameKind::Bye, 0), &[], &[]])?;
                return self.stream.shutdown(Shutdown::Write);
            } else {
                self.outward.sleep_unless(NAP, || {
                    ring.available() > 0
                        || self.closing.load(Ordering::Acquire)
                        || self.fuse.cause().is_some()
                });
            }
        }
    }

    /// Runs the receiving thread. However the thread ends, no byte arrives afterwards.
    fn receive(&self, mut ring: Writer) {
        // A peer that breaks the connection or the protocol is lost; the difference does not matter.
        let _ = self.receive_frames(&mut ring);
        self.hang_up();
    }

    fn receive_frames(&self, ring: &mut Writer) -> io::Result<()> {
        let mut frames = Frames::new(self.epoch);
        let mut header = [0; HEADER_BYTES];
        loop {
            (&self.stream).read_exact(&mut header)?;
            let frame = frames.accept(&header).map_err(|_| io::ErrorKind::InvalidData)?;
            match frame {
                (FrameKind::Data, len) => self.receive_data(ring, len)?,
                (FrameKind::Bye, _) => return Ok(()),
                (FrameKind::Abort, _) => {
                    let mut word = [0; 8];
                    (&self.stream).read_exact(&mut word)?;
                    if let Some(cause) = Cause::from_word(u64::from_le_bytes(word)) {
                        self.fuse.blow(cause);
                    }
                    return Ok(());
                }
            }
        }
    }

    fn receive_data(&self, ring: &mut Writer, mut len: usize) -> io::Result<()> {
        let is_over = || self.closing.load(Ordering::Acquire) || self.fuse.cause().is_some();
        while len > 0 {
            let room = ring.room().min(len);
            if room == 0 {
                if is_over() {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                self.inward.sleep_unless(NAP, || ring.room() > 0 || is_over());
                continue;
            }
            for part in ring.vacant(room) {
                (&self.stream).read_exact(part)?;
            }
            ring.advance(room);
            ring.publish();
            len -= room;
        }
        Ok(())
    }

    /// Writes three slices with one call where possible. Waits for a peer that does not read, but not if the
    /// group is over, nor for long once this rank has left.
    fn write(&self, slices: [&[u8]; 3]) -> io::Result<()> {
        let (mut rest, mut patience) = (slices.map(IoSlice::new), None);
        let mut rest = rest.as_mut_slice();
        while rest.iter().any(|slice| !slice.is_empty()) {
            match (&self.stream).write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => IoSlice::advance_slices(&mut rest, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                Err(clogged) if self.fuse.cause().is_some() => return Err(clogged),
                Err(clogged) if self.closing.load(Ordering::Acquire) => {
                    let leaving = *patience.get_or_insert_with(|| Deadline::after(self.timeout));
                    if leaving.has_passed() {
                        return Err(clogged);
                    }
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn hang_up(&self) {
        self.gone.store(true, Ordering::Release);
        self.rank.ring();
    }
}
