//! The model families. A family is a row of [`FAMILIES`]: data, no code of its own (**A12**).

use playhouse_types::{
    Activation, Attention, DecoderSpec, Dense, FeedForward, Gqa, LayerSpec, Mla, Moe, NormKind,
    NormPlace, TokenId,
};
use serde_json::Value;

use super::fields::{Fields, whole};
use super::quantization::Storage;
use super::rope::{self, Ropes};
use super::{ConfigError, ModelShape, limits};

/// What the config class of a family in transformers (`models/<family>/configuration_<family>.py`) and the
/// family's layers fix.
struct Family {
    /// The name in `architectures`.
    architecture: &'static str,
    defaults: Defaults,
    /// Query, key and value projections.
    qkv_bias: Bias,
    out_bias: Bias,
    ffn_bias: Bias,
    qk_norm: bool,
    window: Window,
    /// Sizes of latent attention; `None` for grouped-query attention.
    latent: Option<Latent>,
    experts: Experts,
}

/// Values of keys that `config.json` leaves out.
struct Defaults {
    vocab: usize,
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    /// `None`: as many as there are query heads. An explicit `null` means the same.
    kv_heads: Option<usize>,
    /// `None`: `hidden / heads`.
    head_dim: Option<usize>,
    max_positions: usize,
    /// `None`: no window.
    window: Option<usize>,
    eos: Option<TokenId>,
    norm_eps: f64,
    theta: f64,
}

/// Defaults of latent attention.
struct Latent {
    q_rank: usize,
    kv_rank: usize,
    nope_dim: usize,
    rope_dim: usize,
    v_dim: usize,
}

#[derive(Clone, Copy)]
enum Bias {
    Never,
    Always,
    /// A bias when this key is true; the key's default is false.
    Key(&'static str),
}

#[derive(Clone, Copy)]
enum Window {
    /// The family has none; `sliding_window` is ignored, as transformers does.
    Never,
    /// `sliding_window` in every layer, unless `null`.
    Everywhere,
    /// `sliding_window` in every layer, with `use_sliding_window`.
    Used,
    /// With `use_sliding_window`: in the layers that `layer_types` marks, else from `max_window_layers` on.
    PerLayer,
    /// With `use_sliding_window`: in the layers that `layer_types` marks, else in every other layer below
    /// `max_window_layers`, the first layer included.
    Alternate,
}

/// Families by the keys of their experts, with the defaults of these keys.
enum Experts {
    None,
    /// Every layer; `intermediate_size` is the expert's.
    Mixtral {
        count: usize,
        top_k: usize,
    },
    /// `decoder_sparse_step`, `mlp_only_layers`; a gated shared expert or none.
    Qwen {
        count: usize,
        top_k: usize,
        inner: usize,
        shared_inner: Option<usize>,
    },
    /// `first_k_dense_replace`, `moe_layer_freq`; `n_shared_experts`.
    DeepSeek {
        count: usize,
        /// `None`: the key must be there.
        top_k: Option<usize>,
        inner: usize,
        shared: usize,
        dense_layers: usize,
        groups: usize,
        correction_bias: bool,
    },
}

const LLAMA: Family = Family {
    architecture: "LlamaForCausalLM",
    defaults: Defaults {
        vocab: 32_000,
        hidden: 4096,
        inner: 11_008,
        layers: 32,
        heads: 32,
        kv_heads: None,
        head_dim: None,
        max_positions: 2048,
        window: None,
        eos: Some(2),
        norm_eps: 1e-6,
        theta: 10_000.0,
    },
    qkv_bias: Bias::Key("attention_bias"),
    out_bias: Bias::Key("attention_bias"),
    ffn_bias: Bias::Key("mlp_bias"),
    qk_norm: false,
    window: Window::Never,
    latent: None,
    experts: Experts::None,
};

const MISTRAL: Family = Family {
    architecture: "MistralForCausalLM",
    defaults: Defaults {
        inner: 14_336,
        kv_heads: Some(8),
        max_positions: 131_072,
        window: Some(4096),
        ..LLAMA.defaults
    },
    qkv_bias: Bias::Never,
    out_bias: Bias::Never,
    ffn_bias: Bias::Never,
    window: Window::Everywhere,
    ..LLAMA
};

const MIXTRAL: Family = Family {
    architecture: "MixtralForCausalLM",
    defaults: Defaults { window: None, norm_eps: 1e-5, theta: 1e6, ..MISTRAL.defaults },
    experts: Experts::Mixtral { count: 8, top_k: 2 },
    ..MISTRAL
};

const QWEN2: Family = Family {
    architecture: "Qwen2ForCausalLM",
    defaults: Defaults {
        vocab: 151_936,
        inner: 22_016,
        kv_heads: Some(32),
        max_positions: 32_768,
        eos: None,
        ..MISTRAL.defaults
    },
    qkv_bias: Bias::Always,
    window: Window::PerLayer,
    ..MISTRAL
};

const QWEN3: Family = Family {
    architecture: "Qwen3ForCausalLM",
    defaults: Defaults { head_dim: Some(128), ..QWEN2.defaults },
    qkv_bias: Bias::Key("attention_bias"),
    out_bias: Bias::Key("attention_bias"),
    qk_norm: true,
    ..QWEN2
};

const QWEN2_MOE: Family = Family {
    architecture: "Qwen2MoeForCausalLM",
    defaults: Defaults {
        hidden: 2048,
        inner: 5632,
        layers: 24,
        heads: 16,
        kv_heads: Some(16),
        ..QWEN2.defaults
    },
    qkv_bias: Bias::Always,
    window: Window::Alternate,
    experts: Experts::Qwen { count: 60, top_k: 4, inner: 1408, shared_inner: Some(5632) },
    ..QWEN2
};

const QWEN3_MOE: Family = Family {
    architecture: "Qwen3MoeForCausalLM",
    defaults: Defaults {
        hidden: 2048,
        inner: 6144,
        layers: 24,
        kv_heads: Some(4),
        head_dim: None,
        ..QWEN3.defaults
    },
    window: Window::Used,
    experts: Experts::Qwen { count: 128, top_k: 8, inner: 768, shared_inner: None },
    ..QWEN3
};

const DEEPSEEK_V2: Family = Family {
    architecture: "DeepseekV2ForCausalLM",
    defaults: Defaults { vocab: 102_400, ..LLAMA.defaults },
    window: Window::Never,
    latent: Some(Latent { q_rank: 1536, kv_rank: 512, nope_dim: 128, rope_dim: 64, v_dim: 128 }),
    experts: Experts::DeepSeek {
        count: 64,
        top_k: None,
        inner: 1407,
        shared: 2,
        dense_layers: 0,
        groups: 1,
        correction_bias: false,
    },
    ..MISTRAL
};

const DEEPSEEK_V3: Family = Family {
    architecture: "DeepseekV3ForCausalLM",
    defaults: Defaults {
        vocab: 129_280,
        hidden: 7168,
        inner: 18_432,
        layers: 61,
        heads: 128,
        max_positions: 4096,
        eos: Some(1),
        ..LLAMA.defaults
    },
    experts: Experts::DeepSeek {
        count: 256,
        top_k: Some(8),
        inner: 2048,
        shared: 1,
        dense_layers: 3,
        groups: 8,
        correction_bias: true,
    },
    ..DEEPSEEK_V2
};

const FAMILIES: [Family; 9] =
    [LLAMA, MISTRAL, QWEN2, QWEN3, MIXTRAL, QWEN2_MOE, QWEN3_MOE, DEEPSEEK_V2, DEEPSEEK_V3];

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
    let storage = Storage::read(top, text)?;
    let spec = Reader { family, known, top, fields: text }.decoder()?;
    let eos_token_ids = match text.tokens("eos_token_id", spec.vocab)? {
        Some(ids) => ids,
        None if text.has("eos_token_id") || !known => Vec::new(),
        None => {
            let exists = |&id: &TokenId| (id as usize) < spec.vocab;
            family.defaults.eos.into_iter().filter(exists).collect()
        }
    };
    let Storage { weights, plain, dtype, unquantized } = storage;
    Ok(ModelShape { architecture, spec, weights, plain, unquantized, dtype, eos_token_ids })
}

/// The first architecture that is known; else the first named, read as Llama.
fn find(fields: &Fields<'_>) -> Result<(String, &'static Family), ConfigError> {
    let names = fields.list("architectures")?.unwrap_or_default();
    let names: Vec<_> = names.iter().filter_map(Value::as_str).collect();
    if let Some(family) = FAMILIES.iter().find(|family| names.contains(&family.architecture)) {
        return Ok((family.architecture.to_owned(), family));
    }
    match names.first() {
        Some(&name) => Ok((name.to_owned(), &LLAMA)),
        None => Err(fields.refuse("architectures", "a list with the name of a decoder")),
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
        let Ropes { ropes, sliding, max_positions } = self.ropes(&attention, positions)?;
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
    fn ropes(&self, attention: &Attention, positions: usize) -> Result<Ropes, ConfigError> {
        let dims = match attention {
            Attention::Gqa(gqa) => gqa.head_dim,
            Attention::Mla(mla) => mla.rope_dim,
        };
        let theta = self.family.defaults.theta;
        if self.known {
            rope::parse(self.fields, dims, theta, positions)
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
        let groups = match self.fields.count("n_group", 1..=experts)? {
            None if self.fields.has("n_group") => 1,
            given => given.unwrap_or(groups),
        };
        Ok(FeedForward::Moe(Moe {
            experts,
            top_k: self.count("num_experts_per_tok", experts, top_k)?,
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

// === impl Bias ===

impl Bias {
    fn resolve(self, fields: &Fields<'_>) -> Result<bool, ConfigError> {
        match self {
            Bias::Never => Ok(false),
            Bias::Always => Ok(true),
            Bias::Key(key) => Ok(fields.flag(key)?.unwrap_or(false)),
        }
    }
}
