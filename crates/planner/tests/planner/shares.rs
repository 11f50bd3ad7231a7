//! What ranks hold: layers, heads, experts, rows of the vocabulary, bytes.

use std::fs;
use std::path::Path;

use playhouse_layout::{Coordinates, GroupKind, Inventory, ModelShape, RankMap};
use playhouse_planner::dialect::{Dialect, read};
use playhouse_planner::{
    Holding, RankMemory, RuleSet, Serving, StepLoad, check, exchanges, rank_map,
};
use playhouse_types::{ExpertBalance, ExpertParallel, ExpertPlacement, ParallelSpec};

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

#[test]
fn few_kv_heads_are_held_by_neighbouring_ranks() {
    let shape = shape("llama-3.1-8b.json"); // 8 KV heads
    let spec = ParallelSpec { tensor: 16, ..ParallelSpec::default() };
    let map = map(&spec, &shape);
    let kv: Vec<_> =
        map.ranks().map(|at| held(&map, &shape, &at).kv_heads.expect("heads").first).collect();
    assert_eq!(kv, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7]);
}

#[test]
fn layers_leave_their_remainder_to_the_first_and_ends_hold_the_vocabulary() {
    let shape = shape("qwen1.5-moe-a2.7b.json"); // 24 layers, 60 experts
    let spec = ParallelSpec { tensor: 8, pipeline: 5, ..ParallelSpec::default() };
    let map = map(&spec, &shape);
    let layers: Vec<_> = map.stages().iter().map(|stage| stage.count).collect();
    assert_eq!(layers, [5, 5, 5, 5, 4]);
    let share = |rank| held(&map, &shape, &map.coordinates(rank));
    assert_eq!((share(9).embedding, share(9).head), (None, None), "a middle stage");
    assert_eq!((share(0).embedding.map(|rows| rows.count), share(0).head), (Some(18_992), None));
    assert_eq!(share(39).head.map(playhouse_layout::Slice::end), Some(151_936));
}

/// Every rank holds as many experts: 60 are even over 8 ranks with 4 redundant ones, whether or not they
/// are balanced.
#[test]
fn experts_that_are_not_even_are_refused_with_what_would_be() {
    let shape = shape("qwen1.5-moe-a2.7b.json");
    let uneven =
        ParallelSpec { tensor: 8, expert: ExpertParallel::Within(8), ..ParallelSpec::default() };
    let found = check(&uneven, Some(&shape), RuleSet::Native);
    let [refused] = &found[..] else { panic!("one rule: {found:?}") };
    assert_eq!(refused.rule, "experts-divide");
    assert_eq!(refused.fix, "expert.within = 8 → 4; or redundant_experts = 0 → 4");
    let even = ParallelSpec { redundant_experts: 4, ..uneven };
    let seventh = |spec: &ParallelSpec| {
        let map = map(spec, &shape);
        held(&map, &shape, &map.coordinates(7)).experts.expect("routed")
    };
    assert_eq!((seventh(&even).first, seventh(&even).count), (56, 8), "64 physical experts");
    let balanced = ParallelSpec { expert_balance: Some(ExpertBalance::default()), ..even.clone() };
    assert_eq!(seventh(&balanced), seventh(&even));
    let spread = ParallelSpec { expert_placement: ExpertPlacement::RoundRobin, ..even };
    assert_eq!(seventh(&spread).iter().collect::<Vec<_>>(), [7, 15, 23, 31, 39, 47, 55, 63]);
}

/// Rows of embedding and head on the first rank of a command's layout, and the rank's bytes.
fn vocabulary(dialect: Dialect, words: &str) -> (u64, u64, u64) {
    let shape = shape("deepseek-v3.json");
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    let reading = read(dialect, &words, &[]).expect("a command");
    assert_eq!(reading.check(Some(&shape), dialect.rules()), []);
    let map = map(&reading.spec, &shape);
    let Holding { embedding, head, .. } = held(&map, &shape, &map.coordinates(0));
    let bytes = map.share(&map.coordinates(0)).weight_bytes(&Inventory::of(&shape));
    (embedding.expect("one stage").count, head.expect("one stage").count, bytes)
}

/// SGLang splits the embedding over an attention group and the head over all ranks, or over the group
/// with `--enable-dp-lm-head`; TensorRT-LLM has the whole head, unless `enable_lm_head_tp_in_adp`.
#[test]
fn embedding_and_head_are_cut_as_attention_groups_have_them() {
    const ROWS: u64 = 129_280;
    let groups = "--model m --tp 8 --dp 4 --enable-dp-attention";
    let split = vocabulary(Dialect::Sglang, groups);
    assert_eq!((split.0, split.1), (ROWS / 2, ROWS / 8));
    let own = vocabulary(Dialect::Sglang, &format!("{groups} --enable-dp-lm-head"));
    assert_eq!((own.0, own.1), (ROWS / 2, ROWS / 2));
    assert_eq!(own.2 - split.2, (ROWS / 2 - ROWS / 8) * 7168 * 2, "rows of bf16");

    let whole = vocabulary(Dialect::TensorRtLlm, "tp_size=8 enable_attention_dp=true");
    assert_eq!((whole.0, whole.1), (ROWS, ROWS));
    let split = vocabulary(
        Dialect::TensorRtLlm,
        "tp_size=8 enable_attention_dp=true enable_lm_head_tp_in_adp=true",
    );
    assert_eq!((split.0, split.1), (ROWS, ROWS / 8));

    let plain = vocabulary(Dialect::Vllm, "m -tp 8");
    assert_eq!((plain.0, plain.1), (ROWS / 8, ROWS / 8));
    let spec = ParallelSpec { tensor: 8, head_tensor: Some(4), ..ParallelSpec::default() };
    let found = check(&spec, None, RuleSet::Native);
    assert_eq!(found[0].rule, "head-tensor");
}

/// A tied head is the embedding table, however the head of others is cut.
#[test]
fn a_tied_head_is_cut_as_the_embedding() {
    let shape = shape("qwen2.5-0.5b.json");
    let spec = ParallelSpec { tensor: 2, attention_data: 2, ..ParallelSpec::default() };
    let map = map(&spec, &shape);
    let Holding { embedding, head, .. } = held(&map, &shape, &map.coordinates(1));
    assert_eq!((embedding, embedding.map(|rows| rows.count)), (head, Some(151_936)));
    assert_eq!(map.group_size(GroupKind::Head), 1);
}

/// The groups that split embedding and head follow their widths.
#[test]
fn the_head_has_groups_of_its_own() {
    let spec = ParallelSpec {
        tensor: 8,
        attention_data: 4,
        head_tensor: Some(2),
        ..ParallelSpec::default()
    };
    let shape = shape("deepseek-v3.json");
    let own = map(&spec, &shape);
    let pairs = [[0, 1], [2, 3], [4, 5], [6, 7]];
    assert_eq!(own.groups(GroupKind::Head).groups, pairs);
    assert_eq!(own.groups(GroupKind::Embedding).groups, pairs);
    let all = map(&ParallelSpec { head_tensor: None, ..spec }, &shape);
    assert_eq!(all.groups(GroupKind::Head).groups, [[0, 1, 2, 3, 4, 5, 6, 7]]);
}

/// Helix: the context ranks join the tensor ranks for dense layers and shared experts.
#[test]
fn helix_splits_dense_layers_over_the_whole_stage() {
    let words = ["tp_size=4", "cp_size=2", "cp_type=HELIX", "server_role=GENERATION"];
    let reading = read(Dialect::TensorRtLlm, &words.map(str::to_owned), &[]).expect("a Mapping");
    let map = map(&reading.spec, &shape("deepseek-v3.json"));
    assert_eq!(map.groups(GroupKind::Dense).groups, [[0, 1, 2, 3, 4, 5, 6, 7]]);
}

#[test]
fn a_partition_given_is_the_partition_used() {
    let partition = Some(vec![10, 12, 10]);
    let spec =
        ParallelSpec { pipeline: 3, pipeline_partition: partition, ..ParallelSpec::default() };
    let map = map(&spec, &shape("llama-3.1-8b.json"));
    let stages: Vec<_> = map.stages().iter().map(|stage| (stage.first, stage.end())).collect();
    assert_eq!(stages, [(0, 10), (10, 22), (22, 32)]);
}

/// **ME-1**, and Megatron's arithmetic by hand for a layout with everything cut.
#[test]
fn weights_of_the_ranks_are_the_checkpoint_cut() {
    for name in ["llama-3.1-8b.json", "qwen2.5-0.5b.json", "mixtral-8x7b.json", "deepseek-v3.json"]
    {
        let shape = shape(name);
        let inventory = Inventory::of(&shape);
        let map = map(&ParallelSpec::default(), &shape);
        let bytes = map.share(&map.coordinates(0)).weight_bytes(&inventory);
        assert_eq!(bytes, Inventory::of(&shape).bytes(), "{name}");
    }
    let shape = shape("llama-3.1-8b.json");
    let inventory = Inventory::of(&shape);
    let spec = ParallelSpec { tensor: 2, pipeline: 2, ..ParallelSpec::default() };
    let map = map(&spec, &shape);
    let bytes: Vec<_> = map.ranks().map(|at| map.share(&at).weight_bytes(&inventory)).collect();
    let layer = (2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14_336 * 4096) / 2 + 2 * 4096;
    let table = 128_256 / 2 * 4096;
    let (first, last) = (2 * (16 * layer + table), 2 * (16 * layer + 4096 + table));
    assert_eq!(bytes, [first, first, last, last]);
}

#[test]
fn a_tied_table_is_copied_to_the_last_stage() {
    let shape = shape("qwen2.5-0.5b.json");
    let inventory = Inventory::of(&shape);
    let spec = ParallelSpec { pipeline: 2, ..ParallelSpec::default() };
    let map = map(&spec, &shape);
    let bytes: u64 = map.ranks().map(|at| map.share(&at).weight_bytes(&inventory)).sum();
    assert_eq!(bytes, Inventory::of(&shape).bytes() + 2 * 151_936 * 896);
}

/// Under attention-DP attention weights are whole on each rank of the group, experts are not.
#[test]
fn attention_data_replicates_attention_only() {
    let shape = shape("deepseek-v3.json");
    let inventory = Inventory::of(&shape);
    let bytes = |attention_data| {
        let expert = ExpertParallel::Within(8);
        let spec = ParallelSpec { tensor: 8, attention_data, expert, ..ParallelSpec::default() };
        let map = map(&spec, &shape);
        map.share(&map.coordinates(0)).weight_bytes(&inventory)
    };
    // Each attention group has the whole embedding table.
    let table = 129_280 * 7168 * 2;
    // Per layer q_b, kv_b and o are cut by heads; fp8 with a scale of 4 bytes per 16,384 values.
    let by_heads = 61 * (24_576 * 1536 + 32_768 * 512 + 7168 * 16_384);
    let stored = by_heads + by_heads / 16_384 * 4;
    let replicated = stored + table;
    assert_eq!(bytes(8) - bytes(1), replicated - replicated / 8);
}

#[test]
fn kv_bytes_follow_heads_latents_and_the_sequence_cut() {
    let kv = |name: &str, spec: ParallelSpec| {
        let shape = shape(name);
        let map = map(&spec, &shape);
        let inventory = Inventory::of(&shape);
        let at = map.coordinates(0);
        RankMemory::of(&map, &shape, &inventory, &at, &Serving::default()).kv_bytes_per_token
    };
    let tensor = |tensor| ParallelSpec { tensor, ..ParallelSpec::default() };
    let llama = 2 * 8 * 128 * 2 * 32;
    assert_eq!(kv("llama-3.1-8b.json", tensor(1)), llama);
    assert_eq!(kv("llama-3.1-8b.json", tensor(4)), llama / 4);
    assert_eq!(kv("llama-3.1-8b.json", tensor(16)), llama / 8, "8 KV heads on 16 ranks");
    let latent = (512 + 64) * 2 * 61;
    assert_eq!(kv("deepseek-v3.json", tensor(8)), latent, "a latent is whole on every rank");
    let split = ParallelSpec { decode_context: 8, ..tensor(8) };
    assert_eq!(kv("deepseek-v3.json", split), latent / 8);
}

/// SGLang's `--moe-dense-tp-size 1` is about the dense layers between routed ones.
#[test]
fn a_dense_width_for_mixtures_leaves_dense_models_split() {
    let own = ParallelSpec { tensor: 8, moe_dense_tensor: Some(1), ..ParallelSpec::default() };
    let none = ParallelSpec { moe_dense_tensor: None, ..own.clone() };
    let bytes = |spec: &ParallelSpec, name: &str| {
        let shape = shape(name);
        let map = map(spec, &shape);
        map.share(&map.coordinates(0)).weight_bytes(&Inventory::of(&shape))
    };
    assert_eq!(bytes(&own, "llama-3.1-8b.json"), bytes(&none, "llama-3.1-8b.json"));
    assert!(bytes(&own, "deepseek-v3.json") > bytes(&none, "deepseek-v3.json"));
}

/// SGLang's `--tp 8 --attn-cp-size 2` splits dense layers over all eight ranks, which gather the
/// tokens of both context ranks; vLLM's `-tp 4 -pcp 2` over four, each context rank for itself.
#[test]
fn dense_layers_are_split_over_the_stage_or_within_a_context_rank() {
    let shape = shape("llama-3.1-8b.json");
    let inventory = Inventory::of(&shape);
    let within = ParallelSpec { tensor: 4, prefill_context: 2, ..ParallelSpec::default() };
    let whole = ParallelSpec { dense_tensor: Some(8), ..within.clone() };
    let (within, whole) = (map(&within, &shape), map(&whole, &shape));
    assert_eq!(within.groups(GroupKind::Dense).groups, [[0, 1, 2, 3], [4, 5, 6, 7]]);
    assert_eq!(whole.groups(GroupKind::Dense).groups, [[0, 1, 2, 3, 4, 5, 6, 7]]);
    let bytes = |map: &RankMap| map.share(&map.coordinates(0)).weight_bytes(&inventory);
    let dense = 32 * 3 * 14_336 * 4096 * 2;
    assert_eq!(bytes(&within) - bytes(&whole), dense / 4 - dense / 8);

    // Tokens of both context ranks in a prompt; in decode both have the same.
    let sent = |load: StepLoad| {
        let kv = Serving::default().kv;
        let sent = exchanges(&whole, &shape, &inventory, &whole.coordinates(0), &load, kv);
        sent.iter().find(|one| one.group == GroupKind::Dense).expect("a dense group").bytes
    };
    let reduced = |tokens: u64| 32 * (tokens * 4096 * 2 * 2 / 8 * 7);
    let prompt = StepLoad { prefill_tokens: 1000, decode_tokens: 0, sampled: 1 };
    assert_eq!(sent(prompt), reduced(1000));
    let decode = StepLoad { prefill_tokens: 0, decode_tokens: 64, sampled: 64 };
    assert_eq!(sent(decode), reduced(64));
}
