//! A namespace whose controller the kernel owns, by NVMe commands through io_uring: no block layer in between.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::path::Path;

use forebay_sys::dma::{DmaRegion, DmaSpan, Pages};
use forebay_sys::uring::nvme::{NvmeCommand, NvmeUring, PIECE_BYTES, Part, namespace_id};
use forebay_sys::uring::{Ended, TaskRun, UringOptions};

use super::drive::Drive;
use super::flush::{FlushFailed, Flusher};
use super::nvme::Namespace;
use super::nvme_status::NvmeStatus;
use super::{BLOCK_BYTES, Completion, Device, DeviceError, Geometry, Head, Operation, OperationKind, Tier};
use crate::buffer::Buffer;
use crate::bytes::{len_u32, put_u32, put_u64};
use crate::types::DriveDurability;

/// I/O command opcodes (NVM Command Set Specification 1.1, figure 21).
const FLUSH: u8 = 0x00;
const WRITE: u8 = 0x01;
const READ: u8 = 0x02;
const DATASET_MANAGEMENT: u8 = 0x09;
/// Attribute Deallocate, in dword 11 of Dataset Management.
const DEALLOCATE: u32 = 1 << 2;
/// An entry of its list of ranges (figure 43): context attributes, length in blocks, first block.
const RANGE_BYTES: u32 = 16;
/// Force Unit Access, in dword 12 of a write.
const FUA: u32 = 1 << 30;

/// The longest operation that is promised here: what a frame or a buffer of recovery holds.
const OPERATION_BYTES_MAX: u32 = 1 << 20;

/// An NVMe namespace that can be reached by commands, beside the block device that the kernel makes of it.
pub struct Generic {
    file: File,
    pub namespace: Namespace,
    transfer_bytes_max: u32,
    durability: DriveDurability,
}

impl Generic {
    /// The generic device at `path`; `drive` is its block device. Blocks for a few admin commands.
    ///
    /// # Errors
    /// Why it cannot be used, in words.
    pub fn open(path: &Path, drive: &Drive, read_only: bool, durability: DriveDurability) -> Result<Generic, String> {
        let open = || -> io::Result<Generic> {
            let file = File::options().read(true).write(!read_only).open(path)?;
            let namespace = Namespace::identify(&file)?;
            Ok(Generic { file, namespace, transfer_bytes_max: drive.transfer_bytes_max, durability })
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

    /// One device for one reactor. A flush of it that fails condemns those of `flush_failed` too. `lock` is the file that
    /// keeps others away from the namespace: what a killed process left under way ends before they get it.
    ///
    /// # Errors
    /// What the kernel said: EINVAL before Linux 5.19, ENOMEM for want of locked memory.
    pub fn device(
        &self,
        geometry: Geometry,
        flush_failed: &FlushFailed,
        span: Option<&DmaSpan>,
        lock: &File,
    ) -> io::Result<PassthroughDevice> {
        PassthroughDevice::new(self, geometry, flush_failed, span, lock)
    }

    /// How a write becomes durable here, for people.
    #[must_use]
    pub fn durability(&self) -> &'static str {
        match self.durability {
            DriveDurability::Flush => "write, then flush",
            DriveDurability::Auto if self.namespace.volatile_cache => "FUA on the write",
            DriveDurability::Auto => "a plain write",
        }
    }
}

/// A namespace, owned by one thread. Dropping it waits for all that is under way.
pub struct PassthroughDevice {
    /// What stands in a slot without a head is a flush.
    ring: NvmeUring<Option<Head>>,
    /// The same as the ring's.
    file: File,
    namespace: Namespace,
    geometry: Geometry,
    /// A multiple of the block size.
    part_bytes_max: u32,
    ended: VecDeque<Completion>,
    /// None: a write is durable when it ends.
    flushes: Option<Flushes>,
}

struct Flushes {
    flusher: Flusher,
    /// A slot of the ring owns a buffer; a flush transfers nothing, and this stands in for it between two.
    buffer: Option<Buffer>,
}

impl Flushes {
    fn new(operations_max: u32, failed: &FlushFailed) -> io::Result<Flushes> {
        let flusher = Flusher::new(operations_max, failed.clone());
        let block = BLOCK_BYTES as usize;
        Ok(Flushes { flusher, buffer: DmaRegion::allocate(block, Pages::Ordinary)?.split(block).pop() })
    }
}

impl PassthroughDevice {
    fn new(
        generic: &Generic,
        geometry: Geometry,
        flush_failed: &FlushFailed,
        span: Option<&DmaSpan>,
        lock: &File,
    ) -> io::Result<PassthroughDevice> {
        let iopoll = geometry.tier == Tier::Passthrough { polled: true };
        // Linux 6.1 never ends what a killed process polled for, and a lock that such a ring holds is never free again.
        let held = Some(lock).filter(|_| !iopoll);
        let options = UringOptions { iopoll, task_run: TaskRun::Cooperative, span, held };
        let namespace = generic.namespace.clone();
        let part_bytes_max = part_bytes_max(&namespace, generic.transfer_bytes_max);
        let parts_max = OPERATION_BYTES_MAX.div_ceil(part_bytes_max);
        let operations_max = geometry.operations_max;
        let flushes = match generic.durability {
            DriveDurability::Auto => None,
            DriveDurability::Flush => Some(Flushes::new(operations_max, flush_failed)?),
        };
        let slots = operations_max + u32::from(flushes.is_some());
        let file = generic.file.try_clone()?;
        let ring = NvmeUring::new(file.try_clone()?, slots, parts_max, &options)?;
        let ended = VecDeque::with_capacity(operations_max as usize);
        Ok(PassthroughDevice { ring, file, namespace, geometry, part_bytes_max, ended, flushes })
    }

    /// Takes all that ended from the ring, and has the writes flushed.
    fn collect(&mut self) {
        let Some(Flushes { flusher, buffer }) = &mut self.flushes else { return };
        while let Some(ended) = self.ring.poll() {
            let result = result(ended.result, &self.file);
            match ended.context {
                None => {
                    *buffer = Some(ended.buffer);
                    flusher.end(result, &mut self.ended);
                }
                Some(head) if head.kind == OperationKind::WriteDurable && result.is_ok() => {
                    flusher.hold(head.with(ended.buffer));
                }
                Some(head) => self.ended.push_back(Completion { operation: head.with(ended.buffer), result }),
            }
        }
        if !flusher.is_due() {
            return;
        }
        if let Some(error) = flusher.failed() {
            flusher.give_up(error, &mut self.ended);
        } else if let Some(own) = buffer.take() {
            let command = NvmeCommand { opcode: FLUSH, nsid: self.namespace.id, ..NvmeCommand::default() };
            match self.ring.submit([Part { command, offset: 0, bytes: 0 }].into_iter(), own, None) {
                Ok(()) => {
                    flusher.sent();
                    self.ring.kick();
                }
                Err((own, _)) => *buffer = Some(own),
            }
        }
    }

    /// What was asked for and could not be had, for people.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.ring.note()
    }
}

/// The list of the one range that a `Deallocate` names.
fn range(namespace: &Namespace, address: u64, bytes: u32) -> [u8; RANGE_BYTES as usize] {
    let mut entry = [0; RANGE_BYTES as usize];
    put_u32(&mut entry, 4, bytes / namespace.block_bytes);
    put_u64(&mut entry, 8, address / u64::from(namespace.block_bytes));
    entry
}

/// `through`: a write goes through a volatile cache.
fn command(namespace: &Namespace, through: bool, kind: OperationKind, address: u64, bytes: u32) -> NvmeCommand {
    let (opcode, control) = match kind {
        OperationKind::Read => (READ, 0),
        OperationKind::WriteDurable if through && namespace.volatile_cache => (WRITE, FUA),
        OperationKind::WriteDurable => (WRITE, 0),
        // NR, the number of ranges, counts from 0.
        OperationKind::Deallocate => {
            let (opcode, nsid) = (DATASET_MANAGEMENT, namespace.id);
            return NvmeCommand { opcode, nsid, cdw10: 0, cdw11: DEALLOCATE, cdw12: 0 };
        }
    };
    let [low, high] = words(address / u64::from(namespace.block_bytes));
    // NLB, the number of blocks, counts from 0.
    let blocks = bytes / namespace.block_bytes - 1;
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

fn result(answer: Result<u32, i32>, device: &File) -> Result<(), DeviceError> {
    match answer {
        Ok(0) => Ok(()),
        Ok(status) => Err(DeviceError::Nvme(NvmeStatus(u16::try_from(status).unwrap_or(u16::MAX)))),
        Err(errno) => Err(why(errno, device)),
    }
}

/// With multipath, which is the default, Linux answers EINVAL to a command where no path to the drive is left (seen on
/// 6.1), and then does not know the namespace either.
#[cold]
fn why(errno: i32, device: &File) -> DeviceError {
    match DeviceError::from(&io::Error::from_raw_os_error(errno)) {
        DeviceError::INVALID if namespace_id(device).is_err() => DeviceError::Vanished,
        error => error,
    }
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
        let deallocates = operation.kind == OperationKind::Deallocate;
        let short =
            operation.bytes <= if deallocates { self.geometry.deallocate_bytes_max } else { OPERATION_BYTES_MAX };
        if let Err(error) = checked.and(if short { Ok(()) } else { Err(DeviceError::INVALID) }) {
            self.ended.push_back(Completion { operation, result: Err(error) });
            return Ok(());
        }
        let (head, mut buffer) = operation.split();
        let (namespace, part_bytes_max, through) = (&self.namespace, self.part_bytes_max, self.flushes.is_none());
        let transferred_bytes = if deallocates {
            buffer[..RANGE_BYTES as usize].copy_from_slice(&range(namespace, head.address.0, head.bytes));
            RANGE_BYTES
        } else {
            head.bytes
        };
        let parts = (0..transferred_bytes.div_ceil(part_bytes_max)).map(|part| {
            let offset = part * part_bytes_max;
            let bytes = part_bytes_max.min(transferred_bytes - offset);
            let command = command(namespace, through, head.kind, head.address.0 + u64::from(offset), bytes);
            Part { command, offset: offset as usize, bytes }
        });
        self.ring.submit(parts, buffer, Some(head)).map_err(|(buffer, _)| head.with(buffer))
    }

    fn kick(&mut self, _waited_for: bool) {
        self.ring.kick();
    }

    fn poll(&mut self) -> Option<Completion> {
        if let Some(ended) = self.ended.pop_front() {
            return Some(ended);
        }
        if self.flushes.is_some() {
            self.collect();
            return self.ended.pop_front();
        }
        let Ended { buffer, context, result: answer } = self.ring.poll()?;
        let operation = context?.with(buffer);
        Some(Completion { operation, result: result(answer, &self.file) })
    }

    fn in_flight(&self) -> u32 {
        let flusher = self.flushes.as_ref().map(|flushes| &flushes.flusher);
        let held = flusher.map_or(0, |flusher| flusher.held() - u32::from(flusher.is_under_way()));
        self.ring.in_flight() + held + len_u32(self.ended.len())
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
        let write = command(&namespace(512, 1 << 20), true, OperationKind::WriteDurable, 0x300_0000_1000, 8192);
        let expected = NvmeCommand { opcode: WRITE, nsid: 1, cdw10: 0x8000_0008, cdw11: 1, cdw12: FUA | 15 };
        assert_eq!(write, expected);
        let read = command(&namespace(4096, 1 << 20), true, OperationKind::Read, 4096, 4096);
        assert_eq!((read.opcode, read.cdw10, read.cdw12), (READ, 1, 0));
        let plain = Namespace { volatile_cache: false, ..namespace(4096, 1 << 20) };
        assert_eq!(command(&plain, true, OperationKind::WriteDurable, 0, 4096).cdw12, 0, "without a cache no FUA");
        let flushed = command(&namespace(4096, 1 << 20), false, OperationKind::WriteDurable, 0, 4096);
        assert_eq!(flushed.cdw12, 0, "before a flush no FUA");
    }

    #[test]
    fn a_deallocation_names_its_range_in_the_namespaces_blocks() {
        let told = command(&namespace(512, 1 << 20), true, OperationKind::Deallocate, 0x300_0000_1000, RANGE_BYTES);
        let expected = NvmeCommand { opcode: 0x09, nsid: 1, cdw10: 0, cdw11: 4, cdw12: 0 };
        assert_eq!(told, expected);
        let list = range(&namespace(512, 1 << 20), 0x300_0000_1000, (64 << 20) - 4096);
        assert_eq!(list, [0, 0, 0, 0, 0xf8, 0xff, 1, 0, 8, 0, 0, 0x80, 1, 0, 0, 0]);
    }

    #[test]
    fn a_part_is_no_larger_than_any_limit_and_whole_blocks() {
        assert_eq!(part_bytes_max(&namespace(4096, 128 << 10), u32::MAX), 128 << 10);
        assert_eq!(part_bytes_max(&namespace(4096, u32::MAX), 70_000), 69_632);
        assert_eq!(part_bytes_max(&namespace(512, u32::MAX), u32::MAX), PIECE_BYTES);
        assert_eq!(part_bytes_max(&namespace(4096, 4096), 100), 4096);
    }
}
