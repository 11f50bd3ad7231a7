//! Dates in UTC.

use std::fmt;
use std::time::SystemTime;

use time::UtcDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

/// A moment in UTC, to the second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Date(UtcDateTime);

// === impl Date ===

impl Date {
    /// Returns the date of `at`; the start of 1970 if `at` is before that, the end of 9999 if it is
    /// after.
    pub(crate) fn of(at: SystemTime) -> Self {
        let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        Self(UtcDateTime::from_unix_timestamp(seconds).unwrap_or(UtcDateTime::MAX))
    }

    /// Returns the date as `YYYYMMDD-HHMMSS`, as in names of vLLM's result files.
    pub(crate) fn compact(&self) -> String {
        self.format(format_description!("[year][month][day]-[hour][minute][second]"))
    }

    /// Returns the date in the format of RFC 3339: `YYYY-MM-DDTHH:MM:SSZ`.
    pub(crate) fn rfc3339(&self) -> String {
        self.format(format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z"))
    }

    fn format(&self, format: &[BorrowedFormatItem<'_>]) -> String {
        self.0.format(format).expect("a date has all that these formats name")
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let format = format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
        f.write_str(&self.format(format))
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
            (u64::MAX / 2, "99991231-235959"),
        ] {
            let date = Date::of(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
            assert_eq!(date.compact(), expected);
        }
        let date = Date::of(SystemTime::UNIX_EPOCH + Duration::from_secs(1_709_210_096));
        assert_eq!(date.to_string(), "2024-02-29 12:34:56 UTC");
        assert_eq!(date.rfc3339(), "2024-02-29T12:34:56Z");
    }
}
