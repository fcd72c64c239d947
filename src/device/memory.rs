//! A device in DRAM: for tests, and for the upper bound of everything that is not the drive.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use super::{BLOCK_BYTES, Completion, Device, DeviceError, Geometry, Operation, OperationKind, Tier};
use crate::types::DeviceAddress;

const CHUNK_BYTES: usize = 64 << 10;

type Chunk = Box<[AtomicU64]>;

/// The bytes of a memory device. Clones share them, so a test can open the same disk again, and several reactors one disk.
///
/// Words are relaxed atomics: no lock, and like a drive it promises nothing about concurrent writes to one block.
#[derive(Clone)]
pub struct MemoryDisk {
    /// A chunk exists from its first write on; what was never written reads as zeros.
    chunks: Arc<[OnceLock<Chunk>]>,
    capacity_bytes: u64,
}

impl MemoryDisk {
    /// A disk of `capacity_bytes`, rounded down to whole blocks of 4 KiB. Memory is taken as it is written.
    #[must_use]
    pub fn new(capacity_bytes: u64) -> MemoryDisk {
        let chunks = capacity_bytes.div_ceil(CHUNK_BYTES as u64);
        MemoryDisk {
            chunks: (0..chunks).map(|_| OnceLock::new()).collect(),
            capacity_bytes: capacity_bytes - capacity_bytes % u64::from(BLOCK_BYTES),
        }
    }

    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        self.capacity_bytes
    }

    /// Fills `out` from `address`; both in multiples of 8 B.
    ///
    /// # Errors
    /// EINVAL when the range is outside the disk or unaligned.
    pub fn read(&self, address: DeviceAddress, out: &mut [u8]) -> Result<(), DeviceError> {
        self.check(address, out.len())?;
        let mut at = address.0;
        let mut rest = out;
        while !rest.is_empty() {
            let (chunk, word, bytes) = place(at, rest.len());
            let (now, later) = rest.split_at_mut(bytes);
            match self.chunks[chunk].get() {
                None => now.fill(0),
                Some(words) => {
                    for (out, word) in now.as_chunks_mut::<8>().0.iter_mut().zip(&words[word..]) {
                        *out = word.load(Ordering::Relaxed).to_le_bytes();
                    }
                }
            }
            at += bytes as u64;
            rest = later;
        }
        Ok(())
    }

    /// Writes `data` at `address`; both in multiples of 8 B.
    ///
    /// # Errors
    /// EINVAL when the range is outside the disk or unaligned.
    pub fn write(&self, address: DeviceAddress, data: &[u8]) -> Result<(), DeviceError> {
        self.check(address, data.len())?;
        let mut at = address.0;
        let mut rest = data;
        while !rest.is_empty() {
            let (chunk, word, bytes) = place(at, rest.len());
            let (now, later) = rest.split_at(bytes);
            let words =
                self.chunks[chunk].get_or_init(|| (0..CHUNK_BYTES / 8).map(|_| AtomicU64::new(0)).collect::<Chunk>());
            for (data, word) in now.as_chunks::<8>().0.iter().zip(&words[word..]) {
                word.store(u64::from_le_bytes(*data), Ordering::Relaxed);
            }
            at += bytes as u64;
            rest = later;
        }
        Ok(())
    }

    fn check(&self, address: DeviceAddress, bytes: usize) -> Result<(), DeviceError> {
        let aligned = address.0.is_multiple_of(8) && bytes.is_multiple_of(8);
        let inside = address.0.checked_add(bytes as u64).is_some_and(|end| end <= self.capacity_bytes);
        if aligned && inside { Ok(()) } else { Err(DeviceError::INVALID) }
    }
}

/// The chunk and the word in it that `at` falls on, and how many of `bytes` lie in that chunk.
#[expect(clippy::cast_possible_truncation, reason = "usize is 64 bits wide, see types.rs")]
fn place(at: u64, bytes: usize) -> (usize, usize, usize) {
    let (at, offset) = (at as usize, at as usize % CHUNK_BYTES);
    (at / CHUNK_BYTES, offset / 8, bytes.min(CHUNK_BYTES - offset))
}

/// A memory disk behind the device interface. What is submitted is done when it is polled.
pub struct MemoryDevice {
    disk: MemoryDisk,
    under_way: VecDeque<Operation>,
    operations_max: u32,
}

impl MemoryDevice {
    /// Opens `disk` for as many as `operations_max` operations at once.
    #[must_use]
    pub fn new(disk: &MemoryDisk, operations_max: u32) -> MemoryDevice {
        let under_way = VecDeque::with_capacity(operations_max as usize);
        MemoryDevice { disk: disk.clone(), under_way, operations_max }
    }
}

impl Device for MemoryDevice {
    fn geometry(&self) -> Geometry {
        Geometry {
            capacity_bytes: self.disk.capacity_bytes,
            block_bytes: BLOCK_BYTES,
            operations_max: self.operations_max,
            tier: Tier::Memory,
            deallocate_bytes_max: 0,
        }
    }

    fn submit(&mut self, operation: Operation) -> Result<(), Operation> {
        if self.in_flight() == self.operations_max {
            return Err(operation);
        }
        self.under_way.push_back(operation);
        Ok(())
    }

    fn kick(&mut self, _waited_for: bool) {}

    fn poll(&mut self) -> Option<Completion> {
        let mut operation = self.under_way.pop_front()?;
        let result = operation.check(self.disk.capacity_bytes).and_then(|()| {
            let bytes = operation.bytes as usize;
            match operation.kind {
                OperationKind::Read => self.disk.read(operation.address, &mut operation.buffer[..bytes]),
                OperationKind::WriteDurable => self.disk.write(operation.address, &operation.buffer[..bytes]),
                OperationKind::Deallocate => Err(DeviceError::INVALID),
            }
        });
        Some(Completion { operation, result })
    }

    #[expect(clippy::cast_possible_truncation, reason = "never more than `operations_max`, which is a u32")]
    fn in_flight(&self) -> u32 {
        self.under_way.len() as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::scratch::{operation, pool, run};

    #[test]
    fn what_was_written_is_there_when_the_disk_is_opened_again_and_the_rest_is_zeros() {
        let (mut pool, disk) = (pool(4, 8192), MemoryDisk::new(1 << 20));
        let mut device = MemoryDevice::new(&disk, 4);
        let at = CHUNK_BYTES as u64 - 4096; // crosses from one chunk into the next
        let mut write = operation(&mut pool, OperationKind::WriteDurable, at, 8192);
        for (i, byte) in write.buffer.iter_mut().enumerate() {
            *byte = u8::try_from(i % 251).unwrap();
        }
        let written = run(&mut device, write);
        assert_eq!((written.result, written.operation.tag), (Ok(()), at));
        drop(device);

        let mut device = MemoryDevice::new(&disk, 4);
        let read = run(&mut device, operation(&mut pool, OperationKind::Read, at, 8192));
        assert_eq!(read.result, Ok(()));
        assert_eq!(read.operation.buffer[..], written.operation.buffer[..]);
        let read = run(&mut device, operation(&mut pool, OperationKind::Read, at + 8192, 8192));
        assert!(read.operation.buffer.iter().all(|b| *b == 0));
    }

    #[test]
    fn a_full_device_gives_the_operation_back() {
        let (mut pool, mut device) = (pool(4, 8192), MemoryDevice::new(&MemoryDisk::new(1 << 20), 2));
        for _ in 0..2 {
            device.submit(operation(&mut pool, OperationKind::Read, 0, 4096)).unwrap();
        }
        let back = device.submit(operation(&mut pool, OperationKind::Read, 4096, 4096)).unwrap_err();
        assert_eq!((back.tag, device.in_flight()), (4096, 2));
        assert!(device.poll().is_some() && device.poll().is_some() && device.poll().is_none());
    }

    #[test]
    fn unaligned_oversized_and_outside_are_errors() {
        let (mut pool, mut device) = (pool(4, 8192), MemoryDevice::new(&MemoryDisk::new(1 << 20), 2));
        for (address, bytes) in [(1, 4096), (0, 100), (0, 16384), (1 << 20, 4096), ((1 << 20) - 4096, 8192), (0, 0)] {
            let ended = run(&mut device, operation(&mut pool, OperationKind::WriteDurable, address, bytes));
            assert_eq!(ended.result, Err(DeviceError::INVALID), "{address} {bytes}");
            pool.give(ended.operation.buffer);
        }
    }
}
