//! One direction of a stream.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::time::Instant;

use crate::stream_end::StreamCode;

/// The bytes that a writer may be ahead of its reader, like QUIC's flow control.
const WINDOW: usize = 256 * 1024;

/// The bytes on the way from one side to the other.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    /// The pieces in order, each with the time of its arrival.
    pieces: VecDeque<(Instant, Bytes)>,
    queued: usize,
    /// The end of the stream and its time, set once.
    end: Option<(Instant, PipeEnd)>,
    /// The code with which the reader has given the stream up, and the time at which the writer learns of
    /// it.
    stopped: Option<(Instant, StreamCode)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PipeEnd {
    /// The end comes after the last piece.
    Finished,
    /// The end comes at once.
    Reset(StreamCode),
}

/// The outcome of a read.
pub(super) enum Read {
    Piece(Bytes),
    End(PipeEnd),
    /// No bytes have arrived yet; perhaps some will at this time.
    Nothing(Option<Instant>),
}

// === impl Pipe ===

impl Pipe {
    /// Takes as much of `bytes` as there is room for, and returns how much; 0 means that the writer must
    /// wait.
    pub(super) fn write(&mut self, at: Instant, bytes: &mut Bytes) -> usize {
        let room = WINDOW.saturating_sub(self.queued).min(bytes.len());
        if room > 0 && self.end.is_none() {
            let at = self.pieces.back().map_or(at, |&(last, _)| at.max(last));
            self.queued += room;
            self.pieces.push_back((at, bytes.split_to(room)));
        }
        room
    }

    /// Returns the code that the writer has learned by `now`, or when it will learn one.
    pub(super) fn stopped(&self, now: Instant) -> Result<Option<Instant>, StreamCode> {
        match self.stopped {
            Some((at, code)) if at <= now => Err(code),
            Some((at, _)) => Ok(Some(at)),
            None => Ok(None),
        }
    }

    pub(super) fn stop(&mut self, at: Instant, code: StreamCode) {
        self.stopped.get_or_insert((at, code));
        self.pieces.clear();
        self.queued = 0;
    }

    /// Sets the end. The first end counts, except that a finished stream can still be reset.
    pub(super) fn end(&mut self, at: Instant, end: PipeEnd) {
        let at = self.pieces.back().map_or(at, |&(last, _)| at.max(last));
        match (self.end, end) {
            (None, _) | (Some((_, PipeEnd::Finished)), PipeEnd::Reset(_)) => {
                // A reset after everything has been read changes nothing.
                let unread = !self.pieces.is_empty() || self.end.is_none();
                if unread {
                    self.end = Some((at, end));
                }
            }
            _ => {}
        }
    }

    /// Returns whether anything has arrived by `now`; if not, when it may.
    pub(super) fn arrived(&self, now: Instant) -> Result<(), Option<Instant>> {
        let piece = self.pieces.front().map(|&(at, _)| at);
        match piece.or(self.end.map(|(at, _)| at)) {
            Some(at) if at <= now => Ok(()),
            at => Err(at),
        }
    }

    pub(super) fn read(&mut self, now: Instant, max: usize) -> Read {
        if let Some((at, end @ PipeEnd::Reset(_))) = self.end
            && at <= now
        {
            return Read::End(end);
        }
        match self.pieces.front_mut() {
            Some((at, piece)) if *at <= now => {
                let taken = piece.split_to(max.min(piece.len()));
                if piece.is_empty() {
                    self.pieces.pop_front();
                }
                self.queued -= taken.len();
                Read::Piece(taken)
            }
            Some((at, _)) => Read::Nothing(Some(*at)),
            None => match self.end {
                Some((at, end)) if at <= now => Read::End(end),
                end => Read::Nothing(end.map(|(at, _)| at)),
            },
        }
    }
}
