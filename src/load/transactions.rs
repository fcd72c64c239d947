//! Transactions under way: what each read, and the commit that follows. One a slot of the worker.

use super::generators::Operations;
use super::job::Job;
use super::payload::{Payload, Stamp, stated_write, write_key};
use super::profile::Access;
use crate::ring::client::{Entry, Object, Request, Retry, What};
use crate::ring::protocol::KEY_BYTES_MAX;
use crate::types::Durability;
use std::time::Duration;

/// One row of a transaction.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    pub key: u64,
    access: Access,
    pub bytes: u32,
    /// As read.
    pub version: u64,
    /// The number of the write: of a modified row one more than what was read, so that no two may be the same.
    pub write: u64,
}

impl Row {
    #[must_use]
    pub fn is_modified(&self) -> bool {
        self.access == Access::Modify
    }
}

#[derive(Clone, Debug, Default)]
struct Attempt {
    profile: usize,
    /// Those that are read stand first.
    rows: Vec<Row>,
    reads: usize,
    conflicts: u32,
}

/// Rows of one table, by its place and its first key.
#[derive(Clone, Copy, Debug)]
struct Take {
    access: Access,
    table: usize,
    first: u64,
    table_rows: u64,
    rows: u32,
}

pub struct Transactions {
    durability: Option<Durability>,
    key_bytes: usize,
    retry: Retry,
    /// By profile.
    profiles: Vec<Vec<Take>>,
    attempts: Vec<Attempt>,
    /// Keys and values of the commit that is being submitted.
    keys: Vec<u8>,
    values: Vec<u8>,
}

impl Transactions {
    #[must_use]
    pub fn new(job: &Job) -> Transactions {
        let take = |step: &super::profile::Step| {
            let table = job.tables.iter().position(|table| table.name == step.table).expect("the job was checked");
            let first = job.tables[..table].iter().map(|table| table.rows).sum();
            Take { access: step.access, table, first, table_rows: job.tables[table].rows, rows: step.rows }
        };
        let takes = job.transactions.iter().map(|profile| {
            let mut takes: Vec<Take> = profile.steps.iter().map(take).collect();
            takes.sort_by_key(|take| take.access == Access::Write);
            takes
        });
        Transactions {
            durability: job.durability,
            key_bytes: job.key_bytes,
            retry: Retry::default(),
            profiles: takes.collect(),
            attempts: vec![Attempt::default(); job.iodepth as usize],
            keys: Vec::new(),
            values: Vec::with_capacity(job.commit_bytes_max()),
        }
    }

    /// Whether the job has any.
    #[must_use]
    pub fn any(&self) -> bool {
        !self.profiles.is_empty()
    }

    /// Draws the rows of the next transaction.
    pub fn begin(&mut self, slot: u32, operations: &mut Operations) {
        let attempt = &mut self.attempts[slot as usize];
        let profile = operations.draw_profile();
        attempt.rows.clear();
        for take in &self.profiles[profile] {
            for _ in 0..take.rows {
                let (mut row, bytes) = operations.draw_row(take.table);
                // A row that this transaction has already: the next one of the table that it has not.
                while attempt.rows.iter().any(|other| other.key == take.first + row) {
                    row = (row + 1) % take.table_rows;
                }
                let (key, access) = (take.first + row, take.access);
                attempt.rows.push(Row { key, access, bytes, version: 0, write: 0 });
            }
        }
        attempt.reads = attempt.rows.iter().filter(|row| row.access != Access::Write).count();
        (attempt.profile, attempt.conflicts) = (profile, 0);
    }

    #[must_use]
    pub fn profile(&self, slot: u32) -> usize {
        self.attempts[slot as usize].profile
    }

    /// How many rows it reads.
    #[must_use]
    pub fn reads(&self, slot: u32) -> u32 {
        u32::try_from(self.attempts[slot as usize].reads).expect("a checked job has few")
    }

    /// The key of the row of this part of its reads.
    #[must_use]
    pub fn key(&self, slot: u32, part: u32) -> u64 {
        self.attempts[slot as usize].rows[part as usize].key
    }

    /// A row was read.
    pub fn take(&mut self, slot: u32, part: u32, version: u64, value: &[u8]) {
        let row = &mut self.attempts[slot as usize].rows[part as usize];
        (row.version, row.write) = (version, stated_write(value).wrapping_add(1));
    }

    /// Hands its commit to `submit`. `next_write` numbers the rows that are written whatever they were.
    pub fn commit<T>(
        &mut self,
        (space, slot): (Object, u32),
        (payload, writer): (&mut Payload, u64),
        mut next_write: impl FnMut() -> u64,
        submit: impl FnOnce(&Request<'_>) -> T,
    ) -> T {
        let Transactions { key_bytes, keys, values, .. } = self;
        let Attempt { rows, reads, .. } = &mut self.attempts[slot as usize];
        keys.clear();
        values.clear();
        for row in rows.iter_mut() {
            let mut room = [0; KEY_BYTES_MAX];
            let key = &mut room[..*key_bytes];
            write_key(key, row.key);
            keys.extend_from_slice(key);
            if row.access == Access::Write {
                row.write = next_write();
            }
            if row.access != Access::Read {
                let stamp = Stamp { writer, key: row.key, write: row.write };
                values.extend_from_slice(payload.fill(stamp, row.bytes as usize));
            }
        }
        let keyed = || rows.iter().zip(keys.chunks_exact(*key_bytes));
        let entry = |key, what| Entry { object: space.id, key, what };
        let mut entries: Vec<Entry<'_>> = Vec::with_capacity(2 * rows.len());
        entries.extend(keyed().take(*reads).map(|(row, key)| entry(key, What::Read(row.version))));
        let mut left = values.as_slice();
        for (row, key) in keyed().filter(|(row, _)| row.access != Access::Read) {
            let (value, rest) = left.split_at(row.bytes as usize);
            entries.push(entry(key, What::Put(value)));
            left = rest;
        }
        submit(&Request::Commit { entries: &entries, durability: self.durability, relaxed: false })
    }

    /// The rows that its commit wrote.
    pub fn written(&self, slot: u32) -> impl Iterator<Item = &Row> {
        self.attempts[slot as usize].rows.iter().filter(|row| row.access != Access::Read)
    }

    /// It met a conflict: how long to wait before it reads again, as the client's library does. `None`: it is given up.
    pub fn conflict(&mut self, slot: u32) -> Option<Duration> {
        let conflicts = &mut self.attempts[slot as usize].conflicts;
        *conflicts += 1;
        (*conflicts < self.retry.conflicts_max).then(|| self.retry.wait_before(*conflicts))
    }
}
