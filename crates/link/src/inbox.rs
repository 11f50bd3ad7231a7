//! What a peer asks for: the streams it opens and the notes it tells.

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

/// Streams that have been opened and wait to be taken; more wait in the peer's flow control.
const STREAMS_QUEUED_MAX: usize = 256;

/// Everything that comes from one peer unasked. Its parts may live in different tasks.
#[derive(Debug)]
pub struct Inbox {
    /// Calls, streams and bulk transfers the peer opens.
    pub streams: Streams,
    /// What the peer tells.
    pub notes: Notes,
}

/// The streams a peer opens. Dropping it refuses them from now on.
#[derive(Debug)]
pub struct Streams {
    queue: mpsc::Receiver<Incoming>,
}

/// The control stream of a peer.
#[derive(Debug)]
pub struct Notes {
    /// Until the peer has told something.
    waiting: Option<oneshot::Receiver<RecvHalf>>,
    frames: Option<Frames>,
    connection: Connection,
}

/// A stream whose first frame is here. Dropping it tells the peer that nobody serves its kind.
#[derive(Debug)]
pub struct Incoming {
    opening: Frame,
    /// Taken together, by whoever serves the stream.
    halves: Option<(SendHalf, Frames)>,
}

/// Raw bytes from a peer. Dropping it early cancels the transfer.
#[derive(Debug)]
pub struct BulkReader {
    opening: BulkOpening,
    frames: Frames,
    taken: SendHalf,
    /// Announced and not yet read.
    missing: u64,
}

/// Why the next note does not come. The peer is lost in either case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// The connection is gone.
    #[error(transparent)]
    Lost(#[from] PeerLost),
    /// The peer told something else; its connection was closed for that.
    #[error("the control stream is broken: {0}")]
    Malformed(#[from] DecodeError),
}

// === impl Inbox ===

impl Inbox {
    /// Starts reading what the peer opens, until the connection ends. Must be called on the runtime
    /// that drives the connection.
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

/// Reads the first frame of each stream, several at a time, so that one whose frame is slow to come
/// holds up no other. Those that ask for a certificate are answered here.
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
                            // A request that cannot be read was refused.
                            if let Ok((request, Stream { sender, receiver })) = incoming.take() {
                                // Nothing follows a request.
                                drop(receiver);
                                renewals.answer(request, sender).await;
                            }
                        }
                        // Without a reader it is dropped, which refuses it.
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
    /// The next stream the peer opened; `None` when the peer is lost. Cancel-safe.
    pub async fn next(&mut self) -> Option<Incoming> {
        self.queue.recv().await
    }
}

// === impl Notes ===

impl Notes {
    /// The next note, in the order they were told. Cancel-safe.
    ///
    /// # Errors
    /// When the peer is lost, or tells something that is no `N`: its connection is closed then.
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
            // A control stream ends with its connection only.
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
    /// What the peer asks for.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.opening.kind()
    }

    /// Serves the stream: its request, and both halves to answer it with. A call is answered with
    /// one message, then [`Sender::finish`].
    ///
    /// # Errors
    /// When the request is not an `R`; the peer is told.
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

    /// Takes the bytes of a bulk transfer.
    ///
    /// # Errors
    /// When the stream is none; the peer is told.
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
    /// What the bytes are, and how many.
    #[must_use]
    pub fn opening(&self) -> &BulkOpening {
        &self.opening
    }

    /// The next bytes, in order; `None` when all that were announced have come. Cancel-safe.
    ///
    /// # Errors
    /// See [`RecvError`]. A transfer that ends early is [`RecvError::Cancelled`], one that is
    /// longer than announced is cut off there.
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
        // A reset would overtake the end that says that everything was taken.
        if self.missing > 0 {
            self.taken.reset(StreamCode::Cancelled);
        }
    }
}
