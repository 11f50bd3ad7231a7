//! What cannot be understood.

use thiserror::Error;

use crate::rules::either;

/// A word, value or file that cannot be understood.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// No such flag.
    #[error("{flag}: {engine} has no such flag{}", suggest(.nearest))]
    UnknownFlag {
        /// As it was given.
        flag: String,
        /// Whose flags were searched.
        engine: &'static str,
        /// The most similar one that exists.
        nearest: Option<String>,
    },
    /// A flag that needs a value and has none.
    #[error("{flag}: the value is missing; it takes {wants}")]
    MissingValue {
        /// As it was given.
        flag: String,
        /// What would do.
        wants: String,
    },
    /// A value that is none of those allowed.
    #[error("{flag}: {value:?} is not {wants}")]
    BadValue {
        /// As it was given.
        flag: String,
        /// As it was given.
        value: String,
        /// What would do.
        wants: String,
    },
    /// A flag that takes no value, before a word that looks like one.
    #[error("{flag}: it takes no value, and {value:?} is one{}", takes_one(.instead))]
    SwitchValue {
        /// As it was given.
        flag: String,
        /// The word after it.
        value: String,
        /// The flag that takes such a value.
        instead: Option<String>,
    },
    /// Two flags that set the same thing to different values.
    #[error("{first} and {second} contradict each other; give one of them")]
    Contradiction {
        /// Flag and value.
        first: String,
        /// Flag and value.
        second: String,
    },
    /// A word that belongs to no flag.
    #[error("{word:?} belongs to no flag{}", model_is(.model))]
    StrayWord {
        /// As it was given.
        word: String,
        /// The model, which is the one word that may stand alone.
        model: Option<String>,
    },
    /// The command of another program.
    #[error("{command:?} is not {engine}'s command; did you mean --from {other}?")]
    ForeignCommand {
        /// The first words.
        command: String,
        /// Whose words were expected.
        engine: &'static str,
        /// Whose words they look like.
        other: &'static str,
    },
    /// A program that starts another one, which is not among its words.
    #[error("{wrapper:?} starts another program, and none of its words is {}; give the command from \
             there on", either(.programs))]
    NoProgram {
        /// The program that was given.
        wrapper: String,
        /// The programs that were looked for.
        programs: &'static [&'static str],
    },
    /// A subcommand that starts no ranks.
    #[error("{command:?} starts no ranks: {reason}; give the command of a server")]
    NoRanks {
        /// The subcommand.
        command: String,
        /// What it does.
        reason: &'static str,
    },
    /// A file that is no JSON, YAML or TOML, or not a table of settings.
    #[error("{name}: {reason}")]
    BadDocument {
        /// The file or flag.
        name: String,
        /// What is wrong, and where.
        reason: String,
    },
}

// === impl Problem ===

impl Problem {
    /// Stable name of the sort.
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
