//! Stop strings, found in text that arrives in pieces.
//!
//! - **STP-1** the output does not depend on how the text was cut: it ends where the first match to be
//!   completed begins (of matches completed by the same character, the longest).
//! - **STP-2** only the longest suffix that could still become a match is held back.
//!
//! One Knuth-Morris-Pratt automaton per string: each byte costs a constant per string, amortised.
//! Bytes are enough, because in UTF-8 a match of whole strings begins and ends between characters.

use std::sync::Arc;

/// The maximum number of stop strings of one request. OpenAI allows 4.
pub(crate) const STOPS_MAX: usize = 16;

/// The stop strings of a request, compiled.
#[derive(Debug, Default)]
pub(crate) struct Stops {
    strings: Vec<Stop>,
    /// Whether to keep the stop string itself in the text.
    include: bool,
}

#[derive(Debug)]
struct Stop {
    text: String,
    /// For each length of a matched prefix, the length of its longest proper border.
    borders: Vec<usize>,
}

/// The state of the matching for one choice.
#[derive(Debug)]
pub(crate) struct StopMatcher {
    stops: Arc<Stops>,
    /// The number of matched bytes of each string.
    matched: Vec<usize>,
    /// The text that is held back: the longest of the matched prefixes.
    held: String,
}

// === impl Stops ===

impl Stops {
    /// Compiles `strings`, none of which may be empty.
    pub(crate) fn new(strings: Vec<String>, include: bool) -> Self {
        let strings = strings.into_iter().map(Stop::new).collect();
        Self { strings, include }
    }

    fn text(&self, index: usize) -> &str {
        &self.strings[index].text
    }
}

// === impl Stop ===

impl Stop {
    fn new(text: String) -> Self {
        assert!(!text.is_empty(), "an empty stop string matches everywhere");
        let bytes = text.as_bytes();
        let mut borders = vec![0; bytes.len() + 1];
        let mut border = 0;
        for length in 2..=bytes.len() {
            while border > 0 && bytes[border] != bytes[length - 1] {
                border = borders[border];
            }
            border += usize::from(bytes[border] == bytes[length - 1]);
            borders[length] = border;
        }
        Self { text, borders }
    }

    /// Returns the length matched after one more byte.
    fn advance(&self, mut matched: usize, byte: u8) -> usize {
        let bytes = self.text.as_bytes();
        while matched > 0 && bytes[matched] != byte {
            matched = self.borders[matched];
        }
        matched + usize::from(bytes[matched] == byte)
    }
}

// === impl StopMatcher ===

impl StopMatcher {
    pub(crate) fn new(stops: Arc<Stops>) -> Self {
        Self { matched: vec![0; stops.strings.len()], stops, held: String::new() }
    }

    /// Takes more text and appends to `out` the text that can no longer be part of a match. Returns the
    /// stop string that ended the text; no text may be pushed after that.
    pub(crate) fn push(&mut self, text: &str, out: &mut String) -> Option<String> {
        if self.matched.is_empty() {
            out.push_str(text);
            return None;
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (at, byte) in text.bytes().enumerate() {
            let mut complete: Option<usize> = None;
            for (index, stop) in self.stops.strings.iter().enumerate() {
                self.matched[index] = stop.advance(self.matched[index], byte);
                let length = stop.text.len();
                if self.matched[index] == length
                    && complete.is_none_or(|best| self.stops.text(best).len() < length)
                {
                    complete = Some(index);
                }
            }
            if let Some(index) = complete {
                let end = before + at + 1;
                let stop = self.stops.text(index).len();
                let kept = if self.stops.include { end } else { end - stop };
                out.push_str(&self.held[..kept]);
                self.held.clear();
                return Some(self.stops.text(index).to_owned());
            }
        }
        let longest = self.matched.iter().copied().max().unwrap_or(0);
        let free = self.held.len() - longest;
        out.push_str(&self.held[..free]);
        self.held.drain(..free);
        None
    }

    /// Appends `text` without matching it (before `min_tokens`).
    pub(crate) fn pass(&mut self, text: &str, out: &mut String) {
        debug_assert!(self.held.is_empty(), "matching does not stop once begun");
        out.push_str(text);
    }

    /// Ends the text without a match: appends the held text to `out`.
    pub(crate) fn finish(&mut self, out: &mut String) {
        out.push_str(&std::mem::take(&mut self.held));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The rule, on the whole text: after each character, does the text end with a stop string?
    fn naive(text: &str, stops: &[String], include: bool) -> (String, Option<String>) {
        for (at, character) in text.char_indices() {
            let end = at + character.len_utf8();
            let longest = (0..stops.len())
                .filter(|&index| text[..end].ends_with(&stops[index]))
                .max_by_key(|&index| stops[index].len());
            if let Some(index) = longest {
                let kept = if include { end } else { end - stops[index].len() };
                return (text[..kept].to_owned(), Some(stops[index].clone()));
            }
        }
        (text.to_owned(), None)
    }

    fn in_pieces(
        pieces: &[&str],
        stops: &[String],
        include: bool,
    ) -> (String, Option<String>, Vec<usize>) {
        let mut matcher = StopMatcher::new(Arc::new(Stops::new(stops.to_vec(), include)));
        let (mut out, mut held) = (String::new(), Vec::new());
        for piece in pieces {
            if let Some(stop) = matcher.push(piece, &mut out) {
                return (out, Some(stop), held);
            }
            held.push(matcher.held.len());
        }
        matcher.finish(&mut out);
        (out, None, held)
    }

    #[test]
    fn a_stop_is_found_across_pieces_and_only_a_possible_start_is_held() {
        let stops = ["###".to_owned(), "好吗".to_owned()];
        let (out, stop, held) = in_pieces(&["a#", "#b", "你好", "吗?"], &stops, false);
        assert_eq!((&*out, stop.as_deref(), held), ("a##b你", Some("好吗"), vec![1, 0, 3]));
        let (out, stop, _) = in_pieces(&["x##", "#y"], &stops, true);
        assert_eq!((&*out, stop.as_deref()), ("x###", Some("###")));
        let (out, stop, _) = in_pieces(&["end##"], &stops, false);
        assert_eq!((&*out, stop), ("end##", None));
    }

    proptest! {
        /// **STP-1** and **STP-2**: any cutting gives what the whole text gives, and what is held
        /// is the longest suffix that begins a stop string.
        #[test]
        fn any_cutting_equals_the_whole_text(
            text in "[ab你🙂]{0,24}",
            stops in prop::collection::vec("[ab你🙂]{1,5}", 1..4),
            cuts in prop::collection::vec(0_usize..25, 0..8),
            include: bool,
        ) {
            let boundaries: Vec<usize> =
                text.char_indices().map(|(at, _)| at).chain([text.len()]).collect();
            let mut ends: Vec<usize> =
                cuts.iter().map(|&cut| boundaries[cut.min(boundaries.len() - 1)]).collect();
            ends.extend([0, text.len()]);
            ends.sort_unstable();
            let pieces: Vec<&str> = ends.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            let (out, stop, held) = in_pieces(&pieces, &stops, include);
            prop_assert_eq!((out, stop), naive(&text, &stops, include));
            for (held, end) in held.into_iter().zip(&ends[1..]) {
                let possible = (0..=*end)
                    .find(|&from| {
                        let rest = text.as_bytes().get(from..*end).expect("within the text");
                        stops.iter().any(|s| s.len() > rest.len() && s.as_bytes().starts_with(rest))
                    })
                    .expect("the empty suffix begins every string");
                prop_assert_eq!(held, end - possible);
            }
        }
    }
}
