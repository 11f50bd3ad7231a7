//! What is said, as text: every [transcript](crate::transcript) of `tests/said` is a list of questions and
//! answers. `REWRITE=1 cargo test -p playhouse-planner --test planner said` accepts what is said.
//!
//! ```text
//! model NAME key=value …          as in tests/examples
//! | yaml                          a line of the file FILE
//! vllm: serve m -tp 3             reads a command and judges it by the engine's own rules
//! vllm -> sglang: serve m -tp 2   reads a command and writes it for another engine
//! grid sglang                     reads FILE as the autotuner's grid
//! ```

use std::path::Path;

use playhouse_layout::ModelShape;
use playhouse_planner::dialect::{Dialect, Document, Grid, Reading, read, write};

use crate::shape;
use crate::transcript::{Player, play_folder};

#[test]
fn engines_rules_and_grids_say_what_is_written() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/said");
    play_folder::<Planner>(&folder, 4);
}

/// The model and the file that questions are about.
#[derive(Default)]
struct Planner {
    shape: Option<ModelShape>,
    text: String,
    said: String,
}

impl Player for Planner {
    fn run(&mut self, line: &str) {
        if let Some(yaml) = line.strip_prefix('|') {
            self.text += yaml.strip_prefix(' ').unwrap_or(yaml);
            self.text.push('\n');
        } else if let Some(model) = line.strip_prefix("model ") {
            self.shape = shape::shape_of(model);
        } else if let Some(name) = line.strip_prefix("grid ") {
            self.grid(name);
        } else {
            let (who, words) = line.split_once(':').expect("WHO: words");
            let (from, to) = who.split_once(" -> ").unwrap_or((who, ""));
            self.command(from, to, words);
        }
    }

    fn printed(&mut self) -> &mut String {
        &mut self.said
    }
}

impl Planner {
    fn command(&mut self, from: &str, to: &str, words: &str) {
        let document = self.document();
        let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let reading = match read(named(from), &words, &[document]) {
            Ok(reading) => reading,
            Err(problems) => {
                for problem in problems {
                    self.say(&problem.to_string());
                }
                return;
            }
        };
        let mut reading = reading;
        if let Some(shape) = &self.shape {
            reading.settle(shape);
        }
        if to.is_empty() { self.judge(&reading) } else { self.translate(&reading, to) }
    }

    fn judge(&mut self, reading: &Reading) {
        let violations = reading.check(self.shape.as_ref(), reading.dialect.rules());
        let verdict = if violations.is_empty() { "accepted" } else { "refused" };
        self.say(verdict);
        for violation in violations {
            self.say(&violation.to_string());
        }
        for note in &reading.notes {
            self.say(&note.to_string());
        }
    }

    fn translate(&mut self, reading: &Reading, to: &str) {
        let model = reading.model.as_deref();
        let written =
            write(named(to), &reading.spec, model, self.shape.as_ref(), &reading.parameters);
        let written = match written {
            Ok(written) => written,
            Err(violations) => {
                for violation in violations {
                    self.say(&violation.to_string());
                }
                return;
            }
        };
        self.say(&written.line());
        if let Some(document) = &written.document {
            self.say(&format!("{}:", document.name));
            for line in document.text.lines() {
                self.say(&format!("| {line}"));
            }
        }
        for note in &written.notes {
            self.say(&note.to_string());
        }
    }

    fn grid(&mut self, name: &str) {
        let document = self.document();
        let grid = match Grid::read(named(name), &document) {
            Ok(grid) => grid,
            Err(problem) => return self.say(&problem.to_string()),
        };
        self.say(&format!("{} of {}", grid.points.len(), grid.total));
        for name in &grid.left_out {
            self.say(&format!("left out {name}"));
        }
        for point in grid.points.iter().take(16) {
            let values: Vec<String> =
                point.values.iter().map(|(name, value)| format!("{name}={value}")).collect();
            let verdict = match &point.reading {
                Err(problems) => problems[0].to_string(),
                Ok(reading) => {
                    let violations = reading.check(self.shape.as_ref(), reading.dialect.rules());
                    let names: Vec<&str> =
                        violations.iter().map(|violation| violation.rule).collect();
                    if names.is_empty() { "accepted".to_owned() } else { names.join(" ") }
                }
            };
            self.say(&format!("{}: {verdict}", values.join(" ")));
        }
    }

    fn document(&mut self) -> Document {
        Document { name: "FILE".to_owned(), text: std::mem::take(&mut self.text) }
    }

    fn say(&mut self, line: &str) {
        // An empty line would end the answer.
        let line = if line.is_empty() { "(no command)" } else { line };
        for line in line.lines().filter(|line| !line.trim().is_empty()) {
            self.said += line.trim_end();
            self.said.push('\n');
        }
    }
}

fn named(name: &str) -> Dialect {
    Dialect::named(name).expect("a dialect")
}
