//! The model families. A family is a row of [`FAMILIES`]: data, no code of its own (**A12**).

use playhouse_types::TokenId;

use super::ConfigError;
use super::fields::Fields;

/// What the config class of a family in transformers (`models/<family>/configuration_<family>.py`) and the
/// family's layers fix.
pub(super) struct Family {
    /// The name in `architectures`.
    pub(super) architecture: &'static str,
    /// `model_type`, which names the family where `architectures` does not.
    pub(super) model_type: &'static str,
    /// Other names in `architectures` for the same layers.
    pub(super) aliases: &'static [&'static str],
    pub(super) defaults: Defaults,
    /// Query, key and value projections.
    pub(super) qkv_bias: Bias,
    pub(super) out_bias: Bias,
    pub(super) ffn_bias: Bias,
    pub(super) qk_norm: bool,
    pub(super) window: Window,
    /// Sizes of latent attention; `None` for grouped-query attention.
    pub(super) latent: Option<Latent>,
    pub(super) experts: Experts,
}

/// Values of keys that `config.json` leaves out.
pub(super) struct Defaults {
    pub(super) vocab: usize,
    pub(super) hidden: usize,
    pub(super) inner: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    /// `None`: as many as there are query heads. An explicit `null` means the same.
    pub(super) kv_heads: Option<usize>,
    /// `None`: `hidden / heads`.
    pub(super) head_dim: Option<usize>,
    pub(super) max_positions: usize,
    /// `None`: no window.
    pub(super) window: Option<usize>,
    pub(super) eos: Option<TokenId>,
    pub(super) norm_eps: f64,
    pub(super) theta: f64,
}

/// Defaults of latent attention.
pub(super) struct Latent {
    pub(super) q_rank: usize,
    pub(super) kv_rank: usize,
    pub(super) nope_dim: usize,
    pub(super) rope_dim: usize,
    pub(super) v_dim: usize,
}

#[derive(Clone, Copy)]
pub(super) enum Bias {
    Never,
    Always,
    /// A bias when this key is true; the key's default is false.
    Key(&'static str),
    /// A bias unless this key is false.
    Unless(&'static str),
}

#[derive(Clone, Copy)]
pub(super) enum Window {
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
pub(super) enum Experts {
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

pub(super) const LLAMA: Family = Family {
    architecture: "LlamaForCausalLM",
    model_type: "llama",
    aliases: &["LLaMAForCausalLM"],
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
    model_type: "mistral",
    aliases: &[],
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
    model_type: "mixtral",
    defaults: Defaults { window: None, norm_eps: 1e-5, theta: 1e6, ..MISTRAL.defaults },
    experts: Experts::Mixtral { count: 8, top_k: 2 },
    ..MISTRAL
};

const QWEN2: Family = Family {
    architecture: "Qwen2ForCausalLM",
    model_type: "qwen2",
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
    model_type: "qwen3",
    defaults: Defaults { head_dim: Some(128), ..QWEN2.defaults },
    qkv_bias: Bias::Key("attention_bias"),
    out_bias: Bias::Key("attention_bias"),
    qk_norm: true,
    ..QWEN2
};

const QWEN2_MOE: Family = Family {
    architecture: "Qwen2MoeForCausalLM",
    model_type: "qwen2_moe",
    defaults: Defaults {
        hidden: 2048,
        inner: 5632,
        layers: 24,
        heads: 16,
        kv_heads: Some(16),
        ..QWEN2.defaults
    },
    qkv_bias: Bias::Unless("qkv_bias"),
    window: Window::Alternate,
    experts: Experts::Qwen { count: 60, top_k: 4, inner: 1408, shared_inner: Some(5632) },
    ..QWEN2
};

const QWEN3_MOE: Family = Family {
    architecture: "Qwen3MoeForCausalLM",
    model_type: "qwen3_moe",
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
    model_type: "deepseek_v2",
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
    model_type: "deepseek_v3",
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

/// The families whose layers are known.
pub(super) const FAMILIES: [Family; 9] =
    [LLAMA, MISTRAL, QWEN2, QWEN3, MIXTRAL, QWEN2_MOE, QWEN3_MOE, DEEPSEEK_V2, DEEPSEEK_V3];

// === impl Bias ===

impl Bias {
    /// Returns whether there is a bias, by the keys of a file.
    pub(super) fn resolve(self, fields: &Fields<'_>) -> Result<bool, ConfigError> {
        match self {
            Bias::Never => Ok(false),
            Bias::Always => Ok(true),
            Bias::Key(key) => Ok(fields.flag(key)?.unwrap_or(false)),
            Bias::Unless(key) => Ok(fields.flag(key)?.unwrap_or(true)),
        }
    }
}
