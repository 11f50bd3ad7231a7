use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use playhouse_layout::{Part, Slice};
use playhouse_types::{
    Activation, Attention, Dense, FeedForward, Gqa, LayerSpec, NormKind, NormPlace, Rope,
    RopeScaling,
};
use proptest::prelude::*;
use serde_json::json;

use super::*;

const INDEX: &str = "model.safetensors.index.json";

/// A folder that is removed in the end.
struct Folder(PathBuf);

/// Name, stored type, shape and bytes of every tensor of a file.
type Tensors = BTreeMap<String, (StoredDtype, Vec<usize>, Vec<u8>)>;

// === impl Folder ===

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("playhouse-weights-{}-{count}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn of(files: &[(&str, &[u8])]) -> Self {
        let folder = Self::new();
        for (name, bytes) in files {
            fs::write(folder.0.join(name), bytes).unwrap();
        }
        folder
    }

    fn load(&self, spec: &DecoderSpec, dtype: Dtype) -> Result<Weights, WeightsError> {
        load(&self.0, spec, dtype)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn load(path: &Path, spec: &DecoderSpec, dtype: Dtype) -> Result<Weights, WeightsError> {
    let checkpoint = Checkpoint::open(path)?;
    Weights::load(&checkpoint, spec, &Shard::whole(spec), dtype, |_, _| ())
}

fn spec(tied_embeddings: bool) -> DecoderSpec {
    let attention = Attention::Gqa(Gqa {
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        qkv_bias: true,
        out_bias: false,
        qk_norm: true,
    });
    let dense = Dense { inner: 6, bias: false, activation: Activation::Silu };
    let (norm_place, feed_forward) = (NormPlace::Before, FeedForward::Dense(dense));
    DecoderSpec {
        layers: vec![LayerSpec { norm_place, attention, feed_forward, rope: 0, window: None }],
        hidden: 8,
        vocab: 10,
        norm: NormKind::Rms,
        norm_eps: 1e-5,
        ropes: vec![Rope { dims: 4, theta: 10_000.0, scaling: RopeScaling::Default }],
        tied_embeddings,
        max_positions: 32,
    }
}

/// Every tensor that `spec` calls for, in f32, all elements equal to the tensor's number.
fn tensors(spec: &DecoderSpec) -> Tensors {
    let mut tensors = Tensors::new();
    for Wanted { name, shape, .. } in wanted(spec, Shard::whole(spec).share()) {
        let value = tensors.len() as f32;
        let bytes = value.to_le_bytes().repeat(shape.iter().product());
        tensors.insert(name, (StoredDtype::F32, shape, bytes));
    }
    tensors
}

fn file(tensors: &Tensors) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, (dtype, shape, bytes)) in tensors {
        let offsets = [data.len(), data.len() + bytes.len()];
        header.insert(
            name.clone(),
            json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets }),
        );
        data.extend_from_slice(bytes);
    }
    with_header(&serde_json::Value::Object(header).to_string(), &data)
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

fn refused(files: &[(&str, &[u8])], spec: &DecoderSpec) -> String {
    let error = Folder::of(files).load(spec, Dtype::Auto).expect_err("must be refused");
    error.to_string()
}

fn refused_tensors(change: impl FnOnce(&mut Tensors)) -> String {
    let spec = spec(false);
    let mut tensors = tensors(&spec);
    change(&mut tensors);
    refused(&[("model.safetensors", &file(&tensors))], &spec)
}

#[test]
fn every_tensor_is_loaded_and_progress_ends_at_the_total() {
    let spec = spec(false);
    let tensors = tensors(&spec);
    let folder = Folder::of(&[("model.safetensors", &file(&tensors))]);
    let mut progress = Vec::new();
    let checkpoint = Checkpoint::open(&folder.0).unwrap();
    let weights =
        Weights::load(&checkpoint, &spec, &Shard::whole(&spec), Dtype::Auto, |done, all| {
            progress.push((done, all));
        })
        .unwrap();
    let parameters =
        Inventory::plain(&spec, WeightType::F32).total(playhouse_layout::Weight::parameters);
    let total = 4 * usize::try_from(parameters).unwrap();
    assert_eq!(progress.first(), Some(&(0, total)));
    assert_eq!(progress.last(), Some(&(total, total)));
    assert!(progress.is_sorted());
    assert_eq!(weights.dtype(), DType::F32);
    let first = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap()[0];
    let stored = |name: &str| {
        let bytes = &tensors[name].2;
        f32::from_le_bytes(*bytes.first_chunk().unwrap())
    };
    let layer = &weights.layers[0];
    assert_eq!(first(&weights.head.as_ref().unwrap().head), stored("lm_head.weight"));
    assert_eq!(
        first(layer.attention.key.bias.as_ref().unwrap()),
        stored("model.layers.0.self_attn.k_proj.bias")
    );
    assert_eq!(
        first(&layer.feed_forward.down.weight),
        stored("model.layers.0.mlp.down_proj.weight")
    );
    assert_eq!(
        first(&layer.feed_forward_norm),
        stored("model.layers.0.post_attention_layernorm.weight")
    );
}

#[test]
fn embedded_files_load_like_a_folder() {
    let spec = spec(true);
    let bytes: &'static [u8] = file(&tensors(&spec)).leak();
    let files: &'static [(&str, &[u8])] = vec![("model.safetensors", bytes)].leak();
    let checkpoint = Checkpoint::embedded(files);
    let whole = Shard::whole(&spec);
    assert!(Weights::load(&checkpoint, &spec, &whole, Dtype::Auto, |_, _| ()).is_ok());
    assert!(checkpoint.read("tokenizer.json").unwrap().is_none());
}

#[test]
fn types_are_kept_unless_another_is_asked_for() {
    let spec = spec(true);
    let mut tensors = tensors(&spec);
    for (dtype, _, bytes) in tensors.values_mut() {
        *dtype = StoredDtype::BF16;
        bytes.truncate(bytes.len() / 2);
    }
    let folder = Folder::of(&[("model.safetensors", &file(&tensors))]);
    assert_eq!(folder.load(&spec, Dtype::Auto).unwrap().dtype(), DType::BF16);
    assert_eq!(folder.load(&spec, Dtype::F16).unwrap().dtype(), DType::F16);
    assert_eq!(Dtype::Auto.or(Some(WeightType::F32)), Dtype::F32);
    assert_eq!(Dtype::Auto.or(None), Dtype::Auto);
    assert_eq!(Dtype::Bf16.or(Some(WeightType::F32)), Dtype::Bf16);
}

#[test]
fn a_tensor_that_does_not_fit_is_named_with_both_shapes() {
    let name = "model.layers.0.mlp.up_proj.weight";
    let missing = refused_tensors(|tensors| {
        tensors.remove(name);
    });
    assert_eq!(
        missing,
        format!("model.safetensors: tensor `{name}`: missing, though config.json calls for it")
    );
    let turned = refused_tensors(|tensors| tensors.get_mut(name).unwrap().1.reverse());
    assert!(turned.ends_with("found shape [8, 6], expected [6, 8]"), "{turned}");
    let integers = refused_tensors(|tensors| tensors.get_mut(name).unwrap().0 = StoredDtype::I32);
    assert!(integers.ends_with("found type I32, expected BF16, F16 or F32"), "{integers}");
}

/// **W-2**
#[test]
fn an_unused_tensor_is_refused_unless_it_carries_nothing() {
    let vector = || (StoredDtype::F32, vec![8], vec![0; 32]);
    let bias = "model.layers.0.self_attn.o_proj.bias";
    let extra = refused_tensors(|tensors| {
        tensors.insert(bias.to_owned(), vector());
    });
    assert!(extra.contains(bias) && extra.contains("calls for no such tensor"), "{extra}");

    let spec = spec(true);
    let mut tensors = tensors(&spec);
    tensors.insert("model.layers.0.self_attn.rotary_emb.inv_freq".to_owned(), vector());
    let embedding = tensors["model.embed_tokens.weight"].clone();
    tensors.insert("lm_head.weight".to_owned(), embedding);
    let folder = Folder::of(&[("model.safetensors", &file(&tensors))]);
    assert!(folder.load(&spec, Dtype::Auto).is_ok());
    tensors.get_mut("lm_head.weight").unwrap().2[0] ^= 1;
    let own = refused(&[("model.safetensors", &file(&tensors))], &spec);
    assert!(own.contains("`lm_head.weight`: found, though"), "{own}");
}

const CONFIG: &str = r#"{"architectures": ["Qwen3ForCausalLM"], "hidden_size": 8, "vocab_size": 10,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
    "intermediate_size": 6, "max_position_embeddings": 32, "tie_word_embeddings": true}"#;

/// Returns whether a checkpoint whose config ties the head is read as tied.
fn is_tied(tensors: &Tensors) -> bool {
    let files: [(&str, &[u8]); 2] =
        [("config.json", CONFIG.as_bytes()), ("model.safetensors", &file(tensors))];
    let folder = Folder::of(&files);
    let checkpoint = Checkpoint::open(&folder.0).unwrap();
    checkpoint_shape(&checkpoint).unwrap().spec.tied_embeddings
}

#[test]
fn a_head_with_values_of_its_own_is_not_tied() {
    let mut tensors = tensors(&spec(true));
    assert!(is_tied(&tensors));
    let embedding = tensors["model.embed_tokens.weight"].clone();
    let mut head = embedding.clone();
    tensors.insert("lm_head.weight".to_owned(), head.clone());
    assert!(is_tied(&tensors), "equal values");
    let half = half::bf16::from_f32(1.0).to_le_bytes().repeat(80);
    let one = 1_f32.to_le_bytes().repeat(80);
    tensors.insert("model.embed_tokens.weight".to_owned(), (StoredDtype::F32, vec![10, 8], one));
    tensors.insert("lm_head.weight".to_owned(), (StoredDtype::BF16, vec![10, 8], half));
    assert!(is_tied(&tensors), "equal values in another type");
    tensors.insert("model.embed_tokens.weight".to_owned(), embedding);
    let last = head.2.len() - 1;
    head.2[last] ^= 1;
    tensors.insert("lm_head.weight".to_owned(), head);
    assert!(!is_tied(&tensors), "other values");
}

/// Transformers ties whichever of the two a checkpoint holds.
#[test]
fn a_tied_head_may_be_stored_in_place_of_the_embeddings() {
    let spec = spec(true);
    let mut tensors = tensors(&spec);
    let table = tensors.remove("model.embed_tokens.weight").unwrap();
    tensors.insert("lm_head.weight".to_owned(), table);
    let folder = Folder::of(&[("model.safetensors", &file(&tensors))]);
    let weights = folder.load(&spec, Dtype::Auto).unwrap();
    let (embedding, head) = (weights.embedding.unwrap(), weights.head.unwrap().head);
    assert_eq!(embedding.dims(), [10, 8]);
    assert_eq!(
        embedding.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
        head.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    );
    let untied = DecoderSpec { tied_embeddings: false, ..spec };
    let message = folder.load(&untied, Dtype::Auto).unwrap_err().to_string();
    assert!(message.contains("`model.embed_tokens.weight`: missing"), "{message}");
}

#[test]
fn several_missing_or_unused_tensors_are_named_and_counted() {
    let gone = refused_tensors(|tensors| tensors.retain(|name, _| !name.contains(".mlp.")));
    let expected = "tensor `model.layers.0.mlp.gate_proj.weight`: missing, though config.json calls \
                    for it; `model.layers.0.mlp.up_proj.weight` and 1 more are missing too";
    assert!(gone.ends_with(expected), "{gone}");
    let renamed = refused_tensors(|tensors| {
        let all = std::mem::take(tensors);
        tensors.extend(all.into_iter().map(|(name, it)| (name.replace("model.", ""), it)));
    });
    let end = "; the tensors have other names, such as `embed_tokens.weight`";
    assert!(renamed.ends_with(end), "{renamed}");
    let headless = refused_tensors(|tensors| drop(tensors.remove("lm_head.weight")));
    assert!(headless.ends_with("set tie_word_embeddings to true"), "{headless}");
    let vector = || (StoredDtype::F32, vec![8], vec![0; 32]);
    let unused = refused_tensors(|tensors| {
        tensors.extend(["a", "b"].map(|name| (name.to_owned(), vector())));
    });
    assert!(unused.ends_with("calls for no such tensor; `b` is unused too"), "{unused}");
}

#[test]
fn shards_are_found_by_the_index_and_must_agree_with_it() {
    let spec = spec(false);
    let all = tensors(&spec);
    let (first, second): (Tensors, Tensors) =
        all.clone().into_iter().partition(|(name, _)| name.as_str() < "model.layers.0.mlp");
    let map = |shard_of: &dyn Fn(&str) -> &'static str| {
        let pairs = all.keys().map(|name| (name.clone(), json!(shard_of(name)))).collect();
        json!({ "weight_map": serde_json::Value::Object(pairs) }).to_string()
    };
    let right = |name: &str| if first.contains_key(name) { "a" } else { "b" };
    let (a, b) = (file(&first), file(&second));
    let index = map(&right);
    let files: [(&str, &[u8]); 3] = [(INDEX, index.as_bytes()), ("a", &a), ("b", &b)];
    assert!(Folder::of(&files).load(&spec, Dtype::Auto).is_ok());

    assert_eq!(
        refused(&files[..2], &spec),
        format!("{INDEX}: names b, which is missing; expected all its files")
    );
    let wrong = map(&|name| if name == "lm_head.weight" { "b" } else { right(name) });
    let wrong = refused(&[(INDEX, wrong.as_bytes()), ("a", &a), ("b", &b)], &spec);
    assert!(wrong.starts_with("b: tensor `lm_head.weight`: found in a, expected in b"), "{wrong}");
    let twice = refused(&[(INDEX, index.as_bytes()), ("a", &a), ("b", &file(&all))], &spec);
    assert!(twice.ends_with("found in a too"), "{twice}");
    for bad in ["{}", "[]", "{", "{\"weight_map\": []}", "{\"weight_map\": {\"x\": 1}}"] {
        assert!(refused(&[(INDEX, bad.as_bytes())], &spec).starts_with(INDEX));
    }
    for escape in ["../a", "/etc/passwd", "..", "", "sub/a", "a\0", "C:\\a"] {
        let index = json!({ "weight_map": { "x": escape } }).to_string();
        let message = refused(&[(INDEX, index.as_bytes())], &spec);
        assert!(message.ends_with("expected a plain file name inside the folder"), "{message}");
    }
}

#[test]
fn no_weights_at_all_is_said_plainly() {
    let message = refused(&[], &spec(false));
    let end = "model.safetensors is missing and so is every other safetensors file";
    assert!(message.ends_with(end), "{message}");
    let nowhere = load(Path::new("/nonexistent"), &spec(false), Dtype::Auto).unwrap_err();
    assert!(nowhere.to_string().contains("not a model folder"), "{nowhere}");
}

#[test]
fn wd1_copies_have_one_digest_and_others_have_others() {
    let spec = spec(false);
    let whole = file(&tensors(&spec));
    let digest = |files: &[(&str, &[u8])]| {
        let folder = Folder::of(files);
        Weights::digest(&Checkpoint::open(&folder.0).unwrap()).unwrap()
    };
    let own = digest(&[("model.safetensors", &whole)]);
    let beside: [(&str, &[u8]); 2] = [("model.safetensors", &whole), ("README.md", b"other")];
    assert_eq!(digest(&beside), own, "of weights alone");
    let header = 8 + u64::from_le_bytes(*whole.first_chunk().unwrap()) as usize;
    for at in [header, whole.len() / 2, whole.len() - 1] {
        let mut other = whole.clone();
        other[at] ^= 1;
        assert_ne!(digest(&[("model.safetensors", &other)]), own, "byte {at}");
    }
    // The same bytes under other names of tensors, and in files of other names.
    let mut renamed = tensors(&spec);
    let up = renamed.remove("model.layers.0.mlp.up_proj.weight").unwrap();
    let gate = renamed.insert("model.layers.0.mlp.gate_proj.weight".to_owned(), up).unwrap();
    renamed.insert("model.layers.0.mlp.up_proj.weight".to_owned(), gate);
    assert_ne!(digest(&[("model.safetensors", &file(&renamed))]), own);
    let map: serde_json::Map<_, _> =
        tensors(&spec).into_keys().map(|name| (name, json!("part.safetensors"))).collect();
    let index = json!({ "weight_map": map }).to_string();
    assert_ne!(digest(&[(INDEX, index.as_bytes()), ("part.safetensors", &whole)]), own);
}

/// **WD-1**, **WD-2**: of more than is read, what another training changes is seen, and a file that was
/// cut and filled up.
#[test]
fn wd1_samples_see_what_is_changed_at_some_length() {
    let shape = [1024, 2048];
    let large = |bytes: Vec<u8>| {
        let entry = [("large".to_owned(), (StoredDtype::F32, shape.to_vec(), bytes))];
        file(&entry.into())
    };
    let whole = vec![0x3f_u8; 4 * shape[0] * shape[1]];
    let digest = |bytes: Vec<u8>| {
        let folder = Folder::of(&[("model.safetensors", &large(bytes))]);
        Weights::digest(&Checkpoint::open(&folder.0).unwrap()).unwrap()
    };
    let own = digest(whole.clone());
    let length = whole.len();
    for range in [0..1, length - 1..length, length / 2..length / 2 + 32_768, length / 3..length] {
        let mut other = whole.clone();
        other[range.clone()].fill(0);
        assert_ne!(digest(other), own, "{range:?} of {length}");
    }
}

/// **CK-1**
#[test]
fn files_may_be_links_out_of_the_folder() {
    use std::os::unix::fs::symlink;

    let (store, folder) = (Folder::of(&[("1", b"stored")]), Folder::new());
    let stored = store.0.join("1");
    symlink(&store.0, folder.0.join("blobs")).unwrap();
    symlink("blobs/1", folder.0.join("tokenizer.json")).unwrap();
    symlink(&stored, folder.0.join("chat_template.jinja")).unwrap();
    symlink("/nowhere/config.json", folder.0.join("config.json")).unwrap();
    let checkpoint = Checkpoint::open(&folder.0).unwrap();
    for name in ["tokenizer.json", "chat_template.jinja"] {
        assert_eq!(checkpoint.read(name).unwrap().as_deref(), Some(&b"stored"[..]), "{name}");
    }
    let dangling = checkpoint.require("config.json").unwrap_err().to_string();
    let end = "config.json is missing; it links to /nowhere/config.json, which is not there";
    assert!(dangling.ends_with(end), "{dangling}");
    fs::create_dir(folder.0.join("generation_config.json")).unwrap();
    let directory = checkpoint.read("generation_config.json").unwrap_err().to_string();
    assert!(directory.contains("expected a regular file"), "{directory}");
}

#[test]
fn a_pointer_of_git_lfs_is_no_file() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n";
    let folder = Folder::of(&[("model.safetensors", pointer), ("tokenizer.json", pointer)]);
    let checkpoint = Checkpoint::open(&folder.0).unwrap();
    let tokenizer = checkpoint.require("tokenizer.json").unwrap_err().to_string();
    let weights = folder.load(&spec(false), Dtype::Auto).unwrap_err().to_string();
    for message in [tokenizer, weights] {
        assert!(message.ends_with("fetch the file with `git lfs pull`"), "{message}");
    }
}

#[test]
fn shards_without_an_index_are_all_read_and_must_be_complete() {
    let spec = spec(false);
    let all = tensors(&spec);
    let (first, second): (Tensors, Tensors) =
        all.clone().into_iter().partition(|(name, _)| name.as_str() < "model.layers.0.mlp");
    let (a, b, whole) = (file(&first), file(&second), file(&all));
    let (one, two) = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors");
    let adapter: (&str, &[u8]) = ("adapter_model.safetensors", b"foreign");
    let loads = |files: &[(&str, &[u8])]| Folder::of(files).load(&spec, Dtype::Auto).map(drop);
    assert!(loads(&[(one, &a), (two, &b), adapter]).is_ok());
    assert!(loads(&[("weights.safetensors", &whole), adapter]).is_ok());
    let cut = loads(&[(two, &b)]).unwrap_err().to_string();
    assert_eq!(cut, format!("{one}: missing; 1 of 2 such files are there"));
    let twice = loads(&[("a.safetensors", &a), ("b.safetensors", &whole)]).unwrap_err();
    assert!(twice.to_string().ends_with("found in a.safetensors too"), "{twice}");
}

#[test]
fn what_is_there_in_place_of_a_missing_file_is_named_with_a_way_out() {
    let weights = |name: &str| refused(&[(name, b"")], &spec(false));
    let missing = |needed: &str, there: &str| {
        let folder = Folder::of(&[(there, b"")]);
        Checkpoint::open(&folder.0).unwrap().require(needed).unwrap_err().to_string()
    };
    for (name, way_out) in [
        ("pytorch_model-00001-of-00002.bin", "save_pretrained"),
        ("model.Q4_K_M.gguf", "llama.cpp"),
        ("consolidated.safetensors", "the version for transformers"),
        ("flax_model.msgpack", "take the model in the safetensors format"),
        ("adapter_config.json", "merge_and_unload"),
    ] {
        let message = weights(name);
        assert!(message.contains("model.safetensors is missing; the folder has"), "{message}");
        assert!(message.contains(name) && message.contains(way_out), "{message}");
    }
    assert!(!weights("optimizer.pt").contains("optimizer"), "the state of a trainer");
    for (there, way_out) in [
        ("adapter_config.json", "LoRA"),
        ("params.json", "the version for transformers"),
        ("snapshots", "one of its revisions"),
        ("tiny.gguf", "llama.cpp"),
    ] {
        let message = missing("config.json", there);
        assert!(message.contains(there) && message.contains(way_out), "{message}");
    }
    for there in ["tokenizer.model", "tekken.json", "vocab.json", "qwen.tiktoken"] {
        let message = missing("tokenizer.json", there);
        assert!(message.contains(there) && message.contains("save_pretrained"), "{message}");
    }
    let folder = Folder::of(&[("tiny.gguf", b"GGUF")]);
    let file = Checkpoint::open(&folder.0.join("tiny.gguf")).unwrap_err().to_string();
    assert!(file.contains("it is a file in GGUF"), "{file}");
}

/// **W-3**
#[test]
fn hostile_headers_are_refused() {
    let entry = |name: &str, shape: &str, offsets: &str| {
        format!("\"{name}\":{{\"dtype\":\"F32\",\"shape\":{shape},\"data_offsets\":{offsets}}}")
    };
    let header = |entries: &[String]| format!("{{{}}}", entries.join(","));
    let (max, zeros) = (u64::MAX, [0; 16]);
    // Sizes whose sum wraps around to the true one.
    let huge = 1_u64 << 61;
    let wrap: Vec<_> = (0..8_u64)
        .map(|i| {
            let end = if i == 7 { 16 } else { huge * (i + 1) };
            entry(&format!("t{i}"), &format!("[{}]", huge / 4), &format!("[{},{end}]", huge * i))
        })
        .collect();
    for (case, file, expected) in [
        ("empty", Vec::new(), "found 0 bytes"),
        ("short", vec![1, 2, 3], "found 3 bytes"),
        ("long header", max.to_le_bytes().to_vec(), "is it cut short?"),
        ("cut", with_header("{}", &[])[..9].to_vec(), "is it cut short?"),
        ("no object", with_header("[]", &[]), "expected a JSON object as header"),
        ("deep", with_header(&"[".repeat(9999), &[]), "expected a JSON object as header"),
        ("no utf-8", with_header("{}", &[]).into_iter().map(|b| b | 128).collect(), "cut short"),
        (
            "type",
            with_header(r#"{"a":{"dtype":"F99","shape":[],"data_offsets":[0,0]}}"#, &[]),
            "unknown variant `F99`",
        ),
        ("gap", with_header(&header(&[entry("a", "[2]", "[8,16]")]), &zeros), "expected at 0"),
        (
            "overlap",
            with_header(
                &header(&[entry("a", "[2]", "[0,8]"), entry("b", "[2]", "[4,12]")]),
                &zeros,
            ),
            "expected at 8",
        ),
        (
            "twice",
            with_header(
                &header(&[entry("a", "[2]", "[0,8]"), entry("a", "[2]", "[8,16]")]),
                &zeros,
            ),
            "found twice",
        ),
        (
            "backwards",
            with_header(&header(&[entry("a", "[2]", "[0,8]"), entry("b", "[0]", "[8,4]")]), &zeros),
            "found to end at byte 4",
        ),
        (
            "beyond",
            with_header(&header(&[entry("a", "[8]", "[0,32]")]), &zeros),
            "found to end at byte 32 of 16",
        ),
        (
            "size",
            with_header(&header(&[entry("a", "[3]", "[0,16]")]), &zeros),
            "expected those of shape [3] in F32",
        ),
        (
            "overflow",
            with_header(&header(&[entry("a", &format!("[{max},{max}]"), "[0,16]")]), &zeros),
            "expected those of shape",
        ),
        ("wrap", with_header(&header(&wrap), &zeros), "found to end at byte"),
        (
            "negative",
            with_header(&header(&[entry("a", "[-1]", "[0,16]")]), &zeros),
            "invalid value",
        ),
        ("tail", with_header(&header(&[entry("a", "[2]", "[0,8]")]), &zeros), "as its header says"),
    ] {
        let message = refused(&[("model.safetensors", &file)], &spec(false));
        assert!(message.starts_with("model.safetensors: "), "{case}: {message}");
        assert!(message.contains(expected), "{case}: {message}");
    }
}

#[test]
fn random_weights_fit_the_spec_and_repeat() {
    let spec = spec(false);
    let values = |seed| {
        let weights = Weights::random(&spec, Dtype::F32, seed).unwrap();
        weights.layers[0].attention.query.weight.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    assert_eq!(values(1), values(1));
    assert_ne!(values(1), values(2));
    assert!(values(1).iter().all(|value| value.abs() <= (3.0_f32 / 8.0).sqrt()));
}

/// What a rank reads is what the planner counts for it, to the byte, and the ranks together hold all.
#[test]
fn bytes_of_a_share_are_those_that_its_inventory_sums() {
    let mut spec = spec(false);
    spec.layers = vec![spec.layers[0]; 3];
    let out_bias = |layer: &mut LayerSpec| {
        if let Attention::Gqa(gqa) = &mut layer.attention {
            (gqa.out_bias, gqa.kv_heads) = (true, 2);
        }
    };
    spec.layers.iter_mut().for_each(out_bias);
    let folder = Folder::of(&[("model.safetensors", &file(&tensors(&spec)))]);
    let checkpoint = Checkpoint::open(&folder.0).unwrap();
    let inventory = Inventory::plain(&spec, WeightType::F32);
    let part = |at, of| Part { at, of };
    let mut all = 0;
    for (at, stage) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
        let split = part(at, 2);
        let share = Share {
            stage: part(stage, 2),
            layers: Slice { first: 2 * u64::from(stage), count: 2 - u64::from(stage) },
            attention: split,
            dense: split,
            embedding: split,
            head: split,
            ..Share::whole(3)
        };
        let shard = Shard::new(&spec, &share).unwrap();
        let survey = Weights::survey(&checkpoint, &spec, &shard, Dtype::F32).unwrap();
        assert_eq!(survey.held_bytes as u64, share.weight_bytes(&inventory), "{share:?}");
        all += survey.stored_bytes;
    }
    // Norms are copied, to both ranks of a stage.
    let norms = 4 * (3 * (2 * 8 + 2 * 4) + 8);
    assert_eq!(all, Weights::check(&checkpoint, &spec).unwrap() + norms);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// **W-3**
    #[test]
    fn mutated_files_never_panic(
        place in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
    ) {
        let spec = spec(true);
        let mut bytes = file(&tensors(&spec));
        let header = 8 + usize::from(bytes[0]) + 256 * usize::from(bytes[1]);
        bytes[place.index(header)] = byte;
        let _ = Folder::of(&[("model.safetensors", &bytes)]).load(&spec, Dtype::Auto);
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(Folder::of(&[("model.safetensors", &bytes)]).load(&spec, Dtype::Auto).is_err());
    }
}
