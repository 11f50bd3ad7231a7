//! From words to settings, by a table.

use serde_json::Value as Json;

use super::document::{self, Document};
use super::pairs;
use super::program::Command;
use super::settings::{Given, Settings};
use super::table::{Flag, Found, Kind, Table, Takes};
use super::value::Value;
use super::{Dialect, Key, Note, NoteKind, Problem};

/// Words of a command that are read; more are no command line.
const WORDS_MAX: usize = 4096;

/// What was understood of a command so far.
pub(super) struct Heard<'a> {
    table: &'static Table,
    documents: &'a [Document],
    layer: u8,
    pub(super) settings: Settings,
    pub(super) notes: Vec<Note>,
    pub(super) problems: Vec<Problem>,
}

/// Layers, weakest first; [`Table::file_wins`] lifts the file over the command.
const FILE: u8 = 1;
const COMMAND: u8 = 2;
const WINNING_FILE: u8 = 3;

// === impl Heard ===

impl<'a> Heard<'a> {
    pub(super) fn new(table: &'static Table, documents: &'a [Document]) -> Self {
        Self {
            table,
            documents,
            layer: COMMAND,
            settings: Settings::default(),
            notes: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// A whole command: variables, program, flags, and the files they name.
    pub(super) fn command(&mut self, words: &[String]) {
        if words.len() > WORDS_MAX {
            self.problems.push(Problem::BadDocument {
                name: "the command".to_owned(),
                reason: format!("{} words exceed {WORDS_MAX}", words.len()),
            });
            return;
        }
        let words = self.variables(words);
        let Some(words) = self.program(words) else { return };
        self.flags(words);
        self.file();
    }

    /// `NAME=value` before the program.
    fn variables<'w>(&mut self, words: &'w [String]) -> &'w [String] {
        let count = words.iter().take_while(|word| variable(word).is_some()).count();
        for (name, value) in words[..count].iter().filter_map(|word| variable(word)) {
            let known = self.table.variables.iter().find(|(known, ..)| *known == name);
            match known {
                Some((_, key, kind)) => self.set(name, *key, *kind, value),
                None => self.ignore(name, "an environment variable that no plan depends on"),
            }
        }
        &words[count..]
    }

    /// The words after the program, and after what starts it; `None` for another engine's program.
    fn program<'w>(&mut self, words: &'w [String]) -> Option<&'w [String]> {
        match Command::of(self.table, words) {
            Ok(Command { before: [], flags }) => Some(flags),
            Ok(Command { before, flags }) => {
                self.known_variables(before);
                self.ignore(&before[0], "what starts the program does not move its ranks");
                Some(flags)
            }
            Err(problem) => {
                self.problems.push(problem);
                None
            }
        }
    }

    /// Variables that mean something, among the words of what starts the program.
    fn known_variables(&mut self, words: &[String]) {
        for (name, value) in words.iter().filter_map(|word| variable(word)) {
            let known = self.table.variables.iter().find(|(known, ..)| *known == name);
            if let Some((_, key, kind)) = known {
                self.set(name, *key, *kind, value);
            }
        }
    }

    fn flags(&mut self, words: &[String]) {
        let mut words = words;
        while let [word, rest @ ..] = words {
            words = rest;
            if word == "\\" || word == "--" {
                continue;
            } else if is_flag(word) {
                words = self.flag(word, rest);
            } else if self.takes_pairs() && pairs::is_pair(word) {
                words = self.pairs(word, rest);
            } else {
                self.bare(word);
            }
        }
    }

    /// Whether `name=value` without dashes is a setting, as in TensorRT-LLM's `Mapping`.
    fn takes_pairs(&self) -> bool {
        self.table.dialect == Dialect::TensorRtLlm
    }

    /// `tp_size=8` or `Mapping(tp_size=8, pp_partition=[1, 2])`; returns the words after it.
    fn pairs<'w>(&mut self, word: &str, rest: &'w [String]) -> &'w [String] {
        let mut text = word.to_owned();
        let mut rest = rest;
        // A list goes on to its end.
        while let [next, after @ ..] = rest
            && pairs::is_open(&text)
        {
            text += next;
            rest = after;
        }
        for pair in pairs::split(&text) {
            match pair.split_once('=') {
                // Python's word for nothing.
                Some((_, "None")) => {}
                Some((name, value)) => self.assign(name, name, &Json::String(value.to_owned())),
                None => self.bare(pair),
            }
        }
        rest
    }

    fn bare(&mut self, word: &str) {
        let model = self.settings.text(Key::Model).map(str::to_owned);
        if model.is_none() && self.table.bare_model {
            self.set("MODEL", Key::Model, Kind::Text, word);
        } else {
            self.problems.push(Problem::StrayWord { word: word.to_owned(), model });
        }
    }

    /// One flag with its values; returns the words after them.
    fn flag<'w>(&mut self, word: &str, rest: &'w [String]) -> &'w [String] {
        let (spelling, attached) = match (word.split_once('='), word.strip_prefix("-O")) {
            // As compilers do, vLLM lets the level follow at once: -O3.
            (_, Some(level)) if !level.is_empty() => (&word[..2], Some(level)),
            (Some((spelling, value)), _) => (spelling, Some(value)),
            (None, _) => (word, None),
        };
        let name = spelling.strip_prefix("--").unwrap_or(spelling);
        let Some(found) = self.table.find(name) else {
            return self.unknown(spelling, name, attached, rest);
        };
        let values = rest.iter().take_while(|word| !self.starts_flag(word)).count();
        let member = is_member(name);
        match found {
            Found::Flag { flag, negated } => {
                self.known(flag, negated, spelling, attached, &rest[..values.min(1)]);
                let takes = (flag.kind != Kind::Switch || member) && attached.is_none();
                &rest[usize::from(takes).min(values)..]
            }
            Found::Ignored { why, takes } => {
                self.ignore(spelling, why);
                if takes == Takes::One && attached.is_none() && values == 0 {
                    let wants = "a value".to_owned();
                    self.problems.push(Problem::MissingValue { flag: spelling.to_owned(), wants });
                }
                let used = match takes {
                    _ if attached.is_some() => 0,
                    Takes::None => usize::from(member).min(values),
                    Takes::One => values.min(1),
                    Takes::Many => values,
                };
                &rest[used..]
            }
        }
    }

    fn known(
        &mut self,
        flag: &'static Flag,
        negated: bool,
        spelling: &str,
        attached: Option<&str>,
        next: &[String],
    ) {
        self.warn_if_old(flag, spelling);
        let value = match (flag.kind, attached, next) {
            (_, Some(value), _) => value,
            (Kind::Switch, None, [value, ..]) if is_member(flag.names[0]) => value,
            (Kind::Switch, None, _) => "true",
            (_, None, [value, ..]) => value,
            (_, None, []) => {
                let flag_given = spelling.to_owned();
                let wants = flag.kind.wants();
                self.problems.push(Problem::MissingValue { flag: flag_given, wants });
                return;
            }
        };
        match (flag.kind, negated) {
            (Kind::Tree, _) => self.tree(spelling, flag.names[0], value),
            (Kind::Switch, true) => match Value::parse(Kind::Switch, value) {
                Ok(Value::Switch(on)) => {
                    self.record(spelling, flag.key, Value::Switch(!on));
                }
                _ => self.bad_value(spelling, value, flag.kind.wants()),
            },
            _ => self.set(spelling, flag.key, flag.kind, value),
        }
    }

    fn unknown<'w>(
        &mut self,
        spelling: &str,
        name: &str,
        attached: Option<&str>,
        rest: &'w [String],
    ) -> &'w [String] {
        self.problems.push(Problem::UnknownFlag {
            flag: spelling.to_owned(),
            engine: self.table.engine,
            nearest: self.table.nearest(name),
        });
        // What follows is most likely its value, and no model.
        let values = rest.iter().take_while(|word| !self.starts_flag(word)).count();
        &rest[if attached.is_some() { 0 } else { values.min(1) }..]
    }

    /// Whether a word begins a flag: `-1` and `-0.5` are values.
    fn starts_flag(&self, word: &str) -> bool {
        is_flag(word) && word != "--"
    }

    /// `--a '{"b": 1}'`.
    fn tree(&mut self, spelling: &str, name: &str, text: &str) {
        match serde_json::from_str::<Json>(text) {
            Ok(Json::Object(members)) => {
                for (member, value) in &members {
                    self.assign(
                        &format!("{spelling}.{member}"),
                        &format!("{name}.{member}"),
                        value,
                    );
                }
            }
            Ok(other) => {
                self.bad_value(
                    spelling,
                    text,
                    format!("a JSON object; {}", document::sort(&other)),
                );
            }
            Err(error) => self.bad_value(spelling, text, format!("a JSON object: {error}")),
        }
    }

    /// The file that the command names.
    fn file(&mut self) {
        let Some(name) = self.settings.text(Key::ConfigFile).map(str::to_owned) else { return };
        let spelling = self.settings.spelling(Key::ConfigFile).to_owned();
        let documents = self.documents;
        let Some(document) = documents.iter().find(|document| document.name == name) else {
            self.note(NoteKind::Ignored, &spelling, format!("{name} was not read"));
            return;
        };
        self.layer = if self.table.file_wins { WINNING_FILE } else { FILE };
        self.document(document);
        self.layer = COMMAND;
    }

    /// A file that stands for a command.
    pub(super) fn document(&mut self, document: &Document) {
        match document.tree() {
            Ok(settings) => {
                for (name, value) in &settings {
                    self.assign(name, name, value);
                }
            }
            Err(problem) => self.problems.push(problem),
        }
    }

    /// A setting of a file, of a JSON value or of a `Mapping`.
    fn assign(&mut self, spelling: &str, name: &str, value: &Json) {
        if value.is_null() {
            return;
        }
        match (self.table.find(name), value) {
            // Before what is ignored: `name.*` there is the rest of a table that is read.
            (None | Some(Found::Ignored { .. }), Json::Object(members))
                if self.table.has_below(name) =>
            {
                for (member, value) in members {
                    let below = format!("{name}.{member}");
                    self.assign(&format!("{spelling}.{member}"), &below, value);
                }
            }
            (Some(Found::Ignored { why, .. }), _) => self.ignore(spelling, why),
            (Some(Found::Flag { flag, .. }), Json::Object(members)) if flag.kind == Kind::Tree => {
                for (member, value) in members {
                    let below = format!("{}.{member}", flag.names[0]);
                    self.assign(&format!("{spelling}.{member}"), &below, value);
                }
            }
            (Some(Found::Flag { flag, negated }), value) => match plain(value) {
                Some(text) if flag.kind == Kind::Tree => self.tree(spelling, flag.names[0], &text),
                Some(text) => self.known(flag, negated, spelling, Some(&text), &[]),
                None => {
                    let found = document::sort(value).to_owned();
                    self.bad_value(spelling, &found, flag.kind.wants());
                }
            },
            (None, _) => self.problems.push(Problem::UnknownFlag {
                flag: spelling.to_owned(),
                engine: self.table.engine,
                nearest: self
                    .table
                    .nearest(name)
                    .map(|nearest| nearest.trim_start_matches('-').to_owned()),
            }),
        }
    }

    fn set(&mut self, spelling: &str, key: Key, kind: Kind, text: &str) {
        match Value::parse(kind, text) {
            Ok(value) => self.record(spelling, key, value),
            Err(wants) => self.bad_value(spelling, text, wants),
        }
    }

    fn record(&mut self, spelling: &str, key: Key, value: Value) {
        let given = Given { spelling: spelling.to_owned(), value, layer: self.layer };
        if let Some(old) = self.settings.get(key) {
            if old.layer == given.layer && old.value != given.value {
                self.problems.push(Problem::Contradiction {
                    first: format!("{} {}", old.spelling, old.value),
                    second: format!("{} {}", given.spelling, given.value),
                });
            }
            if old.layer >= given.layer {
                return;
            }
        }
        self.settings.insert(key, given);
    }

    fn warn_if_old(&mut self, flag: &Flag, spelling: &str) {
        if let Some(why) = flag.deprecated {
            self.note(NoteKind::Deprecated, spelling, why.to_owned());
        }
    }

    fn ignore(&mut self, spelling: &str, why: &str) {
        self.note(NoteKind::Ignored, spelling, why.to_owned());
    }

    fn note(&mut self, kind: NoteKind, about: &str, message: String) {
        self.notes.push(Note::new(kind, about, message));
    }

    fn bad_value(&mut self, spelling: &str, value: &str, wants: String) {
        // Long values (whole JSON objects) would drown what was wanted.
        let short: String = value.chars().take(60).collect();
        let value = if short.len() < value.len() { short + "…" } else { short };
        self.problems.push(Problem::BadValue { flag: spelling.to_owned(), value, wants });
    }
}

/// `-x` and `--x`, not `-1`.
fn is_flag(word: &str) -> bool {
    let mut letters = word.trim_start_matches('-').chars();
    word.starts_with('-') && letters.next().is_some_and(char::is_alphabetic) || word == "--"
}

/// `--a.b` is a member of the JSON object `a`: a switch there takes the word that follows, if any.
fn is_member(name: &str) -> bool {
    name.contains('.')
}

/// `NAME=value` with a name in capitals.
fn variable(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once('=')?;
    let capital = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let first = name.bytes().next()?;
    (first.is_ascii_uppercase() && name.bytes().all(capital)).then_some((name, value))
}

/// A JSON value as it would stand on a command line.
fn plain(value: &Json) -> Option<String> {
    match value {
        Json::Bool(on) => Some(on.to_string()),
        Json::Number(number) => Some(number.to_string()),
        Json::String(text) => Some(text.clone()),
        Json::Array(items) => {
            let items: Option<Vec<String>> =
                items.iter().map(|item| if item.is_array() { None } else { plain(item) }).collect();
            items.map(|items| items.join(","))
        }
        Json::Null | Json::Object(_) => None,
    }
}
