//! One machine with its drive, its flight recorders, and the appliance that lives on it for a while.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use forebay_sys::dma::{DmaRegion, Pages};
use forebay_sys::net::WakeSet;
use forebay_sys::shm::SharedMap;

use crate::appliance::recover::{self, Begun, Logs, Settings, ShardState};
use crate::appliance::resume::{self, deal, records_in};
use crate::buffer::Pool;
use crate::error::{Error, Result};
use crate::reactor::{self, Address, Clock, Order, Phase, Place, Reactor};
use crate::ring::client::ClientParts;
use crate::ring::protocol::stats;
use crate::ring::segment::Shape;
use crate::ring::server::{Rights, SessionId, pair_in_process};
use crate::sim::device::{Drive, Fate, SimBlocks, SimDevice, VirtualClock};
use crate::sim::profile::Profile;
use crate::sim::random::Random;
use crate::sim::report::{Count, Counts};
use crate::store::Store;
use crate::store::checkpoint::{Piece, Progress};
use crate::types::{Lsn, ObjectId, ShardId};
use crate::wal::checkpoint::{self, KeyItem};
use crate::wal::flight::{self, Contents, Flight, Owner};
use crate::wal::format;
use crate::wal::planted::Planted;
use crate::wal::record::{self, Kind, Record};
use crate::wal::recovery::{self, Walker};
use crate::wal::superblock::Superblock;
use crate::wal::survey::{self, Survey};

pub const NAMESPACE: [u8; 16] = *b"simulated drive!";

/// Nobody waits so long, but a hostile client may ask for it.
const NEVER_NS: u64 = 1 << 60;

/// A record as recovery found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub lsn: Lsn,
    pub kind: Kind,
    pub object: ObjectId,
    pub version: u64,
    pub key: Vec<u8>,
    pub value: Vec<u8>,
    /// Says again what a record before it said.
    pub copy: bool,
    /// Of the decision of a commit over several shards: the writes of all of them. `value` has those of its own shard.
    pub across: Option<Vec<u8>>,
    /// Of a part of such a commit: the shard that decided it.
    pub part_of: Option<u32>,
}

/// What recovery found in one shard.
#[derive(Clone, Debug, Default)]
pub struct FoundLog {
    pub records: Vec<Found>,
    /// Where the segments that are left begin.
    pub first_lsn: Lsn,
    /// The first LSN that the drive did not give. Parts of a large record count here, though it is not whole.
    pub next_lsn: Lsn,
    /// What the flight recorder said was durable.
    pub recorder_lsn: Lsn,
}

/// What goes wrong during one recovery.
#[derive(Default)]
pub struct RecoveryFaults {
    pub unreadable: BTreeSet<u64>,
    pub writes_left: Option<u32>,
}

pub struct Machine {
    pub profile: Profile,
    pub clock: VirtualClock,
    pub drive: Rc<RefCell<Drive>>,
    pub reactors: Vec<Reactor<SimDevice, VirtualClock>>,
    addresses: Arc<[Address]>,
    /// The flight recorders' files, by directory and shard.
    recorders: [Vec<OwnedFd>; 2],
    /// Where the last start looked for them; `None`: it had none.
    pub directory: Option<usize>,
    /// Power cuts so far: the boot id.
    boot: u8,
    sessions: u64,
    /// Where reactors turn at different speeds.
    speeds: Option<Random>,
    /// Of all reactors together, since the drive was formatted.
    turns: u64,
    planted: Planted,
    counts: Counts,
    /// A checkpoint and the log before it said different things.
    pub differs: Option<String>,
}

impl Machine {
    /// A machine with a formatted drive.
    pub fn new(profile: Profile, drive: Drive, planted: Planted, counts: Counts) -> Result<Machine> {
        let drive = Rc::new(RefCell::new(drive));
        let mut blocks = SimBlocks { drive: drive.clone(), unreadable: BTreeSet::new(), writes_left: None };
        let capacity_bytes = drive.borrow().disk.capacity_bytes();
        format::format(&mut blocks, capacity_bytes, profile.segment_bytes, profile.shards, NAMESPACE, None)?;
        let mut machine = Machine {
            profile,
            clock: VirtualClock::default(),
            drive,
            reactors: Vec::new(),
            addresses: Arc::new([]),
            recorders: [const { Vec::new() }; 2],
            directory: Some(0),
            boot: 0,
            sessions: 0,
            speeds: profile.snapshots.then(|| Random::new(1)),
            turns: 0,
            planted,
            counts,
            differs: None,
        };
        machine.boot()?;
        Ok(machine)
    }

    /// Power comes back: the memory of the flight recorders is new.
    fn boot(&mut self) -> Result<()> {
        self.boot += 1;
        for directory in 0..self.recorders.len() {
            let files = (0..self.profile.shards).map(|_| self.new_recorder()).collect::<Result<_>>()?;
            self.recorders[directory] = files;
        }
        Ok(())
    }

    fn new_recorder(&self) -> Result<OwnedFd> {
        Ok(SharedMap::create_sealed(c"forebay-flight", self.recorder_bytes())?.0)
    }

    /// The file of one shard's recorder is removed.
    pub fn remove_recorder(&mut self, shard: ShardId) -> Result<()> {
        if let Some(directory) = self.directory {
            self.recorders[directory][shard.index()] = self.new_recorder()?;
        }
        Ok(())
    }

    fn recorder_bytes(&self) -> usize {
        flight::HEADER_BYTES + self.profile.recorder_bytes
    }

    fn flight(&self, shard: ShardId, superblock: &Superblock) -> Result<Flight> {
        let owner = Owner { namespace: NAMESPACE, shard, boot: [self.boot; 16] };
        let file = self.directory.map(|directory| &self.recorders[directory][shard.index()]);
        let map = file.map(|file| SharedMap::map_sealed(file, self.recorder_bytes())).transpose()?;
        let flight = Flight::new(map, owner, superblock.epoch);
        self.counts.add_many(Count::StaleRecorders, u64::from(flight.stale_epoch().is_some()));
        if let (Some(epoch), true) = (flight.stale_epoch(), self.planted.is(Planted::TrustStaleRecorder)) {
            let map = file.map(|file| SharedMap::map_sealed(file, self.recorder_bytes())).transpose()?;
            return Ok(Flight::new(map, owner, epoch));
        }
        Ok(flight)
    }

    /// Recovers with the flight recorders of `self.directory`, and starts `reactors` reactors. They still have to settle.
    ///
    /// # Errors
    /// What recovery refuses, or a fault that struck during it.
    pub fn start(&mut self, reactors: u32, faults: RecoveryFaults) -> Result<Vec<FoundLog>> {
        let RecoveryFaults { unreadable, writes_left } = faults;
        let mut blocks = SimBlocks { drive: self.drive.clone(), unreadable, writes_left };
        let capacity_bytes = self.drive.borrow().disk.capacity_bytes();
        let superblock = Superblock::load(&mut blocks, capacity_bytes)?;
        let survey = survey::survey(&mut blocks, &superblock, &mut |_, _| {});
        recover::check_survey(&survey)?;
        let settings = self.settings();
        let mut replayed = 0;
        let (mut states, mut flights, mut found) = (Vec::new(), Vec::new(), Vec::new());
        for shard in (0..superblock.layout.shards).map(ShardId) {
            let flight = self.flight(shard, &superblock)?;
            let contents = flight.contents();
            let state = recover::read_shard(
                &mut blocks,
                &superblock,
                &survey,
                shard,
                contents.as_ref(),
                &settings,
                &mut |_| {},
            )?;
            if survey.checkpoints[shard.index()].lsn > Lsn::NONE {
                self.check_short(&mut blocks, &superblock, &survey, shard, contents.as_ref(), &state)?;
            }
            self.counts.add_many(Count::Cuts, u64::from(state.recovered.cut.is_some()));
            replayed += records_in(&state.recovered.replay);
            let mut walker = Walker::new(&mut blocks, &superblock, shard, &survey.chains[shard.index()]);
            let whose = (shard, superblock.layout.shards);
            found.push(log(&mut walker, contents.as_ref(), self.planted, whose)?);
            states.push(state);
            flights.push(flight);
        }
        let Begun { shards, catalog, .. } =
            recover::begin(&mut blocks, &superblock, &survey, states, flights, &settings)?;
        self.counts.add_many(Count::ReplayedRecords, replayed);
        self.addresses = (0..reactors).map(|_| Address::new()).collect::<std::io::Result<_>>()?;
        self.reactors.clear();
        for (reactor, shards) in (0..reactors).zip(deal(shards, reactors as usize)) {
            let place = Place {
                reactor,
                shards: self.profile.shards,
                reactors: self.addresses.clone(),
                wakes: WakeSet::new()?,
                drive: Arc::default(),
            };
            let region = DmaRegion::allocate(self.profile.pool_buffers * self.profile.frame_bytes, Pages::Ordinary)?;
            let device = self.device(reactor);
            self.reactors.push(Reactor::new(
                place,
                self.reactor_limits(),
                self.clock.clone(),
                device,
                Pool::new(region, self.profile.frame_bytes),
                catalog.clone(),
                shards,
            ));
        }
        Ok(found)
    }

    /// Reads a shard from the beginning of its log, and holds what that says against what its last checkpoint said.
    fn check_short(
        &mut self,
        blocks: &mut SimBlocks,
        superblock: &Superblock,
        survey: &Survey,
        shard: ShardId,
        contents: Option<&Contents>,
        short: &ShardState,
    ) -> Result<()> {
        let survey =
            Survey { checkpoints: vec![checkpoint::Place::default(); survey.checkpoints.len()], ..survey.clone() };
        let settings = self.settings();
        let whole = recover::read_shard(blocks, superblock, &survey, shard, contents, &settings, &mut |_| {})?;
        self.counts.add_many(Count::ShortRecoveries, u64::from(short.recovered.records < whole.recovered.records));
        let (short, whole) = (said(&short.store), said(&whole.store));
        // Of a stream whose events were in memory alone nobody else says where it began.
        let known = |line: &&String| {
            let object = line.split_once(BEGINS).map(|(object, _)| format!("{object} "));
            object.is_none_or(|object| whole.iter().any(|line| line.starts_with(&object)))
        };
        let what: Vec<_> = short.symmetric_difference(&whole).filter(known).take(4).collect();
        if !what.is_empty() && !self.drive.borrow().disk.is_corrupt() {
            self.differs = Some(format!("{shard} holds something else from its checkpoint on: {what:?}"));
            return Err(Error::new("a checkpoint is wrong"));
        }
        Ok(())
    }

    /// Every reactor lets go of the drive, some turns later: see `is_aside`.
    pub fn step_aside(&mut self) {
        self.reactors.iter_mut().for_each(Reactor::step_aside);
    }

    pub fn is_aside(&self) -> bool {
        self.reactors.iter().all(Reactor::is_aside)
    }

    /// Takes the drive back, without a new start: what `Appliance::resume` does.
    ///
    /// # Errors
    /// What it refuses.
    pub fn resume(&mut self) -> Result<()> {
        let drive = self.drive.clone();
        let mut blocks = SimBlocks { drive, unreadable: BTreeSet::new(), writes_left: None };
        let capacity_bytes = self.drive.borrow().disk.capacity_bytes();
        let superblock = Superblock::load(&mut blocks, capacity_bytes)?;
        let survey = survey::survey(&mut blocks, &superblock, &mut |_, _| {});
        recover::check_survey(&survey)?;
        let (mut recovered, mut flights) = (Vec::new(), Vec::new());
        for shard in (0..superblock.layout.shards).map(ShardId) {
            let flight = self.flight(shard, &superblock)?;
            let (contents, planted) = (flight.contents(), self.planted);
            let contents = contents.as_ref();
            let read = resume::read_log(&mut blocks, &superblock, &survey, shard, contents, planted, &mut |_| {})?;
            recovered.push(read);
            flights.push(flight);
        }
        let mut held: Vec<_> = self.reactors.iter().flat_map(Reactor::held).collect();
        held.sort_unstable();
        resume::check_held(&recovered, &held, self.planted)?;
        let settings = self.settings();
        let Logs { logs, epoch } =
            recover::begin_logs(&mut blocks, &superblock, &survey, recovered, flights, &settings)?;
        let dealt = deal(logs, self.reactors.len());
        for (number, logs) in (0..).zip(dealt) {
            let device = self.device(number);
            let reactor = &mut self.reactors[number as usize];
            reactor.replace_device(device);
            reactor.resume(logs, epoch);
        }
        Ok(())
    }

    fn device(&self, reactor: u32) -> SimDevice {
        let (drive, clock) = (self.drive.clone(), self.clock.clone());
        SimDevice::new(drive, clock, reactor, self.profile.operations_max, self.planted)
    }

    fn settings(&self) -> Settings {
        Settings { wal: self.profile.wal, store: self.profile.store, planted: self.planted }
    }

    fn reactor_limits(&self) -> reactor::Limits {
        reactor::Limits {
            turn_requests_max: self.profile.turn_requests_max,
            waiting_reads_max: 2,
            objects_max: 12,
            snapshots_max: self.profile.store.snapshots_max,
            key_bytes_max: self.profile.store.key_bytes_max,
            value_bytes_max: self.profile.store.value_bytes_max,
            device_timeout_ns: self.profile.device_timeout_ns,
        }
    }

    /// A client connects: its side comes back, the reactors get theirs.
    pub fn connect(&mut self, arena_bytes: u64) -> Result<(SessionId, ClientParts)> {
        self.sessions += 1;
        let id = SessionId(self.sessions);
        let shape = Shape {
            reactors: crate::bytes::len_u32(self.reactors.len()),
            sq_entries: 16,
            cq_entries: 16,
            arena_bytes,
            shards: self.profile.shards,
            key_bytes_max: crate::bytes::len_u32(self.profile.store.key_bytes_max),
            value_bytes_max: crate::bytes::len_u32(self.profile.store.value_bytes_max),
            lineage: crate::types::Lineage::NONE,
        };
        let (parts, rings) = pair_in_process(id, Rights::ReadWrite, shape)?;
        for (reactor, ring) in self.reactors.iter_mut().zip(rings) {
            reactor.begin_session(ring);
        }
        Ok((id, parts))
    }

    /// A client hung up: what the listener would tell every reactor.
    pub fn disconnect(&mut self, id: SessionId) {
        self.reactors.iter_mut().for_each(|reactor| reactor.close_session(id));
    }

    /// Whether what the flight recorders held is durable and requests are taken.
    pub fn is_settled(&self) -> bool {
        self.reactors.iter().all(|reactor| reactor.phase() != Phase::Settling)
    }

    pub fn is_in(&self, phase: Phase) -> bool {
        self.reactors.iter().all(|reactor| reactor.phase() == phase)
    }

    /// By shard: whether it writes no more.
    pub fn fenced(&self) -> Vec<bool> {
        let fenced: Vec<ShardId> = self.reactors.iter().flat_map(Reactor::fenced).map(|(shard, _)| shard).collect();
        (0..self.profile.shards).map(|shard| fenced.contains(&ShardId(shard))).collect()
    }

    /// One turn of the reactors, beginning with `first`. Of several some are slower at times: what others send them waits.
    /// Says whether anything happened.
    pub fn turn(&mut self, first: usize) -> bool {
        let count = self.reactors.len();
        self.turns += 1;
        let slow = |at: usize, turns: u64| count > 1 && Random::new(turns << 8 | at as u64).chance(300);
        let turns = self.turns;
        // While one of them waits for its turn, time does not leap to what comes next.
        (0..count)
            .map(|at| (first + at) % count)
            .fold(false, |worked, at| slow(at, turns) || self.turn_one(at) | worked)
    }

    /// One turn of a reactor. It may be one that looked at its mail just before it was told of a snapshot, and takes requests
    /// that came later.
    fn turn_one(&mut self, reactor: usize) -> bool {
        let Some(random) = &mut self.speeds else { return self.reactors[reactor].turn() };
        let orders = &self.addresses[reactor].orders;
        let (mut late, mut others) = (Vec::new(), Vec::new());
        if random.chance(250) {
            while let Some(order) = orders.pop() {
                let of_snapshot = matches!(order, Order::Snapshot(..) | Order::Release(_));
                if of_snapshot { late.push(order) } else { others.push(order) }
            }
        }
        others.into_iter().for_each(|order| _ = orders.push(order));
        let worked = self.reactors[reactor].turn();
        let orders = &self.addresses[reactor].orders;
        late.extend(std::iter::from_fn(|| orders.pop()));
        late.into_iter().for_each(|order| _ = orders.push(order));
        worked
    }

    /// The next moment when something happens by itself. A deadline that is past waits for something else.
    pub fn next_ns(&self) -> Option<u64> {
        let now_ns = self.now_ns();
        let deadlines = self.reactors.iter().filter_map(Reactor::deadline_ns);
        // Each by itself: what is past hides none of the others.
        let looks = self.reactors.iter().filter_map(Reactor::look_ns);
        let ends = self.reactors.iter().filter_map(Reactor::expires_ns);
        deadlines
            .chain(looks)
            .chain(ends)
            .chain(self.drive.borrow().next_due_ns())
            .filter(|at_ns| *at_ns > now_ns && *at_ns < NEVER_NS)
            .min()
    }

    /// Whether a shard writes, and all that it was told is on the drive.
    pub fn is_calm(&self, shard: u32) -> bool {
        let shards = self.reactors.iter().flat_map(|reactor| reactor.shards());
        shards.filter(|own| own.wal.shard().0 == shard).all(reactor::Shard::is_calm)
    }

    pub fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    /// Asks the reactors to stop in good order.
    pub fn order_stop(&self) {
        for address in self.addresses.iter() {
            // The queue holds 256 orders and nobody else sends that many.
            let _ = address.send(Order::Stop);
        }
    }

    /// The daemon ends as it is, by a kill, or with the power of the whole machine.
    pub fn crash(&mut self, power: bool, fate: Fate) -> Result<()> {
        let shards = self.reactors.iter().flat_map(|reactor| reactor.shards());
        let reclaimed = shards.map(|shard| shard.wal.counters.segments_reclaimed).sum();
        self.counts.add_many(Count::SegmentsReclaimed, reclaimed);
        let shards = self.reactors.iter().flat_map(|reactor| reactor.shards());
        self.counts.add_many(Count::SegmentsUnread, shards.map(|shard| shard.wal.counters.segments_unread).sum());
        let shards = self.reactors.iter().flat_map(|reactor| reactor.shards());
        self.counts.add_many(Count::Checkpoints, shards.map(|shard| shard.wal.counters.checkpoints).sum());
        let shards = self.reactors.iter().flat_map(|reactor| reactor.shards());
        self.counts.add_many(Count::Coalesced, shards.map(|shard| shard.wal.counters.coalesced_writes).sum());
        let fetches = |at| self.reactors.iter().map(|reactor| reactor.metrics.get(at)).sum();
        self.counts.add_many(Count::Fetches, fetches(stats::FETCHES));
        self.counts.add_many(Count::FetchesAhead, fetches(stats::FETCHES_AHEAD));
        self.counts.add_many(Count::FetchesFailed, fetches(stats::FETCHES_FAILED));
        self.counts.add_many(Count::Expired, fetches(stats::KEYS_EXPIRED));
        self.counts.add_many(Count::EventsRetired, fetches(stats::EVENTS_RETIRED));
        let shards = self.reactors.iter().flat_map(|reactor| reactor.shards());
        let given_up = shards.map(|shard| shard.store.kept_for_snapshots()[2]).sum();
        self.counts.add_many(Count::SnapshotsGivenUp, given_up);
        self.reactors.clear();
        self.drive.borrow_mut().crash(power, fate);
        if power { self.boot() } else { Ok(()) }
    }
}

const BEGINS: &str = " begins ";

/// What a store holds, as a checkpoint would say it.
fn said(store: &Store) -> BTreeSet<String> {
    let (mut progress, mut piece, mut all) = (Progress::default(), Piece::default(), BTreeSet::new());
    while store.next_piece(&mut progress, &mut piece, 4_096, Planted::None) {
        let Some(record) = piece.record() else { continue };
        let Record { kind, object, version, key, value, .. } = record;
        match kind {
            Kind::Keys => all.extend(checkpoint::keys(value).map(|item| {
                let KeyItem { key, value_bytes, version, place, in_commit, until_ms, .. } = item;
                format!("{object} {key:?} {version} {value_bytes} {place} {in_commit} {until_ms:?}")
            })),
            Kind::Events => {
                let events = (version..).zip(checkpoint::events(value));
                all.extend(events.map(|(offset, item)| format!("{object} {offset} {} {}", item.place, item.bytes)));
                all.insert(format!("{object}{BEGINS}{key:?}"));
            }
            // The LSN in the value may be that of the record or of a copy of it.
            _ => _ = all.insert(format!("{kind:?} {object} {version} {key:?}")),
        }
    }
    all
}

/// The records of one shard, as recovery hands them to the store.
fn log(
    walker: &mut Walker<'_, SimBlocks>,
    contents: Option<&Contents>,
    planted: Planted,
    (shard, shards): (ShardId, u32),
) -> Result<FoundLog> {
    let mut found =
        FoundLog { recorder_lsn: contents.map_or(Lsn::NONE, |contents| contents.durable_lsn), ..FoundLog::default() };
    let mut sink = |record: &record::Record<'_>, _| {
        // Its parts say what others say.
        if record.is_of_checkpoint() {
            return;
        }
        let record = Found {
            lsn: record.lsn,
            kind: record.kind,
            object: record.object,
            version: record.version,
            key: record.key.to_vec(),
            value: record.value.to_vec(),
            copy: record.flags & record::FLAG_COPY != 0,
            across: None,
            part_of: None,
        };
        found.records.push(record.of_commit(shard, shards));
    };
    let recovered = recovery::recover(walker, contents, planted, &mut sink, &mut |_| {})
        .map_err(|damage| Error::new(format!("the second look differs: {damage}")))?;
    // A segment that was given up and not yet marked free may be read, whole or not, or be gone: it counts no more.
    let kept_lsn = recovered.tail.kept_lsn;
    found.records.retain(|record| record.lsn >= kept_lsn);
    let first_lsn = recovered.tail.links.first().map_or(Lsn(1), |link| link.first_lsn).max(kept_lsn);
    Ok(FoundLog { first_lsn, next_lsn: recovered.tail.next_lsn, ..found })
}
