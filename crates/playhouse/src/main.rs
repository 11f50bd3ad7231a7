//! The `playhouse` command: a table of contents. Each subcommand is a module of its own.
#![forbid(unsafe_code)]

mod banner;
mod demo;
mod error;
mod loading;
mod progress;
mod serve;
mod signals;
mod sizing;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Serve open-weight language models over the OpenAI API, talk to them, measure them.
#[derive(Parser)]
#[command(name = "playhouse", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve a model over the OpenAI API.
    Serve(serve::ServeArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve::run(&args),
    };
    outcome.unwrap_or_else(|error| error.report())
}
