//! **TW-1** to **TW-4**: the twin behaves like a network that tests control.

use std::time::Duration;

use playhouse_link::{Network, PeerLost};
use playhouse_wire::{NodeReply, NodeRequest};
use tokio::time::Instant;

use crate::rig::{Linked, Rig, SOON, World, head_id, lost, node_id, soon};

fn network(rig: &Rig) -> Network {
    let World::Twin(network) = &rig.world else { panic!("not a twin") };
    network.clone()
}

/// How long a hundred calls take on the twin's clock.
async fn hundred_calls(rig: &mut Rig, loss: f64) -> Duration {
    let net = network(rig);
    let Linked { to_head, to_node: (peer, _inbox), .. } = &mut rig.link("a", 1).await;
    let ms = Duration::from_millis;
    net.delay(&head_id(), &node_id("a"), ms(3));
    net.delay(&node_id("a"), &head_id(), ms(2));
    net.drop(&head_id(), &node_id("a"), loss);
    let streams = &mut to_head.1.streams;
    let serve = async {
        while let Some(incoming) = streams.next().await {
            let (_, mut stream) = incoming.take::<NodeRequest>().expect("a call");
            stream.sender.send(&NodeReply::Killed).await.expect("the caller waits");
            stream.sender.finish().await.expect("the caller waits");
        }
    };
    let begun = Instant::now();
    let calls = async {
        for _ in 0..100 {
            assert_eq!(peer.call(NodeRequest::Stats, SOON).await, Ok(NodeReply::Killed));
        }
    };
    tokio::select! {
        () = calls => {}
        () = serve => panic!("the caller is gone"),
    }
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_delay_is_the_time_of_a_round_trip() {
    let took = hundred_calls(&mut Rig::twin().await, 0.0).await;
    assert_eq!(took.as_millis(), 500);
}

#[tokio::test(start_paused = true)]
async fn tw1_tw2_lost_packets_cost_time_and_always_the_same() {
    let took = hundred_calls(&mut Rig::twin().await, 0.3).await;
    assert!(took > Duration::from_millis(1000), "{took:?}");
    assert_eq!(took, hundred_calls(&mut Rig::twin().await, 0.3).await);
}

#[tokio::test(start_paused = true)]
async fn tw3_a_way_that_loses_everything_loses_both_ends() {
    let mut rig = Rig::twin().await;
    let Linked { to_head, to_node, .. } = &rig.link("a", 1).await;
    network(&rig).drop(&head_id(), &node_id("a"), 1.0);
    let begun = Instant::now();
    assert_eq!(lost(&to_head.0).await, PeerLost::TimedOut);
    let first = begun.elapsed();
    assert_eq!(lost(&to_node.0).await, PeerLost::TimedOut);
    let ms = Duration::from_millis;
    assert!(ms(900) <= first && first <= ms(1200), "{first:?}");
    // The other end hears the first for as long as that one lives.
    assert!(begun.elapsed() <= ms(2400), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_cut_between_two_hosts_leaves_a_third_alone() {
    let mut rig = Rig::twin().await;
    let a = rig.link("a", 1).await;
    let b = rig.link("b", 1).await;
    network(&rig).cut(&head_id(), &node_id("a"));
    assert_eq!(lost(&a.to_node.0).await, PeerLost::TimedOut);
    assert_eq!(*b.to_node.0.lost().borrow(), None);
    assert_eq!(*b.to_head.0.lost().borrow(), None);
}

#[tokio::test(start_paused = true)]
async fn tw2_a_short_cut_is_survived_and_nothing_is_lost() {
    let mut rig = Rig::twin().await;
    let Linked { to_head, to_node, .. } = &mut rig.link("a", 1).await;
    network(&rig).isolate(&node_id("a"));
    let call = to_node.0.call(NodeRequest::Stats, SOON);
    let serve = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        network(&rig).recover();
        let incoming = soon(to_head.1.streams.next()).await.expect("a call");
        let (_, mut stream) = incoming.take::<NodeRequest>().expect("a call");
        stream.sender.send(&NodeReply::Killed).await.expect("the caller waits");
        stream.sender.finish().await.expect("the caller waits");
    };
    assert_eq!(tokio::join!(call, serve).0, Ok(NodeReply::Killed));
}

#[tokio::test(start_paused = true)]
async fn a_host_that_crashed_is_silent_and_may_start_again() {
    let mut rig = Rig::twin().await;
    let Linked { to_head, to_node, .. } = &rig.link("a", 1).await;
    network(&rig).crash(&node_id("a"));
    network(&rig).recover();
    // The end of a process does not end its connection, because no packet says so.
    assert_eq!(*to_node.0.lost().borrow(), None);
    let again = rig.link("a", 2).await;
    assert_eq!(lost(&to_head.0).await, PeerLost::TimedOut);
    assert_eq!(*again.to_node.0.lost().borrow(), None);
}

#[tokio::test(start_paused = true)]
async fn tw4_a_host_that_is_resumed_soon_has_missed_nothing() {
    let mut rig = Rig::twin().await;
    let Linked { to_head, to_node, .. } = &mut rig.link("a", 1).await;
    let network = network(&rig);
    network.suspend(&node_id("a"));
    let begun = Instant::now();
    let call = to_node.0.call(NodeRequest::Stats, SOON);
    let serve = async {
        let incoming = soon(to_head.1.streams.next()).await.expect("a call");
        let (_, mut stream) = incoming.take::<NodeRequest>().expect("a call");
        stream.sender.send(&NodeReply::Killed).await.expect("the caller waits");
        stream.sender.finish().await.expect("the caller waits");
    };
    let resume = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        network.resume(&node_id("a"));
    };
    assert_eq!(tokio::join!(call, serve, resume).0, Ok(NodeReply::Killed));
    assert_eq!(begun.elapsed(), Duration::from_millis(400));
}

#[tokio::test(start_paused = true)]
async fn tw4_a_host_that_is_resumed_late_learns_then_what_it_has_lost() {
    let mut rig = Rig::twin().await;
    let Linked { to_head, to_node, .. } = &rig.link("a", 1).await;
    let network = network(&rig);
    network.suspend(&node_id("a"));
    assert_eq!(lost(&to_node.0).await, PeerLost::TimedOut);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(*to_head.0.lost().borrow(), None, "it does not know how late it is");
    let resumed = Instant::now();
    network.resume(&node_id("a"));
    assert_eq!(lost(&to_head.0).await, PeerLost::TimedOut);
    assert!(resumed.elapsed() <= Duration::from_millis(100), "{:?}", resumed.elapsed());
}
