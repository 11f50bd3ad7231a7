//! One side of a connection in memory, and its streams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use playhouse_wire::PeerId;
use tokio::time::Instant;

use super::pipe::{Pipe, PipeEnd, Read};
use super::world::{Look, State, World};
use crate::close::{CloseCode, PeerLost};
use crate::stream_end::{StreamCode, StreamEnd};

/// One side of a connection.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub(super) world: Arc<World>,
    pub(super) pair: u64,
    pub(super) side: usize,
    pub(super) other: (PeerId, SocketAddr),
}

/// The half of a stream that this side writes.
#[derive(Debug)]
pub(crate) struct TwinSendStream(Half);

/// The half of a stream that this side reads.
#[derive(Debug)]
pub(crate) struct TwinRecvStream(Half);

#[derive(Debug)]
struct Half {
    end: End,
    stream: u64,
}

// === impl End ===

impl End {
    /// Returns the peer on the other side, and its address.
    pub(crate) fn other(&self) -> (PeerId, SocketAddr) {
        self.other.clone()
    }

    pub(crate) fn open(
        &self,
        both_ways: bool,
    ) -> Result<(TwinSendStream, TwinRecvStream), PeerLost> {
        let (pair, side) = (self.pair, self.side);
        let stream = self.world.change(|state| {
            if let Poll::Ready(lost) = state.lost(pair, side, Instant::now()) {
                return Err(lost);
            }
            let Some(pair) = state.pairs.get_mut(&pair) else { return Err(PeerLost::Local) };
            let stream = pair.next_stream;
            pair.next_stream += 1;
            pair.streams.insert(stream, <[Pipe; 2]>::default());
            pair.sides[1 - side].opened.push((stream, both_ways));
            Ok(stream)
        })?;
        Ok(self.halves(stream))
    }

    /// Returns the next stream of the other side whose first bytes, or end, have arrived. Cancel-safe.
    pub(crate) async fn accept(
        &self,
        both_ways: bool,
    ) -> Result<(TwinSendStream, TwinRecvStream), PeerLost> {
        let (pair, side) = (self.pair, self.side);
        let accepted = self.world.wait(|state, now| {
            Look::unless_lost(state, pair, side, now, |state| {
                let open = state.is_open(pair, 1 - side);
                let Some(state) = state.pairs.get_mut(&pair) else {
                    return Look::Done(Err(PeerLost::Local));
                };
                let mut soonest: Option<Instant> = None;
                let opened = &mut state.sides[side].opened;
                for index in 0..opened.len() {
                    let (stream, both) = opened[index];
                    if both != both_ways || !open {
                        continue;
                    }
                    match state.streams[&stream][1 - side].arrived(now) {
                        Ok(()) => {
                            opened.remove(index);
                            return Look::Done(Ok(stream));
                        }
                        Err(at) => soonest = soonest.into_iter().chain(at).min(),
                    }
                }
                Look::Again(soonest)
            })
        });
        Ok(self.halves(accepted.await?))
    }

    pub(crate) fn close(&self, code: CloseCode, reason: &str) {
        let (pair, side) = (self.pair, self.side);
        let heard = CloseCode::heard(code.number().into(), reason.to_owned());
        self.world.change(|state| close(state, pair, side, heard));
    }

    pub(crate) async fn closed(&self) -> PeerLost {
        let (pair, side) = (self.pair, self.side);
        let nothing = |_: &mut State| Look::Again(None);
        let wait =
            self.world.wait(|state, now| Look::<()>::unless_lost(state, pair, side, now, nothing));
        wait.await.err().unwrap_or(PeerLost::Local)
    }

    fn halves(&self, stream: u64) -> (TwinSendStream, TwinRecvStream) {
        let half = || Half { end: self.clone(), stream };
        (TwinSendStream(half()), TwinRecvStream(half()))
    }
}

/// Ends the connection for one side, and sends the other a farewell.
pub(super) fn close(state: &mut State, pair: u64, side: usize, heard: PeerLost) {
    let now = Instant::now();
    if state.lost(pair, side, now).is_ready() {
        return;
    }
    let at = state.arrival(pair, side, now);
    let Some(pair) = state.pairs.get_mut(&pair) else { return };
    pair.sides[side].lost = Some(PeerLost::Local);
    pair.sides[1 - side].farewell.get_or_insert((at, heard));
}

// === impl TwinSendStream ===

impl TwinSendStream {
    /// Writes some of `bytes`. Cancel-safe.
    pub(crate) async fn write(&mut self, bytes: &mut Bytes) -> Result<(), StreamEnd> {
        let Half { end: End { world, pair, side, .. }, stream } = &self.0;
        let (pair, side, stream) = (*pair, *side, *stream);
        let written = world.wait(|state, now| {
            Look::unless_lost(state, pair, side, now, |state| {
                let at = state.arrival(pair, side, now);
                let Some(pipe) = state.pipe(pair, stream, side) else {
                    return Look::Done(Err(PeerLost::Local));
                };
                match pipe.stopped(now) {
                    Err(code) => Look::Done(Ok(Err(StreamEnd::GivenUp(code)))),
                    Ok(again) => match pipe.write(at, bytes) {
                        0 => Look::Again(again),
                        _ => Look::Done(Ok(Ok(()))),
                    },
                }
            })
        });
        let written = written.await.map_err(StreamEnd::Lost)?;
        world.change(|_| {});
        written
    }

    pub(crate) fn finish(&mut self) {
        self.0.end_with(PipeEnd::Finished);
    }

    pub(crate) fn reset(&mut self, code: StreamCode) {
        self.0.end_with(PipeEnd::Reset(code));
    }
}

// === impl TwinRecvStream ===

impl TwinRecvStream {
    /// Returns the next bytes; `None` at the end. Cancel-safe.
    pub(crate) async fn read(&mut self, max: usize) -> Result<Option<Bytes>, StreamEnd> {
        let Half { end: End { world, pair, side, .. }, stream } = &self.0;
        let (pair, side, stream) = (*pair, *side, *stream);
        let read = world.wait(|state, now| {
            Look::unless_lost(state, pair, side, now, |state| {
                if !state.is_open(pair, 1 - side) {
                    return Look::Again(None);
                }
                let Some(pipe) = state.pipe(pair, stream, 1 - side) else {
                    return Look::Done(Err(PeerLost::Local));
                };
                match pipe.read(now, max) {
                    Read::Piece(bytes) => Look::Done(Ok(Ok(Some(bytes)))),
                    Read::End(PipeEnd::Finished) => Look::Done(Ok(Ok(None))),
                    Read::End(PipeEnd::Reset(code)) => {
                        Look::Done(Ok(Err(StreamEnd::GivenUp(code))))
                    }
                    Read::Nothing(again) => Look::Again(again),
                }
            })
        });
        let read = read.await.map_err(StreamEnd::Lost)?;
        // The writer has room again.
        world.change(|_| {});
        read
    }

    pub(crate) fn stop(&mut self, code: StreamCode) {
        let Half { end: End { world, pair, side, .. }, stream } = &self.0;
        world.change(|state| {
            if state.pairs.contains_key(pair) {
                let at = state.arrival(*pair, *side, Instant::now());
                if let Some(pipe) = state.pipe(*pair, *stream, 1 - side) {
                    pipe.stop(at, code);
                }
            }
        });
    }
}

// === impl Half ===

impl Half {
    fn end_with(&self, end: PipeEnd) {
        let Self { end: End { world, pair, side, .. }, stream } = self;
        world.change(|state| {
            if state.pairs.contains_key(pair) {
                let at = state.arrival(*pair, *side, Instant::now());
                if let Some(pipe) = state.pipe(*pair, *stream, *side) {
                    pipe.end(at, end);
                }
            }
        });
    }
}
