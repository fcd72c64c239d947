//! The flight recorders' files: found, or made.

use std::path::{Path, PathBuf};

use forebay_sys::shm::SharedMap;

use crate::bytes::index;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::types::ShardId;
use crate::wal::flight::{self, Contents, Flight, Owner};
use crate::wal::superblock::Superblock;

/// The recorder of every shard, each of at least `ring_bytes`, or detached ones when the configuration wants none.
///
/// # Errors
/// When a file cannot be had, or holds data and is too small for this configuration.
pub fn open(config: &Config, superblock: &Superblock, ring_bytes: usize) -> Result<Vec<Flight>> {
    let boot = boot_id()?;
    (0..superblock.layout.shards)
        .map(|shard| {
            let owner = Owner { namespace: superblock.namespace, shard: ShardId(shard), boot };
            if !config.flight_recorder() {
                return Ok(Flight::new(None, owner));
            }
            let path = path(&config.flight.directory, owner);
            open_one(&path, owner, ring_bytes)
                .map_err(|error| error.context(format_args!("flight recorder {}", path.display())))
        })
        .collect()
}

/// Where a shard's recorder stands.
fn path(directory: &Path, owner: Owner) -> PathBuf {
    let uuid = uuid::Uuid::from_bytes(owner.namespace);
    directory.join(format!("forebay-{uuid}-{}.flight", owner.shard))
}

fn open_one(path: &Path, owner: Owner, ring_bytes: usize) -> Result<Flight> {
    let wanted = flight::HEADER_BYTES + ring_bytes.next_multiple_of(4_096);
    let map = |bytes| {
        SharedMap::named(path, bytes).map_err(|error| {
            Error::new(format!("{error}"))
                .remedy("make room there, remove the file if its data is not needed, or set flight.directory")
        })
    };
    let present = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    if present > flight::HEADER_BYTES as u64 {
        let found = Flight::new(Some(map(index(present))?), owner);
        let records = found.contents().map_or(0, |contents| contents.records.len());
        if index(present) >= wanted {
            return Ok(found);
        }
        if records > 0 {
            return Err(Error::new(format!(
                "it holds {records} B that are not on the drive, in a ring of {present} B"
            ))
            .remedy("start once with the configuration that wrote it"));
        }
    }
    if present > 0 {
        std::fs::remove_file(path)?;
    }
    Ok(Flight::new(Some(map(wanted)?), owner))
}

/// What earlier daemons of this boot left in every shard's recorder. Makes no files, unlike `open`.
///
/// # Errors
/// When a file is there and cannot be read.
pub fn found(config: &Config, superblock: &Superblock) -> Result<Vec<Option<Contents>>> {
    let boot = boot_id()?;
    (0..superblock.layout.shards)
        .map(|shard| {
            let owner = Owner { namespace: superblock.namespace, shard: ShardId(shard), boot };
            let path = path(&config.flight.directory, owner);
            let bytes = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
            if !config.flight_recorder() || bytes <= flight::HEADER_BYTES as u64 {
                return Ok(None);
            }
            let map = SharedMap::named(&path, index(bytes)).map_err(|error| {
                Error::new(format!("flight recorder {}: {error}", path.display()))
                    .remedy("run this as the user of the daemon")
            })?;
            Ok(Flight::new(Some(map), owner).contents())
        })
        .collect()
}

/// Removes one shard's recorder, because what it says was given up.
///
/// # Errors
/// When the file is there and cannot be removed.
pub fn forget(config: &Config, namespace: [u8; 16], shard: ShardId) -> Result<()> {
    let path = path(&config.flight.directory, Owner { namespace, shard, boot: [0; 16] });
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::new(format!("remove the flight recorder {}: {error}", path.display()))
                .remedy("remove it by hand before the next start"))
        }
        _ => Ok(()),
    }
}

/// Removes the recorders of a namespace that was stopped in good order and will not be used again.
pub fn remove(config: &Config, namespace: [u8; 16], shards: u32) {
    for shard in 0..shards {
        let owner = Owner { namespace, shard: ShardId(shard), boot: [0; 16] };
        // There may be none.
        let _ = std::fs::remove_file(path(&config.flight.directory, owner));
    }
}

fn boot_id() -> Result<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|error| Error::new(format!("read the boot id: {error}")).remedy("mount /proc"))?;
    let uuid = uuid::Uuid::parse_str(text.trim()).map_err(|error| Error::new(format!("the boot id: {error}")))?;
    Ok(*uuid.as_bytes())
}
