//! Whether the drive itself still says that something was durable: then a silent cut is no excuse.

use crate::sim::disk::Disk;
use crate::sim::machine::NAMESPACE;
use crate::sim::oracle::Loss;
use crate::types::{DeviceAddress, SegmentIndex};
use crate::wal::frame;
use crate::wal::layout::{BLOCK_BYTES, Layout};
use crate::wal::segment;

/// The place of a frame that states the missing LSN durable, in a segment whose header can be read.
pub fn evidence(disk: &Disk, layout: &Layout, loss: &Loss) -> Option<DeviceAddress> {
    let mut bytes = vec![0; crate::bytes::index(layout.segment_bytes)];
    for number in 0..layout.segments {
        let begin = layout.segment_address(SegmentIndex(number));
        disk.read(begin, &mut bytes);
        let Some(header) = segment::decode(&bytes[..BLOCK_BYTES], &NAMESPACE, begin) else { continue };
        if header.shard != loss.shard || header.freed {
            continue;
        }
        for offset in (BLOCK_BYTES..bytes.len()).step_by(BLOCK_BYTES) {
            let address = begin.plus(offset as u64);
            let rest = &bytes[offset..];
            let Ok(claimed) = frame::claimed_bytes(rest, rest.len()) else { continue };
            let Ok((frame, _)) = frame::parse(&rest[..claimed], &NAMESPACE, address) else { continue };
            let own = frame.shard == loss.shard && frame.segment_sequence == header.sequence;
            if own && frame.durable_lsn.0 >= loss.missing_lsn {
                return Some(address);
            }
        }
    }
    None
}
