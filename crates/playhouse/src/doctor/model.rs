//! Is a folder a model in Hugging Face format, complete and unhurt as far as names and headers
//! tell? Weights are not read.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use serde_json::{Map, Value};

use super::Check;

/// Longest JSON file that is read. Tokenizers of large vocabularies take some 30 MB.
const JSON_BYTES_MAX: u64 = 256 << 20;
/// Longest header of a safetensors file (the limit of the format's own library).
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// All checks of the model in `folder`.
pub(super) fn checks(folder: &Path) -> Vec<Check> {
    if !folder.is_dir() {
        let detail = format!("{} is not a folder", folder.display());
        return vec![Check::fail("model", detail, "give a folder in Hugging Face format")];
    }
    vec![config(folder), tokenizer(folder), chat_template(folder), weights(folder)]
}

fn config(folder: &Path) -> Check {
    let hint = "a model folder has the config.json of its checkpoint";
    let config = match json(folder, "config.json") {
        Ok(config) => config,
        Err(why) => return Check::fail("config", why, hint),
    };
    let architecture = config.get("architectures").and_then(|names| names.get(0));
    match architecture.and_then(Value::as_str) {
        Some(name) => Check::ok("config", name),
        None => Check::fail("config", "config.json names no architecture", hint),
    }
}

fn tokenizer(folder: &Path) -> Check {
    let hint = "only tokenizer.json is read; transformers' save_pretrained() writes it";
    match json(folder, "tokenizer.json") {
        Ok(tokenizer) => {
            let kind = tokenizer.get("model").and_then(|model| model.get("type"));
            let kind = kind.and_then(Value::as_str).unwrap_or("of unnamed kind");
            Check::ok("tokenizer", kind)
        }
        Err(why) => Check::fail("tokenizer", why, hint),
    }
}

fn chat_template(folder: &Path) -> Check {
    let own = folder.join("chat_template.jinja");
    if own.is_file() {
        return Check::ok("chat template", "chat_template.jinja");
    }
    let config = json(folder, "tokenizer_config.json").unwrap_or_default();
    if config.contains_key("chat_template") {
        return Check::ok("chat template", "in tokenizer_config.json");
    }
    let hint = "/v1/completions works without one; chat needs chat_template.jinja";
    Check::warn("chat template", "none", hint)
}

fn weights(folder: &Path) -> Check {
    let files = match weight_files(folder) {
        Ok(files) => files,
        Err(why) => {
            let hint = "weights are model.safetensors, or the files of its index";
            return Check::fail("weights", why, hint);
        }
    };
    let (mut tensors, mut bytes) = (0, 0);
    for name in &files {
        match safetensors(&folder.join(name)) {
            Ok(found) => {
                tensors += found.tensors;
                bytes += found.bytes;
            }
            Err(why) => {
                let hint = "the file is incomplete or damaged: fetch it again";
                return Check::fail("weights", format!("{name}: {why}"), hint);
            }
        }
    }
    let size = bytes as f64 / 1e9;
    Check::ok("weights", format!("{tensors} tensors in {} files, {size:.2} GB", files.len()))
}

/// The files that hold the weights, by name.
fn weight_files(folder: &Path) -> Result<BTreeSet<String>, String> {
    let index = "model.safetensors.index.json";
    if !folder.join(index).is_file() {
        return Ok(BTreeSet::from(["model.safetensors".to_owned()]));
    }
    let map = json(folder, index)?;
    let map = map.get("weight_map").and_then(Value::as_object);
    let map = map.ok_or_else(|| format!("{index} has no weight_map"))?;
    let files: Option<BTreeSet<String>> =
        map.values().map(|file| file.as_str().map(str::to_owned)).collect();
    let files = files.ok_or_else(|| format!("{index}: a file name is not a string"))?;
    match files.iter().find(|file| Path::new(file).components().count() != 1) {
        Some(outside) => Err(format!("{index}: {outside:?} is not the name of a file beside it")),
        None => Ok(files),
    }
}

struct Header {
    tensors: usize,
    bytes: u64,
}

/// Reads the header of a safetensors file and compares it with the length of the file.
fn safetensors(path: &Path) -> Result<Header, String> {
    let text = |error: io::Error| error.to_string();
    let mut file = File::open(path).map_err(text)?;
    let bytes = file.metadata().map_err(text)?.len();
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(text)?;
    let length = u64::from_le_bytes(length);
    if length > HEADER_BYTES_MAX || length > bytes - 8 {
        return Err(format!("the header claims {length} bytes of a file of {bytes}"));
    }
    let mut header = Vec::new();
    file.take(length).read_to_end(&mut header).map_err(text)?;
    let header: Map<String, Value> =
        serde_json::from_slice(&header).map_err(|error| format!("header: {error}"))?;
    let tensors = header.iter().filter(|(name, _)| *name != "__metadata__");
    let ends = tensors.clone().map(|(name, tensor)| {
        let end = tensor.get("data_offsets").and_then(|offsets| offsets.get(1));
        end.and_then(Value::as_u64).ok_or_else(|| format!("tensor {name} has no data_offsets"))
    });
    let end = ends.collect::<Result<Vec<u64>, String>>()?.into_iter().max().unwrap_or_default();
    let data = bytes - 8 - length;
    if end != data {
        return Err(format!("tensors end at byte {end} of the data, which has {data} bytes"));
    }
    Ok(Header { tensors: tensors.count(), bytes })
}

fn json(folder: &Path, name: &str) -> Result<Map<String, Value>, String> {
    let path = folder.join(name);
    let why = |error: io::Error| format!("{name}: {error}");
    let length = fs::metadata(&path).map_err(why)?.len();
    if length > JSON_BYTES_MAX {
        return Err(format!("{name} has {length} bytes; at most {JSON_BYTES_MAX} are read"));
    }
    let bytes = fs::read(&path).map_err(why)?;
    serde_json::from_slice(&bytes).map_err(|error| format!("{name}: {error}"))
}
