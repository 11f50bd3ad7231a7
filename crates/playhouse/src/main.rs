//! The `playhouse` command: a table of contents. Each subcommand is a module of its own.
#![forbid(unsafe_code)]

mod admin;
mod authority;
mod banner;
mod bench;
mod blueprints;
mod cgroups;
mod change;
mod chat;
mod client;
mod date;
mod demo;
mod doctor;
mod error;
mod follow;
mod isolation;
mod key;
mod layout;
mod layout_flags;
mod loading;
mod node;
mod number;
mod operations;
mod output;
mod plan;
mod progress;
#[cfg(test)]
mod prose;
mod revoke;
mod secret;
mod serve;
mod shard;
mod signals;
mod sizing;
mod status;
mod table;
mod template;
mod terminal;
mod token;
mod top;
mod wording;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::error::CliError;

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
    Serve(Box<serve::ServeArgs>),
    /// Show where every rank of a layout lands, check it, translate it, or recommend one.
    Plan(Box<plan::PlanArgs>),
    /// Put load on an OpenAI endpoint and print vLLM's "Serving Benchmark Result".
    Bench(Box<bench::BenchArgs>),
    /// Talk to a model behind an OpenAI endpoint.
    Chat(chat::ChatArgs),
    /// Offer this machine's devices to a head.
    Node(node::NodeArgs),
    /// Set a cluster of several machines up.
    Cluster(authority::ClusterArgs),
    /// Check this machine, and a model folder, before serving.
    Doctor(doctor::DoctorArgs),
    /// Show what a cluster looks like: nodes, replicas, stages, shards.
    Status(status::StatusArgs),
    /// Watch a cluster at work.
    Top(top::TopArgs),
    /// Change how many replicas there are, or how each is divided, while it serves.
    Scale(change::ScaleArgs),
    /// Take a replica or a node out of service without losing a request.
    Drain(change::DrainCommand),
    /// Let a drained node have ranks again.
    Undrain(change::UndrainCommand),
    /// Restart a replica.
    Restart(change::RestartCommand),
    /// Drain a replica and remove it, or forget a node.
    Remove(change::RemoveCommand),
    /// End the trust in a node.
    Revoke(revoke::RevokeArgs),
    /// Show what was changed and what is being changed.
    Operations(operations::OperationsArgs),
    /// End an operation.
    Abort(operations::AbortArgs),
    /// Make API keys.
    Key(key::KeyArgs),
    /// Make tokens that let nodes join a cluster.
    Token(token::TokenArgs),
    #[command(hide = true)]
    Shard(shard::ShardArgs),
    #[command(hide = true)]
    Template(template::TemplateArgs),
}

fn main() -> ExitCode {
    let mut cli = layout_flags::documented(Cli::command());
    cli.build();
    let layout_flags::Split { rest, layout, foreign } =
        layout_flags::split(std::env::args_os().collect(), &cli);
    let cli =
        Cli::from_arg_matches(&cli.get_matches_from(rest)).unwrap_or_else(|error| error.exit());
    let outcome = match cli.command {
        Command::Serve(args) => serve::run(&args, &layout, &foreign),
        Command::Plan(args) => plan::run(&args, &layout),
        Command::Bench(args) => on_one_thread(bench::run(*args)),
        Command::Chat(args) => on_one_thread(chat::run(args)),
        Command::Doctor(args) => on_one_thread(doctor::run(args, &Cli::command())),
        Command::Status(args) => on_one_thread(status::run(args)),
        Command::Top(args) => on_one_thread(top::run(args)),
        Command::Token(args) => on_one_thread(token::run(args)),
        Command::Scale(args) => on_one_thread(change::scale(args)),
        Command::Drain(args) => on_one_thread(change::drain(args)),
        Command::Undrain(args) => on_one_thread(change::undrain(args)),
        Command::Restart(args) => on_one_thread(change::restart(args)),
        Command::Remove(args) => on_one_thread(change::remove(args)),
        Command::Revoke(args) => on_one_thread(revoke::run(args)),
        Command::Operations(args) => on_one_thread(operations::run(args)),
        Command::Abort(args) => on_one_thread(operations::run_abort(args)),
        Command::Node(args) => node::run(&args),
        Command::Key(args) => key::run(&args),
        Command::Cluster(args) => authority::run(&args),
        Command::Shard(args) => shard::run(&args),
        Command::Template(args) => template::run(&args),
    };
    outcome.unwrap_or_else(|error| error.report())
}

/// Runs a client command on one thread: a load generator that shares the machine with the server under
/// test should take as little of it as possible, and wake no second thread.
fn on_one_thread(
    command: impl Future<Output = Result<ExitCode, CliError>>,
) -> Result<ExitCode, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| CliError::failure(format!("cannot start the async runtime: {error}")))?;
    runtime.block_on(command)
}
