//! Keys with a time to live. Each is in the wheel through a node in its own cell; one whose time is over is absent from that
//! moment on, and then removed: a record says so, and gives back its memory and its room in the log.

use crate::buffer::Pool;
use crate::bytes::{get_u64, put_u64};
use crate::store::heap::Heap;
use crate::store::space::entry::{Entry, Until};
use crate::store::space::wheel::{NODE_BYTES, Node, Nodes, Step};
use crate::store::space::{Spaces, Store};
use crate::types::{Lsn, ObjectId};
use crate::wal::pool::Writer;
use crate::wal::record::{Kind, Record};
use crate::wal::{Room, Wal};

/// What one call looks at of the wheel: some 30 us when each is a key that is over.
const STEPS_MAX: usize = 64;

/// What a key with a time to live takes more: its node, and the moment as the log says it.
pub const TIMED_BYTES: usize = NODE_BYTES + 8;

/// What came of a look at the keys with a time to live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired {
    /// Keys that were removed.
    pub keys: u64,
    pub rest: Rest,
}

/// What is left of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// All that was over is gone.
    Done,
    /// There is more to do.
    More,
    /// The log has no room now, or a commit over several shards holds the key that is next.
    Blocked,
}

/// The nodes in the cells of their keys.
struct Cells<'a> {
    heap: &'a mut Heap,
    entries: &'a [Entry],
}

impl Nodes for Cells<'_> {
    fn node(&self, slot: u32) -> Node {
        node_of(&self.entries[slot as usize], self.heap)
    }

    fn set_node(&mut self, slot: u32, node: Node) {
        let entry = &self.entries[slot as usize];
        let at = entry.key_bytes();
        node.write(&mut self.heap.bytes_mut(entry.cell(), at + NODE_BYTES)[at..]);
    }
}

fn node_of(entry: &Entry, heap: &Heap) -> Node {
    let at = entry.key_bytes();
    Node::read(&heap.bytes(entry.cell(), at + NODE_BYTES)[at..])
}

/// Whether the time of a key that has one is over.
#[cold]
pub fn is_over(entry: &Entry, heap: &Heap, lived_ms: u64) -> bool {
    node_of(entry, heap).at_ms <= lived_ms
}

/// Until when a key that has a time to live holds, by the wall clock as the log says it.
#[cold]
pub fn until_ms(entry: &Entry, heap: &Heap) -> u64 {
    let at = entry.key_bytes() + NODE_BYTES;
    get_u64(heap.bytes(entry.cell(), at + 8), at)
}

impl Spaces {
    /// Keys with a time to live.
    pub fn timed(&self) -> usize {
        self.wheel.len()
    }

    /// Gives a key a time to live, or takes it away. Its cell has the room.
    #[cold]
    pub(super) fn set_until(&mut self, heap: &mut Heap, slot: u32, until: Option<Until>) {
        let before_bytes = self.entries[slot as usize].logged_bytes();
        if self.entries[slot as usize].is_timed() {
            self.wheel.remove(&mut Cells { heap, entries: &self.entries }, slot);
        }
        self.entries[slot as usize].set_timed(until.is_some());
        if let Some(Until { lived_ms, logged_ms }) = until {
            self.wheel.insert(&mut Cells { heap, entries: &self.entries }, slot, lived_ms);
            let entry = &self.entries[slot as usize];
            let at = entry.key_bytes() + NODE_BYTES;
            put_u64(heap.bytes_mut(entry.cell(), at + 8), at, logged_ms);
        }
        let entry = &self.entries[slot as usize];
        let (object, after_bytes) = (entry.object(), entry.logged_bytes());
        self.live_bytes = self.live_bytes - before_bytes + after_bytes;
        let ordered = self.ordered(object);
        ordered.live_bytes = ordered.live_bytes - before_bytes + after_bytes;
    }

    /// Whether the time of a key that has one is over.
    pub(super) fn is_over(&self, heap: &Heap, slot: u32, lived_ms: u64) -> bool {
        is_over(&self.entries[slot as usize], heap, lived_ms)
    }

    /// Whether its time, if it has one, was over at that moment.
    pub fn was_over(&self, heap: &Heap, slot: u32, lived_ms: u64) -> bool {
        self.entries[slot as usize].is_timed() && self.is_over(heap, slot, lived_ms)
    }

    /// Until when a key holds, where it has a time to live.
    pub fn until_of(&self, heap: &Heap, object: ObjectId, key: &[u8]) -> Option<Until> {
        self.until(heap, self.find(heap, self.hash(object, key), object, key))
    }

    /// Until when a key holds.
    pub(super) fn until(&self, heap: &Heap, found: Option<u32>) -> Option<Until> {
        let entry = &self.entries[found? as usize];
        entry.is_timed().then(|| Until { lived_ms: node_of(entry, heap).at_ms, logged_ms: until_ms(entry, heap) })
    }

    /// Removes a key as the log says, if it holds the version that the record names.
    pub fn remove_version(&mut self, heap: &mut Heap, record: &Record<'_>) {
        let Record { object, key, version, lsn, .. } = *record;
        let found = self.find(heap, self.hash(object, key), object, key);
        if let Some(slot) = found.filter(|slot| self.entries[*slot as usize].version == version) {
            self.remove_slot(heap, slot);
        }
        self.note_removed(object, lsn);
    }
}

impl Store {
    /// Removes keys whose time is over, a bounded number of them.
    pub fn expire(&mut self, wal: &mut Wal, pool: &mut Pool, now_ns: u64, lived_ms: u64) -> Expired {
        let mut keys = 0;
        for _ in 0..STEPS_MAX {
            let Spaces { wheel, entries, .. } = &mut self.spaces;
            match wheel.step(&mut Cells { heap: &mut self.heap, entries }, lived_ms) {
                None => return Expired { keys, rest: Rest::Done },
                Some(Step::Filed) => {}
                Some(Step::Over(slot)) if self.expire_slot(wal, pool, now_ns, slot) => keys += 1,
                Some(Step::Over(_)) => return Expired { keys, rest: Rest::Blocked },
            }
        }
        Expired { keys, rest: Rest::More }
    }

    /// Removes one key, and says so in the log where the log says that it is there. `false`: the log has no room, or a commit
    /// over several shards holds the key.
    fn expire_slot(&mut self, wal: &mut Wal, pool: &mut Pool, now_ns: u64, slot: u32) -> bool {
        let entry = &self.spaces.entries[slot as usize];
        let (object, key) = (entry.object(), entry.key(&self.heap));
        if !self.across.locks.is_empty() && self.outlives(object, key, node_of(entry, &self.heap).at_ms) {
            return false;
        }
        let mut lsn = Lsn::NONE;
        if entry.is_logged() {
            // It makes room, as a delete does.
            if wal.room(pool, key.len(), 0, Writer::Privileged) != Room::Yes {
                return false;
            }
            lsn = wal.append(pool, now_ns, Kind::Expire, object, entry.version, key, &[]);
        }
        self.spaces.remove_slot(&mut self.heap, slot);
        self.spaces.note_removed(object, lsn);
        true
    }

    /// When a key may be over, at the earliest.
    #[must_use]
    pub fn expires_ms(&self) -> Option<u64> {
        self.spaces.wheel.next_ms()
    }
}
