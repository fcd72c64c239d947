//! Inspecting: every frame that can be read in a shard's segments, and whether it is part of the log. Changes nothing.

use crate::types::{Lsn, SegmentIndex};
use crate::wal::blocks::Blocks;
use crate::wal::frame::{self, Header};
use crate::wal::layout::BLOCK_BYTES;
use crate::wal::record::{self, Record};
use crate::wal::recovery::Walker;
use crate::wal::segment;

/// A valid frame and where it stands.
pub struct Found<'a> {
    pub header: Header,
    pub crc: u32,
    /// It follows the frame before it. Others are what a cut or a damage left behind.
    pub in_log: bool,
    bytes: &'a [u8],
}

impl Found<'_> {
    /// Its records, as far as they are whole. `seed` is `record::crc_seed`.
    pub fn records(&self, seed: u32) -> impl Iterator<Item = Record<'_>> {
        let mut rest = &self.bytes[frame::HEADER_BYTES..self.header.used_bytes as usize];
        (0..self.header.records).map_while(move |_| {
            let (record, taken) = record::decode(rest, seed)?;
            rest = &rest[taken..];
            Some(record)
        })
    }
}

/// What the frames of one shard's log add up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub frames: u64,
    pub bytes: u64,
    pub last_lsn: Lsn,
    pub epoch: u64,
    /// Valid frames that are not part of the log.
    pub frames_beside: u64,
}

/// Hands every valid frame of a shard to `sink`, in the order of the chain.
///
/// # Errors
/// The first error of `sink`.
pub fn frames<B: Blocks, E>(
    walker: &mut Walker<'_, B>,
    sink: &mut dyn FnMut(&Found<'_>) -> Result<(), E>,
) -> Result<Summary, E> {
    let mut summary = Summary::default();
    let mut previous_crc = 0;
    let begins_later = walker.begins_later();
    for link in 0..walker.links() {
        let mut offset = segment::HEADER_BYTES;
        while offset + BLOCK_BYTES <= walker.segment_bytes() {
            let Ok((header, crc, bytes)) = walker.frame(link, offset) else {
                offset += BLOCK_BYTES;
                continue;
            };
            // Where the segments before were given up, the log begins with the first frame there is.
            let begins = summary.frames == 0 && begins_later;
            let follows = header.first_lsn == summary.last_lsn.next() && header.previous_crc == previous_crc;
            let in_log = begins || follows && header.epoch >= summary.epoch;
            sink(&Found { header, crc, in_log, bytes })?;
            if in_log {
                summary.frames += 1;
                summary.bytes += u64::from(header.frame_bytes);
                summary.last_lsn = Lsn(header.next_lsn().0 - 1);
                summary.epoch = header.epoch;
                previous_crc = crc;
            } else {
                summary.frames_beside += 1;
            }
            offset += header.frame_bytes as usize;
        }
    }
    Ok(summary)
}

/// The first valid frame in a segment, whatever its header says: evidence of whose it is.
pub fn first_frame(
    blocks: &mut impl Blocks,
    superblock: &crate::wal::superblock::Superblock,
    segment: SegmentIndex,
) -> Option<Header> {
    let segment_bytes = crate::bytes::index(superblock.layout.segment_bytes);
    let begin = superblock.layout.segment_address(segment);
    let mut offset = segment::HEADER_BYTES;
    let mut piece = Vec::new();
    while offset < segment_bytes {
        piece.resize((1 << 20).min(segment_bytes - offset), 0);
        let readable = blocks.read(begin.plus(offset as u64), &mut piece).is_ok();
        for at in (0..piece.len()).step_by(BLOCK_BYTES).filter(|_| readable) {
            let address = begin.plus((offset + at) as u64);
            let claimed = frame::claimed_bytes(&piece[at..at + BLOCK_BYTES], segment_bytes - offset - at);
            let Ok(claimed) = claimed else { continue };
            let mut bytes = vec![0; claimed];
            if blocks.read(address, &mut bytes).is_ok()
                && let Ok((header, _)) = frame::parse(&bytes, &superblock.namespace, address)
            {
                return Some(header);
            }
        }
        offset += piece.len();
    }
    None
}
