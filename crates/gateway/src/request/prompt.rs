//! The text that the model continues: texts, token ids, conversations.

use std::sync::Arc;

use playhouse_types::TokenId;
use serde_json::{Map, Value};

use super::check_vocabulary;
use crate::error::{ApiError, Result};
use crate::fields::{self, Fields, shown, wrong_type};
use crate::gateway::Gateway;
use crate::template::{Ending, RenderOptions};

/// The tokens of a prompt, and for a completion the text to echo.
pub(crate) struct Prompt {
    pub(crate) tokens: Arc<[TokenId]>,
    /// The text that the client wrote; `None` when it wrote token ids or messages.
    pub(crate) text: Option<String>,
}

/// Messages and how to render them, as chat and `/tokenize` share them.
pub(crate) struct Conversation {
    messages: Vec<Map<String, Value>>,
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
    pub(crate) fn from_text(
        gateway: &Gateway,
        path: &str,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Self> {
        let tokens = gateway
            .tokenizer()
            .encode(text, add_special_tokens)
            .map_err(|error| ApiError::bad_param(path, error))?;
        Self::from_tokens(gateway, path, tokens, Some(text.to_owned()))
    }

    fn from_tokens(
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

    /// Parses a completion's `prompt`: a string, token ids, or a list of either.
    pub(super) fn parse_all(gateway: &Gateway, fields: &Fields<'_>) -> Result<Vec<Self>> {
        let add_special_tokens = fields.flag("add_special_tokens", true)?;
        let path = fields.path_of("prompt");
        let vocab = gateway.front_door().vocab();
        let one = |value: &Value, path: &str| match value {
            Value::String(text) => Self::from_text(gateway, path, text, add_special_tokens),
            Value::Array(ids) => {
                Self::from_tokens(gateway, path, fields::token_ids(ids, path, vocab)?, None)
            }
            other => Err(wrong_type(path, "a string or a list of token ids", other)),
        };
        match fields.get("prompt") {
            None => Err(fields.bad("prompt", "is required")),
            Some(Value::Array(list)) if list.is_empty() => {
                Err(fields.bad("prompt", "must not be empty"))
            }
            Some(Value::Array(list)) if !list[0].is_number() => list
                .iter()
                .enumerate()
                .map(|(index, value)| one(value, &format!("{path}[{index}]")))
                .collect(),
            Some(value) => Ok(vec![one(value, &path)?]),
        }
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
            ending,
            variables: variables(fields)?,
            add_special_tokens: fields.flag("add_special_tokens", false)?,
        })
    }

    /// Renders and tokenizes the conversation.
    pub(crate) fn prompt(&self, gateway: &Gateway) -> Result<Prompt> {
        let template = gateway.template().ok_or_else(|| {
            ApiError::bad_param(
                "messages",
                "the model has no chat template: use /v1/completions, or start the server with one",
            )
        })?;
        let options = RenderOptions { ending: self.ending, variables: &self.variables };
        let text = template.render(&self.messages, &options)?;
        Prompt::from_text(gateway, "messages", &text, self.add_special_tokens)
    }
}

/// Returns a message as the template sees it: the role checked, the content one string.
fn message(fields: &Fields<'_>) -> Result<Map<String, Value>> {
    let role = fields.string("role")?.ok_or_else(|| fields.bad("role", "is required"))?;
    if !["system", "developer", "user", "assistant", "tool"].contains(&role) {
        let message = format!(
            "got {}, must be system, developer, user, assistant or tool",
            shown(&role.into())
        );
        return Err(fields.bad("role", message));
    }
    if fields.list("tool_calls")?.is_some_and(|calls| !calls.is_empty()) {
        let message = "not supported by this server: must be absent or []";
        return Err(fields.bad("tool_calls", message).with_code("unsupported_parameter"));
    }
    let content = match fields.get("content") {
        Some(value) => content(value, &fields.path_of("content"))?,
        // An assistant's message may be empty; any other empty message is a mistake.
        None if role == "assistant" => String::new(),
        None => return Err(fields.bad("content", "is required")),
    };
    let mut message = fields.object().clone();
    message.insert("content".to_owned(), content.into());
    // OpenAI's newer name for the same role; templates know the older one.
    let role = if role == "developer" { "system" } else { role };
    message.insert("role".to_owned(), role.into());
    Ok(message)
}

/// Returns the content: a string, or text parts joined by newlines as vLLM does.
fn content(value: &Value, path: &str) -> Result<String> {
    let parts = match value {
        Value::String(text) => return Ok(text.clone()),
        Value::Array(parts) => parts,
        other => return Err(wrong_type(path, "a string or a list of text parts", other)),
    };
    let texts = parts.iter().enumerate().map(|(index, part)| {
        let part = Fields::at(part, &format!("{path}[{index}]"))?;
        let kind = part.string("type")?.ok_or_else(|| part.bad("type", "is required"))?;
        if kind != "text" {
            let message =
                format!("got {}, must be \"text\": the model reads text only", shown(&kind.into()));
            return Err(part.bad("type", message).with_code("unsupported_parameter"));
        }
        part.string("text")?.ok_or_else(|| part.bad("text", "is required"))
    });
    Ok(texts.collect::<Result<Vec<_>>>()?.join("\n"))
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
