//! The storage of weights and KV cache, in the words of each engine. `storage.toml` defines the words; a new
//! word there is planned like the words beside it.
//!
//! - **ST-1** an engine's words are those in its table; any other word is a [`Problem`](super::Problem) that
//!   lists them. A word is translated to the word of the same meaning, or noted.
//! - **ST-2** plain weights are counted as the engine stores them after loading; where the word does not
//!   determine the number of bytes, a note says that plain weights are counted.
//! - **ST-3** a quantization other than that of the checkpoint is refused, as the engines do.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::{KvType, ModelShape, Serving, Violation, WeightType};

use super::table::{Kind, Table};
use super::tables::Word;
use super::{Dialect, Key, Note, NoteKind, Parameters};

/// The side of a block of fp8 weights that shares a scale.
const BLOCK: u64 = 128;

/// The meanings of the words for storage.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Meanings {
    dtype: BTreeMap<Plain, Vec<String>>,
    kv_cache: BTreeMap<Cache, Vec<String>>,
    quantization: Vec<Method>,
}

/// The type of plain weights and activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Plain {
    Bf16,
    F16,
    F32,
}

/// The meaning of a word for the KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Cache {
    /// The type of the activations.
    Auto,
    Half,
    E4m3,
    E5m2,
    Int8,
    Fp4,
}

/// The meaning of a word for a quantization.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Method {
    words: Vec<String>,
    /// Storage that plain weights are converted to while they are loaded.
    makes: Option<Made>,
    /// Quantizations that a checkpoint may have.
    #[serde(default)]
    reads: Vec<Form>,
}

/// The storage that plain weights are converted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case", deny_unknown_fields)]
enum Made {
    Fp8,
    Fp8Blocks,
    /// As in [`WeightType::Packed`].
    Packed {
        bits: u8,
        block: u64,
        scale_bytes: u64,
    },
}

/// Quantizations that a `config.json` can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Form {
    Fp8,
    Fp8Blocks,
    Awq,
    Gptq,
}

static MEANINGS: LazyLock<Meanings> = LazyLock::new(|| {
    toml::from_str(include_str!("storage.toml")).expect("a table that the tests have read")
});

/// Returns the meaning of a word; `None` where the word does not determine the bytes of a weight.
fn method(word: &str) -> Option<&'static Method> {
    MEANINGS.quantization.iter().find(|method| is_among(word, &method.words))
}

/// Returns the meaning of a word; `None` for another layout, with scales among the values.
fn cache(word: &str) -> Option<Cache> {
    MEANINGS.kv_cache.iter().find(|(_, words)| is_among(word, words)).map(|(cache, _)| *cache)
}

fn dtype(word: &str) -> Option<WeightType> {
    let (plain, _) = MEANINGS.dtype.iter().find(|(_, words)| is_among(word, words))?;
    Some(match plain {
        Plain::Bf16 => WeightType::Bf16,
        Plain::F16 => WeightType::F16,
        Plain::F32 => WeightType::F32,
    })
}

fn is_among(word: &str, words: &[String]) -> bool {
    words.iter().any(|other| other == word)
}

/// Returns the word of an engine that means what `word` means in another engine (**ST-1**).
pub(super) fn translated(table: &Table, key: Key, word: &str) -> Option<Word> {
    let Kind::OneOf(words) = table.flag_of(key)?.kind else { return None };
    let same = |other: &&&str| match key {
        Key::Dtype => dtype(word).is_some() && dtype(other) == dtype(word),
        Key::KvDtype => cache(word).is_some() && cache(other) == cache(word),
        _ => method(word).zip(method(other)).is_some_and(|(one, other)| one.is_like(other)),
    };
    let verbatim = words.iter().find(|other| other.eq_ignore_ascii_case(word));
    verbatim.or_else(|| words.iter().find(same)).copied()
}

/// Applies the parameters to the storage of `shape` and to the cache of `serving` (**ST-2**). Adds conflicts
/// and notes for what cannot be stored and what is not counted to the last two arguments.
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
        Some(Cache::Half) => Some(KvType::TwoBytes),
        Some(Cache::E4m3 | Cache::E5m2 | Cache::Int8) => Some(KvType::OneByte),
        Some(Cache::Fp4) => Some(KvType::HalfByte),
        Some(Cache::Auto) => (plain == Some(WeightType::F32)).then_some(KvType::FourBytes),
        None => {
            let counted = serving.kv.name();
            let message = format!("{word}: its layout is not counted; the plan takes {counted}");
            notes.push(Note::new(NoteKind::Checked, "KV cache type", message));
            None
        }
    };
    serving.kv = kept.unwrap_or(serving.kv);
}

/// Returns the type of plain weights, where it differs from the checkpoint's.
fn plain(
    dialect: Dialect,
    parameters: &Parameters,
    shape: &ModelShape,
    notes: &mut Vec<Note>,
) -> Option<WeightType> {
    let asked = parameters.dtype.as_deref().and_then(dtype);
    if asked.is_some() || !dialect.table().halves_f32 || shape.plain != WeightType::F32 {
        return asked;
    }
    let message = "the engine runs f32 weights in two bytes unless it is told float32";
    notes.push(Note::new(NoteKind::Rewritten, "--dtype", message));
    Some(WeightType::F16)
}

fn quantize(word: &str, shape: &mut ModelShape, notes: &mut Vec<Note>) -> Option<Violation> {
    let Some(method) = method(word) else {
        let message =
            format!("{word}: its bytes are not counted; the plan takes the weights of config.json");
        notes.push(Note::new(NoteKind::Checked, "quantization", message));
        return None;
    };
    match (form(shape), method.makes) {
        (Some(form), _) if method.reads.contains(&form) => None,
        (Some(form), _) => Some(Violation::new(
            "quantization-matches",
            format!("the quantization {word} is not that of config.json, {}", form.name()),
            "leave it out: the checkpoint says it",
        )),
        (None, Some(made)) => {
            shape.weights = made.stored();
            None
        }
        (None, None) if method.reads.is_empty() => None,
        (None, None) => Some(Violation::new(
            "quantization-matches",
            format!(
                "the quantization {word} needs a checkpoint that is stored so; config.json has no \
                 quantization_config"
            ),
            "use such a checkpoint, or fp8, which plain weights become while they are loaded",
        )),
    }
}

/// Returns the quantization of a checkpoint.
fn form(shape: &ModelShape) -> Option<Form> {
    match shape.weights {
        WeightType::Fp8 { block: None } => Some(Form::Fp8),
        WeightType::Fp8 { block: Some(_) } => Some(Form::Fp8Blocks),
        WeightType::Int { index: false, .. } => Some(Form::Awq),
        WeightType::Int { index: true, .. } => Some(Form::Gptq),
        _ => None,
    }
}

// === impl Method ===

impl Method {
    /// Returns whether two methods convert weights to the same storage.
    fn is_like(&self, other: &Self) -> bool {
        match (self.makes, other.makes) {
            (None, None) => self.reads == other.reads,
            (one, other) => one == other,
        }
    }
}

// === impl Made ===

impl Made {
    fn stored(self) -> WeightType {
        match self {
            Self::Fp8 => WeightType::Fp8 { block: None },
            Self::Fp8Blocks => WeightType::Fp8 { block: Some((BLOCK, BLOCK)) },
            Self::Packed { bits, block, scale_bytes } => {
                WeightType::Packed { bits, block, scale_bytes }
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_with_a_meaning_is_a_word_of_an_engine_and_has_one() {
        let sections: [(Key, Vec<&String>); 3] = [
            (Key::Dtype, MEANINGS.dtype.values().flatten().collect()),
            (Key::KvDtype, MEANINGS.kv_cache.values().flatten().collect()),
            (Key::Quantization, MEANINGS.quantization.iter().flat_map(|one| &one.words).collect()),
        ];
        for (key, mut words) in sections {
            let flags = Dialect::ALL.map(|dialect| dialect.table().flag_of(key).expect("a flag"));
            let known = |word: &String| flags.iter().any(|flag| flag.has(word));
            assert!(words.iter().all(|word| known(word)), "{key:?}");
            let count = words.len();
            words.sort();
            words.dedup();
            assert_eq!(words.len(), count, "{key:?}");
        }
    }
}
