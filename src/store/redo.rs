//! After a crash: a commit over several shards whose decision is in its coordinator's log has taken place, also in a shard
//! whose own log ends before its part. That part is done once more, at the end of that log: its keys were locked until it
//! was logged there, so nothing that stands before that end came after it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::atomic::{AtomicU8, AtomicU32};

use crate::bytes::len_u32;
use crate::ring::protocol::commit::entries;
use crate::ring::protocol::{Status, shard_of_key};
use crate::store::Store;
use crate::types::{DeviceAddress, Lsn, ObjectId, ShardId};
use crate::wal::planted::Planted;
use crate::wal::record::{Kind, Record};

/// What all shards know of each other while they start.
#[derive(Debug, Default)]
pub struct Settling {
    /// By shard, where its own replay stands.
    replays: Vec<AtomicU8>,
    /// Shards that have something to write again still.
    left: AtomicU32,
}

/// Where the replay of a shard's flight recorder stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    UnderWay,
    Durable,
    /// It will not be durable in this life.
    Failed,
}

impl Settling {
    fn new(shards: usize) -> Settling {
        let replays = (0..shards).map(|_| AtomicU8::new(Replay::UnderWay as u8)).collect();
        Settling { replays, left: AtomicU32::new(len_u32(shards)) }
    }

    /// Whether all that any log held at the start is durable on the drive, with the parts that were missing.
    pub fn is_over(&self) -> bool {
        self.left.load(Acquire) == 0
    }

    /// A shard has written again what it had to. Called once.
    pub fn end_one(&self) {
        if !self.replays.is_empty() {
            self.left.fetch_sub(1, Release);
        }
    }

    pub fn set_replay(&self, shard: ShardId, replay: Replay) {
        if let Some(own) = self.replays.get(shard.index()) {
            own.store(replay as u8, Release);
        }
    }

    #[must_use]
    pub fn replay(&self, shard: ShardId) -> Replay {
        match self.replays.get(shard.index()).map_or(Replay::Durable as u8, |other| other.load(Acquire)) {
            0 => Replay::UnderWay,
            1 => Replay::Durable,
            _ => Replay::Failed,
        }
    }
}

/// A part that a shard has to log before it serves.
#[derive(Clone, Debug)]
pub struct Redo {
    pub coordinator: ShardId,
    pub version: u64,
    pub writes: Vec<u8>,
}

impl Redo {
    /// Its record, to be appended.
    #[must_use]
    pub fn record<'a>(&'a self, key: &'a [u8; super::decisions::PART_KEY_BYTES], lsn: Lsn) -> Record<'a> {
        let (version, value) = (self.version, self.writes.as_slice());
        Record { kind: Kind::Commit, flags: 0, lsn, object: ObjectId(0), version, key, value }
    }
}

/// Does what is missing in the stores of a namespace, all of whose logs are read. `next_lsn`: by shard, where its log goes
/// on. Gives, by shard, what it has to log.
///
/// # Errors
/// The shard, when the memory budget is too small.
pub fn redo(stores: &mut [Store], next_lsn: &[Lsn], planted: Planted) -> Result<Vec<Vec<Redo>>, (ShardId, Status)> {
    let shards = len_u32(stores.len());
    let mut missing: Vec<Vec<Redo>> = stores.iter().map(|_| Vec::new()).collect();
    for coordinator in 0..stores.len() {
        for decision in std::mem::take(&mut stores[coordinator].across.decisions) {
            let mut parts: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
            for entry in entries(&decision.writes) {
                let part = parts.entry(shard_of_key(entry.object.0, entry.key, shards).index()).or_default();
                entry.encode(|bytes| part.extend_from_slice(bytes));
            }
            for (shard, writes) in parts {
                let done = stores[shard].across.applied_of(coordinator) >= decision.version;
                if shard != coordinator && (!done || planted.is(Planted::RedoAgain)) {
                    let coordinator = ShardId(len_u32(coordinator));
                    missing[shard].push(Redo { coordinator, version: decision.version, writes });
                }
            }
        }
    }
    let settling = Arc::new(Settling::new(stores.len()));
    for (number, (store, parts)) in stores.iter_mut().zip(&mut missing).enumerate() {
        store.across.settling = settling.clone();
        // Versions rise along what one commit saw of another.
        parts.sort_by_key(|redo| redo.version);
        for redo in parts.iter() {
            let key = redo.coordinator.0.to_le_bytes();
            let record = redo.record(&key, next_lsn[number]);
            store.replay(&record, DeviceAddress::NONE).map_err(|status| (ShardId(len_u32(number)), status))?;
        }
    }
    Ok(missing)
}
