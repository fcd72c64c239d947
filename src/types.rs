//! Types of their own for the numbers that must not be mixed up.

use std::fmt;

const _: () = assert!(usize::BITS == 64, "Forebay runs on 64-bit machines only");

/// Log sequence number: the place of one record in the log of one shard. The first is 1; 0 means "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    pub const NONE: Lsn = Lsn(0);

    #[must_use]
    pub fn next(self) -> Lsn {
        Lsn(self.0 + 1)
    }
}

/// One of the independent logs of a namespace; fixed at format.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u32);

impl ShardId {
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A space or a stream, by the number that the catalog gave it. The first is 1; 0 means "none".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(pub u32);

impl ObjectId {
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// A byte offset on the device. Always a multiple of the block size where it names a structure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceAddress(pub u64);

impl DeviceAddress {
    /// No place: what begins a device is never a record.
    pub const NONE: DeviceAddress = DeviceAddress(0);

    #[must_use]
    pub fn plus(self, bytes: u64) -> DeviceAddress {
        DeviceAddress(self.0 + bytes)
    }
}

/// Which appliance it is, and whether all that it ever acknowledged led to what it holds: what a backup goes on from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    /// The namespace's UUID, made anew by every format.
    pub namespace: [u8; 16],
    /// How often `repair --cut` gave up acknowledged data.
    pub cuts: u32,
}

impl Lineage {
    /// Of what is no appliance: a test.
    pub const NONE: Lineage = Lineage { namespace: [0; 16], cuts: 0 };
}

/// A slot of the segment pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentIndex(pub u32);

macro_rules! display_inner {
    ($($name:ident),*) => { $(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    )* };
}
display_inner!(Lsn, ShardId, ObjectId, DeviceAddress, SegmentIndex);

/// The promise that an acknowledgement makes. Ordered: a later one promises more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Durability {
    /// Applied in memory. Lost with the daemon.
    Memory = 1,
    /// In the log buffer and the flight recorder. Survives kill -9 of the daemon; on the drive within the window.
    Buffered = 2,
    /// Durable on the drive, with everything before it in its shard.
    Strict = 3,
}

impl Durability {
    #[must_use]
    pub fn from_wire(value: u8) -> Option<Durability> {
        match value {
            1 => Some(Durability::Memory),
            2 => Some(Durability::Buffered),
            3 => Some(Durability::Strict),
            _ => None,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Durability::Memory => "memory",
            Durability::Buffered => "buffered",
            Durability::Strict => "strict",
        }
    }
}

impl std::str::FromStr for Durability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Durability::Memory, Durability::Buffered, Durability::Strict]
            .into_iter()
            .find(|d| d.name() == text)
            .ok_or_else(|| format!("unknown durability {text:?}; use memory, buffered or strict"))
    }
}

/// How clients compress the values of a space. The daemon stores what it is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Compression {
    /// Values are stored as they are.
    #[default]
    None = 0,
    Lz4 = 1,
    Zstd = 2,
    /// By zstd, a value that is written again against a base of its key: a space of `ring::client::DeltaSpace`.
    Delta = 3,
}

impl Compression {
    #[must_use]
    pub fn from_wire(value: u8) -> Option<Compression> {
        match value {
            0 => Some(Compression::None),
            1 => Some(Compression::Lz4),
            2 => Some(Compression::Zstd),
            3 => Some(Compression::Delta),
            _ => None,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Compression::None => "none",
            Compression::Lz4 => "lz4",
            Compression::Zstd => "zstd",
            Compression::Delta => "delta",
        }
    }
}

impl std::str::FromStr for Compression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Compression::None, Compression::Lz4, Compression::Zstd, Compression::Delta]
            .into_iter()
            .find(|compression| compression.name() == text)
            .ok_or_else(|| format!("unknown compression {text:?}; use none, lz4, zstd or delta"))
    }
}

/// Bytes of each page of a page space: a power of two, 4 KiB to 2 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PageSize {
    shift: u8,
}

impl PageSize {
    pub const BYTES_MIN: usize = 4 << 10;
    pub const BYTES_MAX: usize = 2 << 20;

    /// `None` when no page may have so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Option<PageSize> {
        let valid = bytes.is_power_of_two() && (Self::BYTES_MIN..=Self::BYTES_MAX).contains(&bytes);
        valid.then(|| PageSize { shift: bytes.trailing_zeros().to_le_bytes()[0] })
    }

    /// From what `to_wire` gave.
    #[must_use]
    pub fn from_wire(shift: u8) -> Option<PageSize> {
        PageSize::new(1_usize.checked_shl(u32::from(shift))?)
    }

    /// The power of two.
    #[must_use]
    pub fn to_wire(self) -> u8 {
        self.shift
    }

    #[must_use]
    pub const fn bytes(self) -> usize {
        1 << self.shift
    }
}

/// How the pages of a page space will be used: it chooses their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageHint {
    /// One at a time, of small records: 4 KiB, the block that a drive writes anyway.
    Point,
    /// Scattered, as the nodes of a tree: 16 KiB, what most engines have there.
    Random,
    /// One after another: 128 KiB, the largest that shares a frame of `wal.frame_bytes_max` with its header.
    Sequential,
}

impl PageHint {
    #[must_use]
    pub const fn page_size(self) -> PageSize {
        let shift = match self {
            PageHint::Point => 12,
            PageHint::Random => 14,
            PageHint::Sequential => 17,
        };
        PageSize { shift }
    }
}

impl std::str::FromStr for PageHint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "point" => Ok(PageHint::Point),
            "random" => Ok(PageHint::Random),
            "sequential" => Ok(PageHint::Sequential),
            _ => Err(format!("unknown hint {text:?}; use point, random or sequential")),
        }
    }
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ObjectKind {
    /// Key-value pairs.
    Space = 1,
    /// An append-only sequence of events.
    Stream = 2,
    /// Pages of one size, by number.
    Pages = 3,
}

impl ObjectKind {
    #[must_use]
    pub fn from_wire(value: u8) -> Option<ObjectKind> {
        match value {
            1 => Some(ObjectKind::Space),
            2 => Some(ObjectKind::Stream),
            3 => Some(ObjectKind::Pages),
            _ => None,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ObjectKind::Space => "space",
            ObjectKind::Stream => "stream",
            ObjectKind::Pages => "page space",
        }
    }
}

/// Which way to a drive to take; the best that works when left to itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "server", derive(serde::Deserialize, clap::ValueEnum), serde(rename_all = "lowercase"))]
pub enum TierChoice {
    /// The best that works.
    #[default]
    Auto,
    /// NVMe commands through io_uring; no other.
    Passthrough,
    /// Reads and writes through io_uring: the tiers `block` and `file`, by whose names it is found too.
    #[cfg_attr(feature = "server", value(aliases = ["block", "file"]), serde(alias = "block", alias = "file"))]
    Uring,
    /// `pwritev2(RWF_DSYNC)`. Slow; for containers that misreport io_uring.
    Blocking,
}

/// How a write is made durable on the drive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "server", derive(serde::Deserialize, clap::ValueEnum), serde(rename_all = "lowercase"))]
pub enum DriveDurability {
    /// The fastest that the drive says it honours: a plain write without a volatile cache, a write through it (FUA), a
    /// flush.
    #[default]
    Auto,
    /// A write, then a flush, whatever the drive says: for drives whose FUA lies or is slow.
    Flush,
}
