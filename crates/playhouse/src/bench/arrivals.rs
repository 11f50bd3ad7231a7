//! The times at which requests are due.

use std::time::Duration;

use super::random::Random;

/// Returns when each of `count` requests is due, counted from the start, after vLLM's
/// `benchmarks/serve.py`: gaps are gamma-distributed with mean `1 / rate` and shape `burstiness`, and all
/// are scaled so that the last request is due at `count / rate`, which takes the chance out of the mean
/// rate. With an infinite rate all requests are due at once; an infinite shape makes gaps equal.
pub(super) fn arrivals(
    count: usize,
    rate: f64,
    burstiness: f64,
    random: &mut Random,
) -> Vec<Duration> {
    if rate.is_infinite() {
        return vec![Duration::ZERO; count];
    }
    let mut at = 0.0;
    let times: Vec<f64> = (0..count)
        .map(|_| {
            at += if burstiness.is_infinite() { 1.0 } else { random.gamma(burstiness) };
            at
        })
        .collect();
    // If all gaps were drawn as 0, all requests are due at the end.
    let scale = if at > 0.0 { count as f64 / rate / at } else { 0.0 };
    times.into_iter().map(|time| Duration::from_secs_f64(time * scale)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(times: &[Duration]) -> Vec<f64> {
        times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect()
    }

    /// Returns the standard deviation of the gaps over their mean.
    fn spread(burstiness: f64) -> f64 {
        let gaps = gaps(&arrivals(20_000, 100.0, burstiness, &mut Random::new(3, 0)));
        let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
        let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
        variance.sqrt() / mean
    }

    #[test]
    fn the_mean_rate_is_exact_and_time_only_grows() {
        for burstiness in [0.2, 1.0, 5.0, f64::INFINITY] {
            let times = arrivals(500, 25.0, burstiness, &mut Random::new(1, 0));
            assert_eq!(times.len(), 500);
            let last = times[499].as_secs_f64();
            assert!((last - 20.0).abs() < 1e-6, "{last}");
            assert!(times.is_sorted());
        }
    }

    #[test]
    fn gaps_of_a_poisson_process_are_exponential() {
        let times = arrivals(20_000, 100.0, 1.0, &mut Random::new(5, 0));
        let gaps = gaps(&times);
        for (longer_than, share) in [(0.0, 1.0), (0.01, 0.3679), (0.02, 0.1353), (0.03, 0.0498)] {
            let count = gaps.iter().filter(|&&gap| gap > longer_than).count();
            let found = count as f64 / gaps.len() as f64;
            assert!((found - share).abs() < 0.015, "{found} of the gaps exceed {longer_than} s");
        }
        // Counts per second of a Poisson process have a variance that equals their mean.
        let mut counts = [0.0_f64; 200];
        times.iter().for_each(|time| counts[(time.as_secs() as usize).min(199)] += 1.0);
        let variance = counts.iter().map(|count| (count - 100.0).powi(2)).sum::<f64>() / 200.0;
        assert!((60.0..150.0).contains(&variance), "{variance}");
    }

    #[test]
    fn burstiness_sets_the_spread_of_the_gaps() {
        for (burstiness, expected) in [(0.25, 2.0), (1.0, 1.0), (4.0, 0.5), (f64::INFINITY, 0.0)] {
            let found = spread(burstiness);
            assert!((found - expected).abs() < 0.08 * (1.0 + expected), "{burstiness}: {found}");
        }
    }

    #[test]
    fn an_infinite_rate_makes_all_due_at_once() {
        let times = arrivals(3, f64::INFINITY, 1.0, &mut Random::new(0, 0));
        assert_eq!(times, [Duration::ZERO; 3]);
    }
}
