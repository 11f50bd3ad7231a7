//! **LK-4**, **LK-5**: a hung peer is lost, a busy peer is not, and no message is replayed.

use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use playhouse_link::{Backoff, CallError, DialError, PeerLost, TellError};
use playhouse_types::Epoch;
use playhouse_wire::{HeadNote, NodeRequest, StepCommand};
use tokio::time::Instant;

use crate::rig::{EPOCH, Linked, Rig, SOON, both, config, head_id, lost, next_arrival, soon};

both! {
    lk4_a_partition_is_noticed_on_both_sides_in_under_3_seconds
    lk4_a_silent_connection_stays
    lk5_a_new_connection_replays_nothing
    a_peer_is_looked_for_anew_at_every_dial
    dialling_nobody_gives_up_within_its_budget
    a_farewell_says_why
}

async fn lk4_a_partition_is_noticed_on_both_sides_in_under_3_seconds(mut rig: Rig) {
    let Linked { to_head, to_node, .. } = &mut rig.link("a", 1).await;
    let mut stream =
        to_node.0.open(StepCommand::Attach { epoch: EPOCH }, SOON).await.expect("there is room");
    let served = soon(to_head.1.streams.next()).await.expect("a stream");
    let begun = Instant::now();
    rig.cut();
    let calls = async { to_head.0.call(NodeRequest::Stats, SOON).await };
    let (call, event, here, there) =
        tokio::join!(calls, stream.receiver.next(), lost(&to_head.0), lost(&to_node.0));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(begun.elapsed() >= config().idle / 2, "{:?}", begun.elapsed());
    assert_eq!((here, there), (PeerLost::TimedOut, PeerLost::TimedOut));
    assert_eq!(call, Err(CallError::Lost(PeerLost::TimedOut)), "a pending call ends");
    assert_eq!(event, Err(playhouse_link::RecvError::Lost(PeerLost::TimedOut)));
    assert!(soon(to_head.1.streams.next()).await.is_none(), "no stream comes any more");
    drop(served);
    rig.mend();
    let call = to_head.0.call(NodeRequest::Stats, SOON).await;
    assert_eq!(call, Err(CallError::Lost(PeerLost::TimedOut)), "a lost peer stays lost");
}

async fn lk4_a_silent_connection_stays(mut rig: Rig) {
    let Linked { to_head, to_node, .. } = &mut rig.link("a", 1).await;
    let quiet = tokio::time::timeout(3 * config().idle, lost(&to_head.0)).await;
    assert!(quiet.is_err(), "lost: {quiet:?}");
    assert_eq!(*to_node.0.lost().borrow(), None);
}

#[tokio::test(flavor = "current_thread")]
async fn lk4_a_busy_process_is_not_lost() {
    let mut rig = Rig::quic_without_relay();
    let Linked { to_head, to_node, .. } = &mut rig.link("a", 1).await;
    // This blocks the only thread of the test's runtime for three idle timeouts.
    let (begun, mut sum) = (Instant::now(), 0u64);
    while begun.elapsed() < 3 * config().idle {
        sum = std::hint::black_box(sum.wrapping_add(1));
    }
    assert_eq!(*to_head.0.lost().borrow(), None);
    assert_eq!(*to_node.0.lost().borrow(), None);
}

async fn lk5_a_new_connection_replays_nothing(mut rig: Rig) {
    let Linked { node, to_head, to_node } = rig.link("a", 1).await;
    rig.cut();
    // Told into the void: it must not appear on the next connection.
    to_node.0.tell(&HeadNote::ResyncPrefixes { replica: 1 }).expect("there is room");
    assert_eq!(lost(&to_head.0).await, PeerLost::TimedOut);
    assert_eq!(lost(&to_node.0).await, PeerLost::TimedOut);
    let (head, addr) = (head_id(), rig.addr);
    let dialled = node.dial_again(|| ready(Ok(addr)), &head, EPOCH, Backoff::default());
    let admitted = async {
        // Some attempts fail first.
        tokio::time::sleep(Duration::from_millis(500)).await;
        rig.mend();
        next_arrival(&mut rig.arrivals).await.admit(EPOCH).await
    };
    let (again, to_node_again) = tokio::join!(dialled, admitted);
    let (to_head_again, mut inbox) = again.expect("the head is back");
    let to_node_again = to_node_again.expect("the node waits");
    to_node_again.0.tell(&HeadNote::Shutdown).expect("there is room");
    assert_eq!(soon(inbox.notes.next()).await, Ok(HeadNote::Shutdown));
    let note = to_node.0.tell(&HeadNote::Shutdown);
    assert_eq!(note, Err(TellError::Lost(PeerLost::TimedOut)), "the old peer stays lost");
    assert_eq!(*to_head_again.lost().borrow(), None);
}

async fn a_peer_is_looked_for_anew_at_every_dial(mut rig: Rig) {
    let node = rig.node("a", 1);
    // Its name has no address at first, then that of a machine which is gone, then its own.
    let gone = SocketAddr::from(([127, 0, 0, 1], 1));
    let asked = AtomicUsize::new(0);
    let find = || {
        let none = io::Error::other("no such name");
        let found = [Err(none), Ok(gone), Ok(rig.addr)];
        let at = asked.fetch_add(1, Ordering::Relaxed);
        ready(found.into_iter().nth(at).expect("it answers then"))
    };
    let head = head_id();
    let dialled = node.dial_again(find, &head, EPOCH, Backoff::default());
    let admitted = async { next_arrival(&mut rig.arrivals).await.admit(EPOCH).await };
    let (dialled, admitted) = tokio::join!(dialled, admitted);
    assert_eq!(dialled.expect("it is found").0.id(), &head);
    admitted.expect("the node waits");
    assert_eq!(asked.load(Ordering::Relaxed), 3);
    // Who is found nowhere is not looked for for ever.
    let nowhere = || ready(Err(io::Error::other("head.example: no such name")));
    let backoff = Backoff { budget: Duration::from_millis(200), ..Backoff::default() };
    let given_up = node.dial_again(nowhere, &head, EPOCH, backoff).await;
    let given_up = given_up.map(|(peer, _)| peer.id().clone()).expect_err("nobody is there");
    assert!(given_up.attempts >= 2 && given_up.to_string().contains("head.example"), "{given_up}");
}

async fn dialling_nobody_gives_up_within_its_budget(rig: Rig) {
    let node = rig.node("a", 1);
    rig.cut();
    let backoff = Backoff { budget: Duration::from_secs(3), ..Backoff::default() };
    let begun = Instant::now();
    let find = || ready(Ok(rig.addr));
    let given_up = node.dial_again(find, &head_id(), Epoch(0), backoff).await;
    let given_up = given_up.map(|(peer, _)| peer.id().clone()).expect_err("nobody is there");
    assert!(given_up.attempts >= 2, "{given_up}");
    let DialError::NoAnswer { addr, .. } = given_up.last else { panic!("{given_up}") };
    assert_eq!(addr, rig.addr);
    assert!(begun.elapsed() < Duration::from_secs(3) + 2 * config().handshake);
}

async fn a_farewell_says_why(mut rig: Rig) {
    let Linked { node, to_head, to_node } = rig.link("a", 1).await;
    node.shut_down("drained").await;
    assert_eq!(lost(&to_node.0).await, PeerLost::Closed("drained".to_owned()));
    assert!(matches!(lost(&to_head.0).await, PeerLost::Local));
}
