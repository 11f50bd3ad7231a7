//! The tables of flags: what reads, writes and documents a dialect.

use std::fmt::Write as _;

use super::{Dialect, Key, nearest};

/// The words of one engine.
pub(super) struct Table {
    pub(super) dialect: Dialect,
    /// As it is called in messages.
    pub(super) engine: &'static str,
    /// Programs and Python modules whose command line it is.
    pub(super) programs: &'static [&'static str],
    /// What writing starts with.
    pub(super) command: &'static [&'static str],
    /// What may stand between program and flags.
    pub(super) subcommands: &'static [&'static str],
    /// Container images whose entry point is the program.
    pub(super) images: &'static [&'static str],
    /// Subcommands that start no ranks, and what they do instead.
    pub(super) rankless: &'static [(&'static str, &'static str)],
    /// Whether a word without a flag names the model.
    pub(super) bare_model: bool,
    /// Whether a settings file wins over the command line.
    pub(super) file_wins: bool,
    /// Flags that mean something here.
    pub(super) flags: &'static [Flag],
    /// Flags that mean nothing here.
    pub(super) ignored: &'static [Ignored],
    /// Environment variables that mean something here.
    pub(super) variables: &'static [(&'static str, Key, Kind)],
}

/// A flag that means something here.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Spellings; the first is the one that is written. A leading dash marks a short one. Dashes and
    /// underscores are the same when read.
    pub names: &'static [&'static str],
    /// What value it takes.
    pub kind: Kind,
    /// What it sets.
    pub key: Key,
    /// Why it should not be used any more.
    pub deprecated: Option<&'static str>,
}

/// The values of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// None, or true or false; `--no-…` turns it off.
    Switch,
    /// A count.
    Size,
    /// A count, or -1 for "choose".
    SizeOrAuto,
    /// Counts with commas between them.
    Sizes,
    /// A count of tokens, perhaps as `32k` or `32K`; -1 or `auto` for "choose".
    Tokens,
    /// A share from 0 to 1.
    Fraction,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Anything.
    Text,
    /// A JSON object whose members are flags below this one (`--a '{"b": 1}'` is `--a.b 1`).
    Tree,
}

/// Flags without meaning here, by the reason. Names are separated by spaces; `name.*` stands for all
/// below `name`.
pub(super) struct Ignored {
    /// Why a plan does not depend on them.
    pub(super) why: &'static str,
    /// Those without a value.
    pub(super) switches: &'static str,
    /// Those with one value.
    pub(super) values: &'static str,
    /// Those with any number of values.
    pub(super) lists: &'static str,
}

/// A name that was found in a table.
#[derive(Clone, Copy)]
pub(super) enum Found {
    Flag { flag: &'static Flag, negated: bool },
    Ignored { why: &'static str, takes: Takes },
}

/// Values of an ignored flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    None,
    One,
    Many,
}

// === impl Flag ===

impl Flag {
    pub(super) const fn new(names: &'static [&'static str], kind: Kind, key: Key) -> Self {
        Self { names, kind, key, deprecated: None }
    }

    pub(super) const fn old(self, why: &'static str) -> Self {
        Self { deprecated: Some(why), ..self }
    }
}

// === impl Kind ===

impl Kind {
    /// What would do, for messages.
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

    /// The value's place in the help.
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
    /// The flag of that name: without leading dashes if it is long, with one if it is short.
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

    fn find_ignored(&self, name: &str) -> Option<Found> {
        self.ignored.iter().find_map(|group| {
            let kinds = [
                (group.switches, Takes::None),
                (group.values, Takes::One),
                (group.lists, Takes::Many),
            ];
            let (_, takes) = kinds
                .into_iter()
                .find(|(names, _)| names.split_whitespace().any(|other| covers(other, name)))?;
            Some(Found::Ignored { why: group.why, takes })
        })
    }

    /// Whether some flag lies below `name`, as `a.b` below `a`.
    pub(super) fn has_below(&self, name: &str) -> bool {
        self.flags.iter().flat_map(|flag| flag.names).any(|other| {
            other.len() > name.len()
                && other.as_bytes()[name.len()] == b'.'
                && other.is_char_boundary(name.len())
                && same(name, &other[..name.len()])
        })
    }

    /// The most similar name that exists, as it is written.
    pub(super) fn nearest(&self, name: &str) -> Option<String> {
        let own = self.flags.iter().flat_map(|flag| flag.names.iter().copied());
        let ignored = self.ignored.iter().flat_map(|group| {
            [group.switches, group.values, group.lists]
                .into_iter()
                .flat_map(str::split_whitespace)
                .filter(|name| !name.ends_with('*'))
        });
        nearest::nearest(name, own).or_else(|| nearest::nearest(name, ignored)).map(dashed)
    }

    /// The spelling that sets `key` in writing.
    pub(super) fn flag_of(&self, key: Key) -> Option<&'static Flag> {
        let written = |flag: &&Flag| flag.deprecated.is_none() && flag.kind != Kind::Tree;
        self.flags.iter().filter(written).find(|flag| flag.key == key)
    }

    /// One line per flag with the spelling that is written and the short one; then the other names.
    pub(super) fn help(&self) -> String {
        let mut help = String::new();
        let mut others = Vec::new();
        for flag in self.flags {
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

/// A name as it stands on a command line.
pub(super) fn dashed(name: &str) -> String {
    if name.starts_with('-') { name.to_owned() } else { format!("--{name}") }
}

/// Whether two names are the same but for dashes and underscores.
fn same(left: &str, right: &str) -> bool {
    let fold = |byte: u8| if byte == b'_' { b'-' } else { byte };
    left.len() == right.len() && left.bytes().map(fold).eq(right.bytes().map(fold))
}

/// Whether `pattern` names `name`, or everything above it.
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
