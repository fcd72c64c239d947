//! What the store of a shard holds, as records of a checkpoint: in pieces, each of which says what holds at its moment.
//! Keys and events with the places of their records; what is small as the record that would say it anyway.

use std::ops::Bound;

use crate::bytes::len_u32;
use crate::ring::protocol::Status;
use crate::store::Store;
use crate::store::space::{Said, Until};
use crate::types::{Lsn, ObjectId};
use crate::wal::checkpoint::{EventItem, KeyItem, keys};
use crate::wal::planted::Planted;
use crate::wal::record::{FLAG_CHECKPOINT, Kind, Record};

/// Keys and events that are looked at for a piece: those that are not logged are passed over.
const LOOKS_MAX: usize = 1_024;

/// What comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    /// How far this shard has logged its parts of commits that others decided.
    #[default]
    Applied,
    Keys,
    Retention,
    Begin,
    Cursors,
    Producers,
    Events,
}

/// How far the pieces came. Behind it is what was said, before it what is to be.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    object: u32,
    part: Part,
    /// The last key or cursor said; empty at the beginning.
    after: Vec<u8>,
    /// The next producer, event or mark.
    next: u64,
    /// The last sequence number said of that producer; whether a retention was.
    said: u64,
}

impl Progress {
    fn go_on(&mut self, part: Part) {
        self.part = part;
        self.after.clear();
        (self.next, self.said) = (0, 0);
    }

    fn next_object(&mut self) {
        self.object += 1;
        self.go_on(Part::Keys);
    }
}

/// A piece: a record without the LSN, in memory that is used again.
#[derive(Debug, Default)]
pub struct Piece {
    head: Option<(Kind, ObjectId, u64)>,
    /// Bytes of its value, about.
    bytes_max: usize,
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

impl Piece {
    fn begin(&mut self, bytes_max: usize) {
        (self.head, self.bytes_max) = (None, bytes_max);
        self.key.clear();
        self.value.clear();
    }

    pub(super) fn is_full(&self) -> bool {
        self.value.len() >= self.bytes_max
    }

    pub(super) fn say(&mut self, kind: Kind, object: ObjectId, version: u64) {
        self.head = Some((kind, object, version));
    }

    /// What the record with this LSN says, whose key is there.
    pub(super) fn say_again(&mut self, kind: Kind, object: ObjectId, version: u64, lsn: Lsn) {
        self.value.extend_from_slice(&lsn.0.to_le_bytes());
        self.say(kind, object, version);
    }

    /// The record; `None`: there was nothing to say.
    #[must_use]
    pub fn record(&self) -> Option<Record<'_>> {
        let (kind, object, version) = self.head?;
        let flags = FLAG_CHECKPOINT;
        Some(Record { kind, flags, lsn: Lsn::NONE, object, version, key: &self.key, value: &self.value })
    }
}

impl Store {
    /// Fills the next piece, with about so many bytes; it may say nothing. `false`: all is said.
    pub fn next_piece(&self, progress: &mut Progress, piece: &mut Piece, bytes_max: usize, planted: Planted) -> bool {
        piece.begin(bytes_max);
        if progress.part == Part::Applied {
            if !self.across.say_applied(&mut progress.next, piece) {
                progress.go_on(Part::Keys);
            }
            return true;
        }
        let object = ObjectId(progress.object);
        if object.index() >= self.spaces.objects().max(self.streams.objects()) {
            return false;
        }
        let forgets = planted.is(Planted::ForgetInCheckpoint);
        match progress.part {
            Part::Applied | Part::Keys => {
                if !self.keys_piece(object, progress, piece) {
                    progress.go_on(Part::Retention);
                }
            }
            Part::Retention => {
                if forgets || !self.streams.say_retention(object, (&mut progress.next, &mut progress.said), piece) {
                    progress.go_on(Part::Begin);
                }
            }
            Part::Begin => {
                if self.streams.say_begin(object, piece) {
                    progress.go_on(Part::Cursors);
                } else {
                    progress.next_object();
                }
            }
            Part::Cursors => {
                if forgets || !self.streams.say_cursor(object, &mut progress.after, piece) {
                    progress.go_on(Part::Producers);
                }
            }
            Part::Producers => {
                if forgets || !self.streams.say_producer(object, (&mut progress.next, &mut progress.said), piece) {
                    progress.go_on(Part::Events);
                }
            }
            Part::Events => {
                if !self.streams.say_events(object, &mut progress.next, piece) {
                    progress.next_object();
                }
            }
        }
        true
    }

    /// `false`: there are no more keys in this space.
    fn keys_piece(&self, object: ObjectId, progress: &mut Progress, piece: &mut Piece) -> bool {
        let after = std::mem::take(&mut progress.after);
        let begin = if after.is_empty() { Bound::Unbounded } else { Bound::Excluded(&after[..]) };
        let (mut looks, mut full) = (0, false);
        for (slot, key) in self.spaces.logged_from(&self.heap, object, begin) {
            looks += 1;
            full = looks == LOOKS_MAX || piece.is_full();
            if full {
                break;
            }
            progress.after.clear();
            progress.after.extend_from_slice(key);
            if let Some(said) = self.spaces.said(&self.heap, slot) {
                let (value_bytes, Said { version, lsn, place, in_commit, until }) = said;
                let until_ms = until.map(|until| until.logged_ms);
                KeyItem { key, value_bytes, version, lsn, place, in_commit, until_ms }.encode(&mut piece.value);
            }
        }
        if !piece.value.is_empty() {
            piece.say(Kind::Keys, object, 0);
        }
        if progress.after.is_empty() {
            progress.after = after;
        }
        full
    }

    /// Takes the keys of a checkpoint out of the recovered log. One that the log says by itself behind the beginning of the
    /// checkpoint is left as it is: its record may be in the flight recorder alone, and stand elsewhere by and by.
    pub(super) fn replay_keys(&mut self, record: &Record<'_>) -> Result<(), Status> {
        for KeyItem { key, value_bytes, version, lsn, place, in_commit, until_ms } in keys(record.value) {
            self.next_version = self.next_version.max(version.saturating_add(1));
            if self.across.has_deleted(record.object, key, version) {
                continue;
            }
            let until = until_ms.map(Until::recovered);
            let said = Said { version, lsn, place, in_commit, until };
            self.spaces.replay_place(&mut self.heap, record.object, key, value_bytes, said)?;
        }
        Ok(())
    }
}

/// Appends events that follow each other to a piece, from `offset` on, as `item` gives them.
pub(super) fn say_items(
    piece: &mut Piece,
    offsets: std::ops::Range<u64>,
    item: impl Fn(u64) -> Option<EventItem>,
) -> u64 {
    let mut next = offsets.start;
    for (looks, offset) in (0..).zip(offsets) {
        match item(offset) {
            Some(item) if !piece.is_full() => item.encode(&mut piece.value),
            // Those that follow are of another piece.
            None if piece.value.is_empty() && looks < LOOKS_MAX => {}
            _ => break,
        }
        next = offset + 1;
    }
    next
}

/// The first offset of the `count` events that a piece ends with.
pub(super) fn first_of(next: u64, piece: &Piece) -> u64 {
    next - u64::from(len_u32(piece.value.len() / crate::wal::checkpoint::EVENT_ITEM_BYTES))
}
