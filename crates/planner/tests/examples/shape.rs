//! Models of the examples, as a line of text.

use playhouse_layout::{ModelShape, WeightType};
use playhouse_types::{
    Activation, Attention, DecoderSpec, Dense, FeedForward, Gqa, LayerSpec, Mla, Moe, NormKind,
    NormPlace, Rope, RopeScaling,
};

/// A layer without a window.
pub(crate) fn layer(attention: Attention, feed_forward: FeedForward) -> LayerSpec {
    LayerSpec { norm_place: NormPlace::Before, attention, feed_forward, rope: 0, window: None }
}

/// A model of bf16 weights with a head of its own.
pub(crate) fn shape_of_layers(layers: Vec<LayerSpec>, hidden: usize, vocab: usize) -> ModelShape {
    let rope = Rope { dims: 64, theta: 1e4, scaling: RopeScaling::Default };
    let spec = DecoderSpec {
        layers,
        hidden,
        vocab,
        norm: NormKind::Rms,
        norm_eps: 1e-6,
        ropes: vec![rope],
        tied_embeddings: false,
        max_positions: 131_072,
    };
    ModelShape {
        architecture: "Any".to_owned(),
        spec,
        weights: WeightType::Bf16,
        plain: WeightType::Bf16,
        unquantized: Vec::new(),
        dtype: None,
        eos_token_ids: Vec::new(),
    }
}

/// The model of `NAME key=value …`; `None` for the name `none`.
pub(crate) fn shape_of(line: &str) -> Option<ModelShape> {
    let mut words = line.split_whitespace();
    let name = words.next().expect("a model has a name");
    if name == "none" {
        return None;
    }
    let words: Vec<&str> = words.collect();
    let get = |key: &str| {
        words
            .iter()
            .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
            .map(|number| number.parse::<usize>().expect("a number"))
    };
    let need = |key: &str| get(key).unwrap_or_else(|| panic!("{name} needs {key}"));
    let heads = need("heads");
    let attention = if words.contains(&"mla") {
        Attention::Mla(Mla {
            heads,
            q_rank: Some(1536),
            kv_rank: 512,
            nope_dim: 128,
            rope_dim: 64,
            v_dim: 128,
        })
    } else {
        Attention::Gqa(Gqa {
            heads,
            kv_heads: need("kv"),
            head_dim: 128,
            qkv_bias: false,
            out_bias: false,
            qk_norm: false,
        })
    };
    let activation = Activation::Silu;
    let inner = get("inner").unwrap_or(1024);
    let dense = FeedForward::Dense(Dense { inner, bias: false, activation });
    let moe = get("experts").map(|experts| {
        FeedForward::Moe(Moe {
            experts,
            top_k: 2,
            inner: need("expert-inner"),
            shared_inner: 0,
            shared_gate: false,
            groups: get("groups").unwrap_or(1),
            correction_bias: false,
            activation,
        })
    });
    let first = get("dense-layers").unwrap_or(0);
    let layers = (0..need("layers"))
        .map(|index| layer(attention, moe.filter(|_| index >= first).unwrap_or(dense)))
        .collect();
    let weights = match get("block") {
        Some(block) => WeightType::Fp8 { block: Some((block as u64, block as u64)) },
        None => WeightType::Bf16,
    };
    let shape = shape_of_layers(layers, heads * 128, need("vocab"));
    Some(ModelShape { architecture: name.to_owned(), weights, ..shape })
}
