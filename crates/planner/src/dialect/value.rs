//! The values of settings.

use std::fmt;

use super::table::Kind;

/// A value of a setting.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Size(u32),
    /// "Choose for me": `-1` in TensorRT-LLM.
    Auto,
    Switch(bool),
    Sizes(Vec<u32>),
    Tokens(u64),
    Fraction(f64),
    Text(String),
}

// === impl Value ===

impl Value {
    /// Parses `text` as a value of `kind`; the error describes the allowed values.
    pub(super) fn parse(kind: Kind, text: &str) -> Result<Self, String> {
        let text = text.trim();
        let found = match kind {
            Kind::Size => size(text).map(Self::Size),
            Kind::SizeOrAuto if text == "-1" => Some(Self::Auto),
            Kind::SizeOrAuto => size(text).map(Self::Size),
            Kind::Switch => switch(text).map(Self::Switch),
            Kind::Sizes => sizes(text).map(Self::Sizes),
            Kind::Tokens if text == "-1" || text == "auto" => Some(Self::Auto),
            Kind::Tokens => tokens(text).map(Self::Tokens),
            Kind::Fraction => text
                .parse()
                .ok()
                .filter(|share: &f64| (0.0..=1.0).contains(share))
                .map(Self::Fraction),
            Kind::OneOf(words) => words
                .iter()
                .find(|word| word.eq_ignore_ascii_case(text))
                .map(|word| Self::Text((*word).to_owned())),
            Kind::Text => (!text.is_empty()).then(|| Self::Text(text.to_owned())),
            Kind::Tree => None,
        };
        found.ok_or_else(|| kind.wants())
    }
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Size(size) => write!(out, "{size}"),
            Self::Auto => out.write_str("-1"),
            Self::Switch(on) => write!(out, "{on}"),
            Self::Sizes(sizes) => {
                let sizes: Vec<String> = sizes.iter().map(u32::to_string).collect();
                out.write_str(&sizes.join(","))
            }
            Self::Tokens(tokens) => write!(out, "{tokens}"),
            Self::Fraction(share) => write!(out, "{share}"),
            Self::Text(text) => out.write_str(text),
        }
    }
}

/// Parses digits: no sign, no fraction, at most `u32::MAX`.
fn size(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn switch(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Some(true),
        "false" | "0" | "no" | "off" => Some(false),
        _ => None,
    }
}

fn sizes(text: &str) -> Option<Vec<u32>> {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    inner.split(',').map(|part| size(part.trim())).collect()
}

/// Parses a number in vLLM's units: `k`, `m` and `g` are decimal, `K`, `M` and `G` binary.
fn tokens(text: &str) -> Option<u64> {
    if let Some(tokens) = size(text) {
        return Some(u64::from(tokens));
    }
    let unit = text.chars().last()?;
    let scale: u32 = match unit {
        'k' => 1_000,
        'm' => 1_000_000,
        'g' => 1_000_000_000,
        'K' => 1 << 10,
        'M' => 1 << 20,
        'G' => 1 << 30,
        _ => return None,
    };
    let number: f64 = text[..text.len() - 1].parse().ok()?;
    let tokens = number * f64::from(scale);
    // A binary unit of a fraction is refused by vLLM as well; both are whole numbers here.
    (tokens.fract() == 0.0 && (0.0..=1e15).contains(&tokens)).then_some(tokens as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_and_unsigned() {
        for bad in ["", "-1", "+1", "1.5", "1e3", "4294967296", "two", "٣"] {
            assert_eq!(size(bad), None, "{bad:?}");
        }
        assert_eq!(size("0"), Some(0));
        assert_eq!(size("4294967295"), Some(u32::MAX));
    }

    #[test]
    fn tokens_have_decimal_and_binary_units() {
        assert_eq!(tokens("32k"), Some(32_000));
        assert_eq!(tokens("32K"), Some(32_768));
        assert_eq!(tokens("25.6k"), Some(25_600));
        assert_eq!(tokens("1.0001k"), None);
        assert_eq!(tokens("k"), None);
        assert_eq!(tokens("-1k"), None);
    }
}
