//! Nothing a caller can pass makes the planner panic: sizes may be 0 or the largest there is.

use playhouse_layout::{AttentionShape, CrossDomain, FfnShape, LayerShape, ModelShape, WeightType};
use playhouse_planner::{Goal, Hardware, Plan, Serving, Wish, recommend};
use playhouse_types::{ExpertParallel, ExpertPlacement, ParallelSpec};
use proptest::prelude::*;

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => prop::sample::select(vec![1u64, 2, 4, 64, 128]),
        1 => prop::sample::select(vec![0u64, 3, 1 << 40, u64::MAX]),
    ]
}

fn width() -> impl Strategy<Value = u32> {
    prop_oneof![
        6 => prop::sample::select(vec![1u32, 2, 4]),
        1 => prop::sample::select(vec![0u32, 3, 8, 70_000, u32::MAX]),
    ]
}

fn attention() -> impl Strategy<Value = AttentionShape> {
    let gqa =
        (size(), size(), size(), any::<bool>()).prop_map(|(heads, kv_heads, head_dim, on)| {
            AttentionShape::Gqa {
                heads,
                kv_heads,
                head_dim,
                qkv_bias: on,
                out_bias: on,
                qk_norm: on,
            }
        });
    let mla = (size(), prop::option::of(size()), size(), size(), size(), size()).prop_map(
        |(heads, q_rank, kv_rank, nope_dim, rope_dim, v_dim)| AttentionShape::Mla {
            heads,
            q_rank,
            kv_rank,
            nope_dim,
            rope_dim,
            v_dim,
        },
    );
    prop_oneof![gqa, mla]
}

fn ffn() -> impl Strategy<Value = FfnShape> {
    let dense = (size(), any::<bool>()).prop_map(|(inner, bias)| FfnShape::Dense { inner, bias });
    let routed = (size(), size(), size(), size(), any::<bool>()).prop_map(
        |(experts, top_k, inner, shared_inner, on)| FfnShape::Moe {
            experts,
            top_k,
            inner,
            shared_inner,
            shared_gate: on,
            groups: 1,
            gate_bias: on,
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
    let layer = (attention(), ffn(), prop::option::of(size()))
        .prop_map(|(attention, ffn, window)| LayerShape { attention, ffn, window });
    (size(), size(), any::<bool>(), prop::collection::vec(layer, 0..4), stored()).prop_map(
        |(hidden, vocab, tied_embeddings, layers, weights)| ModelShape {
            architecture: "Any".to_owned(),
            hidden,
            vocab,
            max_positions: 1,
            tied_embeddings,
            layers,
            weights,
            plain: WeightType::F32,
            unquantized: vec![String::new()],
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
