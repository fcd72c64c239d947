//! Short locks of the commits that are under way over several shards. Nobody waits for one and holds another: who meets a
//! lock stays in its ring, or the commit is refused. So there is no deadlock.

use hashbrown::HashMap;

/// Keys locked in one shard at once.
const KEYS_MAX: usize = 1 << 14;

/// With room for so many, which the first one makes, the table does not grow as locks come and go.
const KEYS_AT_FIRST: usize = 1 << 10;

/// Who holds a key.
#[derive(Clone, Copy, Default)]
pub struct Held {
    readers: u32,
    pub writer: bool,
    /// Since when it is held without a break, by the time that keys with a time to live go by.
    pub since_ms: u64,
}

/// The locked keys of one shard, by their hashes. Two keys of one hash share their lock, which does no harm.
#[derive(Default)]
pub struct Locks {
    held: HashMap<u64, Held, foldhash::fast::RandomState>,
}

impl Locks {
    /// Whether no commit over several shards is under way here: all that an ordinary request looks at.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    pub fn has_room(&self, keys: usize) -> bool {
        self.held.len() + keys <= KEYS_MAX
    }

    /// Who holds a key, if somebody does: a write of it has to wait then, and behind a writer also a commit that read it.
    pub fn of(&self, hash: u64) -> Option<Held> {
        self.held.get(&hash).copied()
    }

    /// Locks a key that may be.
    pub fn lock(&mut self, hash: u64, writes: bool, now_ms: u64) {
        if self.held.capacity() == 0 {
            self.held.reserve(KEYS_AT_FIRST);
        }
        let held = self.held.entry(hash).or_insert(Held { since_ms: now_ms, ..Held::default() });
        if writes {
            held.writer = true;
        } else {
            held.readers += 1;
        }
    }

    /// Gives up what `lock` took. A commit that writes a key several times locked it once.
    pub fn unlock(&mut self, hash: u64, writes: bool) {
        let Some(held) = self.held.get_mut(&hash) else { return };
        if writes {
            held.writer = false;
        } else {
            held.readers -= 1;
        }
        if held.readers == 0 && !held.writer {
            self.held.remove(&hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_share_and_a_writer_is_alone() {
        let mut locks = Locks::default();
        locks.lock(7, false, 1_000);
        locks.lock(7, false, 1_001);
        let held = locks.of(7).unwrap();
        assert_eq!((held.writer, held.since_ms, locks.of(8).is_some()), (false, 1_000, false));
        locks.unlock(7, false);
        // The one that is left writes it too, twice.
        locks.lock(7, true, 1_002);
        locks.lock(7, true, 1_003);
        let held = locks.of(7).unwrap();
        assert_eq!((held.writer, held.since_ms), (true, 1_000));
        [false, true, true].into_iter().for_each(|writes| locks.unlock(7, writes));
        assert!(locks.is_empty() && locks.has_room(KEYS_MAX) && !locks.has_room(KEYS_MAX + 1));
    }
}
