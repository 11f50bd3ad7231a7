//! How weights and the KV cache are stored, in the words of each engine.
//!
//! - **ST-1** an engine's words are those it has; any other is a [`Problem`](super::Problem) that lists
//!   them. A word is translated to the word of the same meaning, or noted.
//! - **ST-2** plain weights are counted as the engine keeps them once they are loaded; where the word
//!   does not say how many bytes those are, a note says that plain weights are counted.
//! - **ST-3** a quantization other than that of the checkpoint is refused, as the engines do.

use crate::{KvType, ModelShape, Serving, Violation, WeightType};

use super::table::Kind;
use super::{Dialect, Key, Note, NoteKind, Parameters};

mod words;

pub(super) use words::*;

/// Quantizations that a `config.json` can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Fp8,
    Fp8Blocks,
    Awq,
    Gptq,
}

/// What a word for a quantization means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// Weights stay as they are.
    Plain,
    /// A checkpoint must be one of these.
    Reads(&'static [Form]),
    /// Plain weights become these while they are loaded; a checkpoint may be one of those.
    Makes(WeightType, &'static [Form]),
    /// What it stores is not said by the word.
    Uncounted,
}

/// What a word for the KV cache means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cache {
    /// As the activations.
    Auto,
    Half,
    E4m3,
    E5m2,
    Int8,
    Fp4,
    /// Another layout, with scales among the values.
    Uncounted,
}

/// The side of a block of fp8 weights that shares a scale.
const BLOCK: u64 = 128;
const FP8: Method = Method::Makes(WeightType::Fp8 { block: None }, &[Form::Fp8, Form::Fp8Blocks]);
const FP4: WeightType = WeightType::Packed { bits: 4, block: 16, scale_bytes: 1 };
const MXFP4: WeightType = WeightType::Packed { bits: 4, block: 32, scale_bytes: 1 };
const MXFP8: WeightType = WeightType::Packed { bits: 8, block: 32, scale_bytes: 1 };
/// NF4 with a 4-byte scale for 64 values.
const NF4: WeightType = WeightType::Packed { bits: 4, block: 64, scale_bytes: 4 };

fn method(word: &str) -> Method {
    let fp8_blocks = WeightType::Fp8 { block: Some((BLOCK, BLOCK)) };
    // A scale of two bytes per output.
    let integers = |bits| WeightType::Packed { bits, block: 0, scale_bytes: 2 };
    match word {
        "NO_QUANT" | "unquant" => Method::Plain,
        "fp8" | "fp8_per_tensor" | "ptpc_fp8" | "w8a8_fp8" | "modelopt" | "modelopt_fp8" => FP8,
        "FP8" | "FP8_PER_CHANNEL_PER_TOKEN" => {
            Method::Makes(WeightType::Fp8 { block: None }, &[Form::Fp8])
        }
        "fp8_per_block" | "FP8_BLOCK_SCALES" => Method::Makes(fp8_blocks, &[Form::Fp8Blocks]),
        "awq" | "awq_marlin" | "cpu_awq" | "W4A16_AWQ" => Method::Reads(&[Form::Awq]),
        "gptq" | "gptq_marlin" | "gptq_bitblas" | "marlin" | "W4A16_GPTQ" | "W8A16_GPTQ" => {
            Method::Reads(&[Form::Gptq])
        }
        "moe_wna16" => Method::Reads(&[Form::Awq, Form::Gptq]),
        "bitsandbytes" => Method::Makes(NF4, &[]),
        "modelopt_fp4" | "nvfp4_online" | "NVFP4" => Method::Makes(FP4, &[]),
        "mxfp8" | "MXFP8" => Method::Makes(MXFP8, &[]),
        "W4A16_MXFP4" | "W4A8_MXFP4_FP8" | "W4A8_MXFP4_MXFP8" => Method::Makes(MXFP4, &[]),
        "W8A16" | "w8a8_int8" => Method::Makes(integers(8), &[]),
        "W4A16" => Method::Makes(integers(4), &[]),
        _ => Method::Uncounted,
    }
}

fn cache(word: &str) -> Cache {
    match word {
        "auto" => Cache::Auto,
        "bfloat16" | "bf16" | "float16" => Cache::Half,
        "fp8" | "fp8_e4m3" | "fp8_inc" => Cache::E4m3,
        "fp8_e5m2" => Cache::E5m2,
        "int8" => Cache::Int8,
        "nvfp4" | "nvfp4_4over6" | "fp4_e2m1" => Cache::Fp4,
        _ => Cache::Uncounted,
    }
}

fn dtype(word: &str) -> Option<WeightType> {
    match word {
        "bfloat16" => Some(WeightType::Bf16),
        "float16" | "half" => Some(WeightType::F16),
        "float32" | "float" => Some(WeightType::F32),
        _ => None,
    }
}

/// The word of `dialect` for what `word` means in another (**ST-1**).
pub(super) fn translated(dialect: Dialect, key: Key, word: &str) -> Option<&'static str> {
    let Kind::OneOf(words) = dialect.table().flag_of(key)?.kind else { return None };
    let same = |other: &&&str| match key {
        Key::Dtype => dtype(word).is_some() && dtype(other) == dtype(word),
        Key::KvDtype => cache(word) != Cache::Uncounted && cache(other) == cache(word),
        _ => method(word) != Method::Uncounted && alike(method(other), method(word)),
    };
    let verbatim = words.iter().find(|other| other.eq_ignore_ascii_case(word));
    verbatim.or_else(|| words.iter().find(same)).copied()
}

/// Whether two methods leave the same weights behind.
fn alike(one: Method, other: Method) -> bool {
    match (one, other) {
        (Method::Makes(one, _), Method::Makes(other, _)) => one == other,
        _ => one == other,
    }
}

/// Stores `shape` and the cache of `serving` as the parameters say (**ST-2**); what cannot be, and
/// what is not counted, is added to the last two.
pub(super) fn store(
    dialect: Dialect,
    parameters: &Parameters,
    shape: &mut ModelShape,
    serving: &mut Serving,
    refused: &mut Vec<Violation>,
    notes: &mut Vec<Note>,
) {
    let plain = plain(dialect, parameters, shape, notes);
    if let Some(plain) = plain {
        if shape.weights == shape.plain {
            shape.weights = plain;
        }
        shape.plain = plain;
    }
    if let Some(word) = parameters.quantization.as_deref() {
        refused.extend(quantize(word, shape, notes));
    }
    let word = parameters.kv_dtype.as_deref().unwrap_or("auto");
    let kept = match cache(word) {
        Cache::Half => Some(KvType::TwoBytes),
        Cache::E4m3 | Cache::E5m2 | Cache::Int8 => Some(KvType::OneByte),
        Cache::Fp4 => Some(KvType::HalfByte),
        Cache::Auto => (plain == Some(WeightType::F32)).then_some(KvType::FourBytes),
        Cache::Uncounted => {
            let counted = serving.kv.name();
            let message = format!("{word}: its layout is not counted; the plan takes {counted}");
            notes.push(Note::new(NoteKind::Checked, "KV cache type", message));
            None
        }
    };
    serving.kv = kept.unwrap_or(serving.kv);
}

/// The type of plain weights, where it is not that of the checkpoint.
fn plain(
    dialect: Dialect,
    parameters: &Parameters,
    shape: &ModelShape,
    notes: &mut Vec<Note>,
) -> Option<WeightType> {
    let asked = parameters.dtype.as_deref().and_then(dtype);
    let halves = matches!(dialect, Dialect::Vllm | Dialect::Sglang);
    if asked.is_some() || !halves || shape.plain != WeightType::F32 {
        return asked;
    }
    let message = "the engine runs f32 weights in two bytes unless it is told float32";
    notes.push(Note::new(NoteKind::Rewritten, "--dtype", message));
    Some(WeightType::F16)
}

fn quantize(word: &str, shape: &mut ModelShape, notes: &mut Vec<Note>) -> Option<Violation> {
    let form = form(shape);
    match (method(word), form) {
        (Method::Plain, None) => None,
        (Method::Makes(_, reads) | Method::Reads(reads), Some(form)) if reads.contains(&form) => {
            None
        }
        (Method::Plain | Method::Makes(..) | Method::Reads(_), Some(form)) => Some(Violation::new(
            "quantization-matches",
            format!("the quantization {word} is not that of config.json, {}", form.name()),
            "leave it out: the checkpoint says it",
        )),
        (Method::Makes(stored, _), None) => {
            shape.weights = stored;
            None
        }
        (Method::Reads(_), None) => Some(Violation::new(
            "quantization-matches",
            format!(
                "the quantization {word} needs a checkpoint that is stored so; config.json has no \
                 quantization_config"
            ),
            "use such a checkpoint, or fp8, which plain weights become while they are loaded",
        )),
        (Method::Uncounted, _) => {
            let message = format!(
                "{word}: its bytes are not counted; the plan takes the weights of config.json"
            );
            notes.push(Note::new(NoteKind::Checked, "quantization", message));
            None
        }
    }
}

/// The quantization of a checkpoint.
fn form(shape: &ModelShape) -> Option<Form> {
    match shape.weights {
        WeightType::Fp8 { block: None } => Some(Form::Fp8),
        WeightType::Fp8 { block: Some(_) } => Some(Form::Fp8Blocks),
        WeightType::Int { index: false, .. } => Some(Form::Awq),
        WeightType::Int { index: true, .. } => Some(Form::Gptq),
        _ => None,
    }
}

// === impl Form ===

impl Form {
    fn name(self) -> &'static str {
        match self {
            Self::Fp8 => "fp8",
            Self::Fp8Blocks => "fp8 with block scales",
            Self::Awq => "awq",
            Self::Gptq => "gptq",
        }
    }
}
