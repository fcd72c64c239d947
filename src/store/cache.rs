//! Values of logged keys in memory, within the store's budget. A value that is not here is on the drive.
//!
//! A queue of chunks. Values are written at its end. When the budget is used up the oldest chunk comes to the end, and
//! keeps only what was asked for since it was last there, and what cannot be read from the drive yet: the CLOCK of
//! Corbató (1968), a chunk at a time. So nothing is allocated, no lists are kept, and who is gone costs no look: a value
//! is here if its chunk's number is one of those in the queue.

use std::collections::VecDeque;

use crate::bytes::{get_u32, get_u64, index, len_u32, put_u32, put_u64};
use crate::store::heap::Heap;
use crate::types::Lsn;

/// The size of a chunk. To go through one takes some 10 us.
pub const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that are looked at in one go. Then the request comes again.
const LOOKS_MAX: usize = 4;
/// Chunks that the index leaves to it.
const CHUNKS_MIN: usize = 4;

/// Before each value: its owner u64 · u64 the LSN of its record · its room in bytes u32, a multiple of 8, `REFERENCED` ·
/// 4 bytes of nothing.
pub const HEADER_BYTES: usize = 24;
const LSN: usize = 8;
const ROOM: usize = 16;
/// Asked for since its chunk was last at the end of the queue.
const REFERENCED: u8 = 1;

/// Where a value is, or was: chunk number (33 bits: as many chunks as are filled in some centuries), offset (15 bits, in
/// units of 8 B).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position(u64);

const OFFSET_BITS: u32 = 15;
const _: () = assert!(CHUNK_BYTES <= 8 << OFFSET_BITS);

impl Position {
    /// Nowhere.
    pub const NONE: Position = Position(0);

    /// Bits that it takes.
    pub const BITS: u32 = 48;

    /// From what `bits` gave.
    pub fn from_bits(bits: u64) -> Position {
        Position(bits)
    }

    pub fn bits(self) -> u64 {
        self.0
    }

    fn new(number: u64, offset: usize) -> Position {
        debug_assert!(offset < CHUNK_BYTES, "a value begins there");
        Position(number << OFFSET_BITS | (offset as u64 / 8))
    }

    fn number(self) -> u64 {
        self.0 >> OFFSET_BITS
    }

    fn offset(self) -> usize {
        index(self.0 & ((1 << OFFSET_BITS) - 1)) * 8
    }
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// What is here is not on the drive yet, or there was more to look at: try again.
    Now,
    /// The index leaves no memory.
    Memory,
    /// The cache is never so large.
    Never,
}

/// Who owns the values, by a number that says who.
pub trait Owners {
    /// Whether the owner's value is the one at this position.
    fn owns(&self, owner: u64, position: Position) -> bool;
    /// It is at another one now.
    fn moved(&mut self, owner: u64, position: Position);
}

struct Chunk {
    bytes: Box<[u8]>,
    used: usize,
}

pub struct Cache {
    chunks: VecDeque<Chunk>,
    /// The number of the oldest chunk; the first ever is 1.
    first: u64,
    bytes: usize,
    chunk_bytes: usize,
    bytes_max: usize,
    /// Memory of the chunk that went last, for one that comes: large values have one size, mostly. Not counted.
    spare: Option<Box<[u8]>>,
}

/// What a value takes, its header included.
fn item_bytes(value_bytes: usize) -> usize {
    HEADER_BYTES + value_bytes.next_multiple_of(8)
}

/// The room of the value whose header begins `item`.
fn room_of(item: &[u8]) -> usize {
    (get_u32(item, ROOM) & !u32::from(REFERENCED)) as usize
}

impl Cache {
    /// A cache of at most `bytes_max`, besides what has to be in memory, in chunks of `chunk_bytes`.
    pub fn new(chunk_bytes: usize, bytes_max: usize) -> Cache {
        Cache { chunks: VecDeque::new(), first: 1, bytes: 0, chunk_bytes, bytes_max, spare: None }
    }

    /// Memory that the chunks take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn chunk(&self, position: Position) -> Option<usize> {
        position.number().checked_sub(self.first).map(index)
    }

    /// The value at a position, if it is here. It stays here for another round.
    #[inline]
    pub fn get(&mut self, position: Position, bytes: usize) -> Option<&[u8]> {
        let at = self.chunk(position)?;
        let item = &mut self.chunks[at].bytes[position.offset()..];
        item[ROOM] |= REFERENCED;
        Some(&item[HEADER_BYTES..HEADER_BYTES + bytes])
    }

    /// Writes a value over the one at a position, where it is here and has the room. `lsn`: of its record.
    #[inline]
    pub fn overwrite(&mut self, position: Position, value: &[u8], lsn: Lsn) -> bool {
        let Some(at) = self.chunk(position) else { return false };
        let item = &mut self.chunks[at].bytes[position.offset()..];
        if value.len().next_multiple_of(8) != room_of(item) {
            return false;
        }
        put_u64(item, LSN, lsn.0);
        item[HEADER_BYTES..HEADER_BYTES + value.len()].copy_from_slice(value);
        true
    }

    /// Whether the value at a position is here.
    pub fn has(&self, position: Position) -> bool {
        self.chunk(position).is_some()
    }

    /// Says whether `overwrite` would do.
    pub fn suits(&self, position: Position, value_bytes: usize) -> bool {
        let room = self.chunk(position).map(|at| room_of(&self.chunks[at].bytes[position.offset()..]));
        room == Some(value_bytes.next_multiple_of(8))
    }

    /// Whether the newest chunk takes another value of so many bytes, header included. Also in a chunk of its own a value
    /// begins where a position can say it.
    #[inline]
    fn fits(&self, bytes: usize) -> bool {
        self.chunks.back().is_some_and(|chunk| chunk.used < self.chunk_bytes && chunk.bytes.len() - chunk.used >= bytes)
    }

    /// Makes room for a value, so that `insert` finds it. What is not durable stays.
    #[inline]
    pub fn make_room(
        &mut self,
        heap: &mut Heap,
        owners: &mut impl Owners,
        value_bytes: usize,
        durable: Lsn,
    ) -> Result<(), Full> {
        let bytes = item_bytes(value_bytes);
        // A large value has a chunk of its own.
        let own = bytes > self.chunk_bytes / 4;
        if !own && self.fits(bytes) {
            return Ok(());
        }
        self.look_for_room(heap, owners, bytes, own, durable)?;
        if own || !self.fits(bytes) {
            self.add(heap, if own { bytes } else { self.chunk_bytes });
        }
        Ok(())
    }

    /// Makes room for values that come one after the other, none of which pushes another one out, of so many bytes together.
    #[inline]
    pub fn make_room_for_several(
        &mut self,
        heap: &mut Heap,
        owners: &mut impl Owners,
        bytes: usize,
        durable: Lsn,
    ) -> Result<(), Full> {
        if bytes <= self.chunk_bytes {
            return self.make_room(heap, owners, bytes, durable);
        }
        // `insert` adds chunk after chunk.
        self.look_for_room(heap, owners, bytes, true, durable)
    }

    /// Looks at old chunks until there is memory for another one, or what is there has the room.
    #[cold]
    fn look_for_room(
        &mut self,
        heap: &mut Heap,
        owners: &mut impl Owners,
        bytes: usize,
        own: bool,
        durable: Lsn,
    ) -> Result<(), Full> {
        let wanted = if own { bytes } else { self.chunk_bytes };
        if wanted > self.bytes_max {
            return Err(Full::Never);
        }
        if wanted as u64 > heap.unused_bytes() + self.bytes as u64 {
            return Err(Full::Memory);
        }
        for _ in 0..LOOKS_MAX {
            let free = wanted as u64 <= heap.unused_bytes() && self.bytes + wanted <= self.bytes_max;
            if free || !own && self.fits(bytes) {
                return Ok(());
            }
            let gone = self.look_at_oldest(heap, owners, durable, own)?;
            self.spare = gone.filter(|gone| gone.len() == wanted);
        }
        Err(Full::Now)
    }

    /// The same over the budget, for what has to be here until it is durable: frames in flight bound it.
    pub fn make_room_over(&mut self, heap: &mut Heap, owners: &mut impl Owners, value_bytes: usize, durable: Lsn) {
        if self.make_room(heap, owners, value_bytes, durable).is_err() {
            self.add(heap, item_bytes(value_bytes).max(self.chunk_bytes));
        }
    }

    #[cold]
    fn add(&mut self, heap: &mut Heap, bytes: usize) {
        heap.charge_over(bytes);
        self.bytes += bytes;
        let spare = self.spare.take().filter(|spare| spare.len() == bytes);
        let bytes = spare.unwrap_or_else(|| vec![0; bytes].into_boxed_slice());
        self.chunks.push_back(Chunk { bytes, used: 0 });
    }

    /// Gives memory back, for the index, which the allocator takes from the machine elsewhere; but for one chunk, for the
    /// next value. `false`: there is none to be given now.
    pub fn shrink(&mut self, heap: &mut Heap, owners: &mut impl Owners, durable: Lsn) -> bool {
        (0..LOOKS_MAX).any(|_| {
            let roomy = self.bytes > CHUNKS_MIN * self.chunk_bytes;
            let gone = if roomy { self.look_at_oldest(heap, owners, durable, true).ok().flatten() } else { None };
            let Some(gone) = gone else { return false };
            // A very large one is more than goes uncounted.
            let over = if gone.len() > self.chunk_bytes { Some(gone) } else { self.spare.replace(gone) };
            if let Some(over) = over {
                forebay_sys::alloc::give_back(over);
            }
            true
        })
    }

    /// The oldest chunk comes to the end of the queue with what stays of it, or goes: then its memory is handed out. `tight`:
    /// only what must stay does.
    #[cold]
    fn look_at_oldest(
        &mut self,
        heap: &mut Heap,
        owners: &mut impl Owners,
        durable: Lsn,
        tight: bool,
    ) -> Result<Option<Box<[u8]>>, Full> {
        let mut chunk = self.chunks.pop_front().ok_or(Full::Memory)?;
        self.first += 1;
        let number = self.first + self.chunks.len() as u64;
        let (mut at, mut kept) = (0, 0);
        while at < chunk.used {
            let item = &mut chunk.bytes[at..];
            let (owner, bytes) = (get_u64(item, 0), HEADER_BYTES + room_of(item));
            let referenced = item[ROOM] & REFERENCED != 0 && !tight;
            let needed = get_u64(item, LSN) > durable.0;
            if owners.owns(owner, Position::new(self.first - 1, at)) && (needed || referenced) {
                item[ROOM] &= !REFERENCED;
                chunk.bytes.copy_within(at..at + bytes, kept);
                owners.moved(owner, Position::new(number, kept));
                kept += bytes;
            }
            at += bytes;
        }
        let own = chunk.bytes.len() != self.chunk_bytes;
        if kept == 0 && (tight || own) {
            self.bytes -= chunk.bytes.len();
            heap.refund(chunk.bytes.len());
            return Ok(Some(chunk.bytes));
        }
        chunk.used = kept;
        self.chunks.push_back(chunk);
        Ok(None)
    }

    /// Writes a value, in parts, at the end of the queue. `make_room` said yes.
    pub fn insert(&mut self, heap: &mut Heap, owner: u64, parts: [&[u8]; 2], lsn: Lsn) -> Position {
        let bytes = item_bytes(parts[0].len() + parts[1].len());
        if !self.fits(bytes) {
            // The next of several.
            self.add(heap, if bytes > self.chunk_bytes / 4 { bytes } else { self.chunk_bytes });
        }
        let number = self.first + self.chunks.len() as u64 - 1;
        let chunk = self.chunks.back_mut().expect("there is room");
        let at = chunk.used;
        let item = &mut chunk.bytes[at..at + bytes];
        put_u64(item, 0, owner);
        put_u64(item, LSN, lsn.0);
        put_u32(item, ROOM, len_u32(bytes - HEADER_BYTES));
        let (first, second) = item[HEADER_BYTES..].split_at_mut(parts[0].len());
        first.copy_from_slice(parts[0]);
        second[..parts[1].len()].copy_from_slice(parts[1]);
        chunk.used += bytes;
        Position::new(number, at)
    }

    /// The value at a position, if it is here, belongs to another one.
    pub fn hand_over(&mut self, position: Position, owner: u64) {
        if let Some(at) = self.chunk(position) {
            put_u64(&mut self.chunks[at].bytes[position.offset()..], 0, owner);
        }
    }

    /// A value stays until the log is durable up to `lsn`. `false`: it is not here.
    pub fn pin(&mut self, position: Position, lsn: Lsn) -> bool {
        let Some(at) = self.chunk(position) else { return false };
        put_u64(&mut self.chunks[at].bytes[position.offset()..], LSN, lsn.0);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: usize = 4_096;

    /// What each slot holds.
    struct Slots(Vec<Position>);

    impl Owners for Slots {
        fn owns(&self, slot: u64, position: Position) -> bool {
            self.0[index(slot)] == position
        }

        fn moved(&mut self, slot: u64, position: Position) {
            self.0[index(slot)] = position;
        }
    }

    struct Bench {
        heap: Heap,
        cache: Cache,
        slots: Slots,
    }

    impl Bench {
        fn new(bytes_max: usize) -> Bench {
            let slots = Slots(vec![Position::NONE; 1_000]);
            Bench { heap: Heap::new(1 << 20), cache: Cache::new(CHUNK, bytes_max), slots }
        }

        fn put(&mut self, slot: u32, bytes: usize, lsn: Lsn, durable: Lsn) -> Result<(), Full> {
            self.cache.make_room(&mut self.heap, &mut self.slots, bytes, durable)?;
            let value = vec![slot.to_le_bytes()[0]; bytes];
            self.slots.0[slot as usize] = self.cache.insert(&mut self.heap, u64::from(slot), [&value, &[]], lsn);
            Ok(())
        }

        fn holds(&mut self, slot: u32, bytes: usize) -> bool {
            let value = self.cache.get(self.slots.0[slot as usize], bytes);
            value.is_some_and(|value| value.iter().all(|byte| *byte == slot.to_le_bytes()[0]))
        }
    }

    #[test]
    fn the_youngest_stay_and_those_that_are_asked_for() {
        let mut bench = Bench::new(8 * CHUNK);
        for slot in 0..1_000 {
            bench.put(slot, 100, Lsn(1), Lsn(1)).unwrap();
            assert!(bench.holds(0, 100), "asked for all the time, at {slot}");
        }
        assert!(bench.cache.bytes() <= 8 * CHUNK && bench.heap.used_bytes() == bench.cache.bytes() as u64);
        assert!((900..1_000).all(|slot| bench.holds(slot, 100)));
        assert!((1..100).all(|slot| !bench.holds(slot, 100)));
    }

    #[test]
    fn what_is_not_durable_stays() {
        let mut bench = Bench::new(4 * CHUNK);
        let refused = (0..1_000).find(|slot| bench.put(*slot, 500, Lsn(9), Lsn(8)).is_err()).unwrap();
        assert!((20..40).contains(&refused), "{refused}");
        assert_eq!(bench.put(refused, 500, Lsn(9), Lsn(8)), Err(Full::Now));
        assert!((0..refused).all(|slot| bench.holds(slot, 500)));
        bench.cache.make_room_over(&mut bench.heap, &mut bench.slots, 500, Lsn(8));
        assert!((0..refused).all(|slot| bench.holds(slot, 500)));
        // A look clears the marks of those that were asked for; then they go.
        assert!((0..8).any(|_| bench.put(refused, 500, Lsn(9), Lsn(9)).is_ok()));
    }

    #[test]
    fn large_values_and_small_ones_share_the_budget() {
        let mut bench = Bench::new(8 * CHUNK);
        for slot in 0..500 {
            let bytes = if slot % 5 == 0 { 3 * CHUNK } else { 300 };
            let mut tries = 0;
            while bench.put(slot, bytes, Lsn(1), Lsn(1)).is_err() {
                tries += 1;
                assert!(tries < 10, "slot {slot}");
            }
            assert!(bench.cache.bytes() <= 8 * CHUNK);
            assert!(bench.holds(slot, bytes));
        }
        assert_eq!(bench.put(1, 9 * CHUNK, Lsn(1), Lsn(1)), Err(Full::Never));
        while bench.cache.shrink(&mut bench.heap, &mut bench.slots, Lsn(1)) {}
        assert!(bench.cache.bytes() <= CHUNKS_MIN * CHUNK && bench.heap.used_bytes() == bench.cache.bytes() as u64);
    }

    #[test]
    fn a_value_of_the_same_room_is_written_in_place() {
        let mut bench = Bench::new(4 * CHUNK);
        bench.put(1, 100, Lsn(1), Lsn(1)).unwrap();
        let position = bench.slots.0[1];
        assert!(bench.cache.suits(position, 99) && bench.cache.overwrite(position, &[7; 99], Lsn(5)));
        assert_eq!(bench.cache.get(position, 99), Some(&[7; 99][..]));
        assert!(!bench.cache.suits(position, 90) && !bench.cache.overwrite(position, &[7; 200], Lsn(6)));
        // It is pinned by its new record.
        (2..300).for_each(|slot| _ = bench.put(slot, 100, Lsn(1), Lsn(4)));
        assert_eq!(bench.cache.get(bench.slots.0[1], 99), Some(&[7; 99][..]));
    }
}
