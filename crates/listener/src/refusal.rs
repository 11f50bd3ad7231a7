//! Requests that are refused because of their heads, by hyper or by a deadline.
//!
//! Over HTTP/1.1 only: an invalid head of HTTP/2 ends its stream or its connection, with an error code of
//! the standard.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::StatusCode;

/// The reason why the head of a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The head was not complete within this time.
    HeadTimedOut(Duration),
    /// The head has too many fields, or is too long.
    HeadTooLarge,
    /// The request target is too long.
    TargetTooLong,
    /// The head is not valid HTTP/1.1.
    Malformed,
}

/// Makes a JSON body for a [`Refusal`].
pub(crate) type Explain = fn(Refusal) -> Bytes;

// === impl Refusal ===

impl Refusal {
    /// Returns the status of the response.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::HeadTimedOut(_) => StatusCode::REQUEST_TIMEOUT,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Malformed => StatusCode::BAD_REQUEST,
        }
    }

    /// Returns the refusal in a response without a body that hyper made of a request it could not parse.
    /// Our own responses all have a body, and a body of ours (JSON) has no bare line feed, so none of
    /// them is mistaken for such a response.
    pub(crate) fn of_bare(bytes: &[u8]) -> Option<Self> {
        let status = bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
        let empty = b"\r\ncontent-length: 0\r\n";
        let is_bare = status[0] == b'4'
            && bytes.ends_with(b"\r\n\r\n")
            && bytes.windows(empty.len()).any(|window| window == empty);
        is_bare.then_some(match status {
            b"431" => Self::HeadTooLarge,
            b"414" => Self::TargetTooLong,
            _ => Self::Malformed,
        })
    }

    /// Returns the whole response.
    pub(crate) fn response(self, explain: Option<Explain>) -> BytesMut {
        let status = self.status();
        let bare = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        match explain {
            Some(explain) => self.explained(bare.as_bytes(), explain),
            None => bare.as_bytes().into(),
        }
    }

    /// Returns the response `bare` with a body added.
    pub(crate) fn explained(self, bare: &[u8], explain: Explain) -> BytesMut {
        let body = explain(self);
        let head = String::from_utf8_lossy(bare);
        let fields = format!("content-type: application/json\r\ncontent-length: {}", body.len());
        let head = head.replacen("content-length: 0", &fields, 1);
        let mut response = BytesMut::from(head.as_bytes());
        response.extend_from_slice(&body);
        response
    }
}
