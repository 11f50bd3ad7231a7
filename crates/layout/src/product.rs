//! Products of sizes, which no config file can make overflow.

/// Returns the product of the factors, saturating at the largest number.
#[must_use]
pub fn product(factors: &[u64]) -> u64 {
    factors.iter().fold(1, |product, &factor| product.saturating_mul(factor))
}
