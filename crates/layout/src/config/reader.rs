//! The reading of a decoder: the keys of a file, and where they are missing the family's defaults.

use playhouse_types::{
    Activation, Attention, DecoderSpec, Dense, FeedForward, Gqa, LayerSpec, Mla, Moe, NormKind,
    NormPlace, TokenId,
};
use serde_json::Value;

use super::family::{Experts, FAMILIES, Family, LLAMA, Latent, Window};
use super::fields::{Fields, whole};
use super::quantization::CheckpointStorage;
use super::rope::{self, LayerKinds, Ropes};
use super::{ConfigError, ModelShape, limits};

/// Default of `max_window_layers` in the configs of Qwen.
const MAX_WINDOW_LAYERS: usize = 28;

/// The number of experts, in the spellings of the hub and of what transformers writes.
const EXPERT_COUNTS: [&str; 3] = ["num_local_experts", "num_experts", "n_routed_experts"];

/// Keys that size a layer which Llama does not have, as models of no family in the table spell them: routed
/// experts, compressed keys and values.
const FOREIGN: [&str; 6] = [
    "moe_num_experts",
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_intermediate_size",
    "kv_lora_rank",
];

/// Returns the shape that the keys of `text` describe; `top` is the whole file.
pub(super) fn shape(top: &Fields<'_>, text: &Fields<'_>) -> Result<ModelShape, ConfigError> {
    let (architecture, family) = find(top)?;
    for fields in [top, text] {
        if fields.flag("is_encoder_decoder")? == Some(true) {
            return Err(fields.refuse("is_encoder_decoder", "false: decoders are planned"));
        }
    }
    let known = is_known(&architecture);
    if !known {
        refuse_foreign(&architecture, text)?;
    }
    let storage = CheckpointStorage::read(top, text)?;
    let spec = Reader { family, known, top, fields: text }.decoder()?;
    let eos_token_ids = match text.tokens("eos_token_id", spec.vocab)? {
        Some(ids) => ids,
        None if text.has("eos_token_id") || !known => Vec::new(),
        None => {
            let exists = |&id: &TokenId| (id as usize) < spec.vocab;
            family.defaults.eos.into_iter().filter(exists).collect()
        }
    };
    let CheckpointStorage { weights, plain, dtype, unquantized } = storage;
    Ok(ModelShape { architecture, spec, weights, plain, unquantized, dtype, eos_token_ids })
}

/// Refuses a file whose family has none of these architectures.
pub(super) fn require_family(
    fields: &Fields<'_>,
    architectures: &[&str],
) -> Result<(), ConfigError> {
    let names = names(fields)?;
    let served = |family: &Family| architectures.contains(&family.architecture);
    if family(fields, &names)?.is_some_and(served) {
        return Ok(());
    }
    let types = FAMILIES.iter().filter(|it| served(it)).map(|it| it.model_type).collect::<Vec<_>>();
    let (key, expected) = match names.is_empty() && fields.value("model_type").is_some() {
        true => ("model_type", types.join(", ")),
        false => ("architectures", architectures.join(", ")),
    };
    Err(fields.refuse(key, format!("one of {expected}")))
}

fn names<'a>(fields: &Fields<'a>) -> Result<Vec<&'a str>, ConfigError> {
    let names = fields.list("architectures")?.unwrap_or_default();
    Ok(names.iter().filter_map(Value::as_str).collect())
}

/// Returns the family that `architectures` names. For a causal language model under another name,
/// `model_type` decides, as in transformers, unless the file brings code of its own (`auto_map`).
fn family(fields: &Fields<'_>, names: &[&str]) -> Result<Option<&'static Family>, ConfigError> {
    let named = |family: &&Family| {
        names.contains(&family.architecture) || family.aliases.iter().any(|it| names.contains(it))
    };
    if let Some(family) = FAMILIES.iter().find(named) {
        return Ok(Some(family));
    }
    let causal = names.is_empty() || names.iter().any(|name| name.ends_with("ForCausalLM"));
    if !causal || fields.value("auto_map").is_some() {
        return Ok(None);
    }
    let model_type = fields.text("model_type")?;
    Ok(FAMILIES.iter().find(|family| model_type == Some(family.model_type)))
}

/// Returns the family of the file, or else the first architecture named, read as Llama.
fn find(fields: &Fields<'_>) -> Result<(String, &'static Family), ConfigError> {
    let names = names(fields)?;
    match (family(fields, &names)?, names.first()) {
        (Some(family), _) => Ok((family.architecture.to_owned(), family)),
        (None, Some(&name)) => Ok((name.to_owned(), &LLAMA)),
        (None, None) => Err(fields.refuse("architectures", "a list with the name of a decoder")),
    }
}

/// Returns whether the layers of an architecture are in the table.
pub(super) fn is_known(architecture: &str) -> bool {
    FAMILIES.iter().any(|family| family.architecture == architecture)
}

/// Refuses a model whose sizes would be wrong by far if it were read as Llama.
fn refuse_foreign(architecture: &str, fields: &Fields<'_>) -> Result<(), ConfigError> {
    let counts = |key: &&str| fields.value(key).is_some_and(|value| whole(value) != Some(0));
    let Some(key) = EXPERT_COUNTS.into_iter().chain(FOREIGN).find(counts) else { return Ok(()) };
    let wide =
        |family: &&Family| family.latent.is_some() || !matches!(family.experts, Experts::None);
    let known: Vec<_> = FAMILIES.iter().filter(wide).map(|family| family.architecture).collect();
    let expected = format!(
        "none: how {architecture} uses it is not known; experts and latent attention are planned \
         for {}",
        known.join(", ")
    );
    Err(fields.refuse(key, expected))
}

/// The reading of one file.
struct Reader<'a> {
    family: &'static Family,
    /// The family is in the table; else its row is Llama's, and has no defaults.
    known: bool,
    top: &'a Fields<'a>,
    fields: &'a Fields<'a>,
}

// === impl Reader ===

impl Reader<'_> {
    fn decoder(&self) -> Result<DecoderSpec, ConfigError> {
        let defaults = &self.family.defaults;
        let hidden = self.count("hidden_size", limits::HIDDEN, Some(defaults.hidden))?;
        let layers = self.count("num_hidden_layers", limits::LAYERS, Some(defaults.layers))?;
        let positions =
            self.count("max_position_embeddings", limits::POSITIONS, Some(defaults.max_positions))?;
        let attention = self.attention(hidden)?;
        let windows = self.windows(layers)?;
        let kinds = LayerKinds {
            full: windows.iter().any(Option::is_none),
            windowed: windows.iter().any(Option::is_some),
        };
        let Ropes { ropes, sliding, max_positions } = self.ropes(&attention, positions, kinds)?;
        let layer = |(index, window): (usize, Option<usize>)| {
            Ok(LayerSpec {
                norm_place: NormPlace::Before,
                attention,
                feed_forward: self.feed_forward(index)?,
                rope: if window.is_some() { sliding } else { 0 },
                window,
            })
        };
        let layers: Result<_, ConfigError> = windows.into_iter().enumerate().map(layer).collect();
        let eps = self.fields.number("rms_norm_eps", 1e-20..=1.0)?;
        #[expect(clippy::cast_possible_truncation, reason = "an epsilon needs no more digits")]
        let norm_eps = eps.unwrap_or(defaults.norm_eps) as f32;
        let tied = match self.fields.flag("tie_word_embeddings")? {
            Some(tied) => tied,
            None => self.top.flag("tie_word_embeddings")?.unwrap_or(false),
        };
        Ok(DecoderSpec {
            layers: layers?,
            hidden,
            vocab: self.count("vocab_size", limits::VOCAB, Some(defaults.vocab))?,
            norm: NormKind::Rms,
            norm_eps,
            ropes,
            tied_embeddings: tied,
            max_positions,
        })
    }

    /// A whole number from 1 to `most`; a known family has a default.
    fn count(&self, key: &str, most: usize, default: Option<usize>) -> Result<usize, ConfigError> {
        let given = self.fields.count(key, 1..=most)?;
        given
            .or(default.filter(|_| self.known))
            .ok_or_else(|| self.fields.refuse(key, format!("a whole number between 1 and {most}")))
    }

    fn attention(&self, hidden: usize) -> Result<Attention, ConfigError> {
        let heads =
            self.count("num_attention_heads", limits::HEADS, Some(self.family.defaults.heads))?;
        match &self.family.latent {
            Some(latent) => self.mla(heads, latent).map(Attention::Mla),
            None => self.gqa(hidden, heads).map(Attention::Gqa),
        }
    }

    fn gqa(&self, hidden: usize, heads: usize) -> Result<Gqa, ConfigError> {
        let key = "num_key_value_heads";
        let kv_heads = match self.fields.count(key, 1..=limits::HEADS)? {
            Some(kv_heads) => kv_heads,
            None if self.fields.has(key) => heads,
            None => self.family.defaults.kv_heads.unwrap_or(heads),
        };
        if !heads.is_multiple_of(kv_heads) {
            let expected =
                format!("a divisor of num_attention_heads ({heads}), here it is {kv_heads}");
            return Err(self.fields.refuse(key, expected));
        }
        Ok(Gqa {
            heads,
            kv_heads,
            head_dim: self.head_dim(hidden, heads)?,
            qkv_bias: self.family.qkv_bias.resolve(self.fields)?,
            out_bias: self.family.out_bias.resolve(self.fields)?,
            qk_norm: self.family.qk_norm,
        })
    }

    fn head_dim(&self, hidden: usize, heads: usize) -> Result<usize, ConfigError> {
        let explicit = self.fields.count("head_dim", 1..=limits::HEAD_DIM)?;
        let head_dim = match explicit.or(self.family.defaults.head_dim) {
            Some(head_dim) => head_dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                let expected =
                    format!("a multiple of num_attention_heads ({heads}), or a head_dim");
                return Err(self.fields.refuse("hidden_size", expected));
            }
        };
        // Rope turns pairs; of a foreign decoder only the size counts.
        if (self.known && head_dim % 2 != 0) || !(1..=limits::HEAD_DIM).contains(&head_dim) {
            let expected =
                format!("an even number up to {}, here it is {head_dim}", limits::HEAD_DIM);
            return Err(self.fields.refuse("head_dim", expected));
        }
        Ok(head_dim)
    }

    fn mla(&self, heads: usize, default: &Latent) -> Result<Mla, ConfigError> {
        let fields = self.fields;
        if fields.flag("attention_bias")?.unwrap_or(false) {
            return Err(fields.refuse("attention_bias", "false for latent attention"));
        }
        let q_rank = match fields.count("q_lora_rank", 1..=limits::RANK)? {
            None if fields.has("q_lora_rank") => None,
            given => Some(given.unwrap_or(default.q_rank)),
        };
        let width = |key, default| self.count(key, limits::HEAD_DIM, Some(default));
        Ok(Mla {
            heads,
            q_rank,
            kv_rank: self.count("kv_lora_rank", limits::RANK, Some(default.kv_rank))?,
            nope_dim: width("qk_nope_head_dim", default.nope_dim)?,
            rope_dim: width("qk_rope_head_dim", default.rope_dim)?,
            v_dim: width("v_head_dim", default.v_dim)?,
        })
    }

    /// The ropes of the layers; of a foreign decoder, whose rope may be of any kind, the plainest.
    fn ropes(
        &self,
        attention: &Attention,
        positions: usize,
        kinds: LayerKinds,
    ) -> Result<Ropes, ConfigError> {
        let dims = match attention {
            Attention::Gqa(gqa) => gqa.head_dim,
            Attention::Mla(mla) => mla.rope_dim,
        };
        let theta = self.family.defaults.theta;
        if self.known {
            rope::parse(self.fields, dims, theta, positions, kinds)
        } else {
            Ok(Ropes::plain(dims, theta, positions))
        }
    }

    /// The feed-forward block of a layer.
    fn feed_forward(&self, layer: usize) -> Result<FeedForward, ConfigError> {
        let activation = self.activation()?;
        let inner =
            || self.count("intermediate_size", limits::INNER, Some(self.family.defaults.inner));
        if !self.routes(layer)? {
            let bias = self.family.ffn_bias.resolve(self.fields)?;
            return Ok(FeedForward::Dense(Dense { inner: inner()?, bias, activation }));
        }
        let (count, top_k, default_inner) = match self.family.experts {
            Experts::None => unreachable!("a family without experts routes nothing"),
            Experts::Mixtral { count, top_k } => (count, Some(top_k), None),
            Experts::Qwen { count, top_k, inner, .. } => (count, Some(top_k), Some(inner)),
            Experts::DeepSeek { count, top_k, inner, .. } => (count, top_k, Some(inner)),
        };
        let experts = self.experts(count)?;
        let inner = match default_inner {
            None => inner()?,
            default => self.count("moe_intermediate_size", limits::INNER, default)?,
        };
        let (groups, correction_bias) = match self.family.experts {
            Experts::DeepSeek { groups, correction_bias, .. } => (groups, correction_bias),
            _ => (1, false),
        };
        let groups = self.expert_groups(experts, groups)?;
        let top_k = self.count("num_experts_per_tok", experts, top_k)?;
        if top_k > experts {
            let expected = format!("a whole number between 1 and {experts}");
            return Err(self.fields.refuse("num_experts_per_tok", expected));
        }
        Ok(FeedForward::Moe(Moe {
            experts,
            top_k,
            inner,
            shared_inner: self.shared_inner(inner)?,
            shared_gate: matches!(self.family.experts, Experts::Qwen { shared_inner: Some(_), .. }),
            groups,
            correction_bias,
            activation,
        }))
    }

    /// Whether a layer has routed experts.
    fn routes(&self, layer: usize) -> Result<bool, ConfigError> {
        let fields = self.fields;
        match self.family.experts {
            Experts::None => Ok(false),
            Experts::Mixtral { .. } => Ok(true),
            Experts::Qwen { .. } => {
                let step = fields.count("decoder_sparse_step", 1..=limits::LAYERS)?.unwrap_or(1);
                let dense = fields.list("mlp_only_layers")?.unwrap_or_default();
                let dense = dense.iter().any(|value| whole(value) == i64::try_from(layer).ok());
                Ok(!dense && (layer + 1).is_multiple_of(step))
            }
            Experts::DeepSeek { dense_layers, .. } => {
                let first = fields.count("first_k_dense_replace", 0..=limits::LAYERS)?;
                let every = fields.count("moe_layer_freq", 1..=limits::LAYERS)?.unwrap_or(1);
                Ok(layer >= first.unwrap_or(dense_layers) && layer.is_multiple_of(every))
            }
        }
    }

    /// The number of experts, under whichever key.
    fn experts(&self, default: usize) -> Result<usize, ConfigError> {
        let mut found: Option<usize> = None;
        for key in EXPERT_COUNTS {
            let Some(count) = self.fields.count(key, 1..=limits::EXPERTS)? else { continue };
            if let Some(other) = found.filter(|other| *other != count) {
                let expected = format!("{other}, as another key for the number of experts says");
                return Err(self.fields.refuse(key, expected));
            }
            found = Some(count);
        }
        Ok(found.unwrap_or(default))
    }

    /// Returns the number of groups of which the router picks some first; 1 for families without groups.
    fn expert_groups(&self, experts: usize, default: usize) -> Result<usize, ConfigError> {
        let Experts::DeepSeek { .. } = self.family.experts else { return Ok(1) };
        let key = "n_group";
        let groups = match self.fields.count(key, 1..=experts)? {
            None if self.fields.has(key) => 1,
            given => given.unwrap_or(default),
        };
        if !experts.is_multiple_of(groups) {
            let expected = format!("a divisor of the {experts} experts, here it is {groups}");
            return Err(self.fields.refuse(key, expected));
        }
        Ok(groups)
    }

    /// Width of the experts that every token passes, given the width of one routed expert.
    fn shared_inner(&self, inner: usize) -> Result<usize, ConfigError> {
        match self.family.experts {
            Experts::None | Experts::Mixtral { .. } | Experts::Qwen { shared_inner: None, .. } => {
                Ok(0)
            }
            Experts::Qwen { shared_inner, .. } => {
                self.count("shared_expert_intermediate_size", limits::INNER, shared_inner)
            }
            Experts::DeepSeek { shared, .. } => {
                let key = "n_shared_experts";
                let count = match self.fields.count(key, 0..=limits::EXPERTS)? {
                    None if self.fields.has(key) => 0,
                    given => given.unwrap_or(shared),
                };
                let width = count * inner;
                if width > limits::INNER {
                    let expected = format!("at most {} in all", limits::INNER);
                    return Err(self.fields.refuse(key, expected));
                }
                Ok(width)
            }
        }
    }

    fn activation(&self) -> Result<Activation, ConfigError> {
        match self.fields.text("hidden_act")? {
            Some(other) if self.known && other != "silu" => {
                Err(self.fields.refuse("hidden_act", "silu"))
            }
            _ => Ok(Activation::Silu),
        }
    }

    /// The window of each layer.
    fn windows(&self, layers: usize) -> Result<Vec<Option<usize>>, ConfigError> {
        let (fields, key) = (self.fields, "sliding_window");
        let window = || {
            let default = self.family.defaults.window.filter(|_| !fields.has(key));
            fields.count(key, 1..=limits::POSITIONS).map(|given| given.or(default))
        };
        let used = || match fields.flag("use_sliding_window")? {
            Some(true) => window(),
            _ => Ok(None),
        };
        match self.family.window {
            Window::Never => Ok(vec![None; layers]),
            Window::Everywhere => Ok(vec![window()?; layers]),
            Window::Used => Ok(vec![used()?; layers]),
            Window::PerLayer | Window::Alternate => self.windows_per_layer(layers, used()?),
        }
    }

    fn windows_per_layer(
        &self,
        layers: usize,
        window: Option<usize>,
    ) -> Result<Vec<Option<usize>>, ConfigError> {
        let fields = self.fields;
        let Some(types) = fields.list("layer_types")? else {
            let bound = fields.count("max_window_layers", 0..=usize::MAX)?;
            let bound = bound.unwrap_or(MAX_WINDOW_LAYERS);
            let alternate = matches!(self.family.window, Window::Alternate);
            let has_window = |layer: usize| match alternate {
                true => layer < bound && layer.is_multiple_of(2),
                false => layer >= bound,
            };
            return Ok((0..layers).map(|layer| window.filter(|_| has_window(layer))).collect());
        };
        if types.len() != layers {
            let expected =
                format!("{layers} entries, as num_hidden_layers says, not {}", types.len());
            return Err(fields.refuse("layer_types", expected));
        }
        let of_type = |kind: &Value| match (kind.as_str(), window) {
            (Some("full_attention"), _) => Ok(None),
            (Some("sliding_attention"), Some(window)) => Ok(Some(window)),
            (Some("sliding_attention"), None) => Err(fields.refuse(
                "layer_types",
                "full_attention only, since use_sliding_window or sliding_window is unset",
            )),
            _ => Err(fields.refuse("layer_types", "full_attention or sliding_attention")),
        };
        types.iter().map(of_type).collect()
    }
}
