//! From files to a model that can run, with progress on the way.

use std::borrow::Cow;
use std::num::NonZeroUsize;
use std::path::Path;
use std::thread;

use playhouse_gateway::{ChatTemplate, Tokenizer};
use playhouse_model::{Checkpoint, Dtype, GenerationDefaults, ModelConfig, Weights};
use playhouse_types::{DecoderSpec, ParallelSpec};

use crate::demo;
use crate::error::CliError;
use crate::progress::{Progress, Unit};
use crate::ranks::{self, Ranks};

/// What the files of a checkpoint amount to.
pub(crate) struct Loaded {
    /// What to call the model: `demo`, or the name of its folder.
    pub(crate) name: String,
    /// Where it came from, for people.
    pub(crate) source: String,
    pub(crate) architecture: &'static str,
    pub(crate) spec: DecoderSpec,
    pub(crate) ranks: Ranks,
    pub(crate) generation: GenerationDefaults,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: Option<ChatTemplate>,
}

/// Loads the checkpoint in `folder`, or the embedded one.
///
/// # Errors
/// The first thing that is wrong with it, by file and key.
pub(crate) fn load(
    folder: Option<&Path>,
    parallel: &ParallelSpec,
    dtype: Dtype,
    threads: Option<NonZeroUsize>,
) -> Result<Loaded, CliError> {
    let checkpoint = match folder {
        Some(folder) => Checkpoint::open(folder).map_err(refused)?,
        None => Checkpoint::embedded(demo::FILES),
    };
    let config = ModelConfig::read(&checkpoint).map_err(refused)?;
    let generation = GenerationDefaults::read(&checkpoint, &config).map_err(refused)?;
    let tokenizer = tokenizer(&checkpoint).map_err(CliError::failure)?;
    let template = template(&checkpoint).map_err(CliError::failure)?;

    let shards = ranks::shards(&checkpoint, parallel, &config.spec)?;
    let load = |shard| {
        let mut progress = None;
        let dtype = dtype.or(config.dtype);
        Weights::load(&checkpoint, &config.spec, shard, dtype, |done, total| {
            let start = || Progress::start("loading weights", total as u64, Unit::Bytes);
            progress.get_or_insert_with(start).set(done as u64);
        })
    };
    let weights = shards.iter().map(load).collect::<Result<Vec<_>, _>>();
    let weights = weights.map_err(refused)?;

    let threads = threads.or_else(|| thread::available_parallelism().ok());
    let ranks = Ranks::new(parallel, weights, threads.unwrap_or(NonZeroUsize::MIN));
    let (architecture, spec) = (config.architecture, config.spec);
    let (name, source) = match folder {
        Some(folder) => (name(folder), folder.display().to_string()),
        None => ("demo".to_owned(), "embedded".to_owned()),
    };
    Ok(Loaded { name, source, architecture, spec, ranks, generation, tokenizer, template })
}

/// Reads `tokenizer.json`.
///
/// # Errors
/// What is wrong with it, for a person.
pub(crate) fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer, String> {
    let file = "tokenizer.json";
    let bytes = checkpoint.require(file).map_err(|why| why.to_string())?;
    Tokenizer::from_bytes(&bytes).map_err(|why| format!("{file}: {why}"))
}

/// Reads the chat template, from wherever the checkpoint has it.
///
/// # Errors
/// What is wrong with it, for a person.
pub(crate) fn template(checkpoint: &Checkpoint) -> Result<Option<ChatTemplate>, String> {
    let text = |file: &str| -> Result<Option<String>, String> {
        let bytes = checkpoint.read(file).map_err(|why| why.to_string())?;
        let text = bytes.map(Cow::into_owned).map(String::from_utf8).transpose();
        text.map_err(|why| format!("{file}: not UTF-8: {why}"))
    };
    let (config, template) = (text("tokenizer_config.json")?, text("chat_template.jinja")?);
    ChatTemplate::from_files(config.as_deref(), template.as_deref()).map_err(|why| why.to_string())
}

fn name(folder: &Path) -> String {
    let name = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    name.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn refused(why: impl std::fmt::Display) -> CliError {
    CliError::failure(why.to_string())
}
