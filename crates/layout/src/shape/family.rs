//! What the model families fix and `config.json` does not say. A family is a row of [`FAMILIES`].

use serde_json::Value;

use super::fields::{Fields, whole};
use super::quantization::storage;
use super::{AttentionShape, FfnShape, LayerShape, ModelShape, ShapeError, limits};

/// What a family's layers in transformers fix (`models/<family>/modeling_<family>.py`).
struct Family {
    /// The name in `architectures`.
    architecture: &'static str,
    qkv_bias: Bias,
    out_bias: Bias,
    ffn_bias: Bias,
    qk_norm: bool,
    /// Of `head_dim`; `None`: hidden width by heads.
    head_dim: Option<u64>,
    /// `sliding_window` applies to every layer, with this default.
    window: Window,
    latent: bool,
    experts: Experts,
}

#[derive(Clone, Copy)]
enum Bias {
    Never,
    Always,
    /// When this key is true; false by default.
    Key(&'static str),
}

#[derive(Clone, Copy)]
enum Window {
    Never,
    /// In every layer, unless `null`.
    Everywhere,
    /// With `use_sliding_window`: where `layer_types` says so, else from `max_window_layers` on.
    PerLayer,
}

/// Where the experts' keys are.
#[derive(Clone, Copy, PartialEq)]
enum Experts {
    None,
    /// `num_local_experts`; every layer; `intermediate_size` is the expert's.
    Mixtral,
    /// `num_experts`; `decoder_sparse_step`, `mlp_only_layers`; a gated shared expert or none.
    Qwen {
        shared: bool,
    },
    /// `n_routed_experts`; `first_k_dense_replace`, `moe_layer_freq`; `n_shared_experts`.
    DeepSeek {
        gate_bias: bool,
    },
}

const LLAMA: Family = Family {
    architecture: "LlamaForCausalLM",
    qkv_bias: Bias::Key("attention_bias"),
    out_bias: Bias::Key("attention_bias"),
    ffn_bias: Bias::Key("mlp_bias"),
    qk_norm: false,
    head_dim: None,
    window: Window::Never,
    latent: false,
    experts: Experts::None,
};
const MISTRAL: Family = Family {
    architecture: "MistralForCausalLM",
    qkv_bias: Bias::Never,
    out_bias: Bias::Never,
    ffn_bias: Bias::Never,
    window: Window::Everywhere,
    ..LLAMA
};
const QWEN2: Family = Family {
    architecture: "Qwen2ForCausalLM",
    qkv_bias: Bias::Always,
    window: Window::PerLayer,
    ..MISTRAL
};
const QWEN3: Family = Family {
    architecture: "Qwen3ForCausalLM",
    qkv_bias: Bias::Key("attention_bias"),
    out_bias: Bias::Key("attention_bias"),
    qk_norm: true,
    head_dim: Some(128),
    ..QWEN2
};
const DEEPSEEK_V2: Family = Family {
    architecture: "DeepseekV2ForCausalLM",
    window: Window::Never,
    latent: true,
    experts: Experts::DeepSeek { gate_bias: false },
    ..MISTRAL
};
const FAMILIES: [Family; 9] = [
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
    Family { architecture: "MixtralForCausalLM", experts: Experts::Mixtral, ..MISTRAL },
    Family {
        architecture: "Qwen2MoeForCausalLM",
        experts: Experts::Qwen { shared: true },
        ..QWEN2
    },
    Family {
        architecture: "Qwen3MoeForCausalLM",
        experts: Experts::Qwen { shared: false },
        head_dim: None,
        ..QWEN3
    },
    DEEPSEEK_V2,
    Family {
        architecture: "DeepseekV3ForCausalLM",
        experts: Experts::DeepSeek { gate_bias: true },
        ..DEEPSEEK_V2
    },
];

/// Default of `max_window_layers` in the configs of Qwen.
const MAX_WINDOW_LAYERS: u64 = 28;

/// Keys that size a layer which Llama does not have, in the spellings of models that are no family
/// here: routed experts, compressed keys and values.
const FOREIGN: [&str; 9] = [
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "moe_num_experts",
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_intermediate_size",
    "kv_lora_rank",
];

/// The shape that the keys of `text` describe; `top` is the whole file.
pub(super) fn shape(top: &Fields<'_>, text: &Fields<'_>) -> Result<ModelShape, ShapeError> {
    let (architecture, family) = find(top)?;
    for fields in [top, text] {
        if fields.flag("is_encoder_decoder")? == Some(true) {
            return Err(fields.refuse("is_encoder_decoder", "false: decoders are planned"));
        }
    }
    if !is_known(&architecture) {
        refuse_foreign(&architecture, text)?;
    }
    let hidden = text.need("hidden_size", limits::HIDDEN)?;
    let layers = text.need("num_hidden_layers", limits::LAYERS)?;
    let attention = family.attention(text, hidden)?;
    let windows = family.windows(text, layers)?;
    let layers = windows
        .into_iter()
        .zip(0..)
        .map(|(window, layer)| Ok(LayerShape { attention, ffn: family.ffn(text, layer)?, window }))
        .collect::<Result<_, ShapeError>>()?;
    let storage = storage(top, text)?;
    let tied = match text.flag("tie_word_embeddings")? {
        Some(tied) => tied,
        None => top.flag("tie_word_embeddings")?.unwrap_or(false),
    };
    Ok(ModelShape {
        architecture,
        hidden,
        vocab: text.need("vocab_size", limits::VOCAB)?,
        max_positions: text.need("max_position_embeddings", limits::POSITIONS)?,
        tied_embeddings: tied,
        layers,
        weights: storage.weights,
        plain: storage.plain,
        unquantized: storage.unquantized,
    })
}

/// The first architecture that is known; else the first named, read as Llama.
fn find(fields: &Fields<'_>) -> Result<(String, &'static Family), ShapeError> {
    let names: Vec<_> = fields
        .list("architectures")?
        .unwrap_or_default()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let known = |family: &&Family| names.contains(&family.architecture);
    if let Some(family) = FAMILIES.iter().find(known) {
        return Ok((family.architecture.to_owned(), family));
    }
    match names.first() {
        Some(name) => Ok(((*name).to_owned(), &FAMILIES[0])),
        None => Err(fields.refuse("architectures", "a list with the name of a decoder")),
    }
}

/// Whether the layers of an architecture are in the table.
pub(super) fn is_known(architecture: &str) -> bool {
    FAMILIES.iter().any(|family| family.architecture == architecture)
}

/// Refuses a model whose sizes would be wrong by far if it were read as Llama.
fn refuse_foreign(architecture: &str, fields: &Fields<'_>) -> Result<(), ShapeError> {
    let counts = |key: &&str| fields.value(key).is_some_and(|value| whole(value) != Some(0));
    let Some(key) = FOREIGN.into_iter().find(|key| counts(key)) else { return Ok(()) };
    let wide = |family: &&Family| family.latent || family.experts != Experts::None;
    let known: Vec<_> = FAMILIES.iter().filter(wide).map(|family| family.architecture).collect();
    let expected = format!(
        "none: how {architecture} uses it is not known; experts and latent attention are planned \
         for {}",
        known.join(", ")
    );
    Err(fields.refuse(key, expected))
}

// === impl Family ===

impl Family {
    fn attention(&self, fields: &Fields<'_>, hidden: u64) -> Result<AttentionShape, ShapeError> {
        let heads = fields.need("num_attention_heads", limits::HEADS)?;
        if self.latent {
            return latent(fields, heads);
        }
        let key = "num_key_value_heads";
        let kv_heads = fields.count(key, 1, limits::HEADS)?.unwrap_or(heads);
        if heads % kv_heads != 0 {
            let expected = format!("a divisor of num_attention_heads ({heads})");
            return Err(fields.refuse(key, expected));
        }
        let explicit = fields.count("head_dim", 1, limits::HEAD_DIM)?;
        let head_dim = match explicit.or(self.head_dim) {
            Some(head_dim) => head_dim,
            None if hidden.is_multiple_of(heads) && hidden / heads <= limits::HEAD_DIM => {
                hidden / heads
            }
            None => {
                let expected = format!(
                    "a head_dim, or a multiple of num_attention_heads ({heads}) with heads of at \
                     most {}",
                    limits::HEAD_DIM
                );
                return Err(fields.refuse("hidden_size", expected));
            }
        };
        Ok(AttentionShape::Gqa {
            heads,
            kv_heads,
            head_dim,
            qkv_bias: self.qkv_bias.resolve(fields)?,
            out_bias: self.out_bias.resolve(fields)?,
            qk_norm: self.qk_norm,
        })
    }

    /// The feed-forward block of a layer.
    fn ffn(&self, fields: &Fields<'_>, layer: u64) -> Result<FfnShape, ShapeError> {
        let routed = match self.experts {
            Experts::None => false,
            Experts::Mixtral => true,
            Experts::Qwen { .. } => qwen_routes(fields, layer)?,
            Experts::DeepSeek { .. } => deepseek_routes(fields, layer)?,
        };
        if !routed {
            let inner = fields.need("intermediate_size", limits::INNER)?;
            return Ok(FfnShape::Dense { inner, bias: self.ffn_bias.resolve(fields)? });
        }
        let (experts_key, inner_key) = match self.experts {
            Experts::Mixtral => ("num_local_experts", "intermediate_size"),
            Experts::DeepSeek { .. } => ("n_routed_experts", "moe_intermediate_size"),
            Experts::None | Experts::Qwen { .. } => ("num_experts", "moe_intermediate_size"),
        };
        let experts = fields.need(experts_key, limits::EXPERTS)?;
        let inner = fields.need(inner_key, limits::INNER)?;
        let shared_inner = match self.experts {
            Experts::Qwen { shared: true } => {
                fields.need("shared_expert_intermediate_size", limits::INNER)?
            }
            Experts::DeepSeek { .. } => {
                let shared = fields.count("n_shared_experts", 0, limits::EXPERTS)?.unwrap_or(0);
                match shared * inner {
                    width if width <= limits::INNER => width,
                    _ => {
                        let expected = format!("at most {} in all", limits::INNER);
                        return Err(fields.refuse("n_shared_experts", expected));
                    }
                }
            }
            _ => 0,
        };
        Ok(FfnShape::Moe {
            experts,
            top_k: fields.need("num_experts_per_tok", experts)?,
            inner,
            shared_inner,
            shared_gate: self.experts == Experts::Qwen { shared: true },
            groups: fields.count("n_group", 1, experts)?.unwrap_or(1),
            gate_bias: self.experts == Experts::DeepSeek { gate_bias: true },
        })
    }

    /// The window of each layer.
    fn windows(&self, fields: &Fields<'_>, layers: u64) -> Result<Vec<Option<u64>>, ShapeError> {
        let window = || fields.count("sliding_window", 1, limits::POSITIONS);
        match self.window {
            Window::Never => Ok((0..layers).map(|_| None).collect()),
            Window::Everywhere => {
                let window = window()?;
                Ok((0..layers).map(|_| window).collect())
            }
            Window::PerLayer => {
                let used = fields.flag("use_sliding_window")?.unwrap_or(false);
                windows_per_layer(fields, layers, if used { window()? } else { None })
            }
        }
    }
}

fn latent(fields: &Fields<'_>, heads: u64) -> Result<AttentionShape, ShapeError> {
    if fields.flag("attention_bias")?.unwrap_or(false) {
        return Err(fields.refuse("attention_bias", "false for latent attention"));
    }
    Ok(AttentionShape::Mla {
        heads,
        q_rank: fields.count("q_lora_rank", 1, limits::RANK)?,
        kv_rank: fields.need("kv_lora_rank", limits::RANK)?,
        nope_dim: fields.need("qk_nope_head_dim", limits::HEAD_DIM)?,
        rope_dim: fields.need("qk_rope_head_dim", limits::HEAD_DIM)?,
        v_dim: fields.need("v_head_dim", limits::HEAD_DIM)?,
    })
}

fn qwen_routes(fields: &Fields<'_>, layer: u64) -> Result<bool, ShapeError> {
    let step = fields.count("decoder_sparse_step", 1, limits::LAYERS)?.unwrap_or(1);
    let dense = fields.list("mlp_only_layers")?.unwrap_or_default();
    let dense = dense.iter().any(|value| whole(value) == Some(layer));
    Ok(!dense && (layer + 1).is_multiple_of(step))
}

fn deepseek_routes(fields: &Fields<'_>, layer: u64) -> Result<bool, ShapeError> {
    let first = fields.count("first_k_dense_replace", 0, limits::LAYERS)?.unwrap_or(0);
    let every = fields.count("moe_layer_freq", 1, limits::LAYERS)?.unwrap_or(1);
    Ok(layer >= first && layer.is_multiple_of(every))
}

fn windows_per_layer(
    fields: &Fields<'_>,
    layers: u64,
    window: Option<u64>,
) -> Result<Vec<Option<u64>>, ShapeError> {
    if let Some(types) = fields.list("layer_types")? {
        let windowed = |kind: &Value| window.filter(|_| kind.as_str() == Some("sliding_attention"));
        if types.len() as u64 != layers {
            let expected = format!("{layers} entries, as num_hidden_layers says");
            return Err(fields.refuse("layer_types", expected));
        }
        return Ok(types.iter().map(windowed).collect());
    }
    let full = fields.count("max_window_layers", 0, u64::MAX)?.unwrap_or(MAX_WINDOW_LAYERS);
    Ok((0..layers).map(|layer| window.filter(|_| layer >= full)).collect())
}

// === impl Bias ===

impl Bias {
    fn resolve(self, fields: &Fields<'_>) -> Result<bool, ShapeError> {
        match self {
            Bias::Never => Ok(false),
            Bias::Always => Ok(true),
            Bias::Key(key) => Ok(fields.flag(key)?.unwrap_or(false)),
        }
    }
}
