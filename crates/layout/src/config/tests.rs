use playhouse_types::{Attention, FeedForward, Gqa, LayerSpec, Rope, RopeScaling};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::Inventory;

/// Merges `changes` into a small config of `architecture`; `"-"` as a value removes the key.
fn config(architecture: &str, changes: Value) -> Value {
    let mut config = json!({
        "architectures": [architecture],
        "vocab_size": 288, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5, "hidden_act": "silu", "eos_token_id": 286,
    });
    let map = config.as_object_mut().expect("an object");
    for (key, value) in changes.as_object().expect("changes are an object") {
        match value == "-" {
            true => map.remove(key),
            false => map.insert(key.clone(), value.clone()),
        };
    }
    config
}

/// The architectures of the tests below.
const DENSE: [&str; 4] =
    ["LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"];

fn parse(config: &Value) -> Result<ModelShape, ConfigError> {
    ModelShape::parse_plain(config.to_string().as_bytes(), &DENSE)
}

fn gqa(shape: &ModelShape) -> Gqa {
    match shape.spec.layers[0].attention {
        Attention::Gqa(gqa) => gqa,
        Attention::Mla(mla) => panic!("{mla:?}"),
    }
}

fn accepted(architecture: &str, changes: Value) -> ModelShape {
    parse(&config(architecture, changes)).expect("the config is valid")
}

fn refused(architecture: &str, changes: Value) -> String {
    parse(&config(architecture, changes)).expect_err("must be refused").to_string()
}

fn rope(changes: Value) -> (Rope, usize) {
    let mut spec = accepted("LlamaForCausalLM", changes).spec;
    assert_eq!(spec.ropes.len(), 1);
    (spec.ropes.remove(0), spec.max_positions)
}

#[test]
fn a_published_config_gives_its_parameter_count() {
    let qwen = accepted(
        "Qwen2ForCausalLM",
        json!({
            "hidden_size": 896, "intermediate_size": 4864, "max_position_embeddings": 32768,
            "max_window_layers": 21, "num_attention_heads": 14, "num_hidden_layers": 24,
            "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "rope_theta": 1_000_000.0,
            "sliding_window": 32768, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
            "use_sliding_window": false, "vocab_size": 151_936, "eos_token_id": 151_643
        }),
    );
    assert_eq!(Inventory::of(&qwen).parameters(), 494_032_768, "Qwen2.5-0.5B");
    assert_eq!(gqa(&qwen).kv_width(), 128);
    assert!(qwen.spec.layers.iter().all(|layer| layer.window.is_none()));
    assert_eq!((qwen.dtype, qwen.eos_token_ids), (Some(WeightType::Bf16), vec![151_643]));

    let qwen3 = accepted(
        "Qwen3ForCausalLM",
        json!({
            "head_dim": 128, "hidden_size": 1024, "intermediate_size": 3072,
            "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8,
            "tie_word_embeddings": true, "vocab_size": 151_936
        }),
    );
    assert_eq!(Inventory::of(&qwen3).parameters(), 596_049_920, "Qwen3-0.6B");
    assert!(gqa(&qwen3).qk_norm);
}

#[test]
fn missing_keys_have_the_defaults_of_the_config_class() {
    let bare = |architecture| {
        parse(&json!({ "architectures": [architecture] })).expect("defaults are valid")
    };
    let llama = bare("LlamaForCausalLM");
    assert_eq!(Inventory::of(&llama).parameters(), 6_738_415_616, "Llama 2 7B");
    assert_eq!((llama.spec.max_positions, llama.eos_token_ids), (2048, vec![2]));
    let plain = Rope { dims: 128, theta: 10_000.0, scaling: RopeScaling::Default };
    assert_eq!(llama.spec.ropes, [plain]);

    let mistral = bare("MistralForCausalLM");
    assert_eq!(gqa(&mistral).kv_heads, 8);
    assert_eq!(mistral.spec.layers[31].window, Some(4096));
    assert_eq!(Inventory::of(&mistral).parameters(), 7_241_732_096, "Mistral 7B");

    let qwen3 = bare("Qwen3ForCausalLM");
    assert_eq!((gqa(&qwen3).head_dim, qwen3.dtype), (128, None));
    assert!(qwen3.eos_token_ids.is_empty());
}

#[test]
fn null_and_missing_differ_where_transformers_says_so() {
    let kv_heads = |architecture, value| {
        gqa(&accepted(architecture, json!({ "num_key_value_heads": value }))).kv_heads
    };
    assert_eq!(kv_heads("LlamaForCausalLM", json!("-")), 4);
    assert_eq!(kv_heads("MistralForCausalLM", json!(null)), 4);
    let missing = refused("MistralForCausalLM", json!({ "num_key_value_heads": "-" }));
    assert!(missing.contains("divisor of num_attention_heads (4), here it is 8"), "{missing}");

    let eos = |value| accepted("LlamaForCausalLM", json!({ "eos_token_id": value })).eos_token_ids;
    assert_eq!(eos(json!("-")), [2]);
    assert!(eos(json!(null)).is_empty());
    assert_eq!(eos(json!([3, 4])), [3, 4]);
}

#[test]
fn families_differ_in_bias_norm_and_window() {
    let layer = |architecture, changes| {
        let shape = accepted(architecture, changes);
        let Gqa { qkv_bias, out_bias, qk_norm, .. } = gqa(&shape);
        let LayerSpec { feed_forward: FeedForward::Dense(dense), window, .. } =
            shape.spec.layers[0]
        else {
            panic!("{architecture} is dense")
        };
        (qkv_bias, out_bias, dense.bias, qk_norm, window)
    };
    let biased = || json!({ "attention_bias": true, "mlp_bias": true, "sliding_window": 8 });
    assert_eq!(layer("LlamaForCausalLM", biased()), (true, true, true, false, None));
    assert_eq!(layer("MistralForCausalLM", biased()), (false, false, false, false, Some(8)));
    assert_eq!(layer("Qwen2ForCausalLM", biased()), (true, false, false, false, None));
    assert_eq!(layer("Qwen3ForCausalLM", biased()), (true, true, false, true, None));
    let unset = json!({ "sliding_window": null });
    assert_eq!(layer("MistralForCausalLM", unset).4, None);
}

#[test]
fn qwen_windows_follow_layer_types_else_max_window_layers() {
    let windows = |mut changes: Value| {
        changes["use_sliding_window"] = json!(true);
        let spec = accepted("Qwen2ForCausalLM", changes).spec;
        spec.layers.iter().map(|layer| layer.window).collect::<Vec<_>>()
    };
    let (none, some) = (None, Some(16));
    assert_eq!(
        windows(json!({ "sliding_window": 16, "max_window_layers": 1 })),
        [none, some, some, some]
    );
    assert_eq!(windows(json!({ "sliding_window": 16 })), [none; 4]);
    let types =
        json!(["sliding_attention", "full_attention", "sliding_attention", "full_attention"]);
    assert_eq!(
        windows(json!({ "sliding_window": 16, "layer_types": types })),
        [some, none, some, none]
    );
    let contradiction = refused("Qwen2ForCausalLM", json!({ "layer_types": types }));
    assert!(contradiction.contains("use_sliding_window"), "{contradiction}");
}

#[test]
fn both_rope_spellings_mean_the_same() {
    let yarn = json!({ "factor": 4.0, "original_max_position_embeddings": 64 });
    let with = |key: &str, kind: &str, theta: Option<f64>| {
        let mut yarn = yarn.clone();
        yarn[kind] = json!("yarn");
        if let Some(theta) = theta {
            yarn["rope_theta"] = json!(theta);
        }
        json!({ key: yarn })
    };
    let mut old = with("rope_scaling", "type", None);
    old["rope_theta"] = json!(500.0);
    let expected = rope(old.clone());
    assert_eq!(expected.1, 256, "original length times factor");
    old["rope_scaling"]["rope_type"] = json!("yarn");
    assert_eq!(rope(old), expected);
    assert_eq!(rope(with("rope_parameters", "rope_type", Some(500.0))), expected);
    let inner = with("rope_parameters", "rope_type", Some(500.0))["rope_parameters"].take();
    let nested = json!({ "full_attention": inner, "sliding_attention": inner });
    assert_eq!(rope(json!({ "rope_parameters": nested })), expected);
    let mut other = nested;
    other["sliding_attention"]["factor"] = json!(2.0);
    let types = ["sliding_attention", "full_attention", "full_attention", "full_attention"];
    let windowed = accepted(
        "Qwen3ForCausalLM",
        json!({
            "rope_parameters": other, "layer_types": types, "use_sliding_window": true,
            "sliding_window": 8, "head_dim": 8
        }),
    );
    let factors = windowed.spec.ropes.iter().map(|rope| match rope.scaling {
        RopeScaling::Yarn { factor, .. } => factor,
        ref other => panic!("{other:?}"),
    });
    assert_eq!(factors.collect::<Vec<_>>(), [4.0, 2.0], "each kind of layer has its own");
    let of_layers = windowed.spec.layers.iter().map(|layer| layer.rope);
    assert_eq!(of_layers.collect::<Vec<_>>(), [1, 0, 0, 0]);
    assert_eq!(windowed.spec.max_positions, 128, "as far as both reach");
}

#[test]
fn the_rope_of_a_kind_that_no_layer_has_is_not_read() {
    let full = json!({
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64,
        "rope_theta": 1e6
    });
    let unread =
        json!({ "full_attention": full, "sliding_attention": { "rope_type": "longrope" } });
    let plain = json!({ "rope_parameters": unread, "head_dim": 8 });
    let shape = accepted("Qwen3ForCausalLM", plain);
    assert_eq!((shape.spec.ropes.len(), shape.spec.max_positions), (1, 256));
    let tiny = json!({ "rope_scaling": { "type": "yarn", "factor": 4, "beta_fast": 1e-320 } });
    let message = refused("LlamaForCausalLM", tiny);
    assert!(message.contains("`rope_scaling.beta_fast`"), "{message}");
}

#[test]
fn defaults_of_experts_keep_the_bounds_of_the_file() {
    let parse = |config: Value| ModelShape::parse(config.to_string().as_bytes());
    let refused = |config| parse(config).expect_err("must be refused").to_string();
    let few = json!({ "architectures": ["Qwen3MoeForCausalLM"], "num_experts": 4 });
    assert!(refused(few).contains("`num_experts_per_tok`: found nothing"));
    let odd = json!({
        "architectures": ["DeepseekV3ForCausalLM"], "n_routed_experts": 12, "num_experts_per_tok": 2
    });
    assert!(refused(odd).contains("a divisor of the 12 experts, here it is 8"));
    let twice = json!({
        "architectures": ["Qwen3MoeForCausalLM"], "num_experts": 16, "num_local_experts": 8
    });
    assert!(refused(twice).contains("`num_experts`: found 16, expected 8"));
    let bias = |value: Value| {
        let shape = parse(json!({
            "architectures": ["Qwen2MoeForCausalLM"], "qkv_bias": value
        }));
        gqa(&shape.expect("valid")).qkv_bias
    };
    assert_eq!([bias(json!(null)), bias(json!(true)), bias(json!(false))], [true, true, false]);
}

#[test]
fn yarn_attention_factor_follows_the_paper_unless_given() {
    let attention_factor = |extra: Value| {
        let mut scaling = json!({ "rope_type": "yarn", "factor": 4.0 });
        let map = scaling.as_object_mut().expect("an object");
        map.extend(extra.as_object().expect("an object").clone());
        match rope(json!({ "rope_scaling": scaling })).0.scaling {
            RopeScaling::Yarn { attention_factor, original_max: 256, .. } => attention_factor,
            other => panic!("{other:?} is not yarn with the default length"),
        }
    };
    let log4 = 4.0_f64.ln();
    assert_eq!(attention_factor(json!({})), 0.1 * log4 + 1.0);
    assert_eq!(attention_factor(json!({ "attention_factor": 1.5 })), 1.5);
    let both = json!({ "mscale": 1.0, "mscale_all_dim": 0.5 });
    assert_eq!(attention_factor(both), (0.1 * log4 + 1.0) / (0.05 * log4 + 1.0));
    let zero = json!({ "mscale": 1.0, "mscale_all_dim": 0 });
    assert_eq!(attention_factor(zero), 0.1 * log4 + 1.0);
}

#[test]
fn dynamic_and_linear_stretch_the_context() {
    let scaled = |kind: &str| rope(json!({ "rope_scaling": { "type": kind, "factor": 2 } }));
    let (linear, reach) = scaled("linear");
    assert_eq!((linear.scaling, reach), (RopeScaling::Linear { factor: 2.0 }, 512));
    let (dynamic, reach) = scaled("dynamic");
    let expected = RopeScaling::Dynamic { factor: 2.0, original_max: 256 };
    assert_eq!((dynamic.scaling, reach), (expected, 512));
}

#[test]
fn a_refusal_names_file_key_found_and_expected() {
    let llama = |changes| refused("LlamaForCausalLM", changes);
    assert_eq!(
        llama(json!({ "num_hidden_layers": 1025 })),
        "config.json: key `num_hidden_layers`: found 1025, \
         expected a whole number between 1 and 1024"
    );
    assert_eq!(
        refused("GPT2LMHeadModel", json!({})),
        "config.json: key `architectures`: found [\"GPT2LMHeadModel\"], expected one of \
         LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"
    );
    for (key, bad) in [
        ("vocab_size", json!(0)),
        ("vocab_size", json!(5_000_000)),
        ("hidden_size", json!(-1)),
        ("hidden_size", json!(1e300)),
        ("hidden_size", json!(33)),
        ("hidden_size", json!("32")),
        ("intermediate_size", json!(1.5)),
        ("num_attention_heads", json!(8192)),
        ("num_key_value_heads", json!(3)),
        ("head_dim", json!(7)),
        ("head_dim", json!(1026)),
        ("rms_norm_eps", json!(0)),
        ("rms_norm_eps", json!(2)),
        ("rope_theta", json!(0)),
        ("max_position_embeddings", json!(0)),
        ("hidden_act", json!("gelu")),
        ("tie_word_embeddings", json!(1)),
        ("attention_bias", json!("yes")),
        ("eos_token_id", json!(288)),
        ("eos_token_id", json!([1, "2"])),
        ("torch_dtype", json!("int8")),
        ("quantization_config", json!({ "quant_method": "gptq" })),
        ("partial_rotary_factor", json!(0.5)),
        ("rope_scaling", json!([1])),
        ("architectures", json!("-")),
    ] {
        let message = llama(json!({ key: bad }));
        let start = format!("config.json: key `{key}`: found ");
        let derived = key == "hidden_size" || message.starts_with(&start);
        assert!(derived && message.contains("expected"), "{key} {bad}: {message}");
    }
    for scaling in [
        json!({ "type": "longrope" }),
        json!({ "type": "linear" }),
        json!({ "type": "linear", "factor": 0 }),
        json!({ "type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4 }),
        json!({ "type": "yarn", "factor": "4" }),
    ] {
        let message = llama(json!({ "rope_scaling": scaling }));
        assert!(message.starts_with("config.json: key `rope_scaling."), "{message}");
    }
}

#[test]
fn model_type_names_the_family_where_architectures_does_not() {
    let family = |changes| parse(&config("LlamaForCausalLM", changes)).map(|it| it.architecture);
    let llama = Ok("LlamaForCausalLM".to_owned());
    for (architectures, model_type) in [
        (json!("-"), "llama"),
        (json!(null), "llama"),
        (json!([]), "llama"),
        (json!(["LLaMAForCausalLM"]), "any"),
        (json!(["OurForCausalLM"]), "llama"),
        (json!(["LlamaForCausalLM"]), "qwen2"),
    ] {
        let changes = json!({ "architectures": architectures, "model_type": model_type });
        assert_eq!(family(changes), llama, "{architectures} {model_type}");
    }
    let qwen = json!({ "architectures": "-", "model_type": "qwen3" });
    assert_eq!(family(qwen), Ok("Qwen3ForCausalLM".to_owned()));
    for refused in [
        json!({ "architectures": "-", "model_type": "gpt2" }),
        json!({ "architectures": ["LlamaForSequenceClassification"], "model_type": "llama" }),
        json!({ "architectures": ["OurForCausalLM"], "model_type": "llama", "auto_map": {} }),
    ] {
        assert!(family(refused.clone()).is_err(), "{refused}");
    }
    let gpt2 = family(json!({ "architectures": "-", "model_type": "gpt2" })).unwrap_err();
    let start = "config.json: key `model_type`: found \"gpt2\", expected one of llama, mistral";
    assert!(gpt2.to_string().starts_with(start), "{gpt2}");
}

#[test]
fn hostile_json_is_refused_without_a_panic() {
    let deep = "[".repeat(100_000);
    let nested = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    for text in ["", "null", "[]", "{", "\u{feff}{}", "{\"vocab_size\": 1e999}", &deep, &nested] {
        let error = ModelShape::parse(text.as_bytes()).expect_err("must be refused");
        assert!(error.to_string().starts_with("config.json: "), "{error}");
    }
    assert!(ModelShape::parse(b"\xff\xfe{}").is_err());
}

#[test]
fn generation_defaults_are_the_files_values_in_the_ranges_of_requests() {
    let shape = accepted("LlamaForCausalLM", json!({}));
    let parse = |json: Value| GenerationDefaults::parse(json.to_string().as_bytes(), &shape);
    let given = parse(json!({
        "eos_token_id": [286, 7], "do_sample": false, "temperature": 0.7, "top_p": 0.8,
        "top_k": 20, "repetition_penalty": 1.05, "min_p": null, "max_new_tokens": 512
    }));
    let expected = GenerationDefaults {
        eos_token_ids: vec![286, 7],
        temperature: Some(0.7),
        top_p: Some(0.8),
        top_k: Some(20),
        min_p: None,
        repetition_penalty: Some(1.05),
        max_tokens: Some(512),
    };
    assert_eq!(given.expect("valid"), expected);
    assert_eq!(parse(json!({})).expect("valid").eos_token_ids, [286]);
    assert_eq!(parse(json!({ "top_k": -1 })).expect("valid").top_k, Some(0));
    for (key, bad) in [
        ("temperature", json!(3)),
        ("temperature", json!(-1)),
        ("top_p", json!(0)),
        ("top_k", json!(-2)),
        ("min_p", json!(1.5)),
        ("repetition_penalty", json!(0)),
        ("repetition_penalty", json!(1e39)),
        ("max_new_tokens", json!(0)),
        ("eos_token_id", json!(288)),
    ] {
        let message = parse(json!({ key: bad })).expect_err("must be refused").to_string();
        let start = format!("generation_config.json: key `{key}`: found ");
        assert!(message.starts_with(&start), "{message}");
    }
    let hot = parse(json!({ "temperature": 3.5 })).expect_err("must be refused").to_string();
    assert!(hot.ends_with("found 3.5, expected between 0 and 2"), "{hot}");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (-2i64..40).prop_map(Value::from),
        prop_oneof!["yarn", "linear", "dynamic", "llama3", "full_attention", "[a-z]{0,5}"]
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(any_key(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_key() -> impl Strategy<Value = String> {
    let keys = [
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "head_dim",
        "num_attention_heads",
        "num_key_value_heads",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "rope_type",
        "type",
        "factor",
        "original_max_position_embeddings",
        "low_freq_factor",
        "high_freq_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "attention_factor",
        "truncate",
        "layer_types",
        "sliding_window",
        "use_sliding_window",
        "max_window_layers",
        "eos_token_id",
        "dtype",
        "full_attention",
        "sliding_attention",
        "partial_rotary_factor",
        "tie_word_embeddings",
    ];
    prop::sample::select(keys.to_vec()).prop_map(str::to_owned)
}

proptest! {
    /// **CF-1**, **CF-2**
    #[test]
    fn mutated_configs_are_refused_or_can_run(
        family in 0..DENSE.len(),
        changes in prop::collection::vec((any_key(), any_json()), 1..6),
    ) {
        let changes = changes.into_iter().collect();
        if let Ok(shape) = parse(&config(DENSE[family], Value::Object(changes))) {
            let spec = &shape.spec;
            prop_assert!(spec.norm_eps > 0.0 && Inventory::of(&shape).parameters() > 0);
            for layer in &spec.layers {
                let Attention::Gqa(gqa) = layer.attention else { panic!("{layer:?}") };
                prop_assert_eq!(gqa.heads % gqa.kv_heads, 0);
                prop_assert_eq!((gqa.head_dim % 2, spec.ropes[layer.rope].dims), (0, gqa.head_dim));
            }
        }
    }

    /// **CF-2**
    #[test]
    fn mutated_bytes_never_panic(
        place in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        let mut text = config("LlamaForCausalLM", json!({})).to_string().into_bytes();
        let place = place.index(text.len());
        text[place] = byte;
        let _ = ModelShape::parse(&text);
        text.truncate(cut.index(text.len()));
        let _ = ModelShape::parse(&text);
    }
}
