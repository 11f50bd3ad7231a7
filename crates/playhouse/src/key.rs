//! `playhouse key`: API keys for the file of `--api-keys-file`.

use std::process::ExitCode;

use playhouse_gateway::ApiKey;
use ring::rand::{SecureRandom, SystemRandom};

use crate::error::CliError;
use crate::output::{print, tell};
use crate::serve::keys::{NAME_RULE, is_name};

/// The prefix of keys, by which scanners for leaked secrets recognise them.
const PREFIX: &str = "sk-playhouse-";

/// The flags of `playhouse key`.
#[derive(clap::Args)]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    command: KeyCommand,
}

#[derive(clap::Subcommand)]
enum KeyCommand {
    /// Make an API key. It is printed once; the file gets its digest only.
    Create {
        /// Name of its holder, for metrics and logs
        #[arg(long)]
        name: String,
    },
}

/// Prints a key alone on standard output, and on standard error the lines for the file.
///
/// # Errors
/// Returns an error if the name is not allowed, or the system gives no randomness.
pub(crate) fn run(args: &KeyArgs) -> Result<ExitCode, CliError> {
    let KeyCommand::Create { name } = &args.command;
    if !is_name(name) {
        return Err(CliError::usage(format!("--name {name:?} must be {NAME_RULE}")));
    }
    let mut bytes = [0; 24];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| CliError::failure("the system gives no randomness for a key"))?;
    let key = format!("{PREFIX}{}", hex(&bytes));
    print(&format!("{key}\n"))?;
    let digest = hex(&ApiKey::digest(&key));
    // The key was delivered, even if this output is not.
    tell(&format!("[[key]]\nname = \"{name}\"\nkey_sha256 = \"{digest}\"\n"));
    Ok(ExitCode::SUCCESS)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
