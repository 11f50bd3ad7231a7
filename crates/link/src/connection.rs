//! One connection and its streams, over QUIC or in memory. Bytes only.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::{quic, twin};

/// Why a stream was given up; the other side reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamCode {
    /// Its owner dropped it.
    Cancelled,
    /// Nobody serves this kind of stream.
    NotServed,
    /// Its bytes were no frames, or not of the right kind.
    Malformed,
}

/// Why a connection ended; the other side reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CloseCode {
    /// Nothing is wrong.
    Bye,
    /// The same start of the peer has connected again.
    Superseded,
    /// The other side broke the protocol, as the reason says.
    Protocol,
}

/// Why a peer is no longer connected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PeerLost {
    /// Nothing was heard for the idle timeout.
    #[error("nothing was heard from the peer for the idle timeout")]
    TimedOut,
    /// The peer ended the connection.
    #[error("the peer closed the connection: {0}")]
    Closed(String),
    /// This side ended the connection.
    #[error("the connection was closed here")]
    Local,
    /// The same process has connected again, because it had lost this connection.
    #[error("a new connection of the same process has taken its place")]
    Superseded,
    /// One side broke the protocol.
    #[error("protocol error: {0}")]
    Protocol(String),
    /// A certificate was not accepted.
    #[error("certificate refused: {0}")]
    Certificate(String),
    /// The peer does not accept our certificate, because it is not good any more, or not yet.
    #[error("the peer refuses this process's certificate: {0}")]
    Expired(String),
    /// The machine answers, but knows nothing of the connection: the process behind the address is
    /// another one now, or one of both sides stood still for longer than the idle timeout.
    #[error("the peer has forgotten the connection: it gave it up, or its process is a new one")]
    Reset,
}

/// A connection. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    transport: Transport,
    /// Set by whoever closes it on this side.
    cause: Arc<OnceLock<PeerLost>>,
}

#[derive(Clone, Debug)]
pub(crate) enum Transport {
    Quic(quinn::Connection),
    Twin(twin::End),
}

/// Where bytes go.
#[derive(Debug)]
pub(crate) struct SendHalf {
    stream: SendStream,
    connection: Connection,
}

/// Where bytes come from.
#[derive(Debug)]
pub(crate) struct RecvHalf {
    stream: RecvStream,
    connection: Connection,
}

#[derive(Debug)]
enum SendStream {
    Quic(quinn::SendStream),
    Twin(twin::SendStream),
}

#[derive(Debug)]
enum RecvStream {
    Quic(quinn::RecvStream),
    Twin(twin::RecvStream),
}

/// Why bytes were not taken, or did not come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// The other side gave the stream up.
    GivenUp(StreamCode),
    /// With its connection.
    Lost(PeerLost),
}

// === impl StreamCode ===

impl StreamCode {
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Cancelled => 0,
            Self::NotServed => 1,
            Self::Malformed => 2,
        }
    }

    pub(crate) fn from_number(number: u64) -> Self {
        match number {
            1 => Self::NotServed,
            2 => Self::Malformed,
            _ => Self::Cancelled,
        }
    }
}

// === impl CloseCode ===

impl CloseCode {
    pub(crate) fn number(self) -> u32 {
        match self {
            Self::Bye => 0,
            Self::Superseded => 1,
            Self::Protocol => 2,
        }
    }

    /// What the other side makes of it.
    pub(crate) fn heard(number: u64, reason: String) -> PeerLost {
        match number {
            1 => PeerLost::Superseded,
            2 => PeerLost::Protocol(reason),
            _ => PeerLost::Closed(reason),
        }
    }
}

// === impl Connection ===

impl Connection {
    pub(crate) fn new(transport: Transport) -> Self {
        Self { transport, cause: Arc::default() }
    }

    /// Opens a stream both sides write to. Waits while as many are open as the peer allows.
    pub(crate) async fn open(&self) -> Result<(SendHalf, RecvHalf), PeerLost> {
        let (send, recv) = match &self.transport {
            Transport::Quic(connection) => {
                let opened = connection.open_bi().await;
                let (send, recv) = opened.map_err(|error| self.lost(&error))?;
                (SendStream::Quic(send), RecvStream::Quic(recv))
            }
            Transport::Twin(end) => {
                let (send, recv) = end.open(true).map_err(|lost| self.explained(lost))?;
                (SendStream::Twin(send), RecvStream::Twin(recv))
            }
        };
        Ok((self.send_half(send), self.recv_half(recv)))
    }

    /// Opens a stream only this side writes to.
    pub(crate) async fn open_one_way(&self) -> Result<SendHalf, PeerLost> {
        let send = match &self.transport {
            Transport::Quic(connection) => {
                let opened = connection.open_uni().await;
                SendStream::Quic(opened.map_err(|error| self.lost(&error))?)
            }
            Transport::Twin(end) => {
                let (send, _) = end.open(false).map_err(|lost| self.explained(lost))?;
                SendStream::Twin(send)
            }
        };
        Ok(self.send_half(send))
    }

    /// The next stream the other side opened with [`Self::open`]. Cancel-safe.
    pub(crate) async fn accept(&self) -> Result<(SendHalf, RecvHalf), PeerLost> {
        let (send, recv) = match &self.transport {
            Transport::Quic(connection) => {
                let opened = connection.accept_bi().await;
                let (send, recv) = opened.map_err(|error| self.lost(&error))?;
                (SendStream::Quic(send), RecvStream::Quic(recv))
            }
            Transport::Twin(end) => {
                let (send, recv) = end.accept(true).await.map_err(|lost| self.explained(lost))?;
                (SendStream::Twin(send), RecvStream::Twin(recv))
            }
        };
        Ok((self.send_half(send), self.recv_half(recv)))
    }

    /// The next stream the other side opened with [`Self::open_one_way`]. Cancel-safe.
    pub(crate) async fn accept_one_way(&self) -> Result<RecvHalf, PeerLost> {
        let recv = match &self.transport {
            Transport::Quic(connection) => {
                let opened = connection.accept_uni().await;
                RecvStream::Quic(opened.map_err(|error| self.lost(&error))?)
            }
            Transport::Twin(end) => {
                let (_, recv) = end.accept(false).await.map_err(|lost| self.explained(lost))?;
                RecvStream::Twin(recv)
            }
        };
        Ok(self.recv_half(recv))
    }

    /// Ends the connection. What was written and has not left is lost.
    pub(crate) fn close(&self, code: CloseCode, cause: PeerLost, reason: &str) {
        // The first cause stands.
        drop(self.cause.set(cause));
        match &self.transport {
            Transport::Quic(connection) => {
                connection.close(code.number().into(), reason.as_bytes());
            }
            Transport::Twin(end) => end.close(code, reason),
        }
    }

    /// Waits for the end, and says why it came.
    pub(crate) async fn closed(&self) -> PeerLost {
        match &self.transport {
            Transport::Quic(connection) => self.lost(&connection.closed().await),
            Transport::Twin(end) => self.explained(end.closed().await),
        }
    }

    /// Whether the other is a clone of this.
    pub(crate) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.cause, &other.cause)
    }

    fn lost(&self, error: &quinn::ConnectionError) -> PeerLost {
        self.explained(quic::peer_lost(error))
    }

    /// The cause given here, when the end came from here.
    fn explained(&self, lost: PeerLost) -> PeerLost {
        match lost {
            PeerLost::Local => self.cause.get().cloned().unwrap_or(PeerLost::Local),
            lost => lost,
        }
    }

    fn send_half(&self, stream: SendStream) -> SendHalf {
        SendHalf { stream, connection: self.clone() }
    }

    fn recv_half(&self, stream: RecvStream) -> RecvHalf {
        RecvHalf { stream, connection: self.clone() }
    }
}

// === impl SendHalf ===

impl SendHalf {
    /// Writes all of `bytes`, taking from them what was written. Cancel-safe: what is left in
    /// `bytes` was not written. Waits while the other side does not read.
    pub(crate) async fn write(&mut self, bytes: &mut Bytes) -> Result<(), StreamEnd> {
        while !bytes.is_empty() {
            match &mut self.stream {
                SendStream::Quic(stream) => {
                    let written = stream.write_chunks(std::slice::from_mut(bytes)).await;
                    written
                        .map_err(|error| quic::write_end(&error, |e| self.connection.lost(e)))?;
                }
                SendStream::Twin(stream) => {
                    let written = stream.write(bytes).await;
                    written.map_err(|end| end.explained(&self.connection))?;
                }
            }
        }
        Ok(())
    }

    /// No more bytes follow.
    pub(crate) fn finish(&mut self) {
        match &mut self.stream {
            // Fails only when it is given up already.
            SendStream::Quic(stream) => drop(stream.finish()),
            SendStream::Twin(stream) => stream.finish(),
        }
    }

    /// Gives the stream up; what was written may not arrive.
    pub(crate) fn reset(&mut self, code: StreamCode) {
        match &mut self.stream {
            SendStream::Quic(stream) => drop(stream.reset(code.number().into())),
            SendStream::Twin(stream) => stream.reset(code),
        }
    }

    /// Higher goes first.
    pub(crate) fn set_priority(&self, priority: i32) {
        match &self.stream {
            SendStream::Quic(stream) => drop(stream.set_priority(priority)),
            // Its network has no bottleneck.
            SendStream::Twin(_) => {}
        }
    }
}

// === impl RecvHalf ===

impl RecvHalf {
    /// The next bytes, in order, at most `max`; `None` at the end. Cancel-safe.
    pub(crate) async fn read(&mut self, max: usize) -> Result<Option<Bytes>, StreamEnd> {
        match &mut self.stream {
            RecvStream::Quic(stream) => match stream.read_chunk(max, true).await {
                Ok(chunk) => Ok(chunk.map(|chunk| chunk.bytes)),
                Err(error) => Err(quic::read_end(&error, |e| self.connection.lost(e))),
            },
            RecvStream::Twin(stream) => {
                stream.read(max).await.map_err(|end| end.explained(&self.connection))
            }
        }
    }

    /// Asks the other side to stop writing; what it wrote is dropped.
    pub(crate) fn stop(&mut self, code: StreamCode) {
        match &mut self.stream {
            RecvStream::Quic(stream) => drop(stream.stop(code.number().into())),
            RecvStream::Twin(stream) => stream.stop(code),
        }
    }
}

// === impl StreamEnd ===

impl StreamEnd {
    fn explained(self, connection: &Connection) -> Self {
        match self {
            Self::Lost(lost) => Self::Lost(connection.explained(lost)),
            end => end,
        }
    }
}
