//! A namespace driven by SPDK: a queue pair polled from user space, without a system call on PCIe and vfio-user.

pub mod attached;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use forebay_sys::spdk::{Command, Controller, Ended, QueuePair, Refusal, Status};

use super::nvme_status::NvmeStatus;
use super::{Completion, Device, DeviceError, Geometry, Operation, OperationKind};
use crate::types::DeviceAddress;

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

/// What stands in a slot of the queue pair.
enum Head {
    Transfer { tag: u64, kind: OperationKind, address: DeviceAddress, bytes: u32 },
    Flush,
}

/// A namespace, owned by one thread. Dropping it waits for all that is under way, or until the controller is given up.
pub struct SpdkDevice {
    pair: QueuePair<Head>,
    geometry: Geometry,
    blocks_per_block: u32,
    write_path: WritePath,
    ended: VecDeque<Completion>,
    /// Writes that ended and are not known to be durable, oldest first.
    written: VecDeque<Operation>,
    /// As many of them, from the front, are covered by the flush under way.
    flushing: usize,
    /// After a failed flush the drive may have dropped what it held: no later write can be called durable.
    flush_failed: Option<DeviceError>,
}

impl SpdkDevice {
    /// A queue pair for `geometry.operations_max` operations, and a flush.
    ///
    /// # Errors
    /// The controller has no queue pair left, or is gone.
    pub fn new(controller: &Arc<Controller>, geometry: Geometry, write_path: WritePath) -> io::Result<SpdkDevice> {
        let operations = geometry.operations_max as usize;
        Ok(SpdkDevice {
            pair: QueuePair::new(controller, geometry.operations_max + 1)?,
            geometry,
            blocks_per_block: geometry.block_bytes / controller.identity().block_bytes,
            write_path,
            ended: VecDeque::with_capacity(operations),
            written: VecDeque::with_capacity(operations),
            flushing: 0,
            flush_failed: None,
        })
    }

    fn transfer(&mut self, operation: Operation) -> Result<(), Operation> {
        let Operation { tag, kind, address, bytes, buffer } = operation;
        let command = match (kind, self.write_path) {
            (OperationKind::Read, _) => Command::Read,
            (OperationKind::WriteDurable, WritePath::Through) => Command::WriteThrough,
            (OperationKind::WriteDurable, WritePath::Plain | WritePath::ThenFlush) => Command::Write,
        };
        let scale = self.blocks_per_block;
        let block = address.0 / u64::from(self.geometry.block_bytes) * u64::from(scale);
        let blocks = bytes / self.geometry.block_bytes * scale;
        let head = Head::Transfer { tag, kind, address, bytes };
        let Err(refused) = self.pair.submit(command, block, blocks, buffer, head) else { return Ok(()) };
        let buffer = refused.buffer.expect("a transfer that is refused gives its buffer back");
        let operation = Operation { tag, kind, address, bytes, buffer };
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
            let Head::Transfer { tag, kind, address, bytes } = context else {
                self.flushed(result);
                continue;
            };
            let buffer = buffer.expect("a transfer that ended gives its buffer back");
            let operation = Operation { tag, kind, address, bytes, buffer };
            if kind == OperationKind::WriteDurable && self.write_path == WritePath::ThenFlush && result.is_ok() {
                self.written.push_back(operation);
            } else {
                self.end(operation, result);
            }
        }
        self.flush();
    }

    /// Ends the writes that a flush covered.
    fn flushed(&mut self, result: Result<(), DeviceError>) {
        self.flush_failed = self.flush_failed.or(result.err());
        for operation in self.written.drain(..self.flushing) {
            let result = self.flush_failed.map_or(Ok(()), Err);
            self.ended.push_back(Completion { operation, result });
        }
        self.flushing = 0;
    }

    /// One flush at a time, for all writes that have ended before it.
    fn flush(&mut self) {
        if self.flushing > 0 || self.written.is_empty() {
            return;
        }
        let error = match self.flush_failed {
            Some(error) => error,
            None => match self.pair.flush(Head::Flush) {
                Ok(()) => {
                    self.flushing = self.written.len();
                    self.pair.kick();
                    return;
                }
                Err(refused) if refused.refusal == Refusal::Full => return,
                Err(_) => DeviceError::Vanished,
            },
        };
        self.flushing = self.written.len();
        self.flushed(Err(error));
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

    fn kick(&mut self) {
        self.pair.kick();
    }

    fn poll(&mut self) -> Option<Completion> {
        if self.ended.is_empty() {
            self.collect();
        }
        self.ended.pop_front()
    }

    fn in_flight(&self) -> u32 {
        let waiting = self.ended.len() + self.written.len();
        let transfers = self.pair.in_flight() - u32::from(self.flushing > 0);
        transfers + u32::try_from(waiting).unwrap_or(u32::MAX)
    }
}
