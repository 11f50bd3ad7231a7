//! Groups for tests: one thread for each rank.

use std::net::TcpListener;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use half::{bf16, f16};
use playhouse_collectives::{
    AbortHandle, Element, Group, GroupSpec, JoinError, Member, Secret, Summand,
};

use crate::ports::port;

/// Longer than any wait of a test that should succeed, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The smallest buffers: the shortest pieces.
pub(crate) const SMALL: usize = 16 << 10;

/// A spec and the listeners of its ranks.
pub(crate) struct Cast {
    pub(crate) spec: GroupSpec,
    pub(crate) listeners: Vec<TcpListener>,
}

/// One rank on each of the given machines. Their ports stay theirs without the listeners, too: others
/// may dial them before a process listens there.
pub(crate) fn cast(machines: &[usize]) -> Cast {
    static GROUPS: AtomicU32 = AtomicU32::new(0);
    let number = GROUPS.fetch_add(1, Ordering::Relaxed);
    let listeners: Vec<_> =
        machines.iter().map(|_| TcpListener::bind(("127.0.0.1", port())).unwrap()).collect();
    let members = machines.iter().zip(&listeners).map(|(machine, listener)| Member {
        machine: format!("machine-{machine}"),
        address: Some(listener.local_addr().unwrap()),
    });
    let spec = GroupSpec {
        group: format!("test-{}-{number}", std::process::id()),
        epoch: 3,
        secret: Secret([number as u8; 32]),
        members: members.collect(),
        timeout: PATIENCE,
        buffer_bytes: SMALL,
    };
    Cast { spec, listeners }
}

impl Cast {
    /// Runs `act` as every rank, each on a thread. What they return, in rank order.
    pub(crate) fn play<R: Send>(&self, act: impl Fn(Group) -> R + Sync) -> Vec<R> {
        self.try_play(|joined| act(joined.unwrap()))
    }

    /// Runs `act` as [`play`](Self::play) does, with the result of joining.
    pub(crate) fn try_play<R: Send>(
        &self,
        act: impl Fn(Result<Group, JoinError>) -> R + Sync,
    ) -> Vec<R> {
        thread::scope(|scope| {
            let rank = |rank: usize| {
                let act = &act;
                scope.spawn(move || act(self.join(rank)))
            };
            let threads: Vec<_> = (0..self.spec.members.len()).map(rank).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    pub(crate) fn join(&self, rank: usize) -> Result<Group, JoinError> {
        let listener = self.listeners[rank].try_clone().unwrap();
        Group::join(&self.spec, rank, Some(listener), &AbortHandle::new())
    }
}

/// Layouts of `ranks` ranks: one machine, one each, and a mix.
pub(crate) fn layouts(ranks: usize) -> Vec<Vec<usize>> {
    let mut layouts =
        vec![vec![0; ranks], (0..ranks).collect(), (0..ranks).map(|r| r % 2).collect()];
    layouts.dedup();
    layouts
}

/// Values that tell rank, place and rounding apart.
pub(crate) trait Value: Element + PartialEq + std::fmt::Debug {
    fn value(rank: usize, index: usize) -> Self;
}

/// The sum as it is specified, one element at a time.
pub(crate) trait NaiveSum: Summand + Value {
    fn naive_sum(values: impl Iterator<Item = Self>) -> Self;
}

/// Spread over 16 binades, both signs.
fn spread(rank: usize, index: usize) -> f32 {
    let mixed = (index as u32 ^ (rank as u32) << 20).wrapping_mul(0x9e37_79b9).rotate_left(13);
    let mixed = mixed.wrapping_mul(0x85eb_ca6b);
    let magnitude = (mixed & 0xffff) as f32 / 65_536.0 + 1.0;
    let sign = if mixed & 0x10_0000 == 0 { 1.0 } else { -1.0 };
    sign * magnitude * 2f32.powi((mixed >> 24) as i32 % 16 - 8)
}

macro_rules! value {
    ($type:ty, $from:expr) => {
        impl Value for $type {
            fn value(rank: usize, index: usize) -> Self {
                $from(rank, index)
            }
        }
    };
}

value!(u8, |rank: usize, index: usize| (rank * 31 + index * 7) as u8);
value!(u32, |rank: usize, index: usize| (rank << 24 | index) as u32);
value!(bf16, |rank, index| bf16::from_f32(spread(rank, index)));
value!(f16, |rank, index| f16::from_f32(spread(rank, index)));
value!(f32, spread);

macro_rules! naive_sum {
    ($type:ty, $widen:expr, $round:expr) => {
        impl NaiveSum for $type {
            fn naive_sum(values: impl Iterator<Item = Self>) -> Self {
                $round(values.map($widen).reduce(|sum, value| sum + value).unwrap())
            }
        }
    };
}

naive_sum!(bf16, bf16::to_f32, bf16::from_f32);
naive_sum!(f16, f16::to_f32, f16::from_f32);
naive_sum!(f32, |value| value, |sum| sum);

/// Returns the values that `rank` contributes.
pub(crate) fn values<T: Value>(rank: usize, len: usize) -> Vec<T> {
    (0..len).map(|index| T::value(rank, index)).collect()
}

/// Elements that nobody sends.
pub(crate) fn blank<T: Value>(len: usize) -> Vec<T> {
    vec![T::value(99, 99); len]
}

/// What the first thread to end returns, and the others. Of two that join as the same rank, one is
/// refused: the other is that rank by then.
pub(crate) fn first_of<T>(
    mut threads: Vec<ScopedJoinHandle<'_, T>>,
) -> (T, Vec<ScopedJoinHandle<'_, T>>) {
    loop {
        if let Some(at) = threads.iter().position(ScopedJoinHandle::is_finished) {
            let first = threads.remove(at).join().unwrap();
            return (first, threads);
        }
        thread::yield_now();
    }
}

/// When something happened.
#[expect(clippy::disallowed_types, reason = "the test measures real time")]
pub(crate) struct Moment(std::time::Instant);

#[expect(clippy::disallowed_types, reason = "the test measures real time")]
impl Moment {
    pub(crate) fn now() -> Self {
        Self(std::time::Instant::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
