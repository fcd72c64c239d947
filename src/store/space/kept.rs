//! Versions that only snapshots still see. When a key is written over or removed, and the newest snapshot sees what it
//! held, its entry moves to a slot of its own, with its cell and its place on the drive: so it is read as any other.
//!
//! They hold no room in the log. Before a segment is given up, the values in it that only snapshots see come into memory
//! (`rescue`). So all that they cost is memory, within a bound: beyond it the oldest snapshot is given up.

use crate::bytes::{index, len_u32};
use crate::ring::protocol::KEY_BYTES_MAX;
use crate::store::cache::Position;
use crate::store::heap::Heap;
use crate::store::space::entry::{Entry, Said};
use crate::store::space::expiry::TIMED_BYTES;
use crate::store::space::{KEY_OVERHEAD_BYTES, Spaces};
use crate::types::{DeviceAddress, Lsn, ObjectId};

/// Versions that one call lets go, or looks at: some 30 us.
const SWEEP_MAX: usize = 256;
const NO_SLOT: u32 = u32::MAX;

/// What a snapshot sees of one shard.
#[derive(Clone, Copy)]
pub struct View {
    pub version: u64,
    /// All that it sees has this LSN or one before.
    pub lsn: Lsn,
    /// What keys with a time to live went by when it was taken.
    pub lived_ms: u64,
}

/// A snapshot of one shard.
pub struct Snapshot {
    pub id: u64,
    pub view: View,
    /// The first event and the next offset of each stream.
    pub extents: Vec<(u64, u64)>,
}

/// A version of a key, in its own slot.
#[derive(Clone, Copy)]
struct Version {
    slot: u32,
    /// The last snapshot that may see it, by its version.
    last: u64,
}

/// The snapshots of one shard, and what only they see.
pub struct Kept {
    all: Vec<Version>,
    free: Vec<u32>,
    bytes: u64,
    bytes_max: u64,
    /// Oldest first.
    open: Vec<Snapshot>,
    /// Versions before this one are seen by the newest snapshot. 0: there is none.
    before: u64,
    /// Where the search for what nobody sees any more goes on.
    sweep: Option<usize>,
    given_up: u64,
}

impl Kept {
    pub fn new(bytes_max: u64, snapshots_max: usize) -> Kept {
        let open = Vec::with_capacity(snapshots_max);
        Kept { all: Vec::new(), free: Vec::new(), bytes: 0, bytes_max, open, before: 0, sweep: None, given_up: 0 }
    }

    /// So many versions at most.
    pub fn versions_max(bytes_max: u64) -> usize {
        index(bytes_max / KEY_OVERHEAD_BYTES as u64)
    }

    /// Versions that are kept.
    pub fn len(&self) -> usize {
        self.all.len() - self.free.len()
    }

    /// Memory that they take.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Snapshots that were given up since the start.
    pub fn given_up(&self) -> u64 {
        self.given_up
    }

    /// Opens a snapshot, which is newer than all others.
    pub fn open(&mut self, snapshot: Snapshot) {
        self.before = snapshot.view.version + 1;
        self.open.push(snapshot);
    }

    pub fn find(&self, id: u64) -> Option<&Snapshot> {
        self.open.iter().find(|snapshot| snapshot.id == id)
    }

    /// Ends a snapshot, if it is there. What only it saw is let go by `sweep`.
    pub fn end(&mut self, id: u64) {
        self.open.retain(|snapshot| snapshot.id != id);
        self.ended();
    }

    #[cold]
    fn give_up_oldest(&mut self) {
        if !self.open.is_empty() {
            self.open.remove(0);
            self.given_up += 1;
            self.ended();
        }
    }

    fn ended(&mut self) {
        self.before = self.open.last().map_or(0, |newest| newest.view.version + 1);
        self.sweep = (!self.all.is_empty()).then_some(0);
    }

    /// Makes room for so many bytes more. While what was given up is still being let go, it may take twice what it should.
    fn make_way(&mut self, bytes: usize) {
        let needed = self.bytes + bytes as u64;
        if needed > self.bytes_max && self.sweep.is_none() {
            self.give_up_oldest();
        }
        while needed > 2 * self.bytes_max && !self.open.is_empty() {
            self.give_up_oldest();
        }
    }

    /// Memory is needed for something else. `false`: none can be given.
    pub fn yield_memory(&mut self) -> bool {
        if self.sweep.is_none() && self.len() > 0 {
            self.give_up_oldest();
        }
        self.sweep.is_some()
    }

    fn is_seen(&self, version: u64, last: u64) -> bool {
        self.open.iter().any(|snapshot| (version..=last).contains(&snapshot.view.version))
    }

    pub fn slot(&self, number: u32) -> u32 {
        self.all[number as usize].slot
    }

    /// The last snapshot that may see this version.
    pub fn last(&self, number: u32) -> u64 {
        self.all[number as usize].last
    }

    fn add(&mut self, slot: u32) -> u32 {
        let version = Version { slot, last: self.before - 1 };
        if let Some(number) = self.free.pop() {
            self.all[number as usize] = version;
            return number;
        }
        self.all.push(version);
        len_u32(self.all.len() - 1)
    }
}

/// Memory that a kept version takes.
fn bytes_of(entry: &Entry) -> usize {
    let value_bytes = if entry.is_logged() { 0 } else { entry.value_bytes() as usize };
    KEY_OVERHEAD_BYTES + entry.head_bytes() + value_bytes
}

impl Spaces {
    /// Whether a snapshot sees what this slot holds.
    #[inline]
    pub(super) fn is_seen(&self, slot: u32) -> bool {
        self.entries[slot as usize].version < self.kept.before
    }

    /// What a key holds, that is about to be written over, moves to another slot with its cell. `false`: no snapshot sees it
    /// any more.
    #[cold]
    pub(super) fn keep_overwritten(&mut self, heap: &mut Heap, slot: u32) -> bool {
        self.kept.make_way(bytes_of(&self.entries[slot as usize]));
        if self.free.is_empty() && self.entries.len() == self.entries.capacity() {
            // To move the slab would stop the reactor.
            (0..self.kept.open.len()).for_each(|_| self.kept.give_up_oldest());
        }
        if !self.is_seen(slot) {
            return false;
        }
        let old = self.entries[slot as usize];
        // The cell keeps the moment when it is over, though the wheel forgets it.
        self.set_until(heap, slot, None);
        self.entries[slot as usize].set_cached(Position::NONE);
        let new = match self.free.pop() {
            Some(new) => new,
            None => {
                self.entries.push(Entry::default());
                len_u32(self.entries.len() - 1)
            }
        };
        self.entries[new as usize] = old;
        self.cache.hand_over(old.cached(), u64::from(new));
        heap.charge_over(KEY_OVERHEAD_BYTES);
        self.note_kept(heap, new);
        true
    }

    /// What a key held, that is in the index no more, stays in its slot. `false`: no snapshot sees it any more.
    #[cold]
    pub(super) fn keep_removed(&mut self, heap: &Heap, slot: u32, is_timed: bool) -> bool {
        self.entries[slot as usize].set_timed(is_timed);
        self.kept.make_way(bytes_of(&self.entries[slot as usize]));
        let seen = self.is_seen(slot);
        if seen {
            self.note_kept(heap, slot);
        }
        seen
    }

    fn note_kept(&mut self, heap: &Heap, slot: u32) {
        let Spaces { entries, ordered, kept, .. } = self;
        let entry = &entries[slot as usize];
        let (number, own) = (kept.add(slot), (entry.key(heap), entry.version));
        kept.bytes += bytes_of(entry) as u64;
        ordered[entry.object().index()].kept.insert(number, |other| {
            let other = &entries[kept.slot(other) as usize];
            (other.key(heap), other.version).cmp(&own)
        });
    }

    /// The slot that holds what a key held at this version.
    pub fn find_at(&self, heap: &Heap, object: ObjectId, key: &[u8], version: u64) -> Option<u32> {
        let current = self.find(heap, self.hash(object, key), object, key);
        current.filter(|slot| self.entries[*slot as usize].version <= version).or_else(|| {
            let seen = |number: &u32| {
                let entry = &self.entries[self.kept.slot(*number) as usize];
                (entry.version..=self.kept.last(*number)).contains(&version)
            };
            self.kept_of(heap, object, key).find(seen).map(|number| self.kept.slot(number))
        })
    }

    /// Of the record that says what a slot holds.
    pub fn lsn_of(&self, slot: u32) -> Lsn {
        self.entries[slot as usize].lsn()
    }

    /// The slot that holds this version of a key, whoever sees it.
    pub(super) fn find_version(&self, heap: &Heap, object: ObjectId, key: &[u8], version: u64) -> Option<u32> {
        let is_it = |slot: &u32| self.entries[*slot as usize].version == version;
        let current = self.find(heap, self.hash(object, key), object, key);
        current
            .filter(is_it)
            .or_else(|| self.find_kept(heap, object, key, version).map(|number| self.kept.slot(number)))
    }

    fn find_kept(&self, heap: &Heap, object: ObjectId, key: &[u8], version: u64) -> Option<u32> {
        let is_it = |number: &u32| self.entries[self.kept.slot(*number) as usize].version == version;
        self.kept_of(heap, object, key).find(is_it)
    }

    /// The versions that are kept of a key: no more than there were snapshots.
    fn kept_of(&self, heap: &Heap, object: ObjectId, key: &[u8]) -> impl Iterator<Item = u32> {
        let key_of = |number: u32| self.entries[self.kept.slot(number) as usize].key(heap);
        let ordered = self.ordered.get(object.index()).filter(|_| self.kept.len() > 0);
        let from = ordered.map(|ordered| ordered.kept.from(move |number| key_of(number) < key));
        from.into_iter().flatten().take_while(move |number| key_of(*number) == key)
    }

    /// The record of this value is about to go: if only snapshots see it, it stays in memory.
    pub fn rescue(&mut self, heap: &mut Heap, object: ObjectId, key: &[u8], version: u64, value: &[u8]) {
        let Some(number) = self.find_kept(heap, object, key, version) else { return };
        let slot = self.kept.slot(number);
        let entry = self.entries[slot as usize];
        if !entry.is_logged() || !self.kept.is_seen(version, self.kept.last(number)) {
            return;
        }
        self.kept.make_way(value.len());
        let head_bytes = entry.head_bytes();
        let Some(cell) = heap.take(head_bytes + value.len()) else {
            // Whoever sees it is told that it is gone.
            (0..self.kept.open.len()).for_each(|_| self.kept.give_up_oldest());
            return;
        };
        let mut head = [0; KEY_BYTES_MAX + TIMED_BYTES];
        head[..head_bytes].copy_from_slice(heap.bytes(entry.cell(), head_bytes));
        let (own, rest) = heap.bytes_mut(cell, head_bytes + value.len()).split_at_mut(head_bytes);
        own.copy_from_slice(&head[..head_bytes]);
        rest.copy_from_slice(value);
        heap.give(entry.cell());
        let own = &mut self.entries[slot as usize];
        own.set_cell(cell);
        own.set_cached(Position::NONE);
        let (lsn, place) = (Lsn::NONE, DeviceAddress::NONE);
        own.set(entry.value_bytes(), Said { version, lsn, place, in_commit: false, until: None });
        self.kept.bytes += value.len() as u64;
    }

    /// Lets go what no snapshot sees any more: looks at a bounded part of it. Says whether there was any.
    #[inline]
    pub fn sweep(&mut self, heap: &mut Heap) -> bool {
        self.kept.sweep.is_some_and(|at| {
            self.sweep_from(heap, at);
            true
        })
    }

    #[cold]
    fn sweep_from(&mut self, heap: &mut Heap, at: usize) {
        let end = (at + SWEEP_MAX).min(self.kept.all.len());
        for number in at..end {
            let Version { slot, last } = self.kept.all[number];
            if slot != NO_SLOT && !self.kept.is_seen(self.entries[slot as usize].version, last) {
                self.let_go(heap, len_u32(number), slot);
            }
        }
        self.kept.sweep = Some(end).filter(|end| *end < self.kept.all.len());
        if self.kept.len() == 0 {
            (self.kept.all, self.kept.free, self.kept.sweep) = (Vec::new(), Vec::new(), None);
        }
    }

    fn let_go(&mut self, heap: &mut Heap, number: u32, slot: u32) {
        let Spaces { entries, ordered, kept, .. } = self;
        let entry = entries[slot as usize];
        let own = (entry.key(heap), entry.version);
        ordered[entry.object().index()].kept.remove(|other| {
            let other = &entries[kept.slot(other) as usize];
            (other.key(heap), other.version).cmp(&own)
        });
        kept.bytes -= bytes_of(&entry) as u64;
        kept.all[number as usize].slot = NO_SLOT;
        kept.free.push(number);
        entries[slot as usize] = Entry::default();
        heap.give(entry.cell());
        heap.refund(KEY_OVERHEAD_BYTES);
        self.free.push(slot);
    }
}
