//! **LK-2**: streams report their end, and hold their writers back.

use std::time::Duration;

use bytes::Bytes;
use playhouse_link::{Peer, RecvError, SendError, Stream, Streams};
use playhouse_types::{Epoch, StepId, StepPlan};
use playhouse_wire::{BulkOpening, Kind, NodeReply, NodeRequest, StepCommand, StepEvent};

use crate::rig::{Linked, Rig, SOON, STATS, both, soon};

both! {
    a_step_stream_carries_plans_down_and_events_up
    many_messages_go_in_one_write
    lk2_dropping_the_receiver_cancels_the_sender
    lk2_dropping_the_sender_cancels_the_receiver
    lk2_a_slow_reader_holds_its_writer_back_and_nobody_else
    bulk_arrives_whole_and_the_writer_knows
    a_bulk_reader_that_leaves_ends_the_transfer
}

const ATTACH: StepCommand = StepCommand::Attach { epoch: Epoch(7) };

fn plan(step: u64) -> StepCommand {
    StepCommand::Plan(StepPlan {
        epoch: Epoch(7),
        step: StepId(step),
        released: Vec::new(),
        admitted: Vec::new(),
        runs: Vec::new(),
    })
}

fn done(step: u64) -> StepEvent {
    StepEvent::Done { epoch: Epoch(7), step: StepId(step) }
}

/// A step stream, from both sides.
async fn open(
    peer: &Peer,
    streams: &mut Streams,
) -> (Stream<StepCommand, StepEvent>, Stream<StepEvent, StepCommand>) {
    let (opened, incoming) = tokio::join!(peer.open(ATTACH, SOON), soon(streams.next()));
    let incoming = incoming.expect("a stream");
    assert_eq!(incoming.kind(), Kind::StepCommand);
    let (first, served) = incoming.take::<StepCommand>().expect("a step stream");
    assert_eq!(first, ATTACH);
    (opened.expect("there is room"), served)
}

async fn a_step_stream_carries_plans_down_and_events_up(mut rig: Rig) {
    let Linked { to_head, to_node, .. } = &mut rig.link("a", 1).await;
    let (mut opened, mut served) = open(&to_node.0, &mut to_head.1.streams).await;
    for step in 0..50 {
        opened.sender.send(&plan(step)).await.expect("a reader");
        assert_eq!(served.receiver.next().await, Ok(Some(plan(step))));
        served.sender.send(&done(step)).await.expect("a reader");
        assert_eq!(opened.receiver.next().await, Ok(Some(done(step))));
    }
    opened.sender.finish().await.expect("a reader");
    assert_eq!(served.receiver.next().await, Ok(None));
    served.sender.send(&done(50)).await.expect("the other half is open still");
    served.sender.finish().await.expect("a reader");
    assert_eq!(opened.receiver.next().await, Ok(Some(done(50))));
    assert_eq!(opened.receiver.next().await, Ok(None));
    assert_eq!(opened.receiver.next().await, Ok(None), "the end stays");
}

async fn many_messages_go_in_one_write(mut rig: Rig) {
    let Linked { to_head, to_node, .. } = &mut rig.link("a", 1).await;
    let (mut opened, mut served) = open(&to_node.0, &mut to_head.1.streams).await;
    let plans: Vec<_> = (0..1000).map(plan).collect();
    let read = async {
        for step in 0..1000 {
            assert_eq!(served.receiver.next().await, Ok(Some(plan(step))));
        }
    };
    let (sent, ()) = tokio::join!(opened.sender.send_all(&plans), soon(read));
    assert_eq!(sent, Ok(()));
}

async fn lk2_dropping_the_receiver_cancels_the_sender(mut rig: Rig) {
    let Linked { to_head, to_node, .. } = &mut rig.link("a", 1).await;
    let (opened, mut served) = open(&to_node.0, &mut to_head.1.streams).await;
    let Stream { sender, receiver } = opened;
    drop(receiver);
    let stopped = async {
        loop {
            if let Err(error) = served.sender.send(&done(0)).await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(soon(stopped).await, SendError::Cancelled);
    drop(sender);
}

async fn lk2_dropping_the_sender_cancels_the_receiver(mut rig: Rig) {
    let Linked { to_head, to_node, .. } = &mut rig.link("a", 1).await;
    let (opened, mut served) = open(&to_node.0, &mut to_head.1.streams).await;
    drop(opened);
    assert_eq!(soon(served.receiver.next()).await, Err(RecvError::Cancelled));
    assert_eq!(served.receiver.next().await, Ok(None), "nothing comes after an error");
}

async fn lk2_a_slow_reader_holds_its_writer_back_and_nobody_else(mut rig: Rig) {
    let Linked { to_head, to_node, .. } = &mut rig.link("a", 1).await;
    let (mut opened, mut served) = open(&to_node.0, &mut to_head.1.streams).await;
    let long = |step| {
        let reason = "x".repeat(50_000);
        StepEvent::Exited { epoch: Epoch(step), reason, of_step: false }
    };
    // The stream is not read, so sooner or later a send does not end.
    let mut sent = 0;
    while tokio::time::timeout(Duration::from_millis(300), served.sender.send(&long(sent)))
        .await
        .is_ok_and(|sent| sent.is_ok())
    {
        sent += 1;
        assert!(sent < 200, "10 MB were taken for a reader that does not read");
    }
    assert!(sent > 0, "there is some room");
    // Others pass.
    let call = to_node.0.call(NodeRequest::Stats, SOON);
    let answer = async {
        let incoming = soon(to_head.1.streams.next()).await.expect("a call");
        let (_, mut stream) = incoming.take::<NodeRequest>().expect("of this type");
        stream.sender.send(&NodeReply::Stats(STATS)).await.expect("the caller waits");
        stream.sender.finish().await.expect("the caller waits");
    };
    assert_eq!(tokio::join!(call, answer).0, Ok(NodeReply::Stats(STATS)));
    // The send that was given up is finished by the next: whole, once, in order.
    let rest = async {
        served.sender.send(&done(1)).await.expect("a reader");
        served.sender.finish().await.expect("a reader");
    };
    let read = async {
        for step in 0..=sent {
            assert_eq!(opened.receiver.next().await, Ok(Some(long(step))));
        }
        assert_eq!(opened.receiver.next().await, Ok(Some(done(1))));
        assert_eq!(opened.receiver.next().await, Ok(None));
    };
    soon(async { tokio::join!(rest, read) }).await;
}

/// Longer than any window.
const BULK_PIECES: usize = 40;
const BULK_PIECE: usize = 1 << 20;
const BULK: BulkOpening = BulkOpening { tag: 9, bytes: (BULK_PIECES * BULK_PIECE) as u64 };

async fn bulk_arrives_whole_and_the_writer_knows(mut rig: Rig) {
    let Linked { to_head, to_node, .. } = &mut rig.link("a", 1).await;
    let write = async {
        let mut writer = to_node.0.open_bulk(BULK, SOON).await.expect("there is room");
        for piece in 0..BULK_PIECES {
            writer.write(Bytes::from(vec![piece as u8; BULK_PIECE])).await.expect("a reader");
        }
        writer.finish().await
    };
    let read = async {
        let incoming = to_head.1.streams.next().await.expect("a stream");
        let mut reader = incoming.take_bulk().expect("bulk");
        assert_eq!(reader.opening(), &BULK);
        let mut at = 0;
        while let Some(bytes) = reader.next().await.expect("the writer goes on") {
            assert!(bytes.iter().enumerate().all(|(i, &b)| b == ((at + i) / BULK_PIECE) as u8));
            at += bytes.len();
        }
        assert_eq!(at, BULK_PIECES * BULK_PIECE);
    };
    let (written, ()) = soon(async { tokio::join!(write, read) }).await;
    assert_eq!(written, Ok(()));
}

async fn a_bulk_reader_that_leaves_ends_the_transfer(mut rig: Rig) {
    let Linked { to_head, to_node, .. } = &mut rig.link("a", 1).await;
    let write = async {
        let mut writer = to_node.0.open_bulk(BULK, SOON).await.expect("there is room");
        for _ in 0..BULK_PIECES {
            if let Err(error) = writer.write(Bytes::from(vec![0; BULK_PIECE])).await {
                return error;
            }
        }
        panic!("40 MiB were taken for a reader that has left");
    };
    let read = async {
        let incoming = to_head.1.streams.next().await.expect("a stream");
        let mut reader = incoming.take_bulk().expect("bulk");
        assert!(reader.next().await.expect("the writer goes on").is_some());
    };
    let (error, ()) = soon(async { tokio::join!(write, read) }).await;
    assert_eq!(error, SendError::Cancelled);
}
