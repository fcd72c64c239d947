//! The fallback where io_uring is refused (containers): `pread` and a durable `pwrite`, one at a time.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;

use rustix::fs::{AtFlags, FileType, StatxFlags, statx};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};

use super::flush::FlushFailed;
use super::{Completion, Device, DeviceError, Geometry, Operation, OperationKind, Tier};
use crate::bytes::len_u32;
use crate::types::DriveDurability;

/// A file or block device. `poll` blocks its thread while the drive works.
pub struct BlockingDevice {
    file: File,
    geometry: Geometry,
    durability: DriveDurability,
    waiting: VecDeque<Operation>,
    flush_failed: FlushFailed,
}

impl BlockingDevice {
    #[must_use]
    pub fn new(
        file: File,
        geometry: Geometry,
        durability: DriveDurability,
        flush_failed: FlushFailed,
    ) -> BlockingDevice {
        let waiting = VecDeque::with_capacity(geometry.operations_max as usize);
        BlockingDevice { file, geometry, durability, waiting, flush_failed }
    }
}

/// Whether a file is still as long as the device, and has a name. A write beyond its end would make it longer again, though
/// not whole, and count in vain: so this is asked after each flush, before its writes count. It takes 0.2 us, the flush 40.
pub(super) fn check_whole(file: &File, geometry: &Geometry) -> Result<(), DeviceError> {
    if !matches!(geometry.tier, Tier::File | Tier::FileBlocking) {
        return Ok(());
    }
    // Whoever asks for the times of a file makes its next write dirty the inode for a finer one (multigrain timestamps, Linux
    // 6.13): a durable write then takes 1.5 times as long. So only these are asked for.
    let asked = StatxFlags::SIZE | StatxFlags::NLINK | StatxFlags::TYPE;
    let about =
        statx(file, "", AtFlags::EMPTY_PATH, asked).map_err(|errno| DeviceError::from(&io::Error::from(errno)))?;
    let whole = about.stx_size >= geometry.capacity_bytes && about.stx_nlink > 0;
    // A block device has no size here.
    if whole || !FileType::from_raw_mode(about.stx_mode.into()).is_file() { Ok(()) } else { Err(DeviceError::NotWhole) }
}

/// Carries one operation out on this thread. A write is durable when this returns; after a flush that failed none is.
pub(super) fn transfer(
    file: &File,
    geometry: &Geometry,
    durability: DriveDurability,
    flush_failed: &FlushFailed,
    operation: &mut Operation,
) -> Result<(), DeviceError> {
    operation.check(geometry.capacity_bytes)?;
    match operation.kind {
        OperationKind::Read => {
            let read = carry_out(file, operation, ReadWriteFlags::empty());
            return read.map_err(|error| check_whole(file, geometry).err().unwrap_or(error));
        }
        OperationKind::Deallocate => return Err(DeviceError::INVALID),
        OperationKind::WriteDurable => {}
    }
    flush_failed.get().map_or(Ok(()), Err)?;
    let result = match durability {
        DriveDurability::Auto => carry_out(file, operation, ReadWriteFlags::DSYNC),
        // The kernel may make RWF_DSYNC a write with FUA, which is what is not trusted here.
        DriveDurability::Flush => carry_out(file, operation, ReadWriteFlags::empty())
            .and_then(|()| file.sync_data().map_err(|error| DeviceError::from(&error))),
    };
    // A write that failed may have failed in its flush.
    result.and_then(|()| check_whole(file, geometry)).inspect_err(|error| flush_failed.set(*error))
}

fn carry_out(file: &File, operation: &mut Operation, flags: ReadWriteFlags) -> Result<(), DeviceError> {
    let at = operation.address.0;
    let buffer = &mut operation.buffer[..operation.bytes as usize];
    let transferred = match operation.kind {
        OperationKind::Read => retry(|| file.read_at(buffer, at)),
        _ => retry(|| Ok(pwritev2(file, &[IoSlice::new(buffer)], at, flags)?)),
    };
    match transferred {
        Ok(bytes) if bytes == operation.bytes as usize => Ok(()),
        Ok(bytes) => Err(DeviceError::Short { bytes: u32::try_from(bytes).unwrap_or(u32::MAX) }),
        Err(error) => Err(DeviceError::from(&error)),
    }
}

/// A signal is no failure.
fn retry(mut transfer: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match transfer() {
            Err(error) if error.raw_os_error() == Some(Errno::INTR.raw_os_error()) => {}
            result => return result,
        }
    }
}

impl Device for BlockingDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(&mut self, operation: Operation) -> Result<(), Operation> {
        if self.in_flight() == self.geometry.operations_max {
            return Err(operation);
        }
        self.waiting.push_back(operation);
        Ok(())
    }

    fn kick(&mut self, _waited_for: bool) {}

    fn poll(&mut self) -> Option<Completion> {
        let mut operation = self.waiting.pop_front()?;
        let result = transfer(&self.file, &self.geometry, self.durability, &self.flush_failed, &mut operation);
        Some(Completion { operation, result })
    }

    fn in_flight(&self) -> u32 {
        len_u32(self.waiting.len())
    }
}
