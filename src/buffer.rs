//! The fixed pool of DMA buffers. It never grows; an empty pool is back-pressure.

use forebay_sys::dma::DmaRegion;

pub use forebay_sys::dma::DmaBuffer as Buffer;

/// What most values that are read from the drive fit in, with the blocks around them.
pub const SMALL_BYTES: usize = 16 << 10;
/// Small buffers of one reactor: as many values are read at once.
pub const SMALL_COUNT: usize = 64;

/// Buffers of one size, and some small ones for reads, owned by one reactor. A buffer that is out belongs to whoever
/// holds it.
pub struct Pool {
    free: Vec<Buffer>,
    small: Vec<Buffer>,
    small_count: usize,
    buffer_bytes: usize,
    count: usize,
}

impl Pool {
    /// Cuts a region into buffers of `buffer_bytes` (a multiple of 4,096).
    #[must_use]
    pub fn new(region: DmaRegion, buffer_bytes: usize) -> Pool {
        let free = region.split(buffer_bytes);
        let count = free.len();
        Pool { free, small: Vec::new(), small_count: 0, buffer_bytes, count }
    }

    /// The same, with the last `small` x `SMALL_BYTES` of the region as small buffers.
    #[must_use]
    pub fn with_small(region: DmaRegion, buffer_bytes: usize, small: usize) -> Pool {
        let (region, rest) = region.cut_off(small * SMALL_BYTES);
        let pool = Pool::new(region, buffer_bytes);
        Pool { small: rest.split_from(pool.count, SMALL_BYTES), small_count: small, ..pool }
    }

    pub fn take(&mut self) -> Option<Buffer> {
        self.free.pop()
    }

    /// A small buffer. Those who write never take one.
    pub fn take_small(&mut self) -> Option<Buffer> {
        self.small.pop()
    }

    /// Gives a buffer back. The capacity was reserved at start, so this does not allocate.
    pub fn give(&mut self, buffer: Buffer) {
        let small = buffer.len() == SMALL_BYTES && self.small.len() < self.small_count;
        if small { self.small.push(buffer) } else { self.free.push(buffer) }
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

    /// Buffers of both sizes. Their numbers are below it.
    #[must_use]
    pub fn count_all(&self) -> usize {
        self.count + self.small_count
    }
}
