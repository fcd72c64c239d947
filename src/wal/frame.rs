//! A frame: what one device write carries. A header, records, zeros to the end of the block.

use crate::bytes::{array, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};
use crate::timing::{self, Layer};
use crate::types::{DeviceAddress, Lsn, ShardId};
use crate::wal::layout::{BLOCK_BYTES, FORMAT_VERSION};

pub const MAGIC_VALUE: u64 = u64::from_le_bytes(*b"FBFRAME1");
pub const HEADER_BYTES: usize = 96;

pub const MAGIC: usize = 0; // u64
pub const CRC: usize = 8; // u32, over all from VERSION to the end of the frame, padding included
pub const VERSION: usize = 12; // u16
pub const HEADER_SIZE: usize = 14; // u16
pub const NAMESPACE: usize = 16; // 16 bytes
pub const ADDRESS: usize = 32; // u64, of the frame itself
pub const FRAME_BYTES: usize = 40; // u32, whole blocks
pub const USED_BYTES: usize = 44; // u32, header and records
pub const SHARD: usize = 48; // u32
pub const FLAGS: usize = 52; // u32
pub const EPOCH: usize = 56; // u64
pub const SEGMENT_SEQUENCE: usize = 64; // u64
pub const FIRST_LSN: usize = 72; // u64
pub const DURABLE_LSN: usize = 80; // u64, known when the frame was sealed
pub const RECORDS: usize = 88; // u32
pub const PREVIOUS_CRC: usize = 92; // u32, of the frame before it in the shard

/// No records: written when a shard falls idle, so that the last acknowledged frame has its evidence.
pub const FLAG_WATERMARK: u32 = 1;
/// The last frame of a daemon that stopped in good order.
pub const FLAG_CLEAN: u32 = 2;
/// Written by `repair`: what lay beyond was given up.
pub const FLAG_CUT: u32 = 4;

/// A frame's header. `Copy`, without the records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub namespace: [u8; 16],
    pub address: DeviceAddress,
    pub frame_bytes: u32,
    pub used_bytes: u32,
    pub shard: ShardId,
    pub flags: u32,
    pub epoch: u64,
    pub segment_sequence: u64,
    pub first_lsn: Lsn,
    pub durable_lsn: Lsn,
    pub records: u32,
    pub previous_crc: u32,
}

impl Header {
    /// The LSN of the record after this frame's last.
    #[must_use]
    pub fn next_lsn(&self) -> Lsn {
        Lsn(self.first_lsn.0 + u64::from(self.records))
    }
}

/// Writes the header before the records that stand in `frame`, clears the padding, and gives the frame's CRC.
pub fn seal(frame: &mut [u8], header: &Header) -> u32 {
    frame[header.used_bytes as usize..].fill(0);
    put_u64(frame, MAGIC, MAGIC_VALUE);
    put_u16(frame, VERSION, FORMAT_VERSION);
    put_u16(frame, HEADER_SIZE, 96);
    frame[NAMESPACE..NAMESPACE + 16].copy_from_slice(&header.namespace);
    put_u64(frame, ADDRESS, header.address.0);
    put_u32(frame, FRAME_BYTES, header.frame_bytes);
    put_u32(frame, USED_BYTES, header.used_bytes);
    put_u32(frame, SHARD, header.shard.0);
    put_u32(frame, FLAGS, header.flags);
    put_u64(frame, EPOCH, header.epoch);
    put_u64(frame, SEGMENT_SEQUENCE, header.segment_sequence);
    put_u64(frame, FIRST_LSN, header.first_lsn.0);
    put_u64(frame, DURABLE_LSN, header.durable_lsn.0);
    put_u32(frame, RECORDS, header.records);
    put_u32(frame, PREVIOUS_CRC, header.previous_crc);
    let _layer = timing::enter(Layer::Crc);
    let crc = crc32c::crc32c(&frame[VERSION..]);
    put_u32(frame, CRC, crc);
    crc
}

/// Why a place holds no valid frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invalid {
    /// No magic: never written, or overwritten by something else.
    NoFrame,
    /// The frame's length makes no sense here.
    BadLength,
    /// The checksum does not match: torn or rotten.
    BadChecksum,
    /// Written by a newer Forebay.
    OtherVersion(u16),
    /// A frame of another namespace.
    OtherNamespace,
    /// A frame that belongs elsewhere: a misdirected write.
    Misdirected { meant_for: DeviceAddress },
}

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Invalid::NoFrame => f.write_str("no frame"),
            Invalid::BadLength => f.write_str("a frame whose length makes no sense"),
            Invalid::BadChecksum => f.write_str("a frame whose checksum does not match"),
            Invalid::OtherVersion(version) => write!(f, "a frame of format version {version}"),
            Invalid::OtherNamespace => f.write_str("a frame of another namespace"),
            Invalid::Misdirected { meant_for } => write!(f, "a frame meant for address {meant_for}"),
        }
    }
}

/// The frame's length as its first block claims it, `bytes_max` at most. The rest is not looked at.
///
/// # Errors
/// When there is no frame, or its length makes no sense.
pub fn claimed_bytes(block: &[u8], bytes_max: usize) -> Result<usize, Invalid> {
    if get_u64(block, MAGIC) != MAGIC_VALUE {
        return Err(Invalid::NoFrame);
    }
    let frame_bytes = get_u32(block, FRAME_BYTES) as usize;
    if frame_bytes == 0 || !frame_bytes.is_multiple_of(BLOCK_BYTES) || frame_bytes > bytes_max {
        return Err(Invalid::BadLength);
    }
    Ok(frame_bytes)
}

/// Reads and checks a whole frame that stands at `address`. Gives its header and CRC.
///
/// # Errors
/// Why it is not a frame of this namespace at this place.
pub fn parse(frame: &[u8], namespace: &[u8; 16], address: DeviceAddress) -> Result<(Header, u32), Invalid> {
    if claimed_bytes(frame, frame.len())? != frame.len() {
        return Err(Invalid::BadLength);
    }
    let crc = get_u32(frame, CRC);
    if crc32c::crc32c(&frame[VERSION..]) != crc {
        return Err(Invalid::BadChecksum);
    }
    if get_u16(frame, VERSION) != FORMAT_VERSION {
        return Err(Invalid::OtherVersion(get_u16(frame, VERSION)));
    }
    let header = Header {
        namespace: array(frame, NAMESPACE),
        address: DeviceAddress(get_u64(frame, ADDRESS)),
        frame_bytes: get_u32(frame, FRAME_BYTES),
        used_bytes: get_u32(frame, USED_BYTES),
        shard: ShardId(get_u32(frame, SHARD)),
        flags: get_u32(frame, FLAGS),
        epoch: get_u64(frame, EPOCH),
        segment_sequence: get_u64(frame, SEGMENT_SEQUENCE),
        first_lsn: Lsn(get_u64(frame, FIRST_LSN)),
        durable_lsn: Lsn(get_u64(frame, DURABLE_LSN)),
        records: get_u32(frame, RECORDS),
        previous_crc: get_u32(frame, PREVIOUS_CRC),
    };
    if header.namespace != *namespace {
        return Err(Invalid::OtherNamespace);
    }
    if header.address != address {
        return Err(Invalid::Misdirected { meant_for: header.address });
    }
    if (header.used_bytes as usize) < HEADER_BYTES || header.used_bytes > header.frame_bytes {
        return Err(Invalid::BadLength);
    }
    Ok((header, crc))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            namespace: [7; 16],
            address: DeviceAddress(8_192),
            frame_bytes: 4_096,
            used_bytes: 200,
            shard: ShardId(2),
            flags: 0,
            epoch: 3,
            segment_sequence: 1,
            first_lsn: Lsn(10),
            durable_lsn: Lsn(9),
            records: 2,
            previous_crc: 77,
        }
    }

    #[test]
    fn a_frame_comes_back_as_it_went_in() {
        let mut frame = vec![0xee; 4_096];
        let crc = seal(&mut frame, &header());
        assert_eq!(parse(&frame, &[7; 16], DeviceAddress(8_192)), Ok((header(), crc)));
        assert_eq!(header().next_lsn(), Lsn(12));
        assert!(frame[200..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_frame_is_valid_only_in_its_place_and_namespace() {
        let mut frame = vec![0; 4_096];
        seal(&mut frame, &header());
        let misdirected = Err(Invalid::Misdirected { meant_for: DeviceAddress(8_192) });
        assert_eq!(parse(&frame, &[7; 16], DeviceAddress(4_096)), misdirected);
        assert_eq!(parse(&frame, &[8; 16], DeviceAddress(8_192)), Err(Invalid::OtherNamespace));
        for at in [12, 99, 199, 4_095] {
            let mut torn = frame.clone();
            torn[at] ^= 1;
            assert_eq!(parse(&torn, &[7; 16], DeviceAddress(8_192)), Err(Invalid::BadChecksum));
        }
        assert_eq!(parse(&[0; 4_096], &[7; 16], DeviceAddress(0)), Err(Invalid::NoFrame));
    }
}
