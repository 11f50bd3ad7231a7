//! `playhouse plan`: where every rank of a layout lands, before anything is started.
//!
//! What is asked for comes first: the layout (our flags, another engine's command line, a cluster
//! file), or a goal. Then the model and the machines. The planner decides; here are only files,
//! flags and printing.

mod grid;
mod sources;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use playhouse_planner::dialect::{self, Dialect, Reading};
use playhouse_planner::{
    CrossDomain, Goal, Hardware, ModelShape, Plan, Serving, Violation, Wish, recommend,
};

use crate::error::CliError;

/// Show where every rank of a layout lands, check it, translate it, or recommend one.
#[derive(Args)]
#[command(after_help = layout_help())]
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
    to: Option<Target>,
    /// Check against the rules of this engine; by default those of --from, else our own
    #[arg(long, value_name = "ENGINE")]
    rules: Option<Engine>,
    /// The machines, such as 2x8xH100, or a TOML file of nodes
    #[arg(long, value_name = "NODES")]
    hardware: Option<String>,
    /// Recommend layouts for this goal; needs --hardware
    #[arg(long, requires = "hardware", conflicts_with_all = ["to", "grid", "rules"])]
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

/// Whose words or rules.
#[derive(Clone, Copy, ValueEnum)]
enum Engine {
    Playhouse,
    Vllm,
    Sglang,
    #[value(name = "tensorrt-llm", alias = "trtllm")]
    TensorRtLlm,
}

/// Whose words to print.
#[derive(Clone, Copy, ValueEnum)]
enum Target {
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

/// What a layout is planned for.
struct Setting {
    shape: Option<ModelShape>,
    hardware: Option<Hardware>,
    serving: Serving,
}

fn layout_help() -> String {
    format!("Layout flags, of `serve` too:\n{}", dialect::help(Dialect::Native))
}

/// Reads, checks and prints; exit code 1 when the layout cannot run.
///
/// # Errors
/// What cannot be read or understood.
pub(crate) fn run(args: &PlanArgs, layout: &[String]) -> Result<ExitCode, CliError> {
    let asked = sources::layout(args, layout)?;
    let sources::Asked { mut reading, cluster } = asked;
    let (hardware, serving) = match cluster {
        Some(cluster) if args.hardware.is_none() => (Some(cluster.hardware), cluster.serving),
        other => (
            args.hardware.as_deref().map(sources::hardware).transpose()?,
            other.map_or_else(Serving::default, |cluster| cluster.serving),
        ),
    };
    let shape = sources::shape(args.model.as_deref(), reading.model.as_deref())?;
    if let Some(shape) = &shape {
        reading.settle(shape);
    }
    let setting = Setting { shape, hardware, serving: sources::serving(serving, &reading) };
    if let Some(file) = &args.grid {
        return grid::run(file, args.dialect(), setting.shape.as_ref());
    }
    if let Some(goal) = args.goal {
        return print_recommendation(args, goal.into(), &setting);
    }
    notes(&reading);
    let rules = args.rules.map_or(args.dialect(), Engine::dialect);
    let violations = reading.check(setting.shape.as_ref(), rules.rules());
    if !violations.is_empty() {
        return refuse(&violations, rules);
    }
    match args.to {
        Some(target) => print_words(args, target, &reading, &setting),
        None => print_plan(args, &reading, &setting),
    }
}

fn print_plan(args: &PlanArgs, reading: &Reading, setting: &Setting) -> Result<ExitCode, CliError> {
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
    let plan = match plan {
        Ok(plan) => plan,
        Err(violations) => {
            if args.dialect() != Dialect::Native || args.rules.is_some() {
                let engine = args.rules.map_or(args.dialect(), Engine::dialect).name();
                complain(&format!("note: {engine} accepts the layout; it cannot be planned here"));
            }
            return refuse(&violations, Dialect::Native);
        }
    };
    print(&match args.format {
        Format::Text => plan.to_string(),
        Format::Json => plan.to_json() + "\n",
        Format::Svg => plan.to_svg(),
    })
}

fn print_recommendation(
    args: &PlanArgs,
    goal: Goal,
    setting: &Setting,
) -> Result<ExitCode, CliError> {
    let (Some(shape), Some(hardware)) = (&setting.shape, &setting.hardware) else {
        return Err(CliError::usage("--goal needs a model and --hardware")
            .hint("for example: playhouse plan MODEL --hardware 8xH100 --goal latency"));
    };
    let mut wish = Wish::new(goal, args.context);
    wish.serving = setting.serving;
    let recommendation = recommend(shape, hardware, &wish);
    print(&match args.format {
        Format::Text => recommendation.to_string(),
        Format::Json => {
            serde_json::to_string_pretty(&recommendation)
                .map_err(|why| CliError::failure(why.to_string()))?
                + "\n"
        }
        Format::Svg => {
            return Err(CliError::usage(
                "a recommendation is no picture: use --format text or json",
            ));
        }
    })?;
    Ok(if recommendation.ranked.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print_words(
    args: &PlanArgs,
    target: Target,
    reading: &Reading,
    setting: &Setting,
) -> Result<ExitCode, CliError> {
    let dialect = target.dialect();
    let model = reading.model.as_deref().or(args.model.as_deref());
    let shape = setting.shape.as_ref();
    match dialect::write(dialect, &reading.spec, model, shape, &reading.parameters) {
        Err(violations) => refuse(&violations, dialect),
        Ok(written) => {
            written.notes.iter().for_each(|note| complain(&format!("note: {note}")));
            let mut text = written.line();
            if !text.is_empty() {
                text.push('\n');
            }
            if let Some(document) = written.document {
                if !text.is_empty() {
                    text += &format!("\n# {}\n", document.name);
                }
                text += &document.text;
            }
            print(&text)
        }
    }
}

fn notes(reading: &Reading) {
    reading.notes.iter().for_each(|note| complain(&format!("note: {note}")));
}

/// Every violation, with what to do about it.
fn refuse(violations: &[Violation], rules: Dialect) -> Result<ExitCode, CliError> {
    let count = violations.len();
    let rules = rules.name();
    complain(&format!(
        "error: the layout breaks {count} rule{} of {rules}",
        if count == 1 { "" } else { "s" }
    ));
    for Violation { rule, message, fix, .. } in violations {
        complain(&format!("  {rule}: {message}\n    fix: {fix}"));
    }
    Ok(ExitCode::FAILURE)
}

fn print(text: &str) -> Result<ExitCode, CliError> {
    io::stdout().write_all(text.as_bytes()).map_err(CliError::output)?;
    Ok(ExitCode::SUCCESS)
}

/// To standard error, so that what is printed can be piped.
fn complain(line: &str) {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(io::stderr(), "{line}");
}

// === impl PlanArgs ===

impl PlanArgs {
    fn dialect(&self) -> Dialect {
        self.from.map_or(Dialect::Native, Engine::dialect)
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

// === impl Target ===

impl Target {
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
