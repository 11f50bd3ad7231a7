//! The source of a model's template, and which file has it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::TemplateError;

/// The contents of the files of a model that are about its chat template.
#[derive(Clone, Copy, Debug, Default)]
pub struct TemplateFiles<'a> {
    /// `chat_template.jinja`
    pub jinja: Option<&'a str>,
    /// `tokenizer_config.json`
    pub config: Option<&'a str>,
}

/// A chat template that is not compiled yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, Deserialize)]
pub struct TemplateSource {
    /// The text of the template.
    pub text: String,
    /// Variables such as `bos_token`, with their values.
    pub special_tokens: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Configured {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

// === impl TemplateSource ===

impl From<&str> for TemplateSource {
    fn from(text: &str) -> Self {
        Self { text: text.to_owned(), special_tokens: BTreeMap::new() }
    }
}

impl TemplateSource {
    /// Returns the template of a model: the text of `chat_template.jinja`, or else `chat_template` in
    /// `tokenizer_config.json` (a string, or a list in which the template named `default` counts).
    ///
    /// # Errors
    /// Returns [`TemplateError::Missing`] when the model has none, and [`TemplateError::Malformed`] when a file
    /// is malformed.
    pub fn of_files(
        files: &TemplateFiles<'_>,
        special_tokens: BTreeMap<String, String>,
    ) -> Result<Self, TemplateError> {
        let text = match files.jinja {
            Some(text) => text.to_owned(),
            None => configured(files.config.unwrap_or("{}"))?.ok_or(TemplateError::Missing)?,
        };
        Ok(Self { text, special_tokens })
    }
}

/// Returns `chat_template` of a `tokenizer_config.json`.
fn configured(config: &str) -> Result<Option<String>, TemplateError> {
    let file = "tokenizer_config.json";
    let malformed =
        |what: String| TemplateError::Malformed(format!("{file}: key `chat_template`: {what}"));
    let config: Map<String, Value> = serde_json::from_str(config).map_err(|why| {
        TemplateError::Malformed(format!("{file}: expected a JSON object: {why}"))
    })?;
    let Some(value) = config.get("chat_template").filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let configured = Configured::deserialize(value)
        .map_err(|_| malformed("expected a string, or a list of names and templates".to_owned()))?;
    let templates = match configured {
        Configured::One(template) => return Ok(Some(template)),
        Configured::Named(templates) => templates,
    };
    let names: Vec<_> = templates.iter().map(|named| named.name.clone()).collect();
    let default = templates.into_iter().find(|named| named.name == "default");
    match default {
        Some(named) => Ok(Some(named.template)),
        None => Err(malformed(format!("there are templates named {names:?}, but no \"default\""))),
    }
}
