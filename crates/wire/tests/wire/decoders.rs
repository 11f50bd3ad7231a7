//! Decoders against valid, cut, mutated and random bytes.

use playhouse_wire::{
    DecodeError, EncodeError, Frame, FrameDecoder, FrameError, HEADER_BYTES, HeadReply, Kind,
    Message,
};
use proptest::prelude::*;

use crate::samples;

/// Cases per sample. With 55 samples, half a million decodes.
const MUTATIONS: usize = 10_000;

/// xorshift64: the same cases in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    /// Changes a message a little or a lot, as a broken or hostile peer might.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let length = bytes.len();
            let at = self.below(length.max(1));
            match self.below(6) {
                _ if length == 0 => bytes.push(self.below(256) as u8),
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xfe, 0xff][self.below(6)],
                2 => bytes.truncate(at),
                3 => bytes.insert(at, self.below(256) as u8),
                // Lengths and relative pointers are four aligned bytes.
                4 => {
                    let word = at / 4 * 4;
                    let value = (self.below(512) as i32 - 256).to_le_bytes();
                    let end = length.min(word + 4);
                    bytes[word..end].copy_from_slice(&value[..end - word]);
                }
                _ => {
                    let from = self.below(length);
                    let piece = bytes[from.min(at)..from.max(at)].to_vec();
                    let to = self.below(length);
                    bytes.splice(to..to, piece);
                }
            }
        }
    }
}

#[test]
fn w2_a_message_decodes_to_the_value_that_was_encoded() {
    for sample in samples::all() {
        let frame = samples::frame(&sample.bytes);
        assert_eq!((sample.show)(&frame).as_ref(), Ok(&sample.text), "{}", sample.name);
        assert_eq!((sample.again)(&frame).as_ref(), Ok(&sample.bytes), "{}", sample.name);
    }
}

#[test]
fn w1_no_mutated_message_panics_a_decoder() {
    let mut random = Random(0x5eed);
    let (mut refused, mut taken) = (0, 0);
    for sample in samples::all() {
        let message = &sample.bytes[HEADER_BYTES..];
        for _ in 0..MUTATIONS {
            let mut bytes = message.to_vec();
            random.mutate(&mut bytes);
            // What validates is a value like any other: it can be encoded and read again.
            match (sample.again)(&Frame::raw(sample.kind, &bytes)) {
                Ok(again) => {
                    taken += 1;
                    assert!((sample.show)(&samples::frame(&again)).is_ok(), "{}", sample.name);
                }
                Err(error) => {
                    refused += 1;
                    assert_eq!(error.to_string().lines().count(), 1, "{error}");
                }
            }
        }
    }
    assert!(refused > 100_000 && taken > 10_000, "{refused} refused, {taken} taken");
}

/// These mutations are the same in every run; `fuzz/run` follows the code that they reach.
#[test]
fn every_decoder_has_a_fuzz_target() {
    let manifest = include_str!("../../fuzz/Cargo.toml");
    for kind in Kind::ALL {
        let mut name = String::new();
        for letter in kind.to_string().chars() {
            let word = letter.is_uppercase() && !name.is_empty();
            name.extend(word.then_some('_').into_iter().chain(letter.to_lowercase()));
        }
        assert!(manifest.contains(&format!("path = \"targets/{name}.rs\"")), "{name}");
    }
}

#[test]
fn w1_no_random_bytes_panic_a_frame_decoder() {
    let mut random = Random(0xf00d);
    let valid: Vec<u8> = samples::all().into_iter().flat_map(|sample| sample.bytes).collect();
    for _ in 0..20_000 {
        let from = random.below(valid.len());
        let mut bytes = valid[from..valid.len().min(from + 200)].to_vec();
        random.mutate(&mut bytes);
        let (mut decoder, mut rest) = (FrameDecoder::default(), bytes.as_slice());
        while !rest.is_empty() {
            let piece = 1 + random.below(rest.len());
            let Ok((taken, frame)) = decoder.feed(&rest[..piece]) else { break };
            assert!(taken > 0 || frame.is_some(), "the decoder is stuck");
            rest = &rest[taken..];
        }
        let _ = decoder.end();
    }
}

#[test]
fn w4_a_frame_too_long_is_refused_from_its_header() {
    for kind in Kind::ALL {
        let max = kind.bytes_max();
        let mut header = [0; HEADER_BYTES];
        header[0] = kind as u8;
        header[4..].copy_from_slice(&(max + 1).to_le_bytes());
        let error = FrameDecoder::default().feed(&header).expect_err("too long");
        assert_eq!(error, FrameError::TooLarge { kind, bytes: max + 1, max });
        header[4..].copy_from_slice(&max.to_le_bytes());
        let fed = FrameDecoder::default().feed(&header);
        assert!(matches!(fed, Ok((HEADER_BYTES, None))), "{kind}: {fed:?}");
    }
}

#[test]
fn w4_a_message_too_long_is_not_sent() {
    let mut out = vec![1, 2, 3];
    let error = HeadReply::Refused("x".repeat(70_000)).encode_into(&mut out);
    assert!(matches!(
        error,
        Err(EncodeError::TooLarge { kind: Kind::HeadReply, bytes: 70_000.., max: 65_536 })
    ));
    assert_eq!(out, [1, 2, 3]);
}

#[test]
fn w5_a_message_of_another_kind_is_refused_by_its_header() {
    for (sample, other) in samples::all().iter().zip(samples::all().iter().skip(1)) {
        let read = (sample.again)(&samples::frame(&other.bytes));
        if sample.kind != other.kind {
            let expected = DecodeError::OtherKind { given: other.kind, expected: sample.kind };
            assert_eq!(read, Err(expected));
        }
    }
}

#[test]
fn headers_of_no_frame_are_refused_with_what_they_are() {
    let refused = |header: &[u8]| FrameDecoder::default().feed(header).expect_err("no header");
    assert_eq!(refused(b"GET / HT"), FrameError::UnknownKind(b'G'));
    assert_eq!(refused(&[0; 8]), FrameError::UnknownKind(0));
    let reserved = refused(&[1, 0, 5, 0, 1, 0, 0, 0]);
    assert_eq!(reserved, FrameError::Reserved { kind: Kind::Hello, given: [0, 5, 0] });
}

#[test]
fn a_stream_that_ends_inside_a_frame_is_truncated() {
    let bytes = &samples::all()[0].bytes;
    for cut in 1..bytes.len() {
        let mut decoder = FrameDecoder::default();
        assert!(decoder.feed(&bytes[..cut]).is_ok_and(|(_, frame)| frame.is_none()), "{cut}");
        assert!(matches!(decoder.end(), Err(FrameError::Truncated { missing: 1.. })), "{cut}");
    }
    assert_eq!(FrameDecoder::default().end(), Ok(()));
}

proptest! {
    #[test]
    fn w2_frames_survive_any_cut(cuts in prop::collection::vec(1..97usize, 1..64)) {
        let samples = samples::all();
        let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.bytes.clone()).collect();
        let (mut decoder, mut frames, mut rest) = (FrameDecoder::default(), 0, bytes.as_slice());
        let mut sizes = cuts.iter().cycle();
        while !rest.is_empty() {
            let size = *sizes.next().expect("cycles never end");
            let mut piece = &rest[..size.min(rest.len())];
            rest = &rest[piece.len()..];
            while !piece.is_empty() {
                let (taken, frame) = decoder.feed(piece).expect("valid bytes");
                piece = &piece[taken..];
                if let Some(frame) = frame {
                    prop_assert_eq!((samples[frames].show)(&frame), Ok(samples[frames].text.clone()));
                    frames += 1;
                }
            }
        }
        prop_assert_eq!(decoder.end(), Ok(()));
        prop_assert_eq!(frames, samples.len());
    }
}
