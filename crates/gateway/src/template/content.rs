//! The form of content that a template takes: one string, a list of parts, or either.
//!
//! Clients send both. Transformers gives the template what the client wrote; a template that knows only
//! strings would print a list as Python does, and one that knows only parts would lose a string. What a
//! template takes is found by rendering a conversation in either form.

use serde_json::{Map, Value, json};

/// The roles that messages may have.
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

/// Texts that no template contains.
const FIRST: &str = "QXZFIRST";
const SECOND: &str = "QXZSECOND";
const UNREAD: &str = "QXZUNREAD";

/// The form of content that a template takes of a role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ContentForm {
    /// A string; parts are joined by newlines, as vLLM does.
    Text,
    /// A list of parts; a string is one part.
    Parts,
    /// The form in which the client wrote it.
    Either,
}

/// The form of content for each role.
#[derive(Debug)]
pub(super) struct ContentForms([ContentForm; ROLES.len()]);

// === impl ContentForms ===

impl ContentForms {
    /// Finds the forms that a template takes, given how it renders messages: `None` is a failure.
    pub(super) fn of(render: impl Fn(&[Map<String, Value>]) -> Option<String>) -> Self {
        let parts = json!([
            { "type": "text", "text": FIRST, "unread": UNREAD },
            { "type": "text", "text": SECOND },
        ]);
        let text = Value::from(format!("{FIRST} {SECOND}"));
        let takes = |role: &str, content: &Value| {
            render(&conversation(role, content)).is_some_and(|text| {
                text.contains(FIRST) && text.contains(SECOND) && !text.contains(UNREAD)
            })
        };
        Self(ROLES.map(|role| match (takes(role, &text), takes(role, &parts)) {
            (_, false) => ContentForm::Text,
            (false, true) => ContentForm::Parts,
            (true, true) => ContentForm::Either,
        }))
    }

    /// Returns the content of a message in the form that the template takes; `None` if it has that form.
    pub(super) fn fit(&self, message: &Map<String, Value>) -> Option<Value> {
        let role = message.get("role").and_then(Value::as_str);
        let at = ROLES.iter().position(|known| role == Some(known));
        match (message.get("content")?, at.map_or(ContentForm::Either, |at| self.0[at])) {
            (Value::Array(parts), ContentForm::Text) => {
                let texts: Option<Vec<_>> =
                    parts.iter().map(|it| it.get("text")?.as_str()).collect();
                Some(texts?.join("\n").into())
            }
            (Value::String(text), ContentForm::Parts) => {
                Some(json!([{ "type": "text", "text": text }]))
            }
            _ => None,
        }
    }
}

/// Returns a conversation whose message of `role` has this content.
fn conversation(role: &str, content: &Value) -> Vec<Map<String, Value>> {
    let user = json!({ "role": "user", "content": "Hello" });
    let call = json!({ "id": "abcdefghi", "type": "function", "function": {
        "name": "clock", "arguments": {} } });
    let called = json!({ "role": "assistant", "content": "", "tool_calls": [call] });
    let message = json!({ "role": role, "content": content });
    let messages = match role {
        "system" => vec![message, user],
        "assistant" => vec![user, message],
        "tool" => vec![user, called, message],
        _ => vec![message],
    };
    messages.into_iter().filter_map(|message| message.as_object().cloned()).collect()
}
