//! Notes about a foreign command line for a person.

use std::fmt;

use serde::Serialize;

/// A remark about a command or layout that is no error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// Kind of the note.
    pub kind: NoteKind,
    /// Flag that the note is about, as it was spelled, or another subject.
    pub about: String,
    /// Text of the note.
    pub message: String,
}

/// The kinds of [`Note`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoteKind {
    /// A flag that planning does not depend on.
    Ignored,
    /// A flag that was checked against the layout, of which it is no part.
    Checked,
    /// A flag that the engine is going to drop, or has dropped.
    Deprecated,
    /// A change that the engine makes quietly, applied here too.
    Rewritten,
    /// A value that the engine needs and the layout does not give.
    Chosen,
    /// Engines disagree about the meaning.
    Differs,
}

// === impl Note ===

impl Note {
    pub(super) fn new(
        kind: NoteKind,
        about: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self { kind, about: about.into(), message: message.into() }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}: {}", self.kind.name(), self.about, self.message)
    }
}

// === impl NoteKind ===

impl NoteKind {
    /// Returns the word shown before a note of this kind.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ignored => "ignored",
            Self::Checked => "checked",
            Self::Deprecated => "deprecated",
            Self::Rewritten => "rewritten",
            Self::Chosen => "chosen",
            Self::Differs => "differs",
        }
    }
}
