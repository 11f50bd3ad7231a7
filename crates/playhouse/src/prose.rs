//! The flags that documents, help and messages name, held against the command line: a flag that does not
//! exist helps nobody.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use playhouse_planner::dialect::{self, Dialect};

use crate::{Cli, layout_flags};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");

/// Flags of other programs, which a text may name that speaks of the program.
const PROGRAMS: [(&str, &[&str]); 6] = [
    ("cargo", &["--release", "--profile", "--workspace", "--locked", "--bench", "--test"]),
    ("cargo", &["--exact", "--ignored", "--features", "--test-threads", "--rows", "--nocapture"]),
    ("curl", &["--retry", "--retry-all-errors"]),
    ("docker", &["--detach", "--scale", "--stop", "--target", "--volumes", "--shm-size"]),
    ("container", &["--shm-size"]),
    ("slurm", &["--batch", "--signal", "--nodes"]),
];

/// Flags that clap adds to every command.
const EVERYWHERE: [&str; 2] = ["--help", "--version"];

/// What stands for any flag in comments of the planner.
const PATTERNS: [&str; 4] = ["--a", "--a.b", "--no", "--x"];

/// A text that names flags.
struct Prose {
    path: PathBuf,
    text: String,
    /// Whether the text speaks of other engines, and so of their flags.
    of_engines: bool,
}

fn cli() -> Command {
    let mut cli = layout_flags::documented(Cli::command());
    cli.build();
    cli
}

/// Returns the flags of a command and of the commands below it.
fn flags_of(command: &Command) -> BTreeSet<String> {
    let arguments = command.get_arguments();
    let names = arguments.flat_map(|argument| {
        let aliases = argument.get_all_aliases().unwrap_or_default();
        argument.get_long().into_iter().chain(aliases).map(|name| format!("--{name}"))
    });
    let own: BTreeSet<String> = names.collect();
    command.get_subcommands().map(flags_of).fold(own, |mut all, more| {
        all.extend(more);
        all
    })
}

/// Returns whether `flag` is one of the layouts that `plan` understands.
fn is_planned(flag: &str) -> bool {
    dialect::takes(Dialect::Native, flag).is_some()
}

fn is_foreign(flag: &str) -> bool {
    Dialect::ALL.into_iter().any(|engine| dialect::takes(engine, flag).is_some())
}

/// Returns the flags in a text, in order.
fn flags_in(text: &str) -> Vec<&str> {
    let mut flags = Vec::new();
    for (at, _) in text.match_indices("--") {
        let before = text[..at].chars().next_back();
        let name = &text[at + 2..];
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c);
        let end = name.find(|c: char| !is_name(c)).unwrap_or(name.len());
        let name = name[..end].trim_end_matches(['-', '.', '_']);
        let starts = name.starts_with(|c: char| c.is_ascii_lowercase());
        if starts && !before.is_some_and(|c| c.is_ascii_alphanumeric() || c == '-') {
            flags.push(&text[at..at + 2 + name.len()]);
        }
    }
    flags
}

/// Returns the commands `playhouse NAME ...` in a text, each with the rest of its line or code.
fn commands_in(text: &str) -> Vec<(&str, &str)> {
    let lines = text.lines().flat_map(|line| line.split('`'));
    let commands = lines.filter_map(|code| {
        let rest = code.trim_start().strip_prefix("playhouse ")?;
        let (name, flags) = rest.split_once(' ')?;
        // Behind the dashes stands the command of another engine.
        Some((name, flags.split_once(" -- ").map_or(flags, |(own, _)| own)))
    });
    commands.collect()
}

fn files(folder: &Path, extension: &str, into: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .expect("a folder of the repository")
        .map(|entry| entry.expect("readable").path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            files(&path, extension, into);
        } else if path.extension().is_some_and(|own| own == extension) {
            into.push(path);
        }
    }
}

/// Returns the documents, and the sources without their tests.
fn prose() -> Vec<Prose> {
    let root = Path::new(ROOT);
    let mut paths: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "SECURITY.md", "BENCHMARKS.md"]
        .map(|it| root.join(it))
        .into();
    files(&root.join("docs"), "md", &mut paths);
    let mut sources = Vec::new();
    files(&root.join("crates"), "rs", &mut sources);
    let is_shipped = |path: &PathBuf| {
        let has = |name: &str| path.components().any(|part| part.as_os_str() == name);
        has("src") && !has("tests") && !path.ends_with("tests.rs") && !path.ends_with(file!())
    };
    paths.extend(sources.into_iter().filter(is_shipped));
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("UTF-8");
        let text = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
        let relative = path.strip_prefix(root).unwrap_or(&path).to_owned();
        let engines = ["crates/planner", "crates/types/src/parallel.rs", "docs/planning.md"];
        let own = ["crates/playhouse/src/serve/foreign.rs", "crates/playhouse/src/layout_flags.rs"];
        let of_engines = engines.iter().chain(&own).any(|of| relative.starts_with(of));
        Prose { path: relative, text, of_engines }
    };
    paths.into_iter().map(read).collect()
}

#[test]
fn every_flag_in_prose_exists() {
    let own = flags_of(&cli());
    let mut wrong = Vec::new();
    let mut count = 0;
    for Prose { path, text, of_engines } in prose() {
        let lower = text.to_lowercase();
        let of_program = |flag: &str| {
            let mut programs = PROGRAMS.iter();
            programs.any(|(name, flags)| lower.contains(name) && flags.contains(&flag))
        };
        for paragraph in text.split("\n\n") {
            let quotes = of_engines || paragraph.contains("--from");
            for flag in flags_in(paragraph) {
                count += 1;
                let known = own.contains(flag)
                    || is_planned(flag)
                    || EVERYWHERE.contains(&flag)
                    || of_program(flag)
                    || (quotes && (is_foreign(flag) || PATTERNS.contains(&flag)));
                if !known {
                    wrong.push(format!("{}: {flag}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "no command has these flags:\n{}", wrong.join("\n"));
    assert!(count > 300, "{count} flags were found");
}

/// `playhouse status --port` would be a flag of another command.
#[test]
fn every_command_in_prose_has_its_flags() {
    let cli = cli();
    let mut wrong = Vec::new();
    let mut count = 0;
    for Prose { path, text, .. } in prose() {
        for (name, rest) in commands_in(&text) {
            let Some(command) = cli.find_subcommand(name) else { continue };
            let own = flags_of(command);
            for flag in flags_in(rest) {
                count += 1;
                let known = own.contains(flag) || (name == "plan" && is_planned(flag));
                if !known && !EVERYWHERE.contains(&flag) {
                    wrong.push(format!("{}: playhouse {name} {flag}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "these commands do not have these flags:\n{}", wrong.join("\n"));
    assert!(count > 30, "{count} flags were found");
}

#[test]
fn flags_are_found_and_told_from_dashes() {
    let text = "a --- b, `--port 1` (--tls-key_file=x), x--y --2 --max-model-len. -- end--";
    assert_eq!(flags_in(text), ["--port", "--tls-key_file", "--max-model-len"]);
    let text = "see `playhouse serve --port 0`, or\nplayhouse plan -tp 2 -- vllm --x\n";
    assert_eq!(commands_in(text), [("serve", "--port 0"), ("plan", "-tp 2")]);
}

/// What a user may read of a flag with a bad value has no words of Rust.
#[test]
fn bad_values_are_refused_in_plain_words() {
    let rust = [
        "digit",
        "invalid IP",
        "socket address syntax",
        "float literal",
        "Os {",
        "ParseInt",
        "number would be zero",
        "number too",
        "usize",
        "u64",
        "u32",
        "not in -",
        "provided string",
    ];
    let cli = cli();
    let mut tried = 0;
    for command in leaves(&cli, &[]) {
        let (words, arguments) = command;
        for (flag, takes_value) in arguments {
            if !takes_value {
                continue;
            }
            for bad in ["\u{7f}?", "-", "99999999999999999999999", "1.2.3", "", "-5", "0x1"] {
                let given = format!("{flag}={bad}");
                let line = words.iter().cloned().chain([given]);
                let Err(error) = cli.clone().try_get_matches_from(line) else { continue };
                let text = error.to_string();
                let leaked = rust.iter().find(|word| text.contains(**word));
                assert_eq!(leaked, None, "{words:?} {flag}: {text}");
                tried += 1;
            }
        }
    }
    assert!(tried > 150, "{tried} values were refused");
}

/// A flag with its dashes, and whether it takes a value.
type Flag = (String, bool);

/// Returns the words of every command that has no command below it, with its flags.
fn leaves(command: &Command, above: &[String]) -> Vec<(Vec<String>, Vec<Flag>)> {
    let words = [above, &[command.get_name().to_owned()]].concat();
    let below: Vec<_> = command.get_subcommands().filter(|it| it.get_name() != "help").collect();
    if !below.is_empty() {
        return below.into_iter().flat_map(|command| leaves(command, &words)).collect();
    }
    let flags = command.get_arguments().filter_map(|argument| {
        let long = argument.get_long()?;
        Some((format!("--{long}"), argument.get_action().takes_values()))
    });
    vec![(words, flags.collect())]
}
