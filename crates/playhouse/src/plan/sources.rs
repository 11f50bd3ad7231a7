//! The sources of a plan's inputs: flags, files, presets.

use std::fs;
use std::io::Read as _;
use std::path::Path;

use playhouse_layout::ModelShape;
use playhouse_planner::dialect::{
    self, Dialect, Document, Key, Note, NoteKind, Problem, Reading, Servers,
};
use playhouse_planner::{ClusterConfig, Hardware, PublishedModel, Serving, layout as layout_name};

use super::PlanArgs;
use crate::error::CliError;

/// The maximum size of a file that is read: configurations are small.
const BYTES_MAX: u64 = 1 << 20;

/// The layout that was asked for.
pub(super) struct GivenLayout {
    pub(super) reading: Reading,
    /// The cluster file or preset that the layout is from.
    pub(super) cluster: Option<ClusterConfig>,
}

/// The servers that an input names, or what of it was not understood.
type ReadServers = Result<Vec<Servers>, Vec<Problem>>;

/// Returns the servers of a command that stands in front of several kinds of them, or of its file; `None` for
/// any other input.
pub(super) fn servers(args: &PlanArgs, flags: &[String]) -> Result<Option<ReadServers>, CliError> {
    let other = args.preset.is_some() || args.config.is_some() || args.grid.is_some();
    if args.from.is_none() || !flags.is_empty() || other {
        return Ok(None);
    }
    match &args.settings {
        Some(file) if args.words.is_empty() => {
            Ok(dialect::read_servers_document(args.dialect(), &document(file)?))
        }
        Some(_) => Ok(None),
        None => {
            let documents = documents(args.dialect(), &args.words)?;
            Ok(dialect::read_servers(args.dialect(), &args.words, &documents))
        }
    }
}

/// Returns the layout, from the one source that gives it; the inner error has the input that was not
/// understood.
pub(super) fn layout(
    args: &PlanArgs,
    flags: &[String],
) -> Result<Result<GivenLayout, Vec<Problem>>, CliError> {
    let cluster = cluster(args)?;
    let file = cluster.as_ref().map(|_| match &args.preset {
        Some(name) => format!("--preset {name}"),
        None => format!("--config {}", args.config.as_deref().unwrap_or_default()),
    });
    let other = (!flags.is_empty()).then(|| flags.join(" ")).or_else(|| file.clone());
    if let (Some(_), Some(other)) = (args.from, other) {
        return Err(given_twice(&other, "--from"));
    }
    if args.from.is_none() && !args.words.is_empty() {
        return Err(CliError::usage(format!("whose command line is `{}`?", args.words.join(" ")))
            .hint("name the engine with --from vllm, sglang or tensorrt-llm"));
    }
    if let Some(file) = args.settings.as_ref().or(args.grid.as_ref())
        && !args.words.is_empty()
    {
        let words = args.words.join(" ");
        return Err(given_twice(file, &format!("`{words}`")));
    }
    let words = if args.from.is_some() { &args.words[..] } else { flags };
    let read = match &args.settings {
        Some(file) => dialect::read_document(args.dialect(), &document(file)?),
        None => read(args.dialect(), words)?,
    };
    let mut reading = match read {
        Ok(reading) => reading,
        Err(problems) => return Ok(Err(problems)),
    };
    if let (Some(cluster), Some(file)) = (&cluster, &file) {
        // Flags that are no part of the layout may be combined with it.
        if !reading.layout.is_empty() {
            let has = format!("{file}, which has {}", layout_name(&cluster.parallel));
            return Err(given_twice(&reading.layout.join(", "), &has));
        }
        reading.spec = cluster.parallel.clone();
        if reading.parameters.block_tokens.is_none() {
            reading.parameters.block_tokens = Some(cluster.serving.block_tokens);
            reading.parameters.spellings.insert(Key::BlockTokens, "block_tokens".to_owned());
        }
    }
    Ok(Ok(GivenLayout { reading, cluster }))
}

fn given_twice(first: &str, second: &str) -> CliError {
    CliError::usage(format!("the layout is given twice: by {first}, and by {second}"))
        .hint("give it in one place; translate a cluster file with --to to edit it")
}

fn read(dialect: Dialect, words: &[String]) -> Result<Result<Reading, Vec<Problem>>, CliError> {
    Ok(dialect::read(dialect, words, &documents(dialect, words)?))
}

/// Reads the files that a command line names.
fn documents(dialect: Dialect, words: &[String]) -> Result<Vec<Document>, CliError> {
    dialect::documents_of(dialect, words).iter().map(|name| document(name)).collect()
}

fn cluster(args: &PlanArgs) -> Result<Option<ClusterConfig>, CliError> {
    if let Some(name) = &args.preset {
        let known: Vec<_> = ClusterConfig::presets().collect();
        let preset = ClusterConfig::preset(name).ok_or_else(|| {
            CliError::usage(format!("no preset is called {name:?}; there are {}", known.join(", ")))
        });
        return preset.map(Some);
    }
    let Some(file) = &args.config else { return Ok(None) };
    let text = document(file)?.text;
    let config = ClusterConfig::parse(&text);
    config.map(Some).map_err(|why| CliError::failure(format!("{file}: {why}")))
}

/// Parses `2x8xH100`, or reads a file.
pub(super) fn hardware(text: &str) -> Result<Hardware, CliError> {
    if text.ends_with(".toml") {
        let hardware = Hardware::from_toml(&document(text)?.text);
        return hardware.map_err(|why| CliError::failure(format!("{text}: {why}")));
    }
    Hardware::parse(text).map_err(|why| CliError::usage(why.to_string()))
}

/// Returns the shape of the model: of the first argument, else of the model in a command line, if its sizes
/// are known here.
pub(super) fn shape(
    argument: Option<&str>,
    reading: &mut Reading,
) -> Result<Option<ModelShape>, CliError> {
    let Some(model) = argument.or(reading.model.as_deref()) else { return Ok(None) };
    let path = Path::new(model);
    if !path.exists() {
        let Some(published) = PublishedModel::find(model) else {
            // The model of a command line may be on a hub only; its layout can be checked all the same.
            return if argument.is_none() { Ok(None) } else { Err(unknown_model(model)) };
        };
        if !model.eq_ignore_ascii_case(published.name) {
            let message =
                format!("its sizes are those that come with playhouse as {}", published.name);
            reading.notes.push(Note { kind: NoteKind::Chosen, about: model.to_owned(), message });
        }
        return Ok(Some(published.shape()));
    }
    let path = if path.is_dir() { path.join("config.json") } else { path.to_owned() };
    let name = path.display().to_string();
    let text = document(&name)?.text;
    let shape = ModelShape::parse(text.as_bytes());
    shape.map(Some).map_err(|why| CliError::failure(format!("{name}: {why}")))
}

fn unknown_model(model: &str) -> CliError {
    CliError::failure(format!(
        "{model}: no such file or folder, and no model that comes with playhouse"
    ))
    .hint(models_hint(model))
}

/// Returns what to give instead of a model whose sizes are not known here.
pub(super) fn models_hint(model: &str) -> String {
    let instead = match PublishedModel::nearest(model) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => {
            let names: Vec<_> = PublishedModel::all().map(|model| model.name).collect();
            format!("it comes with {}", names.join(", "))
        }
    };
    format!(
        "give the folder of the checkpoint, its config.json, or a model that comes with playhouse: {instead}"
    )
}

/// Returns the use of the layout, with the settings of a command line.
pub(super) fn serving(serving: Serving, reading: &Reading) -> Serving {
    let parameters = &reading.parameters;
    // SGLang's share is of weights and cache, TensorRT-LLM's of what loading leaves: neither is the
    // share of the device that a plan may use.
    let of_device = matches!(reading.dialect, Dialect::Native | Dialect::Vllm);
    let share = parameters.memory_fraction.filter(|_| of_device);
    let percent = share.map(|share| (share * 100.0).ceil() as u8);
    Serving {
        step_tokens: parameters.batch_tokens_max.unwrap_or(serving.step_tokens),
        running: parameters.requests_max.map_or(serving.running, u64::from),
        memory_percent: percent.unwrap_or(serving.memory_percent),
        ..serving
    }
}

/// Reads a text file.
pub(super) fn document(name: &str) -> Result<Document, CliError> {
    let failure = |why: String| CliError::failure(format!("{name}: {why}"));
    // A device or a pipe may have no end.
    let kind = fs::metadata(name).map_err(|why| failure(why.to_string()))?;
    if !kind.is_file() {
        return Err(failure("not a regular file".to_owned()));
    }
    let file = fs::File::open(name).map_err(|why| failure(why.to_string()))?;
    let mut text = String::new();
    let read = file.take(BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|why| failure(why.to_string()))?;
    if text.len() as u64 > BYTES_MAX {
        return Err(failure(format!("more than {BYTES_MAX} bytes; no configuration is that long")));
    }
    Ok(Document { name: name.to_owned(), text })
}

/// Parses a number of tokens, perhaps in thousands: `8192`, `128k`, `1m`.
pub(super) fn tokens(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let (digits, unit) = match lower.as_bytes().last() {
        Some(b'k') => (&lower[..lower.len() - 1], 1024),
        Some(b'm') => (&lower[..lower.len() - 1], 1024 * 1024),
        _ => (&lower[..], 1),
    };
    let count = digits.parse::<u64>().ok().and_then(|count| count.checked_mul(unit));
    let count = count.filter(|count| (2..=1 << 40).contains(count));
    count.ok_or_else(|| "expected a number of tokens from 2 on, such as 8192 or 128k".to_owned())
}
