//! The flags of a layout on our own command lines.
//!
//! `clap` cannot parse `-tp 2`, and `serve` and `plan` must accept all the spellings of the planner's
//! table. So the flags of the layout are taken out of the command line before clap parses the rest, and so
//! are, for `serve`, those that only other engines have: `serve` says what becomes of each. `clap` gets
//! the flags that nobody knows, and suggests the nearest.

use std::ffi::OsString;

use clap::{Arg, Command};
use playhouse_planner::dialect::{self, Dialect, Flag, Key, Kind, Takes};

/// The subcommand that takes any layout.
const PLAN: &str = "plan";

/// The subcommand that takes the layouts that this version serves.
const SERVE: &str = "serve";

/// The engines whose flags `serve` knows by name.
const OTHERS: [Dialect; 2] = [Dialect::Vllm, Dialect::Sglang];

/// The settings of a layout that this version serves.
const SERVED: [Key; 5] =
    [Key::Tensor, Key::Pipeline, Key::PipelinePartition, Key::MicroBatchMax, Key::Data];

/// Returns whether this version serves a layout with that setting.
pub(crate) fn is_served(key: Key) -> bool {
    SERVED.contains(&key)
}

/// A command line, split into its parts.
#[derive(Default)]
pub(crate) struct Split {
    /// The arguments for clap.
    pub(crate) rest: Vec<OsString>,
    /// The arguments for the planner.
    pub(crate) layout: Vec<String>,
    /// The flags of other engines.
    pub(crate) foreign: Vec<ForeignFlag>,
}

/// A flag that another engine has, as it was given to `serve`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForeignFlag {
    /// The flag, with its dashes.
    pub(crate) flag: String,
    /// The first value, if there is one.
    pub(crate) value: Option<String>,
    /// The engine that has the flag.
    pub(crate) dialect: Dialect,
}

/// The reader of a flag.
enum Reader {
    Clap,
    Planner,
    Foreign(Dialect, Takes),
}

/// Takes the layout out of `args`, which begin with the program. `cli` is built already.
pub(crate) fn split(args: Vec<OsString>, cli: &Command) -> Split {
    let command = args.get(1).and_then(|name| name.to_str());
    let command = command.filter(|name| [PLAN, SERVE].contains(name));
    let Some(command) = command.and_then(|name| cli.find_subcommand(name)) else {
        return Split { rest: args, ..Split::default() };
    };
    let mut split = Split::default();
    let mut args = args.into_iter();
    split.rest.extend(args.by_ref().take(2));
    while let Some(word) = args.next() {
        if word == "--" {
            // The rest is the command line of another engine.
            split.rest.push(word);
            split.rest.extend(args.by_ref());
            break;
        }
        let text = word.to_str().unwrap_or_default();
        let following = args.as_slice().iter().map_while(|next| next.to_str());
        let attached = text.contains('=');
        match reader(text, command) {
            Reader::Clap => {
                let follows = takes_value(text, command);
                split.rest.push(word);
                split.rest.extend(args.by_ref().take(usize::from(follows)));
            }
            Reader::Planner => {
                // The argument after an unknown flag is taken for its value, if it may be one.
                let next = args.as_slice().first().and_then(|next| next.to_str());
                let taken = kind(text) != Some(Kind::Switch) || next.is_some_and(is_count);
                let follows = !attached && next.is_some_and(is_value) && taken;
                split.layout.push(text.to_owned());
                let value = args.by_ref().take(usize::from(follows));
                split.layout.extend(value.map(|value| value.to_string_lossy().into_owned()));
            }
            Reader::Foreign(dialect, takes) => {
                let most = match takes {
                    _ if attached => 0,
                    Takes::None => 0,
                    Takes::One => 1,
                    Takes::Many => usize::MAX,
                };
                let count = following.take_while(|next| is_value(next)).take(most).count();
                let (flag, value) = match text.split_once('=') {
                    Some((flag, value)) => (flag, Some(value.to_owned())),
                    None => (text, None),
                };
                let flag = flag.to_owned();
                let mut values = args.by_ref().take(count);
                let next = values.next().map(|value| value.to_string_lossy().into_owned());
                values.for_each(drop);
                split.foreign.push(ForeignFlag { flag, value: value.or(next), dialect });
            }
        }
    }
    split
}

/// Returns whether a word may be the value of the flag before it: a number below zero is a value, if a bad
/// one.
fn is_value(word: &str) -> bool {
    !word.starts_with('-') || word[1..].starts_with(|c: char| c.is_ascii_digit())
}

/// Returns whether `word` looks like a value given to a switch, which has none: the planner reports that.
fn is_count(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_digit())
}

/// Adds the flags of a layout to the help of the subcommands that take one, and to the flags that clap
/// suggests for one that it does not know.
pub(crate) fn documented(cli: Command) -> Command {
    cli.mut_subcommand(PLAN, |command| {
        command.after_help(format!("Layout:\n{}", dialect::help(Dialect::Native, |_| true)))
    })
    .mut_subcommand(SERVE, |command| {
        let help = dialect::help(Dialect::Native, is_served);
        let help = format!(
            "Layout:\n{help}\nFlags of vLLM and SGLang for what is always on here, such as \
             --enable-prefix-caching, are accepted.\n`playhouse plan` takes all layouts, and shows \
             where their ranks would be."
        );
        served_flags().map(suggested).fold(command.after_help(help), Command::arg)
    })
}

/// Returns the flags of the layouts that this version serves.
fn served_flags() -> impl Iterator<Item = &'static Flag> {
    dialect::flags(Dialect::Native).iter().filter(|flag| is_served(flag.key))
}

/// Returns an argument that clap suggests and never parses.
fn suggested(flag: &'static Flag) -> Arg {
    let names = flag.names.iter().copied().filter(|name| !name.starts_with('-'));
    Arg::new(flag.names[0]).long(flag.names[0]).aliases(names.skip(1)).hide(true)
}

fn is_suggested(argument: &Arg) -> bool {
    served_flags().any(|flag| argument.get_id() == flag.names[0])
}

/// Returns the reader of a word.
fn reader(word: &str, command: &Command) -> Reader {
    if !word.starts_with('-') || word.len() == 1 || argument(word, command).is_some() {
        return Reader::Clap;
    }
    if dialect::takes(Dialect::Native, word).is_some() {
        return Reader::Planner;
    }
    let has = |other: Dialect| Some(Reader::Foreign(other, dialect::takes(other, word)?));
    match command.get_name() {
        // Clap would read several short flags.
        _ if !word.starts_with("--") => Reader::Planner,
        SERVE => OTHERS.into_iter().find_map(has).unwrap_or(Reader::Clap),
        _ if dialect::nearest(Dialect::Native, word).is_some() => Reader::Planner,
        _ => Reader::Clap,
    }
}

fn takes_value(word: &str, command: &Command) -> bool {
    let argument = argument(word, command);
    !word.contains('=') && argument.is_some_and(|argument| argument.get_action().takes_values())
}

/// Returns clap's argument of that spelling.
fn argument<'a>(word: &str, command: &'a Command) -> Option<&'a Arg> {
    let name = word.split('=').next().unwrap_or(word);
    let mut own = command.get_arguments().filter(|argument| !is_suggested(argument));
    own.find(|argument| match name.strip_prefix("--") {
        Some(long) => argument.get_long() == Some(long) || is_alias(argument, long),
        None => name
            .strip_prefix('-')
            .is_some_and(|short| argument.get_short().is_some_and(|own| short.chars().eq([own]))),
    })
}

fn is_alias(argument: &Arg, long: &str) -> bool {
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
