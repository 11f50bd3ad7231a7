//! `playhouse plan` shows where every rank of a layout lands, before anything is started.
//!
//! The inputs are the layout (our flags, another engine's command line, a cluster file) or a goal, then
//! the model and the machines. The planner decides; here are only files, flags and printing.

mod grid;
mod said;
mod servers;
mod sources;

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use playhouse_layout::{CrossDomain, ModelShape};
use playhouse_planner::dialect::{self, Dialect, Document, Reading};
use playhouse_planner::{Goal, Hardware, Plan, Serving, Wish, recommend};
use playhouse_types::ParallelSpec;
use serde::Serialize;

use self::said::Said;
use crate::error::CliError;

/// Show where every rank of a layout lands, check it, translate it, or recommend one.
#[derive(Args)]
pub(crate) struct PlanArgs {
    /// Folder of a Hugging Face checkpoint, its config.json, or a well-known model such as llama-3.1-70b
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
    #[arg(long, value_name = "NODES", visible_alias = "device")]
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

/// What is known of a layout before it is planned.
struct Asked {
    reading: Reading,
    setting: Setting,
}

/// The flags for an engine, in JSON.
#[derive(Serialize)]
struct Words {
    engine: &'static str,
    command: String,
    words: Vec<String>,
    document: Option<Document>,
}

/// Reads, checks and prints a plan. The exit code is 2 when the layout cannot run, as for bad usage; 1
/// for a file that cannot be read.
///
/// # Errors
/// Returns an error for input that cannot be read or understood.
pub(crate) fn run(args: &PlanArgs, layout: &[String]) -> Result<ExitCode, CliError> {
    let mut said = Said::new(args.format);
    if let Some(servers) = sources::servers(args, layout)? {
        return match servers {
            Ok(servers) => servers::run(args, servers, &mut said),
            Err(problems) => said.misread(&problems),
        };
    }
    let sources::GivenLayout { reading, cluster } = match sources::layout(args, layout)? {
        Ok(layout) => layout,
        Err(problems) => return said.misread(&problems),
    };
    let (hardware, serving) = match cluster {
        Some(cluster) if args.hardware.is_none() => (Some(cluster.hardware), cluster.serving),
        other => (
            args.hardware.as_deref().map(sources::hardware).transpose()?,
            other.map_or_else(Serving::default, |cluster| cluster.serving),
        ),
    };
    let asked = Asked::new(args, reading, hardware, serving)?;
    if let Some(file) = &args.grid {
        return grid::run(file, args.dialect(), asked.setting.shape.as_ref(), &said);
    }
    if let Some(refused) = asked.refused(args, &mut said)? {
        return Ok(refused);
    }
    let Asked { reading, setting } = &asked;
    match (args.goal, args.to) {
        (Some(goal), _) => print_recommendation(args, goal.into(), reading, setting, &said),
        (None, Some(target)) => match written(args, target, reading, setting, &mut said)? {
            Ok(words) => said.answer(&words, || words.text()),
            Err(refused) => Ok(refused),
        },
        (None, None) => match planned(args, &reading.spec, &asked, &said)? {
            Ok(plan) if args.format == Format::Svg => said.answer(&plan, || plan.to_svg()),
            Ok(plan) => said.answer(&plan, || plan.to_string()),
            Err(refused) => Ok(refused),
        },
    }
}

/// Plans `spec`, which is the layout of `asked` or several times that; the inner error is the exit code of a
/// refusal that is printed.
fn planned(
    args: &PlanArgs,
    spec: &ParallelSpec,
    asked: &Asked,
    said: &Said,
) -> Result<Result<Plan, ExitCode>, CliError> {
    let Asked { reading, setting } = asked;
    let Some(shape) = &setting.shape else {
        let model = reading.model.as_deref();
        let of = model.map_or_else(String::new, |model| format!(" of {model}"));
        return Err(CliError::usage(format!(
            "the layout is valid, but without the config.json{of} no rank can be shown"
        ))
        .hint(format!(
            "as the first argument, {}",
            sources::models_hint(model.unwrap_or_default())
        )));
    };
    let cross = if args.strict_placement { CrossDomain::Refuse } else { CrossDomain::Warn };
    let plan = Plan::new(spec, shape, setting.hardware.as_ref(), &setting.serving, cross);
    let violations = match plan {
        Ok(plan) => return Ok(Ok(plan)),
        Err(violations) => violations,
    };
    if args.dialect() != Dialect::Native || args.rules.is_some() {
        let engine = args.rules.map_or(args.dialect(), Engine::dialect).name();
        said.complain(&format!("note: {engine} accepts the layout; it cannot be planned here"));
    }
    said.refuse(&violations, Dialect::Native).map(Err)
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

/// Writes the layout for another engine; the inner error is the exit code of a refusal that is printed.
fn written(
    args: &PlanArgs,
    target: TargetDialect,
    reading: &Reading,
    setting: &Setting,
    said: &mut Said,
) -> Result<Result<Words, ExitCode>, CliError> {
    args.no_picture("a command line")?;
    let dialect = target.dialect();
    let model = reading.model.as_deref().or(args.model.as_deref());
    let shape = setting.shape.as_ref();
    match dialect::write(dialect, &reading.spec, model, shape, &reading.parameters) {
        Err(violations) => said.refuse(&violations, dialect).map(Err),
        Ok(written) => {
            said.note(&written.notes);
            let command = written.line();
            let engine = dialect.name();
            Ok(Ok(Words { engine, command, words: written.words, document: written.document }))
        }
    }
}

// === impl Asked ===

impl Asked {
    /// Settles what depends on the model.
    fn new(
        args: &PlanArgs,
        mut reading: Reading,
        hardware: Option<Hardware>,
        serving: Serving,
    ) -> Result<Self, CliError> {
        let mut serving = sources::serving(serving, &reading);
        let mut shape = sources::shape(args.model.as_deref(), &mut reading)?;
        if let Some(shape) = &mut shape {
            reading.store(shape, &mut serving);
            reading.settle(shape);
        }
        Ok(Self { reading, setting: Setting { shape, hardware, serving } })
    }

    /// Prints the notes, and checks the layout; returns the exit code of a refusal.
    fn refused(&self, args: &PlanArgs, said: &mut Said) -> Result<Option<ExitCode>, CliError> {
        let Self { reading, setting } = self;
        said.note(&reading.notes);
        let rules = args.rules.map_or(args.dialect(), Engine::dialect);
        let mut violations = reading.check(setting.shape.as_ref(), rules.rules());
        violations
            .extend(setting.hardware.iter().flat_map(|hardware| reading.check_hardware(hardware)));
        if violations.is_empty() { Ok(None) } else { said.refuse(&violations, rules).map(Some) }
    }
}

// === impl Words ===

impl Words {
    /// Returns the command, followed by its file.
    fn text(&self) -> String {
        let mut text = self.command.clone();
        if !text.is_empty() {
            text.push('\n');
        }
        if let Some(document) = &self.document {
            if !text.is_empty() {
                text += &format!("\n# {}\n", document.name);
            }
            text += &document.text;
        }
        text
    }
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
