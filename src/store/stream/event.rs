//! What a stream knows of an event, in 24 bytes.

use crate::bytes::{index, len_u32};
use crate::ring::protocol::HEAD_BYTES;
use crate::store::cache::{Cache, Position};
use crate::store::heap::{Cell, Heap};
use crate::store::{Want, Whose};
use crate::types::{DeviceAddress, Lsn, ObjectId};

/// Bits of a word's low part.
const LOW_BITS: u32 = Position::BITS;
const LOW: u64 = (1 << LOW_BITS) - 1;
const _: () = assert!(Cell::BITS <= LOW_BITS);

#[derive(Clone, Copy)]
pub struct Event {
    /// LSN (48 bits) · bytes of the event, low 16 bits.
    lsn: u64,
    /// Where the record begins on the drive, in units of 8 bytes (48 bits) · bytes of the event, high 16 bits.
    place: u64,
    /// Where the cache has it, or had it; of one that is not logged its cell. Behind a linked one is the head before it.
    home: u64,
}

const _: () = assert!(size_of::<Event>() == 24);

impl Event {
    /// One that no record gave yet.
    pub const HOLE: Event = Event { lsn: LOW, place: 0, home: 0 };

    /// An event that is in a cell, and not logged.
    pub fn in_cell(bytes: usize, cell: Cell) -> Event {
        Event::new(bytes, cell.bits())
    }

    /// An event that is in the cache, and about to be logged.
    pub fn in_cache(bytes: usize, position: Position) -> Event {
        Event::new(bytes, position.bits())
    }

    fn new(bytes: usize, home: u64) -> Event {
        let bytes = bytes as u64;
        Event { lsn: (bytes & 0xffff) << LOW_BITS, place: bytes >> 16 << LOW_BITS, home }
    }

    pub fn is_hole(&self) -> bool {
        self.lsn & LOW == LOW
    }

    pub fn lsn(&self) -> Lsn {
        Lsn(self.lsn & LOW)
    }

    /// Whether a record says it.
    pub fn is_logged(&self) -> bool {
        self.lsn() != Lsn::NONE
    }

    pub fn bytes(&self) -> usize {
        index(self.lsn >> LOW_BITS | self.place >> LOW_BITS << 16)
    }

    pub fn place(&self) -> DeviceAddress {
        DeviceAddress((self.place & LOW) * 8)
    }

    pub fn set_logged(&mut self, lsn: Lsn, place: DeviceAddress) {
        self.set_lsn(lsn);
        self.set_place(place);
    }

    pub fn set_lsn(&mut self, lsn: Lsn) {
        debug_assert!(lsn.0 < LOW, "so many records were never written");
        self.lsn = self.lsn & !LOW | lsn.0;
    }

    pub fn set_place(&mut self, place: DeviceAddress) {
        debug_assert!(place.0.is_multiple_of(8) && place.0 / 8 <= LOW, "a record stands at a multiple of 8");
        self.place = self.place & !LOW | (place.0 / 8);
    }

    pub fn cached(&self) -> Position {
        Position::from_bits(self.home)
    }

    pub fn set_cached(&mut self, position: Position) {
        self.home = position.bits();
    }

    /// `Cell::NONE` for one that is logged.
    pub fn cell(&self) -> Cell {
        if self.is_logged() { Cell::NONE } else { Cell::from_bits(self.home) }
    }

    /// The event, where it is in memory.
    pub fn value<'a>(&self, heap: &'a Heap, cache: &'a mut Cache) -> Option<&'a [u8]> {
        self.stored(heap, cache, self.bytes())
    }

    /// The same of one that is linked, with the head before it.
    pub fn linked<'a>(&self, heap: &'a Heap, cache: &'a mut Cache) -> Option<(&'a [u8], &'a [u8; HEAD_BYTES])> {
        let stored = self.stored(heap, cache, self.bytes() + HEAD_BYTES)?;
        stored.split_last_chunk()
    }

    fn stored<'a>(&self, heap: &'a Heap, cache: &'a mut Cache, bytes: usize) -> Option<&'a [u8]> {
        match bytes {
            0 => Some(&[]),
            _ if self.is_logged() => cache.get(self.cached(), bytes),
            _ => Some(heap.bytes(self.cell(), bytes)),
        }
    }

    /// How to read it from the drive.
    pub fn want(&self, object: ObjectId, offset: u64) -> Want {
        let (place, value_bytes) = (self.place(), len_u32(self.bytes()));
        Want { whose: Whose::Event(offset), object, place, key_bytes: 0, value_bytes }
    }
}
