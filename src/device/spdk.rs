//! A namespace driven by SPDK: a queue pair polled from user space, without a system call on PCIe and vfio-user.

pub mod attached;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use forebay_sys::spdk::{Command, Controller, Ended, QueuePair, Refusal, Status};

use super::flush::{FlushFailed, Flusher};
use super::nvme_status::NvmeStatus;
use super::{Completion, Device, DeviceError, Geometry, Head, Operation, OperationKind};
use crate::bytes::len_u32;

/// How a write becomes durable here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WritePath {
    /// The controller has no volatile cache.
    Plain,
    /// FUA on the write: a drive.
    Through,
    /// A write, then one flush for all writes that have ended: a target. SPDK's takes FUA and does nothing with it.
    ThenFlush,
}

/// A namespace, owned by one thread. Dropping it waits for all that is under way, or until the controller is given up.
pub struct SpdkDevice {
    /// What stands in a slot without a head is a flush.
    pair: QueuePair<Option<Head>>,
    geometry: Geometry,
    blocks_per_block: u32,
    write_path: WritePath,
    ended: VecDeque<Completion>,
    flusher: Flusher,
}

impl SpdkDevice {
    /// A queue pair for `geometry.operations_max` operations, and a flush. One that fails condemns the devices of
    /// `flush_failed` too.
    ///
    /// # Errors
    /// The controller has no queue pair left, or is gone.
    pub fn new(
        controller: &Arc<Controller>,
        geometry: Geometry,
        write_path: WritePath,
        flush_failed: &FlushFailed,
    ) -> io::Result<SpdkDevice> {
        Ok(SpdkDevice {
            pair: QueuePair::new(controller, geometry.operations_max + 1)?,
            geometry,
            blocks_per_block: geometry.block_bytes / controller.identity().block_bytes,
            write_path,
            ended: VecDeque::with_capacity(geometry.operations_max as usize),
            flusher: Flusher::new(geometry.operations_max, flush_failed.clone()),
        })
    }

    fn transfer(&mut self, operation: Operation) -> Result<(), Operation> {
        let (head, buffer) = operation.split();
        let command = match (head.kind, self.write_path) {
            (OperationKind::Read, _) => Command::Read,
            (OperationKind::WriteDurable, WritePath::Through) => Command::WriteThrough,
            (OperationKind::WriteDurable, WritePath::Plain | WritePath::ThenFlush) => Command::Write,
            (OperationKind::Deallocate, _) => Command::Deallocate,
        };
        let scale = self.blocks_per_block;
        let block = head.address.0 / u64::from(self.geometry.block_bytes) * u64::from(scale);
        let blocks = head.bytes / self.geometry.block_bytes * scale;
        let Err(refused) = self.pair.submit(command, block, blocks, buffer, Some(head)) else { return Ok(()) };
        let operation = head.with(refused.buffer.expect("a transfer that is refused gives its buffer back"));
        match refused.refusal {
            Refusal::Full => return Err(operation),
            Refusal::Lost => self.end(operation, Err(DeviceError::Vanished)),
            Refusal::Invalid(errno) => self.end(operation, Err(DeviceError::Errno(errno))),
        }
        Ok(())
    }

    fn end(&mut self, operation: Operation, result: Result<(), DeviceError>) {
        self.ended.push_back(Completion { operation, result });
    }

    /// Takes all that ended from the queue pair, and has it flushed where that is what makes it durable.
    fn collect(&mut self) {
        while let Some(Ended { buffer, context, status }) = self.pair.poll() {
            let result = result(status);
            let Some(head) = context else {
                self.flusher.end(result, &mut self.ended);
                continue;
            };
            let operation = head.with(buffer.expect("a transfer that ended gives its buffer back"));
            if head.kind == OperationKind::WriteDurable && self.write_path == WritePath::ThenFlush && result.is_ok() {
                self.flusher.hold(operation);
            } else {
                self.end(operation, result);
            }
        }
        if self.flusher.is_due() {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let error = match self.flusher.failed() {
            Some(error) => error,
            None => match self.pair.flush(None) {
                Ok(()) => {
                    self.flusher.sent();
                    return self.pair.kick();
                }
                Err(refused) if refused.refusal == Refusal::Full => return,
                Err(_) => DeviceError::Vanished,
            },
        };
        self.flusher.give_up(error, &mut self.ended);
    }
}

/// SPDK ends what is under way on a queue pair that it gives up as if the drive had deleted the queue.
fn result(status: Status) -> Result<(), DeviceError> {
    const GIVEN_UP: u16 = 0x08;
    if status.is_success() {
        return Ok(());
    }
    let status = NvmeStatus(status.field());
    let code = u16::from(status.code_type()) << 8 | u16::from(status.code());
    Err(if code == GIVEN_UP { DeviceError::Vanished } else { DeviceError::Nvme(status) })
}

impl Device for SpdkDevice {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn submit(&mut self, operation: Operation) -> Result<(), Operation> {
        if self.in_flight() == self.geometry.operations_max {
            return Err(operation);
        }
        let checked = operation.check(self.geometry.capacity_bytes);
        let reachable = operation.buffer.is_from_spdk();
        if let Err(error) = checked.and(if reachable { Ok(()) } else { Err(DeviceError::INVALID) }) {
            self.end(operation, Err(error));
            return Ok(());
        }
        self.transfer(operation)
    }

    fn kick(&mut self, _waited_for: bool) {
        self.pair.kick();
    }

    fn poll(&mut self) -> Option<Completion> {
        if self.ended.is_empty() {
            self.collect();
        }
        self.ended.pop_front()
    }

    fn in_flight(&self) -> u32 {
        let transfers = self.pair.in_flight() - u32::from(self.flusher.is_under_way());
        transfers + self.flusher.held() + len_u32(self.ended.len())
    }
}
