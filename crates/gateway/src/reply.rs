//! The JSON of answers, written straight into the buffer that goes to the socket.
//!
//! - **RPL-1** `id`, `object`, `created`, `model` and `system_fingerprint` are the same in every
//!   chunk of a stream: they are written once and copied.
//! - **RPL-2** `bytes` of a token's log-probability are exact, also where a token is part of a code
//!   point.

use std::fmt::Write;

use bytes::BytesMut;
use playhouse_types::TokenId;

use crate::choice::{Choice, Delta, Entry, Finish, Setting, StopReason, Usage};
use crate::error::ApiError;
use crate::gateway::Gateway;
use crate::json::{write_list, write_str};
use crate::request::{Form, Shape};
use crate::template::unix_now;
use crate::tokenizer::Tokenizer;

/// Writes one answer, whole or in chunks.
pub(crate) struct Reply {
    /// From `{` to the opening bracket of `choices`.
    head: Vec<u8>,
}

/// Names the build: answers of one seed may differ between builds.
const FINGERPRINT: &str = concat!("playhouse-", env!("CARGO_PKG_VERSION"));

/// vLLM writes this for minus infinity, which JSON does not have.
const LOGPROB_MIN: f32 = -9999.0;

// === impl Reply ===

impl Reply {
    pub(crate) fn new(gateway: &Gateway, form: &Form) -> Self {
        let (prefix, object) = match (form.shape, form.stream) {
            (Shape::Chat, Some(_)) => ("chatcmpl-", "chat.completion.chunk"),
            (Shape::Chat, None) => ("chatcmpl-", "chat.completion"),
            (Shape::Completion, _) => ("cmpl-", "text_completion"),
        };
        let mut head = BytesMut::with_capacity(256);
        let id = gateway.new_id(prefix);
        let created = unix_now();
        put(&mut head, format_args!(r#"{{"id":"{id}","object":"{object}","created":{created},"#));
        head.extend_from_slice(b"\"model\":");
        write_str(&mut head, &form.model);
        put(&mut head, format_args!(r#","system_fingerprint":"{FINGERPRINT}","choices":["#));
        Self { head: head.to_vec() }
    }

    /// The whole answer.
    pub(crate) fn whole(
        &self,
        out: &mut BytesMut,
        setting: &Setting,
        choices: &[Choice],
        usage: &Usage,
    ) {
        out.extend_from_slice(&self.head);
        for (index, choice) in choices.iter().enumerate() {
            if index > 0 {
                out.extend_from_slice(b",");
            }
            put(out, format_args!(r#"{{"index":{index},"#));
            match setting.form.shape {
                Shape::Chat => {
                    out.extend_from_slice(br#""message":{"role":"assistant","content":"#);
                    write_str(out, &choice.delta.text);
                    out.extend_from_slice(br#","refusal":null},"#);
                }
                Shape::Completion => {
                    out.extend_from_slice(b"\"text\":");
                    write_str(out, &choice.delta.text);
                    out.extend_from_slice(b",");
                    write_prompt_ids(out, setting, choice);
                }
            }
            write_logprobs(out, setting, &choice.delta.logprobs);
            write_finish(out, choice.finish.as_ref());
            write_token_ids(out, setting, &choice.delta);
            out.extend_from_slice(b"}");
        }
        out.extend_from_slice(b"],");
        if setting.form.shape == Shape::Chat {
            write_prompt_ids(out, setting, &choices[0]);
        }
        out.extend_from_slice(b"\"usage\":");
        write_usage(out, usage);
        out.extend_from_slice(b"}");
    }

    /// What is new in `choice`, as events. The delta is left for the caller to clear.
    pub(crate) fn chunks(&self, out: &mut BytesMut, setting: &Setting, choice: &mut Choice) {
        let first = !std::mem::replace(&mut choice.opened, true);
        match setting.form.shape {
            Shape::Chat => {
                if first {
                    self.begin_chunk(out, choice);
                    out.extend_from_slice(br#""delta":{"role":"assistant","content":""},"#);
                    out.extend_from_slice(br#""logprobs":null,"finish_reason":null}],"#);
                    if choice.index == 0 {
                        write_prompt_ids(out, setting, choice);
                    }
                    end_chunk(out, setting, choice);
                }
                if !choice.delta.is_empty() {
                    self.begin_chunk(out, choice);
                    out.extend_from_slice(br#""delta":{"content":"#);
                    write_str(out, &choice.delta.text);
                    out.extend_from_slice(b"},");
                    write_logprobs(out, setting, &choice.delta.logprobs);
                    write_finish(out, None);
                    write_token_ids(out, setting, &choice.delta);
                    out.extend_from_slice(b"}],");
                    end_chunk(out, setting, choice);
                }
                if choice.finish.is_some() {
                    self.begin_chunk(out, choice);
                    out.extend_from_slice(br#""delta":{},"logprobs":null,"#);
                    write_finish(out, choice.finish.as_ref());
                    out.extend_from_slice(b"}],");
                    end_chunk(out, setting, choice);
                }
            }
            Shape::Completion => {
                self.begin_chunk(out, choice);
                out.extend_from_slice(b"\"text\":");
                write_str(out, &choice.delta.text);
                out.extend_from_slice(b",");
                if first {
                    write_prompt_ids(out, setting, choice);
                }
                write_logprobs(out, setting, &choice.delta.logprobs);
                write_finish(out, choice.finish.as_ref());
                write_token_ids(out, setting, &choice.delta);
                out.extend_from_slice(b"}],");
                end_chunk(out, setting, choice);
            }
        }
    }

    /// An event up to the index of its only choice.
    fn begin_chunk(&self, out: &mut BytesMut, choice: &Choice) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&self.head);
        put(out, format_args!(r#"{{"index":{},"#, choice.index));
    }

    /// The chunk with the usage, which has no choice.
    pub(crate) fn usage(&self, out: &mut BytesMut, usage: &Usage) {
        out.extend_from_slice(b"data: ");
        out.extend_from_slice(&self.head);
        out.extend_from_slice(b"],\"usage\":");
        write_usage(out, usage);
        out.extend_from_slice(b"}\n\n");
    }

    /// An error after the beginning of a stream. Clients raise it because it is nested in `error`.
    pub(crate) fn error(out: &mut BytesMut, error: &ApiError) {
        out.extend_from_slice(b"data: ");
        error.write(out);
        out.extend_from_slice(b"\n\n");
    }
}

/// The usage, as the client asked for it, and the end of the event.
fn end_chunk(out: &mut BytesMut, setting: &Setting, choice: &Choice) {
    let options = setting.form.stream.unwrap_or_default();
    // A trailing comma is not JSON, so the last field is one that is always there.
    out.extend_from_slice(b"\"usage\":");
    if options.continuous_usage {
        write_usage(out, &choice.usage);
    } else {
        out.extend_from_slice(b"null");
    }
    out.extend_from_slice(b"}\n\n");
}

fn put(out: &mut BytesMut, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a buffer grows");
}

fn write_usage(out: &mut BytesMut, usage: &Usage) {
    let Usage { prompt, completion, cached } = *usage;
    let total = prompt + completion;
    put(
        out,
        format_args!(
            r#"{{"prompt_tokens":{prompt},"completion_tokens":{completion},"total_tokens":{total},"prompt_tokens_details":{{"cached_tokens":{cached}}}}}"#
        ),
    );
}

fn write_finish(out: &mut BytesMut, finish: Option<&Finish>) {
    let (reason, by) = match finish {
        None => return out.extend_from_slice(b"\"finish_reason\":null"),
        Some(Finish::Stop(by)) => ("stop", Some(by)),
        Some(Finish::Length) => ("length", None),
        // Never written: a failure ends the answer before (see `answer` and `stream`).
        Some(Finish::Failed(_)) => ("error", None),
    };
    put(out, format_args!(r#""finish_reason":"{reason}","stop_reason":"#));
    match by {
        None | Some(StopReason::EndOfSequence) => out.extend_from_slice(b"null"),
        Some(StopReason::Token(token)) => put(out, format_args!("{token}")),
        Some(StopReason::Text(text)) => write_str(out, text),
    }
}

fn write_ids(out: &mut BytesMut, ids: &[TokenId]) {
    write_list(out, ids, |out, id| put(out, format_args!("{id}")));
}

fn write_token_ids(out: &mut BytesMut, setting: &Setting, delta: &Delta) {
    if setting.form.return_token_ids {
        out.extend_from_slice(b",\"token_ids\":");
        write_ids(out, &delta.token_ids);
    }
}

fn write_prompt_ids(out: &mut BytesMut, setting: &Setting, choice: &Choice) {
    if setting.form.return_token_ids {
        out.extend_from_slice(b"\"prompt_token_ids\":");
        write_ids(out, &choice.prompt.tokens);
        out.extend_from_slice(b",");
    }
}

fn write_logprobs(out: &mut BytesMut, setting: &Setting, entries: &[Entry]) {
    out.extend_from_slice(b"\"logprobs\":");
    let tokenizer = setting.gateway.tokenizer();
    match setting.form.shape {
        _ if !setting.form.logprobs => out.extend_from_slice(b"null"),
        Shape::Chat => write_chat_logprobs(out, tokenizer, entries),
        Shape::Completion => write_completion_logprobs(out, tokenizer, entries),
    }
    out.extend_from_slice(b",");
}

fn write_chat_logprobs(out: &mut BytesMut, tokenizer: &Tokenizer, entries: &[Entry]) {
    out.extend_from_slice(b"{\"content\":");
    write_list(out, entries, |out, entry| {
        let logprob = entry.logprobs.as_ref().map_or(LOGPROB_MIN, |logprobs| logprobs.logprob);
        write_token_logprob(out, tokenizer, entry.token, logprob);
        out.extend_from_slice(b",\"top_logprobs\":");
        let top = entry.logprobs.as_ref().map_or(&[][..], |logprobs| &logprobs.top);
        write_list(out, top, |out, &(token, logprob)| {
            write_token_logprob(out, tokenizer, token, logprob);
            out.extend_from_slice(b"}");
        });
        out.extend_from_slice(b"}");
    });
    out.extend_from_slice(b",\"refusal\":null}");
}

/// An object that is left open.
fn write_token_logprob(out: &mut BytesMut, tokenizer: &Tokenizer, token: TokenId, logprob: f32) {
    out.extend_from_slice(b"{\"token\":");
    write_str(out, &tokenizer.token_text(token));
    put(out, format_args!(r#","logprob":{},"bytes":"#, finite(logprob)));
    write_list(out, tokenizer.token_bytes(token), |out, byte| put(out, format_args!("{byte}")));
}

/// The four arrays of the older API, one entry per token in each.
fn write_completion_logprobs(out: &mut BytesMut, tokenizer: &Tokenizer, entries: &[Entry]) {
    out.extend_from_slice(b"{\"text_offset\":");
    write_list(out, entries, |out, entry| put(out, format_args!("{}", entry.offset)));
    out.extend_from_slice(b",\"token_logprobs\":");
    write_list(out, entries, |out, entry| match &entry.logprobs {
        Some(logprobs) => put(out, format_args!("{}", finite(logprobs.logprob))),
        None => out.extend_from_slice(b"null"),
    });
    out.extend_from_slice(b",\"tokens\":");
    write_list(out, entries, |out, entry| write_str(out, &tokenizer.token_text(entry.token)));
    out.extend_from_slice(b",\"top_logprobs\":");
    write_list(out, entries, |out, entry| {
        let Some(logprobs) = &entry.logprobs else { return out.extend_from_slice(b"null") };
        // An object, so of tokens with the same text only the likeliest can be told.
        let own = (entry.token, logprobs.logprob);
        let mut seen = Vec::with_capacity(logprobs.top.len() + 1);
        for &(token, logprob) in logprobs.top.iter().chain([&own]) {
            let text = tokenizer.token_text(token);
            if seen.iter().all(|(seen, _)| *seen != text) {
                seen.push((text, logprob));
            }
        }
        out.extend_from_slice(b"{");
        for (index, (text, logprob)) in seen.iter().enumerate() {
            if index > 0 {
                out.extend_from_slice(b",");
            }
            write_str(out, text);
            put(out, format_args!(":{}", finite(*logprob)));
        }
        out.extend_from_slice(b"}");
    });
    out.extend_from_slice(b"}");
}

fn finite(logprob: f32) -> f32 {
    if logprob.is_finite() { logprob } else { LOGPROB_MIN }
}
