//! Launch commands that the engines' own documents publish, each read with the sizes of its model where they
//! are built in: `tests/published.txt` has the engine and the command, and below it what becomes of it, in the
//! words of `tests/examples`.

use std::fmt::Write as _;

use playhouse_planner::dialect::{Dialect, Problem, read};
use playhouse_planner::{PublishedModel, Serving};

use crate::examples::{fields, split};

#[test]
fn published_commands_are_read_as_they_are_meant() {
    let text = include_str!("../published.txt");
    let (mut count, mut failures) = (0, String::new());
    let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    while let (Some(command), Some(expected)) = (lines.next(), lines.next()) {
        let (engine, words) = command.split_once(": ").expect("ENGINE: words");
        let found = verdict(Dialect::named(engine).expect(engine), words);
        if format!("=> {found}").trim_end() != expected {
            let _ = writeln!(failures, "{command}\n=> {found}");
        }
        count += 1;
    }
    assert!(failures.is_empty(), "\n{failures}");
    assert!(count >= 59, "{count} commands");
}

fn verdict(dialect: Dialect, words: &str) -> String {
    let mut reading = match read(dialect, &split(words), &[]) {
        Ok(reading) => reading,
        Err(problems) => {
            let names: Vec<&str> = problems.iter().map(Problem::name).collect();
            return format!("unread {}", names.join(" "));
        }
    };
    let published = reading.model.as_deref().and_then(PublishedModel::find);
    let mut shape = published.map(PublishedModel::shape);
    if let Some(shape) = &mut shape {
        reading.store(shape, &mut Serving::default());
        reading.settle(shape);
    }
    let violations = reading.check(shape.as_ref(), dialect.rules());
    if violations.is_empty() {
        return format!("accepted {}", fields(&reading));
    }
    let names: Vec<&str> = violations.iter().map(|violation| violation.rule).collect();
    format!("refused {}", names.join(" "))
}
