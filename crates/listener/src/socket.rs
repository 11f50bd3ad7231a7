//! A client's socket with the deadlines that hyper lacks. (Hyper counts the deadline of a head from the
//! end of the previous answer, so an idle connection would be closed as early as a slow one.)
//!
//! - **SOC-1** the head of a request must be complete `header_timeout` after its first byte, or it is
//!   answered with 408; on a new connection the first byte must come as soon. The preface of HTTP/2
//!   counts as the first head; **H2-3** covers later heads.
//! - **SOC-2** between requests a connection may be silent for `idle_timeout`. A client of HTTP/2 is then
//!   told to leave, and has `header_timeout` to do so.
//! - **SOC-3** a client that does not take a byte of its answer for `write_timeout` is disconnected.
//! - **SOC-4** a client of HTTP/1.1 that leaves while its answer is made is noticed at once, as long as it has
//!   sent no more than `head_bytes` ahead. (Hyper stops to read when it has bytes of a later request, such
//!   as a pipelined one or an empty line.)
//! - **SOC-5** the errors without a body that hyper itself writes over HTTP/1.1 (400, 414, 431) get the body
//!   that the service makes.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::refusal::{Explain, Refusal};
use crate::service::Service;
use crate::turn::Turn;

/// The first bytes that an HTTP/2 client sends.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The bytes of one look ahead.
const AHEAD_BYTES: usize = 8 << 10;

/// A stream, over TCP or TLS, that fails when the client is too slow or leaves.
pub(crate) struct Socket<S> {
    stream: S,
    turn: Turn,
    header_timeout: Duration,
    idle_timeout: Duration,
    write_timeout: Duration,
    head_bytes: usize,
    explain: Explain,
    protocol: Protocol,
    waiting: Waiting,
    /// The time since which no byte could be written.
    stalled: Option<Instant>,
    /// The bytes that are written in place of an error without a body.
    instead: BytesMut,
    /// Bytes of the client that hyper has not asked for yet, `ahead_max` at most (**SOC-4**).
    ahead: BytesMut,
    ahead_max: usize,
    /// Whether hyper waits for bytes of the client, and so learns by itself that the client leaves. Nothing
    /// is read ahead then: hyper would not look for it.
    is_read: bool,
    /// Fires at least every `header_timeout` while a deadline is pending. The timer is set again only
    /// when it fires, because deadlines move with every request and timers are not free.
    tick: Pin<Box<Sleep>>,
}

/// The protocol that the client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// Unknown so far: the client has sent this many bytes of the preface.
    Unknown(usize),
    Http1,
    Http2,
}

/// The next input that the client must send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// No input: the answer is ours to make.
    Answer,
    /// The first byte of a request, before this time.
    Request(Instant),
    /// The rest of a head, before this time.
    Head(Instant),
    /// The end of an HTTP/2 connection that the client was told to leave, before this time.
    Leave(Instant),
}

// === impl Protocol ===

impl Protocol {
    /// Returns the client's protocol after `bytes` more of its input.
    fn after(self, bytes: &[u8]) -> Self {
        let Self::Unknown(seen) = self else { return self };
        let rest = &PREFACE[seen..];
        let same = rest.iter().zip(bytes).take_while(|(left, right)| left == right).count();
        if same == rest.len() {
            Self::Http2
        } else if same < bytes.len() {
            Self::Http1
        } else {
            Self::Unknown(seen + same)
        }
    }
}

// === impl Socket ===

impl<S> Socket<S> {
    pub(crate) fn new(stream: S, service: &Service, turn: Turn) -> Self {
        let limits = &service.limits;
        let first = Instant::now() + limits.header_timeout;
        Self {
            stream,
            turn,
            header_timeout: limits.header_timeout,
            idle_timeout: limits.idle_timeout,
            write_timeout: limits.write_timeout,
            head_bytes: limits.head_bytes,
            explain: service.explain,
            protocol: Protocol::Unknown(0),
            waiting: Waiting::Request(first),
            stalled: None,
            instead: BytesMut::new(),
            ahead: BytesMut::new(),
            ahead_max: limits.head_bytes,
            is_read: false,
            tick: Box::pin(sleep_until(first)),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        let reading = match self.waiting {
            Waiting::Answer => None,
            Waiting::Request(deadline) | Waiting::Head(deadline) | Waiting::Leave(deadline) => {
                Some(deadline)
            }
        };
        let writing = self.stalled.map(|since| since + self.write_timeout);
        reading.into_iter().chain(writing).min()
    }

    /// Registers to be woken at the deadline; returns an error when the deadline has passed.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.tick.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let soon = now + self.header_timeout;
            self.expire(now);
            let next = match self.deadline() {
                Some(deadline) if deadline <= now => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the client is too slow"));
                }
                Some(deadline) => deadline.min(soon),
                None => soon,
            };
            self.tick.as_mut().reset(next);
        }
        Ok(())
    }

    /// Tells the client of an HTTP/2 connection to leave when the connection was idle for too long.
    fn expire(&mut self, now: Instant) {
        if self.protocol != Protocol::Http2 {
            return;
        }
        // Answers end without this socket, in the tasks of their streams.
        self.update();
        if let Waiting::Request(deadline) = self.waiting
            && deadline <= now
        {
            self.turn.expire();
            self.waiting = Waiting::Leave(now + self.header_timeout);
        }
    }

    /// Updates the deadline when an answer begins or ends.
    fn update(&mut self) {
        match (self.turn.is_busy(), self.waiting) {
            (true, _) => self.waiting = Waiting::Answer,
            (false, Waiting::Answer) => {
                self.waiting = Waiting::Request(Instant::now() + self.idle_timeout);
            }
            (false, _) => {}
        }
    }

    /// Updates the state from input of the client.
    fn read(&mut self, bytes: &[u8]) {
        let before = self.protocol;
        self.protocol = before.after(bytes);
        match (self.protocol, self.waiting) {
            (Protocol::Http2, _) if before != Protocol::Http2 => {
                self.waiting = Waiting::Request(Instant::now() + self.idle_timeout);
            }
            // Not every frame belongs to a request.
            (Protocol::Http2, _) => {}
            (_, Waiting::Request(_)) if !bytes.is_empty() => {
                self.waiting = Waiting::Head(Instant::now() + self.header_timeout);
            }
            _ => {}
        }
    }

    /// Records the `result` of a write: since when no byte could be written.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.turn.set_stalled(result.is_pending());
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        self.stalled.get_or_insert_with(Instant::now);
        self.poll_deadline(cx)?;
        Poll::Pending
    }
}

impl<S: AsyncRead + Unpin> Socket<S> {
    /// Reads ahead of hyper while it makes an answer and does not read itself, until nothing more has come.
    /// Returns an error when the client has left (**SOC-4**).
    fn poll_ahead(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.is_read || self.protocol != Protocol::Http1 || !self.turn.is_busy() {
            return Ok(());
        }
        let mut piece = [MaybeUninit::uninit(); AHEAD_BYTES];
        while self.ahead.len() < self.ahead_max {
            let mut buffer = ReadBuf::uninit(&mut piece);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer)? {
                Poll::Pending => break,
                Poll::Ready(()) if buffer.filled().is_empty() => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the client has left",
                    ));
                }
                Poll::Ready(()) => self.ahead.extend_from_slice(buffer.filled()),
            }
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.update();
        let before = buffer.filled().len();
        this.is_read = false;
        if !this.ahead.is_empty() {
            let count = this.ahead.len().min(buffer.remaining());
            buffer.put_slice(&this.ahead.split_to(count));
            this.read(&buffer.filled()[before..]);
            return Poll::Ready(Ok(()));
        }
        if Pin::new(&mut this.stream).poll_read(cx, buffer)?.is_ready() {
            this.read(&buffer.filled()[before..]);
            return Poll::Ready(Ok(()));
        }
        this.is_read = true;
        let passed = this.poll_deadline(cx);
        if passed.is_err() && matches!(this.waiting, Waiting::Head(_)) {
            // No other task writes, as no answer is being made. Best effort, as the client may be gone.
            let said = Refusal::HeadTimedOut(this.header_timeout).http1_response(this.explain);
            let _ = Pin::new(&mut this.stream).poll_write(cx, &said);
            let _ = Pin::new(&mut this.stream).poll_flush(cx);
        }
        passed?;
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(refusal) = Refusal::of_bare(bytes, this.head_bytes) {
            if this.instead.is_empty() {
                this.instead = refusal.explained(bytes, this.explain);
            }
            while !this.instead.is_empty() {
                let written = Pin::new(&mut this.stream).poll_write(cx, &this.instead);
                let count = ready!(this.written(cx, written))?;
                this.instead.advance(count);
            }
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.written(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = slices {
            return self.poll_write(cx, only);
        }
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS buffers some of the written bytes.
        let this = self.get_mut();
        this.poll_ahead(cx)?;
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.written(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_preface_is_known_in_any_pieces() {
        for cut in 0..=PREFACE.len() {
            let begun = Protocol::Unknown(0).after(&PREFACE[..cut]);
            let [whole, more] = [&PREFACE[cut..], &[&PREFACE[cut..], b"more"].concat()]
                .map(|rest| begun.after(rest));
            assert_eq!((whole, more), (Protocol::Http2, Protocol::Http2), "{cut}");
        }
        for other in [&b"GET / "[..], b"POST", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r ", b"\0"] {
            assert_eq!(Protocol::Unknown(0).after(other), Protocol::Http1);
        }
        assert_eq!(Protocol::Unknown(0).after(b"P").after(b"OST"), Protocol::Http1);
    }
}
