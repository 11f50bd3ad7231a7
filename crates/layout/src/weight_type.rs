//! How weights are stored in a checkpoint, and how many bytes they take.

use crate::product::product;

/// The storage of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightType {
    /// 4 bytes.
    F32,
    /// 2 bytes.
    F16,
    /// 2 bytes.
    Bf16,
    /// One byte and a scale per block (`fp8`); `block` is rows × columns, `None` for one scale per tensor.
    Fp8 {
        /// Rows and columns that share a scale.
        block: Option<(u64, u64)>,
    },
    /// Grouped 4- or 8-bit integers (`awq`, `gptq`): a scale and a zero point per group.
    Int {
        /// Bits of a weight.
        bits: u8,
        /// Inputs that share a scale; 0 means all.
        group: u64,
        /// Whether an index of the group of each input is stored (`gptq`).
        index: bool,
    },
    /// Small floats or integers into which plain weights are converted: one scale for each block of a row.
    Packed {
        /// Bits of a weight.
        bits: u8,
        /// Inputs that share a scale; 0 means all.
        block: u64,
        /// Bytes of a scale.
        scale_bytes: u64,
    },
}

// === impl WeightType ===

impl WeightType {
    /// Returns the number of bytes of one plain value; a quantized type is unpacked to two bytes.
    #[must_use]
    pub fn plain_bytes(self) -> u64 {
        match self {
            WeightType::F32 => 4,
            _ => 2,
        }
    }

    /// Returns the number of bytes of a matrix, with scales, zero points and group indices.
    pub(crate) fn matrix_bytes(self, outputs: u64, inputs: u64) -> u64 {
        let values = product(&[outputs, inputs]);
        match self {
            WeightType::F32 => product(&[values, 4]),
            WeightType::F16 | WeightType::Bf16 => product(&[values, 2]),
            // A scale is an f32.
            WeightType::Fp8 { block } => {
                let scales = block.map_or(1, |(rows, columns)| {
                    product(&[outputs.div_ceil(rows.max(1)), inputs.div_ceil(columns.max(1))])
                });
                values.saturating_add(product(&[scales, 4]))
            }
            WeightType::Packed { bits, block, scale_bytes } => {
                let blocks = if block == 0 { 1 } else { inputs.div_ceil(block) };
                let packed = product(&[values, u64::from(bits)]).div_ceil(8);
                packed.saturating_add(product(&[blocks, outputs, scale_bytes]))
            }
            // Values and zero points are packed, a scale is an f16, an index of a group an i32.
            WeightType::Int { bits, group, index } => {
                let packed = |values: u64| product(&[values, u64::from(bits)]).div_ceil(8);
                let groups = if group == 0 { 1 } else { inputs.div_ceil(group) };
                let scales = product(&[groups, outputs]);
                let indices = if index { product(&[inputs, 4]) } else { 0 };
                [packed(values), packed(scales), product(&[scales, 2]), indices]
                    .into_iter()
                    .fold(0, u64::saturating_add)
            }
        }
    }
}
