//! The position in a command where its flags begin: after the program, and after the words that start the
//! program.

use super::table::Table;
use super::{Dialect, Problem};

/// Programs that start another program, given as their argument.
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

/// A command split into its parts.
pub(super) struct Command<'w> {
    /// Words that start the program.
    pub(super) before: &'w [String],
    /// The program, if the command names one.
    pub(super) program: Option<&'w str>,
    /// The subcommand that serves, if the command names it.
    pub(super) subcommand: Option<&'w str>,
    /// Words for the program.
    pub(super) flags: &'w [String],
}

// === impl Command ===

impl<'w> Command<'w> {
    /// Splits the words of a command of `dialect`'s engine. Without a program, all words are flags.
    pub(super) fn of(dialect: Dialect, words: &'w [String]) -> Result<Self, Problem> {
        let table = dialect.table();
        let bare = |words| Self::with(table, &[], None, words);
        let Some(first) = words.first() else { return bare(words) };
        let wrapper = file_name(first);
        let python = wrapper.starts_with("python");
        if !python && !WRAPPERS.contains(&wrapper) && speaker(wrapper).is_none() {
            return bare(words);
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
        Self::with(table, before, Some(named), &words[at + 1..])
    }

    /// Takes the subcommand off the words after the program.
    fn with(
        table: &Table,
        before: &'w [String],
        program: Option<&'w str>,
        words: &'w [String],
    ) -> Result<Self, Problem> {
        let command = Self { before, program, subcommand: None, flags: words };
        let [word, flags @ ..] = words else { return Ok(command) };
        if let Some((_, reason)) = table.rankless.iter().find(|(name, _)| name == word) {
            return Err(Problem::NoRanks { command: word.clone(), reason });
        }
        if !table.subcommands.contains(&word.as_str()) {
            return Ok(command);
        }
        Ok(Self { subcommand: Some(word), flags, ..command })
    }
}

/// Finds the first program. A word right after a flag may be the flag's value (`--name vllm`), so other words
/// are preferred.
fn program(words: &[String]) -> Option<(usize, &str, Dialect)> {
    let named = |at: usize| {
        let name = file_name(&words[at]);
        Some((at, name, speaker(name).filter(|_| !words[at].contains(':'))?))
    };
    let after_flag = |at: usize| at > 0 && words[at - 1].starts_with('-') && words[at - 1] != "-m";
    let sure = (0..words.len()).filter(|at| !after_flag(*at)).find_map(named);
    sure.or_else(|| (0..words.len()).find_map(named))
}

/// Returns the dialect of a program.
fn speaker(program: &str) -> Option<Dialect> {
    Dialect::ALL.into_iter().find(|dialect| dialect.table().programs.contains(&program))
}

fn file_name(word: &str) -> &str {
    word.rsplit('/').next().unwrap_or(word)
}

/// Strips registry and version from an image: `vllm/vllm-openai` of `docker.io/vllm/vllm-openai:v0.32`.
fn image_name(word: &str) -> &str {
    let name = word.strip_prefix("docker.io/").unwrap_or(word);
    name.split([':', '@']).next().unwrap_or(name)
}
