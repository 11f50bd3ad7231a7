//! **LK-12**: certificates that expire, and their renewal.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use playhouse_types::Epoch;
use playhouse_wire::{NodeReply, NodeRequest, PeerId, Role};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::*;
use crate::arrival::{Arrivals, Knock};
use crate::config::LinkConfig;
use crate::dial::DialError;
use crate::endpoint::Endpoint;
use crate::identity::Authority;
use crate::inbox::Inbox;
use crate::join::{JoinError, join};
use crate::revocation::Revocations;
use crate::turn_reason::TurnReason;

const SOON: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3600);

/// A lifetime short enough to wait for.
const BRIEF: Duration = Duration::from_secs(5);

struct Head {
    endpoint: Endpoint,
    arrivals: Arrivals,
    addr: SocketAddr,
    enrollment: Arc<Enrollment>,
    told: UnboundedReceiver<Renewal>,
}

fn id(role: Role, name: &str) -> PeerId {
    PeerId::new(role, name).expect("a name")
}

fn ago(span: Duration) -> SystemTime {
    SystemTime::now() - span
}

fn bind(identity: &Identity) -> (Endpoint, Arrivals) {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    Endpoint::bind(loopback, identity, 1, LinkConfig::default()).expect("a socket")
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(SOON, what).await.expect("in time")
}

/// Waits until a certificate has ended, of which the last second counts whole.
async fn until_ended(identity: &Identity) {
    until(identity.good_until() + Duration::from_secs(1)).await;
}

/// A request for a next certificate, made out to `name`.
fn request(name: &PeerId) -> RenewRequest {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new([name.host_name()]).expect("a name");
    RenewRequest { csr: params.serialize_request(&key).expect("a request").der().to_vec() }
}

// === impl Head ===

impl Head {
    /// A head whose certificates are good for `lifetime`; its own was made `before`.
    fn start(lifetime: Duration, before: Duration) -> Self {
        let authority = Authority::new().expect("an authority").with_lifetime(lifetime);
        let identity = authority.identify_at(&id(Role::Head, "head"), ago(before));
        let (endpoint, arrivals) = bind(&identity.expect("an identity"));
        let addr = endpoint.local_addr().expect("an address");
        let enrollment = Enrollment::new(authority, Revocations::default(), Box::new(|_| Ok(())));
        let (tell, told) = unbounded_channel();
        enrollment.tell_renewals(Arc::new(move |renewal| drop(tell.send(renewal.clone()))));
        let enrollment = Arc::new(enrollment);
        endpoint.admit_nodes(Arc::clone(&enrollment));
        Self { endpoint, arrivals, addr, enrollment, told }
    }

    /// An identity by a clock that shows `at`.
    fn identity(&self, id: &PeerId, at: SystemTime) -> Identity {
        self.enrollment.authority().identify_at(id, at).expect("an identity")
    }

    /// Dials, and admits a node with a valid certificate. Returns both sides, with what must be kept of
    /// them.
    async fn link(&mut self, node: &Endpoint) -> Result<[(Peer, Inbox); 2], DialError> {
        let to = id(Role::Head, "head");
        let dialled = node.dial(self.addr, &to, Epoch(0));
        let admitted = async {
            match self.arrivals.next().await.expect("it lives") {
                Knock::Peer(arrival) => arrival.admit(Epoch(0)).await,
                Knock::TurnedAway(turned) => Err(turned.reason),
            }
        };
        let (dialled, admitted) = soon(async { tokio::join!(dialled, admitted) }).await;
        let near = dialled.inspect_err(|_| {
            assert!(matches!(admitted, Err(TurnReason::Expired(_))), "{admitted:?}");
        })?;
        Ok([near, admitted.expect("the node waits")])
    }

    /// Returns the errors on both sides when a peer with this certificate dials.
    async fn refusal(&mut self, identity: &Identity) -> [String; 2] {
        let (node, _arrivals) = bind(identity);
        let to = id(Role::Head, "head");
        let dialled = node.dial(self.addr, &to, Epoch(0));
        let turned = async {
            match self.arrivals.next().await.expect("it lives") {
                Knock::TurnedAway(turned) => turned,
                Knock::Peer(arrival) => panic!("{} came in", arrival.peer()),
            }
        };
        let (dialled, turned) = soon(async { tokio::join!(dialled, turned) }).await;
        let error = dialled.map(|_| ()).expect_err("refused");
        assert!(matches!(error, DialError::Expired { .. }), "{error}");
        assert!(error.is_final(), "dialling again cannot help");
        assert!(matches!(turned.reason, TurnReason::Expired(_)), "{turned}");
        [error.to_string(), turned.to_string()]
    }
}

/// Checks by an answer that the connection still exists.
async fn stands(near: &Peer, far: &mut Inbox) {
    let answer = async {
        let incoming = far.streams.next().await.expect("a call");
        let (_, mut stream) = incoming.take::<NodeRequest>().expect("of this type");
        stream.sender.send(&NodeReply::Killed).await.expect("the caller waits");
        stream.sender.finish().await.expect("the caller waits");
    };
    let (reply, ()) = tokio::join!(near.call(NodeRequest::Stats, SOON), answer);
    assert_eq!(reply, Ok(NodeReply::Killed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lk12_an_ended_certificate_is_refused_and_both_sides_say_how_to_come_back() {
    let mut head = Head::start(HOUR, Duration::ZERO);
    let node = id(Role::Node, "a");
    let ended = head.identity(&node, ago(2 * HOUR));
    let [here, there] = head.refusal(&ended).await;
    for said in [&here, &there] {
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("certificate expired: verification time"), "{said}");
        assert!(said.contains("`playhouse token create`"), "{said}");
    }
    assert!(here.starts_with("the certificate of node a is refused: "), "{here}");
    assert!(there.starts_with("turned away 127.0.0.1:"), "{there}");
    let (good, _arrivals) = bind(&head.identity(&node, SystemTime::now()));
    head.link(&good).await.expect("others are served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lk12_a_clock_may_be_a_little_ahead() {
    let minute = Duration::from_secs(60);
    // That of the head, for its own certificate, when it signs by it.
    let mut head = Head::start(HOUR, Duration::ZERO);
    let own = head.identity(&id(Role::Head, "head"), SystemTime::now() + 4 * minute);
    head.endpoint.shared.show(&own).expect("a good identity");
    let node = id(Role::Node, "a");
    let (near, _arrivals) = bind(&head.identity(&node, SystemTime::now() + 4 * minute));
    head.link(&near).await.expect("five minutes are allowed");
    let far = head.identity(&node, SystemTime::now() + 10 * minute);
    let [here, there] = head.refusal(&far).await;
    for said in [here, there] {
        assert!(said.contains("not valid yet") && said.contains("if both clocks are right"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lk12_a_connected_peer_gets_its_next_certificate_in_time() {
    for role in [Role::Node, Role::Shard] {
        let mut head = Head::start(BRIEF, Duration::ZERO);
        let peer = id(role, "a");
        let old = head.identity(&peer, ago(BRIEF * 4 / 5));
        let (node, _arrivals) = bind(&old);
        let [(near, _near), (_far, mut far)] = head.link(&node).await.expect("it is good yet");
        let (kept, mut keeps) = unbounded_channel();
        let keep: KeepIdentity = Arc::new(move |identity| {
            drop(kept.send(identity.clone()));
            Ok(())
        });
        let then = async {
            let next = keeps.recv().await.expect("it is kept");
            assert_eq!(next.peer(), &peer);
            assert!(next.good_until() > old.good_until());
            let told = head.told.recv().await.expect("it lives");
            assert_eq!(told, Renewal { peer: peer.clone(), outcome: Ok(next.good_until()) });
            until_ended(&old).await;
            stands(&near, &mut far).await;
            let [here, _] = head.refusal(&old).await;
            assert!(here.contains("certificate expired"), "{here}");
            head.link(&node).await.expect("new connections show the next one");
            let kept = Identity::from_bytes(&next.to_bytes().expect("short")).expect("as kept");
            head.link(&bind(&kept).0).await.expect("and so does its next start");
        };
        tokio::select! {
            () = soon(then) => {}
            never = node.renew_over(&near, keep) => match never {},
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lk12_what_fails_is_tried_again() {
    let mut head = Head::start(BRIEF, Duration::ZERO);
    let (node, _arrivals) = bind(&head.identity(&id(Role::Node, "a"), ago(BRIEF * 4 / 5)));
    let [(near, _near), _far] = head.link(&node).await.expect("it is good yet");
    let (kept, mut keeps) = unbounded_channel();
    let is_full = AtomicBool::new(true);
    let keep: KeepIdentity = Arc::new(move |_| {
        let full = is_full.swap(false, Ordering::Relaxed);
        let _ = kept.send(full);
        if full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    });
    let tries = async {
        tokio::select! {
            tries = async { [keeps.recv().await, keeps.recv().await] } => tries,
            never = node.renew_over(&near, keep) => match never {},
        }
    };
    assert_eq!(soon(tries).await, [Some(true), Some(false)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lk12_the_head_renews_its_own_certificate() {
    let mut head = Head::start(BRIEF, BRIEF * 4 / 5);
    let own = head.endpoint.shared.identity().expect("QUIC has one");
    let told = soon(head.told.recv()).await.expect("it lives");
    assert_eq!(told.peer, id(Role::Head, "head"));
    until_ended(&own).await;
    let (node, _arrivals) = bind(&head.identity(&id(Role::Node, "a"), SystemTime::now()));
    head.link(&node).await.expect("it shows a good one");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lk12_nobody_gets_a_certificate_of_another_or_after_a_revocation() {
    let mut head = Head::start(HOUR, Duration::ZERO);
    let (own, other) = (id(Role::Node, "a"), id(Role::Node, "b"));
    let certificate = own.to_string();
    let identity = head.identity(&own, SystemTime::now());
    let pairs = [
        (request(&other), RenewRefusal::OtherName { certificate: certificate.clone() }),
        (request(&id(Role::Head, "a")), RenewRefusal::OtherName { certificate }),
        (request(&own), RenewRefusal::Revoked),
    ];
    for (at, (request, refusal)) in pairs.into_iter().enumerate() {
        // A connection of its own for each: one is not answered twice in a moment.
        let (node, _arrivals) = bind(&identity);
        let [(near, _near), _far] = head.link(&node).await.expect("it is good yet");
        if at == 2 {
            // Its connection still stands.
            head.enrollment.revoke("a").expect("it is kept");
        }
        let reply = soon(near.call(request, SOON)).await;
        assert_eq!(reply, Ok(RenewReply::Refused(refusal.clone())));
        let told = soon(head.told.recv()).await.expect("it lives");
        assert_eq!(told, Renewal { peer: own.clone(), outcome: Err(refusal) });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lk12_who_asks_too_often_or_nonsense_is_refused_and_not_written_down() {
    let mut head = Head::start(HOUR, Duration::ZERO);
    let own = id(Role::Node, "a");
    let (node, _arrivals) = bind(&head.identity(&own, SystemTime::now()));
    let [(near, _near), (_far, mut far)] = head.link(&node).await.expect("it is good");
    let nonsense = near.call(RenewRequest { csr: vec![1, 2, 3] }, SOON).await;
    assert!(matches!(nonsense, Ok(RenewReply::Refused(RenewRefusal::BadRequest(_)))));
    assert!(soon(head.told.recv()).await.expect("it lives").outcome.is_err());
    for _ in 0..2 {
        let reply = near.call(request(&own), SOON).await;
        assert_eq!(reply, Ok(RenewReply::Refused(RenewRefusal::TooSoon { seconds: 3 })));
    }
    assert!(head.told.is_empty());
    stands(&near, &mut far).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lk12_a_name_whose_certificate_has_ended_can_be_joined_though_ranks_wait_for_it() {
    let head = Head::start(HOUR, Duration::ZERO);
    let (to, node) = (id(Role::Head, "head"), id(Role::Node, "a"));
    head.enrollment.reserve(|_| true);
    let token = head.enrollment.issue(HOUR).expect("a token");
    head.enrollment.has_certificate(&node, SystemTime::now() + HOUR);
    let joined = soon(join(head.addr, &token, &to, "a", LinkConfig::default())).await;
    assert!(matches!(joined, Err(JoinError::Refused(_))), "{joined:?}");

    let (ended, token) = (id(Role::Node, "b"), head.enrollment.issue(HOUR).expect("a token"));
    head.enrollment.has_certificate(&ended, ago(HOUR));
    soon(join(head.addr, &token, &to, "b", LinkConfig::default()))
        .await
        .expect("nobody else comes");
}

#[test]
fn renewals_begin_at_two_thirds_and_are_spread() {
    let from = SystemTime::UNIX_EPOCH;
    let dues: Vec<f64> = (0..1000)
        .map(|number| due(&Term { number, from, until: from + 30 * HOUR }))
        .map(|due| due.duration_since(from).expect("later").div_duration_f64(30 * HOUR))
        .collect();
    assert!(dues.iter().all(|due| (0.6..0.734).contains(due)), "{dues:?}");
    let mean = dues.iter().sum::<f64>() / 1000.0;
    assert!((mean - 2.0 / 3.0).abs() < 0.01, "{mean}");
    let early = dues.iter().filter(|due| **due < 0.62).count();
    assert!((100..200).contains(&early), "{early}");
}

#[test]
fn renewals_are_tried_again_the_sooner_the_less_time_is_left() {
    let bounds = |failures, left| {
        let waits = (0..1000).map(|seed| wait(failures, left, seed));
        (waits.clone().min().expect("many"), waits.max().expect("many"))
    };
    let (seconds, days) = (Duration::from_secs, |n: u32| n * 24 * HOUR);
    let within = |(low, high), full: Duration| low >= full / 2 && high <= full;
    assert!(within(bounds(1, days(10)), seconds(60)));
    assert!(within(bounds(3, days(10)), seconds(240)));
    assert!(within(bounds(40, days(10)), HOUR));
    assert!(within(bounds(1, seconds(80)), seconds(10)));
    assert!(within(bounds(1, Duration::ZERO), seconds(1)));
    assert!(within(bounds(40, Duration::ZERO), seconds(60)), "it goes on, and not for ever faster");
}
