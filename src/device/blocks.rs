//! Whole ranges read and written one after another, for recovery and the offline tools. Blocks its thread.

use std::collections::VecDeque;

use super::{BLOCK_BYTES, Completion, Device, DeviceError, Operation, OperationKind};
use crate::buffer::Buffer;
use crate::types::DeviceAddress;

/// Owns a device and a few buffers, and keeps as many transfers under way as it has buffers. Who reads one range after
/// another has the next one read while he looks at the last.
pub struct BlockReader<D: Device> {
    device: D,
    free: Vec<Buffer>,
    /// What was read ahead, or is, without a gap.
    ahead: VecDeque<Ahead>,
    /// Where the last read ended.
    read_to: Option<DeviceAddress>,
}

struct Ahead {
    address: DeviceAddress,
    bytes: usize,
    /// `None`: it is under way. An operation that failed is read again, for its error.
    ended: Option<(Buffer, bool)>,
}

impl<D: Device> BlockReader<D> {
    /// Buffers of about 1 MiB are good; they need not be of one size. At least one is needed.
    ///
    /// # Panics
    /// Without any buffer.
    #[must_use]
    pub fn new(device: D, buffers: Vec<Buffer>) -> BlockReader<D> {
        assert!(!buffers.is_empty(), "a block reader needs a buffer");
        BlockReader { device, free: buffers, ahead: VecDeque::new(), read_to: None }
    }

    /// The device, for what is not a transfer.
    #[must_use]
    pub fn device(&self) -> &D {
        &self.device
    }

    /// Fills `out` from `address`; both in whole blocks.
    ///
    /// # Errors
    /// The first error, after everything under way has ended. What `out` holds then is undefined.
    pub fn read(&mut self, address: DeviceAddress, out: &mut [u8]) -> Result<(), DeviceError> {
        let taken = self.take_ahead(address, out);
        let (rest, goes_on) = (&mut out[taken..], taken > 0 || self.read_to == Some(address));
        if !rest.is_empty() {
            self.forget_ahead();
            let bytes = rest.len();
            self.transfer(OperationKind::Read, address.plus(taken as u64), bytes, &mut |operation, offset, ended| {
                if ended {
                    let length = operation.bytes as usize;
                    rest[offset..offset + length].copy_from_slice(&operation.buffer[..length]);
                }
            })?;
        }
        let end = address.plus(out.len() as u64);
        self.read_to = Some(end);
        if goes_on {
            self.read_ahead(end, out.len());
        }
        Ok(())
    }

    /// Begins to read so much from there on, as far as there are buffers, one of which is left.
    fn read_ahead(&mut self, from: DeviceAddress, bytes: usize) {
        let planned: usize = self.ahead.iter().map(|ahead| ahead.bytes).sum();
        let mut next = planned;
        while next < bytes && self.free.len() > 1 {
            let Some(buffer) = self.free.pop() else { break };
            let length = (bytes - next).min(buffer.len());
            let (kind, address) = (OperationKind::Read, from.plus(next as u64));
            let operation = Operation { tag: address.0, kind, address, bytes: crate::bytes::len_u32(length), buffer };
            if let Err(refused) = self.device.submit(operation) {
                self.free.push(refused.buffer);
                break;
            }
            self.ahead.push_back(Ahead { address, bytes: length, ended: None });
            next += length;
        }
        self.device.kick(true);
    }

    /// Copies what was read ahead from `address` on into `out`. Says how much that was.
    fn take_ahead(&mut self, address: DeviceAddress, out: &mut [u8]) -> usize {
        let mut taken = 0;
        while let Some(first) = self.ahead.front()
            && first.address == address.plus(taken as u64)
            && first.bytes <= out.len() - taken
        {
            self.wait_for_first();
            let Some(Ahead { bytes, ended: Some((buffer, well)), .. }) = self.ahead.pop_front() else { break };
            if well {
                out[taken..taken + bytes].copy_from_slice(&buffer[..bytes]);
            }
            self.free.push(buffer);
            if !well {
                break;
            }
            taken += bytes;
        }
        taken
    }

    fn wait_for_first(&mut self) {
        while self.ahead.front().is_some_and(|first| first.ended.is_none()) {
            let Some(Completion { operation, result }) = self.device.poll() else {
                std::thread::yield_now();
                continue;
            };
            let own = self.ahead.iter_mut().find(|ahead| ahead.address.0 == operation.tag);
            own.expect("nothing else is under way").ended = Some((operation.buffer, result.is_ok()));
        }
    }

    /// Nothing is under way any more, and every buffer is free.
    fn forget_ahead(&mut self) {
        while !self.ahead.is_empty() {
            self.wait_for_first();
            let first = self.ahead.pop_front();
            self.free.extend(first.and_then(|first| first.ended).map(|(buffer, _)| buffer));
        }
    }

    /// Writes `data` at `address`, both in whole blocks; durable when it returns.
    ///
    /// # Errors
    /// The first error, after everything under way has ended. Any part may then have been written.
    pub fn write(&mut self, address: DeviceAddress, data: &[u8]) -> Result<(), DeviceError> {
        self.forget_ahead();
        self.transfer(OperationKind::WriteDurable, address, data.len(), &mut |operation, offset, ended| {
            if !ended {
                let length = operation.bytes as usize;
                operation.buffer[..length].copy_from_slice(&data[offset..offset + length]);
            }
        })
    }

    /// Cuts the range into operations. `copy` sees each before it is submitted, and again when it has ended well.
    fn transfer(
        &mut self,
        kind: OperationKind,
        address: DeviceAddress,
        bytes: usize,
        copy: &mut dyn FnMut(&mut Operation, usize, bool),
    ) -> Result<(), DeviceError> {
        if !bytes.is_multiple_of(BLOCK_BYTES as usize) {
            return Err(DeviceError::INVALID);
        }
        let (mut next, mut under_way, mut result) = (0, 0, Ok(()));
        while under_way > 0 || (next < bytes && result.is_ok()) {
            while next < bytes && result.is_ok() {
                let Some(buffer) = self.free.pop() else { break };
                let length = u32::try_from((bytes - next).min(buffer.len())).unwrap_or(1 << 30);
                let at = address.plus(next as u64);
                let mut operation = Operation { tag: next as u64, kind, address: at, bytes: length, buffer };
                copy(&mut operation, next, false);
                if let Err(refused) = self.device.submit(operation) {
                    self.free.push(refused.buffer);
                    break;
                }
                next += length as usize;
                under_way += 1;
            }
            self.device.kick(true);
            let Some(Completion { mut operation, result: ended }) = self.device.poll() else {
                std::thread::yield_now();
                continue;
            };
            under_way -= 1;
            let offset = usize::try_from(operation.tag).expect("the tag is an offset into a slice");
            if ended.is_ok() {
                copy(&mut operation, offset, true);
            }
            result = result.and(ended);
            self.free.push(operation.buffer);
        }
        result
    }
}

impl<D: Device> Drop for BlockReader<D> {
    /// A drive writes into the buffers until what is under way has ended.
    fn drop(&mut self) {
        self.forget_ahead();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::memory::{MemoryDevice, MemoryDisk};
    use forebay_sys::dma::{DmaRegion, Pages};

    fn reader(operations_max: u32, buffers: usize) -> BlockReader<MemoryDevice> {
        let device = MemoryDevice::new(&MemoryDisk::new(1 << 20), operations_max);
        BlockReader::new(device, DmaRegion::allocate(buffers * 8192, Pages::Ordinary).unwrap().split(8192))
    }

    #[test]
    fn any_number_of_blocks_goes_through_few_buffers() {
        for (operations_max, buffers) in [(8, 3), (1, 3), (8, 1)] {
            let mut reader = reader(operations_max, buffers);
            let data: Vec<u8> = (0..9 * 4096_u32).map(|i| (i / 7).to_le_bytes()[0]).collect();
            reader.write(DeviceAddress(4096), &data).unwrap();
            let mut read = vec![1; 11 * 4096];
            reader.read(DeviceAddress(0), &mut read).unwrap();
            assert!(read[..4096].iter().all(|b| *b == 0) && read[10 * 4096..].iter().all(|b| *b == 0));
            assert_eq!(read[4096..10 * 4096], data);
            reader.forget_ahead();
            assert_eq!(reader.free.len(), buffers);
        }
    }

    #[test]
    fn what_is_read_ahead_is_what_stands_there() {
        for (operations_max, buffers) in [(8, 3), (1, 3), (8, 1), (8, 9)] {
            let mut reader = reader(operations_max, buffers);
            let data: Vec<u8> = (0..40 * 4096_u32).map(|i| (i / 5).to_le_bytes()[0]).collect();
            reader.write(DeviceAddress(0), &data).unwrap();
            let mut out = vec![0; 5 * 4096];
            for blocks in [0..5, 5..10, 10..12, 12..17, 17..18, 30..33, 33..36, 2..4, 4..9_usize] {
                let bytes = blocks.start * 4096..blocks.end * 4096;
                reader.read(DeviceAddress(bytes.start as u64), &mut out[..bytes.len()]).unwrap();
                assert_eq!(out[..bytes.len()], data[bytes.clone()], "{bytes:?}");
                if bytes.end < 17 * 4096 {
                    continue;
                }
                // What is written where a read ahead may be is what the next read finds.
                let next = DeviceAddress(bytes.end as u64);
                reader.write(next, &[9; 4096]).unwrap();
                reader.read(next, &mut out[..4096]).unwrap();
                assert_eq!(out[..4096], [9; 4096]);
                reader.write(next, &data[bytes.end..bytes.end + 4096]).unwrap();
            }
            // Beyond the end of the device nothing is read, and nobody is told.
            for address in [(1 << 20) - 4 * 4096, (1 << 20) - 2 * 4096] {
                reader.read(DeviceAddress(address), &mut out[..2 * 4096]).unwrap();
            }
            reader.forget_ahead();
            assert_eq!((reader.device.in_flight(), reader.free.len()), (0, buffers));
        }
    }

    #[test]
    fn an_error_ends_it_and_no_buffer_is_lost() {
        let mut reader = reader(8, 3);
        let mut out = vec![0; 10 * 4096];
        assert_eq!(reader.read(DeviceAddress((1 << 20) - 3 * 4096), &mut out), Err(DeviceError::INVALID));
        assert_eq!(reader.write(DeviceAddress(0), &out[..100]), Err(DeviceError::INVALID));
        assert_eq!((reader.device().in_flight(), reader.free.len()), (0, 3));
    }
}
