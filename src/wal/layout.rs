//! Where things lie on a namespace. docs/format.md describes it; a test ties the two together.

use crate::bytes::index;
use crate::error::{Error, Result};
use crate::types::{DeviceAddress, SegmentIndex};

/// Every structure is written in whole blocks of this size, whatever the drive's own block is.
pub const BLOCK_BYTES: usize = 4_096;
/// Version of everything on the drive.
pub const FORMAT_VERSION: u16 = 1;
/// Before the first segment: room for a protective GPT, then superblock copies.
pub const HEAD_BYTES: u64 = 256 << 10;
/// After the last segment: superblock copies, then room for the backup GPT.
pub const TAIL_BYTES: u64 = 256 << 10;
/// At either end of the capacity, for a protective GPT of a raw drive: nothing of the log's stands there.
pub const PARTITION_TABLE_BYTES: u64 = 64 << 10;
pub const SUPERBLOCK_COPIES: usize = 4;
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;
pub const SEGMENT_BYTES_MAX: u64 = 4 << 30;
/// A shard needs one segment to write in, one to go on in, and one kept for deletes and trims.
pub const SEGMENTS_PER_SHARD_MIN: u64 = 3;
/// With fewer a namespace is filled once.
pub const RECLAIM_SEGMENTS_PER_SHARD_MIN: u32 = 8;

/// What `format` chooses: so many segments a shard, so that giving some up frees room in small steps ...
pub const SEGMENTS_PER_SHARD_CHOSEN: u64 = 32;
/// ... of at most this size.
pub const SEGMENT_BYTES_CHOSEN_MAX: u64 = 64 << 20;

/// `bytes` in whole blocks.
#[must_use]
pub const fn blocks_up(bytes: usize) -> usize {
    bytes.next_multiple_of(BLOCK_BYTES)
}

/// The geometry of a formatted namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub capacity_bytes: u64,
    pub segment_bytes: u64,
    pub segments: u32,
    pub shards: u32,
}

impl Layout {
    /// Lays out a device of `device_bytes`.
    ///
    /// # Errors
    /// When the device is too small for so many shards, or a size is out of its bounds.
    pub fn plan(device_bytes: u64, segment_bytes: u64, shards: u32) -> Result<Layout> {
        if !(SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&segment_bytes)
            || !segment_bytes.is_multiple_of(BLOCK_BYTES as u64)
        {
            return Err(Error::new(format!(
                "segment size {segment_bytes} B is not a multiple of 4 KiB in 64 KiB..4 GiB"
            ))
            .remedy("use --segment-bytes 64MiB"));
        }
        if shards == 0 || shards > crate::ring::protocol::SHARDS_MAX {
            return Err(Error::new(format!("{shards} shards are not in 1..1024")).remedy("use --shards 4"));
        }
        let capacity_bytes = device_bytes / BLOCK_BYTES as u64 * BLOCK_BYTES as u64;
        let needed = Layout::device_bytes_min(segment_bytes, shards);
        if capacity_bytes < needed {
            return Err(Error::new(format!(
                "the device has {device_bytes} B, but {shards} shards with segments of {segment_bytes} B need {needed} B"
            ))
            .remedy("use a larger device, or smaller --segment-bytes or --shards"));
        }
        let segments = (capacity_bytes - HEAD_BYTES - TAIL_BYTES) / segment_bytes;
        let segments = u32::try_from(segments).map_err(|_| {
            Error::new(format!("{segments} segments are too many")).remedy("use larger --segment-bytes")
        })?;
        Ok(Layout { capacity_bytes, segment_bytes, segments, shards })
    }

    /// The largest power of two for which a device has 32 segments a shard, but for the ends of the device; at most 64 MiB,
    /// and at least `bytes_min`, a power of two.
    #[must_use]
    pub fn segment_bytes_for(device_bytes: u64, shards: u32, bytes_min: u64) -> u64 {
        let most = device_bytes / (u64::from(shards.max(1)) * SEGMENTS_PER_SHARD_CHOSEN);
        let chosen = most.checked_ilog2().map_or(0, |log| 1 << log);
        chosen.min(SEGMENT_BYTES_CHOSEN_MAX).max(bytes_min)
    }

    /// The smallest device for so many shards with segments of this size.
    #[must_use]
    pub fn device_bytes_min(segment_bytes: u64, shards: u32) -> u64 {
        let segments = u64::from(shards) * SEGMENTS_PER_SHARD_MIN;
        segments.saturating_mul(segment_bytes).saturating_add(HEAD_BYTES + TAIL_BYTES)
    }

    /// Whether segments can be given up: there is room to move what is live about.
    #[must_use]
    pub fn reclaims(&self) -> bool {
        self.segments >= self.shards * RECLAIM_SEGMENTS_PER_SHARD_MIN
    }

    /// Two superblock copies near the front, two near the end.
    #[must_use]
    pub fn superblock_addresses(capacity_bytes: u64) -> [DeviceAddress; SUPERBLOCK_COPIES] {
        [64 << 10, capacity_bytes - (128 << 10), 128 << 10, capacity_bytes - (192 << 10)].map(DeviceAddress)
    }

    /// Bytes from a place in a segment to the segment's end.
    #[must_use]
    pub fn segment_bytes_left(&self, place: DeviceAddress) -> usize {
        index(self.segment_bytes - place.0.saturating_sub(HEAD_BYTES) % self.segment_bytes)
    }

    #[must_use]
    pub fn segment_address(&self, segment: SegmentIndex) -> DeviceAddress {
        DeviceAddress(HEAD_BYTES + u64::from(segment.0) * self.segment_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_and_superblocks_do_not_overlap() {
        let layout = Layout::plan(10 << 20, 64 << 10, 4).unwrap();
        let last = layout.segment_address(SegmentIndex(layout.segments - 1)).plus(layout.segment_bytes);
        let copies = Layout::superblock_addresses(layout.capacity_bytes);
        assert!(last.0 <= layout.capacity_bytes - TAIL_BYTES);
        for copy in copies {
            assert!(copy.0 < HEAD_BYTES || copy.0 >= layout.capacity_bytes - TAIL_BYTES);
        }
    }

    #[test]
    fn chosen_segments_are_as_large_as_reclaim_allows() {
        let chosen = |device_bytes| Layout::segment_bytes_for(device_bytes, 4, 2 << 20);
        assert_eq!(chosen(1 << 30), 8 << 20);
        assert_eq!((chosen(16 << 30), chosen(1 << 40)), (64 << 20, 64 << 20));
        assert_eq!((chosen(64 << 20), chosen(0)), (2 << 20, 2 << 20), "not below the least");
        for device_bytes in (0..2_000).map(|step| (32 << 20) + step * 12_345_678) {
            let segment_bytes = chosen(device_bytes);
            assert!(segment_bytes.is_power_of_two());
            let Ok(layout) = Layout::plan(device_bytes, segment_bytes, 4) else { continue };
            assert!(segment_bytes == 2 << 20 || layout.segments >= 4 * 31, "{layout:?}");
            assert!(segment_bytes == 64 << 20 || layout.segments < 4 * 66, "{layout:?}");
            assert!(segment_bytes == 2 << 20 || layout.reclaims());
        }
    }

    #[test]
    fn a_device_that_is_too_small_is_refused_with_what_it_needs() {
        let error = Layout::plan(1 << 20, 64 << 20, 4).unwrap_err().to_string();
        assert!(error.contains("need") && error.contains("larger device"), "{error}");
        assert!(Layout::plan(1 << 30, 100, 1).is_err());
        assert!(Layout::plan(1 << 30, 1 << 20, 0).is_err());
    }
}
