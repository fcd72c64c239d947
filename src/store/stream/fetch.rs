//! Events that are on the drive: in the cache for a while, and read back, together with those that stand behind them.

use crate::bytes::index;
use crate::store::cache::{Owners, Position};
use crate::store::heap::Heap;
use crate::store::stream::chain::Links;
use crate::store::stream::{Stream, Streams, cached_bytes, events};
use crate::store::{Fetched, Want, Whose};
use crate::types::{DeviceAddress, Lsn, ObjectId};
use crate::wal::record::{Kind, Record};

/// A read brings about so many bytes of the log; what it brings besides the event is kept, where there is room.
const PIECE_BYTES: u64 = 64 << 10;
/// Events that are looked at for what to read ahead.
const AHEAD_EVENTS_MAX: u64 = 2_048;

/// Of an owner's number: the offset. The object stands above it.
const OFFSET_BITS: u32 = 44;

/// The number of an event among the owners of cached values.
pub fn owner(object: ObjectId, offset: u64) -> u64 {
    debug_assert!(object.0 < 1 << (u64::BITS - OFFSET_BITS) && offset < 1 << OFFSET_BITS, "so many are never there");
    u64::from(object.0) << OFFSET_BITS | offset
}

fn owned(owner: u64) -> (usize, u64) {
    (index(owner >> OFFSET_BITS), owner & ((1 << OFFSET_BITS) - 1))
}

impl Owners for Vec<Stream> {
    fn owns(&self, owner: u64, position: Position) -> bool {
        let (number, offset) = owned(owner);
        let stream = &self[number];
        let kept = (stream.first..stream.next).contains(&offset);
        kept && stream.get(offset).is_logged() && stream.get(offset).cached() == position
    }

    fn moved(&mut self, owner: u64, position: Position) {
        let (number, offset) = owned(owner);
        self[number].get_mut(offset).set_cached(position);
    }
}

/// The events of an append's record. A checkpoint says none again.
pub fn events_of<'a>(record: &Record<'a>) -> impl Iterator<Item = &'a [u8]> {
    let single = record.kind == Kind::Append;
    let batch = if single || record.is_of_checkpoint() { &[] } else { record.value };
    single.then_some(record.value).into_iter().chain(events(batch))
}

/// The event with this offset in a record that was read back.
pub fn find_event<'a>(offset: u64, record: &Record<'a>) -> Option<Fetched<'a>> {
    let mut links = Links::of(record);
    for (at, value) in (record.version..).zip(events_of(record)) {
        if at == offset {
            return Some(Fetched {
                commit: &[],
                whose: Whose::Event(offset),
                object: record.object,
                value,
                head: links.before().copied(),
            });
        }
        links.follow(at, value);
    }
    None
}

impl Stream {
    /// Whether the log says an event that is kept.
    fn logs(&self, offset: u64) -> bool {
        (self.first..self.next).contains(&offset) && self.get(offset).is_logged()
    }

    /// What a reader that begins at `from` wants next, a piece of the log each, as far as there is room for it.
    pub fn read_ahead(&self, object: ObjectId, from: u64, ahead: &mut Vec<Want>) {
        let mut piece = self.get(from).place();
        for offset in from + 1..self.next.min(from + AHEAD_EVENTS_MAX) {
            if ahead.len() == ahead.capacity() {
                return;
            }
            let event = self.get(offset);
            if event.is_logged() && event.place().0.abs_diff(piece.0) >= PIECE_BYTES {
                piece = event.place();
                ahead.push(event.want(object, offset));
            }
        }
    }
}

impl Streams {
    /// Memory of the cache.
    pub fn cache_bytes(&self) -> u64 {
        self.cache.bytes() as u64
    }

    /// Gives memory of the cache back. `false`: none can be given now.
    pub fn shrink(&mut self, heap: &mut Heap, durable: Lsn) -> bool {
        self.cache.shrink(heap, &mut self.streams, durable)
    }

    /// Takes the events of a record that was read at `place` into the cache: those that stand there, and are not in
    /// memory.
    pub fn keep(&mut self, heap: &mut Heap, record: &Record<'_>, place: DeviceAddress, durable: Lsn) {
        let (object, mut links) = (record.object, Links::of(record));
        for (offset, value) in (record.version..).zip(events_of(record)) {
            let before = links.before().copied();
            links.follow(offset, value);
            let Some(stream) = self.streams.get(object.index()).filter(|stream| stream.logs(offset)) else { continue };
            let (event, linked) = (stream.get(offset), before.is_some());
            let absent = event.place() == place && event.bytes() == value.len() && !self.cache.has(event.cached());
            let bytes = cached_bytes(1, value.len(), linked);
            if absent && self.cache.make_room(heap, &mut self.streams, bytes, durable).is_ok() {
                // Its record has been durable for long.
                self.insert(heap, object, offset, value, before.as_ref().map_or(&[], |head| head), Lsn::NONE);
            }
        }
    }

    pub(super) fn insert(
        &mut self,
        heap: &mut Heap,
        object: ObjectId,
        offset: u64,
        value: &[u8],
        before: &[u8],
        lsn: Lsn,
    ) {
        let position = self.cache.insert(heap, owner(object, offset), [value, before], lsn);
        self.streams[object.index()].get_mut(offset).set_cached(position);
    }

    /// A record stands at another place now. Until the log is durable up to `lsn` its events are in memory.
    pub fn moved(&mut self, heap: &mut Heap, record: &Record<'_>, place: DeviceAddress, lsn: Lsn, durable: Lsn) {
        let (object, mut links) = (record.object, Links::of(record));
        for (offset, value) in (record.version..).zip(events_of(record)) {
            let before = links.before().copied();
            links.follow(offset, value);
            let Some(stream) = self.streams.get_mut(object.index()).filter(|stream| stream.logs(offset)) else {
                continue;
            };
            let event = stream.get_mut(offset);
            event.set_place(place);
            if !self.cache.pin(event.cached(), lsn) {
                let bytes = cached_bytes(1, value.len(), before.is_some());
                self.cache.make_room_over(heap, &mut self.streams, bytes, durable);
                self.insert(heap, object, offset, value, before.as_ref().map_or(&[], |head| head), lsn);
            }
        }
    }
}
