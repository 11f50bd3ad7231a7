//! What the engines document as valid and invalid: every file of `tests/examples` is a list of
//! command lines with what becomes of them. `§` names the section of the notes on the peers.
//!
//! ```text
//! # prose
//! model NAME layers=32 heads=32 kv=8 inner=14336 vocab=128256    of the blocks that follow;
//!                                        `mla` for latent attention, `experts=8 expert-inner=… groups=…`,
//!                                        `dense-layers=3`, `block=128` for fp8 scale blocks
//! | yaml                                 a line of the file FILE
//! vllm serve m -tp 4                     a command; `document` reads FILE by itself
//! => accepted tensor=4                   exactly these fields differ from the default
//! => refused heads-divide                exactly these rules are broken
//! => unread unknown-flag                 exactly these problems
//! native => refused …                    the same, by our own rules
//! notes => rewritten ignored             sorts of notes, without `differs`
//! ```

use std::fmt::Write as _;
use std::path::Path;

use playhouse_layout::ModelShape;
use playhouse_planner::RuleSet;
use playhouse_planner::dialect::{
    Dialect, Document, NoteKind, Problem, Reading, read, read_document,
};

use crate::shape::shape_of;

/// Blocks of all files: what was promised.
const EXAMPLES_MIN: usize = 90;

#[test]
fn every_documented_example_is_judged_as_written() {
    let mut blocks = 0;
    let mut failures = String::new();
    for (name, dialect) in [
        ("vllm.txt", Dialect::Vllm),
        ("sglang.txt", Dialect::Sglang),
        ("tensorrt-llm.txt", Dialect::TensorRtLlm),
        ("native.txt", Dialect::Native),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/examples").join(name);
        let text = std::fs::read_to_string(path).expect("a readable list of examples");
        let mut player = Player::new(dialect);
        for (number, line) in text.lines().enumerate() {
            if let Err(difference) = player.line(line) {
                let _ = writeln!(failures, "{name}:{}: {difference}", number + 1);
            }
        }
        blocks += player.commands;
    }
    assert!(failures.is_empty(), "\n{failures}");
    assert!(blocks >= EXAMPLES_MIN, "{blocks} examples");
}

struct Player {
    dialect: Dialect,
    shape: Option<ModelShape>,
    document: String,
    last: Option<Result<Reading, Vec<Problem>>>,
    commands: usize,
}

impl Player {
    fn new(dialect: Dialect) -> Self {
        Self { dialect, shape: None, document: String::new(), last: None, commands: 0 }
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if let Some(yaml) = line.strip_prefix('|') {
            self.document += yaml.strip_prefix(' ').unwrap_or(yaml);
            self.document.push('\n');
        } else if let Some(model) = line.strip_prefix("model ") {
            self.shape = shape_of(model);
        } else if let Some((whose, expected)) = split_verdict(line) {
            let found = self.verdict(whose);
            if found.trim() != expected.trim() {
                return Err(format!("expected {expected:?}, found {found:?}\n{}", self.told()));
            }
        } else {
            self.command(line);
        }
        Ok(())
    }

    fn command(&mut self, line: &str) {
        self.commands += 1;
        let document =
            Document { name: "FILE".to_owned(), text: std::mem::take(&mut self.document) };
        let mut reading = if line == "document" {
            read_document(self.dialect, &document)
        } else {
            read(self.dialect, &split(line), &[document])
        };
        if let (Ok(reading), Some(shape)) = (&mut reading, &self.shape) {
            reading.settle(shape);
        }
        self.last = Some(reading);
    }

    fn verdict(&self, whose: &str) -> String {
        let reading = match self.last.as_ref().expect("a command before its verdict") {
            Ok(reading) => reading,
            Err(problems) => {
                let names: Vec<&str> = problems.iter().map(Problem::name).collect();
                return format!("unread {}", names.join(" "));
            }
        };
        if whose == "notes" {
            let kinds = reading.notes.iter().map(|note| note.kind);
            let names: Vec<&str> =
                kinds.filter(|kind| *kind != NoteKind::Differs).map(NoteKind::name).collect();
            return names.join(" ");
        }
        let rules = if whose == "native" { RuleSet::Native } else { self.dialect.rules() };
        let violations = reading.check(self.shape.as_ref(), rules);
        if violations.is_empty() {
            return format!("accepted {}", fields(reading));
        }
        let names: Vec<&str> = violations.iter().map(|violation| violation.rule).collect();
        format!("refused {}", names.join(" "))
    }

    /// Everything that was said, for a failure.
    fn told(&self) -> String {
        match self.last.as_ref().expect("a command") {
            Err(problems) => problems.iter().map(|problem| format!("    {problem}\n")).collect(),
            Ok(reading) => {
                let violations = reading.check(self.shape.as_ref(), self.dialect.rules());
                let refused = violations.iter().map(|violation| format!("    {violation}\n"));
                let noted = reading.notes.iter().map(|note| format!("    {note}\n"));
                format!("    {}\n{}", fields(reading), refused.chain(noted).collect::<String>())
            }
        }
    }
}

fn split_verdict(line: &str) -> Option<(&str, &str)> {
    let (whose, expected) = line.split_once("=> ")?;
    ["", "native", "notes"].contains(&whose.trim()).then_some((whose.trim(), expected))
}

/// The fields that differ from the default.
pub(crate) fn fields(reading: &Reading) -> String {
    let table = |spec: &playhouse_types::ParallelSpec| {
        toml::Table::try_from(spec).expect("a spec is a table")
    };
    let (usual, table) = (table(&playhouse_types::ParallelSpec::default()), table(&reading.spec));
    let changed = table.iter().filter(|(key, value)| usual.get(*key) != Some(value));
    let words: Vec<String> = changed
        .map(|(key, value)| format!("{key}={}", value.to_string().replace([' ', '"'], "")))
        .collect();
    words.join(" ")
}

/// Words as a shell splits them, with single quotes.
pub(crate) fn split(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quoted, mut any) = (String::new(), false, false);
    for letter in line.chars() {
        match letter {
            '\'' => (quoted, any) = (!quoted, true),
            ' ' if !quoted => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            letter => word.push(letter),
        }
    }
    if any || !word.is_empty() {
        words.push(word);
    }
    words
}
