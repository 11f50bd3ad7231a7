//! Sampling defaults of a checkpoint.

use playhouse_types::{SamplingParams, TokenId};

use super::fields::{Fields, parse_object};
use super::{ConfigError, ModelShape};

/// What `generation_config.json` says, used for parameters that a request leaves out.
///
/// The rule is vLLM's: the sampling values of the file are defaults whatever `do_sample` says, and a value
/// that the file lacks has the API's own default. So a checkpoint that wants greedy decoding says
/// `temperature: 0`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GenerationDefaults {
    /// End-of-sequence tokens of the file, or of `config.json` when the file names none.
    pub eos_token_ids: Vec<TokenId>,
    /// `temperature`
    pub temperature: Option<f32>,
    /// `top_p`
    pub top_p: Option<f32>,
    /// `top_k`; 0 means all.
    pub top_k: Option<u32>,
    /// `min_p`
    pub min_p: Option<f32>,
    /// `repetition_penalty`
    pub repetition_penalty: Option<f32>,
    /// `max_new_tokens`
    pub max_tokens: Option<u32>,
}

// === impl GenerationDefaults ===

impl GenerationDefaults {
    /// The file's name.
    pub const FILE: &'static str = "generation_config.json";

    /// Returns the defaults of a checkpoint without `generation_config.json`: only the end-of-sequence tokens
    /// of `config.json`.
    #[must_use]
    pub fn of(shape: &ModelShape) -> Self {
        Self { eos_token_ids: shape.eos_token_ids.clone(), ..Self::default() }
    }

    /// Parses the text of a `generation_config.json`.
    ///
    /// # Errors
    /// When a value is out of the range that a request may use.
    pub fn parse(json: &[u8], shape: &ModelShape) -> Result<Self, ConfigError> {
        let map = parse_object(Self::FILE, json)?;
        let fields = Fields::new(Self::FILE, &map);
        let number = |key| {
            #[expect(clippy::cast_possible_truncation, reason = "sampling runs in f32")]
            let narrow = |number: f64| number as f32;
            Ok::<_, ConfigError>(fields.number(key, f64::MIN..=f64::MAX)?.map(narrow))
        };
        let eos = fields.tokens("eos_token_id", shape.spec.vocab)?;
        let defaults = Self {
            eos_token_ids: eos.unwrap_or_else(|| shape.eos_token_ids.clone()),
            temperature: number("temperature")?,
            top_p: number("top_p")?,
            top_k: top_k(&fields)?,
            min_p: number("min_p")?,
            repetition_penalty: number("repetition_penalty")?,
            max_tokens: count(&fields, "max_new_tokens", 1)?,
        };
        defaults.check(&fields)?;
        Ok(defaults)
    }

    /// Applies the ranges of [`SamplingParams::check`], which are written nowhere else.
    fn check(&self, fields: &Fields<'_>) -> Result<(), ConfigError> {
        let mut params = SamplingParams::greedy(1);
        params.temperature = self.temperature.unwrap_or(params.temperature);
        params.top_p = self.top_p.unwrap_or(params.top_p);
        params.min_p = self.min_p.unwrap_or(params.min_p);
        params.repetition_penalty = self.repetition_penalty.unwrap_or(params.repetition_penalty);
        params.check(0).map_err(|invalid| fields.refuse(invalid.param, invalid.allowed))
    }
}

/// Transformers writes "all" as 0, vLLM as -1 too.
fn top_k(fields: &Fields<'_>) -> Result<Option<u32>, ConfigError> {
    if fields.value("top_k").and_then(serde_json::Value::as_i64) == Some(-1) {
        return Ok(Some(0));
    }
    count(fields, "top_k", 0)
}

fn count(fields: &Fields<'_>, key: &str, least: usize) -> Result<Option<u32>, ConfigError> {
    let count = fields.count(key, least..=u32::MAX as usize)?;
    Ok(count.map(|count| u32::try_from(count).expect("within the range that was allowed")))
}
