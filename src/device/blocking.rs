//! The fallback where io_uring is refused (containers): `pread` and `pwritev2(RWF_DSYNC)`, one at a time.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;

use rustix::io::{Errno, ReadWriteFlags, pwritev2};

use super::{Completion, Device, DeviceError, Geometry, Operation, OperationKind};

/// A file or block device. `poll` blocks its thread while the drive works.
pub struct BlockingDevice {
    file: File,
    geometry: Geometry,
    waiting: VecDeque<Operation>,
}

impl BlockingDevice {
    #[must_use]
    pub fn new(file: File, geometry: Geometry) -> BlockingDevice {
        BlockingDevice { file, geometry, waiting: VecDeque::with_capacity(geometry.operations_max as usize) }
    }
}

/// Carries one operation out on this thread. A write is durable when this returns.
pub(super) fn transfer(file: &File, capacity_bytes: u64, operation: &mut Operation) -> Result<(), DeviceError> {
    operation.check(capacity_bytes)?;
    let at = operation.address.0;
    let buffer = &mut operation.buffer[..operation.bytes as usize];
    let transferred = match operation.kind {
        OperationKind::Read => retry(|| file.read_at(buffer, at)),
        OperationKind::WriteDurable => {
            retry(|| Ok(pwritev2(file, &[IoSlice::new(buffer)], at, ReadWriteFlags::DSYNC)?))
        }
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

    fn kick(&mut self) {}

    fn poll(&mut self) -> Option<Completion> {
        let mut operation = self.waiting.pop_front()?;
        let result = transfer(&self.file, self.geometry.capacity_bytes, &mut operation);
        Some(Completion { operation, result })
    }

    fn in_flight(&self) -> u32 {
        u32::try_from(self.waiting.len()).unwrap_or(u32::MAX)
    }
}
