//! Models of the examples, as a line of text.

use playhouse_layout::{AttentionShape, FfnShape, LayerShape, ModelShape, WeightType};

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
            .map(|number| number.parse::<u64>().expect("a number"))
    };
    let need = |key: &str| get(key).unwrap_or_else(|| panic!("{name} needs {key}"));
    let heads = need("heads");
    let attention = if words.contains(&"mla") {
        AttentionShape::Mla {
            heads,
            q_rank: Some(1536),
            kv_rank: 512,
            nope_dim: 128,
            rope_dim: 64,
            v_dim: 128,
        }
    } else {
        AttentionShape::Gqa {
            heads,
            kv_heads: need("kv"),
            head_dim: 128,
            qkv_bias: false,
            out_bias: false,
            qk_norm: false,
        }
    };
    let dense = FfnShape::Dense { inner: get("inner").unwrap_or(1024), bias: false };
    let moe = get("experts").map(|experts| FfnShape::Moe {
        experts,
        top_k: 2,
        inner: need("expert-inner"),
        shared_inner: 0,
        groups: get("groups").unwrap_or(1),
        gate_bias: false,
        shared_gate: false,
    });
    let first = get("dense-layers").unwrap_or(0);
    let layers = (0..need("layers"))
        .map(|index| LayerShape {
            attention,
            ffn: moe.filter(|_| index >= first).unwrap_or(dense),
            window: None,
        })
        .collect();
    let weights = match get("block") {
        Some(block) => WeightType::Fp8 { block: Some((block, block)) },
        None => WeightType::Bf16,
    };
    Some(ModelShape {
        architecture: name.to_owned(),
        hidden: heads * 128,
        vocab: need("vocab"),
        max_positions: 131_072,
        tied_embeddings: false,
        layers,
        weights,
        plain: WeightType::Bf16,
        unquantized: Vec::new(),
    })
}
