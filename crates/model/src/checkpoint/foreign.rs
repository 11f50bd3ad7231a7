//! What a folder holds in place of a file that is missing, and what its owner can do about it.
//!
//! Judged by the names of files alone: nothing foreign is opened.

use std::path::Path;

/// A kind of file that every checkpoint has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needed {
    Config,
    Tokenizer,
    Weights,
}

/// Formats of whole models, each with the endings of its files and what to do about it.
const FORMATS: &[(&[&str], &str)] = &[
    (
        &[".gguf", ".ggml"],
        "in GGUF, the format of llama.cpp, which is not read: take the model that it was made from, \
         in the safetensors format",
    ),
    (
        &[".bin", ".pt", ".pth", ".ckpt"],
        "in PyTorch's pickle format, which can run code when it is read: convert it to the \
         safetensors format with transformers, \
         `AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(FOLDER)`",
    ),
    (
        &[".h5", ".msgpack", ".onnx", ".npz", ".tflite"],
        "in a format that is not read: take the model in the safetensors format",
    ),
];

const ADAPTER: &str = "has a LoRA adapter (adapter_config.json), which is no whole model: merge it into \
                       its base model with peft's `merge_and_unload()` and save that";

const CACHE: &str = "is a repository of the Hugging Face cache: give one of its revisions, a folder in \
                     `snapshots`";

/// Returns what the folder has in place of what is missing, as the end of a sentence; empty if there is
/// nothing to say.
pub(crate) fn advice(needed: Needed, names: &[String]) -> String {
    let has = |name: &str| names.iter().any(|it| it == name);
    let found = match needed {
        Needed::Tokenizer => tokenizer(names),
        _ if has("adapter_config.json") => Some(ADAPTER.to_owned()),
        Needed::Config if has("snapshots") => Some(CACHE.to_owned()),
        Needed::Config | Needed::Weights => original(names).or_else(|| format_of(names)),
    };
    match (found, needed) {
        (Some(what), _) => format!("; the folder {what}"),
        (None, Needed::Weights) => " and so is every other safetensors file".to_owned(),
        (None, _) => String::new(),
    }
}

/// Returns what a file is that was given in place of a folder, as the end of a sentence.
pub(crate) fn of_file(path: &Path) -> String {
    let name = path.to_string_lossy().to_lowercase();
    let of_format = |(endings, what): &(&[&str], &str)| {
        endings.iter().any(|ending| name.ends_with(ending)).then(|| format!(" {what}"))
    };
    FORMATS.iter().find_map(of_format).unwrap_or_default()
}

/// Returns whether a safetensors file belongs to something else than the model in the format of Hugging
/// Face.
pub(crate) fn is_foreign(name: &str) -> bool {
    name.starts_with("consolidated") || name.starts_with("adapter_model")
}

/// Names a checkpoint in the format of its makers, as Mistral and Meta publish them.
fn original(names: &[String]) -> Option<String> {
    let found =
        names.iter().find(|name| *name == "params.json" || name.starts_with("consolidated"))?;
    Some(format!(
        "has {found}, of a checkpoint in its makers' own format: take the version for \
         transformers, with config.json and model.safetensors"
    ))
}

fn format_of(names: &[String]) -> Option<String> {
    FORMATS.iter().find_map(|(endings, what)| {
        let of_format = |name: &&String| {
            endings.iter().any(|ending| name.ends_with(ending)) && !is_of_training(name)
        };
        let found = names.iter().find(of_format)?;
        Some(format!("has {found}, {what}"))
    })
}

/// Returns whether a file is the state of a trainer, which has the ending of weights.
fn is_of_training(name: &str) -> bool {
    ["training_args", "optimizer", "scheduler", "rng_state", "scaler"]
        .iter()
        .any(|start| name.starts_with(start))
}

fn tokenizer(names: &[String]) -> Option<String> {
    let known = ["tokenizer.model", "tekken.json", "vocab.json", "vocab.txt", "spiece.model"];
    let of_kind = |name: &&String| known.contains(&name.as_str()) || name.ends_with(".tiktoken");
    let found = names.iter().find(of_kind)?;
    Some(format!(
        "has {found}, and only tokenizer.json is read: take it from the model's \
         repository, or write it with transformers, \
         `AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)`"
    ))
}
