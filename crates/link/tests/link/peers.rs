//! **LK-6**, **LK-9**: the admission of peers, and at most one connection of each.

use playhouse_link::{DialError, PeerLost, TurnReason};
use playhouse_types::Epoch;
use playhouse_wire::Refusal;

use tokio::time::Instant;

use crate::rig::{
    EPOCH, Linked, Rig, World, both, config, dial, head_id, lost, next_arrival, node_id, soon,
};

both! {
    both_sides_know_each_other
    lk9_another_start_is_refused_while_the_first_answers
    lk9_another_start_takes_the_place_of_one_that_has_left
    lk9_the_same_start_replaces_its_own_connection
    a_zombie_of_an_older_epoch_is_refused
    an_arrival_that_nobody_answers_is_closed
    dialling_somebody_else_than_expected_fails
    others_are_served_while_one_is_refused
}

async fn both_sides_know_each_other(mut rig: Rig) {
    let Linked { to_head, to_node, .. } = &rig.link("a", 3).await;
    let (head, node) = (&to_head.0, &to_node.0);
    assert_eq!((head.id(), head.incarnation(), head.epoch()), (&head_id(), 1, EPOCH));
    assert_eq!((node.id(), node.incarnation(), node.epoch()), (&node_id("a"), 3, EPOCH));
}

async fn lk9_another_start_is_refused_while_the_first_answers(mut rig: Rig) {
    let first = rig.link("a", 5).await;
    for other in [4, 6] {
        let refusal = rig.dial_and_admit_refused("a", other).await;
        assert!(matches!(refusal, Refusal::DuplicateName { .. }), "{refusal}");
        let text = refusal.to_string();
        assert!(text.starts_with("the name node a is taken: a process at "), "{text}");
    }
    assert_eq!(*first.to_head.0.lost().borrow(), None);
    assert_eq!(*first.to_node.0.lost().borrow(), None, "the first one is not disturbed");
}

async fn lk9_another_start_takes_the_place_of_one_that_has_left(mut rig: Rig) {
    let mut earlier = Vec::new();
    for incarnation in [5, 4, 6] {
        let linked = rig.link("a", incarnation).await;
        linked.to_head.0.close("it leaves");
        // Whether the head has noticed that or not.
        earlier.push(linked);
    }
}

/// The silence of an ended process is detected while the next start waits to be admitted.
#[tokio::test(start_paused = true)]
async fn lk9_a_start_that_has_crashed_is_replaced_without_a_refusal() {
    let mut rig = Rig::twin().await;
    let crashed = rig.link("a", 5).await;
    let World::Twin(network) = &rig.world else { unreachable!("it is one") };
    network.crash(&node_id("a"));
    let begun = Instant::now();
    let _next = rig.link("a", 4).await;
    assert!(begun.elapsed() <= 2 * config().idle, "{:?}", begun.elapsed());
    assert_eq!(lost(&crashed.to_node.0).await, PeerLost::TimedOut);
}

async fn lk9_the_same_start_replaces_its_own_connection(mut rig: Rig) {
    let first = rig.link("a", 5).await;
    let (to_head, to_node) = rig.admit(&first.node).await;
    assert_eq!(lost(&first.to_node.0).await, PeerLost::Superseded);
    assert_eq!(lost(&first.to_head.0).await, PeerLost::Superseded, "it is told");
    // The end of the first does not remove the second.
    let refusal = rig.dial_and_admit_refused("a", 6).await;
    assert!(matches!(refusal, Refusal::DuplicateName { .. }), "{refusal}");
    assert_eq!(*to_head.0.lost().borrow(), None);
    assert_eq!(*to_node.0.lost().borrow(), None);
}

async fn a_zombie_of_an_older_epoch_is_refused(mut rig: Rig) {
    let node = rig.node("a", 1);
    let current = Epoch(EPOCH.0 + 1);
    let refuse = async {
        let arrival = next_arrival(&mut rig.arrivals).await;
        assert_eq!((arrival.peer(), arrival.hello().epoch), (&node_id("a"), EPOCH));
        let given = arrival.hello().epoch;
        arrival.refuse(Refusal::StaleEpoch { given, current }).await;
    };
    let (dialled, ()) = tokio::join!(dial(&node, rig.addr, EPOCH), refuse);
    let error = dialled.map(|_| ()).expect_err("refused");
    assert_eq!(error, DialError::Refused(Refusal::StaleEpoch { given: EPOCH, current }));
    assert!(error.is_final(), "dialling again cannot help");
    assert_eq!(error.to_string(), "refused: epoch-7 is over; the current one is epoch-8");
}

async fn an_arrival_that_nobody_answers_is_closed(mut rig: Rig) {
    let node = rig.node("a", 1);
    let ignore = async { drop(next_arrival(&mut rig.arrivals).await) };
    let (dialled, ()) = tokio::join!(dial(&node, rig.addr, EPOCH), ignore);
    let error = dialled.map(|_| ()).expect_err("closed");
    assert_eq!(error, DialError::Lost(PeerLost::Closed("not admitted".to_owned())));
}

async fn dialling_somebody_else_than_expected_fails(rig: Rig) {
    let node = rig.node("a", 1);
    let error = soon(node.dial(rig.addr, &node_id("b"), EPOCH)).await.map(|_| ());
    assert!(matches!(error, Err(DialError::Certificate(_))), "{error:?}");
}

async fn others_are_served_while_one_is_refused(mut rig: Rig) {
    let good = rig.link("good", 1).await;
    let _later = rig.link("a", 2).await;
    for _ in 0..3 {
        rig.dial_and_admit_refused("a", 1).await;
    }
    assert_eq!(*good.to_head.0.lost().borrow(), None);
    assert_eq!(*good.to_node.0.lost().borrow(), None);
}

impl Rig {
    /// A node that is refused when it is admitted. Both sides must say the same.
    async fn dial_and_admit_refused(&mut self, name: &str, incarnation: u64) -> Refusal {
        let node = self.node(name, incarnation);
        let dialled = dial(&node, self.addr, EPOCH);
        let admitted =
            async { next_arrival(&mut self.arrivals).await.admit(EPOCH).await.map(|_| ()) };
        let (dialled, admitted) = tokio::join!(dialled, admitted);
        let DialError::Refused(refusal) = dialled.map(|_| ()).expect_err("refused") else {
            panic!("another error");
        };
        assert_eq!(admitted, Err(TurnReason::Refused(refusal.clone())));
        refusal
    }
}
