//! Frames decoded from bytes in pieces: the first byte says how long a piece is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use playhouse_wire::FrameDecoder;

fuzz_target!(|bytes: &[u8]| {
    let Some((&size, mut rest)) = bytes.split_first() else { return };
    let mut decoder = FrameDecoder::default();
    while !rest.is_empty() {
        let piece = &rest[..rest.len().min(1 + usize::from(size))];
        let Ok((taken, frame)) = decoder.feed(piece) else { return };
        assert!(taken > 0 || frame.is_some(), "the decoder is stuck");
        rest = &rest[taken..];
    }
    let _ = decoder.end();
});
