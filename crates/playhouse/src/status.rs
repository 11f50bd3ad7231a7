//! `playhouse status` shows the state of the cluster, as text or JSON, once or every second.
//!
//! - **ST-1** the exit code is 0 if there are replicas and all of them serve, 1 if not, 2 for a wrong
//!   command line. A head that cannot be asked is 1 and one line.
//! - **ST-2** texts of the cluster cannot steer the terminal, and colours are for terminals only.
//! - **ST-3** `--watch` survives an unreachable head, once it was reached.

pub(crate) mod tree;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use playhouse_admin::view::Cluster;
use tokio::time::{MissedTickBehavior, interval};

use crate::admin::{Admin, AdminArgs};
use crate::error::CliError;
use crate::output::print;
use crate::terminal::shows_colour;

/// The time between two requests of the state.
pub(crate) const PERIOD: Duration = Duration::from_secs(1);

/// The escape sequence that moves to the top left corner and clears the screen below.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// The flags of `playhouse status`.
#[derive(clap::Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Show it again every second until Ctrl-C
    #[arg(long)]
    watch: bool,
    /// Print the JSON of the admin API, on one line
    #[arg(long)]
    json: bool,
}

/// Shows the cluster.
///
/// # Errors
/// Returns an error if the head cannot be reached.
pub(crate) async fn run(args: StatusArgs) -> Result<ExitCode, CliError> {
    let admin = args.admin.open().await?;
    let cluster = admin.cluster().await?;
    if args.watch {
        return watch(&admin, cluster, args.json).await;
    }
    print(&text(&cluster, args.json))?;
    let fine = !cluster.replicas.is_empty() && cluster.serving() == cluster.replicas.len();
    Ok(if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Shows the cluster until a signal ends the process; the terminal needs no restoring.
async fn watch(admin: &Admin, first: Cluster, json: bool) -> Result<ExitCode, CliError> {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let clear = if io::stdout().is_terminal() && !json { CLEAR } else { "" };
    let mut shown = Ok(first);
    loop {
        match &shown {
            Ok(cluster) => print(&format!("{clear}{}", text(cluster, json)))?,
            Err(error) => drop(CliError::report(error)),
        }
        ticks.tick().await;
        shown = admin.cluster().await;
    }
}

fn text(cluster: &Cluster, json: bool) -> String {
    if json {
        let line = serde_json::to_string(cluster).expect("names and numbers are JSON");
        return line + "\n";
    }
    tree::text(cluster, shows_colour(&io::stdout()))
}
