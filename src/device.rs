//! A drive as the reactor sees it: operations go in by value, completions come out by value.

pub mod any;
pub mod blocking;
pub mod blocks;
pub mod controller_name;
pub mod drive;
pub mod flush;
pub mod health;
pub mod hugetlbfs;
pub mod hwmon;
pub mod identity;
mod lone;
pub mod memory;
pub mod nvme;
pub mod nvme_status;
pub mod occupant;
pub mod open;
pub mod partition_table;
pub mod passthrough;
pub mod prepare;
#[cfg(test)]
mod scratch;
#[cfg(feature = "spdk")]
pub mod spdk;
pub mod uring;
pub mod watched;

use crate::buffer::Buffer;
use crate::types::DeviceAddress;
use nvme_status::NvmeStatus;

/// The block of every device here: what O_DIRECT can always transfer, and what drives write whole.
pub const BLOCK_BYTES: u32 = 4096;

const EIO: i32 = 5;
const ENXIO: i32 = 6;
const ENODEV: i32 = 19;
const EINVAL: i32 = 22;

/// How a device is reached, best first; always reported, see docs/architecture.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// SPDK's NVMe driver, on a controller of its own. Polled, without system calls on PCIe and vfio-user.
    Spdk,
    /// NVMe commands through io_uring, to a namespace of a controller that the kernel owns.
    Passthrough { polled: bool },
    /// io_uring on a block device, O_DIRECT; `polled` where the queue really polls.
    Block { polled: bool },
    /// io_uring on a preallocated file, O_DIRECT.
    File,
    /// `pwritev2(RWF_DSYNC)` on a file or block device, where io_uring is refused. Blocks its reactor.
    FileBlocking,
    /// DRAM. For tests and upper bounds.
    Memory,
}

impl Tier {
    /// The same way without polling.
    #[must_use]
    pub fn by_interrupts(self) -> Tier {
        match self {
            Tier::Passthrough { .. } => Tier::Passthrough { polled: false },
            Tier::Block { .. } => Tier::Block { polled: false },
            other => other,
        }
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Tier::Spdk => "spdk (NVMe queue pairs in user space, polled)",
            Tier::Passthrough { polled: true } => "passthrough (NVMe commands by io_uring, IOPOLL)",
            Tier::Passthrough { polled: false } => "passthrough (NVMe commands by io_uring, interrupts)",
            Tier::Block { polled: true } => "block (io_uring, O_DIRECT, IOPOLL)",
            Tier::Block { polled: false } => "block (io_uring, O_DIRECT, interrupts)",
            Tier::File => "file (io_uring, O_DIRECT)",
            Tier::FileBlocking => "file (pwritev2, blocking)",
            Tier::Memory => "memory",
        }
    }
}

/// What a device can do; asked once, when a reactor starts.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    pub capacity_bytes: u64,
    /// Addresses and lengths are multiples of this. At most 4,096.
    pub block_bytes: u32,
    /// Operations that may be under way at once.
    pub operations_max: u32,
    pub tier: Tier,
    /// The most that one `Deallocate` names, in whole blocks. 0: the drive cannot, or is not to be told.
    pub deallocate_bytes_max: u32,
}

/// One operation. `buffer[..bytes]` is written to, or filled from, `address`. `Deallocate` transfers nothing of it: the
/// device may use one block of the buffer for itself.
#[derive(Debug)]
pub struct Operation {
    /// Comes back with the completion; the device does not look at it.
    pub tag: u64,
    pub kind: OperationKind,
    pub address: DeviceAddress,
    /// A multiple of the block size; at most the buffer's length, but for `Deallocate`.
    pub bytes: u32,
    pub buffer: Buffer,
}

impl Operation {
    /// What every device refuses before it reaches the drive: no bytes, not whole blocks, beyond the buffer or the device.
    fn check(&self, capacity_bytes: u64) -> Result<(), DeviceError> {
        let whole = self.bytes.is_multiple_of(BLOCK_BYTES) && self.address.0.is_multiple_of(u64::from(BLOCK_BYTES));
        let fits = match self.kind {
            OperationKind::Read | OperationKind::WriteDurable => self.bytes as usize <= self.buffer.len(),
            OperationKind::Deallocate => self.buffer.len() >= BLOCK_BYTES as usize,
        };
        let inside = self.address.0.checked_add(u64::from(self.bytes)).is_some_and(|end| end <= capacity_bytes);
        if whole && fits && inside && self.bytes > 0 { Ok(()) } else { Err(DeviceError::INVALID) }
    }

    /// Parts it from its buffer.
    fn split(self) -> (Head, Buffer) {
        let Operation { tag, kind, address, bytes, buffer } = self;
        (Head { tag, kind, address, bytes }, buffer)
    }
}

/// An operation without its buffer, which a queue owns while it is under way.
#[derive(Clone, Copy, Debug)]
struct Head {
    tag: u64,
    kind: OperationKind,
    address: DeviceAddress,
    bytes: u32,
}

impl Head {
    /// The operation again.
    fn with(self, buffer: Buffer) -> Operation {
        let Head { tag, kind, address, bytes } = self;
        Operation { tag, kind, address, bytes, buffer }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationKind {
    Read,
    /// Durable on the drive, through any volatile write cache, when it completes.
    WriteDurable,
    /// These blocks carry nothing: until they are written again they read as what they held, or as anything else. Only
    /// where `Geometry::deallocate_bytes_max` is not 0.
    Deallocate,
}

/// An operation that ended, with its buffer.
#[derive(Debug)]
pub struct Completion {
    pub operation: Operation,
    pub result: Result<(), DeviceError>,
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceError {
    Errno(i32),
    Short {
        bytes: u32,
    },
    /// What the drive answered.
    Nvme(NvmeStatus),
    /// The device is gone.
    Vanished,
    /// A file is shorter than when it was opened, or nobody could open it again: somebody truncated or deleted it.
    NotWhole,
}

impl DeviceError {
    /// EINVAL: unaligned, empty, longer than its buffer, or outside the device.
    pub const INVALID: DeviceError = DeviceError::Errno(EINVAL);
}

impl From<&std::io::Error> for DeviceError {
    fn from(error: &std::io::Error) -> DeviceError {
        match error.raw_os_error() {
            Some(ENODEV | ENXIO) => DeviceError::Vanished,
            Some(errno) => DeviceError::Errno(errno),
            None => DeviceError::Errno(EIO),
        }
    }
}

impl std::fmt::Display for DeviceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeviceError::Errno(errno) => write!(f, "{}", std::io::Error::from_raw_os_error(*errno)),
            DeviceError::Short { bytes } => write!(f, "short transfer of {bytes} B"),
            DeviceError::Nvme(status) => status.fmt(f),
            DeviceError::Vanished => f.write_str("the device is gone"),
            DeviceError::NotWhole => f.write_str(
                "the file was truncated or deleted by somebody while it was served: what stood there may be lost; stop the \
                 daemon, and see what is left with `forebay verify`",
            ),
        }
    }
}

/// A device, owned by one thread. No call allocates. On a block device that takes FUA none blocks; a file or a drive
/// with a cache and no FUA blocks for a flush in `poll`, or for a small lone write in `kick`, when somebody waits for it;
/// `FileBlocking` always.
pub trait Device {
    fn geometry(&self) -> Geometry;

    /// Takes an operation, or gives it back when as many as `operations_max` are under way (back-pressure).
    ///
    /// # Errors
    /// The operation itself, untouched, when there is no room for it.
    fn submit(&mut self, operation: Operation) -> Result<(), Operation>;

    /// Rings the doorbell for all that was submitted since the last call. Once a turn. `waited_for`: somebody waits for writes
    /// that are under way. Else a device may make them durable in a way that takes longer and leaves the thread free.
    fn kick(&mut self, waited_for: bool);

    /// One operation that ended, in any order.
    fn poll(&mut self) -> Option<Completion>;

    /// Operations under way.
    fn in_flight(&self) -> u32;
}
