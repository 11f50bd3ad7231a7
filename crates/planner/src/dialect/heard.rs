//! The settings that were understood of a command so far, and the files and trees of settings in it.

use serde_json::Value as Json;

use super::document::{self, Document};
use super::settings::{Given, Settings};
use super::table::{Flag, Found, Kind, Table};
use super::value::Value;
use super::{Dialect, Key, Note, NoteKind, Problem};

/// The settings that were understood of a command so far.
pub(super) struct Heard<'a> {
    pub(super) dialect: Dialect,
    pub(super) table: &'static Table,
    documents: &'a [Document],
    /// Layer of the settings that are read now.
    pub(super) layer: u8,
    pub(super) settings: Settings,
    pub(super) notes: Vec<Note>,
    pub(super) problems: Vec<Problem>,
}

/// Layers of settings, weakest first; [`Table::file_wins`] lifts the file over the command.
pub(super) const FILE: u8 = 1;
pub(super) const COMMAND: u8 = 2;
const WINNING_FILE: u8 = 3;

// === impl Heard ===

impl<'a> Heard<'a> {
    pub(super) fn new(dialect: Dialect, documents: &'a [Document]) -> Self {
        Self {
            dialect,
            table: dialect.table(),
            documents,
            layer: COMMAND,
            settings: Settings::default(),
            notes: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// Returns the flag called `name`, if this command has it.
    pub(super) fn find(&self, name: &str) -> Option<Found> {
        let router = self.settings.on(Key::RouterServers);
        let here = |found: &Found| router || !matches!(found, Found::Ignored { router: true, .. });
        self.table.find(name).filter(here)
    }

    /// Returns the most similar name of a flag that this command has.
    pub(super) fn nearest(&self, name: &str) -> Option<String> {
        self.table.nearest(name, self.settings.on(Key::RouterServers))
    }

    /// Takes a tree of settings: `--a '{"b": 1}'`.
    pub(super) fn tree(&mut self, spelling: &str, name: &str, text: &str) {
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

    /// Takes the settings of the file that the command names.
    pub(super) fn file(&mut self) {
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

    /// Takes the settings of a file that replaces a command.
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

    /// Takes a setting of a file, of a JSON value or of a `Mapping`.
    pub(super) fn assign(&mut self, spelling: &str, name: &str, value: &Json) {
        if value.is_null() {
            return;
        }
        match (self.find(name), value) {
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
                    .nearest(name)
                    .map(|nearest| nearest.trim_start_matches('-').to_owned()),
            }),
        }
    }

    pub(super) fn set(&mut self, spelling: &str, key: Key, kind: Kind, text: &str) {
        match Value::parse(kind, text) {
            Ok(value) => self.record(spelling, key, value),
            Err(wants) => self.bad_value(spelling, text, wants),
        }
    }

    pub(super) fn record(&mut self, spelling: &str, key: Key, value: Value) {
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

    pub(super) fn warn_if_old(&mut self, flag: &Flag, spelling: &str) {
        if let Some(why) = flag.deprecated {
            self.note(NoteKind::Deprecated, spelling, why.to_owned());
        }
    }

    pub(super) fn ignore(&mut self, spelling: &str, why: &str) {
        self.note(NoteKind::Ignored, spelling, why.to_owned());
    }

    pub(super) fn note(&mut self, kind: NoteKind, about: &str, message: String) {
        self.notes.push(Note::new(kind, about, message));
    }

    pub(super) fn bad_value(&mut self, spelling: &str, value: &str, wants: String) {
        // Long values (whole JSON objects) would drown what was wanted.
        let short: String = value.chars().take(60).collect();
        let value = if short.len() < value.len() { short + "…" } else { short };
        self.problems.push(Problem::BadValue { flag: spelling.to_owned(), value, wants });
    }
}

/// Returns a JSON value as it would be written on a command line.
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
