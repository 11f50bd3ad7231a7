//! From the files of a checkpoint to what the layers above the ranks need of it.

use std::borrow::Cow;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use playhouse_cluster::{FrontDoor, ShardState};
use playhouse_gateway::{ChatTemplate, Tokenizer};
use playhouse_layout::{GenerationDefaults, ModelShape};
use playhouse_model::Checkpoint;
use tokio::time::interval;

use crate::demo;
use crate::error::CliError;
use crate::progress::{Progress, Unit};

/// Often enough for an eye.
const SHOWN_EVERY: Duration = Duration::from_millis(100);

/// What the files of a checkpoint amount to.
pub(crate) struct Loaded {
    /// What to call the model: `demo`, or the name of its folder.
    pub(crate) name: String,
    /// Where it came from, for people.
    pub(crate) source: String,
    /// Its folder, absolute; none if it is embedded.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) shape: ModelShape,
    pub(crate) generation: GenerationDefaults,
}

/// How a model reads and writes.
pub(crate) struct Language {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: Option<ChatTemplate>,
}

/// Reads everything but the weights of the checkpoint in `folder`, or of the embedded one.
///
/// # Errors
/// The first thing that is wrong with it, by file and key.
pub(crate) fn load(folder: Option<&Path>) -> Result<(Loaded, Language), CliError> {
    let checkpoint = match folder {
        Some(folder) => Checkpoint::open(folder).map_err(refused)?,
        None => Checkpoint::embedded(demo::FILES),
    };
    let shape = checkpoint.shape().map_err(refused)?;
    let generation = checkpoint.generation_defaults(&shape).map_err(refused)?;
    let tokenizer = tokenizer(&checkpoint).map_err(CliError::failure)?;
    let template = template(&checkpoint).map_err(CliError::failure)?;

    let (name, source) = match folder {
        Some(folder) => (name(folder), folder.display().to_string()),
        None => ("demo".to_owned(), "embedded".to_owned()),
    };
    // The checkpoint could be opened, so its path is one.
    let folder = folder.and_then(|folder| folder.canonicalize().ok());
    let loaded = Loaded { name, source, folder, checkpoint, shape, generation };
    Ok((loaded, Language { tokenizer, template }))
}

/// Shows how far the ranks have come with their weights, for as long as it is polled.
pub(crate) async fn show(door: &FrontDoor) -> Infallible {
    let mut ticks = interval(SHOWN_EVERY);
    let mut progress: Option<Progress> = None;
    loop {
        ticks.tick().await;
        let replicas = door.replicas();
        let stages = replicas.iter().flat_map(|replica| &replica.stages);
        let shards: Vec<_> = stages.flat_map(|stage| &stage.shards).collect();
        let read = shards.iter().map(|shard| match shard.state {
            ShardState::Ready => shard.share.weight_bytes,
            // What is held may be less than what is read for it.
            ShardState::Loading { bytes, of } => {
                (shard.share.weight_bytes as f64 * bytes as f64 / of.max(1) as f64) as u64
            }
            ShardState::Starting | ShardState::Lost => 0,
        });
        let all = shards.iter().map(|shard| shard.share.weight_bytes).sum();
        let start = || Progress::start("loading weights", all, Unit::Bytes);
        match read.sum() {
            0 => {}
            read => progress.get_or_insert_with(start).set(read),
        }
    }
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
