//! The tables of flags, which read, write and document a dialect. Their sources, and the way to add flags,
//! are described in [`tables`].

use std::collections::HashSet;
use std::fmt::Write as _;

use playhouse_types::Role;
use serde::Deserialize;

use super::Key;
use super::rule::NamedRule;
use super::settings::Settings;
use super::tables::{self, Word, Words};
use crate::nearest::nearest;

/// The table of one engine's words.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Table {
    /// Name of the engine in messages.
    #[serde(deserialize_with = "tables::word")]
    pub(super) engine: Word,
    /// Programs and Python modules that take the engine's command line.
    #[serde(deserialize_with = "tables::words")]
    pub(super) programs: Words,
    /// Words with which a written command starts.
    #[serde(deserialize_with = "tables::words")]
    pub(super) command: Words,
    /// Subcommands that may stand between program and flags.
    #[serde(deserialize_with = "tables::words")]
    pub(super) subcommands: Words,
    /// Container images whose entry point is the program.
    #[serde(default, deserialize_with = "tables::words")]
    pub(super) images: Words,
    /// Subcommands that start no ranks, with what each does instead.
    #[serde(default, deserialize_with = "tables::pairs")]
    pub(super) rankless: &'static [(Word, Word)],
    /// Where a word without a flag names the model.
    #[serde(default)]
    pub(super) bare_model: BareModel,
    /// The program that starts a server for each replica, and a router in front of the servers.
    #[serde(default, deserialize_with = "tables::some_word")]
    pub(super) router: Option<Word>,
    /// Whether the beginning of a long name stands for the name, if only one begins so.
    #[serde(default)]
    pub(super) abbreviates: bool,
    /// Whether a settings file wins over the command line.
    #[serde(default)]
    pub(super) file_wins: bool,
    /// Whether `name=value` without dashes is a setting, as in TensorRT-LLM's `Mapping`.
    #[serde(default)]
    pub(super) pairs: bool,
    /// The subcommands that stand in front of servers, and their file.
    #[serde(default)]
    pub(super) front_door: Option<FrontDoor>,
    /// The flag that tells each node the address of node 0.
    #[serde(default, deserialize_with = "tables::some_word")]
    pub(super) head_address: Option<Word>,
    /// The stages that get one more layer where stages do not divide the layers.
    #[serde(default)]
    pub(super) more_layers: MoreLayers,
    /// Whether f32 weights run in two bytes when the command does not give a type.
    #[serde(default)]
    pub(super) halves_f32: bool,
    /// Tokens of a KV block by default; `None` where the engine's default is Playhouse's.
    pub(super) block_tokens: Option<u32>,
    /// Words for the roles of replicas, if they do not both prefill and decode.
    pub(super) roles: Roles,
    /// Names of the rules on several flags together, in the order of the reports.
    #[serde(default, deserialize_with = "tables::entries")]
    pub(super) rules: &'static [NamedRule],
    /// Environment variables that planning reads.
    #[serde(default, deserialize_with = "tables::entries")]
    pub(super) variables: &'static [Flag],
    /// Flags that planning reads.
    #[serde(deserialize_with = "tables::entries")]
    pub(super) flags: &'static [Flag],
    /// Flags that planning ignores.
    #[serde(default, deserialize_with = "tables::entries")]
    pub(super) ignored: &'static [Ignored],
}

/// The part of an engine's table about its front door.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FrontDoor {
    /// Subcommands that read the file.
    #[serde(deserialize_with = "tables::words")]
    pub(super) commands: Words,
    /// Those of the subcommands that also start the servers.
    #[serde(deserialize_with = "tables::words")]
    pub(super) starting: Words,
    /// Spellings of the flag that names the file.
    #[serde(deserialize_with = "tables::words")]
    pub(super) file: Words,
    /// Flags with a value that no layout depends on.
    #[serde(deserialize_with = "tables::words")]
    pub(super) values: Words,
    /// Members of the file that are the front door's own.
    #[serde(deserialize_with = "tables::words")]
    pub(super) own: Words,
    /// Members of a section that are the front door's own.
    #[serde(deserialize_with = "tables::words")]
    pub(super) addresses: Words,
    /// The sections, each with the role of its servers.
    #[serde(deserialize_with = "tables::pairs")]
    pub(super) sections: &'static [(Word, Word)],
}

/// The places of a command where a word without a flag names the model.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum BareModel {
    #[default]
    Nowhere,
    Anywhere,
    /// Right after the subcommand.
    AfterSubcommand,
}

/// The stages to which an engine gives one more layer where stages do not divide the layers.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum MoreLayers {
    /// The first stages, as in a layout.
    #[default]
    First,
    /// The stages before the last one, which also holds the head.
    BeforeLast,
    /// The last stages.
    Last,
}

/// The words of an engine for a [`Role`].
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Roles {
    #[serde(deserialize_with = "tables::word")]
    prefill: Word,
    #[serde(deserialize_with = "tables::word")]
    decode: Word,
}

/// A flag that planning reads.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Flag {
    /// Spellings of the flag; the first is the one that is written. A leading dash marks a short spelling.
    /// Dashes and underscores are the same when read.
    #[serde(deserialize_with = "tables::words")]
    pub names: &'static [&'static str],
    /// Kind of the flag's value.
    #[serde(rename = "takes")]
    pub kind: Kind,
    /// Setting that the flag sets.
    #[serde(rename = "sets")]
    pub key: Key,
    /// Reason why the flag should not be used any more.
    #[serde(default, rename = "old", deserialize_with = "tables::some_word")]
    pub deprecated: Option<Word>,
    /// Values that the layout changes, each with the reason.
    #[serde(default, deserialize_with = "tables::pairs")]
    pub(super) narrows: &'static [(Word, Word)],
    /// Whether the flag exists in the settings file only.
    #[serde(default)]
    pub(super) in_file: bool,
}

/// The kinds of values of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// No value, or true or false; `--no-…` turns the switch off.
    Switch,
    /// A count.
    Size,
    /// A count, or -1 for "choose".
    SizeOrAuto,
    /// Counts with commas between them.
    Sizes,
    /// A count of tokens, also as `32k` or `32K`; -1 or `auto` for "choose".
    Tokens,
    /// A share from 0 to 1.
    Fraction,
    /// One of these words. Of several words with the same meaning, the first is written.
    #[serde(deserialize_with = "tables::words")]
    OneOf(&'static [&'static str]),
    /// Any text.
    Text,
    /// A JSON object whose members are flags below this one (`--a '{"b": 1}'` is `--a.b 1`).
    Tree,
}

/// Flags that planning ignores, by the reason. `name.*` stands for `name` and all flags below it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ignored {
    /// Reason why a plan does not depend on these flags.
    #[serde(deserialize_with = "tables::word")]
    pub(super) why: Word,
    /// Whether only [`Table::router`] has these flags.
    #[serde(default)]
    pub(super) router: bool,
    /// Flags without a value.
    #[serde(default, deserialize_with = "tables::words")]
    pub(super) switches: Words,
    /// Flags with one value.
    #[serde(default, deserialize_with = "tables::words")]
    pub(super) values: Words,
    /// Flags with any number of values.
    #[serde(default, deserialize_with = "tables::words")]
    pub(super) lists: Words,
}

/// An entry that was found in a table.
#[derive(Clone, Copy)]
pub(super) enum Found {
    Flag { flag: &'static Flag, negated: bool },
    Ignored { why: Word, takes: Takes, router: bool },
}

/// The number of values of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Takes {
    /// No value.
    None,
    /// One value.
    One,
    /// Any number of values.
    Many,
}

// === impl Flag ===

impl Flag {
    /// Returns whether `word` is one of the flag's allowed words.
    pub(super) fn has(&self, word: &str) -> bool {
        matches!(self.kind, Kind::OneOf(words) if words.contains(&word))
    }
}

// === impl Ignored ===

impl Ignored {
    fn names(&self) -> impl Iterator<Item = Word> {
        [self.switches, self.values, self.lists].into_iter().flatten().copied()
    }
}

// === impl Kind ===

impl Kind {
    /// Describes the allowed values for messages.
    #[must_use]
    pub fn wants(self) -> String {
        match self {
            Self::Switch => "true or false".to_owned(),
            Self::Size => format!("a whole number from 0 to {}", u32::MAX),
            Self::SizeOrAuto => format!("a whole number from 0 to {}, or -1", u32::MAX),
            Self::Sizes => "whole numbers with commas between them, such as 8,8,6".to_owned(),
            Self::Tokens => "a count of tokens such as 8192, 32k or 32K".to_owned(),
            Self::Fraction => "a share from 0 to 1".to_owned(),
            Self::OneOf(words) => format!("one of {}", words.join(", ")),
            Self::Text => "a text".to_owned(),
            Self::Tree => "a JSON object".to_owned(),
        }
    }

    /// Returns the placeholder of the value in the help.
    fn placeholder(self) -> String {
        match self {
            Self::Switch => String::new(),
            Self::Size | Self::SizeOrAuto => " N".to_owned(),
            Self::Sizes => " N,N,…".to_owned(),
            Self::Tokens => " TOKENS".to_owned(),
            Self::Fraction => " SHARE".to_owned(),
            Self::OneOf(words) if words.len() > 3 => " WORD".to_owned(),
            Self::OneOf(words) => format!(" {}", words.join("|")),
            Self::Text => " TEXT".to_owned(),
            Self::Tree => " JSON".to_owned(),
        }
    }
}

// === impl Table ===

impl Table {
    /// Returns the flag called `name`, without leading dashes for a long name and with one for a short name.
    pub(super) fn find(&self, name: &str) -> Option<Found> {
        let flag = |name: &str| {
            self.flags.iter().find(|flag| flag.names.iter().any(|other| same(name, other)))
        };
        if let Some(flag) = flag(name) {
            return Some(Found::Flag { flag, negated: false });
        }
        let positive = name.strip_prefix("no-").or_else(|| name.strip_prefix("no_"));
        if let Some(flag) = positive.and_then(flag).filter(|flag| flag.kind == Kind::Switch) {
            return Some(Found::Flag { flag, negated: true });
        }
        self.find_ignored(name).or_else(|| {
            let found = self.find_ignored(positive?)?;
            matches!(found, Found::Ignored { takes: Takes::None, .. }).then_some(found)
        })
    }

    /// Returns the number of values that the flag called `name` takes.
    pub(super) fn takes(&self, name: &str) -> Option<Takes> {
        Some(match self.find(name)? {
            Found::Flag { flag, .. } if flag.kind == Kind::Switch => Takes::None,
            Found::Flag { .. } => Takes::One,
            Found::Ignored { takes, .. } => takes,
        })
    }

    fn find_ignored(&self, name: &str) -> Option<Found> {
        self.ignored.iter().find_map(|group| {
            let kinds = [
                (group.switches, Takes::None),
                (group.values, Takes::One),
                (group.lists, Takes::Many),
            ];
            let (_, takes) = kinds
                .into_iter()
                .find(|(names, _)| names.iter().any(|other| covers(other, name)))?;
            Some(Found::Ignored { why: group.why, takes, router: group.router })
        })
    }

    /// Returns the one name that begins with `name`, where the engine completes names.
    pub(super) fn completed(&self, name: &str) -> Option<Word> {
        let own = self.flags.iter().flat_map(|flag| flag.names.iter().copied());
        let ignored = self.ignored.iter().filter(|group| !group.router);
        let names = own.chain(ignored.flat_map(Ignored::names));
        let begins = |other: &Word| {
            other.is_char_boundary(name.len())
                && same(name, &other[..name.len()])
                && !other[name.len()..].contains(['.', '*'])
        };
        let mut found = names.filter(|other| other.len() > name.len()).filter(begins);
        let first = found.next().filter(|_| self.abbreviates && !name.is_empty())?;
        found.next().is_none().then_some(first)
    }

    /// Returns whether some flag lies below `name`, as `a.b` below `a`.
    pub(super) fn has_below(&self, name: &str) -> bool {
        self.flags.iter().flat_map(|flag| flag.names).any(|other| {
            other.len() > name.len()
                && other.as_bytes()[name.len()] == b'.'
                && other.is_char_boundary(name.len())
                && same(name, &other[..name.len()])
        })
    }

    /// Returns the most similar name that exists, in the spelling that is written. `router` tells whether
    /// the command is [`Table::router`].
    pub(super) fn nearest(&self, name: &str, router: bool) -> Option<String> {
        let own = self.flags.iter().flat_map(|flag| flag.names.iter().copied());
        let ignored = self.ignored.iter().filter(|group| router || !group.router);
        let ignored = ignored.flat_map(Ignored::names);
        let ignored = ignored.filter(|name| !name.ends_with('*'));
        nearest(name, own).or_else(|| nearest(name, ignored)).map(dashed)
    }

    /// Returns the flag with which a setting of `key` is written.
    pub(super) fn flag_of(&self, key: Key) -> Option<&'static Flag> {
        let written = |flag: &&Flag| flag.deprecated.is_none() && flag.kind != Kind::Tree;
        self.flags.iter().filter(written).find(|flag| flag.key == key)
    }

    /// Returns the reason why the layout changes this value of `key`, if it does.
    pub(super) fn narrowed(&self, key: Key, value: &str) -> Option<Word> {
        let narrows =
            self.flags.iter().filter(|flag| flag.key == key).flat_map(|flag| flag.narrows);
        narrows.into_iter().find(|(word, _)| *word == value).map(|(_, why)| *why)
    }

    /// Returns the role of the replicas that the command gives.
    pub(super) fn role(&self, settings: &Settings) -> Role {
        match settings.text(Key::Role) {
            Some(word) if word == self.roles.prefill => Role::Prefill,
            Some(word) if word == self.roles.decode => Role::Decode,
            _ => Role::Unified,
        }
    }

    /// Returns the word for a role; `None` for replicas that both prefill and decode, which need no word.
    pub(super) fn role_word(&self, role: Role) -> Option<Word> {
        match role {
            Role::Unified => None,
            Role::Prefill => Some(self.roles.prefill),
            Role::Decode => Some(self.roles.decode),
        }
    }

    /// Returns the first fault of the table beyond its syntax.
    pub(super) fn fault(&self) -> Option<String> {
        let mut seen = HashSet::new();
        let own = self.flags.iter().flat_map(|flag| flag.names.iter().copied());
        let mut names = own.chain(self.ignored.iter().flat_map(Ignored::names));
        if let Some(twice) = names.find(|name| !seen.insert(name.replace('_', "-"))) {
            return Some(format!("{twice:?} stands there twice"));
        }
        let said =
            |word: Word| self.flags.iter().any(|flag| flag.key == Key::Role && flag.has(word));
        if let Some(word) =
            [self.roles.prefill, self.roles.decode].into_iter().find(|word| !said(word))
        {
            return Some(format!("{word:?} is no word of the flag for the role"));
        }
        self.flags.iter().chain(self.variables).find_map(|flag| {
            let Some(name) = flag.names.first() else {
                return Some(format!("a flag for {:?} has no name", flag.key));
            };
            if flag.kind == Kind::Tree && !self.has_below(name) {
                return Some(format!("no flag lies below the tree {name:?}"));
            }
            let (word, _) = flag.narrows.iter().find(|(word, _)| !flag.has(word))?;
            Some(format!("{word:?} is no word of {name:?}"))
        })
    }

    /// Returns one line per flag whose key `is_shown` selects, with the spelling that is written and the short
    /// spelling; then the other names.
    pub(super) fn help(&self, is_shown: impl Fn(Key) -> bool) -> String {
        let mut help = String::new();
        let mut others = Vec::new();
        for flag in self.flags.iter().filter(|flag| is_shown(flag.key)) {
            let short = flag.names.iter().find(|name| name.starts_with('-'));
            let first = short.map_or_else(String::new, |short| format!("{short}, "));
            let name = dashed(flag.names[0]);
            let shown = format!("{first}{name}{}", flag.kind.placeholder());
            let _ = writeln!(help, "  {shown:<40} {}", flag.key.about());
            let rest = flag.names[1..].iter().filter(|name| Some(*name) != short);
            let rest: Vec<String> = rest.map(|name| dashed(name)).collect();
            if !rest.is_empty() {
                others.push(format!("{} for {name}", rest.join(", ")));
            }
        }
        let _ = writeln!(help, "\nOther names: {}.", others.join("; "));
        help
    }
}

/// Returns a name as it is spelled on a command line.
pub(super) fn dashed(name: &str) -> String {
    if name.starts_with('-') { name.to_owned() } else { format!("--{name}") }
}

/// Returns whether two names differ only in dashes and underscores.
fn same(left: &str, right: &str) -> bool {
    let fold = |byte: u8| if byte == b'_' { b'-' } else { byte };
    left.len() == right.len() && left.bytes().map(fold).eq(right.bytes().map(fold))
}

/// Returns whether `pattern` names `name`, or a parent of it.
fn covers(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix(".*") {
        None => same(pattern, name),
        Some(above) => {
            same(above, name)
                || (name.is_char_boundary(above.len())
                    && name.as_bytes().get(above.len()) == Some(&b'.')
                    && same(above, &name[..above.len()]))
        }
    }
}
