//! The flight recorders' files: found, made, and removed when nothing in them is needed.

use std::path::{Path, PathBuf};

use forebay_sys::shm::SharedMap;

use crate::bytes::index;
use crate::config::Config;
use crate::device::open::OpenDevice;
use crate::error::{Error, Result};
use crate::types::ShardId;
use crate::wal::flight::{self, Contents, Flight, Owner};
use crate::wal::superblock::Superblock;

/// The recorders of one namespace on one device. A copy of the device has the same namespace, and recorders of its own.
#[derive(Clone, Debug)]
pub struct Files {
    /// None: the configuration wants no recorders.
    directory: Option<PathBuf>,
    namespace: [u8; 16],
    device: String,
}

impl Files {
    #[must_use]
    pub fn of(config: &Config, superblock: &Superblock, device: &OpenDevice) -> Files {
        let directory = config.flight_recorder().then(|| config.flight.directory.clone());
        Files { directory, namespace: superblock.namespace, device: device.identity() }
    }

    /// Where a shard's recorder stands.
    fn path(&self, shard: ShardId) -> Option<PathBuf> {
        let name = format!("{}{}-{shard}.flight", self.prefix(), self.device);
        self.directory.as_ref().map(|directory| directory.join(name))
    }

    fn prefix(&self) -> String {
        format!("forebay-{}-", uuid::Uuid::from_bytes(self.namespace))
    }

    /// The recorder of every shard, as an earlier daemon left it or new, or detached ones when the configuration wants
    /// none. One that holds nothing may be smaller than `ring_bytes`: see `enlarge`. `notes` gets a line for each that
    /// is ignored.
    ///
    /// # Errors
    /// When a file cannot be had, or holds data and is too small for this configuration. Files made on the way are gone.
    pub fn open(&self, superblock: &Superblock, ring_bytes: usize, notes: &mut Vec<String>) -> Result<Vec<Flight>> {
        let (mut flights, mut made) = (Vec::new(), Vec::new());
        notes.extend(self.others_note());
        for owner in owners(superblock)? {
            let Some(path) = self.path(owner.shard) else {
                flights.push(Flight::new(None, owner, superblock.epoch));
                continue;
            };
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

    /// What a person should know of recorders of this namespace that belong to another device.
    fn others_note(&self) -> Option<String> {
        let (directory, prefix) = (self.directory.as_ref()?, self.prefix());
        let own = format!("{prefix}{}-", self.device);
        let names =
            std::fs::read_dir(directory).ok()?.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let count = names.filter(|name| name.starts_with(&prefix) && !name.starts_with(&own)).count();
        (count > 0).then(|| {
            format!(
                "{count} flight recorders {prefix}* in {} are ignored: they belong to another copy of this namespace, or \
                 to this one before it was moved",
                directory.display()
            )
        })
    }

    /// Makes those anew that are too small, once recovery has read them. They hold no records: `open` saw to that.
    ///
    /// # Errors
    /// When there is no room for a file.
    pub fn enlarge(&self, superblock: &Superblock, ring_bytes: usize, flights: &mut [Flight]) -> Result<()> {
        for (owner, flight) in owners(superblock)?.zip(flights) {
            if let Some(path) = self.path(owner.shard).filter(|_| flight.ring_bytes() < ring_bytes as u64) {
                let in_context = |error: Error| error.context(format_args!("flight recorder {}", path.display()));
                std::fs::remove_file(&path).map_err(|error| in_context(error.into()))?;
                *flight = make(&path, owner, superblock, ring_bytes).map_err(in_context)?;
            }
        }
        Ok(())
    }

    /// What earlier daemons of this boot left in every shard's recorder. Makes no files, unlike `open`. `notes` gets a
    /// line for each that is ignored.
    ///
    /// # Errors
    /// When a file is there and cannot be read.
    pub fn found(&self, superblock: &Superblock, notes: &mut Vec<String>) -> Result<Vec<Option<Contents>>> {
        notes.extend(self.others_note());
        let look = |owner: Owner| {
            let path = self.path(owner.shard).filter(|path| file_bytes(path) > flight::HEADER_BYTES as u64);
            let Some(path) = path else { return Ok(None) };
            let map = SharedMap::named(&path, index(file_bytes(&path))).map_err(|error| {
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
    pub fn forget(&self, shard: ShardId) -> Result<()> {
        let Some(path) = self.path(shard) else { return Ok(()) };
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::new(format!("remove the flight recorder {}: {error}", path.display()))
                    .remedy("remove it by hand before the next start"))
            }
            _ => Ok(()),
        }
    }
}

fn owners(superblock: &Superblock) -> Result<impl Iterator<Item = Owner> + use<>> {
    let (boot, namespace) = (boot_id()?, superblock.namespace);
    Ok((0..superblock.layout.shards).map(move |shard| Owner { namespace, shard: ShardId(shard), boot }))
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

fn boot_id() -> Result<[u8; 16]> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(|error| Error::new(format!("read the boot id: {error}")).remedy("mount /proc"))?;
    let uuid = uuid::Uuid::parse_str(text.trim()).map_err(|error| Error::new(format!("the boot id: {error}")))?;
    Ok(*uuid.as_bytes())
}
