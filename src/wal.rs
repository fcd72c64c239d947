//! The write-ahead log of one shard: records into frames, frames into segments, the durable prefix out.
//! Does no I/O of its own: it hands operations to the device and takes completions from it.

mod append;
pub mod blocks;
pub mod carries;
pub mod checkpoint;
pub mod flight;
pub mod format;
pub mod frame;
mod giveup;
pub mod inspect;
pub mod layout;
pub mod planted;
pub mod pool;
pub mod record;
pub mod recovery;
pub mod repair;
pub mod reread;
mod rewrite;
pub mod segment;
pub mod superblock;
pub mod survey;
pub mod verify;
mod writeout;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::buffer::{Buffer, Pool};
use crate::bytes::{index, len_u32};
use crate::device::{DeviceError, Operation};
use crate::timing::FrameStamp;
use crate::types::{DeviceAddress, Lsn, SegmentIndex, ShardId};

use carries::Carries;
use flight::Flight;
use layout::Layout;
use planted::Planted;
use pool::{SegmentPool, Writer};
pub use rewrite::Rewrite;

/// Bounds and timing of one shard's log; from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Frames under way beyond which one that is not full waits. More than one hides the drive's latency; few keep frames full.
    pub frames_in_flight_max: u32,
    /// A buffered record waits for company at most so long.
    pub window_interval_ns: u64,
    /// A frame of buffered records this full goes out without waiting.
    pub window_bytes: usize,
    /// An idle shard states its durable LSN on the drive after so long.
    pub watermark_interval_ns: u64,
    /// A recovery is to read no more of a shard's log than about this: half of it is when a checkpoint begins.
    pub recovery_bytes_max: u64,
}

/// Whether a record can be appended now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Yes,
    /// Not before something under way ends: leave the request where it is.
    Later,
    /// The namespace is full.
    NoSpace,
    /// The shard does not write any more.
    Fenced,
}

/// Why a shard writes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// A write of the log failed.
    Device(DeviceError),
    /// At a start: the log has no room for what the flight recorder holds.
    ReplayNoSpace,
    /// The device has had an operation for longer than `device.timeout`, and may end it still.
    Stalled,
    /// The drive is taken away from the daemon, to be given back.
    Aside,
    /// At a start: a part of a commit is missing here, and the shard that decided it does not write.
    DecisionInDoubt,
    /// A part of a commit over several shards, which is decided, has no room in a log that is filled once.
    PartNoSpace,
    /// At a start: a record of the flight recorder is larger than a frame is now.
    ReplayFrameTooSmall,
}

impl std::fmt::Display for Fence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fence::Device(error) => write!(f, "a write failed: {error}"),
            Fence::Stalled => f.write_str("the device did not answer within device.timeout"),
            Fence::Aside => f.write_str("the drive is being taken back"),
            Fence::ReplayNoSpace => f.write_str(
                "the log has no room for what the flight recorder holds: read what is there and put it into a larger \
                 namespace before this machine restarts",
            ),
            Fence::DecisionInDoubt => f.write_str(
                "a part of a transaction is missing here, and the shard that decided it does not write either: mend what keeps \
                 that one from it, and start again",
            ),
            Fence::PartNoSpace => f.write_str(
                "the log has no room for a part of a transaction, and gives none up: read what is there and put it into a \
                 larger namespace",
            ),
            Fence::ReplayFrameTooSmall => f.write_str(
                "the flight recorder holds a record larger than a frame: start with the wal.frame_bytes_max that wrote \
                 it",
            ),
        }
    }
}

/// Where the log goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub chained: ChainSegment,
    /// Offset of the next frame in the segment.
    pub offset: usize,
}

/// One segment of a shard's chain, as its header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChainSegment {
    pub segment: SegmentIndex,
    pub sequence: u64,
    /// Taken from what is kept for deletes, trims and copies.
    pub reserved: bool,
}

/// A segment that holds a part of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub chained: ChainSegment,
    /// Of the first record in it.
    pub first_lsn: Lsn,
    /// Known once it is closed.
    pub carries: Carries,
}

/// What a log continues from; made by recovery.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    pub next_lsn: Lsn,
    pub previous_crc: u32,
    pub position: Option<Position>,
    /// The segments of the chain, up to the present one.
    pub links: Vec<Link>,
    /// Those after it: prepared, nothing valid in them.
    pub prepared: Vec<ChainSegment>,
    /// Segments of the chain before this number are given up, and the LSN with which that one begins.
    pub kept_from: u64,
    pub kept_lsn: Lsn,
    /// The highest durable LSN that the drive itself states.
    pub stated_lsn: Lsn,
    /// Where the recovery began, which the next one may do too.
    pub checkpoint: checkpoint::Begin,
    /// Bytes of records that it read.
    pub recovered_bytes: u64,
}

/// What never changes about a shard's log.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    pub namespace: [u8; 16],
    pub shard: ShardId,
    pub epoch: u64,
    pub layout: Layout,
}

struct Prepared {
    chained: ChainSegment,
    durable: bool,
}

struct OpenFrame {
    buffer: Buffer,
    capacity: usize,
    used: usize,
    first_lsn: Lsn,
    records: u32,
    opened_ns: u64,
    /// Holds a record that is neither a copy nor a part of a checkpoint.
    for_clients: bool,
}

struct InFlight {
    last_lsn: Lsn,
    stated_lsn: Lsn,
    flight_end: u64,
    opened_ns: u64,
    stamp: FrameStamp,
    done: bool,
}

/// Frames are counted by so many classes of the records that they carry.
pub const FRAME_CLASSES: usize = 7;

/// Counters since start, for `stats`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counters {
    pub records: u64,
    pub record_bytes: u64,
    pub frames: u64,
    pub frame_bytes: u64,
    /// Frames by the records that they carry: 1, 2 to 3, 4 to 7, and so on; the last also counts all that carry more.
    pub frames_of: [u64; FRAME_CLASSES],
    pub frame_records_max: u64,
    pub watermarks: u64,
    pub segments: u64,
    pub segments_reclaimed: u64,
    /// Those of them that were not read back.
    pub segments_unread: u64,
    /// Of `record_bytes`: what was appended again.
    pub copied_bytes: u64,
    /// Of `record_bytes`: parts of checkpoints.
    pub checkpoint_bytes: u64,
    pub checkpoints: u64,
    /// Records that were written over in the open frame, and so never on the drive.
    pub coalesced_writes: u64,
    pub coalesced_bytes: u64,
    /// What the drive was told that it carries nothing, and how often it would not hear of it.
    pub deallocated_bytes: u64,
    pub deallocate_failures: u64,
}

impl Counters {
    /// A frame with so many records was sealed; watermarks have none.
    fn count_records(&mut self, records: u32) {
        if let Some(class) = records.checked_ilog2() {
            self.frames_of[(class as usize).min(FRAME_CLASSES - 1)] += 1;
            self.frame_records_max = self.frame_records_max.max(u64::from(records));
        }
    }
}

/// The log of one shard. Owned by its reactor.
pub struct Wal {
    identity: Identity,
    seed: u32,
    limits: Limits,
    position: Option<Position>,
    /// The segments that hold the log, the present one last.
    links: VecDeque<Link>,
    /// What the present one carries.
    carries: Carries,
    prepared: VecDeque<Prepared>,
    segments: Arc<SegmentPool>,
    /// A durable record says that segments of the chain before this number are given up.
    kept_from: u64,
    /// A record says so, durable or not yet.
    logged_kept_from: u64,
    checkpoint: checkpoint::Begin,
    /// Bytes of records before those that `counters` has.
    recovered_bytes: u64,
    next_lsn: Lsn,
    /// Where the record appended last begins.
    last_place: DeviceAddress,
    durable_lsn: Lsn,
    /// The highest durable LSN stated in a frame that is durable itself.
    stated_lsn: Lsn,
    previous_crc: u32,
    open: Option<OpenFrame>,
    /// Sealed frames and segment headers that wait for the device.
    outbox: VecDeque<Operation>,
    in_flight: VecDeque<InFlight>,
    /// Number of the frame at the front of `in_flight`.
    front_number: u64,
    submitted: u32,
    urgent: bool,
    /// Somebody waits until everything up to this LSN is durable.
    wanted_lsn: Lsn,
    /// What is appended now is a copy or a part of a checkpoint.
    own: bool,
    client_frame_bytes: u64,
    /// Copies found no room: the next segment may be one of those that are kept for them.
    needs_segment: bool,
    idle_since_ns: u64,
    flight: Flight,
    fenced: Option<Fence>,
    planted: Planted,
    landed: FrameStamp,
    pub counters: Counters,
}

/// The low bits of an operation's tag: a frame's number, the header of a prepared segment, or a part of reclaim.
const TAG_HEADER: u64 = 1 << 47;
const TAG_RECLAIM: u64 = 1 << 46;
/// Beside `TAG_RECLAIM`.
const TAG_DEALLOCATION: u64 = 1 << 45;
const TAG_MASK: u64 = (1 << 48) - 1;

impl Wal {
    /// Continues a recovered log. `flight` already stands at `tail`.
    #[must_use]
    pub fn new(
        identity: Identity,
        limits: Limits,
        tail: Tail,
        segments: Arc<SegmentPool>,
        flight: Flight,
        planted: Planted,
    ) -> Wal {
        let prepared = tail.prepared.iter().map(|chained| Prepared { chained: *chained, durable: true });
        let frames = limits.frames_in_flight_max as usize;
        // So that taking a segment never allocates.
        let mut links = VecDeque::with_capacity(identity.layout.segments as usize);
        links.extend(tail.links);
        Wal {
            identity,
            seed: record::crc_seed(&identity.namespace, identity.shard),
            limits,
            position: tail.position,
            links,
            carries: Carries::UNKNOWN,
            prepared: prepared.collect(),
            segments,
            kept_from: tail.kept_from,
            logged_kept_from: tail.kept_from,
            checkpoint: tail.checkpoint,
            recovered_bytes: tail.recovered_bytes,
            next_lsn: tail.next_lsn,
            last_place: DeviceAddress::NONE,
            durable_lsn: Lsn(tail.next_lsn.0 - 1),
            stated_lsn: tail.stated_lsn,
            previous_crc: tail.previous_crc,
            open: None,
            outbox: VecDeque::with_capacity(frames + 64),
            in_flight: VecDeque::with_capacity(frames + 64),
            front_number: 0,
            submitted: 0,
            urgent: false,
            wanted_lsn: Lsn::NONE,
            own: false,
            client_frame_bytes: 0,
            needs_segment: false,
            idle_since_ns: 0,
            flight,
            fenced: None,
            planted,
            landed: FrameStamp::default(),
            counters: Counters::default(),
        }
    }

    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.identity.shard
    }

    /// Everything up to this LSN is durable on the drive.
    #[must_use]
    pub fn durable_lsn(&self) -> Lsn {
        self.durable_lsn
    }

    /// The LSN of the last record appended.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        Lsn(self.next_lsn.0 - 1)
    }

    /// Where the first part of the record appended last begins on the drive.
    #[must_use]
    pub fn last_place(&self) -> DeviceAddress {
        self.last_place
    }

    /// Records up to this one can be read back from the drive.
    #[must_use]
    pub fn readable_lsn(&self) -> Lsn {
        if self.planted.is(Planted::ForgetTooEarly) { Lsn(u64::MAX) } else { self.durable_lsn }
    }

    /// Bytes of records that clients had written since the start: neither copies nor parts of checkpoints.
    #[must_use]
    pub fn client_bytes(&self) -> u64 {
        self.counters.record_bytes - self.counters.copied_bytes - self.counters.checkpoint_bytes
    }

    /// Bytes of the log in frames that hold any such record, padded as they are.
    #[must_use]
    pub fn client_frame_bytes(&self) -> u64 {
        self.client_frame_bytes
    }

    #[must_use]
    pub fn limits(&self) -> Limits {
        self.limits
    }

    #[must_use]
    pub fn planted(&self) -> Planted {
        self.planted
    }

    /// The record of this shard at the front of `bytes`, which were read back from the drive, and what it takes.
    #[must_use]
    pub fn decode<'b>(&self, bytes: &'b [u8]) -> Option<(record::Record<'b>, usize)> {
        record::decode(bytes, self.seed)
    }

    /// Bytes from a place to the end of its segment.
    #[must_use]
    pub fn segment_bytes_left(&self, place: DeviceAddress) -> usize {
        self.identity.layout.segment_bytes_left(place)
    }

    /// Times of the last frame that became durable.
    #[must_use]
    pub fn landed(&self) -> FrameStamp {
        self.landed
    }

    #[must_use]
    pub fn fenced(&self) -> Option<Fence> {
        self.fenced
    }

    /// Whether what is not durable now never answers anybody.
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        self.fenced.is_some() && !(self.planted.is(Planted::WaitForStalled) && self.fenced == Some(Fence::Stalled))
    }

    /// Frames that are sealed and not yet durable.
    #[must_use]
    pub fn frames_in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Somebody waits for durability: what is open goes out at the next chance, not when its window is over.
    pub fn want_durable(&mut self) {
        self.urgent = true;
        self.wanted_lsn = self.last_lsn();
    }

    /// Somebody waits for room, which what is open may take: a buffer, a part of the flight recorder. Copies alone stay
    /// together while buffers are many: a block for each few of them would take what they are to free.
    pub fn want_room(&mut self, pool: &Pool) {
        let copies = self.open.as_ref().is_some_and(|open| !open.for_clients);
        if !copies || pool.available() <= pool.count() / 4 {
            self.want_durable();
        }
    }

    /// Copies, or what a flight recorder held, wait for room: the last segments are for them.
    pub fn want_segment(&mut self) {
        self.needs_segment = true;
    }

    /// Stops all writing, for the first reason given. What is not durable stays in doubt.
    pub fn fence(&mut self, reason: Fence) {
        if self.fenced.is_none() {
            tracing::error!(shard = %self.identity.shard, %reason, "the shard stops writing");
            self.fenced = Some(reason);
        }
    }

    /// The flight recorder begins anew behind what is durable. Called once, when a replay is durable.
    pub fn reset_flight(&mut self) {
        self.flight.reset(self.identity.epoch, self.durable_lsn);
    }

    /// Whether an operation's tag is one of reclaim: its completion is for `Reclaim`, not for the log.
    #[must_use]
    pub fn is_reclaim_tag(tag: u64) -> bool {
        tag & TAG_RECLAIM != 0 && tag & TAG_HEADER == 0
    }

    /// Whether an operation of reclaim tells the drive that a segment carries nothing.
    #[must_use]
    pub fn is_deallocation_tag(tag: u64) -> bool {
        tag & TAG_DEALLOCATION != 0
    }

    /// The shard that an operation's tag names.
    #[must_use]
    pub fn shard_of_tag(tag: u64) -> ShardId {
        ShardId(len_u32(index(tag >> 48)))
    }

    /// Whether this bug is planted: see `planted`.
    #[must_use]
    pub fn is_planted(&self, bug: Planted) -> bool {
        self.planted.is(bug)
    }

    /// Whether nothing waits for the device.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.submitted == 0 && self.outbox.is_empty()
    }

    /// Whether there is a segment to write in, or one will never be.
    #[must_use]
    pub fn has_segment(&self) -> bool {
        self.position.is_some()
            || self.prepared.front().is_some_and(|next| next.durable)
            || (self.prepared.is_empty() && !self.segments.has(Writer::Privileged))
    }

    #[must_use]
    pub fn segments_free(&self) -> usize {
        self.segments.free_count()
    }

    /// Whether everything appended is durable, and a durable frame states it.
    #[must_use]
    pub fn is_stated(&self) -> bool {
        self.fenced.is_none() && self.is_durable() && self.stated_lsn == self.durable_lsn
    }

    /// Log space that this shard holds, in segments.
    #[must_use]
    pub fn segments_held(&self) -> usize {
        self.links.len() + self.prepared.len()
    }

    /// Whether everything appended is durable.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.durable_lsn == self.last_lsn()
    }
}
