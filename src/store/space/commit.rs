//! What a commit does to keys: it takes the memory of all of them before it writes the first.

use crate::bytes::len_u32;
use crate::store::heap::Heap;
use crate::store::space::entry::Said;
use crate::store::space::{Home, KEY_OVERHEAD_BYTES, Spaces, cell_bytes};
use crate::types::{Lsn, ObjectId};

/// What a put takes of the heap.
pub struct Needs {
    /// Of a cell, unless it has one.
    pub cell_bytes: Option<usize>,
    /// 1 for a key that is not there yet.
    pub keys: usize,
    /// Of the index: for its key, or for what a snapshot sees of it.
    pub index_bytes: usize,
}

impl Spaces {
    /// What a put of such a value takes of the heap.
    pub fn needs(&self, heap: &Heap, object: ObjectId, key: &[u8], value_bytes: usize, home: Home) -> Needs {
        let bytes = cell_bytes(key, value_bytes, home, None);
        match self.find(heap, self.hash(object, key), object, key) {
            Some(slot) => {
                let seen = self.is_seen(slot);
                let suits = !seen && heap.suits(self.entries[slot as usize].cell(), bytes);
                let index_bytes = if seen { KEY_OVERHEAD_BYTES } else { 0 };
                Needs { cell_bytes: (!suits).then_some(bytes), keys: 0, index_bytes }
            }
            None => Needs { cell_bytes: Some(bytes), keys: 1, index_bytes: KEY_OVERHEAD_BYTES },
        }
    }

    /// Whether so many keys more may come.
    pub fn has_room_for(&self, keys: usize) -> bool {
        self.table.len() + keys <= self.keys_max
    }

    /// Keeps room for so many keys that are to come, if there is.
    pub fn expect_keys(&mut self, keys: usize) -> bool {
        let fits = self.has_room_for(keys);
        self.keys_max -= if fits { keys } else { 0 };
        fits
    }

    pub fn expect_no_more(&mut self, keys: usize) {
        self.keys_max += keys;
    }

    /// Makes the key of a put that a commit says. The memory is there: see `needs`. What it held is kept here, where a
    /// snapshot sees it, and once only: so it has its new version from now on.
    pub fn put_key(
        &mut self,
        heap: &mut Heap,
        object: ObjectId,
        key: &[u8],
        value_bytes: usize,
        home: Home,
        version: u64,
    ) {
        let found = self.find(heap, self.hash(object, key), object, key);
        let bytes = cell_bytes(key, value_bytes, home, None);
        let slot = self.place(heap, found, object, key, bytes).expect("the memory was there a moment ago");
        self.entries[slot as usize].version = version;
    }

    /// Gives it its value, if no delete of the commit took it away again.
    pub fn put_value(&mut self, heap: &mut Heap, object: ObjectId, key: &[u8], value: &[u8], said: Said, durable: Lsn) {
        let Some(slot) = self.find(heap, self.hash(object, key), object, key) else { return };
        if said.lsn != Lsn::NONE && !self.suits(slot, value.len()) {
            self.cache.make_room_over(heap, &mut self.entries, value.len(), durable);
        }
        self.set(heap, slot, Some(value), len_u32(value.len()), said);
    }
}
