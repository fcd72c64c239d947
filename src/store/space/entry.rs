//! What the index knows of a key, in 40 bytes.

use crate::bytes::{index, len_u32};
use crate::ring::protocol::commit;
use crate::store::cache::{Cache, Position};
use crate::store::heap::{Cell, Heap};
use crate::store::space::expiry::TIMED_BYTES;
use crate::store::{Fetched, Want, Whose};
use crate::types::{DeviceAddress, Lsn, ObjectId};
use crate::wal::record::{self, UNTIL_BYTES};

/// Bits of a word's low part.
const LOW_BITS: u32 = Position::BITS;
const LOW: u64 = (1 << LOW_BITS) - 1;
const CELL: u64 = (1 << Cell::BITS) - 1;

/// One key. Its cell holds the key, behind it the node of the wheel where it has a time to live, and behind that the value
/// of a key that is not logged.
#[derive(Clone, Copy, Default)]
pub struct Entry {
    pub version: u64,
    /// Where the cache has the value, or had it (48 bits) · object, low 16 bits.
    cached: u64,
    /// Where the record begins on the drive, in units of 8 bytes (48 bits) · bytes of the key (14 bits) · `TIMED` ·
    /// `IN_COMMIT`.
    place: u64,
    /// LSN (48 bits) · bytes of the value, low 16 bits.
    lsn: u64,
    /// Cell (40 bits) · object, next 8 bits · bytes of the value, next 16 bits.
    cell: u64,
}

/// Its record is a commit, which says more than this key.
const IN_COMMIT: u64 = 1 << 63;
/// It has a time to live.
const TIMED: u64 = 1 << 62;

const _: () = assert!(size_of::<Entry>() == 40);

/// Until when a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Until {
    /// By what keys go by while the daemon lives.
    pub lived_ms: u64,
    /// As the log says it, by the wall clock as it stood.
    pub logged_ms: u64,
}

impl Until {
    /// Out of the log.
    pub fn recovered(logged_ms: u64) -> Until {
        Until { lived_ms: logged_ms, logged_ms }
    }
}

/// What says the value of a key: the version, and the record, none where it is not logged.
#[derive(Clone, Copy)]
pub struct Said {
    pub version: u64,
    pub lsn: Lsn,
    pub place: DeviceAddress,
    pub in_commit: bool,
    /// It holds until then.
    pub until: Option<Until>,
}

impl Entry {
    pub fn new(object: ObjectId, key_bytes: u16) -> Entry {
        let object = u64::from(object.0);
        debug_assert!(object < 1 << 24, "objects_max is at most 2^20");
        Entry {
            cached: object << LOW_BITS,
            place: u64::from(key_bytes) << LOW_BITS,
            cell: (object >> 16 & 0xff) << Cell::BITS,
            ..Entry::default()
        }
    }

    pub fn object(&self) -> ObjectId {
        ObjectId(len_u32(index(self.cached >> LOW_BITS | (self.cell >> Cell::BITS & 0xff) << 16)))
    }

    pub fn key_bytes(&self) -> usize {
        index((self.place & !(IN_COMMIT | TIMED)) >> LOW_BITS)
    }

    pub fn value_bytes(&self) -> u32 {
        len_u32(index(self.lsn >> LOW_BITS | (self.cell >> LOW_BITS) << 16))
    }

    pub fn lsn(&self) -> Lsn {
        Lsn(self.lsn & LOW)
    }

    /// What says its value, which holds until that moment.
    pub fn said(&self, until: Option<Until>) -> Said {
        Said { version: self.version, lsn: self.lsn(), place: self.place(), in_commit: self.in_commit(), until }
    }

    pub fn in_commit(&self) -> bool {
        self.place & IN_COMMIT != 0
    }

    /// Whether it has a time to live, and its cell a node.
    pub fn is_timed(&self) -> bool {
        self.place & TIMED != 0
    }

    pub fn set_timed(&mut self, timed: bool) {
        self.place = self.place & !TIMED | if timed { TIMED } else { 0 };
    }

    /// Bytes of its cell before the value of a key that is not logged.
    pub fn head_bytes(&self) -> usize {
        self.key_bytes() + if self.is_timed() { TIMED_BYTES } else { 0 }
    }

    /// Whether a record says what it holds.
    pub fn is_logged(&self) -> bool {
        self.lsn() != Lsn::NONE
    }

    pub fn place(&self) -> DeviceAddress {
        DeviceAddress((self.place & LOW) * 8)
    }

    pub fn set_place(&mut self, place: DeviceAddress) {
        debug_assert!(place.0.is_multiple_of(8) && place.0 / 8 <= LOW, "a record stands at a multiple of 8");
        self.place = self.place & !LOW | (place.0 / 8);
    }

    pub fn cached(&self) -> Position {
        Position::from_bits(self.cached & LOW)
    }

    pub fn set_cached(&mut self, position: Position) {
        debug_assert!(position.bits() <= LOW, "so many chunks were never filled");
        self.cached = self.cached & !LOW | position.bits();
    }

    pub fn cell(&self) -> Cell {
        Cell::from_bits(self.cell & CELL)
    }

    pub fn set_cell(&mut self, cell: Cell) {
        self.cell = self.cell & !CELL | cell.bits();
    }

    /// It holds another value, which a record says, or none.
    pub fn set(&mut self, value_bytes: u32, said: Said) {
        let Said { version, lsn, place, in_commit, .. } = said;
        debug_assert!(lsn.0 <= LOW, "so many records were never written");
        let (low, high) = (u64::from(value_bytes & 0xffff), u64::from(value_bytes >> 16));
        self.version = version;
        self.lsn = lsn.0 | low << LOW_BITS;
        self.cell = self.cell & LOW | high << LOW_BITS;
        self.set_place(place);
        self.place = self.place & !IN_COMMIT | if in_commit { IN_COMMIT } else { 0 };
    }

    /// Empty for a slot that is free.
    // A call of its own costs a put 1 %.
    #[inline(always)]
    pub fn key<'a>(&self, heap: &'a Heap) -> &'a [u8] {
        match self.key_bytes() {
            0 => &[],
            bytes => heap.bytes(self.cell(), bytes),
        }
    }

    /// What its record takes in the log, padding aside; nothing where it is not logged.
    pub fn logged_bytes(&self) -> u64 {
        let header_bytes = if self.in_commit() { commit::HEADER_BYTES } else { record::HEADER_BYTES };
        let until_bytes = if self.is_timed() { UNTIL_BYTES } else { 0 };
        let bytes = header_bytes + self.key_bytes() + until_bytes + self.value_bytes() as usize;
        if self.is_logged() { bytes as u64 } else { 0 }
    }

    /// The value, where it is in memory: in its cell, in the cache, or just read.
    pub fn value<'a>(
        &self,
        slot: u32,
        heap: &'a Heap,
        cache: &'a mut Cache,
        fetched: Option<&Fetched<'a>>,
    ) -> Option<&'a [u8]> {
        if !self.is_logged() {
            let (head_bytes, value_bytes) = (self.head_bytes(), self.value_bytes() as usize);
            return Some(&heap.bytes(self.cell(), head_bytes + value_bytes)[head_bytes..]);
        }
        let own = |fetched: &&Fetched<'a>| match fetched.whose {
            Whose::Key { slot: own, version, .. } => own == slot && version == self.version,
            Whose::Event(_) => false,
        };
        let just_read = fetched.filter(own);
        cache.get(self.cached(), self.value_bytes() as usize).or(just_read.map(|fetched| fetched.value))
    }

    /// How to read the value from the drive.
    pub fn want(&self, slot: u32) -> Want {
        let until_bytes = if self.is_timed() { UNTIL_BYTES } else { 0 };
        let key_bytes = u16::try_from(self.key_bytes() + until_bytes).unwrap_or(u16::MAX);
        let (place, object, value_bytes) = (self.place(), self.object(), self.value_bytes());
        let whose = Whose::Key { slot, version: self.version, in_commit: self.in_commit() };
        Want { whose, place, object, key_bytes, value_bytes }
    }
}
