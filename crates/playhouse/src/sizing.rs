//! The size of the KV cache, from the flags and the memory of the machine.

use std::fmt;
use std::str::FromStr;

use playhouse_types::BlockSize;

use crate::cgroups::memory_limit;

/// The share of the available memory that the KV cache may take when no size is given.
const DEFAULT_SHARE: f64 = 0.4;

/// A number of bytes, written `512MiB`, `4GB`, `1.5g` or `1048576`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bytes(pub(crate) u64);

/// The error of a text that is not a number of bytes.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is not a size; write a number of bytes or one with a unit, such as 512MiB or 4GB")]
pub(crate) struct NotBytes(String);

/// The reason why there is no memory for a KV cache of a useful size.
#[derive(Debug, thiserror::Error)]
#[error(
    "{available} of KV cache hold {tokens} tokens, one sequence of the full context needs \
     {max_model_len}; give --kv-cache-memory at least {needed}, or --max-model-len at most {tokens}"
)]
pub(crate) struct TooSmall {
    available: Bytes,
    needed: Bytes,
    tokens: usize,
    max_model_len: usize,
}

/// The numbers of blocks that the KV cache of a replica may have.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct CacheSize {
    /// The blocks of one sequence of full length.
    pub(crate) least: u32,
    /// The blocks of all sequences, or as many as the given memory holds.
    pub(crate) most: u32,
    /// The share of a device's memory that the blocks may take.
    pub(crate) share: f64,
}

// === impl CacheSize ===

impl CacheSize {
    /// Returns the size for at most `max_num_seqs` sequences of full length, `block` for each block.
    /// `memory` was asked for; `available` is known if all ranks use the memory of this machine, and
    /// [`DEFAULT_SHARE`] of it is the limit then.
    ///
    /// # Errors
    /// Returns an error when not even one sequence of full length fits.
    pub(crate) fn new(
        block: Bytes,
        block_size: BlockSize,
        max_model_len: usize,
        max_num_seqs: usize,
        memory: Option<Bytes>,
        available: Option<Bytes>,
    ) -> Result<Self, TooSmall> {
        let blocks = |count: u64| u32::try_from(count).unwrap_or(u32::MAX - 1);
        let per_sequence = block_size.blocks_for(max_model_len) as u64;
        let wanted = per_sequence.saturating_mul(max_num_seqs as u64);
        let share = |available: Bytes| Bytes((available.0 as f64 * DEFAULT_SHARE) as u64);
        let budget = memory.or(available.map(share));
        let affordable = budget.map_or(u64::MAX, |budget| budget.0 / block.0);
        if let Some(budget) = budget.filter(|_| affordable < per_sequence) {
            return Err(TooSmall {
                available: budget,
                needed: Bytes(per_sequence * block.0),
                tokens: affordable as usize * block_size.tokens(),
                max_model_len,
            });
        }
        Ok(Self {
            least: blocks(per_sequence),
            most: blocks(wanted.min(affordable)),
            share: if memory.is_some() { 1.0 } else { DEFAULT_SHARE },
        })
    }
}

/// Returns the memory that new allocations may use: the value of `/proc/meminfo`, 4 GiB where there is
/// none, but no more than the control groups of this process allow.
pub(crate) fn available_memory() -> Bytes {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    let machine = kib.map_or(4 << 30, |kib| kib << 10);
    Bytes(memory_limit().map_or(machine, |limit| limit.min(machine)))
}

// === impl Bytes ===

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
        if self.0 < 1024 {
            return write!(f, "{} B", self.0);
        }
        let exponent = (self.0.ilog2() / 10).min(4);
        let value = self.0 as f64 / f64::from(exponent * 10).exp2();
        write!(f, "{value:.1} {}", UNITS[exponent as usize - 1])
    }
}

impl FromStr for Bytes {
    type Err = NotBytes;

    fn from_str(text: &str) -> Result<Self, NotBytes> {
        let refuse = || NotBytes(text.to_owned());
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let scale: f64 = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "kb" => 1e3,
            "mb" => 1e6,
            "gb" => 1e9,
            "tb" => 1e12,
            "k" | "kib" => 1024.0,
            "m" | "mib" => 1024.0 * 1024.0,
            "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
            "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
            _ => return Err(refuse()),
        };
        let bytes = number.parse::<f64>().map_err(|_| refuse())? * scale;
        if bytes >= 1.0 && bytes < 2f64.powi(60) { Ok(Self(bytes as u64)) } else { Err(refuse()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("1048576", 1 << 20), ("512MiB", 512 << 20), ("1.5g", 3 << 29), ("4GB", 4_000_000_000)]
        {
            assert_eq!(text.parse::<Bytes>().expect(text), Bytes(bytes));
        }
        for text in ["", "MiB", "4 parsecs", "-1", "0", "1e99", "NaN", "1.2.3G"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        assert_eq!(Bytes(1536).to_string(), "1.5 KiB");
        assert_eq!(Bytes(64 << 20).to_string(), "64.0 MiB");
    }

    #[test]
    fn the_cache_is_bounded_by_need_and_by_memory() {
        let size = |memory, available| {
            CacheSize::new(Bytes(1024), BlockSize::CPU, 160, 4, memory, available)
                .map(|size| (size.least, size.most))
        };
        let plenty = Some(Bytes(1 << 30));
        assert_eq!(size(None, plenty).expect("plenty"), (10, 40));
        assert_eq!(size(None, None).expect("nobody knows where"), (10, 40));
        assert_eq!(size(Some(Bytes(20 << 10)), plenty).expect("enough"), (10, 20));
        assert_eq!(size(Some(Bytes(20 << 10)), None).expect("enough"), (10, 20));
        assert_eq!(size(None, Some(Bytes(50 << 10))).expect("40 % of it"), (10, 20));
        for available in [plenty, None] {
            let refused = size(Some(Bytes(5 << 10)), available).expect_err("half a sequence");
            assert_eq!(
                refused.to_string(),
                "5.0 KiB of KV cache hold 80 tokens, one sequence of the full context needs 160; give \
                 --kv-cache-memory at least 10.0 KiB, or --max-model-len at most 80"
            );
        }
    }
}
