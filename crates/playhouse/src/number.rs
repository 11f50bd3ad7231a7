//! Numbers, addresses and ids in the spelling of flags. Errors say what is allowed, in no words of this
//! program's code.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};

/// A type of whole numbers from 0 or 1 on.
pub(crate) trait Whole: Sized {
    /// The least number.
    const LEAST: u64;
    /// The greatest number.
    const MOST: u64;

    /// Returns a number of this type; `None` if it is out of range.
    fn new(number: u64) -> Option<Self>;
}

macro_rules! whole {
    ($($type:ty, $least:literal, $most:expr, $new:expr;)+) => {
        $(impl Whole for $type {
            const LEAST: u64 = $least;
            const MOST: u64 = $most;

            fn new(number: u64) -> Option<Self> {
                number.try_into().ok().and_then($new)
            }
        })+
    };
}

whole! {
    u16, 0, u16::MAX as u64, Some;
    u32, 0, u32::MAX as u64, Some;
    u64, 0, u64::MAX, Some;
    usize, 0, usize::MAX as u64, Some;
    NonZeroU32, 1, u32::MAX as u64, NonZeroU32::new;
    NonZeroUsize, 1, usize::MAX as u64, NonZeroUsize::new;
}

/// Parses a whole number.
///
/// # Errors
/// Returns the range of allowed numbers.
pub(crate) fn whole<T: Whole>(text: &str) -> Result<T, String> {
    let number = digits(text).and_then(T::new);
    number.ok_or_else(|| format!("expected {}", range::<T>()))
}

/// Parses a count such as `4096`, `4k` (4,000) or `4K` (4,096), with vLLM's units.
///
/// # Errors
/// Returns the range of allowed counts.
pub(crate) fn count<T: Whole>(text: &str) -> Result<T, String> {
    let parts = text.char_indices().last().map(|(at, unit)| (&text[..at], unit));
    let scaled = parts.and_then(|(number, unit)| {
        let scale = match unit {
            'k' => 1_000,
            'm' => 1_000_000,
            'g' => 1_000_000_000,
            'K' => 1 << 10,
            'M' => 1 << 20,
            'G' => 1 << 30,
            _ => return None,
        };
        fraction(number, scale)
    });
    let number = scaled.or_else(|| digits(text)).and_then(T::new);
    number.ok_or_else(|| format!("expected {}, such as 4096, 4k (4000) or 4K (4096)", range::<T>()))
}

/// Returns `number`, which may have decimals, times `scale`; `None` if that is no whole number.
pub(crate) fn fraction(number: &str, scale: u64) -> Option<u64> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
    let unit = 10_u64.checked_pow(u32::try_from(decimals.len()).ok()?)?;
    let digits = digits(&format!("{whole}{decimals}"))?;
    let scaled = digits.checked_mul(scale)?;
    scaled.is_multiple_of(unit).then_some(scaled / unit)
}

fn digits(text: &str) -> Option<u64> {
    let all = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    all.then(|| text.parse().ok()).flatten()
}

fn range<T: Whole>() -> String {
    match T::MOST {
        u64::MAX => format!("a whole number from {} on", T::LEAST),
        most => format!("a whole number from {} to {most}", T::LEAST),
    }
}

/// Parses a whole number that may be below zero, which the head refuses by name.
///
/// # Errors
/// Returns what was expected.
pub(crate) fn signed(text: &str) -> Result<i64, String> {
    text.parse().map_err(|_| "expected a whole number".to_owned())
}

/// Parses a number that may have decimals.
///
/// # Errors
/// Returns what was expected.
pub(crate) fn decimal(text: &str) -> Result<f64, String> {
    text.parse().map_err(|_| "expected a number, such as 0.7".to_owned())
}

/// Parses an address to listen on: an IP address, or `localhost`.
///
/// # Errors
/// Returns what was expected.
pub(crate) fn host(text: &str) -> Result<IpAddr, String> {
    if text == "localhost" {
        return Ok(Ipv4Addr::LOCALHOST.into());
    }
    text.parse().map_err(|_| {
        "expected an IP address of this machine: 127.0.0.1 for itself alone, 0.0.0.0 or :: for all"
            .to_owned()
    })
}

/// Parses an IP address with a port.
///
/// # Errors
/// Returns what was expected.
pub(crate) fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected ADDRESS:PORT, such as 0.0.0.0:7000 or [::]:7000".to_owned())
}

/// Parses the id of a replica, also as logs and errors spell it: `1` or `replica-1`.
///
/// # Errors
/// Returns what was expected.
pub(crate) fn replica(text: &str) -> Result<u32, String> {
    let number = digits(text.strip_prefix("replica-").unwrap_or(text)).and_then(u32::new);
    number.ok_or_else(|| "expected the id of a replica, such as 1 or replica-1".to_owned())
}

/// Parses the id of an operation, also as logs and errors spell it: `2` or `operation-2`, and `op-2`.
///
/// # Errors
/// Returns what was expected.
pub(crate) fn operation(text: &str) -> Result<u64, String> {
    let number = text.strip_prefix("operation-").or_else(|| text.strip_prefix("op-"));
    let number = digits(number.unwrap_or(text));
    number.ok_or_else(|| "expected the id of an operation, such as 2 or operation-2".to_owned())
}

#[cfg(test)]
mod tests {
    use playhouse_cluster::OperationId;
    use playhouse_types::ReplicaId;

    use super::*;

    #[test]
    fn counts_have_the_units_of_vllm() {
        for (text, number) in [
            ("4096", 4096),
            ("4k", 4000),
            ("4K", 4096),
            ("1.5k", 1500),
            ("25.6k", 25_600),
            ("0.5K", 512),
            ("1m", 1_000_000),
            ("1M", 1 << 20),
            ("2G", 2 << 30),
        ] {
            assert_eq!(count::<u64>(text), Ok(number), "{text}");
        }
        for text in
            ["", "k", "-4k", "4 k", "1.0001k", "4kk", "4t", "0x10", "99999999999G", "4é", "."]
        {
            let refused = count::<u32>(text).expect_err(text);
            assert!(
                refused.starts_with("expected a whole number from 0 to 4294967295, "),
                "{text}"
            );
        }
        assert!(count::<u32>("5G").is_err() && count::<NonZeroU32>("0k").is_err());
    }

    #[test]
    fn ranges_are_told_and_kept() {
        assert_eq!(whole::<u16>("65535"), Ok(65_535));
        let ports = "expected a whole number from 0 to 65535";
        for text in ["65536", "-1", "+1", "1.0", "x", "", "٣"] {
            assert_eq!(whole::<u16>(text).expect_err(text), ports);
        }
        assert_eq!(
            whole::<NonZeroUsize>("0").expect_err("zero"),
            "expected a whole number from 1 on"
        );
    }

    #[test]
    fn ids_are_read_as_they_are_printed() {
        for id in [0, 1, 17] {
            assert_eq!(replica(&ReplicaId(id).to_string()), Ok(id));
            assert_eq!(replica(&id.to_string()), Ok(id));
            let id = u64::from(id);
            assert_eq!(operation(&OperationId(id).to_string()), Ok(id));
            assert_eq!(operation(&format!("op-{id}")), Ok(id));
        }
        for text in ["", "replica-", "replica-x", "-1", "operation 1"] {
            assert!(replica(text).is_err() && operation(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_say_what_they_may_be() {
        assert_eq!(host("localhost"), Ok(Ipv4Addr::LOCALHOST.into()));
        assert_eq!(host("::1"), Ok("::1".parse().expect("an address")));
        assert!(host("example.com").is_err_and(|why| why.contains("127.0.0.1")));
        assert!(socket("7000").is_err_and(|why| why.contains("ADDRESS:PORT")));
    }
}
