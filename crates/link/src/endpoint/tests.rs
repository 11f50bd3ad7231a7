//! **LK-8**: input from hostile and broken processes. The tests speak QUIC with a valid certificate or
//! none and send what no peer would.

use bytes::Bytes;
use playhouse_wire::{
    DecodeError, FrameError, Hello, HelloReply, Kind, Message, NodeReply, NodeRequest,
    PREFACE_BYTES, PROTOCOL_VERSION, PrefaceError, Refusal, Role, preface, preface_of,
};
use tokio::net::UdpSocket;
use tokio::time::Duration;

use super::*;
use crate::arrival::TurnedAway;
use crate::identity::Authority;
use crate::peer::CallError;
use crate::stream::RecvError;

/// The timeouts of a head that is to give up soon, yet long enough for honest peers on a busy machine.
const IMPATIENCE: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(20);

/// A head, and the authority that it shares with the attackers.
struct Head {
    authority: Authority,
    arrivals: Arrivals,
    endpoint: Endpoint,
    addr: SocketAddr,
}

fn config() -> LinkConfig {
    LinkConfig::default()
}

fn id(role: Role, name: &str) -> PeerId {
    PeerId::new(role, name).expect("a name")
}

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn frame<M: Message>(message: &M) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode_into(&mut bytes).expect("short enough");
    bytes
}

fn hello(name: &str) -> Hello {
    Hello { role: Role::Node, name: name.to_owned(), incarnation: 1, epoch: Epoch(0) }
}

// === impl Head ===

impl Head {
    fn start() -> Self {
        Self::with(config())
    }

    fn with(config: LinkConfig) -> Self {
        let authority = Authority::new().expect("an authority");
        let identity = authority.identify(&id(Role::Head, "head")).expect("an identity");
        let (endpoint, arrivals) =
            Endpoint::bind(loopback(), &identity, 1, config).expect("a socket");
        let addr = endpoint.local_addr().expect("an address");
        Self { authority, arrivals, endpoint, addr }
    }

    fn node(&self, name: &str) -> (Endpoint, Arrivals) {
        let identity = self.authority.identify(&id(Role::Node, name)).expect("an identity");
        Endpoint::bind(loopback(), &identity, 1, config()).expect("a socket")
    }

    /// A bare QUIC connection with the certificate of node `evil`.
    async fn raw(&self) -> (quinn::Endpoint, quinn::Connection) {
        let identity = self.authority.identify(&id(Role::Node, "evil")).expect("an identity");
        let client = tls::client(&identity, &config()).expect("a configuration");
        self.raw_with(client).await
    }

    async fn raw_with(&self, client: quinn::ClientConfig) -> (quinn::Endpoint, quinn::Connection) {
        let endpoint = quinn::Endpoint::client(loopback()).expect("a socket");
        let connecting = endpoint.connect_with(client, self.addr, "head.head.playhouse");
        let connection = connecting.expect("a name").await.expect("the head answers");
        (endpoint, connection)
    }

    /// Sends these bytes first, and returns the answer and the report of the head.
    async fn say(&mut self, bytes: &[u8]) -> (Vec<u8>, TurnReason) {
        let (_endpoint, connection) = self.raw().await;
        let (mut send, mut recv) = connection.open_bi().await.expect("there is room");
        send.write_all(bytes).await.expect("the head reads");
        send.finish().expect("it is open");
        let answer = recv.read_to_end(4096).await.unwrap_or_default();
        connection.close(0u32.into(), b"read");
        (answer, self.turned_away().await.reason)
    }

    async fn turned_away(&mut self) -> TurnedAway {
        match timeout(SOON, self.arrivals.next()).await.expect("a report").expect("it lives") {
            Knock::TurnedAway(turned) => turned,
            Knock::Peer(arrival) => panic!("{} came in", arrival.peer()),
        }
    }

    /// Checks that honest peers are served.
    async fn serves(&mut self) {
        let (node, _) = self.node("good");
        let head = id(Role::Head, "head");
        let dialled = node.dial(self.addr, &head, Epoch(0));
        let admitted = async {
            loop {
                match self.arrivals.next().await.expect("it lives") {
                    Knock::Peer(arrival) => return arrival.admit(Epoch(0)).await,
                    Knock::TurnedAway(_) => {}
                }
            }
        };
        let (dialled, admitted) = tokio::join!(dialled, admitted);
        let ((near, _), (_far, mut inbox)) =
            (dialled.expect("the head answers"), admitted.expect("the node waits"));
        let call = near.call(NodeRequest::Stats, SOON);
        let (reply, ()) = tokio::join!(call, answer_one(&mut inbox));
        assert_eq!(reply, Ok(NodeReply::Killed));
    }
}

async fn answer_one(inbox: &mut Inbox) {
    let incoming = inbox.streams.next().await.expect("a call");
    let (_, mut stream) = incoming.take::<NodeRequest>().expect("of this type");
    stream.sender.send(&NodeReply::Killed).await.expect("the caller waits");
    stream.sender.finish().await.expect("the caller waits");
}

#[tokio::test]
async fn lk8_another_version_is_named_on_both_sides() {
    let mut head = Head::start();
    let (ours, theirs) = (PROTOCOL_VERSION, PROTOCOL_VERSION + 1);
    let (answer, reason) =
        head.say(&[&preface_of(theirs)[..], &frame(&hello("evil"))].concat()).await;
    assert_eq!(answer, preface(), "enough for the other side to tell");
    assert_eq!(reason, TurnReason::Preface(PrefaceError::Version { ours, theirs }));
    head.serves().await;

    // The same from the dialler's side: a head of the next version.
    let identity = head.authority.identify(&id(Role::Head, "next")).expect("an identity");
    let server = tls::server(&identity, &config()).expect("a configuration");
    let next = quinn::Endpoint::server(server, loopback()).expect("a socket");
    let addr = next.local_addr().expect("an address");
    let answer = async {
        let connection = next.accept().await.expect("it lives").await.expect("the dialler");
        let (mut send, mut recv) = connection.accept_bi().await.expect("a hello");
        let mut given = [0; PREFACE_BYTES];
        recv.read_exact(&mut given).await.expect("a preface");
        assert_eq!(given, preface());
        send.write_all(&preface_of(theirs)).await.expect("the dialler reads");
        send.finish().expect("it is open");
        connection.closed().await;
    };
    let (node, _) = head.node("a");
    let to = id(Role::Head, "next");
    let (dialled, ()) = tokio::join!(node.dial(addr, &to, Epoch(0)), answer);
    let error = dialled.map(|_| ()).expect_err("another version");
    assert_eq!(error, DialError::Preface(PrefaceError::Version { ours, theirs }));
    assert!(error.is_final());
}

#[tokio::test]
async fn lk8_first_words_that_are_no_hello_are_reported_as_what_they_are() {
    let mut head = Head::start();
    let (_, reason) = head.say(b"GET / HTTP/1.1\r\n\r\n").await;
    assert_eq!(reason, TurnReason::Preface(PrefaceError::Foreign(*b"GET ")));

    let whole = [&preface()[..], &frame(&hello("evil"))].concat();
    let (_, reason) = head.say(&whole[..whole.len() - 1]).await;
    let cut = FrameError::Truncated { missing: 1 };
    assert_eq!(reason, TurnReason::Unreadable(DecodeError::Frame(cut)));

    let huge = [&preface()[..], &[Kind::Hello as u8, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]].concat();
    let (_, reason) = head.say(&huge).await;
    let (bytes, max) = (u32::MAX, Kind::Hello.bytes_max());
    let large = FrameError::TooLarge { kind: Kind::Hello, bytes, max };
    assert_eq!(reason, TurnReason::Unreadable(DecodeError::Frame(large)));

    let other = [&preface()[..], &frame(&NodeRequest::Stats)].concat();
    let (_, reason) = head.say(&other).await;
    let (given, expected) = (Kind::NodeRequest, Kind::Hello);
    assert_eq!(reason, TurnReason::Unreadable(DecodeError::OtherKind { given, expected }));
    head.serves().await;
}

#[tokio::test]
async fn lk6_a_hello_may_not_name_another_than_the_certificate() {
    let mut head = Head::start();
    for name in ["good", "Evil\n"] {
        let (answer, reason) = head.say(&[&preface()[..], &frame(&hello(name))].concat()).await;
        let TurnReason::Refused(refusal) = &reason else { panic!("{reason}") };
        assert!(matches!(refusal, Refusal::OtherIdentity { .. }), "{refusal}");
        assert_eq!(refusal.to_string().lines().count(), 1, "{refusal}");
        let told = frame(&HelloReply::Refused(refusal.clone()));
        assert_eq!(answer, [&preface()[..], &told].concat(), "the other side is told the same");
    }
    head.serves().await;
}

#[tokio::test]
async fn lk8_one_who_says_nothing_is_turned_away_in_time() {
    let mut head = Head::with(LinkConfig { handshake: IMPATIENCE, ..config() });
    let (_endpoint, connection) = head.raw().await;
    assert_eq!(head.turned_away().await.reason, TurnReason::Silent);
    let closed = connection.closed().await;
    assert!(matches!(closed, quinn::ConnectionError::ApplicationClosed(_)), "{closed}");
    head.serves().await;
}

#[tokio::test]
async fn lk6_one_without_a_certificate_is_turned_away() {
    let mut head = Head::start();
    let identity = head.authority.identify(&id(Role::Node, "evil")).expect("an identity");
    // A joiner's configuration checks the head and shows nothing.
    let client = tls::bare(&identity, &config()).expect("a configuration");
    let (_endpoint, connection) = head.raw_with(client).await;
    assert_eq!(head.turned_away().await.reason, TurnReason::NoCertificate);
    let closed = connection.closed().await.to_string();
    assert!(closed.contains("join with a token first"), "{closed}");
    head.serves().await;
}

#[tokio::test]
async fn lk8_garbage_on_the_socket_disturbs_nobody() {
    let mut head = Head::start();
    let socket = UdpSocket::bind(loopback()).await.expect("a socket");
    let mut random = 1;
    for length in 0..1500 {
        let word = || crate::random::splitmix(&mut random) as u8;
        let garbage: Vec<u8> = std::iter::repeat_with(word).take(length).collect();
        socket.send_to(&garbage, head.addr).await.expect("loopback takes it");
    }
    head.serves().await;
}

#[tokio::test]
async fn lk8_a_stream_of_garbage_ends_and_its_connection_stays() {
    let mut head = Head::start();
    let (node, _) = head.node("a");
    let to = id(Role::Head, "head");
    let admit = async {
        let Some(Knock::Peer(arrival)) = head.arrivals.next().await else { panic!("no peer") };
        arrival.admit(Epoch(0)).await.expect("the node waits")
    };
    let (dialled, (_far, mut inbox)) = tokio::join!(node.dial(head.addr, &to, Epoch(0)), admit);
    let (near, _) = dialled.expect("the head answers");
    for garbage in [&b"GET / HTTP"[..], &[0; 64], &[Kind::Hello as u8, 0, 0, 0, 255, 255, 255, 255]]
    {
        let (mut send, recv) = near.connection().open().await.expect("there is room");
        send.write(&mut Bytes::copy_from_slice(garbage)).await.expect("the head reads");
        let mut frames = crate::stream::Frames::new(recv);
        let answer = timeout(SOON, frames.next()).await.expect("an answer");
        assert_eq!(answer.map(|_| ()), Err(RecvError::Misunderstood));
    }
    // A stream that says nothing ends too, and holds up no other.
    let (_send, recv) = near.connection().open().await.expect("there is room");
    let call = near.call(NodeRequest::Stats, SOON);
    let (reply, ()) = tokio::join!(call, answer_one(&mut inbox));
    assert_eq!(reply, Ok(NodeReply::Killed));
    drop(recv);
    drop(inbox);
    assert_eq!(near.call(NodeRequest::Stats, SOON).await, Err(CallError::NoSuchTarget));
    drop(head.endpoint);
}
