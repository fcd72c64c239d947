//! A hash table of slot numbers that is never larger than its keys need, and never stops to grow: it moves to a table
//! of twice the size a few slots at a time. A table that were made for the most keys at once would spread a few
//! thousand keys over megabytes, and cost every look-up two more misses of the cache.

use hashbrown::HashTable;

const CAPACITY_MIN: usize = 64;
/// Slots moved with each insertion: the move is done long before the new table is full.
const MOVED_MAX: u32 = 16;

pub struct Table {
    table: HashTable<u32>,
    old: Option<Old>,
}

/// The table before, while its slots move over in the order of their numbers.
struct Old {
    table: HashTable<u32>,
    next: u32,
    end: u32,
}

impl Table {
    pub fn new() -> Table {
        Table { table: HashTable::with_capacity(CAPACITY_MIN), old: None }
    }

    pub fn len(&self) -> usize {
        self.table.len() + self.old.as_ref().map_or(0, |old| old.table.len())
    }

    #[inline]
    pub fn find(&self, hash: u64, mut matches: impl FnMut(&u32) -> bool) -> Option<u32> {
        let found = self.table.find(hash, &mut matches);
        match (found, &self.old) {
            (None, Some(old)) => old.table.find(hash, matches).copied(),
            _ => found.copied(),
        }
    }

    /// Inserts a slot that is not there. `hashes` gives the hash of every slot, the new one included; there are `slots`.
    pub fn insert(&mut self, slot: u32, slots: u32, hashes: impl Fn(u32) -> u64) {
        self.move_over(&hashes);
        if self.table.len() == self.table.capacity() {
            while self.old.is_some() {
                self.move_over(&hashes);
            }
            let larger = HashTable::with_capacity(self.table.capacity() * 2);
            self.old = Some(Old { table: std::mem::replace(&mut self.table, larger), next: 0, end: slots });
        }
        self.table.insert_unique(hashes(slot), slot, |slot| hashes(*slot));
    }

    pub fn remove(&mut self, hash: u64, slot: u32) {
        let in_old = self.old.as_mut().is_some_and(|old| take(&mut old.table, hash, slot));
        if !in_old {
            take(&mut self.table, hash, slot);
        }
    }

    fn move_over(&mut self, hashes: &impl Fn(u32) -> u64) {
        let Some(old) = &mut self.old else { return };
        let end = old.end.min(old.next + MOVED_MAX);
        for slot in old.next..end {
            // A slot that is free, or was taken since, is not in the old table.
            if take(&mut old.table, hashes(slot), slot) {
                self.table.insert_unique(hashes(slot), slot, |slot| hashes(*slot));
            }
        }
        old.next = end;
        if end == old.end {
            debug_assert!(old.table.is_empty(), "every slot had its turn");
            self.old = None;
        }
    }
}

fn take(table: &mut HashTable<u32>, hash: u64, slot: u32) -> bool {
    table.find_entry(hash, |other| *other == slot).map(|found| found.remove()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(slot: u32) -> u64 {
        u64::from(slot).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    #[test]
    fn every_slot_is_found_at_every_step_of_growth() {
        let mut table = Table::new();
        let mut gone = Vec::new();
        for slot in 0..20_000 {
            table.insert(slot, slot + 1, hash);
            if slot % 7 == 3 {
                table.remove(hash(slot / 2), slot / 2);
                gone.push(slot / 2);
            }
            for probe in [0, slot / 3, (slot / 2 + 1).min(slot), slot] {
                let found = table.find(hash(probe), |other| *other == probe).is_some();
                assert_eq!(found, !gone.contains(&probe), "slot {probe} after {slot}");
            }
        }
        gone.sort_unstable();
        gone.dedup();
        assert_eq!(table.len(), 20_000 - gone.len());
    }

    #[test]
    fn a_slot_that_was_freed_and_taken_again_while_the_table_moves_is_there_once() {
        let mut table = Table::new();
        for slot in 0..5_000 {
            table.insert(slot, slot + 1, hash);
            let again = slot / 2;
            table.remove(hash(again), again);
            table.insert(again, slot + 1, hash);
        }
        assert_eq!(table.len(), 5_000);
        table.remove(hash(4_000), 4_000);
        assert_eq!(table.find(hash(4_000), |other| *other == 4_000), None);
    }
}
