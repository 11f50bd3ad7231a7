//! Where ranks land and what they hold.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use playhouse_layout::{Coordinates, GroupKind, Inventory, ModelShape, RankMap, Slice};
use playhouse_planner::{Holding, Serving, StepLoad, exchanges, rank_map};
use playhouse_types::{
    Activation, Attention, Dense, ExpertParallel, ExpertPlacement, FeedForward, Mla, Moe,
    ParallelSpec,
};
use proptest::prelude::*;

use crate::shape::{layer, shape_of_layers};

fn held(map: &RankMap, shape: &ModelShape, at: &Coordinates) -> Holding {
    Holding::of(&map.share(at), shape)
}

fn shape(name: &str) -> ModelShape {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/published").join(name);
    ModelShape::parse(&fs::read(path).expect(name)).expect(name)
}

fn map(spec: &ParallelSpec, shape: &ModelShape) -> RankMap {
    rank_map(spec, shape).expect("a layout that can run")
}

fn groups(map: &RankMap, kind: GroupKind) -> Vec<Vec<u32>> {
    map.groups(kind).groups
}

/// The table "GPU assignment TP=2 × PP=2 × DP=2".
#[test]
fn tensor_ranks_are_neighbours_then_stages_then_replicas() {
    let spec = ParallelSpec { tensor: 2, pipeline: 2, data: 2, ..ParallelSpec::default() };
    let map = map(&spec, &shape("llama-3.1-8b.json"));
    assert_eq!(groups(&map, GroupKind::Tensor), [[0, 1], [2, 3], [4, 5], [6, 7]]);
    assert_eq!(groups(&map, GroupKind::Pipeline), [[0, 2], [1, 3], [4, 6], [5, 7]]);
    assert_eq!(groups(&map, GroupKind::Data), [[0, 4], [1, 5], [2, 6], [3, 7]]);
}

/// The test vector of SGLang's factorisation: its tp=8, dp=2 with attention-DP, attn_cp=2, ep=4.
#[test]
fn attention_and_experts_factor_the_same_ranks_as_sglang_does() {
    let spec = ParallelSpec {
        tensor: 4,
        prefill_context: 2,
        attention_data: 2,
        expert: ExpertParallel::Within(4),
        ..ParallelSpec::default()
    };
    let map = map(&spec, &shape("deepseek-v3.json"));
    let five = map.coordinates(5);
    assert_eq!((five.attention_data, five.context, five.tensor), (1, 0, 1));
    assert_eq!((five.expert, five.moe_tensor), (2, 1));
    assert_eq!(groups(&map, GroupKind::Tensor), [[0, 1], [2, 3], [4, 5], [6, 7]]);
    assert_eq!(groups(&map, GroupKind::Context), [[0, 2], [1, 3], [4, 6], [5, 7]]);
    assert_eq!(groups(&map, GroupKind::AttentionData), [[0, 4], [1, 5], [2, 6], [3, 7]]);
    assert_eq!(groups(&map, GroupKind::Expert), [[0, 2, 4, 6], [1, 3, 5, 7]]);
    assert_eq!(groups(&map, GroupKind::MoeTensor), [[0, 1], [2, 3], [4, 5], [6, 7]]);
}

/// vLLM: EP = DP × PCP × TP per stage, flattened replica first.
#[test]
fn expert_groups_span_replicas_as_in_vllm() {
    let spec = ParallelSpec {
        tensor: 2,
        pipeline: 2,
        data: 2,
        expert: ExpertParallel::AcrossReplicas,
        ..ParallelSpec::default()
    };
    let shape = shape("mixtral-8x7b.json");
    let map = map(&spec, &shape);
    assert_eq!(groups(&map, GroupKind::Expert), [[0, 1, 4, 5], [2, 3, 6, 7]]);
    let experts = |rank| {
        let share = held(&map, &shape, &map.coordinates(rank));
        share.experts.expect("routed").iter().collect::<Vec<_>>()
    };
    assert_eq!([experts(0), experts(1), experts(4), experts(5)], [[0, 1], [2, 3], [4, 5], [6, 7]]);
}

/// vLLM without expert parallelism: the same ranks share each expert.
#[test]
fn expert_slices_span_replicas_as_in_vllm() {
    let expert = ExpertParallel::SplitAcrossReplicas;
    let shape = shape("deepseek-v3.json");
    let inventory = Inventory::of(&shape);
    let spec = ParallelSpec { tensor: 2, pipeline: 2, data: 2, expert, ..ParallelSpec::default() };
    let slices = map(&spec, &shape);
    assert_eq!(groups(&slices, GroupKind::MoeTensor), [[0, 1, 4, 5], [2, 3, 6, 7]]);
    assert_eq!([0, 1, 4, 5].map(|rank| slices.coordinates(rank).moe_tensor), [0, 1, 2, 3]);

    // Eight replicas of one rank hold an eighth of every expert each, and all tokens meet.
    let bytes = |expert| {
        let map = map(&ParallelSpec { data: 8, expert, ..ParallelSpec::default() }, &shape);
        map.share(&map.coordinates(7)).weight_bytes(&inventory)
    };
    let (matrices, scales) = (256 * 3 * 2048 * 7168, 256 * 3 * 16 * 56 * 4);
    let experts = 58 * (matrices + scales);
    assert_eq!(bytes(ExpertParallel::Off) - bytes(expert), experts - experts / 8);
    assert_eq!(bytes(expert), bytes(ExpertParallel::AcrossReplicas));

    let map = map(&ParallelSpec { data: 8, expert, ..ParallelSpec::default() }, &shape);
    let load = StepLoad { prefill_tokens: 1000, decode_tokens: 0, sampled: 1 };
    let kv = Serving::default().kv;
    let sent = exchanges(&map, &shape, &inventory, &map.coordinates(0), &load, kv);
    let found: Vec<_> = sent.iter().map(|one| (one.group, one.ranks, one.bytes)).collect();
    assert_eq!(found, [(GroupKind::MoeTensor, 8, 58 * 2 * 7 * 1000 * 7168 * 2)]);
}

/// vLLM: contiguous tensor ranks; with prefill context the two axes are swapped first.
#[test]
fn decode_context_re_uses_tensor_ranks_context_first() {
    let shape = shape("deepseek-v3.json");
    let spec = ParallelSpec { tensor: 4, decode_context: 2, ..ParallelSpec::default() };
    assert_eq!(groups(&map(&spec, &shape), GroupKind::DecodeContext), [[0, 1], [2, 3]]);
    let spec = ParallelSpec { tensor: 2, prefill_context: 2, ..spec };
    assert_eq!(groups(&map(&spec, &shape), GroupKind::DecodeContext), [[0, 2], [1, 3]]);
    let spec = ParallelSpec { decode_context: 4, ..spec };
    assert_eq!(groups(&map(&spec, &shape), GroupKind::DecodeContext), [[0, 2, 1, 3]]);
}

/// A model whose every count is divisible by powers of two up to 64, and whose KV cache may be split.
fn divisible() -> ModelShape {
    let attention = Attention::Mla(Mla {
        heads: 64,
        q_rank: None,
        kv_rank: 32,
        nope_dim: 16,
        rope_dim: 8,
        v_dim: 16,
    });
    let activation = Activation::Silu;
    let dense = FeedForward::Dense(Dense { inner: 256, bias: true, activation });
    let routed = FeedForward::Moe(Moe {
        experts: 64,
        top_k: 4,
        inner: 128,
        shared_inner: 128,
        shared_gate: true,
        groups: 1,
        correction_bias: true,
        activation,
    });
    let layers = (0..16).map(|at| layer(attention, if at < 3 { dense } else { routed }));
    shape_of_layers(layers.collect(), 128, 512)
}

/// So many layouts that the rules accept; the others do not count.
fn accepted(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, max_global_rejects: 20 * cases, ..ProptestConfig::default() }
}

/// Powers of two whose product is `1 << bits`, one for each of `parts`.
fn powers(bits: u32, parts: usize) -> impl Strategy<Value = Vec<u32>> {
    prop::collection::vec(0..parts, bits as usize).prop_map(move |chosen| {
        let mut widths = vec![1; parts];
        for part in chosen {
            widths[part] *= 2;
        }
        widths
    })
}

fn specs() -> impl Strategy<Value = ParallelSpec> {
    let outer = (1u32..5, 1u32..5);
    let inner = (0u32..6).prop_flat_map(|bits| (powers(bits, 3), powers(bits, 3)));
    (outer, inner, 0u8..4, 0u32..3, any::<bool>()).prop_map(
        |((data, pipeline), (attention, experts), expert, decode, round_robin)| {
            let tensor = attention[0] * attention[1];
            let stage = tensor * attention[2];
            let across = expert == 1;
            ParallelSpec {
                data,
                pipeline,
                tensor,
                attention_data: attention[0],
                prefill_context: attention[2],
                decode_context: match (decode, attention[2]) {
                    (0, _) => 1,
                    (1, context @ 2..) => context,
                    (_, context @ 2..) => context * attention[1],
                    (shift, _) => (1 << shift).min(attention[1]),
                },
                expert: match expert {
                    0 => ExpertParallel::Off,
                    1 => ExpertParallel::AcrossReplicas,
                    3 => ExpertParallel::SplitAcrossReplicas,
                    _ => ExpertParallel::Within(experts[0]),
                },
                moe_data: if across { 1 } else { experts[1] },
                moe_tensor: match expert {
                    0 | 3 => Some(stage / experts[1]),
                    1 => Some(1),
                    _ => Some(experts[2]),
                },
                expert_placement: if round_robin {
                    ExpertPlacement::RoundRobin
                } else {
                    ExpertPlacement::Linear
                },
                ..ParallelSpec::default()
            }
        },
    )
}

proptest! {
    #![proptest_config(accepted(10_000))]

    /// **MAP-1**, **GR-1**, **GR-2**.
    #[test]
    fn every_layout_is_a_bijection_and_its_groups_partition_the_world(spec in specs()) {
        let map = rank_map(&spec, &divisible());
        prop_assume!(map.is_ok());
        let map = map.expect("assumed");
        let (mut attention, mut experts) = (HashSet::new(), HashSet::new());
        for at in map.ranks() {
            attention.insert((at.replica, at.stage, at.attention_data, at.context, at.tensor));
            let slice = (at.moe_tensor, at.moe_cluster);
            experts.insert((at.replica, at.stage, at.moe_data, at.expert, slice));
        }
        prop_assert_eq!(attention.len(), map.world() as usize);
        prop_assert_eq!(experts.len(), map.world() as usize);
        for kind in GroupKind::ALL {
            let groups = groups(&map, kind);
            let mut ranks: Vec<_> = groups.concat();
            ranks.sort_unstable();
            prop_assert_eq!(ranks, (0..map.world()).collect::<Vec<_>>(), "{:?}", kind);
            let size = map.group_size(kind) as usize;
            prop_assert!(groups.iter().all(|group| group.len() == size), "{:?}: {:?}", kind, groups);
            prop_assert!(groups.windows(2).all(|two| two[0].iter().min() < two[1].iter().min()));
        }
    }
}

proptest! {
    #![proptest_config(accepted(500))]

    /// **IN-1**: each group holds every head, expert slice and row exactly as often as it should,
    /// and the weights of all ranks are the checkpoint times its copies.
    #[test]
    fn what_ranks_hold_adds_up_to_the_model(spec in specs()) {
        let shape = divisible();
        let map = rank_map(&spec, &shape);
        prop_assume!(map.is_ok());
        let map = map.expect("assumed");
        let widths = *map.widths();
        let mut experts = 0;
        let mut heads = 0;
        let mut layers = 0;
        for at in map.ranks() {
            let share = held(&map, &shape, &at);
            let Slice { count, .. } = share.layers;
            layers += count;
            heads += count * share.query_heads.count;
            experts += share.experts.map_or(0, |experts| experts.count);
        }
        let copies = u64::from(widths.replicas * widths.stage_ranks);
        prop_assert_eq!(layers, 16 * copies);
        prop_assert_eq!(heads, 16 * 64 * copies / u64::from(widths.attention_tensor));
        let whole = u64::from(map.world()) / u64::from(widths.expert());
        prop_assert_eq!(experts, 64 * whole);
    }

    #[test]
    fn slices_tile_what_they_divide(units in 0u64..1000, parts in 1u64..70) {
        let slices: Vec<_> = (0..parts).map(|at| Slice::even(units, parts, at)).collect();
        prop_assert_eq!(slices[0].first, 0);
        prop_assert!(slices.windows(2).all(|two| two[0].end() == two[1].first));
        prop_assert_eq!(slices[slices.len() - 1].end(), units);
        prop_assert!(slices.iter().all(|slice| slice.count.abs_diff(units / parts) <= 1));
    }
}
