//! **LK-6**, **LK-7**: identities, tokens, and clients that have neither.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use playhouse_link::{
    Arrivals, Authority, DialError, Endpoint, Enrollment, Identity, JoinError, JoinToken, PeerLost,
    Revocations, TurnReason, join,
};
use playhouse_types::Epoch;
use playhouse_wire::{JoinRefusal, PeerId, Role};

use crate::rig::{bind, config, dial, head_id, next_arrival, next_turned_away, node_id, soon};

const TTL: Duration = Duration::from_secs(600);

/// An enrollment that keeps nothing.
fn enrollment_of(authority: Authority) -> Enrollment {
    Enrollment::new(authority, Revocations::default(), Box::new(|_| Ok(())))
}

/// A head that lets nodes in.
struct Head {
    endpoint: Endpoint,
    arrivals: Arrivals,
    addr: SocketAddr,
    enrollment: Arc<Enrollment>,
}

// === impl Head ===

impl Head {
    fn start() -> Self {
        let authority = Authority::new().expect("an authority");
        let identity = authority.identify(&head_id()).expect("an identity");
        let (endpoint, arrivals) = bind(&identity, 1);
        let addr = endpoint.local_addr().expect("an address");
        let enrollment = Arc::new(enrollment_of(authority));
        endpoint.admit_nodes(Arc::clone(&enrollment));
        Self { endpoint, arrivals, addr, enrollment }
    }

    fn token(&self) -> JoinToken {
        self.enrollment.issue(TTL).expect("a token")
    }

    async fn join(&self, token: &JoinToken, name: &str) -> Result<Identity, JoinError> {
        soon(join(self.addr, token, &head_id(), name, config())).await
    }

    /// A join that is refused. Both sides must say the same.
    async fn refused(&mut self, token: &JoinToken, name: &str) -> JoinRefusal {
        let error = self.join(token, name).await.map(|_| ()).expect_err("refused");
        let JoinError::Refused(refusal) = error else { panic!("{error}") };
        let turned = next_turned_away(&mut self.arrivals).await;
        assert_eq!(turned.reason, TurnReason::NotJoined(refusal.clone()));
        refusal
    }

    /// Lets a peer of this identity in.
    async fn admits(&mut self, identity: &Identity) -> (Endpoint, playhouse_link::Peer) {
        let (node, _) = bind(identity, 1);
        let dialled = dial(&node, self.addr, Epoch(0));
        let admitted = async { next_arrival(&mut self.arrivals).await.admit(Epoch(0)).await };
        let (dialled, admitted) = tokio::join!(dialled, admitted);
        let (peer, mut inbox) = admitted.expect("the node waits");
        assert_eq!(peer.id(), identity.peer());
        tokio::spawn(async move {
            // Keeps the peer for as long as it is connected.
            while inbox.streams.next().await.is_some() {}
            drop(peer);
        });
        (node, dialled.expect("the head answers").0)
    }
}

/// The same token with another secret.
fn forged(token: &JoinToken) -> JoinToken {
    let text = token.to_string();
    let mut parts: Vec<_> = text.split('-').map(str::to_owned).collect();
    parts[2] = "0".repeat(32);
    parts.join("-").parse().expect("well formed")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lk7_a_token_makes_a_node_that_can_connect() {
    let mut head = Head::start();
    let token: JoinToken = head.token().to_string().parse().expect("as a person carries it");
    let identity = head.join(&token, "rack-7").await.expect("the token is good");
    assert_eq!(identity.peer(), &node_id("rack-7"));
    head.admits(&identity).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lk7_every_bad_token_is_refused_with_its_reason_on_both_sides() {
    let mut head = Head::start();
    let token = head.token();
    assert_eq!(head.refused(&forged(&token), "a").await, JoinRefusal::WrongSecret);
    let elsewhere =
        enrollment_of(clone_of(head.enrollment.authority())).issue(TTL).expect("a token");
    assert_eq!(head.refused(&elsewhere, "a").await, JoinRefusal::UnknownToken);
    let expired = head.enrollment.issue(Duration::ZERO).expect("a token");
    assert_eq!(head.refused(&expired, "a").await, JoinRefusal::Expired);
    // A wrong secret has not used the token up.
    head.join(&token, "a").await.expect("the token is good");
    assert_eq!(head.refused(&token, "b").await, JoinRefusal::Used);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lk7_a_secret_cannot_be_guessed_many_times() {
    let mut head = Head::start();
    let token = head.token();
    for _ in 0..5 {
        assert_eq!(head.refused(&forged(&token), "a").await, JoinRefusal::WrongSecret);
    }
    assert_eq!(head.refused(&token, "a").await, JoinRefusal::Used, "it is void");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lk7_who_keeps_a_token_learns_that_it_is_spent() {
    let head = Head::start();
    let [used, guessed, kept] = [head.token(), head.token(), head.token()];
    let spent = |token: &JoinToken| {
        let (enrollment, token) = (Arc::clone(&head.enrollment), token.clone());
        tokio::spawn(async move { enrollment.until_spent(&token).await })
    };
    let [by_use, by_guesses, never] = [&used, &guessed, &kept].map(spent);
    head.join(&used, "a").await.expect("the token is good");
    soon(by_use).await.expect("it was used");
    assert!(!by_guesses.is_finished());
    for _ in 0..5 {
        head.join(&forged(&guessed), "b").await.map(|_| ()).expect_err("a wrong secret");
    }
    soon(by_guesses).await.expect("it is void");
    let brief = head.enrollment.issue(Duration::from_millis(20)).expect("a token");
    soon(head.enrollment.until_spent(&brief)).await;
    let elsewhere =
        enrollment_of(clone_of(head.enrollment.authority())).issue(TTL).expect("a token");
    soon(head.enrollment.until_spent(&elsewhere)).await;
    assert!(!never.is_finished(), "a good token is not spent");
    head.join(&kept, "b").await.expect("it is good");
    soon(never).await.expect("it was used");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lk7_a_joiner_talks_to_no_other_authority() {
    let (mut head, other) = (Head::start(), Head::start());
    let token = other.token();
    let error = head.join(&token, "a").await.map(|_| ()).expect_err("another authority");
    assert!(matches!(error, JoinError::OtherAuthority { .. }), "{error}");
    let turned = next_turned_away(&mut head.arrivals).await;
    assert!(matches!(turned.reason, TurnReason::Lost(PeerLost::Certificate(_))), "{turned}");
    other.join(&token, "a").await.expect("the token is unused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lk7_a_name_that_is_connected_cannot_be_joined_again() {
    let mut head = Head::start();
    let identity = head.join(&head.token(), "a").await.expect("the token is good");
    let _connected = head.admits(&identity).await;
    let token = head.token();
    assert_eq!(head.refused(&token, "a").await, JoinRefusal::NameTaken("a".to_owned()));
    head.join(&token, "b").await.expect("the token is unused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lk7_a_name_that_is_expected_back_cannot_be_joined() {
    let mut head = Head::start();
    let (expected, token) = (Arc::new(AtomicBool::new(true)), head.token());
    let reserved = Arc::clone(&expected);
    head.enrollment.reserve(move |name| name == "a" && reserved.load(Ordering::Relaxed));
    assert_eq!(head.refused(&token, "a").await, JoinRefusal::NameTaken("a".to_owned()));
    expected.store(false, Ordering::Relaxed);
    head.join(&token, "a").await.expect("the token is unused, and nobody is expected");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_name_is_refused_before_anything_is_sent() {
    let head = Head::start();
    let error = head.join(&head.token(), "Rack 7").await.map(|_| ()).expect_err("a bad name");
    assert!(matches!(error, JoinError::Name(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_head_with_an_enrollment_admits_nodes() {
    let enrollment = enrollment_of(Authority::new().expect("an authority"));
    let identity = enrollment.authority().identify(&head_id()).expect("an identity");
    let (endpoint, arrivals) = bind(&identity, 1);
    let addr = endpoint.local_addr().expect("an address");
    let mut head = Head { endpoint, arrivals, addr, enrollment: Arc::new(enrollment) };
    let token = head.token();
    assert_eq!(head.refused(&token, "a").await, JoinRefusal::NoAuthority);
    drop(head.endpoint);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lk6_a_peer_of_another_authority_is_refused_on_both_sides() {
    let mut head = Head::start();
    let stranger = Authority::new().expect("an authority").identify(&node_id("a"));
    let (node, _) = bind(&stranger.expect("an identity"), 1);
    let error = soon(dial(&node, head.addr, Epoch(0))).await.map(|_| ());
    let error = error.expect_err("another authority");
    assert!(matches!(error, DialError::Certificate(_)), "{error}");
    assert!(error.is_final(), "dialling again cannot help");
    let turned = next_turned_away(&mut head.arrivals).await;
    assert!(matches!(turned.reason, TurnReason::Lost(PeerLost::Certificate(_))), "{turned}");
    assert_eq!(turned.to_string().lines().count(), 1);
    let good = head.enrollment.authority().identify(&node_id("a")).expect("an identity");
    head.admits(&good).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lk6_a_node_cannot_pass_for_the_head() {
    let head = Head::start();
    let identity = |id: &PeerId| head.enrollment.authority().identify(id).expect("an identity");
    let (fake, _arrivals) = bind(&identity(&node_id("head")), 1);
    let (node, _) = bind(&identity(&node_id("a")), 1);
    let addr = fake.local_addr().expect("an address");
    let error = soon(node.dial(addr, &head_id(), Epoch(0))).await.map(|_| ());
    let Err(DialError::Certificate(why)) = error else { panic!("{error:?}") };
    assert!(why.contains("name") || why.contains("Name"), "{why}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_gets_its_identity_as_bytes() {
    let mut head = Head::start();
    let shard = PeerId::new(Role::Shard, "r0-1").expect("a name");
    let bytes =
        head.enrollment.authority().identify(&shard).and_then(|identity| identity.to_bytes());
    let bytes = bytes.expect("an identity");
    let identity = Identity::from_bytes(&bytes).expect("what the parent wrote");
    assert_eq!(identity.peer(), &shard);
    head.admits(&identity).await;
}

#[test]
fn broken_identities_are_refused_in_one_line() {
    let authority = Authority::new().expect("an authority");
    let identity = authority.identify(&node_id("a")).expect("an identity");
    let bytes = identity.to_bytes().expect("an identity");
    assert!(!format!("{identity:?}").contains("key"), "{identity:?}");
    for cut in 0..bytes.len() {
        let error = Identity::from_bytes(&bytes[..cut]).expect_err("too short").to_string();
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.starts_with("reading an identity: "), "{error}");
    }
    let renamed: Vec<u8> = {
        let host = b"a.node.playhouse";
        let at = bytes.windows(host.len()).position(|window| window == host);
        let at = at.expect("the certificate names its host");
        [&bytes[..at], b"b", &bytes[at + 1..]].concat()
    };
    let error = Identity::from_bytes(&renamed).expect_err("not its certificate").to_string();
    assert_eq!(error, "reading an identity: node b's certificate for node a");
}

#[test]
fn an_authority_survives_being_kept() {
    let authority = Authority::new().expect("an authority");
    let kept = clone_of(&authority);
    assert_eq!(kept.hash(), authority.hash());
    assert_eq!(kept.key(), authority.key());
    assert!(Authority::from_der(b"nonsense", authority.key()).is_err());
    assert!(Authority::from_der(authority.certificate(), b"nonsense").is_err());
}

fn clone_of(authority: &Authority) -> Authority {
    Authority::from_der(authority.certificate(), authority.key()).expect("as it was kept")
}

#[tokio::test]
async fn lk10_a_revoked_certificate_is_turned_away_and_a_later_one_is_not() {
    let mut head = Head::start();
    let old = head.join(&head.token(), "a").await.expect("joined");
    let other = head.join(&head.token(), "b").await.expect("joined");
    drop(head.admits(&old).await);
    head.enrollment.revoke("a").expect("kept");
    let (node, _) = bind(&old, 2);
    let refused = dial(&node, head.addr, Epoch(0)).await.map(|_| ()).expect_err("refused");
    assert!(refused.is_final() && refused.to_string().contains("was revoked"), "{refused}");
    let turned = next_turned_away(&mut head.arrivals).await;
    assert!(turned.to_string().contains("the certificate of node a was revoked"), "{turned}");
    let new = head.join(&head.token(), "a").await.expect("joined again");
    drop(head.admits(&new).await);
    drop(head.admits(&other).await);
    // One that cannot be written down is not done.
    let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
    let authority = clone_of(head.enrollment.authority());
    let enrollment =
        Enrollment::new(authority, Revocations::default(), Box::new(move |_| Err(full())));
    assert!(enrollment.revoke("a").is_err());
}
