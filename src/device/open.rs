//! Opening a path: what it is, whether it may be used, and the best way to reach it.

mod choice;

use std::fs::{File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use forebay_sys::dma::{DmaRegion, DmaSpan, Pages};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::any::AnyDevice;
use super::blocking::BlockingDevice;
use super::controller_name::Name;
use super::drive::Drive;
use super::flush::FlushFailed;
use super::health;
use super::hwmon::Hwmon;
use super::identity::{DriveId, Identity};
use super::memory::{MemoryDevice, MemoryDisk};
use super::occupant;
use super::passthrough::Generic;
#[cfg(feature = "spdk")]
use super::spdk::attached::Attached;
use super::uring::{UringDevice, WritePath};
use super::{BLOCK_BYTES, Device, Geometry, Tier};
use crate::error::{Error, Result};
use crate::types::{DriveDurability, TierChoice};

const LOCK_INTERVAL: Duration = Duration::from_millis(5);

/// How long to wait for the lock of a process that is gone. The kernel gives it back when it has taken the process's
/// ring apart, and on a busy machine or a drive that stalls that may take seconds.
const DEAD_LOCK_WAIT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Operations that each reactor's device may have under way.
    pub operations_max: u32,
    /// For tools that only look. Several of them may, but none beside a daemon.
    pub read_only: bool,
    /// The way to take.
    pub tier: TierChoice,
    /// How a write is made durable.
    pub durability: DriveDurability,
    /// Tell the drive which blocks carry nothing any more, where it can be told.
    pub deallocate: bool,
    /// How long to wait for the lock of a process that lives: it may be about to end. For one that was killed this waits
    /// longer: the kernel holds its lock until the last write under way has ended, and reading before that could miss it.
    pub lock_wait: Duration,
    /// The most that `region` will be asked for, all together. SPDK without hugepages takes it at once.
    pub buffer_bytes: usize,
    /// Hugepages for SPDK, where there are enough of them.
    pub hugepages: bool,
    /// A command of SPDK's that takes longer means that the controller is gone.
    pub command_timeout: Duration,
}

impl Default for OpenOptions {
    fn default() -> OpenOptions {
        OpenOptions {
            operations_max: 64,
            read_only: false,
            tier: TierChoice::Auto,
            durability: DriveDurability::Auto,
            deallocate: true,
            lock_wait: Duration::from_secs(3),
            buffer_bytes: 64 << 20,
            hugepages: true,
            command_timeout: Duration::from_secs(10),
        }
    }
}

/// A device that is ours: locked against every other process until this is dropped.
pub struct OpenDevice {
    backing: Backing,
    geometry: Geometry,
    /// Empty for a file.
    identity: Identity,
    /// Of a whole drive.
    lba_bytes: Option<u32>,
    notes: Vec<String>,
}

enum Backing {
    /// `generic` is another way to the same namespace; `file` holds the lock of both.
    File {
        file: File,
        write_path: WritePath,
        durability: DriveDurability,
        drive: Option<Drive>,
        generic: Option<Generic>,
        flush_failed: FlushFailed,
        path: PathBuf,
    },
    Memory(MemoryDisk),
    #[cfg(feature = "spdk")]
    Spdk(Attached),
}

/// Opens the file or block device at `path`, locks it, and finds the best tier by a real read; or attaches the
/// controller of that name, see `controller_name`. Blocks.
///
/// # Errors
/// A path that is missing, of the wrong kind, read-only, too small, or in use by someone else.
pub fn open(path: &Path, options: &OpenOptions) -> Result<OpenDevice> {
    let opened = match Name::parse(path) {
        Some(name) => name.check().and_then(|()| OpenDevice::attach(&name, options)),
        None => OpenDevice::open(&node(path), options),
    };
    opened.map_err(|error| error.context(Identity::of_path(&node(path)).label(path.display())))
}

/// What is opened for a path: for a generic NVMe device the block device of the same namespace, else the path itself.
#[must_use]
pub fn node(path: &Path) -> PathBuf {
    path.metadata().ok().and_then(|metadata| block_of_generic(&metadata)).unwrap_or_else(|| path.to_owned())
}

impl OpenDevice {
    /// DRAM instead of a drive; every clone of `disk` shows the same bytes.
    #[must_use]
    pub fn memory(disk: &MemoryDisk, options: &OpenOptions) -> OpenDevice {
        let geometry = MemoryDevice::new(disk, options.operations_max).geometry();
        let notes = vec!["memory: nothing survives the daemon".to_owned()];
        let backing = Backing::Memory(disk.clone());
        OpenDevice { backing, geometry, identity: Identity::default(), lba_bytes: None, notes }
    }

    #[cfg(feature = "spdk")]
    fn attach(name: &Name, options: &OpenOptions) -> Result<OpenDevice> {
        let attached = Attached::attach(name, options)?;
        let (geometry, notes) = (attached.geometry(options.operations_max), attached.notes(name));
        let (identity, lba_bytes) = (attached.identity(), Some(attached.lba_bytes()));
        let opened = OpenDevice { backing: Backing::Spdk(attached), geometry, identity, lba_bytes, notes };
        opened.first_read(opened.device(None)?)?;
        Ok(opened)
    }

    #[cfg(not(feature = "spdk"))]
    fn attach(_name: &Name, _options: &OpenOptions) -> Result<OpenDevice> {
        Err(Error::new("a controller is driven by SPDK, which this build is without").remedy(
            "build with `cargo build --release --features spdk` (vendor/README.md), or name a file or block device",
        ))
    }

    fn open(path: &Path, options: &OpenOptions) -> Result<OpenDevice> {
        let metadata = std::fs::metadata(path).map_err(|error| explain(&error))?;
        let block = metadata.file_type().is_block_device();
        if !block && !metadata.is_file() {
            return Err(Error::new("neither a file, a block device, nor an NVMe namespace")
                .remedy("name one, or make a file with `format`"));
        }
        let (mut file, direct) = open_file(path, options, block)?;
        let capacity_bytes = capacity(&mut file)?;
        let drive = Drive::of(if block { metadata.rdev() } else { metadata.dev() });
        check_blocks(block, drive.as_ref())?;
        if let Some(Drive { partition: true, name, .. }) = &drive
            && block
            && occupant::is_our_partition(path)?
        {
            return Err(Error::new("the partition that marks a Forebay drive as used")
                .remedy(format!("name the whole drive, /dev/{name}")));
        }
        let durability = options.durability;
        let through = durability == DriveDurability::Auto && drive.as_ref().is_some_and(Drive::writes_through);
        let write_path = if through { WritePath::Through } else { WritePath::ThenFlush { lone: durability } };
        let geometry = Geometry {
            capacity_bytes,
            block_bytes: BLOCK_BYTES,
            operations_max: options.operations_max,
            tier: Tier::FileBlocking,
            deallocate_bytes_max: 0,
        };
        let identity = if block { Identity::of(metadata.rdev()) } else { Identity::default() };
        let whole = drive.as_ref().filter(|drive| block && !drive.partition);
        let lba_bytes = whole.map(|drive| drive.logical_block_bytes);
        let backing = Backing::File {
            file,
            write_path,
            durability,
            drive,
            generic: None,
            flush_failed: FlushFailed::default(),
            path: path.to_owned(),
        };
        let mut device = OpenDevice { backing, geometry, identity, lba_bytes, notes: Vec::new() };
        device.choose_tier(block, direct, options)?;
        Ok(device)
    }

    /// The path, for people.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.backing {
            Backing::File { path, .. } => path.display().to_string(),
            Backing::Memory(_) => "memory".to_owned(),
            #[cfg(feature = "spdk")]
            Backing::Spdk(attached) => attached.name.clone(),
        }
    }

    /// The same bytes as if they stood on this drive.
    #[cfg(test)]
    #[must_use]
    pub fn on_drive(mut self, drive: Option<DriveId>) -> OpenDevice {
        self.identity.drive = drive;
        self
    }

    /// The path with the drive behind it, for people.
    #[must_use]
    pub fn label(&self) -> String {
        self.identity.label(self.name())
    }

    /// The drive that this is or is a part of; None for a file, or where there is no serial number.
    #[must_use]
    pub fn drive(&self) -> Option<DriveId> {
        self.identity.drive
    }

    /// The PCI addresses of the drive's controllers, as far as they are known.
    #[must_use]
    pub fn controllers(&self) -> &[String] {
        &self.identity.controllers
    }

    /// The size of an LBA of a whole drive, which other tools look for partitions on. None for a file, memory, or a
    /// partition.
    #[must_use]
    pub fn lba_bytes(&self) -> Option<u32> {
        self.lba_bytes
    }

    /// Tells this device from a copy of it, in letters that a file's name may have: a file by its inode, a drive by its
    /// own identifier where it has one.
    #[must_use]
    pub fn identity(&self) -> String {
        let text = match &self.backing {
            Backing::File { file, path, .. } => match file.metadata() {
                Ok(metadata) if metadata.file_type().is_block_device() => self.wwid().unwrap_or_else(|| {
                    format!("{}.{}", rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()))
                }),
                Ok(metadata) => format!("{:x}.{:x}", metadata.dev(), metadata.ino()),
                Err(_) => path.display().to_string(),
            },
            Backing::Memory(_) => "memory".to_owned(),
            #[cfg(feature = "spdk")]
            Backing::Spdk(attached) => attached.name.clone(),
        };
        text.chars().map(|letter| if letter.is_ascii_alphanumeric() || letter == '.' { letter } else { '_' }).collect()
    }

    /// The drive's own identifier, with its serial number, where it has one.
    #[must_use]
    pub fn wwid(&self) -> Option<String> {
        match &self.backing {
            Backing::File { file, .. } => {
                let metadata = file.metadata().ok().filter(|metadata| metadata.file_type().is_block_device())?;
                let wwid = std::fs::read_to_string(super::drive::sysfs(metadata.rdev()).join("wwid")).ok()?;
                Some(wwid.trim().to_owned())
            }
            Backing::Memory(_) => None,
            #[cfg(feature = "spdk")]
            Backing::Spdk(attached) => Some(attached.wwid()),
        }
    }

    #[must_use]
    pub fn tier(&self) -> Tier {
        self.geometry.tier
    }

    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// The longest operation that reaches the drive as one command; a longer one would be split by someone, and a
    /// polled queue of the block tier cannot have that.
    #[must_use]
    pub fn operation_bytes_max(&self) -> u32 {
        match (&self.backing, self.geometry.tier) {
            (Backing::File { drive: Some(drive), .. }, Tier::Block { polled: true }) => {
                drive.transfer_bytes_max / BLOCK_BYTES * BLOCK_BYTES
            }
            _ => u32::MAX,
        }
    }

    /// Why a better tier was passed over, and what else is worth knowing. One line each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// How a write becomes durable here, for people.
    #[must_use]
    pub fn durability(&self) -> String {
        let Backing::File { write_path, durability, drive, generic, .. } = &self.backing else {
            return match &self.backing {
                #[cfg(feature = "spdk")]
                Backing::Spdk(attached) => attached.durability(),
                _ => "none: memory".to_owned(),
            };
        };
        let how = match (self.geometry.tier, generic, write_path) {
            (Tier::Passthrough { .. }, Some(generic), _) => generic.durability(),
            (Tier::FileBlocking, ..) if *durability == DriveDurability::Auto => "pwritev2(RWF_DSYNC)",
            (.., WritePath::Through) => "RWF_DSYNC",
            (.., WritePath::ThenFlush { .. }) => "write, then fdatasync",
        };
        match drive {
            None => format!("{how}; the drive is not known"),
            Some(Drive { name, volatile_cache: false, .. }) => format!("{how}; {name} has no volatile write cache"),
            Some(Drive { name, fua: true, .. }) => format!("{how}; {name} has a volatile write cache, and FUA"),
            Some(Drive { name, .. }) => format!("{how}; {name} has a volatile write cache, and no FUA"),
        }
    }

    /// Whether the drive is told of blocks that carry nothing any more, for people.
    #[must_use]
    pub fn deallocation(&self) -> &'static str {
        if self.geometry.deallocate_bytes_max > 0 { "deallocates what is given up" } else { "deallocates nothing" }
    }

    /// Whether completed writes stand in a cache that power loss empties, as the drive or else the kernel says; None where
    /// neither is known.
    #[must_use]
    pub fn volatile_cache(&self) -> Option<bool> {
        match &self.backing {
            Backing::File { generic: Some(generic), .. } => Some(generic.namespace.volatile_cache),
            Backing::File { drive, .. } => drive.as_ref().map(|drive| drive.volatile_cache),
            Backing::Memory(_) => Some(true),
            #[cfg(feature = "spdk")]
            Backing::Spdk(attached) => Some(attached.volatile_cache()),
        }
    }

    /// Where the drive is asked of its health; None where nobody answers.
    #[must_use]
    pub fn health(&self) -> Option<health::Source> {
        match &self.backing {
            Backing::File { file, drive: Some(drive), .. } if drive.is_nvme() => {
                file.try_clone().ok().map(|file| health::Source::Kernel(file, Hwmon::of(&drive.name)))
            }
            #[cfg(feature = "spdk")]
            Backing::Spdk(attached) => Some(attached.health()),
            Backing::File { .. } | Backing::Memory(_) => None,
        }
    }

    /// Memory for buffers that a device of this may be given. Blocks while it is populated.
    ///
    /// # Errors
    /// When there is not so much.
    pub fn region(&self, bytes: usize, pages: Pages) -> io::Result<DmaRegion> {
        match &self.backing {
            #[cfg(feature = "spdk")]
            Backing::Spdk(attached) => attached.region(bytes),
            Backing::File { .. } | Backing::Memory(_) => DmaRegion::allocate(bytes, pages),
        }
    }

    /// One device for one reactor. `span` is the region of the buffers that it will be given. Where the kernel has no
    /// locked memory left for one more ring, this one writes blocking: its geometry says so.
    ///
    /// # Errors
    /// What the kernel says when there is no room for one more ring or descriptor.
    pub fn device(&self, span: Option<&DmaSpan>) -> Result<AnyDevice> {
        self.reached_by(self.geometry.tier, span)
    }

    /// One device for a thread that reads much and shares its core: it waits for interrupts. Many that poll would
    /// starve each other, and a kernel that has to split a long polled read may lose sight of it (seen on 6.1).
    ///
    /// # Errors
    /// As `device`.
    pub fn reader(&self, span: Option<&DmaSpan>) -> Result<AnyDevice> {
        self.reached_by(self.geometry.tier.by_interrupts(), span)
    }

    fn reached_by(&self, tier: Tier, span: Option<&DmaSpan>) -> Result<AnyDevice> {
        match &self.backing {
            Backing::Memory(disk) => Ok(AnyDevice::Memory(MemoryDevice::new(disk, self.geometry.operations_max))),
            #[cfg(feature = "spdk")]
            Backing::Spdk(attached) => match attached.device(self.geometry) {
                Ok(device) => Ok(AnyDevice::Spdk(device)),
                Err(error) => Err(Error::new(format!("{}: {error}", attached.name))
                    .remedy("use fewer reactors, or look whether the controller still answers")),
            },
            Backing::File { .. } if self.geometry.tier == Tier::FileBlocking => self.blocking(),
            Backing::File { path, .. } => match self.ring(Geometry { tier, ..self.geometry }, span) {
                Ok(device) => Ok(device),
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOMEM) => self.blocking(),
                Err(error) => Err(Error::new(format!("{}: io_uring: {error}", path.display()))
                    .remedy("raise `ulimit -n` and `ulimit -l`")),
            },
        }
    }

    fn blocking(&self) -> Result<AnyDevice> {
        let Backing::File { file, durability, flush_failed, .. } = &self.backing else {
            return Err(Error::new("neither a file nor a block device").context(self.name()));
        };
        let file = file.try_clone().map_err(|error| explain(&error).context(self.name()))?;
        let geometry = Geometry { tier: Tier::FileBlocking, deallocate_bytes_max: 0, ..self.geometry };
        Ok(AnyDevice::Blocking(BlockingDevice::new(file, geometry, *durability, flush_failed.clone())))
    }

    /// A device of a tier that goes through io_uring.
    fn ring(&self, geometry: Geometry, span: Option<&DmaSpan>) -> io::Result<AnyDevice> {
        match (&self.backing, geometry.tier) {
            (Backing::File { file, generic: Some(generic), flush_failed, .. }, Tier::Passthrough { .. }) => {
                Ok(AnyDevice::Passthrough(generic.device(geometry, flush_failed, span, file)?))
            }
            (Backing::File { file, write_path, flush_failed, .. }, _) => Ok(AnyDevice::Uring(UringDevice::new(
                file.try_clone()?,
                geometry,
                *write_path,
                flush_failed.clone(),
                span,
            )?)),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// The block device of a `/dev/ngXnY`: both are the same namespace, and only the block device can be locked against
/// mounting.
fn block_of_generic(metadata: &Metadata) -> Option<PathBuf> {
    if !metadata.file_type().is_char_device() {
        return None;
    }
    let (major, minor) = (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    let link = std::fs::read_link(format!("/sys/dev/char/{major}:{minor}")).ok()?;
    let numbers = link.file_name()?.to_str()?.strip_prefix("ng")?;
    let block = PathBuf::from(format!("/dev/nvme{numbers}"));
    block.exists().then_some(block)
}

/// Opens with O_DIRECT where that is possible (false: it is not), and locks. A block device also exclusively: nobody may
/// mount it then, and nobody has.
fn open_file(path: &Path, options: &OpenOptions, block: bool) -> Result<(File, bool)> {
    let try_open = |flags: OFlags| {
        let flags = i32::try_from(flags.bits()).expect("open flags are an int");
        File::options().read(true).write(!options.read_only).custom_flags(flags).open(path)
    };
    let (file, direct) = match try_open(OFlags::DIRECT) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) && !block => {
            (try_open(OFlags::empty()).map_err(|error| explain(&error))?, false)
        }
        opened => (opened.map_err(|error| explain(&error))?, true),
    };
    // One of ours that ends, or was killed, gives the lock back before the exclusive use, a moment apart.
    lock(&file, options)?;
    if !block || options.read_only {
        return Ok((file, direct));
    }
    let started = Instant::now();
    loop {
        match try_open(OFlags::DIRECT | OFlags::EXCL) {
            Err(error)
                if Errno::from_io_error(&error) == Some(Errno::BUSY) && started.elapsed() < options.lock_wait =>
            {
                std::thread::sleep(LOCK_INTERVAL);
            }
            opened => {
                let exclusive = opened.map_err(|error| explain(&error))?;
                drop(file);
                lock(&exclusive, options)?;
                return Ok((exclusive, direct));
            }
        }
    }
}

fn lock(file: &File, options: &OpenOptions) -> Result<()> {
    let shared = FlockOperation::NonBlockingLockShared;
    let how = if options.read_only { shared } else { FlockOperation::NonBlockingLockExclusive };
    let started = Instant::now();
    loop {
        match flock(file, how) {
            Ok(()) => return Ok(()),
            Err(Errno::WOULDBLOCK) if started.elapsed() < options.lock_wait => std::thread::sleep(LOCK_INTERVAL),
            Err(Errno::WOULDBLOCK)
                if !options.lock_wait.is_zero()
                    && started.elapsed() < DEAD_LOCK_WAIT
                    && !is_held_by_the_living(file) =>
            {
                std::thread::sleep(LOCK_INTERVAL);
            }
            Err(Errno::WOULDBLOCK) => {
                return Err(Error::new("locked by another process")
                    .remedy("stop the daemon or tool that has it open (`fuser -v` names it), or use another device"));
            }
            Err(errno) => return Err(explain(&errno.into()).context("flock")),
        }
    }
}

/// Whether the kernel names a process that lives as the holder of a lock on this file.
fn is_held_by_the_living(file: &File) -> bool {
    let (Ok(metadata), Ok(locks)) = (file.metadata(), std::fs::read_to_string("/proc/locks")) else { return true };
    let place = format!(":{}", metadata.ino());
    // "1: FLOCK  ADVISORY  WRITE 4711 fe:00:131081 0 EOF"
    locks.lines().any(|line| {
        let mut fields = line.split_whitespace().skip_while(|field| *field != "FLOCK").skip(3);
        let (holder, at) = (fields.next(), fields.next());
        at.is_some_and(|at| at.ends_with(&place))
            && holder.is_some_and(|holder| Path::new("/proc").join(holder).exists())
    })
}

/// The size in whole blocks, of a file or a block device.
fn capacity(file: &mut File) -> Result<u64> {
    let bytes = file.seek(SeekFrom::End(0)).map_err(|error| explain(&error))?;
    let capacity_bytes = bytes - bytes % u64::from(BLOCK_BYTES);
    if capacity_bytes == 0 {
        return Err(Error::new(format!("too small: {bytes} B, less than one block of {BLOCK_BYTES} B"))
            .remedy("run `forebay format` on it with a size"));
    }
    Ok(capacity_bytes)
}

fn check_blocks(block: bool, drive: Option<&Drive>) -> Result<()> {
    match drive {
        Some(drive) if block && drive.logical_block_bytes > BLOCK_BYTES => Err(Error::new(format!(
            "{} has blocks of {} B; at most {BLOCK_BYTES} B can be used",
            drive.name, drive.logical_block_bytes
        ))
        .remedy("format the namespace with 512 B or 4 KiB blocks (`nvme format --lbaf`)")),
        _ => Ok(()),
    }
}

/// What an error of `open` means for who named the path.
fn explain(error: &io::Error) -> Error {
    let cause = Error::new(error.to_string());
    match Errno::from_io_error(error) {
        Some(Errno::NOENT) => cause.remedy("create it with `forebay format`"),
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => Error::new(format!("cannot be written: {error}"))
            .remedy("check its owner and mode, and that it is not read-only"),
        Some(Errno::BUSY) => {
            Error::new(format!("in use: {error}")).remedy("unmount it, and detach what holds it (`lsblk` shows both)")
        }
        _ => cause.remedy("name a file on a disk, or a block device (`lsblk` lists them)"),
    }
}

#[cfg(test)]
#[path = "open_tests.rs"]
mod tests;
