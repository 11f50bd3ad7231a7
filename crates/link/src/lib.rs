//! Peers: processes that authenticate each other by certificate and talk over one QUIC connection.
//!
//! - **LK-1** a [`Peer::call`] ends in a reply or a typed error, at its deadline at the latest.
//! - **LK-2** dropping either half of a stream tells the other side at once; a slow reader holds back
//!   only its own writer.
//! - **LK-3** [told](Peer::tell) notes arrive in order, or the peer is lost. The queue is bounded in
//!   messages and bytes; telling never waits.
//! - **LK-4** a peer that hangs or cannot be reached is [lost](Peer::lost) within the idle timeout; a
//!   busy process is not, because the link runs on a thread of its own (**G3**).
//! - **LK-5** a lost peer stays lost. A new connection is a new [`Peer`], and messages to the old one are
//!   not sent again.
//! - **LK-6** both ends of a connection have proved their identity: the certificate of a common authority
//!   has the role and the name, and the hello must have the same.
//! - **LK-7** a join token lets one node in, once, before it expires; its secret is never sent, and the
//!   joiner talks only to the authority that the token names.
//! - **LK-8** any input from outside costs bounded memory and ends as a typed error on both sides; other
//!   peers are not affected.
//! - **LK-9** two live connections never have the same peer: while one process answers, every other of
//!   the same name is refused, whichever of them started first; a process that connects again replaces its
//!   own connection at once, and one that has ended is replaced when its silence is noticed.
//! - **LK-10** a node whose certificate was revoked gets no further than its hello; a later certificate
//!   for the same name, from a new token, is valid.
//! - **LK-11** a client that only begins handshakes, from an address that is not its own, keeps no other
//!   client out: under load an address is validated first, and no address gets all handshakes.
//! - **LK-12** an expired certificate is refused in the handshake, and a certificate made by a clock a
//!   little ahead is not. A connected peer gets its next certificate in time, for its own name only and
//!   unless the peer was revoked; existing connections are not affected by a renewal.
//!
//! The caller decides which side dials: between two processes it is always the same one. Not here: the
//! meaning of messages (see `wire`), and the reaction to a lost peer (see `cluster`).
#![forbid(unsafe_code)]

mod arrival;
mod backoff;
mod close;
mod config;
mod connection;
mod dial;
mod dial_again;
mod endpoint;
mod endpoint_state;
mod enrollment;
mod greeting;
mod handshakes;
mod identity;
mod inbox;
mod join;
mod peer;
mod quic;
mod random;
mod renewal;
mod renewal_service;
mod revocation;
mod roster;
mod runtime;
mod stream;
mod stream_end;
mod tls;
mod token;
mod turn_reason;
mod twin;

pub use arrival::{Arrival, Arrivals, Knock, TurnedAway};
pub use backoff::Backoff;
pub use close::PeerLost;
pub use config::LinkConfig;
pub use dial::DialError;
pub use dial_again::GaveUp;
pub use endpoint::{BindError, Endpoint};
pub use enrollment::{Enrollment, KeepRevocations, Renewal, TellRenewal};
pub use identity::{Authority, CERTIFICATE_LIFETIME, Identity, IdentityError, certificate_end};
pub use inbox::{BulkReader, Inbox, Incoming, NoteError, Notes, Streams};
pub use join::{JoinError, join};
pub use peer::{CallError, OpenError, Peer, TELL_BYTES_MAX, TELL_QUEUE_MAX, TellError};
pub use renewal::KeepIdentity;
pub use revocation::{BadRevocation, Revocations};
pub use stream::{BulkWriter, Receiver, RecvError, SendError, Sender, Stream};
pub use token::{BadToken, JoinToken};
pub use turn_reason::TurnReason;
pub use twin::Network;
