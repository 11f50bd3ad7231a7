//! The file of `--api-keys-file`: the API keys, and their limits.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use playhouse_cluster::ClientLimits;
use playhouse_gateway::ApiKey;
use serde::Deserialize;
use toml::Spanned;

use crate::error::CliError;

/// The maximum size of the file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The maximum number of keys: schedulers and metrics remember each of them.
const KEYS_MAX: usize = 1000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysFile {
    key: Vec<Spanned<Entry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: Spanned<String>,
    key: Option<Spanned<String>>,
    key_sha256: Option<Spanned<String>>,
    max_concurrent_requests: Option<Spanned<u32>>,
    max_queued_tokens: Option<Spanned<u32>>,
    cache_group: Option<Spanned<String>>,
    #[serde(default)]
    priority: i32,
}

/// The rule for names of keys and groups.
pub(crate) const NAME_RULE: &str = "1 to 64 letters, digits, -, _ or .";

/// A problem at some bytes of the file.
type Problem = (Range<usize>, String);

/// Reads a file of keys.
///
/// # Errors
/// Returns every problem of the file, a line for each with its place.
pub(super) fn read(path: &Path) -> Result<Vec<ApiKey>, CliError> {
    let show = path.display();
    let failed = |why: String| CliError::usage(format!("--api-keys-file {show}: {why}"));
    let length = std::fs::metadata(path).map_err(|why| failed(why.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(failed(format!("is {length} bytes long; at most {FILE_BYTES_MAX} are read")));
    }
    let text = std::fs::read_to_string(path).map_err(|why| failed(why.to_string()))?;
    parse(&text).map_err(|problems| {
        let line = |(span, why): &Problem| {
            let (line, column) = place(&text, span.start);
            format!("{show}:{line}:{column}: {why}")
        };
        let lines: Vec<String> = problems.iter().map(line).collect();
        CliError::usage(lines.join("\nerror: ")).hint(
            "the file has a [[key]] for each, with name, and key or key_sha256 (64 hexadecimal \
             digits); max_concurrent_requests, max_queued_tokens, priority and cache_group may be \
             left out",
        )
    })
}

fn parse(text: &str) -> Result<Vec<ApiKey>, Vec<Problem>> {
    let file: KeysFile = toml::from_str(text).map_err(|error| {
        let why = error.message().lines().collect::<Vec<_>>().join(" ");
        vec![(error.span().unwrap_or(0..0), why)]
    })?;
    let mut problems = Vec::new();
    if file.key.is_empty() || file.key.len() > KEYS_MAX {
        let why = format!("has {} keys, must have 1 to {KEYS_MAX}", file.key.len());
        problems.push((0..0, why));
    }
    let (mut names, mut digests) = (HashMap::new(), HashMap::new());
    let mut keys = Vec::new();
    for entry in &file.key {
        let span = entry.span();
        match check(entry.get_ref(), span) {
            Err(problem) => problems.push(problem),
            Ok((key, secret)) => {
                let named = entry.get_ref().name.span();
                if let Some(first) = names.insert(key.name.clone(), named.clone()) {
                    problems.push((named.clone(), again(text, "name", &first)));
                }
                if let Some(first) = digests.insert(key.sha256, secret.clone()) {
                    problems.push((secret, again(text, "key", &first)));
                }
                keys.push(key);
            }
        }
    }
    if problems.is_empty() { Ok(keys) } else { Err(problems) }
}

/// Checks one key, and returns it with the place of its secret.
fn check(entry: &Entry, span: Range<usize>) -> Result<(ApiKey, Range<usize>), Problem> {
    let Entry { name, key, key_sha256, max_concurrent_requests, max_queued_tokens, .. } = entry;
    check_name("name", name)?;
    let cache_group = match &entry.cache_group {
        // No name has a space, so the group of a single key cannot be named by another.
        None => format!("key {}", name.get_ref()),
        Some(group) => check_name("cache_group", group).map(|()| group.get_ref().clone())?,
    };
    let (sha256, secret) = match (key, key_sha256) {
        // The given value is not repeated, because errors end up in logs.
        (Some(key), None) if key.get_ref().trim().is_empty() => {
            return Err((key.span(), "key must not be empty".to_owned()));
        }
        (Some(key), None) => (ApiKey::digest(key.get_ref()), key.span()),
        (None, Some(digest)) => {
            let why = || (digest.span(), "key_sha256 must be 64 hexadecimal digits".to_owned());
            (from_hex(digest.get_ref()).ok_or_else(why)?, digest.span())
        }
        _ => return Err((span, "give either key or key_sha256".to_owned())),
    };
    let limits = ClientLimits {
        requests: at_least_one("max_concurrent_requests", max_concurrent_requests.as_ref())?,
        prompt_tokens: at_least_one("max_queued_tokens", max_queued_tokens.as_ref())?,
        priority: entry.priority,
    };
    let (name, cache_group) = (name.get_ref().clone(), Some(cache_group));
    Ok((ApiKey { name, sha256, limits, cache_group }, secret))
}

fn check_name(field: &str, name: &Spanned<String>) -> Result<(), Problem> {
    if is_name(name.get_ref()) {
        return Ok(());
    }
    let why = format!("{field} {:?} must be {NAME_RULE}", name.get_ref());
    Err((name.span(), why))
}

/// Returns whether a name is allowed for a key, or a group of keys.
pub(crate) fn is_name(name: &str) -> bool {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    (1..=64).contains(&name.len()) && name.chars().all(plain)
}

fn at_least_one(field: &str, given: Option<&Spanned<u32>>) -> Result<Option<u32>, Problem> {
    match given {
        Some(zero) if *zero.get_ref() == 0 => Err((
            zero.span(),
            format!("{field} is 0, must be at least 1: leave the key out to let nobody in"),
        )),
        given => Ok(given.map(|given| *given.get_ref())),
    }
}

fn again(text: &str, what: &str, first: &Range<usize>) -> String {
    format!("the same {what} as in line {}", place(text, first.start).0)
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).ok()?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(bytes)
}

/// Returns the line and the column of a byte, from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let problems = parse(text).expect_err("must be refused");
        let show = |(span, why): &Problem| {
            let (line, column) = place(text, span.start);
            format!("{line}:{column}: {why}")
        };
        problems.iter().map(show).collect()
    }

    #[test]
    fn a_file_of_keys_is_read() {
        let digest: String =
            ApiKey::digest("two").iter().map(|byte| format!("{byte:02X}")).collect();
        let text = format!(
            "[[key]]\nname = 'a'\nkey = 'one'\n[[key]]\nname = 'b'\nkey_sha256 = '{digest}'\n\
             max_concurrent_requests = 4\nmax_queued_tokens = 1000\npriority = 10\n\
             cache_group = 'team'\n"
        );
        let keys = parse(&text).expect("a good file");
        assert_eq!(keys.len(), 2);
        assert_eq!((&*keys[0].name, keys[0].sha256), ("a", ApiKey::digest("one")));
        assert_eq!(keys[0].limits, ClientLimits::default());
        assert_eq!(keys[1].sha256, ApiKey::digest("two"));
        let limits = ClientLimits { requests: Some(4), prompt_tokens: Some(1000), priority: 10 };
        assert_eq!(keys[1].limits, limits);
        let groups = keys.iter().map(|key| key.cache_group.as_deref());
        assert_eq!(groups.collect::<Vec<_>>(), [Some("key a"), Some("team")]);
    }

    #[test]
    fn everything_wrong_has_a_line_with_its_place() {
        let text = "[[key]]\nname = 'a'\nkey = 'one'\n[[key]]\nname = 'a'\nkey = 'one'\n\
                    [[key]]\nname = 'b c'\nkey = 'x'\n[[key]]\nname = 'd'\nkey_sha256 = '12'\n\
                    [[key]]\nname = 'e'\n[[key]]\nname = 'f'\nkey = 'y'\n\
                    max_concurrent_requests = 0\n";
        assert_eq!(
            problems(text),
            [
                "5:8: the same name as in line 2",
                "6:7: the same key as in line 3",
                "8:8: name \"b c\" must be 1 to 64 letters, digits, -, _ or .",
                "12:14: key_sha256 must be 64 hexadecimal digits",
                "13:1: give either key or key_sha256",
                "18:27: max_concurrent_requests is 0, must be at least 1: leave the key out to let \
                 nobody in",
            ]
        );
    }

    #[test]
    fn what_is_no_such_file_is_one_line() {
        for (text, expected) in [
            ("[[key]]\nname = 'a'\nsecret = 'one'\n", "3:1: unknown field `secret`"),
            ("[[key]]\nname = 'a'\nkey = 'x'\npriority = 'low'\n", "4:12: invalid type"),
            ("[[key]\n", "1:"),
            ("", "missing field `key`"),
            ("key = []\n", "1:1: has 0 keys"),
            ("[[key]]\nname = 'a'\nkey = ' '\n", "3:7: key must not be empty"),
            ("[[key]]\nname = 'a'\nkey = 'x'\ncache_group = 'key b'\n", "4:15: cache_group"),
        ] {
            let problems = problems(text);
            assert_eq!(problems.len(), 1, "{problems:?}");
            assert!(problems[0].contains(expected), "{problems:?}");
            assert!(!problems[0].contains('\n'), "{problems:?}");
        }
    }
}
