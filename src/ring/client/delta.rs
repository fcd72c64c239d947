//! Spaces whose values are stored as deltas where they change little: a key has at most one base and one delta against it.
//!
//! Two records are behind a key, in one shard: the base, and what says the value, which is whole, or a delta that
//! names its base. Who writes a delta commits it only if the base still is the one that it was made against.

mod bases;
mod form;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Arc;

use crate::ring::protocol::commit::{Entry, HEADER_BYTES, What};
use crate::ring::protocol::{DELTA_PREFIX_BYTES, DELTA_VALUES, Status, to_usize};
use crate::types::{Compression, Durability};

use super::codec::Patcher;
use super::compression::Compressor;
use super::request::BAD_REQUEST;
use super::transaction::Backoff;
use super::{Client, ClientError, Creation, Object, Request, Retry, ScanPage, ScanRange, Snapshot, Version, Write};
use bases::{Base, Bases};
use form::{Delta, NUMBER_BYTES, base_key, value_key, value_keys};

/// Smaller values stay whole.
const TRIED_BYTES_MIN: usize = 64;
/// A delta has at most this part of what its base takes, and of the value; else the value becomes the base.
const DELTA_PART_MAX: usize = 2;
/// What bases may take in a client's memory, unless it says otherwise.
const CACHE_BYTES_MAX: usize = 16 << 20;

/// What one `DeltaSpace` did so far, and what it holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeltaStats {
    /// Values that were written whole without a base: small ones, and the first of a key.
    pub whole: u64,
    /// Values that became the base of their key.
    pub rebased: u64,
    pub deltas: u64,
    /// Of the values as they were given.
    pub plain_bytes: u64,
    /// Of the records that went to the daemon for them, without their keys.
    pub stored_bytes: u64,
    /// Writes and reads that another client made do again.
    pub conflicts: u64,
    /// Bases that were read from the daemon.
    pub bases_read: u64,
    /// In the memory of this client.
    pub bases_cached: u64,
    pub bases_cached_bytes: u64,
}

impl DeltaStats {
    /// Plain bytes a stored byte; 1 where there are none.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    pub fn ratio(&self) -> f64 {
        if self.stored_bytes == 0 { 1.0 } else { self.plain_bytes as f64 / self.stored_bytes as f64 }
    }
}

/// A space of deltas, with the bases that were used last. Its calls block and take the connection that they use: always one
/// to the same appliance, which may be a new one after a restart.
#[derive(Debug)]
pub struct DeltaSpace {
    space: Object,
    bases: Bases,
    compressor: Compressor,
    patcher: Patcher,
    retry: Retry,
    stats: DeltaStats,
}

impl DeltaSpace {
    /// Finds a space by name; with `create`, makes it with that default durability where it is absent.
    ///
    /// # Errors
    /// `NoDeltas` when it is there with another compression; else as `Client::create_space`.
    pub fn open(client: &mut Client, name: &str, create: Option<Durability>) -> Result<DeltaSpace, ClientError> {
        let create =
            create.map(|durability| Creation { compression: Compression::Delta, ..Creation::from(durability) });
        DeltaSpace::of(match create {
            Some(creation) => client.create_space(name, creation)?,
            None => client.open_space(name, None)?,
        })
    }

    /// A space that was opened.
    ///
    /// # Errors
    /// `NoDeltas`.
    pub fn of(space: Object) -> Result<DeltaSpace, ClientError> {
        if space.compression != Compression::Delta {
            return Err(ClientError::NoDeltas { compression: space.compression });
        }
        let (bases, compressor, patcher) = (Bases::new(CACHE_BYTES_MAX), Compressor::default(), Patcher::default());
        Ok(DeltaSpace { space, bases, compressor, patcher, retry: Retry::default(), stats: DeltaStats::default() })
    }

    /// The same with room for so many bytes of bases, 16 MiB otherwise; 0: none, and each put reads the base.
    #[must_use]
    pub fn with_cache_bytes_max(self, bytes_max: usize) -> DeltaSpace {
        DeltaSpace { bases: Bases::new(bytes_max), ..self }
    }

    /// The same with other bounds for what is done again after a conflict. The durability that it names is for puts and
    /// deletes that name none.
    #[must_use]
    pub fn with_retry(self, retry: Retry) -> DeltaSpace {
        DeltaSpace { retry, ..self }
    }

    #[must_use]
    pub fn object(&self) -> Object {
        self.space
    }

    #[must_use]
    pub fn stats(&self) -> DeltaStats {
        let (bases_cached, bases_cached_bytes) = (self.bases.len() as u64, self.bases.bytes() as u64);
        DeltaStats { bases_cached, bases_cached_bytes, ..self.stats }
    }

    /// The longest key that it takes.
    #[must_use]
    pub fn key_bytes_max(client: &Client) -> usize {
        client.key_bytes_max().saturating_sub(DELTA_PREFIX_BYTES)
    }

    /// Writes a pair: as a delta where that is small, else whole. The new version. Blocks.
    ///
    /// # Errors
    /// `VersionMismatch` with `if_version`; `NeverExpires`; `TooManyConflicts`; else as `Client::put`.
    pub fn put(&mut self, client: &mut Client, key: &[u8], value: &[u8], how: Write) -> Result<Version, ClientError> {
        if how.expires.is_some() {
            return Err(ClientError::NeverExpires);
        }
        check_key(client, key)?;
        if value.len() > client.value_bytes_max_in(self.space) {
            return Err(ClientError::Status(Status::TooLarge));
        }
        let how = Write { durability: how.durability.or(self.retry.durability), ..how };
        if value.len() < TRIED_BYTES_MIN {
            return self.put_whole(client, key, value, how);
        }
        let retry = self.retry;
        let mut backoff = Backoff::new(&retry);
        loop {
            let base = match self.bases.get(key) {
                Some(base) => Some(base),
                None => self.read_base(client, key)?,
            };
            let put = match base {
                Some(base) => self.put_on(client, &base, key, value, how),
                None => self.put_first(client, key, value, how),
            };
            match put {
                Err(ClientError::Conflict { .. }) => self.wait(&mut backoff, key)?,
                put => return put,
            }
        }
    }

    /// The value of a key and its version, `None` when it is absent. Blocks.
    ///
    /// # Errors
    /// `BadDelta`, `BadValue`, and never another value; else as `Client::get`.
    pub fn get(&mut self, client: &mut Client, key: &[u8]) -> Result<Option<(Version, Vec<u8>)>, ClientError> {
        check_key(client, key)?;
        let retry = self.retry;
        let mut backoff = Backoff::new(&retry);
        let mut seen = None;
        loop {
            let Some((version, record)) = client.get(self.space.stored(), &value_key(key))? else { return Ok(None) };
            let Some(delta) = parse(key, version, &record)? else {
                return Ok(Some((version, self.decode(client, key, &record)?)));
            };
            let cached = self.bases.get(key).filter(|base| base.number == delta.base);
            let base = match cached {
                Some(base) => Some(base),
                None => self.read_base(client, key)?,
            };
            match base {
                Some(base) if base.number == delta.base => {
                    return self.apply(client, key, version, &delta, &base).map(|value| Some((version, value)));
                }
                // The base changes only together with the value: it does not belong to this version.
                base if seen == Some(version) => return Err(strange_base(key, version, base.as_deref())),
                _ => seen = Some(version),
            }
            self.wait(&mut backoff, key)?;
        }
    }

    /// The same as a snapshot sees it. Blocks.
    ///
    /// # Errors
    /// `SnapshotGone` when the daemon gave it up; else as `get`.
    pub fn get_at(
        &mut self,
        client: &mut Client,
        snapshot: Snapshot,
        key: &[u8],
    ) -> Result<Option<(Version, Vec<u8>)>, ClientError> {
        check_key(client, key)?;
        let Some((version, record)) = client.get_at(snapshot, self.space.stored(), &value_key(key))? else {
            return Ok(None);
        };
        self.value_at(client, snapshot, key, version, &record).map(|value| Some((version, value)))
    }

    /// Deletes a key and its base. Whether it was there. Blocks.
    ///
    /// # Errors
    /// `VersionMismatch` with `if_version`; `TooManyConflicts`; else as `Client::delete`.
    pub fn delete(&mut self, client: &mut Client, key: &[u8], how: Write) -> Result<bool, ClientError> {
        if how.expires.is_some() {
            return Err(ClientError::NeverExpires);
        }
        check_key(client, key)?;
        let retry = self.retry;
        let mut backoff = Backoff::new(&retry);
        loop {
            let found = client.get(self.space.stored(), &value_key(key))?;
            let present = found.map_or(0, |(version, _)| version);
            if how.if_version.is_some_and(|expected| expected != present) {
                return Err(ClientError::VersionMismatch { present });
            }
            if present == 0 {
                return Ok(false);
            }
            let durability = how.durability.or(retry.durability);
            let writes = [(value_key(key), None), (base_key(key), None)];
            match self.commit(client, &[(value_key(key), present)], &writes, durability) {
                Err(ClientError::Conflict { .. } | ClientError::VersionMismatch { .. }) => {
                    self.wait(&mut backoff, key)?
                }
                deleted => {
                    self.bases.remove(key);
                    return deleted.map(|_| true);
                }
            }
        }
    }

    /// At most `limit` pairs in the order of their keys, merged over all shards; with a snapshot, as that sees them, else each
    /// as it was at some moment of the call. A base that is not in memory is a request of its own. Blocks.
    ///
    /// # Errors
    /// As `get` and `get_at`.
    pub fn scan(
        &mut self,
        client: &mut Client,
        snapshot: Option<Snapshot>,
        range: &ScanRange<'_>,
        limit: usize,
    ) -> Result<ScanPage, ClientError> {
        let bounds = stored_bounds(range);
        let range = match range {
            ScanRange::Prefix { .. } => ScanRange::Prefix { prefix: &bounds.0, after: &bounds.1 },
            ScanRange::Range { .. } => ScanRange::Range { begin: &bounds.0, end: &bounds.1 },
        };
        let mut page = match snapshot {
            Some(snapshot) => client.scan_at(snapshot, self.space.stored(), &range, limit)?,
            None => client.scan(self.space.stored(), &range, limit)?,
        };
        page.cursor = page.cursor.map(|cursor| without_prefix(&cursor));
        let mut pairs = Vec::with_capacity(page.pairs.len());
        for mut pair in page.pairs {
            pair.key = without_prefix(&pair.key);
            let found = match snapshot {
                Some(snapshot) => {
                    let value = self.value_at(client, snapshot, &pair.key, pair.version, &pair.value)?;
                    Some((pair.version, value))
                }
                None => self.value_now(client, &pair.key, pair.version, &pair.value)?,
            };
            if let Some((version, value)) = found {
                (pair.version, pair.value) = (version, value);
                pairs.push(pair);
            }
        }
        page.pairs = pairs;
        Ok(page)
    }

    /// A value that is neither delta nor base.
    fn put_whole(&mut self, client: &mut Client, key: &[u8], value: &[u8], how: Write) -> Result<Version, ClientError> {
        let record = self.encode(value, &[]);
        let version = client.put(self.space.stored(), &value_key(key), &record, how)?;
        self.stats.whole += 1;
        self.count(value, record.len());
        Ok(version)
    }

    /// A key without a base: the first value of a key stays whole, the second one becomes its base.
    fn put_first(&mut self, client: &mut Client, key: &[u8], value: &[u8], how: Write) -> Result<Version, ClientError> {
        if how.if_version.is_none_or(|expected| expected == 0) {
            match self.put_whole(client, key, value, Write { if_version: Some(0), ..how }) {
                Err(ClientError::VersionMismatch { .. }) if how.if_version.is_none() => {}
                put => return put,
            }
        }
        self.rebase(client, key, value, how)
    }

    /// A delta on that base, or a new base.
    fn put_on(
        &mut self,
        client: &mut Client,
        base: &Base,
        key: &[u8],
        value: &[u8],
        how: Write,
    ) -> Result<Version, ClientError> {
        let bytes_max = base.stored_bytes.min(value.len()) / DELTA_PART_MAX;
        let Some(record) = form::delta(base.number, &base.value, value, bytes_max) else {
            return self.rebase(client, key, value, how);
        };
        let bytes = record.len();
        let mut reads = vec![(base_key(key), base.version)];
        reads.extend(how.if_version.map(|expected| (value_key(key), expected)));
        let version = self.commit(client, &reads, &[(value_key(key), Some(record))], how.durability)?;
        self.stats.deltas += 1;
        self.count(value, bytes);
        Ok(version)
    }

    /// Makes a value the base of its key, whatever was its base before.
    fn rebase(&mut self, client: &mut Client, key: &[u8], value: &[u8], how: Write) -> Result<Version, ClientError> {
        let number = RandomState::new().build_hasher().finish();
        let record = self.encode(value, &number.to_le_bytes());
        let (stored_bytes, same) = (record.len(), form::same(number, value));
        let keys_bytes = 3 * (HEADER_BYTES + DELTA_PREFIX_BYTES + key.len());
        if stored_bytes + same.len() + keys_bytes + size_of::<Version>() > client.value_bytes_max() {
            // It is too large for a commit, though not for a put.
            return self.put_whole(client, key, value, how);
        }
        let bytes = stored_bytes + same.len();
        let reads: Vec<_> = how.if_version.into_iter().map(|expected| (value_key(key), expected)).collect();
        let writes = [(base_key(key), Some(record)), (value_key(key), Some(same))];
        self.bases.remove(key);
        let version = self.commit(client, &reads, &writes, how.durability)?;
        self.bases.insert(key, Arc::new(Base { number, version, stored_bytes, value: value.to_vec() }));
        self.stats.rebased += 1;
        self.count(value, bytes);
        Ok(version)
    }

    /// Does all the writes, `None` a delete, if the versions read hold.
    ///
    /// # Errors
    /// `VersionMismatch` where a value has another version; `Conflict` for all that may be tried again.
    fn commit(
        &mut self,
        client: &mut Client,
        reads: &[(Vec<u8>, Version)],
        writes: &[(Vec<u8>, Option<Vec<u8>>)],
        durability: Option<Durability>,
    ) -> Result<Version, ClientError> {
        let object = self.space.id;
        let mut entries: Vec<Entry<'_>> = Vec::with_capacity(reads.len() + writes.len());
        entries.extend(reads.iter().map(|(key, version)| Entry { object, key, what: What::Read(*version) }));
        entries.extend(writes.iter().map(|(key, record)| {
            let what = record.as_deref().map_or(What::Delete, What::Put);
            Entry { object, key, what }
        }));
        let answer = client.call(&Request::Commit { entries: &entries, durability, relaxed: false })?.0.ok();
        answer.map(|answer| answer.version).map_err(|error| match error {
            ClientError::Conflict { entry, present } => {
                let read = reads.get(to_usize(entry)).filter(|(key, _)| key.starts_with(&DELTA_VALUES));
                match read {
                    Some((_, expected)) if *expected != present => ClientError::VersionMismatch { present },
                    _ => error,
                }
            }
            error => error,
        })
    }

    /// The base of a key as it is now.
    fn read_base(&mut self, client: &mut Client, key: &[u8]) -> Result<Option<Arc<Base>>, ClientError> {
        self.bases.remove(key);
        let Some((version, record)) = client.get(self.space.stored(), &base_key(key))? else { return Ok(None) };
        let base = Arc::new(self.parse_base(client, key, version, &record)?);
        self.bases.insert(key, base.clone());
        Ok(Some(base))
    }

    fn parse_base(
        &mut self,
        client: &Client,
        key: &[u8],
        version: Version,
        record: &[u8],
    ) -> Result<Base, ClientError> {
        self.stats.bases_read += 1;
        let Some((number, stored)) = record.split_first_chunk::<NUMBER_BYTES>() else {
            return Err(ClientError::bad_value(Some(key), "its base has no number".into()));
        };
        let value = self.decode(client, key, stored)?;
        Ok(Base { number: u64::from_le_bytes(*number), version, stored_bytes: record.len(), value })
    }

    /// What a record found by a scan says; where its base changed meanwhile, what the key holds now.
    fn value_now(
        &mut self,
        client: &mut Client,
        key: &[u8],
        version: Version,
        record: &[u8],
    ) -> Result<Option<(Version, Vec<u8>)>, ClientError> {
        match parse(key, version, record)? {
            None => self.decode(client, key, record).map(|value| Some((version, value))),
            Some(delta) => match self.bases.get(key).filter(|base| base.number == delta.base) {
                Some(base) => self.apply(client, key, version, &delta, &base).map(|value| Some((version, value))),
                None => self.get(client, key),
            },
        }
    }

    fn value_at(
        &mut self,
        client: &mut Client,
        snapshot: Snapshot,
        key: &[u8],
        version: Version,
        record: &[u8],
    ) -> Result<Vec<u8>, ClientError> {
        let Some(delta) = parse(key, version, record)? else { return self.decode(client, key, record) };
        let cached = self.bases.get(key).filter(|base| base.number == delta.base);
        let base = match cached {
            Some(base) => Some(base),
            None => match client.get_at(snapshot, self.space.stored(), &base_key(key))? {
                Some((version, record)) => Some(Arc::new(self.parse_base(client, key, version, &record)?)),
                None => None,
            },
        };
        match base {
            Some(base) if base.number == delta.base => self.apply(client, key, version, &delta, &base),
            base => Err(strange_base(key, version, base.as_deref())),
        }
    }

    fn apply(
        &mut self,
        client: &Client,
        key: &[u8],
        version: Version,
        delta: &Delta<'_>,
        base: &Base,
    ) -> Result<Vec<u8>, ClientError> {
        let named = |cause| ClientError::BadDelta { key: key.to_vec(), version, base: base.version, cause };
        delta.apply(&base.value, client.value_bytes_max(), &mut self.patcher).map_err(named)
    }

    /// `header`, then the value in the form that spaces with zstd have.
    fn encode(&mut self, value: &[u8], header: &[u8]) -> Vec<u8> {
        let space = Object { compression: Compression::Zstd, ..self.space };
        let mut room = Vec::new();
        let encoded = self.compressor.encode(space, value, &mut room);
        self.compressor.count(space, encoded);
        [header, &room[..encoded.bytes]].concat()
    }

    fn decode(&mut self, client: &Client, key: &[u8], stored: &[u8]) -> Result<Vec<u8>, ClientError> {
        let mut value = Vec::new();
        let decoded = self.compressor.decode(stored, client.value_bytes_max(), &mut value);
        decoded.map_err(|cause| ClientError::bad_value(Some(key), cause))?;
        Ok(value)
    }

    fn count(&mut self, value: &[u8], stored_bytes: usize) {
        self.stats.plain_bytes += value.len() as u64;
        self.stats.stored_bytes += stored_bytes as u64;
    }

    /// After a conflict: what was known of the key is old.
    fn wait(&mut self, backoff: &mut Backoff<'_>, key: &[u8]) -> Result<(), ClientError> {
        self.stats.conflicts += 1;
        self.bases.remove(key);
        backoff.wait(|| Some((self.space.id, key.to_vec())))
    }
}

/// What a daemon would say of a key without its prefix.
fn check_key(client: &Client, key: &[u8]) -> Result<(), ClientError> {
    match key.len() {
        0 => Err(BAD_REQUEST),
        bytes if bytes > DeltaSpace::key_bytes_max(client) => Err(ClientError::Status(Status::TooLarge)),
        _ => Ok(()),
    }
}

/// The record of a value as a delta; `None`: it is whole.
fn parse<'r>(key: &[u8], version: Version, record: &'r [u8]) -> Result<Option<Delta<'r>>, ClientError> {
    let named = |cause| ClientError::BadDelta { key: key.to_vec(), version, base: 0, cause };
    Delta::parse(record).map_err(named)
}

fn strange_base(key: &[u8], version: Version, base: Option<&Base>) -> ClientError {
    let (base, cause) = (base.map_or(0, |base| base.version), "belongs to another value".into());
    ClientError::BadDelta { key: key.to_vec(), version, base, cause }
}

/// The two keys of a range, as the records of values have them.
fn stored_bounds(range: &ScanRange<'_>) -> (Vec<u8>, Vec<u8>) {
    match range {
        ScanRange::Prefix { prefix, after: [] } => (value_key(prefix), Vec::new()),
        ScanRange::Prefix { prefix, after } => (value_key(prefix), value_key(after)),
        ScanRange::Range { begin, end: [] } => (value_key(begin), value_keys().end.to_vec()),
        ScanRange::Range { begin, end } => (value_key(begin), value_key(end)),
    }
}

fn without_prefix(key: &[u8]) -> Vec<u8> {
    key.get(DELTA_PREFIX_BYTES..).unwrap_or_default().to_vec()
}
