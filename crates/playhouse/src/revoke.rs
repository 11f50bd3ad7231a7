//! `playhouse revoke node` ends the trust in a machine.

use std::process::ExitCode;

use crate::admin::{AdminArgs, Request};
use crate::change::node_path;
use crate::error::CliError;
use crate::output::print;
use crate::terminal::visible;

/// The flags of `playhouse revoke`.
#[derive(clap::Args)]
pub(crate) struct RevokeArgs {
    #[command(subcommand)]
    what: RevokeWhat,
}

#[derive(clap::Subcommand)]
enum RevokeWhat {
    /// Disconnect a node at once, and refuse its certificate for good; its replicas move.
    Node {
        /// Name of the node
        name: String,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// Revokes a node and prints the result in one line.
///
/// # Errors
/// Returns an error if the head cannot be reached or refuses.
pub(crate) async fn run(args: RevokeArgs) -> Result<ExitCode, CliError> {
    let RevokeWhat::Node { name, admin } = args.what;
    let request = Request::post(node_path(&name)? + "/revoke");
    let revoked = admin.open().await?.revoke(request).await?;
    let cut = match revoked.was_connected {
        true => "it was connected and has been cut off",
        false => "it was not connected",
    };
    print(&format!("revoked the certificate of node {}: {cut}\n", visible(&revoked.node)))?;
    Ok(ExitCode::SUCCESS)
}
