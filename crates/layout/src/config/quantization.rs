//! How the weights of a checkpoint are stored: `dtype` and `quantization_config`.

use super::fields::{Fields, whole};
use super::{ConfigError, WeightType};

/// Longest group or side of a block that shares a scale.
const BLOCK_MAX: usize = 1 << 20;

/// How a checkpoint stores its tensors.
pub(super) struct CheckpointStorage {
    /// Matrices of attention and feed-forward.
    pub(super) weights: WeightType,
    /// Everything else.
    pub(super) plain: WeightType,
    /// What the file says of `plain`.
    pub(super) dtype: Option<WeightType>,
    /// Parts of tensor names that stay plain.
    pub(super) unquantized: Vec<String>,
}

// === impl CheckpointStorage ===

impl CheckpointStorage {
    /// Reads the keys of `text` and, where it has none, those of `top`.
    pub(super) fn read(top: &Fields<'_>, text: &Fields<'_>) -> Result<Self, ConfigError> {
        let dtype = match dtype(text)? {
            Some(dtype) => Some(dtype),
            None => dtype(top)?,
        };
        let plain = dtype.unwrap_or(WeightType::Bf16);
        let quantization = match text.object("quantization_config")? {
            Some(found) => Some(found),
            None => top.object("quantization_config")?,
        };
        let (weights, unquantized) = match &quantization {
            Some(quantization) => (quantized(quantization)?, skipped(quantization)?),
            None => (plain, Vec::new()),
        };
        Ok(Self { weights, plain, dtype, unquantized })
    }
}

/// `dtype`, formerly `torch_dtype`.
fn dtype(fields: &Fields<'_>) -> Result<Option<WeightType>, ConfigError> {
    let key = if fields.value("dtype").is_some() { "dtype" } else { "torch_dtype" };
    match fields.text(key)? {
        None | Some("auto") => Ok(None),
        Some("bfloat16") => Ok(Some(WeightType::Bf16)),
        Some("float16") => Ok(Some(WeightType::F16)),
        Some("float32") => Ok(Some(WeightType::F32)),
        Some(_) => Err(fields.refuse(key, "bfloat16, float16 or float32")),
    }
}

fn quantized(fields: &Fields<'_>) -> Result<WeightType, ConfigError> {
    match fields.text("quant_method")? {
        Some("fp8") => Ok(WeightType::Fp8 { block: block(fields)? }),
        Some("awq") => integers(fields, false),
        Some("gptq") => integers(fields, true),
        _ => Err(fields.refuse("quant_method", "fp8, awq or gptq")),
    }
}

fn block(fields: &Fields<'_>) -> Result<Option<(u64, u64)>, ConfigError> {
    let key = "weight_block_size";
    let Some(list) = fields.list(key)? else { return Ok(None) };
    let side = |at: usize| {
        let side = list.get(at).and_then(whole).and_then(|side| u64::try_from(side).ok());
        side.filter(|side| (1..=BLOCK_MAX as u64).contains(side)).ok_or_else(|| {
            fields.refuse(key, format!("two whole numbers between 1 and {BLOCK_MAX}"))
        })
    };
    Ok(Some((side(0)?, side(1)?)))
}

fn integers(fields: &Fields<'_>, index: bool) -> Result<WeightType, ConfigError> {
    let bits = match fields.count("bits", 2..=8)? {
        Some(bits @ (2 | 3 | 4 | 8)) => u8::try_from(bits).unwrap_or(8),
        _ => return Err(fields.refuse("bits", "2, 3, 4 or 8")),
    };
    // GPTQ spells "one group" as -1.
    let all = fields.value("group_size").and_then(serde_json::Value::as_i64) == Some(-1);
    let group = if all { Some(0) } else { fields.count("group_size", 1..=BLOCK_MAX)? };
    let group = group.ok_or_else(|| {
        fields.refuse("group_size", format!("a whole number between 1 and {BLOCK_MAX}"))
    })?;
    Ok(WeightType::Int { bits, group: group as u64, index })
}

fn skipped(fields: &Fields<'_>) -> Result<Vec<String>, ConfigError> {
    let key = "modules_to_not_convert";
    let list = fields.list(key)?.unwrap_or_default();
    let name = |value: &serde_json::Value| value.as_str().map(ToOwned::to_owned);
    list.iter()
        .map(name)
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| fields.refuse(key, "a list of names"))
}
