//! [`Peer`]: a connected process, with the calls, streams and notes to it.

use std::sync::Arc;

use bytes::Bytes;
use playhouse_types::Epoch;
use playhouse_wire::{BulkOpening, EncodeError, Hello, Message, Note, PeerId, Request};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::time::{Duration, timeout};

use crate::close::{CloseCode, PeerLost};
use crate::connection::{Connection, SendHalf};
use crate::runtime::LinkThread;
use crate::stream::{BulkWriter, Frames, Receiver, RecvError, SendError, Sender, Stream};
use crate::stream_end::StreamCode;

/// The maximum number of notes that wait to be written.
pub const TELL_QUEUE_MAX: usize = 1024;

/// The maximum number of bytes of notes that wait to be written.
pub const TELL_BYTES_MAX: usize = 4 << 20;

/// A process that this process is connected to. Clones share the connection, which closes with the last
/// of them. Every method is bounded in time or in memory.
#[derive(Clone, Debug)]
pub struct Peer {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: PeerId,
    hello: Hello,
    connection: Connection,
    notes: mpsc::Sender<Queued>,
    room: Arc<Semaphore>,
    lost: watch::Receiver<Option<PeerLost>>,
    /// The thread that drives the connection; `None` for the in-memory twin.
    _thread: Option<Arc<LinkThread>>,
}

/// One encoded note. Its bytes count as queued until the note is dropped.
#[derive(Debug)]
struct Queued {
    bytes: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

/// The reason why a call has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The deadline passed. The peer is told, but may have executed the call.
    #[error("no reply in {0:?}")]
    Timeout(Duration),
    /// The peer took the call and dropped it.
    #[error("the peer dropped the call without a reply")]
    Refused,
    /// The peer serves no such calls.
    #[error("the peer does not serve this kind of call")]
    NoSuchTarget,
    /// The peer is lost. It may have executed the call.
    #[error(transparent)]
    Lost(#[from] PeerLost),
    /// The request cannot be sent.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// One side could not read the message of the other.
    #[error("the call failed: {0}")]
    Broken(RecvError),
}

/// The reason why a stream was not opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The peer allows no more open streams, and no stream ended in time.
    #[error("no stream became free in {0:?}")]
    Timeout(Duration),
    /// The first message was not sent.
    #[error(transparent)]
    Send(#[from] SendError),
}

/// The reason why a note was not queued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TellError {
    /// The peer reads too slowly: [`TELL_QUEUE_MAX`] notes or [`TELL_BYTES_MAX`] bytes wait.
    #[error("the queue of notes is full ({TELL_QUEUE_MAX} notes or {TELL_BYTES_MAX} bytes)")]
    Full,
    /// The peer is lost.
    #[error(transparent)]
    Lost(#[from] PeerLost),
    /// The note cannot be sent.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

// === impl Peer ===

impl Peer {
    /// Returns the peer of a connection whose other side has proved to be `id`. Must be called on the
    /// runtime that drives the connection.
    pub(crate) fn start(
        id: PeerId,
        hello: Hello,
        connection: Connection,
        lost: watch::Receiver<Option<PeerLost>>,
        thread: Option<Arc<LinkThread>>,
    ) -> Self {
        let (notes, queue) = mpsc::channel(TELL_QUEUE_MAX);
        tokio::spawn(write_notes(connection.clone(), queue));
        let room = Arc::new(Semaphore::new(TELL_BYTES_MAX));
        let inner = Inner { id, hello, connection, notes, room, lost, _thread: thread };
        Self { inner: Arc::new(inner) }
    }

    /// Returns the identity of the peer, as its certificate says.
    #[must_use]
    pub fn id(&self) -> &PeerId {
        &self.inner.id
    }

    /// Returns the incarnation: the number of the peer's start.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.inner.hello.incarnation
    }

    /// Returns whether both are the same connection.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// Returns the epoch in the peer's hello.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.inner.hello.epoch
    }

    /// Sends a request, and waits for its one reply (**LK-1**). Dropping the future cancels the call.
    ///
    /// # Errors
    /// Returns a [`CallError`].
    pub async fn call<R: Request>(
        &self,
        request: R,
        deadline: Duration,
    ) -> Result<R::Reply, CallError> {
        let call = async {
            let Stream { sender, mut receiver } = self.begin(&request).await?;
            sender.finish().await?;
            receiver.next().await?.ok_or(CallError::Refused)
        };
        timeout(deadline, call).await.unwrap_or(Err(CallError::Timeout(deadline)))
    }

    /// Opens a stream with its first message. Dropping either half cancels the stream (**LK-2**).
    ///
    /// # Errors
    /// Returns an [`OpenError`]; `within` bounds the wait for a free stream.
    pub async fn open<R: Request>(
        &self,
        request: R,
        within: Duration,
    ) -> Result<Stream<R, R::Reply>, OpenError> {
        let opened = timeout(within, self.begin(&request)).await;
        Ok(opened.map_err(|_| OpenError::Timeout(within))??)
    }

    /// Opens a stream for `opening.bytes` raw bytes, which have the lowest priority.
    ///
    /// # Errors
    /// Returns an [`OpenError`]; `within` bounds the wait for a free stream.
    pub async fn open_bulk(
        &self,
        opening: BulkOpening,
        within: Duration,
    ) -> Result<BulkWriter, OpenError> {
        let open = async {
            let mut first = Vec::new();
            opening.encode_into(&mut first).map_err(SendError::from)?;
            let (half, taken) = self.inner.connection.open().await.map_err(SendError::from)?;
            half.set_priority(BulkOpening::KIND.priority());
            let mut writer = BulkWriter::new(half, taken, opening.bytes);
            writer.announce(first.into()).await?;
            Ok(writer)
        };
        timeout(within, open).await.unwrap_or(Err(OpenError::Timeout(within)))
    }

    /// Queues a note. Never waits; notes arrive in the order of the calls (**LK-3**).
    ///
    /// # Errors
    /// Returns a [`TellError`].
    pub fn tell<N: Note>(&self, note: &N) -> Result<(), TellError> {
        if let Some(lost) = self.inner.lost.borrow().clone() {
            return Err(lost.into());
        }
        let mut bytes = Vec::new();
        note.encode_into(&mut bytes)?;
        // A note has a few MiB at most, so its length fits.
        let size = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.inner.room).try_acquire_many_owned(size);
        let _room = room.map_err(|_| TellError::Full)?;
        self.inner.notes.try_send(Queued { bytes, _room }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => TellError::Full,
            mpsc::error::TrySendError::Closed(_) => TellError::Lost(self.why_lost()),
        })
    }

    /// Returns a receiver that becomes `Some` when the peer is lost, and stays so (**LK-5**).
    #[must_use]
    pub fn lost(&self) -> watch::Receiver<Option<PeerLost>> {
        self.inner.lost.clone()
    }

    /// Waits until the peer is lost, and returns the reason. The end of a stream may be seen a little
    /// earlier.
    pub async fn until_lost(&self) -> PeerLost {
        let mut lost = self.lost();
        let why = lost.wait_for(Option::is_some).await.ok().and_then(|why| why.clone());
        // The sender is gone without a reason when the runtime of the link ends.
        why.unwrap_or(PeerLost::Local)
    }

    /// Ends the connection; the peer reads the reason.
    pub fn close(&self, reason: &str) {
        self.inner.connection.close(CloseCode::Bye, PeerLost::Local, reason);
    }

    /// Returns the connection, for tests that send what no peer would.
    #[cfg(test)]
    pub(crate) fn connection(&self) -> &Connection {
        &self.inner.connection
    }

    fn why_lost(&self) -> PeerLost {
        self.inner.lost.borrow().clone().unwrap_or(PeerLost::Local)
    }

    async fn begin<R: Request>(&self, request: &R) -> Result<Stream<R, R::Reply>, SendError> {
        let (send, recv) = self.inner.connection.open().await?;
        let mut sender = Sender::new(send);
        let receiver = Receiver::new(Frames::new(recv));
        sender.send(request).await?;
        Ok(Stream { sender, receiver })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.connection.close(CloseCode::Bye, PeerLost::Local, "no longer needed");
    }
}

/// Writes notes until the connection or the peer is gone: all waiting notes in one write.
async fn write_notes(connection: Connection, mut queue: mpsc::Receiver<Queued>) {
    let mut control: Option<SendHalf> = None;
    let mut notes = Vec::new();
    while queue.recv_many(&mut notes, TELL_QUEUE_MAX).await > 0 {
        let half = match &mut control {
            Some(half) => half,
            empty => match connection.open_one_way().await {
                Ok(half) => {
                    half.set_priority(playhouse_wire::Kind::HeadNote.priority());
                    empty.insert(half)
                }
                Err(_) => return,
            },
        };
        let gathered: Vec<u8> = notes.iter().flat_map(|note| note.bytes.iter().copied()).collect();
        if half.write(&mut Bytes::from(gathered)).await.is_err() {
            return;
        }
        // The space of the notes is free only now.
        notes.clear();
    }
    if let Some(half) = &mut control {
        half.reset(StreamCode::Cancelled);
    }
}

// === impl CallError ===

impl From<SendError> for CallError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Cancelled => Self::Refused,
            SendError::NotServed => Self::NoSuchTarget,
            SendError::Lost(lost) => Self::Lost(lost),
            SendError::Encode(error) => Self::Encode(error),
        }
    }
}

impl From<RecvError> for CallError {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Cancelled => Self::Refused,
            RecvError::NotServed => Self::NoSuchTarget,
            RecvError::Lost(lost) => Self::Lost(lost),
            error => Self::Broken(error),
        }
    }
}
