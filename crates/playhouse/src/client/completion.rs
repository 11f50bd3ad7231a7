//! The part of OpenAI's answers that clients here read: whole answers and events of a stream, of chat and
//! of text completions, in one type.
//!
//! Parsing an event allocates nothing, except for text with JSON escapes and for errors; other fields are
//! skipped, not built. A client that only counts tokens need not even parse most events: see
//! [`TokenScan`].
//!
//! Of requests, only the option that asks a stream for token counts is here.

use std::borrow::Cow;
use std::fmt;

use memchr::memmem::Finder;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

/// An answer, or one event of a streamed answer.
#[derive(Debug, Deserialize)]
pub(crate) struct Completion<'a> {
    /// The first choice; `None` in an event which carries only usage.
    #[serde(borrow, default)]
    choices: FirstChoice<'a>,
    /// Token counts, usually on the last event.
    #[serde(default)]
    pub(crate) usage: Option<Usage>,
    /// An error in the middle of a stream.
    #[serde(default)]
    pub(crate) error: Option<serde_json::Value>,
}

/// A search for events that only have a token, by their keys instead of parsing, in a seventh of the
/// time. Generated text cannot contain such a key, because each quotation mark in it follows a backslash.
pub(crate) struct TokenScan {
    choices: Finder<'static>,
    text: Finder<'static>,
    content: Finder<'static>,
    usage: Finder<'static>,
    error: Finder<'static>,
}

/// The `stream_options` of a request.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct StreamOptions {
    /// Whether the last event of the stream has token counts.
    pub(crate) include_usage: bool,
}

/// The token counts of an answer. Servers may omit either.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Tokens of the prompt.
    pub(crate) prompt_tokens: Option<u64>,
    /// Tokens generated.
    pub(crate) completion_tokens: Option<u64>,
}

/// One of `n` choices.
#[derive(Debug, Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    text: Option<Text<'a>>,
    #[serde(borrow, default, alias = "message")]
    delta: Option<Delta<'a>>,
    #[serde(default)]
    finish_reason: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
struct Delta<'a> {
    #[serde(default)]
    role: Option<IgnoredAny>,
    #[serde(borrow, default)]
    content: Option<Text<'a>>,
    /// The reasoning of the model before its answer; vLLM and SGLang use this name, others `reasoning`.
    #[serde(borrow, default, alias = "reasoning")]
    reasoning_content: Option<Text<'a>>,
    #[serde(default)]
    tool_calls: Option<IgnoredAny>,
}

/// A list of choices of which only the first is kept.
#[derive(Debug, Default)]
struct FirstChoice<'a>(Option<Choice<'a>>);

/// A string, borrowed unless it has escapes. (`Option<Cow<str>>` would always copy.)
#[derive(Debug)]
struct Text<'a>(Cow<'a, str>);

// === impl Completion ===

impl<'a> Completion<'a> {
    /// Parses the JSON of a body or of an event.
    ///
    /// # Errors
    /// Returns an error if the bytes are not JSON of this form.
    pub(crate) fn parse(json: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// Returns whether this event stands for generated tokens, as vLLM's benchmark counts: each event
    /// with a choice does, even with empty text. The exception is chat's opening event, with a role and
    /// no output, because a server can send it before any work was done.
    pub(crate) fn is_token(&self) -> bool {
        let Some(choice) = &self.choices.0 else { return false };
        let Some(delta) = &choice.delta else { return true };
        let opening = delta.role.is_some()
            && delta.tool_calls.is_none()
            && choice.finish_reason.is_none()
            && is_empty(delta.content.as_ref())
            && is_empty(delta.reasoning_content.as_ref());
        !opening
    }

    /// Returns the text of the first choice; empty if it has none.
    pub(crate) fn text(&self) -> &str {
        let Some(choice) = &self.choices.0 else { return "" };
        let content = choice.delta.as_ref().and_then(|delta| delta.content.as_ref());
        choice.text.as_ref().or(content).map_or("", |text| &text.0)
    }

    /// Returns the reasoning of the model before its answer; empty if there is none.
    pub(crate) fn reasoning(&self) -> &str {
        let delta = self.choices.0.as_ref().and_then(|choice| choice.delta.as_ref());
        delta.and_then(|delta| delta.reasoning_content.as_ref()).map_or("", |text| &text.0)
    }
}

fn is_empty(text: Option<&Text<'_>>) -> bool {
    text.is_none_or(|text| text.0.is_empty())
}

/// Returns the message in the body of a failed request, in the forms of OpenAI
/// (`{"error":{"message":..}}`), of older vLLM and SGLang (`{"message":..}`) and of FastAPI
/// (`{"detail":..}`); otherwise the beginning of the body.
pub(crate) fn error_message(body: &[u8]) -> String {
    match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(value) => message_of(&value),
        Err(_) => String::from_utf8_lossy(&body[..body.len().min(200)]).trim().to_owned(),
    }
}

/// Returns the same as [`error_message`], for parsed JSON.
pub(crate) fn message_of(value: &serde_json::Value) -> String {
    let inner = value.get("error").unwrap_or(value);
    let message = inner.get("message").or_else(|| inner.get("detail")).unwrap_or(inner);
    message.as_str().map_or_else(|| message.to_string(), str::to_owned)
}

// === impl TokenScan ===

impl TokenScan {
    /// Prepares the searches.
    pub(crate) fn new() -> Self {
        Self {
            choices: Finder::new(b"\"choices\":[{"),
            text: Finder::new(b"\"text\":\""),
            content: Finder::new(b"\"content\":\""),
            usage: Finder::new(b"\"usage\":"),
            error: Finder::new(b"\"error\":"),
        }
    }

    /// Returns whether an event certainly is a token with text and has no usage and no error; of such an
    /// event [`Completion::is_token`] is true. Other events must be parsed, among them all of servers
    /// that write JSON with spaces.
    pub(crate) fn is_plain_token(&self, event: &[u8]) -> bool {
        let after = |key: &Finder<'_>| key.find(event).map(|at| &event[at + key.needle().len()..]);
        let text = after(&self.text).or_else(|| after(&self.content));
        event.ends_with(b"}")
            && text.is_some_and(|text| !text.starts_with(b"\""))
            && after(&self.usage).is_none_or(|usage| usage.starts_with(b"null"))
            && after(&self.choices).is_some()
            && after(&self.error).is_none()
    }
}

// === impl FirstChoice ===

impl<'de: 'a, 'a> Deserialize<'de> for FirstChoice<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct First;
        impl<'de> Visitor<'de> for First {
            type Value = FirstChoice<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of choices")
            }

            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(FirstChoice(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let first = seq.next_element()?;
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(FirstChoice(first))
            }
        }
        deserializer.deserialize_any(First)
    }
}

// === impl Text ===

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowed;
        impl<'de> Visitor<'de> for Borrowed {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Completion<'_> {
        Completion::parse(json.as_bytes()).expect(json)
    }

    #[test]
    fn chat_events_are_read() {
        let opening =
            parse(r#"{"choices":[{"delta":{"role":"assistant","content":""},"index":0}]}"#);
        assert!(!opening.is_token());
        let token =
            parse(r#"{"choices":[{"delta":{"content":"a\nb"},"logprobs":null}],"usage":null}"#);
        assert!(token.is_token());
        assert_eq!(token.text(), "a\nb");
        let both = parse(r#"{"choices":[{"delta":{"role":"assistant","content":"Hi"}}]}"#);
        assert!(both.is_token());
        let thought = parse(r#"{"choices":[{"delta":{"role":"assistant","reasoning":"so"}}]}"#);
        assert!(thought.is_token());
        assert_eq!((thought.reasoning(), thought.text()), ("so", ""));
        let end = parse(r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#);
        assert!(end.is_token());
        let only = parse(r#"{"choices":[{"delta":{"role":"assistant"},"finish_reason":"stop"}]}"#);
        assert!(only.is_token(), "an answer whose only token has no text");
    }

    #[test]
    fn text_events_are_read() {
        let token = parse(r#"{"choices":[{"index":0,"text":" Paris"},{"index":1,"text":"x"}]}"#);
        assert_eq!((token.is_token(), token.text()), (true, " Paris"));
        let special = parse(r#"{"choices":[{"text":""}]}"#);
        assert!(special.is_token(), "a special token has no text");
    }

    #[test]
    fn usage_is_read_from_events_without_choices() {
        for json in [
            r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":5,"total_tokens":8}}"#,
            r#"{"choices":null,"usage":{"prompt_tokens":3,"completion_tokens":5}}"#,
            r#"{"usage":{"prompt_tokens":3,"completion_tokens":5}}"#,
        ] {
            let event = parse(json);
            assert!(!event.is_token());
            let usage = Usage { prompt_tokens: Some(3), completion_tokens: Some(5) };
            assert_eq!(event.usage, Some(usage));
        }
    }

    #[test]
    fn plain_tokens_are_found_without_parsing() {
        let scan = TokenScan::new();
        for plain in [
            r#"{"id":"x","choices":[{"index":0,"text":" a","logprobs":null}],"usage":null}"#,
            r#"{"choices":[{"delta":{"content":"b"},"finish_reason":null}]}"#,
            r#"{"choices":[{"text":"\"usage\":{} \"error\":"}]}"#,
        ] {
            assert!(scan.is_plain_token(plain.as_bytes()) && parse(plain).is_token(), "{plain}");
        }
        for other in [
            r#"{"choices":[{"text":"a"}],"usage":{"completion_tokens":1}}"#,
            r#"{"choices":[{"text":"a"}],"error":{"message":"x"}}"#,
            r#"{"choices":[{"text":""}]}"#,
            r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
            r#"{"choices":[],"text":"a"}"#,
            r#"{"choices": [{"text": "a"}]}"#,
            r#"{"choices":[{"text":"a"#,
            "[DONE]",
            "",
        ] {
            assert!(!scan.is_plain_token(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn whole_answers_are_read() {
        let chat = parse(r#"{"choices":[{"message":{"role":"assistant","content":"Yes"}}]}"#);
        assert_eq!(chat.text(), "Yes");
    }

    #[test]
    fn plain_text_is_not_copied() {
        let json = br#"{"choices":[{"text":"plain"}]}"#;
        let completion = Completion::parse(json).expect("valid");
        let choice = completion.choices.0.expect("a choice");
        assert!(matches!(choice.text, Some(Text(Cow::Borrowed("plain")))));
    }

    #[test]
    fn the_message_of_an_error_is_found_in_every_shape() {
        for body in [
            r#"{"error":{"message":"too long","type":"x","code":400}}"#,
            r#"{"object":"error","message":"too long"}"#,
            r#"{"detail":"too long"}"#,
            r#"{"error":"too long"}"#,
            "too long\n",
        ] {
            assert_eq!(error_message(body.as_bytes()), "too long", "{body}");
        }
        assert_eq!(error_message(br#"{"detail":[{"loc":1}]}"#), r#"[{"loc":1}]"#);
    }
}
