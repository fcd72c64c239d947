//! Optimistic transactions: read with versions, write locally, commit in one request, try again after a conflict.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

use crate::ring::protocol::Status;
use crate::ring::protocol::commit::{Entry, What};
use crate::types::{Compression, Durability, ObjectId};

use super::compression::Encoded;
use super::{Client, ClientError, Object, Request, Version};

/// How often a transaction is tried, and how long it waits between two tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Gives up with this many conflicts; the first try counts.
    pub conflicts_max: u32,
    /// Gives up with the first conflict after so long.
    pub time_max: Duration,
    /// The first wait is at most so long. Each one after it at most twice the one before, chosen at random: clients that
    /// met once do not meet again.
    pub wait_min: Duration,
    /// No wait is longer.
    pub wait_max: Duration,
    /// `None`: as the strictest space written says.
    pub durability: Option<Durability>,
}

impl Default for Retry {
    /// A thousand conflicts or 10 s, with waits from 20 us to 1 ms: a commit in memory takes microseconds, one on a drive
    /// some tens of them.
    fn default() -> Retry {
        Retry {
            conflicts_max: 1_000,
            time_max: Duration::from_secs(10),
            wait_min: Duration::from_micros(20),
            wait_max: Duration::from_millis(1),
            durability: None,
        }
    }
}

impl Retry {
    /// How long to wait before another try after so many conflicts in a row: a random time up to the bound that then holds.
    /// For those that submit their commits themselves; `Client::transaction` waits by itself.
    #[must_use]
    pub fn wait_before(&self, conflicts: u32) -> Duration {
        let bound = self.wait_min.saturating_mul(1 << conflicts.saturating_sub(1).min(20)).min(self.wait_max);
        let nanoseconds = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        // Keyed anew each time, by the system's random numbers.
        let random = RandomState::new().build_hasher().finish();
        Duration::from_nanos(random % nanoseconds.saturating_add(1).max(1))
    }
}

struct Seen {
    space: ObjectId,
    key: Vec<u8>,
    version: Version,
    value: Option<Vec<u8>>,
}

struct Written {
    space: Object,
    key: Vec<u8>,
    /// `None`: deleted.
    value: Option<Vec<u8>>,
}

/// A value as it goes to the daemon.
struct Stored {
    encoded: Encoded,
    value: Vec<u8>,
}

/// One try of a transaction. What it reads is noted with its version, what it writes stays here until all is committed.
pub struct Transaction<'c> {
    client: &'c mut Client,
    reads: Vec<Seen>,
    writes: Vec<Written>,
}

impl Transaction<'_> {
    /// The value of a key, `None` when it is absent; of one that this transaction wrote, what it wrote. A key that is read
    /// again is what it was.
    ///
    /// # Errors
    /// As `Client::get`. Blocks.
    pub fn get(&mut self, space: Object, key: &[u8]) -> Result<Option<Vec<u8>>, ClientError> {
        if let Some(own) = self.writes.iter().find(|own| own.space.id == space.id && own.key == key) {
            return Ok(own.value.clone());
        }
        if let Some(seen) = self.reads.iter().find(|seen| seen.space == space.id && seen.key == key) {
            return Ok(seen.value.clone());
        }
        let (version, value) = match self.client.get(space, key)? {
            Some((version, value)) => (version, Some(value)),
            None => (0, None),
        };
        self.reads.push(Seen { space: space.id, key: key.to_vec(), version, value: value.clone() });
        Ok(value)
    }

    /// Writes a pair, when the transaction commits. The key stays until it is written again: a time to live that it had is gone,
    /// and a transaction gives none.
    pub fn put(&mut self, space: Object, key: &[u8], value: &[u8]) {
        self.write(space, key, Some(value.to_vec()));
    }

    /// Deletes a key, present or not, when the transaction commits.
    pub fn delete(&mut self, space: Object, key: &[u8]) {
        self.write(space, key, None);
    }

    fn write(&mut self, space: Object, key: &[u8], value: Option<Vec<u8>>) {
        match self.writes.iter_mut().find(|own| own.space.id == space.id && own.key == key) {
            Some(own) => own.value = value,
            None => self.writes.push(Written { space, key: key.to_vec(), value }),
        }
    }

    /// The key of an entry: of a read, or of a write that another commit held the key of.
    fn nth(self, entry: u64) -> Option<(ObjectId, Vec<u8>)> {
        let reads = self.reads.into_iter().map(|seen| (seen.space, seen.key));
        reads.chain(self.writes.into_iter().map(|own| (own.space.id, own.key))).nth(usize::try_from(entry).ok()?)
    }

    /// The version of all keys written.
    fn commit(&mut self, durability: Option<Durability>) -> Result<Version, ClientError> {
        let stored = self.stored()?;
        let reads = self.reads.iter();
        let reads = reads.map(|seen| Entry { object: seen.space, key: &seen.key, what: What::Read(seen.version) });
        let writes = self.writes.iter().zip(&stored).map(|(own, stored)| {
            let value = stored.as_ref().map(|stored| stored.value.as_slice()).or(own.value.as_deref());
            Entry { object: own.space.id, key: &own.key, what: value.map_or(What::Delete, What::Put) }
        });
        let entries: Vec<Entry<'_>> = reads.chain(writes).collect();
        if entries.is_empty() {
            return Ok(0);
        }
        let request = Request::Commit { entries: &entries, durability, relaxed: false };
        let version = self.client.call(&request)?.0.ok()?.version;
        for (own, stored) in self.writes.iter().zip(&stored) {
            stored.iter().for_each(|stored| self.client.compressor.count(own.space, stored.encoded));
        }
        Ok(version)
    }

    /// By write: the stored form of its value, in a space with compression.
    fn stored(&mut self) -> Result<Vec<Option<Stored>>, ClientError> {
        let client = &mut *self.client;
        self.writes.iter().try_for_each(|own| own.space.check_plain())?;
        let stored = self.writes.iter().map(|own| match &own.value {
            Some(value) if own.space.compression != Compression::None => {
                if value.len() > client.value_bytes_max_in(own.space) {
                    return Err(ClientError::Status(Status::TooLarge));
                }
                let mut room = Vec::new();
                let encoded = client.compressor.encode(own.space, value, &mut room);
                room.truncate(encoded.bytes);
                Ok(Some(Stored { encoded, value: room }))
            }
            _ => Ok(None),
        });
        stored.collect()
    }
}

impl Client {
    /// Runs a transaction: `body` reads and writes, then all of it takes place at once, as if nobody else were there, or
    /// nothing. After a conflict with another client `body` runs again from the start, with what is there then; so it
    /// changes nothing but through its argument. What it reads may be of several moments until the commit says
    /// otherwise. Keys of several shards cost a write of the drive more, whatever their durability. Gives what `body` gave, and the version of the keys written. Blocks.
    ///
    /// # Errors
    /// `TooManyConflicts`; `TransactionTooLarge` as `Status`; an error of `body`, and nothing was done.
    /// After any other error of the commit itself, as of `put`, it may have taken place.
    pub fn transaction<T, E: From<ClientError>>(
        &mut self,
        retry: &Retry,
        mut body: impl FnMut(&mut Transaction<'_>) -> Result<T, E>,
    ) -> Result<(T, Version), E> {
        let mut backoff = Backoff::new(retry);
        loop {
            let mut attempt = Transaction { client: self, reads: Vec::new(), writes: Vec::new() };
            let result = body(&mut attempt)?;
            let entry = match attempt.commit(retry.durability) {
                Ok(version) => return Ok((result, version)),
                Err(ClientError::Conflict { entry, .. }) => entry,
                Err(error) => return Err(error.into()),
            };
            backoff.wait(|| attempt.nth(entry))?;
        }
    }
}

/// What passes between two tries.
pub(super) struct Backoff<'r> {
    retry: &'r Retry,
    begun: Instant,
    conflicts: u32,
}

impl Backoff<'_> {
    pub fn new(retry: &Retry) -> Backoff<'_> {
        Backoff { retry, begun: Instant::now(), conflicts: 0 }
    }

    /// Waits after a conflict. `about` names its key.
    ///
    /// # Errors
    /// `TooManyConflicts` when it is not to be tried again.
    pub fn wait(&mut self, about: impl FnOnce() -> Option<(ObjectId, Vec<u8>)>) -> Result<(), ClientError> {
        self.conflicts += 1;
        let (conflicts, waited) = (self.conflicts, self.begun.elapsed());
        if conflicts >= self.retry.conflicts_max || waited >= self.retry.time_max {
            let (space, key) =
                about().ok_or_else(|| ClientError::Broken("a conflict is about no key of the transaction".into()))?;
            return Err(ClientError::TooManyConflicts { conflicts, waited, space, key });
        }
        std::thread::sleep(self.retry.wait_before(conflicts));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_bound_and_differ() {
        let retry = Retry::default();
        for conflicts in 1..200 {
            let bound = retry.wait_max.min(retry.wait_min * (1 << (conflicts - 1).min(10)));
            assert!(retry.wait_before(conflicts) <= bound, "after {conflicts}");
        }
        let waits: std::collections::BTreeSet<_> = (0..100).map(|_| retry.wait_before(100)).collect();
        assert!(waits.len() > 90 && *waits.last().unwrap() > retry.wait_max / 2, "{waits:?}");
        let none = Retry { wait_min: Duration::ZERO, wait_max: Duration::MAX, ..retry };
        assert_eq!(none.wait_before(50), Duration::ZERO);
    }
}
