//! `playhouse operations` and `playhouse abort`: past operations, and the one under way.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use playhouse_admin::view::{Change, Operation, Phase};

use crate::admin::{Admin, AdminArgs};
use crate::change::{abort, print};
use crate::date::Date;
use crate::error::CliError;
use crate::follow::follow;
use crate::table::{Cell, Mood, align};
use crate::terminal::{shows_colour, visible};

/// The flags of `playhouse operations`.
#[derive(Args)]
pub(crate) struct OperationsArgs {
    /// Id of the operation to show, with all its steps; without, a list of all that are known, the newest
    /// first
    id: Option<u64>,
    /// Follow the operation, or the one that is under way, until it ends; succeed only if it is done
    #[arg(long, conflicts_with = "json")]
    watch: bool,
    /// Print the JSON of the admin API, on one line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// The flags of `playhouse abort`.
#[derive(Args)]
pub(crate) struct AbortArgs {
    /// Id of the operation to end; its steps are undone as far as possible
    id: u64,
    #[command(flatten)]
    admin: AdminArgs,
}

/// Shows operations.
///
/// # Errors
/// Returns an error if the head cannot be reached, there is no such operation, or a followed operation
/// was not done.
pub(crate) async fn run(args: OperationsArgs) -> Result<ExitCode, CliError> {
    let admin = args.admin.open().await?;
    if args.watch {
        let id = match args.id {
            // An unknown operation is reported at once; only a known one is worth waiting for a head.
            Some(id) => admin.operation(id).await?.id,
            None => running(&admin).await?,
        };
        return follow(&admin, id).await;
    }
    let colour = shows_colour(&io::stdout());
    let text = match (args.id, args.json) {
        (Some(id), false) => whole(&admin.operation(id).await?, colour),
        (Some(id), true) => json(&admin.operation(id).await?),
        (None, false) => list(&admin.operations().await?.operations, colour),
        (None, true) => json(&admin.operations().await?),
    };
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Aborts an operation.
///
/// # Errors
/// Returns an error if the head cannot be reached, there is no such operation, or it has ended.
pub(crate) async fn run_abort(args: AbortArgs) -> Result<ExitCode, CliError> {
    abort(&args.admin.open().await?, args.id).await
}

async fn running(admin: &Admin) -> Result<u64, CliError> {
    let operation = admin.cluster().await?.operation;
    let nothing = || {
        CliError::failure("no operation is under way")
            .hint("`playhouse operations` lists the others")
    };
    operation.map(|operation| operation.id).ok_or_else(nothing)
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("names and numbers are JSON") + "\n"
}

fn list(operations: &[Operation], colour: bool) -> String {
    if operations.is_empty() {
        return "nothing was changed yet\n".to_owned();
    }
    let mut rows = vec![["ID", "STATE", "STARTED", "TOOK", "CHANGE"].map(Cell::from).into()];
    rows.extend(operations.iter().map(|operation| {
        vec![
            operation.id.to_string().into(),
            state(operation.phase),
            date(operation.started_unix_us).into(),
            took(operation).into(),
            summary(operation).into(),
        ]
    }));
    align(&rows, colour)
}

/// Returns the change that was asked for, and why it was not done.
fn summary(operation: &Operation) -> String {
    let words = change_words(&operation.change);
    match &operation.reason {
        Some(reason) => format!("{words}: {}", visible(reason)),
        None => words,
    }
}

fn whole(operation: &Operation, colour: bool) -> String {
    let mut text = format!("operation {}: {}\n", operation.id, summary(operation));
    if let Some(key) = &operation.key {
        text += &format!("key {}\n", visible(key));
    }
    let mut rows: Vec<Vec<Cell>> =
        vec![vec![date(operation.started_unix_us).into(), "begun".into()]];
    rows.extend(operation.steps.iter().map(|step| {
        vec![
            date(step.at_unix_us).into(),
            phase_word(step.phase).into(),
            visible(&step.text).into(),
        ]
    }));
    if let Some(ended) = operation.ended_unix_us {
        rows.push(vec![date(ended).into(), state(operation.phase)]);
    }
    text += &align(&rows, colour);
    text
}

fn state(phase: Phase) -> Cell {
    let mood = match phase {
        Phase::Done => Mood::Good,
        Phase::Failed => Mood::Bad,
        Phase::Aborted => Mood::Plain,
        _ => Mood::Busy,
    };
    Cell::new(phase_word(phase), mood)
}

/// Returns the word for a phase.
pub(crate) fn phase_word(phase: Phase) -> &'static str {
    match phase {
        Phase::Plan => "plan",
        Phase::Prepare => "prepare",
        Phase::Switch => "switch",
        Phase::Retire => "retire",
        Phase::Done => "done",
        Phase::Failed => "failed",
        Phase::Aborted => "aborted",
    }
}

/// Returns a description of a change.
pub(crate) fn change_words(change: &Change) -> String {
    match change {
        Change::Deployment { data_parallel, tensor_parallel, pipeline_parallel, .. } => {
            let part = |name: &str, number: &Option<u32>| number.map(|n| format!("{name} {n}"));
            let parts = [
                part("dp", data_parallel),
                part("tp", tensor_parallel),
                part("pp", pipeline_parallel),
            ];
            format!("scale to {}", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
        }
        Change::DrainReplica { replica, deadline_seconds, .. } => {
            format!("drain replica {replica} within {deadline_seconds} s")
        }
        Change::RestartReplica { replica } => format!("restart replica {replica}"),
        Change::RemoveReplica { replica, deadline_seconds, .. } => {
            format!("remove replica {replica} within {deadline_seconds} s")
        }
        Change::DrainNode { node, deadline_seconds, .. } => {
            format!("drain node {} within {deadline_seconds} s", visible(node))
        }
        Change::UndrainNode { node } => format!("undrain node {}", visible(node)),
        Change::RemoveNode { node } => format!("remove node {}", visible(node)),
    }
}

fn date(unix_us: u64) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_micros(unix_us));
    Date::of(at.unwrap_or(SystemTime::UNIX_EPOCH)).to_string()
}

fn took(operation: &Operation) -> String {
    let ended = operation.ended_unix_us;
    ended.map_or("-".to_owned(), |ended| {
        let took = Duration::from_micros(ended.saturating_sub(operation.started_unix_us));
        format!("{:.1} s", took.as_secs_f64())
    })
}
