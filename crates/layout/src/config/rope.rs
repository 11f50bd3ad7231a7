//! Rope parameters in both spellings, after `RotaryEmbeddingConfigMixin` and the parameter
//! functions of `modeling_rope_utils.py` in Hugging Face transformers 5.23.

use playhouse_types::{Rope, RopeScaling};

use super::fields::Fields;
use super::{ConfigError, limits};

/// Keys under which `rope_parameters` may hold one set per kind of layer.
const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";
const KINDS: &str = "default, linear, dynamic, llama3 or yarn";

/// The kinds of layers that a decoder has.
#[derive(Clone, Copy, Debug)]
pub(super) struct LayerKinds {
    /// Some layer sees everything.
    pub(super) full: bool,
    /// Some layer has a window.
    pub(super) windowed: bool,
}

/// The ropes of a decoder.
pub(super) struct Ropes {
    /// The rope of layers with full attention; then a second when layers with a window have another one.
    pub(super) ropes: Vec<Rope>,
    /// Index of the rope that layers with a window have.
    pub(super) sliding: usize,
    /// Positions that all of them reach.
    pub(super) max_positions: usize,
}

// === impl Ropes ===

impl Ropes {
    /// Returns one rope without scaling.
    pub(super) fn plain(dims: usize, theta: f64, positions: usize) -> Self {
        let rope = Rope { dims, theta, scaling: RopeScaling::Default };
        Self { ropes: vec![rope], sliding: 0, max_positions: positions }
    }
}

/// Returns the ropes of a config, over `dims` elements of a head, and the positions they reach given
/// `positions` of `max_position_embeddings`.
///
/// The reach is vLLM's (`_get_and_verify_max_len`): linear and dynamic multiply
/// `max_position_embeddings` by their factor, yarn multiplies its original length; for llama3
/// `max_position_embeddings` already is the stretched length.
pub(super) fn parse(
    top: &Fields<'_>,
    dims: usize,
    default_theta: f64,
    positions: usize,
    kinds: LayerKinds,
) -> Result<Ropes, ConfigError> {
    let one = |params: Option<&Fields<'_>>| rope(top, params, dims, default_theta, positions);
    // As in transformers, `rope_scaling` wins over `rope_parameters` unless empty.
    let scaling = top.object("rope_scaling")?.filter(|scaling| !scaling.is_empty());
    let params = match scaling {
        Some(scaling) => Some(scaling),
        None => top.object("rope_parameters")?,
    };
    let nested = |key| match &params {
        Some(params) => params.object(key)?.map(|nested| one(Some(&nested))).transpose(),
        None => Ok(None),
    };
    // As in transformers, the rope of a kind that no layer has is not read.
    let full = if kinds.full { nested(FULL)? } else { None };
    let sliding = if kinds.windowed { nested(SLIDING)? } else { None };
    let (full, sliding) = match (full, sliding) {
        (None, None) => (one(params.as_ref())?, None),
        (Some(rope), None) | (None, Some(rope)) => (rope, None),
        (Some(full), Some(sliding)) => (full, Some(sliding)),
    };
    let (rope, reach) = full;
    let other = sliding.filter(|(other, _)| *other != rope);
    let max_positions = other.as_ref().map_or(reach, |(_, other)| reach.min(*other));
    let sliding = usize::from(other.is_some());
    let ropes = [rope].into_iter().chain(other.map(|(rope, _)| rope)).collect();
    Ok(Ropes { ropes, sliding, max_positions })
}

fn rope(
    top: &Fields<'_>,
    params: Option<&Fields<'_>>,
    dims: usize,
    default_theta: f64,
    positions: usize,
) -> Result<(Rope, usize), ConfigError> {
    for fields in [Some(top), params].into_iter().flatten() {
        if fields.number("partial_rotary_factor", 0.0..=1.0)?.is_some_and(|part| part != 1.0) {
            return Err(fields.refuse("partial_rotary_factor", "1: rope over the whole head"));
        }
    }
    let theta = |fields: &Fields<'_>| fields.number("rope_theta", 2.0..=1e18);
    let own_theta = params.map(theta).transpose()?.flatten();
    let theta = own_theta.or(theta(top)?).unwrap_or(default_theta);
    let scaling = match params {
        Some(params) => scaling(top, params, dims, positions)?,
        None => RopeScaling::Default,
    };
    let reach = reach(&scaling, positions);
    Ok((Rope { dims, theta, scaling }, reach))
}

fn scaling(
    top: &Fields<'_>,
    params: &Fields<'_>,
    dims: usize,
    positions: usize,
) -> Result<RopeScaling, ConfigError> {
    let key = if params.value("rope_type").is_some() { "rope_type" } else { "type" };
    let required = |key| required(params, key);
    match params.text(key)?.unwrap_or("default") {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear { factor: required("factor")? }),
        // The exponent of the base is dims / (dims - 2).
        "dynamic" if dims == 2 => {
            Err(params.refuse(key, "another kind: dynamic needs a head_dim above 2"))
        }
        "dynamic" => {
            Ok(RopeScaling::Dynamic { factor: required("factor")?, original_max: positions })
        }
        "llama3" => {
            let (low, high) = (required("low_freq_factor")?, required("high_freq_factor")?);
            if high <= low {
                let expected = format!("a number above low_freq_factor ({low})");
                return Err(params.refuse("high_freq_factor", expected));
            }
            Ok(RopeScaling::Llama3 {
                factor: required("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max: original_max(top, params, positions)?,
            })
        }
        "yarn" => yarn(params, original_max(top, params, positions)?, positions),
        _ => Err(params.refuse(key, KINDS)),
    }
}

/// `_compute_yarn_parameters`, the part that does not depend on the dimension.
fn yarn(
    params: &Fields<'_>,
    original_max: usize,
    positions: usize,
) -> Result<RopeScaling, ConfigError> {
    let implied = positions as f64 / original_max as f64;
    let factor = factor(params, "factor")?.unwrap_or(implied);
    // Zero counts as unset, like `or` and truth tests in the original.
    let optional =
        |key| params.number(key, 0.0..=FACTOR_MAX).map(|number| number.filter(|&n| n != 0.0));
    let attention_factor = match (optional("mscale")?, optional("mscale_all_dim")?) {
        (Some(mscale), Some(all_dim)) => mscale_of(factor, mscale) / mscale_of(factor, all_dim),
        _ => mscale_of(factor, 1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        attention_factor: self::factor(params, "attention_factor")?.unwrap_or(attention_factor),
        beta_fast: beta(params, "beta_fast")?.unwrap_or(32.0),
        beta_slow: beta(params, "beta_slow")?.unwrap_or(1.0),
        original_max,
        truncate: params.flag("truncate")?.unwrap_or(true),
    })
}

fn mscale_of(factor: f64, mscale: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * mscale * factor.ln() + 1.0 }
}

fn reach(scaling: &RopeScaling, positions: usize) -> usize {
    let stretched = match *scaling {
        RopeScaling::Default | RopeScaling::Llama3 { .. } => return positions,
        RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor, .. } => {
            positions as f64 * factor
        }
        RopeScaling::Yarn { factor, original_max, .. } => original_max as f64 * factor,
    };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped")]
    let reach = stretched.clamp(1.0, limits::POSITIONS as f64) as usize;
    reach
}

/// A top-level `original_max_position_embeddings` wins, as in `standardize_rope_params`.
fn original_max(
    top: &Fields<'_>,
    params: &Fields<'_>,
    positions: usize,
) -> Result<usize, ConfigError> {
    let key = "original_max_position_embeddings";
    let given = |fields: &Fields<'_>| fields.count(key, 1..=limits::POSITIONS);
    Ok(given(top)?.or(given(params)?).unwrap_or(positions))
}

/// Largest stretch of a context; far beyond use, and no frequency over- or underflows.
const FACTOR_MAX: f64 = 1e6;

fn factor(params: &Fields<'_>, key: &str) -> Result<Option<f64>, ConfigError> {
    params.number(key, 1e-6..=FACTOR_MAX)
}

fn required(params: &Fields<'_>, key: &str) -> Result<f64, ConfigError> {
    factor(params, key)?.ok_or_else(|| params.refuse(key, format!("a number up to {FACTOR_MAX}")))
}

/// Reads a number of rotations: zero counts as unset, and less than can be divided by is refused.
fn beta(params: &Fields<'_>, key: &str) -> Result<Option<f64>, ConfigError> {
    match params.number(key, 0.0..=FACTOR_MAX)? {
        Some(0.0) | None => Ok(None),
        Some(_) => factor(params, key),
    }
}
