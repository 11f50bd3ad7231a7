//! Cosines and sines of positions, after `modeling_rope_utils.py` of Hugging Face transformers.
//!
//! Frequencies and angles are rounded to f32 where transformers does: at position 100,000 the
//! rounding of an f32 angle is visible, and a model was trained with it.

use std::f64::consts::TAU;

use playhouse_ops::RopeRows;
use playhouse_types::{Rope, RopeScaling};

/// Rotation angles per position of one rope.
#[derive(Clone, Debug)]
pub(crate) struct RopeTable {
    rope: Rope,
    /// `[dims / 2]`, up to the original length if the formula needs it.
    frequencies: Vec<f32>,
    /// Factor of cosines and sines.
    attention_factor: f32,
}

// === impl RopeTable ===

impl RopeTable {
    pub(crate) fn new(rope: &Rope) -> Self {
        let plain = || frequencies(rope.theta, rope.dims);
        let (frequencies, attention_factor) = match rope.scaling {
            RopeScaling::Default | RopeScaling::Dynamic { .. } => (plain(), 1.0),
            RopeScaling::Linear { factor } => {
                (plain().into_iter().map(|f| f / factor as f32).collect(), 1.0)
            }
            RopeScaling::Llama3 { .. } => (llama3(plain(), &rope.scaling), 1.0),
            RopeScaling::Yarn { attention_factor, .. } => {
                (yarn(plain(), rope), attention_factor as f32)
            }
        };
        Self { rope: rope.clone(), frequencies, attention_factor }
    }

    /// Returns the cosines and sines, each `[positions, dims / 2]`, of pairs of a position and the prompt
    /// length of its sequence, on which only dynamic scaling depends.
    pub(crate) fn rows(&self, positions: impl Iterator<Item = (usize, usize)>) -> RopeRows {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        // Consecutive positions mostly share their frequencies.
        let mut stretched: Option<(usize, Vec<f32>)> = None;
        for (position, prompt_tokens) in positions {
            let frequencies = match self.stretched_length(prompt_tokens.max(position + 1)) {
                None => &self.frequencies,
                Some(length) => {
                    if stretched.as_ref().is_none_or(|(known, _)| *known != length) {
                        stretched = Some((length, self.dynamic(length)));
                    }
                    &stretched.as_ref().expect("set just above").1
                }
            };
            for frequency in frequencies {
                let angle = position as f32 * frequency;
                cos.push(angle.cos() * self.attention_factor);
                sin.push(angle.sin() * self.attention_factor);
            }
        }
        RopeRows { cos, sin }
    }

    /// Returns `length` when dynamic scaling stretches it.
    fn stretched_length(&self, length: usize) -> Option<usize> {
        match self.rope.scaling {
            RopeScaling::Dynamic { original_max, .. } if length > original_max => Some(length),
            _ => None,
        }
    }

    /// `_compute_dynamic_ntk_parameters`
    fn dynamic(&self, length: usize) -> Vec<f32> {
        let RopeScaling::Dynamic { factor, original_max } = self.rope.scaling else {
            unreachable!("only dynamic scaling has stretched lengths")
        };
        let dim = self.rope.dims as f64;
        let stretch = factor * length as f64 / original_max as f64 - (factor - 1.0);
        frequencies(self.rope.theta * stretch.powf(dim / (dim - 2.0)), self.rope.dims)
    }
}

/// `1 / theta^(2 i / dims)`
fn frequencies(theta: f64, dims: usize) -> Vec<f32> {
    let frequency = |i| 1.0 / power(theta, i, dims);
    (0..dims / 2).map(frequency).collect()
}

/// `theta^(2 i / dims)`, rounded as by `torch.pow` in f32.
fn power(theta: f64, i: usize, dims: usize) -> f32 {
    let exponent = (2 * i) as f32 / dims as f32;
    f64::from(theta as f32).powf(f64::from(exponent)) as f32
}

/// `_compute_llama3_parameters`
fn llama3(mut frequencies: Vec<f32>, scaling: &RopeScaling) -> Vec<f32> {
    let RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max } = *scaling
    else {
        unreachable!("called for llama3 only")
    };
    let (factor, original_max) = (factor as f32, original_max as f32);
    let (low, high) = (low_freq_factor as f32, high_freq_factor as f32);
    for frequency in &mut frequencies {
        let wavelength = TAU as f32 / *frequency;
        if wavelength > original_max / low {
            *frequency /= factor;
        } else if wavelength >= original_max / high {
            let smooth = (original_max / wavelength - low) / (high - low);
            *frequency = (1.0 - smooth) * *frequency / factor + smooth * *frequency;
        }
    }
    frequencies
}

/// `_compute_yarn_parameters`
fn yarn(mut frequencies: Vec<f32>, rope: &Rope) -> Vec<f32> {
    let RopeScaling::Yarn { factor, beta_fast, beta_slow, original_max, truncate, .. } =
        rope.scaling
    else {
        unreachable!("called for yarn only")
    };
    let dim = 2.0 * frequencies.len() as f64;
    let dimension_of = |rotations: f64| {
        dim * (original_max as f64 / (rotations * TAU)).ln() / (2.0 * rope.theta.ln())
    };
    let (mut low, mut high) = (dimension_of(beta_fast), dimension_of(beta_slow));
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(dim - 1.0));
    if low == high {
        high += 0.001;
    }
    for (i, frequency) in frequencies.iter_mut().enumerate() {
        let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
        let interpolated = *frequency / factor as f32;
        *frequency = interpolated * ramp + *frequency * (1.0 - ramp);
    }
    frequencies
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DIMS: usize = 64;

    fn table(scaling: RopeScaling) -> RopeTable {
        RopeTable::new(&Rope { dims: DIMS, theta: 10_000.0, scaling })
    }

    #[test]
    fn the_first_pair_turns_by_one_radian_per_position() {
        let RopeRows { cos, sin } = table(RopeScaling::Default).rows([(0, 1), (3, 1)].into_iter());
        assert_eq!((cos.len(), sin.len()), (DIMS, DIMS));
        assert_eq!((cos[0], sin[0]), (1.0, 0.0));
        assert_eq!((cos[DIMS / 2], sin[DIMS / 2]), (3f32.cos(), 3f32.sin()));
    }

    #[test]
    fn linear_scaling_slows_all_pairs() {
        let plain = table(RopeScaling::Default).frequencies;
        let slow = table(RopeScaling::Linear { factor: 4.0 }).frequencies;
        assert!(plain.iter().zip(&slow).all(|(plain, slow)| plain / 4.0 == *slow));
    }

    #[test]
    fn llama3_and_yarn_keep_fast_pairs_and_slow_the_others() {
        let plain = table(RopeScaling::Default).frequencies;
        let llama3 = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max: 8192,
        };
        let yarn = RopeScaling::Yarn {
            factor: 8.0,
            attention_factor: 1.2,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_max: 8192,
            truncate: true,
        };
        for scaled in [table(llama3), table(yarn)] {
            let scaled = scaled.frequencies;
            let ratios: Vec<_> =
                plain.iter().zip(&scaled).map(|(plain, slow)| plain / slow).collect();
            assert_eq!((ratios[0], ratios[DIMS / 2 - 1].round()), (1.0, 8.0), "{ratios:?}");
            assert!(ratios.is_sorted_by(|a, b| *a <= b + 1e-4), "{ratios:?}");
        }
    }

    #[test]
    fn dynamic_scaling_begins_beyond_the_original_length() {
        let dynamic = table(RopeScaling::Dynamic { factor: 2.0, original_max: 100 });
        let plain = table(RopeScaling::Default);
        let row =
            |table: &RopeTable, position, prompt| table.rows([(position, prompt)].into_iter());
        assert_eq!(row(&dynamic, 99, 100), row(&plain, 99, 100));
        assert_ne!(row(&dynamic, 100, 50), row(&plain, 100, 50));
        // Tokens of a long prompt share the base of its length, wherever they stand.
        assert_ne!(row(&dynamic, 5, 150), row(&plain, 5, 150));
        assert_eq!(row(&dynamic, 5, 150).cos[0], row(&dynamic, 5, 120).cos[0], "theta^0");
        assert_ne!(row(&dynamic, 5, 150).cos[1], row(&dynamic, 5, 120).cos[1]);
    }

    proptest! {
        /// Whatever a config may ask for, no angle is lost.
        #[test]
        fn every_rope_of_an_accepted_config_is_finite(
            half in 2..512_usize,
            theta in 2.0..1e18,
            factor in 1e-6..1e6,
            attention_factor in 1e-6..1e6,
            (original_max, position) in (1..1_usize << 30, 0..1_usize << 30),
        ) {
            let yarn = RopeScaling::Yarn {
                factor,
                attention_factor,
                beta_fast: 32.0,
                beta_slow: 1.0,
                original_max,
                truncate: true,
            };
            let scalings = [
                RopeScaling::Default,
                RopeScaling::Linear { factor },
                RopeScaling::Dynamic { factor, original_max },
                RopeScaling::Llama3 { factor, low_freq_factor: 1.0, high_freq_factor: 4.0, original_max },
                yarn,
            ];
            for scaling in scalings {
                let table = RopeTable::new(&Rope { dims: 2 * half, theta, scaling });
                let rows = table.rows([(position, 1), (0, position + 1)].into_iter());
                prop_assert!(rows.cos.iter().chain(&rows.sin).all(|x| x.is_finite()), "{table:?}");
            }
        }
    }
}
