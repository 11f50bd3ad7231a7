//! One answer: requested, printed as it comes, and timed.

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{Ended, Terminal};
use crate::client::completion::{Completion, message_of};
use crate::client::sse::SseParser;
use crate::client::{Client, ClientError};
use crate::error::CliError;

/// The part of an answer that has come so far.
#[derive(Default)]
pub(super) struct Answer {
    /// The text of the answer.
    pub(super) text: String,
    /// The number of tokens: counted by the server, or by events until the server tells.
    pub(super) tokens: u64,
    /// The time from asking to the first token.
    pub(super) first_token: Option<Duration>,
    /// The time from asking to the last token.
    last_token: Duration,
    /// Whether the stream ended normally.
    done: bool,
}

/// The output of an answer.
pub(super) struct Sink {
    terminal: Terminal,
    /// The kind of text printed last, which determines what must follow.
    last: Last,
}

#[derive(Clone, Copy, PartialEq)]
enum Last {
    LineEnd,
    Text,
    Thought,
}

/// Sends a request, and prints the answer into `sink` as it comes. `answer` has the part that came, even
/// if this future is dropped early.
pub(super) async fn stream(
    client: &Client,
    request: Bytes,
    answer: &mut Answer,
    sink: &mut Sink,
) -> Result<(), CliError> {
    let asked = Instant::now();
    let response = client.post("/v1/chat/completions", request).await?;
    let mut response = response.success().await?;
    let mut parser = SseParser::default();
    while let Some(chunk) = response.chunk().await? {
        let elapsed = asked.elapsed();
        let mut failed = None;
        let fed = parser.feed(&chunk, |data| {
            if failed.is_none() {
                failed = answer.event(data, elapsed, sink).err();
            }
        });
        fed.map_err(|error| ClientError::Malformed(error.to_string()))?;
        if let Some(error) = failed {
            return Err(error);
        }
        sink.flush().map_err(CliError::output)?;
    }
    if answer.done {
        return Ok(());
    }
    Err(ClientError::BrokeOff("the stream ended without [DONE]".to_owned()).into())
}

/// The minimum time over which tokens have a rate: tokens that arrived together in one packet have none.
const RATE_MIN: Duration = Duration::from_millis(100);

/// Returns the tokens per second as a part of a line; nothing where that says nothing.
pub(super) fn rate(tokens: u64, time: Duration) -> String {
    match time < RATE_MIN {
        true => String::new(),
        false => format!(", {:.1} tok/s", tokens as f64 / time.as_secs_f64()),
    }
}

// === impl Answer ===

impl Answer {
    fn event(&mut self, data: &[u8], elapsed: Duration, sink: &mut Sink) -> Result<(), CliError> {
        if data == b"[DONE]" {
            self.done = true;
            return Ok(());
        }
        let event =
            Completion::parse(data).map_err(|error| ClientError::Malformed(error.to_string()))?;
        if let Some(error) = &event.error {
            return Err(ClientError::BrokeOff(message_of(error)).into());
        }
        if !event.text().is_empty() || !event.reasoning().is_empty() {
            self.tokens += 1;
            self.first_token.get_or_insert(elapsed);
            self.last_token = elapsed;
        }
        sink.thought(event.reasoning()).map_err(CliError::output)?;
        sink.text(event.text()).map_err(CliError::output)?;
        self.text.push_str(event.text());
        if let Some(tokens) = event.usage.and_then(|usage| usage.completion_tokens) {
            self.tokens = tokens;
        }
        Ok(())
    }

    /// Returns the time from the first token to the last.
    pub(super) fn decoding(&self) -> Duration {
        self.last_token.saturating_sub(self.first_token.unwrap_or_default())
    }

    /// Returns the numbers of the answer in a line.
    pub(super) fn line(&self, ended: Ended) -> String {
        let rate = rate(self.tokens.saturating_sub(1), self.decoding());
        let first = self.first_token.map(|first| format!(", first token {} ms", first.as_millis()));
        let cancelled = if ended == Ended::Interrupted { ", cancelled" } else { "" };
        let (tokens, first) = (self.tokens, first.unwrap_or_default());
        format!("{tokens} tokens{rate}{first}{cancelled}")
    }
}

// === impl Sink ===

impl Sink {
    pub(super) fn new(terminal: Terminal) -> Self {
        Self { terminal, last: Last::LineEnd }
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let mut stdout = io::stdout().lock();
        if self.last == Last::Thought {
            stdout.write_all(b"\n\n")?;
        }
        self.last = if text.ends_with('\n') { Last::LineEnd } else { Last::Text };
        stdout.write_all(text.as_bytes())
    }

    /// Prints reasoning, for a person who waits for the answer, not for a pipe.
    fn thought(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() || !self.terminal.interactive {
            return Ok(());
        }
        self.last = Last::Thought;
        io::stdout().write_all(self.terminal.dim(text).as_bytes())
    }

    fn flush(&self) -> io::Result<()> {
        io::stdout().flush()
    }

    /// Ends the answer's last line, if it has one.
    pub(super) fn end(&mut self) -> io::Result<()> {
        if self.last != Last::LineEnd {
            io::stdout().write_all(b"\n")?;
        }
        self.last = Last::LineEnd;
        self.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_leaves_the_first_token_out() {
        let answer = Answer {
            tokens: 42,
            first_token: Some(Duration::from_millis(120)),
            last_token: Duration::from_millis(1420),
            ..Answer::default()
        };
        assert_eq!(answer.line(Ended::Complete), "42 tokens, 31.5 tok/s, first token 120 ms");
        assert_eq!(
            answer.line(Ended::Interrupted),
            "42 tokens, 31.5 tok/s, first token 120 ms, cancelled"
        );
        assert_eq!(Answer::default().line(Ended::Interrupted), "0 tokens, cancelled");
    }

    #[test]
    fn tokens_of_one_packet_have_no_rate() {
        let at = Duration::from_millis(120);
        let last_token = at + Duration::from_micros(7);
        let answer = Answer { tokens: 2, first_token: Some(at), last_token, ..Answer::default() };
        assert_eq!(answer.line(Ended::Complete), "2 tokens, first token 120 ms");
    }
}
