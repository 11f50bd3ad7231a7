//! Requests that are refused because of their heads, by hyper, by a deadline, or over HTTP/2 because of
//! their size.
//!
//! Any other invalid head of HTTP/2 ends its stream or its connection, with an error code of the standard.

use std::fmt;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::uri::{Authority, PathAndQuery};
use hyper::{Request, Response, StatusCode, Version};

/// The maximum number of fields in the head of a request of HTTP/1.1.
pub(crate) const FIELDS_MAX: usize = 100;

/// The size of a field of a head beside its name and its value, as HTTP/2 counts.
const FIELD_BYTES: usize = 32;

/// The media type of an explanation.
const JSON: &str = "application/json";

/// The reason why the head of a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The head was not complete within this time.
    HeadTimedOut(Duration),
    /// The head has too many fields, or more than this number of bytes.
    HeadTooLarge(usize),
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
            Self::HeadTooLarge(_) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::Malformed => StatusCode::BAD_REQUEST,
        }
    }

    /// Returns the code of the error, for programs.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::HeadTimedOut(_) => "headers_timeout",
            Self::HeadTooLarge(_) => "headers_too_large",
            Self::TargetTooLong => "uri_too_long",
            Self::Malformed => "malformed_http",
        }
    }

    /// Returns the refusal in a response without a body that hyper made of a request it could not parse, or
    /// whose head is larger than `bytes_max`.
    /// Our own responses all have a body, and a body of ours (JSON) has no bare line feed, so none of
    /// them is mistaken for such a response.
    pub(crate) fn of_bare(bytes: &[u8], bytes_max: usize) -> Option<Self> {
        let status = bytes.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
        let empty = b"\r\ncontent-length: 0\r\n";
        let is_bare = status[0] == b'4'
            && bytes.ends_with(b"\r\n\r\n")
            && bytes.windows(empty.len()).any(|window| window == empty);
        is_bare.then_some(match status {
            b"431" => Self::HeadTooLarge(bytes_max),
            b"414" => Self::TargetTooLong,
            _ => Self::Malformed,
        })
    }

    /// Returns the refusal of a request over HTTP/2 whose head is larger than `bytes_max`. Over HTTP/1.1 hyper
    /// itself refuses such a head.
    pub(crate) fn of_head<B>(request: &Request<B>, bytes_max: usize) -> Option<Self> {
        let is_too_large = request.version() == Version::HTTP_2 && head_bytes(request) > bytes_max;
        is_too_large.then_some(Self::HeadTooLarge(bytes_max))
    }

    /// Returns the whole response over HTTP/1.1, with the end of its connection.
    pub(crate) fn http1_response(self, explain: Explain) -> BytesMut {
        let status = self.status();
        let bare = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
        self.explained(bare.as_bytes(), explain)
    }

    /// Returns the response `bare` over HTTP/1.1 with a body added.
    pub(crate) fn explained(self, bare: &[u8], explain: Explain) -> BytesMut {
        let body = explain(self);
        let head = String::from_utf8_lossy(bare);
        let fields = format!("content-type: {JSON}\r\ncontent-length: {}", body.len());
        let head = head.replacen("content-length: 0", &fields, 1);
        let mut response = BytesMut::from(head.as_bytes());
        response.extend_from_slice(&body);
        response
    }

    /// Returns the response over HTTP/2, whose connection goes on.
    pub(crate) fn http2_response(self, explain: Explain) -> Response<Body> {
        let mut response = Response::new(Body::from(explain(self)));
        *response.status_mut() = self.status();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
        response
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeadTimedOut(limit) => {
                write!(f, "the headers of the request did not arrive within {limit:?}")
            }
            Self::HeadTooLarge(bytes_max) => write!(
                f,
                "the headers of the request are too large or too many: at most {bytes_max} bytes, and over \
                 HTTP/1.1 at most {FIELDS_MAX} fields"
            ),
            Self::TargetTooLong => f.write_str("the request target is too long"),
            Self::Malformed => f.write_str("the request is not valid HTTP/1.1"),
        }
    }
}

/// Returns the size of the head of a request, as HTTP/2 counts.
fn head_bytes<B>(request: &Request<B>) -> usize {
    let fields = request.headers().iter();
    let fields = fields.map(|(name, value)| (name.as_str().len(), value.len()));
    let (method, uri) = (request.method().as_str(), request.uri());
    let pseudo_fields = [
        (":method", Some(method)),
        (":scheme", uri.scheme_str()),
        (":authority", uri.authority().map(Authority::as_str)),
        (":path", uri.path_and_query().map(PathAndQuery::as_str)),
    ];
    let pseudo_fields =
        pseudo_fields.into_iter().filter_map(|(name, value)| Some((name.len(), value?.len())));
    fields.chain(pseudo_fields).map(|(name, value)| name + value + FIELD_BYTES).sum()
}
