//! Waiting for conditions.

use std::time::Duration;

use tokio::time::Instant;

/// The maximum wait for an event; generous, because CI machines are slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// Between two looks: often enough to time a recovery, seldom enough to leave the cores alone.
const BETWEEN_LOOKS: Duration = Duration::from_millis(3);

/// Looks until `condition` holds, at most for `limit`: how long that took. Only a look that begins
/// after the limit finds that it has passed: in between, others may have computed on this core.
///
/// # Errors
/// `limit`, when it has passed.
pub(crate) fn await_for(
    limit: Duration,
    mut condition: impl FnMut() -> bool,
) -> Result<Duration, Duration> {
    let start = Instant::now();
    loop {
        let begun = start.elapsed();
        if condition() {
            return Ok(start.elapsed());
        }
        if begun > limit {
            return Err(limit);
        }
        std::thread::park_timeout(BETWEEN_LOOKS);
    }
}

/// Looks until `condition` holds, and fails when [`PATIENCE`] is at its end.
pub(crate) fn wait_until(what: &str, condition: impl FnMut() -> bool) -> Duration {
    let waited = await_for(PATIENCE, condition);
    waited.unwrap_or_else(|limit| panic!("waited {limit:?} until {what}"))
}
