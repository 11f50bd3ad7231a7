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
//! - **TPL-3** a template from a model's files runs in a process of its own ([`TemplateProcess`]), with little
//!   memory and time: minijinja does not count the bytes of strings, so a template that doubles one in a loop,
//!   or nests lists deeply, would end the process it runs in.
//!
//! A template comes with the model or the operator and never with a request.

mod clock;
mod content;
mod dialect;
mod ending;
mod process;
mod python;
mod source;
#[cfg(test)]
mod tests;
mod tojson;

use std::borrow::Cow;
use std::io;

pub(crate) use clock::unix_now;
use content::ContentForms;
use ending::OpenContent;
pub use process::{TemplateProcess, run_template_process};
pub use source::{TemplateFiles, TemplateSource};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, Error, ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::Map;

/// The maximum number of instructions of one rendering; a long conversation needs some hundred per
/// message.
pub const FUEL: u64 = 4_000_000;

/// The maximum number of bytes of one rendering.
pub const OUTPUT_MAX: usize = 16 << 20;

/// A chat template, wherever it runs.
pub trait RenderChat: Send + Sync {
    /// Renders the prompt for `messages`, each an object with `role`, `content` and other fields that the
    /// template may use. A content is a string or a list of parts.
    ///
    /// # Errors
    /// Returns a [`TemplateError`] that says why there is no prompt.
    fn render(
        &self,
        messages: &[Map<String, serde_json::Value>],
        options: &RenderOptions<'_>,
    ) -> Result<String, TemplateError>;

    /// Returns whether rendering may take seconds, and so must not hold up other work of its thread.
    fn may_block(&self) -> bool;
}

/// A model's chat template, compiled, in this process.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: TemplateSource,
    contents: ContentForms,
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum TemplateError {
    /// The model has no template.
    #[error(
        "the model has no chat template: use /v1/completions, or start the server with --chat-template"
    )]
    Missing,
    /// The template does not compile, or the file around it is malformed.
    #[error("chat template: {0}")]
    Malformed(String),
    /// The template refused the messages (**TPL-2**).
    #[error("{0}")]
    Raised(String),
    /// The template failed on the messages, with an undefined value or at a bound (**TPL-1**).
    #[error("chat template failed: {0}")]
    Failed(String),
    /// The last message cannot be continued.
    #[error("continue_final_message: {0}")]
    NotContinuable(Cow<'static, str>),
}

/// `raise_exception` was called with this message.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Raised(String);

/// A buffer that refuses to grow past [`OUTPUT_MAX`].
#[derive(Default)]
struct Capped(Vec<u8>);

// === impl ChatTemplate ===

impl ChatTemplate {
    /// Compiles `source`.
    ///
    /// # Errors
    /// Returns [`TemplateError::Malformed`] with the place of the syntax error.
    pub fn new(source: TemplateSource) -> Result<Self, TemplateError> {
        Self::with_clock(source, unix_now)
    }

    fn with_clock(source: TemplateSource, now: fn() -> u64) -> Result<Self, TemplateError> {
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
            .add_template_owned("chat_template", dialect::translated(&source.text))
            .map_err(|error| TemplateError::Malformed(describe(&error)))?;
        let run = |messages: &[Map<_, _>]| {
            let messages: Vec<_> = messages.iter().map(Cow::Borrowed).collect();
            run(&environment, &source, &messages, &RenderOptions::default()).ok()
        };
        let contents = ContentForms::of(run);
        Ok(Self { environment, source, contents })
    }
}

impl RenderChat for ChatTemplate {
    fn render(
        &self,
        messages: &[Map<String, serde_json::Value>],
        options: &RenderOptions<'_>,
    ) -> Result<String, TemplateError> {
        let mut messages: Vec<_> =
            messages.iter().map(|message| as_templates_know(message, &self.contents)).collect();
        let open = match options.ending {
            Ending::OpenMessage => Some(OpenContent::mark(&mut messages)?),
            Ending::Complete | Ending::AssistantTurn => None,
        };
        let text = run(&self.environment, &self.source, &messages, options)?;
        match open {
            Some(open) => open.cut(text),
            None => Ok(text),
        }
    }

    fn may_block(&self) -> bool {
        false
    }
}

/// Runs the template on messages as they are.
fn run(
    environment: &Environment<'_>,
    source: &TemplateSource,
    messages: &[Cow<'_, Map<String, serde_json::Value>>],
    options: &RenderOptions<'_>,
) -> Result<String, TemplateError> {
    let none = ["tools", "documents"].map(|name| (name, Value::from(())));
    let special = source.special_tokens.iter().map(|(name, token)| (&**name, token.into()));
    let given = options.variables.iter().map(|(name, value)| (&**name, Value::from(Serde(value))));
    let own = [
        ("messages", Value::from(Serde(messages))),
        ("add_generation_prompt", (options.ending == Ending::AssistantTurn).into()),
    ];
    // Of two values with one name the later counts.
    let variables = Value::from_pairs(none.into_iter().chain(special).chain(given).chain(own));
    let template =
        environment.get_template("chat_template").expect("added when the environment was made");
    let mut output = Capped::default();
    template.render_captured_to(variables, &mut output).map_err(|error| failure(&error))?;
    Ok(String::from_utf8(output.0).expect("minijinja writes UTF-8"))
}

/// Returns a message as `transformers` gives it to templates, with its content in a form that this one
/// takes: without fields that are null, and with its reasoning under both names that templates know.
fn as_templates_know<'a>(
    message: &'a Map<String, serde_json::Value>,
    contents: &ContentForms,
) -> Cow<'a, Map<String, serde_json::Value>> {
    let mut message = Cow::Borrowed(message);
    if message.values().any(serde_json::Value::is_null) {
        message.to_mut().retain(|_, value| !value.is_null());
    }
    let reasoning = ["reasoning_content", "thinking", "reasoning"];
    if let Some(reasoning) = reasoning.iter().find_map(|name| message.get(*name)).cloned() {
        let message = message.to_mut();
        message.entry("thinking").or_insert_with(|| reasoning.clone());
        message.insert("reasoning_content".to_owned(), reasoning);
    }
    if let Some(content) = contents.fit(&message) {
        message.to_mut().insert("content".to_owned(), content);
    }
    message
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
