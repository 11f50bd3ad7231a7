//! The first messages on a connection: prefaces, hello, answer.

use bytes::Bytes;
use playhouse_wire::{
    DecodeError, Hello, HelloReply, Message, PeerId, PrefaceError, Refusal, Request, check_preface,
    preface,
};

use crate::close::PeerLost;
use crate::connection::{Connection, SendHalf};
use crate::stream::{Frames, RecvError};
use crate::stream_end::StreamEnd;
use crate::turn_reason::TurnReason;

/// The reason why a greeting failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoGreeting {
    Preface(PrefaceError),
    Unreadable(DecodeError),
    Refused(Refusal),
    /// The hello of the other side has another identity than expected.
    Stranger(Hello),
    Silent,
    Lost(PeerLost),
}

/// Sends our hello, and returns the hello of the other side, which must be `expected`.
pub(crate) async fn say_hello(
    connection: &Connection,
    own: &Hello,
    expected: &PeerId,
) -> Result<Hello, NoGreeting> {
    match ask(connection, own).await? {
        HelloReply::Refused(refusal) => Err(NoGreeting::Refused(refusal)),
        HelloReply::Welcome(hello) => match hello.peer() {
            Ok(peer) if peer == *expected => Ok(hello),
            _ => Err(NoGreeting::Stranger(hello)),
        },
    }
}

/// Sends the first message of a connection, and returns the answer.
pub(crate) async fn ask<R: Request>(
    connection: &Connection,
    request: &R,
) -> Result<R::Reply, NoGreeting> {
    let (send, recv) = connection.open().await.map_err(NoGreeting::Lost)?;
    say(send, request).await?;
    let mut frames = Frames::new(recv);
    check_preface(frames.prefix().await?).map_err(NoGreeting::Preface)?;
    let frame = frames.next().await?.ok_or(NoGreeting::Silent)?;
    R::Reply::decode(&frame).map_err(NoGreeting::Unreadable)
}

/// Reads the first message of a connection. The caller must answer on the returned half.
pub(crate) async fn hear<R: Request>(connection: &Connection) -> Result<(R, SendHalf), NoGreeting> {
    let (mut send, recv) = connection.accept().await.map_err(NoGreeting::Lost)?;
    let mut frames = Frames::new(recv);
    if let Err(error) = check_preface(frames.prefix().await?) {
        // The other side detects the same mismatch from our preface.
        send.write(&mut Bytes::copy_from_slice(&preface())).await?;
        send.finish();
        return Err(NoGreeting::Preface(error));
    }
    let frame = frames.next().await?.ok_or(NoGreeting::Silent)?;
    let request = R::decode(&frame).map_err(NoGreeting::Unreadable)?;
    Ok((request, send))
}

/// Sends the only message of this direction, after the preface.
pub(crate) async fn say<M: Message>(mut send: SendHalf, message: &M) -> Result<(), NoGreeting> {
    let mut bytes = preface().to_vec();
    // A refusal that is too long cannot be sent.
    message.encode_into(&mut bytes).map_err(|_| NoGreeting::Silent)?;
    send.write(&mut bytes.into()).await?;
    send.finish();
    Ok(())
}

// === impl NoGreeting ===

impl From<StreamEnd> for NoGreeting {
    fn from(end: StreamEnd) -> Self {
        match end {
            StreamEnd::Lost(lost) => Self::Lost(lost),
            StreamEnd::GivenUp(_) => Self::Silent,
        }
    }
}

impl From<RecvError> for NoGreeting {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Lost(lost) => Self::Lost(lost),
            RecvError::Malformed(error) => Self::Unreadable(error),
            RecvError::Cancelled | RecvError::NotServed | RecvError::Misunderstood => Self::Silent,
        }
    }
}

// === impl TurnReason ===

impl From<NoGreeting> for TurnReason {
    fn from(reason: NoGreeting) -> Self {
        match reason {
            NoGreeting::Preface(error) => Self::Preface(error),
            NoGreeting::Unreadable(error) => Self::Unreadable(error),
            NoGreeting::Refused(refusal) => Self::Refused(refusal),
            NoGreeting::Lost(lost) => Self::Lost(lost),
            NoGreeting::Stranger(_) | NoGreeting::Silent => Self::Silent,
        }
    }
}

/// Returns the beginning of an unverified name, in printable form.
pub(crate) fn printable(name: &str) -> String {
    name.chars().take(playhouse_wire::NAME_BYTES_MAX).flat_map(char::escape_default).collect()
}
