//! `POST /v1/chat/completions`.

use std::sync::Arc;

use playhouse_types::TOP_LOGPROBS_MAX;

use super::{
    Conversation, Form, Job, MaxTokens, N_MAX, Shape, cache_salt, model, priority, sampling, stops,
    stream, work,
};
use crate::error::Result;
use crate::fields::Fields;
use crate::gateway::Gateway;
use crate::intake::Intake;
use crate::known_fields::Endpoint;

/// Parses a chat request and renders its prompt.
///
/// # Errors
/// Returns 400 naming the field, 404 for an unknown model.
pub(crate) fn parse_chat(intake: &Intake<'_>, body: &[u8]) -> Result<Job> {
    let gateway = intake.gateway;
    let (object, ignored) = intake.parse(body, Endpoint::Chat)?;
    let fields = Fields::new(&object.fields);
    let model = model(gateway, &fields)?;

    let n = fields.count("n", 1, N_MAX)?.unwrap_or(1);
    let conversation = Conversation::parse(&fields)?;
    let mut params = sampling::parse(gateway, &fields)?;
    params.logprobs = logprobs(&fields)?;
    let form = Form {
        shape: Shape::Chat,
        model,
        stream: stream(&fields)?,
        logprobs: params.logprobs.is_some(),
        return_token_ids: fields.flag("return_token_ids", false)?,
        skip_special_tokens: fields.flag("skip_special_tokens", true)?,
        include_stop: fields.flag("include_stop_str_in_output", false)?,
        echo: false,
        prompt_only: false,
        ignore_eos: fields.flag("ignore_eos", false)?,
    };
    let stops = Arc::new(stops(&fields)?);
    let cache_salt = cache_salt(&fields)?;
    let priority = priority(&fields)?;
    let max_tokens = max_tokens(gateway, &fields)?;
    let prompt = conversation.prompt(intake)?;
    let prompts = work(gateway, &fields, vec![prompt], &params, max_tokens)?;
    Ok(Job { form, prompts, n, stops, cache_salt, priority, ignored })
}

/// Returns the number of alternatives: `logprobs` turns log-probabilities on, `top_logprobs` counts
/// alternatives.
fn logprobs(fields: &Fields<'_>) -> Result<Option<u32>> {
    let wanted = fields.flag("logprobs", false)?;
    let top = fields.count("top_logprobs", 0, TOP_LOGPROBS_MAX)?;
    match top {
        Some(top) if !wanted && top > 0 => {
            Err(fields.bad("top_logprobs", "only allowed when logprobs is true"))
        }
        top => Ok(wanted.then(|| top.unwrap_or(0))),
    }
}

/// Returns `max_completion_tokens`, or the older `max_tokens`; without either, the answer may be as long as the
/// model's defaults allow, or fill the context. In chat it is an upper bound, and cut to the room that the
/// prompt leaves: clients cannot count the tokens of a rendered conversation, and send the same bound for
/// every model.
fn max_tokens(gateway: &Gateway, fields: &Fields<'_>) -> Result<MaxTokens> {
    let newer = fields.count("max_completion_tokens", 1, u32::MAX)?;
    let older = fields.count("max_tokens", 1, u32::MAX)?;
    let given = newer.or(older).or(gateway.defaults().max_tokens);
    Ok(MaxTokens::AtMost(given.unwrap_or(u32::MAX)))
}
