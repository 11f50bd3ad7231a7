//! Seeded randomness for loads, implemented here so that a seed always means the same load: the
//! algorithms of a library may change with its version.

/// SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
pub(super) struct Random(u64);

// === impl Random ===

impl Random {
    /// Returns the sequence of `seed`; `purpose` separates sequences of the same seed.
    pub(super) fn new(seed: u32, purpose: u32) -> Self {
        Self(u64::from(seed) << 32 | u64::from(purpose))
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Returns a number that is uniform in (0, 1), so that its logarithm is finite.
    pub(super) fn open01(&mut self) -> f64 {
        ((self.bits() >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
    }

    /// Returns a number that is uniform over `low..=high`. The bias, `(high - low) / 2^64`, is negligible
    /// for a load.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high && high - low < u64::MAX, "{low}..={high} is no range to draw from");
        low + ((u128::from(self.bits()) * u128::from(high - low + 1)) >> 64) as u64
    }

    /// Returns a gamma-distributed number with this shape and scale 1 (Marsaglia and Tsang, "A simple
    /// method for generating gamma variables", 2000), by rejection; for shapes below 1 with their boost.
    pub(super) fn gamma(&mut self, shape: f64) -> f64 {
        if shape == 1.0 {
            return -self.open01().ln();
        }
        if shape < 1.0 {
            let boost = self.open01().powf(1.0 / shape);
            return self.gamma(shape + 1.0) * boost;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v > 0.0 && self.open01().ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
    }

    /// Returns a standard normal number (Box and Muller, 1958).
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * self.open01().ln()).sqrt();
        radius * (std::f64::consts::TAU * self.open01()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_means_the_same_load_for_ever() {
        // The first outputs of the reference implementation for the state 0.
        let mut random = Random::new(0, 0);
        let first = [random.bits(), random.bits(), random.bits()];
        assert_eq!(first, [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4, 0x06C4_5D18_8009_454F]);
        let draws = |seed, purpose| {
            let mut random = Random::new(seed, purpose);
            [0; 8].map(|_| random.between(0, 999))
        };
        assert_eq!(draws(7, 1), draws(7, 1));
        assert_ne!(draws(7, 1), draws(7, 2));
        assert_ne!(draws(7, 1), draws(8, 1));
    }

    #[test]
    fn draws_stay_in_their_range_and_reach_its_ends() {
        let mut random = Random::new(0, 0);
        let mut seen = [0_u32; 5];
        for _ in 0..5000 {
            seen[random.between(3, 7) as usize - 3] += 1;
            let unit = random.open01();
            assert!(unit > 0.0 && unit < 1.0);
        }
        assert!(seen.iter().all(|&count| (900..1100).contains(&count)), "{seen:?}");
    }

    #[test]
    fn gamma_has_its_mean_and_variance() {
        for shape in [0.3, 1.0, 2.5, 40.0] {
            let mut random = Random::new(11, 0);
            let count = 40_000;
            let draws: Vec<f64> = (0..count).map(|_| random.gamma(shape)).collect();
            let mean = draws.iter().sum::<f64>() / f64::from(count);
            let variance =
                draws.iter().map(|draw| (draw - mean).powi(2)).sum::<f64>() / f64::from(count);
            assert!((mean / shape - 1.0).abs() < 0.03, "mean of shape {shape} is {mean}");
            assert!((variance / shape - 1.0).abs() < 0.08, "variance of {shape} is {variance}");
        }
    }
}
