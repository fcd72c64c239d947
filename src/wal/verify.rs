//! Verifying: everything on a namespace is read, and what is wrong is named with its place. Changes nothing.

use crate::error::{Error, Result};
use crate::types::{DeviceAddress, Lsn, ShardId};
use crate::wal::blocks::Blocks;
use crate::wal::flight::Contents;
use crate::wal::planted::Planted;
use crate::wal::record;
use crate::wal::recovery::{self, Break, Damage, Walker};
use crate::wal::superblock::{CopyState, READ_ORDER, Superblock};
use crate::wal::survey::{SegmentDamage, Survey};

/// What stands on a namespace.
#[derive(Debug)]
pub struct Report {
    pub superblocks: Superblocks,
    /// Nothing below was read when no superblock is valid.
    pub segments: Segments,
    pub shards: Vec<ShardReport>,
    /// What is ignored, and why.
    pub notes: Vec<String>,
}

#[derive(Debug)]
pub struct Superblocks {
    pub copies: Vec<Copy>,
    /// The newest one, or why none can be used.
    pub newest: Result<Superblock>,
}

/// One copy of the superblock.
#[derive(Clone, Copy, Debug)]
pub struct Copy {
    pub number: u16,
    pub address: DeviceAddress,
    pub state: CopyState,
    /// Valid, but of an older generation: a start was interrupted. The next one rewrites it.
    pub stale: bool,
}

impl Copy {
    /// Whether a part of the redundancy is lost.
    #[must_use]
    pub fn is_wrong(&self) -> bool {
        !matches!(self.state, CopyState::Valid(_))
    }
}

impl std::fmt::Display for Copy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.state {
            CopyState::Valid(superblock) if self.stale => {
                write!(f, "stale (generation {}); the next start rewrites it", superblock.generation)
            }
            CopyState::Valid(superblock) => write!(f, "valid (generation {})", superblock.generation),
            CopyState::Missing => f.write_str("missing"),
            CopyState::Damaged => f.write_str("damaged"),
            CopyState::OtherVersion(version) => write!(f, "of format version {version}"),
            CopyState::UnknownFeatures(bits) => write!(f, "with unknown features {bits:#x}"),
        }
    }
}

/// The segment headers.
#[derive(Clone, Debug, Default)]
pub struct Segments {
    pub total: u32,
    pub free: usize,
    pub damage: Vec<SegmentDamage>,
}

/// One shard's log, read to its end.
#[derive(Clone, Debug)]
pub struct ShardReport {
    pub shard: ShardId,
    pub segments: usize,
    /// Whole records that can be read, in the log and in the flight recorder.
    pub records: u64,
    pub log_bytes: u64,
    pub end: End,
    pub flight: Option<FlightReport>,
}

/// How a log ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With the mark of a daemon that stopped in good order.
    Clean { lsn: Lsn },
    /// Without that mark, and without traces of more: after a kill or a power cut.
    Open { lsn: Lsn },
    /// With a frame that was never finished. Nobody was promised what lay there; the next start cuts it.
    Unfinished { lsn: Lsn, address: DeviceAddress, found: Break },
    /// In the middle of acknowledged data.
    Damaged {
        damage: Box<Damage>,
        /// The last LSN that can be read behind the damage; 0 for none.
        beyond: Lsn,
    },
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::Clean { lsn } => write!(f, "clean end after LSN {lsn}"),
            End::Open { lsn } => {
                write!(f, "end after LSN {lsn}, without the mark of a clean stop (a shard that was idle writes none)")
            }
            End::Unfinished { lsn, address, found } => {
                write!(f, "end after LSN {lsn}, then an unfinished tail at address {address}: {found}")
            }
            End::Damaged { damage, beyond: Lsn::NONE } => write!(f, "{damage}"),
            End::Damaged { damage, beyond: lsn } => {
                write!(f, "{damage}; the last LSN that can be read behind it is {lsn}")
            }
        }
    }
}

/// What a daemon of this boot left in a shard's flight recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlightReport {
    pub bytes: usize,
    pub durable_lsn: Lsn,
    /// Records beyond the log, that the next start makes durable.
    pub beyond_records: u64,
}

impl Report {
    /// The number of things that are wrong.
    #[must_use]
    pub fn wrong(&self) -> usize {
        let copies = self.superblocks.copies.iter().filter(|copy| copy.is_wrong()).count();
        let shards = self.shards.iter().filter(|shard| matches!(shard.end, End::Damaged { .. })).count();
        copies.max(usize::from(self.superblocks.newest.is_err())) + self.segments.damage.len() + shards
    }
}

/// Reads every superblock copy.
///
/// # Errors
/// When the device is smaller than any namespace.
pub fn superblocks(blocks: &mut impl Blocks, device_bytes: u64) -> Result<Superblocks> {
    let found = Superblock::read_copies(blocks, device_bytes)?;
    let newest = Superblock::newest(&found, device_bytes);
    let generation = newest.as_ref().map_or(0, |superblock| superblock.generation);
    let copies = READ_ORDER.into_iter().zip(&found).map(|(number, (address, state))| {
        let stale = matches!(state, CopyState::Valid(superblock) if superblock.generation < generation);
        Copy { number, address: *address, state: *state, stale }
    });
    let mut copies: Vec<Copy> = copies.collect();
    copies.sort_by_key(|copy| copy.number);
    Ok(Superblocks { copies, newest })
}

/// Reads one shard's log to its end, every record of it. `progress` gets the bytes of log read so far. With the report
/// comes what is missing at the front of the chain, as the log says.
pub fn shard<B: Blocks>(
    blocks: &mut B,
    superblock: &Superblock,
    survey: &Survey,
    shard: ShardId,
    flight: Option<&Contents>,
    progress: &mut dyn FnMut(u64),
) -> (ShardReport, Option<SegmentDamage>) {
    let chain = &survey.chains[shard.index()];
    let mut walker = Walker::new(blocks, superblock, shard, chain);
    let (mut records, mut log_bytes) = (0, 0);
    let mut count = |_: &record::Record<'_>, _| records += 1;
    let mut read = |bytes| {
        log_bytes = bytes;
        progress(bytes);
    };
    let recovered = recovery::recover(&mut walker, flight, Planted::None, &mut count, &mut read);
    let beyond_records = recovered.as_ref().map_or(0, |recovered| records_in(&recovered.replay));
    let missing = recovered.as_ref().ok().and_then(|recovered| survey.missing(shard, recovered.tail.kept_from));
    let end = match recovered {
        Err(damage) => {
            let (beyond, _) = recovery::beyond(&mut walker, &damage);
            End::Damaged { damage: Box::new(damage), beyond }
        }
        Ok(recovered) => {
            let lsn = Lsn(recovered.tail.next_lsn.0 - 1);
            match recovered.cut {
                Some((_, address, found)) => End::Unfinished { lsn, address, found },
                None if recovered.clean => End::Clean { lsn },
                None => End::Open { lsn },
            }
        }
    };
    let flight = flight.map(|contents| FlightReport {
        bytes: contents.records.len(),
        durable_lsn: contents.durable_lsn,
        beyond_records,
    });
    (ShardReport { shard, segments: chain.len(), records, log_bytes, end, flight }, missing)
}

/// Encoded records, one behind the other.
fn records_in(mut encoded: &[u8]) -> u64 {
    let mut records = 0;
    while encoded.len() >= record::HEADER_BYTES {
        encoded = &encoded[record::claimed_bytes(encoded).min(encoded.len())..];
        records += 1;
    }
    records
}

/// The error that ends a verification with findings.
#[must_use]
pub fn failure(report: &Report) -> Option<Error> {
    let wrong = report.wrong();
    (wrong > 0).then(|| {
        Error::new(format!("{wrong} things are wrong"))
            .remedy("`forebay repair` shows what can be done, and changes nothing without --yes")
    })
}
