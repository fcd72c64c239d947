//! The offline tools: they open a device that no daemon runs on, look at it, and mend it.

use std::path::Path;

use crate::appliance::block_reader;
use crate::appliance::flights::Files;
use crate::appliance::own;
use crate::config::Config;
use crate::device::any::AnyDevice;
use crate::device::blocks::BlockReader;
use crate::device::open::{OpenDevice, OpenOptions, open};
use crate::error::{Error, Result};
use crate::types::{DriveDurability, ShardId};
use crate::wal::flight::Contents;
use crate::wal::repair::{self, Plan};
use crate::wal::superblock::Superblock;
use crate::wal::survey::{self, Survey};
use crate::wal::verify::{self, Report, Segments};

/// A device under a lock, and its blocks.
pub struct Offline {
    pub blocks: BlockReader<AnyDevice>,
    pub device_bytes: u64,
    device: OpenDevice,
}

impl Offline {
    /// Opens a device that is formatted. Blocks while another process may be about to let it go.
    ///
    /// # Errors
    /// A device that cannot be used, or that a daemon or another tool has open.
    pub fn open(path: &Path, read_only: bool) -> Result<Offline> {
        let device =
            open(path, &OpenOptions { read_only, durability: DriveDurability::Flush, ..OpenOptions::default() })?;
        let (blocks, device_bytes) = (block_reader(&device)?, device.geometry().capacity_bytes);
        Ok(Offline { blocks, device_bytes, device })
    }

    /// The superblock and the segments of a namespace.
    ///
    /// # Errors
    /// When no superblock copy can be used.
    pub fn survey(&mut self, progress: &mut dyn FnMut(&str)) -> Result<(Superblock, Survey)> {
        let superblock = Superblock::load(&mut self.blocks, self.device_bytes)?;
        let survey = survey_with(&mut self.blocks, &superblock, progress);
        Ok((superblock, survey))
    }
}

fn survey_with(blocks: &mut BlockReader<AnyDevice>, superblock: &Superblock, progress: &mut dyn FnMut(&str)) -> Survey {
    survey::survey(blocks, superblock, &mut |done, total| progress(&format!("{done} of {total} segment headers read")))
}

/// Reads everything on a device. Blocks; `progress` gets a line for a person after every piece.
///
/// # Errors
/// When the device cannot be read at all. What is wrong with the namespace is in the report.
pub fn verify(config: &Config, path: &Path, progress: &mut dyn FnMut(&str)) -> Result<Report> {
    let mut offline = Offline::open(path, true)?;
    let superblocks = verify::superblocks(&mut offline.blocks, offline.device_bytes)
        .map_err(|error| error.context(path.display()))?;
    let Ok(superblock) = superblocks.newest else {
        return Ok(Report { superblocks, segments: Segments::default(), shards: Vec::new(), notes: Vec::new() });
    };
    let mut survey = survey_with(&mut offline.blocks, &superblock, progress);
    let mut notes = Vec::from_iter(own::other_drive(&superblock, &offline.device));
    let flights = Files::of(config, &superblock, &offline.device).found(&superblock, &mut notes)?;
    let mut shards = Vec::new();
    for (number, flight) in (0..superblock.layout.shards).zip(&flights) {
        let mut read = |bytes: u64| progress(&format!("shard {number}: {} MiB of log read", bytes >> 20));
        let shard = ShardId(number);
        let blocks = &mut offline.blocks;
        let (report, missing) = verify::shard(blocks, &superblock, &survey, shard, flight.as_ref(), &mut read);
        shards.push(report);
        survey.damage.extend(missing);
    }
    let segments = Segments { total: superblock.layout.segments, free: survey.free.len(), damage: survey.damage };
    Ok(Report { superblocks, segments, shards, notes })
}

/// What to mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Superblock copies, from the newest one.
    Superblocks,
    /// Segment headers, from the frames behind them.
    SegmentHeaders,
    /// The drive that the superblock names: this one from now on.
    Adopt,
    /// Give up a shard's log from its damaged place on.
    Cut(ShardId),
}

/// A repair that is decided and not begun. The device stays locked.
pub struct Repair {
    offline: Offline,
    superblock: Option<Superblock>,
    pub plan: Plan,
}

impl Repair {
    /// Finds out what a repair would do. Changes nothing. `carry_out` can follow only when not `read_only`.
    ///
    /// # Errors
    /// When it cannot be done, with what can.
    pub fn plan(
        config: &Config,
        path: &Path,
        choice: Choice,
        read_only: bool,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Repair> {
        let mut offline = Offline::open(path, read_only)?;
        let label = offline.device.label();
        let in_context = |error: Error| error.context(&label);
        if choice == Choice::Adopt {
            let drive = offline.device.drive();
            let plan = repair::adopt(&mut offline.blocks, offline.device_bytes, drive).map_err(in_context)?;
            return Ok(Repair { offline, superblock: None, plan });
        }
        own::load(&mut offline.blocks, &offline.device).map_err(in_context)?;
        if choice == Choice::Superblocks {
            let plan = repair::superblocks(&mut offline.blocks, offline.device_bytes).map_err(in_context)?;
            return Ok(Repair { offline, superblock: None, plan });
        }
        let (superblock, survey) = offline.survey(progress).map_err(in_context)?;
        let plan = match choice {
            Choice::Cut(shard) => {
                let mut notes = Vec::new();
                let flights = Files::of(config, &superblock, &offline.device).found(&superblock, &mut notes)?;
                let flight: Option<&Contents> = flights.get(shard.index()).and_then(Option::as_ref);
                let mut plan =
                    repair::cut(&mut offline.blocks, &superblock, &survey, shard, flight).map_err(in_context)?;
                plan.notes.append(&mut notes);
                plan
            }
            _ => repair::segment_headers(&mut offline.blocks, &superblock, &survey),
        };
        Ok(Repair { offline, superblock: Some(superblock), plan })
    }

    /// Does it. Blocks until it is durable.
    ///
    /// # Errors
    /// The first step that failed; those before it are done.
    pub fn carry_out(mut self, config: &Config) -> Result<()> {
        self.plan.carry_out(&mut self.offline.blocks)?;
        if let (Some(shard), Some(superblock)) = (self.plan.forget_flight, self.superblock) {
            Files::of(config, &superblock, &self.offline.device).forget(shard)?;
        }
        Ok(())
    }
}
