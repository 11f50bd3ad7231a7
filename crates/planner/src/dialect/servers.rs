//! A command whose file describes several kinds of servers behind one front door: `trtllm-serve disaggregated`.

use serde_json::{Map, Value as Json};

use super::heard::{COMMAND, FILE, Heard};
use super::table::{FrontDoor, Table};
use super::tables::{Word, Words};
use super::value::Value;
use super::{Dialect, Document, Key, Problem, Reading, understood};

/// Servers of one kind behind a front door.
#[derive(Clone, Debug, PartialEq)]
pub struct Servers {
    /// Section of the file that describes the servers.
    pub section: &'static str,
    /// Number of servers; they are alike.
    pub count: u32,
    /// The meaning of the section for one server.
    pub reading: Reading,
}

/// A command of a front door.
struct FrontDoorCommand<'w> {
    dialect: Dialect,
    door: &'static FrontDoor,
    /// Whether the command starts the servers.
    starts: bool,
    file: Option<&'w str>,
    problems: Vec<Problem>,
}

/// What is the reason to ignore settings of a front door.
const OWN: &str = "the front door's own settings do not move ranks";
/// Most servers of a section.
const SERVERS_MAX: u64 = 65_536;

/// Reads the command of a front door; `None` for any other command. See [`read`](super::read).
///
/// # Errors
/// Everything in the command and its file that cannot be understood (**PL-5**).
#[must_use]
pub fn read_servers(
    dialect: Dialect,
    words: &[String],
    documents: &[Document],
) -> Option<Result<Vec<Servers>, Vec<Problem>>> {
    let command = FrontDoorCommand::of(dialect, words)?;
    Some(command.servers(documents))
}

/// Reads the file of a front door without a command; `None` for a file that describes no servers behind one.
///
/// # Errors
/// Every setting that cannot be understood (**PL-5**).
#[must_use]
pub fn read_servers_document(
    dialect: Dialect,
    document: &Document,
) -> Option<Result<Vec<Servers>, Vec<Problem>>> {
    let door = dialect.table().front_door.as_ref()?;
    let tree = document.tree().ok()?;
    tree.keys().find(|name| door.is_section(name))?;
    let file = Some(document.name.as_str());
    let command = FrontDoorCommand { dialect, door, starts: false, file, problems: Vec::new() };
    Some(command.servers(std::slice::from_ref(document)))
}

/// Returns the file that the command of a front door names.
pub(super) fn document_of(dialect: Dialect, words: &[String]) -> Option<String> {
    FrontDoorCommand::of(dialect, words)?.file.map(str::to_owned)
}

// === impl FrontDoorCommand ===

impl<'w> FrontDoorCommand<'w> {
    fn of(dialect: Dialect, words: &'w [String]) -> Option<Self> {
        let table = dialect.table();
        let door = table.front_door.as_ref()?;
        let at = words.windows(2).position(|two| {
            let program = two[0].rsplit('/').next().unwrap_or_default();
            table.programs.contains(&program) && door.commands.contains(&two[1].as_str())
        })?;
        let starts = door.starting.contains(&words[at + 1].as_str());
        let mut command = Self { dialect, door, starts, file: None, problems: Vec::new() };
        command.flags(table, &words[at + 2..]);
        Some(command)
    }

    fn flags(&mut self, table: &Table, words: &'w [String]) {
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let (name, attached) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word.as_str(), None),
            };
            let is = |names: Words| {
                names.iter().any(|own| own.replace('_', "-") == name.replace('_', "-"))
            };
            let file = is(self.door.file);
            if !file && !is(self.door.values) {
                self.problems.push(match name.starts_with('-') {
                    true => Problem::UnknownFlag {
                        flag: name.to_owned(),
                        engine: table.engine,
                        nearest: self.door.nearest(name),
                    },
                    false => Problem::StrayWord { word: word.clone(), model: None },
                });
                continue;
            }
            match attached.or_else(|| words.next().map(String::as_str)) {
                Some(value) if file => self.file = Some(value),
                Some(_) => {}
                None => self.problems.push(Problem::MissingValue {
                    flag: name.to_owned(),
                    wants: "a value".to_owned(),
                }),
            }
        }
    }

    fn servers(mut self, documents: &[Document]) -> Result<Vec<Servers>, Vec<Problem>> {
        let Some(name) = self.file else {
            let flag = self.door.file[0].to_owned();
            self.problems
                .push(Problem::MissingValue { flag, wants: "the file of the servers".to_owned() });
            return Err(self.problems);
        };
        let tree = match documents.iter().find(|document| document.name == name) {
            Some(document) => document.tree(),
            None => Err(self.bad(name, "the file is not here")),
        };
        let tree = tree.map_err(|problem| vec![problem])?;
        let mut servers = Vec::new();
        for (section, role) in self.door.sections {
            match self.section(name, &tree, section, role) {
                Ok(read) => servers.extend(read),
                Err(problems) => self.problems.extend(problems),
            }
        }
        if servers.is_empty() && self.problems.is_empty() {
            let sections: Vec<&str> = self.door.sections.iter().map(|(name, _)| *name).collect();
            self.problems.push(self.bad(name, &format!("no server in {}", sections.join(" or "))));
        }
        if self.problems.is_empty() { Ok(servers) } else { Err(self.problems) }
    }

    /// Reads one section, with the settings that stand outside all sections.
    fn section(
        &self,
        file: &str,
        tree: &Map<String, Json>,
        section: &'static str,
        role: Word,
    ) -> Result<Option<Servers>, Vec<Problem>> {
        let one = |problem| vec![problem];
        let own = match tree.get(section) {
            Some(Json::Object(own)) => own,
            None | Some(Json::Null) => return Ok(None),
            Some(_) => {
                return Err(one(self.bad(file, &format!("{section} is not a table of settings"))));
            }
        };
        let count = self.count(section, own).map_err(|why| one(self.bad(file, &why)))?;
        if count == 0 {
            return Ok(None);
        }
        let mut heard = self.settings(tree, section, own);
        let layout = heard.settings.iter().any(|(key, _)| key.is_layout());
        if !self.starts && own.contains_key("urls") && !layout {
            let why = format!(
                "{section} has addresses and no setting of a layout: plan the command of its servers"
            );
            return Err(one(self.bad(file, &why)));
        }
        if heard.settings.get(Key::Role).is_none() {
            heard.record(section, Key::Role, Value::Text(role.to_owned()));
        }
        understood(heard).map(|reading| Some(Servers { section, count, reading }))
    }

    /// Takes the settings of a section, and those outside all sections, which the section's win over in other
    /// words.
    fn settings(
        &self,
        tree: &Map<String, Json>,
        section: &str,
        own: &Map<String, Json>,
    ) -> Heard<'static> {
        let mut heard = Heard::new(self.dialect, &[]);
        heard.layer = FILE;
        let outer = tree.iter().filter(|(name, _)| !self.door.is_section(name));
        for (name, value) in outer {
            match own.get(name) {
                _ if self.door.own.contains(&name.as_str()) => heard.ignore(name, OWN),
                Some(here) if here != value => heard.problems.push(Problem::Contradiction {
                    first: format!("{name} {value}"),
                    second: format!("{section}.{name} {here}"),
                }),
                _ => heard.assign(name, name, value),
            }
        }
        heard.layer = COMMAND;
        let settings = own.iter().filter(|(name, _)| !self.door.addresses.contains(&name.as_str()));
        for (name, value) in settings {
            heard.assign(&format!("{section}.{name}"), name, value);
        }
        heard
    }

    /// Returns the number of servers of a section.
    fn count(&self, section: &str, own: &Map<String, Json>) -> Result<u32, String> {
        let urls = own.get("urls").and_then(Json::as_array).map(|urls| urls.len() as u64);
        let asked = match own.get("num_instances") {
            None | Some(Json::Null) => urls.unwrap_or(1),
            Some(value) => value.as_u64().ok_or_else(|| {
                format!("{section}.num_instances is {value}, and not a whole number")
            })?,
        };
        if let Some(urls) = urls.filter(|urls| *urls != asked) {
            return Err(format!("{section} has {urls} urls for {asked} servers (num_instances)"));
        }
        let count = u32::try_from(asked).ok().filter(|_| asked <= SERVERS_MAX);
        count.ok_or_else(|| {
            format!("{section}.num_instances is {asked}; at most {SERVERS_MAX} can be planned")
        })
    }

    fn bad(&self, file: &str, reason: &str) -> Problem {
        Problem::BadDocument { name: file.to_owned(), reason: reason.to_owned() }
    }
}

// === impl FrontDoor ===

impl FrontDoor {
    fn is_section(&self, name: &str) -> bool {
        self.sections.iter().any(|(section, _)| *section == name)
    }

    fn nearest(&self, name: &str) -> Option<String> {
        let names = self.file.iter().chain(self.values).copied();
        crate::nearest::nearest(name, names).map(str::to_owned)
    }
}
