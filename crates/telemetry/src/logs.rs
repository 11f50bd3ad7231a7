//! Log events, sent to standard error as lines for people or as JSON for machines.
//!
//! No event contains a prompt, an answer or a key: events say what happened to requests and ranks, and name
//! requests by number. The test `nothing_a_client_says_is_logged` searches the logs of a server for the text
//! that was sent to it.

use std::fmt;
use std::io::IsTerminal;
use std::str::FromStr;

use tracing::Subscriber;
use tracing_subscriber::filter::{FilterExt, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry};

use crate::span;
use crate::traces::Traces;

/// The error that logs were already set up: [`init_logs`] ran before, or other code installed a subscriber.
#[derive(Debug, thiserror::Error)]
#[error("logs were already set up in this process")]
pub struct LogsAlreadySet;

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people: time, level, module, message and fields.
    #[default]
    Pretty,
    /// One JSON object per event, with `timestamp`, `level`, `target`, `message` and the fields.
    Json,
}

/// Sends events to standard error, and spans to `traces` if given. `RUST_LOG` wins over `default_filter`
/// (`"info"`, say); a filter that does not parse is replaced by the default, since a typo must not stop a
/// server. Colours are used on a terminal only, and never when `NO_COLOR` is set (<https://no-color.org>).
///
/// # Errors
/// When a subscriber is already installed: call this once, at the start of the process.
pub fn init_logs(
    default_filter: &str,
    format: LogFormat,
    traces: Option<&Traces>,
) -> Result<(), LogsAlreadySet> {
    let colours = std::io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let installed = Registry::default()
        .with(lines(default_filter, format, colours))
        .with(traces.map(Traces::layer))
        .try_init();
    installed.map_err(|_| LogsAlreadySet)?;
    if let Some(traces) = traces {
        span::trace_requests(traces.sampler());
    }
    Ok(())
}

/// Sends events as [`init_logs`] does, for a process whose parent passes the lines on: the parent adds the
/// time, and a line begins with its level (` WARN`, say).
///
/// # Errors
/// When a subscriber is already installed.
pub fn init_child_logs(default_filter: &str) -> Result<(), LogsAlreadySet> {
    tracing_subscriber::fmt()
        .with_env_filter(filter(default_filter))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .without_time()
        .try_init()
        .map_err(|_| LogsAlreadySet)
}

/// Returns the layer that writes lines. Spans of requests are left out, whatever `RUST_LOG` says.
fn lines<S>(default_filter: &str, format: LogFormat, colours: bool) -> impl Layer<S>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match format {
        LogFormat::Pretty => lines.with_ansi(colours).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let ours = filter_fn(|metadata| metadata.target() != span::TARGET);
    lines.with_filter(filter(default_filter).and(ours))
}

fn filter(default: &str) -> EnvFilter {
    EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default))
}

// === impl LogFormat ===

impl FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pretty" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            _ => Err("write json or pretty".to_owned()),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pretty => "pretty",
            Self::Json => "json",
        })
    }
}
