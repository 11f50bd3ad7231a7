//! A moment as a date, in UTC: all that is needed of a calendar here.

use std::fmt;
use std::time::SystemTime;

/// A moment in UTC, to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Date {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
}

// === impl Date ===

impl Date {
    /// The date of `at`; the start of 1970 if it is before that.
    pub(crate) fn of(at: SystemTime) -> Self {
        let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        // Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days: years
        // begin in March, so that a leap day is the last of its year.
        let days = days + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Self {
            year: year_of_era + era * 400 + u64::from(month <= 2),
            month,
            day: day_of_year - (153 * from_march + 2) / 5 + 1,
            hour: second / 3600,
            minute: second / 60 % 60,
            second: second % 60,
        }
    }

    /// `YYYYMMDD-HHMMSS`, as in names of vLLM's result files.
    pub(crate) fn compact(&self) -> String {
        let Self { year, month, day, hour, minute, second } = self;
        format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
    }

    /// As RFC 3339 has it: `YYYY-MM-DDTHH:MM:SSZ`.
    pub(crate) fn rfc3339(&self) -> String {
        let Self { year, month, day, hour, minute, second } = self;
        format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, hour, minute, second } = self;
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        for (seconds, expected) in [
            (0, "19700101-000000"),
            (951_782_399, "20000228-235959"),
            (951_782_400, "20000229-000000"),
            (1_709_210_096, "20240229-123456"),
            (1_798_761_599, "20261231-235959"),
            (4_107_542_400, "21000301-000000"),
        ] {
            let date = Date::of(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(date.compact(), expected);
        }
        let date = Date::of(SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_210_096));
        assert_eq!(date.to_string(), "2024-02-29 12:34:56 UTC");
        assert_eq!(date.rfc3339(), "2024-02-29T12:34:56Z");
    }
}
