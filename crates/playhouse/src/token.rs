//! `playhouse token`: tokens that let nodes join a cluster.

use std::process::ExitCode;

use playhouse_admin::view::TokenRequest;

use crate::admin::AdminArgs;
use crate::error::CliError;
use crate::output::{print, tell};
use crate::terminal::visible;

/// The flags of `playhouse token`.
#[derive(clap::Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(clap::Subcommand)]
enum TokenCommand {
    /// Print a new token, which lets one node join.
    Create {
        /// How long the token is valid, such as 90s, 15m, 1h or 2d
        #[arg(long, default_value = "1h", value_parser = seconds, allow_negative_numbers = true)]
        ttl: i64,
        #[command(flatten)]
        admin: AdminArgs,
    },
}

/// Prints a token alone on standard output, so that a script can read it from there.
///
/// # Errors
/// Returns an error if the head gives no token.
pub(crate) async fn run(args: TokenArgs) -> Result<ExitCode, CliError> {
    let TokenCommand::Create { ttl: ttl_seconds, admin } = args.command;
    let made = admin.open().await?.create_token(TokenRequest { ttl_seconds }).await?;
    print(&format!("{}\n", visible(&made.token)))?;
    // The token was delivered, even if this output is not.
    tell(&format!(
        "It lets one node join within {} s. On that machine, with the cluster address that \
         `playhouse serve` prints:\n  playhouse node --join HOST:PORT --name NAME --token TOKEN\n",
        made.expires_in_seconds
    ));
    Ok(ExitCode::SUCCESS)
}

/// Parses any whole number of seconds: the head refuses those that are too few or too many.
pub(crate) fn seconds(text: &str) -> Result<i64, String> {
    let (number, scale) = match text.char_indices().last() {
        Some((at, 's')) => (&text[..at], 1),
        Some((at, 'm')) => (&text[..at], 60),
        Some((at, 'h')) => (&text[..at], 3600),
        Some((at, 'd')) => (&text[..at], 24 * 3600),
        _ => (text, 1),
    };
    let seconds = number.parse::<i64>().ok().and_then(|number| number.checked_mul(scale));
    seconds.ok_or_else(|| "write a whole number and a unit, such as 90s, 15m, 1h or 2d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times_have_units() {
        for (text, expected) in
            [("90", 90), ("90s", 90), ("15m", 900), ("1h", 3600), ("2d", 172_800), ("-1h", -3600)]
        {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "h", "1.5h", "1w", "1 h", "1é", "9223372036854775807m"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
