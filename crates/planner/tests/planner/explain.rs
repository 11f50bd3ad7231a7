//! What a plan prints: text, JSON and picture, against the files of `tests/golden`.
//!
//! A golden file is what a person reviewed. When a change of the output is meant, run the tests with
//! `REWRITE=1` and review the difference.

use std::fs;
use std::path::Path;

use playhouse_layout::{CrossDomain, GroupKind, ModelShape};
use playhouse_planner::{Exchange, Hardware, Plan, Serving, layout};
use playhouse_types::{ExpertParallel, ExpertPlacement, ParallelSpec};
use serde_json::Value;

fn shape(name: &str) -> ModelShape {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/published").join(name);
    ModelShape::parse(&fs::read(path).expect(name)).expect(name)
}

fn plan(spec: &ParallelSpec, model: &str, hardware: Option<&str>) -> Plan {
    let hardware = hardware.map(|text| Hardware::parse(text).expect(text));
    let serving = Serving::default();
    Plan::new(spec, &shape(model), hardware.as_ref(), &serving, CrossDomain::Warn).expect("a plan")
}

fn golden(name: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("REWRITE").is_some() {
        fs::write(&path, found).expect("a writable golden file");
    }
    let expected = fs::read_to_string(&path).expect(name);
    assert_eq!(found, expected, "{name} differs");
}

/// `-tp 2 -pp 2 -dp 2`
fn eight() -> ParallelSpec {
    ParallelSpec { tensor: 2, pipeline: 2, data: 2, ..ParallelSpec::default() }
}

/// The table "GPU assignment TP=2 × PP=2 × DP=2" on a model of 32 layers.
#[test]
fn two_by_two_by_two_prints_the_known_assignment() {
    let plan = plan(&eight(), "llama-3.1-8b.json", None);
    golden("tp2-pp2-dp2.txt", &plan.to_string());
    golden("tp2-pp2-dp2.json", &plan.to_json());
    golden("tp2-pp2-dp2.svg", &plan.to_svg());
}

#[test]
fn hardware_adds_nodes_devices_and_room() {
    let plan = plan(&eight(), "llama-3.1-8b.json", Some("2x4xH100"));
    golden("tp2-pp2-dp2-on-2x4xh100.txt", &plan.to_string());
    golden("tp2-pp2-dp2-on-2x4xh100.svg", &plan.to_svg());
}

#[test]
fn experts_and_attention_data_have_columns_of_their_own() {
    let spec = ParallelSpec {
        tensor: 8,
        attention_data: 8,
        pipeline: 2,
        expert: ExpertParallel::Within(8),
        moe_dense_tensor: Some(1),
        ..ParallelSpec::default()
    };
    let plan = plan(&spec, "deepseek-v3.json", Some("2x8xH100"));
    golden("deepseek-v3-on-2x8xh100.txt", &plan.to_string());
    golden("deepseek-v3-on-2x8xh100.svg", &plan.to_svg());
}

/// The rows of the table of ranks, each without its padding.
fn rows(plan: &Plan) -> Vec<String> {
    let text = plan.to_string();
    let table = text.split("\n\n").nth(1).expect("the table").lines().skip(1);
    table.map(|row| row.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

/// Ranks that hold equally much stand in one row, with what they hold together and what each holds.
#[test]
fn equal_ranks_share_a_row() {
    let spec = ParallelSpec { tensor: 4, data: 2, ..ParallelSpec::default() };
    let [row] = &rows(&plan(&spec, "llama-3.1-8b.json", None))[..] else { panic!("one row") };
    assert!(
        row.starts_with(
            "0-7 0-1 0 0-3 0-31 0-31 (8 each) 0-7 (2 each) 0-128255 (32,064 each) 3.74 GiB"
        ),
        "{row}"
    );
    // Several ranks have a copy of the same KV head.
    let copies = ParallelSpec { tensor: 16, ..ParallelSpec::default() };
    let [row] = &rows(&plan(&copies, "llama-3.1-8b.json", None))[..] else { panic!("one row") };
    assert!(row.contains(" 0-31 (2 each) 0-7 (1 each) "), "{row}");
}

#[test]
fn ranks_that_differ_have_rows_of_their_own() {
    let spec = ParallelSpec { tensor: 7, ..ParallelSpec::default() };
    let shape = ModelShape::parse(
        br#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 896, "num_hidden_layers": 2,
            "num_attention_heads": 7, "num_key_value_heads": 7, "intermediate_size": 700,
            "vocab_size": 100, "max_position_embeddings": 64}"#,
    )
    .expect("a config");
    let serving = Serving::default();
    let uneven = Plan::new(&spec, &shape, None, &serving, CrossDomain::Warn).expect("a plan");
    let ranks: Vec<_> =
        rows(&uneven).iter().map(|row| row.split(' ').next().expect("a cell").to_owned()).collect();
    assert_eq!(ranks, ["0-1", "2-6"], "100 rows over 7 ranks: 15, 15, and 14 each");
    // Nodes and stages are never mixed.
    let nodes = rows(&plan(&eight(), "llama-3.1-8b.json", Some("2x4xH100")));
    assert_eq!(nodes.len(), 4, "{nodes:?}");
}

/// Experts that go round and round: together the ranks hold all of them, or the row is not shared.
#[test]
fn ranks_that_take_turns_with_experts_share_a_row_if_all_are_in_it() {
    let spec = ParallelSpec {
        tensor: 8,
        expert: ExpertParallel::Within(8),
        expert_placement: ExpertPlacement::RoundRobin,
        ..ParallelSpec::default()
    };
    let whole = rows(&plan(&spec, "qwen3-30b-a3b.json", None));
    assert!(matches!(&whole[..], [row] if row.contains(" 0-127 (16 each) ")), "{whole:?}");
    let halves = rows(&plan(&spec, "qwen3-30b-a3b.json", Some("2x4xH100")));
    assert_eq!(halves.len(), 8, "{halves:?}");
    assert!(halves[3].contains(" 3,11,…,123 "), "{halves:?}");
}

/// Of 288 slots, 32 hold a second copy of an expert.
#[test]
fn redundant_experts_are_shown_as_slots() {
    let spec = ParallelSpec {
        tensor: 72,
        attention_data: 72,
        expert: ExpertParallel::Within(72),
        moe_dense_tensor: Some(1),
        head_tensor: Some(1),
        redundant_experts: 32,
        ..ParallelSpec::default()
    };
    let plan = plan(&spec, "deepseek-v3.json", None);
    assert!(plan.to_string().contains(" expert slots "), "{plan}");
    let [row] = &rows(&plan)[..] else { panic!("one row") };
    assert!(row.starts_with("0-71 ") && row.contains(" 0-287 (4 each) "), "{row}");
}

#[test]
fn the_json_has_every_rank_with_all_that_the_table_shows() {
    let plan = plan(&eight(), "llama-3.1-8b.json", Some("8xH100"));
    let json: Value = serde_json::from_str(&plan.to_json()).expect("JSON");
    let ranks = json["ranks"].as_array().expect("ranks");
    assert_eq!(ranks.len(), 8);
    assert_eq!(ranks[7]["replica"], 1);
    assert_eq!(ranks[7]["layers"]["first"], 16);
    assert_eq!(ranks[7]["node"], "node-0");
    assert_eq!(ranks[7]["kv_bytes_per_token"], 2 * 4 * 128 * 2 * 16);
    let kinds: Vec<_> = json["groups"].as_array().expect("groups").iter().collect();
    assert_eq!(kinds[0]["kind"], "tensor");
    assert_eq!(kinds[0]["groups"][3], serde_json::json!([6, 7]));
}

/// A plan's capacity is what its fullest ranks have room for.
#[test]
fn kv_tokens_are_the_least_of_a_replica_times_its_groups() {
    let plan = plan(&eight(), "llama-3.1-8b.json", Some("8xH100"));
    let least = |replica: usize| {
        let ranks = &plan.ranks[replica * 4..replica * 4 + 4];
        ranks.iter().filter_map(|rank| rank.kv_tokens).min().expect("ranks")
    };
    assert_eq!(plan.kv_tokens, Some(least(0) + least(1)));
    for rank in &plan.ranks {
        let device = (81_559u64 << 20) / 100 * 90;
        let left = device - rank.memory.weight_bytes - rank.memory.workspace_bytes;
        assert_eq!(rank.kv_tokens, Some(left / rank.memory.kv_bytes_per_token));
    }
}

/// DeepSeek-V3 on `-tp 8 -dcp 8`: 61 layers, 256 requests. Each rank gathers the queries of its 16
/// heads, 576 wide, from seven others and scatters as much.
#[test]
fn a_step_of_generated_tokens_is_shown_with_the_split_cache() {
    let spec = ParallelSpec { tensor: 8, decode_context: 8, ..ParallelSpec::default() };
    let plan = plan(&spec, "deepseek-v3.json", None);
    let [stage] = &plan.traffic[..] else { panic!("one stage") };
    let of = |sent: &[Exchange]| {
        let split = sent.iter().find(|one| one.group == GroupKind::DecodeContext);
        split.map(|one| (one.ranks, one.calls, one.bytes))
    };
    assert_eq!(of(&stage.prompts), None);
    assert_eq!(of(&stage.decode), Some((8, 2 * 61, 61 * 256 * 16 * 576 * 2 * 2 * 7)));
    let text = plan.to_string();
    let (_, decode) = text.split_once("256 generated tokens per replica:\n").expect(&text);
    assert!(decode.contains("DCP  8 ranks  gather and scatter  122 calls  3.75 GiB"), "{text}");
}

#[test]
fn a_plan_that_cannot_run_says_what_is_missing() {
    let refused = |spec: &ParallelSpec, model: &str, hardware: &str, cross| {
        let hardware = Hardware::parse(hardware).expect(hardware);
        let serving = Serving::default();
        let violations =
            Plan::new(spec, &shape(model), Some(&hardware), &serving, cross).expect_err("refused");
        (violations[0].rule, violations[0].message.clone())
    };
    let eight = ParallelSpec { tensor: 8, ..ParallelSpec::default() };
    let (rule, message) = refused(&eight, "llama-3.1-70b.json", "4xH100", CrossDomain::Warn);
    assert_eq!(rule, "devices-suffice");
    assert_eq!(message, "8 ranks need as many devices, the hardware has 4");
    let (rule, message) = refused(&eight, "llama-3.1-70b.json", "2x4xH100", CrossDomain::Refuse);
    assert_eq!(rule, "stage-in-node");
    assert!(message.contains("the largest has 4 devices free"), "{message}");
    let (rule, message) = refused(&eight, "deepseek-v3.json", "8xH100", CrossDomain::Warn);
    assert_eq!(rule, "memory-fits");
    assert_eq!(
        message,
        "rank 0 needs 79.3 GiB for weights and 2.2 GiB for activations, 81.5 GiB in all; device 0 \
         of node-0 has 79.6 GiB, of which 90 % may be used: 71.7 GiB"
    );
    let three = ParallelSpec { tensor: 3, ..ParallelSpec::default() };
    let (rule, _) = refused(&three, "llama-3.1-8b.json", "8xH100", CrossDomain::Warn);
    assert_eq!(rule, "heads-divide");
}

/// What is offered for a device that is too small is tried first.
#[test]
fn a_model_too_large_is_offered_the_widths_that_fit() {
    let refused = |spec: &ParallelSpec, model: &str, hardware: &str| {
        let hardware = Hardware::parse(hardware).expect(hardware);
        let (shape, serving) = (shape(model), Serving::default());
        let plan = |spec: &ParallelSpec| {
            Plan::new(spec, &shape, Some(&hardware), &serving, CrossDomain::Warn)
        };
        let violations = plan(spec).expect_err("refused");
        for change in &violations[0].nearest {
            let mut spec = spec.clone();
            change.apply(&mut spec);
            assert!(plan(&spec).is_ok(), "{change}");
        }
        (violations[0].rule, violations[0].fix.clone())
    };
    let eight = ParallelSpec { tensor: 8, ..ParallelSpec::default() };
    let fix = "tensor = 8 → 16; or pipeline = 1 → 2".to_owned();
    assert_eq!(refused(&eight, "llama-3.1-405b.json", "2x8xH100"), ("memory-fits", fix));
    let fix =
        "no wider tensor or pipeline fits on these 8 devices: use more of them, or larger ones";
    assert_eq!(refused(&eight, "deepseek-v3.json", "8xH100"), ("memory-fits", fix.to_owned()));
}

#[test]
fn a_stage_over_nodes_is_a_warning() {
    let spec = ParallelSpec { tensor: 8, ..ParallelSpec::default() };
    let plan = plan(&spec, "llama-3.1-70b.json", Some("2x4xH100"));
    let [warning] = &plan.warnings[..] else { panic!("{:?}", plan.warnings) };
    assert!(warning.starts_with("stage 0 of replica 0 sits on several nodes"), "{warning}");
}

#[test]
fn a_model_that_is_read_as_another_is_a_warning() {
    let mut shape = shape("llama-3.1-8b.json");
    shape.architecture = "GemmaForCausalLM".to_owned();
    let plan =
        Plan::new(&eight(), &shape, None, &Serving::default(), CrossDomain::Warn).expect("a plan");
    assert!(plan.to_string().contains("warning: GemmaForCausalLM is read as Llama"), "{plan}");
}

#[test]
fn layouts_are_named_in_a_few_words() {
    let spec = ParallelSpec {
        prefill_context: 2,
        attention_data: 2,
        decode_context: 4,
        expert: ExpertParallel::AcrossReplicas,
        moe_dense_tensor: Some(1),
        ..eight()
    };
    let split = ParallelSpec { expert: ExpertParallel::SplitAcrossReplicas, ..eight() };
    assert_eq!(layout(&split), "DP 2 × PP 2 × TP 2, MoE-TP across replicas");
    assert_eq!(
        layout(&spec),
        "DP 2 × PP 2 × TP 2 × CP 2, attention-DP 2, DCP 4, EP across replicas, dense TP 1"
    );
}

/// Names come from files that nobody vouches for.
#[test]
fn names_in_picture_and_table_are_escaped() {
    let text = "[[nodes]]\nname = \"<a & b>\\u0007\"\ndevices = 8\ndevice = \"H100\"";
    let hardware = Hardware::from_toml(text).expect("hardware");
    let shape = shape("llama-3.1-8b.json");
    let serving = Serving::default();
    let plan =
        Plan::new(&eight(), &shape, Some(&hardware), &serving, CrossDomain::Warn).expect("a plan");
    let svg = plan.to_svg();
    assert!(svg.contains("&lt;a &amp; b&gt; "), "{svg}");
    assert!(!svg.contains('\u{7}'));
    let table = plan.to_string();
    assert!(table.contains(r"<a & b>\u{7}") && !table.contains('\u{7}'), "{table}");
}

#[test]
fn a_large_picture_says_what_it_leaves_out() {
    let spec = ParallelSpec { tensor: 8, data: 200, ..ParallelSpec::default() };
    let svg = plan(&spec, "llama-3.1-8b.json", None).to_svg();
    assert!(svg.contains("1600 ranks (576 more not drawn)"), "1024 are drawn");
    assert_eq!(svg.matches(">rank ").count(), 1024);
}
