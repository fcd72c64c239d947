//! The flight recorders' files: found, made, and removed when nothing in them is needed.

use std::path::{Path, PathBuf};

use forebay_sys::shm::SharedMap;

use crate::bytes::index;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::types::ShardId;
use crate::wal::flight::{self, Contents, Flight, Owner};
use crate::wal::superblock::Superblock;

/// The recorder of every shard, as an earlier daemon left it or new, or detached ones when the configuration wants
/// none. One that holds nothing may be smaller than `ring_bytes`: see `enlarge`. `notes` gets a line for each that is
/// ignored.
///
/// # Errors
/// When a file cannot be had, or holds data and is too small for this configuration. Files made on the way are gone.
pub fn open(
    config: &Config,
    superblock: &Superblock,
    ring_bytes: usize,
    notes: &mut Vec<String>,
) -> Result<Vec<Flight>> {
    let owners = owners(superblock)?;
    if !config.flight_recorder() {
        return Ok(owners.map(|owner| Flight::new(None, owner, superblock.epoch)).collect());
    }
    let (mut flights, mut made) = (Vec::new(), Vec::new());
    for owner in owners {
        let path = path(&config.flight.directory, owner.namespace, owner.shard);
        let opened = match file_bytes(&path) {
            0 => make(&path, owner, superblock, ring_bytes).inspect(|_| made.push(path.clone())),
            bytes => find(&path, owner, superblock, bytes, ring_bytes),
        };
        match opened {
            Ok(flight) => {
                notes.extend(stale_note(&path, &flight, superblock));
                flights.push(flight);
            }
            Err(error) => {
                made.iter().for_each(|path| _ = std::fs::remove_file(path));
                return Err(error.context(format_args!("flight recorder {}", path.display())));
            }
        }
    }
    Ok(flights)
}

/// Makes those anew that are too small, once recovery has read them. They hold no records: `open` saw to that.
///
/// # Errors
/// When there is no room for a file.
pub fn enlarge(config: &Config, superblock: &Superblock, ring_bytes: usize, flights: &mut [Flight]) -> Result<()> {
    for (owner, flight) in owners(superblock)?.zip(flights) {
        if config.flight_recorder() && flight.ring_bytes() < ring_bytes as u64 {
            let path = path(&config.flight.directory, owner.namespace, owner.shard);
            let in_context = |error: Error| error.context(format_args!("flight recorder {}", path.display()));
            std::fs::remove_file(&path).map_err(|error| in_context(error.into()))?;
            *flight = make(&path, owner, superblock, ring_bytes).map_err(in_context)?;
        }
    }
    Ok(())
}

fn owners(superblock: &Superblock) -> Result<impl Iterator<Item = Owner> + use<>> {
    let (boot, namespace) = (boot_id()?, superblock.namespace);
    Ok((0..superblock.layout.shards).map(move |shard| Owner { namespace, shard: ShardId(shard), boot }))
}

/// Where a shard's recorder stands.
fn path(directory: &Path, namespace: [u8; 16], shard: ShardId) -> PathBuf {
    let uuid = uuid::Uuid::from_bytes(namespace);
    directory.join(format!("forebay-{uuid}-{shard}.flight"))
}

fn file_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |metadata| metadata.len())
}

fn make(path: &Path, owner: Owner, superblock: &Superblock, ring_bytes: usize) -> Result<Flight> {
    let bytes = flight::HEADER_BYTES + ring_bytes.next_multiple_of(4_096);
    let map = SharedMap::named(path, bytes).map_err(|error| {
        Error::new(format!("{bytes} B of memory: {error}"))
            .remedy("make room there, or set flight.directory to another place, or to \"\" for no flight recorder")
    })?;
    Ok(Flight::new(Some(map), owner, superblock.epoch))
}

fn find(path: &Path, owner: Owner, superblock: &Superblock, bytes: u64, ring_bytes: usize) -> Result<Flight> {
    if bytes <= flight::HEADER_BYTES as u64 {
        std::fs::remove_file(path)?;
        return make(path, owner, superblock, ring_bytes);
    }
    let map = SharedMap::named(path, index(bytes))
        .map_err(|error| Error::new(error.to_string()).remedy("start as the user that it belongs to"))?;
    let found = Flight::new(Some(map), owner, superblock.epoch);
    let held_bytes = found.contents().map_or(0, |contents| contents.records.len());
    if held_bytes > 0 && found.ring_bytes() < ring_bytes as u64 {
        return Err(Error::new(format!(
            "it holds {held_bytes} B of records that are not on the drive, and its ring of {} B is too small for this \
             configuration, which needs {ring_bytes} B",
            found.ring_bytes()
        ))
        .remedy("start and stop once with the configuration that wrote it (its reactors.count, wal and limits), then use this one"));
    }
    Ok(found)
}

/// What a person should know of a recorder that is ignored.
fn stale_note(path: &Path, flight: &Flight, superblock: &Superblock) -> Option<String> {
    let (epoch, now) = (flight.stale_epoch()?, superblock.epoch);
    Some(format!(
        "flight recorder {} is ignored: it is of epoch {epoch}, and the log went on without it to epoch {now}",
        path.display()
    ))
}

/// What earlier daemons of this boot left in every shard's recorder. Makes no files, unlike `open`. `notes` gets a line
/// for each that is ignored.
///
/// # Errors
/// When a file is there and cannot be read.
pub fn found(config: &Config, superblock: &Superblock, notes: &mut Vec<String>) -> Result<Vec<Option<Contents>>> {
    let look = |owner: Owner| {
        let path = path(&config.flight.directory, owner.namespace, owner.shard);
        let bytes = file_bytes(&path);
        if !config.flight_recorder() || bytes <= flight::HEADER_BYTES as u64 {
            return Ok(None);
        }
        let map = SharedMap::named(&path, index(bytes)).map_err(|error| {
            Error::new(format!("flight recorder {}: {error}", path.display()))
                .remedy("run this as the user of the daemon")
        })?;
        let flight = Flight::new(Some(map), owner, superblock.epoch);
        notes.extend(stale_note(&path, &flight, superblock));
        Ok(flight.contents())
    };
    owners(superblock)?.map(look).collect()
}

/// Removes one shard's recorder, because nothing in it is needed or what it says was given up.
///
/// # Errors
/// When the file is there and cannot be removed.
pub fn forget(directory: &Path, namespace: [u8; 16], shard: ShardId) -> Result<()> {
    let path = path(directory, namespace, shard);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::new(format!("remove the flight recorder {}: {error}", path.display()))
                .remedy("remove it by hand before the next start"))
        }
        _ => Ok(()),
    }
}

fn boot_id() -> Result<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|error| Error::new(format!("read the boot id: {error}")).remedy("mount /proc"))?;
    let uuid = uuid::Uuid::parse_str(text.trim()).map_err(|error| Error::new(format!("the boot id: {error}")))?;
    Ok(*uuid.as_bytes())
}
