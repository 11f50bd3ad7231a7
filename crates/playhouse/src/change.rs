//! `playhouse scale`, `drain`, `undrain`, `restart` and `remove`: the changes of a cluster that serves.
//!
//! - **CH-1** the exit code is 0 if the change was accepted, or with `--wait` if it was done, 1 if not,
//!   2 for a wrong command line.
//! - **CH-2** standard output has one line, the operation, or with `--dry-run` the plan; progress is on
//!   standard error.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use playhouse_admin::view::{DeploymentPatch, Plan};

use crate::admin::{Accepted, AdminArgs, Request};
use crate::error::CliError;
use crate::follow::follow;
use crate::number;
use crate::output::{print, tell};
use crate::terminal::visible;
use crate::token::seconds;
use crate::wording::change_words;

/// The flags of all changes.
#[derive(Args)]
struct ChangeArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Follow the change on standard error until it ends; succeed only if it is done
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// Only print the steps of the change
    #[arg(long)]
    dry_run: bool,
    /// A name for this change: repeating the command with the same name makes no second change
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
}

/// The flag of changes that may leave no replica to serve.
#[derive(Args)]
struct ForceArgs {
    /// Make the change even if no replica is left to serve, meanwhile or afterwards
    #[arg(long)]
    force: bool,
}

/// The flags of a drain.
#[derive(Args)]
struct DrainArgs {
    /// How long requests may go on there before they move, such as 90s or 15m
    #[arg(long, default_value = "30s", value_parser = seconds, allow_negative_numbers = true)]
    deadline: i64,
    #[command(flatten)]
    force: ForceArgs,
    #[command(flatten)]
    change: ChangeArgs,
}

/// The flags of `playhouse scale`.
#[derive(Args)]
pub(crate) struct ScaleArgs {
    /// What to change: replicas (dp), ranks of each stage (tp) or stages (pp)
    what: Dimension,
    /// The new number of them
    #[arg(allow_negative_numbers = true, value_parser = number::signed)]
    number: i64,
    #[command(flatten)]
    force: ForceArgs,
    #[command(flatten)]
    change: ChangeArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Dimension {
    /// Replicas
    #[value(alias = "data")]
    Dp,
    /// Tensor parallel ranks of each stage, one replica after the other
    #[value(alias = "tensor")]
    Tp,
    /// Pipeline stages of each replica, one replica after the other
    #[value(alias = "pipeline")]
    Pp,
}

/// The flags of `playhouse drain`.
#[derive(Args)]
pub(crate) struct DrainCommand {
    #[command(subcommand)]
    what: DrainWhat,
}

#[derive(Subcommand)]
enum DrainWhat {
    /// Take a replica out of service and move its requests; `restart` brings it back.
    Replica {
        /// Id of the replica, such as 1 or replica-1
        #[arg(value_parser = number::replica)]
        id: u32,
        #[command(flatten)]
        drain: DrainArgs,
    },
    /// Take the ranks of a node away, and give it no more.
    Node {
        /// Name of the node
        name: String,
        #[command(flatten)]
        drain: DrainArgs,
    },
}

/// The flags of `playhouse undrain`.
#[derive(Args)]
pub(crate) struct UndrainCommand {
    #[command(subcommand)]
    what: UndrainWhat,
}

#[derive(Subcommand)]
enum UndrainWhat {
    /// Let a node have ranks again.
    Node {
        /// Name of the node
        name: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

/// The flags of `playhouse restart`.
#[derive(Args)]
pub(crate) struct RestartCommand {
    #[command(subcommand)]
    what: RestartWhat,
}

#[derive(Subcommand)]
enum RestartWhat {
    /// Restart a replica, in new processes; a drained or failed one, too.
    Replica {
        /// Id of the replica, such as 1 or replica-1
        #[arg(value_parser = number::replica)]
        id: u32,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

/// The flags of `playhouse remove`.
#[derive(Args)]
pub(crate) struct RemoveCommand {
    #[command(subcommand)]
    what: RemoveWhat,
}

#[derive(Subcommand)]
enum RemoveWhat {
    /// Drain a replica and remove it.
    Replica {
        /// Id of the replica, such as 1 or replica-1
        #[arg(value_parser = number::replica)]
        id: u32,
        #[command(flatten)]
        drain: DrainArgs,
    },
    /// Remove a node that has no ranks, and refuse it from then on.
    Node {
        /// Name of the node
        name: String,
        #[command(flatten)]
        change: ChangeArgs,
    },
}

/// Runs `playhouse scale`.
///
/// # Errors
/// Returns an error if the head cannot be reached or refuses, or the change was not done.
pub(crate) async fn scale(args: ScaleArgs) -> Result<ExitCode, CliError> {
    let ScaleArgs { what, number, force: ForceArgs { force }, change } = args;
    let mut patch = DeploymentPatch { force, ..DeploymentPatch::default() };
    match what {
        Dimension::Dp => patch.data_parallel = Some(number),
        Dimension::Tp => patch.tensor_parallel = Some(number),
        Dimension::Pp => patch.pipeline_parallel = Some(number),
    }
    make(change, Request::patch("/admin/v1/deployment".to_owned(), &patch)).await
}

/// Runs `playhouse drain`.
///
/// # Errors
/// Returns the errors of [`scale`].
pub(crate) async fn drain(args: DrainCommand) -> Result<ExitCode, CliError> {
    let (path, drain) = match args.what {
        DrainWhat::Replica { id, drain } => (format!("/admin/v1/replicas/{id}/drain"), drain),
        DrainWhat::Node { name, drain } => (format!("{}/drain", node_path(&name)?), drain),
    };
    let request = drain.parameters(Request::post(path));
    make(drain.change, request).await
}

/// Runs `playhouse undrain`.
///
/// # Errors
/// Returns the errors of [`scale`].
pub(crate) async fn undrain(args: UndrainCommand) -> Result<ExitCode, CliError> {
    let UndrainWhat::Node { name, change } = args.what;
    make(change, Request::delete(format!("{}/drain", node_path(&name)?))).await
}

/// Runs `playhouse restart`.
///
/// # Errors
/// Returns the errors of [`scale`].
pub(crate) async fn restart(args: RestartCommand) -> Result<ExitCode, CliError> {
    let RestartWhat::Replica { id, change } = args.what;
    make(change, Request::post(format!("/admin/v1/replicas/{id}/restart"))).await
}

/// Runs `playhouse remove`.
///
/// # Errors
/// Returns the errors of [`scale`].
pub(crate) async fn remove(args: RemoveCommand) -> Result<ExitCode, CliError> {
    match args.what {
        RemoveWhat::Replica { id, drain } => {
            let request = drain.parameters(Request::delete(format!("/admin/v1/replicas/{id}")));
            make(drain.change, request).await
        }
        RemoveWhat::Node { name, change } => make(change, Request::delete(node_path(&name)?)).await,
    }
}

/// Returns the path of a node, its name escaped.
pub(crate) fn node_path(name: &str) -> Result<String, CliError> {
    if name.is_empty() {
        return Err(CliError::usage("the name of the node is empty"));
    }
    let mut path = "/admin/v1/nodes/".to_owned();
    for byte in name.bytes() {
        // Proxies would take a name of dots alone for a folder.
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            path.push(char::from(byte));
        } else {
            path += &format!("%{byte:02X}");
        }
    }
    Ok(path)
}

async fn make(args: ChangeArgs, mut request: Request) -> Result<ExitCode, CliError> {
    if args.dry_run {
        request.parameter("dry_run", &true);
    }
    request.key(args.key.as_deref())?;
    let admin = args.admin.open().await?;
    match admin.change(request).await? {
        Accepted::Plan(plan) => print_plan(&plan),
        Accepted::Operation(operation) if args.wait => {
            tell(&format!("operation {}: {}\n", operation.id, change_words(&operation.change)));
            follow(&admin, operation.id).await
        }
        Accepted::Operation(operation) => {
            let (id, words) = (operation.id, change_words(&operation.change));
            print(&format!("operation {id}: {words}\n"))?;
            tell(&format!(
                "`playhouse operations {id} --watch` follows it, `playhouse abort {id}` ends it\n"
            ));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn print_plan(plan: &Plan) -> Result<ExitCode, CliError> {
    if let Some(nothing) = &plan.nothing_to_do {
        print(&format!("nothing to do: {}\n", visible(nothing)))?;
        return Ok(ExitCode::SUCCESS);
    }
    let steps = plan.steps.iter().map(|step| visible(step) + "\n");
    print(&steps.collect::<String>())?;
    Ok(ExitCode::SUCCESS)
}

// === impl DrainArgs ===

impl DrainArgs {
    fn parameters(&self, mut request: Request) -> Request {
        request.parameter("deadline_seconds", &self.deadline);
        if self.force.force {
            request.parameter("force", &true);
        }
        request
    }
}

#[cfg(test)]
mod tests {
    use super::node_path;

    #[test]
    fn names_of_nodes_are_escaped() {
        for (name, path) in [
            ("rack-1", "/admin/v1/nodes/rack-1"),
            ("a/b c", "/admin/v1/nodes/a%2Fb%20c"),
            ("..", "/admin/v1/nodes/%2E%2E"),
            ("é?#", "/admin/v1/nodes/%C3%A9%3F%23"),
        ] {
            assert_eq!(node_path(name).expect(name), path);
        }
        assert!(node_path("").is_err());
    }
}
