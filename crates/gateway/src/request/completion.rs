//! `POST /v1/completions`.

use std::sync::Arc;

use playhouse_types::TOP_LOGPROBS_MAX;

use super::{
    Form, Job, MaxTokens, N_MAX, Prompt, Shape, cache_salt, check_generations, model, priority,
    sampling, stops, stream, work,
};
use crate::error::Result;
use crate::fields::Fields;
use crate::intake::Intake;
use crate::known_fields::Endpoint;

/// The `max_tokens` of a completion that does not set it (OpenAI's default).
const MAX_TOKENS_DEFAULT: u32 = 16;

/// Parses a completion request and tokenizes its prompts.
///
/// # Errors
/// Returns 400 naming the field, 404 for an unknown model.
pub(crate) fn parse_completion(intake: &Intake<'_>, body: &[u8]) -> Result<Job> {
    let gateway = intake.gateway;
    let (object, ignored) = intake.parse(body, Endpoint::Completions)?;
    let fields = Fields::new(&object.fields);
    let model = model(gateway, &fields)?;

    let n = fields.count("n", 1, N_MAX)?.unwrap_or(1);
    check_best_of(&fields, n)?;
    let mut params = sampling::parse(gateway, &fields)?;
    params.logprobs = fields.count("logprobs", 0, TOP_LOGPROBS_MAX)?;
    let echo = fields.flag("echo", false)?;
    if echo {
        params.prompt_logprobs = params.logprobs;
    }
    // Scoring a prompt (lm-eval) asks for no tokens at all.
    let given = fields.count("max_tokens", u32::from(!echo), u32::MAX)?;
    let form = Form {
        shape: Shape::Completion,
        model,
        stream: stream(&fields)?,
        logprobs: params.logprobs.is_some(),
        return_token_ids: fields.flag("return_token_ids", false)?,
        skip_special_tokens: fields.flag("skip_special_tokens", true)?,
        include_stop: fields.flag("include_stop_str_in_output", false)?,
        echo,
        prompt_only: given == Some(0),
        ignore_eos: fields.flag("ignore_eos", false)?,
    };
    let stops = Arc::new(stops(&fields)?);
    let cache_salt = cache_salt(&fields)?;
    let priority = priority(&fields)?;
    let input = object.prompt.ok_or_else(|| fields.bad("prompt", "is required"))?;
    check_generations(&fields, input.written.len(), n)?;
    let prompts = Prompt::all(intake, &fields, input, echo)?;
    let of_model = gateway.defaults().max_tokens.unwrap_or(u32::MAX);
    let default = MaxTokens::AtMost(MAX_TOKENS_DEFAULT.min(of_model));
    // OpenAI's contract: a prompt and its `max_tokens` fit the context together.
    let max_tokens = given.map_or(default, MaxTokens::Exactly);
    let prompts = work(gateway, &fields, prompts, &params, max_tokens)?;
    Ok(Job { form, prompts, n, stops, cache_salt, priority, ignored })
}

/// Refuses `best_of` other than `n`: it ranks candidates on the server; with as many as are returned there is
/// no ranking.
fn check_best_of(fields: &Fields<'_>, n: u32) -> Result<()> {
    match fields.count("best_of", 1, N_MAX)? {
        Some(best_of) if best_of != n => {
            let message =
                format!("got {best_of}, must be n ({n}): ranking is not supported by this server");
            Err(fields.bad("best_of", message).with_code("unsupported_parameter"))
        }
        _ => Ok(()),
    }
}
