//! The free segments of a namespace, shared by all reactors, and who may take the last ones. Written about once a segment.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};

use crossbeam_queue::ArrayQueue;

use crate::types::SegmentIndex;
use crate::wal::layout::Layout;

/// Who wants room in the log. Each may use what those before it may, and more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Writer {
    Ordinary,
    /// A delete or trim: works on a full device too.
    Privileged,
    /// The copies that let a segment go.
    Reclaim,
    /// What a flight recorder held. Nothing is given up before it is written: it does not wait for that.
    Replay,
}

/// Kept a shard for deletes and trims.
const PRIVILEGED_PER_SHARD: i64 = 1;
/// Kept a shard for the copies of one segment, which may begin in the middle of another.
const COPIES_PER_SHARD: i64 = 2;

pub struct SegmentPool {
    queue: ArrayQueue<SegmentIndex>,
    /// As many as are in `queue`, or about to be.
    free: AtomicI64,
    /// Ordinary writes leave so many, privileged ones so many.
    ordinary_floor: i64,
    privileged_floor: i64,
    /// Below this, shards give up what they need no more.
    low: i64,
    reclaims: bool,
    /// What the records that count would take, closely packed, in all shards; and how much of that is too much.
    live_bytes: AtomicI64,
    live_bytes_max: i64,
    /// Shards that can still give something up.
    hopeful: AtomicU32,
    /// Free, and given back soon: the drive is being told that they carry nothing.
    announced: AtomicU32,
    /// The drive has not refused to be told.
    deallocates: AtomicBool,
}

impl SegmentPool {
    #[must_use]
    pub fn new(layout: &Layout, free: &[SegmentIndex]) -> SegmentPool {
        let queue = ArrayQueue::new((layout.segments as usize).max(1));
        for segment in free {
            queue.push(*segment).expect("the queue has room for every segment");
        }
        let (segments, shards) = (i64::from(layout.segments), i64::from(layout.shards));
        let reclaims = layout.reclaims();
        let privileged_floor = if reclaims { shards * COPIES_PER_SHARD } else { 0 };
        let ordinary_floor = privileged_floor + shards * PRIVILEGED_PER_SHARD;
        let usable = (segments - ordinary_floor) * i64::try_from(layout.segment_bytes).expect("at most 4 GiB");
        SegmentPool {
            free: AtomicI64::new(i64::try_from(free.len()).expect("segments fit 32 bits")),
            queue,
            ordinary_floor,
            privileged_floor,
            low: ordinary_floor + (shards * 2).max(segments / 32),
            reclaims,
            live_bytes: AtomicI64::new(0),
            live_bytes_max: usable / 8 * 7,
            hopeful: AtomicU32::new(if reclaims { layout.shards } else { 0 }),
            announced: AtomicU32::new(0),
            deallocates: AtomicBool::new(true),
        }
    }

    fn floor(&self, writer: Writer) -> i64 {
        match writer {
            Writer::Ordinary => self.ordinary_floor,
            Writer::Privileged => self.privileged_floor,
            Writer::Reclaim | Writer::Replay => 0,
        }
    }

    /// Takes a segment for such a writer, when that leaves what is kept from it.
    pub fn take(&self, writer: Writer) -> Option<SegmentIndex> {
        if self.free.fetch_sub(1, Ordering::Relaxed) <= self.floor(writer) {
            self.free.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let taken = self.queue.pop();
        if taken.is_none() {
            self.free.fetch_add(1, Ordering::Relaxed);
        }
        taken
    }

    /// Takes a segment back whose header says durably that it is free.
    pub fn give(&self, segment: SegmentIndex) {
        if self.queue.push(segment).is_ok() {
            self.free.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A segment is free and will be given back by `give_announced`.
    pub fn announce(&self) {
        self.announced.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a segment back that was announced.
    pub fn give_announced(&self, segment: SegmentIndex) {
        // In this order no moment shows fewer than there are.
        self.give(segment);
        self.announced.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the drive is told of segments that are free.
    #[must_use]
    pub fn deallocates(&self) -> bool {
        self.deallocates.load(Ordering::Relaxed)
    }

    /// The drive refused: no shard tells it any more. True for the first one that says so.
    pub fn stop_deallocating(&self) -> bool {
        self.deallocates.swap(false, Ordering::Relaxed)
    }

    /// Whether such a writer could take one now.
    #[must_use]
    pub fn has(&self, writer: Writer) -> bool {
        self.free.load(Ordering::Relaxed) > self.floor(writer)
    }

    /// Whether such a writer may use the rest of a segment that was taken from what is kept.
    #[must_use]
    pub fn may_use_reserve(&self, writer: Writer) -> bool {
        let free = self.free.load(Ordering::Relaxed);
        match writer {
            Writer::Ordinary => free > self.ordinary_floor,
            Writer::Privileged => free >= self.privileged_floor,
            Writer::Reclaim | Writer::Replay => true,
        }
    }

    /// Whether segments become free again on this namespace.
    #[must_use]
    pub fn reclaims(&self) -> bool {
        self.reclaims
    }

    /// Whether segments are to be given up now.
    #[must_use]
    pub fn is_low(&self) -> bool {
        let free = self.free.load(Ordering::Relaxed);
        self.reclaims && free < self.low && free + i64::from(self.announced.load(Ordering::Relaxed)) < self.low
    }

    /// Whether a writer that finds no segment would wait in vain.
    #[must_use]
    pub fn is_hopeless(&self, writer: Writer) -> bool {
        let full = self.live_bytes.load(Ordering::Relaxed) > self.live_bytes_max;
        let none_comes = self.hopeful.load(Ordering::Relaxed) == 0 && self.announced.load(Ordering::Relaxed) == 0;
        writer == Writer::Replay || none_comes || writer == Writer::Ordinary && full
    }

    /// What a shard tells of itself, as the change since it last did.
    pub fn tell(&self, live_bytes: i64, hopeful: Option<bool>) {
        if live_bytes != 0 {
            self.live_bytes.fetch_add(live_bytes, Ordering::Relaxed);
        }
        match hopeful {
            Some(true) => self.hopeful.fetch_add(1, Ordering::Relaxed),
            Some(false) => self.hopeful.fetch_sub(1, Ordering::Relaxed),
            None => 0,
        };
    }

    /// Segments that are free, those that are announced too.
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.queue.len() + self.announced.load(Ordering::Relaxed) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(segments: u32, shards: u32) -> SegmentPool {
        let segment_bytes = 64 << 10;
        let layout = Layout { capacity_bytes: 0, segment_bytes, segments, shards };
        SegmentPool::new(&layout, &(0..segments).map(SegmentIndex).collect::<Vec<_>>())
    }

    fn take_all(pool: &SegmentPool, writer: Writer) -> usize {
        std::iter::from_fn(|| pool.take(writer)).count()
    }

    #[test]
    fn each_writer_leaves_what_is_kept_from_it() {
        let pool = pool(20, 2);
        assert_eq!(take_all(&pool, Writer::Ordinary), 14);
        assert!(!pool.may_use_reserve(Writer::Ordinary) && pool.is_low());
        assert_eq!(take_all(&pool, Writer::Privileged), 2);
        assert!(pool.may_use_reserve(Writer::Privileged));
        assert_eq!(take_all(&pool, Writer::Reclaim), 4);
        assert!(!pool.may_use_reserve(Writer::Privileged) && !pool.has(Writer::Reclaim));
        pool.give(SegmentIndex(3));
        assert_eq!(pool.take(Writer::Privileged), None);
        assert_eq!(pool.take(Writer::Reclaim), Some(SegmentIndex(3)));
    }

    #[test]
    fn a_small_namespace_keeps_only_room_for_deletes() {
        let pool = pool(7, 1);
        assert!(!pool.reclaims() && pool.is_hopeless(Writer::Privileged));
        assert_eq!((take_all(&pool, Writer::Ordinary), take_all(&pool, Writer::Privileged)), (6, 1));
    }

    #[test]
    fn a_writer_waits_while_any_shard_can_give_something_up() {
        let pool = pool(20, 2);
        pool.tell(0, Some(false));
        assert!(!pool.is_hopeless(Writer::Ordinary));
        pool.tell(20 << 16, None);
        assert!(pool.is_hopeless(Writer::Ordinary) && !pool.is_hopeless(Writer::Reclaim));
        pool.tell(0, Some(false));
        assert!(pool.is_hopeless(Writer::Reclaim));
        pool.announce();
        assert!(!pool.is_hopeless(Writer::Reclaim), "one comes back");
        let segment = std::iter::from_fn(|| pool.take(Writer::Replay)).last().expect("the pool was full");
        assert_eq!((pool.free_count(), pool.has(Writer::Replay)), (1, false));
        pool.give_announced(segment);
        assert!(pool.is_hopeless(Writer::Reclaim) && pool.free_count() == 1 && pool.has(Writer::Replay));
    }

    #[test]
    fn a_drive_that_refuses_is_told_of_nothing_more() {
        let pool = pool(20, 2);
        assert!(pool.deallocates() && pool.stop_deallocating());
        assert!(!pool.deallocates() && !pool.stop_deallocating(), "said once");
    }
}
