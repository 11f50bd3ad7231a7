//! The flags of a layout on our own command lines.
//!
//! `clap` cannot parse `-tp 2`, and `serve` and `plan` must accept all the spellings of the planner's
//! table. So the flags of the layout are taken out of the command line before clap parses the rest; the
//! planner parses them, and names the nearest flag for an unknown one.

use std::ffi::OsString;

use clap::Command;
use playhouse_planner::dialect::{self, Dialect, Kind};

/// Subcommands that take a layout.
const COMMANDS: [&str; 2] = ["plan", "serve"];

/// A command line, split into two parts.
pub(crate) struct Split {
    /// The arguments for clap.
    pub(crate) rest: Vec<OsString>,
    /// The arguments for the planner.
    pub(crate) layout: Vec<String>,
}

/// Takes the layout out of `args`, which begin with the program. `cli` is built already.
pub(crate) fn split(args: Vec<OsString>, cli: &Command) -> Split {
    let command = args.get(1).and_then(|name| name.to_str());
    let command = command.filter(|name| COMMANDS.contains(name));
    let Some(command) = command.and_then(|name| cli.find_subcommand(name)) else {
        return Split { rest: args, layout: Vec::new() };
    };
    let mut split = Split { rest: Vec::new(), layout: Vec::new() };
    let mut args = args.into_iter();
    split.rest.extend(args.by_ref().take(2));
    while let Some(word) = args.next() {
        if word == "--" {
            // The rest is the command line of another engine.
            split.rest.push(word);
            split.rest.extend(args.by_ref());
            break;
        }
        match word.to_str().filter(|text| is_layout(text, command)) {
            None => {
                let follows = word.to_str().is_some_and(|text| takes_value(text, command));
                split.rest.push(word);
                split.rest.extend(args.by_ref().take(usize::from(follows)));
            }
            Some(text) => {
                // The argument after an unknown flag is taken for its value, if it may be one.
                let next = args.as_slice().first().and_then(|next| next.to_str());
                let is_value = next.is_some_and(|next| {
                    // A number below zero is a value, if a bad one.
                    !next.starts_with('-') || next[1..].starts_with(|c: char| c.is_ascii_digit())
                });
                let taken = kind(text) != Some(Kind::Switch) || next.is_some_and(is_count);
                let follows = !text.contains('=') && is_value && taken;
                split.layout.push(text.to_owned());
                let value = args.by_ref().take(usize::from(follows));
                split.layout.extend(value.map(|value| value.to_string_lossy().into_owned()));
            }
        }
    }
    split
}

/// Returns whether `word` looks like a value given to a switch, which has none: the planner reports that.
fn is_count(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit())
}

/// Adds the flags of a layout to the help of the subcommands that take one.
pub(crate) fn documented(mut cli: Command) -> Command {
    for name in COMMANDS {
        let flags = format!("Layout:\n{}", dialect::help(Dialect::Native));
        cli = cli.mut_subcommand(name, |command| command.after_help(flags));
    }
    cli
}

/// Returns whether a flag is unknown to clap: one of the layout, or an unknown one.
fn is_layout(word: &str, command: &Command) -> bool {
    word.starts_with('-') && word.len() > 1 && argument(word, command).is_none()
}

fn takes_value(word: &str, command: &Command) -> bool {
    let argument = argument(word, command);
    !word.contains('=') && argument.is_some_and(|argument| argument.get_action().takes_values())
}

/// Returns clap's argument of that spelling.
fn argument<'a>(word: &str, command: &'a Command) -> Option<&'a clap::Arg> {
    let name = word.split('=').next().unwrap_or(word);
    command.get_arguments().find(|argument| match name.strip_prefix("--") {
        Some(long) => argument.get_long() == Some(long) || is_alias(argument, long),
        None => name
            .strip_prefix('-')
            .is_some_and(|short| argument.get_short().is_some_and(|own| short.chars().eq([own]))),
    })
}

fn is_alias(argument: &clap::Arg, long: &str) -> bool {
    argument.get_all_aliases().is_some_and(|aliases| aliases.contains(&long))
}

/// Returns the kind of value that a flag of the layout takes.
fn kind(word: &str) -> Option<Kind> {
    let name = word.split('=').next().unwrap_or(word);
    let plain = |name: &str| name.trim_start_matches('-').replace('_', "-");
    let is =
        |own: &&str| plain(own) == plain(name) && name.starts_with("--") != own.starts_with('-');
    let flags = dialect::flags(Dialect::Native);
    flags.iter().find(|flag| flag.names.iter().any(is)).map(|flag| flag.kind)
}
