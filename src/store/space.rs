//! Spaces: keys to values. A hash table finds, an ordered map scans; both name entries of one slab.

use std::collections::BTreeMap;
use std::hash::BuildHasher;
use std::ops::Bound;

use crate::bytes::{len_u16, len_u32};
use crate::ring::protocol::{AUX_MORE, Completion, Status, flag};
use crate::store::heap::{Cell, Heap};
use crate::store::table::Table;
use crate::store::{Context, Mode, Outcome, Reply, Request, Store};
use crate::types::{Lsn, ObjectId};
use crate::wal::pool::Writer;
use crate::wal::record::{self, Kind};

/// A scan's reply is bounded by this, so that one request does not hold up the others.
const SCAN_BYTES_MAX: usize = 1 << 20;

/// What a key takes in the index beside its own bytes, about: its place in the slab and in the list of free ones (52 B),
/// in the hash table (16 B) and in a half-full node of the ordered map (44 B), and an allocation's header (16 B).
const KEY_OVERHEAD_BYTES: usize = 128;

/// One key with its value: the cell holds the key, then the value.
#[derive(Clone, Copy)]
struct Entry {
    cell: Cell,
    version: u64,
    lsn: Lsn,
    hash: u64,
    object: ObjectId,
    value_bytes: u32,
    key_bytes: u16,
}

impl Entry {
    /// What its record takes in the log, padding aside; nothing where it is not logged.
    fn logged_bytes(&self) -> u64 {
        let bytes = record::HEADER_BYTES as u64 + u64::from(self.key_bytes) + u64::from(self.value_bytes);
        if self.lsn == Lsn::NONE { 0 } else { bytes }
    }
}

#[derive(Default)]
struct Ordered {
    keys: BTreeMap<Box<[u8]>, u32>,
    /// The last change of any key here, which a scan may have seen.
    changed_lsn: Lsn,
    /// The last delete here, which an absent key may be due to.
    deleted_lsn: Lsn,
}

pub struct Spaces {
    table: Table,
    entries: Vec<Entry>,
    free: Vec<u32>,
    ordered: Vec<Ordered>,
    hasher: foldhash::fast::RandomState,
    keys_max: usize,
    live_bytes: u64,
}

impl Spaces {
    /// The slab's room for `keys_max` keys is reserved at once, so that no write ever waits for it to move.
    pub fn new(keys_max: usize) -> Spaces {
        Spaces {
            table: Table::new(),
            entries: Vec::with_capacity(keys_max),
            free: Vec::new(),
            ordered: Vec::new(),
            hasher: foldhash::fast::RandomState::default(),
            keys_max,
            live_bytes: 0,
        }
    }

    /// What the records of these keys take in the log, about.
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Where the log says it, when a put of this version is what a key holds.
    pub fn holds(&self, heap: &Heap, object: ObjectId, key: &[u8], version: u64) -> Option<Lsn> {
        let slot = self.find(heap, self.hash(object, key), object, key)?;
        let entry = &self.entries[slot as usize];
        (entry.version == version && entry.lsn != Lsn::NONE).then_some(entry.lsn)
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    fn hash(&self, object: ObjectId, key: &[u8]) -> u64 {
        self.hasher.hash_one((object.0, key))
    }

    fn find(&self, heap: &Heap, hash: u64, object: ObjectId, key: &[u8]) -> Option<u32> {
        let matches = |slot: &u32| {
            let entry = &self.entries[*slot as usize];
            entry.hash == hash && entry.object == object && heap.bytes(entry.cell, usize::from(entry.key_bytes)) == key
        };
        self.table.find(hash, matches)
    }

    fn ordered(&mut self, object: ObjectId) -> &mut Ordered {
        if self.ordered.len() <= object.index() {
            self.ordered.resize_with(object.index() + 1, Ordered::default);
        }
        &mut self.ordered[object.index()]
    }

    /// Whether nothing in this space was ever logged.
    fn is_unlogged(&self, object: ObjectId) -> bool {
        self.ordered.get(object.index()).is_none_or(|ordered| ordered.changed_lsn == Lsn::NONE)
    }

    fn deleted_lsn(&self, object: ObjectId) -> Lsn {
        self.ordered.get(object.index()).map_or(Lsn::NONE, |ordered| ordered.deleted_lsn)
    }

    /// Makes room for a value: gives the slot of the key, its cell large enough, its bytes not yet written.
    fn place(&mut self, heap: &mut Heap, object: ObjectId, key: &[u8], value_bytes: usize) -> Result<u32, Status> {
        let hash = self.hash(object, key);
        let bytes = key.len() + value_bytes;
        if let Some(slot) = self.find(heap, hash, object, key) {
            let cell = self.entries[slot as usize].cell;
            if !heap.suits(cell, bytes) {
                let new = heap.take(bytes).ok_or(Status::NoMemory)?;
                heap.give(cell);
                heap.bytes_mut(new, key.len()).copy_from_slice(key);
                self.entries[slot as usize].cell = new;
            }
            return Ok(slot);
        }
        if self.table.len() >= self.keys_max {
            return Err(Status::NoMemory);
        }
        let cell = heap.take(bytes).ok_or(Status::NoMemory)?;
        if !heap.charge(KEY_OVERHEAD_BYTES + key.len()) {
            heap.give(cell);
            return Err(Status::NoMemory);
        }
        heap.bytes_mut(cell, key.len()).copy_from_slice(key);
        let key_bytes = len_u16(key.len());
        let entry = Entry { cell, version: 0, lsn: Lsn::NONE, hash, object, value_bytes: 0, key_bytes };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = entry;
                slot
            }
            None => {
                self.entries.push(entry);
                len_u32(self.entries.len() - 1)
            }
        };
        let entries = &self.entries;
        self.table.insert(slot, len_u32(entries.len()), |slot| entries[slot as usize].hash);
        self.ordered(object).keys.insert(key.into(), slot);
        Ok(slot)
    }

    fn set(&mut self, heap: &mut Heap, slot: u32, value: &[u8], version: u64, lsn: Lsn) {
        let entry = &mut self.entries[slot as usize];
        let key_bytes = usize::from(entry.key_bytes);
        heap.bytes_mut(entry.cell, key_bytes + value.len())[key_bytes..].copy_from_slice(value);
        self.live_bytes -= entry.logged_bytes();
        (entry.value_bytes, entry.version, entry.lsn) = (len_u32(value.len()), version, lsn);
        self.live_bytes += entry.logged_bytes();
        let object = entry.object;
        let ordered = self.ordered(object);
        ordered.changed_lsn = ordered.changed_lsn.max(lsn);
    }

    /// What a put of such a value takes of the heap: a cell of so many bytes, and so many of the index for a new key.
    pub fn needs(
        &self,
        heap: &Heap,
        object: ObjectId,
        key: &[u8],
        value_bytes: usize,
    ) -> (Option<usize>, Option<usize>) {
        let bytes = key.len() + value_bytes;
        match self.find(heap, self.hash(object, key), object, key) {
            Some(slot) => ((!heap.suits(self.entries[slot as usize].cell, bytes)).then_some(bytes), None),
            None => (Some(bytes), Some(KEY_OVERHEAD_BYTES + key.len())),
        }
    }

    /// Whether so many keys more may come.
    pub fn has_room_for(&self, keys: usize) -> bool {
        self.table.len() + keys <= self.keys_max
    }

    /// Puts a value as the log says.
    pub fn put(
        &mut self,
        heap: &mut Heap,
        object: ObjectId,
        key: &[u8],
        value: &[u8],
        version: u64,
        lsn: Lsn,
    ) -> Result<(), Status> {
        let slot = self.place(heap, object, key, value.len())?;
        self.set(heap, slot, value, version, lsn);
        Ok(())
    }

    /// Removes a key, if it is there.
    pub fn remove(&mut self, heap: &mut Heap, object: ObjectId, key: &[u8], lsn: Lsn) {
        let hash = self.hash(object, key);
        if let Some(slot) = self.find(heap, hash, object, key) {
            self.table.remove(hash, slot);
            self.live_bytes -= self.entries[slot as usize].logged_bytes();
            heap.give(self.entries[slot as usize].cell);
            heap.refund(KEY_OVERHEAD_BYTES + key.len());
            self.free.push(slot);
            self.ordered(object).keys.remove(key);
        }
        let ordered = self.ordered(object);
        ordered.changed_lsn = ordered.changed_lsn.max(lsn);
        ordered.deleted_lsn = ordered.deleted_lsn.max(lsn);
    }
}

impl Store {
    /// The entry's version and LSN, or those of an absent key.
    pub(super) fn present(&self, request: &Request<'_>, mode: Mode) -> (u64, Lsn) {
        let hash = self.spaces.hash(mode.object, request.key);
        match self.spaces.find(&self.heap, hash, mode.object, request.key) {
            Some(slot) => {
                let entry = &self.spaces.entries[slot as usize];
                (entry.version, entry.lsn)
            }
            None => (0, self.spaces.deleted_lsn(mode.object)),
        }
    }

    /// What is logged of a key stays so: also a write that promises nothing is logged then.
    pub(super) fn logs(&self, request: &Request<'_>, mode: Mode) -> Mode {
        let logged = mode.logged
            || !self.spaces.is_unlogged(mode.object) && {
                let (version, lsn) = self.present(request, mode);
                version != 0 && lsn != Lsn::NONE
            };
        Mode { logged, ..mode }
    }

    pub(super) fn put(&mut self, context: &mut Context<'_>, request: &Request<'_>, mode: Mode) -> Outcome {
        let (key, value) = (request.key, request.value);
        if key.is_empty() {
            return Outcome::status(Status::BadRequest);
        }
        if key.len() > self.limits.key_bytes_max || value.len() > self.limits.value_bytes_max {
            return Outcome::status(Status::TooLarge);
        }
        if let Some(expected) = request.if_version() {
            let (version, lsn) = self.present(request, mode);
            if version != expected {
                return Outcome::version(Status::VersionMismatch, version, mode.visible_after(context.wal, lsn));
            }
        }
        let mode = self.logs(request, mode);
        if let Some(refused) = mode.refused(context, key.len(), value.len(), Writer::Ordinary) {
            return refused;
        }
        let slot = match self.spaces.place(&mut self.heap, mode.object, key, value.len()) {
            Ok(slot) => slot,
            Err(status) => return self.no_memory(status),
        };
        let version = self.next_version();
        let (lsn, after) = mode.log(context, Kind::Put, version, key, value);
        self.spaces.set(&mut self.heap, slot, value, version, lsn);
        let completion = Completion { version, lsn: lsn.0, ..Completion::default() };
        Outcome::Answer { completion, after }
    }

    pub(super) fn delete(&mut self, context: &mut Context<'_>, request: &Request<'_>, mode: Mode) -> Outcome {
        let (version, lsn) = self.present(request, mode);
        if request.if_version().is_some_and(|expected| expected != version) {
            return Outcome::version(Status::VersionMismatch, version, mode.visible_after(context.wal, lsn));
        }
        if version == 0 {
            return Outcome::version(Status::NotFound, 0, mode.visible_after(context.wal, lsn));
        }
        let mode = Mode { logged: mode.logged || lsn != Lsn::NONE, ..mode };
        if let Some(refused) = mode.refused(context, request.key.len(), 0, Writer::Privileged) {
            return refused;
        }
        let version = self.next_version();
        let (lsn, after) = mode.log(context, Kind::Delete, version, request.key, &[]);
        self.spaces.remove(&mut self.heap, mode.object, request.key, lsn);
        let completion = Completion { version, lsn: lsn.0, ..Completion::default() };
        Outcome::Answer { completion, after }
    }

    pub(super) fn get<R: Reply>(
        &mut self,
        context: &mut Context<'_>,
        request: &Request<'_>,
        mode: Mode,
        reply: &mut R,
    ) -> Outcome {
        let hash = self.spaces.hash(mode.object, request.key);
        let Some(slot) = self.spaces.find(&self.heap, hash, mode.object, request.key) else {
            let lsn = self.spaces.deleted_lsn(mode.object);
            return Outcome::version(Status::NotFound, 0, mode.visible_after(context.wal, lsn));
        };
        let entry = &self.spaces.entries[slot as usize];
        let (key_bytes, value_bytes) = (usize::from(entry.key_bytes), entry.value_bytes as usize);
        let after = mode.visible_after(context.wal, entry.lsn);
        let fits = reply.push(&[&self.heap.bytes(entry.cell, key_bytes + value_bytes)[key_bytes..]]);
        let status = if fits { Status::Ok } else { Status::ReplyTooSmall };
        let completion = Completion {
            status: status as u16,
            version: entry.version,
            aux: u64::from(entry.value_bytes),
            reply_bytes: len_u32(reply.bytes()),
            ..Completion::default()
        };
        Outcome::Answer { completion, after }
    }

    pub(super) fn scan<R: Reply>(
        &mut self,
        context: &mut Context<'_>,
        request: &Request<'_>,
        mode: Mode,
        reply: &mut R,
    ) -> Outcome {
        let Some(ordered) = self.spaces.ordered.get(mode.object.index()) else {
            return Outcome::status(Status::Ok);
        };
        let after = mode.visible_after(context.wal, ordered.changed_lsn);
        let is_prefix = request.submission.flags & flag::PREFIX != 0;
        let begin = match (is_prefix, request.value.is_empty()) {
            (true, false) => Bound::Excluded(request.value),
            _ => Bound::Included(request.key),
        };
        let limit = if request.submission.arg0 == 0 { u64::MAX } else { request.submission.arg0 };
        let (mut pairs, mut more, mut needed) = (0, false, 0);
        for (key, slot) in ordered.keys.range::<[u8], _>((begin, Bound::Unbounded)) {
            let ended = if is_prefix {
                !key.starts_with(request.key)
            } else {
                !request.value.is_empty() && **key >= *request.value
            };
            if ended {
                break;
            }
            if pairs == limit || reply.bytes() >= SCAN_BYTES_MAX {
                more = true;
                break;
            }
            let entry = &self.spaces.entries[*slot as usize];
            let bytes = usize::from(entry.key_bytes) + entry.value_bytes as usize;
            let header = [
                &entry.key_bytes.to_le_bytes()[..],
                &[0, 0],
                &entry.value_bytes.to_le_bytes(),
                &entry.version.to_le_bytes(),
                self.heap.bytes(entry.cell, bytes),
            ];
            if !reply.push(&header) {
                more = true;
                needed = bytes as u64 + 16;
                break;
            }
            pairs += 1;
        }
        if pairs == 0 && more {
            let status = Status::ReplyTooSmall as u16;
            return Outcome::Answer { completion: Completion { status, aux: needed, ..Completion::default() }, after };
        }
        let aux = pairs | if more { AUX_MORE } else { 0 };
        let completion = Completion { aux, reply_bytes: len_u32(reply.bytes()), ..Completion::default() };
        Outcome::Answer { completion, after }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_counts_against_the_budget() {
        const BUDGET_BYTES: u64 = 4 << 20;
        let mut heap = Heap::new(BUDGET_BYTES);
        let mut spaces = Spaces::new(1_000_000);
        let put = |spaces: &mut Spaces, heap: &mut Heap, number: u32| {
            spaces.put(heap, ObjectId(1), &number.to_le_bytes(), &[], u64::from(number), Lsn::NONE)
        };
        let refused = (0..).find(|number| put(&mut spaces, &mut heap, *number).is_err()).unwrap();
        let each = (KEY_OVERHEAD_BYTES + 4) as u64;
        assert!(u64::from(refused) * each <= BUDGET_BYTES && u64::from(refused) * each > BUDGET_BYTES / 2);
        let (full, kept) = (heap.used_bytes(), refused / 2);
        (kept..refused).for_each(|number| spaces.remove(&mut heap, ObjectId(1), &number.to_le_bytes(), Lsn::NONE));
        assert_eq!(heap.used_bytes(), full - u64::from(refused - kept) * each);
        (kept..refused).for_each(|number| put(&mut spaces, &mut heap, number).unwrap());
        assert!(put(&mut spaces, &mut heap, refused).is_err());
    }
}
