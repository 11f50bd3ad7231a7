//! The settings and errors of quinn for this crate.

use std::sync::Arc;
use std::time::Duration;

use quinn::{ConnectionError, ReadError, TransportConfig, VarInt, WriteError};

use crate::close::{CloseCode, PeerLost};
use crate::config::LinkConfig;
use crate::stream_end::{StreamCode, StreamEnd};
use crate::turn_reason::TurnReason;

/// The maximum number of two-way streams that a peer may have open at once; quinn's 100 would hold back
/// the 101st generation.
pub(crate) const STREAMS_MAX: u32 = 4096;

/// The maximum number of bytes that a peer may send on one stream before they are read.
const STREAM_WINDOW: u32 = 1 << 20;

/// The same maximum for all streams of a connection together.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// The maximum number of written bytes that wait for their acknowledgement.
const SEND_WINDOW: u64 = 8 << 20;

/// The initial round trip time inside a cluster; with quinn's 333 ms the first lost packet would cost a
/// second.
const INITIAL_RTT: Duration = Duration::from_millis(50);

/// The maximum number of bytes of a close reason that are kept.
const REASON_BYTES_MAX: usize = 512;

/// QUIC's error codes from here to [`CRYPTO_END`] are TLS alerts (RFC 9001, 4.8).
const CRYPTO_BEGIN: u64 = 0x100;
const CRYPTO_END: u64 = 0x200;

/// The alert `certificate_expired` (RFC 8446, 6.2), which rustls also sends for a certificate that is not
/// valid yet.
const CERTIFICATE_EXPIRED: u64 = CRYPTO_BEGIN + 45;

/// The text that rustls puts before the problem of a certificate.
const CERTIFICATE_PREFIX: &str = "invalid peer certificate: ";

pub(crate) fn transport(config: &LinkConfig) -> Arc<TransportConfig> {
    let mut transport = TransportConfig::default();
    let idle = u32::try_from(config.idle.as_millis()).unwrap_or(u32::MAX);
    transport
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        // The control stream.
        .max_concurrent_uni_streams(1u32.into())
        .max_idle_timeout(Some(VarInt::from_u32(idle).into()))
        .keep_alive_interval(Some(config.keep_alive))
        .stream_receive_window(STREAM_WINDOW.into())
        .receive_window(CONNECTION_WINDOW.into())
        .send_window(SEND_WINDOW)
        .initial_rtt(INITIAL_RTT)
        .datagram_receive_buffer_size(None);
    Arc::new(transport)
}

pub(crate) fn peer_lost(error: &ConnectionError) -> PeerLost {
    match error {
        ConnectionError::TimedOut => PeerLost::TimedOut,
        ConnectionError::LocallyClosed => PeerLost::Local,
        ConnectionError::Reset => PeerLost::Reset,
        ConnectionError::ApplicationClosed(close) => {
            CloseCode::heard(close.error_code.into(), text(&close.reason))
        }
        ConnectionError::ConnectionClosed(close)
            if u64::from(close.error_code) == CERTIFICATE_EXPIRED =>
        {
            PeerLost::Expired(untimely(&close.reason))
        }
        ConnectionError::ConnectionClosed(close) => {
            transport_failure(close.error_code.into(), &format!("the peer says: {close}"))
        }
        ConnectionError::TransportError(error) => {
            transport_failure(error.code.into(), &error.to_string())
        }
        ConnectionError::VersionMismatch | ConnectionError::CidsExhausted => {
            PeerLost::Protocol(error.to_string())
        }
    }
}

/// Returns the reason why an incoming connection failed.
pub(crate) fn turned_away(error: &ConnectionError) -> TurnReason {
    match error {
        ConnectionError::TransportError(error) if u64::from(error.code) == CERTIFICATE_EXPIRED => {
            TurnReason::Expired(untimely(error.reason.as_bytes()))
        }
        error => TurnReason::Lost(peer_lost(error)),
    }
}

/// Returns when a certificate was or will be valid, and the time of the judging clock, in rustls' words.
fn untimely(reason: &[u8]) -> String {
    let text = text(reason);
    text.strip_prefix(CERTIFICATE_PREFIX).unwrap_or(&text).to_owned()
}

fn transport_failure(code: u64, detail: &str) -> PeerLost {
    let detail = text(detail.as_bytes());
    match (CRYPTO_BEGIN..CRYPTO_END).contains(&code) {
        true => PeerLost::Certificate(detail),
        false => PeerLost::Protocol(detail),
    }
}

/// Returns a text of the peer as one printable line of bounded length.
fn text(reason: &[u8]) -> String {
    let reason = String::from_utf8_lossy(&reason[..reason.len().min(REASON_BYTES_MAX)]);
    reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

pub(crate) fn write_end(
    error: &WriteError,
    lost: impl FnOnce(&ConnectionError) -> PeerLost,
) -> StreamEnd {
    match error {
        WriteError::Stopped(code) => given_up(*code),
        WriteError::ConnectionLost(error) => StreamEnd::Lost(lost(error)),
        WriteError::ClosedStream | WriteError::ZeroRttRejected => {
            StreamEnd::GivenUp(StreamCode::Cancelled)
        }
    }
}

pub(crate) fn read_end(
    error: &ReadError,
    lost: impl FnOnce(&ConnectionError) -> PeerLost,
) -> StreamEnd {
    match error {
        ReadError::Reset(code) => given_up(*code),
        ReadError::ConnectionLost(error) => StreamEnd::Lost(lost(error)),
        ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
            StreamEnd::GivenUp(StreamCode::Cancelled)
        }
    }
}

fn given_up(code: VarInt) -> StreamEnd {
    StreamEnd::GivenUp(StreamCode::from_number(code.into_inner()))
}
