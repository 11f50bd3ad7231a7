//! **LK-3**: notes are ordered and bounded.

use playhouse_link::{NoteError, PeerLost, TELL_QUEUE_MAX, TellError};
use playhouse_types::{Epoch, PrefixEvent};
use playhouse_wire::{DecodeError, HeadNote, Kind, PeerNote};

use crate::rig::{Linked, Rig, both, lost, soon};

both! {
    lk3_notes_arrive_in_order
    lk3_telling_a_peer_that_does_not_read_is_refused_in_the_end
    lk3_a_lost_peer_is_not_told
    lk8_a_peer_that_tells_something_else_is_closed
}

fn stored(sequence: u64, blocks: usize) -> PeerNote {
    let event = PrefixEvent::Stored(vec![sequence; blocks]);
    PeerNote::Prefix { replica: 0, epoch: Epoch(7), sequence, event }
}

async fn lk3_notes_arrive_in_order(mut rig: Rig) {
    let Linked { to_head, to_node, .. } = &mut rig.link("a", 1).await;
    let tell = async {
        for sequence in 0..5000 {
            while let Err(error) = to_head.0.tell(&stored(sequence, 3)) {
                assert_eq!(error, TellError::Full);
                tokio::task::yield_now().await;
            }
        }
    };
    let hear = async {
        for sequence in 0..5000 {
            assert_eq!(to_node.1.notes.next().await, Ok(stored(sequence, 3)));
        }
    };
    soon(async { tokio::join!(tell, hear) }).await;
    to_node.0.tell(&HeadNote::Shutdown).expect("there is room");
    assert_eq!(soon(to_head.1.notes.next()).await, Ok(HeadNote::Shutdown), "the other way too");
}

async fn lk3_telling_a_peer_that_does_not_read_is_refused_in_the_end(mut rig: Rig) {
    let Linked { to_head, to_node, .. } = &mut rig.link("a", 1).await;
    let mut told = 0;
    let full = async {
        loop {
            match to_head.0.tell(&stored(told, 1000)) {
                Ok(()) => told += 1,
                Err(TellError::Full) if told > 5 * TELL_QUEUE_MAX as u64 => panic!("{told} told"),
                // The writer may be about to make room: full for good is full after it ran.
                Err(TellError::Full) => {
                    let before = told;
                    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                    if to_head.0.tell(&stored(told, 1000)) == Err(TellError::Full) {
                        return before;
                    }
                    told += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    let told = soon(full).await;
    for sequence in 0..told {
        assert_eq!(soon(to_node.1.notes.next()).await, Ok(stored(sequence, 1000)));
    }
}

async fn lk3_a_lost_peer_is_not_told(mut rig: Rig) {
    let Linked { to_head, to_node, .. } = &mut rig.link("a", 1).await;
    to_node.0.close("enough");
    let why = PeerLost::Closed("enough".to_owned());
    assert_eq!(lost(&to_head.0).await, why);
    assert_eq!(to_head.0.tell(&stored(0, 1)), Err(TellError::Lost(why.clone())));
    let heard = soon(to_head.1.notes.next::<HeadNote>()).await;
    assert_eq!(heard, Err(NoteError::Lost(why)));
}

async fn lk8_a_peer_that_tells_something_else_is_closed(mut rig: Rig) {
    let Linked { to_head, to_node, .. } = &mut rig.link("a", 1).await;
    to_head.0.tell(&HeadNote::Shutdown).expect("there is room");
    let heard = soon(to_node.1.notes.next::<PeerNote>()).await;
    let error = DecodeError::OtherKind { given: Kind::HeadNote, expected: Kind::PeerNote };
    assert_eq!(heard, Err(NoteError::Malformed(error)));
    let reason = "control stream: got a HeadNote message where a PeerNote message belongs";
    let why = PeerLost::Protocol(reason.to_owned());
    assert_eq!(lost(&to_node.0).await, why);
    assert_eq!(lost(&to_head.0).await, why, "the other side reads the same");
}
