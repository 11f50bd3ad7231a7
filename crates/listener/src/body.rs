//! The body of a response while hyper sends it.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::piece::{Piece, Unsent};
use crate::turn::Busy;

/// The largest piece that an HTTP/2 stream is given at once. The stream holds the piece until the
/// client's window has room; this size fits into a frame unless the client sets another maximum.
const PIECE_BYTES: usize = 16 << 10;

/// A response body that holds the turn until it is sent.
pub(crate) struct Guarded {
    body: Body,
    /// The pieces that hyper was given, over HTTP/2; frames are given whole over HTTP/1.1.
    unsent: Option<Arc<Unsent>>,
    /// The rest of a frame that was larger than a piece.
    rest: Bytes,
    /// Whether the body has given its last frame.
    ended: bool,
    _busy: Busy,
}

// === impl Guarded ===

impl Guarded {
    /// Guards the body of an answer, which the task that calls this sends.
    pub(crate) fn new(body: Body, busy: Busy) -> Self {
        Self { body, unsent: Unsent::of_task(), rest: Bytes::new(), ended: false, _busy: busy }
    }
}

impl http_body::Body for Guarded {
    type Data = Piece;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let Self { body, unsent, rest, ended, _busy } = self.get_mut();
        let mut body = Pin::new(body);
        let Some(unsent) = unsent else { return body.poll_frame(cx).map_ok(whole) };
        if rest.is_empty() && !*ended {
            match ready!(body.as_mut().poll_frame(cx)?) {
                Some(frame) => match frame.into_data() {
                    Ok(data) => *rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(whole(trailers)))),
                },
                None => *ended = true,
            }
        }
        if *ended {
            // The stream ends with its body, and a stream that has ended cannot be reset.
            return unsent.poll_sent(cx).map(|()| None);
        }
        let piece = rest.split_to(PIECE_BYTES.min(rest.len()));
        Poll::Ready(Some(Ok(Frame::data(Piece::new(piece, Some(unsent))))))
    }

    fn is_end_stream(&self) -> bool {
        let sent = self.unsent.as_ref().is_none_or(|unsent| unsent.is_empty());
        self.rest.is_empty() && self.body.is_end_stream() && sent
    }

    fn size_hint(&self) -> SizeHint {
        let (body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

/// Returns a frame whose bytes no stream holds.
fn whole(frame: Frame<Bytes>) -> Frame<Piece> {
    frame.map_data(|bytes| Piece::new(bytes, None))
}
