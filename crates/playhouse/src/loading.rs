//! From the files of a checkpoint to the data that the layers above the ranks need.

use std::borrow::Cow;
use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::time::Duration;

use playhouse_cluster::{FrontDoor, WeightsRead};
use playhouse_gateway::{ChatTemplate, Tokenizer};
use playhouse_layout::{GenerationDefaults, ModelShape};
use playhouse_model::{Checkpoint, checkpoint_shape};
use tokio::time::interval;

use crate::demo;
use crate::error::CliError;
use crate::progress::{Progress, Unit};

/// The interval of the display: often enough for an eye.
const SHOWN_EVERY: Duration = Duration::from_millis(100);

/// The data read from the files of a checkpoint.
pub(crate) struct Loaded {
    /// The name of the model: `demo`, or the name of its folder.
    pub(crate) name: String,
    /// The source of the checkpoint, as text.
    pub(crate) source: String,
    /// The absolute path of its folder; `None` if it is embedded.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) shape: ModelShape,
    pub(crate) generation: GenerationDefaults,
}

/// The tokenizer and the template of a model.
pub(crate) struct Language {
    pub(crate) tokenizer: Tokenizer,
    pub(crate) template: Option<ChatTemplate>,
}

/// Reads all but the weights of the checkpoint in `folder`, or of the embedded one.
///
/// # Errors
/// Returns the first problem of the checkpoint, with its file and key.
pub(crate) fn load(folder: Option<&Path>) -> Result<(Loaded, Language), CliError> {
    let checkpoint = match folder {
        Some(folder) => Checkpoint::open(folder).map_err(refused)?,
        None => Checkpoint::embedded(demo::FILES),
    };
    let shape = checkpoint_shape(&checkpoint).map_err(refused)?;
    let generation = checkpoint.generation_defaults(&shape).map_err(refused)?;
    let tokenizer = tokenizer(&checkpoint).map_err(CliError::failure)?;
    let template = template(&checkpoint).map_err(CliError::failure)?;

    let (name, source) = match folder {
        Some(folder) => (name(folder), folder.display().to_string()),
        None => ("demo".to_owned(), "embedded".to_owned()),
    };
    // The checkpoint could be opened, so its path exists.
    let folder = folder.and_then(|folder| folder.canonicalize().ok());
    let loaded = Loaded { name, source, folder, checkpoint, shape, generation };
    Ok((loaded, Language { tokenizer, template }))
}

/// Shows the progress of the ranks' weights, for as long as the future is polled.
pub(crate) async fn show(door: &FrontDoor) -> Infallible {
    let mut ticks = interval(SHOWN_EVERY);
    let mut shown = ShownWeights { door, progress: None };
    loop {
        ticks.tick().await;
        shown.update();
    }
}

/// The display of the ranks' weights. Dropping it shows how far they are at the end.
struct ShownWeights<'a> {
    door: &'a FrontDoor,
    /// The display, once a rank reads.
    progress: Option<Progress>,
}

// === impl ShownWeights ===

impl ShownWeights<'_> {
    fn update(&mut self) {
        let Some(WeightsRead { read, total, .. }) = WeightsRead::of(&self.door.replicas()) else {
            return;
        };
        let start = || Progress::start("loading weights", total, Unit::Bytes);
        self.progress.get_or_insert_with(start).set(read);
    }
}

impl Drop for ShownWeights<'_> {
    fn drop(&mut self) {
        self.update();
    }
}

/// Reads `tokenizer.json`.
///
/// # Errors
/// Returns the problem of the file, for a person.
pub(crate) fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer, String> {
    let file = "tokenizer.json";
    let bytes = checkpoint.require(file).map_err(|why| why.to_string())?;
    Tokenizer::from_bytes(&bytes).map_err(|why| format!("{file}: {why}"))
}

/// Reads the chat template, from the file of the checkpoint that has it.
///
/// # Errors
/// Returns the problem of the template, for a person.
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
