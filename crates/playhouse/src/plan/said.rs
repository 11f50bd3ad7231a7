//! The output of a plan beside its answer: lines on standard error, or members of the JSON.
//!
//! With `--format json` standard output is one object, whatever the outcome: `notes`, `violations` and
//! `problems` are always there, each a list, beside the members of the answer.

use std::process::ExitCode;

use playhouse_planner::Violation;
use playhouse_planner::dialect::{Dialect, Note, Problem};
use serde::Serialize;

use super::Format;
use crate::error::{CliError, visible};
use crate::output::{print, tell};

/// The notes and problems so far.
pub(super) struct Said {
    format: Format,
    notes: Vec<Note>,
}

/// The JSON of an outcome.
#[derive(Serialize)]
struct JsonOutcome<'a, T: Serialize> {
    #[serde(flatten)]
    answer: T,
    notes: &'a [Note],
    violations: &'a [Violation],
    problems: Vec<Misread<'a>>,
}

/// A flag or value that was not understood.
#[derive(Serialize)]
struct Misread<'a> {
    problem: &'a str,
    message: String,
}

/// The engine whose rules a refused layout breaks.
#[derive(Serialize)]
struct Refused {
    rules: &'static str,
}

/// An empty answer, for input that was not understood.
#[derive(Serialize)]
struct Nothing {}

// === impl Said ===

impl Said {
    pub(super) fn new(format: Format) -> Self {
        Self { format, notes: Vec::new() }
    }

    /// Adds notes, each of them once.
    pub(super) fn note(&mut self, notes: &[Note]) {
        for note in notes {
            if !self.notes.contains(note) {
                self.notes.push(note.clone());
                self.complain(&format!("note: {note}"));
            }
        }
    }

    /// Prints the answer.
    pub(super) fn answer<T: Serialize>(
        &self,
        answer: &T,
        text: impl FnOnce() -> String,
    ) -> Result<ExitCode, CliError> {
        let text = if self.format == Format::Json {
            self.json(answer, &[], &[])?
        } else {
            visible(&text())
        };
        print(&text)?;
        Ok(ExitCode::SUCCESS)
    }

    /// Reports every violation, with its fix.
    pub(super) fn refuse(
        &self,
        violations: &[Violation],
        rules: Dialect,
    ) -> Result<ExitCode, CliError> {
        let (count, rules) = (violations.len(), rules.name());
        let plural = if count == 1 { "" } else { "s" };
        self.complain(&format!("error: the layout breaks {count} rule{plural} of {rules}"));
        for Violation { rule, message, fix, .. } in violations {
            self.complain(&format!("  {rule}: {message}"));
            self.complain(&format!("    fix: {fix}"));
        }
        if self.format == Format::Json {
            print(&self.json(&Refused { rules }, violations, &[])?)?;
        }
        Ok(ExitCode::from(2))
    }

    /// Reports all input that was not understood; the exit code is 1 if it is a file.
    pub(super) fn misread(&self, problems: &[Problem]) -> Result<ExitCode, CliError> {
        for problem in problems {
            self.complain(&format!("error: {problem}"));
        }
        if self.format == Format::Json {
            print(&self.json(&Nothing {}, &[], problems)?)?;
        }
        let file = problems.iter().any(|why| matches!(why, Problem::BadDocument { .. }));
        Ok(if file { ExitCode::FAILURE } else { ExitCode::from(2) })
    }

    /// Prints a line on standard error, so that standard output can be piped; prints none in JSON, which
    /// has it.
    pub(super) fn complain(&self, line: &str) {
        if self.format != Format::Json {
            // User input is printed as one line, whatever it contains.
            tell(&format!("{}\n", visible(line).replace('\n', "\\n")));
        }
    }

    fn json<T: Serialize>(
        &self,
        answer: &T,
        violations: &[Violation],
        problems: &[Problem],
    ) -> Result<String, CliError> {
        let misread =
            |problem| Misread { problem: Problem::name(problem), message: problem.to_string() };
        let problems = problems.iter().map(misread).collect();
        let outcome = JsonOutcome { answer, notes: &self.notes, violations, problems };
        let json = serde_json::to_string_pretty(&outcome);
        json.map(|json| json + "\n").map_err(|why| CliError::failure(why.to_string()))
    }
}
