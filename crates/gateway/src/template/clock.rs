//! `strftime_now` for templates that put the date into the system prompt (Llama 3, Mistral).

use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] =
    ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Seconds since 1970-01-01, UTC.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `time` (seconds since 1970, UTC) in the format of C's `strftime`, English names. Directives
/// that are not known here stay as they are.
pub(super) fn strftime(format: &str, time: u64) -> String {
    let (days, seconds) = (time / 86_400, time % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let weekday = DAYS[usize::try_from((days + 3) % 7).expect("below 7")];
    let month_name = MONTHS[usize::try_from(month - 1).expect("below 12")];
    let hour12 = (hour + 11) % 12 + 1;
    let half = if hour < 12 { "AM" } else { "PM" };

    let mut output = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            output.push(character);
            continue;
        }
        match characters.next() {
            Some('Y') => output += &year.to_string(),
            Some('y') => output += &format!("{:02}", year % 100),
            Some('m') => output += &format!("{month:02}"),
            Some('d') => output += &format!("{day:02}"),
            Some('e') => output += &format!("{day:2}"),
            Some('H') => output += &format!("{hour:02}"),
            Some('I') => output += &format!("{hour12:02}"),
            Some('M') => output += &format!("{minute:02}"),
            Some('S') => output += &format!("{second:02}"),
            Some('p') => output += half,
            Some('A') => output += weekday,
            Some('a') => output += &weekday[..3],
            Some('B') => output += month_name,
            Some('b') => output += &month_name[..3],
            Some('F') => output += &format!("{year}-{month:02}-{day:02}"),
            Some('T') => output += &format!("{hour:02}:{minute:02}:{second:02}"),
            Some('j') => output += &format!("{:03}", days - days_before(year) + 1),
            Some('%') => output.push('%'),
            Some(other) => output.extend(['%', other]),
            None => output.push('%'),
        }
    }
    output
}

/// Year, month and day from days since 1970 (Howard Hinnant, "chrono-compatible low-level date
/// algorithms": years begin in March, eras have 400 years).
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// Days from 1970-01-01 to the first day of `year`.
fn days_before(year: u64) -> u64 {
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    365 * (year - 1970) + leaps(year - 1) - leaps(1969)
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
    }
}
