//! The memory that ranks need of their devices, and the size of the KV cache that fits beside their
//! weights.
//!
//! - **MM-1** a rank is placed only on a device that holds its weights and the KV cache of one sequence
//!   of full length.
//! - **MM-2** the KV cache of a replica has as many blocks as the device of each of its ranks can hold:
//!   the minimum over them.
//!
//! Sizes only. Not here: which of the devices that are large enough a rank gets (see `nodes`).

use std::fmt;

/// One part in this many of a device's memory is not counted on: activations and the process itself take
/// some.
const RESERVED: u64 = 20;

/// The most devices that a complaint names.
const DEVICES_NAMED: usize = 4;

/// The bytes of memory that a rank needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RankBytes {
    /// Bytes of its weights.
    pub weights: u64,
    /// Bytes of one block of its KV cache.
    pub kv_block: u64,
}

/// The memory that the ranks of a replica need of their devices.
#[derive(Clone, Debug, PartialEq)]
pub struct MemoryNeeds {
    /// The needs of each rank, stage by stage.
    pub ranks: Vec<RankBytes>,
    /// The smallest KV cache, in blocks: that of one sequence of full length.
    pub kv_blocks_min: u32,
    /// The largest KV cache, in blocks: what was asked for, or what all sequences can use.
    pub kv_blocks_max: u32,
    /// The share of a device's memory that the KV cache may take beyond `kv_blocks_min`.
    pub kv_share: f64,
}

/// A number of bytes, for a person.
struct Size(u64);

// === impl MemoryNeeds ===

impl MemoryNeeds {
    /// Returns needs that every device meets, for KV caches of `kv_blocks`: for tests of everything
    /// else.
    #[must_use]
    pub fn none(kv_blocks: u32) -> Self {
        Self {
            ranks: Vec::new(),
            kv_blocks_min: kv_blocks,
            kv_blocks_max: kv_blocks,
            kv_share: 1.0,
        }
    }

    /// Returns the bytes of memory that a device must have for a rank (**MM-1**).
    pub(crate) fn least(&self, rank: usize) -> u64 {
        self.ranks.get(rank).map_or(0, |rank| {
            let held = rank.weights.saturating_add(self.kv_min_bytes(*rank));
            held.div_ceil(RESERVED - 1).saturating_mul(RESERVED)
        })
    }

    /// Returns the memory that a device must have to fit any rank, and to fit the rank that needs least.
    pub(crate) fn bounds(&self) -> [u64; 2] {
        let all = || (0..self.ranks.len()).map(|rank| self.least(rank));
        [all().max().unwrap_or(0), all().min().unwrap_or(0)]
    }

    /// Returns whether every rank fits on its device; `memories` are those of the devices.
    pub(crate) fn fit(&self, memories: &[u64]) -> bool {
        memories.iter().enumerate().all(|(rank, memory)| *memory >= self.least(rank))
    }

    /// Returns the KV blocks of a replica whose ranks are on devices with these memories (**MM-2**).
    pub(crate) fn kv_blocks(&self, memories: &[u64]) -> u32 {
        let affordable = |(rank, memory): (&RankBytes, &u64)| {
            let beside = (memory - memory / RESERVED).saturating_sub(rank.weights);
            let share = (*memory as f64 * self.kv_share) as u64;
            u32::try_from(beside.min(share) / rank.kv_block.max(1)).unwrap_or(u32::MAX)
        };
        let least = self.ranks.iter().zip(memories).map(affordable).min();
        least.unwrap_or(u32::MAX).min(self.kv_blocks_max).max(self.kv_blocks_min)
    }

    fn kv_min_bytes(&self, rank: RankBytes) -> u64 {
        rank.kv_block.saturating_mul(self.kv_blocks_min.into())
    }

    /// Returns why not every rank fits on a device with this memory; `None` if each does.
    #[must_use]
    pub fn misfit(&self, memory: u64) -> Option<String> {
        if self.bounds()[0] <= memory {
            return None;
        }
        Some(format!("a device here has {}: {}", Size(memory), self.demand()))
    }

    /// Describes what the largest rank needs, and how to lower that.
    fn demand(&self) -> String {
        let rank = self.ranks.iter().max_by_key(|rank| rank.weights).copied();
        let rank = rank.unwrap_or(RankBytes { weights: 0, kv_block: 0 });
        format!(
            "the largest rank needs {} ({} of weights, {} for the KV cache of one sequence of full \
             length); offer fewer devices there (--devices), split the model over more ranks (-tp, -pp) \
             or give a smaller --max-model-len",
            Size(self.bounds()[0]),
            Size(rank.weights),
            Size(self.kv_min_bytes(rank)),
        )
    }

    /// Describes the devices that are too small, with their memory; empty if there are none.
    pub(crate) fn complaint(&self, small: &[(String, u32, u64)]) -> String {
        if small.is_empty() {
            return String::new();
        }
        let named = small
            .iter()
            .take(DEVICES_NAMED)
            .map(|(node, device, memory)| format!("{node} cpu:{device} with {}", Size(*memory)));
        let more = small.len().saturating_sub(DEVICES_NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let named = named.collect::<Vec<_>>().join(", ");
        format!("; too small are {named}{more}: {}", self.demand())
    }
}

// === impl Size ===

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes @ 0x4000_0000.. => write!(f, "{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
            bytes => write!(f, "{:.1} MiB", bytes as f64 / f64::from(1 << 20)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn needs(weights: &[u64]) -> MemoryNeeds {
        let rank = |weights: &u64| RankBytes { weights: weights * MIB, kv_block: MIB };
        MemoryNeeds {
            ranks: weights.iter().map(rank).collect(),
            kv_blocks_min: 100,
            kv_blocks_max: 5000,
            kv_share: 0.4,
        }
    }

    #[test]
    fn mm1_a_device_holds_the_weights_and_one_sequence() {
        let needs = needs(&[850, 1800]);
        assert_eq!([needs.least(0), needs.least(1)], [1000 * MIB, 2000 * MIB]);
        assert_eq!(needs.bounds(), [2000 * MIB, 1000 * MIB]);
        for (memories, fit) in [
            ([1000, 2000], true),
            ([999, 2000], false),
            ([1000, 1999], false),
            ([2000, 1000], false),
        ] {
            assert_eq!(needs.fit(&memories.map(|memory| memory * MIB)), fit, "{memories:?}");
        }
        assert!(MemoryNeeds::none(7).fit(&[0, 0]), "nobody looks after memory");
    }

    #[test]
    fn mm2_the_smallest_device_says_how_many_blocks_there_are() {
        let needs = needs(&[1000, 1000]);
        for (memories, blocks) in [
            // 40 % of 4000 MiB, and of 10000 MiB.
            ([10_000, 10_000], 4000),
            ([10_000, 4000], 1600),
            ([4000, 10_000], 1600),
            // What the weights leave is less than that.
            ([1400, 10_000], 330),
            // No more than is asked for, and no less than one sequence.
            ([100_000, 100_000], 5000),
            ([1158, 10_000], 100),
            ([0, 10_000], 100),
        ] {
            let memories = memories.map(|memory| memory * MIB);
            assert_eq!(needs.kv_blocks(&memories), blocks, "{memories:?}");
        }
        assert_eq!(MemoryNeeds::none(7).kv_blocks(&[0]), 7);
    }

    #[test]
    fn a_complaint_names_devices_and_sizes() {
        let small: Vec<_> = (0..6).map(|device| ("b".to_owned(), device, 512 * MIB)).collect();
        let text = needs(&[850, 1800]).complaint(&small);
        for part in [
            "b cpu:0 with 512.0 MiB, b cpu:1",
            " and 2 more",
            "needs 2.0 GiB (1.8 GiB of weights, 100.0 MiB for",
            "--devices",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(needs(&[850]).complaint(&[]), "");
        let needs = needs(&[850, 1800]);
        assert_eq!(needs.misfit(2000 * MIB), None);
        let why = needs.misfit(1999 * MIB).expect("one does not fit");
        assert!(
            why.starts_with("a device here has 2.0 GiB: the largest rank needs 2.0 GiB"),
            "{why}"
        );
    }
}
