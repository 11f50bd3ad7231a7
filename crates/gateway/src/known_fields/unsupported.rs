//! The known fields that are not supported, as data.

use serde_json::Value;

/// A field that is refused unless it asks for nothing.
#[derive(Debug)]
pub(super) struct Unsupported {
    pub(super) name: &'static str,
    /// The values, as compact JSON, that ask for nothing: clients send defaults.
    pub(super) harmless: &'static [&'static str],
    /// The fields to send for the same effect.
    pub(super) instead: Option<&'static str>,
}

const fn field(name: &'static str, harmless: &'static [&'static str]) -> Unsupported {
    Unsupported { name, harmless, instead: None }
}

const fn renamed(
    name: &'static str,
    harmless: &'static [&'static str],
    instead: &'static str,
) -> Unsupported {
    Unsupported { name, harmless, instead: Some(instead) }
}

/// The fields that change the prompt.
const PROMPT: &[Unsupported] = &[
    // OpenAI
    field("tools", &["[]"]),
    field("functions", &["[]"]),
    field("suffix", &["\"\""]),
    // vLLM
    field("chat_template", &[]),
    field("documents", &["[]"]),
    field("prompt_embeds", &[]),
    field("truncate_prompt_tokens", &["-1"]),
    // SGLang
    field("input_embeds", &[]),
    field("input_ids", &[]),
    field("session_params", &["{}"]),
    field("task", &[]),
    // llama.cpp
    field("image_data", &["[]"]),
    field("n_discard", &["0"]),
    field("n_keep", &["0"]),
    // text-generation-inference
    field("tool_prompt", &[]),
    field("truncate", &[]),
    // Model vendors
    renamed("enable_thinking", &[], "chat_template_kwargs"),
    renamed("thinking", &[], "chat_template_kwargs"),
];

/// The fields that change the answer, or its form.
const ANSWER: &[Unsupported] = &[
    // OpenAI
    field("audio", &[]),
    field("function_call", &["\"none\""]),
    field("modalities", &["[\"text\"]"]),
    field("moderation", &[]),
    field("prediction", &[]),
    field("reasoning", &["{}"]),
    field("response_format", &["{\"type\":\"text\"}"]),
    field("tool_choice", &["\"none\""]),
    field("verbosity", &["\"medium\""]),
    field("web_search_options", &[]),
    // OpenAI: fields that one of the endpoints honours
    field("best_of", &["1"]),
    field("echo", &["false"]),
    renamed("max_completion_tokens", &[], "max_tokens"),
    renamed("top_logprobs", &["0"], "logprobs"),
    // vLLM: constraints
    field("allowed_token_ids", &[]),
    field("bad_words", &["[]"]),
    field("guided_choice", &[]),
    field("guided_grammar", &[]),
    field("guided_json", &[]),
    field("guided_json_object", &["false"]),
    field("guided_regex", &[]),
    field("structural_tag", &[]),
    field("structured_outputs", &[]),
    // vLLM: sampling
    field("length_penalty", &["1"]),
    field("logits_processors", &["[]"]),
    field("logprob_token_ids", &["[]"]),
    renamed("prompt_logprobs", &[], "echo with logprobs to /v1/completions"),
    field("repetition_detection", &[]),
    field("thinking_token_budget", &["-1"]),
    field("use_beam_search", &["false"]),
    field("vllm_xargs", &["{}"]),
    field("watermarking", &["false"]),
    // vLLM: answers
    field("ec_transfer_params", &[]),
    field("kv_transfer_params", &[]),
    field("return_prompt_text", &["false"]),
    field("return_token_offsets", &["false"]),
    field("return_tokens_as_token_ids", &["false"]),
    field("stream_interval", &["1"]),
    // SGLang
    field("bootstrap_host", &[]),
    field("bootstrap_port", &[]),
    field("bootstrap_room", &[]),
    field("custom_logit_processor", &[]),
    field("custom_params", &["{}"]),
    field("disagg_prefill_dp_rank", &[]),
    field("ebnf", &[]),
    renamed("extra_key", &[], "cache_salt"),
    field("json_schema", &[]),
    field("lora_path", &[]),
    renamed("no_stop_trim", &["false"], "include_stop_str_in_output"),
    field("regex", &[]),
    field("return_cached_tokens_details", &["false"]),
    field("return_hidden_states", &["false"]),
    field("return_meta_info", &["false"]),
    renamed("return_prompt_token_ids", &["false"], "return_token_ids"),
    field("return_routed_experts", &["false"]),
    field("stop_regex", &["\"\"", "[]"]),
    // llama.cpp: constraints
    field("chat_format", &[]),
    field("chat_parser", &[]),
    field("grammar", &["\"\""]),
    field("grammar_lazy", &["false"]),
    field("grammar_triggers", &["[]"]),
    field("n_indent", &["0"]),
    renamed("n_predict", &["-1"], "max_tokens"),
    field("t_max_predict_ms", &["-1", "0"]),
    // llama.cpp: sampling
    field("adaptive_target", &["-1"]),
    field("dry_multiplier", &["0"]),
    field("dynatemp_range", &["0"]),
    field("lora", &["[]"]),
    field("min_keep", &["0", "1"]),
    field("mirostat", &["0"]),
    renamed("n_cmpl", &["1"], "n"),
    field("reasoning_budget_tokens", &["-1"]),
    field("repeat_last_n", &["-1", "64"]),
    renamed("repeat_penalty", &["1"], "repetition_penalty"),
    field("samplers", &[]),
    field("thinking_budget_tokens", &["-1"]),
    field("top_n_sigma", &["-1", "0"]),
    field("typical_p", &["1"]),
    field("xtc_probability", &["0"]),
    // llama.cpp: answers
    renamed("n_probs", &["0"], "logprobs"),
    field("post_sampling_probs", &["false"]),
    field("reasoning_format", &["\"none\"", "\"auto\""]),
    field("reasoning_in_content", &["false"]),
    field("response_fields", &["[]"]),
    field("return_progress", &["false"]),
    renamed("return_tokens", &["false"], "return_token_ids"),
    field("thinking_forced_open", &["false"]),
    field("timings_per_token", &["false"]),
    // text-generation-inference
    field("adapter_id", &[]),
    field("decoder_input_details", &["false"]),
    field("details", &["false"]),
    renamed("do_sample", &["true"], "temperature: 0"),
    field("guideline", &[]),
    renamed("max_new_tokens", &[], "max_tokens"),
    renamed("return_full_text", &["false"], "echo to /v1/completions"),
    renamed("stop_sequences", &["[]"], "stop"),
    renamed("top_n_tokens", &["0"], "logprobs"),
    field("watermark", &["false"]),
    // TensorRT-LLM
    field("beam_search_diversity_rate", &["0"]),
    field("beam_width", &["1"]),
    field("detokenize", &["true"]),
    field("disaggregated_params", &[]),
    field("early_stopping", &["false"]),
    field("lora_request", &[]),
    field("prompt_ignore_length", &["0"]),
    field("return_context_logits", &["false"]),
    field("return_generation_logits", &["false"]),
    field("top_p_decay", &["1"]),
    field("top_p_min", &["0"]),
    field("top_p_reset_ids", &[]),
    // transformers, and servers of its parameters
    field("encoder_repetition_penalty", &["1"]),
    field("epsilon_cutoff", &["0"]),
    field("eta_cutoff", &["0"]),
    field("guidance_scale", &["1"]),
    renamed("min_length", &["0"], "min_tokens"),
    renamed("min_new_tokens", &["0"], "min_tokens"),
    field("negative_prompt", &["\"\""]),
    field("no_repeat_ngram_size", &["0"]),
    field("num_beams", &["1"]),
    field("penalty_alpha", &["0"]),
    field("smoothing_factor", &["0"]),
    field("tfs", &["1"]),
    field("tfs_z", &["1"]),
    field("thinking_budget", &["-1"]),
    field("top_a", &["0"]),
];

/// Returns the field of this name, among those that change an answer too if `with_answers`.
pub(super) fn find(name: &str, with_answers: bool) -> Option<&'static Unsupported> {
    let answers: &[Unsupported] = if with_answers { ANSWER } else { &[] };
    PROMPT.iter().chain(answers).find(|field| field.name == name)
}

/// Returns all fields.
#[cfg(test)]
pub(super) fn all() -> impl Iterator<Item = &'static Unsupported> {
    PROMPT.iter().chain(ANSWER)
}

// === impl Unsupported ===

impl Unsupported {
    /// Returns whether `value` changes nothing.
    pub(super) fn asks_nothing(&self, value: &Value) -> bool {
        let Some(number) = value.as_f64() else {
            let given = value.to_string();
            return self.harmless.contains(&&*given);
        };
        self.harmless.iter().any(|harmless| harmless.parse() == Ok(number))
    }
}
