//! Words, values and files that cannot be understood.

use thiserror::Error;

use crate::rules::either;

/// A word, value or file that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// A flag that the engine does not have.
    #[error("{flag}: {engine} has no such flag{}", suggest(.nearest))]
    UnknownFlag {
        /// The flag, as given.
        flag: String,
        /// Name of the engine whose flags were searched.
        engine: &'static str,
        /// The most similar flag that exists.
        nearest: Option<String>,
    },
    /// A flag that needs a value and has none.
    #[error("{flag}: the value is missing; it takes {wants}")]
    MissingValue {
        /// The flag, as given.
        flag: String,
        /// A description of the values allowed.
        wants: String,
    },
    /// A value that is not allowed.
    #[error("{flag}: {value:?} is not {wants}")]
    BadValue {
        /// The flag, as given.
        flag: String,
        /// The value, as given.
        value: String,
        /// A description of the values allowed.
        wants: String,
    },
    /// A flag that takes no value, before a word that looks like one.
    #[error("{flag}: it takes no value, and {value:?} is one{}", takes_one(.instead))]
    SwitchValue {
        /// The flag, as given.
        flag: String,
        /// The word after it.
        value: String,
        /// The flag that takes such a value.
        instead: Option<String>,
    },
    /// Two flags that set the same thing to different values.
    #[error("{first} and {second} contradict each other; give one of them")]
    Contradiction {
        /// The first flag and its value.
        first: String,
        /// The second flag and its value.
        second: String,
    },
    /// A word that belongs to no flag.
    #[error("{word:?} belongs to no flag{}", model_is(.model))]
    StrayWord {
        /// The word, as given.
        word: String,
        /// The model, which is the only word that may stand alone.
        model: Option<String>,
    },
    /// The command of another program.
    #[error("{command:?} is not {engine}'s command; did you mean --from {other}?")]
    ForeignCommand {
        /// The first words of the command.
        command: String,
        /// Name of the engine whose command was expected.
        engine: &'static str,
        /// Name of the dialect to which the words seem to belong.
        other: &'static str,
    },
    /// A launcher of another program that is not among its words.
    #[error("{wrapper:?} starts another program, and none of its words is {}; give the command from \
             there on", either(.programs))]
    NoProgram {
        /// The launcher, as given.
        wrapper: String,
        /// The programs that were searched for.
        programs: &'static [&'static str],
    },
    /// A subcommand that starts no ranks.
    #[error("{command:?} starts no ranks: {reason}; give the command of a server")]
    NoRanks {
        /// The subcommand.
        command: String,
        /// The purpose of the subcommand.
        reason: &'static str,
    },
    /// A file that is no JSON, YAML or TOML, or not a table of settings.
    #[error("{name}: {reason}")]
    BadDocument {
        /// The file or flag.
        name: String,
        /// Description of the error, with the position.
        reason: String,
    },
}

// === impl Problem ===

impl Problem {
    /// Returns the stable name of the problem's kind.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::UnknownFlag { .. } => "unknown-flag",
            Self::MissingValue { .. } => "missing-value",
            Self::BadValue { .. } => "bad-value",
            Self::SwitchValue { .. } => "switch-value",
            Self::Contradiction { .. } => "contradiction",
            Self::StrayWord { .. } => "stray-word",
            Self::ForeignCommand { .. } => "foreign-command",
            Self::NoProgram { .. } => "no-program",
            Self::NoRanks { .. } => "no-ranks",
            Self::BadDocument { .. } => "bad-document",
        }
    }
}

fn suggest(nearest: &Option<String>) -> String {
    nearest.as_ref().map_or(String::new(), |nearest| format!("; the nearest is {nearest}"))
}

fn takes_one(instead: &Option<String>) -> String {
    instead.as_ref().map_or(String::new(), |flag| format!("; {flag} takes one"))
}

fn model_is(model: &Option<String>) -> String {
    model.as_ref().map_or(String::new(), |model| format!("; the model is already {model:?}"))
}
