//! A fork-join pool for kernels: the calling thread works too, and nothing is queued.
//!
//! - **TH-1** every task of a [`Threads::run`] has finished when `run` returns or unwinds: a panic in a task
//!   is raised again in the caller, once all threads have left the job.
//! - **TH-2** a job does not wait for a worker that wakes late: the worker finds the job closed.
//! - **TH-3** calls from several threads at once take turns; a call from inside a task runs on that task's
//!   thread.
//!
//! Not here: which thread runs which task. Kernels must give the same bits on any thread.

use std::any::Any;
use std::cell::{Cell, UnsafeCell};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::isa::Isa;
use crate::scratch::Scratch;

/// Polls of the gate before a thread sleeps. A pause takes up to 140 cycles, so this is some tens
/// of microseconds: longer than the serial gaps between the ops of a layer, shorter than a step.
const SPINS: u32 = 1_000;

/// Flag of the gate: the job accepts workers.
const OPEN: u64 = 1 << 31;
/// Flag of the gate: the caller sleeps until the last worker has left.
const WAITED: u64 = 1 << 30;
/// Mask of the gate: the number of workers inside the job.
const JOINED: u64 = WAITED - 1;
/// Unit of the job number, which is above the flags.
const EPOCH: u64 = 1 << 32;

/// A handle to a pool of `count` threads, one of which is the calling thread. Cheap to clone; the threads end
/// with the last handle.
#[derive(Clone, Debug)]
pub struct Threads {
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    shared: Arc<PoolState>,
    workers: Vec<JoinHandle<()>>,
    /// Lock held during a job: one job at a time.
    turn: Mutex<()>,
    isa: Isa,
    scratch: Scratch,
}

struct PoolState {
    /// `epoch << 32 | OPEN | WAITED | workers inside`.
    gate: AtomicU64,
    /// Written only while the gate is closed and no worker is inside; read only from inside.
    job: UnsafeCell<Option<Job>>,
    /// The next task that no thread has taken.
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    sleepers: AtomicUsize,
    shutdown: AtomicBool,
    bed: Mutex<()>,
    wake: Condvar,
    left: Condvar,
}

#[derive(Clone, Copy)]
struct Job {
    /// The task with its lifetime erased: valid while the gate is open or a worker is inside.
    task: *const (dyn Fn(usize) + Sync),
    tasks: usize,
}

thread_local! {
    /// Whether this thread is inside a job of some pool.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: `job` follows the protocol of `gate` described at the fields; the task it points to is
// `Sync`, and everything else is atomic or locked.
unsafe impl Send for PoolState {}
// SAFETY: as above.
unsafe impl Sync for PoolState {}

// === impl Threads ===

impl Threads {
    /// Starts `count - 1` workers, on the fastest instruction set of this CPU.
    ///
    /// # Panics
    /// When the operating system refuses a thread.
    #[must_use]
    pub fn new(count: NonZeroUsize) -> Self {
        Self::with_isa(count, Isa::detect())
    }

    /// Starts workers as [`new`](Self::new) does, on a chosen instruction set: to compare code paths, or to
    /// give machines of different age the same arithmetic.
    ///
    /// # Panics
    /// When this CPU lacks `isa`, or the operating system refuses a thread.
    #[must_use]
    pub fn with_isa(count: NonZeroUsize, isa: Isa) -> Self {
        assert!(isa.is_available(), "this CPU has no {isa}; available: {:?}", Isa::available());
        let shared = Arc::new(PoolState::new());
        let workers = (1..count.get())
            .map(|index| {
                let shared = Arc::clone(&shared);
                std::thread::Builder::new()
                    .name(format!("ops-{index}"))
                    .spawn(move || shared.work())
                    .expect("the operating system gives a thread")
            })
            .collect();
        let scratch = Scratch::new(2 * count.get());
        Self { pool: Arc::new(Pool { shared, workers, turn: Mutex::new(()), isa, scratch }) }
    }

    /// Returns the number of threads that take part, the caller included.
    #[must_use]
    pub fn count(&self) -> usize {
        self.pool.workers.len() + 1
    }

    /// Returns the instruction set that kernels run on.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.pool.isa
    }

    pub(crate) fn scratch(&self) -> &Scratch {
        &self.pool.scratch
    }

    /// Calls `task(0)` to `task(tasks - 1)`, each once, in any order, on all threads (**TH-1**).
    ///
    /// # Panics
    /// With the payload of the first task that panicked; tasks not yet started are skipped.
    pub fn run(&self, tasks: usize, task: impl Fn(usize) + Sync) {
        if tasks <= 1 || self.pool.workers.is_empty() || INSIDE.get() {
            (0..tasks).for_each(task);
            return;
        }
        let turn = lock(&self.pool.turn);
        let panic = self.pool.shared.fork_join(tasks, &task);
        drop(turn);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// Cuts `0..len` into ranges of `grain` (the last may be shorter) and runs each as a task.
    pub(crate) fn run_ranges(&self, len: usize, grain: usize, task: impl Fn(Range<usize>) + Sync) {
        self.run(len.div_ceil(grain), |index| {
            task(index * grain..len.min((index + 1) * grain));
        });
    }
}

// === impl Pool ===

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.shutdown.store(true, Ordering::SeqCst);
        drop(lock(&self.shared.bed));
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker cannot panic: it catches what tasks throw.
            let _ = worker.join();
        }
    }
}

// === impl PoolState ===

impl PoolState {
    fn new() -> Self {
        Self {
            gate: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            panic: Mutex::new(None),
            sleepers: AtomicUsize::new(0),
            shutdown: AtomicBool::new(false),
            bed: Mutex::new(()),
            wake: Condvar::new(),
            left: Condvar::new(),
        }
    }

    /// Runs the caller's side of a job. The caller holds `turn`.
    fn fork_join(
        &self,
        tasks: usize,
        task: &(dyn Fn(usize) + Sync),
    ) -> Option<Box<dyn Any + Send>> {
        // SAFETY: only the lifetime changes. The job is out of reach again when this function returns: the
        // gate is closed, no worker is inside, and no line between can unwind.
        let task: *const (dyn Fn(usize) + Sync) = unsafe { std::mem::transmute(task) };
        let job = Job { task, tasks };
        // SAFETY: the gate is closed and no worker is inside, so this thread has the only access.
        unsafe { *self.job.get() = Some(job) };
        self.next.store(0, Ordering::Relaxed);
        let epoch = (self.gate.load(Ordering::Relaxed) & !(EPOCH - 1)).wrapping_add(EPOCH);
        // Sequentially consistent against `sleep`: either this store is seen there, or the
        // sleeper is seen here.
        self.gate.store(epoch | OPEN, Ordering::SeqCst);
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.bed));
            self.wake.notify_all();
        }
        self.take_tasks(job);
        self.close();
        lock(&self.panic).take()
    }

    /// Admits no more workers and waits until the workers inside have left.
    fn close(&self) {
        let mut gate = self.gate.fetch_and(!OPEN, Ordering::AcqRel);
        for _ in 0..SPINS {
            if gate & JOINED == 0 {
                return;
            }
            std::hint::spin_loop();
            gate = self.gate.load(Ordering::Acquire);
        }
        let mut bed = lock(&self.bed);
        self.gate.fetch_or(WAITED, Ordering::AcqRel);
        while self.gate.load(Ordering::Acquire) & JOINED != 0 {
            bed = self.left.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        self.gate.fetch_and(!WAITED, Ordering::AcqRel);
    }

    /// Runs jobs as a worker until shutdown.
    fn work(&self) {
        let mut done = 0;
        while let Some(gate) = self.await_job(done) {
            let entered =
                self.gate.compare_exchange(gate, gate + 1, Ordering::AcqRel, Ordering::Relaxed);
            if entered.is_err() {
                continue;
            }
            done = gate / EPOCH;
            // SAFETY: this worker is inside, so the caller neither writes the job nor returns.
            let job = unsafe { *self.job.get() }.expect("an open gate has a job");
            self.take_tasks(job);
            self.leave();
        }
    }

    fn leave(&self) {
        let before = self.gate.fetch_sub(1, Ordering::AcqRel);
        if before & JOINED == 1 && before & WAITED != 0 {
            drop(lock(&self.bed));
            self.left.notify_all();
        }
    }

    /// Returns the gate of an open job that is not number `done`; `None` at shutdown.
    fn await_job(&self, done: u64) -> Option<u64> {
        loop {
            for _ in 0..SPINS {
                let gate = self.gate.load(Ordering::Acquire);
                if is_new(gate, done) {
                    return Some(gate);
                }
                if self.shutdown.load(Ordering::Relaxed) {
                    return None;
                }
                std::hint::spin_loop();
            }
            self.sleep(done);
        }
    }

    fn sleep(&self, done: u64) {
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let mut bed = lock(&self.bed);
        while !is_new(self.gate.load(Ordering::SeqCst), done)
            && !self.shutdown.load(Ordering::SeqCst)
        {
            bed = self.wake.wait(bed).unwrap_or_else(PoisonError::into_inner);
        }
        drop(bed);
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
    }

    /// Runs tasks until none is left. Never unwinds.
    fn take_tasks(&self, job: Job) {
        // SAFETY: the caller of `fork_join` keeps the task alive until all workers have left.
        let task = unsafe { &*job.task };
        INSIDE.set(true);
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            loop {
                let index = self.next.fetch_add(1, Ordering::Relaxed);
                if index >= job.tasks {
                    break;
                }
                task(index);
            }
        }));
        INSIDE.set(false);
        if let Err(payload) = outcome {
            // Far enough that no further `fetch_add` reaches a task, and cannot wrap.
            self.next.store(usize::MAX / 2, Ordering::Relaxed);
            lock(&self.panic).get_or_insert(payload);
        }
    }
}

impl std::fmt::Debug for PoolState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("gate", &self.gate).finish_non_exhaustive()
    }
}

fn is_new(gate: u64, done: u64) -> bool {
    gate & OPEN != 0 && gate / EPOCH != done
}

/// No invariant of this file can be broken by a panic under a lock.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
