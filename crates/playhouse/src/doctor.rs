//! `playhouse doctor` checks whether this machine, and a model folder, are fit to serve. With `--health`
//! it checks the health of the head or the node that runs here.
//!
//! - **D-1** each check is one line, `ok`, `warn` or `fail`; every line that is not `ok` has a hint.
//! - **D-2** the exit code is 1 if any check fails; warnings do not change it.
//! - **D-3** nothing is changed: ports are opened and closed again, files are only read.
//! - **D-4** `--health` finds out by itself whether the API speaks TLS, and accepts every certificate: it
//!   sends no secret, and runs where the names in a certificate are not known.

mod health;
mod host;
mod model;
mod port;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Command;
use serde::Serialize;
use serde_json::json;

pub(crate) use self::host::open_files_max;
use crate::error::CliError;
use crate::number;
use crate::output::print;

/// The flags of `playhouse doctor`.
#[derive(clap::Args)]
pub(crate) struct DoctorArgs {
    /// Print one JSON object instead of lines.
    #[arg(long)]
    json: bool,
    /// Only check the health of the node of --node-dir, or else of the head on --port.
    #[arg(long, conflicts_with = "model")]
    health: bool,
    /// Folder of the node's certificate, the --dir of `playhouse node`.
    #[arg(long, env = "PLAYHOUSE_NODE_DIR", value_name = "DIR")]
    node_dir: Option<PathBuf>,
    /// Address on which `serve` would listen, or listens.
    #[arg(long, env = "PLAYHOUSE_HOST", default_value = "127.0.0.1")]
    host: String,
    /// Port on which `serve` would listen, or listens.
    #[arg(
        long,
        env = "PLAYHOUSE_PORT",
        default_value_t = 8000,
        value_parser = number::whole::<u16>
    )]
    port: u16,
    /// Also check this model folder.
    model: Option<PathBuf>,
}

/// The result of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warn,
    Fail,
}

/// The outcome of one check.
#[derive(Debug, PartialEq, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    /// The finding of the check.
    detail: String,
    /// The advice for the user, if there is any.
    hint: Option<String>,
}

/// Runs every check and prints the findings. The variables of the environment that `command` does not read
/// are one of them.
///
/// # Errors
/// Returns an error only if the findings cannot be printed.
pub(crate) async fn run(args: DoctorArgs, command: &Command) -> Result<ExitCode, CliError> {
    let checks = match (args.health, &args.node_dir) {
        (true, Some(dir)) => vec![health::of_node(dir).await],
        (true, None) => vec![health::of_head(&args.host, args.port).await],
        (false, _) => fitness(&args, command).await,
    };
    let worst = checks.iter().map(|check| check.status).max().unwrap_or(Status::Ok);
    let text = if args.json {
        format!("{}\n", json!({ "status": worst, "checks": checks }))
    } else {
        checks.iter().map(Check::text).collect()
    };
    print(&text)?;
    Ok(if worst == Status::Fail { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Checks whether the machine, and the model, are fit to serve.
async fn fitness(args: &DoctorArgs, command: &Command) -> Vec<Check> {
    let mut checks = host::checks(command);
    checks.push(port::check(&args.host, args.port).await);
    if let Some(folder) = &args.model {
        checks.extend(model::checks(folder));
    }
    checks
}

// === impl Check ===

impl Check {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, detail: detail.into(), hint: None }
    }

    fn warn(name: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name, status: Status::Warn, detail: detail.into(), hint: Some(hint.into()) }
    }

    fn fail(name: &'static str, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name, status: Status::Fail, detail: detail.into(), hint: Some(hint.into()) }
    }

    fn text(&self) -> String {
        let status = match self.status {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        };
        let line = format!("{status:<5} {:<14} {}\n", self.name, self.detail);
        match &self.hint {
            Some(hint) => format!("{line}{:21}hint: {hint}\n", ""),
            None => line,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_a_line_and_a_hint() {
        let fine = Check::ok("clock", "2026-01-01");
        assert_eq!(fine.text(), "ok    clock          2026-01-01\n");
        let bad = Check::fail("memory", "64 MiB free", "buy some");
        assert_eq!(
            bad.text(),
            "fail  memory         64 MiB free\n                     hint: buy some\n"
        );
    }
}
