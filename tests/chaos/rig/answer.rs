//! One request, streamed: what its client gets, and when.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::http;
use super::load::{Progress, Request};

/// An answer as a client got it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) choices: Vec<Choice>,
    /// The numbers of prompt and completion tokens, once for each event with them.
    pub(crate) usages: Vec<[u64; 2]>,
    /// The error, if there was one: a refusal, an error event, a broken connection.
    pub(crate) errors: Vec<String>,
    /// The number of `[DONE]` events.
    pub(crate) dones: usize,
    pub(crate) timing: Timing,
}

/// One choice of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Choice {
    pub(crate) tokens: Vec<u64>,
    pub(crate) text: String,
    /// The log-probabilities as text: equal numbers have equal digits.
    pub(crate) logprobs: Vec<String>,
    /// Every finish reason that the stream gave.
    pub(crate) finishes: Vec<String>,
}

/// The times at which tokens came.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timing {
    /// The time from the request to its first token.
    pub(crate) first: Option<Duration>,
    /// The longest silence between two tokens.
    pub(crate) gap: Duration,
}

/// A reader of events, wherever the stream is cut into pieces.
#[derive(Default)]
struct Reader {
    answer: Answer,
    /// The bytes of an event that is incomplete.
    rest: Vec<u8>,
    latest: Option<Instant>,
}

// === impl Answer ===

impl Answer {
    /// Sends a request and reads its answer to the end.
    pub(crate) fn to(request: &Request, api: SocketAddr, progress: &Progress) -> Self {
        let mut reader = Reader::default();
        if let Err(why) = reader.read(request, api, progress) {
            reader.answer.errors.push(format!("the connection broke: {why}"));
        }
        reader.answer
    }

    /// Returns the error of the answer, if there was one.
    pub(crate) fn failure(&self) -> Option<String> {
        (!self.errors.is_empty()).then(|| self.errors.join("; "))
    }

    /// Returns whether the answer is complete and without an error.
    pub(crate) fn is_whole(&self, choices: usize) -> bool {
        self.failure().is_none() && self.truncation(choices).is_none()
    }

    /// Returns the first part of an answer with `choices` choices that is missing or there twice.
    pub(crate) fn truncation(&self, choices: usize) -> Option<String> {
        let finishes: Vec<_> = self.choices.iter().map(|choice| choice.finishes.len()).collect();
        let whole = self.dones == 1 && self.usages.len() == 1 && finishes == vec![1; choices];
        let Self { dones, usages, .. } = self;
        (!whole).then(|| format!("[DONE] {dones} times, usage {usages:?}, finishes {finishes:?}"))
    }
}

// === impl Reader ===

impl Reader {
    fn read(&mut self, request: &Request, api: SocketAddr, progress: &Progress) -> io::Result<()> {
        let sent = Instant::now();
        let Request { path, body, session, .. } = request;
        let session = session.as_deref();
        let mut response = http::send_in_session(session, api, "POST", path, &body.to_string())?;
        if response.status != 200 {
            let status = response.status;
            let refusal = format!("status {status}: {}", response.text()?);
            self.answer.errors.push(refusal);
            return Ok(());
        }
        while let Some(piece) = response.piece()? {
            self.rest.extend_from_slice(&piece);
            let tokens = self.events();
            if tokens > 0 {
                self.time(sent);
                progress.came(tokens);
            }
        }
        Ok(())
    }

    fn time(&mut self, sent: Instant) {
        let now = Instant::now();
        let timing = &mut self.answer.timing;
        match self.latest {
            None => timing.first = Some(now - sent),
            Some(latest) => timing.gap = timing.gap.max(now - latest),
        }
        self.latest = Some(now);
    }

    /// Reads the events that are whole; how many tokens there were.
    fn events(&mut self) -> usize {
        let rest = std::mem::take(&mut self.rest);
        let mut events = &rest[..];
        let mut tokens = 0;
        while let Some(end) = events.windows(2).position(|pair| pair == b"\n\n") {
            tokens += self.event(&String::from_utf8_lossy(&events[..end]));
            events = &events[end + 2..];
        }
        self.rest = events.to_vec();
        tokens
    }

    fn event(&mut self, event: &str) -> usize {
        let answer = &mut self.answer;
        let Some(data) = event.strip_prefix("data: ") else { return 0 };
        if data == "[DONE]" {
            answer.dones += 1;
            return 0;
        }
        let Ok(data) = serde_json::from_str::<Value>(data) else {
            answer.errors.push(format!("not JSON: {data}"));
            return 0;
        };
        if let Some(error) = data.get("error") {
            answer.errors.push(format!("error event: {error}"));
        }
        if let Some(usage) = data["usage"].as_object() {
            let count = |key: &str| usage[key].as_u64().unwrap_or_default();
            answer.usages.push([count("prompt_tokens"), count("completion_tokens")]);
        }
        let choices = data["choices"].as_array().map_or(&[][..], Vec::as_slice);
        choices.iter().map(|choice| self.answer.add(choice)).sum()
    }
}

impl Answer {
    /// Adds the part of an event about one choice. Returns the number of its tokens.
    fn add(&mut self, piece: &Value) -> usize {
        let index = piece["index"].as_u64().and_then(|index| usize::try_from(index).ok());
        let index = index.expect("a choice has an index");
        if self.choices.len() <= index {
            self.choices.resize_with(index + 1, Choice::default);
        }
        let choice = &mut self.choices[index];
        let tokens = piece["token_ids"].as_array().map_or(&[][..], Vec::as_slice);
        choice.tokens.extend(tokens.iter().filter_map(Value::as_u64));
        let text = piece["text"].as_str().or_else(|| piece["delta"]["content"].as_str());
        choice.text += text.unwrap_or_default();
        let logprobs = &piece["logprobs"];
        let listed = logprobs["token_logprobs"].as_array().into_iter().flatten();
        let nested = logprobs["content"].as_array().into_iter().flatten();
        let all = listed.chain(nested.map(|entry| &entry["logprob"]));
        choice.logprobs.extend(all.map(Value::to_string));
        choice.finishes.extend(piece["finish_reason"].as_str().map(str::to_owned));
        tokens.len()
    }
}
