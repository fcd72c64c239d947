//! The superblock: what a namespace is. Several copies, far apart, written one after another.

use crate::bytes::{array, get_u16, get_u32, get_u64, len_u16, put_u16, put_u32, put_u64};
use crate::device::identity::{DriveId, SERIAL_BYTES};
use crate::error::{Error, Result};
use crate::types::DeviceAddress;
use crate::wal::blocks::Blocks;
use crate::wal::layout::{BLOCK_BYTES, FORMAT_VERSION, Layout, SUPERBLOCK_COPIES};

pub const MAGIC_VALUE: u64 = u64::from_le_bytes(*b"FBSUPER1");

pub const MAGIC: usize = 0; // u64
pub const CRC: usize = 8; // u32, over all from VERSION to the end of the block
pub const VERSION: usize = 12; // u16
pub const COPY: usize = 14; // u16
pub const NAMESPACE: usize = 16; // 16 bytes
pub const ADDRESS: usize = 32; // u64, of this copy
pub const GENERATION: usize = 40; // u64
pub const EPOCH: usize = 48; // u64
pub const CAPACITY_BYTES: usize = 56; // u64
pub const SEGMENT_BYTES: usize = 64; // u64
pub const BLOCK_SIZE: usize = 72; // u32
pub const SHARDS: usize = 76; // u32
pub const SEGMENTS: usize = 80; // u32
pub const FEATURES: usize = 84; // u32, bits that a reader must know; none yet
pub const CUTS: usize = 88; // u32, how often `repair --cut` gave up what was acknowledged
pub const SERIAL: usize = 128; // 40 bytes, of the drive that it was formatted on; zeros for none
pub const DRIVE_NAMESPACE: usize = 168; // u32, the number of the namespace on that drive; 0 for none

/// The numbers of the copies in the order in which `read_copies` reads them: those near the front come first.
pub const READ_ORDER: [u16; SUPERBLOCK_COPIES] = [0, 2, 1, 3];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Superblock {
    pub namespace: [u8; 16],
    pub generation: u64,
    /// Raised durably at every start, before the first write.
    pub epoch: u64,
    pub layout: Layout,
    /// How often acknowledged data was given up: from then on offsets of streams may come again, with other events.
    pub cuts: u32,
    /// The drive that it stands on. None: on a file, or formatted before drives were noted.
    pub drive: Option<DriveId>,
}

/// What one copy holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyState {
    Valid(Superblock),
    Missing,
    Damaged,
    OtherVersion(u16),
    UnknownFeatures(u32),
}

impl Superblock {
    /// Fills one block with copy number `copy`, which stands at `address`.
    pub fn encode(&self, block: &mut [u8], copy: u16, address: DeviceAddress) {
        block.fill(0);
        put_u64(block, MAGIC, MAGIC_VALUE);
        put_u16(block, VERSION, FORMAT_VERSION);
        put_u16(block, COPY, copy);
        block[NAMESPACE..NAMESPACE + 16].copy_from_slice(&self.namespace);
        put_u64(block, ADDRESS, address.0);
        put_u64(block, GENERATION, self.generation);
        put_u64(block, EPOCH, self.epoch);
        put_u64(block, CAPACITY_BYTES, self.layout.capacity_bytes);
        put_u64(block, SEGMENT_BYTES, self.layout.segment_bytes);
        put_u32(block, BLOCK_SIZE, 4_096);
        put_u32(block, SHARDS, self.layout.shards);
        put_u32(block, SEGMENTS, self.layout.segments);
        put_u32(block, CUTS, self.cuts);
        if let Some(drive) = &self.drive {
            let (serial, namespace) = drive.fields();
            block[SERIAL..SERIAL + SERIAL_BYTES].copy_from_slice(serial);
            put_u32(block, DRIVE_NAMESPACE, namespace);
        }
        let crc = crc32c::crc32c(&block[VERSION..]);
        put_u32(block, CRC, crc);
    }

    fn decode(block: &[u8], copy: u16, address: DeviceAddress) -> CopyState {
        if get_u64(block, MAGIC) != MAGIC_VALUE {
            return CopyState::Missing;
        }
        if crc32c::crc32c(&block[VERSION..]) != get_u32(block, CRC) {
            return CopyState::Damaged;
        }
        if get_u16(block, VERSION) != FORMAT_VERSION {
            return CopyState::OtherVersion(get_u16(block, VERSION));
        }
        if get_u32(block, FEATURES) != 0 {
            return CopyState::UnknownFeatures(get_u32(block, FEATURES));
        }
        if get_u64(block, ADDRESS) != address.0 || get_u16(block, COPY) != copy || get_u32(block, BLOCK_SIZE) != 4_096 {
            return CopyState::Damaged;
        }
        let planned =
            Layout::plan(get_u64(block, CAPACITY_BYTES), get_u64(block, SEGMENT_BYTES), get_u32(block, SHARDS));
        match planned {
            Ok(layout) if layout.segments == get_u32(block, SEGMENTS) => CopyState::Valid(Superblock {
                namespace: array(block, NAMESPACE),
                generation: get_u64(block, GENERATION),
                epoch: get_u64(block, EPOCH),
                layout,
                cuts: get_u32(block, CUTS),
                drive: DriveId::from_fields(array(block, SERIAL), get_u32(block, DRIVE_NAMESPACE)),
            }),
            _ => CopyState::Damaged,
        }
    }

    /// Writes all copies, one after another, each durable before the next.
    ///
    /// # Errors
    /// When the device refuses a write; copies not yet reached hold the generation before.
    pub fn write(&self, blocks: &mut impl Blocks) -> Result<()> {
        let mut block = vec![0; BLOCK_BYTES];
        for (copy, address) in Layout::superblock_addresses(self.layout.capacity_bytes).into_iter().enumerate() {
            self.encode(&mut block, len_u16(copy), address);
            blocks.write(address, &block).map_err(|error| {
                Error::new(format!("write superblock copy {copy} at {address}: {error}"))
                    .remedy("check the device and its log (dmesg)")
            })?;
        }
        Ok(())
    }

    /// The copies of a device of `device_bytes`, each as it is, in `READ_ORDER`.
    ///
    /// # Errors
    /// When the device refuses a read.
    pub fn read_copies(blocks: &mut impl Blocks, device_bytes: u64) -> Result<Vec<(DeviceAddress, CopyState)>> {
        // The front copies know the capacity at format, which places the others. Where both are gone, the device's own does.
        let whole = device_bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        if whole < crate::wal::layout::HEAD_BYTES + crate::wal::layout::TAIL_BYTES {
            return Err(Error::new(format!("the device has only {device_bytes} B: it is too small or truncated"))
                .remedy("restore the whole image, or format a larger device"));
        }
        let mut copies = Vec::new();
        let mut capacity = whole;
        for copy in READ_ORDER {
            let address = Layout::superblock_addresses(capacity)[usize::from(copy)];
            if address.0 + BLOCK_BYTES as u64 > whole {
                copies.push((address, CopyState::Missing));
                continue;
            }
            let mut block = vec![0; BLOCK_BYTES];
            let state = match blocks.read(address, &mut block) {
                Ok(()) => Superblock::decode(&block, copy, address),
                Err(_) => CopyState::Damaged,
            };
            if let CopyState::Valid(superblock) = state {
                capacity = superblock.layout.capacity_bytes;
            }
            copies.push((address, state));
        }
        Ok(copies)
    }

    /// The newest valid copy.
    ///
    /// # Errors
    /// When there is none, or the device is smaller than it was at format.
    pub fn load(blocks: &mut impl Blocks, device_bytes: u64) -> Result<Superblock> {
        let copies = Superblock::read_copies(blocks, device_bytes)?;
        Superblock::newest(&copies, device_bytes)
    }

    /// The newest valid one of `copies`, as `read_copies` gave them.
    ///
    /// # Errors
    /// As `load`; and when any copy was written by a Forebay that knows more than this one.
    pub fn newest(copies: &[(DeviceAddress, CopyState)], device_bytes: u64) -> Result<Superblock> {
        if let Some(error) = copies.iter().find_map(|(_, state)| state.unknown()) {
            return Err(error);
        }
        let valid = copies.iter().filter_map(|(_, state)| match state {
            CopyState::Valid(superblock) => Some(*superblock),
            _ => None,
        });
        let Some(newest) = valid.max_by_key(|superblock| superblock.generation) else {
            return Err(none_valid(copies));
        };
        let others =
            copies.iter().any(|(_, state)| matches!(state, CopyState::Valid(s) if s.namespace != newest.namespace));
        if others {
            return Err(Error::new("superblock copies of two namespaces stand on this device")
                .remedy("restore the right device, or format it anew with `forebay format --force`"));
        }
        if newest.layout.capacity_bytes > device_bytes {
            return Err(Error::new(format!(
                "the device has {device_bytes} B but was formatted with {} B: it is truncated",
                newest.layout.capacity_bytes
            ))
            .remedy("restore the whole image"));
        }
        Ok(newest)
    }
}

impl CopyState {
    /// What is wrong when a newer Forebay wrote this copy.
    fn unknown(&self) -> Option<Error> {
        let cause = match self {
            CopyState::OtherVersion(version) => {
                format!("the namespace has format version {version}; this Forebay knows version {FORMAT_VERSION}")
            }
            CopyState::UnknownFeatures(bits) => {
                format!("the namespace uses features {bits:#x} that this Forebay does not know")
            }
            _ => return None,
        };
        Some(Error::new(cause).remedy("use the Forebay release that wrote it"))
    }
}

fn none_valid(copies: &[(DeviceAddress, CopyState)]) -> Error {
    match copies.iter().find(|(_, state)| *state == CopyState::Damaged) {
        Some((address, _)) => Error::new(format!("no superblock copy is valid; the one at {address} is damaged"))
            .remedy("run `forebay verify` on it, or restore a copy of the device"),
        None => Error::new("no Forebay superblock on this device").remedy("format it first with `forebay format`"),
    }
}
