//! Typed streams: a [`Sender`] of one message type, a [`Receiver`] of another, and bulk bytes.

use std::marker::PhantomData;

use bytes::Bytes;
use playhouse_wire::{
    DecodeError, EncodeError, Frame, FrameDecoder, FrameError, Message, PREFACE_BYTES,
};

use crate::close::PeerLost;
use crate::connection::{RecvHalf, SendHalf};
use crate::stream_end::{StreamCode, StreamEnd};

/// Most bytes taken from a stream at once.
const READ_BYTES: usize = 64 * 1024;

/// Both halves of a stream. They may live in different tasks.
#[derive(Debug)]
pub struct Stream<O: Message, I: Message> {
    /// What this side says.
    pub sender: Sender<O>,
    /// What the other side says.
    pub receiver: Receiver<I>,
}

/// The sending half. Dropping it before [`Sender::finish`] cancels: the other side's receiver ends
/// with [`RecvError::Cancelled`] (**LK-2**).
#[derive(Debug)]
pub struct Sender<M: Message> {
    half: SendHalf,
    /// Encoded and not yet written: left over when a `send` was itself cancelled.
    unsent: Bytes,
    finished: bool,
    message: PhantomData<fn(M)>,
}

/// The receiving half. Dropping it before its end cancels: the other side's sender fails with
/// [`SendError::Cancelled`] (**LK-2**).
#[derive(Debug)]
pub struct Receiver<M: Message> {
    frames: Frames,
    message: PhantomData<fn() -> M>,
}

/// Raw bytes to a peer, behind everything else that is sent to it.
#[derive(Debug)]
pub struct BulkWriter {
    half: SendHalf,
    /// Ends when the reader has everything.
    taken: RecvHalf,
    /// Announced and not yet written.
    missing: u64,
}

/// Frames as they come from a stream. Dropping it stops the stream.
#[derive(Debug)]
pub(crate) struct Frames {
    half: RecvHalf,
    decoder: FrameDecoder,
    /// Read and not yet taken by the decoder.
    rest: Bytes,
    ended: bool,
}

/// Why a message was not sent.
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
    /// The message may not be sent at all; the stream is as it was.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// Why the next message did not come.
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
    /// The bytes are no such message, or the other side says that of ours.
    #[error("the stream is broken: {0}")]
    Malformed(#[from] DecodeError),
    /// The other side could not read what this side sent.
    #[error("the peer could not read what it was sent")]
    Misunderstood,
}

// === impl Sender ===

impl<M: Message> Sender<M> {
    pub(crate) fn new(half: SendHalf) -> Self {
        half.set_priority(M::KIND.priority());
        Self { half, unsent: Bytes::new(), finished: false, message: PhantomData }
    }

    /// Sends one message. Waits while the other side does not read. If it is cancelled, the message
    /// is sent whole with the next one, or never.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn send(&mut self, message: &M) -> Result<(), SendError> {
        self.send_all(std::slice::from_ref(message)).await
    }

    /// Sends messages in one write, which is many times cheaper than a write for each.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn send_all(&mut self, messages: &[M]) -> Result<(), SendError> {
        self.flush().await?;
        let mut bytes = Vec::new();
        for message in messages {
            message.encode_into(&mut bytes)?;
        }
        self.unsent = bytes.into();
        self.flush().await
    }

    /// Nothing follows: the other side's receiver ends after what was sent.
    ///
    /// # Errors
    /// See [`SendError`].
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

    /// The next message; `None` when the sender has finished. Cancel-safe.
    ///
    /// # Errors
    /// See [`RecvError`]. After an error nothing more comes.
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

    /// The next frame; `None` at the end of the stream. Cancel-safe.
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

    /// Bytes that are no frames, in order; `None` at the end. Cancel-safe.
    pub(crate) async fn raw(&mut self) -> Result<Option<Bytes>, RecvError> {
        match std::mem::take(&mut self.rest) {
            rest if rest.is_empty() => self.read().await,
            rest => Ok(Some(rest)),
        }
    }

    /// The bytes before the first frame.
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
    /// A stream on which `missing` bytes will follow.
    pub(crate) fn new(half: SendHalf, taken: RecvHalf, missing: u64) -> Self {
        Self { half, taken, missing }
    }

    /// Writes the frame the stream begins with.
    pub(crate) async fn announce(&mut self, mut opening: Bytes) -> Result<(), SendError> {
        Ok(self.half.write(&mut opening).await?)
    }

    /// Writes the next bytes. Waits while the other side does not read.
    ///
    /// # Errors
    /// See [`SendError`].
    ///
    /// # Panics
    /// When more is written than was announced.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), SendError> {
        let given = bytes.len() as u64;
        assert!(given <= self.missing, "{given} bytes written, {} announced", self.missing);
        self.missing -= given;
        Ok(self.half.write(&mut bytes).await?)
    }

    /// Waits until the other side has taken every byte.
    ///
    /// # Errors
    /// See [`SendError`].
    ///
    /// # Panics
    /// When less was written than was announced.
    pub async fn finish(mut self) -> Result<(), SendError> {
        assert_eq!(self.missing, 0, "bytes announced and not written");
        self.half.finish();
        while self.taken.read(READ_BYTES).await?.is_some() {}
        Ok(())
    }
}

impl Drop for BulkWriter {
    fn drop(&mut self) {
        // After `finish` both do nothing.
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
