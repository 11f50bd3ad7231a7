use playhouse_types::{Appended, Epoch, Logits, Run, Slot, StepId};

use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn plan(runs: &[(u32, u32)]) -> StepPlan {
    let run = |&(start, tokens): &(u32, u32)| Run {
        slot: Slot(0),
        start,
        tokens,
        appended: Appended::Nothing,
        new_blocks: Vec::new(),
        logits: Logits::Last,
    };
    let runs = runs.iter().map(run).collect();
    StepPlan { epoch: Epoch(1), step: StepId(0), released: vec![], admitted: vec![], runs }
}

/// Looks every tick from `from` on: when a step is overdue, and what it is.
fn overdue(watchdog: &mut Watchdog, from: Duration) -> (Duration, Overdue) {
    let mut now = from;
    loop {
        now += TICK;
        assert!(now - from <= CEILING + TICK, "never overdue");
        if let Some(overdue) = watchdog.look(now) {
            return (now - from, overdue);
        }
    }
}

/// Returns a watchdog that has measured steps of these runs and times, each alone; and the time after
/// that.
fn measured(steps: &[(&[(u32, u32)], Duration)]) -> (Watchdog, Duration) {
    let (mut watchdog, mut now) = (Watchdog::new(StepDeadline::Measured), Duration::ZERO);
    for (done, (runs, took)) in (1..).zip(steps) {
        watchdog.began(&plan(runs), now);
        now += *took;
        watchdog.ran(done, now, |_, _| {});
    }
    (watchdog, now)
}

#[test]
fn a_hang_is_seen_in_under_3_s_where_steps_are_short() {
    // W-1
    let (mut watchdog, now) = measured(&[(&[(0, 30)], ms(100)), (&[(30, 1)], ms(10))]);
    assert!(!watchdog.is_on());
    watchdog.began(&plan(&[(31, 1)]), now);
    assert!(watchdog.is_on());
    let (seen, what) = overdue(&mut watchdog, now);
    assert!(ms(2_500) <= seen && seen < ms(3_000), "{seen:?}");
    assert_eq!(what, Overdue { tokens: 1, silence: seen });
    watchdog.restart();
    assert!(!watchdog.is_on());
    assert_eq!(watchdog.look(now + CEILING), None);
}

#[test]
fn what_is_heard_of_one_step_is_time_for_the_next() {
    // W-1: the time runs from the last thing heard.
    let (mut watchdog, mut now) = measured(&[(&[(0, 1)], ms(10))]);
    for _ in 0..3 {
        watchdog.began(&plan(&[(1, 1)]), now);
    }
    for done in 2..=3 {
        now += ms(2_000);
        assert_eq!(watchdog.look(now - ms(1_500)), None);
        assert_eq!(watchdog.look(now - ms(1_000)), None);
        assert_eq!(watchdog.look(now - ms(500)), None);
        watchdog.ran(done, now, |_, _| {});
    }
    assert!(watchdog.is_on(), "the last of the three");
    // Two of these steps took seconds as seen from here: they waited for each other.
    assert!(overdue(&mut watchdog, now).0 > ms(2_500));
}

#[test]
fn a_long_prefill_is_not_overdue_because_decodes_are_quick() {
    // W-2: a token at a time took 1 ms; 512 at once take as long as 512 of them, at most.
    let (mut watchdog, now) = measured(&[(&[(100, 1)], ms(20))]);
    watchdog.began(&plan(&[(0, 512)]), now);
    let (seen, _) = overdue(&mut watchdog, now);
    assert!(seen >= ms(20 * 512) * 20, "{seen:?}");
    // Nor a long context because short ones are: attention is quadratic.
    let (mut watchdog, now) = measured(&[(&[(0, 512)], ms(1_000))]);
    watchdog.began(&plan(&[(7_680, 512)]), now);
    let (seen, _) = overdue(&mut watchdog, now);
    assert!(seen >= ms(1_000) * 20 * 14, "{seen:?}");
}

#[test]
fn a_short_step_may_take_what_a_long_one_took_and_then_its_own() {
    // W-2: memory may be all that counts, and it does not shrink with the batch.
    let (mut watchdog, now) = measured(&[(&[(0, 512)], ms(1_000))]);
    watchdog.began(&plan(&[(512, 1)]), now);
    let (seen, _) = overdue(&mut watchdog, now);
    assert!(ms(20_000) <= seen && seen <= ms(20_000) + TICK, "{seen:?}");
    let (mut watchdog, now) = measured(&[(&[(0, 512)], ms(1_000)), (&[(512, 1)], ms(50))]);
    watchdog.began(&plan(&[(513, 1)]), now);
    assert!(overdue(&mut watchdog, now).0 < ms(3_000));
}

#[test]
fn the_first_step_has_a_quarter_of_an_hour() {
    // W-3
    let (mut watchdog, now) = measured(&[]);
    watchdog.began(&plan(&[(0, 1)]), now);
    assert_eq!(overdue(&mut watchdog, now).0, CEILING);
    let (mut watchdog, now) = measured(&[(&[(0, 1)], CEILING)]);
    watchdog.began(&plan(&[(0, 1)]), now);
    assert_eq!(overdue(&mut watchdog, now).0, CEILING);
}

#[test]
fn a_head_that_was_stopped_blames_nobody_for_that_time() {
    // W-4: an hour without a look counts as half a second.
    let (mut watchdog, now) = measured(&[(&[(0, 1)], ms(10))]);
    watchdog.began(&plan(&[(1, 1)]), now);
    let woken = now + Duration::from_secs(3_600);
    assert_eq!(watchdog.look(woken), None);
    let (seen, _) = overdue(&mut watchdog, woken);
    assert!(seen >= ms(2_000), "{seen:?}");
}

#[test]
fn an_outlier_is_forgotten_in_time() {
    let mut steps = vec![(&[(0u32, 1u32)][..], Duration::from_secs(60))];
    steps.extend(std::iter::repeat_n((&[(0, 1)][..], ms(10)), 100));
    let (mut watchdog, now) = measured(&steps);
    watchdog.began(&plan(&[(0, 1)]), now);
    assert!(overdue(&mut watchdog, now).0 < ms(3_000));
}

#[test]
fn a_deadline_may_be_given_or_none() {
    let mut fixed = Watchdog::new(StepDeadline::Fixed(ms(700)));
    fixed.began(&plan(&[(0, 512)]), Duration::ZERO);
    assert_eq!(overdue(&mut fixed, Duration::ZERO).0, ms(750));
    let mut never = Watchdog::new(StepDeadline::Never);
    never.began(&plan(&[(0, 512)]), Duration::ZERO);
    assert!(!never.is_on());
    assert_eq!(never.look(CEILING * 2), None);
    assert_eq!(never.patience().stalled, STALL);
}

#[test]
fn a_slow_step_makes_a_replica_stalled_late() {
    let (mut watchdog, now) = measured(&[(&[(0, 1)], ms(10_000))]);
    assert_eq!(watchdog.patience().stalled, STALL);
    watchdog.began(&plan(&[(1, 1)]), now);
    assert_eq!(watchdog.patience().stalled, ms(50_000));
}

/// W-5
#[test]
fn whoever_takes_five_times_as_long_as_usual_hesitates() {
    let (mut watchdog, now) = measured(&[(&[(0, 30)], ms(100)), (&[(30, 1)], ms(10))]);
    watchdog.began(&plan(&[(31, 1)]), now);
    assert_eq!(watchdog.patience().quick, ms(100), "short steps have to wait for a core");
    watchdog.restart();
    watchdog.began(&plan(&[(0, 30)]), now);
    assert_eq!(watchdog.patience().quick, ms(500));
    let unknown = Watchdog::new(StepDeadline::Measured);
    assert_eq!(unknown.patience().quick, CEILING);
}
