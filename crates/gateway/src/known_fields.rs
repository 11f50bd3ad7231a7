//! The fields of requests that this server knows, its own and those of other servers (**REQ-1**).
//!
//! - **KNF-1** a field that constrains or changes the answer, or the form of the answer, is honoured, or
//!   refused by name unless its value changes nothing: an answer that silently lacks a requested part is
//!   worse than an error.
//! - **KNF-2** a field that no server is known to have is ignored, because APIs grow; its name stands in the
//!   header [`IGNORED_FIELDS`] of the answer, and once in the log.

mod unsupported;

use std::collections::BTreeSet;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use serde_json::{Map, Value};
use tracing::warn;

use crate::body::Object;
use crate::error::{ApiError, Result};
use crate::fields::shown;

/// The header that names the fields of a request without any effect.
pub(crate) const IGNORED_FIELDS: HeaderName = HeaderName::from_static("x-ignored-fields");

/// The maximum number of names in that header.
const NAMES_MAX: usize = 16;

/// The maximum length of a name in the header and the log.
const NAME_BYTES_MAX: usize = 64;

/// The maximum number of names that are logged.
const LOGGED_MAX: usize = 256;

/// The fields that prompts are made of, where a request may have messages.
const CONVERSATION: &[&str] = &[
    "model",
    "messages",
    "add_generation_prompt",
    "add_special_tokens",
    "chat_template_kwargs",
    "continue_final_message",
    "reasoning_effort",
];

/// The fields of every request for an answer.
const GENERATION: &[&str] = &[
    "model",
    "add_special_tokens",
    "cache_salt",
    "frequency_penalty",
    "ignore_eos",
    "include_stop_str_in_output",
    "logit_bias",
    "logprobs",
    "max_tokens",
    "min_p",
    "min_tokens",
    "n",
    "presence_penalty",
    "priority",
    "repetition_penalty",
    "return_token_ids",
    "seed",
    "skip_special_tokens",
    "stop",
    "stop_token_ids",
    "stream",
    "stream_options",
    "temperature",
    "top_k",
    "top_p",
];

/// The fields of one endpoint alone.
const CHAT: &[&str] = &["max_completion_tokens", "top_logprobs"];
const COMPLETIONS: &[&str] = &["prompt", "best_of", "echo"];
const TOKENIZE: &[&str] = &["prompt", "return_token_strs"];
const DETOKENIZE: &[&str] = &["model", "tokens"];

/// Fields that cannot change the answer: the bookkeeping of others, hints on where and how fast to compute,
/// how to do what is refused by another name, and details of media, which are refused in messages.
const WITHOUT_EFFECT: &[&str] = &[
    // OpenAI
    "metadata",
    "parallel_tool_calls",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
    // vLLM
    "guided_decoding_backend",
    "guided_whitespace_pattern",
    "include_reasoning",
    "media_io_kwargs",
    "mm_processor_kwargs",
    "request_id",
    "return_mm_kwargs",
    "routed_experts_prompt_start",
    "session_id",
    "spaces_between_special_tokens",
    "truncation_side",
    // SGLang
    "custom_labels",
    "data_parallel_rank",
    "images_config",
    "max_dynamic_patch",
    "min_dynamic_patch",
    "ngram_corpus_id",
    "rid",
    "routed_dp_rank",
    "routed_experts_start_len",
    "separate_reasoning",
    "stream_reasoning",
    "use_audio_in_video",
    // llama.cpp
    "adaptive_decay",
    "backend_sampling",
    "cache_prompt",
    "dry_allowed_length",
    "dry_base",
    "dry_penalty_last_n",
    "dry_sequence_breakers",
    "dynatemp_exponent",
    "id_slot",
    "mirostat_eta",
    "mirostat_tau",
    "n_cache_reuse",
    "parse_tool_calls",
    "preserved_tokens",
    "reasoning_budget_arm_immediately",
    "reasoning_budget_end_tag",
    "reasoning_budget_message",
    "reasoning_budget_start_tag",
    "speculative.n_max",
    "speculative.n_min",
    "speculative.p_min",
    "xtc_threshold",
    // TensorRT-LLM
    "agent_hierarchy",
    "conversation_params",
];

/// An endpoint, which knows its own fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Completions,
    Tokenize,
    Detokenize,
}

/// The names of fields that no server is known to have.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ignored(Vec<String>);

/// The names that were logged.
#[derive(Default)]
pub(crate) struct UnknownFields(Mutex<BTreeSet<String>>);

// === impl Endpoint ===

impl Endpoint {
    /// Sorts the fields of a body: refuses the first one that asks for what is not supported, and returns
    /// those that are unknown.
    pub(crate) fn check(self, body: &Object) -> Result<Ignored> {
        let fields = &body.fields;
        for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
            self.refuse(fields, name, value)?;
        }
        let inputs = [("prompt", body.prompt.is_some()), ("tokens", body.tokens.is_some())];
        let inputs = inputs.into_iter().filter_map(|(name, given)| given.then_some(name));
        let names = fields.keys().map(String::as_str).chain(inputs);
        let unknown = names.filter(|name| !self.honours(name) && !self.is_known(name));
        Ok(Ignored(unknown.map(ToOwned::to_owned).collect()))
    }

    fn honours(self, name: &str) -> bool {
        let lists: [&[&str]; 3] = match self {
            Self::Chat => [CONVERSATION, GENERATION, CHAT],
            Self::Completions => [GENERATION, COMPLETIONS, &[]],
            Self::Tokenize => [CONVERSATION, TOKENIZE, &[]],
            Self::Detokenize => [DETOKENIZE, &[], &[]],
        };
        lists.iter().any(|list| list.contains(&name))
    }

    /// Refuses a field that asks for what is not supported.
    fn refuse(self, fields: &Map<String, Value>, name: &str, value: &Value) -> Result<()> {
        if self.honours(name) {
            return Ok(());
        }
        let Some(field) = unsupported::find(name, self.answers()) else { return Ok(()) };
        if self == Self::Detokenize || field.asks_nothing(value) || calls_nothing(fields, name) {
            return Ok(());
        }
        let mut message =
            format!("not supported by this server: got {}, must be absent", shown(value));
        for harmless in field.harmless {
            message.push_str(" or be ");
            message.push_str(harmless);
        }
        if let Some(instead) = field.instead {
            message.push_str("; send ");
            message.push_str(instead);
            message.push_str(" instead");
        }
        Err(ApiError::bad_param(name, message).with_code("unsupported_parameter"))
    }

    /// Returns whether a field that this endpoint does not honour is known, and has no effect unless it was
    /// refused.
    fn is_known(self, name: &str) -> bool {
        // Clients count the tokens of the request that they will send.
        let of_others = [CONVERSATION, GENERATION, CHAT, COMPLETIONS];
        let elsewhere = !self.answers() && of_others.iter().any(|list| list.contains(&name));
        elsewhere || WITHOUT_EFFECT.contains(&name) || unsupported::find(name, true).is_some()
    }

    /// Returns whether the model answers, so that what constrains an answer matters.
    fn answers(self) -> bool {
        matches!(self, Self::Chat | Self::Completions)
    }
}

/// Returns whether `name` has the tools of a request that must not call any.
fn calls_nothing(fields: &Map<String, Value>, name: &str) -> bool {
    let choice = match name {
        "tools" => "tool_choice",
        "functions" => "function_call",
        _ => return false,
    };
    fields.get(choice).is_some_and(|choice| choice == "none")
}

// === impl Ignored ===

impl Ignored {
    /// Names the fields in the headers of the answer.
    pub(crate) fn announce(&self, headers: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        let named = self.0.iter().take(NAMES_MAX).map(|name| plain(name));
        let mut names = named.collect::<Vec<_>>().join(", ");
        if let Some(more) = self.0.len().checked_sub(NAMES_MAX).filter(|more| *more > 0) {
            names.push_str(&format!(", and {more} more"));
        }
        let value = HeaderValue::try_from(names).expect("visible ASCII");
        headers.insert(IGNORED_FIELDS, value);
    }
}

/// Returns a name that is fit for a header and a log: visible ASCII of a bounded length.
fn plain(name: &str) -> String {
    let escaped = name.chars().flat_map(|letter| {
        let escape = !letter.is_ascii_graphic() || letter == ',';
        let escaped = escape.then(|| letter.escape_unicode());
        escaped.into_iter().flatten().chain((!escape).then_some(letter))
    });
    escaped.take(NAME_BYTES_MAX).collect()
}

// === impl UnknownFields ===

impl UnknownFields {
    /// Logs each of the names once.
    pub(crate) fn log(&self, ignored: &Ignored) {
        for name in ignored.0.iter().take(NAMES_MAX) {
            let name = plain(name);
            let mut logged = self.0.lock();
            if logged.len() < LOGGED_MAX && logged.insert(name.clone()) {
                drop(logged);
                warn!(field = name, "requests have a field that is unknown and ignored");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::body::{InputBounds, parse_object};

    const ENDPOINTS: [Endpoint; 4] =
        [Endpoint::Chat, Endpoint::Completions, Endpoint::Tokenize, Endpoint::Detokenize];

    fn check(endpoint: Endpoint, body: &Value) -> Result<Vec<String>> {
        let bounds = InputBounds { vocab: 9, context: 9, tokens: 9 };
        let object = parse_object(body.to_string().as_bytes(), &bounds).expect("valid");
        endpoint.check(&object).map(|Ignored(names)| names)
    }

    /// **KNF-1**
    #[test]
    fn every_unsupported_field_is_refused_by_name_and_passes_if_it_asks_for_nothing() {
        for field in unsupported::all() {
            let name = field.name;
            let body = json!({ name: { "anything": "else" } });
            for endpoint in [Endpoint::Chat, Endpoint::Completions] {
                if endpoint.honours(name) {
                    continue;
                }
                let error = check(endpoint, &body).expect_err(name);
                assert_eq!(
                    (error.param.as_deref(), error.code),
                    (Some(name), Some("unsupported_parameter"))
                );
                assert!(error.message.starts_with(&format!("{name}: ")), "{}", error.message);
                for harmless in field.harmless {
                    let value: Value = serde_json::from_str(harmless).expect(name);
                    assert_eq!(check(endpoint, &json!({ name: value })), Ok(vec![]), "{name}");
                }
                assert_eq!(check(endpoint, &json!({ name: null })), Ok(vec![]), "{name}");
            }
            assert_eq!(check(Endpoint::Detokenize, &body), Ok(vec![]), "{name}");
        }
    }

    #[test]
    fn a_name_is_in_one_list() {
        let mut names: Vec<&str> = unsupported::all().map(|field| field.name).collect();
        names.extend(WITHOUT_EFFECT);
        names.sort_unstable();
        let twice = names.windows(2).find(|pair| pair[0] == pair[1]);
        assert_eq!(twice, None);
        let both = [CONVERSATION, GENERATION].concat();
        let both = both.iter().find(|name| names.contains(name));
        assert_eq!(both, None);
    }

    #[test]
    fn numbers_that_are_equal_ask_for_the_same() {
        for value in [json!(1), json!(1.0)] {
            assert_eq!(check(Endpoint::Chat, &json!({ "typical_p": value })), Ok(vec![]));
        }
        let error = check(Endpoint::Chat, &json!({ "typical_p": 0.2 })).expect_err("refused");
        let expected = "typical_p: not supported by this server: got 0.2, must be absent or be 1";
        assert_eq!(error.message, expected);
        let error = check(Endpoint::Chat, &json!({ "n_predict": 5 })).expect_err("refused");
        assert!(error.message.ends_with("; send max_tokens instead"), "{}", error.message);
    }

    /// A count of tokens depends on what changes the prompt, and on nothing else.
    #[test]
    fn tokenize_refuses_what_would_change_the_prompt() {
        let tools = json!([{ "type": "function", "function": { "name": "f" } }]);
        for (name, value) in [("tools", tools.clone()), ("chat_template", json!("x"))] {
            let error = check(Endpoint::Tokenize, &json!({ name: value })).expect_err(name);
            assert_eq!(error.param.as_deref(), Some(name));
        }
        let of_chat = json!({ "regex": "a", "max_tokens": 3, "temperature": 1, "tools": [] });
        assert_eq!(check(Endpoint::Tokenize, &of_chat), Ok(vec![]));
    }

    #[test]
    fn tools_that_must_not_be_called_change_nothing() {
        let tools = json!([{ "type": "function", "function": { "name": "f" } }]);
        let none = json!({ "tools": tools, "tool_choice": "none" });
        assert_eq!(check(Endpoint::Chat, &none), Ok(vec![]));
        let none = json!({ "functions": [{ "name": "f" }], "function_call": "none" });
        assert_eq!(check(Endpoint::Chat, &none), Ok(vec![]));
        let auto = json!({ "tools": tools });
        assert_eq!(check(Endpoint::Chat, &auto).expect_err("auto").param.as_deref(), Some("tools"));
    }

    /// **KNF-2**
    #[test]
    fn unknown_fields_are_named() {
        for endpoint in ENDPOINTS {
            let body = json!({ "model": "m", "user": "u", "flavour": 1, "colour": null });
            let expected = Ok(vec!["flavour".to_owned(), "colour".to_owned()]);
            assert_eq!(check(endpoint, &body), expected, "{endpoint:?}");
        }
        assert_eq!(check(Endpoint::Chat, &json!({ "prompt": "a" })), Ok(vec!["prompt".to_owned()]));
    }

    #[test]
    fn names_are_made_fit_for_a_header() {
        let announced = |names: &[&str]| {
            let mut headers = HeaderMap::new();
            let ignored = Ignored(names.iter().map(|name| (*name).to_owned()).collect());
            ignored.announce(&mut headers);
            headers.get(IGNORED_FIELDS).map(|value| value.to_str().expect("ASCII").to_owned())
        };
        assert_eq!(announced(&[]), None);
        let odd = announced(&["a", "b,c\r\n", "é", ""]).expect("a header");
        assert_eq!(odd, r"a, b\u{2c}c\u{d}\u{a}, \u{e9}, ");
        assert_eq!(announced(&[&"x".repeat(1000)]).map(|names| names.len()), Some(64));
        let many: Vec<_> = (0..20).map(|index| format!("f{index}")).collect();
        let many = announced(&many.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(many.expect("a header").ends_with("f15, and 4 more"));
    }
}
