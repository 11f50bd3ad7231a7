//! Peers: processes that know each other by certificate and talk over one QUIC connection.
//!
//! - **LK-1** a [`Peer::call`] ends in a reply or a typed error, at its deadline at the latest.
//! - **LK-2** dropping either half of a stream tells the other side at once; a reader that is slow
//!   holds its writer back, and nobody else.
//! - **LK-3** what is [told](Peer::tell) arrives in order, or the peer is lost. The queue is bounded
//!   in messages and bytes; telling never waits.
//! - **LK-4** a peer that hangs or cannot be reached is [lost](Peer::lost) within the idle timeout;
//!   a busy process is not, because the link runs on a thread of its own (**G3**).
//! - **LK-5** a lost peer stays lost. A new connection is a new [`Peer`], and nothing that was sent
//!   to the old one is sent again.
//! - **LK-6** both ends of a connection have proved their identity: the certificate of a common
//!   authority says role and name, and the hello may not say otherwise.
//! - **LK-7** a join token lets one node in, once, before it expires; its secret never travels, and
//!   the joiner talks to nobody but the authority the token names.
//! - **LK-8** whatever arrives from outside costs bounded memory and ends as a typed error on both
//!   sides; other peers do not notice.
//! - **LK-9** two live connections never have the same peer: while one process answers, every other of
//!   the same name is refused, whichever of them started first; a process that connects again replaces its
//!   own connection at once, and one that has ended is replaced when its silence is noticed.
//! - **LK-10** a node whose certificate was revoked gets no further than its hello; a later certificate
//!   for the same name, for a new token, is good.
//! - **LK-11** who only begins to shake hands, and whose address is not its own, takes nobody's place:
//!   under load an address is proved first, and no address has all places.
//! - **LK-12** a certificate that has ended is refused in the handshake, and one that was made by a clock
//!   a little ahead is not. A connected peer gets its next one in time, for its own name only and unless
//!   it was revoked; connections that stand are not touched by that.
//!
//! Who dials is up to the caller: between two processes it is always the same one. Not here: what
//! messages mean (see `wire`), and what is done about a lost peer (see `cluster`).
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
