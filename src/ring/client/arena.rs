//! Who holds which bytes of the arena: private to the client, the daemon never looks here.

const BLOCK_BYTES_MIN: u64 = 64;

/// A block: a power of two of bytes, aligned to a cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub offset: u64,
    class: u32,
}

/// Power-of-two classes, each with a stack of free blocks, so that the warmest is taken first. New blocks come from
/// the untouched rest, and when none is out all of it is untouched again.
#[derive(Debug)]
pub(super) struct Arena {
    bytes: u64,
    untouched: u64,
    free: Vec<Vec<u64>>,
    out: usize,
}

impl Arena {
    pub fn new(bytes: u64) -> Arena {
        let classes = (bytes / BLOCK_BYTES_MIN).max(1).ilog2() as usize + 1;
        Arena { bytes, untouched: 0, free: vec![Vec::new(); classes], out: 0 }
    }

    /// The largest block that can ever be had.
    pub fn block_bytes_max(&self) -> u64 {
        // The classes end at the largest power of two that fits.
        1 << self.bytes.ilog2()
    }

    /// `None` when it has to wait for blocks that are out.
    pub fn take(&mut self, bytes: u64) -> Option<Block> {
        let class = class_of(bytes);
        let free = self.free.get_mut(class as usize)?;
        let offset = match free.pop() {
            Some(offset) => offset,
            None => self.touch(class)?,
        };
        self.out += 1;
        Some(Block { offset, class })
    }

    #[inline]
    pub fn give(&mut self, block: Block) {
        self.free[block.class as usize].push(block.offset);
        self.out -= 1;
    }

    fn touch(&mut self, class: u32) -> Option<u64> {
        if self.out == 0 && self.bytes - self.untouched < class_bytes(class) {
            self.free.iter_mut().for_each(Vec::clear);
            self.untouched = 0;
        }
        if self.bytes - self.untouched < class_bytes(class) {
            return None;
        }
        let offset = self.untouched;
        self.untouched += class_bytes(class);
        Some(offset)
    }
}

fn class_of(bytes: u64) -> u32 {
    bytes.div_ceil(BLOCK_BYTES_MIN).max(1).next_power_of_two().ilog2()
}

fn class_bytes(class: u32) -> u64 {
    BLOCK_BYTES_MIN << class
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_and_do_not_overlap() {
        let mut arena = Arena::new(1 << 16);
        let mut out: Vec<(Block, u64)> = Vec::new();
        let mut random = 1u64;
        for _ in 0..10_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let bytes = (random >> 33) % 5_000;
            if let Some(block) = arena.take(bytes) {
                assert!(block.offset.is_multiple_of(64) && block.offset + bytes <= 1 << 16);
                let apart = |(other, size): &(Block, u64)| {
                    block.offset + bytes <= other.offset || other.offset + size <= block.offset
                };
                assert!(out.iter().all(apart), "{block:?} overlaps");
                out.push((block, bytes.max(1)));
            }
            if out.len() > 12 {
                let place = usize::try_from(random >> 40).unwrap() % out.len();
                arena.give(out.swap_remove(place).0);
            }
        }
    }

    #[test]
    fn the_warmest_block_comes_first() {
        let mut arena = Arena::new(4_096);
        let (a, b) = (arena.take(100).unwrap(), arena.take(100).unwrap());
        arena.give(a);
        arena.give(b);
        assert_eq!(arena.take(100), Some(b));
    }

    #[test]
    fn a_full_arena_starts_anew_when_nothing_is_out() {
        let mut arena = Arena::new(4_096);
        let blocks: Vec<Block> = std::iter::from_fn(|| arena.take(64)).collect();
        assert_eq!(blocks.len(), 64);
        for block in &blocks[1..] {
            arena.give(*block);
        }
        assert_eq!(arena.take(4_096), None, "one block is still out");
        arena.give(blocks[0]);
        assert_eq!(arena.take(4_096).unwrap().offset, 0);
    }

    #[test]
    fn what_can_never_fit_is_known() {
        let mut arena = Arena::new(5 * 4_096);
        assert_eq!(arena.block_bytes_max(), 16_384);
        assert!(arena.take(16_385).is_none());
        assert!(arena.take(u64::MAX >> 1).is_none());
        assert!(arena.take(16_384).is_some());
    }
}
