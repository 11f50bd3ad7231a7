//! The JSON of answers, written directly into the buffer that goes to the socket.
//!
//! - **RPL-1** `id`, `object`, `created`, `model` and `system_fingerprint` are the same in every
//!   chunk of a stream.
//! - **RPL-2** `bytes` of a token's log-probability are exact, even if a token is part of a code point.
//! - **RPL-3** a chunk without log-probabilities is written without an allocation.
//! - **RPL-4** a chunk that has only text has the bytes that serde would write for it.

use bytes::BytesMut;
use playhouse_types::TokenId;
use serde::Serialize;

use crate::choice::{Choice, Delta, Setting, Usage};
use crate::error::ApiError;
use crate::gateway::Gateway;
use crate::json;
use crate::request::{Form, Shape};
use crate::template::unix_now;

use body::{Body, ChatDelta, ChoiceBody, Content, Head, Message};
use logprobs::Logprobs;
use text_chunk::TextChunk;

mod body;
mod logprobs;
mod text_chunk;

/// A writer of one answer, whole or in chunks.
pub(crate) struct Reply {
    /// The [`Head`] as JSON, without its closing brace: it is written once, and copied into each chunk.
    head: BytesMut,
    /// Chunks with only text, by choice; `None` for a choice that has had none.
    text_chunks: Vec<Option<TextChunk>>,
}

/// The name of the build: answers with one seed may differ between builds.
const FINGERPRINT: &str = concat!("playhouse-", env!("CARGO_PKG_VERSION"));

/// What stands before the JSON of a server-sent event, and behind it.
const EVENT: &[u8] = b"data: ";
const EVENT_END: &[u8] = b"\n\n";

/// The role of every answer's message.
const ROLE: &str = "assistant";

// === impl Reply ===

impl Reply {
    pub(crate) fn new(gateway: &Gateway, form: &Form) -> Self {
        let (prefix, object) = match (form.shape, form.stream) {
            (Shape::Chat, Some(_)) => ("chatcmpl-", "chat.completion.chunk"),
            (Shape::Chat, None) => ("chatcmpl-", "chat.completion"),
            (Shape::Completion, _) => ("cmpl-", "text_completion"),
        };
        let head = Head {
            id: &gateway.new_id(prefix),
            object,
            created: unix_now(),
            model: &form.model,
            system_fingerprint: FINGERPRINT,
        };
        let mut json = BytesMut::new();
        json::write(&mut json, &head);
        json.truncate(json.len() - 1);
        Self { head: json, text_chunks: Vec::new() }
    }

    /// Returns the whole answer.
    pub(crate) fn whole(
        &self,
        out: &mut BytesMut,
        setting: &Setting,
        choices: &[Choice],
        usage: &Usage,
    ) {
        let items: Vec<_> = choices.iter().map(|choice| whole(setting, choice)).collect();
        // The prompt stands once in a chat, and in each choice of completions, which may have several.
        let is_chat = setting.form.shape == Shape::Chat;
        let prompt_token_ids = prompt_ids(setting, &choices[0]).filter(|_| is_chat);
        let body = Body { prompt_token_ids, usage: Some(usage.into()), ..body(items) };
        write(out, &self.head, &body);
    }

    /// Writes the delta of `choice` as events. The caller clears the delta.
    pub(crate) fn chunks(&mut self, out: &mut BytesMut, setting: &Setting, choice: &mut Choice) {
        let first = !std::mem::replace(&mut choice.opened, true);
        match setting.form.shape {
            Shape::Chat => self.chat_chunks(out, setting, choice, first),
            Shape::Completion => self.completion_chunk(out, setting, choice, first),
        }
    }

    fn chat_chunks(&mut self, out: &mut BytesMut, setting: &Setting, choice: &Choice, first: bool) {
        let Choice { index, delta, finish, .. } = choice;
        let item = |delta| ChoiceBody::new(*index, Content::Delta(delta));
        if first {
            let prompt_ids = prompt_ids(setting, choice).filter(|_| *index == 0);
            let opening = item(ChatDelta { role: Some(ROLE), content: Some("") });
            self.chunk(out, setting, choice, opening, prompt_ids);
        }
        if !delta.is_empty() && has_only_text(&setting.form) {
            self.text_chunk(out, choice, |text| {
                Content::Delta(ChatDelta { role: None, content: Some(text) })
            });
        } else if !delta.is_empty() {
            let more = item(ChatDelta { role: None, content: Some(&delta.text) });
            self.chunk(out, setting, choice, said(more, setting, delta), None);
        }
        if finish.is_some() {
            let end = item(ChatDelta::default()).ended(finish.as_ref());
            self.chunk(out, setting, choice, end, None);
        }
    }

    fn completion_chunk(
        &mut self,
        out: &mut BytesMut,
        setting: &Setting,
        choice: &Choice,
        first: bool,
    ) {
        let Choice { index, delta, finish, .. } = choice;
        if finish.is_none() && has_only_text(&setting.form) {
            return self.text_chunk(out, choice, |text| Content::Text(text));
        }
        let item = ChoiceBody::new(*index, Content::Text(&delta.text)).ended(finish.as_ref());
        let prompt_token_ids = prompt_ids(setting, choice).filter(|_| first);
        let item = ChoiceBody { prompt_token_ids, ..said(item, setting, delta) };
        self.chunk(out, setting, choice, item, None);
    }

    /// Writes an event that has only the new text of `choice`.
    fn text_chunk(
        &mut self,
        out: &mut BytesMut,
        choice: &Choice,
        content: fn(&str) -> Content<'_>,
    ) {
        if self.text_chunks.len() <= choice.index {
            self.text_chunks.resize_with(choice.index + 1, || None);
        }
        let chunk = self.text_chunks[choice.index].get_or_insert_with(|| {
            let mut event = BytesMut::new();
            let item = ChoiceBody::new(choice.index, content(""));
            write_event(&mut event, &self.head, &body([item]));
            TextChunk::new(event)
        });
        chunk.write(out, &choice.delta.text);
    }

    /// Writes an event with one choice, and with the usage if the client wants it in each chunk.
    fn chunk(
        &self,
        out: &mut BytesMut,
        setting: &Setting,
        choice: &Choice,
        item: ChoiceBody<'_>,
        prompt_token_ids: Option<&[TokenId]>,
    ) {
        let is_continuous = setting.form.stream.unwrap_or_default().continuous_usage;
        let usage = is_continuous.then(|| (&choice.usage).into());
        write_event(out, &self.head, &Body { prompt_token_ids, usage, ..body([item]) });
    }

    /// Writes the chunk with the usage, which has no choice.
    pub(crate) fn usage(&self, out: &mut BytesMut, usage: &Usage) {
        let none: [ChoiceBody<'_>; 0] = [];
        write_event(out, &self.head, &Body { usage: Some(usage.into()), ..body(none) });
    }

    /// Writes an error after the beginning of a stream. Clients raise it because it is nested in `error`.
    pub(crate) fn error(out: &mut BytesMut, error: &ApiError) {
        out.extend_from_slice(EVENT);
        json::write(out, &error.body());
        out.extend_from_slice(EVENT_END);
    }
}

fn write_event<C: Serialize>(out: &mut BytesMut, head: &[u8], body: &Body<'_, C>) {
    out.extend_from_slice(EVENT);
    write(out, head, body);
    out.extend_from_slice(EVENT_END);
}

/// Writes the head and `body` as one object.
fn write<C: Serialize>(out: &mut BytesMut, head: &[u8], body: &Body<'_, C>) {
    out.extend_from_slice(head);
    let brace = out.len();
    json::write(out, body);
    // The body goes on where the head has ended.
    out[brace] = b',';
}

fn body<'a, C>(choices: C) -> Body<'a, C> {
    Body { choices, prompt_token_ids: None, usage: None }
}

/// Returns whether a chunk in the middle of a stream has nothing but text.
fn has_only_text(form: &Form) -> bool {
    let continuous_usage = form.stream.unwrap_or_default().continuous_usage;
    !form.logprobs && !form.return_token_ids && !continuous_usage
}

/// Returns a choice of a whole answer.
fn whole<'a>(setting: &'a Setting, choice: &'a Choice) -> ChoiceBody<'a> {
    let Choice { index, delta, finish, .. } = choice;
    let (content, prompt_token_ids) = match setting.form.shape {
        Shape::Chat => {
            let message = Message { role: ROLE, content: &delta.text, refusal: () };
            (Content::Message(message), None)
        }
        Shape::Completion => (Content::Text(&delta.text), prompt_ids(setting, choice)),
    };
    let item = ChoiceBody::new(*index, content).ended(finish.as_ref());
    ChoiceBody { prompt_token_ids, ..said(item, setting, delta) }
}

/// Returns `item` with the parts of `delta` besides the text that were asked for.
fn said<'a>(item: ChoiceBody<'a>, setting: &'a Setting, delta: &'a Delta) -> ChoiceBody<'a> {
    let token_ids = setting.form.return_token_ids.then_some(&*delta.token_ids);
    ChoiceBody { logprobs: Logprobs::of(setting, &delta.logprobs), token_ids, ..item }
}

fn prompt_ids<'a>(setting: &Setting, choice: &'a Choice) -> Option<&'a [TokenId]> {
    setting.form.return_token_ids.then_some(&*choice.prompt.tokens)
}
