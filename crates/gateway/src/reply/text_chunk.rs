//! The chunk of a stream that has nothing but text: most chunks of most streams.

use bytes::BytesMut;

use crate::json;

/// An event of a stream with a gap for its text. Everything around the text is the same in each such chunk of
/// a choice, so serde writes it once.
pub(super) struct TextChunk {
    event: BytesMut,
    /// The position of the empty string that stands for the text.
    gap: usize,
}

/// A string without characters, as JSON.
const EMPTY: &[u8] = br#""""#;

// === impl TextChunk ===

impl TextChunk {
    /// Takes an event whose text is empty. Behind the text, the event must have no other empty string.
    pub(super) fn new(event: BytesMut) -> Self {
        let gap = event.windows(EMPTY.len()).rposition(|two| two == EMPTY);
        Self { gap: gap.expect("the text is empty"), event }
    }

    /// Appends the event with `text`.
    pub(super) fn write(&self, out: &mut BytesMut, text: &str) {
        let (before, rest) = self.event.split_at(self.gap);
        out.extend_from_slice(before);
        json::write(out, text);
        out.extend_from_slice(&rest[EMPTY.len()..]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::body::{Body, ChatDelta, ChoiceBody, Content};
    use super::*;

    fn event(content: Content<'_>) -> BytesMut {
        let choices = [ChoiceBody::new(3, content)];
        let mut event = BytesMut::from("data: ");
        json::write(&mut event, &Body { choices, prompt_token_ids: None, usage: None });
        event
    }

    fn chat(text: &str) -> Content<'_> {
        Content::Delta(ChatDelta { role: None, content: Some(text) })
    }

    fn completion(text: &str) -> Content<'_> {
        Content::Text(text)
    }

    proptest! {
        /// RPL-4
        #[test]
        fn a_text_in_the_gap_gives_the_bytes_that_serde_writes(text: String) {
            for content in [chat, completion] {
                let mut out = BytesMut::new();
                TextChunk::new(event(content(""))).write(&mut out, &text);
                prop_assert_eq!(&out, &event(content(&text)));
            }
        }
    }
}
