//! The model families. A family is a row of [`FAMILIES`]: data, no code of its own (**A12**).

use playhouse_types::{Activation, Attention, DecoderSpec, FeedForward, LayerSpec, TokenId};
use serde_json::Value;

use super::{ConfigError, fields::Fields, limits, rope};

/// What a family's config class in transformers
/// (`models/<family>/configuration_<family>.py`) and its layers fix.
pub(super) struct Family {
    /// The name in `architectures`.
    pub(super) architecture: &'static str,
    defaults: Defaults,
    /// Query, key and value projections.
    qkv_bias: Bias,
    out_bias: Bias,
    ffn_bias: Bias,
    qk_norm: bool,
    window: Window,
}

/// Values of keys that `config.json` leaves out.
struct Defaults {
    vocab: usize,
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    /// `None`: as many as there are query heads. So is an explicit `null`.
    kv_heads: Option<usize>,
    /// `None`: `hidden / heads`.
    head_dim: Option<usize>,
    max_positions: usize,
    window: usize,
    eos: Option<TokenId>,
}

enum Bias {
    Never,
    Always,
    /// When this key is true; false by default.
    Key(&'static str),
}

enum Window {
    /// The family has none; `sliding_window` is ignored, as transformers does.
    Never,
    /// `sliding_window` in every layer, unless `null`.
    Everywhere,
    /// With `use_sliding_window`: where `layer_types` says so, else from `max_window_layers` on.
    PerLayer,
}

const FAMILIES: [Family; 4] = [
    Family {
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
            window: 0,
            eos: Some(2),
        },
        qkv_bias: Bias::Key("attention_bias"),
        out_bias: Bias::Key("attention_bias"),
        ffn_bias: Bias::Key("mlp_bias"),
        qk_norm: false,
        window: Window::Never,
    },
    Family {
        architecture: "MistralForCausalLM",
        defaults: Defaults {
            vocab: 32_000,
            hidden: 4096,
            inner: 14_336,
            layers: 32,
            heads: 32,
            kv_heads: Some(8),
            head_dim: None,
            max_positions: 131_072,
            window: 4096,
            eos: Some(2),
        },
        qkv_bias: Bias::Never,
        out_bias: Bias::Never,
        ffn_bias: Bias::Never,
        qk_norm: false,
        window: Window::Everywhere,
    },
    Family {
        architecture: "Qwen2ForCausalLM",
        defaults: QWEN,
        qkv_bias: Bias::Always,
        out_bias: Bias::Never,
        ffn_bias: Bias::Never,
        qk_norm: false,
        window: Window::PerLayer,
    },
    Family {
        architecture: "Qwen3ForCausalLM",
        defaults: Defaults { head_dim: Some(128), ..QWEN },
        qkv_bias: Bias::Key("attention_bias"),
        out_bias: Bias::Key("attention_bias"),
        ffn_bias: Bias::Never,
        qk_norm: true,
        window: Window::PerLayer,
    },
];

const QWEN: Defaults = Defaults {
    vocab: 151_936,
    hidden: 4096,
    inner: 22_016,
    layers: 32,
    heads: 32,
    kv_heads: Some(32),
    head_dim: None,
    max_positions: 32_768,
    window: 4096,
    eos: None,
};

/// Default of `max_window_layers` in the configs of Qwen2 and Qwen3.
const MAX_WINDOW_LAYERS: usize = 28;

/// The family that `architectures` names.
pub(super) fn find(fields: &Fields<'_>) -> Result<&'static Family, ConfigError> {
    let names = fields.list("architectures")?.unwrap_or_default();
    let known =
        |family: &&Family| names.iter().any(|name| name.as_str() == Some(family.architecture));
    FAMILIES.iter().find(known).ok_or_else(|| {
        let known: Vec<_> = FAMILIES.iter().map(|family| family.architecture).collect();
        fields.refuse("architectures", format!("one of {}", known.join(", ")))
    })
}

// === impl Family ===

impl Family {
    /// The decoder a `config.json` of this family describes.
    pub(super) fn decoder(&self, fields: &Fields<'_>) -> Result<DecoderSpec, ConfigError> {
        let default = &self.defaults;
        let count = |key, most, default| {
            Ok::<_, ConfigError>(fields.count(key, 1..=most)?.unwrap_or(default))
        };
        let hidden = count("hidden_size", limits::HIDDEN, default.hidden)?;
        let layers = count("num_hidden_layers", limits::LAYERS, default.layers)?;
        let positions = count("max_position_embeddings", limits::POSITIONS, default.max_positions)?;

        let attention = self.attention(fields, hidden)?;
        let ffn = FeedForward {
            inner: count("intermediate_size", limits::INNER, default.inner)?,
            bias: self.ffn_bias.resolve(fields)?,
            activation: activation(fields)?,
        };
        let windows = self.windows(fields, layers)?;
        let (rope, max_positions) = rope::parse(fields, attention.head_dim, positions)?;
        let eps = fields.number("rms_norm_eps", 1e-20..=1.0)?.unwrap_or(1e-6);
        #[expect(clippy::cast_possible_truncation, reason = "an epsilon needs no more digits")]
        let norm_eps = eps as f32;
        Ok(DecoderSpec {
            layers: windows
                .into_iter()
                .map(|window| LayerSpec { attention, ffn, window })
                .collect(),
            hidden,
            vocab: count("vocab_size", limits::VOCAB, default.vocab)?,
            norm_eps,
            rope,
            tied_embeddings: fields.flag("tie_word_embeddings")?.unwrap_or(false),
            max_positions,
        })
    }

    /// The class default of `eos_token_id`, where the vocabulary has it.
    pub(super) fn default_eos(&self, vocab: usize) -> Vec<TokenId> {
        self.defaults.eos.into_iter().filter(|&id| (id as usize) < vocab).collect()
    }

    fn attention(&self, fields: &Fields<'_>, hidden: usize) -> Result<Attention, ConfigError> {
        let heads =
            fields.count("num_attention_heads", 1..=limits::HEADS)?.unwrap_or(self.defaults.heads);
        let key = "num_key_value_heads";
        let kv_heads = match fields.count(key, 1..=limits::HEADS)? {
            Some(kv_heads) => kv_heads,
            None if fields.has(key) => heads,
            None => self.defaults.kv_heads.unwrap_or(heads),
        };
        if heads % kv_heads != 0 {
            let expected =
                format!("a divisor of num_attention_heads ({heads}), here it is {kv_heads}");
            return Err(fields.refuse(key, expected));
        }
        Ok(Attention {
            heads,
            kv_heads,
            head_dim: self.head_dim(fields, hidden, heads)?,
            qkv_bias: self.qkv_bias.resolve(fields)?,
            out_bias: self.out_bias.resolve(fields)?,
            qk_norm: self.qk_norm,
        })
    }

    fn head_dim(
        &self,
        fields: &Fields<'_>,
        hidden: usize,
        heads: usize,
    ) -> Result<usize, ConfigError> {
        let explicit = fields.count("head_dim", 2..=limits::HEAD_DIM)?;
        let head_dim = match explicit.or(self.defaults.head_dim) {
            Some(head_dim) => head_dim,
            None if hidden.is_multiple_of(heads) => hidden / heads,
            None => {
                let expected =
                    format!("a multiple of num_attention_heads ({heads}), or a head_dim");
                return Err(fields.refuse("hidden_size", expected));
            }
        };
        if head_dim % 2 != 0 || !(2..=limits::HEAD_DIM).contains(&head_dim) {
            let expected =
                format!("an even number up to {}, here it is {head_dim}", limits::HEAD_DIM);
            return Err(fields.refuse("head_dim", expected));
        }
        Ok(head_dim)
    }

    /// The window of each layer.
    fn windows(
        &self,
        fields: &Fields<'_>,
        layers: usize,
    ) -> Result<Vec<Option<usize>>, ConfigError> {
        let key = "sliding_window";
        let window = || {
            let default = if fields.has(key) { None } else { Some(self.defaults.window) };
            fields.count(key, 1..=limits::POSITIONS).map(|given| given.or(default))
        };
        match self.window {
            Window::Never => Ok(vec![None; layers]),
            Window::Everywhere => Ok(vec![window()?; layers]),
            Window::PerLayer => {
                let used = fields.flag("use_sliding_window")?.unwrap_or(false);
                let window = if used { window()? } else { None };
                windows_per_layer(fields, layers, window)
            }
        }
    }
}

fn windows_per_layer(
    fields: &Fields<'_>,
    layers: usize,
    window: Option<usize>,
) -> Result<Vec<Option<usize>>, ConfigError> {
    let Some(types) = fields.list("layer_types")? else {
        let full = fields.count("max_window_layers", 0..=usize::MAX)?.unwrap_or(MAX_WINDOW_LAYERS);
        return Ok((0..layers).map(|layer| window.filter(|_| layer >= full)).collect());
    };
    if types.len() != layers {
        let expected = format!("{layers} entries, as num_hidden_layers says, not {}", types.len());
        return Err(fields.refuse("layer_types", expected));
    }
    let layer = |kind: &Value| match (kind.as_str(), window) {
        (Some("full_attention"), _) => Ok(None),
        (Some("sliding_attention"), Some(window)) => Ok(Some(window)),
        (Some("sliding_attention"), None) => Err(fields.refuse(
            "layer_types",
            "full_attention only, since use_sliding_window or sliding_window is unset",
        )),
        _ => Err(fields.refuse("layer_types", "full_attention or sliding_attention")),
    };
    types.iter().map(layer).collect()
}

fn activation(fields: &Fields<'_>) -> Result<Activation, ConfigError> {
    match fields.text("hidden_act")? {
        None | Some("silu") => Ok(Activation::Silu),
        Some(_) => Err(fields.refuse("hidden_act", "silu")),
    }
}

// === impl Bias ===

impl Bias {
    fn resolve(&self, fields: &Fields<'_>) -> Result<bool, ConfigError> {
        match self {
            Bias::Never => Ok(false),
            Bias::Always => Ok(true),
            Bias::Key(key) => Ok(fields.flag(key)?.unwrap_or(false)),
        }
    }
}
