//! Where log events go: to standard error, as lines for people.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// [`init_logs`] ran before, or something else installed a subscriber.
#[derive(Debug, thiserror::Error)]
#[error("logs were already set up in this process")]
pub struct LogsAlreadySet;

/// Sends events to standard error. `RUST_LOG` wins over `default_filter` (`"info"`, say); a filter
/// that does not parse is dropped for the default, since a typo must not stop a server. Colours
/// only on a terminal, and never when `NO_COLOR` is set (<https://no-color.org>).
///
/// # Errors
/// When a subscriber is already installed: call this once, at the start of the process.
pub fn init_logs(default_filter: &str) -> Result<(), LogsAlreadySet> {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default_filter));
    let colours = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(colours)
        .try_init()
        .map_err(|_| LogsAlreadySet)
}
