//! The errors of commands: a message, a hint, an exit code. No backtrace.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::signals::StopSignal;

/// The reason why a command failed, for a person.
#[derive(Debug)]
pub(crate) struct CliError {
    kind: FailureKind,
    pub(crate) message: String,
    hint: Option<String>,
    /// Whether a server was not reached, so that trying again may help.
    unreached: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum FailureKind {
    /// The command line or a scenario file is wrong: exit code 2, as for clap's own errors.
    Usage,
    /// Anything else that went wrong: exit code 1.
    Failure,
    /// A signal ended the command before it was done.
    Stopped(StopSignal),
    /// The reader of our output has closed it (`playhouse doctor | head -1`): no message is needed.
    ReaderGone,
}

// === impl CliError ===

impl CliError {
    /// Returns an error for a wrong command line (exit code 2).
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { kind: FailureKind::Usage, message: message.into(), hint: None, unreached: false }
    }

    /// Returns an error for a valid command that failed (exit code 1).
    pub(crate) fn failure(message: impl Into<String>) -> Self {
        Self { kind: FailureKind::Failure, message: message.into(), hint: None, unreached: false }
    }

    /// Returns an error for a command that a signal ended before it was done (exit code 128 and the number
    /// of the signal).
    pub(crate) fn stopped(signal: StopSignal, message: impl Into<String>) -> Self {
        let kind = FailureKind::Stopped(signal);
        Self { kind, message: message.into(), hint: None, unreached: false }
    }

    /// Returns an error for standard output that could not be written.
    pub(crate) fn output(error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::BrokenPipe => FailureKind::ReaderGone,
            _ => FailureKind::Failure,
        };
        Self {
            kind,
            message: format!("cannot write to standard output: {error}"),
            hint: None,
            unreached: false,
        }
    }

    /// Adds advice for the user.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Marks the error as one for a server that was not reached.
    #[must_use]
    pub(crate) fn unreached(mut self) -> Self {
        self.unreached = true;
        self
    }

    /// Returns whether a server was not reached, so that trying again may help.
    pub(crate) fn is_unreached(&self) -> bool {
        self.unreached
    }

    /// Adds advice for the user, unless the error has some already.
    #[must_use]
    pub(crate) fn hint_if_none(mut self, hint: &str) -> Self {
        self.hint.get_or_insert_with(|| hint.to_owned());
        self
    }

    /// Returns the `error:` and `hint:` lines, as [`CliError::report`] prints them.
    pub(crate) fn text(&self) -> String {
        let text = match &self.hint {
            Some(hint) => format!("error: {}\nhint: {hint}\n", self.message),
            None => format!("error: {}\n", self.message),
        };
        visible(&text)
    }

    /// Prints the error on standard error and returns the exit code of the process.
    pub(crate) fn report(&self) -> ExitCode {
        if self.kind != FailureKind::ReaderGone {
            // If standard error is closed too, there is nowhere to report.
            let _ = io::stderr().write_all(self.text().as_bytes());
        }
        match self.kind {
            FailureKind::Usage => ExitCode::from(2),
            FailureKind::Failure => ExitCode::FAILURE,
            FailureKind::Stopped(signal) => ExitCode::from(signal.exit_status()),
            FailureKind::ReaderGone => ExitCode::SUCCESS,
        }
    }
}

/// Returns a text of any origin without the characters that a terminal would act upon; line feeds stay.
pub(crate) fn visible(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() && letter != '\n' {
            plain.extend(letter.escape_default());
        } else {
            plain.push(letter);
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_is_the_error_then_the_hint() {
        let plain = CliError::failure("the disk is full");
        assert_eq!(plain.text(), "error: the disk is full\n");
        let hinted = CliError::usage("no such scenario").hint("see loadtests/");
        assert_eq!(hinted.text(), "error: no such scenario\nhint: see loadtests/\n");
    }

    #[test]
    fn control_characters_are_shown_and_not_sent() {
        let tricky = CliError::failure("no file \u{1b}[2J\r\u{9b}x\nnext");
        assert_eq!(tricky.text(), "error: no file \\u{1b}[2J\\r\\u{9b}x\nnext\n");
    }

    #[test]
    fn a_reader_that_left_is_not_an_error() {
        let gone = CliError::output(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(gone.kind, FailureKind::ReaderGone);
        let full = CliError::output(io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(full.kind, FailureKind::Failure);
    }
}
