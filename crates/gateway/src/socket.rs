//! A client's socket with deadlines, which hyper does not have (or, for headers, counts from the
//! end of the previous answer, so that an idle connection would be cut as early as a slow one).
//!
//! - **SOC-1** the head of a request must be complete `header_timeout` after its first byte, or it
//!   is answered with 408; on a new connection the first byte must come as soon.
//! - **SOC-2** between requests a connection may be silent for `idle_timeout`.
//! - **SOC-3** a client that does not take a byte of its answer for `write_timeout` is dropped.
//! - **SOC-4** the bare errors hyper itself writes (400, 414, 431) get a body in OpenAI's shape.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::http::StatusCode;
use bytes::{Buf, BytesMut};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::error::ApiError;
use crate::gateway::Limits;
use crate::json;

/// A stream, over TCP or TLS, that fails when the client is too slow.
pub(crate) struct Socket<S> {
    stream: S,
    turn: Turn,
    header_timeout: Duration,
    idle_timeout: Duration,
    write_timeout: Duration,
    waiting: Waiting,
    /// Since when no byte could be written.
    stalled: Option<Instant>,
    /// What is written in place of a bare error.
    instead: BytesMut,
    /// Fires at least every `header_timeout` while there is something to wait for. It is set again
    /// only when it fires: deadlines move with every request, and timers are not free.
    tick: Pin<Box<Sleep>>,
}

/// What the client is to send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// Nothing: we are to answer.
    Answer,
    /// The first byte of a request, before this time.
    Request(Instant),
    /// The rest of a head, before this time.
    Head(Instant),
}

/// How many answers are being made or sent: shared by a socket and the service behind it.
#[derive(Clone, Default)]
pub(crate) struct Turn(Arc<Answers>);

#[derive(Default)]
struct Answers {
    busy: AtomicUsize,
    /// There has been a request.
    asked: AtomicBool,
    /// The client does not take what is sent to it.
    stalled: AtomicBool,
}

/// While it lives, an answer is being made or sent.
pub(crate) struct Busy(Turn);

/// A response body that holds the turn until it is sent.
pub(crate) struct Guarded {
    body: axum::body::Body,
    _busy: Busy,
}

// === impl Turn ===

impl Turn {
    pub(crate) fn busy(&self) -> Busy {
        self.0.asked.store(true, Ordering::Relaxed);
        self.0.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// Nothing has been asked on this connection.
    pub(crate) fn is_new(&self) -> bool {
        !self.0.asked.load(Ordering::Relaxed)
    }

    /// The client lacks a part of an answer.
    pub(crate) fn is_unfinished(&self) -> bool {
        self.is_busy() || self.0.stalled.load(Ordering::Relaxed)
    }

    fn is_busy(&self) -> bool {
        self.0.busy.load(Ordering::Relaxed) > 0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

// === impl Guarded ===

impl Guarded {
    pub(crate) fn new(body: axum::body::Body, busy: Busy) -> Self {
        Self { body, _busy: busy }
    }
}

impl Body for Guarded {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Socket ===

impl<S> Socket<S> {
    pub(crate) fn new(stream: S, limits: &Limits) -> (Self, Turn) {
        let turn = Turn::default();
        let first = Instant::now() + limits.header_timeout;
        let socket = Self {
            stream,
            turn: turn.clone(),
            header_timeout: limits.header_timeout,
            idle_timeout: limits.idle_timeout,
            write_timeout: limits.write_timeout,
            waiting: Waiting::Request(first),
            stalled: None,
            instead: BytesMut::new(),
            tick: Box::pin(sleep_until(first)),
        };
        (socket, turn)
    }

    fn deadline(&self) -> Option<Instant> {
        let reading = match self.waiting {
            Waiting::Answer => None,
            Waiting::Request(deadline) | Waiting::Head(deadline) => Some(deadline),
        };
        let writing = self.stalled.map(|since| since + self.write_timeout);
        reading.into_iter().chain(writing).min()
    }

    /// Arranges to be woken by the deadline; an error when it has passed.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.tick.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let soon = now + self.header_timeout;
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

    /// Follows the turn: an answer begins, or ends.
    fn update(&mut self) {
        match (self.turn.is_busy(), self.waiting) {
            (true, _) => self.waiting = Waiting::Answer,
            (false, Waiting::Answer) => {
                self.waiting = Waiting::Request(Instant::now() + self.idle_timeout);
            }
            (false, _) => {}
        }
    }

    /// After writing `result`: keeps the time since which nothing moves.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        self.turn.0.stalled.store(result.is_pending(), Ordering::Relaxed);
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        self.stalled.get_or_insert_with(Instant::now);
        self.poll_deadline(cx)?;
        Poll::Pending
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
        if Pin::new(&mut this.stream).poll_read(cx, buffer)?.is_ready() {
            if let Waiting::Request(_) = this.waiting
                && buffer.filled().len() > before
            {
                this.waiting = Waiting::Head(Instant::now() + this.header_timeout);
            }
            return Poll::Ready(Ok(()));
        }
        let passed = this.poll_deadline(cx);
        if passed.is_err() && matches!(this.waiting, Waiting::Head(_)) {
            // Nobody else writes: no answer is being made. Best effort, as the client may be gone.
            let said = head_timed_out(this.header_timeout);
            let _ = Pin::new(&mut this.stream).poll_write(cx, &said);
            let _ = Pin::new(&mut this.stream).poll_flush(cx);
        }
        passed?;
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Some(status) = bare_error(bytes) {
            if this.instead.is_empty() {
                this.instead = with_body(bytes, status);
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
        // TLS keeps some of what was written.
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.written(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// The status of a response without a body that hyper made of a request it could not parse. Ours
/// all have a body, and a body of ours (JSON) has no bare line feed, so it is not mistaken for one.
fn bare_error(bytes: &[u8]) -> Option<StatusCode> {
    let status = bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    let empty = b"\r\ncontent-length: 0\r\n";
    let is_bare = status[0] == b'4'
        && bytes.ends_with(b"\r\n\r\n")
        && bytes.windows(empty.len()).any(|window| window == empty);
    is_bare.then(|| StatusCode::from_bytes(status).ok())?
}

/// The whole response to a head that does not end.
fn head_timed_out(limit: Duration) -> BytesMut {
    let status = StatusCode::REQUEST_TIMEOUT;
    let message = format!("the headers of the request did not arrive within {limit:?}");
    let bare = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    with_error(bare.as_bytes(), &ApiError::refused(status, "headers_timeout", message))
}

/// The same response with an error object.
fn with_body(head: &[u8], status: StatusCode) -> BytesMut {
    let (code, message) = match status {
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            ("headers_too_large", "the headers of the request are too many or too large")
        }
        StatusCode::URI_TOO_LONG => ("uri_too_long", "the request target is too long"),
        _ => ("malformed_http", "the request is not valid HTTP/1.1"),
    };
    with_error(head, &ApiError::refused(status, code, message))
}

fn with_error(head: &[u8], error: &ApiError) -> BytesMut {
    let mut body = BytesMut::new();
    json::write(&mut body, &error.body());
    let head = String::from_utf8_lossy(head);
    let fields = format!("content-type: application/json\r\ncontent-length: {}", body.len());
    let head = head.replacen("content-length: 0", &fields, 1);
    let mut response = BytesMut::from(head.as_bytes());
    response.extend_from_slice(&body);
    response
}
