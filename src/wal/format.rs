//! Making a device a namespace.

use crate::device::identity::DriveId;
use crate::error::Result;
use crate::wal::blocks::Blocks;
use crate::wal::layout::{BLOCK_BYTES, Layout};
use crate::wal::superblock::Superblock;

/// Writes the superblocks of a new namespace. Nothing else: stale segments of an earlier one carry its number and never
/// parse as log. `drive` is the one that it stands on, where that is known.
///
/// # Errors
/// When the device is too small or refuses a write.
pub fn format(
    blocks: &mut impl Blocks,
    device_bytes: u64,
    segment_bytes: u64,
    shards: u32,
    namespace: [u8; 16],
    drive: Option<DriveId>,
) -> Result<Superblock> {
    let layout = Layout::plan(device_bytes, segment_bytes, shards)?;
    // Copies of an earlier, larger or smaller layout must not be found beside the new ones.
    let blank = vec![0; BLOCK_BYTES];
    for (address, _) in Superblock::read_copies(blocks, device_bytes)? {
        if address.0 + BLOCK_BYTES as u64 <= layout.capacity_bytes {
            blocks
                .write(address, &blank)
                .map_err(|error| crate::error::Error::new(format!("clear the superblock at {address}: {error}")))?;
        }
    }
    let superblock = Superblock { namespace, generation: 1, epoch: 0, layout, cuts: 0, drive };
    superblock.write(blocks)?;
    Ok(superblock)
}
