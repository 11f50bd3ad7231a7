//! Random numbers that are determined by a seed.

use playhouse_types::splitmix64;

/// Returns a random number as a fraction: from 0 up to 1.
pub(crate) fn share(random: u64) -> f64 {
    (random >> 11) as f64 / (1u64 << 53) as f64
}

/// Returns the next number of splitmix64 (Steele, Lea, Flood 2014).
pub(crate) fn splitmix(state: &mut u64) -> u64 {
    let drawn = splitmix64(*state);
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    drawn
}
