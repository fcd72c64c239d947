//! Blocking access to a device, for format, recovery and the offline tools. Never on the path of a write.

use crate::device::blocks::BlockReader;
use crate::device::{Device, DeviceError};
use crate::types::DeviceAddress;

/// Whole blocks in, whole blocks out. Both calls block; a write is durable when it returns.
pub trait Blocks {
    /// # Errors
    /// When the device refuses.
    fn read(&mut self, address: DeviceAddress, out: &mut [u8]) -> Result<(), DeviceError>;

    /// # Errors
    /// When the device refuses.
    fn write(&mut self, address: DeviceAddress, bytes: &[u8]) -> Result<(), DeviceError>;
}

impl<D: Device> Blocks for BlockReader<D> {
    fn read(&mut self, address: DeviceAddress, out: &mut [u8]) -> Result<(), DeviceError> {
        BlockReader::read(self, address, out)
    }

    fn write(&mut self, address: DeviceAddress, bytes: &[u8]) -> Result<(), DeviceError> {
        BlockReader::write(self, address, bytes)
    }
}
