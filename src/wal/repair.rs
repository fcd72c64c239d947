//! Repairing: a plan of block writes that is made without changing anything, and says what it costs.
//! Superblocks and segment headers are mended from what says the same elsewhere: nothing is lost by that.
//! A cut gives up everything of one shard from a place on.

use std::collections::BTreeMap;

use crate::bytes::{index, len_u16, len_u32};
use crate::device::identity::DriveId;
use crate::error::{Error, Result};
use crate::types::{DeviceAddress, Lsn, ObjectId, SegmentIndex, ShardId};
use crate::wal::blocks::Blocks;
use crate::wal::checkpoint;
use crate::wal::flight::Contents;
use crate::wal::frame;
use crate::wal::inspect::first_frame;
use crate::wal::layout::{BLOCK_BYTES, Layout, SUPERBLOCK_COPIES};
use crate::wal::planted::Planted;
use crate::wal::record::{self, Kind, Record};
use crate::wal::recovery::{self, Damage, Evidence, Walker};
use crate::wal::segment;
use crate::wal::superblock::{CopyState, READ_ORDER, Superblock};
use crate::wal::survey::{SegmentDamage, Survey};
use crate::wal::{ChainSegment, Position};

/// One block to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub what: String,
    pub address: DeviceAddress,
    block: Vec<u8>,
}

/// What a repair will do. Its steps are durable one after another; a repair that was interrupted is begun again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// What will be gone, a line each. Empty: nothing is lost.
    pub losses: Vec<String>,
    /// What stays as it is, and why.
    pub notes: Vec<String>,
    /// The shard whose flight recorder speaks of what was given up, and is to be removed after the steps.
    pub forget_flight: Option<ShardId>,
}

impl Plan {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty() && self.forget_flight.is_none()
    }

    /// Carries out the steps in order. Blocks.
    ///
    /// # Errors
    /// The step that the device refused. Those before it are done.
    pub fn carry_out(&self, blocks: &mut impl Blocks) -> Result<()> {
        for step in &self.steps {
            blocks.write(step.address, &step.block).map_err(|error| {
                Error::new(format!("{} at address {}: {error}", step.what, step.address))
                    .remedy("check the device and its log (dmesg), then begin the repair again")
            })?;
        }
        Ok(())
    }

    fn step(&mut self, what: String, address: DeviceAddress, fill: impl FnOnce(&mut [u8])) {
        let mut block = vec![0; BLOCK_BYTES];
        fill(&mut block);
        self.steps.push(Step { what, address, block });
    }

    fn superblock(&mut self, copy: u16, superblock: &Superblock) {
        let address = Layout::superblock_addresses(superblock.layout.capacity_bytes)[usize::from(copy)];
        let Superblock { generation, epoch, .. } = superblock;
        let what = format!("write superblock copy {copy} (generation {generation}, epoch {epoch})");
        self.step(what, address, |block| superblock.encode(block, copy, address));
    }
}

/// Rewrites every superblock copy that is not as the newest one.
///
/// # Errors
/// When no copy is valid, or they contradict each other.
pub fn superblocks(blocks: &mut impl Blocks, device_bytes: u64) -> Result<Plan> {
    let copies = Superblock::read_copies(blocks, device_bytes)?;
    let newest = Superblock::newest(&copies, device_bytes)?;
    let mut plan = Plan::default();
    for (copy, (_, state)) in READ_ORDER.into_iter().zip(&copies) {
        if *state != CopyState::Valid(newest) {
            plan.superblock(copy, &newest);
        }
    }
    Ok(plan)
}

/// Names `drive` in every superblock copy: of a namespace that was copied to it, or formatted before drives were noted.
///
/// # Errors
/// When no copy is valid, or they contradict each other.
pub fn adopt(blocks: &mut impl Blocks, device_bytes: u64, drive: Option<DriveId>) -> Result<Plan> {
    let copies = Superblock::read_copies(blocks, device_bytes)?;
    let newest = Superblock::newest(&copies, device_bytes)?;
    let name = |drive: Option<DriveId>| drive.map_or("no drive".to_owned(), |drive| drive.to_string());
    let mut plan = Plan::default();
    if newest.drive == drive {
        plan.notes.push(format!("the superblock names {} already", name(drive)));
        return Ok(plan);
    }
    plan.notes.push(format!("the superblock names {}, and will name {}", name(newest.drive), name(drive)));
    let adopted = Superblock { generation: newest.generation + 1, drive, ..newest };
    for copy in 0..len_u16(SUPERBLOCK_COPIES) {
        plan.superblock(copy, &adopted);
    }
    Ok(plan)
}

/// Rewrites damaged segment headers from the frames behind them, which name their shard and their place in its chain.
pub fn segment_headers(blocks: &mut impl Blocks, superblock: &Superblock, survey: &Survey) -> Plan {
    let mut plan = Plan::default();
    let mut mended = Vec::new();
    for damage in &survey.damage {
        if let SegmentDamage::HeaderDamaged { segment, .. } | SegmentDamage::Unreadable { segment, .. } = damage {
            match first_frame(blocks, superblock, *segment) {
                Some(frame) => {
                    mended.push((frame.shard, frame.segment_sequence));
                    plan.segment_header(superblock, *segment, &frame);
                }
                None => plan.notes.push(format!("{damage}; no frame in it says whose it is")),
            }
        }
    }
    let holes = holes(blocks, superblock, survey, &mended);
    if holes.is_empty() {
        return plan;
    }
    // The first frame is damaged as well: any other one of the segment will do. What an earlier cut left behind has an
    // older epoch.
    let mut found = BTreeMap::new();
    for segment in &survey.free {
        if let Some(frame) = first_frame(blocks, superblock, *segment)
            && holes.contains(&(frame.shard, frame.segment_sequence))
        {
            let best = found.entry((frame.shard, frame.segment_sequence)).or_insert((*segment, frame));
            if frame.epoch > best.1.epoch {
                *best = (*segment, frame);
            }
        }
    }
    for (segment, frame) in found.values() {
        plan.segment_header(superblock, *segment, frame);
    }
    for (shard, sequence) in holes.into_iter().filter(|hole| !found.contains_key(hole)) {
        plan.notes.push(format!(
            "shard {shard}: segment number {sequence} of its chain is nowhere; only --cut --shard {shard} is left"
        ));
    }
    plan
}

impl Plan {
    fn segment_header(&mut self, superblock: &Superblock, segment: SegmentIndex, frame: &frame::Header) {
        let address = superblock.layout.segment_address(segment);
        let header = segment::Header {
            namespace: superblock.namespace,
            address,
            shard: frame.shard,
            sequence: frame.segment_sequence,
            epoch: frame.epoch,
            kept_from: 1,
            checkpoint: checkpoint::Place::default(),
            reserved: false,
            freed: false,
        };
        let what =
            format!("write the header of segment {segment}: number {} of shard {}", header.sequence, header.shard);
        self.step(what, address, |block| segment::encode(block, &header));
    }
}

/// The places in the chains that no segment takes, `mended` ones aside.
fn holes(
    blocks: &mut impl Blocks,
    superblock: &Superblock,
    survey: &Survey,
    mended: &[(ShardId, u64)],
) -> Vec<(ShardId, u64)> {
    let mut holes = Vec::new();
    for (number, chain) in survey.chains.iter().enumerate() {
        let shard = ShardId(len_u32(number));
        let last = chain.last().map_or(0, |chained| chained.sequence);
        let taken = |sequence| chain.iter().any(|chained| chained.sequence == sequence);
        let first = kept_from(blocks, superblock, survey, shard);
        let missing = (first..last).map(|sequence| (shard, sequence));
        holes.extend(missing.filter(|hole| !taken(hole.1) && !mended.contains(hole)));
    }
    holes
}

/// The number of the segment with which a shard's log begins, as far as it can be read.
fn kept_from(blocks: &mut impl Blocks, superblock: &Superblock, survey: &Survey, shard: ShardId) -> u64 {
    let chain = &survey.chains[shard.index()];
    let known = survey.kept_from[shard.index()];
    let Some(first) = chain.first().filter(|first| first.sequence > known) else { return known };
    let mut walker = Walker::new(blocks, superblock, shard, chain);
    match recovery::recover(&mut walker, None, Planted::None, &mut |_, _| {}, &mut |_| {}) {
        Ok(recovered) => recovered.tail.kept_from.max(known),
        Err(_) => first.sequence,
    }
}

/// Gives up everything of one shard from its damaged place on.
///
/// # Errors
/// When something else must be mended first, or there are two segments for one place.
pub fn cut<B: Blocks>(
    blocks: &mut B,
    superblock: &Superblock,
    survey: &Survey,
    shard: ShardId,
    flight: Option<&Contents>,
) -> Result<Plan> {
    let Some(chain) = survey.chains.get(shard.index()) else {
        return Err(Error::new(format!("there is no shard {shard}"))
            .remedy(format!("choose one below {}", superblock.layout.shards)));
    };
    refuse_first(survey, shard)?;
    let first = chain.first().map_or(1, |first| first.sequence);
    let whole = (first..).zip(chain).take_while(|(sequence, chained)| chained.sequence == *sequence).count();
    let (chain, dropped) = chain.split_at(whole);
    let mut walker = Walker::new(blocks, superblock, shard, chain);
    let read = recovery::recover(&mut walker, flight, Planted::None, &mut |_, _| {}, &mut |_| {});
    let beyond = read.as_ref().err().map(|damage| recovery::beyond(&mut walker, damage));
    let (mut last, mut epoch_max) = beyond.unwrap_or_default();
    for chained in dropped {
        let mut walker = Walker::new(blocks, superblock, shard, std::slice::from_ref(chained));
        let mut see = |found: &crate::wal::inspect::Found<'_>| -> Result<()> {
            last = last.max(Lsn(found.header.next_lsn().0 - 1));
            epoch_max = epoch_max.max(found.header.epoch);
            Ok(())
        };
        crate::wal::inspect::frames(&mut walker, &mut see)?;
    }
    let begin = begin(blocks, superblock, shard, chain, read.as_ref().err());
    let cut = Cut { superblock, survey, shard, chain, dropped, flight, last, epoch_max, begin };
    Ok(match read {
        Err(damage) => cut.plan(Some(&damage), damage.expected_lsn),
        Ok(recovered) if !dropped.is_empty() => cut.plan(None, recovered.tail.next_lsn),
        Ok(recovered) => {
            if let Some(missing) = survey.missing(shard, recovered.tail.kept_from) {
                return Err(Error::new(format!("{missing}; a cut does not bring it back"))
                    .remedy("restore a copy of the device"));
            }
            let notes = vec![format!("shard {shard}: its log is not damaged; there is nothing to cut")];
            Plan { notes, ..Plan::default() }
        }
    })
}

/// The first segment of a chain that began earlier, and the LSN with which it begins.
fn begin<B: Blocks>(
    blocks: &mut B,
    superblock: &Superblock,
    shard: ShardId,
    chain: &[ChainSegment],
    damage: Option<&Damage>,
) -> Option<(u64, Lsn)> {
    let first = chain.first().filter(|first| first.sequence > 1)?;
    let lost = damage.filter(|damage| damage.evidence == Evidence::Beginning).map(|damage| damage.expected_lsn);
    let begin_lsn = lost.unwrap_or_else(|| Walker::new(blocks, superblock, shard, chain).begin_lsn());
    Some((first.sequence, begin_lsn))
}

/// A cut is the last resort: whatever can be mended without a loss comes first.
fn refuse_first(survey: &Survey, shard: ShardId) -> Result<()> {
    for damage in &survey.damage {
        match damage {
            SegmentDamage::HeaderDamaged { shard: of, .. } if *of == shard => {
                return Err(Error::new(damage.to_string())
                    .remedy("mend it first with --segment-headers; nothing is lost by that"));
            }
            SegmentDamage::ChainTwice { shard: of, .. } if *of == shard => {
                return Err(Error::new(damage.to_string()).remedy("restore a copy of the device"));
            }
            _ => {}
        }
    }
    Ok(())
}

struct Cut<'a> {
    superblock: &'a Superblock,
    survey: &'a Survey,
    shard: ShardId,
    chain: &'a [ChainSegment],
    /// Segments behind a hole in the chain.
    dropped: &'a [ChainSegment],
    flight: Option<&'a Contents>,
    /// The last LSN that can still be read beyond the cut; 0 for none.
    last: Lsn,
    /// The highest epoch in a frame that is given up.
    epoch_max: u64,
    /// The number of the chain's first segment, and the LSN with which it begins; where others before it were given up.
    begin: Option<(u64, Lsn)>,
}

impl Cut<'_> {
    fn plan(&self, damage: Option<&Damage>, from: Lsn) -> Plan {
        let mut plan = Plan::default();
        plan.losses.push(self.loss(damage, from));
        if self.shard.0 == 0 {
            plan.losses.push(
                "shard 0 holds the catalog: spaces and streams created beyond the cut lose their names; what other shards hold of them is found under lost-NUMBER"
                    .to_owned(),
            );
        }
        if self.begin.is_some() {
            plan.losses.push(
                "older data whose segments were given up: its copies stood among those records, whatever its first LSN was"
                    .to_owned(),
            );
        }
        // Said before it is done, so that no backup goes on over an interrupted one.
        let told = Superblock {
            generation: self.superblock.generation + 1,
            cuts: self.superblock.cuts.saturating_add(1),
            ..*self.superblock
        };
        for copy in 0..len_u16(SUPERBLOCK_COPIES) {
            plan.superblock(copy, &told);
        }
        let epoch = self.superblock.epoch.max(self.survey.epoch_max).max(self.epoch_max) + 1;
        // Its epoch stays: the next start raises it above this frame, and the other shards' flight recorders with it.
        if let Some(damage) = damage
            && let Some(place) = self.place(damage.end)
        {
            plan.cut_frame(self.superblock, epoch, self.shard, place, damage, self.begin);
        }
        // The last one first, its header last: an interrupted repair leaves the hole, and nothing new to mend.
        for chained in self.dropped.iter().rev() {
            let address = self.superblock.layout.segment_address(chained.segment);
            for (offset, part) in [(segment::HEADER_BYTES as u64, "first frame"), (0, "header")] {
                plan.step(format!("clear the {part} of segment {}", chained.segment), address.plus(offset), |_| {});
            }
        }
        if self.flight.is_some() {
            plan.forget_flight = Some(self.shard);
        }
        plan
    }

    fn loss(&self, damage: Option<&Damage>, from: Lsn) -> String {
        let stated = match damage.map(|damage| damage.evidence) {
            Some(Evidence::Frame { durable_lsn, .. } | Evidence::FlightRecorder { durable_lsn }) => durable_lsn,
            Some(Evidence::WholeFrame | Evidence::Unreadable | Evidence::Beginning) | None => from,
        };
        let last = self.last.max(stated);
        let place =
            damage.map_or("the end of the whole chain".to_owned(), |damage| format!("address {}", damage.address));
        let mut loss = format!("shard {}: every record from LSN {from} on, at {place}", self.shard);
        match self.last {
            Lsn::NONE => loss += "; nothing beyond it can be read",
            readable => loss += &format!("; the last one that can still be read beyond it has LSN {readable}"),
        }
        loss += &format!("; at least {} records are given up", (last.0 + 1).saturating_sub(from.0));
        if let Some(flight) = self.flight.filter(|flight| !flight.records.is_empty()) {
            loss += &format!(", and {} B in the flight recorder", flight.records.len());
        }
        loss
    }

    /// Where the cut frame goes: where the log ends, or the start of the next segment when this one is full.
    fn place(&self, end: Position) -> Option<Position> {
        if end.offset + BLOCK_BYTES <= index(self.superblock.layout.segment_bytes) {
            return Some(end);
        }
        let next = self.chain.iter().find(|chained| chained.sequence == end.chained.sequence + 1)?;
        Some(Position { chained: *next, offset: segment::HEADER_BYTES })
    }
}

impl Plan {
    /// A frame in the new epoch: what older epochs left behind it never follows it. The record that says where the log
    /// begins stood beyond the cut, so it says that again; else it has no records.
    fn cut_frame(
        &mut self,
        superblock: &Superblock,
        epoch: u64,
        shard: ShardId,
        place: Position,
        damage: &Damage,
        begin: Option<(u64, Lsn)>,
    ) {
        let mut block = vec![0; BLOCK_BYTES];
        let mut used = frame::HEADER_BYTES;
        if let Some((version, begin_lsn)) = begin {
            let value = begin_lsn.0.to_le_bytes();
            let (kind, flags, object, lsn) = (Kind::Reclaim, 0, ObjectId(0), damage.expected_lsn);
            let record = Record { kind, flags, lsn, object, version, key: &[], value: &value };
            used += record::encode(&mut block[used..], record::crc_seed(&superblock.namespace, shard), &record);
        }
        let address = superblock.layout.segment_address(place.chained.segment).plus(place.offset as u64);
        let header = frame::Header {
            namespace: superblock.namespace,
            address,
            frame_bytes: len_u32(BLOCK_BYTES),
            used_bytes: len_u32(used),
            shard,
            flags: frame::FLAG_CUT,
            epoch,
            segment_sequence: place.chained.sequence,
            first_lsn: damage.expected_lsn,
            durable_lsn: Lsn(damage.expected_lsn.0 - 1),
            records: u32::from(begin.is_some()),
            previous_crc: damage.previous_crc,
        };
        frame::seal(&mut block, &header);
        let what = format!("cut shard {shard} before LSN {}: write a frame that ends it", damage.expected_lsn);
        self.steps.push(Step { what, address, block });
    }
}
