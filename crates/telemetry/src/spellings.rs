//! The registration of metrics, each under every name that it has (**TEL-1**).

use std::iter;

use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};

use crate::names::Name;

/// Registers a metric under each of its names.
pub(crate) struct Spellings<'a>(pub(crate) &'a mut Registry);

// === impl Spellings ===

impl Spellings<'_> {
    pub(crate) fn metric<M: Metric + Clone>(&mut self, name: Name, metric: M) -> M {
        for spelling in iter::once(name.ours).chain(name.vllm) {
            self.0.register(spelling, name.help, metric.clone());
        }
        metric
    }

    pub(crate) fn histogram(&mut self, name: Name, bounds: &[f64]) -> Histogram {
        self.metric(name, Histogram::new(bounds.iter().copied()))
    }
}
