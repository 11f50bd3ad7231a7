//! `playhouse template`: the process of a chat template, started by `serve`, not by people.

use std::io;
use std::process::ExitCode;

use clap::Args;
use playhouse_gateway::run_template_process;

use crate::error::CliError;
use crate::shard::volunteer;

/// Render conversations for a server that started this process.
#[derive(Args)]
pub(crate) struct TemplateArgs {}

/// Renders the conversations on standard input until its end.
///
/// # Errors
/// Returns an error when the process cannot bound its memory, or its parent reads no more.
pub(crate) fn run(_args: &TemplateArgs) -> Result<ExitCode, CliError> {
    volunteer();
    run_template_process(io::stdin(), io::stdout())
        .map(|()| ExitCode::SUCCESS)
        .map_err(|why| CliError::failure(why.to_string()))
}
