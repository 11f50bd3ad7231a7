//! Turning words into settings, by a table.

use serde_json::Value as Json;

use super::heard::Heard;
use super::pairs;
use super::program::Command;
use super::table::{BareModel, Flag, Found, Kind, Takes, dashed};
use super::value::Value;
use super::{Key, NoteKind, Problem};

/// The spelling of a model that no flag names.
const MODEL: &str = "MODEL";
/// Most words of a command that are read: a longer text is no command line.
const WORDS_MAX: usize = 4096;

// === impl Heard ===

impl Heard<'_> {
    /// Reads a whole command: variables, program, flags, and the files that the flags name.
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

    /// Reads `NAME=value` before the program.
    fn variables<'w>(&mut self, words: &'w [String]) -> &'w [String] {
        let count = words.iter().take_while(|word| variable(word).is_some()).count();
        for (name, value) in words[..count].iter().filter_map(|word| variable(word)) {
            if !self.known_variable(name, value) {
                self.ignore(name, "an environment variable that no plan depends on");
            }
        }
        &words[count..]
    }

    /// Returns the words after the program and its launcher; `None` for another engine's program.
    fn program<'w>(&mut self, words: &'w [String]) -> Option<&'w [String]> {
        let command = match Command::of(self.dialect, words) {
            Ok(command) => command,
            Err(problem) => {
                self.problems.push(problem);
                return None;
            }
        };
        if let [first, ..] = command.before {
            // Among the words of what starts the program, too, some mean something.
            for (name, value) in command.before.iter().filter_map(|word| variable(word)) {
                self.known_variable(name, value);
            }
            self.ignore(first, "what starts the program does not move its ranks");
        }
        if let Some(router) = command.program.filter(|_| command.program == self.table.router) {
            self.record(router, Key::RouterServers, Value::Switch(true));
        }
        match command.flags {
            [model, rest @ ..]
                if self.table.bare_model == BareModel::AfterSubcommand
                    && command.subcommand.is_some()
                    && !is_flag(model) =>
            {
                self.set(MODEL, Key::Model, Kind::Text, model);
                Some(rest)
            }
            flags => Some(flags),
        }
    }

    /// Takes an environment variable that planning reads, and returns whether it does.
    fn known_variable(&mut self, name: &str, value: &str) -> bool {
        let known = self.table.variables.iter().find(|variable| variable.names.contains(&name));
        if let Some(variable) = known {
            self.set(name, variable.key, variable.kind, value);
        }
        known.is_some()
    }

    fn flags(&mut self, words: &[String]) {
        let mut words = words;
        while let [word, rest @ ..] = words {
            words = rest;
            if word == "\\" || word == "--" {
                continue;
            } else if is_flag(word) {
                words = self.flag(word, rest);
            } else if self.table.pairs && pairs::is_pair(word) {
                words = self.pairs(word, rest);
            } else {
                self.bare(word);
            }
        }
    }

    /// Reads `tp_size=8` or `Mapping(tp_size=8, pp_partition=[1, 2])`; returns the words after it.
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
        if model.is_none() && self.table.bare_model == BareModel::Anywhere {
            self.set(MODEL, Key::Model, Kind::Text, word);
        } else {
            self.problems.push(Problem::StrayWord { word: word.to_owned(), model });
        }
    }

    /// Reads one flag with its values; returns the words after them.
    fn flag<'w>(&mut self, word: &str, rest: &'w [String]) -> &'w [String] {
        let (spelling, attached) = match (word.split_once('='), word.strip_prefix("-O")) {
            // As compilers do, vLLM lets the level follow at once: -O3.
            (_, Some(level)) if !level.is_empty() => (&word[..2], Some(level)),
            (Some((spelling, value)), _) => (spelling, Some(value)),
            (None, _) => (word, None),
        };
        let name = spelling.strip_prefix("--").unwrap_or(spelling);
        let Some(found) = self.find(name).or_else(|| self.completed(spelling, name)) else {
            return self.unknown(spelling, name, attached, rest);
        };
        let values = rest.iter().take_while(|word| !self.starts_flag(word)).count();
        let member = is_member(name);
        match found {
            Found::Flag { flag, .. }
                if flag.kind == Kind::Switch
                    && !member
                    && attached.is_none()
                    && value_follows(rest) =>
            {
                self.problems.push(Problem::SwitchValue {
                    flag: spelling.to_owned(),
                    value: rest[0].clone(),
                    instead: self.counted(flag.key),
                });
                &rest[1..]
            }
            Found::Flag { flag, negated } => {
                self.known(flag, negated, spelling, attached, &rest[..values.min(1)]);
                let takes = (flag.kind != Kind::Switch || member) && attached.is_none();
                &rest[usize::from(takes).min(values)..]
            }
            Found::Ignored { why, takes, .. } => {
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

    /// Returns the flag of which `name` is the beginning, if the engine completes names and there is one.
    fn completed(&mut self, spelling: &str, name: &str) -> Option<Found> {
        let whole = self.table.completed(name).filter(|_| spelling.starts_with("--"))?;
        let message = format!("{} completes it to --{whole}", self.table.engine);
        self.note(NoteKind::Rewritten, spelling, message);
        self.find(whole)
    }

    pub(super) fn known(
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

    /// Returns the flag that counts what `key` only switches on.
    fn counted(&self, key: Key) -> Option<String> {
        let flag = match key {
            Key::Experts => self.table.flag_of(Key::ExpertWidth),
            Key::AttentionDataSwitch => self.table.flag_of(Key::AttentionData),
            _ => None,
        };
        flag.map(|flag| dashed(flag.names[0]))
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
            nearest: self.nearest(name),
        });
        // What follows is most likely its value, and no model.
        let values = rest.iter().take_while(|word| !self.starts_flag(word)).count();
        &rest[if attached.is_some() { 0 } else { values.min(1) }..]
    }

    /// Returns whether a word begins a flag: `-1` and `-0.5` are values.
    fn starts_flag(&self, word: &str) -> bool {
        is_flag(word) && word != "--"
    }
}

/// Returns whether a word is `-x` or `--x`, not `-1`.
fn is_flag(word: &str) -> bool {
    let mut letters = word.trim_start_matches('-').chars();
    word.starts_with('-') && letters.next().is_some_and(char::is_alphabetic) || word == "--"
}

/// Returns whether a number or a truth value follows, which a switch does not take.
fn value_follows(rest: &[String]) -> bool {
    rest.first().is_some_and(|word| {
        word.bytes().all(|byte| byte.is_ascii_digit()) || Value::parse(Kind::Switch, word).is_ok()
    })
}

/// Returns whether a flag is a member of the JSON object `a`, like `--a.b`: such a switch takes the word that
/// follows, if any.
fn is_member(name: &str) -> bool {
    name.contains('.')
}

/// Splits `NAME=value` with a name in capitals.
fn variable(word: &str) -> Option<(&str, &str)> {
    let (name, value) = word.split_once('=')?;
    let capital = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let first = name.bytes().next()?;
    (first.is_ascii_uppercase() && name.bytes().all(capital)).then_some((name, value))
}
