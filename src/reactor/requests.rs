//! Requests by space, stream and page space: how many, and how many a second.

use crate::reactor::rates::Rate;
use crate::ring::protocol::{commit, stats};
use crate::types::ObjectId;

/// Of so many objects seconds are ended in one look, so that no turn is long. With more of them their seconds are longer.
const LOOKED_MAX: usize = 4_096;

/// What one reactor was asked of each object. A row has an object's number; that of 0 is nobody's.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Reads, and writes.
    counts: Vec<[u64; 2]>,
    rates: Vec<Rate>,
    /// Where the next look begins.
    next: usize,
}

impl Requests {
    /// There are so many objects now.
    pub fn grow(&mut self, objects: usize) {
        self.counts.resize(objects + 1, [0; 2]);
        self.rates.resize(objects + 1, Rate::default());
    }

    /// One more. A number that no object has counts for none.
    #[inline]
    pub fn count(&mut self, object: ObjectId, writes: bool) {
        if let Some(counts) = self.counts.get_mut(object.index()) {
            counts[usize::from(writes)] += 1;
        }
    }

    /// A commit was done: each of its entries is one.
    #[inline(never)]
    pub fn count_commit(&mut self, entries: &[u8]) {
        commit::entries(entries).for_each(|entry| self.count(entry.object, !entry.is_read()));
    }

    /// Ends the seconds of some objects. Once a second.
    pub fn look(&mut self, now_ns: u64, worked_ns: u64) {
        let begin = if self.next < self.rates.len() { self.next } else { 0 };
        self.next = begin + LOOKED_MAX;
        for (rate, [reads, writes]) in self.rates.iter_mut().zip(&self.counts).skip(begin).take(LOOKED_MAX) {
            rate.look(now_ns, worked_ns, reads + writes);
        }
    }

    /// Tells of one object.
    pub fn tell(&self, object: ObjectId, [now_ns, worked_ns]: [u64; 2], words: &mut [u64]) {
        let Some(mut rate) = self.rates.get(object.index()).copied() else { return };
        let [reads, writes] = self.counts[object.index()];
        rate.look(now_ns, worked_ns, reads + writes);
        (words[stats::OBJECT_READS], words[stats::OBJECT_WRITES]) = (reads, writes);
        let [last, max] = rate.told(now_ns, worked_ns);
        (words[stats::OBJECT_REQUESTS_PER_SECOND], words[stats::OBJECT_REQUESTS_PER_SECOND_MAX]) = (last, max);
    }
}
