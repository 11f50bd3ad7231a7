//! A connection and its streams of bytes, over QUIC or in memory.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::close::{CloseCode, PeerLost};
use crate::stream_end::{StreamCode, StreamEnd};
use crate::{quic, twin};

/// A connection over QUIC or in memory. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    transport: Transport,
    /// The cause of the end, set when this side closes the connection.
    cause: Arc<OnceLock<PeerLost>>,
}

#[derive(Clone, Debug)]
pub(crate) enum Transport {
    Quic(quinn::Connection),
    Twin(twin::End),
}

/// The half of a stream that bytes are written to.
#[derive(Debug)]
pub(crate) struct SendHalf {
    stream: SendStream,
    connection: Connection,
}

/// The half of a stream that bytes are read from.
#[derive(Debug)]
pub(crate) struct RecvHalf {
    stream: RecvStream,
    connection: Connection,
}

#[derive(Debug)]
enum SendStream {
    Quic(quinn::SendStream),
    Twin(twin::TwinSendStream),
}

#[derive(Debug)]
enum RecvStream {
    Quic(quinn::RecvStream),
    Twin(twin::TwinRecvStream),
}

// === impl Connection ===

impl Connection {
    pub(crate) fn new(transport: Transport) -> Self {
        Self { transport, cause: Arc::default() }
    }

    /// Opens a stream that both sides write to. Waits while as many streams are open as the peer allows.
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

    /// Opens a stream that only this side writes to.
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

    /// Returns the next stream that the other side opened with [`Self::open`]. Cancel-safe.
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

    /// Returns the next stream that the other side opened with [`Self::open_one_way`]. Cancel-safe.
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

    /// Ends the connection. Bytes that were written but not sent are lost.
    pub(crate) fn close(&self, code: CloseCode, cause: PeerLost, reason: &str) {
        // The first cause counts.
        drop(self.cause.set(cause));
        match &self.transport {
            Transport::Quic(connection) => {
                connection.close(code.number().into(), reason.as_bytes());
            }
            Transport::Twin(end) => end.close(code, reason),
        }
    }

    /// Waits for the end of the connection, and returns its cause.
    pub(crate) async fn closed(&self) -> PeerLost {
        match &self.transport {
            Transport::Quic(connection) => self.lost(&connection.closed().await),
            Transport::Twin(end) => self.explained(end.closed().await),
        }
    }

    /// Returns whether `other` is a clone of this connection.
    pub(crate) fn same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.cause, &other.cause)
    }

    fn lost(&self, error: &quinn::ConnectionError) -> PeerLost {
        self.explained(quic::peer_lost(error))
    }

    /// Returns the cause that this side gave, if this side ended the connection; otherwise `lost`.
    fn explained(&self, lost: PeerLost) -> PeerLost {
        match lost {
            PeerLost::Local => self.cause.get().cloned().unwrap_or(PeerLost::Local),
            lost => lost,
        }
    }

    /// Returns the same for a stream that ended with the connection.
    fn explained_end(&self, end: StreamEnd) -> StreamEnd {
        match end {
            StreamEnd::Lost(lost) => StreamEnd::Lost(self.explained(lost)),
            end => end,
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
    /// Writes all of `bytes`, and removes from them what was written. Cancel-safe: the bytes that remain
    /// in `bytes` were not written. Waits while the other side does not read.
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
                    written.map_err(|end| self.connection.explained_end(end))?;
                }
            }
        }
        Ok(())
    }

    /// Ends the stream after the bytes written so far.
    pub(crate) fn finish(&mut self) {
        match &mut self.stream {
            // Fails only when the stream is given up already.
            SendStream::Quic(stream) => drop(stream.finish()),
            SendStream::Twin(stream) => stream.finish(),
        }
    }

    /// Gives the stream up; written bytes may not arrive.
    pub(crate) fn reset(&mut self, code: StreamCode) {
        match &mut self.stream {
            SendStream::Quic(stream) => drop(stream.reset(code.number().into())),
            SendStream::Twin(stream) => stream.reset(code),
        }
    }

    /// Sets the priority of the stream; higher goes first.
    pub(crate) fn set_priority(&self, priority: i32) {
        match &self.stream {
            SendStream::Quic(stream) => drop(stream.set_priority(priority)),
            // The twin's network has no bottleneck.
            SendStream::Twin(_) => {}
        }
    }
}

// === impl RecvHalf ===

impl RecvHalf {
    /// Returns the next bytes, in order, at most `max`; `None` at the end. Cancel-safe.
    pub(crate) async fn read(&mut self, max: usize) -> Result<Option<Bytes>, StreamEnd> {
        match &mut self.stream {
            RecvStream::Quic(stream) => match stream.read_chunk(max, true).await {
                Ok(chunk) => Ok(chunk.map(|chunk| chunk.bytes)),
                Err(error) => Err(quic::read_end(&error, |e| self.connection.lost(e))),
            },
            RecvStream::Twin(stream) => {
                stream.read(max).await.map_err(|end| self.connection.explained_end(end))
            }
        }
    }

    /// Asks the other side to stop writing; the bytes that it wrote are dropped.
    pub(crate) fn stop(&mut self, code: StreamCode) {
        match &mut self.stream {
            RecvStream::Quic(stream) => drop(stream.stop(code.number().into())),
            RecvStream::Twin(stream) => stream.stop(code),
        }
    }
}
