//! Spaces in a checkpoint: see `store::checkpoint`.

use std::ops::Bound;

use crate::ring::protocol::Status;
use crate::store::heap::Heap;
use crate::store::space::entry::Said;
use crate::store::space::{Home, Spaces, cell_bytes, scan};
use crate::types::ObjectId;

impl Spaces {
    pub fn objects(&self) -> usize {
        self.ordered.len()
    }

    /// The slots of a space from a key on, in the order of their keys.
    pub fn logged_from<'a>(
        &'a self,
        heap: &'a Heap,
        object: ObjectId,
        begin: Bound<&'a [u8]>,
    ) -> impl Iterator<Item = (u32, &'a [u8])> {
        let order = self.ordered.get(object.index()).map(|ordered| &ordered.order);
        let key = |slot: u32| self.entries[slot as usize].key(heap);
        let slots = order.into_iter().flat_map(move |order| order.from(move |slot| scan::is_before(key(slot), begin)));
        slots.map(move |slot| (slot, key(slot)))
    }

    /// What says the value of a slot, and its bytes; `None` where nothing is logged.
    pub fn said(&self, heap: &Heap, slot: u32) -> Option<(u32, Said)> {
        let entry = &self.entries[slot as usize];
        entry.is_logged().then(|| (entry.value_bytes(), entry.said(self.until(heap, Some(slot)))))
    }

    /// Puts a key as a checkpoint says, unless it holds that version or a later one.
    pub fn replay_place(
        &mut self,
        heap: &mut Heap,
        object: ObjectId,
        key: &[u8],
        value_bytes: u32,
        said: Said,
    ) -> Result<(), Status> {
        let found = self.find(heap, self.hash(object, key), object, key);
        if found.is_some_and(|slot| self.entries[slot as usize].version >= said.version) {
            return Ok(());
        }
        if found.is_none() && self.is_full() {
            return Err(Status::NoMemory);
        }
        let slot = loop {
            match self.place(heap, found, object, key, cell_bytes(key, 0, Home::Cache, said.until_ms)) {
                Ok(slot) => break slot,
                Err(status) if !self.shrink(heap, self.recovered_lsn) => return Err(status),
                Err(_) => {}
            }
        };
        self.set(heap, slot, None, value_bytes, said);
        Ok(())
    }
}
