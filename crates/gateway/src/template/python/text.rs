//! Methods of Python's strings that `pycompat` lacks, or knows with fewer arguments.

use minijinja::value::{Kwargs, Value, from_args};
use minijinja::{Error, ErrorKind};

/// Calls a method; `None` if it is not one of these.
pub(super) fn method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let value = match name {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            text.strip_prefix(prefix).unwrap_or(text).into()
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            text.strip_suffix(suffix).unwrap_or(text).into()
        }
        "split" | "rsplit" => split(text, name == "rsplit", args)?,
        "partition" | "rpartition" => partition(text, name == "rpartition", args)?,
        "index" | "rindex" => index(text, name == "rindex", args)?,
        "ljust" | "rjust" | "center" => {
            let (width, fill): (usize, Option<char>) = from_args(args)?;
            let fill = fill.unwrap_or(' ');
            match name {
                "ljust" => padded(text, 0, width, fill),
                "rjust" => padded(text, width, width, fill),
                _ => center(text, width, fill),
            }
            .into()
        }
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let digits = text.trim_start_matches(['+', '-']);
            let sign = &text[..(text.len() - digits.len()).min(1)];
            let digits = &text[sign.len()..];
            let width = width.saturating_sub(sign.len());
            format!("{sign}{}", padded(digits, width, width, '0')).into()
        }
        "swapcase" => {
            from_args(args).map(|()| text.chars().flat_map(swapped).collect::<String>())?.into()
        }
        "casefold" => from_args(args).map(|()| text.to_lowercase().replace('ß', "ss"))?.into(),
        "isdecimal" => {
            let () = from_args(args)?;
            (!text.is_empty() && text.chars().all(char::is_numeric)).into()
        }
        _ => return Ok(None),
    };
    Ok(Some(value))
}

/// Returns `text` in the middle of `width` characters, as Python and Jinja2 place it.
pub(super) fn center(text: &str, width: usize, fill: char) -> String {
    let more = width.saturating_sub(text.chars().count());
    let left = more / 2 + (more & width & 1);
    padded(text, text.chars().count() + left, width, fill)
}

/// Fills `text` on its left up to `left` characters, and then on its right up to `width`.
fn padded(text: &str, left: usize, width: usize, fill: char) -> String {
    let length = text.chars().count();
    let before = left.saturating_sub(length);
    let after = width.saturating_sub(length + before);
    let mut output: String = std::iter::repeat_n(fill, before).collect();
    output.push_str(text);
    output.extend(std::iter::repeat_n(fill, after));
    output
}

/// `split(sep=None, maxsplit=-1)`, or `rsplit`.
fn split(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator, most, named): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.map_or_else(|| named.get("sep"), |given| Ok(Some(given)))?;
    let most = most.map_or_else(|| named.get("maxsplit"), |given| Ok(Some(given)))?;
    named.assert_all_used()?;
    let most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    let mut parts: Vec<&str> = match separator.filter(|it| !it.is_none() && !it.is_undefined()) {
        None => return Ok(words(text, from_right, most).into_iter().map(Value::from).collect()),
        Some(separator) => {
            let separator =
                separator.as_str().ok_or_else(|| failed("the separator is no string"))?;
            if separator.is_empty() {
                return Err(failed("the separator is empty"));
            }
            match from_right {
                false => text.splitn(most.saturating_add(1), separator).collect(),
                true => text.rsplitn(most.saturating_add(1), separator).collect(),
            }
        }
    };
    if from_right {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// Splits at white space, at most `most` times; the rest keeps its space at the far end.
fn words(text: &str, from_right: bool, most: usize) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    loop {
        rest = if from_right { rest.trim_end() } else { rest.trim_start() };
        if rest.is_empty() {
            break;
        }
        let cut = match from_right {
            false => rest.find(char::is_whitespace),
            true => rest
                .char_indices()
                .rfind(|(_, it)| it.is_whitespace())
                .map(|(at, it)| at + it.len_utf8()),
        };
        let Some(cut) = cut.filter(|_| words.len() < most) else {
            words.push(rest);
            break;
        };
        let (left, right) = rest.split_at(cut);
        let (word, others) = if from_right { (right, left) } else { (left, right) };
        words.push(word);
        rest = others;
    }
    if from_right {
        words.reverse();
    }
    words
}

/// `partition(sep)`, or `rpartition`.
fn partition(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    if separator.is_empty() {
        return Err(failed("the separator is empty"));
    }
    let found = if from_right { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match (found, from_right) {
        (Some((before, after)), _) => [before, separator, after],
        (None, false) => [text, "", ""],
        (None, true) => ["", "", text],
    };
    Ok(parts.into_iter().map(Value::from).collect())
}

/// `index(sub)`, or `rindex`: a place in characters, or an error.
fn index(text: &str, from_right: bool, args: &[Value]) -> Result<Value, Error> {
    let (part,): (&str,) = from_args(args)?;
    let at = if from_right { text.rfind(part) } else { text.find(part) };
    let at = at.ok_or_else(|| failed("substring not found"))?;
    Ok(text[..at].chars().count().into())
}

fn swapped(letter: char) -> Box<dyn Iterator<Item = char>> {
    if letter.is_uppercase() {
        Box::new(letter.to_lowercase())
    } else {
        Box::new(letter.to_uppercase())
    }
}

fn failed(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(text: &str, name: &str, args: &[Value]) -> String {
        method(text, name, args).expect("succeeds").expect("is known").to_string()
    }

    #[test]
    fn text_is_split_as_in_python() {
        let named = || Value::from(Kwargs::from_iter([("maxsplit", Value::from(1))]));
        assert_eq!(call("a,b,,c", "split", &[",".into(), named()]), "['a', 'b,,c']");
        assert_eq!(call("a,b,,c", "rsplit", &[",".into(), 1.into()]), "['a,b,', 'c']");
        assert_eq!(call("  a b  c ", "split", &[]), "['a', 'b', 'c']");
        assert_eq!(call("  a b  c ", "split", &[().into(), 1.into()]), "['a', 'b  c ']");
        assert_eq!(call("  a b  c ", "rsplit", &[named()]), "['  a b', 'c']");
        assert_eq!(call("", "split", &[]), "[]");
        assert!(method("a", "split", &["".into()]).is_err());
        assert_eq!(call("a=b=c", "rpartition", &["=".into()]), "['a=b', '=', 'c']");
        assert_eq!(call("a", "partition", &["=".into()]), "['a', '', '']");
    }

    #[test]
    fn text_is_filled_as_in_python() {
        for (name, width, expected) in [
            ("ljust", 6, "abc   "),
            ("rjust", 6, "   abc"),
            ("center", 6, " abc  "),
            ("center", 7, "  abc  "),
        ] {
            assert_eq!(call("abc", name, &[width.into()]), expected, "{name}");
        }
        assert_eq!(call("-7", "zfill", &[4.into()]), "-007");
        assert_eq!(call("éb", "index", &["b".into()]), "1");
        assert_eq!(call("aB ß", "swapcase", &[]), "Ab SS");
    }
}
