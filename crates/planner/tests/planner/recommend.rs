//! The field's guidance, held against what the roofline recommends.
//!
//! Sources: (V) vLLM, "Parallelism and Scaling" and "Data Parallel Deployment"; (R) vLLM recipes,
//! "DeepSeek-V3"; (S) SGLang, "DeepSeek V3/V3.1/R1 Usage"; (P) pull request, paper or blog as named.

use std::fs;
use std::path::Path;

use playhouse_layout::ModelShape;
use playhouse_planner::{
    CANDIDATES_MAX, Goal, Hardware, RANKED_MAX, Ranked, Recommendation, Wish, candidates, recommend,
};
use playhouse_types::{ExpertParallel, ParallelSpec};

fn shape(name: &str) -> ModelShape {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/published").join(name);
    ModelShape::parse(&fs::read(path).expect(name)).expect(name)
}

fn ask(model: &str, hardware: &str, goal: Goal, context: Option<u64>) -> Recommendation {
    let hardware = Hardware::parse(hardware).expect("hardware");
    recommend(&shape(&format!("{model}.json")), &hardware, &Wish::new(goal, context))
}

fn best(model: &str, hardware: &str, goal: Goal) -> ParallelSpec {
    let recommendation = ask(model, hardware, goal, None);
    recommendation.ranked.into_iter().next().expect("a layout fits").spec
}

fn plain(data: u32, pipeline: u32, tensor: u32) -> ParallelSpec {
    ParallelSpec { data, pipeline, tensor, ..ParallelSpec::default() }
}

/// (V) The model fits on one GPU: no distribution.
#[test]
fn one_device_takes_the_plain_layout() {
    for goal in [Goal::Latency, Goal::Throughput, Goal::Balanced] {
        assert_eq!(best("llama-3.1-8b", "H100", goal), plain(1, 1, 1));
        assert_eq!(best("llama-2-13b", "H100", goal), plain(1, 1, 1));
    }
}

/// (V) Data parallelism for throughput of what fits on one device, tensor parallelism within the
/// node for latency.
#[test]
fn small_models_replicate_for_throughput_and_split_for_latency() {
    for model in ["mistral-7b-v0.1", "qwen2.5-7b", "llama-3.1-8b"] {
        assert_eq!(best(model, "4xH100", Goal::Throughput), plain(4, 1, 1), "{model}");
        assert_eq!(best(model, "4xH100", Goal::Latency), plain(1, 1, 4), "{model}");
    }
    assert_eq!(best("llama-3.1-8b", "8xH100", Goal::Throughput), plain(8, 1, 1));
    assert_eq!(best("llama-3.1-8b", "8xH100", Goal::Latency), plain(1, 1, 8));
}

/// Without grouped queries the KV cache is what is short: devices that share the weights hold more
/// requests than copies do (P: Hyperstack, "How to Run Distributed Inference with vLLM", 2026: two
/// devices instead of one gave a 70B model 13.9 times the KV cache).
#[test]
fn models_with_a_large_kv_cache_share_weights_between_devices() {
    for (model, tensor) in [("llama-2-7b", 2), ("llama-2-13b", 4)] {
        let layout = plain(4 / tensor, 1, tensor);
        assert_eq!(best(model, "4xH100", Goal::Throughput), layout, "{model}");
        assert_eq!(best(model, "4xH100", Goal::Latency), plain(1, 1, 4), "{model}");
    }
}

/// (V) Too large for a GPU, fits on a node: tensor parallelism within the node.
#[test]
fn a_70b_model_is_split_by_tensor_within_a_node() {
    assert_eq!(best("llama-3.1-70b", "8xH100", Goal::Latency), plain(1, 1, 8));
    assert_eq!(best("llama-3.1-70b", "8xH100", Goal::Throughput), plain(2, 1, 4));
    assert_eq!(best("llama-3.1-70b", "4xH100", Goal::Throughput), plain(1, 1, 4));
    // With a second node: a second copy, not a wider one.
    assert_eq!(best("llama-3.1-70b", "2x8xH100", Goal::Latency), plain(2, 1, 8));
    assert_eq!(best("llama-3.1-70b", "2x8xH100", Goal::Throughput), plain(4, 1, 4));
}

/// (V) Too large for a node: tensor width = GPUs of a node, pipeline = nodes.
#[test]
fn what_is_too_large_for_a_node_is_a_pipeline_of_nodes() {
    for goal in [Goal::Throughput, Goal::Balanced] {
        assert_eq!(best("llama-3.1-405b", "2x8xH100", goal), plain(1, 2, 8));
    }
}

/// A single request waits for one node after the other in a pipeline, and reads the weights of both
/// at once where tensor parallelism spans them: which is quicker depends on the network (P: Singhania
/// et al. 2025, arXiv:2511.09557, and their summary "Beyond NCCL": with Slingshot or InfiniBand the
/// usual advice does not settle it).
#[test]
fn a_single_request_spans_nodes_only_over_a_fast_network() {
    assert_eq!(best("llama-3.1-405b", "2x8xH100", Goal::Latency), plain(1, 1, 16));
    let slow = |network: &str| {
        let nodes = "[[nodes]]\nname = \"a\"\ncount = 2\ndevices = 8\ndevice = \"H100\"\n";
        let hardware = Hardware::from_toml(&format!("{nodes}{network}\n")).expect(network);
        let wish = Wish::new(Goal::Latency, None);
        recommend(&shape("llama-3.1-405b.json"), &hardware, &wish).ranked.remove(0).spec
    };
    assert_eq!(slow("network_latency_us = 100"), plain(1, 2, 8));
    assert_eq!(slow("network_gbit = 25"), plain(1, 2, 8));
}

/// (V) Without NVLink (L40S) pipeline parallelism gives more than tensor parallelism over all.
#[test]
fn devices_without_a_fast_link_prefer_stages() {
    let found = best("llama-3.1-70b", "8xL40S", Goal::Throughput);
    assert!(found.pipeline >= 2 && found.tensor <= 4, "{found:?}");
    let linked = best("llama-3.1-70b", "8xA100", Goal::Throughput);
    assert_eq!(linked.pipeline, 1, "{linked:?}");
}

/// (V) GPUs that do not divide the heads: pipeline stages may be uneven.
#[test]
fn an_odd_number_of_devices_becomes_stages() {
    assert_eq!(best("llama-3.1-70b", "3xH200", Goal::Throughput), plain(1, 3, 1));
}

/// Two 80 GB devices with tensor parallelism serve Mixtral (P: SkyPilot, "Mixtral", `A100-80GB:2`;
/// vLLM's performance benchmark, `mixtral8x7B_tp2`); (V) expert parallelism goes with data parallelism where throughput counts.
#[test]
fn mixtral_splits_over_two_devices_and_spreads_experts_over_eight() {
    assert_eq!(best("mixtral-8x7b", "2xA100", Goal::Latency), plain(1, 1, 2));
    assert_eq!(best("mixtral-8x7b", "2xA100", Goal::Balanced), plain(1, 1, 2));
    assert_eq!(best("mixtral-8x7b", "8xH100", Goal::Latency), plain(1, 1, 8));
    let wide = best("mixtral-8x7b", "8xH100", Goal::Throughput);
    assert_eq!((wide.data, wide.pipeline, wide.expert), (8, 1, ExpertParallel::AcrossReplicas));
}

/// (R) 8 × H200: tensor parallelism for low latency and load; data parallelism of the attention with
/// expert parallelism for high load. (S) the same as DP attention.
#[test]
fn deepseek_splits_heads_for_latency_and_requests_for_throughput() {
    let quick = best("deepseek-v3", "8xH200", Goal::Latency);
    assert_eq!((quick.tensor, quick.attention_data, quick.data), (8, 1, 1), "{quick:?}");
    let busy = best("deepseek-v3", "8xH200", Goal::Throughput);
    assert_eq!(busy.data * busy.attention_data, 8, "whole requests on each rank: {busy:?}");
    assert_ne!(busy.expert, ExpertParallel::Off, "{busy:?}");
    assert_eq!(busy.pipeline, 1, "{busy:?}");
}

/// (S) FP8 weights need 2 × 8 × H100; (V) tensor within a node, stages across.
#[test]
fn deepseek_needs_two_nodes_of_h100() {
    let one = ask("deepseek-v3", "8xH100", Goal::Balanced, None);
    assert!(one.ranked.is_empty());
    assert!(one.cut.iter().any(|cuts| cuts.reason == "weights-do-not-fit"), "{one}");
    let quick = best("deepseek-v3", "2x8xH100", Goal::Latency);
    assert_eq!((quick.pipeline, quick.tensor), (2, 8), "{quick:?}");
    let busy = best("deepseek-v3", "2x8xH100", Goal::Throughput);
    assert!(busy.attention_data * busy.data >= 8, "{busy:?}");
    assert_ne!(busy.expert, ExpertParallel::Off, "{busy:?}");
}

/// Whole experts: a slice of each would be sent every token as often as there are slices.
#[test]
fn deepseek_does_not_split_experts_that_it_can_spread() {
    let found = best("deepseek-v3", "2x8xH100", Goal::Balanced);
    assert_eq!((found.attention_data, found.expert), (8, ExpertParallel::Within(8)), "{found:?}");
}

/// Context parallelism over two nodes halves the time to the first token of a long prompt (P: Yang et
/// al. 2024, arXiv:2411.01783: near-linear scaling of the prefill latency); for a short one it does
/// not pay.
#[test]
fn long_prompts_are_split_over_nodes() {
    let first = |context| {
        let found = ask("llama-3.1-70b", "2x8xH100", Goal::Latency, context);
        found.ranked.into_iter().next().expect("a layout fits")
    };
    let long = first(Some(131_072));
    assert_eq!((long.spec.tensor, long.spec.prefill_context), (8, 2), "{long:?}");
    assert_eq!(first(None).spec.prefill_context, 1);
    // Against the same without context parallelism: nearly half.
    let found = ask("llama-3.1-70b", "2x8xH100", Goal::Throughput, Some(131_072));
    let copies = |ranked: &&Ranked| ranked.spec == plain(2, 1, 8);
    let copies = found.ranked.iter().find(copies).expect("among the best");
    assert!(long.speed.ttft_s < 0.55 * copies.speed.ttft_s, "{long:?} {copies:?}");
}

/// **RE-1**, **RE-2**
#[test]
fn every_candidate_is_ranked_or_cut_and_what_is_ranked_fits() {
    for (model, hardware) in [("mixtral-8x7b", "2x8xH100"), ("deepseek-v3", "2x8xH100")] {
        let wish = Wish::new(Goal::Balanced, None);
        let found = ask(model, hardware, Goal::Balanced, None);
        let cut: usize = found.cut.iter().map(|cuts| cuts.count).sum();
        assert_eq!(found.ranked.len() + cut, found.candidates);
        assert_eq!(found.ranked.len(), RANKED_MAX);
        assert!(found.ranked.windows(2).all(|two| two[0].score >= two[1].score));
        for ranked in &found.ranked {
            let request = wish.work.prompt_tokens + wish.work.output_tokens;
            assert!(ranked.kv_tokens >= request);
            assert!(ranked.speed.tokens_per_s.is_finite() && ranked.speed.tokens_per_s > 0.0);
        }
    }
}

#[test]
fn a_context_without_room_is_cut_with_the_numbers() {
    let found = ask("llama-2-13b", "A100-40G", Goal::Latency, Some(100_000));
    assert!(found.ranked.is_empty());
    let [cuts] = &found.cut[..] else { panic!("one reason: {found}") };
    assert_eq!(cuts.reason, "context-does-not-fit");
    assert!(cuts.message.contains("a request has 100000"), "{}", cuts.message);
}

#[test]
fn candidates_use_every_device_once_and_are_bounded() {
    let deepseek = shape("deepseek-v3.json");
    for devices in [1, 6, 16, 32] {
        let (specs, capped) = candidates(&deepseek, devices);
        assert!(!capped);
        for spec in &specs {
            let used = spec.data * spec.pipeline * spec.tensor * spec.prefill_context;
            assert_eq!(u64::from(used), devices);
        }
        let different = specs.iter().enumerate().all(|(at, spec)| !specs[..at].contains(spec));
        assert!(different, "{devices} devices");
    }
    let (specs, capped) = candidates(&deepseek, 1 << 16);
    assert!(capped);
    assert_eq!(specs.len(), CANDIDATES_MAX);
    let wide = |spec: &ParallelSpec| (spec.pipeline, spec.tensor) == (2, 8);
    assert!(specs.iter().any(wide), "plain layouts are never left out");
    assert_eq!(candidates(&deepseek, 0).0, []);
}

/// More of everything is never slower: a faster device of the same memory, more memory.
#[test]
fn predictions_follow_the_hardware() {
    let tokens = |hardware: &str| {
        let found = ask("llama-3.1-70b", hardware, Goal::Throughput, None);
        found.ranked[0].speed.tokens_per_s
    };
    assert!(tokens("8xH200") > tokens("8xH100"));
    assert!(tokens("8xH100") > tokens("8xA100"));
    assert!(tokens("2x8xH100") > 1.9 * tokens("8xH100"));
}

#[test]
fn a_recommendation_prints_layouts_and_reasons() {
    let text = ask("llama-3.1-70b", "8xH100", Goal::Throughput, None).to_string();
    assert!(text.starts_with("best of 20 layouts (predicted):\n1. DP 2 × PP 1 × TP 4\n"), "{text}");
    assert!(text.contains("weights-do-not-fit"), "{text}");
    assert!(text.contains("slower, at best"), "{text}");
}
