//! Connections from outside, up to the authentication of their peers.

use std::net::SocketAddr;
use std::sync::Arc;

use playhouse_types::Epoch;
use playhouse_wire::{Hello, HelloReply, PeerId, Refusal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::close::{CloseCode, PeerLost};
use crate::connection::{Connection, SendHalf};
use crate::endpoint_state::EndpointState;
use crate::greeting::{self, NoGreeting, printable};
use crate::identity::Term;
use crate::inbox::Inbox;
use crate::peer::Peer;
use crate::renewal_service::RenewalService;
use crate::roster::{Live, NotEntered, PEERS_MAX};
use crate::turn_reason::TurnReason;

/// The number of idle timeouts after which the silence of an ended process has certainly been detected,
/// even just after a keep-alive. Shorter than a dialler waits for an answer.
const SILENCES: u32 = 2;

/// The queue of connections that come to an endpoint.
#[derive(Debug)]
pub struct Arrivals {
    pub(crate) queue: mpsc::Receiver<Knock>,
}

/// A report about a connection from outside.
#[derive(Debug)]
pub enum Knock {
    /// A peer of the cluster, to be admitted or refused.
    Peer(Box<Arrival>),
    /// A connection that was turned away. For logs: when many come at once, some are not reported.
    TurnedAway(TurnedAway),
}

/// A peer that has authenticated and sent its hello. Dropping an `Arrival` closes the connection.
#[derive(Debug)]
pub struct Arrival {
    peer: PeerId,
    hello: Hello,
    from: SocketAddr,
    connection: Connection,
    /// The stream of the answer, until it is used.
    answer: Option<SendHalf>,
    /// The term of the peer's certificate; the twin has none.
    term: Option<Term>,
    shared: Arc<EndpointState>,
}

/// A connection that failed before it became a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("turned away {from}: {reason}")]
pub struct TurnedAway {
    /// The address of its other side.
    pub from: SocketAddr,
    /// The reason of the failure.
    pub reason: TurnReason,
}

// === impl Arrivals ===

impl Arrivals {
    /// Returns the next report; `None` when the endpoint is gone. Cancel-safe.
    pub async fn next(&mut self) -> Option<Knock> {
        self.queue.recv().await
    }
}

// === impl Arrival ===

impl Arrival {
    /// Returns the identity of the peer, as its certificate says.
    #[must_use]
    pub fn peer(&self) -> &PeerId {
        &self.peer
    }

    /// Returns the hello of the peer; its name is that of the certificate.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Returns the address from which the peer connects.
    #[must_use]
    pub fn from(&self) -> SocketAddr {
        self.from
    }

    /// Admits the peer, and sends it our `epoch`. An older connection of the same start of the peer ends
    /// with [`PeerLost::Superseded`]. While another process of the same name answers, the peer is
    /// refused; if that process has ended, its silence shows that in time (**LK-9**).
    ///
    /// # Errors
    /// Returns a [`TurnReason`] when another process of the same name is connected, too many peers are,
    /// or the connection broke meanwhile.
    pub async fn admit(mut self, epoch: Epoch) -> Result<(Peer, Inbox), TurnReason> {
        match self.enter().await {
            Err(refusal) => {
                self.reply(&HelloReply::Refused(refusal.clone())).await;
                return Err(refusal.into());
            }
            Ok(None) => {}
            Ok(Some(replaced)) => {
                let reason = "the same process has connected again";
                replaced.close(CloseCode::Superseded, PeerLost::Superseded, reason);
            }
        }
        // From here the roster learns of the end of the connection.
        let enrollment = self.shared.enrollment().zip(self.term);
        let renewals = enrollment
            .map(|(enrollment, term)| RenewalService::new(enrollment, &self.peer, term.number));
        let (peer, inbox) = self.shared.start(&self.peer, &self.hello, &self.connection, renewals);
        let welcome = HelloReply::Welcome(self.shared.hello(epoch));
        let Some(answer) = self.answer.take() else { unreachable!("an arrival is answered once") };
        match greeting::say(answer, &welcome).await {
            Ok(()) => Ok((peer, inbox)),
            Err(NoGreeting::Lost(lost)) => Err(lost.into()),
            Err(_) => Err(TurnReason::Silent),
        }
    }

    /// Enters the peer into the roster. Waits for the end of another process of the same name, which this
    /// side may not have detected yet. Returns the connection that is replaced.
    async fn enter(&self) -> Result<Option<Connection>, Refusal> {
        let Self { peer, shared, .. } = self;
        let own = || Live {
            incarnation: self.hello.incarnation,
            from: self.from,
            connection: self.connection.clone(),
        };
        let mut entered = shared.roster.enter(peer, own());
        if let Err(NotEntered::Taken(other)) = &entered
            && timeout(shared.config.idle * SILENCES, other.connection.closed()).await.is_ok()
        {
            // The watcher of that connection may learn of its end a little later.
            shared.roster.leave(peer, &other.connection);
            entered = shared.roster.enter(peer, own());
        }
        entered.map_err(|why| match why {
            NotEntered::Taken(other) => {
                let (name, address) = (peer.to_string(), other.from.to_string());
                Refusal::DuplicateName { name, address }
            }
            NotEntered::Full => Refusal::Full(PEERS_MAX),
        })
    }

    /// Refuses the peer, and sends it the reason.
    pub async fn refuse(mut self, refusal: Refusal) {
        self.reply(&HelloReply::Refused(refusal)).await;
    }

    /// Sends the answer, and gives the other side the time to read it.
    async fn reply(&mut self, reply: &HelloReply) {
        if let Some(answer) = self.answer.take() {
            // A connection that is gone already needs no answer.
            drop(greeting::say(answer, reply).await);
            let patience = self.shared.config.idle;
            drop(timeout(patience, self.connection.closed()).await);
            self.connection.close(CloseCode::Bye, PeerLost::Local, "refused");
        }
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        if self.answer.is_some() {
            self.connection.close(CloseCode::Bye, PeerLost::Local, "not admitted");
        }
    }
}

/// Reads a connection's hello, and queues the arrival for the owner of the endpoint.
pub(crate) async fn receive(
    shared: Arc<EndpointState>,
    connection: Connection,
    certified: PeerId,
    term: Option<Term>,
    from: SocketAddr,
    queue: mpsc::Sender<Knock>,
) {
    let patience = shared.config.handshake;
    let heard = timeout(patience, greeting::hear::<Hello>(&connection)).await;
    let reason = match heard.unwrap_or(Err(NoGreeting::Silent)) {
        Ok((hello, answer)) => {
            let (peer, answer) = (certified, Some(answer));
            let mut arrival = Arrival { peer, hello, from, connection, answer, term, shared };
            let honest = arrival.hello.peer().is_ok_and(|peer| peer == arrival.peer);
            let enrollment = arrival.shared.enrollment().zip(term);
            let revoked = enrollment.is_some_and(|(enrollment, term)| {
                enrollment.has_revoked(&arrival.peer, term.number)
            });
            if honest && !revoked {
                if let Some((enrollment, term)) = enrollment {
                    enrollment.has_certificate(&arrival.peer, term.until);
                }
                // A full or closed queue drops the arrival, which closes its connection.
                drop(timeout(patience, queue.send(Knock::Peer(Box::new(arrival)))).await);
                return;
            }
            let certificate = arrival.peer.to_string();
            let refusal = if revoked {
                Refusal::Unexpected(format!("the certificate of {certificate} was revoked"))
            } else {
                let hello = format!("{} {}", arrival.hello.role, printable(&arrival.hello.name));
                Refusal::OtherIdentity { certificate, hello }
            };
            arrival.reply(&HelloReply::Refused(refusal.clone())).await;
            TurnReason::Refused(refusal)
        }
        Err(reason) => {
            // An answer that was sent must arrive before the end of the connection.
            let (wait, text) = (shared.config.idle, TurnReason::from(reason.clone()).to_string());
            if matches!(reason, NoGreeting::Preface(_)) {
                drop(timeout(wait, connection.closed()).await);
            }
            connection.close(CloseCode::Protocol, PeerLost::Local, &text);
            reason.into()
        }
    };
    turn_away(from, reason, &queue);
}

/// Reports the connection once in the log and once to the owner of the endpoint.
pub(crate) fn turn_away(from: SocketAddr, reason: TurnReason, queue: &mpsc::Sender<Knock>) {
    tracing::warn!(%from, %reason, "turned away");
    // Reports must not pile up, whatever their cause.
    drop(queue.try_send(Knock::TurnedAway(TurnedAway { from, reason })));
}
