//! Slots in the order of their keys, 4 bytes each: sorted blocks in a sorted list. The keys stand elsewhere, so whoever asks
//! compares. To insert moves at most a block, and now and then the list, which is short.

use std::cmp::Ordering;

/// Slots of one block; a full one is cut in two.
const BLOCK_SLOTS: usize = 512;

#[derive(Default)]
pub struct Order {
    /// None is empty.
    blocks: Vec<Vec<u32>>,
}

impl Order {
    /// Inserts a slot that is not there. `compare`: how another one's key stands to this one's.
    pub fn insert(&mut self, slot: u32, compare: impl Fn(u32) -> Ordering) {
        let (block, at) = self.find(|other| compare(other) == Ordering::Less);
        let Some(slots) = self.blocks.get_mut(block) else {
            self.blocks.push(new_block(&[slot]));
            return;
        };
        if slots.len() < BLOCK_SLOTS {
            slots.insert(at, slot);
            return;
        }
        // Keys that come in their order fill block after block.
        let middle = if at == BLOCK_SLOTS { at } else { BLOCK_SLOTS / 2 };
        let mut upper = new_block(&slots[middle..]);
        slots.truncate(middle);
        if at >= middle {
            upper.insert(at - middle, slot)
        } else {
            slots.insert(at, slot)
        }
        self.blocks.insert(block + 1, upper);
    }

    /// Removes the slot whose key compares equal, if it is there.
    pub fn remove(&mut self, compare: impl Fn(u32) -> Ordering) {
        let (block, at) = self.find(|other| compare(other) == Ordering::Less);
        // Behind the last one of a block the next one begins.
        for (block, at) in [(block, at), (block + 1, 0)] {
            let slot = self.blocks.get(block).and_then(|slots| slots.get(at));
            if slot.is_some_and(|slot| compare(*slot) == Ordering::Equal) {
                self.blocks[block].remove(at);
                if self.blocks[block].is_empty() {
                    self.blocks.remove(block);
                }
                return;
            }
        }
    }

    /// The slots from the first on that is not `before`, in order. Those that are before stand at the front.
    pub fn from(&self, before: impl Fn(u32) -> bool) -> impl Iterator<Item = u32> {
        let (block, at) = self.find(before);
        let rest = self.blocks.get(block).map_or(&[][..], |slots| &slots[at..]);
        rest.iter().chain(self.blocks.iter().skip(block + 1).flatten()).copied()
    }

    /// The block, and the place in it, behind the last slot that is `before`; in the first block if none is.
    fn find(&self, before: impl Fn(u32) -> bool) -> (usize, usize) {
        let block = self.blocks.partition_point(|slots| before(slots[0])).saturating_sub(1);
        let at = self.blocks.get(block).map_or(0, |slots| slots.partition_point(|slot| before(*slot)));
        (block, at)
    }
}

fn new_block(slots: &[u32]) -> Vec<u32> {
    let mut block = Vec::with_capacity(BLOCK_SLOTS);
    block.extend_from_slice(slots);
    block
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn it_is_what_a_sorted_set_is() {
        let (mut order, mut set) = (Order::default(), BTreeSet::new());
        let mut number = 1_u32;
        for step in 0..60_000_u32 {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // The slot is its own key. First in their order, then in none, then fewer again.
            let slot = if step < 10_000 { step * 7 } else { (number >> 8) % 70_000 };
            let remove = step > 10_000 && number % 5 < if step > 40_000 { 4 } else { 1 };
            if remove {
                order.remove(|other| other.cmp(&slot));
                set.remove(&slot);
            } else if set.insert(slot) {
                order.insert(slot, |other| other.cmp(&slot));
            }
            if step % 997 == 0 {
                assert!(order.from(|other| other < slot).eq(set.range(slot..).copied()), "from {slot} at {step}");
                assert!(order.from(|other| other <= slot).take(9).eq(set.range(slot + 1..).copied().take(9)));
            }
        }
        assert!(order.from(|_| false).eq(set.iter().copied()));
        set.iter().for_each(|slot| order.remove(|other| other.cmp(slot)));
        assert_eq!(order.from(|_| false).count(), 0);
    }

    #[test]
    fn keys_in_their_order_fill_their_blocks() {
        let mut order = Order::default();
        (0..100_000_u32).for_each(|slot| order.insert(slot, |other| other.cmp(&slot)));
        assert_eq!(order.blocks.len(), 100_000_usize.div_ceil(BLOCK_SLOTS));
    }
}
