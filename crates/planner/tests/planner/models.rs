//! What the planner reads from the `config.json` files of published models (`src/published`) and of
//! the reference checkpoints of this repository.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use playhouse_layout::{ConfigError, Inventory, ModelShape, WeightType};
use playhouse_planner::PublishedModel;
use playhouse_types::{Attention, FeedForward, Mla};
use proptest::prelude::*;
use serde_json::Value;

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/published").join(name);
    fs::read(path).expect(name)
}

fn shape(name: &str) -> ModelShape {
    ModelShape::parse(&fixture(&format!("{name}.json"))).expect(name)
}

/// The totals that the models' cards and file indices give where they give exact ones; all were
/// computed a second time from the layer sizes by a program that shares nothing with this crate.
#[test]
fn parameters_of_published_models_are_exact() {
    let mut checked = BTreeSet::new();
    for (name, parameters) in [
        ("llama-2-7b", 6_738_415_616),
        ("llama-2-13b", 13_015_864_320),
        ("llama-2-70b", 68_976_648_192),
        ("llama-3-8b", 8_030_261_248),
        ("llama-3-70b", 70_553_706_496),
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("llama-3.1-405b", 405_853_388_800),
        ("llama-3.2-1b", 1_235_814_400),
        ("llama-3.2-3b", 3_212_749_824),
        ("tinyllama-1.1b", 1_100_048_384),
        ("qwen2.5-0.5b", 494_032_768),
        ("qwen2.5-1.5b", 1_543_714_304),
        ("qwen2.5-3b", 3_085_938_688),
        ("qwen2.5-7b", 7_615_616_512),
        ("qwen2.5-7b-awq", 7_615_616_512),
        ("qwen2.5-7b-gptq", 7_615_616_512),
        ("qwen2.5-14b", 14_770_033_664),
        ("qwen2.5-32b", 32_763_876_352),
        ("qwen2.5-72b", 72_706_203_648),
        ("mistral-7b-v0.1", 7_241_732_096),
        ("mistral-7b-v0.2", 7_241_732_096),
        ("mistral-7b-v0.3", 7_248_023_552),
        ("mixtral-8x7b", 46_702_792_704),
        ("mixtral-8x22b", 140_620_634_112),
        ("qwen3-0.6b", 596_049_920),
        ("qwen3-1.7b", 1_720_574_976),
        ("qwen3-4b", 4_022_468_096),
        ("qwen3-8b", 8_190_735_360),
        ("qwen3-14b", 14_768_307_200),
        ("qwen3-32b", 32_762_123_264),
        ("qwen3-32b-fp8", 32_762_123_264),
        ("qwen3-30b-a3b", 30_532_122_624),
        ("qwen3-30b-a3b-fp8", 30_532_122_624),
        ("qwen3-235b-a22b", 235_093_634_560),
        ("qwen3-235b-a22b-fp8", 235_093_634_560),
        ("qwen3-coder-480b-a35b", 480_154_875_392),
        ("qwen1.5-moe-a2.7b", 14_315_784_192),
        ("deepseek-v2-lite", 15_706_484_224),
        // Its card says 671 B, the file index 685 B: that counts the layer of multi-token prediction.
        ("deepseek-v3", 671_026_419_200),
        ("kimi-k2", 1_026_408_232_448),
    ] {
        assert_eq!(Inventory::of(&shape(name)).parameters(), parameters, "{name}");
        checked.insert(name);
    }
    let all: BTreeSet<_> = PublishedModel::all().map(|model| model.name).collect();
    assert_eq!(checked, all, "every model that is built in is checked");
}

#[test]
fn a_published_model_is_found_by_the_names_of_the_hub_in_any_case() {
    for (name, found) in [
        ("llama-3.1-70b", Some("llama-3.1-70b")),
        ("Llama-3.1-70B", Some("llama-3.1-70b")),
        ("meta-llama/Llama-3.1-70B-Instruct", Some("llama-3.1-70b")),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", Some("llama-3.1-70b")),
        ("meta-llama/Llama-3.3-70B-Instruct", Some("llama-3.1-70b")),
        ("meta-llama/Llama-2-7b-chat-hf", Some("llama-2-7b")),
        ("deepseek-ai/DeepSeek-R1-0528", Some("deepseek-v3")),
        ("/data/DeepSeek-V3/", Some("deepseek-v3")),
        ("mistralai/Mistral-7B-Instruct-v0.3", Some("mistral-7b-v0.3")),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", Some("qwen2.5-7b-awq")),
        ("Qwen/Qwen3-30B-A3B-FP8", Some("qwen3-30b-a3b-fp8")),
        // Sizes of another file: their weights are stored otherwise.
        ("nvidia/Llama-3.1-70B-Instruct-FP8", None),
        ("llama", None),
        ("", None),
    ] {
        assert_eq!(PublishedModel::find(name).map(|model| model.name), found, "{name}");
    }
    assert_eq!(PublishedModel::nearest("lama-3.1-70b"), Some("llama-3.1-70b"));
    assert_eq!(PublishedModel::nearest("org/Qwen3-32"), Some("qwen3-32b"));
    assert_eq!(PublishedModel::nearest("/no/such/folder"), None);
}

/// The sum of the tensors in the safetensors headers of a folder, without the second copy that a
/// tied head may have in the file.
fn tensor_bytes(folder: &Path, tied: bool) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name");
        if !name.starts_with("model") || !name.ends_with(".safetensors") {
            continue;
        }
        let file = fs::read(&path).expect("a file");
        let length = u64::from_le_bytes(file[..8].try_into().expect("8 bytes"));
        let header = &file[8..8 + usize::try_from(length).expect("a small header")];
        let tensors: BTreeMap<String, Value> = serde_json::from_slice(header).expect("a header");
        for (tensor, entry) in tensors {
            if tensor == "__metadata__" || (tied && tensor == "lm_head.weight") {
                continue;
            }
            let offset = |at: usize| entry["data_offsets"][at].as_u64().expect("an offset");
            bytes += offset(1) - offset(0);
        }
    }
    bytes
}

fn reference_checkpoints() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/reference");
    let mut found: Vec<_> = fs::read_dir(folder)
        .expect("reference checkpoints")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.join("config.json").exists())
        .collect();
    found.sort();
    found
}

/// What the name of a reference checkpoint says about its tensors; some configs leave it out.
fn stored(folder: &Path) -> WeightType {
    match folder.to_str().and_then(|name| name.rsplit('-').next()) {
        Some("f32") => WeightType::F32,
        Some("f16") => WeightType::F16,
        _ => WeightType::Bf16,
    }
}

#[test]
fn bytes_of_every_reference_checkpoint_are_those_of_its_tensors() {
    let folders = reference_checkpoints();
    assert!(folders.len() >= 20, "only {} checkpoints found", folders.len());
    for folder in folders {
        let config = fs::read(folder.join("config.json")).expect("a config");
        let mut shape = ModelShape::parse(&config).expect("a decoder");
        (shape.weights, shape.plain) = (stored(&folder), stored(&folder));
        let found = tensor_bytes(&folder, shape.spec.tied_embeddings);
        assert_eq!(Inventory::of(&shape).bytes(), found, "{}", folder.display());
    }
}

/// AWQ packs 4-bit values and zero points and keeps f16 scales per 128 inputs; GPTQ adds an index
/// per input; DeepSeek's FP8 has an f32 scale per 128 × 128 values.
#[test]
fn quantized_bytes_count_scales_zero_points_and_indices() {
    let matrices = 28 * (3584 * 3584 * 2 + 2 * 3584 * 512 + 3 * 3584 * 18_944);
    let plain = 7_615_616_512 - matrices;
    let groups = matrices / 128;
    let awq = matrices / 2 + groups / 2 + 2 * groups + 2 * plain;
    assert_eq!(Inventory::of(&shape("qwen2.5-7b-awq")).bytes(), awq);
    let inputs = 28 * (3584 * 6 + 18_944);
    assert_eq!(Inventory::of(&shape("qwen2.5-7b-gptq")).bytes(), awq + 4 * inputs);

    let deepseek = shape("deepseek-v3");
    assert_eq!(deepseek.weights, WeightType::Fp8 { block: Some((128, 128)) });
    let plain = ModelShape { weights: WeightType::Bf16, ..deepseek.clone() };
    // Plain: embeddings and head, norms, routers and their f32 biases.
    let untouched = 2 * 129_280 * 7168 + 7168 + 61 * (2 * 7168 + 1536 + 512) + 58 * 256 * 7168;
    let matrices = 671_026_419_200 - untouched - 58 * 256;
    assert_eq!(Inventory::of(&plain).bytes(), 2 * (matrices + untouched) + 4 * 58 * 256);
    let scales = (Inventory::of(&deepseek).bytes() - matrices - 2 * untouched - 4 * 58 * 256) / 4;
    // kv_a_proj has 576 rows: its last block of rows is half full.
    assert_eq!(scales, (matrices + 61 * 64 * 7168) / (128 * 128));
}

#[test]
fn modules_named_unquantized_stay_plain() {
    let mut shape = shape("qwen2.5-7b-awq");
    let all = Inventory::of(&shape).bytes();
    shape.unquantized = vec!["model.layers.1.mlp".to_owned()];
    let matrices = 3 * 3584 * 18_944;
    let packed = matrices / 2 + matrices / 256 + matrices / 64;
    assert_eq!(Inventory::of(&shape).bytes() - all, 2 * matrices - packed, "layer 1, not layer 10");
    shape.unquantized = vec!["mlp".to_owned()];
    assert_eq!(Inventory::of(&shape).bytes() - all, 28 * (2 * matrices - packed));
}

#[test]
fn dense_and_routed_layers_are_where_the_config_says() {
    let deepseek = shape("deepseek-v3");
    let routed =
        |layer: usize| matches!(deepseek.spec.layers[layer].feed_forward, FeedForward::Moe(_));
    assert_eq!([routed(2), routed(3), routed(60)], [false, true, true]);
    assert!(matches!(
        deepseek.spec.layers[0].attention,
        Attention::Mla(Mla { q_rank: Some(1536), kv_rank: 512, rope_dim: 64, .. })
    ));

    let mut config: Value = serde_json::from_slice(&fixture("qwen3-30b-a3b.json")).unwrap();
    config["decoder_sparse_step"] = 2.into();
    config["mlp_only_layers"] = vec![3].into();
    let qwen = ModelShape::parse(config.to_string().as_bytes()).unwrap();
    let routed: Vec<_> = (0..6)
        .filter(|&at| matches!(qwen.spec.layers[at].feed_forward, FeedForward::Moe(_)))
        .collect();
    assert_eq!(routed, [1, 5]);
}

#[test]
fn a_foreign_decoder_is_read_by_the_standard_keys_or_refused_by_the_missing_one() {
    let mut config: Value = serde_json::from_slice(&fixture("llama-3.1-8b.json")).unwrap();
    config["architectures"] = vec!["GraniteForCausalLM"].into();
    config["model_type"] = "granite".into();
    let foreign = ModelShape::parse(config.to_string().as_bytes()).unwrap();
    assert_eq!(foreign.architecture, "GraniteForCausalLM");
    assert_eq!(Inventory::of(&foreign).parameters(), 8_030_261_248);
    let note = foreign.note().expect("a note");
    assert!(note.starts_with("GraniteForCausalLM is read as Llama"), "{note}");
    assert_eq!(shape("llama-3.1-8b").note(), None);

    config.as_object_mut().unwrap().remove("num_hidden_layers");
    let refused = ModelShape::parse(config.to_string().as_bytes()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "config.json: key `num_hidden_layers`: found nothing, expected a whole number between 1 \
         and 1024"
    );
}

/// Read as dense Llama they would be planned at a fraction of their size, or as what they are not.
#[test]
fn experts_latents_and_encoders_of_unknown_families_are_refused() {
    let with = |architecture: &str, key: &str, value: Value| {
        let mut config: Value = serde_json::from_slice(&fixture("llama-3.1-8b.json")).unwrap();
        config["architectures"] = vec![architecture].into();
        config["model_type"] = Value::Null;
        config[key] = value;
        ModelShape::parse(config.to_string().as_bytes())
    };
    assert_eq!(
        with("GptOssForCausalLM", "num_local_experts", 32.into()).unwrap_err().to_string(),
        "config.json: key `num_local_experts`: found 32, expected none: how GptOssForCausalLM uses \
         it is not known; experts and latent attention are planned for MixtralForCausalLM, \
         Qwen2MoeForCausalLM, Qwen3MoeForCausalLM, DeepseekV2ForCausalLM, DeepseekV3ForCausalLM"
    );
    for (key, value) in [("num_experts", Value::from(64)), ("kv_lora_rank", 512.into())] {
        let refused = with("KimiForCausalLM", key, value).unwrap_err();
        assert!(
            matches!(&refused, ConfigError::Key { key: named, .. } if named == key),
            "{refused}"
        );
    }
    assert!(with("GraniteMoeHybridForCausalLM", "num_local_experts", 0.into()).is_ok());
    assert!(with("T5ForConditionalGeneration", "is_encoder_decoder", false.into()).is_ok());
    assert_eq!(
        with("BartForConditionalGeneration", "is_encoder_decoder", true.into())
            .unwrap_err()
            .to_string(),
        "config.json: key `is_encoder_decoder`: found true, expected false: decoders are planned"
    );
}

#[test]
fn a_multimodal_file_is_read_at_its_text_config() {
    let text: Value = serde_json::from_slice(&fixture("mistral-7b-v0.1.json")).unwrap();
    let mut whole = serde_json::json!({
        "architectures": ["LlavaForConditionalGeneration"],
        "torch_dtype": "float32",
        "text_config": text,
    });
    let shape = ModelShape::parse(whole.to_string().as_bytes()).unwrap();
    assert_eq!(Inventory::of(&shape).parameters(), 7_241_732_096);
    assert_eq!(shape.weights, WeightType::Bf16, "the nearer dtype counts");
    whole["text_config"]["vocab_size"] = 0.into();
    let refused = ModelShape::parse(whole.to_string().as_bytes()).unwrap_err();
    assert!(matches!(refused, ConfigError::Key { key, .. } if key == "text_config.vocab_size"));
}

/// **CF-2**
#[test]
fn what_cannot_be_used_is_named_with_what_would_be() {
    for (key, value, expected) in [
        ("hidden_size", Value::from(-1), "a whole number between 1 and 131072"),
        ("num_hidden_layers", 100_000.into(), "a whole number between 1 and 1024"),
        ("num_key_value_heads", 7.into(), "a divisor of num_attention_heads (32), here it is 7"),
        ("vocab_size", "many".into(), "a whole number between 1 and 4194304"),
        ("torch_dtype", "int7".into(), "bfloat16, float16 or float32"),
        ("tie_word_embeddings", "yes".into(), "true or false"),
        ("architectures", "mixtral".into(), "a list"),
        ("quantization_config", 4.into(), "an object"),
        ("num_experts_per_tok", 9.into(), "a whole number between 1 and 8"),
    ] {
        let mut config: Value = serde_json::from_slice(&fixture("mixtral-8x7b.json")).unwrap();
        config[key] = value;
        let refused = ModelShape::parse(config.to_string().as_bytes()).unwrap_err();
        let ConfigError::Key { key: named, expected: wanted, .. } = refused else {
            panic!("{key}: {refused}")
        };
        assert_eq!((named.as_str(), wanted.as_str()), (key, expected));
    }
    let nameless = ModelShape::parse(b"{\"model_type\": \"bloom\"}").unwrap_err().to_string();
    let expected = "key `architectures`: found nothing, expected a list with the name of a decoder";
    assert!(nameless.ends_with(expected), "{nameless}");
    let config = r#"{"architectures": ["X"], "quantization_config": {"quant_method": "bitsandbytes"},
        "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8,
        "vocab_size": 8, "max_position_embeddings": 8}"#;
    assert_eq!(
        ModelShape::parse(config.as_bytes()).unwrap_err().to_string(),
        "config.json: key `quantization_config.quant_method`: found \"bitsandbytes\", expected fp8, \
         awq or gptq"
    );
    assert!(matches!(ModelShape::parse(b"[]"), Err(ConfigError::Json { .. })));
    assert!(matches!(ModelShape::parse(b"\xff"), Err(ConfigError::Json { .. })));
}

const NUMBERS: [u64; 8] = [0, 1, 2, 3, 64, 4096, 1 << 40, u64::MAX];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// **CF-1**, **CF-2**: any number anywhere is refused or counted, never a panic.
    #[test]
    fn hostile_numbers_are_refused_or_counted(
        file in prop::sample::select(vec!["deepseek-v3", "qwen1.5-moe-a2.7b", "qwen2.5-7b-awq"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..NUMBERS.len()), 1..4),
    ) {
        let mut config: Value = serde_json::from_slice(&fixture(&format!("{file}.json"))).unwrap();
        let keys: Vec<_> = config.as_object().unwrap().keys().cloned().collect();
        for (key, number) in changes {
            config[key.get(&keys)] = NUMBERS[number].into();
        }
        if let Ok(shape) = ModelShape::parse(config.to_string().as_bytes()) {
            prop_assert!(Inventory::of(&shape).parameters() > 0);
            prop_assert!(Inventory::of(&shape).bytes() < u64::MAX);
        }
    }
}
