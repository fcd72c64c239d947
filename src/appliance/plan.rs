//! What a start is going to do, from the superblock, the device and the configuration. Changes nothing.

use super::sizes::Sizes;
use super::{block_reader, own};
use crate::config::Config;
use crate::device::any::AnyDevice;
use crate::device::blocks::BlockReader;
use crate::device::open::OpenDevice;
use crate::error::{Error, Result};
use crate::wal::superblock::Superblock;

/// Made before anything is taken or written.
pub struct Plan {
    pub superblock: Superblock,
    pub reactors: u32,
    /// Warnings and reasons, a line each.
    pub notes: Vec<String>,
    /// With frames that the drive takes whole.
    pub(super) config: Config,
    pub(super) sizes: Sizes,
}

impl Plan {
    /// Looks at a device that may be open to read only. Blocks for a few reads.
    ///
    /// # Errors
    /// Why a start would be refused: no superblock, another drive, a configuration that does not fit the namespace.
    pub fn of(config: &Config, device: &OpenDevice) -> Result<Plan> {
        Plan::read(config, device, &mut block_reader(device)?)
    }

    pub(super) fn read(config: &Config, device: &OpenDevice, blocks: &mut BlockReader<AnyDevice>) -> Result<Plan> {
        let superblock = own::load(blocks, device).map_err(|error| error.context(device.label()))?;
        let shards = superblock.layout.shards;
        let reactors = config.reactors.count().min(shards);
        let mut notes = device.notes().to_vec();
        notes.extend(own::note(&superblock, device));
        let config = fitted(config, device, &mut notes);
        notes.extend(fewer_note(&config, reactors, shards));
        let sizes = Sizes::of(&config, shards, reactors);
        sizes.check()?;
        if let Some(cause) = config.segment_too_small(superblock.layout.segment_bytes) {
            return Err(Error::new(cause).context(device.label()));
        }
        Ok(Plan { superblock, reactors, notes, config, sizes })
    }
}

/// The configuration with frames that the drive takes whole.
fn fitted(config: &Config, device: &OpenDevice, notes: &mut Vec<String>) -> Config {
    let mut config = config.clone();
    let bytes_max = u64::from(device.operation_bytes_max());
    if config.wal.frame_bytes_max.0 > bytes_max {
        config.wal.frame_bytes_max.0 = bytes_max;
        notes.push(format!(
            "frames of {} instead of wal.frame_bytes_max: the drive takes no more at once",
            config.wal.frame_bytes_max
        ));
    }
    config
}

/// What a person should know when there are fewer reactors than were asked for.
fn fewer_note(config: &Config, reactors: u32, shards: u32) -> Option<String> {
    let asked = config.reactors.count();
    (reactors < asked).then(|| format!("{reactors} reactors instead of {asked}: there are {shards} shards"))
}
