//! The sampling fields, which are the same for both endpoints.

use playhouse_types::{InvalidParam, SamplingParams, TokenId};
use serde_json::Value;

use crate::error::{ApiError, Result};
use crate::fields::{self, Fields};
use crate::gateway::Gateway;

/// Parses all sampling fields but lengths and log-probabilities. `max_tokens` and `seed` are set later, for
/// each prompt.
pub(super) fn parse(gateway: &Gateway, fields: &Fields<'_>) -> Result<SamplingParams> {
    let mut params = gateway.defaults().params();
    let set = |name: &str, target: &mut f32| -> Result<()> {
        if let Some(given) = fields.f32(name)? {
            *target = given;
        }
        Ok(())
    };
    set("temperature", &mut params.temperature)?;
    set("top_p", &mut params.top_p)?;
    set("min_p", &mut params.min_p)?;
    set("repetition_penalty", &mut params.repetition_penalty)?;
    set("presence_penalty", &mut params.presence_penalty)?;
    set("frequency_penalty", &mut params.frequency_penalty)?;
    // -1 and 0 both mean every token.
    if let Some(top_k) = fields.integer("top_k", -1, i64::from(u32::MAX))? {
        params.top_k = u32::try_from(top_k).unwrap_or(0);
    }
    params.min_tokens = fields.count("min_tokens", 0, u32::MAX)?.unwrap_or(0);
    params.logit_bias = logit_bias(fields)?;
    if !fields.flag("ignore_eos", false)? {
        params.stop_tokens.extend_from_slice(gateway.eos_tokens());
    }
    let vocab = gateway.front_door().vocab();
    if let Some(tokens) = fields.token_ids("stop_token_ids", vocab)? {
        params.stop_tokens.extend(tokens);
    }
    params.stop_tokens.sort_unstable();
    params.stop_tokens.dedup();
    params.max_tokens = u32::MAX;
    check(gateway, fields, &params)?;
    Ok(params)
}

/// Checks the ranges, which live in [`SamplingParams::check`] alone; the quoted value is that of the
/// client.
pub(super) fn check(gateway: &Gateway, fields: &Fields<'_>, params: &SamplingParams) -> Result<()> {
    params.check(gateway.front_door().vocab()).map_err(|InvalidParam { param, given, allowed }| {
        let written = fields.get(param).filter(|value| value.is_number());
        let given = written.map_or(given, ToString::to_string);
        fields.bad(param, format!("got {given}, must be {allowed}"))
    })
}

/// Returns the seed of the first choice, if the client gave one.
pub(super) fn seed(fields: &Fields<'_>) -> Result<Option<u64>> {
    match fields.get("seed").and_then(Value::as_u64) {
        // Seeds above i64::MAX exist; negative ones are what Python's clients send.
        Some(seed) => Ok(Some(seed)),
        None => Ok(fields.integer("seed", i64::MIN, i64::MAX)?.map(i64::cast_unsigned)),
    }
}

/// Parses `logit_bias`: `{"token id": bias}`.
fn logit_bias(fields: &Fields<'_>) -> Result<Vec<(TokenId, f32)>> {
    let Some(map) = fields.fields("logit_bias")? else { return Ok(Vec::new()) };
    let mut biases = map
        .object()
        .iter()
        .map(|(key, value)| {
            let token = key
                .parse::<TokenId>()
                .map_err(|_| fields.bad("logit_bias", format!("key {key:?} must be a token id")))?;
            Ok((token, fields::number(value, &map.path_of(key))?))
        })
        .collect::<Result<Vec<_>>>()?;
    biases.sort_unstable_by_key(|(token, _)| *token);
    match biases.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        None => Ok(biases),
        Some(pair) => Err(duplicate_bias(fields, pair[0].0)),
    }
}

/// Returns the error for a token that is given twice: `"7"` and `"07"` are different keys but the same
/// token.
fn duplicate_bias(fields: &Fields<'_>, token: TokenId) -> ApiError {
    fields.bad("logit_bias", format!("token {token} appears twice"))
}
