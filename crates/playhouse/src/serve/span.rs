//! Durations in the spelling of flags.

use std::time::Duration;

use crate::number::fraction;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The maximum duration: longer ones are typing errors, and arithmetic with deadlines stays safe.
const LONGEST: Duration = DAY;

/// The minimum for a shutdown, of which clients need a part to read that their requests have ended.
const SHUTDOWN_MIN: Duration = Duration::from_secs(1);

/// The minimum for an idle connection.
const KEEP_ALIVE_MIN: Duration = Duration::from_secs(1);

/// The minimum for a certificate, which has whole seconds and is renewed before it expires.
const CERTIFICATE_MIN: Duration = Duration::from_secs(5);
/// The maximum for a certificate: a longer lifetime may as well have no end.
const CERTIFICATE_MAX: Duration = DAY.saturating_mul(3650);

/// Parses a number of milliseconds or more and its unit: `500ms`, `7.5s`, `2m` or `1h`; seconds without one. A
/// day at most.
///
/// # Errors
/// Returns the allowed values, for a person.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let span = read(text, "500ms, 60s, 2m or 1h")?;
    if span > LONGEST { Err("must be at most 24h".to_owned()) } else { Ok(span) }
}

/// Parses how long an idle connection is kept: at least a second, so that a client can use it again.
///
/// # Errors
/// Returns the allowed values, for a person.
pub(crate) fn keep_alive(text: &str) -> Result<Duration, String> {
    let span = read(text, "30s, 120s or 10m")?;
    match (KEEP_ALIVE_MIN..=LONGEST).contains(&span) {
        true => Ok(span),
        false => Err("must be from 1s to 24h".to_owned()),
    }
}

/// Parses the duration of a shutdown: from a second, so that clients can be told, to a day.
///
/// # Errors
/// Returns the allowed values, for a person.
pub(crate) fn shutdown(text: &str) -> Result<Duration, String> {
    let span = read(text, "10s, 28s or 2m")?;
    match (SHUTDOWN_MIN..=LONGEST).contains(&span) {
        true => Ok(span),
        false => Err("must be from 1s to 24h".to_owned()),
    }
}

/// Parses the lifetime of a certificate: from 5 seconds to ten years.
///
/// # Errors
/// Returns the allowed values, for a person.
pub(crate) fn certificate(text: &str) -> Result<Duration, String> {
    let span = read(text, "12h or 30d")?;
    match (CERTIFICATE_MIN..=CERTIFICATE_MAX).contains(&span) {
        true => Ok(span),
        false => Err("must be from 5s to 3650d".to_owned()),
    }
}

fn read(text: &str, examples: &str) -> Result<Duration, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
    let (number, unit) = text.split_at(digits.unwrap_or(text.len()));
    let scale_ms = match unit.trim_start() {
        "ms" => Some(1),
        "s" | "" => Some(1000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    };
    let millis = scale_ms.and_then(|scale_ms| fraction(number, scale_ms));
    let millis = millis.ok_or(format!("write a number and a unit, such as {examples}"))?;
    Ok(Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_a_number_and_a_unit() {
        for (text, millis) in [
            ("0", 0),
            ("60", 60_000),
            ("500ms", 500),
            ("7.5s", 7500),
            ("60 s", 60_000),
            ("2m", 120_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in
            ["", "s", "-1s", ".s", "1.5.0s", "0.5ms", "2d", "1é", "25h", "99999999999999999999h"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_shutdown_takes_a_second_at_least() {
        assert_eq!(shutdown("28s"), Ok(Duration::from_secs(28)));
        assert_eq!(shutdown("1000ms"), Ok(SHUTDOWN_MIN));
        for text in ["0", "999ms", "25h", "soon"] {
            assert!(shutdown(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_certificate_is_good_for_days() {
        assert_eq!(certificate("30d"), Ok(playhouse_link::CERTIFICATE_LIFETIME));
        assert_eq!(certificate("5s"), Ok(CERTIFICATE_MIN));
        for text in ["4s", "4999ms", "0", "3651d", "d", "1w"] {
            assert!(certificate(text).is_err(), "{text}");
        }
    }
}
