//! What a writer was told is written: enough to tell, later, whether it still is.

use super::job::{Job, Target};
use super::transactions::Row;
use crate::types::{Durability, ObjectKind};

/// The latest acknowledged write of a key. Version 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    pub version: u64,
    pub writer: u64,
    pub write: u64,
}

/// What commits did to a key that they read before they wrote it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modified {
    /// Acknowledged commits. Each made the number that the value states one larger.
    pub times: u64,
    /// The oldest version that one of them read, and its number.
    pub version: u64,
    pub write: u64,
    /// It was also written without a look at what was there: nothing follows from the count.
    pub is_overwritten: bool,
}

impl Modified {
    /// With what another writer did.
    #[must_use]
    pub fn and(self, other: Modified) -> Modified {
        let times = self.times + other.times;
        let older = if other.times > 0 && (self.times == 0 || other.version < self.version) { other } else { self };
        Modified { times, is_overwritten: self.is_overwritten || other.is_overwritten, ..older }
    }
}

/// The acknowledged writes of one thread of a job.
#[derive(Clone, Debug)]
pub struct Ledger {
    pub target: Target,
    pub writer: u64,
    pub durability: Durability,
    pub bytes_max: usize,
    /// See `Job`. The same for all jobs on a target.
    pub compress_percent: u32,
    pub key_bytes: usize,
    /// Of a space: one a key.
    pub marks: Vec<Mark>,
    /// Of a job of transactions: one a key.
    pub modified: Vec<Modified>,
    /// Of a stream: events 0..acknowledged of this writer stand in it, from this offset on, but for those that failed.
    pub acknowledged: u64,
    pub first_offset: u64,
    pub failed: Vec<u64>,
}

impl Ledger {
    #[must_use]
    pub fn new(job: &Job, writer: u64, durability: Durability) -> Ledger {
        let keys = if job.target.kind == ObjectKind::Stream { 0 } else { job.keys };
        let keys = usize::try_from(keys).expect("64-bit machines only");
        let modified = if job.transactions.is_empty() { 0 } else { keys };
        Ledger {
            target: job.target.clone(),
            writer,
            durability,
            bytes_max: job.sizes.bytes_max() as usize,
            compress_percent: job.compress_percent,
            key_bytes: job.key_bytes,
            marks: vec![Mark::default(); keys],
            modified: vec![Modified::default(); modified],
            acknowledged: 0,
            first_offset: u64::MAX,
            failed: Vec::with_capacity(job.iodepth as usize),
        }
    }

    /// Write number `write` was acknowledged: of key `key`, or as an event.
    pub fn acknowledge(&mut self, key: u64, write: u64, version: u64) {
        let of_space = !self.marks.is_empty();
        match usize::try_from(key).ok().and_then(|key| self.marks.get_mut(key)) {
            Some(mark) if mark.version < version => *mark = Mark { version, writer: self.writer, write },
            Some(_) => {}
            // A new key, beyond those that are looked at again.
            None if of_space => {}
            None => {
                self.acknowledged = self.acknowledged.max(write + 1);
                self.first_offset = self.first_offset.min(version);
            }
        }
    }

    /// A row of a transaction that was committed with this version.
    pub fn acknowledge_row(&mut self, row: &Row, version: u64) {
        self.acknowledge(row.key, row.write, version);
        let key = usize::try_from(row.key).expect("64-bit machines only");
        if let Some(modified) = self.modified.get_mut(key) {
            *modified = modified.and(Modified {
                times: 1,
                version: row.version,
                write: row.write.wrapping_sub(1),
                is_overwritten: !row.is_modified(),
            });
        }
    }
}
