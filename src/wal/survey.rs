//! The survey: which segments there are, whose they are, and in what order. The first step of every recovery.

use crate::device::DeviceError;
use crate::types::{DeviceAddress, SegmentIndex, ShardId};
use crate::wal::ChainSegment;
use crate::wal::blocks::Blocks;
use crate::wal::checkpoint::Place;
use crate::wal::frame;
use crate::wal::layout::{BLOCK_BYTES, Layout};
use crate::wal::segment;
use crate::wal::superblock::Superblock;

/// What the segment headers say.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// For every shard its segments, in the order of the chain.
    pub chains: Vec<Vec<ChainSegment>>,
    pub free: Vec<SegmentIndex>,
    /// For every shard: segments of its chain before this number were given up, as a header says. There may be more.
    pub kept_from: Vec<u64>,
    /// For every shard: where its last checkpoint begins, as a header says.
    pub checkpoints: Vec<Place>,
    /// What contradicts itself. With any of these, the namespace is not to be written.
    pub damage: Vec<SegmentDamage>,
    /// The highest epoch in a segment header.
    pub epoch_max: u64,
}

/// What is wrong with a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SegmentDamage {
    /// The header does not parse, but a frame of this namespace stands right behind it.
    HeaderDamaged { segment: SegmentIndex, address: DeviceAddress, shard: ShardId },
    /// The device does not give the block back.
    Unreadable { segment: SegmentIndex, address: DeviceAddress, error: DeviceError },
    /// A shard number that the namespace does not have.
    UnknownShard { segment: SegmentIndex, address: DeviceAddress, shard: ShardId },
    /// The chain has a hole: this sequence number is nowhere.
    ChainHole { shard: ShardId, missing: u64 },
    /// Two segments claim the same place.
    ChainTwice { shard: ShardId, sequence: u64, address: DeviceAddress },
}

impl std::fmt::Display for SegmentDamage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            SegmentDamage::HeaderDamaged { segment, address, shard } => {
                write!(f, "shard {shard}: the header of segment {segment} at {address} is damaged")
            }
            SegmentDamage::Unreadable { segment, address, error } => {
                write!(f, "segment {segment} at {address} cannot be read: {error}")
            }
            SegmentDamage::UnknownShard { segment, address, shard } => {
                write!(f, "segment {segment} at {address} belongs to shard {shard}, which the namespace does not have")
            }
            SegmentDamage::ChainHole { shard, missing } => {
                write!(f, "shard {shard}: segment number {missing} of its chain is missing")
            }
            SegmentDamage::ChainTwice { shard, sequence, address } => {
                write!(f, "shard {shard}: two segments are number {sequence} of its chain, one at {address}")
            }
        }
    }
}

/// Reads every segment header. `progress` gets (done, total).
pub fn survey(blocks: &mut impl Blocks, superblock: &Superblock, progress: &mut dyn FnMut(u64, u64)) -> Survey {
    let layout = &superblock.layout;
    let shards = layout.shards as usize;
    let mut survey = Survey {
        chains: vec![Vec::new(); shards],
        kept_from: vec![1; shards],
        checkpoints: vec![Place::default(); shards],
        ..Survey::default()
    };
    let mut orphans = Vec::new();
    let mut block = vec![0; BLOCK_BYTES];
    for number in 0..layout.segments {
        progress(u64::from(number), u64::from(layout.segments));
        let segment = SegmentIndex(number);
        let address = layout.segment_address(segment);
        if let Err(error) = blocks.read(address, &mut block) {
            survey.damage.push(SegmentDamage::Unreadable { segment, address, error });
            continue;
        }
        match segment::decode(&block, &superblock.namespace, address) {
            Some(header) if header.shard.index() < survey.chains.len() => {
                survey.epoch_max = survey.epoch_max.max(header.epoch);
                let kept_from = &mut survey.kept_from[header.shard.index()];
                *kept_from = (*kept_from).max(header.kept_from);
                let checkpoint = &mut survey.checkpoints[header.shard.index()];
                *checkpoint = (*checkpoint).max(header.checkpoint);
                if header.freed {
                    survey.free.push(segment);
                    continue;
                }
                let chained = ChainSegment { segment, sequence: header.sequence, reserved: header.reserved };
                survey.chains[header.shard.index()].push(chained);
            }
            Some(header) => {
                survey.damage.push(SegmentDamage::UnknownShard { segment, address, shard: header.shard });
            }
            None => match orphan(blocks, superblock, segment) {
                Some((shard, sequence)) => orphans.push((segment, shard, sequence)),
                None => survey.free.push(segment),
            },
        }
    }
    survey.drop_given_up();
    for (segment, shard, sequence) in orphans {
        // A frame of what was given up says nothing.
        if survey.kept_from.get(shard.index()).is_some_and(|kept_from| sequence < *kept_from) {
            survey.free.push(segment);
        } else {
            let address = layout.segment_address(segment);
            survey.damage.push(SegmentDamage::HeaderDamaged { segment, address, shard });
        }
    }
    for shard in 0..layout.shards {
        let chain = &mut survey.chains[shard as usize];
        chain.sort_by_key(|chained| chained.sequence);
        survey.damage.extend(check_chain(layout, ShardId(shard), chain));
    }
    survey
}

impl Survey {
    /// Segments that were given up before a later one was prepared are free, whatever their own header says.
    fn drop_given_up(&mut self) {
        for (chain, kept_from) in self.chains.iter_mut().zip(&self.kept_from) {
            chain.retain(|chained| {
                let kept = chained.sequence >= *kept_from;
                if !kept {
                    self.free.push(chained.segment);
                }
                kept
            });
        }
    }

    /// What is missing at the beginning of a shard's chain, once its log says which segments were given up.
    #[must_use]
    pub fn missing(&self, shard: ShardId, kept_from: u64) -> Option<SegmentDamage> {
        let first = self.chains[shard.index()].first()?;
        (first.sequence > kept_from).then_some(SegmentDamage::ChainHole { shard, missing: kept_from })
    }
}

fn check_chain(layout: &Layout, shard: ShardId, chain: &[ChainSegment]) -> Option<SegmentDamage> {
    let first = chain.first()?.sequence;
    for (expected, chained) in (first..).zip(chain) {
        if chained.sequence < expected {
            let address = layout.segment_address(chained.segment);
            return Some(SegmentDamage::ChainTwice { shard, sequence: chained.sequence, address });
        }
        if chained.sequence > expected {
            return Some(SegmentDamage::ChainHole { shard, missing: expected });
        }
    }
    None
}

/// The shard of a valid first frame in a segment whose header is not valid, and its place in the chain.
fn orphan(blocks: &mut impl Blocks, superblock: &Superblock, segment: SegmentIndex) -> Option<(ShardId, u64)> {
    let layout = &superblock.layout;
    let address = layout.segment_address(segment).plus(segment::HEADER_BYTES as u64);
    let mut bytes = vec![0; BLOCK_BYTES];
    blocks.read(address, &mut bytes).ok()?;
    let bytes_max = crate::bytes::index(layout.segment_bytes) - segment::HEADER_BYTES;
    let claimed = frame::claimed_bytes(&bytes, bytes_max).ok()?;
    bytes.resize(claimed, 0);
    blocks.read(address, &mut bytes).ok()?;
    frame::parse(&bytes, &superblock.namespace, address).ok().map(|(header, _)| (header.shard, header.segment_sequence))
}
