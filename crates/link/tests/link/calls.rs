//! **LK-1**: a call ends in a reply or a typed error.

use std::time::Duration;

use playhouse_link::{CallError, PeerLost, RecvError};
use playhouse_wire::{DecodeError, HeadReply, HeadRequest, Kind, NodeReply, NodeRequest};

use crate::rig::{Linked, Rig, SOON, STATS, both, soon};

both! {
    lk1_a_call_gets_its_reply
    lk1_calls_overtake_each_other
    lk1_a_call_ends_at_its_deadline_and_the_callee_knows
    lk1_a_dropped_call_is_refused
    lk1_a_call_nobody_serves_finds_no_target
    lk1_a_call_fails_with_its_peer
    lk1_a_call_of_the_wrong_type_breaks_on_both_sides
    lk8_a_request_too_long_is_not_sent
}

async fn lk1_a_call_gets_its_reply(mut rig: Rig) {
    let Linked { to_head, to_node: (peer, _inbox), .. } = &mut rig.link("a", 1).await;
    let served = async {
        let incoming = to_head.1.streams.next().await.expect("a call");
        assert_eq!(incoming.kind(), Kind::NodeRequest);
        let (request, mut stream) = incoming.take::<NodeRequest>().expect("of this type");
        assert_eq!(request, NodeRequest::Kill { pid: 5 });
        stream.sender.send(&NodeReply::Killed).await.expect("the caller waits");
        stream.sender.finish().await.expect("the caller waits");
    };
    let (reply, ()) = tokio::join!(peer.call(NodeRequest::Kill { pid: 5 }, SOON), served);
    assert_eq!(reply, Ok(NodeReply::Killed));
}

async fn lk1_calls_overtake_each_other(mut rig: Rig) {
    let Linked { to_head, to_node: (peer, _inbox), .. } = &mut rig.link("a", 1).await;
    let served = async {
        let mut calls = Vec::new();
        for _ in 0..8 {
            let incoming = soon(to_head.1.streams.next()).await.expect("a call");
            calls.push(incoming.take::<NodeRequest>().expect("of this type"));
        }
        for (request, mut stream) in calls.into_iter().rev() {
            let NodeRequest::Kill { pid } = request else { panic!("{request:?}") };
            stream.sender.send(&NodeReply::Spawned { pid }).await.expect("the caller waits");
            stream.sender.finish().await.expect("the caller waits");
        }
    };
    let calls = async {
        let mut calls = tokio::task::JoinSet::new();
        for pid in 0..8 {
            let peer = peer.clone();
            calls.spawn(async move {
                let reply = peer.call(NodeRequest::Kill { pid }, SOON).await;
                assert_eq!(reply, Ok(NodeReply::Spawned { pid }));
            });
        }
        while let Some(call) = calls.join_next().await {
            call.expect("each gets its own reply");
        }
    };
    tokio::join!(served, calls);
}

async fn lk1_a_call_ends_at_its_deadline_and_the_callee_knows(mut rig: Rig) {
    let Linked { to_head, to_node: (peer, _inbox), .. } = &mut rig.link("a", 1).await;
    let deadline = Duration::from_millis(300);
    let taken = std::cell::Cell::new(false);
    let calls = async {
        // One whose time was up before it had left is not heard of.
        while !taken.get() {
            let reply = peer.call(NodeRequest::Stats, deadline).await;
            assert_eq!(reply, Err(CallError::Timeout(deadline)));
        }
    };
    let take = async {
        let incoming = soon(to_head.1.streams.next()).await.expect("a call");
        taken.set(true);
        incoming.take::<NodeRequest>().expect("of this type").1
    };
    let ((), mut stream) = tokio::join!(calls, take);
    // The caller's half of a call is finished; writing shows that the caller does not wait any more.
    let refused = soon(async {
        loop {
            if let Err(error) = stream.sender.send(&NodeReply::Killed).await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(refused.await, playhouse_link::SendError::Cancelled);
}

async fn lk1_a_dropped_call_is_refused(mut rig: Rig) {
    let Linked { to_head, to_node: (peer, _inbox), .. } = &mut rig.link("a", 1).await;
    let dropped = async {
        let incoming = to_head.1.streams.next().await.expect("a call");
        drop(incoming.take::<NodeRequest>().expect("of this type"));
    };
    let (reply, ()) = tokio::join!(peer.call(NodeRequest::Stats, SOON), dropped);
    assert_eq!(reply, Err(CallError::Refused));
}

async fn lk1_a_call_nobody_serves_finds_no_target(mut rig: Rig) {
    let Linked { to_head, to_node: (peer, _inbox), .. } = rig.link("a", 1).await;
    let (head, mut inbox) = to_head;
    let passed_over = async {
        drop(inbox.streams.next().await.expect("a call"));
    };
    let (reply, ()) = tokio::join!(peer.call(NodeRequest::Stats, SOON), passed_over);
    assert_eq!(reply, Err(CallError::NoSuchTarget));
    drop(inbox.streams);
    let reply = peer.call(NodeRequest::Stats, SOON).await;
    assert_eq!(reply, Err(CallError::NoSuchTarget), "nobody looks at streams any more");
    drop(head);
}

async fn lk1_a_call_fails_with_its_peer(mut rig: Rig) {
    let Linked { to_head, to_node: (peer, _inbox), .. } = &mut rig.link("a", 1).await;
    let closed = async {
        let _incoming = to_head.1.streams.next().await.expect("a call");
        to_head.0.close("going home");
    };
    let (reply, ()) = tokio::join!(peer.call(NodeRequest::Stats, SOON), closed);
    let gone = CallError::Lost(PeerLost::Closed("going home".to_owned()));
    assert_eq!(reply, Err(gone.clone()));
    assert_eq!(peer.call(NodeRequest::Stats, SOON).await, Err(gone), "and so does the next");
}

async fn lk1_a_call_of_the_wrong_type_breaks_on_both_sides(mut rig: Rig) {
    let Linked { to_head, to_node: (peer, _inbox), .. } = &mut rig.link("a", 1).await;
    let served = async {
        let incoming = to_head.1.streams.next().await.expect("a call");
        let error = incoming.take::<HeadRequest>().map(|(request, _)| request);
        let (given, expected) = (Kind::NodeRequest, Kind::HeadRequest);
        assert_eq!(error, Err(DecodeError::OtherKind { given, expected }));
        // Others are served as before.
        let incoming = soon(to_head.1.streams.next()).await.expect("a call");
        let (_, mut stream) = incoming.take::<NodeRequest>().expect("of this type");
        stream.sender.send(&NodeReply::Stats(STATS)).await.expect("the caller waits");
        stream.sender.finish().await.expect("the caller waits");
    };
    let calls = async {
        let reply = peer.call(NodeRequest::Stats, SOON).await;
        assert_eq!(reply, Err(CallError::Broken(RecvError::Misunderstood)));
        assert_eq!(peer.call(NodeRequest::Stats, SOON).await, Ok(NodeReply::Stats(STATS)));
    };
    tokio::join!(served, calls);
}

async fn lk8_a_request_too_long_is_not_sent(mut rig: Rig) {
    let Linked { to_head, to_node: (peer, _inbox), .. } = &mut rig.link("a", 1).await;
    let offer = |name: &str| {
        let (kind, name) = (playhouse_wire::DeviceKind::Cpu, name.to_owned());
        let device = playhouse_wire::Device { kind, name, memory: 1, threads: 1 };
        HeadRequest::Offer { devices: vec![device], memory: 1, processes: Vec::new() }
    };
    let reply = peer.call(offer(&"x".repeat(2 << 20)), SOON).await;
    assert!(matches!(reply, Err(CallError::Encode(_))), "{reply:?}");
    let served = async {
        // The refused call may show as a stream that was opened and cancelled; it has no request.
        let incoming = soon(to_head.1.streams.next()).await.expect("a call");
        let (request, mut stream) = incoming.take::<HeadRequest>().expect("of this type");
        assert_eq!(request, offer("cpu"));
        stream.sender.send(&HeadReply::Accepted).await.expect("the caller waits");
        stream.sender.finish().await.expect("the caller waits");
    };
    let (reply, ()) = tokio::join!(peer.call(offer("cpu"), SOON), served);
    assert_eq!(reply, Ok(HeadReply::Accepted));
}
