//! The reactor: one pinned thread that takes requests from the client rings, writes them to the drive, and answers.
//! `Reactor::turn` is the one place where the modules meet. It is a pure step over rings, clock and device, so that
//! the simulator runs the very same code.

mod across;
mod census;
mod checkpoint;
mod control;
mod deallocation;
mod expiry;
mod fetch;
mod idle;
mod intake;
mod participant;
mod rates;
mod reclaim;
mod requests;
mod resume;
mod shard;
mod shared;
mod snapshots;
mod stall;
#[cfg(test)]
mod tests;
mod waits;

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use crossbeam_queue::ArrayQueue;
use forebay_sys::net::WakeSet;

use crate::buffer::Pool;
use crate::bytes::index;
use crate::device::watched::Watched;
use crate::device::{Completion as DeviceCompletion, Device};
use crate::metrics::{DriveGauges, Metrics};
use crate::ring::protocol::{Completion, EndReason, Opcode, RETENTION_AS_IS, Status, Submission, stats};
use crate::ring::server::{Mailbox, ReplyRoom, Rights, SessionId, SessionRing};
use crate::store::catalog::Catalog;
use crate::store::catalog::Object;
use crate::store::{Context, Fetched, Outcome, Reply, Request, Wall};
use crate::timing::{self, Layer};
use crate::types::{Lsn, ObjectId};
use crate::wal::Wal;

use across::Commits;
use control::SyncTable;
use deallocation::Deallocation;
use fetch::Fetches;
pub use idle::run;
use rates::Rate;
use requests::Requests;
pub use resume::Log;
use shard::Pending;
pub use shard::Shard;
use shared::Shared;
use snapshots::Snapshots;
use stall::Stall;
pub use stall::{Pulse, STALL_NS};
use waits::Waiting;

/// Where the time comes from: the machine's clock, or the simulator's.
pub trait Clock {
    /// Nanoseconds since some fixed moment. Never goes back.
    fn now_ns(&self) -> u64;

    /// The wall clock: milliseconds since 1970. May be set, forward and back.
    fn wall_ms(&self) -> u64;
}

/// Bounds of one reactor; from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests taken from one client's ring in one turn.
    pub turn_requests_max: u32,
    pub waiting_reads_max: usize,
    pub objects_max: usize,
    pub key_bytes_max: usize,
    pub value_bytes_max: usize,
    pub snapshots_max: usize,
    /// A device that leaves an operation out for longer is given up.
    pub device_timeout_ns: u64,
}

/// Memory of trimmed events that a shard gives back in one turn: as 4,096 events without bytes.
const TURN_RECLAIM_BYTES: usize = 1 << 20;

/// What other threads of the daemon tell a reactor.
#[derive(Clone, Debug)]
pub enum Order {
    /// Reactor 0 made a space or stream.
    Object(Box<Object>),
    /// Reactor 0 has a snapshot of this number taken: counts those who have heard of it.
    Snapshot(u64, Arc<AtomicU32>),
    /// It ends.
    Release(u64),
    /// Shards of this reactor take part in a commit.
    Commit(Arc<Shared>),
    /// `run` returns to its caller, who has something to do with the reactor.
    Visit,
    /// Write out what is open, then stop.
    Stop,
}

/// Where a reactor is reached: its sessions from the listener, its orders from the other reactors and the main thread.
pub struct Address {
    pub sessions: Arc<Mailbox>,
    pub orders: ArrayQueue<Order>,
    pub pulse: Pulse,
}

impl Address {
    /// # Errors
    /// What the kernel answers when an eventfd cannot be had.
    pub fn new() -> std::io::Result<Address> {
        Ok(Address { sessions: Arc::new(Mailbox::new()?), orders: ArrayQueue::new(256), pulse: Pulse::default() })
    }

    /// Gives an order and wakes the reactor. Any thread may; it does not block.
    ///
    /// # Errors
    /// The order, when the reactor is too far behind.
    pub fn send(&self, order: Order) -> Result<(), Order> {
        self.orders.push(order)?;
        self.sessions.bell().ring();
        Ok(())
    }
}

/// Who a reactor is among the others, and how it reaches them.
pub struct Place {
    pub reactor: u32,
    pub shards: u32,
    /// All reactors, by number.
    pub reactors: Arc<[Address]>,
    /// The bells that wake it: its mailbox's, and those of its clients.
    pub wakes: WakeSet,
    /// What is known of the drive's health.
    pub drive: Arc<DriveGauges>,
}

impl Place {
    fn count(&self) -> u32 {
        crate::bytes::len_u32(self.reactors.len())
    }

    fn own(&self) -> &Address {
        &self.reactors[self.reactor as usize]
    }

    fn others(&self) -> impl Iterator<Item = &Address> {
        (0..).zip(self.reactors.iter()).filter(|(number, _)| *number != self.reactor).map(|(_, other)| other)
    }
}

/// What a reactor is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Making durable what the flight recorder held. Takes no requests yet.
    Settling,
    Serving,
    /// Writing out what is open. Takes no more requests.
    Stopping,
    Stopped,
}

impl Phase {
    fn stopping(self) -> Phase {
        if self == Phase::Stopped { self } else { Phase::Stopping }
    }
}

/// One reactor with its shards, device and clients. Owned by one thread; nothing in it is shared.
pub struct Reactor<D, C> {
    place: Place,
    limits: Limits,
    clock: C,
    wall: Wall,
    /// When to look at the wall clock again, and at the keys whose time may be over.
    look_at_wall_ns: u64,
    device: Watched<D>,
    stall: Stall,
    /// Of requests, and of device operations.
    rates: [Rate; 2],
    requests: Requests,
    pool: Pool,
    catalog: Catalog,
    shards: Vec<Shard>,
    sessions: Vec<Option<SessionRing>>,
    /// By slot: the client is gone; what is under way ends, then the session goes.
    closed: Vec<bool>,
    waiting: Vec<Waiting>,
    /// By slot: how many of `waiting` are its.
    waiting_of: Vec<usize>,
    syncs: SyncTable,
    snapshots: Snapshots,
    fetches: Fetches,
    commits: Commits,
    deallocation: Deallocation,
    /// The payload of the request at hand, copied out of the client's memory. Never grows.
    payload: Vec<u8>,
    /// The first one to be served in the next turn.
    first_slot: usize,
    /// Copied from and to clients in this stage of this turn.
    moved_bytes: usize,
    /// Free segments were few in the last turn.
    low: bool,
    /// A request had to stay where it is, in the last turn.
    postponed: bool,
    /// Streams may have grown since waiting reads were last looked at.
    progressed: bool,
    next_deadline_ns: u64,
    /// The last turn in which anything happened.
    worked_ns: u64,
    turned_ns: u64,
    phase: Phase,
    visited: bool,
    pub metrics: Metrics,
}

impl<D: Device, C: Clock> Reactor<D, C> {
    /// A reactor over recovered shards: those whose number is `place.reactor` modulo `place.reactors`, in order.
    #[must_use]
    pub fn new(
        place: Place,
        limits: Limits,
        clock: C,
        device: D,
        pool: Pool,
        catalog: Catalog,
        shards: Vec<Shard>,
    ) -> Self {
        let mut requests = Requests::default();
        requests.grow(catalog.len());
        Reactor {
            place,
            limits,
            wall: Wall::new(clock.now_ns(), clock.wall_ms()),
            look_at_wall_ns: 0,
            clock,
            device: Watched::new(device, pool.count_all()),
            stall: Stall::default(),
            rates: [Rate::default(); 2],
            requests,
            pool,
            catalog,
            shards,
            sessions: Vec::new(),
            closed: Vec::new(),
            waiting: Vec::with_capacity(limits.waiting_reads_max),
            waiting_of: Vec::new(),
            syncs: SyncTable::default(),
            snapshots: Snapshots::default(),
            fetches: Fetches::new(limits.value_bytes_max),
            commits: Commits::default(),
            deallocation: Deallocation::default(),
            payload: Vec::with_capacity(intake::payload_bytes_max(&limits)),
            first_slot: 0,
            moved_bytes: 0,
            low: false,
            postponed: false,
            progressed: false,
            next_deadline_ns: 0,
            worked_ns: 0,
            turned_ns: 0,
            phase: Phase::Settling,
            visited: false,
            metrics: Metrics::default(),
        }
    }

    /// One turn: from the clients' rings to the drive, and back. Does not block. Says whether anything happened.
    pub fn turn(&mut self) -> bool {
        let now_ns = self.clock.now_ns();
        self.place.own().pulse.beat(now_ns);
        self.device.set_now(now_ns);
        if now_ns >= self.look_at_wall_ns {
            self.expire(now_ns);
        }
        let mailed = self.take_mail(now_ns);
        let taken = self.take_requests(now_ns) | self.go_on_with_commits(now_ns);
        let handed = self.seal(now_ns);
        self.submit_fetches(now_ns);
        self.device.kick(self.waits_for_device(now_ns));
        // What became durable may decide a commit.
        let completed = self.complete(now_ns);
        if completed {
            self.go_on_with_commits(now_ns);
        }
        let woken = self.wake_waiting_reads(now_ns);
        let reclaimed = self.reclaim(now_ns);
        self.post();
        self.advance_phase(now_ns);
        self.metrics.add(stats::TURNS, 1);
        let worked = mailed || taken || handed || completed || woken || reclaimed;
        self.turned_ns = now_ns;
        if worked {
            self.worked_ns = now_ns;
        }
        worked
    }

    /// What comes of a request; `at`: the place of the shard that was asked, if one was. `settle` has to follow.
    ///
    /// The outcome is made where the caller has it. To copy what was just written part by part, the core waits until everything
    /// that was written before has reached its cache, the lines of the log and of the rings among it.
    fn dispatch(&mut self, asked: &Asked<'_>, now_ns: u64, at: &mut Option<usize>) -> Outcome {
        let Asked { slot, opcode, submission, .. } = *asked;
        if asked.writes() && self.sessions[slot].as_ref().is_some_and(|session| session.rights() == Rights::ReadOnly) {
            return Outcome::status(Status::Denied);
        }
        if self.phase != Phase::Serving {
            return Outcome::status(Status::Stopping);
        }
        match opcode {
            Opcode::Noop => return Outcome::status(Status::Ok),
            Opcode::Sync => return self.sync(slot, submission),
            Opcode::Open => return self.open(slot, submission, now_ns),
            Opcode::Catalog => return self.list_catalog(slot, submission),
            Opcode::Stats => return self.stats(slot, submission),
            Opcode::Snapshot => return self.begin_snapshot(slot, submission, now_ns),
            Opcode::Release => return self.release_snapshot(slot, submission),
            _ => {}
        }
        let Some(shard) = self.route(opcode, submission) else { return Outcome::status(Status::WrongReactor) };
        *at = Some(shard);
        self.apply(shard, asked, now_ns)
    }

    /// Goes on with what one shard could not answer, and counts what was answered. Gives the place of the shard whose
    /// durability the answer may wait for.
    #[inline(always)]
    fn settle(&mut self, outcome: &mut Outcome, asked: &Asked<'_>, now_ns: u64, at: Option<usize>) -> usize {
        let Some(at) = at else { return 0 };
        let Asked { slot, opcode, submission, fetched } = *asked;
        if matches!(outcome, Outcome::Across) {
            let place;
            (*outcome, place) = self.commit_across(at, slot, submission, now_ns);
            self.metrics.add(stats::WRITES, u64::from(*outcome != Outcome::Later));
            return place;
        }
        let is_unknown = |completion: &Completion| completion.status == Status::UnknownObject as u16;
        if matches!(outcome, Outcome::Answer { completion, .. } if is_unknown(completion)) && self.take_mail(now_ns) {
            // The object may have been made by another reactor a moment ago.
            *outcome = self.dispatch(asked, now_ns, &mut None);
        }
        // A request that waits, or stays where it is, comes here again.
        if let Outcome::Answer { completion, .. } = outcome {
            let writes = asked.writes();
            self.metrics.add(if writes { stats::WRITES } else { stats::READS }, 1);
            self.requests.count(ObjectId(submission.object), writes);
            self.progressed |= asked.appends() || opcode == Opcode::Trim;
            let done = completion.status == Status::Ok as u16;
            if writes {
                self.metrics.add(stats::TAKEN_BYTES, if done { self.payload.len() as u64 } else { 0 });
            } else if opcode == Opcode::Get {
                self.metrics.add(stats::GETS, 1);
                self.metrics.add(stats::GETS_FETCHED, u64::from(fetched.is_some()));
            }
            if matches!(opcode, Opcode::Commit | Opcode::WritePages | Opcode::ReadPages) {
                self.count_several(opcode, submission, completion);
            }
        }
        at
    }

    /// Both, for a request that had to wait.
    fn dispatch_again(&mut self, asked: &Asked<'_>, now_ns: u64) -> (Outcome, usize) {
        let mut at = None;
        let mut outcome = self.dispatch(asked, now_ns, &mut at);
        let at = self.settle(&mut outcome, asked, now_ns, at);
        (outcome, at)
    }

    // Calls of its own for these and `settle` cost a buffered put 7 %.
    #[inline(always)]
    fn apply(&mut self, at: usize, asked: &Asked<'_>, now_ns: u64) -> Outcome {
        let Asked { slot, opcode, submission, fetched } = *asked;
        let Some(session) = &self.sessions[slot] else { return Outcome::Later };
        let (key, value) = self.payload.split_at(usize::from(submission.key_bytes));
        let request = Request { submission, opcode, key, value };
        let shard = &mut self.shards[at];
        let (catalog, wal, pool) = (&self.catalog, &mut shard.wal, &mut self.pool);
        let shards = self.place.shards;
        let (wall, ahead, pages) = (&self.wall, &mut self.fetches.wanted, &mut self.fetches.pages);
        let mut context = Context { catalog, shards, wal, pool, now_ns, wall, fetched, ahead, pages };
        let mut reply = SessionReply::new(session, submission);
        let _layer = timing::enter(Layer::Store);
        let outcome = shard.store.apply(&mut context, &request, &mut reply);
        self.moved_bytes += reply.bytes() + reply.moved;
        outcome
    }

    /// Answers now, or when the promise of shard `at` holds.
    // A call of its own costs a get 1 %.
    #[inline(always)]
    fn answer(&mut self, slot: usize, user_data: u64, at: usize, completion: &mut Completion, after: Lsn) {
        completion.user_data = user_data;
        timing::applied();
        if after == Lsn::NONE {
            return self.reply(slot, completion);
        }
        self.shards[at].defer(slot, *completion, after);
    }

    #[inline(always)]
    fn reply(&mut self, slot: usize, completion: &Completion) {
        if let Some(session) = &mut self.sessions[slot] {
            timing::posting(completion.user_data);
            session.post(completion);
        }
    }

    /// wal.seal, device.submit: every shard hands over what is due.
    fn seal(&mut self, now_ns: u64) -> bool {
        let mut handed = 0;
        for shard in &mut self.shards {
            handed += shard.wal.seal(&mut self.pool, &mut self.device, now_ns);
        }
        handed > 0
    }

    /// Whether somebody waits for what the device has under way, or will soon: for an answer, buffers, room in the log or in the
    /// device itself.
    fn waits_for_device(&self, now_ns: u64) -> bool {
        let in_flight = self.device.in_flight();
        in_flight > 0
            && (self.phase != Phase::Serving
                || self.postponed
                || in_flight >= self.device.geometry().operations_max
                || self.pool.available() <= self.pool.count() / 4
                || self.low
                || self.shards.iter().any(|shard| shard.wal.is_waited_for(now_ns)))
    }

    /// device.poll, wal.complete: buffers come back, durable prefixes advance, promises come true.
    fn complete(&mut self, now_ns: u64) -> bool {
        let mut completed = false;
        while let Some(completion) = self.device.poll() {
            completed = true;
            if Fetches::is_tag(completion.operation.tag) {
                self.fetched(completion, now_ns);
                continue;
            }
            let shard = Wal::shard_of_tag(completion.operation.tag);
            let at = index(u64::from(shard.0 / self.place.count()));
            if Wal::is_reclaim_tag(completion.operation.tag) {
                self.complete_reclaim(at, completion);
            } else {
                self.shards[at].wal.complete(&mut self.pool, completion, now_ns);
            }
        }
        self.watch_device(now_ns);
        for at in 0..self.shards.len() {
            self.progressed |= completed;
            while let Some(pending) = self.shards[at].take_ready() {
                match pending {
                    Pending::Reply { slot, completion } => {
                        timing::durable(completion.user_data, self.shards[at].wal.landed());
                        self.reply(slot, &completion);
                    }
                    Pending::Sync { sync, status } => self.sync_part(sync, status),
                }
            }
        }
        completed
    }

    #[cold]
    fn complete_reclaim(&mut self, at: usize, completion: DeviceCompletion) {
        let Shard { wal, reclaim, .. } = &mut self.shards[at];
        if Wal::is_deallocation_tag(completion.operation.tag) {
            self.deallocation.complete(wal, &mut self.pool, completion);
        } else if let Some(segment) = reclaim.complete(wal, &mut self.pool, completion) {
            self.deallocation.take(wal, at, segment);
        }
    }

    /// Trimmed events give their memory back, and old segments are given up: a bounded part of it a turn. Says whether
    /// there was any.
    fn reclaim(&mut self, now_ns: u64) -> bool {
        let mut any = false;
        if let Some(at) = self.deallocation.due()
            && self.phase == Phase::Serving
        {
            any |= self.deallocation.turn(&mut self.shards[at].wal, &mut self.pool, &mut self.device);
        }
        let low = self.shards.first().is_some_and(|shard| shard.wal.segments().is_low());
        if low && !self.low {
            // What is to be given up may be theirs, and they may sleep.
            self.place.others().for_each(|other| other.sessions.bell().ring());
        }
        self.low = low;
        for shard in &mut self.shards {
            any |= shard.store.reclaim(TURN_RECLAIM_BYTES, shard.wal.readable_lsn());
            if self.phase == Phase::Serving {
                let Shard { store, wal, reclaim, checkpoint, .. } = shard;
                any |= reclaim.turn(store, wal, &mut self.pool, &mut self.device, low, now_ns);
                any |= checkpoint.turn(store, wal, &mut self.pool, &self.catalog, now_ns);
            }
        }
        any
    }

    /// rings.post: what was answered becomes visible to the clients; those who sleep are woken. Sessions whose
    /// client is gone end once nothing of theirs is under way.
    fn post(&mut self) {
        for slot in 0..self.sessions.len() {
            let Some(session) = &mut self.sessions[slot] else { continue };
            session.finish_turn();
            if self.closed[slot] && session.unanswered() == 0 {
                self.sessions[slot] = None;
            }
        }
    }

    fn end_session(&mut self, slot: usize, reason: EndReason) {
        if let Some(session) = &mut self.sessions[slot] {
            session.end(reason);
        }
    }
}

/// A request of the client at `slot`, its payload in `Reactor::payload`.
struct Asked<'a> {
    slot: usize,
    opcode: Opcode,
    submission: &'a Submission,
    /// A value that it had to wait for.
    fetched: Option<&'a Fetched<'a>>,
}

impl Asked<'_> {
    fn appends(&self) -> bool {
        matches!(self.opcode, Opcode::Append | Opcode::AppendBatch | Opcode::AppendOnce)
    }

    /// Whether a client has to have the right to write for it.
    fn writes(&self) -> bool {
        let Asked { opcode, submission, .. } = *self;
        let on_cursor = matches!(opcode, Opcode::SetCursor | Opcode::DropCursor);
        let on_space = matches!(opcode, Opcode::Put | Opcode::Delete | Opcode::Commit | Opcode::WritePages);
        let bounds = opcode == Opcode::Retain && [submission.arg0, submission.arg1] != [RETENTION_AS_IS; 2];
        self.appends() || on_cursor || on_space || bounds || opcode == Opcode::Trim
    }
}

/// A reply's bytes go straight into the client's arena.
struct SessionReply<'a> {
    ring: &'a SessionRing,
    room: ReplyRoom,
    bytes: usize,
    /// Written besides.
    moved: usize,
}

impl<'a> SessionReply<'a> {
    fn new(ring: &'a SessionRing, submission: &Submission) -> Self {
        SessionReply { ring, room: ReplyRoom::of(submission), bytes: 0, moved: 0 }
    }
}

impl Reply for SessionReply<'_> {
    fn push(&mut self, parts: &[&[u8]]) -> bool {
        if !self.fits(parts.iter().map(|part| part.len()).sum()) {
            return false;
        }
        for part in parts {
            if self.ring.write_reply(self.room, self.bytes, part).is_err() {
                return false;
            }
            self.bytes += part.len();
        }
        true
    }

    fn bytes(&self) -> usize {
        self.bytes
    }

    fn fits(&self, bytes: usize) -> bool {
        bytes <= self.room.bytes_max as usize - self.bytes
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        self.ring.write_reply(self.room, at, bytes).expect("`fits` said that the place is there");
        self.moved += bytes.len();
    }
}

/// Where a session stands.
fn slot_of(sessions: &[Option<SessionRing>], id: SessionId) -> Option<usize> {
    sessions.iter().position(|session| session.as_ref().is_some_and(|session| session.id() == id))
}
