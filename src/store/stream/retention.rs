//! How much of a stream is kept, by bytes and by age. What is beyond it is trimmed as by hand, a part a turn.
//!
//! Events have no time of their own. While a stream is kept by age, a mark now and then says by when the events so far
//! were appended: few enough to stay in memory, and in the log, whatever is appended.

use std::collections::VecDeque;
use std::ops::Range;

use crate::bytes::get_u64;
use crate::ring::protocol::{Completion, RETENTION_AS_IS, Status, TTL_MS_MAX, stats};
use crate::store::checkpoint::Piece;
use crate::store::heap::Heap;
use crate::store::stream::{Stream, Streams};
use crate::store::{Context, Mode, Outcome, Request, Rest, Store, Wall};
use crate::types::{Durability, Lsn, ObjectId};
use crate::wal::planted::Planted;
use crate::wal::pool::Writer;
use crate::wal::record::{Kind, Record};

/// What an event counts beside its bytes: about what its record takes.
const EVENT_BYTES: u64 = 32;
/// A trim by bytes makes room for this part of the bound more, and marks are this part of the age apart.
const PARTS: u64 = 64;
/// More than `PARTS`, for marks that were made for a shorter age, or before the clock was set back. With so many no more are
/// made, and events only stay for longer.
const MARKS_MAX: usize = 160;
/// Memory that a stream with retention counts.
const RETENTION_BYTES: usize = 4_096;
/// Events and streams that one call looks at.
const EVENTS_MAX: usize = 1_024;
const STREAMS_MAX: usize = 64;

/// 0: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bounds {
    bytes: u64,
    age_ms: u64,
}

/// The events below `offset` were appended by `wall_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    offset: u64,
    wall_ms: u64,
    lsn: Lsn,
}

impl Mark {
    fn of(record: &Record<'_>) -> Mark {
        Mark { offset: record.version, wall_ms: get_u64(record.key, 0), lsn: record.lsn }
    }
}

pub(super) struct Retention {
    bounds: Bounds,
    lsn: Lsn,
    /// Offsets rise; moments do too, but where the clock was set back. The last one stays, whatever is trimmed: the next is
    /// so much later.
    marks: VecDeque<Mark>,
    /// A mark, offset and moment, that waits for room in the log.
    late: Option<(u64, u64)>,
    /// Events that it trimmed since the start.
    retired: u64,
}

impl Retention {
    /// Whether its bounds, or a mark, were said with one of these LSNs.
    pub fn any_said(&self, lsns: &Range<Lsn>) -> bool {
        lsns.contains(&self.lsn) || self.marks.iter().any(|mark| lsns.contains(&mark.lsn))
    }
}

/// What came of a look at the streams with a retention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retired {
    /// Events that were trimmed.
    pub events: u64,
    pub rest: Rest,
}

impl Retention {
    fn new() -> Retention {
        let marks = VecDeque::with_capacity(MARKS_MAX);
        Retention { bounds: Bounds::default(), lsn: Lsn::NONE, marks, late: None, retired: 0 }
    }

    /// Takes a mark in. The order in which marks come does not matter.
    fn note(&mut self, mark: Mark) {
        match self.marks.binary_search_by_key(&mark.offset, |own| own.offset) {
            // A copy, or one of events that came in the places of those that `repair` gave up.
            Ok(at) => {
                let own = &mut self.marks[at];
                (own.wall_ms, own.lsn) = (own.wall_ms.max(mark.wall_ms), own.lsn.max(mark.lsn));
            }
            Err(at) => self.marks.insert(at, mark),
        }
    }

    fn interval_ms(&self) -> u64 {
        (self.bounds.age_ms / PARTS).max(1)
    }
}

impl Stream {
    /// Bytes that count; known when trimmed events gave their memory back.
    fn kept_bytes(&self) -> Option<u64> {
        (self.freed == self.first).then(|| self.held_bytes + EVENT_BYTES * (self.next - self.first))
    }

    /// Whether it has more bytes than it is to keep. The newest event stays.
    fn exceeds(&self, bytes: u64) -> bool {
        let beyond = self.kept_bytes().is_some_and(|kept_bytes| kept_bytes > bytes);
        bytes > 0 && beyond && self.next - self.first > 1
    }

    /// When its next mark is to be made, by the wall clock that shows `wall_ms`: at once after it was set back.
    fn mark_due_ms(&self, retention: &Retention, wall_ms: u64) -> Option<u64> {
        let last = retention.marks.back();
        let marked = last.map_or(self.first, |mark| mark.offset.max(self.first));
        let wanted = retention.bounds.age_ms > 0 && self.next > marked && retention.marks.len() < MARKS_MAX;
        let past = last.filter(|mark| mark.wall_ms <= wall_ms);
        wanted.then(|| past.map_or(0, |mark| mark.wall_ms + retention.interval_ms()))
    }

    fn wants_mark(&self, wall_ms: u64) -> bool {
        let due_ms = self.retention.as_deref().and_then(|retention| self.mark_due_ms(retention, wall_ms));
        due_ms.is_some_and(|due_ms| due_ms <= wall_ms)
    }

    /// The mark to make now, offset and moment: one that had to wait first.
    fn wanted_mark(&mut self, wall_ms: u64) -> Option<(u64, u64)> {
        let wanted = self.wants_mark(wall_ms).then_some((self.next, wall_ms));
        let late = self.retention.as_deref_mut()?.late.take();
        late.filter(|(offset, _)| *offset > self.first).or(wanted)
    }

    /// Up to where it is to be trimmed now. Nothing is that is not durable: nobody was told of it yet.
    fn retired_before(&self, wall_ms: u64, durable: Lsn, budget: &mut usize) -> u64 {
        let Some(Retention { bounds, marks, .. }) = self.retention.as_deref() else { return self.first };
        let is_durable = |offset: u64| self.get(offset).lsn() <= durable;
        let over = |mark: &&Mark| bounds.age_ms > 0 && mark.wall_ms.saturating_add(bounds.age_ms) <= wall_ms;
        let beyond = marks.iter().rev().take_while(|mark| mark.offset > self.first);
        if let Some(old) = beyond.filter(over).find(|mark| is_durable(mark.offset - 1)) {
            return old.offset;
        }
        let Some(mut kept_bytes) = self.kept_bytes().filter(|_| self.exceeds(bounds.bytes)) else { return self.first };
        let (mut before, least_bytes) = (self.first, bounds.bytes - bounds.bytes / PARTS);
        while kept_bytes > least_bytes && before + 1 < self.next && *budget > 0 && is_durable(before) {
            kept_bytes -= self.get(before).bytes() as u64 + EVENT_BYTES;
            before += 1;
            *budget -= 1;
        }
        before
    }

    /// Forgets the marks of events that are trimmed, but the last one. Where a stream begins says less during a replay.
    pub(super) fn prune_marks(&mut self) {
        let Some(Retention { marks, .. }) = self.retention.as_deref_mut() else { return };
        while marks.len() > 1 && marks[0].offset <= self.trimmed {
            marks.pop_front();
        }
    }

    /// Ends a replay: marks of events that `repair` gave up say nothing of those that come in their places.
    pub(super) fn forget_marks(&mut self) {
        if let Some(retention) = &mut self.retention {
            retention.marks.retain(|mark| mark.offset <= self.next);
        }
    }

    /// When it is to be looked at again, by the reactor's clock; 0: at the next look. The wall clock shows `wall_ms`.
    fn retires_ns(&self, wall: &Wall, wall_ms: u64) -> Option<u64> {
        let retention = self.retention.as_deref()?;
        if self.exceeds(retention.bounds.bytes) {
            return Some(0);
        }
        let age_ms = retention.bounds.age_ms;
        let beyond = retention.marks.iter().filter(|mark| age_ms > 0 && mark.offset > self.first);
        let over_ms = beyond.map(|mark| mark.wall_ms.saturating_add(age_ms));
        over_ms.chain(self.mark_due_ms(retention, wall_ms)).min().map(|due_ms| wall.ns_of_wall(due_ms))
    }
}

impl Streams {
    /// A stream that has memory for a retention. `None`: the memory budget is used up.
    fn retaining(&mut self, heap: &mut Heap, object: ObjectId) -> Option<&mut Retention> {
        let stream = self.stream(object);
        if stream.retention.is_none() {
            if !heap.charge(RETENTION_BYTES) {
                return None;
            }
            stream.retention = Some(Box::new(Retention::new()));
        }
        stream.retention.as_deref_mut()
    }

    fn bound(&mut self, object: ObjectId, bounds: Bounds, lsn: Lsn) {
        if let Some(retention) = &mut self.stream(object).retention {
            (retention.bounds, retention.lsn) = (bounds, lsn);
            if bounds.age_ms == 0 {
                retention.marks.clear();
                retention.late = None;
            }
        }
        self.retained.retain(|own| *own != object);
        if bounds != Bounds::default() {
            self.retained.push(object);
        }
    }

    /// Takes a recovered bound or mark.
    pub fn replay_retention(&mut self, heap: &mut Heap, record: &Record<'_>) -> Result<(), Status> {
        let retention = self.retaining(heap, record.object).ok_or(Status::NoMemory)?;
        if record.kind == Kind::Mark {
            retention.note(Mark::of(record));
            self.stream(record.object).prune_marks();
        } else {
            let bounds = Bounds { bytes: record.version, age_ms: get_u64(record.key, 0) };
            self.bound(record.object, bounds, record.lsn);
        }
        Ok(())
    }

    /// Whether a bound or mark holds, and the log does not say it at `end_lsn` or behind.
    pub fn says_retention(&self, record: &Record<'_>, end_lsn: Lsn) -> bool {
        let Some(stream) = self.streams.get(record.object.index()) else { return false };
        let Some(retention) = &stream.retention else { return false };
        let Mark { offset, wall_ms, .. } = Mark::of(record);
        if record.kind == Kind::Mark {
            let says = |own: &Mark| (own.offset, own.wall_ms) == (offset, wall_ms) && own.lsn < end_lsn;
            return offset > stream.first && retention.marks.iter().any(says);
        }
        let bounds = Bounds { bytes: record.version, age_ms: wall_ms };
        // No bound stands before the oldest segment, so that there is none needs no copy.
        bounds != Bounds::default() && retention.bounds == bounds && retention.lsn < end_lsn
    }

    /// What a checkpoint says: the bounds, then the marks from offset `next` on, one at a time. `false`: there are no more.
    pub fn say_retention(&self, object: ObjectId, (next, said): (&mut u64, &mut u64), piece: &mut Piece) -> bool {
        let Some(stream) = self.streams.get(object.index()) else { return false };
        let bounded = stream.retention.as_deref().filter(|retention| retention.bounds != Bounds::default());
        let Some(Retention { bounds, lsn, marks, .. }) = bounded else { return false };
        if *said == 0 {
            *said = 1;
            piece.key.extend_from_slice(&bounds.age_ms.to_le_bytes());
            piece.say_again(Kind::Retain, object, bounds.bytes, *lsn);
            return true;
        }
        let begin = (stream.first + 1).max(*next);
        let Some(mark) = marks.iter().find(|mark| mark.offset >= begin && mark.lsn != Lsn::NONE) else { return false };
        *next = mark.offset + 1;
        piece.key.extend_from_slice(&mark.wall_ms.to_le_bytes());
        piece.say_again(Kind::Mark, object, mark.offset, mark.lsn);
        true
    }

    /// What `stats` tells of it.
    pub fn tell_retention(&self, object: ObjectId, words: &mut [u64; stats::OBJECT_NAMES.len()]) {
        let stream = self.streams.get(object.index());
        if let Some(retention) = stream.and_then(|stream| stream.retention.as_deref()) {
            words[stats::OBJECT_RETAIN_BYTES] = retention.bounds.bytes;
            words[stats::OBJECT_RETAIN_AGE_MS] = retention.bounds.age_ms;
            words[stats::OBJECT_RETIRED] = retention.retired;
        }
    }

    fn next_retained(&mut self) -> ObjectId {
        self.next_retained = (self.next_retained + 1) % self.retained.len();
        self.retained[self.next_retained]
    }
}

impl Store {
    /// Bounds what a stream keeps, or tells the bounds.
    #[inline(never)]
    pub(in crate::store) fn retain(&mut self, context: &mut Context<'_>, request: &Request<'_>, mode: Mode) -> Outcome {
        let told = |bounds: Bounds, lsn: Lsn, after| {
            let (version, aux) = (bounds.bytes, bounds.age_ms);
            Outcome::Answer { completion: Completion { version, aux, lsn: lsn.0, ..Completion::default() }, after }
        };
        let retention = self.streams.stream(mode.object).retention.as_deref();
        let (held, held_lsn) = retention.map_or_else(Default::default, |own| (own.bounds, own.lsn));
        let or_held = |asked, held| if asked == RETENTION_AS_IS { held } else { asked };
        let (bytes, age_ms) = (request.submission.arg0, request.submission.arg1);
        if [bytes, age_ms] == [RETENTION_AS_IS; 2] {
            return told(held, held_lsn, mode.visible_after(context.wal, held_lsn));
        }
        let bounds = Bounds { bytes: or_held(bytes, held.bytes), age_ms: or_held(age_ms, held.age_ms) };
        if bounds.age_ms > TTL_MS_MAX {
            return Outcome::status(Status::BadRequest);
        }
        // Logged in any stream: its events may be logged later. A tighter bound makes room, as a trim does.
        let mode = Mode { logged: true, ..mode };
        let tightens = |bound: u64, held: u64| bound > 0 && (held == 0 || bound < held);
        let makes_room = tightens(bounds.bytes, held.bytes) || tightens(bounds.age_ms, held.age_ms);
        let writer = if makes_room { Writer::Privileged } else { Writer::Ordinary };
        if let Some(refused) = mode.refused(context, size_of::<u64>(), 0, writer) {
            return refused;
        }
        if self.streams.retaining(&mut self.heap, mode.object).is_none() {
            return self.no_memory(context.wal, Status::NoMemory);
        }
        let (lsn, after) = mode.log(context, Kind::Retain, bounds.bytes, &bounds.age_ms.to_le_bytes(), &[]);
        self.streams.bound(mode.object, bounds, lsn);
        told(bounds, lsn, after)
    }

    /// Trims what streams are not to keep, a bounded part of it. Asks for no durability of its own.
    pub fn retire(&mut self, context: &mut Context<'_>) -> Retired {
        let mut retired = Retired { events: 0, rest: Rest::Done };
        let mut budget = EVENTS_MAX;
        for _ in 0..self.streams.retained.len().min(STREAMS_MAX) {
            let object = self.streams.next_retained();
            match self.retire_events(context, object, &mut budget) {
                Some(events) => retired.events += events,
                None => retired.rest = Rest::Blocked,
            }
            if budget == 0 {
                retired.rest = Rest::More;
                break;
            }
        }
        retired
    }

    /// Of one stream. `None`: the log has no room.
    fn retire_events(&mut self, context: &mut Context<'_>, object: ObjectId, budget: &mut usize) -> Option<u64> {
        let (wall_ms, planted) = (context.wall.wall_ms(context.now_ns), context.wal.planted());
        let stream = self.streams.stream(object);
        let (first, next, logged) = (stream.first, stream.next, stream.logged);
        let mode = Mode { object, durability: Durability::Buffered, logged, strict_reads: false };
        if let Some((end, marked_ms)) = stream.wanted_mark(wall_ms) {
            let wall_ms = if planted.is(Planted::MarkTooEarly) { 0 } else { marked_ms };
            // The log says nothing of events that it does not have: others may come in their places.
            let mode = Mode { logged: stream.get(end - 1).is_logged(), ..mode };
            let refused = mode.refused(context, size_of::<u64>(), 0, Writer::Privileged);
            if refused == Some(Outcome::Later) {
                stream.retention.as_mut()?.late = Some((end, marked_ms));
                return None;
            }
            // One that is full or fenced does not hear of it, as if a crash had taken the mark.
            let mode = Mode { logged: mode.logged && refused.is_none(), ..mode };
            let (lsn, _) = mode.log(context, Kind::Mark, end, &wall_ms.to_le_bytes(), &[]);
            stream.retention.as_mut()?.note(Mark { offset: end, wall_ms, lsn });
        }
        let durable = if planted.is(Planted::RetireUndurable) { Lsn(u64::MAX) } else { context.wal.durable_lsn() };
        let mut before = stream.retired_before(wall_ms, durable, budget);
        if before > first && planted.is(Planted::RetireTooMuch) {
            before = before.max(first + (next - first) / 2);
        }
        if before > first {
            self.trim_to(context, before, mode).ok()?;
        }
        self.streams.stream(object).retention.as_mut()?.retired += before - first;
        Some(before - first)
    }

    /// When streams may have more than they are to keep, by the reactor's clock; 0: at the next look.
    #[must_use]
    pub fn retires_ns(&self, wall: &Wall, now_ns: u64) -> Option<u64> {
        let streams = self.streams.retained.iter().map(|object| &self.streams.streams[object.index()]);
        streams.filter_map(|stream| stream.retires_ns(wall, wall.wall_ms(now_ns))).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(offset: u64, wall_ms: u64) -> Mark {
        Mark { offset, wall_ms, lsn: Lsn(offset) }
    }

    fn noted(marks: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let mut retention = Retention::new();
        marks.iter().for_each(|(offset, wall_ms)| retention.note(mark(*offset, *wall_ms)));
        retention.marks.iter().map(|mark| (mark.offset, mark.wall_ms)).collect()
    }

    #[test]
    fn marks_say_the_same_in_any_order() {
        // The clock was an hour ahead for a while.
        let kept = vec![(10, 100), (15, 3_600_150), (20, 200), (30, 300)];
        assert_eq!(noted(&kept), kept);
        assert_eq!(noted(&[(30, 300), (15, 3_600_150), (10, 100), (20, 200), (10, 100)]), kept);
        // Of two for one place the later moment counts.
        assert_eq!(noted(&[(10, 200), (10, 100)]), noted(&[(10, 100), (10, 200)]));
    }
}
