//! Sampling parameters of requests that do not set them.

use playhouse_types::SamplingParams;

/// The sampling parameters of requests that do not set them, usually from `generation_config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingDefaults {
    /// The default of [`SamplingParams::temperature`].
    pub temperature: f32,
    /// The default of [`SamplingParams::top_p`].
    pub top_p: f32,
    /// The default of [`SamplingParams::top_k`].
    pub top_k: u32,
    /// The default of [`SamplingParams::min_p`].
    pub min_p: f32,
    /// The default of [`SamplingParams::repetition_penalty`].
    pub repetition_penalty: f32,
    /// The default of [`SamplingParams::max_tokens`]; `None` is the end of the context.
    pub max_tokens: Option<u32>,
}

// === impl SamplingDefaults ===

impl Default for SamplingDefaults {
    /// Returns OpenAI's defaults, which sample from the model's own distribution.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            max_tokens: None,
        }
    }
}

impl SamplingDefaults {
    /// Returns greedy parameters with these defaults, for checking them.
    pub(crate) fn params(&self) -> SamplingParams {
        SamplingParams {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            repetition_penalty: self.repetition_penalty,
            ..SamplingParams::greedy(1)
        }
    }
}
