//! What the ranks of a step send, by hand.

use std::fs;
use std::path::Path;

use playhouse_layout::{GroupKind, Inventory, ModelShape, RankMap};
use playhouse_planner::{Operation, Serving, StepLoad, exchanges, rank_map};
use playhouse_types::{ExpertParallel, ParallelSpec};

fn shape(name: &str) -> ModelShape {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/published").join(name);
    ModelShape::parse(&fs::read(path).expect(name)).expect(name)
}

fn map(spec: &ParallelSpec, shape: &ModelShape) -> RankMap {
    rank_map(spec, shape).expect("a layout that can run")
}

/// A prompt of 1,000 tokens through Llama-3.1-8B on two ranks: two sums per layer and one for the
/// embedding, each sending 2 · (2-1)/2 of 1,000 rows of 4096 bf16 values.
#[test]
fn a_step_sends_what_megatron_sends() {
    let shape = shape("llama-3.1-8b.json");
    let inventory = Inventory::of(&shape);
    let spec = ParallelSpec { tensor: 2, ..ParallelSpec::default() };
    let map = map(&spec, &shape);
    let load = StepLoad { prefill_tokens: 1000, decode_tokens: 0, sampled: 1 };
    let kv = Serving::default().kv;
    let sent = exchanges(&map, &shape, &inventory, &map.coordinates(0), &load, kv);
    let found: Vec<_> = sent.iter().map(|one| (one.group, one.calls, one.bytes)).collect();
    let (tensor, rows) = (GroupKind::Tensor, 1000 * 4096 * 2);
    assert_eq!(found, [(tensor, 65, 65 * rows), (tensor, 1, 128_256 * 2 / 2)]);
}

/// DeepSeek-V3's 58 routed layers, 8 of 256 experts a token, 1024 of 8192 tokens on each of eight
/// ranks. With experts on `n` places of `8 / n` slices a token reaches `n (1 - (1 - 1/n)^8)` places,
/// and all slices of each; one rank of eight is its own.
#[test]
fn slices_of_an_expert_multiply_what_an_all_to_all_sends() {
    let shape = shape("deepseek-v3.json");
    let inventory = Inventory::of(&shape);
    let load = StepLoad { prefill_tokens: 8192, decode_tokens: 0, sampled: 1 };
    for (places, ranks_reached, gib) in [(2, 7.969, 11.06), (4, 7.199, 9.99), (8, 5.251, 7.29)] {
        let spec = ParallelSpec {
            tensor: 8,
            attention_data: 8,
            moe_dense_tensor: Some(1),
            expert: ExpertParallel::Within(places),
            ..ParallelSpec::default()
        };
        let map = map(&spec, &shape);
        let kv = Serving::default().kv;
        let sent = exchanges(&map, &shape, &inventory, &map.coordinates(0), &load, kv);
        let all_to_all: Vec<_> =
            sent.iter().filter(|one| one.operation == Operation::AllToAll).collect();
        let [one] = all_to_all[..] else { panic!("{sent:?}") };
        assert_eq!((one.group, one.ranks, one.calls), (GroupKind::Expert, 8, 2 * 58));
        let bytes = 58.0 * 2.0 * 1024.0 * 7168.0 * 2.0 * ranks_reached * 7.0 / 8.0;
        let found = one.bytes as f64;
        assert!((found / bytes - 1.0).abs() < 1e-3, "{places} places: {found} for {bytes}");
        assert!((found / f64::from(1 << 30) - gib).abs() < 0.005, "{places} places: {found}");
    }
}

/// Two attention groups of four tensor ranks: each rank sends a quarter of its group's tokens to the
/// experts and then gathers the other three quarters.
#[test]
fn tensor_ranks_gather_what_each_has_back_from_the_experts() {
    let shape = shape("deepseek-v3.json");
    let inventory = Inventory::of(&shape);
    let expert = ExpertParallel::Within(8);
    let spec = ParallelSpec { tensor: 8, attention_data: 2, expert, ..ParallelSpec::default() };
    let map = map(&spec, &shape);
    let load = StepLoad { prefill_tokens: 0, decode_tokens: 64, sampled: 64 };
    let kv = Serving::default().kv;
    let sent = exchanges(&map, &shape, &inventory, &map.coordinates(0), &load, kv);
    let gather = sent
        .iter()
        .find(|one| (one.group, one.operation) == (GroupKind::Tensor, Operation::AllGather));
    let gather = gather.expect("a gather");
    assert_eq!((gather.ranks, gather.calls), (4, 58));
    assert_eq!(gather.bytes, 58 * 32 / 4 * 3 * 7168 * 2);
}
