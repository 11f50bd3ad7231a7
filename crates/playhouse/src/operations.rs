//! `playhouse operations` and `playhouse abort`: past operations, and the one under way.

use std::io;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use playhouse_admin::view::{Operation, Phase};

use crate::admin::{Accepted, Admin, AdminArgs, Request};
use crate::date::Date;
use crate::error::CliError;
use crate::follow::follow;
use crate::number;
use crate::output::{print, tell};
use crate::table::{Cell, Mood, align};
use crate::terminal::{shows_colour, visible};
use crate::wording::{change_words, phase_word};

/// The flags of `playhouse operations`.
#[derive(Args)]
pub(crate) struct OperationsArgs {
    /// Id of the operation to show, with all its steps; without, a list of all that are known, the newest
    /// first
    #[arg(value_parser = number::operation)]
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
    #[arg(value_parser = number::operation)]
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
    let id = args.id;
    let request = Request::delete(format!("/admin/v1/operations/{id}"));
    match args.admin.open().await?.change(request).await? {
        Accepted::Plan(_) => Err(CliError::failure("the head answers another question")),
        Accepted::Operation(_) => {
            print(&format!("operation {id} was asked to end\n"))?;
            tell(&format!("`playhouse operations {id} --watch` follows it\n"));
            Ok(ExitCode::SUCCESS)
        }
    }
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
