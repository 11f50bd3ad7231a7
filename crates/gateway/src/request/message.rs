//! The messages of a conversation, as chat templates expect them.
//!
//! Templates are written for the shapes of Hugging Face transformers: a content is one string or a list of
//! parts, the arguments of a tool call are an object, and a field that says nothing is absent. Clients send OpenAI's shapes:
//! `content: null` beside tool calls, arguments as a string of JSON, and `null` for every unused field.

use serde_json::{Map, Value, json};

use crate::error::{ApiError, Result};
use crate::fields::{Fields, shown, wrong_type};
use crate::tokenizer::{Tokenizer, unused_mark};

/// A message, as the variables of a template are.
pub(super) type Message = Map<String, Value>;

/// The roles that a message may have. Templates know the older names of two of them: `developer` is
/// `system`, and `function` is `tool`.
const ROLES: &[&str] = &["system", "developer", "user", "assistant", "tool", "function"];

/// Returns a message as the template sees it.
pub(super) fn message(fields: &Fields<'_>) -> Result<Message> {
    let role = fields.string("role")?.ok_or_else(|| fields.bad("role", "is required"))?;
    if !ROLES.contains(&role) {
        let message = format!(
            "got {}, must be system, developer, user, assistant or tool",
            shown(&role.into())
        );
        return Err(fields.bad("role", message));
    }
    let content = match fields.get("content") {
        Some(value) => content(value, &fields.path_of("content"))?,
        // The turns of assistants and the results of tools may be empty; any other empty message is a
        // mistake.
        None if ["assistant", "tool", "function"].contains(&role) => "".into(),
        None => return Err(fields.bad("content", "is required")),
    };
    let mut message: Message = fields
        .object()
        .iter()
        .filter(|(name, value)| !value.is_null() && *name != "function_call")
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    message.insert("content".to_owned(), content);
    let role = match role {
        "developer" => "system",
        "function" => "tool",
        role => role,
    };
    message.insert("role".to_owned(), role.into());
    match tool_calls(fields)? {
        // Many templates only ask whether the field is there.
        calls if calls.is_empty() => message.shift_remove("tool_calls"),
        calls => message.insert("tool_calls".to_owned(), calls.into()),
    };
    Ok(message)
}

/// Returns the messages with all system messages joined into one at the beginning, for templates that
/// allow no other.
pub(super) fn with_one_system_message(messages: &[Message]) -> Vec<Message> {
    let is_system = |message: &&Message| message["role"] == "system";
    let (system, others): (Vec<_>, Vec<_>) = messages.iter().partition(is_system);
    let texts =
        system.iter().map(|message| texts(&message["content"]).collect::<Vec<_>>().join("\n"));
    let texts: Vec<_> = texts.collect();
    let mut first = system.first().map_or_else(Message::new, |message| (*message).clone());
    first.insert("content".to_owned(), texts.join("\n\n").into());
    std::iter::once(first).chain(others.into_iter().cloned()).collect()
}

/// Returns the messages with marks in the special tokens that users and tools spell, and the mark: what
/// strangers write stays text, and cannot end its turn. `None` if they spell none. What systems and
/// assistants say comes from the application, which may mean the tokens.
pub(super) fn marked(
    messages: &[Message],
    tokenizer: &Tokenizer,
) -> Result<Option<(Vec<Message>, char)>> {
    let is_strange = |message: &Message| message["role"] == "user" || message["role"] == "tool";
    let mut texts = Vec::new();
    let strange = messages.iter().filter(|message| is_strange(message));
    strange.flat_map(Map::values).for_each(|value| collect(value, &mut texts));
    if !texts.iter().any(|text| tokenizer.spells_special_token(text)) {
        return Ok(None);
    }
    let mut all = Vec::new();
    messages.iter().flat_map(Map::values).for_each(|value| collect(value, &mut all));
    let mark = unused_mark(all.iter().copied()).ok_or_else(|| {
        let message = "must not have all of the noncharacters U+FDD0 to U+FDEF";
        ApiError::bad_param("messages", message)
    })?;
    let mut messages = messages.to_vec();
    for message in messages.iter_mut().filter(|message| is_strange(message)) {
        message.values_mut().for_each(|value| mark_value(value, tokenizer, mark));
    }
    Ok(Some((messages, mark)))
}

/// Collects the texts in `value`.
fn collect<'a>(value: &'a Value, texts: &mut Vec<&'a str>) {
    match value {
        Value::String(text) => texts.push(text),
        Value::Array(items) => items.iter().for_each(|item| collect(item, texts)),
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            texts.push(name);
            collect(value, texts);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn mark_value(value: &mut Value, tokenizer: &Tokenizer, mark: char) {
    match value {
        Value::String(text) => *text = tokenizer.marked(text, mark),
        Value::Array(items) => items.iter_mut().for_each(|item| mark_value(item, tokenizer, mark)),
        Value::Object(fields) => {
            let marked = std::mem::take(fields).into_iter().map(|(name, mut value)| {
                mark_value(&mut value, tokenizer, mark);
                (tokenizer.marked(&name, mark), value)
            });
            fields.extend(marked);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Returns the texts of a content: the string that it is, or those of its parts.
pub(super) fn texts(content: &Value) -> impl Iterator<Item = &str> {
    let parts = content.as_array().into_iter().flatten();
    content.as_str().into_iter().chain(parts.filter_map(|part| part["text"].as_str()))
}

/// Returns the content: a string, or a list of text parts.
fn content(value: &Value, path: &str) -> Result<Value> {
    let parts = match value {
        Value::String(_) => return Ok(value.clone()),
        Value::Array(parts) => parts,
        other => return Err(wrong_type(path, "a string or a list of text parts", other)),
    };
    let parts = parts.iter().enumerate().map(|(index, part)| {
        let part = Fields::at(part, &format!("{path}[{index}]"))?;
        let kind = part.string("type")?.ok_or_else(|| part.bad("type", "is required"))?;
        if !["text", "refusal"].contains(&kind) {
            let message =
                format!("got {}, must be \"text\": the model reads text only", shown(&kind.into()));
            return Err(part.bad("type", message).with_code("unsupported_parameter"));
        }
        let text = part.string(kind)?.ok_or_else(|| part.bad(kind, "is required"))?;
        Ok(json!({ "type": "text", "text": text }))
    });
    Ok(Value::Array(parts.collect::<Result<_>>()?))
}

/// Returns the calls of tools that an assistant made, also in the form that OpenAI used before
/// (`function_call`).
fn tool_calls(fields: &Fields<'_>) -> Result<Vec<Value>> {
    let calls = fields.list("tool_calls")?.unwrap_or_default();
    if let Some(function) = fields.fields("function_call")?.filter(|_| calls.is_empty()) {
        return Ok(vec![json!({ "type": "function", "function": called(&function)? })]);
    }
    let path = fields.path_of("tool_calls");
    let call = |(index, call): (usize, &Value)| -> Result<Value> {
        let call = Fields::at(call, &format!("{path}[{index}]"))?;
        let kind = call.string("type")?.unwrap_or("function");
        if kind != "function" {
            let message = format!("got {}, must be \"function\"", shown(&kind.into()));
            return Err(call.bad("type", message).with_code("unsupported_parameter"));
        }
        let function =
            call.fields("function")?.ok_or_else(|| call.bad("function", "is required"))?;
        let mut whole = call.object().clone();
        whole.insert("function".to_owned(), called(&function)?);
        Ok(Value::Object(whole))
    };
    calls.iter().enumerate().map(call).collect()
}

/// Returns a called function with its arguments as an object: templates print or walk them. A string that
/// is no object stays what the model wrote.
fn called(function: &Fields<'_>) -> Result<Value> {
    if function.string("name")?.is_none() {
        return Err(function.bad("name", "is required"));
    }
    let arguments = match function.get("arguments") {
        None => json!({}),
        Some(Value::String(text)) if text.trim().is_empty() => json!({}),
        Some(Value::String(text)) => {
            let parsed = serde_json::from_str(text).ok().filter(Value::is_object);
            parsed.unwrap_or_else(|| text.clone().into())
        }
        Some(object @ Value::Object(_)) => object.clone(),
        Some(other) => {
            let path = function.path_of("arguments");
            return Err(wrong_type(&path, "a string of JSON or an object", other));
        }
    };
    let mut function = function.object().clone();
    function.insert("arguments".to_owned(), arguments);
    Ok(function.into())
}
