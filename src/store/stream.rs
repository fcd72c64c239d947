//! Streams: events in the order of their offsets, kept in chunks so that no append ever moves them.

mod begin;
mod chain;
mod checkpoint;
mod cursors;
mod event;
mod fetch;
mod producers;
mod replay;
mod retention;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ops::Range;

use crate::bytes::{get_u32, index, len_u32};
use crate::ring::protocol::{
    AUX_MORE, BATCH_EVENTS_MAX, BATCH_HEADER_BYTES, Completion, EVENT_HEADER_BYTES, HEAD_BYTES, Status, Submission,
    flag,
};
use crate::store::cache::{self, Cache, Full, Position};
use crate::store::catalog::Catalog;
use crate::store::heap::{Cell, Heap};
use crate::store::{Context, Mode, Outcome, Reply, Request, Store, Whose};
use crate::types::{DeviceAddress, Durability, Lsn, ObjectId};
use crate::wal::Wal;
use crate::wal::planted::Planted;
use crate::wal::pool::Writer;
use crate::wal::record::{self, Kind};

use chain::Chain;
pub use chain::Head;
use cursors::Cursors;
use event::Event;
use fetch::events_of;
pub use fetch::find_event;
use producers::Producers;
use retention::Retention;
pub use retention::Retired;

const CHUNK_EVENTS: usize = 4_096;
/// Memory of a chunk. It counts against the budget while the stream holds it, spare or not.
const CHUNK_BYTES: usize = CHUNK_EVENTS * size_of::<Event>();
/// What giving an event's memory back costs beside its bytes, as so many bytes more.
const RECLAIM_EVENT_BYTES: usize = 256;
/// A read's reply is bounded by this, so that one request does not hold up the others.
const READ_BYTES_MAX: usize = 1 << 20;

#[derive(Default)]
struct Stream {
    /// The offset of the first event that is kept.
    first: u64,
    /// Events before this offset gave their memory back. Those from here to `first` have yet to.
    freed: u64,
    /// The offset that the next event gets.
    next: u64,
    /// Chunk 0 begins at this offset, a multiple of `CHUNK_EVENTS`.
    chunks_begin: u64,
    chunks: VecDeque<Vec<Event>>,
    /// A chunk that was emptied, for the next one needed.
    spare: Option<Vec<Event>>,
    trimmed_lsn: Lsn,
    /// Something in it was logged: so is all that follows, or a recovery would find holes.
    logged: bool,
    /// What the records of its events take in the log, about.
    logged_bytes: u64,
    producers: Option<Box<Producers>>,
    cursors: Option<Box<Cursors>>,
    chain: Option<Chain>,
    retention: Option<Box<Retention>>,
    /// Of the events that hold memory.
    held_bytes: u64,
    /// Events before this offset do not count.
    trimmed: u64,
    /// During a replay: there may be holes.
    sparse: bool,
}

impl Stream {
    fn get(&self, offset: u64) -> Event {
        let at = index(offset - self.chunks_begin);
        self.chunks[at / CHUNK_EVENTS][at % CHUNK_EVENTS]
    }

    fn get_mut(&mut self, offset: u64) -> &mut Event {
        let at = index(offset - self.chunks_begin);
        &mut self.chunks[at / CHUNK_EVENTS][at % CHUNK_EVENTS]
    }

    /// Makes a place for the next event. `false`: the memory budget is used up.
    fn make_room(&mut self, heap: &mut Heap) -> bool {
        if self.chunks.back().is_some_and(|chunk| chunk.len() < CHUNK_EVENTS) {
            return true;
        }
        let mut chunk = match self.spare.take() {
            Some(spare) => spare,
            None if heap.charge(CHUNK_BYTES) => Vec::with_capacity(CHUNK_EVENTS),
            None => return false,
        };
        if self.chunks.is_empty() {
            self.chunks_begin = self.next / CHUNK_EVENTS as u64 * CHUNK_EVENTS as u64;
        }
        let missing = index(self.next) % CHUNK_EVENTS;
        chunk.resize(missing, Event::HOLE);
        self.chunks.push_back(chunk);
        true
    }

    /// Appends one event. `make_room` said yes.
    fn push(&mut self, event: Event) {
        self.held_bytes += event.bytes() as u64;
        self.chunks.back_mut().expect("there is room").push(event);
        self.next += 1;
    }

    /// Keeps a chunk without events for the next one needed, or frees it.
    fn retire(&mut self, heap: &mut Heap, mut chunk: Vec<Event>) {
        chunk.clear();
        if self.spare.replace(chunk).is_some() {
            heap.refund(CHUNK_BYTES);
        }
    }

    /// Gives the memory of trimmed events back, until `budget_bytes` are used up.
    fn reclaim(&mut self, heap: &mut Heap, budget_bytes: &mut usize) {
        while self.freed < self.first && *budget_bytes > 0 {
            let event = self.get(self.freed);
            heap.give(event.cell());
            self.held_bytes -= event.bytes() as u64;
            *budget_bytes = budget_bytes.saturating_sub(event.bytes() + RECLAIM_EVENT_BYTES);
            self.freed += 1;
            if self.freed.is_multiple_of(CHUNK_EVENTS as u64) {
                let chunk = self.chunks.pop_front().expect("the event was in it");
                self.retire(heap, chunk);
                self.chunks_begin += CHUNK_EVENTS as u64;
            }
        }
    }
}

/// The events of a batch. A batch was validated before: see `check_batch`.
pub fn events(batch: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = batch;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let bytes = get_u32(rest, 0) as usize;
        let (event, next) = rest[BATCH_HEADER_BYTES..].split_at(bytes);
        rest = next;
        Some(event)
    })
}

/// A batch is one or more events that fill it exactly, and no more than a turn can take in.
fn check_batch(batch: &[u8]) -> Result<(), Status> {
    let (mut at, mut events) = (0, 0);
    while at + BATCH_HEADER_BYTES <= batch.len() {
        at += BATCH_HEADER_BYTES + get_u32(batch, at) as usize;
        events += 1;
        if events > BATCH_EVENTS_MAX {
            return Err(Status::TooLarge);
        }
    }
    if at == batch.len() && at > 0 { Ok(()) } else { Err(Status::BadRequest) }
}

/// Keeps the bytes of an event that is not logged, and behind them the head before it, where it is linked.
fn keep(heap: &mut Heap, event: &[u8], before: &[u8]) -> Result<Cell, Status> {
    let bytes = event.len() + before.len();
    if bytes == 0 {
        return Ok(Cell::NONE);
    }
    let cell = heap.take(bytes).ok_or(Status::NoMemory)?;
    let (own, head) = heap.bytes_mut(cell, bytes).split_at_mut(event.len());
    own.copy_from_slice(event);
    head.copy_from_slice(before);
    Ok(cell)
}

/// Memory of the cache that so many events take at most.
fn cached_bytes(events: usize, bytes: usize, linked: bool) -> usize {
    let each = cache::HEADER_BYTES + 8 + if linked { HEAD_BYTES } else { 0 };
    bytes + events * each
}

pub struct Streams {
    streams: Vec<Stream>,
    events: u64,
    logged_bytes: u64,
    /// Streams with trimmed events that still hold memory.
    reclaiming: Vec<ObjectId>,
    /// Streams whose retention has bounds, and which of them is looked at next.
    retained: Vec<ObjectId>,
    next_retained: usize,
    cache: Cache,
    /// During a replay: the last record that came from the drive.
    recovered_lsn: Lsn,
}

impl Streams {
    pub fn new(cache: Cache) -> Streams {
        let (streams, reclaiming, retained) = (Vec::new(), Vec::new(), Vec::new());
        let (events, logged_bytes, next_retained, recovered_lsn) = (0, 0, 0, Lsn::NONE);
        Streams { streams, events, logged_bytes, reclaiming, retained, next_retained, cache, recovered_lsn }
    }

    fn stream(&mut self, object: ObjectId) -> &mut Stream {
        if self.streams.len() <= object.index() {
            self.streams.resize_with(object.index() + 1, Stream::default);
            // Each may stand in it once, so that no trim allocates.
            self.reclaiming.reserve(self.streams.len() - self.reclaiming.len());
        }
        &mut self.streams[object.index()]
    }

    pub fn len(&self) -> u64 {
        self.events
    }

    /// What the records of these events take in the log, about.
    pub fn live_bytes(&self) -> u64 {
        self.logged_bytes
    }

    /// The first event that one stream keeps, the offset that its next one gets, and what their records take in the log,
    /// about.
    pub fn of_stream(&self, object: ObjectId) -> (u64, u64, u64) {
        self.streams.get(object.index()).map_or((0, 0, 0), |stream| (stream.first, stream.next, stream.logged_bytes))
    }

    /// The first event and the next offset of every stream.
    pub fn extents(&self) -> Vec<(u64, u64)> {
        self.streams.iter().map(|stream| (stream.first, stream.next)).collect()
    }

    /// What says the event before this offset, or that it was trimmed.
    pub fn last_lsn(&self, object: ObjectId, next: u64) -> Lsn {
        let Some(stream) = self.streams.get(object.index()) else { return Lsn::NONE };
        if next > stream.first { stream.get(next - 1).lsn() } else { stream.trimmed_lsn }
    }

    /// Whether a stream keeps any of these `count` events, and the log does not say it at `end_lsn` or behind.
    pub fn keeps(&self, object: ObjectId, begin: u64, count: u64, end_lsn: Lsn) -> bool {
        let kept = |stream: &Stream| {
            let mut events = begin.max(stream.first)..(begin + count).min(stream.next);
            events.any(|offset| stream.get(offset).lsn() < end_lsn)
        };
        self.streams.get(object.index()).is_some_and(kept)
    }

    /// Whether a trim up to `before` is the last one of the stream, and the log does not say it at `end_lsn` or behind.
    pub fn begins_at(&self, object: ObjectId, before: u64, end_lsn: Lsn) -> bool {
        let last = |stream: &Stream| stream.first == before && stream.trimmed_lsn < end_lsn;
        self.streams.get(object.index()).is_some_and(last)
    }

    /// Whether a stream keeps an event that this daemon appended with one of these LSNs: they rise with the offsets, and those
    /// of recovered events are all lower.
    pub fn has_event(&self, lsns: &Range<Lsn>, planted: Planted) -> bool {
        let kept = |stream: &Stream| {
            let (mut low, mut high) = (stream.first, stream.next);
            // Most streams say this at once: they hold nothing, or nothing so young.
            if low == high || stream.get(high - 1).lsn() < lsns.start {
                return false;
            }
            while low < high {
                let middle = low.midpoint(high);
                if stream.get(middle).lsn() < lsns.start { low = middle + 1 } else { high = middle }
            }
            low < stream.next && stream.get(low).lsn() < lsns.end
        };
        self.streams.iter().any(kept) && !planted.is(Planted::SpendEvents)
    }

    /// Whether what holds of a stream, besides its events, was said with one of these LSNs.
    pub fn says_of(&self, object: ObjectId, lsns: &Range<Lsn>) -> bool {
        let Some(stream) = self.streams.get(object.index()) else { return false };
        lsns.contains(&stream.trimmed_lsn)
            || stream.cursors.as_ref().is_some_and(|cursors| cursors.any_said(lsns))
            || stream.retention.as_ref().is_some_and(|retention| retention.any_said(lsns))
    }

    /// Appends one event, at the stream's next offset. `before`: the head before it, where it is linked. One that is to be
    /// logged, with an LSN of `lsn` or beyond, goes into the cache, where there is room: see `make_room_for`.
    #[inline(always)]
    fn append(
        &mut self,
        heap: &mut Heap,
        object: ObjectId,
        event: &[u8],
        before: &[u8],
        lsn: Lsn,
    ) -> Result<(), Status> {
        let stream = &mut self.streams[object.index()];
        if !stream.make_room(heap) {
            return Err(Status::NoMemory);
        }
        let kept = if lsn == Lsn::NONE {
            Event::in_cell(event.len(), keep(heap, event, before)?)
        } else if event.len() + before.len() == 0 {
            Event::in_cache(0, Position::NONE)
        } else {
            let owner = fetch::owner(object, stream.next);
            Event::in_cache(event.len(), self.cache.insert(heap, owner, [event, before], lsn))
        };
        stream.push(kept);
        self.events += 1;
        Ok(())
    }

    /// Makes room in the cache for events that are to be logged: so many, of so many bytes together.
    fn make_room_for(
        &mut self,
        heap: &mut Heap,
        events: usize,
        bytes: usize,
        linked: bool,
        durable: Lsn,
    ) -> Result<(), Full> {
        self.cache.make_room_for_several(heap, &mut self.streams, cached_bytes(events, bytes, linked), durable)
    }

    /// Forgets the events before an offset. Their memory comes back by `reclaim`.
    pub fn trim(&mut self, object: ObjectId, before: u64, lsn: Lsn) {
        let stream = self.stream(object);
        let (kept, before) = (stream.first, before.min(stream.next));
        let waits = stream.freed < kept;
        stream.first = kept.max(before);
        stream.trimmed = stream.trimmed.max(before);
        stream.trimmed_lsn = stream.trimmed_lsn.max(lsn);
        stream.prune_marks();
        let dropped = stream.first - kept;
        // As if all of its events were alike: close enough, and right once it is empty.
        let gone = u128::from(stream.logged_bytes) * u128::from(dropped) / u128::from((stream.next - kept).max(1));
        let gone = u64::try_from(gone).expect("a part of a u64");
        stream.logged_bytes -= gone;
        self.logged_bytes -= gone;
        if dropped > 0 && !waits {
            self.reclaiming.push(object);
        }
        self.events -= dropped;
    }

    /// Gives the memory of trimmed events back, of about `budget_bytes`. Says whether there was any.
    #[inline]
    pub fn reclaim(&mut self, heap: &mut Heap, budget_bytes: usize) -> bool {
        let any = self.is_reclaiming();
        if any {
            self.reclaim_some(heap, budget_bytes);
        }
        any
    }

    #[cold]
    fn reclaim_some(&mut self, heap: &mut Heap, mut budget_bytes: usize) {
        while budget_bytes > 0
            && let Some(object) = self.reclaiming.last()
        {
            let stream = &mut self.streams[object.index()];
            stream.reclaim(heap, &mut budget_bytes);
            if stream.freed == stream.first {
                self.reclaiming.pop();
            }
        }
    }

    /// Whether trimmed events still hold memory.
    #[inline]
    pub fn is_reclaiming(&self) -> bool {
        !self.reclaiming.is_empty()
    }
}

impl Streams {
    /// The last `count` events were logged with this LSN, in a record at `place`, of so many bytes. In the cache they have
    /// `expected`, which is less where the record has several parts.
    #[inline]
    fn stamp(
        &mut self,
        object: ObjectId,
        count: u64,
        expected: Lsn,
        lsn: Lsn,
        place: DeviceAddress,
        record_bytes: usize,
    ) {
        self.logged_bytes += record_bytes as u64;
        let Streams { streams, cache, .. } = self;
        let stream = &mut streams[object.index()];
        stream.logged = true;
        stream.logged_bytes += record_bytes as u64;
        for offset in stream.next - count..stream.next {
            let event = stream.get_mut(offset);
            event.set_logged(lsn, place);
            if lsn != expected {
                cache.pin(event.cached(), lsn);
            }
        }
    }

    /// Takes back the last `count` events: the batch they belong to did not fit.
    fn take_back(&mut self, heap: &mut Heap, object: ObjectId, count: u64, logged: bool) {
        self.events -= count;
        let stream = self.stream(object);
        for _ in 0..count {
            let chunk = stream.chunks.back_mut().expect("the events were just pushed");
            let event = chunk.pop().expect("the events were just pushed");
            if !logged {
                heap.give(event.cell());
            }
            stream.held_bytes -= event.bytes() as u64;
            stream.next -= 1;
            if chunk.is_empty() {
                let chunk = stream.chunks.pop_back().expect("seen above");
                stream.retire(heap, chunk);
            }
        }
    }
}

impl Store {
    pub(super) fn append(&mut self, context: &mut Context<'_>, kind: Kind, value: &[u8], mode: Mode) -> Outcome {
        if value.len() > self.limits.value_bytes_max {
            return Outcome::status(Status::TooLarge);
        }
        if kind == Kind::AppendBatch
            && let Err(status) = check_batch(value)
        {
            return Outcome::status(status);
        }
        self.append_events(context, kind, &[], value, mode)
    }

    /// Appends what was checked. `key` is what the record says beside the events.
    #[inline(always)]
    fn append_events(
        &mut self,
        context: &mut Context<'_>,
        kind: Kind,
        key: &[u8],
        value: &[u8],
        mode: Mode,
    ) -> Outcome {
        let mode = Mode { logged: mode.logged || self.streams.stream(mode.object).logged, ..mode };
        if let Some(refused) = mode.refused(context, key.len(), value.len(), Writer::Ordinary) {
            return refused;
        }
        let single = (kind == Kind::Append).then_some(value);
        let batch = if kind == Kind::Append { &[] } else { value };
        if mode.logged
            && let Err(refused) = self.room_in_cache(context, kind, value, false)
        {
            return refused;
        }
        let first = self.streams.stream(mode.object).next;
        let (mut count, expected) = (0, mode.next_lsn(context));
        for event in single.into_iter().chain(events(batch)) {
            let added = self.streams.append(&mut self.heap, mode.object, event, &[], expected);
            if let Err(status) = added {
                self.streams.take_back(&mut self.heap, mode.object, count, mode.logged);
                return self.no_memory(context.wal, status);
            }
            count += 1;
        }
        let (lsn, after) = mode.log(context, kind, first, key, value);
        if lsn != Lsn::NONE {
            let record_bytes = record::encoded_bytes(key.len(), value.len());
            self.streams.stamp(mode.object, count, expected, lsn, context.wal.last_place(), record_bytes);
        }
        let completion = Completion { version: first, lsn: lsn.0, ..Completion::default() };
        Outcome::Answer { completion, after }
    }

    /// Room in the cache for what is to be logged, or what a request is told that finds none.
    #[inline]
    fn room_in_cache(&mut self, context: &Context<'_>, kind: Kind, value: &[u8], linked: bool) -> Result<(), Outcome> {
        let count = if kind == Kind::Append { 1 } else { events(value).count() };
        let durable = context.wal.readable_lsn();
        match self.streams.make_room_for(&mut self.heap, count, value.len(), linked, durable) {
            Ok(()) => Ok(()),
            Err(Full::Now) => Err(Outcome::Later),
            Err(Full::Memory) => Err(self.no_memory(context.wal, Status::NoMemory)),
            Err(Full::Never) => Err(Outcome::status(Status::NoMemory)),
        }
    }

    pub(super) fn read<R: Reply>(
        &mut self,
        context: &mut Context<'_>,
        request: &Request<'_>,
        mode: Mode,
        reply: &mut R,
    ) -> Outcome {
        let from = request.submission.arg0;
        let durable = if mode.strict_reads { context.wal.durable_lsn() } else { Lsn(u64::MAX) };
        let stream = self.streams.stream(mode.object);
        if from < stream.first {
            let after = mode.visible_after(context.wal, stream.trimmed_lsn);
            return Outcome::version(Status::Trimmed, stream.first, after);
        }
        let (mut offset, mut more, mut needed) = (from, false, 0);
        let Streams { streams, cache, .. } = &mut self.streams;
        let stream = &streams[mode.object.index()];
        let fetched = context.fetched.filter(|fetched| fetched.object == mode.object);
        while offset < stream.next {
            let event = stream.get(offset);
            if event.lsn() > durable {
                context.wal.want_durable();
                break;
            }
            let bytes = event.bytes();
            if reply.bytes() >= READ_BYTES_MAX || !reply.fits(bytes + EVENT_HEADER_BYTES) {
                (more, needed) = (true, (bytes + EVENT_HEADER_BYTES) as u64);
                break;
            }
            let just_read = fetched.filter(|fetched| fetched.whose == Whose::Event(offset));
            let value = event.value(&self.heap, cache).or(just_read.map(|fetched| fetched.value));
            let Some(value) = value else {
                if offset == from {
                    stream.read_ahead(mode.object, offset, context.ahead);
                    return Outcome::Fetch(event.want(mode.object, offset));
                }
                more = true;
                break;
            };
            reply.push(&[&len_u32(bytes).to_le_bytes(), &[0; 4], &offset.to_le_bytes(), value]);
            offset += 1;
        }
        let count = offset - from;
        if count == 0 && more {
            let completion = Completion { status: Status::ReplyTooSmall as u16, aux: needed, ..Completion::default() };
            return Outcome::Answer { completion, after: Lsn::NONE };
        }
        if count == 0 && request.submission.arg1 > 0 {
            return Outcome::Wait;
        }
        let aux = count | if more { AUX_MORE } else { 0 };
        let completion =
            Completion { version: offset, aux, reply_bytes: len_u32(reply.bytes()), ..Completion::default() };
        Outcome::Answer { completion, after: Lsn::NONE }
    }

    /// Whether a read that waits would be answered now. Asks for durability when that is what it waits for.
    pub fn has_event(&mut self, catalog: &Catalog, wal: &mut Wal, read: &Submission) -> bool {
        let (object, from) = (ObjectId(read.object), read.arg0);
        let stream = self.streams.stream(object);
        if from < stream.first || from >= stream.next {
            return from < stream.first;
        }
        let strict = catalog.get(object).is_some_and(|object| object.durability == Durability::Strict);
        let durable = !strict || read.flags & flag::RELAXED != 0 || stream.get(from).lsn() <= wal.durable_lsn();
        if !durable {
            wal.want_durable();
        }
        durable
    }

    pub(super) fn trim(&mut self, context: &mut Context<'_>, request: &Request<'_>, mode: Mode) -> Outcome {
        let stream = self.streams.stream(mode.object);
        let before = request.submission.arg0.min(stream.next);
        if before <= stream.first {
            let (first, lsn) = (stream.first, stream.trimmed_lsn);
            return Outcome::version(Status::Ok, first, mode.visible_after(context.wal, lsn));
        }
        match self.trim_to(context, before, mode) {
            Ok((lsn, after)) => {
                let completion = Completion { version: before, lsn: lsn.0, ..Completion::default() };
                Outcome::Answer { completion, after }
            }
            Err(refused) => refused,
        }
    }

    /// Trims to an offset behind the first one. Gives the record's LSN, and the one that an answer waits for.
    fn trim_to(&mut self, context: &mut Context<'_>, before: u64, mode: Mode) -> Result<(Lsn, Lsn), Outcome> {
        let mode = Mode { logged: mode.logged || self.streams.stream(mode.object).logged, ..mode };
        // A trim waits for no read: where the head is not at hand, the record of the event says it.
        let head = self.streams.head_before(&self.heap, mode.object, before, None).ok().flatten();
        let value: &[u8] = head.as_ref().map_or(&[], |head| head);
        if let Some(refused) = mode.refused(context, 0, value.len(), Writer::Privileged) {
            return Err(refused);
        }
        let (lsn, after) = mode.log(context, Kind::Trim, before, &[], value);
        // As it will be found in the log.
        self.streams.stream(mode.object).logged |= mode.logged;
        self.streams.trim(mode.object, before, lsn);
        Ok((lsn, after))
    }
}
