//! Fields of OpenAI's and vLLM's APIs that are known and not supported (**REQ-1**).
//!
//! A value that asks for nothing is accepted, because clients send defaults. Any other value is a 400
//! that names the field: an answer that silently lacks a requested part is worse than an error.

use crate::error::Result;
use crate::fields::{Fields, shown};

/// The name of each field, and its values (as compact JSON) that ask for nothing.
const FIELDS: &[(&str, &[&str])] = &[
    // OpenAI
    ("tools", &["[]"]),
    ("tool_choice", &["\"none\""]),
    ("functions", &["[]"]),
    ("function_call", &["\"none\""]),
    ("response_format", &["{\"type\":\"text\"}"]),
    ("suffix", &["\"\""]),
    ("audio", &[]),
    ("modalities", &["[\"text\"]"]),
    ("prediction", &[]),
    ("web_search_options", &[]),
    ("verbosity", &["\"medium\""]),
    // vLLM: constrained output
    ("structured_outputs", &[]),
    ("guided_json", &[]),
    ("guided_regex", &[]),
    ("guided_choice", &[]),
    ("guided_grammar", &[]),
    ("guided_decoding_backend", &[]),
    ("guided_whitespace_pattern", &[]),
    ("structural_tag", &[]),
    ("allowed_token_ids", &[]),
    ("bad_words", &["[]"]),
    // vLLM: sampling
    ("use_beam_search", &["false"]),
    ("length_penalty", &["1", "1.0"]),
    ("prompt_logprobs", &[]),
    ("logprob_token_ids", &["[]"]),
    ("thinking_token_budget", &[]),
    ("repetition_detection", &[]),
    ("watermarking", &[]),
    ("vllm_xargs", &["{}"]),
    // vLLM: prompts
    ("prompt_embeds", &[]),
    ("chat_template", &[]),
    ("documents", &["[]"]),
    ("truncate_prompt_tokens", &[]),
    ("media_io_kwargs", &["{}"]),
    ("mm_processor_kwargs", &["{}"]),
    // vLLM: answers
    ("return_tokens_as_token_ids", &["false"]),
    ("return_token_offsets", &["false"]),
    ("return_prompt_text", &["false"]),
    ("stream_interval", &["1"]),
    ("kv_transfer_params", &[]),
    ("ec_transfer_params", &[]),
];

/// Refuses the first unsupported field that asks for something.
pub(super) fn refuse(fields: &Fields<'_>) -> Result<()> {
    for (name, harmless) in FIELDS {
        let Some(value) = fields.get(name) else { continue };
        let given = value.to_string();
        if harmless.contains(&&*given) {
            continue;
        }
        let or = if harmless.is_empty() { "" } else { " or be " };
        let message = format!(
            "not supported by this server: got {}, must be absent{or}{}",
            shown(value),
            harmless.join(" or ")
        );
        return Err(fields.bad(name, message).with_code("unsupported_parameter"));
    }
    Ok(())
}
