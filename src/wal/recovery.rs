//! Recovery decides, it does not guess. It follows the frames of one shard to the first place that does not go on.
//! Evidence that more was durable means damage: stop, name the place, change nothing. No evidence means an
//! unfinished tail: cut it, for nobody was promised what lay there.

use crate::bytes::{get_u64, index};
use crate::device::DeviceError;
use crate::types::{DeviceAddress, Lsn, ShardId};
use crate::wal::blocks::Blocks;
use crate::wal::carries::Carries;
use crate::wal::checkpoint;
use crate::wal::flight::Contents;
use crate::wal::frame::{self, Header, Invalid};
use crate::wal::layout::BLOCK_BYTES;
use crate::wal::planted::Planted;
use crate::wal::record::{self, Assembler, Kind, Record, Sink};
use crate::wal::segment;
use crate::wal::superblock::Superblock;
use crate::wal::{ChainSegment, Link, Position, Tail};

/// Why the log does not go on at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    Invalid(Invalid),
    Unreadable(DeviceError),
    /// A valid frame, but not the one that follows: of an earlier epoch, or with a gap before it.
    NotNext {
        first_lsn: Lsn,
        epoch: u64,
    },
    /// The frame is whole but a record in it is not: written so, or a checksum that collided.
    BadRecord {
        lsn: Lsn,
    },
}

impl std::fmt::Display for Break {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Break::Invalid(invalid) => write!(f, "{invalid}"),
            Break::Unreadable(error) => write!(f, "a block that cannot be read: {error}"),
            Break::NotNext { first_lsn, epoch } => {
                write!(f, "a frame that does not follow (LSN {first_lsn}, epoch {epoch})")
            }
            Break::BadRecord { lsn } => write!(f, "a bad record at LSN {lsn}"),
        }
    }
}

/// What says that more was durable than can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// A later frame that was sealed when `durable_lsn` was durable already.
    Frame { address: DeviceAddress, durable_lsn: Lsn },
    /// The frame's own checksum is right, so it was written so.
    WholeFrame,
    /// The device does not give the place back, so nobody knows what it holds.
    Unreadable,
    /// The flight recorder of the daemon that was here before, in this boot.
    FlightRecorder { durable_lsn: Lsn },
    /// The log began here when the segments before were given up.
    Beginning,
}

/// Acknowledged data is damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub shard: ShardId,
    pub address: DeviceAddress,
    /// Bytes from there to the next valid frame of the chain, or to its end.
    pub extent_bytes: u64,
    /// The first LSN that is missing.
    pub expected_lsn: Lsn,
    pub found: Break,
    pub evidence: Evidence,
    /// Where the readable log ends, and the CRC of its last frame: what `repair` would go on from.
    pub end: Position,
    pub previous_crc: u32,
    pub epoch: u64,
}

impl std::fmt::Display for Damage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Damage { shard, address, extent_bytes, expected_lsn, found, .. } = self;
        let is = if self.evidence == Evidence::Unreadable { "may be" } else { "is" };
        write!(
            f,
            "shard {shard}: acknowledged data from LSN {expected_lsn} on {is} damaged at address {address} ({extent_bytes} B): {found}; "
        )?;
        match self.evidence {
            Evidence::Frame { address, durable_lsn } => {
                write!(f, "the frame at {address} says that LSN {durable_lsn} was durable")
            }
            Evidence::WholeFrame => f.write_str("the frame around it is whole"),
            Evidence::Unreadable => f.write_str("what stands there is not known until it can be read"),
            Evidence::FlightRecorder { durable_lsn } => {
                write!(f, "the flight recorder says that LSN {durable_lsn} was durable")
            }
            Evidence::Beginning => f.write_str("the log began there: what stood before it was given up"),
        }
    }
}

impl Tail {
    /// Takes a record that gives segments up, or says once more from where on they are kept.
    fn keep_from(&mut self, record: &Record<'_>) {
        if record.version > self.kept_from && record.value.len() == 8 {
            (self.kept_from, self.kept_lsn) = (record.version, Lsn(get_u64(record.value, 0)));
        }
    }

    /// Takes a record of the log's own, in the segment with this number, in a frame of this epoch. `begun`: the last checkpoint that began.
    fn take(&mut self, record: &Record<'_>, (sequence, epoch): (u64, u64), begun: &mut checkpoint::Begin) {
        match record.kind {
            Kind::Reclaim => self.keep_from(record),
            Kind::CheckpointBegin => {
                self.keep_from(record);
                let place = checkpoint::Place { lsn: record.lsn, sequence };
                *begun = checkpoint::Begin { place, epoch, logged_bytes: self.recovered_bytes };
            }
            Kind::CheckpointEnd if begun.is_ended_by(record, epoch) => self.checkpoint = *begun,
            _ => {}
        }
    }

    /// The log goes on in this link of the chain, with this LSN. Links that held no record of their own come with it.
    fn enter(&mut self, chain: &[ChainSegment], link: usize, first_lsn: Lsn) {
        let known = self.links.len();
        let new = chain.iter().take(link + 1).skip(known);
        self.links.extend(new.map(|chained| Link { chained: *chained, first_lsn, carries: Carries::UNKNOWN }));
    }
}

/// What a shard's log held.
#[derive(Clone, Debug)]
pub struct Recovered {
    pub tail: Tail,
    /// The highest epoch in a frame.
    pub epoch_max: u64,
    pub frames: u64,
    pub records: u64,
    pub log_bytes: u64,
    /// The LSN where an unfinished tail was cut, when there were traces of one.
    pub cut: Option<(Lsn, DeviceAddress, Break)>,
    /// The log ends with the mark of a daemon that stopped in good order.
    pub clean: bool,
    /// The last checkpoint that began.
    begun: checkpoint::Begin,
    /// Encoded records beyond the durable log, from the flight recorder, to be made durable first of all.
    pub replay: Vec<u8>,
}

/// Reads the frames of one shard, in order.
pub struct Walker<'a, B> {
    blocks: &'a mut B,
    superblock: &'a Superblock,
    shard: ShardId,
    chain: &'a [ChainSegment],
    /// The segments before the one where recovery begins.
    passed_over: Vec<Link>,
    /// A piece of a segment, read ahead.
    loaded: Vec<u8>,
    loaded_at: Option<(usize, usize)>,
}

const READ_AHEAD_BYTES: usize = 1 << 20;

impl<'a, B: Blocks> Walker<'a, B> {
    pub fn new(blocks: &'a mut B, superblock: &'a Superblock, shard: ShardId, chain: &'a [ChainSegment]) -> Self {
        Walker { blocks, superblock, shard, chain, passed_over: Vec::new(), loaded: Vec::new(), loaded_at: None }
    }

    /// Recovery is to begin at the segment with this number, where a checkpoint does. `None`: the chain begins there, or
    /// has no such segment, or of one before it there is no first frame to see, which says with what it begins.
    #[must_use]
    pub fn beginning_at(mut self, sequence: u64) -> Option<Self> {
        let start = self.chain.iter().position(|chained| chained.sequence == sequence).filter(|start| *start > 0)?;
        for link in 0..start {
            let (header, _, _) = self.frame(link, segment::HEADER_BYTES).ok()?;
            self.passed_over.push(Link {
                chained: self.chain[link],
                first_lsn: header.first_lsn,
                carries: Carries::UNKNOWN,
            });
        }
        Some(self)
    }

    /// The link where recovery begins.
    fn start(&self) -> usize {
        self.passed_over.len()
    }

    /// Whether segments before the first one were given up.
    #[must_use]
    pub fn begins_later(&self) -> bool {
        self.chain.get(self.start()).is_some_and(|first| first.sequence > 1)
    }

    /// The LSN with which the first segment begins, as far as it can be read.
    pub fn begin_lsn(&mut self) -> Lsn {
        State::begin(self).next_lsn
    }

    /// Segments in the chain.
    #[must_use]
    pub fn links(&self) -> usize {
        self.chain.len()
    }

    #[must_use]
    pub fn segment_bytes(&self) -> usize {
        index(self.superblock.layout.segment_bytes)
    }

    #[must_use]
    pub fn address(&self, link: usize, offset: usize) -> DeviceAddress {
        self.superblock.layout.segment_address(self.chain[link].segment).plus(offset as u64)
    }

    /// `bytes` of a segment, from the piece that is loaded or from the device.
    fn bytes(&mut self, link: usize, offset: usize, bytes: usize) -> Result<&[u8], DeviceError> {
        let loaded = match self.loaded_at {
            Some((at_link, at)) => at_link == link && at <= offset && offset + bytes <= at + self.loaded.len(),
            None => false,
        };
        if !loaded {
            // What is loaded already of a frame in two pieces is kept: so the pieces follow each other on the device.
            let kept = match self.loaded_at.take() {
                Some((at_link, at)) if at_link == link && (at..at + self.loaded.len()).contains(&offset) => {
                    self.loaded.copy_within(offset - at.., 0);
                    at + self.loaded.len() - offset
                }
                _ => 0,
            };
            let length = bytes.max(kept + READ_AHEAD_BYTES).min(self.segment_bytes() - offset);
            self.loaded.resize(length, 0);
            let address = self.address(link, offset + kept);
            if self.blocks.read(address, &mut self.loaded[kept..]).is_err() {
                // A bad block further on must not hide the good ones before it.
                self.loaded.truncate(bytes);
                self.blocks.read(address, &mut self.loaded[kept..])?;
            }
            self.loaded_at = Some((link, offset));
        }
        let at = offset - self.loaded_at.map_or(0, |(_, at)| at);
        Ok(&self.loaded[at..at + bytes])
    }

    /// The valid frame of this shard at a place, with its CRC.
    ///
    /// # Errors
    /// Why there is none.
    pub fn frame(&mut self, link: usize, offset: usize) -> Result<(Header, u32, &[u8]), Break> {
        let bytes_max = self.segment_bytes() - offset;
        let block = self.bytes(link, offset, BLOCK_BYTES).map_err(Break::Unreadable)?;
        let claimed = frame::claimed_bytes(block, bytes_max).map_err(Break::Invalid)?;
        let (namespace, shard) = (self.superblock.namespace, self.shard);
        let (address, sequence) = (self.address(link, offset), self.chain[link].sequence);
        let bytes = self.bytes(link, offset, claimed).map_err(Break::Unreadable)?;
        let (header, crc) = frame::parse(bytes, &namespace, address).map_err(Break::Invalid)?;
        if header.shard != shard || header.segment_sequence != sequence {
            // Of an earlier life of this segment.
            return Err(Break::Invalid(Invalid::NoFrame));
        }
        Ok((header, crc, bytes))
    }

    /// Looks from a break to the end of the chain: the place of the next valid frame of this epoch or a later one,
    /// and the first one that proves `expected` durable.
    fn evidence(&mut self, link: usize, offset: usize, expected: Lsn, epoch: u64) -> Search {
        let mut search = Search::default();
        let (mut link, mut offset) = (link, offset);
        while link < self.chain.len() {
            if offset + BLOCK_BYTES > self.segment_bytes() {
                (link, offset) = (link + 1, segment::HEADER_BYTES);
                continue;
            }
            let address = self.address(link, offset);
            match self.frame(link, offset) {
                Ok((header, _, _)) => {
                    search.epoch_max = search.epoch_max.max(header.epoch);
                    if header.epoch >= epoch && header.first_lsn == expected && search.next_valid.is_none() {
                        search.goes_on.get_or_insert((link, offset, header.previous_crc));
                    }
                    if header.epoch >= epoch && header.first_lsn > expected {
                        search.next_valid.get_or_insert((link, offset));
                        search.lsn_max = search.lsn_max.max(Lsn(header.next_lsn().0 - 1));
                    }
                    if header.epoch >= epoch && header.durable_lsn >= expected && search.proof.is_none() {
                        search.proof = Some(Evidence::Frame { address, durable_lsn: header.durable_lsn });
                    }
                    offset += header.frame_bytes as usize;
                }
                Err(found) => {
                    search.traces |= !matches!(found, Break::Invalid(Invalid::NoFrame));
                    search.unreadable |= matches!(found, Break::Unreadable(_));
                    offset += BLOCK_BYTES;
                }
            }
        }
        search
    }
}

#[derive(Default)]
struct Search {
    /// A frame that begins with the LSN expected, and the CRC that it names: what lies between held no record.
    goes_on: Option<(usize, usize, u32)>,
    next_valid: Option<(usize, usize)>,
    proof: Option<Evidence>,
    lsn_max: Lsn,
    epoch_max: u64,
    traces: bool,
    unreadable: bool,
}

/// Where a walk over a shard's log stands.
struct State {
    link: usize,
    offset: usize,
    next_lsn: Lsn,
    previous_crc: u32,
    epoch: u64,
}

impl State {
    /// The beginning of a log: LSN 1, or the first frame of the segments that are left. Whether that is the one which
    /// the log begins with is seen when all of it is read: see `check_beginning`.
    fn begin<B: Blocks>(walker: &mut Walker<'_, B>) -> State {
        let link = walker.start();
        let begin = State { link, offset: segment::HEADER_BYTES, next_lsn: Lsn(1), previous_crc: 0, epoch: 0 };
        if !walker.begins_later() {
            return begin;
        }
        for offset in (begin.offset..walker.segment_bytes()).step_by(BLOCK_BYTES) {
            if let Ok((Header { first_lsn, previous_crc, epoch, .. }, _, _)) = walker.frame(link, offset) {
                return State { link, offset, next_lsn: first_lsn, previous_crc, epoch };
            }
        }
        begin
    }
}

/// Recovers one shard. Every whole record goes to `sink` in LSN order, those of the flight recorder last.
/// Blocks; run it on a thread of its own for every shard. `progress` gets the bytes of log read so far.
///
/// # Errors
/// The damage, when acknowledged data cannot be read. Nothing was changed.
pub fn recover<B: Blocks>(
    walker: &mut Walker<'_, B>,
    flight: Option<&Contents>,
    planted: Planted,
    sink: &mut Sink<'_>,
    progress: &mut dyn FnMut(u64),
) -> Result<Recovered, Damage> {
    let seed = record::crc_seed(&walker.superblock.namespace, walker.shard);
    let mut state = State::begin(walker);
    let begin_lsn = walker.passed_over.first().map_or(state.next_lsn, |first| first.first_lsn);
    let mut recovered = Recovered {
        tail: Tail { kept_from: 1, links: walker.passed_over.clone(), ..Tail::default() },
        epoch_max: 0,
        frames: 0,
        records: 0,
        log_bytes: 0,
        cut: None,
        clean: false,
        begun: checkpoint::Begin::default(),
        replay: Vec::new(),
    };
    let mut assembler = Assembler::default();
    loop {
        match follow(walker, &mut state, &mut recovered, seed, &mut assembler, sink) {
            Ok(()) => progress(recovered.log_bytes),
            Err(None) => break,
            Err(Some(found)) => {
                let search = walker.evidence(state.link, state.offset, state.next_lsn, state.epoch);
                // A whole frame with a record that is none is what follows here: nothing goes on behind it.
                let goes_on = search.goes_on.filter(|_| !matches!(found, Break::BadRecord { .. }));
                let Some((link, offset, previous_crc)) = goes_on else {
                    judge(walker, &state, found, &search, flight, planted, &mut recovered)?;
                    break;
                };
                // Only a watermark is gone. No two frames with records begin at one LSN in one epoch: this is the next one.
                state = State { link, offset, previous_crc, ..state };
            }
        }
    }
    finish(walker, &state, &mut recovered);
    check_beginning(walker, begin_lsn, &recovered.tail)?;
    if let Some(contents) = flight {
        replay(contents, seed, &mut recovered, &mut assembler, sink);
    }
    Ok(recovered)
}

/// The record that gave up the segments before the first one says with which LSN that begins.
fn check_beginning<B: Blocks>(walker: &mut Walker<'_, B>, begin_lsn: Lsn, tail: &Tail) -> Result<(), Damage> {
    let Some(first) = walker.chain.first() else { return Ok(()) };
    let damaged = first.sequence > 1 && first.sequence >= tail.kept_from && begin_lsn != tail.kept_lsn;
    if !damaged {
        return Ok(());
    }
    let end = Position { chained: *first, offset: segment::HEADER_BYTES };
    let address = walker.address(0, end.offset);
    let found = walker.frame(0, end.offset).map(|_| ()).err().unwrap_or(Break::Invalid(Invalid::NoFrame));
    let search = walker.evidence(0, end.offset, Lsn(1), 0);
    let extent = search.next_valid.filter(|(link, _)| *link == 0).map_or(walker.segment_bytes(), |(_, at)| at);
    Err(Damage {
        shard: walker.shard,
        address,
        extent_bytes: (extent - end.offset) as u64,
        expected_lsn: tail.kept_lsn.max(Lsn(1)),
        found,
        evidence: Evidence::Beginning,
        end,
        previous_crc: 0,
        epoch: search.epoch_max,
    })
}

/// Takes the next frame, here or at the start of the next segment. `Err(None)`: the shard has no log yet.
fn follow<B: Blocks>(
    walker: &mut Walker<'_, B>,
    state: &mut State,
    recovered: &mut Recovered,
    seed: u32,
    assembler: &mut Assembler,
    sink: &mut Sink<'_>,
) -> Result<(), Option<Break>> {
    if walker.chain.is_empty() {
        return Err(None);
    }
    let here = match state.offset + BLOCK_BYTES <= walker.segment_bytes() {
        true => next_frame(walker, state, state.link, state.offset),
        false => Err(Break::Invalid(Invalid::NoFrame)),
    };
    let (link, offset) = match here {
        Ok(()) => (state.link, state.offset),
        Err(found) if state.link + 1 < walker.chain.len() => {
            let there = (state.link + 1, segment::HEADER_BYTES);
            // What cannot be read may be what follows.
            next_frame(walker, state, there.0, there.1)
                .map_err(|beyond| Some(if matches!(beyond, Break::Unreadable(_)) { beyond } else { found }))?;
            there
        }
        Err(found) => return Err(Some(found)),
    };
    let (address, sequence) = (walker.address(link, offset), walker.chain[link].sequence);
    let (header, crc, bytes) = walker.frame(link, offset).map_err(Some)?;
    let mut at = frame::HEADER_BYTES;
    for number in 0..u64::from(header.records) {
        let lsn = Lsn(header.first_lsn.0 + number);
        match record::decode(&bytes[at..header.used_bytes as usize], seed) {
            Some((record, taken)) if record.lsn == lsn => {
                recovered.tail.take(&record, (sequence, header.epoch), &mut recovered.begun);
                recovered.tail.recovered_bytes += taken as u64;
                assembler.push(&record, address.plus(at as u64), sink);
                at += taken;
            }
            _ => return Err(Some(Break::BadRecord { lsn })),
        }
    }
    recovered.tail.enter(walker.chain, link, header.first_lsn);
    recovered.frames += 1;
    recovered.records += u64::from(header.records);
    recovered.log_bytes += u64::from(header.frame_bytes);
    recovered.clean = header.flags & frame::FLAG_CLEAN != 0;
    recovered.tail.stated_lsn = recovered.tail.stated_lsn.max(header.durable_lsn);
    recovered.epoch_max = header.epoch;
    *state = State {
        link,
        offset: offset + header.frame_bytes as usize,
        next_lsn: header.next_lsn(),
        previous_crc: crc,
        epoch: header.epoch,
    };
    Ok(())
}

/// Whether the frame at a place is the one that follows.
fn next_frame<B: Blocks>(walker: &mut Walker<'_, B>, state: &State, link: usize, offset: usize) -> Result<(), Break> {
    let (header, _, _) = walker.frame(link, offset)?;
    let follows =
        header.first_lsn == state.next_lsn && header.previous_crc == state.previous_crc && header.epoch >= state.epoch;
    if follows { Ok(()) } else { Err(Break::NotNext { first_lsn: header.first_lsn, epoch: header.epoch }) }
}

/// Decides what a break is: damage, or an unfinished tail.
fn judge<B: Blocks>(
    walker: &mut Walker<'_, B>,
    state: &State,
    found: Break,
    search: &Search,
    flight: Option<&Contents>,
    planted: Planted,
    recovered: &mut Recovered,
) -> Result<(), Damage> {
    let expected = state.next_lsn;
    let recorder = flight.filter(|contents| contents.durable_lsn >= expected);
    let whole = matches!(found, Break::BadRecord { .. }).then_some(Evidence::WholeFrame);
    // Where the device refuses to read there may be what was acknowledged, or what tells of it.
    let unreadable = search.unreadable || matches!(found, Break::Unreadable(_));
    let proof = search
        .proof
        .or(whole)
        .or(recorder.map(|contents| Evidence::FlightRecorder { durable_lsn: contents.durable_lsn }))
        .or(unreadable.then_some(Evidence::Unreadable));
    let (found, link, offset) = missing_place(walker, state, found, search);
    let address = walker.address(link, offset);
    if let Some(evidence) = proof
        && !planted.is(Planted::CutInsteadOfRefuse)
    {
        let next_valid = search.next_valid.filter(|(next, at)| *next == link && *at > offset);
        let extent_bytes = (next_valid.map_or(walker.segment_bytes(), |(_, at)| at) - offset) as u64;
        let end = Position { chained: walker.chain[state.link], offset: state.offset };
        let (shard, previous_crc, epoch) = (walker.shard, state.previous_crc, state.epoch);
        return Err(Damage {
            shard,
            address,
            extent_bytes,
            expected_lsn: expected,
            found,
            evidence,
            end,
            previous_crc,
            epoch,
        });
    }
    if search.traces || search.next_valid.is_some() || !matches!(found, Break::Invalid(Invalid::NoFrame)) {
        recovered.cut = Some((expected, address, found));
    }
    Ok(())
}

/// Where the missing frame stood, and what is there now. A frame that does not fit in a segment begins the next one:
/// when nothing stands here, and the next segment holds more than a good first frame, then that first one is missing.
fn missing_place<B: Blocks>(
    walker: &mut Walker<'_, B>,
    state: &State,
    found: Break,
    search: &Search,
) -> (Break, usize, usize) {
    let next = (state.link + 1, segment::HEADER_BYTES);
    let full = state.offset + BLOCK_BYTES > walker.segment_bytes();
    let here = (found, state.link, state.offset.min(walker.segment_bytes() - BLOCK_BYTES));
    if next.0 >= walker.chain.len() || found != Break::Invalid(Invalid::NoFrame) {
        return here;
    }
    match walker.frame(next.0, next.1).map(|(header, _, _)| (header.first_lsn, header.epoch)) {
        Err(there) if full || there != found || search.next_valid.is_some_and(|valid| valid > next) => {
            (there, next.0, next.1)
        }
        Ok((first_lsn, epoch)) if full => (Break::NotNext { first_lsn, epoch }, next.0, next.1),
        _ => here,
    }
}

/// Where the log goes on.
fn finish<B: Blocks>(walker: &Walker<'_, B>, state: &State, recovered: &mut Recovered) {
    recovered.tail.enter(walker.chain, state.link, state.next_lsn);
    recovered.tail.next_lsn = state.next_lsn;
    recovered.tail.previous_crc = state.previous_crc;
    if let Some(chained) = walker.chain.get(state.link) {
        recovered.tail.position = Some(Position { chained: *chained, offset: state.offset });
        recovered.tail.prepared = walker.chain[state.link + 1..].to_vec();
    }
}

/// Takes from the flight recorder what goes on where the log ends.
fn replay(contents: &Contents, seed: u32, recovered: &mut Recovered, assembler: &mut Assembler, sink: &mut Sink<'_>) {
    let mut next = recovered.tail.next_lsn;
    let mut at = 0;
    // Records of a large one whose last part is missing were never acknowledged: they are not replayed.
    let mut whole_bytes = 0;
    let mut begin = None;
    while let Some((record, taken)) = record::decode(&contents.records[at..], seed) {
        if record.lsn == next {
            begin.get_or_insert(at);
            assembler.push(&record, DeviceAddress::NONE, sink);
            next = next.next();
            if !assembler.is_open() {
                whole_bytes = at + taken;
            }
        }
        at += taken;
    }
    if let Some(begin) = begin {
        recovered.replay = contents.records[begin..whole_bytes.max(begin)].to_vec();
    }
}

/// What a cut at a damaged place would give up: the last LSN that is still readable beyond it (0 for none), and the
/// highest epoch of a frame there.
pub fn beyond<B: Blocks>(walker: &mut Walker<'_, B>, damage: &Damage) -> (Lsn, u64) {
    let Some(link) = walker.chain.iter().position(|chained| *chained == damage.end.chained) else {
        return (Lsn::NONE, damage.epoch);
    };
    let search = walker.evidence(link, damage.end.offset, damage.expected_lsn, damage.epoch);
    (search.lsn_max, search.epoch_max.max(damage.epoch))
}
