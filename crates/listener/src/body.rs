//! The body of a response while hyper sends it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::Version;

use crate::streams;
use crate::turn::Busy;

/// The largest piece that an HTTP/2 stream is given at once. The stream holds the piece until the
/// client's window has room; this size fits into a frame unless the client sets another maximum.
const PIECE_BYTES: usize = 16 << 10;

/// A response body that holds the turn until it is sent.
pub(crate) struct Guarded {
    body: Body,
    /// Whether frames are given to hyper in pieces, as HTTP/2 needs.
    in_pieces: bool,
    /// The rest of a frame that was larger than a piece.
    rest: Bytes,
    _busy: Busy,
}

// === impl Guarded ===

impl Guarded {
    pub(crate) fn new(body: Body, version: Version, busy: Busy) -> Self {
        let in_pieces = version == Version::HTTP_2;
        Self { body, in_pieces, rest: Bytes::new(), _busy: busy }
    }

    fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let piece = self.rest.split_to(PIECE_BYTES.min(self.rest.len()));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        if !this.in_pieces {
            return Pin::new(&mut this.body).poll_frame(cx);
        }
        let piece = this.poll_piece(cx);
        streams::given(matches!(piece, Poll::Ready(Some(_))));
        piece
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
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
