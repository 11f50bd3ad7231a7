//! Nothing a caller can pass makes the planner panic: sizes may be 0 or the largest there is.

use playhouse_layout::{CrossDomain, ModelShape, WeightType};
use playhouse_planner::{Goal, Hardware, Plan, Serving, Wish, recommend};
use playhouse_types::{
    Activation, Attention, Dense, ExpertParallel, ExpertPlacement, FeedForward, Gqa, LayerSpec,
    Mla, Moe, ParallelSpec,
};
use proptest::prelude::*;

use crate::shape::{layer, shape_of_layers};

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => prop::sample::select(vec![1u64, 2, 4, 64, 128]),
        1 => prop::sample::select(vec![0u64, 3, 1 << 40, u64::MAX]),
    ]
}

/// A size of a tensor.
fn side() -> impl Strategy<Value = usize> {
    size().prop_map(|size| usize::try_from(size).expect("64 bits"))
}

fn width() -> impl Strategy<Value = u32> {
    prop_oneof![
        6 => prop::sample::select(vec![1u32, 2, 4]),
        1 => prop::sample::select(vec![0u32, 3, 8, 70_000, u32::MAX]),
    ]
}

fn attention() -> impl Strategy<Value = Attention> {
    let gqa =
        (side(), side(), side(), any::<bool>()).prop_map(|(heads, kv_heads, head_dim, on)| {
            let (qkv_bias, out_bias, qk_norm) = (on, on, on);
            Attention::Gqa(Gqa { heads, kv_heads, head_dim, qkv_bias, out_bias, qk_norm })
        });
    let mla = (side(), prop::option::of(side()), side(), side(), side(), side()).prop_map(
        |(heads, q_rank, kv_rank, nope_dim, rope_dim, v_dim)| {
            Attention::Mla(Mla { heads, q_rank, kv_rank, nope_dim, rope_dim, v_dim })
        },
    );
    prop_oneof![gqa, mla]
}

fn feed_forward() -> impl Strategy<Value = FeedForward> {
    let activation = Activation::Silu;
    let dense = (side(), any::<bool>())
        .prop_map(move |(inner, bias)| FeedForward::Dense(Dense { inner, bias, activation }));
    let routed = (side(), side(), side(), side(), any::<bool>()).prop_map(
        move |(experts, top_k, inner, shared_inner, on)| {
            FeedForward::Moe(Moe {
                experts,
                top_k,
                inner,
                shared_inner,
                shared_gate: on,
                groups: 1,
                correction_bias: on,
                activation,
            })
        },
    );
    prop_oneof![dense, routed]
}

fn stored() -> impl Strategy<Value = WeightType> {
    prop_oneof![
        Just(WeightType::Bf16),
        (size(), size()).prop_map(|block| WeightType::Fp8 { block: Some(block) }),
        (any::<u8>(), size(), any::<bool>()).prop_map(|(bits, group, index)| WeightType::Int {
            bits,
            group,
            index
        }),
    ]
}

fn shape() -> impl Strategy<Value = ModelShape> {
    let layer = (attention(), feed_forward(), prop::option::of(side())).prop_map(
        |(attention, feed_forward, window)| LayerSpec { window, ..layer(attention, feed_forward) },
    );
    (side(), side(), any::<bool>(), prop::collection::vec(layer, 0..4), stored()).prop_map(
        |(hidden, vocab, tied_embeddings, layers, weights)| {
            let mut shape = shape_of_layers(layers, hidden, vocab);
            (shape.spec.tied_embeddings, shape.spec.max_positions) = (tied_embeddings, 1);
            let unquantized = vec![String::new()];
            ModelShape { weights, plain: WeightType::F32, unquantized, ..shape }
        },
    )
}

fn spec() -> impl Strategy<Value = ParallelSpec> {
    let outer = (width(), width(), width(), width());
    let inner = (width(), width(), prop::option::of(width()), prop::option::of(width()));
    let experts = (0u8..4, width(), width(), prop::option::of(width()), any::<bool>());
    (outer, inner, experts).prop_map(
        |((data, pipeline, tensor, context), (ad, dcp, at, ac), (kind, ep, moe, dense, round))| {
            ParallelSpec {
                data,
                pipeline,
                tensor,
                prefill_context: context,
                attention_data: ad,
                decode_context: dcp,
                attention_tensor: at,
                attention_context: ac,
                expert: match kind {
                    0 => ExpertParallel::Off,
                    1 => ExpertParallel::AcrossReplicas,
                    2 => ExpertParallel::SplitAcrossReplicas,
                    _ => ExpertParallel::Within(ep),
                },
                moe_data: moe,
                moe_dense_tensor: dense,
                expert_placement: if round {
                    ExpertPlacement::RoundRobin
                } else {
                    ExpertPlacement::Linear
                },
                ..ParallelSpec::default()
            }
        },
    )
}

fn serving() -> impl Strategy<Value = Serving> {
    (size(), size(), any::<u8>()).prop_map(|(step_tokens, running, memory_percent)| Serving {
        step_tokens,
        running,
        memory_percent,
        ..Serving::default()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_500))]

    #[test]
    fn any_plan_is_made_or_refused(
        spec in spec(), shape in shape(), serving in serving(), placed in any::<bool>(),
    ) {
        let hardware = Hardware::parse("3x8xH100").expect("hardware");
        let hardware = placed.then_some(&hardware);
        match Plan::new(&spec, &shape, hardware, &serving, CrossDomain::Warn) {
            Ok(plan) => {
                prop_assert!(!plan.to_json().is_empty());
                prop_assert!(!plan.to_string().is_empty());
                prop_assert!(plan.to_svg().ends_with("</svg>\n"));
            }
            Err(violations) => prop_assert!(!violations.is_empty()),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn any_recommendation_ends(
        shape in shape(), serving in serving(), context in prop::option::of(size()),
    ) {
        let hardware = Hardware::parse("4xL4").expect("hardware");
        let wish = Wish { serving, ..Wish::new(Goal::Balanced, context) };
        let found = recommend(&shape, &hardware, &wish);
        let cut: usize = found.cut.iter().map(|cuts| cuts.count).sum();
        prop_assert_eq!(found.ranked.len() + cut, found.candidates);
    }
}
