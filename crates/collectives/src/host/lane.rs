//! Both directions between this rank and another, and the messages on them.
//!
//! - **LA-1** a message is accepted only by the operation that it was sent for: the same operation,
//!   element type and length, and the next in order. Anything else ends the group.
//!
//! A message is one line of header and then its bytes, padded to whole lines. Long messages are written and
//! read in pieces.

use super::clock::Deadline;
use super::ring::{LINE, Reader, Writer, padded};
use super::watch::{Watch, narrow};
use crate::CollectiveError;
use crate::element::Kind;
use crate::error::Cause;

/// The operation that a message was sent for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Op {
    AllReduce = 1,
    AllGather,
    ReduceScatter,
    AllToAll,
    Broadcast,
    Send,
    Barrier,
}

/// The header of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Label {
    pub(super) op: Op,
    pub(super) kind: Kind,
    /// Length without padding.
    pub(super) bytes: usize,
}

/// The lane between this rank and another one.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) peer: usize,
    writer: Writer,
    reader: Reader,
    sent: u64,
    received: u64,
}

/// The waits of one operation.
pub(super) struct Wait<'a> {
    pub(super) watch: &'a Watch,
    pub(super) deadline: Option<Deadline>,
}

// === impl Lane ===

impl Lane {
    pub(super) fn new(peer: usize, writer: Writer, reader: Reader) -> Self {
        Self { peer, writer, reader, sent: 0, received: 0 }
    }

    /// Begins a message, and makes room for its first `bytes` bytes, which must fit.
    pub(super) fn open(
        &mut self,
        label: Label,
        bytes: usize,
        wait: &mut Wait<'_>,
    ) -> Result<(), CollectiveError> {
        self.await_room(LINE + padded(bytes), wait)?;
        self.writer.put(&encode(label, self.sent));
        self.sent += 1;
        Ok(())
    }

    /// Waits until `bytes` bytes and their padding fit.
    pub(super) fn await_room(
        &mut self,
        bytes: usize,
        wait: &mut Wait<'_>,
    ) -> Result<(), CollectiveError> {
        let (writer, bytes) = (&mut self.writer, padded(bytes));
        wait.watch.wait(self.peer, &mut wait.deadline, || writer.has_room(bytes))
    }

    /// Writes bytes for which there is room. The peer does not see them before [`publish`](Self::publish).
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.writer.put(bytes);
    }

    /// Makes the written bytes visible to the peer.
    pub(super) fn publish(&mut self) {
        self.writer.publish();
    }

    /// Takes the header of the next message, which must be as expected (**LA-1**).
    pub(super) fn accept(
        &mut self,
        expected: Label,
        wait: &mut Wait<'_>,
    ) -> Result<(), CollectiveError> {
        self.await_bytes(LINE, wait)?;
        // A line never lies across the end of the ring.
        let [header, _] = self.reader.peek(0, LINE);
        if header != encode(expected, self.received) {
            let by = wait.watch.rank;
            let (with, theirs) = (self.peer, describe(header));
            let cause = wait.watch.fail(Cause::Mismatch { by: narrow(by), with: narrow(with) });
            let CollectiveError::Mismatch { .. } = cause else { return Err(cause) };
            let (op, kind, bytes) = (expected.op, expected.kind, expected.bytes);
            let detail = format!(
                ": {by} is in {op:?} and expects {bytes} bytes of {kind:?} as message {}, {with} \
                 sent {theirs}; all ranks must call the same operations in the same order, with \
                 sizes that fit",
                self.received
            );
            return Err(CollectiveError::Mismatch { by, with, detail });
        }
        self.reader.consume(LINE);
        self.received += 1;
        Ok(())
    }

    /// Waits until `bytes` bytes and their padding have arrived.
    pub(super) fn await_bytes(
        &mut self,
        bytes: usize,
        wait: &mut Wait<'_>,
    ) -> Result<(), CollectiveError> {
        let (reader, bytes) = (&mut self.reader, padded(bytes));
        wait.watch.wait(self.peer, &mut wait.deadline, || reader.has(bytes))
    }

    /// Returns bytes that have arrived.
    pub(super) fn peek(&self, offset: usize, len: usize) -> [&[u8]; 2] {
        self.reader.peek(offset, len)
    }

    /// Frees bytes that have arrived.
    pub(super) fn consume(&mut self, bytes: usize) {
        self.reader.consume(padded(bytes));
    }

    /// Copies bytes that have arrived and frees them.
    pub(super) fn take(&mut self, into: &mut [u8]) {
        let [first, second] = self.reader.peek(0, into.len());
        let (head, tail) = into.split_at_mut(first.len());
        head.copy_from_slice(first);
        tail.copy_from_slice(second);
        self.consume(into.len());
    }
}

fn encode(label: Label, number: u64) -> [u8; LINE] {
    let mut header = [0; LINE];
    header[0] = label.op as u8;
    header[1] = label.kind as u8;
    header[8..16].copy_from_slice(&(label.bytes as u64).to_le_bytes());
    header[16..24].copy_from_slice(&number.to_le_bytes());
    header
}

/// Describes a header in words, whatever it holds.
fn describe(header: &[u8]) -> String {
    let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
    let ops = [
        Op::AllReduce,
        Op::AllGather,
        Op::ReduceScatter,
        Op::AllToAll,
        Op::Broadcast,
        Op::Send,
        Op::Barrier,
    ];
    let kinds = [Kind::U8, Kind::U32, Kind::Bf16, Kind::F16, Kind::F32];
    let op = ops.into_iter().find(|op| *op as u8 == header[0]);
    let kind = kinds.into_iter().find(|kind| *kind as u8 == header[1]);
    match (op, kind) {
        (Some(op), Some(kind)) => {
            format!("{} bytes of {kind:?} for {op:?} as message {}", word(8), word(16))
        }
        _ => "bytes that are no message".to_owned(),
    }
}
