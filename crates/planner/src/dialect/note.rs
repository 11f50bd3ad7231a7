//! What a reader of a foreign command line should know.

use std::fmt;

use serde::Serialize;

/// Something worth knowing that is no error.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Note {
    /// Of what sort.
    pub kind: NoteKind,
    /// The flag it is about, as it was spelled, or the subject.
    pub about: String,
    /// What to know.
    pub message: String,
}

/// Sorts of [`Note`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NoteKind {
    /// A flag without meaning here.
    Ignored,
    /// A flag that was held against the layout, of which it is no part.
    Checked,
    /// A flag that the engine is going to drop, or has dropped.
    Deprecated,
    /// What the engine quietly makes of it, applied here too.
    Rewritten,
    /// What the layout does not say and the engine needs to be told.
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
    /// The word before a note.
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
