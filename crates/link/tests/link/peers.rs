//! **LK-6**, **LK-9**: who may come in, and that there is one of each.

use playhouse_link::{DialError, PeerLost, TurnReason};
use playhouse_types::Epoch;
use playhouse_wire::Refusal;

use crate::rig::{EPOCH, Linked, Rig, both, dial, head_id, lost, next_arrival, node_id, soon};

both! {
    both_sides_know_each_other
    lk9_a_later_start_takes_the_place_of_an_earlier_one
    lk9_an_earlier_start_is_refused_on_both_sides
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

async fn lk9_a_later_start_takes_the_place_of_an_earlier_one(mut rig: Rig) {
    let earlier = rig.link("a", 1).await;
    let later = rig.link("a", 2).await;
    assert_eq!(lost(&earlier.to_node.0).await, PeerLost::Superseded);
    assert_eq!(lost(&earlier.to_head.0).await, PeerLost::Superseded, "it is told");
    // The end of the earlier one does not remove the later one.
    let again = rig.dial_and_admit_refused("a", 1).await;
    assert!(matches!(again, Refusal::DuplicateName { live: 2, given: 1, .. }), "{again}");
    assert_eq!(*later.to_head.0.lost().borrow(), None);
}

async fn lk9_an_earlier_start_is_refused_on_both_sides(mut rig: Rig) {
    let later = rig.link("a", 2).await;
    let refusal = rig.dial_and_admit_refused("a", 1).await;
    let text = refusal.to_string();
    assert!(text.starts_with("the name node a is taken: incarnation 2 is connected"), "{text}");
    assert_eq!(*later.to_node.0.lost().borrow(), None);
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
