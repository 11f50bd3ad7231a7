//! The tables of the engines: one TOML file each beside this file, read once. The tables hold every flag and
//! the engine's names for things; the joint meaning of flags is code.
//!
//! To teach Playhouse a flag, edit the file of its engine and nothing else:
//!
//! - A flag that no layout depends on is one more name in the `[[ignored]]` group whose `why` is the reason,
//!   or in a new group: among the `switches` (without a value), the `values` (one value) or the `lists` (any
//!   number of values). `name.*` stands for `name` and everything below it.
//! - A flag that describes the layout, or that planning or a rule needs, is an entry of `flags`. The help and
//!   a written command list the flags in the order of the file.
//!
//! | field of an entry | what it says |
//! |---|---|
//! | `names` | the spellings, the one that is written first: long ones without dashes, short ones with one |
//! | `sets` | what it sets: a [`Key`](super::Key), as `data-local` for `DataLocal`; `key.rs` lists them |
//! | `takes` | its values: a [`Kind`](super::Kind), as `"size-or-auto"`, or `takes.one-of = ["mp", "ray"]` |
//! | `old` | why it should not be used any more; it is read, and never written |
//! | `narrows` | words of it that a layout makes something else of, each with the explanation |
//! | `in-file` | `true` where the command has no such flag, only its settings file |
//!
//! The other fields of a file are those of [`Table`]; each entry of `variables`, an environment variable, is
//! like one of `flags`. `rules` names the engine's rules on several flags together, in the order of the
//! reports; `rule.rs` has the code under these names. A new key or rule starts as code.
//!
//! - **TB-1** a table with an unknown field, key, kind or rule, or with one spelling for two flags, is not
//!   read; a test reads all tables.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Deserializer, de::DeserializeOwned};

use super::table::Table;

/// A text of a table. Tables live as long as the process, and so do their texts.
pub(super) type Word = &'static str;
/// Texts of a table.
pub(super) type Words = &'static [Word];

pub(super) static NATIVE: LazyLock<Table> = LazyLock::new(|| known(include_str!("native.toml")));
pub(super) static VLLM: LazyLock<Table> = LazyLock::new(|| known(include_str!("vllm.toml")));
pub(super) static SGLANG: LazyLock<Table> = LazyLock::new(|| known(include_str!("sglang.toml")));
pub(super) static TENSORRT: LazyLock<Table> =
    LazyLock::new(|| known(include_str!("tensorrt.toml")));

/// Returns a table that the binary contains.
fn known(text: &str) -> Table {
    table(text).expect("a table that the tests have read")
}

/// Reads the table of an engine (**TB-1**).
fn table(text: &str) -> Result<Table, String> {
    let table: Table = toml::from_str(text).map_err(|error| error.to_string())?;
    table.fault().map_or(Ok(table), Err)
}

/// Reads one text.
pub(super) fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Word, D::Error> {
    Ok(String::deserialize(deserializer)?.leak())
}

/// Reads a text that may be missing.
pub(super) fn some_word<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Word>, D::Error> {
    word(deserializer).map(Some)
}

/// Reads several texts.
pub(super) fn words<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Words, D::Error> {
    let words: Vec<String> = Vec::deserialize(deserializer)?;
    Ok(words.into_iter().map(|word| &*word.leak()).collect::<Vec<Word>>().leak())
}

/// Reads several entries.
pub(super) fn entries<'de, D: Deserializer<'de>, T: DeserializeOwned>(
    deserializer: D,
) -> Result<&'static [T], D::Error> {
    Ok(Vec::deserialize(deserializer)?.leak())
}

/// Reads a map from names to texts.
pub(super) fn pairs<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<&'static [(Word, Word)], D::Error> {
    let pairs = BTreeMap::<String, String>::deserialize(deserializer)?;
    let kept = pairs.into_iter().map(|(name, text)| (&*name.leak(), &*text.leak()));
    Ok(kept.collect::<Vec<(Word, Word)>>().leak())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Dialect;
    use crate::dialect::rule;

    /// Reads a table with `more` in front of its `flags`.
    fn read(more: &str, flags: &str) -> Result<Table, String> {
        let roles = r#"roles = { prefill = "p", decode = "d" }"#;
        let role = r#"{ names = ["role"], sets = "role", takes.one-of = ["p", "d"] }"#;
        let command = "programs = [\"e\"]\ncommand = [\"e\"]\nsubcommands = []";
        table(&format!("engine = \"E\"\n{command}\n{roles}\n{more}\nflags = [{role}, {flags}]\n"))
    }

    #[test]
    fn every_table_is_read() {
        for dialect in Dialect::ALL {
            assert!(!dialect.table().flags.is_empty(), "{dialect:?}");
        }
        assert!(read("", "").is_ok());
    }

    #[test]
    fn every_rule_is_named_by_a_table() {
        let files = [
            include_str!("native.toml"),
            include_str!("vllm.toml"),
            include_str!("sglang.toml"),
            include_str!("tensorrt.toml"),
        ];
        for (name, _) in rule::RULES {
            let name = format!("{name:?}");
            assert!(files.iter().any(|file| file.contains(&name)), "{name}");
        }
    }

    #[test]
    fn a_bad_table_is_refused_with_what_is_bad() {
        for (more, flags, bad) in [
            ("colour = 1", "", "colour"),
            (r#"rules = ["no-such-rule"]"#, "", "no-such-rule"),
            ("", r#"{ names = ["a"], sets = "model", takes = "text", shows = 1 }"#, "shows"),
            ("", r#"{ names = ["a"], sets = "modell", takes = "text" }"#, "modell"),
            ("", r#"{ names = ["a"], sets = "model", takes = "texts" }"#, "texts"),
            ("", r#"{ names = [], sets = "model", takes = "text" }"#, "name"),
            ("", r#"{ names = ["a-b", "a_b"], sets = "model", takes = "text" }"#, "a_b"),
            ("", r#"{ names = ["role"], sets = "model", takes = "text" }"#, "role"),
            ("", r#"{ names = ["a"], sets = "model", takes = "tree" }"#, "\"a\""),
            (
                "",
                r#"{ names = ["a"], sets = "dtype", takes.one-of = ["b"], narrows.c = "" }"#,
                "\"c\"",
            ),
        ] {
            let error = read(more, flags).err().unwrap_or_default();
            assert!(error.contains(bad), "{more}{flags}: {error:?}");
        }
        let ignored = "[[ignored]]\nwhy = \"\"\nvalues = [\"role\"]\n";
        let text = include_str!("sglang.toml").replace("\"--dist-init-addr\"", "1");
        assert!(table(&text).err().is_some_and(|error| error.contains("string")));
        let text = format!("{}\n{}", include_str!("native.toml"), ignored);
        assert!(table(&text).err().is_some_and(|error| error.contains("\"role\"")));
        let text =
            include_str!("vllm.toml").replace("prefill = \"kv_producer\"", "prefill = \"p\"");
        assert!(table(&text).err().is_some_and(|error| error.contains("\"p\"")));
    }
}
