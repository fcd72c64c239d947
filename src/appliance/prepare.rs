//! Preparing a file or block device as a namespace: what `format` does.

use std::path::Path;

use crate::appliance::block_reader;
use crate::device::controller_name::Name;
use crate::device::occupant::{self, what_is_on};
use crate::device::open::{OpenDevice, OpenOptions, open};
use crate::device::prepare::preallocate_and_zero;
use crate::error::{Error, Result};
use crate::types::{DeviceAddress, DriveDurability};
use crate::wal::format;
use crate::wal::superblock::{CopyState, Superblock};

/// What a new namespace is to look like.
#[derive(Clone, Copy, Debug)]
pub struct FormatOptions {
    /// The size of a file to create or overwrite; `None`: the device or file as large as it is.
    pub capacity_bytes: Option<u64>,
    pub segment_bytes: u64,
    pub shards: u32,
    /// Overwrite what is there.
    pub force: bool,
}

/// Formats the file or block device at `path`. Blocks; `progress` gets the bytes zeroed and their total.
///
/// # Errors
/// What the device holds or why it cannot be used; without `force`, nothing of it was changed then.
pub fn format_device(path: &Path, options: &FormatOptions, progress: &mut dyn FnMut(u64, u64)) -> Result<Superblock> {
    // A controller that SPDK drives is no path.
    let controller = Name::parse(path).is_some();
    if controller && options.capacity_bytes.is_some() {
        return Err(Error::new(format!("{} is not a file", path.display()))
            .remedy("leave out --capacity: a namespace is used whole"));
    }
    if !controller && !path.exists() && options.capacity_bytes.is_none() {
        return Err(Error::new(format!("{} does not exist", path.display()))
            .remedy("name a device, or make a file with --capacity 1GiB"));
    }
    if (controller || path.exists()) && !options.force {
        refuse_occupied(path)?;
    }
    if let Some(capacity_bytes) = options.capacity_bytes {
        // Refuse before zeroing what would not do anyway.
        crate::wal::layout::Layout::plan(capacity_bytes, options.segment_bytes, options.shards)?;
        if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
            return Err(Error::new(format!("{} is not a file", path.display()))
                .remedy("leave out --capacity: a block device is used whole"));
        }
        preallocate_and_zero(path, capacity_bytes, progress)?;
    }
    // Whatever the configuration says of the drive, and it takes no time that counts.
    let durability = DriveDurability::Flush;
    let device = open(path, &OpenOptions { durability, ..OpenOptions::default() })?;
    let mut blocks = block_reader(&device)?;
    let namespace = *uuid::Uuid::new_v4().as_bytes();
    let device_bytes = device.geometry().capacity_bytes;
    format::format(&mut blocks, device_bytes, options.segment_bytes, options.shards, namespace)
}

/// Says what stands on a device that is not to be overwritten.
fn refuse_occupied(path: &Path) -> Result<()> {
    let found = match ours(path)? {
        Some(found) => Some(found),
        None if Name::parse(path).is_some() => what_is_read(path)?,
        None => what_is_on(path)?,
    };
    match found {
        Some(found) => Err(Error::new(format!("{} holds {found}", path.display()))
            .remedy("use another device, or --force if all of it may be lost")),
        None => Ok(()),
    }
}

/// A Forebay namespace, whole or damaged.
fn ours(path: &Path) -> Result<Option<String>> {
    let device = open(path, &OpenOptions { read_only: true, ..OpenOptions::default() })?;
    let bytes = device.geometry().capacity_bytes;
    if bytes < crate::wal::layout::HEAD_BYTES + crate::wal::layout::TAIL_BYTES {
        return Ok(None);
    }
    let copies = Superblock::read_copies(&mut block_reader(&device)?, bytes)?;
    let any = copies.iter().any(|(_, state)| *state != CopyState::Missing);
    Ok(any.then(|| "a Forebay namespace".to_owned()))
}

/// What stands on a device that only its own driver can read.
fn what_is_read(path: &Path) -> Result<Option<String>> {
    let device = open(path, &OpenOptions { read_only: true, ..OpenOptions::default() })?;
    let bytes = occupant::HEAD_BYTES.min(crate::bytes::index(device.geometry().capacity_bytes));
    let mut head = vec![0; bytes];
    block_reader(&device)?
        .read(DeviceAddress(0), &mut head)
        .map_err(|error| Error::new(error.to_string()).context(path.display()))?;
    Ok(occupant::contents(&head))
}

/// Formats a memory device.
///
/// # Errors
/// When it is too small.
pub fn format_memory(device: &OpenDevice, segment_bytes: u64, shards: u32) -> Result<Superblock> {
    let namespace = *uuid::Uuid::new_v4().as_bytes();
    let device_bytes = device.geometry().capacity_bytes;
    format::format(&mut block_reader(device)?, device_bytes, segment_bytes, shards, namespace)
}
