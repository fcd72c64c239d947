//! The counters of one reactor, in the order that the protocol gives them. Plain words: a reactor alone writes its own.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::ring::protocol::stats;

/// Counters and gauges of one reactor. Not shared: `Stats` requests copy them out.
#[derive(Clone, Debug)]
pub struct Metrics {
    words: [u64; stats::NAMES.len()],
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics { words: [0; stats::NAMES.len()] }
    }
}

impl Metrics {
    pub fn add(&mut self, at: usize, amount: u64) {
        self.words[at] += amount;
    }

    #[must_use]
    pub fn get(&self, at: usize) -> u64 {
        self.words[at]
    }

    pub fn set(&mut self, at: usize, value: u64) {
        self.words[at] = value;
    }

    /// The words, little-endian, as a `Stats` reply carries them.
    #[must_use]
    pub fn encode(&self) -> [u8; stats::NAMES.len() * 8] {
        let mut out = [0; stats::NAMES.len() * 8];
        for (at, word) in self.words.iter().enumerate() {
            crate::bytes::put_u64(&mut out, at * 8, *word);
        }
        out
    }
}

/// What the drive says of its health, for `stats`: told by a thread that may block, read by reactors when they are asked.
/// Each word is right by itself; together they may be of two readings.
#[derive(Debug, Default)]
pub struct DriveGauges {
    words: [AtomicU64; stats::DRIVE.len()],
}

impl DriveGauges {
    /// Values in the order of `stats::DRIVE`; all zero: not known.
    pub fn set(&self, values: [u64; stats::DRIVE.len()]) {
        self.words.iter().zip(values).for_each(|(word, value)| word.store(value, Relaxed));
    }

    /// The same values, each with its place among the words of a `Stats` reply.
    pub fn get(&self) -> impl Iterator<Item = (usize, u64)> {
        stats::DRIVE.into_iter().zip(&self.words).map(|(at, word)| (at, word.load(Relaxed)))
    }
}
