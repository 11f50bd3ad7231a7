//! Agreement with Hugging Face transformers, on the checkpoints of `tests/reference`: each is a
//! tiny random model with the log-probabilities and greedy tokens that transformers computes.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that prints a table")]

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use playhouse_collectives::Communicator;
use playhouse_model::{Checkpoint, Chunk, Dtype, KvCache, Model, ModelConfig, Weights};
use playhouse_ops::Threads;
use playhouse_types::{BLOCK_TOKENS, BlockId, TokenId};
use safetensors::SafeTensors;
use serde::Deserialize;

/// Most that a log-probability may differ, by stored type.
const TOLERANCES: [(&str, f32); 3] = [("float32", 2e-3), ("bfloat16", 0.1), ("float16", 0.1)];

#[derive(Deserialize)]
struct Reference {
    dtype: String,
    prompts: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    tokens: Vec<TokenId>,
    greedy: Vec<TokenId>,
}

/// Every case of the folder, in order of name.
fn cases() -> Vec<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/reference"));
    let entries = fs::read_dir(folder).unwrap_or_else(|error| {
        panic!("{}: {error}; the reference checkpoints belong there", folder.display())
    });
    let mut cases: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    cases.retain(|path| path.join("reference.json").exists());
    cases.sort();
    assert!(!cases.is_empty(), "{}: no reference checkpoint", folder.display());
    cases
}

fn load(folder: &Path) -> Model {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let config = ModelConfig::read(&checkpoint).unwrap();
    let dtype = Dtype::Auto.or(config.dtype);
    let weights = Weights::load(&checkpoint, &config.spec, dtype, |_, _| ()).unwrap();
    let threads = Threads::new(NonZeroUsize::new(2).unwrap());
    Model::new(config.spec, weights, Communicator::solo(), threads)
}

/// Logits after every token: the prompt in one chunk, then one greedy token at a time, as
/// `generate` of transformers does. Also the greedy tokens.
fn generate(model: &Model, prompt: &Prompt) -> (Vec<Vec<f32>>, Vec<TokenId>) {
    let blocks = (prompt.tokens.len() + prompt.greedy.len()).div_ceil(BLOCK_TOKENS);
    let cache = KvCache::new(model.spec(), blocks, model.dtype()).unwrap();
    let table: Vec<_> = (0..blocks).rev().map(|block| BlockId(block as u32)).collect();
    let feed = |tokens: Vec<TokenId>, start| {
        let (prompt_tokens, outputs) = (prompt.tokens.len(), 0..tokens.len());
        let chunk = Chunk { tokens, start, prompt_tokens, blocks: table.clone(), outputs };
        let hidden = model.forward(&[chunk], &cache).unwrap();
        model.logits(&hidden, 0..hidden.len()).unwrap()
    };
    let mut logits = feed(prompt.tokens.clone(), 0);
    let mut greedy = Vec::new();
    loop {
        let last = logits.last().unwrap();
        let best = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
        greedy.push(best as TokenId);
        if greedy.len() == prompt.greedy.len() {
            return (logits, greedy);
        }
        logits.extend(feed(vec![best as TokenId], logits.len()));
    }
}

fn log_softmax(logits: &[f32]) -> impl Iterator<Item = f32> {
    let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|logit| f64::from(logit - best).exp()).sum();
    let log_sum = sum.ln() as f32;
    logits.iter().map(move |logit| logit - best - log_sum)
}

/// The larger deviation; NaN is the largest, unlike for `f32::max`.
fn worse(a: f32, b: f32) -> f32 {
    if b > a || b.is_nan() { b } else { a }
}

#[test]
fn greedy_tokens_and_logprobs_equal_those_of_transformers() {
    let mut failures = Vec::new();
    println!("{:28} {:9} {:>12} {:>9}", "case", "type", "max |Δ|", "allowed");
    for folder in cases() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let json = fs::read(folder.join("reference.json")).unwrap();
        let reference: Reference = serde_json::from_slice(&json).unwrap();
        let bytes = fs::read(folder.join("reference.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let allowed = TOLERANCES.iter().find(|(dtype, _)| *dtype == reference.dtype).unwrap().1;

        let model = load(&folder);
        let mut deviation = 0_f32;
        for (index, prompt) in reference.prompts.iter().enumerate() {
            let (logits, greedy) = generate(&model, prompt);
            if greedy != prompt.greedy {
                failures.push(format!("{name} prompt {index}: {greedy:?} for {:?}", prompt.greedy));
                continue;
            }
            let expected = tensors.tensor(&format!("logprobs.{index}")).unwrap();
            assert_eq!(expected.shape(), [logits.len(), logits[0].len()], "{name}");
            let expected =
                expected.data().chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap()));
            let found = logits.iter().flat_map(|row| log_softmax(row));
            deviation = expected.zip(found).map(|(a, b)| (a - b).abs()).fold(deviation, worse);
        }
        println!("{name:28} {:9} {deviation:>12.2e} {allowed:>9.0e}", reference.dtype);
        if deviation.is_nan() || deviation > allowed {
            failures.push(format!("{name}: log-probabilities differ by {deviation}"));
        }
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
