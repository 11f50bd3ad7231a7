//! The differences between minijinja and Jinja2 on Python that chat templates notice.

mod text;

use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Environment, Error, Output, State, escape_formatter, filters};
use minijinja_contrib::pycompat;

/// Makes `environment` behave like Jinja2 on Python.
pub(super) fn install(environment: &mut Environment<'_>) {
    environment.set_unknown_method_callback(method);
    environment.set_formatter(print);
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", is_iterable);
    environment.add_test("callable", is_callable);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    for name in ["length", "count"] {
        environment.add_filter(name, length);
    }
    environment.add_filter("first", first);
    environment.add_filter("last", last);
    environment.add_filter("int", int);
    environment.add_filter("float", number);
    environment.add_filter("replace", replace);
    environment.add_filter("center", |value: &Value, width: Option<usize>| {
        text::center(&value.to_string(), width.unwrap_or(80), ' ')
    });
    environment
        .add_filter("wordcount", |value: &Value| value.to_string().split_whitespace().count());
    environment.add_filter("striptags", minijinja_contrib::filters::striptags);
    environment.add_filter("truncate", minijinja_contrib::filters::truncate);
}

/// Formats a float as Python's `repr` does: the shortest digits that read back, with an exponent of at
/// least two digits below 1e-4 and from 1e16 on.
pub(super) fn float(value: f64) -> String {
    let scientific = format!("{value:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().expect("Rust writes an integer exponent");
    if (-4..16).contains(&exponent) {
        return format!("{value:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// Methods that `pycompat` lacks.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match value.as_str() {
        Some(text) => text::method(text, name, args)?,
        None if name == "copy" && matches!(value.kind(), ValueKind::Map | ValueKind::Seq) => {
            from_args::<()>(args).map(|()| Some(value.clone()))?
        }
        None => None,
    };
    own.map_or_else(|| pycompat::unknown_method_callback(state, value, name, args), Ok)
}

/// Prints `{{ value }}`.
fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    if value.kind() == ValueKind::Number
        && !value.is_integer()
        && let Ok(number) = f64::try_from(value.clone())
        && number.is_finite()
    {
        return out.write_str(&float(number)).map_err(Error::from);
    }
    escape_formatter(out, state, value)
}

/// Returns whether Jinja2 counts `value` as a sequence: all values with a length and items, mappings and
/// strings too, and undefined values.
fn is_sequence(value: &Value) -> bool {
    use ValueKind::{Map, Seq, String, Undefined};
    matches!(value.kind(), Seq | Map | String | Undefined)
}

/// Returns whether Python can walk `value`: minijinja walks `none` as an empty list, and Python does not.
fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

/// Returns whether Python counts `value` as callable: macros and functions, and Jinja2's undefined values.
fn is_callable(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Plain | ValueKind::Undefined)
}

/// The filter `length`, by which an undefined value has no items.
fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() { Ok(0) } else { filters::length(value) }
}

/// The filter `first`, which is undefined of an undefined value.
fn first(value: &Value) -> Result<Value, Error> {
    if value.is_undefined() { Ok(Value::UNDEFINED) } else { filters::first(value) }
}

/// The filter `last`, which is undefined of an undefined value.
fn last(value: Value) -> Result<Value, Error> {
    if value.is_undefined() { Ok(value) } else { filters::last(value) }
}

/// The filter `int(default=0, base=10)`: what is no number is the default.
fn int(
    state: &State,
    value: &Value,
    default: Option<Value>,
    base: Option<u32>,
    named: Kwargs,
) -> Result<Value, Error> {
    let default = default.map_or_else(|| named.get("default"), |given| Ok(Some(given)))?;
    let default = default.unwrap_or_else(|| 0.into());
    Ok(filters::int(state, value, Some(default.clone()), base, named).unwrap_or(default))
}

/// The filter `float(default=0.0)`: what is no number is the default.
fn number(
    state: &State,
    value: &Value,
    default: Option<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let default = default.map_or_else(|| named.get("default"), |given| Ok(Some(given)))?;
    let default = default.unwrap_or_else(|| 0.0.into());
    Ok(filters::float(state, value, Some(default.clone()), named).unwrap_or(default))
}

/// The filter `replace(old, new, count=None)`.
fn replace(value: &Value, old: &str, new: &str, count: Option<usize>) -> String {
    let text = value.to_string();
    count.map_or_else(|| text.replace(old, new), |count| text.replacen(old, new, count))
}

/// The filter `default(default_value='', boolean=false)`, with its arguments also by name.
fn default(
    value: &Value,
    other: Option<Value>,
    lax: Option<bool>,
    named: Kwargs,
) -> Result<Value, Error> {
    let other = other.map_or_else(|| named.get("default_value"), |other| Ok(Some(other)))?;
    let lax = lax.map_or_else(|| named.get("boolean"), |lax| Ok(Some(lax)))?;
    named.assert_all_used()?;
    if value.is_undefined() || (lax == Some(true) && !value.is_true()) {
        return Ok(other.unwrap_or_else(|| "".into()));
    }
    Ok(value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_written_as_in_python() {
        for (value, text) in [
            (0.0, "0.0"),
            (1.0, "1.0"),
            (-2.5, "-2.5"),
            (0.0001, "0.0001"),
            (0.000_01, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (123_456_789_012_345.0, "123456789012345.0"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (-1.25e100, "-1.25e+100"),
        ] {
            assert_eq!(float(value), text);
        }
    }
}
