//! Files and block devices through io_uring, with O_DIRECT, registered buffers and, where the queue polls, IOPOLL.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::time::Instant;

use forebay_sys::dma::{DmaRegion, DmaSpan, Pages};
use forebay_sys::uring::{TaskRun, Transfer, Uring, UringOptions};

use super::blocking::{check_whole, transfer};
use super::flush::{FlushFailed, Flusher};
use super::lone::{Way, Ways};
use super::{Completion, Device, DeviceError, Geometry, Head, Operation, OperationKind, Tier};
use crate::buffer::Buffer;
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
    /// many as with RWF_DSYNC. The price: it blocks the reactor for one flush, 20 to 100 us. So it is for those who are
    /// waited for. For the others a worker flushes, whenever it comes to it, and the reactor goes on.
    /// A small write that is alone goes the way that is quicker here (`lone.rs`): so too, or at once and blocking, as RWF_DSYNC,
    /// which the kernel turns into FUA where the drive says that it has it, or with a flush of its own where FUA is not to
    /// be trusted.
    ThenFlush { lone: DriveDurability },
}

/// A larger write takes long enough that the reactor had better do something else meanwhile.
const LONE_BYTES_MAX: u32 = 16 << 10;
const BLOCK_BYTES: usize = 4096;

/// A file or block device, owned by one thread. Dropping it waits for all that is under way.
pub struct UringDevice {
    /// What has no head is a flush.
    uring: Uring<Option<Head>>,
    file: File,
    geometry: Geometry,
    write_path: WritePath,
    ended: VecDeque<Completion>,
    /// Writes in the ring.
    writing: u32,
    /// Writes that ended and are not known to be durable.
    flusher: Flusher,
    /// A slot of the ring owns a buffer; a flush transfers nothing, and this stands in for it between two.
    spare: Option<Buffer>,
    /// A small write that was submitted when nothing was under way: unless company comes, it may need no ring.
    lone: Option<Operation>,
    /// When a lone write went into the ring, until company comes.
    alone_since: Option<Instant>,
    ways: Ways,
    /// A worker may be asked for a flush. A ring that polls the drive takes none.
    workers: bool,
    /// What this thread's own flush said, while a worker's is still out that was sent before it.
    own: Option<Result<(), DeviceError>>,
    /// Somebody waits for what is under way, as `kick` was told.
    waited_for: bool,
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
        Ok(UringDevice {
            uring,
            file,
            geometry,
            write_path,
            ended: VecDeque::with_capacity(geometry.operations_max as usize),
            writing: 0,
            flusher: Flusher::new(geometry.operations_max, flush_failed.clone()),
            spare: DmaRegion::allocate(BLOCK_BYTES, Pages::Ordinary)?.split(BLOCK_BYTES).pop(),
            lone: None,
            alone_since: None,
            ways: Ways::default(),
            workers: !iopoll && write_path != WritePath::Through,
            own: None,
            waited_for: true,
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
        let queued = self.uring.submit(how, head.address.0, head.bytes, buffer, Some(head));
        queued.map(|()| self.writing += writes).map_err(|(buffer, _)| head.with(buffer))
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

    /// Takes all that ended from the ring, and has the writes made durable with one flush when half of those under way have
    /// ended: with each one alone the drive would run dry. Who is waited for gets it from this thread, which blocks.
    fn collect(&mut self) {
        self.reap();
        let flushes = self.write_path != WritePath::Through;
        let uncovered = self.flusher.uncovered();
        if self.own.is_some() || self.flusher.held() == 0 || flushes && uncovered < self.writing {
            return;
        }
        let failed = self.flusher.failed();
        if self.workers && !self.waited_for && failed.is_none() {
            self.alone_since = None;
            if uncovered > 0 {
                self.flush_by_worker();
            }
            return;
        }
        self.flusher.sent();
        let settled = failed.map_or_else(|| self.settle(), Err);
        if let Some(begun) = self.alone_since.take() {
            self.ways.took(Way::Ring, begun.elapsed());
        }
        if self.spare.is_some() {
            self.flusher.end(settled, &mut self.ended);
        } else {
            // The worker's may have failed for the same writes. It was first, so its end is here as a rule.
            self.own = Some(settled);
            self.reap();
        }
    }

    /// Takes all that ended from the ring.
    fn reap(&mut self) {
        let counts_at_once = matches!(self.geometry.tier, Tier::Block { .. }) && self.write_path == WritePath::Through;
        while let Some(ended) = self.uring.poll() {
            let Some(head) = ended.context else {
                self.spare = Some(ended.buffer);
                self.worker_ended(ended.result);
                continue;
            };
            let mut result = transferred(ended.result, &head, self.geometry.tier);
            let operation = head.with(ended.buffer);
            let writes = operation.kind == OperationKind::WriteDurable;
            self.writing -= u32::from(writes);
            if let Err(DeviceError::Short { .. }) = result {
                result = check_whole(&self.file, &self.geometry).and(result);
            }
            if writes && result.is_ok() && !counts_at_once {
                self.flusher.hold(operation);
            } else {
                self.ended.push_back(Completion { operation, result });
            }
        }
    }

    /// Has the kernel flush what has ended, in a thread of its own, unless it still does so.
    fn flush_by_worker(&mut self) {
        let Some(spare) = self.spare.take() else { return };
        match self.uring.submit(Transfer::Flush, 0, 0, spare, None) {
            Ok(()) => self.flusher.sent(),
            Err((spare, _)) => self.spare = Some(spare),
        }
        self.uring.kick();
    }

    /// A worker's flush ended, or was not begun: then this thread makes all from now on.
    fn worker_ended(&mut self, result: Result<u32, i32>) {
        let begun = !result.is_err_and(|errno| NO_WORKER.contains(&errno));
        self.workers &= begun;
        let own = self.own.take();
        if !begun && own.is_none() {
            self.flusher.not_sent();
            return;
        }
        let flushed =
            if begun { result.map_err(|errno| DeviceError::from(&io::Error::from_raw_os_error(errno))) } else { Ok(0) };
        let whole = flushed.and_then(|_| own.unwrap_or_else(|| check_whole(&self.file, &self.geometry)));
        self.flusher.end(whole, &mut self.ended);
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
/// ECANCELED, EAGAIN, EINVAL, EOPNOTSUPP: the kernel could not start a thread, or the ring takes no flush. Nothing was flushed.
const NO_WORKER: [i32; 4] = [125, 11, 22, 95];

fn transferred(result: Result<u32, i32>, head: &Head, tier: Tier) -> Result<(), DeviceError> {
    match result {
        Ok(bytes) if bytes == head.bytes => Ok(()),
        // A block device that was pulled has no size any more: reads find its end, writes no space.
        Ok(0) | Err(NO_SPACE) if matches!(tier, Tier::Block { .. }) => Err(DeviceError::Vanished),
        Ok(bytes) => Err(DeviceError::Short { bytes }),
        Err(errno) => Err(DeviceError::from(&io::Error::from_raw_os_error(errno))),
    }
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

    fn kick(&mut self, waited_for: bool) {
        self.waited_for = waited_for;
        if let (Some(lone), WritePath::ThenFlush { lone: durability }) = (self.lone.take(), self.write_path) {
            if waited_for {
                self.write_lone(lone, durability);
            } else {
                self.lone = self.queue(lone).err();
            }
        }
        self.uring.kick();
    }

    fn poll(&mut self) -> Option<Completion> {
        if self.ended.is_empty() && (self.uring.in_flight() > 0 || self.flusher.held() > 0) {
            self.collect();
        }
        self.ended.pop_front()
    }

    fn in_flight(&self) -> u32 {
        // A worker's flush counts: nobody may sleep or leave before its end is known.
        let waiting = self.ended.len() + usize::from(self.lone.is_some());
        self.uring.in_flight() + self.flusher.held() + len_u32(waiting)
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

    /// A device with a cache behind it, what it was told of failures, and writes of 32 KiB for it.
    fn cached() -> Option<(Scratch, UringDevice, FlushFailed, impl FnMut(u64) -> Operation)> {
        let (scratch, failed) = (Scratch::file(1 << 20), FlushFailed::default());
        let device = open(&scratch, WritePath::ThenFlush { lone: DriveDurability::Auto }, &failed)?;
        let mut pool = pool(64, 32 << 10);
        let write = move |at: u64| operation(&mut pool, OperationKind::WriteDurable, at << 15, 32 << 10);
        Some((scratch, device, failed, write))
    }

    fn ended(device: &mut UringDevice, count: usize) -> Vec<Result<(), DeviceError>> {
        let ended = std::iter::repeat_with(|| device.poll()).flatten().take(count);
        ended.map(|completion| completion.result).collect()
    }

    #[test]
    fn what_nobody_waits_for_is_flushed_by_a_worker() {
        let Some((_scratch, mut device, failed, mut write)) = cached() else { return };
        for bytes in [4096, 32 << 10] {
            device.submit(Operation { bytes, ..write(0) }).unwrap();
            device.kick(false);
            while device.spare.is_some() {
                assert!(device.poll().is_none(), "no flush was sent");
            }
            assert_eq!((device.in_flight(), device.flusher.held()), (2, 1));
            assert_eq!(ended(&mut device, 1), [Ok(())]);
            assert!(device.spare.is_some(), "its flush was the worker's");
        }
        // All slots are taken: one that cannot be submitted would not be waited for.
        (0..4).for_each(|at| device.submit(write(at)).unwrap());
        device.kick(false);
        assert_eq!(ended(&mut device, 4), [Ok(()); 4]);
        while device.in_flight() > 0 {
            assert!(device.poll().is_none());
        }
        // What this thread says is said of a worker's flush too.
        device.file.set_len(64 << 10).unwrap();
        device.submit(write(0)).unwrap();
        device.kick(false);
        assert_eq!(ended(&mut device, 1), [Err(DeviceError::NotWhole)]);
        assert_eq!(failed.get(), Some(DeviceError::NotWhole), "no device of this drive may go on");
    }

    #[test]
    fn beside_a_flush_of_the_worker_this_thread_makes_one_and_both_have_to_succeed() {
        for (late, said) in [(Ok(0), Ok(())), (Err(EIO), Err(DeviceError::Errno(EIO))), (Err(NO_WORKER[0]), Ok(()))] {
            let Some((_scratch, mut device, failed, mut write)) = cached() else { return };
            // A worker's flush is out for the first, and comes to nothing while the others are written.
            device.flusher.hold(write(0));
            let spare = device.spare.take();
            device.flusher.sent();
            (1..3).for_each(|at| device.submit(write(at)).unwrap());
            device.kick(true);
            while device.own.is_none() {
                assert!(device.poll().is_none());
            }
            device.submit(write(3)).unwrap();
            device.kick(true);
            while device.flusher.uncovered() == 0 {
                assert!(device.poll().is_none(), "the worker's may fail yet");
            }
            device.spare = spare;
            device.worker_ended(late);
            assert_eq!(device.ended.len(), 3, "what came later needs another flush");
            assert_eq!(ended(&mut device, 4), [said; 4]);
            assert_eq!((failed.get(), device.workers), (said.err(), late != Err(NO_WORKER[0])));
        }
    }

    #[test]
    fn where_no_worker_can_be_had_this_thread_flushes() {
        let Some((_scratch, mut device, _, mut write)) = cached() else { return };
        let spare = device.spare.take();
        device.flusher.hold(write(0));
        device.flusher.sent();
        device.spare = spare;
        device.worker_ended(Err(NO_WORKER[0]));
        device.kick(false);
        assert_eq!(ended(&mut device, 1), [Ok(())]);
        assert!(!device.workers);
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
