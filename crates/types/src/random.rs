//! The one source of pseudo-random numbers.

/// One step of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): a bijection whose outputs look unrelated. Good
/// for spreading and drawing, not for secrets.
#[must_use]
pub fn splitmix64(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
