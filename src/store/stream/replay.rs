//! Streams out of a recovered log. Reclaim copies what is old to the log's end, so events come in any order: each goes
//! to its place, with holes around it that later ones fill.

use crate::bytes::len_u32;
use crate::ring::protocol::Status;
use crate::store::cache::Position;
use crate::store::heap::Heap;
use crate::store::stream::chain::{Head, Links};
use crate::store::stream::{CHUNK_BYTES, CHUNK_EVENTS, Event, Stream, Streams, cached_bytes, events_of};
use crate::types::{DeviceAddress, Lsn, ObjectId};
use crate::wal::record::{Record, encoded_bytes};

impl Stream {
    /// Forgets its chunks, whose events gave their memory back, and goes on at `offset`.
    pub(super) fn begin_at(&mut self, heap: &mut Heap, offset: u64) {
        heap.refund((self.chunks.len() + usize::from(self.spare.is_some())) * CHUNK_BYTES);
        self.chunks.clear();
        self.spare = None;
        (self.first, self.freed, self.next) = (offset, offset, offset);
        self.held_bytes = 0;
    }

    /// Makes `offset` one of its places, a hole unless it was one before. `false`: the memory budget is used up.
    fn reach(&mut self, heap: &mut Heap, offset: u64) -> bool {
        if self.first == self.next {
            self.begin_at(heap, offset);
        }
        self.sparse |= offset < self.first || offset > self.next;
        while self.next <= offset {
            if !self.make_room(heap) {
                return false;
            }
            self.push(Event::HOLE);
        }
        while offset < self.chunks_begin {
            if !heap.charge(CHUNK_BYTES) {
                return false;
            }
            self.chunks.push_front(vec![Event::HOLE; CHUNK_EVENTS]);
            self.chunks_begin -= CHUNK_EVENTS as u64;
        }
        for before in offset..self.first {
            *self.get_mut(before) = Event::HOLE;
        }
        self.first = self.first.min(offset);
        self.freed = self.first;
        true
    }
}

impl Streams {
    /// Gives memory of the cache back. `false`: none can be given now.
    pub fn shrink_recovered(&mut self, heap: &mut Heap) -> bool {
        self.shrink(heap, self.recovered_lsn)
    }

    /// Takes the events of a recovered record, which stands at `place`. One that was trimmed is passed over; of one that
    /// is there already only the place in the log is new.
    pub fn replay(&mut self, heap: &mut Heap, record: &Record<'_>, place: DeviceAddress) -> Result<(), Status> {
        if place != DeviceAddress::NONE {
            self.recovered_lsn = self.recovered_lsn.max(record.lsn);
        }
        let mut placed = false;
        let (mut links, mut end) = (Links::of(record), record.version);
        for event in events_of(record) {
            placed |= self.place(heap, record, place, end, event, links.before())?;
            links.follow(end, event);
            end += 1;
        }
        if end > record.version {
            self.stream(record.object).state_head(record.links().map(|(_, after)| after), end);
        }
        let bytes = if placed { encoded_bytes(record.key.len(), record.value.len()) as u64 } else { 0 };
        self.logged_bytes += bytes;
        let stream = self.stream(record.object);
        stream.logged_bytes += bytes;
        stream.logged = true;
        Ok(())
    }

    fn place(
        &mut self,
        heap: &mut Heap,
        record: &Record<'_>,
        place: DeviceAddress,
        offset: u64,
        value: &[u8],
        before: Option<&Head>,
    ) -> Result<bool, Status> {
        let object = record.object;
        if offset < self.stream(object).trimmed {
            return Ok(false);
        }
        let missing = self.reach(heap, object, offset)?;
        if missing {
            let stream = self.stream(object);
            *stream.get_mut(offset) = Event::in_cache(value.len(), Position::NONE);
            stream.held_bytes += value.len() as u64;
        }
        let on_drive = place != DeviceAddress::NONE;
        // A copy that the flight recorder alone holds changes nothing until it is written.
        if missing || on_drive {
            self.stream(object).get_mut(offset).set_logged(record.lsn, place);
        }
        if missing {
            self.take_in(heap, object, offset, value, before, (!on_drive).then_some(record.lsn));
        }
        Ok(missing)
    }

    /// Makes `offset` one of a stream's places, unless it is trimmed. Whether an event is missing there.
    pub fn reach(&mut self, heap: &mut Heap, object: ObjectId, offset: u64) -> Result<bool, Status> {
        let stream = self.stream(object);
        if offset < stream.trimmed {
            return Ok(false);
        }
        let events = stream.next - stream.first;
        let mut reached = stream.reach(heap, offset);
        while !reached && self.shrink(heap, self.recovered_lsn) {
            reached = self.stream(object).reach(heap, offset);
        }
        let stream = self.stream(object);
        let (missing, more) = (reached && stream.get(offset).is_hole(), stream.next - stream.first);
        self.events = self.events + more - events;
        if reached { Ok(missing) } else { Err(Status::NoMemory) }
    }

    /// Takes a recovered event into the cache, where there is room. Only what the flight recorder alone holds, with this
    /// LSN, has to be in memory.
    fn take_in(
        &mut self,
        heap: &mut Heap,
        object: ObjectId,
        offset: u64,
        value: &[u8],
        before: Option<&Head>,
        lsn: Option<Lsn>,
    ) {
        let before: &[u8] = before.map_or(&[], |head| head);
        let (bytes, durable) = (cached_bytes(1, value.len() + before.len(), false), self.recovered_lsn);
        match lsn {
            Some(lsn) => {
                self.cache.make_room_over(heap, &mut self.streams, bytes, durable);
                self.insert(heap, object, offset, value, before, lsn);
            }
            None if self.cache.make_room(heap, &mut self.streams, bytes, durable).is_ok() => {
                self.insert(heap, object, offset, value, before, Lsn::NONE);
            }
            None => {}
        }
    }

    /// Takes a recovered trim. Whatever is below it does not count, before and after it in the log.
    pub fn replay_trim(&mut self, heap: &mut Heap, object: ObjectId, before: u64, lsn: Lsn) {
        self.trim(object, before, lsn);
        self.reclaim(heap, usize::MAX);
        let stream = self.stream(object);
        stream.trimmed = stream.trimmed.max(before);
        stream.logged = true;
        if before > stream.next {
            stream.begin_at(heap, before);
        }
    }

    /// Ends a replay. What stands before a hole was never logged together with what follows it (events of a `memory`
    /// stream), or `repair` gave up what was between: the stream begins behind the last hole.
    pub fn finish_replay(&mut self, heap: &mut Heap, producers_max: usize) {
        for number in 0..self.streams.len() {
            let stream = &mut self.streams[number];
            if let Some(producers) = &mut stream.producers {
                producers.keep_last(heap, producers_max);
            }
            stream.forget_marks();
            if !std::mem::take(&mut stream.sparse) {
                continue;
            }
            let hole = (stream.first..stream.next).rev().find(|offset| stream.get(*offset).is_hole());
            if let Some(hole) = hole {
                self.trim(ObjectId(len_u32(number)), hole + 1, Lsn::NONE);
                self.reclaim(heap, usize::MAX);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::CACHE_CHUNK_BYTES;
    use crate::store::cache::Cache;
    use crate::wal::record::Kind;

    const STREAM: ObjectId = ObjectId(1);

    fn replay(streams: &mut Streams, heap: &mut Heap, offset: u64) {
        let value = offset.to_le_bytes();
        let (kind, flags, lsn) = (Kind::Append, 0, Lsn(1));
        let record = Record { kind, flags, lsn, object: STREAM, version: offset, key: &[], value: &value };
        streams.replay(heap, &record, DeviceAddress(4_096 + offset * 8)).unwrap();
    }

    fn extent(streams: &mut Streams) -> (u64, u64, u64) {
        let stream = streams.stream(STREAM);
        (stream.first, stream.next, streams.len())
    }

    #[test]
    fn events_come_in_any_order() {
        let (mut heap, mut streams) = (Heap::new(64 << 20), Streams::new(Cache::new(CACHE_CHUNK_BYTES, 64 << 20)));
        let offsets = (9_000..10_000).chain(20_000..20_100).chain(3_000..9_000).chain(9_990..20_000);
        offsets.for_each(|offset| replay(&mut streams, &mut heap, offset));
        streams.finish_replay(&mut heap, 1);
        assert_eq!(extent(&mut streams), (3_000, 20_100, 17_100));
        for offset in 3_000..20_100_u64 {
            let event = streams.stream(STREAM).get(offset);
            assert_eq!(event.value(&heap, &mut streams.cache), Some(&offset.to_le_bytes()[..]));
            assert_eq!(event.place(), DeviceAddress(4_096 + offset * 8));
        }
    }

    #[test]
    fn a_stream_begins_behind_its_last_hole() {
        let (mut heap, mut streams) = (Heap::new(64 << 20), Streams::new(Cache::new(CACHE_CHUNK_BYTES, 64 << 20)));
        (0..10).chain(12..20).chain(21..30).for_each(|offset| replay(&mut streams, &mut heap, offset));
        streams.finish_replay(&mut heap, 1);
        assert_eq!(extent(&mut streams), (21, 30, 9));
    }

    #[test]
    fn what_was_trimmed_stays_so_wherever_the_trim_stands() {
        let (mut heap, mut streams) = (Heap::new(64 << 20), Streams::new(Cache::new(CACHE_CHUNK_BYTES, 64 << 20)));
        (0..10).for_each(|offset| replay(&mut streams, &mut heap, offset));
        streams.replay_trim(&mut heap, STREAM, 5, Lsn(2));
        (0..12).for_each(|offset| replay(&mut streams, &mut heap, offset));
        assert_eq!(extent(&mut streams), (5, 12, 7));
        // Nothing but the trim is left of what was before 5,000.
        streams.replay_trim(&mut heap, STREAM, 5_000, Lsn(3));
        assert_eq!(extent(&mut streams), (5_000, 5_000, 0));
        (5_003..5_010).chain(5_000..5_003).for_each(|offset| replay(&mut streams, &mut heap, offset));
        streams.finish_replay(&mut heap, 1);
        assert_eq!(extent(&mut streams), (5_000, 5_010, 10));
    }
}
