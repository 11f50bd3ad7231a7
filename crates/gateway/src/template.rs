//! Chat messages to a prompt, by the model's chat template.
//!
//! The dialect is that of Hugging Face's `apply_chat_template` (`transformers`,
//! `chat_template_utils.py`): Jinja2 with `trim_blocks` and `lstrip_blocks`, loop controls,
//! Python's string and dict methods, `raise_exception`, `strftime_now`, `tojson` in Python's
//! spelling, and `{% generation %}`, which only marks text for training and is ignored.
//!
//! - **TPL-1** rendering ends: instructions are counted ([`FUEL`]) and output is bounded
//!   ([`OUTPUT_MAX`]).
//! - **TPL-2** the client gets the message of a template's `raise_exception` in the template's own words.
//!
//! A template comes with the model and never with a request. It is not fully contained: a template
//! that doubles a string in a loop is bounded in instructions but not in memory, because minijinja
//! does not count the bytes of intermediate strings.

mod clock;
mod python;
#[cfg(test)]
mod tests;
mod tojson;

use std::borrow::Cow;
use std::io;

pub(crate) use clock::unix_now;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, Error, ErrorKind};
use serde::Deserialize;
use serde_json::Map;

/// The maximum number of instructions of one rendering; a long conversation needs some hundred per
/// message.
pub const FUEL: u64 = 4_000_000;

/// The maximum number of bytes of one rendering.
pub const OUTPUT_MAX: usize = 16 << 20;

/// A model's chat template, compiled.
pub struct ChatTemplate {
    environment: Environment<'static>,
    /// The special tokens, such as `bos_token` and `eos_token`, as template variables.
    special_tokens: Vec<(String, String)>,
}

/// The options of a request for rendering its messages.
#[derive(Clone, Copy, Debug, Default)]
pub struct RenderOptions<'a> {
    /// How the prompt ends.
    pub ending: Ending,
    /// More variables (`chat_template_kwargs`), scalars only.
    pub variables: &'a [(String, serde_json::Value)],
}

/// How a rendered conversation ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// The prompt ends after the last message.
    #[default]
    Complete,
    /// The prompt ends with the opening of an assistant's turn (`add_generation_prompt`).
    AssistantTurn,
    /// The prompt ends within the last message, which is to be continued (`continue_final_message`).
    OpenMessage,
}

/// The reason why there is no template or no prompt.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template does not compile, or the file around it is malformed.
    #[error("chat template: {0}")]
    Malformed(String),
    /// The template refused the messages (**TPL-2**).
    #[error("{0}")]
    Raised(String),
    /// The template failed on the messages, with an undefined value or at a bound (**TPL-1**).
    #[error("chat template failed: {0}")]
    Failed(String),
    /// The last message is not in the rendered text, so it cannot be continued.
    #[error(
        "continue_final_message: the chat template does not repeat the last message word for word"
    )]
    NotContinuable,
}

/// `raise_exception` was called with this message.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// A buffer that refuses to grow past [`OUTPUT_MAX`].
#[derive(Default)]
struct Capped(Vec<u8>);

/// The parts of `tokenizer_config.json` that matter for templates.
#[derive(Deserialize)]
struct TokenizerConfig {
    #[serde(default)]
    chat_template: Option<Templates>,
    #[serde(flatten)]
    rest: Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Named(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

// === impl ChatTemplate ===

impl ChatTemplate {
    /// Compiles `source`. `special_tokens` are variables such as `("bos_token", "<s>")`.
    ///
    /// # Errors
    /// Returns [`TemplateError::Malformed`] with the place of the syntax error.
    pub fn new(source: &str, special_tokens: Vec<(String, String)>) -> Result<Self, TemplateError> {
        Self::with_clock(source, special_tokens, unix_now)
    }

    fn with_clock(
        source: &str,
        special_tokens: Vec<(String, String)>,
        now: fn() -> u64,
    ) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_fuel(Some(FUEL));
        environment.set_syntax(
            SyntaxConfig::builder()
                .trim_blocks(true)
                .lstrip_blocks(true)
                .build()
                .expect("the default delimiters are valid"),
        );
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        python::install(&mut environment);
        environment.add_function("raise_exception", raise_exception);
        environment
            .add_function("strftime_now", move |format: &str| clock::strftime(format, now()));
        environment.add_filter("tojson", tojson::tojson);
        environment
            .add_template_owned("chat_template", without_generation_tags(source))
            .map_err(|error| TemplateError::Malformed(describe(&error)))?;
        Ok(Self { environment, special_tokens })
    }

    /// Returns the template of a model folder, given the contents of its files: `chat_template.jinja` if
    /// there is one, else `chat_template` in `tokenizer_config.json` (a string, or a list in which the
    /// template named `default` counts). Returns `None` when the model has no template.
    ///
    /// # Errors
    /// Returns [`TemplateError::Malformed`] when a file is malformed.
    pub fn from_files(
        tokenizer_config: Option<&str>,
        chat_template: Option<&str>,
    ) -> Result<Option<Self>, TemplateError> {
        let config: TokenizerConfig = serde_json::from_str(tokenizer_config.unwrap_or("{}"))
            .map_err(|error| TemplateError::Malformed(format!("tokenizer_config.json: {error}")))?;
        let configured = match config.chat_template {
            Some(Templates::One(template)) => Some(template),
            Some(Templates::Named(templates)) => {
                let names: Vec<_> = templates.iter().map(|named| named.name.clone()).collect();
                let default = templates.into_iter().find(|named| named.name == "default");
                Some(default.map(|named| named.template).ok_or_else(|| {
                    TemplateError::Malformed(format!(
                        "tokenizer_config.json: chat_template has the names {names:?}, \
                         but none is \"default\""
                    ))
                })?)
            }
            None => None,
        };
        let Some(source) = chat_template.or(configured.as_deref()) else { return Ok(None) };
        Self::new(source, special_tokens(&config.rest)).map(Some)
    }

    /// Renders the prompt for `messages`, each an object with `role`, `content` and other fields that the
    /// template may use.
    ///
    /// # Errors
    /// Returns any [`TemplateError`] but `Malformed`.
    pub fn render(
        &self,
        messages: &[Map<String, serde_json::Value>],
        options: &RenderOptions<'_>,
    ) -> Result<String, TemplateError> {
        let none = ["tools", "documents"].map(|name| (name, Value::from(())));
        let special = self.special_tokens.iter().map(|(name, token)| (&**name, token.into()));
        let given =
            options.variables.iter().map(|(name, value)| (&**name, Value::from(Serde(value))));
        let own = [
            ("messages", Value::from(Serde(with_reasoning_content(messages)))),
            ("add_generation_prompt", (options.ending == Ending::AssistantTurn).into()),
        ];
        // Of two values with one name the later counts.
        let variables = Value::from_pairs(none.into_iter().chain(special).chain(given).chain(own));
        let template = self
            .environment
            .get_template("chat_template")
            .expect("added when the environment was made");
        let mut output = Capped::default();
        template.render_captured_to(variables, &mut output).map_err(|error| failure(&error))?;
        let text = String::from_utf8(output.0).expect("minijinja writes UTF-8");
        if options.ending == Ending::OpenMessage {
            return open_end(text, messages);
        }
        Ok(text)
    }
}

/// Returns the messages with `reasoning`, the newer name, also under the name that templates know, as
/// `transformers` does.
fn with_reasoning_content(
    messages: &[Map<String, serde_json::Value>],
) -> Vec<Cow<'_, Map<String, serde_json::Value>>> {
    let renamed = |message: &Map<String, serde_json::Value>| {
        let reasoning = message.get("reasoning")?.clone();
        let mut message = message.clone();
        message.entry("reasoning_content").or_insert(reasoning);
        Some(message)
    };
    messages
        .iter()
        .map(|message| renamed(message).map_or(Cow::Borrowed(message), Cow::Owned))
        .collect()
}

/// Cuts the rendered text after the content of the last message, as `transformers` does.
fn open_end(
    mut text: String,
    messages: &[Map<String, serde_json::Value>],
) -> Result<String, TemplateError> {
    let content = messages
        .last()
        .and_then(|message| message.get("content")?.as_str())
        .ok_or(TemplateError::NotContinuable)?;
    let start = text.rfind(content.trim()).ok_or(TemplateError::NotContinuable)?;
    // A template that trims the content loses its trailing space; one that does not keeps it.
    let untrimmed = content.trim_start();
    let kept = if text[start..].starts_with(untrimmed) { untrimmed } else { content.trim() };
    text.truncate(start + kept.len());
    Ok(text)
}

/// Returns variables such as `bos_token`, written as a string or as an object with `content`.
fn special_tokens(config: &Map<String, serde_json::Value>) -> Vec<(String, String)> {
    config
        .iter()
        .filter(|(name, _)| name.ends_with("_token"))
        .filter_map(|(name, value)| {
            let token = value.as_str().or_else(|| value.get("content")?.as_str())?;
            Some((name.clone(), token.to_owned()))
        })
        .collect()
}

/// Replaces `{% generation %}` and `{% endgeneration %}` by an `if` that is always true, so that their
/// whitespace control keeps its meaning.
fn without_generation_tags(source: &str) -> String {
    let mut output = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(tag) = rest.find("{%") {
        let (before, inside) = rest.split_at(tag + 2);
        output.push_str(before);
        let name = inside.trim_start_matches(['-', '+']).trim_start();
        let lead = &inside[..inside.len() - name.len()];
        output.push_str(lead);
        rest = name;
        for (tag, replacement) in [("generation", "if true"), ("endgeneration", "endif")] {
            let after = name.strip_prefix(tag).unwrap_or("");
            if after.trim_start().trim_start_matches(['-', '+']).starts_with("%}") {
                output.push_str(replacement);
                rest = after;
            }
        }
    }
    output + rest
}

fn raise_exception(message: String) -> Result<Value, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, message.clone());
    Err(error.with_source(Raised(message)))
}

fn failure(error: &Error) -> TemplateError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(Raised(message)) = current.downcast_ref() {
            return TemplateError::Raised(message.clone());
        }
        cause = current.source();
    }
    TemplateError::Failed(match error.kind() {
        ErrorKind::OutOfFuel => format!("it ran more than {FUEL} instructions"),
        ErrorKind::WriteFailure => format!("it produced more than {OUTPUT_MAX} bytes"),
        _ => describe(error),
    })
}

fn describe(error: &Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), ToOwned::to_owned);
    error.line().map_or_else(|| what.clone(), |line| format!("line {line}: {what}"))
}

// === impl Capped ===

impl io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_MAX {
            return Err(io::Error::other("output limit"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
