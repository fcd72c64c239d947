//! Files and block devices through io_uring, with O_DIRECT, registered buffers and, where the queue polls, IOPOLL.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use forebay_sys::dma::DmaSpan;
use forebay_sys::uring::{Ended, TaskRun, Transfer, Uring, UringOptions};

use super::blocking::transfer;
use super::{Completion, Device, DeviceError, EIO, ENODEV, Geometry, Operation, OperationKind, Tier};
use crate::types::DeviceAddress;

/// How a write becomes durable here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WritePath {
    /// RWF_DSYNC: one command, because the drive has no volatile cache or takes FUA.
    Through,
    /// A write, then `fdatasync` by the polling thread once for all writes that have ended.
    ///
    /// Where the drive knows no FUA, the kernel ends an RWF_DSYNC write in a worker on the core of the interrupt. A
    /// thread that spins on that core, the reactor or a client, holds it up until the next tick: 4 ms instead of 50 us
    /// (benches/device.rs). A linked fsync runs in a worker too, and costs two more thread switches: 10 to 20 % at
    /// depth 1. This thread's own flush needs no worker, and any number of writes share it: at depth 32 1.5 times as
    /// many as with RWF_DSYNC. The price: it blocks the reactor for one flush, about 20 us.
    /// A small write that is alone is carried out in one blocking call, which is the fastest of all at depth 1.
    ThenFlush,
}

/// A larger write takes long enough that the reactor had better do something else meanwhile.
const LONE_BYTES_MAX: u32 = 16 << 10;

/// After a failed flush the drive may have dropped what it held: no later write can be called durable, by no device of
/// the same drive. An errno; 0 as long as none has failed. Every device reads it after its own flush, one thread sets it.
#[derive(Clone, Debug, Default)]
pub struct FlushFailed(Arc<AtomicI32>);

impl FlushFailed {
    fn get(&self) -> Option<DeviceError> {
        match self.0.load(Ordering::SeqCst) {
            0 => None,
            errno => Some(DeviceError::from(&io::Error::from_raw_os_error(errno))),
        }
    }

    fn set(&self, error: DeviceError) {
        let errno = match error {
            DeviceError::Errno(errno) => errno,
            DeviceError::Vanished => ENODEV,
            DeviceError::Short { .. } | DeviceError::Nvme(_) => EIO,
        };
        self.0.store(errno, Ordering::SeqCst);
    }
}

/// An operation without its buffer, which the ring owns while it is under way.
struct Head {
    tag: u64,
    kind: OperationKind,
    address: DeviceAddress,
    bytes: u32,
}

/// A file or block device, owned by one thread. Dropping it waits for all that is under way.
pub struct UringDevice {
    uring: Uring<Head>,
    file: File,
    geometry: Geometry,
    write_path: WritePath,
    ended: VecDeque<Completion>,
    /// A small write that was submitted when nothing was under way: unless company comes, it needs no ring.
    lone: Option<Operation>,
    flush_failed: FlushFailed,
}

impl UringDevice {
    /// Makes a ring of `geometry.operations_max` on `file`, which was opened with O_DIRECT.
    ///
    /// # Errors
    /// EPERM or ENOSYS where io_uring is switched off; whatever else the kernel says about a ring of this size.
    pub fn new(
        file: File,
        geometry: Geometry,
        write_path: WritePath,
        flush_failed: FlushFailed,
        span: Option<&DmaSpan>,
    ) -> io::Result<UringDevice> {
        let iopoll = geometry.tier == Tier::Block { polled: true };
        // The three ways measure alike here, within the noise. This one spares the poller an interrupt for each
        // completion, and does not tie the ring to the thread that made it.
        let options = UringOptions { iopoll, task_run: TaskRun::Cooperative, span };
        let uring = Uring::new(file.try_clone()?, geometry.operations_max, &options)?;
        let ended = VecDeque::with_capacity(geometry.operations_max as usize);
        Ok(UringDevice { uring, file, geometry, write_path, ended, lone: None, flush_failed })
    }

    /// What was asked for and could not be had, for people.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.uring.note()
    }

    fn queue(&mut self, operation: Operation) -> Result<(), Operation> {
        if let Err(error) = operation.check(self.geometry.capacity_bytes) {
            self.ended.push_back(Completion { operation, result: Err(error) });
            return Ok(());
        }
        let Operation { tag, kind, address, bytes, buffer } = operation;
        let how = match (kind, self.write_path) {
            (OperationKind::Read, _) => Transfer::Read,
            (OperationKind::WriteDurable, WritePath::Through) => Transfer::WriteDsync,
            (OperationKind::WriteDurable, WritePath::ThenFlush) => Transfer::Write,
        };
        let head = Head { tag, kind, address, bytes };
        self.uring.submit(how, address.0, bytes, buffer, head).map_err(|(buffer, head)| {
            let Head { tag, kind, address, bytes } = head;
            Operation { tag, kind, address, bytes, buffer }
        })
    }

    /// Carries out a write that stayed alone.
    fn write_lone(&mut self, mut operation: Operation) {
        let result = match self.flush_failed.get() {
            Some(error) => Err(error),
            None => transfer(&self.file, self.geometry.capacity_bytes, &mut operation),
        };
        if let Err(error) = result {
            self.flush_failed.set(error);
        }
        self.ended.push_back(Completion { operation, result });
    }

    /// Takes all that ended from the ring, and makes it durable with one flush.
    fn collect(&mut self) {
        let mut written = false;
        while let Some(ended) = self.uring.poll() {
            let completion = completion(ended, self.geometry.tier);
            written |= completion.operation.kind == OperationKind::WriteDurable && completion.result.is_ok();
            self.ended.push_back(completion);
        }
        if !written || self.write_path == WritePath::Through {
            return;
        }
        if self.flush_failed.get().is_none()
            && let Err(error) = self.file.sync_data()
        {
            self.flush_failed.set(DeviceError::from(&error));
        }
        // Also when it was another device's flush that failed meanwhile.
        let Some(error) = self.flush_failed.get() else { return };
        for completion in &mut self.ended {
            if completion.operation.kind == OperationKind::WriteDurable {
                completion.result = completion.result.and(Err(error));
            }
        }
    }
}

/// ENOSPC
const NO_SPACE: i32 = 28;

fn completion(ended: Ended<Head>, tier: Tier) -> Completion {
    let Head { tag, kind, address, bytes } = ended.context;
    let result = match ended.result {
        Ok(transferred) if transferred == bytes => Ok(()),
        // A block device that was pulled has no size any more: reads find its end, writes no space.
        Ok(0) | Err(NO_SPACE) if matches!(tier, Tier::Block { .. }) => Err(DeviceError::Vanished),
        Ok(bytes) => Err(DeviceError::Short { bytes }),
        Err(errno) => Err(DeviceError::from(&io::Error::from_raw_os_error(errno))),
    };
    Completion { operation: Operation { tag, kind, address, bytes, buffer: ended.buffer }, result }
}

impl Device for UringDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(&mut self, operation: Operation) -> Result<(), Operation> {
        if self.in_flight() == self.geometry.operations_max {
            return Err(operation);
        }
        let small = operation.kind == OperationKind::WriteDurable && operation.bytes <= LONE_BYTES_MAX;
        if small && self.write_path == WritePath::ThenFlush && self.in_flight() == 0 {
            self.lone = Some(operation);
            return Ok(());
        }
        if let Some(lone) = self.lone.take() {
            self.queue(lone)?;
        }
        self.queue(operation)
    }

    fn kick(&mut self) {
        if let Some(lone) = self.lone.take() {
            self.write_lone(lone);
        }
        self.uring.kick();
    }

    fn poll(&mut self) -> Option<Completion> {
        if self.ended.is_empty() && self.uring.in_flight() > 0 {
            self.collect();
        }
        self.ended.pop_front()
    }

    fn in_flight(&self) -> u32 {
        let waiting = self.ended.len() + usize::from(self.lone.is_some());
        self.uring.in_flight() + u32::try_from(waiting).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::scratch::{Scratch, operation, pool, run};

    #[test]
    fn a_flush_that_failed_on_one_device_fails_the_writes_of_all() {
        let scratch = Scratch::file(1 << 20);
        let failed = FlushFailed::default();
        let geometry = Geometry { capacity_bytes: 1 << 20, block_bytes: 4096, operations_max: 4, tier: Tier::File };
        let open = || {
            let file = File::options().read(true).write(true).open(scratch.path()).unwrap();
            UringDevice::new(file, geometry, WritePath::ThenFlush, failed.clone(), None)
        };
        let (Ok(one), Ok(mut other)) = (open(), open()) else {
            eprintln!("skipped: io_uring is refused here");
            return;
        };
        let mut pool = pool(4, 32 << 10);
        let mut write = |device: &mut UringDevice, bytes| {
            run(device, operation(&mut pool, OperationKind::WriteDurable, 0, bytes)).result
        };
        assert_eq!(write(&mut other, 4096), Ok(()));
        one.flush_failed.set(DeviceError::Errno(EIO));
        // Alone and small, and through the ring.
        assert_eq!(write(&mut other, 4096), Err(DeviceError::Errno(EIO)));
        assert_eq!(write(&mut other, 32 << 10), Err(DeviceError::Errno(EIO)));
    }
}
