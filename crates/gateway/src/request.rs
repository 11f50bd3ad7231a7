//! Request bodies to checked work. This is the only place where OpenAI's fields are read.
//!
//! - **REQ-1** a field is honoured, or ignored because it cannot change the answer, or refused by name:
//!   never silently dropped. `known_fields` has the lists; the answer names fields that are in none of them.
//! - **REQ-2** a parsed request satisfies [`SamplingParams::check`], and its prompt plus `max_tokens` fit
//!   the context.
//!
//! - **REQ-3** every generation of a request is a draw of its own: without a seed, each prompt gets one, and
//!   each choice adds its index.
//!
//! Everything here is synchronous and touches no engine.

mod chat;
mod completion;
mod message;
mod prompt;
mod sampling;

use std::sync::Arc;

use playhouse_types::{SamplingParams, TokenId};
use sha2::{Digest, Sha256};

pub(crate) use chat::parse_chat;
pub(crate) use completion::parse_completion;
pub(crate) use prompt::{Conversation, Prompt};

use crate::body::PROMPTS_MAX;
use crate::error::{ApiError, Result};
use crate::fields::Fields;
use crate::gateway::Gateway;
use crate::known_fields::Ignored;
use crate::stop::{STOPS_MAX, Stops};

/// The maximum number of choices per prompt.
pub(crate) const N_MAX: u32 = 128;

/// The maximum number of generations of one request: prompts times choices.
const GENERATIONS_MAX: usize = PROMPTS_MAX;

/// A parsed and checked request.
pub(crate) struct Job {
    pub(crate) form: Form,
    /// The work, one item per prompt.
    pub(crate) prompts: Vec<Work>,
    /// Choices per prompt.
    pub(crate) n: u32,
    pub(crate) stops: Arc<Stops>,
    pub(crate) cache_salt: u64,
    /// The priority; lower is earlier.
    pub(crate) priority: i32,
    /// The fields that have no effect.
    pub(crate) ignored: Ignored,
}

/// A prompt with the parameters of its first choice; the others add their index to the seed.
pub(crate) struct Work {
    pub(crate) prompt: Prompt,
    pub(crate) sampling: SamplingParams,
}

/// The form of the answer.
#[derive(Clone, Debug)]
pub(crate) struct Form {
    pub(crate) shape: Shape,
    /// The name by which the client called the model.
    pub(crate) model: String,
    pub(crate) stream: Option<StreamOptions>,
    /// Whether to report log-probabilities.
    pub(crate) logprobs: bool,
    pub(crate) return_token_ids: bool,
    pub(crate) skip_special_tokens: bool,
    /// Whether to keep the text of the stop token.
    pub(crate) include_stop: bool,
    /// Whether to repeat the prompt before the completion.
    pub(crate) echo: bool,
    /// Whether the prompt is only scored: `max_tokens: 0`, allowed with `echo`, generates nothing.
    pub(crate) prompt_only: bool,
    /// Whether end-of-sequence tokens count as any other token.
    pub(crate) ignore_eos: bool,
}

/// The endpoint whose shape the answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Chat,
    Completion,
}

/// The `stream_options` of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamOptions {
    /// Whether a last chunk has the usage.
    pub(crate) include_usage: bool,
    /// Whether every chunk has the usage so far.
    pub(crate) continuous_usage: bool,
}

/// Returns the served name that `model` asks for; the first one when the field is absent.
pub(crate) fn model(gateway: &Gateway, fields: &Fields<'_>) -> Result<String> {
    let names = gateway.model_names();
    let Some(asked) = fields.string("model")? else { return Ok(names[0].clone()) };
    if names.iter().any(|name| name == asked) {
        return Ok(asked.to_owned());
    }
    Err(ApiError::model_not_found(asked, names))
}

fn stream(fields: &Fields<'_>) -> Result<Option<StreamOptions>> {
    let streams = fields.flag("stream", false)?;
    let options = match fields.fields("stream_options")? {
        Some(_) if !streams => {
            return Err(fields.bad("stream_options", "only allowed when stream is true"));
        }
        Some(options) => StreamOptions {
            include_usage: options.flag("include_usage", false)?,
            continuous_usage: options.flag("continuous_usage_stats", false)?,
        },
        None => StreamOptions::default(),
    };
    Ok(streams.then_some(options))
}

fn stops(fields: &Fields<'_>) -> Result<Stops> {
    let include = fields.flag("include_stop_str_in_output", false)?;
    let strings = match fields.get("stop") {
        None => Vec::new(),
        Some(serde_json::Value::String(one)) => vec![one.clone()],
        Some(_) => {
            let list = fields.list("stop")?.unwrap_or_default();
            if list.len() > STOPS_MAX {
                let message = format!("got {} strings, must be at most {STOPS_MAX}", list.len());
                return Err(fields.bad("stop", message));
            }
            let strings = list.iter().enumerate().map(|(index, value)| {
                value.as_str().map(ToOwned::to_owned).ok_or_else(|| {
                    crate::fields::wrong_type(
                        &fields.path_of(&format!("stop[{index}]")),
                        "a string",
                        value,
                    )
                })
            });
            strings.collect::<Result<_>>()?
        }
    };
    if strings.iter().any(String::is_empty) {
        return Err(fields.bad("stop", "a stop string must not be empty"));
    }
    Ok(Stops::new(strings, include))
}

/// Returns `cache_salt`: requests share cached prefixes only with requests of the same salt.
fn cache_salt(fields: &Fields<'_>) -> Result<u64> {
    match fields.string("cache_salt")? {
        None => Ok(0),
        Some("") => Err(fields.bad("cache_salt", "must not be empty")),
        Some(salt) => {
            let digest = Sha256::digest(salt.as_bytes());
            let (head, _) = digest.split_first_chunk().expect("32 bytes");
            Ok(u64::from_le_bytes(*head))
        }
    }
}

/// Returns `priority`, as vLLM defines it: lower is earlier.
fn priority(fields: &Fields<'_>) -> Result<i32> {
    let given = fields.integer("priority", i32::MIN.into(), i32::MAX.into())?.unwrap_or(0);
    Ok(i32::try_from(given).expect("between two i32"))
}

/// Gives every prompt its seed and its `max_tokens`, and checks the result (**REQ-2**, **REQ-3**).
fn work(
    gateway: &Gateway,
    fields: &Fields<'_>,
    prompts: Vec<Prompt>,
    sampling: &SamplingParams,
    max_tokens: MaxTokens,
) -> Result<Vec<Work>> {
    let seed = sampling::seed(fields)?;
    let limit = gateway.front_door().max_model_len();
    prompts
        .into_iter()
        .map(|prompt| {
            let max_tokens = max_tokens.within(limit, prompt.tokens.len(), sampling.min_tokens)?;
            let seed = seed.unwrap_or_else(|| gateway.draw());
            let sampling = SamplingParams { max_tokens, seed, ..sampling.clone() };
            sampling::check(gateway, fields, &sampling)?;
            Ok(Work { prompt, sampling })
        })
        .collect()
}

/// The maximum length of an answer.
#[derive(Clone, Copy)]
pub(crate) enum MaxTokens {
    /// The answer ends earlier where the context ends.
    AtMost(u32),
    /// The context must have room for so much.
    Exactly(u32),
}

// === impl MaxTokens ===

impl MaxTokens {
    /// Returns the limit for a prompt of this length in a context of `limit` tokens; at least 1.
    fn within(self, limit: usize, prompt: usize, min_tokens: u32) -> Result<u32> {
        let room = u32::try_from(limit.saturating_sub(prompt)).unwrap_or(u32::MAX);
        if room == 0 {
            return Err(ApiError::prompt_too_long(limit, format_args!("{prompt} tokens")));
        }
        match self {
            Self::Exactly(asked) if asked > room => {
                Err(ApiError::answer_too_long(limit, prompt, "max_tokens", asked))
            }
            Self::AtMost(most) if min_tokens > room && min_tokens <= most => {
                Err(ApiError::answer_too_long(limit, prompt, "min_tokens", min_tokens))
            }
            // `max_tokens: 0` still needs a step: the engine generates one token, which no client sees.
            Self::Exactly(asked) => Ok(asked.max(1)),
            Self::AtMost(most) => Ok(most.min(room)),
        }
    }
}

/// Checks the bound on prompts times choices.
fn check_generations(fields: &Fields<'_>, prompts: usize, n: u32) -> Result<()> {
    let generations = prompts.saturating_mul(n as usize);
    if generations <= GENERATIONS_MAX {
        return Ok(());
    }
    let message = format!(
        "{prompts} prompts times n = {n} are {generations} answers, must be at most {GENERATIONS_MAX}"
    );
    Err(fields.bad("n", message))
}

/// Refuses ids the model has no embedding for: a tokenizer may have more tokens than its model.
fn check_vocabulary(tokens: &[TokenId], vocab: u32) -> Result<()> {
    match tokens.iter().find(|&&token| token >= vocab) {
        None => Ok(()),
        Some(token) => Err(ApiError::bad_request(format!(
            "the prompt contains token {token}, but the model's vocabulary ends at {vocab}"
        ))),
    }
}
