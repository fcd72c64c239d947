//! Checkpoints: what the index holds, said again in small records among all others, so that a recovery may begin where
//! the first of them stands and pass over what is older. A checkpoint counts when its last record does; then headers of
//! new segments name the segment that it begins in.
//!
//! Its records say what holds at their own place in the log, so those behind them change it, and those before the first
//! one are not needed: the fuzzy checkpoint of ARIES (Mohan et al., 1992), with the log itself as the place of the pages.

use crate::buffer::Pool;
use crate::bytes::{get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};
use crate::types::{DeviceAddress, Lsn, ObjectId};
use crate::wal::blocks::Blocks;
use crate::wal::flight::Contents;
use crate::wal::planted::Planted;
use crate::wal::record::{Kind, Record, Sink};
use crate::wal::recovery::{self, Recovered, Walker};
use crate::wal::{Link, Wal};

/// Before each key of a `Keys` record: bytes of the key u16 · flags u16 · bytes of the value u32 · version u64 · LSN u64 ·
/// place u64. Behind one that is timed its moment, u64 ms since 1970.
const KEY_HEADER_BYTES: usize = 32;
const KEY_BYTES: usize = 0;
const FLAGS: usize = 2;
const VALUE_BYTES: usize = 4;
const VERSION: usize = 8;
const KEY_LSN: usize = 16;
const KEY_PLACE: usize = 24;
/// The record at the place is a commit.
const FLAG_IN_COMMIT: u16 = 1;
const FLAG_TIMED: u16 = 2;

/// Each event of an `Events` record: LSN u64 · place u64 · bytes of the event u32 · 4 bytes of nothing.
pub const EVENT_ITEM_BYTES: usize = 24;
const EVENT_PLACE: usize = 8;
const EVENT_BYTES: usize = 16;

/// What the value of a `CheckpointBegin` takes, and that of a `CheckpointEnd`, at most.
pub const OWN_BYTES: usize = 16;

/// A key, and the record that says its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyItem<'a> {
    pub key: &'a [u8],
    pub value_bytes: u32,
    pub version: u64,
    pub lsn: Lsn,
    pub place: DeviceAddress,
    pub in_commit: bool,
    /// When it is over.
    pub until_ms: Option<u64>,
}

impl KeyItem<'_> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut header = [0; KEY_HEADER_BYTES];
        put_u16(&mut header, KEY_BYTES, crate::bytes::len_u16(self.key.len()));
        let flag = |set: bool, bit: u16| if set { bit } else { 0 };
        put_u16(&mut header, FLAGS, flag(self.in_commit, FLAG_IN_COMMIT) | flag(self.until_ms.is_some(), FLAG_TIMED));
        put_u32(&mut header, VALUE_BYTES, self.value_bytes);
        put_u64(&mut header, VERSION, self.version);
        put_u64(&mut header, KEY_LSN, self.lsn.0);
        put_u64(&mut header, KEY_PLACE, self.place.0);
        out.extend_from_slice(&header);
        out.extend_from_slice(self.key);
        self.until_ms.iter().for_each(|until_ms| out.extend_from_slice(&until_ms.to_le_bytes()));
    }
}

/// The keys of a `Keys` record. What does not fit its end is left out: the record's checksum is right, so nothing is.
pub fn keys(value: &[u8]) -> impl Iterator<Item = KeyItem<'_>> {
    let mut rest = value;
    std::iter::from_fn(move || {
        let header = rest.split_off(..KEY_HEADER_BYTES)?;
        let key = rest.split_off(..usize::from(get_u16(header, KEY_BYTES)))?;
        let flags = get_u16(header, FLAGS);
        let until_ms = if flags & FLAG_TIMED != 0 { Some(get_u64(rest.split_off(..8)?, 0)) } else { None };
        Some(KeyItem {
            key,
            value_bytes: get_u32(header, VALUE_BYTES),
            version: get_u64(header, VERSION),
            lsn: Lsn(get_u64(header, KEY_LSN)),
            place: DeviceAddress(get_u64(header, KEY_PLACE)),
            in_commit: flags & FLAG_IN_COMMIT != 0,
            until_ms,
        })
    })
}

/// Where the record of an event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventItem {
    pub lsn: Lsn,
    pub place: DeviceAddress,
    pub bytes: u32,
}

impl EventItem {
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut item = [0; EVENT_ITEM_BYTES];
        put_u64(&mut item, 0, self.lsn.0);
        put_u64(&mut item, EVENT_PLACE, self.place.0);
        put_u32(&mut item, EVENT_BYTES, self.bytes);
        out.extend_from_slice(&item);
    }
}

/// The events of an `Events` record.
pub fn events(value: &[u8]) -> impl Iterator<Item = EventItem> {
    value.as_chunks::<EVENT_ITEM_BYTES>().0.iter().map(|item| EventItem {
        lsn: Lsn(get_u64(item, 0)),
        place: DeviceAddress(get_u64(item, EVENT_PLACE)),
        bytes: get_u32(item, EVENT_BYTES),
    })
}

/// Where a checkpoint begins. `Lsn::NONE`: there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub lsn: Lsn,
    /// The segment of the chain.
    pub sequence: u64,
}

/// The beginning of a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Begin {
    pub place: Place,
    pub epoch: u64,
    /// `Wal::logged_bytes` there.
    pub logged_bytes: u64,
}

impl Begin {
    /// Whether a `CheckpointEnd` that stands in a frame of this epoch ends this one. All of it is of one epoch: what a
    /// start took from the flight recorder names places that records had before.
    #[must_use]
    pub fn is_ended_by(&self, record: &Record<'_>, epoch: u64) -> bool {
        let Some((lsn, own_epoch)) = record.value.split_first_chunk::<8>() else { return false };
        let (lsn, own_epoch) = (u64::from_le_bytes(*lsn), own_epoch.first_chunk().map(|own| u64::from_le_bytes(*own)));
        (record.version, lsn) == (self.place.sequence, self.place.lsn.0)
            && own_epoch == Some(epoch)
            && self.epoch == epoch
    }
}

/// As `recover`, from the checkpoint that begins there. `None`: it cannot be had whole, and all of the log says what
/// holds; `sink` may have got records by then.
pub fn recover_from_checkpoint<B: Blocks>(
    walker: Walker<'_, B>,
    begin: Place,
    flight: Option<&Contents>,
    planted: Planted,
    sink: &mut Sink<'_>,
    progress: &mut dyn FnMut(u64),
) -> Option<Recovered> {
    let recovered =
        recovery::recover(&mut walker.beginning_at(begin.sequence)?, flight, planted, sink, progress).ok()?;
    let whole = recovered.tail.checkpoint.place >= begin || planted.is(Planted::NameCheckpointTooEarly);
    whole.then_some(recovered)
}

impl Wal {
    /// Begins a checkpoint. `room` said yes to `OWN_BYTES`. What recovery must know of the segments that were given up before
    /// stands in it too.
    pub fn begin_checkpoint(&mut self, pool: &mut Pool, now_ns: u64) -> Begin {
        let logged_bytes = self.logged_bytes();
        // Also of the one whose record goes before this and is not durable yet: who begins here never sees that record, and this
        // counts only when it is durable.
        let kept_from = self.logged_kept_from;
        let kept = self.links.iter().find(|link| link.chained.sequence == kept_from);
        let kept_lsn = kept.map_or(Lsn::NONE, |link| link.first_lsn).0.to_le_bytes();
        let lsn = self.append_own(pool, now_ns, Kind::CheckpointBegin, kept_from, &kept_lsn);
        let place = Place { lsn, sequence: self.sequence_of_last() };
        Begin { place, epoch: self.identity.epoch, logged_bytes }
    }

    /// Ends one. `room` said yes to `OWN_BYTES`. It counts when this LSN is durable.
    pub fn end_checkpoint(&mut self, pool: &mut Pool, now_ns: u64, begin: &Begin) -> Lsn {
        let mut value = [0; OWN_BYTES];
        put_u64(&mut value, 0, begin.place.lsn.0);
        put_u64(&mut value, 8, begin.epoch);
        self.append_own(pool, now_ns, Kind::CheckpointEnd, begin.place.sequence, &value)
    }

    fn append_own(&mut self, pool: &mut Pool, now_ns: u64, kind: Kind, version: u64, value: &[u8]) -> Lsn {
        let before = self.counters.record_bytes;
        self.own = true;
        let lsn = self.append(pool, now_ns, kind, ObjectId(0), version, &[], value);
        self.own = false;
        self.counters.checkpoint_bytes += self.counters.record_bytes - before;
        lsn
    }

    /// Appends a part of a checkpoint. `room` said yes.
    pub fn append_checkpoint(&mut self, pool: &mut Pool, now_ns: u64, record: &Record<'_>) {
        let before = self.counters.record_bytes;
        self.own = true;
        self.append_record(pool, now_ns, record);
        self.own = false;
        self.counters.checkpoint_bytes += self.counters.record_bytes - before;
    }

    /// The segment of the chain in which the record appended last begins.
    fn sequence_of_last(&self) -> u64 {
        let layout = &self.identity.layout;
        let inside = |link: &&Link| {
            let begin = layout.segment_address(link.chained.segment);
            (begin.0..begin.0 + layout.segment_bytes).contains(&self.last_place.0)
        };
        self.links.iter().rev().find(inside).map_or(0, |link| link.chained.sequence)
    }

    /// A checkpoint is durable: the next segments name it, and a recovery may begin there.
    pub fn name_checkpoint(&mut self, begin: &Begin) {
        self.checkpoint = *begin;
        self.counters.checkpoints += 1;
    }

    /// Whether a checkpoint's last record, with this LSN, counts.
    #[must_use]
    pub fn checkpoint_has_landed(&self, lsn: Lsn) -> bool {
        lsn <= self.durable_lsn || self.planted.is(Planted::NameCheckpointTooEarly)
    }

    /// Bytes of records in the log since this one's recovery began to read.
    pub(super) fn logged_bytes(&self) -> u64 {
        self.recovered_bytes + self.counters.record_bytes
    }

    /// What a recovery would read of records, about: two segments more when a checkpoint was just named.
    #[must_use]
    pub fn recovery_bytes(&self) -> u64 {
        self.logged_bytes() - self.checkpoint.logged_bytes
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use forebay_sys::dma::{DmaRegion, Pages};

    use super::*;
    use crate::types::{SegmentIndex, ShardId};
    use crate::wal::flight::{Flight, Owner};
    use crate::wal::layout::Layout;
    use crate::wal::pool::SegmentPool;
    use crate::wal::{ChainSegment, Identity, Limits, Position, Tail, frame, record};

    /// Who begins at the checkpoint reads neither what is before it nor the segment that was given up.
    #[test]
    fn it_knows_of_a_segment_that_is_being_given_up() {
        let (namespace, shard) = ([7; 16], ShardId(0));
        let layout = Layout { capacity_bytes: 0, segment_bytes: 64 << 10, segments: 20, shards: 1 };
        let link = |sequence: u32| {
            let chained =
                ChainSegment { segment: SegmentIndex(sequence), sequence: u64::from(sequence), reserved: false };
            Link { chained, first_lsn: Lsn(u64::from(sequence) * 10), carries: crate::wal::carries::Carries::UNKNOWN }
        };
        let links = vec![link(1), link(2), link(3)];
        let position = Some(Position { chained: links[2].chained, offset: 4_096 });
        let tail = Tail { next_lsn: Lsn(40), links: links.clone(), position, kept_from: 1, ..Tail::default() };
        let limits = Limits {
            frames_in_flight_max: 1,
            window_interval_ns: 1,
            window_bytes: 4_096,
            watermark_interval_ns: 1,
            recovery_bytes_max: 1 << 20,
        };
        let flight = Flight::new(None, Owner { namespace, shard, boot: [0; 16] }, 1);
        let segments = Arc::new(SegmentPool::new(&layout, &[]));
        let identity = Identity { namespace, shard, epoch: 1, layout };
        let mut wal = Wal::new(identity, limits, tail, segments, flight, Planted::None);
        let mut pool = Pool::new(DmaRegion::allocate(4 * 8_192, Pages::Ordinary).unwrap(), 8_192);

        wal.append_give_up(&mut pool, 0, &links[0], links[1].first_lsn);
        wal.begin_checkpoint(&mut pool, 0);

        let open = wal.open.as_ref().unwrap();
        let (_, taken) = record::decode(&open.buffer[frame::HEADER_BYTES..open.used], wal.seed).unwrap();
        let (begins, _) = record::decode(&open.buffer[frame::HEADER_BYTES + taken..open.used], wal.seed).unwrap();
        assert_eq!((begins.kind, begins.version), (Kind::CheckpointBegin, 2));
        assert_eq!(begins.value, links[1].first_lsn.0.to_le_bytes());
        // Headers of segments say it only when it is durable.
        assert_eq!(wal.kept_from, 1);
    }
}
