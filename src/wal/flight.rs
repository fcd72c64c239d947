//! The flight recorder: every record that is not yet durable also stands in a ring in a named shared-memory file
//! that outlives the process, before it is acknowledged. Recovery replays what lies beyond the durable log.
//! The file is written by one daemon at a time (the device's lock sees to that) and read by the next one.

use std::sync::atomic::Ordering::{self, Acquire, Relaxed, Release};

use forebay_sys::shm::{LINE_BYTES, SharedMap};

use crate::bytes::{array, get_u32, get_u64, index, put_u32, put_u64};
use crate::types::{Lsn, ShardId};
use crate::wal::record;

pub const MAGIC_VALUE: u64 = u64::from_le_bytes(*b"FBFLIGH1");
/// The header; the ring follows it.
pub const HEADER_BYTES: usize = 4_096;

pub const MAGIC: usize = 0; // u64
pub const VERSION: usize = 8; // u32, the format version
pub const SHARD: usize = 12; // u32
pub const NAMESPACE: usize = 16; // 16 bytes
pub const BOOT: usize = 32; // 16 bytes, the boot id: after a reboot the file means nothing
pub const RING_BYTES: usize = 48; // u64
pub const EPOCH: usize = 56; // u64, of the superblock that it goes with, or the next one
pub const HEAD: usize = 128; // u64, bytes released so far: the first record that is not durable
pub const TAIL: usize = 192; // u64, bytes written so far
pub const DURABLE_LSN: usize = 256; // u64

/// Whose recorder a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub namespace: [u8; 16],
    pub shard: ShardId,
    pub boot: [u8; 16],
}

/// What an earlier daemon left behind.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Encoded records, in LSN order, the first right behind `durable_lsn`.
    pub records: Vec<u8>,
    /// What that daemon knew to be durable on the drive.
    pub durable_lsn: Lsn,
}

/// What a file that was found is to the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// New, or of another namespace, shard or boot: it means nothing.
    Unknown,
    /// The log has gone on without it since.
    Stale { epoch: u64 },
    /// What it holds goes on where the log ends.
    Current,
}

/// The recorder of one shard. Until `reset` it is detached: it holds what was found and takes nothing.
pub struct Flight {
    map: Option<SharedMap>,
    owner: Owner,
    standing: Standing,
    ring_bytes: u64,
    head: u64,
    tail: u64,
    attached: bool,
}

impl Flight {
    /// A recorder over `map`, which is larger than its header; `None` keeps no record (buffered data then dies with
    /// the daemon). What it holds counts only if it goes with a superblock of this epoch.
    #[must_use]
    pub fn new(map: Option<SharedMap>, owner: Owner, superblock_epoch: u64) -> Flight {
        let ring_bytes = map.as_ref().map_or(0, |map| (map.len() - HEADER_BYTES) as u64);
        let standing = match map.as_ref().and_then(|map| left_epoch(map, owner)) {
            None => Standing::Unknown,
            Some(epoch) if epoch == superblock_epoch || epoch == superblock_epoch + 1 => Standing::Current,
            Some(epoch) => Standing::Stale { epoch },
        };
        Flight { map, owner, standing, ring_bytes, head: 0, tail: 0, attached: false }
    }

    /// Whether an earlier daemon left it, and the log has not gone on without it.
    #[must_use]
    pub fn is_current(&self) -> bool {
        self.standing == Standing::Current
    }

    /// The epoch of a recorder that the log has gone on without.
    #[must_use]
    pub fn stale_epoch(&self) -> Option<u64> {
        if let Standing::Stale { epoch } = self.standing { Some(epoch) } else { None }
    }

    /// Bytes of the ring.
    #[must_use]
    pub fn ring_bytes(&self) -> u64 {
        self.ring_bytes
    }

    /// Takes a recorder that is current along into the next epoch, with what it holds. The superblock follows.
    pub fn stamp(&self, epoch: u64) {
        if let (Standing::Current, Some(map)) = (self.standing, &self.map) {
            store(map, EPOCH, epoch, Release);
        }
    }

    /// What the daemon before left, if this recorder is current.
    #[must_use]
    pub fn contents(&self) -> Option<Contents> {
        let map = self.map.as_ref().filter(|_| self.is_current())?;
        let load = |at| map.atomic_u64(at).ok().map(|word| word.load(Acquire));
        let (head, tail, durable_lsn) = (load(HEAD)?, load(TAIL)?, Lsn(load(DURABLE_LSN)?));
        let ring_bytes = self.ring_bytes;
        if tail < head || tail - head > ring_bytes {
            return None;
        }
        let mut records = vec![0; index(tail - head)];
        let first = records.len().min(index(ring_bytes - head % ring_bytes));
        let (front, back) = records.split_at_mut(first);
        map.read(HEADER_BYTES + index(head % ring_bytes), front).ok()?;
        map.read(HEADER_BYTES, back).ok()?;
        fold(&mut records, record::crc_seed(&self.owner.namespace, self.owner.shard));
        Some(Contents { records, durable_lsn })
    }

    /// Begins anew: nothing is recorded, all up to `durable_lsn` is on the drive. From here on it is attached.
    pub fn reset(&mut self, epoch: u64, durable_lsn: Lsn) {
        self.attached = true;
        (self.head, self.tail) = (0, 0);
        let Some(map) = &self.map else { return };
        let mut header = [0; 64];
        put_u64(&mut header, MAGIC, MAGIC_VALUE);
        put_u32(&mut header, VERSION, u32::from(super::layout::FORMAT_VERSION));
        put_u32(&mut header, SHARD, self.owner.shard.0);
        header[NAMESPACE..NAMESPACE + 16].copy_from_slice(&self.owner.namespace);
        header[BOOT..BOOT + 16].copy_from_slice(&self.owner.boot);
        put_u64(&mut header, RING_BYTES, self.ring_bytes);
        put_u64(&mut header, EPOCH, epoch);
        // Without its magic the file means nothing, whatever moment a kill chooses.
        map.write(0, &[0; 8]).expect("the header lies inside the map");
        for (at, value) in [(HEAD, 0), (TAIL, 0), (DURABLE_LSN, durable_lsn.0)] {
            store(map, at, value, Release);
        }
        map.write(8, &header[8..]).expect("the header lies inside the map");
        store(map, MAGIC, MAGIC_VALUE, Release);
    }

    /// Whether `bytes` more fit.
    #[must_use]
    pub fn has_room(&self, bytes: usize) -> bool {
        self.map.is_none() || self.tail - self.head + bytes as u64 <= self.ring_bytes
    }

    /// Whether the ring is as large as so many bytes.
    #[must_use]
    pub fn can_hold(&self, bytes: usize) -> bool {
        self.map.is_none() || bytes as u64 <= self.ring_bytes
    }

    /// Records one encoded record. `has_room` said yes.
    #[inline]
    pub fn push(&mut self, record: &[u8]) {
        let Some(map) = &self.map else { return };
        debug_assert!(self.attached, "a recorder takes nothing before its reset");
        let at = index(self.tail % self.ring_bytes);
        let first = record.len().min(index(self.ring_bytes) - at);
        map.write(HEADER_BYTES + at, &record[..first]).expect("the ring lies inside the map");
        map.write(HEADER_BYTES, &record[first..]).expect("the ring lies inside the map");
        self.tail += record.len() as u64;
        // The ring is larger than the core's cache. The next record, which is probably as long, does not wait for its lines.
        map.prefetch_write(HEADER_BYTES + at + record.len() + LINE_BYTES, record.len());
        store(map, TAIL, self.tail, Release);
    }

    /// Where the next record will stand; `release` takes it back once that record's frame is durable.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.tail
    }

    /// Everything before `position`, up to `durable_lsn`, is on the drive.
    pub fn release(&mut self, position: u64, durable_lsn: Lsn) {
        let (true, Some(map)) = (self.attached, &self.map) else { return };
        self.head = self.head.max(position);
        store(map, DURABLE_LSN, durable_lsn.0, Relaxed);
        store(map, HEAD, self.head, Release);
    }
}

/// Leaves of each LSN what was said last, in the place where it was said first: see `rewrite`.
fn fold(records: &mut Vec<u8>, seed: u32) {
    let mut places: Vec<(Lsn, usize, usize)> = Vec::new();
    let (mut at, mut kept) = (0, 0);
    while let Some((record, taken)) = record::decode(&records[at..], seed) {
        let lsn = record.lsn;
        let place = match places.binary_search_by_key(&lsn, |(lsn, ..)| *lsn) {
            Ok(found) if places[found].2 == taken => places[found].1,
            Err(end) if end == places.len() => {
                places.push((lsn, kept, taken));
                kept += taken;
                kept - taken
            }
            // No recorder says this: what follows means nothing.
            _ => break,
        };
        records.copy_within(at..at + taken, place);
        at += taken;
    }
    // What is no record stays behind them.
    let left = records.len() - at;
    records.copy_within(at.., kept);
    records.truncate(kept + left);
}

/// The epoch in the header, when an earlier daemon of this namespace, shard and boot left it.
fn left_epoch(map: &SharedMap, owner: Owner) -> Option<u64> {
    let mut header = [0; 64];
    map.read(0, &mut header).ok()?;
    let found = Owner {
        namespace: array(&header, NAMESPACE),
        shard: ShardId(get_u32(&header, SHARD)),
        boot: array(&header, BOOT),
    };
    let known = get_u64(&header, MAGIC) == MAGIC_VALUE
        && get_u32(&header, VERSION) == u32::from(super::layout::FORMAT_VERSION)
        && found == owner
        && get_u64(&header, RING_BYTES) == (map.len() - HEADER_BYTES) as u64;
    known.then(|| get_u64(&header, EPOCH))
}

fn store(map: &SharedMap, at: usize, value: u64, ordering: Ordering) {
    map.atomic_u64(at).expect("the header lies inside the map").store(value, ordering);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ObjectId;
    use crate::wal::record::{Kind, Record};

    fn owner(boot: u8) -> Owner {
        Owner { namespace: [1; 16], shard: ShardId(0), boot: [boot; 16] }
    }

    fn encoded(lsn: u64) -> Vec<u8> {
        let mut out = vec![0; 256];
        let record = Record {
            kind: Kind::Put,
            flags: 0,
            lsn: Lsn(lsn),
            object: ObjectId(1),
            version: lsn,
            key: b"k",
            value: &[7; 100],
        };
        let taken = record::encode(&mut out, 0, &record);
        out.truncate(taken);
        out
    }

    #[test]
    fn what_is_not_released_is_found_again_across_the_rings_end() {
        let map = SharedMap::anonymous(HEADER_BYTES + 4_096).unwrap();
        let mut flight = Flight::new(Some(map), owner(1), 0);
        flight.reset(1, Lsn(0));
        let mut positions = Vec::new();
        for lsn in 1..=100 {
            assert!(flight.has_room(encoded(lsn).len()));
            flight.push(&encoded(lsn));
            positions.push(flight.position());
            if lsn > 3 {
                flight.release(positions[positions.len() - 4], Lsn(lsn - 3));
            }
        }
        let map = flight.map.take().unwrap();
        let found = Flight::new(Some(map), owner(1), 1).contents().unwrap();
        assert_eq!(found.durable_lsn, Lsn(97));
        assert_eq!(found.records, [encoded(98), encoded(99), encoded(100)].concat());
    }

    #[test]
    fn what_was_written_over_is_found_in_its_place() {
        let seed = record::crc_seed(&[1; 16], ShardId(0));
        let encoded = |lsn: u64, version: u64| {
            let mut out = vec![0; 256];
            let (kind, object) = (Kind::Put, ObjectId(1));
            let record =
                Record { kind, flags: 0, lsn: Lsn(lsn), object, version, key: b"k", value: &version.to_le_bytes() };
            let taken = record::encode(&mut out, seed, &record);
            out.truncate(taken);
            out
        };
        let mut flight = Flight::new(Some(SharedMap::anonymous(HEADER_BYTES + 4_096).unwrap()), owner(1), 0);
        flight.reset(1, Lsn(4));
        let said = [(5, 1), (6, 2), (7, 3), (6, 4), (5, 5), (8, 6), (5, 7)];
        said.iter().for_each(|(lsn, version)| flight.push(&encoded(*lsn, *version)));
        let found = Flight::new(flight.map.take(), owner(1), 1).contents().unwrap();
        assert_eq!(found.records, [encoded(5, 7), encoded(6, 4), encoded(7, 3), encoded(8, 6)].concat());
    }

    #[test]
    fn another_boot_or_namespace_finds_nothing() {
        let map = SharedMap::anonymous(HEADER_BYTES + 4_096).unwrap();
        let mut flight = Flight::new(Some(map), owner(1), 0);
        assert!(flight.contents().is_none(), "a fresh file means nothing");
        flight.reset(1, Lsn(5));
        flight.push(&encoded(6));
        let mut flight = Flight::new(flight.map.take(), owner(1), 1);
        assert!(flight.contents().is_some());
        let flight = Flight::new(flight.map.take(), owner(2), 1);
        assert!(flight.contents().is_none() && flight.stale_epoch().is_none());
    }

    #[test]
    fn a_recorder_counts_for_its_own_superblock_and_the_one_before() {
        let map = SharedMap::anonymous(HEADER_BYTES + 4_096).unwrap();
        let mut flight = Flight::new(Some(map), owner(1), 6);
        flight.reset(7, Lsn(5));
        flight.push(&encoded(6));
        let mut map = flight.map;
        let mut looks = |epoch| {
            let flight = Flight::new(map.take(), owner(1), epoch);
            let looks = (flight.is_current(), flight.contents().is_some(), flight.stale_epoch());
            flight.stamp(epoch + 1);
            map = flight.map;
            looks
        };
        assert_eq!(looks(9), (false, false, Some(7)), "and it is not stamped");
        assert_eq!(looks(5), (false, false, Some(7)), "a superblock from a copy of the device");
        // Stamped for a superblock that was never written, again and again.
        assert_eq!(looks(7), (true, true, None));
        assert_eq!(looks(7), (true, true, None));
        assert_eq!(looks(8), (true, true, None), "it was written");
        assert_eq!(looks(11), (false, false, Some(9)));
    }

    #[test]
    fn a_full_ring_says_so() {
        let map = SharedMap::anonymous(HEADER_BYTES + 4_096).unwrap();
        let mut flight = Flight::new(Some(map), owner(1), 0);
        flight.reset(1, Lsn(0));
        while flight.has_room(encoded(1).len()) {
            flight.push(&encoded(1));
        }
        assert!(flight.position() > 3_900);
        flight.release(flight.position(), Lsn(30));
        assert!(flight.has_room(4_096));
    }
}
