//! `strftime_now` for templates that put the date into the system prompt (Llama 3, Mistral).

use std::time::{SystemTime, UNIX_EPOCH};

use time::UtcDateTime;
use time::format_description::parse_strftime_borrowed;

/// Returns the seconds since 1970-01-01, UTC.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Formats `time` (seconds since 1970, UTC) like C's `strftime`, with English names. Unknown directives
/// remain as they are.
pub(super) fn strftime(format: &str, time: u64) -> String {
    let seconds = i64::try_from(time).unwrap_or(i64::MAX);
    let time = UtcDateTime::from_unix_timestamp(seconds).unwrap_or(UtcDateTime::MAX);
    let (mut output, mut rest) = (String::new(), format);
    while let Some(at) = rest.find('%') {
        let (text, directives) = rest.split_at(at);
        let (directive, after) = directives.split_at(directive_len(directives));
        output += text;
        output += expand(directive, time).as_deref().unwrap_or(directive);
        rest = after;
    }
    output + rest
}

/// Returns the length of a directive: `%`, optional padding, and a letter.
fn directive_len(format: &str) -> usize {
    let letter = 1 + usize::from(format[1..].starts_with(['-', '_', '0']));
    format[letter..].chars().next().map_or(letter, |c| letter + c.len_utf8())
}

/// Expands a directive; returns `None` for an unknown one.
fn expand(directive: &str, time: UtcDateTime) -> Option<String> {
    // One at a time: in a longer format, the first unknown directive would fail the others.
    time.format(&parse_strftime_borrowed(directive).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let format = "%d %b %Y %A %H:%M:%S %I %p %% %q %F %y %e %";
        let leap_day = 1_709_210_096; // date -u -d 2024-02-29T12:34:56 +%s
        let expected = "29 Feb 2024 Thursday 12:34:56 12 PM % %q 2024-02-29 24 29 %";
        assert_eq!(strftime(format, leap_day), expected);
        assert_eq!(strftime("%F %T %a %B %I%p", 0), "1970-01-01 00:00:00 Thu January 12AM");
        assert_eq!(strftime("%F %j", 951_868_800), "2000-03-01 061");
        assert_eq!(strftime("%F %j", 4_102_444_799), "2099-12-31 365");
        assert_eq!(strftime("%-d. %-m., %q%é%-", leap_day), "29. 2., %q%é%-");
        assert_eq!(strftime("%F", u64::MAX), "9999-12-31");
    }
}
