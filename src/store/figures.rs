//! What a store holds, in figures: for statistics, and for reclaim.

use crate::ring::protocol::stats;
use crate::store::Store;
use crate::types::ObjectId;

impl Store {
    /// What the records that count take in the log when they stand close together, about.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        let bytes = self.spaces.live_bytes() + self.streams.live_bytes();
        // Frame headers, and what is left at the end of a frame.
        bytes + bytes / 16
    }

    /// What this shard has of one space or stream: see `stats::OBJECT_NAMES`.
    #[must_use]
    pub fn of_object(&self, object: ObjectId) -> [u64; stats::OBJECT_NAMES.len()] {
        let (keys, key_bytes) = self.spaces.of_space(object);
        let (first, next, event_bytes) = self.streams.of_stream(object);
        let mut words = [0; stats::OBJECT_NAMES.len()];
        words[stats::OBJECT] = u64::from(object.0);
        words[stats::OBJECT_KEYS] = keys;
        words[stats::OBJECT_EVENTS] = next - first;
        words[stats::OBJECT_LIVE_BYTES] = key_bytes + event_bytes;
        words[stats::OBJECT_NEXT_OFFSET] = next;
        self.streams.tell_retention(object, &mut words);
        words
    }

    /// Keys in this shard.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.spaces.len() as u64
    }

    /// Keys with a time to live in this shard.
    #[must_use]
    pub fn keys_timed(&self) -> u64 {
        self.spaces.timed() as u64
    }

    /// Events in this shard.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.streams.len()
    }

    /// Memory of values that are on the drive too.
    #[must_use]
    pub fn cache_bytes(&self) -> u64 {
        self.spaces.cache_bytes() + self.streams.cache_bytes()
    }

    /// Memory that keys and values take from the system.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.heap.used_bytes()
    }
}
