//! `playhouse plan` shows where every rank of a layout lands, before anything is started.
//!
//! The inputs are the layout (our flags, another engine's command line, a cluster file) or a goal, then
//! the model and the machines. The planner decides; here are only files, flags and printing.

mod grid;
mod said;
mod sources;

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use playhouse_layout::{CrossDomain, ModelShape};
use playhouse_planner::dialect::{self, Dialect, Document, Reading};
use playhouse_planner::{Goal, Hardware, Plan, Serving, Wish, recommend};
use serde::Serialize;

use self::said::Said;
use crate::error::CliError;

/// Show where every rank of a layout lands, check it, translate it, or recommend one.
#[derive(Args)]
pub(crate) struct PlanArgs {
    /// Folder of a Hugging Face checkpoint, or its config.json
    model: Option<String>,
    /// Read the words after `--` as the command line of this engine
    #[arg(long, value_name = "ENGINE")]
    from: Option<Engine>,
    /// A file of settings in the words of --from: SGLang's or TensorRT-LLM's YAML
    #[arg(long, value_name = "FILE", requires = "from")]
    settings: Option<String>,
    /// An autotuner's JSON grid in the words of --from: check every combination
    #[arg(long, value_name = "FILE", requires = "from", conflicts_with_all = ["settings", "to"])]
    grid: Option<String>,
    /// Print the layout in the words of this engine, or as toml
    #[arg(long, value_name = "ENGINE")]
    to: Option<TargetDialect>,
    /// Check against the rules of this engine; by default those of --from, else our own
    #[arg(long, value_name = "ENGINE")]
    rules: Option<Engine>,
    /// The machines, such as 2x8xH100, or a TOML file of nodes
    #[arg(long, value_name = "NODES")]
    hardware: Option<String>,
    /// Recommend layouts for this goal; needs --hardware
    #[arg(
        long,
        requires = "hardware",
        conflicts_with_all = ["to", "grid", "rules", "preset", "config"]
    )]
    goal: Option<GoalArg>,
    /// Tokens of a typical request, such as 128k, for --goal
    #[arg(long, value_name = "TOKENS", requires = "goal", value_parser = sources::tokens)]
    context: Option<u64>,
    /// A cluster that comes with playhouse: balanced, high-throughput, low-latency and more
    #[arg(long, value_name = "NAME")]
    preset: Option<String>,
    /// A cluster file: layout, nodes and use
    #[arg(long, value_name = "FILE", conflicts_with = "preset")]
    config: Option<String>,
    /// Refuse a stage that no node has room for, instead of warning
    #[arg(long)]
    strict_placement: bool,
    /// What to print
    #[arg(long, default_value = "text")]
    format: Format,
    /// The command line for --from
    #[arg(last = true, value_name = "COMMAND")]
    words: Vec<String>,
}

/// The engine whose flags are read or whose rules are checked.
#[derive(Clone, Copy, ValueEnum)]
enum Engine {
    Playhouse,
    Vllm,
    Sglang,
    #[value(name = "tensorrt-llm", alias = "trtllm")]
    TensorRtLlm,
}

/// The engine whose flags are printed.
#[derive(Clone, Copy, ValueEnum)]
enum TargetDialect {
    #[value(alias = "playhouse")]
    Toml,
    Vllm,
    Sglang,
    #[value(name = "tensorrt-llm", alias = "trtllm")]
    TensorRtLlm,
}

#[derive(Clone, Copy, ValueEnum)]
enum GoalArg {
    Latency,
    Throughput,
    Balanced,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
    Svg,
}

/// The model and the machines for which a layout is planned.
struct Setting {
    shape: Option<ModelShape>,
    hardware: Option<Hardware>,
    serving: Serving,
}

/// The flags for an engine, in JSON.
#[derive(Serialize)]
struct Words<'a> {
    engine: &'static str,
    command: String,
    words: &'a [String],
    document: Option<&'a Document>,
}

/// Reads, checks and prints a plan. The exit code is 2 when the layout cannot run, as for bad usage; 1
/// for a file that cannot be read.
///
/// # Errors
/// Returns an error for input that cannot be read or understood.
pub(crate) fn run(args: &PlanArgs, layout: &[String]) -> Result<ExitCode, CliError> {
    let mut said = Said::new(args.format);
    let sources::Asked { mut reading, cluster } = match sources::layout(args, layout)? {
        Ok(asked) => asked,
        Err(problems) => return said.misread(&problems),
    };
    let (hardware, serving) = match cluster {
        Some(cluster) if args.hardware.is_none() => (Some(cluster.hardware), cluster.serving),
        other => (
            args.hardware.as_deref().map(sources::hardware).transpose()?,
            other.map_or_else(Serving::default, |cluster| cluster.serving),
        ),
    };
    let mut serving = sources::serving(serving, &reading);
    let mut shape = sources::shape(args.model.as_deref(), reading.model.as_deref())?;
    if let Some(shape) = &mut shape {
        reading.store(shape, &mut serving);
        reading.settle(shape);
    }
    let setting = Setting { shape, hardware, serving };
    if let Some(file) = &args.grid {
        return grid::run(file, args.dialect(), setting.shape.as_ref(), &said);
    }
    said.note(&reading.notes);
    let rules = args.rules.map_or(args.dialect(), Engine::dialect);
    let mut violations = reading.check(setting.shape.as_ref(), rules.rules());
    violations
        .extend(setting.hardware.iter().flat_map(|hardware| reading.check_hardware(hardware)));
    if !violations.is_empty() {
        return said.refuse(&violations, rules);
    }
    match (args.goal, args.to) {
        (Some(goal), _) => print_recommendation(args, goal.into(), &reading, &setting, &said),
        (None, Some(target)) => print_words(args, target, &reading, &setting, &mut said),
        (None, None) => print_plan(args, &reading, &setting, &said),
    }
}

fn print_plan(
    args: &PlanArgs,
    reading: &Reading,
    setting: &Setting,
    said: &Said,
) -> Result<ExitCode, CliError> {
    let Some(shape) = &setting.shape else {
        let asked =
            reading.model.as_deref().map_or_else(String::new, |model| format!(" of {model}"));
        return Err(CliError::usage(format!(
            "the layout is valid, but without the config.json{asked} no rank can be shown"
        ))
        .hint("give the folder of the checkpoint, or its config.json, as the first argument"));
    };
    let cross = if args.strict_placement { CrossDomain::Refuse } else { CrossDomain::Warn };
    let plan = Plan::new(&reading.spec, shape, setting.hardware.as_ref(), &setting.serving, cross);
    match plan {
        Ok(plan) if args.format == Format::Svg => said.answer(&plan, || plan.to_svg()),
        Ok(plan) => said.answer(&plan, || plan.to_string()),
        Err(violations) => {
            if args.dialect() != Dialect::Native || args.rules.is_some() {
                let engine = args.rules.map_or(args.dialect(), Engine::dialect).name();
                said.complain(&format!(
                    "note: {engine} accepts the layout; it cannot be planned here"
                ));
            }
            said.refuse(&violations, Dialect::Native)
        }
    }
}

fn print_recommendation(
    args: &PlanArgs,
    goal: Goal,
    reading: &Reading,
    setting: &Setting,
    said: &Said,
) -> Result<ExitCode, CliError> {
    let (Some(shape), Some(hardware)) = (&setting.shape, &setting.hardware) else {
        return Err(CliError::usage("--goal needs a model and --hardware")
            .hint("for example: playhouse plan MODEL --hardware 8xH100 --goal latency"));
    };
    if !reading.layout.is_empty() {
        let layout = reading.layout.join(", ");
        return Err(CliError::usage(format!("--goal asks for a layout, and {layout} gives one"))
            .hint("leave out one of them"));
    }
    args.no_picture("a recommendation")?;
    let mut wish = Wish::new(goal, args.context);
    wish.serving = setting.serving;
    let recommendation = recommend(shape, hardware, &wish);
    said.answer(&recommendation, || recommendation.to_string())?;
    Ok(if recommendation.ranked.is_empty() { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

fn print_words(
    args: &PlanArgs,
    target: TargetDialect,
    reading: &Reading,
    setting: &Setting,
    said: &mut Said,
) -> Result<ExitCode, CliError> {
    args.no_picture("a command line")?;
    let dialect = target.dialect();
    let model = reading.model.as_deref().or(args.model.as_deref());
    let shape = setting.shape.as_ref();
    match dialect::write(dialect, &reading.spec, model, shape, &reading.parameters) {
        Err(violations) => said.refuse(&violations, dialect),
        Ok(written) => {
            said.note(&written.notes);
            let words = Words {
                engine: dialect.name(),
                command: written.line(),
                words: &written.words,
                document: written.document.as_ref(),
            };
            said.answer(&words, || text_of(&words))
        }
    }
}

/// Returns the command, followed by its file.
fn text_of(words: &Words<'_>) -> String {
    let mut text = words.command.clone();
    if !text.is_empty() {
        text.push('\n');
    }
    if let Some(document) = words.document {
        if !text.is_empty() {
            text += &format!("\n# {}\n", document.name);
        }
        text += &document.text;
    }
    text
}

// === impl PlanArgs ===

impl PlanArgs {
    fn dialect(&self) -> Dialect {
        self.from.map_or(Dialect::Native, Engine::dialect)
    }

    /// Refuses a picture of `what`, because only ranks can be drawn.
    fn no_picture(&self, what: &str) -> Result<(), CliError> {
        if self.format != Format::Svg {
            return Ok(());
        }
        Err(CliError::usage(format!("{what} is no picture: use --format text or json")))
    }
}

// === impl Engine ===

impl Engine {
    fn dialect(self) -> Dialect {
        match self {
            Self::Playhouse => Dialect::Native,
            Self::Vllm => Dialect::Vllm,
            Self::Sglang => Dialect::Sglang,
            Self::TensorRtLlm => Dialect::TensorRtLlm,
        }
    }
}

// === impl TargetDialect ===

impl TargetDialect {
    fn dialect(self) -> Dialect {
        match self {
            Self::Toml => Dialect::Native,
            Self::Vllm => Dialect::Vllm,
            Self::Sglang => Dialect::Sglang,
            Self::TensorRtLlm => Dialect::TensorRtLlm,
        }
    }
}

// === impl GoalArg ===

impl From<GoalArg> for Goal {
    fn from(arg: GoalArg) -> Self {
        match arg {
            GoalArg::Latency => Self::Latency,
            GoalArg::Throughput => Self::Throughput,
            GoalArg::Balanced => Self::Balanced,
        }
    }
}
