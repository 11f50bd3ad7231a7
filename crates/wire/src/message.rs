//! Values to frames and back.

use crate::{Frame, FrameError, Kind};

/// A closed enum that travels in frames of its own kind.
pub trait Message: Sized + Send + 'static {
    /// The kind of the message on the wire, which determines its maximum size and its priority.
    const KIND: Kind;

    /// Appends the message as one frame.
    ///
    /// # Errors
    /// Returns an [`EncodeError`] when the message is longer than its kind allows; `out` is unchanged
    /// then.
    fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), EncodeError>;

    /// Reads a message, after validating every byte of it once.
    ///
    /// # Errors
    /// Returns a [`DecodeError`] when the frame is of another kind, or its bytes are no such message.
    fn decode(frame: &Frame) -> Result<Self, DecodeError>;
}

/// The messages of a stream's opener: the one that opens the stream, and all later ones.
pub trait Request: Message {
    /// The answer of the other side: one to a call, many on a stream.
    type Reply: Message;
}

/// A message that is told in order, without an answer.
pub trait Note: Message {}

/// The reason why a message cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The message is longer than its kind allows (**W-4**).
    #[error("a {kind} message has {bytes} bytes; at most {max} are allowed")]
    TooLarge {
        /// The kind of the message.
        kind: Kind,
        /// The length of the message.
        bytes: usize,
        /// The maximum, [`Kind::bytes_max`].
        max: u32,
    },
}

/// The reason why bytes are not the expected message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are not even a frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The frame holds another kind of message (**W-5**).
    #[error("got a {given} message where a {expected} message belongs")]
    OtherKind {
        /// The kind of the frame.
        given: Kind,
        /// The expected kind.
        expected: Kind,
    },
    /// The bytes do not validate.
    #[error("{bytes} bytes are no {kind} message: {reason}")]
    Invalid {
        /// The expected kind.
        kind: Kind,
        /// The number of bytes.
        bytes: usize,
        /// The error of the validator, in one line.
        reason: String,
    },
}

/// Implements [`Message`] for a type that derives rkyv's traits. A macro, because the bounds of
/// rkyv's functions are longer than the functions.
macro_rules! message {
    ($type:ty, $kind:ident) => {
        impl $crate::Message for $type {
            const KIND: $crate::Kind = $crate::Kind::$kind;

            fn encode_into(&self, out: &mut Vec<u8>) -> Result<(), $crate::EncodeError> {
                let message = rkyv::to_bytes::<rkyv::rancor::Panic>(self);
                let Ok(message) = message;
                $crate::message::append(Self::KIND, &message, out)
            }

            fn decode(frame: &$crate::Frame) -> Result<Self, $crate::DecodeError> {
                $crate::message::expect(Self::KIND, frame)?;
                rkyv::from_bytes::<Self, rkyv::rancor::Error>(&frame.message)
                    .map_err(|error| $crate::message::invalid(frame, &error))
            }
        }
    };
}
pub(crate) use message;

pub(crate) fn append(kind: Kind, message: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let (bytes, max) = (message.len(), kind.bytes_max());
    let length = u32::try_from(bytes).ok().filter(|&length| length <= max);
    let length = length.ok_or(EncodeError::TooLarge { kind, bytes, max })?;
    out.extend_from_slice(&crate::frame::header(kind, length));
    out.extend_from_slice(message);
    Ok(())
}

pub(crate) fn expect(expected: Kind, frame: &Frame) -> Result<(), DecodeError> {
    match frame.kind {
        given if given == expected => Ok(()),
        given => Err(DecodeError::OtherKind { given, expected }),
    }
}

pub(crate) fn invalid(frame: &Frame, error: &rkyv::rancor::Error) -> DecodeError {
    let text = error.to_string();
    let reason = text.lines().next().unwrap_or_default().to_owned();
    DecodeError::Invalid { kind: frame.kind, bytes: frame.message.len(), reason }
}
