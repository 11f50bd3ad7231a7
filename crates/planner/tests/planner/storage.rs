//! How weights and the KV cache are stored as each engine's command line says (**ST-1** to **ST-3**).

use std::fs;
use std::path::Path;

use playhouse_layout::{CrossDomain, Inventory, ModelShape, WeightType};
use playhouse_planner::dialect::{Dialect, Reading, read, write};
use playhouse_planner::{KvType, Plan, RuleSet, Serving};

fn shape(name: &str) -> ModelShape {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/published/{name}.json"));
    ModelShape::parse(&fs::read(path).expect(name)).expect(name)
}

fn reading(dialect: Dialect, words: &str) -> Reading {
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    read(dialect, &words, &[]).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// Bytes of weights and of a token's KV on the one rank of a plan; or the rules that are broken.
fn planned(dialect: Dialect, words: &str, model: &str) -> Result<(u64, u64), Vec<&'static str>> {
    let (mut shape, mut serving) = (shape(model), Serving::default());
    let mut reading = reading(dialect, words);
    reading.store(&mut shape, &mut serving);
    let broken = reading.check(Some(&shape), dialect.rules());
    if !broken.is_empty() {
        return Err(broken.iter().map(|violation| violation.rule).collect());
    }
    let plan = Plan::new(&reading.spec, &shape, None, &serving, CrossDomain::Warn).expect(words);
    Ok((plan.ranks[0].memory.weight_bytes, plan.ranks[0].memory.kv_bytes_per_token))
}

/// **ST-2**
#[test]
fn flags_change_the_bytes_of_weights_and_cache() {
    let (plain, kv) = planned(Dialect::Native, "", "llama-3.1-8b").expect("plain");
    let ends = 2 * 2 * 128_256 * 4096;
    let matrices = plain - ends;
    let about = |bytes: u64, expected: u64| bytes.abs_diff(expected) < expected / 50;
    let cases = [
        (Dialect::Native, "--quantization fp8", ends + matrices / 2, kv),
        (Dialect::Vllm, "m --quantization fp8 --kv-cache-dtype fp8", ends + matrices / 2, kv / 2),
        (Dialect::Vllm, "m -q bitsandbytes", ends + matrices * 9 / 32, kv),
        (Dialect::Vllm, "m --load-format bitsandbytes", ends + matrices * 9 / 32, kv),
        (Dialect::Vllm, "m --dtype float32", plain * 2, kv * 2),
        (Dialect::Vllm, "m --dtype float32 --kv-cache-dtype bfloat16", plain * 2, kv),
        (Dialect::Sglang, "--model m --quantization fp8", ends + matrices / 2, kv),
        (Dialect::Sglang, "--model m --kv-cache-dtype fp4_e2m1", plain, kv * 9 / 32),
        (Dialect::TensorRtLlm, "m --kv_cache_dtype fp8", plain, kv / 2),
        (Dialect::TensorRtLlm, "m quant_config.quant_algo=NVFP4", ends + matrices * 9 / 32, kv),
    ];
    for (dialect, words, weights, cache) in cases {
        let (found, per_token) = planned(dialect, words, "llama-3.1-8b").expect(words);
        assert!(about(found, weights), "{words}: {found}, expected about {weights}");
        assert_eq!(per_token, cache, "{words}");
    }
}

/// **ST-3**
#[test]
fn a_quantization_that_is_not_the_checkpoints_is_refused() {
    let mismatch = Err(vec!["quantization-matches"]);
    for (dialect, words, model) in [
        (Dialect::Vllm, "m -q fp8", "qwen2.5-7b-awq"),
        (Dialect::Vllm, "m -q awq", "qwen2.5-7b"),
        (Dialect::Sglang, "--model m --quantization gptq", "qwen2.5-7b-awq"),
        (Dialect::TensorRtLlm, "m quant_config.quant_algo=FP8", "deepseek-v3"),
        (Dialect::Native, "-q gptq", "qwen2.5-7b"),
    ] {
        assert_eq!(planned(dialect, words, model), mismatch, "{words} {model}");
    }
    // By whatever rules the layout is judged.
    let (mut shape, mut serving) = (shape("qwen2.5-7b-awq"), Serving::default());
    let mut other = reading(Dialect::Vllm, "m -q fp8");
    other.store(&mut shape, &mut serving);
    assert_eq!(other.check(Some(&shape), RuleSet::Native).len(), 1);
    for (dialect, words, model) in [
        (Dialect::Vllm, "m -q awq_marlin", "qwen2.5-7b-awq"),
        (Dialect::Vllm, "m -q fp8", "deepseek-v3"),
        (Dialect::Sglang, "--model m --quantization gptq_marlin", "qwen2.5-7b-gptq"),
        (Dialect::TensorRtLlm, "m quant_config.quant_algo=FP8_BLOCK_SCALES", "deepseek-v3"),
    ] {
        let same = planned(dialect, words, model).expect(words);
        assert_eq!(same, planned(Dialect::Native, "", model).expect(model), "{words}");
    }
}

/// **ST-1**
#[test]
fn unknown_words_list_the_known_ones_and_known_words_are_translated() {
    for (dialect, words, known) in [
        (Dialect::Vllm, "m --quantization fp9", "fp8, awq, gptq"),
        (Dialect::Sglang, "--model m --kv-cache-dtype fp8", "fp8_e4m3, fp8_e5m2"),
        (Dialect::TensorRtLlm, "m dtype=half", "float16"),
        (Dialect::Native, "--dtype int8", "bfloat16"),
        (Dialect::Vllm, "m --load-format zip", "safetensors"),
    ] {
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let problems = read(dialect, &words, &[]).expect_err("an unknown word");
        assert!(problems[0].to_string().contains(known), "{}", problems[0]);
    }
    let from = reading(Dialect::Vllm, "m -q awq_marlin --kv-cache-dtype fp8 --dtype half");
    let to = |dialect| {
        let written = write(dialect, &from.spec, None, None, &from.parameters).expect("a layout");
        let file = written.document.as_ref().map(|file| file.text.clone()).unwrap_or_default();
        (written.line() + &file, written.notes)
    };
    let (sglang, _) = to(Dialect::Sglang);
    for flag in ["--dtype half", "--quantization awq_marlin", "--kv-cache-dtype fp8_e4m3"] {
        assert!(sglang.contains(flag), "{sglang}");
    }
    let (tensorrt, _) = to(Dialect::TensorRtLlm);
    for setting in ["dtype: \"float16\"", "quant_algo: \"W4A16_AWQ\"", "dtype: \"fp8\""] {
        assert!(tensorrt.contains(setting), "{tensorrt}");
    }
    let odd = reading(Dialect::Vllm, "m --kv-cache-dtype turboquant_k8v4");
    let written = write(Dialect::Sglang, &odd.spec, None, None, &odd.parameters).expect("a layout");
    assert!(written.notes.iter().any(|note| note.message.contains("no word for it")));
}

#[test]
fn what_is_not_counted_and_what_is_rewritten_is_said() {
    let said = |words: &str, shape: &mut ModelShape| {
        let mut serving = Serving::default();
        let mut reading = reading(Dialect::Vllm, words);
        reading.store(shape, &mut serving);
        assert_eq!(serving.kv, KvType::TwoBytes);
        reading.notes.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    let mut llama = shape("llama-3.1-8b");
    let notes = said("m -q compressed-tensors --kv-cache-dtype fp8_ds_mla", &mut llama);
    assert!(notes.contains("compressed-tensors: its bytes are not counted"), "{notes}");
    assert!(notes.contains("fp8_ds_mla: its layout is not counted"), "{notes}");
    assert_eq!(llama, shape("llama-3.1-8b"));
    let whole = ModelShape { weights: WeightType::F32, plain: WeightType::F32, ..llama };
    let mut halved = whole.clone();
    let notes = said("m", &mut halved);
    assert!(notes.contains("rewritten --dtype"), "{notes}");
    assert_eq!(Inventory::of(&halved).bytes() * 2, Inventory::of(&whole).bytes());
}

/// A layout is planned with the blocks that the command names.
#[test]
fn an_interleave_is_held_against_the_given_block() {
    let words = |block: u32| {
        format!("m -tp 8 -dcp 4 --cp-kv-cache-interleave-size 64 --block-size {block}")
    };
    let plan = |block: u32| {
        let (mut shape, mut serving) = (shape("deepseek-v2-lite"), Serving::default());
        let mut reading = reading(Dialect::Vllm, &words(block));
        reading.store(&mut shape, &mut serving);
        assert_eq!(serving.block_tokens, block);
        let engine = reading.check(Some(&shape), Dialect::Vllm.rules());
        let planned = Plan::new(&reading.spec, &shape, None, &serving, CrossDomain::Warn);
        (engine.is_empty(), planned.is_ok())
    };
    assert_eq!(plan(64), (true, true));
    assert_eq!(plan(32), (false, false));
}
