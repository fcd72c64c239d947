//! Streams in a checkpoint: see `store::checkpoint`.

use std::ops::Bound;

use crate::bytes::{get_u64, index};
use crate::ring::protocol::{HEAD_BYTES, Status};
use crate::store::cache::Position;
use crate::store::checkpoint::{Piece, first_of, say_items};
use crate::store::heap::Heap;
use crate::store::stream::{Event, Stream, Streams};
use crate::types::{Lsn, ObjectId};
use crate::wal::checkpoint::{EventItem, events};
use crate::wal::record::{Kind, Record, encoded_bytes};

impl Stream {
    /// Says where this stream begins, and how its chain goes on: the key of every piece. The value is there.
    fn say(&self, object: ObjectId, version: u64, piece: &mut Piece) {
        piece.key.extend_from_slice(&self.first.to_le_bytes());
        if let Some(chain) = self.chain {
            piece.key.extend_from_slice(&chain.head);
            piece.key.extend_from_slice(&self.next.to_le_bytes());
        }
        piece.say(Kind::Events, object, version);
    }
}

impl Streams {
    pub fn objects(&self) -> usize {
        self.streams.len()
    }

    fn logged(&self, object: ObjectId) -> Option<&Stream> {
        self.streams.get(object.index()).filter(|stream| stream.logged)
    }

    /// That a stream is there, and where it begins. `false`: the log says nothing of this stream.
    pub fn say_begin(&self, object: ObjectId, piece: &mut Piece) -> bool {
        let Some(stream) = self.logged(object) else { return false };
        stream.say(object, stream.first, piece);
        true
    }

    /// The cursor behind the one whose name is `after`. `false`: there is none.
    pub fn say_cursor(&self, object: ObjectId, after: &mut Vec<u8>, piece: &mut Piece) -> bool {
        let stream = &self.streams[object.index()];
        let begin = if after.is_empty() { Bound::Unbounded } else { Bound::Excluded(&after[..]) };
        let Some((name, offset, lsn)) = stream.cursor_from(begin) else { return false };
        piece.key.extend_from_slice(name);
        piece.say_again(Kind::Cursor, object, offset, lsn);
        after.clear();
        after.extend_from_slice(&piece.key);
        true
    }

    /// The next one of what producers appended last, as an append without events. `false`: there is none.
    pub fn say_producer(&self, object: ObjectId, (slot, said): (&mut u64, &mut u64), piece: &mut Piece) -> bool {
        let Some((key, offset, lsn)) = self.streams[object.index()].appended_once(slot, said) else { return false };
        piece.key.extend_from_slice(&key);
        piece.say_again(Kind::AppendOnce, object, offset, lsn);
        true
    }

    /// Events from `next` on. `false`: there are no more.
    pub fn say_events(&self, object: ObjectId, next: &mut u64, piece: &mut Piece) -> bool {
        let stream = &self.streams[object.index()];
        let item = |offset| {
            let event = stream.get(offset);
            let bytes = crate::bytes::len_u32(event.bytes());
            event.is_logged().then(|| EventItem { lsn: event.lsn(), place: event.place(), bytes })
        };
        *next = say_items(piece, stream.first.max(*next)..stream.next, item);
        if !piece.value.is_empty() {
            stream.say(object, first_of(*next, piece), piece);
        }
        *next < stream.next
    }

    /// Takes the events of a checkpoint out of the recovered log, but those that the log says by itself.
    pub fn replay_places(&mut self, heap: &mut Heap, record: &Record<'_>) -> Result<(), Status> {
        let Record { object, key, .. } = *record;
        let Some((first, chain)) = key.split_first_chunk::<8>() else { return Ok(()) };
        // The trim itself has to be said again when its segment is given up: who reads all of the log reads no checkpoint.
        self.replay_trim(heap, object, u64::from_le_bytes(*first), Lsn::NONE);
        if let Some((head, end)) = chain.split_first_chunk::<HEAD_BYTES>() {
            self.stream(object).state_head(Some(head), get_u64(end, 0));
        }
        for (offset, EventItem { lsn, place, bytes }) in (record.version..).zip(events(record.value)) {
            if self.reach(heap, object, offset)? {
                let logged_bytes = encoded_bytes(0, index(u64::from(bytes))) as u64;
                self.logged_bytes += logged_bytes;
                let stream = self.stream(object);
                stream.logged_bytes += logged_bytes;
                stream.held_bytes += u64::from(bytes);
                let event = stream.get_mut(offset);
                *event = Event::in_cache(index(u64::from(bytes)), Position::NONE);
                event.set_logged(lsn, place);
            }
        }
        Ok(())
    }
}
