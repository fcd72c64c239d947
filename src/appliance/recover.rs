//! From a device to shards that can go on: superblock, survey, every shard's log, the flight recorders.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::appliance::epoch;
use crate::appliance::resume::records_in;
use crate::error::{Error, Result};
use crate::reactor::{Log, Shard};
use crate::ring::protocol::Status;
use crate::ring::protocol::commit::entries;
use crate::store::catalog::{Catalog, Object, attributes, is_chained, page_size};
use crate::store::redo::{Redo, redo};
use crate::store::{self, Store};
use crate::types::{DeviceAddress, Lsn, ObjectId, ObjectKind, ShardId};
use crate::wal::blocks::Blocks;
use crate::wal::flight::{Contents, Flight};
use crate::wal::planted::{self, Planted};
use crate::wal::pool::SegmentPool;
use crate::wal::record::{Kind, Record};
use crate::wal::recovery::{self, Recovered, Walker};
use crate::wal::superblock::Superblock;
use crate::wal::survey::Survey;
use crate::wal::{self, Identity, Wal, checkpoint};

pub(super) const LOOK_FIRST: &str =
    "nothing was changed; look at all of it with `forebay verify`, then choose with `forebay repair`";

/// What was read of one shard.
pub struct ShardState {
    pub store: Store,
    pub recovered: Recovered,
    /// Only in shard 0.
    pub objects: Vec<Object>,
    /// The objects that records of this shard belong to.
    pub used: BTreeMap<ObjectId, ObjectKind>,
}

/// What a start needs to know beside the device.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub wal: wal::Limits,
    /// Bounds of each shard's store.
    pub store: store::Limits,
    pub planted: Planted,
}

/// What the records of one shard's log make.
struct Reading {
    store: Store,
    objects: Vec<Object>,
    used: BTreeMap<ObjectId, ObjectKind>,
    /// The first record that the store had no memory for.
    refused: Option<(Lsn, Status)>,
    /// What checkpoints say of keys and events counts from this one on, before which not all was read. `None`: all is read,
    /// and the records themselves count.
    from: Option<Lsn>,
}

impl Reading {
    fn new(settings: &Settings, (shard, shards): (ShardId, u32), from: Option<Lsn>) -> Reading {
        let store = Store::new(settings.store, shard, shards);
        Reading { store, objects: Vec::new(), used: BTreeMap::new(), refused: None, from }
    }

    fn take(&mut self, record: &Record<'_>, place: DeviceAddress, settings: &Settings) {
        if record.is_of_checkpoint() && self.from.is_none_or(|from| record.lsn < from) {
            return;
        }
        let record = &record.said_again().unwrap_or(*record);
        if record.kind == Kind::Create
            && let Some((kind, durability, compression)) = attributes(record.version)
        {
            let (id, name, lsn) = (record.object, record.key.into(), record.lsn);
            let chained = is_chained(record.version);
            let page = page_size(record.version);
            self.objects.push(Object { id, kind, durability, compression, chained, page, name, lsn });
        }
        match record.kind {
            Kind::Create | Kind::Reclaim | Kind::CheckpointBegin | Kind::CheckpointEnd => {}
            Kind::Commit | Kind::Decision => {
                self.used.extend(entries(record.value).map(|entry| (entry.object, ObjectKind::Space)))
            }
            Kind::Put | Kind::PutUntil | Kind::Delete | Kind::Expire | Kind::Keys => {
                _ = self.used.insert(record.object, ObjectKind::Space);
            }
            Kind::Append | Kind::AppendBatch | Kind::AppendOnce | Kind::Trim | Kind::Cursor | Kind::Events => {
                _ = self.used.insert(record.object, ObjectKind::Stream);
            }
            Kind::Retain | Kind::Mark => _ = self.used.insert(record.object, ObjectKind::Stream),
        }
        let forgotten = record.kind == Kind::AppendOnce && settings.planted.is(Planted::ForgetProducers);
        let record = &if forgotten { Record { kind: Kind::AppendBatch, ..*record } } else { *record };
        let swapped = settings.planted.is(Planted::SwapEvents).then(|| planted::swapped(record)).flatten();
        let record = &swapped.as_ref().map_or(*record, |value| Record { value, ..*record });
        let forgets = settings.planted.is(Planted::ForgetUntil);
        let record = &if forgets { record.split_until().0 } else { *record };
        if record.kind == Kind::Retain && settings.planted.is(Planted::ForgetRetention) {
            return;
        }
        if let Err(status) = self.store.replay(record, place) {
            self.refused.get_or_insert((record.lsn, status));
        }
    }
}

/// Reads one shard's log into a store. Blocks; every shard may have a thread of its own.
///
/// # Errors
/// Damage to acknowledged data, or a memory budget that is too small. Nothing was changed.
pub fn read_shard<B: Blocks>(
    blocks: &mut B,
    superblock: &Superblock,
    survey: &Survey,
    shard: ShardId,
    flight: Option<&Contents>,
    settings: &Settings,
    progress: &mut dyn FnMut(u64),
) -> Result<ShardState> {
    let chain = &survey.chains[shard.index()];
    let from = survey.checkpoints[shard.index()];
    let own = (shard, superblock.layout.shards);
    let mut reading = Reading::new(settings, own, Some(from.lsn));
    let mut sink = |record: &Record<'_>, place| reading.take(record, place, settings);
    let walker = Walker::new(blocks, superblock, shard, chain);
    let short = checkpoint::recover_from_checkpoint(walker, from, flight, settings.planted, &mut sink, progress);
    let recovered = match short {
        Some(recovered) => recovered,
        None => {
            reading = Reading::new(settings, own, None);
            let mut sink = |record: &Record<'_>, place| reading.take(record, place, settings);
            let mut walker = Walker::new(blocks, superblock, shard, chain);
            recovery::recover(&mut walker, flight, settings.planted, &mut sink, progress)
                .map_err(|damage| Error::new(damage.to_string()).remedy(LOOK_FIRST))?
        }
    };
    let Reading { store, objects, used, refused, .. } = reading;
    if let Some(missing) = survey.missing(shard, recovered.tail.kept_from) {
        return Err(Error::new(missing.to_string()).remedy(LOOK_FIRST));
    }
    if let Some((lsn, status)) = refused {
        return Err(Error::new(format!("shard {shard}: the stored data does not fit at LSN {lsn}: {}", status.text()))
            .remedy("raise limits.memory_bytes_max or limits.keys_max in the configuration"));
    }
    Ok(ShardState { store, recovered, objects, used })
}

/// Refuses to go on over segments that contradict each other.
///
/// # Errors
/// The first damage.
pub fn check_survey(survey: &Survey) -> Result<()> {
    match survey.damage.first() {
        Some(damage) => Err(Error::new(damage.to_string()).remedy(LOOK_FIRST)),
        None => Ok(()),
    }
}

/// What goes on where recovery ended.
pub struct Begun {
    pub shards: Vec<Shard>,
    pub catalog: Catalog,
    pub epoch: u64,
}

/// Raises the epoch durably, above every one that was seen, and makes the shards ready to go on. This is the first
/// write after a recovery.
///
/// # Errors
/// When the superblock cannot be written.
pub fn begin<B: Blocks>(
    blocks: &mut B,
    superblock: &Superblock,
    survey: &Survey,
    states: Vec<ShardState>,
    flights: Vec<Flight>,
    settings: &Settings,
) -> Result<Begun> {
    let (mut objects, mut used) = (Vec::new(), BTreeMap::new());
    let (mut stores, mut recovered) = (Vec::new(), Vec::new());
    for mut state in states {
        objects.append(&mut state.objects);
        used.append(&mut state.used);
        stores.push(state.store);
        recovered.push(state.recovered);
    }
    let ends = recovered.iter().map(|state: &Recovered| Lsn(state.tail.next_lsn.0 + records_in(&state.replay)));
    let missing = redo(&mut stores, &ends.collect::<Vec<_>>(), settings.planted).map_err(|(shard, status)| {
        Error::new(format!("shard {shard}: a commit over several shards does not fit: {}", status.text()))
            .remedy("raise limits.memory_bytes_max or limits.keys_max in the configuration")
    })?;
    let Logs { logs, epoch } = begin_logs(blocks, superblock, survey, recovered, flights, settings)?;
    let shard = |((mut store, missing), log): ((Store, Vec<Redo>), Log)| {
        store.begin_epoch(epoch);
        Shard::new(store, log.wal, log.replay, missing)
    };
    let shards = stores.into_iter().zip(missing).zip(logs).map(shard).collect();
    Ok(Begun { shards, catalog: Catalog::recovered(objects, &used), epoch })
}

/// The logs of all shards, in an epoch of their own.
pub struct Logs {
    pub logs: Vec<Log>,
    pub epoch: u64,
}

/// The same for the logs alone.
///
/// # Errors
/// When the superblock cannot be written.
pub fn begin_logs<B: Blocks>(
    blocks: &mut B,
    superblock: &Superblock,
    survey: &Survey,
    recovered: Vec<Recovered>,
    flights: Vec<Flight>,
    settings: &Settings,
) -> Result<Logs> {
    let seen = recovered.iter().map(|recovered| recovered.epoch_max).max().unwrap_or(0);
    let last = superblock.epoch.max(survey.epoch_max).max(seen);
    let epoch = if settings.planted.is(Planted::SkipEpochRaise) && last > 0 {
        last
    } else {
        epoch::raise(blocks, superblock, last, &flights)?
    };
    let segments = Arc::new(SegmentPool::new(&superblock.layout, &survey.free));
    let mut logs = Vec::new();
    for (number, (Recovered { tail, replay, .. }, flight)) in recovered.into_iter().zip(flights).enumerate() {
        let shard = ShardId(crate::bytes::len_u32(number));
        let identity = Identity { namespace: superblock.namespace, shard, epoch, layout: superblock.layout };
        let wal = Wal::new(identity, settings.wal, tail, segments.clone(), flight, settings.planted);
        logs.push(Log { wal, replay });
    }
    Ok(Logs { logs, epoch })
}
