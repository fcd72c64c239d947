//! Preparing a file or block device as a namespace: what `format` does.

use std::path::Path;

use crate::appliance::block_reader;
use crate::bytes::index;
use crate::device::any::AnyDevice;
use crate::device::blocks::BlockReader;
use crate::device::controller_name::Name;
use crate::device::identity::Identity;
use crate::device::occupant::{self, Ends};
use crate::device::open::{OpenDevice, OpenOptions, node, open};
use crate::device::partition_table;
use crate::device::prepare::preallocate_and_zero;
use crate::error::{Error, Result};
use crate::types::{DeviceAddress, DriveDurability};
use crate::wal::blocks::Blocks;
use crate::wal::format;
use crate::wal::layout::{Layout, PARTITION_TABLE_BYTES};
use crate::wal::superblock::Superblock;

/// How large the segments of a new namespace are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentSize {
    Bytes(u64),
    /// What suits the device, and at least this power of two: see `Layout::segment_bytes_for`.
    Suiting {
        bytes_min: u64,
    },
}

impl SegmentSize {
    fn on(self, device_bytes: u64, shards: u32) -> u64 {
        match self {
            SegmentSize::Bytes(bytes) => bytes,
            SegmentSize::Suiting { bytes_min } => Layout::segment_bytes_for(device_bytes, shards, bytes_min),
        }
    }
}

/// What a new namespace is to look like.
#[derive(Clone, Copy, Debug)]
pub struct FormatOptions {
    /// The size of a file to create or overwrite; `None`: the device or file as large as it is.
    pub capacity_bytes: Option<u64>,
    pub segment_size: SegmentSize,
    pub shards: u32,
    /// Overwrite what is there.
    pub force: bool,
}

/// What `format` made.
#[derive(Clone, Debug)]
pub struct Formatted {
    pub superblock: Superblock,
    /// The device, with the drive behind it, for people.
    pub label: String,
    /// The PCI addresses of the drive's controllers, as far as they are known.
    pub controllers: Vec<String>,
}

/// Formats the file or block device at `path`. Blocks; `progress` gets the bytes zeroed and their total.
///
/// # Errors
/// What the device holds or why it cannot be used; nothing of it was changed then. With `force` only what uses it counts.
pub fn format_device(path: &Path, options: &FormatOptions, progress: &mut dyn FnMut(u64, u64)) -> Result<Formatted> {
    let path = &node(path);
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
    if !controller && path.exists() {
        refuse_used(path)?;
    }
    if let Some(capacity_bytes) = options.capacity_bytes {
        create_file(path, capacity_bytes, options, progress)?;
    }
    // From here on nobody else can begin to use it. Whatever the configuration says of the drive, and it takes no time that counts.
    let durability = DriveDurability::Flush;
    let device = open(path, &OpenOptions { durability, ..OpenOptions::default() })?;
    let mut blocks = block_reader(&device)?;
    if !options.force && options.capacity_bytes.is_none() {
        let found = if controller { what_is_read(&mut blocks, &device)? } else { occupant::what_is_on(path)? };
        refuse_occupied(&device.label(), found)?;
    }
    let device_bytes = device.geometry().capacity_bytes;
    let (segment_bytes, shards) = (options.segment_size.on(device_bytes, options.shards), options.shards);
    let layout = Layout::plan(device_bytes, segment_bytes, shards)?;
    let namespace = *uuid::Uuid::new_v4().as_bytes();
    if let Some(lba_bytes) = device.lba_bytes().filter(|lba_bytes| partition_table::fits(*lba_bytes)) {
        let capacity_bytes = layout.capacity_bytes;
        claim(&mut blocks, capacity_bytes, lba_bytes, namespace).map_err(|error| error.context(device.label()))?;
    }
    let superblock = format::format(&mut blocks, device_bytes, segment_bytes, shards, namespace, device.drive())
        .map_err(|error| error.context(device.label()))?;
    Ok(Formatted { superblock, label: device.label(), controllers: device.controllers().to_vec() })
}

/// Makes the file, or one of this size of what is there.
fn create_file(
    path: &Path,
    capacity_bytes: u64,
    options: &FormatOptions,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    // Refuse before zeroing what would not do anyway.
    Layout::plan(capacity_bytes, options.segment_size.on(capacity_bytes, options.shards), options.shards)?;
    if path.metadata().is_ok_and(|metadata| !metadata.is_file()) {
        return Err(Error::new(format!("{} is not a file", path.display()))
            .remedy("leave out --capacity: a block device is used whole"));
    }
    if path.exists() && !options.force {
        refuse_occupied(&path.display().to_string(), occupant::what_is_on(path)?)?;
    }
    preallocate_and_zero(path, capacity_bytes, progress)
}

/// Refuses what the kernel uses, whatever was forced.
fn refuse_used(path: &Path) -> Result<()> {
    let Some(user) = occupant::in_use(path)? else { return Ok(()) };
    let label = Identity::of_path(path).label(path.display());
    Err(Error::new(format!("{label} is in use: it holds {user}"))
        .remedy("release it first (`lsblk` shows all of it), or use another device"))
}

/// Says what stands on a device that is not to be overwritten.
fn refuse_occupied(label: &str, found: Option<String>) -> Result<()> {
    let Some(found) = found else { return Ok(()) };
    Err(Error::new(format!("{label} holds {found}")).remedy("use another device, or --force if all of it may be lost"))
}

/// What stands on a device that only its own driver can read.
fn what_is_read(blocks: &mut BlockReader<AnyDevice>, device: &OpenDevice) -> Result<Option<String>> {
    let device_bytes = device.geometry().capacity_bytes;
    let bytes = occupant::END_BYTES.min(index(device_bytes));
    let (mut head, mut tail) = (vec![0; bytes], vec![0; bytes]);
    for (at, end) in [(0, &mut head), (device_bytes - bytes as u64, &mut tail)] {
        let read = blocks.read(DeviceAddress(at), end);
        read.map_err(|error| Error::new(format!("read at address {at}: {error}")).context(device.label()))?;
    }
    Ok(Ends { head, tail, device_bytes }.contents())
}

/// Clears both ends of a raw drive, so that no tool finds there what was, and writes the table that says whose it is.
/// Before the superblocks: an earlier owner's table must not stand beside them, whenever this is cut off.
fn claim(blocks: &mut impl Blocks, capacity_bytes: u64, lba_bytes: u32, namespace: [u8; 16]) -> Result<()> {
    let table = partition_table::protective(capacity_bytes, lba_bytes, PARTITION_TABLE_BYTES, namespace)?;
    let zeros = vec![0; occupant::END_BYTES.min(index(capacity_bytes))];
    let last = |bytes: &[u8]| capacity_bytes - bytes.len() as u64;
    let writes = [(last(&zeros), &zeros), (0, &zeros), (last(&table.tail), &table.tail), (0, &table.head)];
    for (at, bytes) in writes {
        blocks.write(DeviceAddress(at), bytes).map_err(|error| {
            Error::new(format!("write the partition table at address {at}: {error}"))
                .remedy("check the device and its log (dmesg)")
        })?;
    }
    Ok(())
}

/// Formats a memory device.
///
/// # Errors
/// When it is too small.
pub fn format_memory(device: &OpenDevice, segment_bytes: u64, shards: u32) -> Result<Superblock> {
    let namespace = *uuid::Uuid::new_v4().as_bytes();
    let device_bytes = device.geometry().capacity_bytes;
    format::format(&mut block_reader(device)?, device_bytes, segment_bytes, shards, namespace, device.drive())
}
