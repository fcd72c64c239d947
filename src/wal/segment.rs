//! Segments: fixed-size pieces of the namespace, chained a shard. The first block of each says whose it is.

use crate::bytes::{array, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};
use crate::types::{DeviceAddress, Lsn, ShardId};
use crate::wal::checkpoint::Place;
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
pub const KEPT_FROM: usize = 64; // u64, segments of the chain before this number were given up by then; 0 is 1
pub const CHECKPOINT_LSN: usize = 72; // u64, of the beginning of the last checkpoint; 0: there is none
pub const CHECKPOINT_IN: usize = 80; // u64, the segment of the chain that this is in

/// Taken from what is kept for deletes, trims and reclaim.
pub const FLAG_RESERVED: u32 = 1;
/// Given up: what stands in it counts no more.
pub const FLAG_FREED: u32 = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub namespace: [u8; 16],
    pub address: DeviceAddress,
    pub shard: ShardId,
    pub sequence: u64,
    pub epoch: u64,
    pub kept_from: u64,
    pub checkpoint: Place,
    pub reserved: bool,
    pub freed: bool,
}

/// Fills one block.
pub fn encode(block: &mut [u8], header: &Header) {
    block.fill(0);
    put_u64(block, MAGIC, MAGIC_VALUE);
    put_u16(block, VERSION, FORMAT_VERSION);
    block[NAMESPACE..NAMESPACE + 16].copy_from_slice(&header.namespace);
    put_u64(block, ADDRESS, header.address.0);
    put_u32(block, SHARD, header.shard.0);
    let flag = |set: bool, bit: u32| if set { bit } else { 0 };
    put_u32(block, FLAGS, flag(header.reserved, FLAG_RESERVED) | flag(header.freed, FLAG_FREED));
    put_u64(block, SEQUENCE, header.sequence);
    put_u64(block, EPOCH, header.epoch);
    put_u64(block, KEPT_FROM, header.kept_from);
    put_u64(block, CHECKPOINT_LSN, header.checkpoint.lsn.0);
    put_u64(block, CHECKPOINT_IN, header.checkpoint.sequence);
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
        kept_from: get_u64(block, KEPT_FROM).max(1),
        checkpoint: Place { lsn: Lsn(get_u64(block, CHECKPOINT_LSN)), sequence: get_u64(block, CHECKPOINT_IN) },
        reserved: get_u32(block, FLAGS) & FLAG_RESERVED != 0,
        freed: get_u32(block, FLAGS) & FLAG_FREED != 0,
    };
    let valid = get_u64(block, MAGIC) == MAGIC_VALUE
        && get_u16(block, VERSION) == FORMAT_VERSION
        && crc32c::crc32c(&block[VERSION..]) == get_u32(block, CRC)
        && header.namespace == *namespace
        && header.address == address;
    valid.then_some(header)
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
            kept_from: 3,
            checkpoint: Place { lsn: Lsn(70), sequence: 4 },
            reserved: true,
            freed: false,
        };
        let mut block = vec![9; BLOCK_BYTES];
        encode(&mut block, &header);
        assert_eq!(decode(&block, &[1; 16], DeviceAddress(4_096)), Some(header));
        assert_eq!(decode(&block, &[1; 16], DeviceAddress(8_192)), None);
        assert_eq!(decode(&block, &[2; 16], DeviceAddress(4_096)), None);
        block[4_000] ^= 1;
        assert_eq!(decode(&block, &[1; 16], DeviceAddress(4_096)), None);
    }
}
