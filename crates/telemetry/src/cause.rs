//! The causes for which ranks are lost, as a label of counters.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

/// The reason why the ranks of a replica were lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
#[expect(non_camel_case_types, reason = "variant names are the label values")]
pub enum Cause {
    /// A rank died of the step that it computed, as far as can be told.
    crash,
    /// A step did not end.
    hang,
    /// A signal from outside, a broken connection, or a lost machine ended a rank.
    lost,
    /// There was no device for a rank.
    no_device,
    /// An operator drained the replica.
    drain,
    /// No rank was lost: the replica was several times slower than its peers.
    slow,
}

/// A counter for each cause, of one replica.
#[derive(Clone, Debug)]
pub struct CauseCounters([Counter; Cause::ALL.len()]);

/// Labels of a counter: the replica and the cause.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct CauseLabels {
    engine: u32,
    cause: Cause,
}

// === impl Cause ===

impl Cause {
    /// All causes in the order of their declaration.
    const ALL: [Self; 6] =
        [Self::crash, Self::hang, Self::lost, Self::no_device, Self::drain, Self::slow];
}

// === impl CauseCounters ===

impl CauseCounters {
    /// Returns all counters at zero, because a rate over a series that appears with its first event misses
    /// that event.
    pub(crate) fn of(family: &Family<CauseLabels, Counter>, engine: u32) -> Self {
        let counter = |cause| family.get_or_create_owned(&CauseLabels { engine, cause });
        Self(Cause::ALL.map(counter))
    }

    /// Counts one event of `cause`.
    pub fn inc(&self, cause: Cause) {
        self.0[cause as usize].inc();
    }

    /// Returns the sum over all causes.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.iter().map(Counter::get).sum()
    }
}
