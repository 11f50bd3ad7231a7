//! Typed streams: a [`Sender`] of one message type, a [`Receiver`] of another, and bulk bytes.

use std::marker::PhantomData;

use bytes::Bytes;
use playhouse_wire::{
    DecodeError, EncodeError, Frame, FrameDecoder, FrameError, Message, PREFACE_BYTES,
};

use crate::close::PeerLost;
use crate::connection::{RecvHalf, SendHalf};
use crate::stream_end::{StreamCode, StreamEnd};

/// The maximum number of bytes taken from a stream at once.
const READ_BYTES: usize = 64 * 1024;

/// The two halves of a stream. They may live in different tasks.
#[derive(Debug)]
pub struct Stream<O: Message, I: Message> {
    /// The half that sends messages.
    pub sender: Sender<O>,
    /// The half that receives messages.
    pub receiver: Receiver<I>,
}

/// The sending half of a stream. Dropping a `Sender` before [`Sender::finish`] cancels the stream: the
/// other side's receiver ends with [`RecvError::Cancelled`] (**LK-2**).
#[derive(Debug)]
pub struct Sender<M: Message> {
    half: SendHalf,
    /// Encoded bytes that were not written yet, left over when a `send` was itself cancelled.
    unsent: Bytes,
    finished: bool,
    message: PhantomData<fn(M)>,
}

/// The receiving half of a stream. Dropping a `Receiver` before its end cancels the stream: the other
/// side's sender fails with [`SendError::Cancelled`] (**LK-2**).
#[derive(Debug)]
pub struct Receiver<M: Message> {
    frames: Frames,
    message: PhantomData<fn() -> M>,
}

/// A writer of raw bytes to a peer, with the lowest priority of all streams.
#[derive(Debug)]
pub struct BulkWriter {
    half: SendHalf,
    /// The half that ends when the reader has all bytes.
    taken: RecvHalf,
    /// The number of announced bytes that were not written yet.
    missing: u64,
}

/// The frames of a stream. Dropping `Frames` stops the stream.
#[derive(Debug)]
pub(crate) struct Frames {
    half: RecvHalf,
    decoder: FrameDecoder,
    /// Bytes that were read and not decoded yet.
    rest: Bytes,
    ended: bool,
}

/// The reason why a message was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The other side dropped its receiver.
    #[error("the peer has stopped reading the stream")]
    Cancelled,
    /// The other side does not serve such streams.
    #[error("the peer does not serve this kind of stream")]
    NotServed,
    /// The connection is gone.
    #[error(transparent)]
    Lost(#[from] PeerLost),
    /// The message cannot be sent at all; the stream is unchanged.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// The reason why the next message did not come.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecvError {
    /// The other side dropped its sender.
    #[error("the peer has cancelled the stream")]
    Cancelled,
    /// The other side does not serve such streams.
    #[error("the peer does not serve this kind of stream")]
    NotServed,
    /// The connection is gone.
    #[error(transparent)]
    Lost(#[from] PeerLost),
    /// The bytes are no such message, or the other side says so of ours.
    #[error("the stream is broken: {0}")]
    Malformed(#[from] DecodeError),
    /// The other side could not read a message of this side.
    #[error("the peer could not read what it was sent")]
    Misunderstood,
}

// === impl Sender ===

impl<M: Message> Sender<M> {
    pub(crate) fn new(half: SendHalf) -> Self {
        half.set_priority(M::KIND.priority());
        Self { half, unsent: Bytes::new(), finished: false, message: PhantomData }
    }

    /// Sends one message. Waits while the other side does not read. If the future is cancelled, the
    /// message is sent whole with the next one, or never.
    ///
    /// # Errors
    /// Returns a [`SendError`].
    pub async fn send(&mut self, message: &M) -> Result<(), SendError> {
        self.send_all(std::slice::from_ref(message)).await
    }

    /// Sends messages in one write, which is many times cheaper than a write for each.
    ///
    /// # Errors
    /// Returns a [`SendError`].
    pub async fn send_all(&mut self, messages: &[M]) -> Result<(), SendError> {
        self.flush().await?;
        let mut bytes = Vec::new();
        for message in messages {
            message.encode_into(&mut bytes)?;
        }
        self.unsent = bytes.into();
        self.flush().await
    }

    /// Ends the direction: the other side's receiver ends after the sent messages.
    ///
    /// # Errors
    /// Returns a [`SendError`].
    pub async fn finish(mut self) -> Result<(), SendError> {
        self.flush().await?;
        self.half.finish();
        self.finished = true;
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), SendError> {
        Ok(self.half.write(&mut self.unsent).await?)
    }
}

impl<M: Message> Drop for Sender<M> {
    fn drop(&mut self) {
        if !self.finished {
            self.half.reset(StreamCode::Cancelled);
        }
    }
}

// === impl Receiver ===

impl<M: Message> Receiver<M> {
    pub(crate) fn new(frames: Frames) -> Self {
        Self { frames, message: PhantomData }
    }

    /// Returns the next message; `None` when the sender has finished. Cancel-safe.
    ///
    /// # Errors
    /// Returns a [`RecvError`]. After an error no more messages come.
    pub async fn next(&mut self) -> Result<Option<M>, RecvError> {
        let Some(frame) = self.frames.next().await? else { return Ok(None) };
        match M::decode(&frame) {
            Ok(message) => Ok(Some(message)),
            Err(error) => {
                self.frames.stop(StreamCode::Malformed);
                Err(error.into())
            }
        }
    }
}

// === impl Frames ===

impl Frames {
    pub(crate) fn new(half: RecvHalf) -> Self {
        Self { half, decoder: FrameDecoder::default(), rest: Bytes::new(), ended: false }
    }

    /// Returns the next frame; `None` at the end of the stream. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>, RecvError> {
        loop {
            if self.ended {
                return Ok(None);
            }
            if self.rest.is_empty() {
                match self.read().await? {
                    Some(bytes) => self.rest = bytes,
                    None => {
                        let end = self.decoder.end().map_err(DecodeError::from);
                        return end.map(|()| None).map_err(RecvError::from);
                    }
                }
            }
            match self.decoder.feed(&self.rest) {
                Ok((taken, frame)) => {
                    drop(self.rest.split_to(taken));
                    if frame.is_some() {
                        return Ok(frame);
                    }
                }
                Err(error) => {
                    self.stop(StreamCode::Malformed);
                    return Err(DecodeError::from(error).into());
                }
            }
        }
    }

    /// Returns bytes that are no frames, in order; `None` at the end. Cancel-safe.
    pub(crate) async fn raw(&mut self) -> Result<Option<Bytes>, RecvError> {
        match std::mem::take(&mut self.rest) {
            rest if rest.is_empty() => self.read().await,
            rest => Ok(Some(rest)),
        }
    }

    /// Returns the bytes before the first frame.
    pub(crate) async fn prefix(&mut self) -> Result<[u8; PREFACE_BYTES], RecvError> {
        let mut prefix = [0; PREFACE_BYTES];
        let mut filled = 0;
        while filled < PREFACE_BYTES {
            let missing = PREFACE_BYTES - filled;
            let Some(mut bytes) = self.raw().await? else {
                return Err(DecodeError::from(FrameError::Truncated { missing }).into());
            };
            let taken = bytes.split_to(missing.min(bytes.len()));
            prefix[filled..filled + taken.len()].copy_from_slice(&taken);
            filled += taken.len();
            self.rest = bytes;
        }
        Ok(prefix)
    }

    /// Gives the stream up, unless it has ended.
    pub(crate) fn stop(&mut self, code: StreamCode) {
        if !self.ended {
            self.ended = true;
            self.half.stop(code);
        }
    }

    async fn read(&mut self) -> Result<Option<Bytes>, RecvError> {
        let read = self.half.read(READ_BYTES).await;
        self.ended = !matches!(read, Ok(Some(_)));
        Ok(read?)
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.stop(StreamCode::Cancelled);
    }
}

// === impl BulkWriter ===

impl BulkWriter {
    /// Returns a writer of a stream on which `missing` bytes will follow.
    pub(crate) fn new(half: SendHalf, taken: RecvHalf, missing: u64) -> Self {
        Self { half, taken, missing }
    }

    /// Writes the frame that the stream begins with.
    pub(crate) async fn announce(&mut self, mut opening: Bytes) -> Result<(), SendError> {
        Ok(self.half.write(&mut opening).await?)
    }

    /// Writes the next bytes. Waits while the other side does not read.
    ///
    /// # Errors
    /// Returns a [`SendError`].
    ///
    /// # Panics
    /// Panics when more bytes are written than were announced.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), SendError> {
        let given = bytes.len() as u64;
        assert!(given <= self.missing, "{given} bytes written, {} announced", self.missing);
        self.missing -= given;
        Ok(self.half.write(&mut bytes).await?)
    }

    /// Waits until the other side has taken every byte.
    ///
    /// # Errors
    /// Returns a [`SendError`].
    ///
    /// # Panics
    /// Panics when fewer bytes were written than were announced.
    pub async fn finish(mut self) -> Result<(), SendError> {
        assert_eq!(self.missing, 0, "bytes announced and not written");
        self.half.finish();
        while self.taken.read(READ_BYTES).await?.is_some() {}
        Ok(())
    }
}

impl Drop for BulkWriter {
    fn drop(&mut self) {
        // After `finish` both calls do nothing.
        self.half.reset(StreamCode::Cancelled);
        self.taken.stop(StreamCode::Cancelled);
    }
}

// === impl SendError, RecvError ===

impl From<StreamEnd> for SendError {
    fn from(end: StreamEnd) -> Self {
        match end {
            StreamEnd::GivenUp(StreamCode::NotServed) => Self::NotServed,
            StreamEnd::GivenUp(_) => Self::Cancelled,
            StreamEnd::Lost(lost) => Self::Lost(lost),
        }
    }
}

impl From<StreamEnd> for RecvError {
    fn from(end: StreamEnd) -> Self {
        match end {
            StreamEnd::GivenUp(StreamCode::NotServed) => Self::NotServed,
            StreamEnd::GivenUp(StreamCode::Malformed) => Self::Misunderstood,
            StreamEnd::GivenUp(StreamCode::Cancelled) => Self::Cancelled,
            StreamEnd::Lost(lost) => Self::Lost(lost),
        }
    }
}
