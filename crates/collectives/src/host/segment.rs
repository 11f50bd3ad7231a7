//! The shared memory of the ranks of one machine.
//!
//! - **SG-1** the file has a name while ranks still join, and none afterwards: a process that dies later
//!   leaves nothing behind. The file gets its name in one system call, once it is ready for other ranks.
//! - **SG-2** ranks of different epochs never share memory: the older rank is refused. A newer rank that
//!   finds an unfinished older group ends that group and takes over its name.
//! - **SG-3** a name is removed once, by the rank that takes the right to do so out of the header, so that no
//!   rank removes the name of a later file.
//! - **SG-4** a rank holds a shared lock of the file as long as it uses the file; the kernel releases the
//!   lock however the rank ends. [`sweep`] removes names of files that no process holds, which are left when
//!   every rank that had joined was killed: it locks them exclusively, so it never removes one in use. A rank
//!   that gets its lock after that finds the name gone.
//! - **SG-5** a rank has reserved every page that it writes before other ranks count on that page, so that a
//!   full file system is an error of joining and never a signal (`SIGBUS`).
//!
//! The name comes from the group's secret, so ranks that do not know the secret do not meet.

mod file;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use hmac::Mac as _;

use self::file::{FOLDER, PREFIX, is_named, name_file, nameless, remove_unheld, try_hold};
use super::abort::AbortHandle;
use super::bell::Bell;
use super::clock::Deadline;
use super::memory::{Memory, PAGE, Place, Shared};
use super::proof;
use super::ring::{Marks, Site};
use crate::error::Cause;
use crate::{GroupSpec, JoinError};

pub use self::file::sweep;

/// Time between checks of a name that is about to be removed, or of a file that is being swept.
const RETRY: Duration = Duration::from_millis(1);

/// The header at the start of the file.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Header {
    /// 1 until a rank takes the right to remove the file's name (**SG-3**).
    named: AtomicU32,
    epoch: AtomicU64,
    /// The first bytes of [`GroupSpec::digest`].
    digest: AtomicU64,
    /// A [`Cause`], once the group is over.
    pub(super) cause: AtomicU64,
}

/// The state of a rank that other ranks can see.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Card {
    /// Bell that wakes the rank.
    pub(super) bell: Bell,
    /// One of [`ABSENT`], [`CLAIMED`] and so on; only increases.
    stage: AtomicU32,
    pid: AtomicU32,
}

/// The stages of a rank, on its card. The rank has not come.
const ABSENT: u32 = 0;
/// A process is this rank; its id follows.
const CLAIMED: u32 = 1;
/// The process id can be read.
const NAMED: u32 = 2;
/// The rank watches the processes of all others.
const WATCHING: u32 = 3;
/// The rank left.
const LEFT: u32 = 4;

// SAFETY: atomics.
unsafe impl Shared for Header {}
// SAFETY: atomics, one of them in a bell.
unsafe impl Shared for Card {}

/// One rank's access to the shared memory of its machine.
#[derive(Debug)]
pub(super) struct Segment {
    /// Memory with its file, and with that the lock (**SG-4**).
    memory: Arc<Memory>,
    path: PathBuf,
    pub(super) header: Place<Header>,
    cards: Vec<Place<Card>>,
    layout: Layout,
    /// Index of this rank among the ranks of the machine.
    me: usize,
}

/// The layout of the file: the header, then a card for each rank, the marks of all rings, their bytes.
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

    /// Returns the number of bytes before those of the rings.
    fn rings(self) -> usize {
        let marks = self.ranks * self.ranks * size_of::<Marks>();
        (self.card(self.ranks) + marks).next_multiple_of(PAGE)
    }

    /// Returns the size of the file, with a hole where the pages of a ring were not reserved.
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
        abort: &AbortHandle,
    ) -> Result<Self, JoinError> {
        let neighbours = spec.neighbours(rank);
        let layout =
            Layout { ranks: neighbours.len(), capacity: spec.buffer_bytes.next_multiple_of(PAGE) };
        let path = path(spec, &spec.members[rank].machine);
        let memory = Opening { spec, rank, layout, path: &path, deadline, abort }.open()?;
        let me = neighbours.iter().position(|&other| other == rank).expect("a neighbour of itself");
        let cards = (0..layout.ranks).map(|index| memory.place(layout.card(index))).collect();
        let segment = Self { header: memory.place(0), memory, path, cards, layout, me };
        let stage = &segment.cards[me].stage;
        if stage.compare_exchange(ABSENT, CLAIMED, Ordering::AcqRel, Ordering::Acquire).is_err() {
            let reason = "somebody joined as this rank already".to_owned();
            return Err(JoinError::Refused { rank, reason });
        }
        segment.cards[me].pid.store(std::process::id(), Ordering::Relaxed);
        segment.enter(NAMED);
        Ok(segment)
    }

    /// Makes sure that the pages exist to which this rank, `rank` of the group, writes tensors (**SG-5**).
    pub(super) fn reserve(&self, rank: usize) -> Result<(), JoinError> {
        let Layout { ranks, capacity } = self.layout;
        let others = (0..ranks).filter(|&other| other != self.me);
        let mut rings = others.map(|other| self.layout.ring(self.me, other).bytes);
        let reserved = rings.try_for_each(|offset| self.memory.reserve(offset, capacity));
        reserved.map_err(|error| no_room(rank, (ranks - 1) * capacity, &error))
    }

    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Returns the number of bytes of every ring.
    pub(super) fn capacity(&self) -> usize {
        self.layout.capacity
    }

    /// Returns this rank's index among the machine's.
    pub(super) fn me(&self) -> usize {
        self.me
    }

    /// Returns the place of the ring between two ranks of the machine, by index.
    pub(super) fn ring(&self, from: usize, to: usize) -> Site {
        self.layout.ring(from, to)
    }

    /// Returns the bell of a rank of the machine, by index.
    pub(super) fn bell(&self, index: usize) -> Place<Bell> {
        // The bell is the first field of a card.
        self.memory.place(self.layout.card(index))
    }

    /// Returns the process id of a rank that came.
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

    /// Notes that this rank watches all others.
    pub(super) fn watching(&self) {
        self.enter(WATCHING);
    }

    /// Notes that this rank has left, whatever the others do.
    pub(super) fn leave(&self) {
        self.enter(LEFT);
    }

    pub(super) fn cause(&self) -> Option<Cause> {
        Cause::from_word(self.header.cause.load(Ordering::Acquire))
    }

    /// Ends the group because of `cause`, unless it has ended already.
    pub(super) fn end(&self, cause: Cause) {
        let word = cause.to_word();
        let _ = self.header.cause.compare_exchange(0, word, Ordering::AcqRel, Ordering::Relaxed);
        self.cards.iter().for_each(|card| card.bell.ring());
    }

    /// Removes the file's name (**SG-1**). Harmless when the name is gone.
    pub(super) fn unlink(&self) -> io::Result<()> {
        unlink(&self.header, &self.path)
    }

    fn stage(&self, index: usize) -> u32 {
        self.cards[index].stage.load(Ordering::Acquire)
    }

    fn enter(&self, stage: u32) {
        self.cards[self.me].stage.store(stage, Ordering::Release);
        self.cards.iter().for_each(|card| card.bell.ring());
    }
}

/// The parameters for opening the segment of a machine.
struct Opening<'a> {
    spec: &'a GroupSpec,
    rank: usize,
    layout: Layout,
    path: &'a Path,
    deadline: Deadline,
    abort: &'a AbortHandle,
}

// === impl Opening ===

impl Opening<'_> {
    /// Returns the memory of the segment of this epoch. The first rank creates it.
    fn open(&self) -> Result<Arc<Memory>, JoinError> {
        loop {
            if self.abort.is_aborted() {
                return Err(JoinError::Aborted);
            }
            if self.deadline.has_passed() {
                let reason = "an earlier attempt to join the group does not end; join again";
                return Err(JoinError::system(format!("use {}", self.path.display()), reason));
            }
            let opened = match file::open(self.path) {
                // Left by ranks that were killed: what it says of them is not true any more.
                Ok(_) if remove_unheld(self.path) => None,
                Ok(found) => self.enter(found)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => self.create()?,
                Err(error) => return Err(self.failed("open", &error)),
            };
            if let Some(memory) = opened {
                return Ok(memory);
            }
        }
    }

    /// Returns the memory of a file that another rank has created; `None` to look at the name again.
    fn enter(&self, found: File) -> Result<Option<Arc<Memory>>, JoinError> {
        let failed = |error: io::Error| self.failed("use", &error);
        if !try_hold(&found).map_err(failed)? {
            // It is being swept.
            self.abort.wait(RETRY);
            return Ok(None);
        }
        if !is_named(&found).map_err(failed)? {
            return Ok(None);
        }
        let bytes = found.metadata().map_err(failed)?.len();
        if bytes < PAGE as u64 {
            return Err(self.invalid("is no segment"));
        }
        let map = found.try_clone().and_then(|file| Memory::of_file(file, PAGE));
        let header: Place<Header> = map.map_err(failed)?.place(0);
        let theirs = header.epoch.load(Ordering::Relaxed);
        if theirs < self.spec.epoch {
            // Its ranks look at the cause at least every few milliseconds.
            header.cause.store(Cause::Aborted { by: 0 }.to_word(), Ordering::Release);
            unlink(&header, self.path).map_err(failed)?;
            return Ok(None);
        }
        if theirs > self.spec.epoch {
            return Err(JoinError::Epoch { ours: self.spec.epoch, theirs });
        }
        if header.named.load(Ordering::Acquire) == 0 {
            // Of an earlier attempt of this epoch, which is about to lose its name.
            drop((header, found));
            self.abort.wait(RETRY);
            return Ok(None);
        }
        let is_same = header.digest.load(Ordering::Relaxed) == short_digest(self.spec);
        if !is_same || bytes != self.layout.total() as u64 {
            return Err(self.invalid("was made for other members or buffers"));
        }
        Memory::of_file(found, self.layout.total()).map(Some).map_err(failed)
    }

    /// Returns the memory of a new file; `None` when another rank was faster.
    fn create(&self) -> Result<Option<Arc<Memory>>, JoinError> {
        let Self { spec, rank, layout, path, .. } = *self;
        let failed = |error: io::Error| self.failed("make", &error);
        let file = nameless().map_err(failed)?;
        let bytes = layout.rings();
        let flags = rustix::fs::FallocateFlags::empty();
        let reserved = rustix::fs::fallocate(&file, flags, 0, bytes as u64);
        reserved.map_err(|error| no_room(rank, bytes, &error.into()))?;
        file.set_len(layout.total() as u64).map_err(failed)?;
        if !try_hold(&file).map_err(failed)? {
            return Err(failed(io::ErrorKind::WouldBlock.into()));
        }
        let named = file.try_clone().map_err(failed)?;
        let memory = Memory::of_file(file, layout.total()).map_err(failed)?;
        let header = memory.place::<Header>(0);
        header.epoch.store(spec.epoch, Ordering::Relaxed);
        header.digest.store(short_digest(spec), Ordering::Relaxed);
        header.named.store(1, Ordering::Release);
        // From here on other ranks can find the file, held and complete.
        match name_file(&named, path) {
            Ok(()) => Ok(Some(memory)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    fn failed(&self, verb: &str, error: &io::Error) -> JoinError {
        JoinError::system(format!("{verb} {}", self.path.display()), error)
    }

    fn invalid(&self, what: &str) -> JoinError {
        JoinError::Invalid(format!("{} {what}", self.path.display()))
    }
}

/// Removes the name of a file, unless another rank has or is about to (**SG-3**).
fn unlink(header: &Header, path: &Path) -> io::Result<()> {
    if header.named.swap(0, Ordering::AcqRel) == 0 {
        return Ok(());
    }
    match std::fs::remove_file(path) {
        // A person has tidied up.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Reports a full file system with a remedy.
fn no_room(rank: usize, wanted_bytes: usize, error: &io::Error) -> JoinError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::OutOfMemory => {
            JoinError::Memory { rank, wanted_bytes, reason: error.to_string() }
        }
        _ => JoinError::system(format!("reserve {wanted_bytes} bytes in {FOLDER}"), error),
    }
}

fn path(spec: &GroupSpec, machine: &str) -> PathBuf {
    let mut name = proof::keyed(&spec.secret, "segment");
    name.update(&(spec.group.len() as u64).to_le_bytes());
    name.update(spec.group.as_bytes());
    name.update(machine.as_bytes());
    let name = name.finalize().into_bytes();
    let name: String = name.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    Path::new(FOLDER).join(format!("{PREFIX}{name}"))
}

fn short_digest(spec: &GroupSpec) -> u64 {
    let digest = spec.digest();
    u64::from_le_bytes(digest[..8].try_into().expect("8 bytes"))
}
