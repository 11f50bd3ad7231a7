//! The shared memory of the ranks of one machine.
//!
//! - **SG-1** the file has a name while ranks still join, and none afterwards: whatever dies later
//!   leaves nothing behind.
//! - **SG-2** ranks of different epochs never share memory: the older is refused. A newer rank that
//!   finds an unfinished older group ends it and takes its name.
//!
//! The name comes from the group's secret, so ranks that do not know it do not meet.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;

use hmac::Mac as _;
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::bell::Bell;
use super::clock::Deadline;
use super::memory::{Memory, PAGE, Place, Shared};
use super::proof;
use super::ring::{Marks, Site};
use crate::error::Cause;
use crate::{GroupSpec, JoinError};

/// The first thing in the file. All zeros until the creator has filled it in.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Header {
    /// 1 once the rest is valid.
    ready: AtomicU32,
    epoch: AtomicU64,
    /// The first bytes of [`GroupSpec::digest`].
    digest: AtomicU64,
    /// A [`Cause`], once the group is over.
    pub(super) cause: AtomicU64,
}

/// What the others know of a rank.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Card {
    /// Wakes the rank.
    pub(super) bell: Bell,
    /// One of [`ABSENT`], [`CLAIMED`] and so on; only grows.
    stage: AtomicU32,
    pid: AtomicU32,
}

/// Stages of a rank, on its card.
const ABSENT: u32 = 0;
/// Somebody is this rank; the process id follows.
const CLAIMED: u32 = 1;
/// The process id can be read.
const NAMED: u32 = 2;
/// It watches the processes of all others.
const WATCHING: u32 = 3;
/// It left.
const LEFT: u32 = 4;

// SAFETY: atomics.
unsafe impl Shared for Header {}
// SAFETY: atomics, one of them in a bell.
unsafe impl Shared for Card {}

/// One rank's hold on the shared memory of its machine.
#[derive(Debug)]
pub(super) struct Segment {
    memory: Arc<Memory>,
    file: File,
    path: PathBuf,
    pub(super) header: Place<Header>,
    cards: Vec<Place<Card>>,
    layout: Layout,
    /// This rank, counted among the ranks of the machine.
    me: usize,
}

/// Where things are: the header, then a card for each rank, the marks of all rings, their bytes.
#[derive(Clone, Copy, Debug)]
struct Layout {
    ranks: usize,
    capacity: usize,
}

// === impl Layout ===

impl Layout {
    fn card(self, index: usize) -> usize {
        PAGE + index * size_of::<Card>()
    }

    fn ring(self, from: usize, to: usize) -> Site {
        let index = from * self.ranks + to;
        let marks = self.card(self.ranks) + index * size_of::<Marks>();
        let bytes = self.rings() + index * self.capacity;
        Site { marks, bytes, capacity: self.capacity }
    }

    /// Bytes before those of the rings.
    fn rings(self) -> usize {
        let marks = self.ranks * self.ranks * size_of::<Marks>();
        (self.card(self.ranks) + marks).next_multiple_of(PAGE)
    }

    /// A hole where the pages of a ring were not reserved.
    fn total(self) -> usize {
        self.rings() + self.ranks * self.ranks * self.capacity
    }
}

// === impl Segment ===

impl Segment {
    /// Opens or creates the segment of `rank`'s machine and claims the rank's card.
    pub(super) fn attach(
        spec: &GroupSpec,
        rank: usize,
        deadline: Deadline,
    ) -> Result<Self, JoinError> {
        let neighbours = spec.neighbours(rank);
        let layout =
            Layout { ranks: neighbours.len(), capacity: spec.buffer_bytes.next_multiple_of(PAGE) };
        let path = path(spec, &spec.members[rank].machine);
        let (file, memory) = open(spec, layout, &path, deadline)?;
        let me = neighbours.iter().position(|&other| other == rank).expect("a neighbour of itself");
        let cards = (0..layout.ranks).map(|index| memory.place(layout.card(index))).collect();
        let segment = Self { header: memory.place(0), memory, file, path, cards, layout, me };
        let stage = &segment.cards[me].stage;
        if stage.compare_exchange(ABSENT, CLAIMED, Ordering::AcqRel, Ordering::Acquire).is_err() {
            let reason = "somebody joined as this rank already".to_owned();
            return Err(JoinError::Refused { rank, reason });
        }
        segment.cards[me].pid.store(std::process::id(), Ordering::Relaxed);
        segment.enter(NAMED);
        Ok(segment)
    }

    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Bytes of every ring.
    pub(super) fn capacity(&self) -> usize {
        self.layout.capacity
    }

    /// This rank's index among the machine's.
    pub(super) fn me(&self) -> usize {
        self.me
    }

    /// The ring between two ranks of the machine, by index.
    pub(super) fn ring(&self, from: usize, to: usize) -> Site {
        self.layout.ring(from, to)
    }

    /// The bell of a rank of the machine, by index.
    pub(super) fn bell(&self, index: usize) -> Place<Bell> {
        // The bell is the first field of a card.
        self.memory.place(self.layout.card(index))
    }

    /// The process of a rank that came.
    pub(super) fn pid(&self, index: usize) -> u32 {
        self.cards[index].pid.load(Ordering::Relaxed)
    }

    pub(super) fn has_come(&self, index: usize) -> bool {
        self.stage(index) >= NAMED
    }

    pub(super) fn is_watching(&self, index: usize) -> bool {
        self.stage(index) >= WATCHING
    }

    pub(super) fn has_left(&self, index: usize) -> bool {
        self.stage(index) == LEFT
    }

    /// This rank watches all others.
    pub(super) fn watching(&self) {
        self.enter(WATCHING);
    }

    /// This rank is gone, whatever the others do.
    pub(super) fn leave(&self) {
        self.enter(LEFT);
    }

    pub(super) fn cause(&self) -> Option<Cause> {
        Cause::from_word(self.header.cause.load(Ordering::Acquire))
    }

    /// Takes the name away (**SG-1**). Harmless when it is gone, or another file's by now.
    pub(super) fn unlink(&self) -> io::Result<()> {
        unlink(&self.file, &self.path)
    }

    fn stage(&self, index: usize) -> u32 {
        self.cards[index].stage.load(Ordering::Acquire)
    }

    fn enter(&self, stage: u32) {
        self.cards[self.me].stage.store(stage, Ordering::Release);
        self.cards.iter().for_each(|card| card.bell.ring());
    }
}

/// The file of a ready segment of this epoch, and the memory in it.
fn open(
    spec: &GroupSpec,
    layout: Layout,
    path: &Path,
    deadline: Deadline,
) -> Result<(File, Arc<Memory>), JoinError> {
    let failed = |error: io::Error| JoinError::system(format!("open {}", path.display()), error);
    loop {
        match options().create_new(true).open(path) {
            Ok(file) => {
                return create(&file, spec, layout)
                    .map(|memory| (file, memory))
                    .inspect_err(|_| drop(std::fs::remove_file(path)))
                    .map_err(|error| {
                        let bytes = layout.rings();
                        let action = format!("reserve {bytes} bytes of {}", path.display());
                        JoinError::system(action, error)
                    });
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(error)),
        }
        let file = match options().open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(failed(error)),
        };
        let header = await_header(&file, path, deadline)?;
        let theirs = header.epoch.load(Ordering::Relaxed);
        if theirs < spec.epoch {
            // Its ranks look at the cause at least every few milliseconds.
            header.cause.store(Cause::Aborted { by: 0 }.to_word(), Ordering::Release);
            unlink(&file, path).map_err(failed)?;
            continue;
        }
        if theirs > spec.epoch {
            return Err(JoinError::Epoch { ours: spec.epoch, theirs });
        }
        if header.digest.load(Ordering::Relaxed) != short_digest(spec) {
            let reason = format!("{} was made for other members or buffers", path.display());
            return Err(JoinError::Invalid(reason));
        }
        let map = file.try_clone().and_then(|file| Memory::of_file(file, layout.total()));
        return Ok((file, map.map_err(failed)?));
    }
}

fn create(file: &File, spec: &GroupSpec, layout: Layout) -> io::Result<Arc<Memory>> {
    // Makes the file long enough for a header only once its pages exist.
    let flags = rustix::fs::FallocateFlags::empty();
    rustix::fs::fallocate(file, flags, 0, layout.rings() as u64)?;
    file.set_len(layout.total() as u64)?;
    let memory = Memory::of_file(file.try_clone()?, layout.total())?;
    let header = memory.place::<Header>(0);
    header.epoch.store(spec.epoch, Ordering::Relaxed);
    header.digest.store(short_digest(spec), Ordering::Relaxed);
    header.ready.store(1, Ordering::Release);
    Ok(memory)
}

/// The header of a file that somebody else creates.
fn await_header(file: &File, path: &Path, deadline: Deadline) -> Result<Place<Header>, JoinError> {
    let failed = |error: io::Error| JoinError::system(format!("read {}", path.display()), error);
    let mut header = None;
    loop {
        if header.is_none() && file.metadata().map_err(failed)?.len() >= PAGE as u64 {
            let map = file.try_clone().and_then(|file| Memory::of_file(file, PAGE));
            header = Some(map.map_err(failed)?.place::<Header>(0));
        }
        let ready = header.take_if(|header| header.ready.load(Ordering::Acquire) == 1);
        if let Some(header) = ready {
            return Ok(header);
        }
        if deadline.has_passed() {
            unlink(file, path).map_err(failed)?;
            let reason = "its creator died before it was ready; join again";
            return Err(JoinError::system(format!("use {}", path.display()), reason));
        }
        // The creator is between two system calls.
        thread::yield_now();
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    options
}

fn path(spec: &GroupSpec, machine: &str) -> PathBuf {
    let mut name = proof::keyed(&spec.secret, "segment");
    name.update(&(spec.group.len() as u64).to_le_bytes());
    name.update(spec.group.as_bytes());
    name.update(machine.as_bytes());
    let name = name.finalize().into_bytes();
    let name: String = name.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    Path::new("/dev/shm").join(format!("playhouse-{name}"))
}

fn short_digest(spec: &GroupSpec) -> u64 {
    let digest = spec.digest();
    u64::from_le_bytes(digest[..8].try_into().expect("8 bytes"))
}

/// Removes `path` if it still names `file`. Everybody who unlinks holds the lock of the file that
/// the path names, so the path cannot change between the look and the act.
fn unlink(file: &File, path: &Path) -> io::Result<()> {
    loop {
        match rustix::fs::flock(file, FlockOperation::LockExclusive) {
            Err(Errno::INTR) => {}
            locked => break locked?,
        }
    }
    let is_same = std::fs::metadata(path).is_ok_and(|there| {
        file.metadata().is_ok_and(|here| (here.dev(), here.ino()) == (there.dev(), there.ino()))
    });
    let removed = if is_same { std::fs::remove_file(path) } else { Ok(()) };
    rustix::fs::flock(file, FlockOperation::Unlock)?;
    removed
}
