//! Spaces: keys to values. A hash table finds, an ordered map scans; both name entries of one slab. The value of a
//! logged key is on the drive, and in memory for a while: until it is durable, and as long as it is asked for.

mod checkpoint;
mod commit;
mod entry;
mod expiry;
mod kept;
mod pages;
mod scan;
#[cfg(test)]
mod tests;
mod wheel;

use std::hash::BuildHasher;

use crate::bytes::{index, len_u16, len_u32};
use crate::ring::protocol::{Completion, Status, TTL_MS_MAX};
use crate::store::cache::{Cache, Full, Owners, Position};
use crate::store::heap::Heap;
use crate::store::order::Order;
use crate::store::table::Table;
use crate::store::{Context, Mode, Outcome, Reply, Request, Store};
use crate::types::{DeviceAddress, Lsn, ObjectId};
use crate::wal::planted::Planted;
use crate::wal::pool::Writer;
use crate::wal::record::{Kind, Record, UNTIL_BYTES};

use entry::Entry;
pub use entry::{Said, Until};
use expiry::TIMED_BYTES;
pub use expiry::{Expired, Rest};
use kept::Kept;
pub use kept::{Snapshot, View};
pub use pages::PagesRead;
use wheel::Wheel;

/// What a key takes in the index beside its cell, at most about: its place in the slab (40 B) and in the list of free ones
/// (4 B), in a hash table that just grew (12 B), and in a half-full block of the order (8 B).
const KEY_OVERHEAD_BYTES: usize = 64;

impl Owners for Vec<Entry> {
    fn owns(&self, slot: u64, position: Position) -> bool {
        self[index(slot)].cached() == position
    }

    fn moved(&mut self, slot: u64, position: Position) {
        self[index(slot)].set_cached(position);
    }
}

/// What becomes of a value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// Behind its key: it stands nowhere else.
    Cell,
    Cache,
}

#[derive(Default)]
struct Ordered {
    order: Order,
    /// The last change of any key here, which a scan may have seen.
    changed_lsn: Lsn,
    /// The last delete here, which an absent key may be due to.
    deleted_lsn: Lsn,
    keys: u64,
    live_bytes: u64,
    /// The versions here that only snapshots see.
    kept: Order,
}

pub struct Spaces {
    table: Table,
    entries: Vec<Entry>,
    free: Vec<u32>,
    ordered: Vec<Ordered>,
    hasher: foldhash::fast::RandomState,
    /// Less those that are promised: see `expect_keys`.
    keys_max: usize,
    live_bytes: u64,
    cache: Cache,
    /// The keys with a time to live.
    wheel: Wheel,
    pub kept: Kept,
    /// During a replay: the last record that came from the drive.
    recovered_lsn: Lsn,
}

impl Spaces {
    /// The slab's room for `keys_max` keys, and for the versions that are kept for snapshots, is reserved at once, so that no
    /// write ever waits for it to move.
    pub fn new(keys_max: usize, snapshots_max: usize, kept_bytes_max: u64, cache: Cache) -> Spaces {
        Spaces {
            table: Table::new(),
            entries: Vec::with_capacity(keys_max + Kept::versions_max(kept_bytes_max)),
            free: Vec::new(),
            ordered: Vec::new(),
            hasher: foldhash::fast::RandomState::default(),
            keys_max,
            live_bytes: 0,
            cache,
            wheel: Wheel::new(),
            kept: Kept::new(kept_bytes_max, snapshots_max),
            recovered_lsn: Lsn::NONE,
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
        (entry.version == version && entry.is_logged()).then_some(entry.lsn())
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Keys of one space, and what their records take in the log, about.
    pub fn of_space(&self, object: ObjectId) -> (u64, u64) {
        self.ordered.get(object.index()).map_or((0, 0), |ordered| (ordered.keys, ordered.live_bytes))
    }

    // A call of its own costs a get more than a time to live does.
    #[inline(always)]
    pub fn hash(&self, object: ObjectId, key: &[u8]) -> u64 {
        self.hasher.hash_one((object.0, key))
    }

    fn find(&self, heap: &Heap, hash: u64, object: ObjectId, key: &[u8]) -> Option<u32> {
        let matches = |slot: &u32| {
            let entry = &self.entries[*slot as usize];
            entry.object() == object && entry.key(heap) == key
        };
        self.table.find(hash, matches)
    }

    fn ordered(&mut self, object: ObjectId) -> &mut Ordered {
        if self.ordered.len() <= object.index() {
            self.ordered.resize_with(object.index() + 1, Ordered::default);
        }
        &mut self.ordered[object.index()]
    }

    /// Whether the log says a key, also one whose time is over.
    pub fn is_logged(&self, heap: &Heap, object: ObjectId, key: &[u8]) -> bool {
        let found = || self.find(heap, self.hash(object, key), object, key);
        !self.is_unlogged(object) && found().is_some_and(|slot| self.entries[slot as usize].is_logged())
    }

    /// Whether nothing in this space was ever logged.
    fn is_unlogged(&self, object: ObjectId) -> bool {
        self.ordered.get(object.index()).is_none_or(|ordered| ordered.changed_lsn == Lsn::NONE)
    }

    pub(super) fn deleted_lsn(&self, object: ObjectId) -> Lsn {
        self.ordered.get(object.index()).map_or(Lsn::NONE, |ordered| ordered.deleted_lsn)
    }

    /// Makes room in the cache for a value, so that `set` finds it.
    pub fn make_room(&mut self, heap: &mut Heap, value_bytes: usize, durable: Lsn) -> Result<(), Full> {
        self.cache.make_room(heap, &mut self.entries, value_bytes, durable)
    }

    /// Gives memory of the cache back. `false`: none can be given now.
    pub fn shrink(&mut self, heap: &mut Heap, durable: Lsn) -> bool {
        self.cache.shrink(heap, &mut self.entries, durable)
    }

    /// The same, during a replay.
    pub fn shrink_recovered(&mut self, heap: &mut Heap) -> bool {
        self.shrink(heap, self.recovered_lsn)
    }

    /// Whether there are as many keys as there may be.
    fn is_full(&self) -> bool {
        self.table.len() >= self.keys_max
    }

    /// Whether the cache has the room of this key's value for another of this size.
    fn suits(&self, slot: u32, value_bytes: usize) -> bool {
        !self.is_seen(slot) && self.cache.suits(self.entries[slot as usize].cached(), value_bytes)
    }

    /// Memory of the cache.
    pub fn cache_bytes(&self) -> u64 {
        self.cache.bytes() as u64
    }

    /// Makes a key, or finds it in `found`: gives its slot, its cell of so many bytes, the value not yet written. A time to
    /// live that it had may be gone.
    fn place(
        &mut self,
        heap: &mut Heap,
        found: Option<u32>,
        object: ObjectId,
        key: &[u8],
        bytes: usize,
    ) -> Result<u32, Status> {
        if let Some(slot) = found {
            let cell = self.entries[slot as usize].cell();
            let seen = self.is_seen(slot);
            if seen || !heap.suits(cell, bytes) {
                let new = heap.take(bytes).ok_or(Status::NoMemory)?;
                if !(seen && self.keep_overwritten(heap, slot)) {
                    self.set_until(heap, slot, None);
                    heap.give(cell);
                }
                heap.bytes_mut(new, key.len()).copy_from_slice(key);
                self.entries[slot as usize].set_cell(new);
            }
            return Ok(slot);
        }
        let cell = heap.take(bytes).ok_or(Status::NoMemory)?;
        if !heap.charge(KEY_OVERHEAD_BYTES) {
            heap.give(cell);
            return Err(Status::NoMemory);
        }
        heap.bytes_mut(cell, key.len()).copy_from_slice(key);
        let mut entry = Entry::new(object, len_u16(key.len()));
        entry.set_cell(cell);
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
        self.ordered(object);
        let Spaces { entries, table, ordered, hasher, .. } = self;
        let hash = |slot: u32| {
            let entry = &entries[slot as usize];
            hasher.hash_one((entry.object().0, entry.key(heap)))
        };
        table.insert(slot, len_u32(entries.len()), hash);
        ordered[object.index()].order.insert(slot, |other| entries[other as usize].key(heap).cmp(key));
        ordered[object.index()].keys += 1;
        Ok(slot)
    }

    /// Gives a key its value. `make_room` said yes, unless the value is behind its key or on the drive alone (`None`).
    fn set(&mut self, heap: &mut Heap, slot: u32, value: Option<&[u8]>, value_bytes: u32, said: Said) {
        let lsn = said.lsn;
        if said.until.is_some() || self.entries[slot as usize].is_timed() {
            self.set_until(heap, slot, said.until);
        }
        let entry = &mut self.entries[slot as usize];
        let before = entry.logged_bytes();
        entry.set(value_bytes, said);
        let after = entry.logged_bytes();
        self.live_bytes = self.live_bytes - before + after;
        let ordered = &mut self.ordered[entry.object().index()];
        ordered.live_bytes = ordered.live_bytes - before + after;
        let head_bytes = entry.head_bytes();
        match value {
            Some(value) if lsn == Lsn::NONE => {
                heap.bytes_mut(entry.cell(), head_bytes + value.len())[head_bytes..].copy_from_slice(value);
                entry.set_cached(Position::NONE);
            }
            Some(value) if self.cache.overwrite(entry.cached(), value, lsn) => {}
            Some(value) => entry.set_cached(self.cache.insert(heap, u64::from(slot), [value, &[]], lsn)),
            None => entry.set_cached(Position::NONE),
        }
        let object = entry.object();
        let ordered = self.ordered(object);
        ordered.changed_lsn = ordered.changed_lsn.max(lsn);
    }

    /// Puts a value as the log says. Only what the flight recorder alone holds has to be in memory.
    pub fn replay(
        &mut self,
        heap: &mut Heap,
        object: ObjectId,
        key: &[u8],
        value: &[u8],
        said: Said,
    ) -> Result<(), Status> {
        let Said { lsn, place, .. } = said;
        let on_drive = place != DeviceAddress::NONE;
        if on_drive {
            self.recovered_lsn = lsn;
        }
        let durable = self.recovered_lsn;
        let held = |entry: &Entry| entry.version == said.version && entry.place() != DeviceAddress::NONE;
        let slot = loop {
            let found = self.find(heap, self.hash(object, key), object, key);
            if !on_drive && found.is_some_and(|slot| held(&self.entries[slot as usize])) {
                // A copy that the flight recorder alone holds changes nothing until it is written.
                return Ok(());
            }
            if found.is_none() && self.is_full() {
                return Err(Status::NoMemory);
            }
            match self.place(heap, found, object, key, cell_bytes(key, value.len(), Home::Cache, said.until)) {
                Ok(slot) => break slot,
                Err(status) if !self.shrink(heap, durable) => return Err(status),
                Err(_) => {}
            }
        };
        let home = if !on_drive {
            self.cache.make_room_over(heap, &mut self.entries, value.len(), durable);
            Some(value)
        } else {
            self.make_room(heap, value.len(), durable).is_ok().then_some(value)
        };
        self.set(heap, slot, home, len_u32(value.len()), said);
        Ok(())
    }

    /// The key of a slot, when it still holds this version.
    pub fn key_of<'a>(&self, heap: &'a Heap, slot: u32, version: u64) -> Option<&'a [u8]> {
        let entry = self.entries.get(slot as usize)?;
        (entry.version == version).then(|| entry.key(heap))
    }

    /// The record of what a key holds stands at another place.
    pub fn moved(&mut self, heap: &mut Heap, record: &Record<'_>, place: DeviceAddress, lsn: Lsn, durable: Lsn) {
        let Record { object, key, version, value, .. } = *record;
        let Some(slot) = self.find_version(heap, object, key, version) else { return };
        let entry = &mut self.entries[slot as usize];
        if !entry.is_logged() {
            return;
        }
        entry.set_place(place);
        // Until it is durable there it cannot be read. A commit may put a key more than once: the last one stays.
        if !self.cache.overwrite(entry.cached(), value, lsn) {
            self.cache.make_room_over(heap, &mut self.entries, value.len(), durable);
            let position = self.cache.insert(heap, u64::from(slot), [value, &[]], lsn);
            self.entries[slot as usize].set_cached(position);
        }
    }

    /// Takes a value that was read from the drive into the cache, when it is still what the key holds.
    pub fn keep(&mut self, heap: &mut Heap, slot: u32, version: u64, value: &[u8], durable: Lsn) {
        let entry = &self.entries[slot as usize];
        let absent = entry.version == version && entry.is_logged() && !self.cache.suits(entry.cached(), value.len());
        if absent && self.make_room(heap, value.len(), durable).is_ok() {
            // Its record has been durable for long.
            let position = self.cache.insert(heap, u64::from(slot), [value, &[]], Lsn::NONE);
            self.entries[slot as usize].set_cached(position);
        }
    }

    /// Removes a key, if it is there.
    pub fn remove(&mut self, heap: &mut Heap, object: ObjectId, key: &[u8], lsn: Lsn) {
        if let Some(slot) = self.find(heap, self.hash(object, key), object, key) {
            self.remove_slot(heap, slot);
        }
        self.note_removed(object, lsn);
    }

    fn remove_slot(&mut self, heap: &mut Heap, slot: u32) {
        let is_timed = self.entries[slot as usize].is_timed();
        if is_timed {
            self.set_until(heap, slot, None);
        }
        let entry = self.entries[slot as usize];
        let (object, key) = (entry.object(), entry.key(heap));
        self.table.remove(self.hash(object, key), slot);
        let Spaces { entries, ordered, .. } = self;
        let own = &mut ordered[object.index()];
        own.order.remove(|other| entries[other as usize].key(heap).cmp(key));
        own.keys -= 1;
        own.live_bytes -= entry.logged_bytes();
        self.live_bytes -= entry.logged_bytes();
        if self.is_seen(slot) && self.keep_removed(heap, slot, is_timed) {
            return;
        }
        self.entries[slot as usize] = Entry::default();
        heap.give(entry.cell());
        heap.refund(KEY_OVERHEAD_BYTES);
        self.free.push(slot);
    }

    /// A key of this object was removed, as a record of this LSN says.
    fn note_removed(&mut self, object: ObjectId, lsn: Lsn) {
        let ordered = self.ordered(object);
        ordered.changed_lsn = ordered.changed_lsn.max(lsn);
        ordered.deleted_lsn = ordered.deleted_lsn.max(lsn);
    }
}

/// Bytes of a key's cell.
fn cell_bytes(key: &[u8], value_bytes: usize, home: Home, until: Option<Until>) -> usize {
    let node_bytes = if until.is_some() { TIMED_BYTES } else { 0 };
    key.len() + node_bytes + if home == Home::Cell { value_bytes } else { 0 }
}

impl Store {
    /// The entry's version and LSN, or those of an absent key. One whose time is over is absent since the record that set it.
    pub(super) fn present(&self, context: &Context<'_>, object: ObjectId, key: &[u8]) -> (u64, Lsn) {
        let hash = self.spaces.hash(object, key);
        match self.spaces.find(&self.heap, hash, object, key) {
            Some(slot) => {
                let entry = &self.spaces.entries[slot as usize];
                let over = entry.is_timed() && self.spaces.is_over(&self.heap, slot, context.lived_ms());
                (if over { 0 } else { entry.version }, entry.lsn())
            }
            None => (0, self.spaces.deleted_lsn(object)),
        }
    }

    /// What is logged of a key stays so: also a write that promises nothing is logged then.
    pub(super) fn logs(&self, request: &Request<'_>, mode: Mode) -> Mode {
        let logged = mode.logged || self.spaces.is_logged(&self.heap, mode.object, request.key);
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
        if !self.across.locks.is_empty() && self.is_locked(context, mode.object, key, true) {
            return Outcome::Later;
        }
        let ttl_ms = request.ttl_ms();
        if ttl_ms.is_some_and(|ttl_ms| !(1..=TTL_MS_MAX).contains(&ttl_ms)) {
            return Outcome::status(Status::BadRequest);
        }
        if let Some(expected) = request.if_version() {
            let (version, lsn) = self.present(context, mode.object, key);
            if version != expected {
                return Outcome::version(Status::VersionMismatch, version, mode.visible_after(context.wal, lsn));
            }
        }
        let mode = self.logs(request, mode);
        let until_bytes = if ttl_ms.is_some() { UNTIL_BYTES } else { 0 };
        if let Some(refused) = mode.refused(context, key.len() + until_bytes, value.len(), Writer::Ordinary) {
            return refused;
        }
        let found = self.spaces.find(&self.heap, self.spaces.hash(mode.object, key), mode.object, key);
        if found.is_none() && self.spaces.is_full() {
            return Outcome::status(Status::NoMemory);
        }
        let home = if mode.logged { Home::Cache } else { Home::Cell };
        if home == Home::Cache
            && !found.is_some_and(|slot| self.spaces.suits(slot, value.len()))
            && let Err(full) = self.spaces.make_room(&mut self.heap, value.len(), context.wal.readable_lsn())
        {
            // What waits to be durable goes out when somebody wants it.
            return self.no_cache(full);
        }
        let until = match ttl_ms {
            Some(ttl_ms) => {
                let logged_ms = context.wall.wall_ms(context.now_ns) + ttl_ms;
                Some(Until { lived_ms: context.lived_ms() + ttl_ms, logged_ms })
            }
            None if context.wal.planted().is(Planted::KeepUntil) => self.spaces.until(&self.heap, found),
            None => None,
        };
        let bytes = cell_bytes(key, value.len(), home, until);
        let slot = match self.spaces.place(&mut self.heap, found, mode.object, key, bytes) {
            Ok(slot) => slot,
            Err(status) => return self.no_memory(context.wal, status),
        };
        let version = self.next_version();
        let (lsn, after) = match ttl_ms {
            Some(ttl_ms) => mode.log_until(context, version, key, ttl_ms, value),
            None => mode.log(context, Kind::Put, version, key, value),
        };
        let said = Said { version, lsn, place: context.wal.last_place(), in_commit: false, until };
        self.spaces.set(&mut self.heap, slot, Some(value), len_u32(value.len()), said);
        let completion = Completion { version, lsn: lsn.0, ..Completion::default() };
        Outcome::Answer { completion, after }
    }

    pub(super) fn delete(&mut self, context: &mut Context<'_>, request: &Request<'_>, mode: Mode) -> Outcome {
        if !self.across.locks.is_empty() && self.is_locked(context, mode.object, request.key, true) {
            return Outcome::Later;
        }
        let (version, lsn) = self.present(context, mode.object, request.key);
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
        let entry = self.spaces.entries[slot as usize];
        let after = mode.visible_after(context.wal, entry.lsn());
        if entry.is_timed() && self.spaces.is_over(&self.heap, slot, context.lived_ms()) {
            return Outcome::version(Status::NotFound, 0, after);
        }
        self.get_slot(context, slot, after, reply)
    }

    /// Answers with what a slot holds.
    #[inline(always)]
    pub(super) fn get_slot<R: Reply>(
        &mut self,
        context: &mut Context<'_>,
        slot: u32,
        after: Lsn,
        reply: &mut R,
    ) -> Outcome {
        let entry = self.spaces.entries[slot as usize];
        let fits = reply.fits(entry.value_bytes() as usize);
        if fits {
            let value = entry.value(slot, &self.heap, &mut self.spaces.cache, context.fetched);
            let Some(value) = value else { return Outcome::Fetch(entry.want(slot)) };
            reply.push(&[value]);
        }
        let status = if fits { Status::Ok } else { Status::ReplyTooSmall };
        let completion = Completion {
            status: status as u16,
            version: entry.version,
            aux: u64::from(entry.value_bytes()),
            reply_bytes: len_u32(reply.bytes()),
            ..Completion::default()
        };
        Outcome::Answer { completion, after }
    }
}
