//! A checkpoint with random weights, as Hugging Face would write it.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Map, Value, json};

/// Weights are even between this and its negative: their deviation is the 0.02 of a new model, so
/// nothing overflows.
const WEIGHT_MAX: f32 = 0.034_64;
const SEED: u64 = 1;
/// The number one as bf16.
const ONE: u16 = 0x3F80;

/// The sizes of a model of the family Qwen2.
pub(crate) struct Shape {
    layers: usize,
    hidden: usize,
    heads: usize,
    kv_heads: usize,
    inner: usize,
    pub(crate) vocab: usize,
}

/// Qwen2.5-0.5B.
pub(crate) const QWEN: Shape =
    Shape { layers: 24, hidden: 896, heads: 14, kv_heads: 2, inner: 4864, vocab: 151_936 };

/// A model that serves only to be split in two either way.
pub(crate) const TINY: Shape =
    Shape { layers: 2, hidden: 32, heads: 4, kv_heads: 2, inner: 64, vocab: 512 };

/// SplitMix64, which fills a gigabyte in a second.
struct Random(u64);

// === impl Shape ===

impl Shape {
    /// Writes the files of the checkpoint, unless this one is there.
    pub(crate) fn write(&self, folder: &Path) -> io::Result<()> {
        let config = self.config().to_string();
        let last = folder.join("config.json");
        if let Ok(there) = fs::read_to_string(&last) {
            assert!(there == config, "{} is another model: it is not overwritten", last.display());
            return Ok(());
        }
        fs::create_dir_all(folder)?;
        fs::write(folder.join("tokenizer.json"), self.tokenizer().to_string())?;
        self.write_weights(&folder.join("model.safetensors"))?;
        fs::write(last, config)
    }

    fn config(&self) -> Value {
        json!({
            "architectures": ["Qwen2ForCausalLM"],
            "attention_dropout": 0.0,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": 0.02,
            "intermediate_size": self.inner,
            "max_position_embeddings": 32768,
            "max_window_layers": self.layers,
            "model_type": "qwen2",
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1_000_000.0,
            "sliding_window": 32768,
            "tie_word_embeddings": true,
            "torch_dtype": "bfloat16",
            "use_cache": true,
            "use_sliding_window": false,
            "vocab_size": self.vocab,
        })
    }

    /// Words are numbers, and each is the token of that number.
    fn tokenizer(&self) -> Value {
        let vocab: Map<_, _> = (0..self.vocab).map(|id| (format!("▁{id}"), id.into())).collect();
        let spaces = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always" });
        json!({
            "version": "1.0",
            "added_tokens": [],
            "pre_tokenizer": spaces,
            "decoder": spaces,
            "model": { "type": "WordLevel", "vocab": vocab, "unk_token": "▁0" },
        })
    }

    /// Names and dimensions.
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let Self { hidden, inner, .. } = *self;
        let kv = hidden / self.heads * self.kv_heads;
        let layer = [
            ("input_layernorm.weight", vec![hidden]),
            ("self_attn.q_proj.weight", vec![hidden, hidden]),
            ("self_attn.q_proj.bias", vec![hidden]),
            ("self_attn.k_proj.weight", vec![kv, hidden]),
            ("self_attn.k_proj.bias", vec![kv]),
            ("self_attn.v_proj.weight", vec![kv, hidden]),
            ("self_attn.v_proj.bias", vec![kv]),
            ("self_attn.o_proj.weight", vec![hidden, hidden]),
            ("post_attention_layernorm.weight", vec![hidden]),
            ("mlp.gate_proj.weight", vec![inner, hidden]),
            ("mlp.up_proj.weight", vec![inner, hidden]),
            ("mlp.down_proj.weight", vec![hidden, inner]),
        ];
        let mut tensors = vec![
            ("model.embed_tokens.weight".to_owned(), vec![self.vocab, hidden]),
            ("model.norm.weight".to_owned(), vec![hidden]),
        ];
        for index in 0..self.layers {
            let named = |(name, dims): &(_, Vec<usize>)| {
                (format!("model.layers.{index}.{name}"), dims.clone())
            };
            tensors.extend(layer.iter().map(named));
        }
        tensors
    }

    fn write_weights(&self, path: &Path) -> io::Result<()> {
        let tensors = self.tensors();
        let mut end = 0;
        let mut header = Map::new();
        for (name, dims) in &tensors {
            let begin = end;
            end += 2 * dims.iter().product::<usize>();
            let entry = json!({ "dtype": "BF16", "shape": dims, "data_offsets": [begin, end] });
            header.insert(name.clone(), entry);
        }
        let header = Value::from(header).to_string();
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        let mut random = Random(SEED);
        for (name, dims) in &tensors {
            let count: usize = dims.iter().product();
            if name.ends_with("norm.weight") {
                file.write_all(&ONE.to_le_bytes().repeat(count))?;
                continue;
            }
            for _ in 0..count / 4 {
                file.write_all(&random.four_weights())?;
            }
        }
        file.flush()
    }
}

// === impl Random ===

impl Random {
    /// Four weights in bf16. All dimensions here are multiples of four.
    fn four_weights(&mut self) -> [u8; 8] {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let mut weights = (bits ^ (bits >> 31)).to_le_bytes();
        for weight in weights.chunks_exact_mut(2) {
            let even = f32::from(i16::from_le_bytes([weight[0], weight[1]]));
            let value = even * (WEIGHT_MAX / 32_768.0);
            // The upper half of an f32 is a bf16.
            weight.copy_from_slice(&value.to_le_bytes()[2..]);
        }
        weights
    }
}
