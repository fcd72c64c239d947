//! A namespace whose controller the kernel owns, by NVMe commands through io_uring: no block layer in between.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::Path;

use forebay_sys::dma::DmaSpan;
use forebay_sys::uring::nvme::{NvmeCommand, NvmeUring, PIECE_BYTES, Part};
use forebay_sys::uring::{Ended, TaskRun, UringOptions};

use super::drive::Drive;
use super::nvme::Namespace;
use super::nvme_status::NvmeStatus;
use super::{Completion, Device, DeviceError, Geometry, Operation, OperationKind, Tier};
use crate::types::DeviceAddress;

/// I/O command opcodes (NVM Command Set Specification 1.1, figure 21).
const WRITE: u8 = 0x01;
const READ: u8 = 0x02;
/// Force Unit Access, in dword 12 of a write.
const FUA: u32 = 1 << 30;

/// The longest operation that is promised here: what a frame or a buffer of recovery holds.
const OPERATION_BYTES_MAX: u32 = 1 << 20;

/// An operation without its buffer, which the ring owns while it is under way.
struct Head {
    tag: u64,
    kind: OperationKind,
    address: DeviceAddress,
    bytes: u32,
}

/// An NVMe namespace that can be reached by commands, beside the block device that the kernel makes of it.
pub struct Generic {
    file: File,
    pub namespace: Namespace,
    transfer_bytes_max: u32,
}

impl Generic {
    /// The generic device at `path`; `drive` is its block device. Blocks for a few admin commands.
    ///
    /// # Errors
    /// Why it cannot be used, in words.
    pub fn open(path: &Path, drive: &Drive, read_only: bool) -> Result<Generic, String> {
        let open = || -> io::Result<Generic> {
            let file = File::options().read(true).write(!read_only).open(path)?;
            let namespace = Namespace::identify(&file)?;
            Ok(Generic { file, namespace, transfer_bytes_max: drive.transfer_bytes_max })
        };
        let generic = open().map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => {
                let (generic, block) = (path.display(), &drive.name);
                format!(
                    "{generic}: {error}; `setup/host.sh config --device /dev/{block} --user NAME` gives it to a user"
                )
            }
            _ => format!("{}: {error}", path.display()),
        })?;
        match generic.namespace.unusable() {
            Some(why) => Err(format!("{}: {why}", path.display())),
            None => Ok(generic),
        }
    }

    /// One device for one reactor.
    ///
    /// # Errors
    /// As `PassthroughDevice::new`.
    pub fn device(&self, geometry: Geometry, span: Option<&DmaSpan>) -> io::Result<PassthroughDevice> {
        PassthroughDevice::new(self.file.try_clone()?, self.namespace.clone(), geometry, self.transfer_bytes_max, span)
    }
}

/// A namespace, owned by one thread. Dropping it waits for all that is under way.
pub struct PassthroughDevice {
    ring: NvmeUring<Head>,
    namespace: Namespace,
    geometry: Geometry,
    /// A multiple of the block size.
    part_bytes_max: u32,
    /// Operations that were refused before they reached the drive.
    refused: VecDeque<Completion>,
}

impl PassthroughDevice {
    /// A ring of `geometry.operations_max` on `device`, the `/dev/ngXnY` of `namespace`. One command carries at most
    /// `transfer_bytes_max`, or less where the controller says so.
    ///
    /// # Errors
    /// What the kernel said: EINVAL before Linux 5.19, ENOMEM for want of locked memory.
    fn new(
        device: File,
        namespace: Namespace,
        geometry: Geometry,
        transfer_bytes_max: u32,
        span: Option<&DmaSpan>,
    ) -> io::Result<PassthroughDevice> {
        let iopoll = geometry.tier == Tier::Passthrough { polled: true };
        let options = UringOptions { iopoll, task_run: TaskRun::Cooperative, span };
        let part_bytes_max = part_bytes_max(&namespace, transfer_bytes_max);
        let parts_max = OPERATION_BYTES_MAX.div_ceil(part_bytes_max);
        let ring = NvmeUring::new(device, geometry.operations_max, parts_max, &options)?;
        let refused = VecDeque::with_capacity(geometry.operations_max as usize);
        Ok(PassthroughDevice { ring, namespace, geometry, part_bytes_max, refused })
    }

    /// What was asked for and could not be had, for people.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.ring.note()
    }
}

fn command(namespace: &Namespace, kind: OperationKind, address: u64, bytes: u32) -> NvmeCommand {
    let [low, high] = words(address / u64::from(namespace.block_bytes));
    // NLB, the number of blocks, counts from 0.
    let blocks = bytes / namespace.block_bytes - 1;
    let (opcode, control) = match kind {
        OperationKind::Read => (READ, 0),
        OperationKind::WriteDurable if namespace.volatile_cache => (WRITE, FUA),
        OperationKind::WriteDurable => (WRITE, 0),
    };
    NvmeCommand { opcode, nsid: namespace.id, cdw10: low, cdw11: high, cdw12: blocks | control }
}

fn part_bytes_max(namespace: &Namespace, transfer_bytes_max: u32) -> u32 {
    // NLB has 16 bits.
    let counted = namespace.block_bytes.saturating_mul(1 << 16);
    let bytes = transfer_bytes_max.min(namespace.transfer_bytes_max).min(counted).min(PIECE_BYTES);
    (bytes / namespace.block_bytes * namespace.block_bytes).max(namespace.block_bytes)
}

fn words(number: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = number.to_le_bytes();
    [u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])]
}

fn completion(ended: Ended<Head>) -> Completion {
    let Head { tag, kind, address, bytes } = ended.context;
    let result = match ended.result {
        Ok(0) => Ok(()),
        Ok(status) => Err(DeviceError::Nvme(NvmeStatus(u16::try_from(status).unwrap_or(u16::MAX)))),
        Err(errno) => Err(DeviceError::from(&io::Error::from_raw_os_error(errno))),
    };
    Completion { operation: Operation { tag, kind, address, bytes, buffer: ended.buffer }, result }
}

impl Device for PassthroughDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(&mut self, operation: Operation) -> Result<(), Operation> {
        if self.in_flight() == self.geometry.operations_max {
            return Err(operation);
        }
        let checked = operation.check(self.geometry.capacity_bytes);
        let short = operation.bytes <= OPERATION_BYTES_MAX;
        if let Err(error) = checked.and(if short { Ok(()) } else { Err(DeviceError::INVALID) }) {
            self.refused.push_back(Completion { operation, result: Err(error) });
            return Ok(());
        }
        let Operation { tag, kind, address, bytes, buffer } = operation;
        let (namespace, part_bytes_max) = (&self.namespace, self.part_bytes_max);
        let parts = (0..bytes.div_ceil(part_bytes_max)).map(|part| {
            let offset = part * part_bytes_max;
            let part_bytes = part_bytes_max.min(bytes - offset);
            let command = command(namespace, kind, address.0 + u64::from(offset), part_bytes);
            Part { command, offset: offset as usize, bytes: part_bytes }
        });
        let head = Head { tag, kind, address, bytes };
        self.ring.submit(parts, buffer, head).map_err(|(buffer, head)| {
            let Head { tag, kind, address, bytes } = head;
            Operation { tag, kind, address, bytes, buffer }
        })
    }

    fn kick(&mut self) {
        self.ring.kick();
    }

    fn poll(&mut self) -> Option<Completion> {
        self.refused.pop_front().or_else(|| self.ring.poll().map(completion))
    }

    fn in_flight(&self) -> u32 {
        self.ring.in_flight() + u32::try_from(self.refused.len()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(block_bytes: u32, transfer_bytes_max: u32) -> Namespace {
        Namespace { id: 1, block_bytes, transfer_bytes_max, volatile_cache: true, ..Namespace::default() }
    }

    #[test]
    fn a_command_counts_in_the_namespaces_blocks() {
        let write = command(&namespace(512, 1 << 20), OperationKind::WriteDurable, 0x300_0000_1000, 8192);
        let expected = NvmeCommand { opcode: WRITE, nsid: 1, cdw10: 0x8000_0008, cdw11: 1, cdw12: FUA | 15 };
        assert_eq!(write, expected);
        let read = command(&namespace(4096, 1 << 20), OperationKind::Read, 4096, 4096);
        assert_eq!((read.opcode, read.cdw10, read.cdw12), (READ, 1, 0));
        let plain = Namespace { volatile_cache: false, ..namespace(4096, 1 << 20) };
        assert_eq!(command(&plain, OperationKind::WriteDurable, 0, 4096).cdw12, 0, "without a cache no FUA");
    }

    #[test]
    fn a_part_is_no_larger_than_any_limit_and_whole_blocks() {
        assert_eq!(part_bytes_max(&namespace(4096, 128 << 10), u32::MAX), 128 << 10);
        assert_eq!(part_bytes_max(&namespace(4096, u32::MAX), 70_000), 69_632);
        assert_eq!(part_bytes_max(&namespace(512, u32::MAX), u32::MAX), PIECE_BYTES);
        assert_eq!(part_bytes_max(&namespace(4096, 4096), 100), 4096);
    }
}
