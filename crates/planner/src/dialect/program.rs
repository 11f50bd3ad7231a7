//! Where the flags of a command begin: behind its program, and what starts that.

use super::table::Table;
use super::{Dialect, Problem};

/// Programs that start the one they are given.
const WRAPPERS: &[&str] = &[
    "docker",
    "podman",
    "nerdctl",
    "singularity",
    "apptainer",
    "enroot",
    "mpirun",
    "mpiexec",
    "orterun",
    "srun",
    "trtllm-llmapi-launch",
    "uv",
    "uvx",
    "poetry",
    "pipx",
    "conda",
    "nohup",
    "env",
    "sudo",
    "exec",
    "time",
    "nice",
    "numactl",
    "taskset",
    "nsys",
    "torchrun",
];

/// A command taken apart.
pub(super) struct Command<'w> {
    /// Words that start the program.
    pub(super) before: &'w [String],
    /// Words for the program.
    pub(super) flags: &'w [String],
}

// === impl Command ===

impl<'w> Command<'w> {
    /// Takes the words of `dialect`'s engine apart. Without a program, all words are flags.
    pub(super) fn of(dialect: Dialect, words: &'w [String]) -> Result<Self, Problem> {
        let table = dialect.table();
        let Some(first) = words.first() else { return Ok(Self { before: &[], flags: words }) };
        let wrapper = file_name(first);
        let python = wrapper.starts_with("python");
        if !python && !WRAPPERS.contains(&wrapper) && speaker(wrapper).is_none() {
            return Ok(Self { before: &[], flags: subcommand(table, words)? });
        }
        let image = words.iter().position(|word| table.images.contains(&image_name(word)));
        let found = image.map(|at| (at, file_name(&words[at]), dialect)).or_else(|| program(words));
        let Some((at, named, speaks)) = found else {
            let programs = table.programs;
            return Err(Problem::NoProgram { wrapper: wrapper.to_owned(), programs });
        };
        if speaks != dialect {
            return Err(Problem::ForeignCommand {
                command: named.to_owned(),
                engine: table.engine,
                other: speaks.name(),
            });
        }
        let before = if python { &[][..] } else { &words[..at] };
        Ok(Self { before, flags: subcommand(table, &words[at + 1..])? })
    }
}

/// The first program; one right after a flag may be its value (`--name vllm`), so others go before.
fn program(words: &[String]) -> Option<(usize, &str, Dialect)> {
    let named = |at: usize| {
        let name = file_name(&words[at]);
        Some((at, name, speaker(name).filter(|_| !words[at].contains(':'))?))
    };
    let after_flag = |at: usize| at > 0 && words[at - 1].starts_with('-') && words[at - 1] != "-m";
    let sure = (0..words.len()).filter(|at| !after_flag(*at)).find_map(named);
    sure.or_else(|| (0..words.len()).find_map(named))
}

/// The words after a subcommand that serves.
fn subcommand<'w>(table: &Table, words: &'w [String]) -> Result<&'w [String], Problem> {
    let [word, rest @ ..] = words else { return Ok(words) };
    if let Some((_, reason)) = table.rankless.iter().find(|(name, _)| name == word) {
        return Err(Problem::NoRanks { command: word.clone(), reason });
    }
    Ok(if table.subcommands.contains(&word.as_str()) { rest } else { words })
}

/// Whose program it is.
fn speaker(program: &str) -> Option<Dialect> {
    Dialect::ALL.into_iter().find(|dialect| dialect.table().programs.contains(&program))
}

fn file_name(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// An image without registry and version: `vllm/vllm-openai` of `docker.io/vllm/vllm-openai:v0.32`.
fn image_name(word: &str) -> &str {
    let name = word.strip_prefix("docker.io/").unwrap_or(word);
    name.split([':', '@']).next().unwrap_or(name)
}
