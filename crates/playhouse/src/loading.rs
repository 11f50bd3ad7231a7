//! From the files of a checkpoint to the data that the layers above the ranks need.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use playhouse_cluster::{FrontDoor, WeightsRead};
use playhouse_gateway::{
    ChatTemplate, RenderChat, TemplateError, TemplateFiles, TemplateProcess, TemplateSource,
    Tokenizer, TokenizerFiles,
};
use playhouse_layout::{GenerationDefaults, ModelShape};
use playhouse_model::{Checkpoint, checkpoint_shape};
use tokio::time::interval;
use tracing::warn;

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
    pub(crate) template: Template,
}

/// The chat template of a model, or why there is no chat.
pub(crate) type Template = Result<Box<dyn RenderChat>, TemplateError>;

/// Reads all but the weights of the checkpoint in `folder`, or of the embedded one. `chat_template`, a file or
/// the text of a template, takes the place of the checkpoint's own.
///
/// # Errors
/// Returns the first problem of the checkpoint, with its file and key, or that of `chat_template`.
pub(crate) fn load(
    folder: Option<&Path>,
    chat_template: Option<&str>,
) -> Result<(Loaded, Language), CliError> {
    let checkpoint = match folder {
        Some(folder) => Checkpoint::open(folder).map_err(refused)?,
        None => Checkpoint::embedded(demo::FILES),
    };
    let shape = checkpoint_shape(&checkpoint).map_err(refused)?;
    let mut generation = checkpoint.generation_defaults(&shape).map_err(refused)?;
    let tokenizer = tokenizer(&checkpoint).map_err(CliError::failure)?;
    // Fine-tuned models may name the end of a turn here alone.
    if let Some(eos) = tokenizer.eos().filter(|eos| (*eos as usize) < shape.spec.vocab)
        && !generation.eos_token_ids.contains(&eos)
    {
        generation.eos_token_ids.push(eos);
    }
    let special_tokens = tokenizer.special_tokens();
    let template = match chat_template {
        Some(given) => Ok(given_template(given, special_tokens)?),
        None => template(&checkpoint, special_tokens),
    };
    if let Err(why @ (TemplateError::Malformed(_) | TemplateError::Failed(_))) = &template {
        warn!("there is no chat, only completions, unless --chat-template gives a template: {why}");
    }

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

/// Reads `tokenizer.json` and the files beside it.
///
/// # Errors
/// Returns the problem of the files, for a person.
pub(crate) fn tokenizer(checkpoint: &Checkpoint) -> Result<Tokenizer, String> {
    let read = |file: &str| checkpoint.read(file).map_err(|why| why.to_string());
    let tokenizer = checkpoint.require("tokenizer.json").map_err(|why| why.to_string())?;
    let config = read("tokenizer_config.json")?;
    let added_tokens = read("added_tokens.json")?;
    let special_tokens_map = read("special_tokens_map.json")?;
    let files = TokenizerFiles {
        tokenizer: &tokenizer,
        config: config.as_deref(),
        added_tokens: added_tokens.as_deref(),
        special_tokens_map: special_tokens_map.as_deref(),
    };
    Tokenizer::from_files(&files).map_err(|why| why.to_string())
}

/// Reads the chat template, from the file of the checkpoint that has it.
///
/// # Errors
/// Returns why there is no chat.
pub(crate) fn template(
    checkpoint: &Checkpoint,
    special_tokens: &BTreeMap<String, String>,
) -> Template {
    let text = |file: &str| -> Result<Option<String>, TemplateError> {
        let malformed = |why: String| TemplateError::Malformed(why);
        let bytes = checkpoint.read(file).map_err(|why| malformed(why.to_string()))?;
        let text = bytes.map(Cow::into_owned).map(String::from_utf8).transpose();
        text.map_err(|why| malformed(format!("{file}: not UTF-8: {why}")))
    };
    let (jinja, config) = (text("chat_template.jinja")?, text("tokenizer_config.json")?);
    let files = TemplateFiles { jinja: jinja.as_deref(), config: config.as_deref() };
    let source = TemplateSource::of_files(&files, special_tokens.clone())?;
    if checkpoint.is_embedded() {
        // Our own needs no guard.
        return Ok(Box::new(ChatTemplate::new(source)?));
    }
    guarded(&source)
}

/// Returns the template that the operator gave, as a file or as text.
fn given_template(
    given: &str,
    special_tokens: &BTreeMap<String, String>,
) -> Result<Box<dyn RenderChat>, CliError> {
    let text = match fs::read_to_string(given) {
        Ok(text) => text,
        Err(_) if given.contains(['{', '\n']) => given.to_owned(),
        Err(why) => {
            return Err(CliError::usage(format!("--chat-template {given}: {why}"))
                .hint("give a file, or the text of a Jinja template"));
        }
    };
    let source = TemplateSource { text, special_tokens: special_tokens.clone() };
    guarded(&source).map_err(|why| CliError::usage(format!("--chat-template: {why}")))
}

/// Returns a template that runs in a process of its own.
fn guarded(source: &TemplateSource) -> Template {
    let program = std::env::current_exe().map_err(|why| {
        TemplateError::Failed(format!("cannot find this program's own file: {why}"))
    })?;
    let command = move || {
        let mut command = Command::new(&program);
        // A template needs nothing from the environment, which may hold secrets, and no signal of a terminal.
        command.arg("template").env_clear().process_group(0);
        command
    };
    Ok(Box::new(TemplateProcess::start(command, source)?))
}

fn name(folder: &Path) -> String {
    let name = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    name.file_name().map_or_else(|| "model".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn refused(why: impl std::fmt::Display) -> CliError {
    CliError::failure(why.to_string())
}
