//! The text that the model continues: texts, token ids, conversations.

use std::sync::Arc;

use playhouse_types::TokenId;
use serde_json::Value;

use super::check_vocabulary;
use super::message::{Message, marked, message, texts, with_one_system_message};
use crate::body::{Input, Written};
use crate::error::{ApiError, Result};
use crate::fields::{Fields, wrong_type};
use crate::gateway::Gateway;
use crate::intake::{Extent, Intake};
use crate::template::{Ending, RenderChat, RenderOptions, TemplateError};

/// The tokens of a prompt, and for a completion the text to echo.
pub(crate) struct Prompt {
    pub(crate) tokens: Arc<[TokenId]>,
    /// The text that the client wrote and gets back; `None` when it gets none back, or wrote token ids.
    pub(crate) text: Option<String>,
}

/// Messages and how to render them, as chat and `/tokenize` share them.
pub(crate) struct Conversation {
    messages: Vec<Message>,
    /// Whether a message has the role `developer`, which templates know as `system`.
    has_developer: bool,
    ending: Ending,
    variables: Vec<(String, Value)>,
    add_special_tokens: bool,
}

/// Variables that a request may not set: they carry the conversation or run code.
const RESERVED: &[&str] = &[
    "messages",
    "tools",
    "documents",
    "add_generation_prompt",
    "continue_final_message",
    "bos_token",
    "eos_token",
    "pad_token",
    "unk_token",
    "raise_exception",
    "strftime_now",
    "tokenize",
    "chat_template",
];

// === impl Prompt ===

impl Prompt {
    fn new(
        gateway: &Gateway,
        path: &str,
        tokens: Vec<TokenId>,
        text: Option<String>,
    ) -> Result<Self> {
        if tokens.is_empty() {
            return Err(ApiError::bad_param(path, "must not be empty: the prompt has no tokens"));
        }
        check_vocabulary(&tokens, gateway.front_door().vocab())?;
        Ok(Self { tokens: tokens.into(), text })
    }

    /// Tokenizes a completion's `prompt`. The texts are kept if the answer repeats them (`echo`).
    pub(super) fn all(
        intake: &Intake<'_>,
        fields: &Fields<'_>,
        input: Input,
        echo: bool,
    ) -> Result<Vec<Self>> {
        let add_special_tokens = fields.flag("add_special_tokens", true)?;
        let Input { written, is_list } = input;
        if written.is_empty() {
            return Err(fields.bad("prompt", "must not be empty"));
        }
        let prompt = |(index, written): (usize, Written)| {
            let path = if is_list { format!("prompt[{index}]") } else { "prompt".to_owned() };
            let (tokens, text) = match written {
                Written::Text(text) => {
                    let tokens = intake.encode(&path, &text, add_special_tokens, Extent::Prompt)?;
                    (tokens, echo.then_some(text))
                }
                Written::Tokens(tokens) => (tokens, None),
            };
            Self::new(intake.gateway, &path, tokens, text)
        };
        written.into_iter().enumerate().map(prompt).collect()
    }
}

// === impl Conversation ===

impl Conversation {
    pub(crate) fn parse(fields: &Fields<'_>) -> Result<Self> {
        let list = fields.list("messages")?.ok_or_else(|| fields.bad("messages", "is required"))?;
        if list.is_empty() {
            return Err(fields.bad("messages", "must not be empty"));
        }
        let messages = list
            .iter()
            .enumerate()
            .map(|(index, value)| message(&Fields::at(value, &format!("messages[{index}]"))?))
            .collect::<Result<_>>()?;
        let continue_final_message = fields.flag("continue_final_message", false)?;
        let add_generation_prompt =
            fields.flag("add_generation_prompt", !continue_final_message)?;
        let ending = match (continue_final_message, add_generation_prompt) {
            (false, false) => Ending::Complete,
            (false, true) => Ending::AssistantTurn,
            (true, false) => Ending::OpenMessage,
            (true, true) => {
                let message = "cannot be true together with add_generation_prompt";
                return Err(fields.bad("continue_final_message", message));
            }
        };
        Ok(Self {
            messages,
            has_developer: list.iter().any(|message| message["role"] == "developer"),
            ending,
            variables: variables(fields)?,
            add_special_tokens: fields.flag("add_special_tokens", false)?,
        })
    }

    /// Renders and tokenizes the conversation as a prompt.
    pub(super) fn prompt(&self, intake: &Intake<'_>) -> Result<Prompt> {
        let tokens = self.tokens(intake, Extent::Prompt)?;
        Prompt::new(intake.gateway, "messages", tokens, None)
    }

    /// Renders and tokenizes the conversation.
    pub(crate) fn tokens(&self, intake: &Intake<'_>, extent: Extent) -> Result<Vec<TokenId>> {
        let template = intake.gateway.template()?;
        // Templates leave out what they like of an assistant's turns, such as its reasoning.
        let others = self.messages.iter().filter(|message| message["role"] != "assistant");
        let texts = others.flat_map(|message| texts(&message["content"]));
        intake.check_bytes(texts.map(str::len).sum(), extent)?;
        let Some((messages, mark)) = marked(&self.messages, intake.gateway.tokenizer())? else {
            let text = self.render(template, &self.messages)?;
            return intake.encode("messages", &text, self.add_special_tokens, extent);
        };
        let text = self.render(template, &messages)?;
        intake.encode_by("messages", &text, extent, |tokenizer| {
            tokenizer.encode_marked(&text, mark, self.add_special_tokens)
        })
    }

    /// Renders the conversation. What a developer says is a system message, and if the template refuses
    /// that where it stands, then a part of the first system message.
    fn render(&self, template: &dyn RenderChat, messages: &[Message]) -> Result<String> {
        let options = RenderOptions { ending: self.ending, variables: &self.variables };
        let refused = match template.render(messages, &options) {
            Err(refused @ TemplateError::Raised(_)) if self.has_developer => refused,
            rendered => return Ok(rendered?),
        };
        let messages = with_one_system_message(messages);
        template.render(&messages, &options).map_err(|_| refused.into())
    }
}

/// Returns `chat_template_kwargs` and `reasoning_effort`. Only scalars are allowed: a template could call
/// other values or walk them for long.
fn variables(fields: &Fields<'_>) -> Result<Vec<(String, Value)>> {
    let mut variables = Vec::new();
    if let Some(effort) = fields.string("reasoning_effort")? {
        variables.push(("reasoning_effort".to_owned(), effort.into()));
    }
    let Some(kwargs) = fields.fields("chat_template_kwargs")? else { return Ok(variables) };
    for (name, value) in kwargs.object() {
        if RESERVED.contains(&&**name) {
            return Err(kwargs.bad(name, "is reserved"));
        }
        if value.is_array() || value.is_object() {
            return Err(wrong_type(
                &kwargs.path_of(name),
                "a string, number, boolean or null",
                value,
            ));
        }
        variables.push((name.clone(), value.clone()));
    }
    Ok(variables)
}
