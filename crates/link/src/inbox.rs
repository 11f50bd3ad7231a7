//! The streams that a peer opens and the notes that it tells.

use std::sync::Arc;

use bytes::Bytes;
use playhouse_wire::{BulkOpening, DecodeError, Frame, Kind, Message, Note, Request};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Duration, timeout};

use crate::close::{CloseCode, PeerLost};
use crate::connection::{Connection, RecvHalf, SendHalf};
use crate::quic::STREAMS_MAX;
use crate::renewal_service::RenewalService;
use crate::stream::{Frames, Receiver, RecvError, Sender, Stream};
use crate::stream_end::StreamCode;

/// The maximum number of opened streams that wait to be taken; more wait in the peer's flow control.
const STREAMS_QUEUED_MAX: usize = 256;

/// All input that one peer begins. Its parts may live in different tasks.
#[derive(Debug)]
pub struct Inbox {
    /// The calls, streams and bulk transfers that the peer opens.
    pub streams: Streams,
    /// The notes that the peer tells.
    pub notes: Notes,
}

/// The queue of streams that a peer opens. Dropping `Streams` refuses them from then on.
#[derive(Debug)]
pub struct Streams {
    queue: mpsc::Receiver<Incoming>,
}

/// The control stream of a peer.
#[derive(Debug)]
pub struct Notes {
    /// The stream's receiver, until the peer has told its first note.
    waiting: Option<oneshot::Receiver<RecvHalf>>,
    frames: Option<Frames>,
    connection: Connection,
}

/// A stream whose first frame has arrived. Dropping an `Incoming` tells the peer that its kind is not
/// served.
#[derive(Debug)]
pub struct Incoming {
    opening: Frame,
    /// Both halves, taken together by the code that serves the stream.
    halves: Option<(SendHalf, Frames)>,
}

/// A reader of raw bytes from a peer. Dropping a `BulkReader` early cancels the transfer.
#[derive(Debug)]
pub struct BulkReader {
    opening: BulkOpening,
    frames: Frames,
    taken: SendHalf,
    /// The number of announced bytes that were not read yet.
    missing: u64,
}

/// The reason why the next note does not come. The peer is lost in either case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// The connection is gone.
    #[error(transparent)]
    Lost(#[from] PeerLost),
    /// The peer told a message that is no such note; its connection was closed for that.
    #[error("the control stream is broken: {0}")]
    Malformed(#[from] DecodeError),
}

// === impl Inbox ===

impl Inbox {
    /// Starts reading the peer's streams, until the connection ends. Must be called on the runtime that
    /// drives the connection.
    pub(crate) fn start(
        connection: &Connection,
        patience: Duration,
        renewals: Option<RenewalService>,
    ) -> Self {
        let (incoming, queue) = mpsc::channel(STREAMS_QUEUED_MAX);
        tokio::spawn(collect(connection.clone(), incoming, patience, renewals));
        let (control, waiting) = oneshot::channel();
        let accepted = connection.clone();
        tokio::spawn(async move {
            if let Ok(half) = accepted.accept_one_way().await {
                drop(control.send(half));
            }
        });
        let notes = Notes { waiting: Some(waiting), frames: None, connection: connection.clone() };
        Self { streams: Streams { queue }, notes }
    }
}

/// Reads the first frame of each stream, several at a time, so that a slow frame holds up no other
/// stream. Requests for certificates are answered here.
async fn collect(
    connection: Connection,
    queue: mpsc::Sender<Incoming>,
    patience: Duration,
    renewals: Option<RenewalService>,
) {
    let renewals = renewals.map(Arc::new);
    let room = Arc::new(Semaphore::new(STREAMS_MAX as usize));
    let mut opening = JoinSet::new();
    while let Ok((mut send, recv)) = connection.accept().await {
        while opening.try_join_next().is_some() {}
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { break };
        let (queue, renewals) = (queue.clone(), renewals.clone());
        opening.spawn(async move {
            let mut frames = Frames::new(recv);
            match timeout(patience, frames.next()).await {
                Ok(Ok(Some(frame))) => {
                    let incoming = Incoming { opening: frame, halves: Some((send, frames)) };
                    match renewals.filter(|_| incoming.kind() == Kind::RenewRequest) {
                        Some(renewals) => {
                            // A request that cannot be read was refused already.
                            if let Ok((request, Stream { sender, receiver })) = incoming.take() {
                                // No message follows a request.
                                drop(receiver);
                                renewals.answer(request, sender).await;
                            }
                        }
                        // Without a reader the stream is dropped, which refuses it.
                        None => drop(queue.send(incoming).await),
                    }
                }
                Ok(Err(RecvError::Malformed(error))) => {
                    tracing::warn!(%error, "stream refused");
                    send.reset(StreamCode::Malformed);
                }
                _ => send.reset(StreamCode::Cancelled),
            }
            drop(permit);
        });
    }
}

// === impl Streams ===

impl Streams {
    /// Returns the next stream that the peer opened; `None` when the peer is lost. Cancel-safe.
    pub async fn next(&mut self) -> Option<Incoming> {
        self.queue.recv().await
    }
}

// === impl Notes ===

impl Notes {
    /// Returns the next note, in the order of telling. Cancel-safe.
    ///
    /// # Errors
    /// Returns a [`NoteError`] when the peer is lost, or tells a message that is no `N`, which closes its
    /// connection.
    pub async fn next<N: Note>(&mut self) -> Result<N, NoteError> {
        if let Some(waiting) = &mut self.waiting {
            match waiting.await {
                Ok(half) => self.frames = Some(Frames::new(half)),
                Err(_) => return Err(self.connection.closed().await.into()),
            }
            self.waiting = None;
        }
        let read = match &mut self.frames {
            Some(frames) => frames.next().await,
            None => Ok(None),
        };
        let error = match read {
            Ok(Some(frame)) => match N::decode(&frame) {
                Ok(note) => return Ok(note),
                Err(error) => error,
            },
            Err(RecvError::Malformed(error)) => error,
            Err(RecvError::Lost(lost)) => return Err(lost.into()),
            // A control stream ends only with its connection.
            Ok(None) | Err(_) => return Err(self.connection.closed().await.into()),
        };
        let reason = format!("control stream: {error}");
        let cause = PeerLost::Protocol(reason.clone());
        self.connection.close(CloseCode::Protocol, cause, &reason);
        Err(error.into())
    }
}

// === impl Incoming ===

impl Incoming {
    /// Returns the kind of the stream's first message.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.opening.kind()
    }

    /// Takes the stream to serve it: its request, and both halves for the answer. A call is answered with
    /// one message, then [`Sender::finish`].
    ///
    /// # Errors
    /// Returns an error when the request is not an `R`; the peer is told.
    pub fn take<R: Request>(mut self) -> Result<(R, Stream<R::Reply, R>), DecodeError> {
        let Some((mut send, mut frames)) = self.halves.take() else {
            unreachable!("a stream is taken once");
        };
        match R::decode(&self.opening) {
            Ok(request) => {
                let (sender, receiver) = (Sender::new(send), Receiver::new(frames));
                Ok((request, Stream { sender, receiver }))
            }
            Err(error) => {
                send.reset(StreamCode::Malformed);
                frames.stop(StreamCode::Malformed);
                Err(error)
            }
        }
    }

    /// Takes the stream as a bulk transfer, to read its bytes.
    ///
    /// # Errors
    /// Returns an error when the stream is no bulk transfer; the peer is told.
    pub fn take_bulk(mut self) -> Result<BulkReader, DecodeError> {
        let Some((mut taken, mut frames)) = self.halves.take() else {
            unreachable!("a stream is taken once");
        };
        match BulkOpening::decode(&self.opening) {
            Ok(opening) => {
                let missing = opening.bytes;
                if missing == 0 {
                    taken.finish();
                }
                Ok(BulkReader { opening, frames, taken, missing })
            }
            Err(error) => {
                taken.reset(StreamCode::Malformed);
                frames.stop(StreamCode::Malformed);
                Err(error)
            }
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        if let Some((mut send, mut frames)) = self.halves.take() {
            send.reset(StreamCode::NotServed);
            frames.stop(StreamCode::NotServed);
        }
    }
}

// === impl BulkReader ===

impl BulkReader {
    /// Returns the opening: the tag of the bytes and their number.
    #[must_use]
    pub fn opening(&self) -> &BulkOpening {
        &self.opening
    }

    /// Returns the next bytes, in order; `None` when all announced bytes have come. Cancel-safe.
    ///
    /// # Errors
    /// Returns a [`RecvError`]. A transfer that ends early is [`RecvError::Cancelled`]; a transfer that
    /// is longer than announced is cut off there.
    pub async fn next(&mut self) -> Result<Option<Bytes>, RecvError> {
        if self.missing == 0 {
            return Ok(None);
        }
        let Some(mut bytes) = self.frames.raw().await? else { return Err(RecvError::Cancelled) };
        bytes.truncate(usize::try_from(self.missing).unwrap_or(usize::MAX));
        self.missing -= bytes.len() as u64;
        if self.missing == 0 {
            self.taken.finish();
        }
        Ok(Some(bytes))
    }
}

impl Drop for BulkReader {
    fn drop(&mut self) {
        // A reset would overtake the end of the stream, which says that all bytes were taken.
        if self.missing > 0 {
            self.taken.reset(StreamCode::Cancelled);
        }
    }
}
