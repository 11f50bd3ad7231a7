//! The tempo of steps: how many tokens of prompts a step has time for (**S-16**).
//!
//! A step is taken to last as long as a step without prompts, and longer by some time for each token of
//! a prompt. Both times are learnt from the steps that were applied, newer ones counting more; how many
//! tokens of how long a context they were makes no difference here. Sarathi-Serve (Agrawal et al., OSDI
//! 2024) measures such a budget once for each machine; here it follows what the machine does.

use std::time::Duration;

/// The tokens of prompts for which a step has room, whatever they take: below that, a chunk costs more
/// in weights to read than it saves the requests that wait for it.
pub(crate) const PREFILL_MIN: usize = 64;

/// The tokens of prompts in a step before any step was measured.
const PREFILL_FIRST: usize = 4 * PREFILL_MIN;

/// The weight of the newest step in what is expected of the next one.
const NEWEST: f64 = 0.25;

#[derive(Debug, Default)]
pub(crate) struct Tempo {
    /// The seconds of a step without prompts; 0 before the first such step.
    decode: f64,
    /// The seconds that a token of a prompt adds.
    per_token: Option<f64>,
    /// The time at which the last step was applied.
    landed: Duration,
}

// === impl Tempo ===

impl Tempo {
    /// Records that a step was applied that was planned at `planned`, with `prefill` tokens of prompts.
    /// Steps are computed one after the other: a step begins when the one before it has ended.
    pub(crate) fn landed(&mut self, planned: Duration, now: Duration, prefill: usize) {
        let began = planned.max(self.landed);
        self.landed = now;
        let seconds = now.saturating_sub(began).as_secs_f64();
        if prefill == 0 {
            self.decode += NEWEST * (seconds - self.decode);
        } else if prefill >= PREFILL_MIN / 2 {
            // At least half of it, since a step without prompts may have been a larger one.
            let each = (seconds - self.decode).max(seconds / 2.0) / prefill as f64;
            let old = self.per_token.unwrap_or(each);
            self.per_token = Some(old + NEWEST * (each - old));
        }
    }

    /// Returns the number of tokens of prompts that prolong a step by `time`.
    pub(crate) fn prefill(&self, time: Duration) -> usize {
        if time == Duration::MAX {
            return usize::MAX;
        }
        let tokens = self.per_token.map(|each| time.as_secs_f64() / each);
        // Saturates where tokens cost nothing.
        tokens.map_or(PREFILL_FIRST, |tokens| tokens as usize).max(PREFILL_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Applies steps of a machine that takes `base` ms and `each` µs for every token of a prompt.
    fn after(tempo: &mut Tempo, now: &mut Duration, base: u32, each: u32, prefill: usize) {
        let planned = *now;
        *now += MS * base + MS * each * u32::try_from(prefill).expect("some") / 1000;
        tempo.landed(planned, *now, prefill);
    }

    /// **S-16**
    #[test]
    fn a_step_gets_what_fits_into_its_time() {
        for (base, each) in [(0, 125), (2, 125), (5, 50), (20, 100)] {
            let (mut tempo, mut now) = (Tempo::default(), Duration::ZERO);
            assert_eq!(tempo.prefill(25 * MS), PREFILL_FIRST);
            for _ in 0..40 {
                after(&mut tempo, &mut now, base, each, 0);
                let prefill = tempo.prefill(25 * MS);
                after(&mut tempo, &mut now, base, each, prefill);
            }
            let (tokens, fit) = (tempo.prefill(25 * MS), 25_000 / each as usize);
            assert!(tokens.abs_diff(fit) * 10 <= fit, "{base} ms and {each} us: {tokens} of {fit}");
            assert_eq!(tempo.prefill(Duration::MAX), usize::MAX);
        }
    }

    /// **S-16**: on a slow machine too, and where a step takes no time at all.
    #[test]
    fn there_is_room_for_some_tokens_however_slow_it_is() {
        let (mut tempo, mut now) = (Tempo::default(), Duration::ZERO);
        after(&mut tempo, &mut now, 100, 10_000, 256);
        assert_eq!(tempo.prefill(25 * MS), PREFILL_MIN);
        let mut tempo = Tempo::default();
        tempo.landed(MS, MS, 256);
        assert_eq!(tempo.prefill(MS), usize::MAX);
    }

    /// One step that the machine slept through does not set the pace for long.
    #[test]
    fn it_follows_the_machine() {
        let (mut tempo, mut now) = (Tempo::default(), Duration::ZERO);
        after(&mut tempo, &mut now, 0, 100, 250);
        after(&mut tempo, &mut now, 1_000, 100, 250);
        assert_eq!(tempo.prefill(25 * MS), PREFILL_MIN);
        for _ in 0..20 {
            let prefill = tempo.prefill(25 * MS);
            after(&mut tempo, &mut now, 0, 100, prefill);
        }
        assert!(tempo.prefill(25 * MS) > 225, "{}", tempo.prefill(25 * MS));
    }

    /// Two steps under way: the second has waited for the first, which is not its own time.
    #[test]
    fn what_a_step_waited_for_another_does_not_count() {
        let mut tempo = Tempo::default();
        tempo.landed(Duration::ZERO, 10 * MS, 100);
        tempo.landed(Duration::ZERO, 20 * MS, 100);
        assert_eq!(tempo.prefill(10 * MS), 100);
    }
}
