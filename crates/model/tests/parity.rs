//! Agreement with Hugging Face transformers, on the checkpoints of `tests/reference`: each is a
//! tiny random model with the log-probabilities and greedy tokens that transformers computes.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that prints a table")]

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use playhouse_collectives::{AbortHandle, Communicator, GroupSpec, Member, Secret};
use playhouse_layout::RankMap;
use playhouse_model::{
    Checkpoint, Chunk, Dtype, Groups, KvCache, Model, Shard, Weights, checkpoint_shape,
};
use playhouse_ops::Threads;
use playhouse_types::{BlockId, BlockSize, DecoderSpec, ParallelSpec, TokenId};
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

/// `(tensor, pipeline)` widths.
const LAYOUTS: [(usize, usize); 8] =
    [(1, 1), (2, 1), (4, 1), (8, 1), (1, 2), (1, 3), (2, 2), (2, 3)];

/// Logits after every token, and the greedy tokens.
type Generated = (Vec<Vec<f32>>, Vec<TokenId>);

/// How the ranks of a test learn the tokens that one of them chose.
enum Tokens {
    Chosen(Vec<SyncSender<TokenId>>),
    Heard(Receiver<TokenId>),
}

fn load(folder: &Path, shard: impl FnOnce(&DecoderSpec) -> Shard, groups: Groups) -> Model {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let shape = checkpoint_shape(&checkpoint).unwrap();
    let dtype = Dtype::Auto.or(shape.dtype);
    let shard = shard(&shape.spec);
    let weights = Weights::load(&checkpoint, &shape.spec, &shard, dtype, |_, _| ()).unwrap();
    let threads = Threads::new(NonZeroUsize::new(2).unwrap());
    Model::new(&shape.spec, weights, groups, threads.into())
}

/// What all prompts give on `tensor * pipeline` ranks, each a thread. `None` when the model cannot
/// be split so.
fn generate_on(
    folder: &Path,
    prompts: &[Prompt],
    (tensor, pipeline): (usize, usize),
) -> Option<Vec<Generated>> {
    let spec = checkpoint_shape(&Checkpoint::open(folder).unwrap()).unwrap().spec;
    let layers = spec.layers.len();
    let number = |count: usize| u32::try_from(count).unwrap();
    let (tensor, pipeline) = (number(tensor), number(pipeline));
    let layout = ParallelSpec { tensor, pipeline, ..ParallelSpec::default() };
    let map = &RankMap::of_layers(&layout, layers as u64);
    if map.ranks().any(|at| Shard::new(&spec, &map.share(&at)).is_err()) {
        return None;
    }
    let others = map.replica_ranks() - 1;
    let (senders, receivers): (Vec<_>, Vec<_>) = (0..others).map(|_| sync_channel(1)).unzip();
    let mut tokens: Vec<_> = receivers.into_iter().map(Tokens::Heard).collect();
    let samples = map.ranks().position(|at| map.samples(at.rank)).unwrap();
    tokens.insert(samples, Tokens::Chosen(senders));
    std::thread::scope(|scope| {
        let name = folder.file_name().unwrap().to_string_lossy();
        let threads: Vec<_> = map
            .ranks()
            .zip(tokens)
            .map(|(at, tokens)| {
                let groups = map.group_kinds().into_iter().map(|kind| {
                    let (place, ranks) = map.group_of(kind, at.rank);
                    let group = format!("{name}-{tensor}-{pipeline}-{}-{}", kind.label(), ranks[0]);
                    (kind, group, ranks.len(), place)
                });
                let groups: Vec<_> = groups.collect();
                scope.spawn(move || {
                    let joined = groups
                        .into_iter()
                        .map(|(kind, group, size, place)| (kind, join(group, size, place)));
                    let shard = |spec: &_| Shard::new(spec, &map.share(&at)).unwrap();
                    let model = load(folder, shard, joined.collect());
                    let generate = |prompt| generate(&model, prompt, &tokens);
                    prompts.iter().map(generate).collect::<Vec<_>>()
                })
            })
            .collect();
        let mut all: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        Some(all.swap_remove(samples))
    })
}

fn join(group: String, size: usize, rank: usize) -> Communicator {
    let member = Member { machine: "here".to_owned(), address: None };
    let spec = GroupSpec {
        group: format!("parity-{}-{group}", std::process::id()),
        epoch: 1,
        secret: Secret([7; 32]),
        members: vec![member; size],
        timeout: Duration::from_secs(60),
        buffer_bytes: GroupSpec::collective_buffer_bytes(size),
    };
    Communicator::join(&spec, rank, None, &AbortHandle::new()).unwrap()
}

/// The prompt in one chunk, then one greedy token at a time, as `generate` of transformers does. A
/// rank without logits gives none, and hears of the tokens.
fn generate(model: &Model, prompt: &Prompt, tokens: &Tokens) -> Generated {
    let blocks = BlockSize::CPU.blocks_for(prompt.tokens.len() + prompt.greedy.len());
    let cache = KvCache::new(model.spec(), blocks, BlockSize::CPU, model.dtype()).unwrap();
    let table: Vec<_> = (0..blocks).rev().map(|block| BlockId(block as u32)).collect();
    let feed = |tokens: &[TokenId], start| {
        let (prompt_tokens, outputs) = (prompt.tokens.len(), 0..tokens.len());
        let chunk = Chunk { tokens, start, prompt_tokens, blocks: &table, outputs };
        let hidden = model.forward(&[chunk], &cache).unwrap();
        let logits = hidden.and_then(|hidden| model.logits(&hidden, 0..hidden.len()).unwrap());
        logits.map_or_else(Vec::new, |logits| logits.to_vec2::<f32>().unwrap())
    };
    let mut logits = feed(&prompt.tokens, 0);
    let mut greedy = Vec::new();
    loop {
        let token = match tokens {
            Tokens::Heard(chosen) => chosen.recv().unwrap(),
            Tokens::Chosen(others) => {
                let last = logits.last().unwrap();
                let best = (0..last.len()).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
                others.iter().for_each(|other| other.send(best as TokenId).unwrap());
                best as TokenId
            }
        };
        greedy.push(token);
        if greedy.len() == prompt.greedy.len() {
            return (logits, greedy);
        }
        logits.extend(feed(&[token], prompt.tokens.len() + greedy.len() - 1));
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
fn greedy_tokens_and_logprobs_equal_those_of_transformers_however_ranks_are_split() {
    let mut failures = Vec::new();
    let mut split = 0;
    println!("{:28} {:7} {:9} {:>12} {:>9}", "case", "TP × PP", "type", "max |Δ|", "allowed");
    for folder in cases() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let json = fs::read(folder.join("reference.json")).unwrap();
        let reference: Reference = serde_json::from_slice(&json).unwrap();
        let bytes = fs::read(folder.join("reference.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let allowed = TOLERANCES.iter().find(|(dtype, _)| *dtype == reference.dtype).unwrap().1;

        for layout @ (tensor, pipeline) in LAYOUTS {
            let Some(generated) = generate_on(&folder, &reference.prompts, layout) else {
                continue;
            };
            let case = format!("{name:28} {tensor} × {pipeline}");
            split += usize::from(layout != (1, 1));
            let mut deviation = 0_f32;
            for (index, (prompt, (logits, greedy))) in
                reference.prompts.iter().zip(generated).enumerate()
            {
                if greedy != prompt.greedy {
                    failures
                        .push(format!("{case} prompt {index}: {greedy:?} for {:?}", prompt.greedy));
                    continue;
                }
                let expected = tensors.tensor(&format!("logprobs.{index}")).unwrap();
                assert_eq!(expected.shape(), [logits.len(), logits[0].len()], "{case}");
                let expected = expected
                    .data()
                    .chunks_exact(4)
                    .map(|b| f32::from_le_bytes(b.try_into().unwrap()));
                let found = logits.iter().flat_map(|row| log_softmax(row));
                deviation = expected.zip(found).map(|(a, b)| (a - b).abs()).fold(deviation, worse);
            }
            println!("{case}   {:9} {deviation:>12.2e} {allowed:>9.0e}", reference.dtype);
            if deviation.is_nan() || deviation > allowed {
                failures.push(format!("{case}: log-probabilities differ by {deviation}"));
            }
        }
    }
    assert!(split >= 40, "{split} splits were tried");
    assert!(failures.is_empty(), "{failures:#?}");
}
