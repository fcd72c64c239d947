//! Files and block devices through io_uring, with O_DIRECT, registered buffers and, where the queue polls, IOPOLL.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::time::Instant;

use forebay_sys::dma::DmaSpan;
use forebay_sys::uring::{Ended, TaskRun, Transfer, Uring, UringOptions};

use super::blocking::{check_whole, transfer};
use super::flush::FlushFailed;
use super::lone::{Way, Ways};
use super::{Completion, Device, DeviceError, Geometry, Head, Operation, OperationKind, Tier};
use crate::bytes::len_u32;
use crate::types::DriveDurability;

/// How a write becomes durable here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WritePath {
    /// RWF_DSYNC: one command, because the drive has no volatile cache or takes FUA.
    Through,
    /// A write, then `fdatasync` by the polling thread once for several writes that have ended.
    ///
    /// Where the drive knows no FUA, the kernel ends an RWF_DSYNC write in a worker on the core of the interrupt. A
    /// thread that spins on that core, the reactor or a client, holds it up until the next tick: 4 ms instead of 50 us
    /// (benches/device.rs). A linked fsync runs in a worker too, and costs two more thread switches: 10 to 20 % at
    /// depth 1. This thread's own flush needs no worker, and any number of writes share it: at depth 32 1.5 times as
    /// many as with RWF_DSYNC. The price: it blocks the reactor for one flush, about 20 us.
    /// A small write that is alone goes the way that is quicker here (`lone.rs`): so too, or at once and blocking, as RWF_DSYNC,
    /// which the kernel turns into FUA where the drive says that it has it, or with a flush of its own where FUA is not to
    /// be trusted.
    ThenFlush { lone: DriveDurability },
}

/// A larger write takes long enough that the reactor had better do something else meanwhile.
const LONE_BYTES_MAX: u32 = 16 << 10;

/// A file or block device, owned by one thread. Dropping it waits for all that is under way.
pub struct UringDevice {
    uring: Uring<Head>,
    file: File,
    geometry: Geometry,
    write_path: WritePath,
    ended: VecDeque<Completion>,
    /// Writes in the ring, and those that ended and wait for a flush.
    writing: u32,
    written: VecDeque<Completion>,
    /// A small write that was submitted when nothing was under way: unless company comes, it may need no ring.
    lone: Option<Operation>,
    /// When a lone write went into the ring, until company comes.
    alone_since: Option<Instant>,
    ways: Ways,
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
        let options = UringOptions { iopoll, task_run: TaskRun::Cooperative, span, held: None };
        let uring = Uring::new(file.try_clone()?, geometry.operations_max, &options)?;
        let [ended, written] = [(); 2].map(|()| VecDeque::with_capacity(geometry.operations_max as usize));
        Ok(UringDevice {
            uring,
            file,
            geometry,
            write_path,
            ended,
            writing: 0,
            written,
            lone: None,
            alone_since: None,
            ways: Ways::default(),
            flush_failed,
        })
    }

    /// What was asked for and could not be had, for people.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.uring.note()
    }

    fn queue(&mut self, operation: Operation) -> Result<(), Operation> {
        self.alone_since = None;
        if let Err(error) = operation.check(self.geometry.capacity_bytes) {
            self.ended.push_back(Completion { operation, result: Err(error) });
            return Ok(());
        }
        let how = match (operation.kind, self.write_path) {
            (OperationKind::Deallocate, _) => {
                self.ended.push_back(Completion { operation, result: Err(DeviceError::INVALID) });
                return Ok(());
            }
            (OperationKind::Read, _) => Transfer::Read,
            (OperationKind::WriteDurable, WritePath::Through) => Transfer::WriteDsync,
            (OperationKind::WriteDurable, WritePath::ThenFlush { .. }) => Transfer::Write,
        };
        let writes = u32::from(operation.kind == OperationKind::WriteDurable);
        let (head, buffer) = operation.split();
        let queued = self.uring.submit(how, head.address.0, head.bytes, buffer, head);
        queued.map(|()| self.writing += writes).map_err(|(buffer, head)| head.with(buffer))
    }

    /// Carries out a write that stayed alone.
    fn write_lone(&mut self, operation: Operation, durability: DriveDurability) {
        let begun = Instant::now();
        let mut operation = match self.ways.next() {
            Way::Blocking => operation,
            Way::Ring => match self.queue(operation) {
                Ok(()) => {
                    self.alone_since = Some(begun);
                    return;
                }
                Err(operation) => operation,
            },
        };
        let result = transfer(&self.file, &self.geometry, durability, &self.flush_failed, &mut operation);
        self.ended.push_back(Completion { operation, result });
        self.ways.took(Way::Blocking, begun.elapsed());
    }

    /// Takes all that ended from the ring. Writes are made durable with one flush when half of those under way have ended: a
    /// flush blocks this thread, and with each one alone the drive would run dry.
    fn collect(&mut self) {
        let is_block = matches!(self.geometry.tier, Tier::Block { .. });
        let counts_at_once = is_block && self.write_path == WritePath::Through;
        while let Some(ended) = self.uring.poll() {
            let mut completion = completion(ended, self.geometry.tier);
            let writes = completion.operation.kind == OperationKind::WriteDurable;
            self.writing -= u32::from(writes);
            if let Err(DeviceError::Short { .. }) = completion.result {
                completion.result = check_whole(&self.file, &self.geometry).and(completion.result);
            }
            let waits = writes && completion.result.is_ok() && !counts_at_once;
            if waits { &mut self.written } else { &mut self.ended }.push_back(completion);
        }
        let flushes = self.write_path != WritePath::Through;
        if self.written.is_empty() || flushes && len_u32(self.written.len()) < self.writing {
            return;
        }
        if self.flush_failed.get().is_none()
            && let Err(error) = self.settle()
        {
            self.flush_failed.set(error);
        }
        if let Some(begun) = self.alone_since.take() {
            self.ways.took(Way::Ring, begun.elapsed());
        }
        self.ended.append(&mut self.written);
        // Also when it was another device's flush that failed meanwhile.
        let Some(error) = self.flush_failed.get() else { return };
        for completion in &mut self.ended {
            if completion.operation.kind == OperationKind::WriteDurable {
                completion.result = completion.result.and(Err(error));
            }
        }
    }

    /// Makes durable what has ended, and looks whether it counts.
    fn settle(&self) -> Result<(), DeviceError> {
        if self.write_path != WritePath::Through {
            self.file.sync_data().map_err(|error| DeviceError::from(&error))?;
        }
        check_whole(&self.file, &self.geometry)
    }
}

/// ENOSPC
const NO_SPACE: i32 = 28;

fn completion(ended: Ended<Head>, tier: Tier) -> Completion {
    let result = match ended.result {
        Ok(transferred) if transferred == ended.context.bytes => Ok(()),
        // A block device that was pulled has no size any more: reads find its end, writes no space.
        Ok(0) | Err(NO_SPACE) if matches!(tier, Tier::Block { .. }) => Err(DeviceError::Vanished),
        Ok(bytes) => Err(DeviceError::Short { bytes }),
        Err(errno) => Err(DeviceError::from(&io::Error::from_raw_os_error(errno))),
    };
    Completion { operation: ended.context.with(ended.buffer), result }
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
        if small && matches!(self.write_path, WritePath::ThenFlush { .. }) && self.in_flight() == 0 {
            self.lone = Some(operation);
            return Ok(());
        }
        if let Some(lone) = self.lone.take() {
            self.queue(lone)?;
        }
        self.queue(operation)
    }

    fn kick(&mut self) {
        if let (Some(lone), WritePath::ThenFlush { lone: durability }) = (self.lone.take(), self.write_path) {
            self.write_lone(lone, durability);
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
        let waiting = self.ended.len() + self.written.len() + usize::from(self.lone.is_some());
        self.uring.in_flight() + len_u32(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::EIO;
    use crate::device::scratch::{Scratch, operation, pool, run};

    #[test]
    fn a_flush_that_failed_on_one_device_fails_the_writes_of_all() {
        for lone in [DriveDurability::Auto, DriveDurability::Flush] {
            fails_the_writes_of_all(lone);
        }
    }

    fn geometry() -> Geometry {
        Geometry {
            capacity_bytes: 1 << 20,
            block_bytes: 4096,
            operations_max: 4,
            tier: Tier::File,
            deallocate_bytes_max: 0,
        }
    }

    /// A device on a file of 1 MiB; None, said on standard error, where io_uring is refused.
    fn open(scratch: &Scratch, write_path: WritePath, failed: &FlushFailed) -> Option<UringDevice> {
        let file = File::options().read(true).write(true).open(scratch.path()).unwrap();
        let made = UringDevice::new(file, geometry(), write_path, failed.clone(), None);
        made.inspect_err(|error| eprintln!("skipped: io_uring is refused here: {error}")).ok()
    }

    #[test]
    fn a_file_that_is_cut_or_deleted_takes_no_more_writes_and_says_why() {
        for write_path in [WritePath::Through, WritePath::ThenFlush { lone: DriveDurability::Auto }] {
            for (deleted, bytes) in [(false, 4096), (false, 32 << 10), (true, 4096), (true, 32 << 10)] {
                let (scratch, failed) = (Scratch::file(1 << 20), FlushFailed::default());
                let Some(mut device) = open(&scratch, write_path, &failed) else { return };
                let mut pool = pool(4, 32 << 10);
                let mut run = |device: &mut UringDevice, kind, at, bytes| {
                    run(device, operation(&mut pool, kind, at, bytes)).result
                };
                assert_eq!(run(&mut device, OperationKind::WriteDurable, 0, bytes), Ok(()));
                if deleted {
                    std::fs::remove_file(scratch.path()).unwrap();
                } else {
                    device.file.set_len(8192).unwrap();
                    let read = run(&mut device, OperationKind::Read, 64 << 10, 4096);
                    assert_eq!(read, Err(DeviceError::NotWhole), "what is beyond the end is no data");
                }
                let write = run(&mut device, OperationKind::WriteDurable, 128 << 10, bytes);
                assert_eq!(write, Err(DeviceError::NotWhole), "{write_path:?} {deleted} {bytes}");
                device.file.set_len(1 << 20).unwrap();
                let later = run(&mut device, OperationKind::WriteDurable, 0, bytes);
                assert_eq!(later, Err(DeviceError::NotWhole), "what was lost stays lost");
            }
        }
    }

    fn fails_the_writes_of_all(lone: DriveDurability) {
        let (scratch, failed) = (Scratch::file(1 << 20), FlushFailed::default());
        let open = || open(&scratch, WritePath::ThenFlush { lone }, &failed);
        let (Some(one), Some(mut other)) = (open(), open()) else { return };
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
