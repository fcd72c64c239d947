//! The fixed pool of DMA buffers. It never grows; an empty pool is back-pressure.

use forebay_sys::dma::DmaRegion;

pub use forebay_sys::dma::DmaBuffer as Buffer;

/// Buffers of one size, owned by one reactor. A buffer that is out belongs to whoever holds it.
pub struct Pool {
    free: Vec<Buffer>,
    buffer_bytes: usize,
    count: usize,
}

impl Pool {
    /// Cuts a region into buffers of `buffer_bytes` (a multiple of 4,096).
    #[must_use]
    pub fn new(region: DmaRegion, buffer_bytes: usize) -> Pool {
        let free = region.split(buffer_bytes);
        let count = free.len();
        Pool { free, buffer_bytes, count }
    }

    pub fn take(&mut self) -> Option<Buffer> {
        self.free.pop()
    }

    /// Gives a buffer back. The capacity was reserved at start, so this does not allocate.
    pub fn give(&mut self, buffer: Buffer) {
        self.free.push(buffer);
    }

    /// Buffers that can be taken now.
    #[must_use]
    pub fn available(&self) -> usize {
        self.free.len()
    }

    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }
}
