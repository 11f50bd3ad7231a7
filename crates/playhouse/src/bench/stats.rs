//! Mean, deviation and percentiles, as numpy computes them by default.

/// A set of numbers to describe, not empty: of nothing there is neither a mean nor a percentile.
#[derive(Clone, Debug)]
pub(super) struct Samples {
    sorted: Vec<f64>,
}

// === impl Samples ===

impl Samples {
    /// Returns a set of finite numbers; `None` if there are none.
    pub(super) fn new(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        (!sorted.is_empty()).then_some(Self { sorted })
    }

    /// Returns the arithmetic mean.
    pub(super) fn mean(&self) -> f64 {
        self.sorted.iter().sum::<f64>() / self.sorted.len() as f64
    }

    /// Returns the standard deviation of the population (numpy's `ddof=0`).
    pub(super) fn std(&self) -> f64 {
        let mean = self.mean();
        let squares: f64 = self.sorted.iter().map(|value| (value - mean).powi(2)).sum();
        (squares / self.sorted.len() as f64).sqrt()
    }

    /// Returns the `p`-th percentile, `p` in [0, 100], linear between neighbours (numpy's `linear`).
    pub(super) fn percentile(&self, p: f64) -> f64 {
        let last = self.sorted.len() - 1;
        let rank = p / 100.0 * last as f64;
        let below = self.sorted[rank.floor() as usize];
        let above = self.sorted[rank.ceil() as usize];
        below + (above - below) * rank.fract()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_values_of_numpy() {
        // np.percentile([15, 20, 35, 40, 50], [0, 5, 30, 40, 99, 100]), np.mean, np.std
        let samples = Samples::new([35.0, 15.0, 50.0, 20.0, 40.0]).expect("not empty");
        for (p, expected) in
            [(0.0, 15.0), (5.0, 16.0), (30.0, 23.0), (40.0, 29.0), (99.0, 49.6), (100.0, 50.0)]
        {
            assert!((samples.percentile(p) - expected).abs() < 1e-9, "p{p}");
        }
        assert_eq!(samples.mean(), 32.0);
        assert!((samples.std() - 12.884_098_726_725_126).abs() < 1e-12);
        assert!(Samples::new([]).is_none());
    }

    proptest! {
        /// Against the definition: p percent of the way along the polyline through the sorted
        /// values, walked step by step.
        #[test]
        fn percentiles_lie_on_the_polyline(
            values in prop::collection::vec(-1e6..1e6_f64, 1..60),
            p in 0.0..=100.0_f64,
        ) {
            let mut walked = values.clone();
            walked.sort_by(f64::total_cmp);
            let mut left = p * (values.len() - 1) as f64;
            let mut expected = walked[0];
            for pair in walked.windows(2) {
                let share = (left / 100.0).clamp(0.0, 1.0);
                expected += (pair[1] - pair[0]) * share;
                left -= 100.0;
            }
            let found = Samples::new(values).expect("not empty").percentile(p);
            prop_assert!((found - expected).abs() < 1e-6, "{found} instead of {expected}");
        }
    }
}
