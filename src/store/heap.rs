//! Memory for keys and values: cells of size classes, cut from chunks, within a budget. A cell that is given back is
//! the next one taken of its class, so steady traffic allocates nothing. The index over them counts against the same
//! budget: see `charge`.

use crate::bytes::{get_u64, index, len_u32, put_u64};

const CHUNK_BYTES: usize = 1 << 20;
/// Larger cells get an allocation of their own.
const CELL_BYTES_MAX: usize = 64 << 10;
const CLASSES: usize = 44;
const LARGE: u64 = 0x3f;
const NO_CELL: u64 = (1 << Cell::BITS) - 1;
/// Of a chunk's number.
const CHUNK_BITS: u32 = 18;
/// Of an offset, in units of 16 B.
const OFFSET_BITS: u32 = 16;

/// A cell, by class (6 bits), chunk (18 bits) and offset (16 bits, in units of 16 B); a large one by its number. A copy
/// does not own it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell(u64);

impl Cell {
    /// No cell: for values without bytes.
    pub const NONE: Cell = Cell(NO_CELL);

    /// Bits that it takes.
    pub const BITS: u32 = 40;

    /// From what `bits` gave.
    pub fn from_bits(bits: u64) -> Cell {
        Cell(bits)
    }

    pub fn bits(self) -> u64 {
        self.0
    }

    fn new(class: u64, chunk: usize, offset: usize) -> Cell {
        Cell(class << (CHUNK_BITS + OFFSET_BITS) | (chunk as u64) << OFFSET_BITS | (offset as u64 / 16))
    }

    fn large(number: usize) -> Cell {
        Cell(LARGE << (CHUNK_BITS + OFFSET_BITS) | number as u64)
    }

    fn class(self) -> u64 {
        self.0 >> (CHUNK_BITS + OFFSET_BITS)
    }

    fn chunk(self) -> usize {
        index(self.0 >> OFFSET_BITS & ((1 << CHUNK_BITS) - 1))
    }

    fn offset(self) -> usize {
        index(self.0 & ((1 << OFFSET_BITS) - 1)) * 16
    }

    /// Of a large one.
    fn number(self) -> usize {
        index(self.0 & ((1 << (CHUNK_BITS + OFFSET_BITS)) - 1))
    }
}

/// The memory of one shard's store.
pub struct Heap {
    chunks: Vec<Box<[u8]>>,
    /// Where the newest chunk goes on.
    bump: usize,
    /// The first free cell of each class; each holds the next one in its first 8 bytes.
    free: [u64; CLASSES],
    large: Vec<Box<[u8]>>,
    large_free: Vec<u32>,
    used_bytes: u64,
    bytes_max: u64,
}

/// The class that holds `bytes`: steps of 16 up to 128, then four a doubling.
fn class_of(bytes: usize) -> usize {
    if bytes <= 128 {
        return bytes.max(1).div_ceil(16) - 1;
    }
    let log = (bytes - 1).ilog2() as usize; // 7 for 129..=256
    let step = 1 << (log - 2);
    8 + (log - 7) * 4 + (bytes - 1 - (1 << log)) / step
}

fn class_bytes(class: usize) -> usize {
    if class < 8 {
        return (class + 1) * 16;
    }
    let log = (class - 8) / 4 + 7;
    (1 << log) + ((class - 8) % 4 + 1) * (1 << (log - 2))
}

impl Heap {
    /// A heap that takes at most `bytes_max`, and nothing before it is needed.
    #[must_use]
    pub fn new(bytes_max: u64) -> Heap {
        Heap {
            chunks: Vec::new(),
            bump: CHUNK_BYTES,
            free: [NO_CELL; CLASSES],
            large: Vec::new(),
            large_free: Vec::new(),
            used_bytes: 0,
            bytes_max,
        }
    }

    /// A cell of at least `bytes`; `None` when the budget is used up.
    pub fn take(&mut self, bytes: usize) -> Option<Cell> {
        if bytes > CELL_BYTES_MAX {
            return self.take_large(bytes);
        }
        let class = class_of(bytes);
        let free = self.free[class];
        if free != NO_CELL {
            let cell = Cell(free);
            self.free[class] = get_u64(&self.chunks[cell.chunk()], cell.offset());
            return Some(cell);
        }
        let size = class_bytes(class);
        if self.bump + size > CHUNK_BYTES {
            let many = self.chunks.len() >> CHUNK_BITS > 0;
            if self.used_bytes + CHUNK_BYTES as u64 > self.bytes_max || many {
                return None;
            }
            self.chunks.push(vec![0; CHUNK_BYTES].into_boxed_slice());
            self.used_bytes += CHUNK_BYTES as u64;
            self.bump = 0;
        }
        let cell = Cell::new(class as u64, self.chunks.len() - 1, self.bump);
        self.bump += size;
        Some(cell)
    }

    fn take_large(&mut self, bytes: usize) -> Option<Cell> {
        if self.used_bytes + bytes as u64 > self.bytes_max {
            return None;
        }
        self.used_bytes += bytes as u64;
        let cell = vec![0; bytes].into_boxed_slice();
        let slot = match self.large_free.pop() {
            Some(slot) => {
                self.large[slot as usize] = cell;
                slot as usize
            }
            None => {
                self.large.push(cell);
                self.large.len() - 1
            }
        };
        Some(Cell::large(slot))
    }

    /// Gives a cell back. It must not be used afterwards.
    pub fn give(&mut self, cell: Cell) {
        if cell == Cell::NONE {
            return;
        }
        if cell.class() == LARGE {
            let bytes = std::mem::take(&mut self.large[cell.number()]);
            self.used_bytes -= bytes.len() as u64;
            self.large_free.push(len_u32(cell.number()));
            return;
        }
        let class = index(cell.class());
        put_u64(&mut self.chunks[cell.chunk()], cell.offset(), self.free[class]);
        self.free[class] = cell.0;
    }

    /// Counts memory beside the cells, such as an index. `false`, and nothing is counted, when the budget is used up.
    #[must_use]
    pub fn charge(&mut self, bytes: usize) -> bool {
        let fits = self.used_bytes + bytes as u64 <= self.bytes_max;
        self.used_bytes += if fits { bytes as u64 } else { 0 };
        fits
    }

    /// What is left of the budget.
    #[must_use]
    pub fn unused_bytes(&self) -> u64 {
        self.bytes_max.saturating_sub(self.used_bytes)
    }

    /// Counts memory whether the budget has it or not.
    pub fn charge_over(&mut self, bytes: usize) {
        self.used_bytes += bytes as u64;
    }

    /// What `charge` counted is free again.
    pub fn refund(&mut self, bytes: usize) {
        self.used_bytes -= bytes as u64;
    }

    /// Whether a cell holds `bytes` and is not wastefully large for them.
    #[must_use]
    pub fn suits(&self, cell: Cell, bytes: usize) -> bool {
        if cell == Cell::NONE {
            return false;
        }
        match cell.class() {
            LARGE => self.large[cell.number()].len() == bytes,
            class => bytes <= CELL_BYTES_MAX && class_of(bytes) as u64 == class,
        }
    }

    #[must_use]
    pub fn bytes(&self, cell: Cell, bytes: usize) -> &[u8] {
        if cell.class() == LARGE && cell != Cell::NONE {
            return &self.large[cell.number()][..bytes];
        }
        &self.chunks[cell.chunk()][cell.offset()..cell.offset() + bytes]
    }

    pub fn bytes_mut(&mut self, cell: Cell, bytes: usize) -> &mut [u8] {
        if cell.class() == LARGE {
            return &mut self.large[cell.number()][..bytes];
        }
        &mut self.chunks[cell.chunk()][cell.offset()..cell.offset() + bytes]
    }

    /// Memory taken from the system, and what was charged.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_the_smallest_class_that_holds_it() {
        for bytes in 1..=CELL_BYTES_MAX {
            let class = class_of(bytes);
            assert!(class < CLASSES, "{bytes} B would be class {class}");
            assert!(class_bytes(class) >= bytes, "{bytes} B in a cell of {}", class_bytes(class));
            assert!(class == 0 || class_bytes(class - 1) < bytes, "{bytes} B fit a smaller class");
        }
    }

    #[test]
    fn cells_do_not_overlap_and_come_back() {
        let mut heap = Heap::new(8 << 20);
        let mut cells = Vec::new();
        for number in 0..200_u8 {
            let bytes = usize::from(number) * 97 % 5_000 + 1;
            let cell = heap.take(bytes).unwrap();
            heap.bytes_mut(cell, bytes).fill(number);
            cells.push((cell, bytes, number));
        }
        for (cell, bytes, number) in &cells {
            assert!(heap.bytes(*cell, *bytes).iter().all(|byte| byte == number));
        }
        let used = heap.used_bytes();
        for (cell, ..) in &cells {
            heap.give(*cell);
        }
        for (_, bytes, _) in cells.iter().rev() {
            heap.take(*bytes).unwrap();
        }
        assert_eq!(heap.used_bytes(), used, "cells that came back are used again");
    }

    #[test]
    fn the_budget_holds() {
        let mut heap = Heap::new(2 << 20);
        let large = heap.take(1 << 20).unwrap();
        assert!(heap.take(1_500_000).is_none());
        assert!(heap.take(100).is_some());
        assert!(heap.take((1 << 20) + 1).is_none());
        heap.give(large);
        assert!(heap.take(1 << 20).is_some());
    }
}
