//! Server-sent events, read incrementally (WHATWG HTML, section 9.2.6).
//!
//! - **SSE-1** the events do not depend on how the bytes were cut into chunks.
//! - **SSE-2** memory is bounded: an event longer than [`EVENT_BYTES_MAX`] is an error.
//! - **SSE-3** an event that lies whole in one chunk is handed out without a copy.
//!
//! Only `data` fields are kept; comments and the fields `event`, `id` and `retry` are skipped, because
//! OpenAI endpoints do not use them. An event cut off by the end of the stream is dropped, as the
//! standard requires.

use memchr::memchr2;

/// The maximum length of the data of one event, and of a line.
pub(crate) const EVENT_BYTES_MAX: usize = 4 << 20;

/// A parser that splits a byte stream into events.
#[derive(Default)]
pub(crate) struct SseParser {
    /// The beginning of a line whose end has not come yet.
    line: Vec<u8>,
    /// Data lines of the current event, each followed by a line feed.
    data: Vec<u8>,
    /// Whether the last line ended with a carriage return, to which a following line feed belongs.
    after_cr: bool,
    /// Whether anything but a byte order mark was seen.
    begun: bool,
}

/// The error of an event or a line that exceeds [`EVENT_BYTES_MAX`].
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("a server-sent event is longer than {EVENT_BYTES_MAX} bytes")]
pub(crate) struct EventTooLong;

// === impl SseParser ===

impl SseParser {
    /// Takes the next bytes of the stream and calls `on_event` with the data of each event that
    /// they complete.
    ///
    /// # Errors
    /// Returns [`EventTooLong`]; the stream cannot be read further then.
    pub(crate) fn feed(
        &mut self,
        mut chunk: &[u8],
        mut on_event: impl FnMut(&[u8]),
    ) -> Result<(), EventTooLong> {
        while !chunk.is_empty() {
            if self.after_cr {
                self.after_cr = false;
                chunk = chunk.strip_prefix(b"\n").unwrap_or(chunk);
            }
            if self.line.is_empty() && self.data.is_empty() {
                let rest = whole_events(chunk, &mut on_event);
                self.begun |= rest.len() < chunk.len();
                chunk = rest;
            }
            let Some(end) = memchr2(b'\n', b'\r', chunk) else {
                return self.keep(chunk);
            };
            let (head, ended_by) = (&chunk[..end], chunk[end]);
            chunk = &chunk[end + 1..];
            self.after_cr = ended_by == b'\r';
            if self.line.is_empty() {
                self.line_ended(head, &mut on_event)?;
            } else {
                self.keep(head)?;
                let line = std::mem::take(&mut self.line);
                self.line_ended(&line, &mut on_event)?;
                // Returns the empty buffer, so that it is allocated once per stream.
                self.line = line;
                self.line.clear();
            }
        }
        Ok(())
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), EventTooLong> {
        if self.line.len() + part.len() > EVENT_BYTES_MAX {
            return Err(EventTooLong);
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn line_ended(
        &mut self,
        line: &[u8],
        on_event: &mut impl FnMut(&[u8]),
    ) -> Result<(), EventTooLong> {
        let line =
            if self.begun { line } else { line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line) };
        self.begun = true;
        if line.is_empty() {
            if let Some((_, data)) = self.data.split_last() {
                on_event(data);
            }
            self.data.clear();
            return Ok(());
        }
        if let Some(value) = data_value(line) {
            if self.data.len() + value.len() > EVENT_BYTES_MAX {
                return Err(EventTooLong);
            }
            self.data.extend_from_slice(value);
            self.data.push(b'\n');
        }
        Ok(())
    }
}

/// Returns the value of a `data` field; `None` for comments and other fields.
fn data_value(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"data")?;
    if rest.is_empty() {
        return Some(rest);
    }
    let value = rest.strip_prefix(b":")?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

/// Passes on events of the one form that matters for speed, `data: ...\n\n`, directly from the chunk, and
/// returns the rest from the first byte that is not such an event.
fn whole_events<'a>(mut chunk: &'a [u8], on_event: &mut impl FnMut(&[u8])) -> &'a [u8] {
    while let Some(rest) = chunk.strip_prefix(b"data: ") {
        let Some(end) = memchr2(b'\n', b'\r', rest) else {
            return chunk;
        };
        let Some(after) = rest[end..].strip_prefix(b"\n\n") else { return chunk };
        if end > EVENT_BYTES_MAX {
            return chunk;
        }
        on_event(&rest[..end]);
        chunk = after;
    }
    chunk
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Vec<String> {
        let mut parser = SseParser::default();
        let mut events = Vec::new();
        for chunk in chunks {
            parser
                .feed(chunk, |data| events.push(String::from_utf8_lossy(data).into_owned()))
                .expect("short events");
        }
        events
    }

    #[test]
    fn data_lines_are_joined_and_other_lines_skipped() {
        let stream =
            b": ping\n\nevent: x\nid: 7\ndata: one\ndata:two\ndata:  three\n\nretry: 5\n\n\
            data\n\ndatabase: no\n\ndata: [DONE]\n\ndata: cut off";
        assert_eq!(events([&stream[..]]), ["one\ntwo\n three", "", "[DONE]"]);
    }

    #[test]
    fn every_line_end_of_the_standard_is_one() {
        for end in ["\n", "\r\n", "\r"] {
            let stream = format!("\u{feff}data: a{end}data: b{end}{end}data: c{end}{end}");
            assert_eq!(events([stream.as_bytes()]), ["a\nb", "c"], "{end:?}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_one_only_at_the_beginning() {
        let stream = "\u{feff}data: a\n\n\u{feff}data: b\n\n".as_bytes();
        assert_eq!(events([stream]), ["a"]);
        let without_mark = &stream["\u{feff}".len()..];
        assert_eq!(events([without_mark]), ["a"]);
        assert_eq!(events(without_mark.chunks(1)), ["a"]);
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut parser = SseParser::default();
        let chunk = [b'x'; 1 << 16];
        parser.feed(b"data: ", |_| {}).expect("short");
        let fed = (0..=EVENT_BYTES_MAX / chunk.len()).try_for_each(|_| parser.feed(&chunk, |_| {}));
        assert_eq!(fed, Err(EventTooLong));

        let mut parser = SseParser::default();
        let line = [&b"data: "[..], &chunk, b"\n"].concat();
        let fed = (0..=EVENT_BYTES_MAX / chunk.len()).try_for_each(|_| parser.feed(&line, |_| {}));
        assert_eq!(fed, Err(EventTooLong));
    }

    /// The events of a stream, read line by line after the standard, without any chunking.
    fn naive(stream: &str) -> Vec<String> {
        let text = stream.strip_prefix('\u{feff}').unwrap_or(stream);
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut events = Vec::new();
        let mut data: Vec<&str> = Vec::new();
        let complete = text.rfind('\n').map_or("", |end| &text[..end]);
        if complete.is_empty() && !text.starts_with('\n') {
            return events;
        }
        for line in complete.split('\n') {
            match line.split_once(':').unwrap_or((line, "")) {
                ("", "") if line.is_empty() => {
                    if !data.is_empty() {
                        events.push(data.join("\n"));
                    }
                    data.clear();
                }
                ("data", value) => data.push(value.strip_prefix(' ').unwrap_or(value)),
                _ => {}
            }
        }
        events
    }

    proptest! {
        /// SSE-1
        #[test]
        fn chunk_borders_do_not_matter(
            pieces in prop::collection::vec(
                prop::sample::select(vec![
                    "data: {\"a\":1}\n\n", "data: x", "data", ":", " ", "\n", "\r", "\r\n", "\n\n",
                    ": ping\n", "event: e\r\n", "é€😀", "data: [DONE]\r\n\r\n", "\u{feff}",
                ]),
                0..40,
            ),
            cuts in prop::collection::vec(1_usize..9, 1..40),
        ) {
            let stream = pieces.concat();
            let mut rest = stream.as_bytes();
            let mut chunks = Vec::new();
            for &cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (chunk, after) = rest.split_at(cut.min(rest.len()));
                chunks.push(chunk);
                rest = after;
            }
            let expected = naive(&stream);
            prop_assert_eq!(events(chunks), expected.clone());
            prop_assert_eq!(events([stream.as_bytes()]), expected);
        }
    }
}
