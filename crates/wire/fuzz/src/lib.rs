//! The code that the fuzz targets of all decoders share.

pub use libfuzzer_sys::fuzz_target;
use playhouse_wire::{Frame, FrameDecoder, Message};

/// A fuzz target of the decoder of one message.
#[macro_export]
macro_rules! decoder {
    ($message:ident) => {
        $crate::fuzz_target!(|bytes: &[u8]| $crate::decode::<playhouse_wire::$message>(bytes));
    };
}

/// **W-1**, **W-2**: no bytes panic a decoder, and a decoded value can be encoded and decoded again. An
/// error is one line.
pub fn decode<M: Message>(bytes: &[u8]) {
    let message = match M::decode(&Frame::raw(M::KIND, bytes)) {
        Ok(message) => message,
        Err(error) => return assert_eq!(error.to_string().lines().count(), 1, "{error}"),
    };
    let mut encoded = Vec::new();
    // Values of a hostile peer can share memory that a copy has to repeat.
    if message.encode_into(&mut encoded).is_ok() {
        let (_, frame) = FrameDecoder::default().feed(&encoded).expect("a frame");
        assert!(M::decode(&frame.expect("it is complete")).is_ok(), "{:?} is read again", M::KIND);
    }
}
