//! The queue: requests without a slot.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use playhouse_types::RequestId;

use crate::Tenant;
use crate::sequence::Sequence;
use crate::served::Served;

/// The requests that wait for a slot. The next slot goes to the earliest priority; of that, to the
/// tenant that was served least; of that, to the request that arrived first. A request that lost its
/// slot returns to its old position. The queue counts its tokens as it goes.
///
/// Unbounded here: the part that admits requests (see `cluster`) bounds the queue by the two counts.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// The lines of each priority; no list of lines is empty.
    classes: BTreeMap<i32, Vec<Line>>,
    served: Served,
    len: usize,
    /// The known tokens of all sequences.
    tokens: usize,
    /// A lower bound of the deadlines of requests that may expire; `None` if there is no such deadline.
    first_deadline: Option<Duration>,
}

/// The requests of one tenant and priority, in order of arrival; never empty.
#[derive(Debug)]
struct Line {
    tenant: Tenant,
    sequences: VecDeque<Sequence>,
}

// === impl Queue ===

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn tokens(&self) -> usize {
        self.tokens
    }

    pub(crate) fn front(&self) -> Option<&Sequence> {
        let (_, lines) = self.classes.first_key_value()?;
        lines[self.next_line(lines)?].sequences.front()
    }

    /// Returns the index of the line that is to be served next.
    fn next_line(&self, lines: &[Line]) -> Option<usize> {
        let place = |line: &Line| (self.served.of(line.tenant), line.sequences[0].order());
        (0..lines.len()).min_by_key(|&at| place(&lines[at]))
    }

    /// Returns the shortest requests of the earliest priority, as many as have no more than `tokens_max`
    /// tokens together, and the number of those tokens.
    pub(crate) fn shortest(&self, tokens_max: usize) -> (Vec<RequestId>, usize) {
        let class = self.classes.first_key_value().map_or(&[][..], |(_, lines)| lines);
        let waiting = class.iter().flat_map(|line| &line.sequences);
        let short = waiting.filter(|one| one.known() <= tokens_max && one.suspect_until.is_none());
        let mut short: Vec<_> = short.map(|one| (one.known(), one.order())).collect();
        short.sort_unstable();
        let (mut ids, mut tokens) = (Vec::new(), 0);
        for (own, (.., id)) in short {
            if tokens + own > tokens_max {
                break;
            }
            ids.push(id);
            tokens += own;
        }
        (ids, tokens)
    }

    /// Takes in a request that is new, lost its slot, or comes from another scheduler.
    pub(crate) fn insert(&mut self, sequence: Sequence) {
        self.len += 1;
        self.tokens += sequence.known();
        let deadline = sequence.deadline();
        self.first_deadline = self.first_deadline.into_iter().chain(deadline).min();
        let lines = self.classes.entry(sequence.terms.priority).or_default();
        let tenant = sequence.terms.tenant;
        let Some(line) = lines.iter_mut().find(|line| line.tenant == tenant) else {
            let waiting = lines.iter().map(|line| line.tenant);
            self.served.join(tenant, waiting);
            return lines.push(Line { tenant, sequences: [sequence].into() });
        };
        let at = line.sequences.partition_point(|one| one.order() < sequence.order());
        line.sequences.insert(at, sequence);
    }

    pub(crate) fn pop_front(&mut self) -> Option<Sequence> {
        let (&priority, lines) = self.classes.first_key_value()?;
        let line = self.next_line(lines)?;
        self.take(priority, line, 0)
    }

    pub(crate) fn remove(&mut self, id: RequestId) -> Option<Sequence> {
        let mut found = None;
        for (&priority, lines) in &self.classes {
            for (at, line) in lines.iter().enumerate() {
                let nth = line.sequences.iter().position(|one| one.request.id == id);
                found = found.or(nth.map(|nth| (priority, at, nth)));
            }
        }
        let (priority, line, nth) = found?;
        self.take(priority, line, nth)
    }

    /// Takes out the first request whose deadline has passed at `now` (**S-13**).
    pub(crate) fn pop_expired(&mut self, now: Duration) -> Option<Sequence> {
        if self.first_deadline.is_none_or(|first| first > now) {
            return None;
        }
        let lines = self.classes.values().flatten();
        let waiting = lines.flat_map(|line| &line.sequences);
        let deadlines = waiting.filter_map(|one| Some((one.deadline()?, one.request.id)));
        let first = deadlines.min();
        self.first_deadline = first.map(|(deadline, _)| deadline);
        let (_, id) = first.filter(|(deadline, _)| *deadline <= now)?;
        self.remove(id)
    }

    /// Charges a tenant for tokens that it was given.
    pub(crate) fn charge(&mut self, tenant: Tenant, tokens: usize) {
        self.served.charge(tenant, tokens);
    }

    /// Takes out the `nth` request of a line.
    fn take(&mut self, priority: i32, line: usize, nth: usize) -> Option<Sequence> {
        let lines = self.classes.get_mut(&priority)?;
        let sequence = lines.get_mut(line)?.sequences.remove(nth)?;
        self.len -= 1;
        self.tokens -= sequence.known();
        if lines[line].sequences.is_empty() {
            let Line { tenant, .. } = lines.swap_remove(line);
            self.served.leave(tenant);
        }
        if lines.is_empty() {
            self.classes.remove(&priority);
        }
        Some(sequence)
    }
}
