//! Segments: fixed-size pieces of the namespace, from one pool for all shards, chained a shard.

use std::sync::atomic::{AtomicI64, Ordering};

use crossbeam_queue::ArrayQueue;

use crate::bytes::{array, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};
use crate::types::{DeviceAddress, SegmentIndex, ShardId};
use crate::wal::layout::{BLOCK_BYTES, FORMAT_VERSION};

pub const MAGIC_VALUE: u64 = u64::from_le_bytes(*b"FBSEGMT1");
/// The header takes the segment's first block; the first frame begins after it.
pub const HEADER_BYTES: usize = BLOCK_BYTES;

pub const MAGIC: usize = 0; // u64
pub const CRC: usize = 8; // u32, over all from VERSION to the end of the block
pub const VERSION: usize = 12; // u16
pub const NAMESPACE: usize = 16; // 16 bytes
pub const ADDRESS: usize = 32; // u64, of the segment
pub const SHARD: usize = 40; // u32
pub const FLAGS: usize = 44; // u32
pub const SEQUENCE: usize = 48; // u64, its place in the shard's chain; the first is 1
pub const EPOCH: usize = 56; // u64, when it was prepared

/// Taken from what is kept for deletes and trims.
pub const FLAG_RESERVED: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub namespace: [u8; 16],
    pub address: DeviceAddress,
    pub shard: ShardId,
    pub sequence: u64,
    pub epoch: u64,
    pub reserved: bool,
}

/// Fills one block.
pub fn encode(block: &mut [u8], header: &Header) {
    block.fill(0);
    put_u64(block, MAGIC, MAGIC_VALUE);
    put_u16(block, VERSION, FORMAT_VERSION);
    block[NAMESPACE..NAMESPACE + 16].copy_from_slice(&header.namespace);
    put_u64(block, ADDRESS, header.address.0);
    put_u32(block, SHARD, header.shard.0);
    put_u32(block, FLAGS, if header.reserved { FLAG_RESERVED } else { 0 });
    put_u64(block, SEQUENCE, header.sequence);
    put_u64(block, EPOCH, header.epoch);
    let crc = crc32c::crc32c(&block[VERSION..]);
    put_u32(block, CRC, crc);
}

/// The header in `block`, when it is a valid one of this namespace at this address.
#[must_use]
pub fn decode(block: &[u8], namespace: &[u8; 16], address: DeviceAddress) -> Option<Header> {
    let header = Header {
        namespace: array(block, NAMESPACE),
        address: DeviceAddress(get_u64(block, ADDRESS)),
        shard: ShardId(get_u32(block, SHARD)),
        sequence: get_u64(block, SEQUENCE),
        epoch: get_u64(block, EPOCH),
        reserved: get_u32(block, FLAGS) & FLAG_RESERVED != 0,
    };
    let valid = get_u64(block, MAGIC) == MAGIC_VALUE
        && get_u16(block, VERSION) == FORMAT_VERSION
        && crc32c::crc32c(&block[VERSION..]) == get_u32(block, CRC)
        && header.namespace == *namespace
        && header.address == address;
    valid.then_some(header)
}

/// The free segments of a namespace, shared by all reactors. Touched once a segment, not on the path of a write.
pub struct SegmentPool {
    free: ArrayQueue<SegmentIndex>,
    /// What ordinary writes may still take; the rest is kept for deletes and trims.
    ordinary: AtomicI64,
}

impl SegmentPool {
    /// A pool of `free` segments, the last `reserve` of them kept for deletes and trims.
    #[must_use]
    pub fn new(free: &[SegmentIndex], reserve: u32) -> SegmentPool {
        let queue = ArrayQueue::new(free.len().max(1));
        for segment in free {
            queue.push(*segment).expect("the queue has room for every free segment");
        }
        let ordinary = i64::try_from(free.len()).expect("segments fit 32 bits") - i64::from(reserve);
        SegmentPool { free: queue, ordinary: AtomicI64::new(ordinary) }
    }

    /// Takes a segment for an ordinary write.
    pub fn take(&self) -> Option<SegmentIndex> {
        if self.ordinary.fetch_sub(1, Ordering::Relaxed) <= 0 {
            self.ordinary.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.free.pop()
    }

    /// Takes a segment that was kept for deletes and trims.
    pub fn take_reserved(&self) -> Option<SegmentIndex> {
        self.free.pop()
    }

    /// Whether an ordinary write may still take one.
    #[must_use]
    pub fn has_ordinary(&self) -> bool {
        self.ordinary.load(Ordering::Relaxed) > 0
    }

    #[must_use]
    pub fn free_count(&self) -> usize {
        self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_valid_only_in_its_place() {
        let header = Header {
            namespace: [1; 16],
            address: DeviceAddress(4_096),
            shard: ShardId(1),
            sequence: 4,
            epoch: 2,
            reserved: true,
        };
        let mut block = vec![9; BLOCK_BYTES];
        encode(&mut block, &header);
        assert_eq!(decode(&block, &[1; 16], DeviceAddress(4_096)), Some(header));
        assert_eq!(decode(&block, &[1; 16], DeviceAddress(8_192)), None);
        assert_eq!(decode(&block, &[2; 16], DeviceAddress(4_096)), None);
        block[4_000] ^= 1;
        assert_eq!(decode(&block, &[1; 16], DeviceAddress(4_096)), None);
    }

    #[test]
    fn the_reserve_is_kept_from_ordinary_writes() {
        let pool = SegmentPool::new(&[SegmentIndex(0), SegmentIndex(1), SegmentIndex(2)], 1);
        assert!(pool.take().is_some() && pool.take().is_some());
        assert_eq!(pool.take(), None);
        assert!(pool.take_reserved().is_some());
        assert_eq!(pool.take_reserved(), None);
    }
}
