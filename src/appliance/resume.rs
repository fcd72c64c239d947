//! Taking the drive back while the daemon runs, after it vanished or a write failed.
//!
//! Memory stays as it is, and clients keep their sessions. The log on the drive, with the flight recorder, has to prove
//! that it holds all that the shards gave an LSN to, so all that was acknowledged: recovery reads it as at a start, and
//! it must end where memory does. Then the epoch is raised, and the logs go on. Nothing is written before that.

use std::path::Path;
use std::time::{Duration, Instant};

use super::recover::{self, Logs, Settings};
use super::sizes::Sizes;
use super::threads::{self, Own};
use super::{Appliance, block_reader, each_shard, health, open_options};
use crate::config::Config;
use crate::device::Tier;
use crate::device::any::AnyDevice;
use crate::device::memory::{MemoryDevice, MemoryDisk};
use crate::device::open::{OpenDevice, open};
use crate::error::{Error, Result};
use crate::reactor::Log;
use crate::types::{Lsn, ShardId};
use crate::wal::blocks::Blocks;
use crate::wal::flight::Contents;
use crate::wal::planted::Planted;
use crate::wal::record;
use crate::wal::recovery::{self, Recovered, Walker};
use crate::wal::superblock::Superblock;
use crate::wal::survey::{self, Survey};

/// How long the device may take to end what is under way. A drive that is gone does so at once, or by a time-out.
const QUIET_MAX: Duration = Duration::from_secs(30);

const RESTART: &str = "restart the daemon: recovery keeps every promise that the drive and the recorder can prove";

/// What a drive is known by, and what its shards were made with.
pub struct Origin {
    pub superblock: Superblock,
    /// The drive's own identifier, where it has one.
    pub wwid: Option<String>,
    pub sizes: Sizes,
    pub settings: Settings,
}

/// What taking the drive back found.
#[derive(Debug)]
pub struct Resumed {
    pub tier: Tier,
    pub epoch: u64,
    pub log_bytes: u64,
    /// Records from the flight recorder that were written again.
    pub replayed_bytes: u64,
    pub notes: Vec<String>,
    pub taken: Duration,
}

impl Appliance {
    /// Takes the drive back at `path`: the same drive, which may have another name now. `device` is the old one until it
    /// succeeds or has let that go. Blocks; reads are answered meanwhile. Where it fails, the shards stay fenced and
    /// nothing was written, and it can be tried again. None: every shard writes, and there is nothing to take back.
    ///
    /// # Errors
    /// Another drive, or one that others wrote to; damage; a log that lacks what was acknowledged.
    pub fn resume(
        &mut self,
        config: &Config,
        device: &mut Option<OpenDevice>,
        path: &Path,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Option<Resumed>> {
        let begun = Instant::now();
        let fenced = self.ask(|reactor| !reactor.fenced().is_empty())?;
        if !fenced.contains(&true) {
            return Ok(None);
        }
        let held = self.step_aside()?;
        // The lock on it, and its name.
        *device = None;
        let opened = open(path, &open_options(config))?;
        let resumed = self.recover(&opened, &held, begun, progress).map_err(|error| error.context(opened.name()))?;
        self.health = health::Watch::start(&opened, &self.drive)?;
        self.watch(config, &opened)?;
        *device = Some(opened);
        Ok(Some(resumed))
    }

    /// The same question to every reactor.
    fn ask<T: Send + 'static>(&self, question: fn(&mut Own) -> T) -> Result<Vec<T>> {
        self.threads.visit(|| Box::new(question))
    }

    /// Takes the device away from the reactors. Gives the last LSN that each shard gave out.
    fn step_aside(&mut self) -> Result<Vec<(ShardId, Lsn)>> {
        self.health = None;
        self.ask(Own::step_aside)?;
        let asked = Instant::now();
        while self.ask(|reactor| reactor.is_aside())?.contains(&false) {
            if asked.elapsed() > QUIET_MAX {
                return Err(Error::new("the drive that failed does not end what is under way on it")
                    .remedy("look for it in `dmesg`; try again, or restart the daemon"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // Dropped here, not on the reactors' threads.
        drop(self.ask(|reactor| reactor.replace_device(nowhere()))?);
        let mut held: Vec<_> = self.ask(|reactor| reactor.held().collect::<Vec<_>>())?.concat();
        held.sort_unstable();
        Ok(held)
    }

    fn recover(
        &mut self,
        opened: &OpenDevice,
        held: &[(ShardId, Lsn)],
        begun: Instant,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Resumed> {
        let mut notes = opened.notes().to_vec();
        let mut blocks = block_reader(opened)?;
        let superblock = Superblock::load(&mut blocks, opened.geometry().capacity_bytes)?;
        self.origin.check(&superblock, opened)?;
        let found = survey::survey(&mut blocks, &superblock, &mut |_, _| {});
        recover::check_survey(&found)?;
        let flights = self.files.open(&superblock, self.origin.sizes.pool_bytes(), &mut notes)?;
        let contents: Vec<_> = flights.iter().map(|flight| flight.contents()).collect();
        let settings = self.origin.settings;
        let recovered = each_shard(opened, &superblock, &found, progress, |blocks, shard, count| {
            let flight = contents[shard.index()].as_ref();
            read_log(blocks, &superblock, &found, shard, flight, settings.planted, count)
        })?;
        check_held(&recovered, held, settings.planted)?;
        let log_bytes = recovered.iter().map(|recovered| recovered.log_bytes).sum();
        let replayed_bytes = recovered.iter().map(|recovered| recovered.replay.len() as u64).sum();
        let Logs { logs, epoch } =
            recover::begin_logs(&mut blocks, &superblock, &found, recovered, flights, &settings)?;
        self.origin.superblock.epoch = epoch;
        self.hand_over(opened, logs, epoch, &mut notes)?;
        Ok(Resumed { tier: opened.tier(), epoch, log_bytes, replayed_bytes, notes, taken: begun.elapsed() })
    }

    /// Gives every reactor its new device and the logs of its shards.
    fn hand_over(&self, opened: &OpenDevice, logs: Vec<Log>, epoch: u64, notes: &mut Vec<String>) -> Result<()> {
        let mut devices = Vec::new();
        for (number, span) in self.threads.spans().enumerate() {
            devices.push(threads::device(opened, number, span, notes)?);
        }
        let mut parts = devices.into_iter().zip(deal(logs, self.threads.count()));
        self.threads.visit(|| {
            let (device, logs) = parts.next().expect("as many devices as reactors");
            Box::new(move |reactor: &mut Own| {
                reactor.replace_device(device);
                reactor.resume(logs, epoch);
            })
        })?;
        Ok(())
    }
}

impl Origin {
    /// Refuses another drive, and one that somebody else has written to.
    fn check(&self, superblock: &Superblock, opened: &OpenDevice) -> Result<()> {
        let ours = &self.superblock;
        let uuid = |namespace| uuid::Uuid::from_bytes(namespace);
        if superblock.namespace != ours.namespace || superblock.layout != ours.layout {
            let (found, wanted) = (uuid(superblock.namespace), uuid(ours.namespace));
            return Err(Error::new(format!("this is the namespace {found}, and the daemon serves {wanted}"))
                .remedy("name the drive that was there before"));
        }
        if let (Some(found), Some(wanted)) = (opened.wwid(), &self.wwid)
            && found != *wanted
        {
            return Err(Error::new(format!("this is the drive {found}, a copy: the daemon serves {wanted}"))
                .remedy("name the drive that was there before, or restart the daemon on this one"));
        }
        // One more: an attempt that did not end well may have raised it, and nobody else raises it by one without this
        // machine's flight recorders.
        if superblock.epoch != ours.epoch && superblock.epoch != ours.epoch + 1 {
            return Err(Error::new(format!(
                "another daemon wrote to it meanwhile: its epoch is {}, and was {}",
                superblock.epoch, ours.epoch
            ))
            .remedy("restart the daemon: what it holds in memory is not what the drive holds"));
        }
        let frame_bytes = self.sizes.frame_bytes;
        if (opened.operation_bytes_max() as usize) < frame_bytes {
            return Err(
                Error::new(format!("the drive takes no frame of {frame_bytes} B at once any more")).remedy(RESTART)
            );
        }
        Ok(())
    }
}

/// What stands in for the device meanwhile. Nothing is submitted to it: every shard is fenced.
fn nowhere() -> AnyDevice {
    AnyDevice::Memory(MemoryDevice::new(&MemoryDisk::new(0), 1))
}

/// Shard s belongs to reactor s modulo their number.
pub fn deal<T>(of_shards: Vec<T>, reactors: usize) -> Vec<Vec<T>> {
    let mut of_reactors: Vec<Vec<T>> = (0..reactors).map(|_| Vec::new()).collect();
    for (number, one) in of_shards.into_iter().enumerate() {
        of_reactors[number % reactors].push(one);
    }
    of_reactors
}

/// Reads one shard's log, and where it ends. Blocks.
///
/// # Errors
/// Damage to acknowledged data. Nothing was changed.
pub fn read_log<B: Blocks>(
    blocks: &mut B,
    superblock: &Superblock,
    survey: &Survey,
    shard: ShardId,
    flight: Option<&Contents>,
    planted: Planted,
    progress: &mut dyn FnMut(u64),
) -> Result<Recovered> {
    let flight = flight.filter(|_| !planted.is(Planted::ReturnUnproven));
    let mut walker = Walker::new(blocks, superblock, shard, &survey.chains[shard.index()]);
    recovery::recover(&mut walker, flight, planted, &mut |_, _| {}, progress)
        .map_err(|damage| Error::new(damage.to_string()).remedy(recover::LOOK_FIRST))
}

/// Proves that the logs, with what is written again, hold what memory holds: no less, and no more.
///
/// # Errors
/// The first shard where they do not.
pub fn check_held(recovered: &[Recovered], held: &[(ShardId, Lsn)], planted: Planted) -> Result<()> {
    if planted.is(Planted::ReturnUnproven) {
        return Ok(());
    }
    for (recovered, (shard, held_lsn)) in recovered.iter().zip(held) {
        let proven_lsn = Lsn(recovered.tail.next_lsn.0 - 1 + records_in(&recovered.replay));
        if proven_lsn != *held_lsn {
            return Err(Error::new(format!(
                "shard {shard}: the log and the flight recorder end at LSN {proven_lsn}, and the daemon holds all up to \
                 {held_lsn}"
            ))
            .remedy(RESTART));
        }
    }
    Ok(())
}

/// How many encoded records these are; each has an LSN of its own.
pub fn records_in(mut encoded: &[u8]) -> u64 {
    let mut records = 0;
    while !encoded.is_empty() {
        encoded = &encoded[record::claimed_bytes(encoded)..];
        records += 1;
    }
    records
}
