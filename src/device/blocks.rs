//! Whole ranges read and written one after another, for recovery and the offline tools. Blocks its thread.

use super::{BLOCK_BYTES, Completion, Device, DeviceError, Operation, OperationKind};
use crate::buffer::Buffer;
use crate::types::DeviceAddress;

/// Owns a device and a few buffers, and keeps as many transfers under way as it has buffers.
pub struct BlockReader<D> {
    device: D,
    free: Vec<Buffer>,
}

impl<D: Device> BlockReader<D> {
    /// Buffers of about 1 MiB are good; they need not be of one size. At least one is needed.
    ///
    /// # Panics
    /// Without any buffer.
    #[must_use]
    pub fn new(device: D, buffers: Vec<Buffer>) -> BlockReader<D> {
        assert!(!buffers.is_empty(), "a block reader needs a buffer");
        BlockReader { device, free: buffers }
    }

    /// The device, for what is not a transfer.
    #[must_use]
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The device and the buffers back.
    #[must_use]
    pub fn into_parts(self) -> (D, Vec<Buffer>) {
        (self.device, self.free)
    }

    /// Fills `out` from `address`; both in whole blocks.
    ///
    /// # Errors
    /// The first error, after everything under way has ended. What `out` holds then is undefined.
    pub fn read(&mut self, address: DeviceAddress, out: &mut [u8]) -> Result<(), DeviceError> {
        let bytes = out.len();
        self.transfer(OperationKind::Read, address, bytes, &mut |operation, offset, ended| {
            if ended {
                let length = operation.bytes as usize;
                out[offset..offset + length].copy_from_slice(&operation.buffer[..length]);
            }
        })
    }

    /// Writes `data` at `address`, both in whole blocks; durable when it returns.
    ///
    /// # Errors
    /// The first error, after everything under way has ended. Any part may then have been written.
    pub fn write(&mut self, address: DeviceAddress, data: &[u8]) -> Result<(), DeviceError> {
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
            self.device.kick();
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
            assert_eq!(reader.into_parts().1.len(), buffers);
        }
    }

    #[test]
    fn an_error_ends_it_and_no_buffer_is_lost() {
        let mut reader = reader(8, 3);
        let mut out = vec![0; 10 * 4096];
        assert_eq!(reader.read(DeviceAddress((1 << 20) - 3 * 4096), &mut out), Err(DeviceError::INVALID));
        assert_eq!(reader.write(DeviceAddress(0), &out[..100]), Err(DeviceError::INVALID));
        assert_eq!((reader.device().in_flight(), reader.into_parts().1.len()), (0, 3));
    }
}
