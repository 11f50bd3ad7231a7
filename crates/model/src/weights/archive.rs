//! Safetensors files, and the position of each tensor of a checkpoint in them.
//!
//! The header is checked here rather than by `safetensors::SafeTensors`, which keeps the last of
//! two entries with one name and whose sum of offsets can wrap around.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use safetensors::{Dtype as StoredDtype, tensor::TensorInfo};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use super::WeightsError;
use crate::Checkpoint;
use crate::checkpoint::{FileBytes, Needed, is_foreign};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const ENDING: &str = ".safetensors";
/// The files without an index, for messages.
const ALL: &str = "*.safetensors";
/// Bytes of the length before the header.
const LENGTH_BYTES: usize = 8;
/// Largest header, as in the safetensors format.
const HEADER_MAX: usize = 100_000_000;
/// Most files one checkpoint is split into.
const SHARDS_MAX: usize = 4096;

/// All tensors of a checkpoint, without copies.
pub(super) struct Archive {
    /// The file, or what names the files, for messages.
    place: &'static str,
    files: Vec<ShardFile>,
    tensors: HashMap<String, Entry>,
}

struct ShardFile {
    name: String,
    bytes: FileBytes,
}

struct Entry {
    file: usize,
    dtype: StoredDtype,
    shape: Vec<usize>,
    /// Range of the bytes within the file.
    range: Range<usize>,
}

/// One tensor, as stored.
pub(super) struct Stored<'a> {
    pub(super) file: &'a str,
    pub(super) dtype: StoredDtype,
    pub(super) shape: &'a [usize],
    pub(super) bytes: &'a [u8],
}

/// A JSON object with its order and its duplicates kept.
struct Pairs(Vec<(String, Value)>);

// === impl Archive ===

impl Archive {
    /// Maps `model.safetensors`, or the files that `model.safetensors.index.json` names, or without an index
    /// all safetensors files, as vLLM does.
    pub(super) fn open(checkpoint: &Checkpoint) -> Result<Self, WeightsError> {
        let mut archive = Self { place: INDEX, files: Vec::new(), tensors: HashMap::new() };
        if let Some(bytes) = checkpoint.map(SINGLE)? {
            archive.place = SINGLE;
            archive.add(SINGLE.to_owned(), bytes)?;
            return Ok(archive);
        }
        let Some(index) = checkpoint.read(INDEX)? else {
            archive.place = ALL;
            for name in without_index(checkpoint)? {
                let found = checkpoint.map(&name)?;
                let bytes = found.ok_or_else(|| checkpoint.missing(&name, Needed::Weights))?;
                archive.add(name, bytes)?;
            }
            return Ok(archive);
        };
        let index = parse_index(&index)?;
        for shard in shard_names(&index) {
            let bytes = checkpoint.map(shard)?.ok_or_else(|| {
                index_error(format!("names {shard}, which is missing; expected all its files"))
            })?;
            archive.add(shard.to_owned(), bytes)?;
        }
        archive.agree(&index)?;
        Ok(archive)
    }

    pub(super) fn get(&self, name: &str) -> Option<Stored<'_>> {
        let entry = self.tensors.get(name)?;
        let file = &self.files[entry.file];
        Some(Stored {
            file: &file.name,
            dtype: entry.dtype,
            shape: &entry.shape,
            bytes: &file.bytes[entry.range.clone()],
        })
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Returns the name, the header and the rest of each file, in the order of their names.
    pub(super) fn parts(&self) -> impl Iterator<Item = (&str, &[u8], &[u8])> {
        self.files.iter().map(|ShardFile { name, bytes }| {
            // The length was checked when the header was read.
            let length = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
            let header = (LENGTH_BYTES + length as usize).min(bytes.len());
            let (header, rest) = bytes.split_at(header);
            (name.as_str(), header, rest)
        })
    }

    /// Checks that the files are still as they were when opened; to be called after reading.
    pub(super) fn check(&self) -> Result<(), WeightsError> {
        let changed = |file: &ShardFile| {
            let reason = file.bytes.check().err()?.to_string();
            Some(WeightsError::File { file: file.name.clone(), reason })
        };
        self.files.iter().find_map(changed).map_or(Ok(()), Err)
    }

    /// Returns the file names for messages.
    pub(super) fn place(&self) -> &str {
        if let [file] = &self.files[..] { &file.name } else { self.place }
    }

    fn add(&mut self, name: String, bytes: FileBytes) -> Result<(), WeightsError> {
        let file = self.files.len();
        for (tensor, mut entry) in parse_header(&name, &bytes)? {
            entry.file = file;
            if let Some(other) = self.tensors.insert(tensor.clone(), entry) {
                let reason = match other.file == file {
                    true => "found twice, expected once".to_owned(),
                    false => format!("found in {} too", self.files[other.file].name),
                };
                return Err(WeightsError::Tensor { file: name, tensor, reason });
            }
        }
        self.files.push(ShardFile { name, bytes });
        Ok(())
    }

    /// Checks that every tensor lies in the file that the index gives.
    fn agree(&self, index: &[(String, String)]) -> Result<(), WeightsError> {
        for (tensor, shard) in index {
            let found = self.tensors.get(tensor).map(|entry| self.files[entry.file].name.as_str());
            if found != Some(shard) {
                let found = found.unwrap_or("no file");
                let reason = format!("found in {found}, expected in {shard} as {INDEX} says");
                return Err(WeightsError::Tensor {
                    file: shard.clone(),
                    tensor: tensor.clone(),
                    reason,
                });
            }
        }
        Ok(())
    }
}

/// Returns the names of all safetensors files of the model. Files that are numbered must all be there.
fn without_index(checkpoint: &Checkpoint) -> Result<Vec<String>, WeightsError> {
    let mut names = checkpoint.names();
    names.retain(|name| name.ends_with(ENDING) && !is_foreign(name));
    if names.is_empty() {
        return Err(checkpoint.missing(SINGLE, Needed::Weights).into());
    }
    if names.len() > SHARDS_MAX {
        let reason = format!("found {} files, expected at most {SHARDS_MAX}", names.len());
        return Err(WeightsError::File { file: ALL.to_owned(), reason });
    }
    let numbered = names.iter().find_map(|name| numbered(name));
    if let Some((start, count)) = numbered {
        let gone = |at: &usize| !names.contains(&format!("{start}-{at:05}-of-{count:05}{ENDING}"));
        if let Some(first) = (1..=count).find(gone) {
            let file = format!("{start}-{first:05}-of-{count:05}{ENDING}");
            let there = count - (1..=count).filter(gone).count();
            let reason = format!("missing; {there} of {count} such files are there");
            return Err(WeightsError::File { file, reason });
        }
    }
    Ok(names)
}

/// Returns what comes before the number of a file such as `model-00002-of-00003.safetensors`, and how many
/// such files there should be.
fn numbered(name: &str) -> Option<(&str, usize)> {
    let (start, count) = name.strip_suffix(ENDING)?.rsplit_once("-of-")?;
    let (start, number) = start.rsplit_once('-')?;
    let count = count.parse().ok().filter(|count| (1..=SHARDS_MAX).contains(count))?;
    number.parse::<usize>().ok().map(|_| (start, count))
}

/// Parses the `weight_map` of the index: pairs of tensor and file.
fn parse_index(json: &[u8]) -> Result<Vec<(String, String)>, WeightsError> {
    let Pairs(top) = serde_json::from_slice(json)
        .map_err(|error| index_error(format!("expected a JSON object: {error}")))?;
    let map = top.into_iter().find(|(key, _)| key == "weight_map");
    let Some((_, Value::Object(map))) = map else {
        return Err(index_error("key `weight_map`: expected an object"));
    };
    let pair = |(tensor, shard): (String, Value)| match shard {
        Value::String(shard) => Ok((tensor, shard)),
        _ => Err(index_error(format!("key `weight_map.{tensor}`: expected a file name"))),
    };
    let index: Vec<_> = map.into_iter().map(pair).collect::<Result<_, _>>()?;
    let shards = shard_names(&index).len();
    if shards > SHARDS_MAX {
        let reason = format!("names {shards} files, expected at most {SHARDS_MAX}");
        return Err(index_error(reason));
    }
    Ok(index)
}

fn shard_names(index: &[(String, String)]) -> Vec<&str> {
    let mut shards: Vec<_> = index.iter().map(|(_, shard)| shard.as_str()).collect();
    shards.sort_unstable();
    shards.dedup();
    shards
}

fn index_error(reason: impl Into<String>) -> WeightsError {
    WeightsError::File { file: INDEX.to_owned(), reason: reason.into() }
}

/// Parses the tensors of one file. Entries must follow one another without gap or overlap from the header to
/// the end of the file, as the format demands.
fn parse_header(file: &str, bytes: &[u8]) -> Result<Vec<(String, Entry)>, WeightsError> {
    let fail = |reason: String| WeightsError::File { file: file.to_owned(), reason };
    let length = bytes
        .first_chunk::<LENGTH_BYTES>()
        .ok_or_else(|| fail(format!("found {} bytes, expected a safetensors file", bytes.len())))?;
    let data_start = usize::try_from(u64::from_le_bytes(*length))
        .ok()
        .filter(|&length| length <= HEADER_MAX.min(bytes.len() - LENGTH_BYTES))
        .map(|length| LENGTH_BYTES + length)
        .ok_or_else(|| {
            let length = u64::from_le_bytes(*length);
            let size = bytes.len();
            fail(format!("found a header of {length} bytes in a file of {size}; is it cut short?"))
        })?;
    let Pairs(header) = serde_json::from_slice(&bytes[LENGTH_BYTES..data_start])
        .map_err(|error| fail(format!("expected a JSON object as header: {error}")))?;

    let mut entries = Vec::with_capacity(header.len());
    for (tensor, value) in header {
        if tensor == "__metadata__" {
            continue;
        }
        let info: TensorInfo =
            serde_json::from_value(value).map_err(|error| WeightsError::Tensor {
                file: file.to_owned(),
                tensor: tensor.clone(),
                reason: error.to_string(),
            })?;
        entries.push((tensor, info));
    }
    entries.sort_by_key(|(_, info)| info.data_offsets);
    let mut end = 0;
    let mut placed = Vec::with_capacity(entries.len());
    for (tensor, info) in entries {
        let data_bytes = bytes.len() - data_start;
        let range = place(&info, end, data_bytes).map_err(|reason| WeightsError::Tensor {
            file: file.to_owned(),
            tensor: tensor.clone(),
            reason,
        })?;
        end = range.end;
        let range = data_start + range.start..data_start + range.end;
        placed.push((tensor, Entry { file: 0, dtype: info.dtype, shape: info.shape, range }));
    }
    if data_start + end != bytes.len() {
        let (found, expected) = (bytes.len(), data_start + end);
        return Err(fail(format!("found {found} bytes, expected {expected} as its header says")));
    }
    Ok(placed)
}

/// Returns the range of a tensor that must begin at `start`, in a data section of `data_bytes`.
fn place(info: &TensorInfo, start: usize, data_bytes: usize) -> Result<Range<usize>, String> {
    let (first, last) = info.data_offsets;
    if first != start {
        return Err(format!("found at byte {first} of the data, expected at {start}"));
    }
    if last < first || last > data_bytes {
        return Err(format!("found to end at byte {last} of {data_bytes} of data"));
    }
    let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |bits, &n| bits.checked_mul(n));
    match bits {
        Some(bits) if bits % 8 == 0 && bits / 8 == last - first => Ok(first..last),
        _ => Err(format!(
            "found {} bytes, expected those of shape {:?} in {:?}",
            last - first,
            info.shape,
            info.dtype
        )),
    }
}

// === impl Pairs ===

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}
