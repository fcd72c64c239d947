//! What a reactor does beside reads and writes: its mailbox, the catalog, sync, stats, and its phases.

use crate::bytes::len_u32;
use crate::device::Device;
use crate::reactor::{Clock, Order, Phase, Reactor, SessionReply, slot_of};
use crate::ring::protocol::{AUX_MORE, Completion, EndReason, Status, Submission, name_is_valid, stats};
use crate::ring::server::{Control, Rights, SessionId, SessionRing};
use crate::store::catalog::{Object, attributes, page_size};
use crate::store::{Outcome, Reply};
use crate::types::{Compression, Lsn, ObjectId, ObjectKind, PageSize, ShardId};
use crate::wal::pool::Writer;
use crate::wal::record::Kind;
use crate::wal::{Fence, Room, Wal};

/// A request that had to stay where it is is looked at again after so long, asleep or not: nothing may ring for it.
const POSTPONED_INTERVAL_NS: u64 = 1_000_000;
/// A catalog's reply is bounded by this, so that one request does not hold up the others.
const CATALOG_BYTES_MAX: usize = 256 << 10;

/// Syncs under way: each waits for one part of every shard.
#[derive(Default)]
pub(super) struct SyncTable {
    syncs: Vec<Option<Sync>>,
    free: Vec<usize>,
}

struct Sync {
    slot: usize,
    user_data: u64,
    parts: usize,
    status: Status,
}

impl SyncTable {
    /// Room for so many in all, so that adding one never allocates.
    fn reserve(&mut self, syncs: usize) {
        self.syncs.reserve(syncs.saturating_sub(self.syncs.len()));
        self.free.reserve(syncs.saturating_sub(self.free.len()));
    }

    fn add(&mut self, sync: Sync) -> usize {
        if let Some(at) = self.free.pop() {
            self.syncs[at] = Some(sync);
            return at;
        }
        self.syncs.push(Some(sync));
        self.syncs.len() - 1
    }

    /// Counts one part as done; gives the sync when that was the last.
    fn part(&mut self, at: usize, status: Status) -> Option<Sync> {
        let sync = self.syncs[at].as_mut()?;
        sync.parts -= 1;
        if status != Status::Ok {
            sync.status = status;
        }
        if sync.parts > 0 {
            return None;
        }
        self.free.push(at);
        self.syncs[at].take()
    }
}

impl<D: Device, C: Clock> Reactor<D, C> {
    /// Takes what others sent: sessions that begin and end, new objects, the order to stop.
    pub(super) fn take_mail(&mut self, now_ns: u64) -> bool {
        let mut mailed = false;
        while let Some(control) = self.place.own().sessions.receive() {
            mailed = true;
            match control {
                Control::Open(session) => self.begin_session(*session),
                Control::Close(id) => self.close_session(id),
            }
        }
        // As with the sessions: an empty queue is seen without a fence.
        while !self.place.own().orders.is_empty()
            && let Some(order) = self.place.own().orders.pop()
        {
            mailed = true;
            match order {
                Order::Object(object) => self.learn(*object),
                Order::Snapshot(id, arrived) => self.arrive(id, arrived, None, now_ns),
                Order::Release(id) => self.end_snapshot(id),
                Order::Commit(shared) => self.take_part(&shared),
                Order::Visit => self.visited = true,
                Order::Stop => {
                    self.phase = self.phase.stopping();
                    self.progressed = true;
                }
            }
        }
        if self.snapshots.are_taken() {
            mailed |= self.pass_barrier(now_ns);
        }
        self.end_snapshots() | mailed
    }

    /// There is a new space or stream.
    fn learn(&mut self, object: Object) {
        self.catalog.insert(object);
        self.requests.grow(self.catalog.len());
    }

    /// Takes a client in. The listener sends it by mail; tests and the simulator call this.
    pub fn begin_session(&mut self, session: SessionRing) {
        if let Err(error) = self.place.wakes.add(session.doorbell()) {
            tracing::error!(session = %session.id(), %error, "no wake-ups from this client while the reactor sleeps");
        }
        let slot = self.sessions.iter().position(Option::is_none).unwrap_or_else(|| {
            self.sessions.push(None);
            self.closed.push(false);
            self.waiting_of.push(0);
            self.sessions.len() - 1
        });
        self.sessions[slot] = Some(session);
        self.closed[slot] = false;
        // All that may be unanswered at once. Each of these clients may have it wait for one shard, or for syncs.
        let answers = self.sessions.iter().flatten().map(SessionRing::unanswered_max).sum();
        self.shards.iter_mut().for_each(|shard| shard.reserve(answers));
        self.syncs.reserve(answers);
    }

    /// A client is gone. The listener sends it by mail; tests and the simulator call this.
    pub fn close_session(&mut self, id: SessionId) {
        let Some(slot) = slot_of(&self.sessions, id) else { return };
        if let Some(session) = &mut self.sessions[slot] {
            // A bell that is closed leaves the set by itself.
            let _ = self.place.wakes.remove(session.doorbell());
            session.close();
            self.closed[slot] = true;
            self.progressed = true;
        }
        self.release_snapshots_of(id);
    }

    /// Answers when everything taken before is durable on the drive, in every shard of this reactor.
    pub(super) fn sync(&mut self, slot: usize, submission: &Submission) -> Outcome {
        if self.shards.iter().any(|shard| shard.wal.fenced().is_some()) {
            return Outcome::status(Status::Fenced);
        }
        let parts = self.shards.iter().filter(|shard| !shard.wal.is_durable()).count();
        if parts == 0 {
            return Outcome::status(Status::Ok);
        }
        let sync = self.syncs.add(Sync { slot, user_data: submission.user_data, parts, status: Status::Ok });
        for shard in self.shards.iter_mut().filter(|shard| !shard.wal.is_durable()) {
            shard.wal.want_durable();
            shard.defer_sync(sync);
        }
        Outcome::Deferred
    }

    /// One part of a sync is done; the last one answers it.
    pub(super) fn sync_part(&mut self, at: usize, status: Status) {
        if let Some(Sync { slot, user_data, status, .. }) = self.syncs.part(at, status) {
            self.reply(slot, &Completion { user_data, status: status as u16, ..Completion::default() });
        }
    }

    /// Finds a space or stream by name, or makes it: durably, in shard 0, before anybody may use its number.
    pub(super) fn open(&mut self, slot: usize, submission: &Submission, now_ns: u64) -> Outcome {
        if self.place.reactor != 0 {
            return Outcome::status(Status::WrongReactor);
        }
        let name = &self.payload[..usize::from(submission.key_bytes)];
        let [kind, _, create, ..] = submission.arg0.to_le_bytes();
        let Some(kind) = ObjectKind::from_wire(kind) else { return Outcome::status(Status::BadRequest) };
        let found = |object: &Object, after: Lsn| {
            let status = if object.kind == kind { Status::Ok } else { Status::WrongKind } as u16;
            let (version, aux) = (u64::from(object.id.0), object.attributes());
            Outcome::Answer { completion: Completion { status, version, aux, ..Completion::default() }, after }
        };
        if let Some(object) = self.catalog.find(name) {
            return found(object, told_after(&mut self.shards[0].wal, object));
        }
        let (create, chained) = (create & 1 != 0, create & 2 != 0);
        if !create {
            return Outcome::status(Status::UnknownObject);
        }
        let (Some((kind, durability, compression)), true) = (attributes(submission.arg0), name_is_valid(name)) else {
            return Outcome::status(Status::BadRequest);
        };
        if chained && kind != ObjectKind::Stream || compression != Compression::None && kind != ObjectKind::Space {
            return Outcome::status(Status::BadRequest);
        }
        let page = page_size(submission.arg0);
        if page.is_some_and(|page| page.bytes() > self.limits.value_bytes_max) {
            let (status, aux) = (Status::TooLarge as u16, self.limits.value_bytes_max as u64);
            let completion = Completion { status, aux, ..Completion::default() };
            return Outcome::Answer { completion, after: Lsn::NONE };
        }
        if self.sessions[slot].as_ref().is_some_and(|session| session.rights() == Rights::ReadOnly) {
            return Outcome::status(Status::Denied);
        }
        if self.catalog.len() >= self.limits.objects_max {
            return Outcome::status(Status::TooLarge);
        }
        if self.orders_are_full() {
            return Outcome::Later;
        }
        let wal = &mut self.shards[0].wal;
        match wal.room(&self.pool, name.len(), 0, Writer::Ordinary) {
            Room::Yes => {}
            Room::Later => return Outcome::Later,
            Room::NoSpace => return Outcome::status(Status::NoSpace),
            Room::Fenced => return Outcome::status(Status::Fenced),
        }
        let (id, lsn, name) = (self.catalog.next_id(), Lsn::NONE, name.into());
        let mut object = Object { id, kind, durability, compression, chained, page, name, lsn };
        let attributes = object.attributes();
        object.lsn = wal.append(&mut self.pool, now_ns, Kind::Create, id, attributes, &object.name, &[]);
        let after = told_after(wal, &object);
        self.learn(object.clone());
        for other in self.place.reactors.iter().skip(1) {
            other.send(Order::Object(Box::new(object.clone()))).expect("half of its orders were free a moment ago");
        }
        found(&object, after)
    }

    /// Lists what there is, once it is durable: a number that is told must not be given out again after a crash. What
    /// never will be durable is not listed.
    pub(super) fn list_catalog(&mut self, slot: usize, submission: &Submission) -> Outcome {
        if self.place.reactor != 0 {
            return Outcome::status(Status::WrongReactor);
        }
        let wal = &mut self.shards[0].wal;
        let mut after = Lsn::NONE;
        let Some(session) = &self.sessions[slot] else { return Outcome::Later };
        let mut reply = SessionReply::new(session, submission);
        let (mut objects, mut more) = (0, 0);
        for object in self.catalog.iter_after(submission.arg0) {
            let told = told_after(wal, object);
            if told != Lsn::NONE && wal.fenced().is_some() {
                break;
            }
            let ObjectId(id) = object.id;
            let [name_bytes, ..] = object.name.len().to_le_bytes();
            let form = object.page.map_or(object.compression as u8, PageSize::to_wire);
            let attributes = [object.kind as u8, object.durability as u8, name_bytes, form];
            let full = reply.bytes() >= CATALOG_BYTES_MAX;
            if full || !reply.push(&[&id.to_le_bytes(), &attributes, &object.name]) {
                more = AUX_MORE;
                break;
            }
            after = after.max(told);
            objects += 1;
        }
        let status = if objects == 0 && more != 0 { Status::ReplyTooSmall } else { Status::Ok } as u16;
        let completion =
            Completion { status, aux: objects | more, reply_bytes: len_u32(reply.bytes()), ..Completion::default() };
        Outcome::Answer { completion, after }
    }

    /// Brings the gauges up to date.
    pub(super) fn gauge(&mut self) {
        self.look_at_rates(self.turned_ns);
        let [[requests, requests_max], [operations, operations_max]] =
            self.rates.map(|rate| rate.told(self.turned_ns, self.worked_ns));
        let traffic = self.device.traffic();
        let sum = |of: fn(&super::Shard) -> u64| self.shards.iter().map(of).sum::<u64>();
        let gauges = [
            (stats::SESSIONS, self.sessions.iter().flatten().count() as u64),
            (stats::WAITING_READS, self.waiting.len() as u64),
            (stats::SHARDS, self.shards.len() as u64),
            (stats::SHARDS_FENCED, sum(|shard| u64::from(shard.wal.fenced().is_some()))),
            (stats::RECORDS, sum(|shard| shard.wal.counters.records)),
            (stats::RECORD_BYTES, sum(|shard| shard.wal.counters.record_bytes)),
            (stats::FRAMES, sum(|shard| shard.wal.counters.frames)),
            (stats::FRAME_BYTES, sum(|shard| shard.wal.counters.frame_bytes)),
            (stats::WATERMARKS, sum(|shard| shard.wal.counters.watermarks)),
            (stats::SEGMENTS_FREE, self.shards.first().map_or(0, |shard| shard.wal.segments_free() as u64)),
            (stats::KEYS, sum(|shard| shard.store.keys())),
            (stats::KEYS_TIMED, sum(|shard| shard.store.keys_timed())),
            (stats::EVENTS, sum(|shard| shard.store.events())),
            (stats::MEMORY_BYTES, sum(|shard| shard.store.memory_bytes())),
            (stats::BUFFERS_FREE, self.pool.available() as u64),
            (stats::SEGMENTS_RECLAIMED, sum(|shard| shard.wal.counters.segments_reclaimed)),
            (stats::COPIED_BYTES, sum(|shard| shard.wal.counters.copied_bytes)),
            (stats::CHECKPOINTS, sum(|shard| shard.wal.counters.checkpoints)),
            (stats::CHECKPOINT_BYTES, sum(|shard| shard.wal.counters.checkpoint_bytes)),
            (stats::DEVICE_OLDEST_NS, self.device.oldest_ns(self.turned_ns)),
            (stats::LIVE_BYTES, sum(|shard| shard.store.live_bytes())),
            (stats::CACHE_BYTES, sum(|shard| shard.store.cache_bytes())),
            (stats::DEALLOCATED_BYTES, sum(|shard| shard.wal.counters.deallocated_bytes)),
            (stats::DEALLOCATE_FAILURES, sum(|shard| shard.wal.counters.deallocate_failures)),
            (stats::COALESCED_WRITES, sum(|shard| shard.wal.counters.coalesced_writes)),
            (stats::COALESCED_BYTES, sum(|shard| shard.wal.counters.coalesced_bytes)),
            (stats::DEVICE_READS, traffic.reads),
            (stats::DEVICE_READ_BYTES, traffic.read_bytes),
            (stats::DEVICE_WRITES, traffic.writes),
            (stats::DEVICE_WRITE_BYTES, traffic.write_bytes),
            (stats::REQUESTS_PER_SECOND, requests),
            (stats::REQUESTS_PER_SECOND_MAX, requests_max),
            (stats::DEVICE_OPERATIONS_PER_SECOND, operations),
            (stats::DEVICE_OPERATIONS_PER_SECOND_MAX, operations_max),
        ];
        let kept = self.shards.iter().map(|shard| shard.store.kept_for_snapshots());
        let [versions, bytes, given_up] = kept.fold([0; 3], |sum, kept| std::array::from_fn(|at| sum[at] + kept[at]));
        let snapshots = [
            (stats::SNAPSHOTS, self.snapshots.len()),
            (stats::SNAPSHOT_OLDEST_NS, self.snapshots.oldest_ns(self.turned_ns)),
            (stats::SNAPSHOT_VERSIONS, versions),
            (stats::SNAPSHOT_BYTES, bytes),
            (stats::SNAPSHOTS_GIVEN_UP, given_up),
        ];
        for (at, value) in gauges.into_iter().chain(snapshots).chain(self.place.drive.get()) {
            self.metrics.set(at, value);
        }
        let counters = || self.shards.iter().map(|shard| shard.wal.counters);
        for class in 0..stats::FRAME_CLASSES {
            let frames = counters().map(|counters| counters.frames_of[class]).sum();
            self.metrics.set(stats::FRAMES_OF_RECORDS + class, frames);
        }
        let most = counters().map(|counters| counters.frame_records_max).max().unwrap_or(0);
        self.metrics.set(stats::FRAME_RECORDS_MAX, most);
    }

    /// Once a second, and when somebody asks.
    pub(super) fn look_at_rates(&mut self, now_ns: u64) {
        let traffic = self.device.traffic();
        let counted = [self.metrics.get(stats::REQUESTS), traffic.reads + traffic.writes];
        self.rates.iter_mut().zip(counted).for_each(|(rate, now)| rate.look(now_ns, self.worked_ns, now));
        self.requests.look(now_ns, self.worked_ns);
    }

    /// Moves on from settling to serving, and from stopping to stopped; writes idle watermarks.
    pub(super) fn advance_phase(&mut self, now_ns: u64) {
        match self.phase {
            Phase::Settling => {
                let mut settled = true;
                for shard in &mut self.shards {
                    settled &= shard.settle(&mut self.pool, now_ns);
                }
                if settled {
                    self.phase = Phase::Serving;
                }
            }
            Phase::Serving => {
                for shard in &mut self.shards {
                    shard.wal.watermark(&mut self.pool, now_ns, false);
                }
            }
            Phase::Stopping => {
                let mut quiet = true;
                for shard in &mut self.shards {
                    if shard.wal.fenced().is_some() {
                        continue;
                    }
                    shard.wal.want_durable();
                    shard.wal.watermark(&mut self.pool, now_ns, true);
                    quiet &= shard.wal.is_durable() && shard.wal.is_quiet();
                }
                // What a device holds that was given up is not waited for.
                if quiet && !self.commits.may_end() && (self.device.in_flight() == 0 || self.stall.given_up) {
                    self.phase = Phase::Stopped;
                    self.sessions.iter_mut().flatten().for_each(|session| session.end(EndReason::Stopping));
                }
            }
            Phase::Stopped => {}
        }
    }

    /// Whether somebody wants to do something with this reactor; asks once.
    pub(super) fn take_visit(&mut self) -> bool {
        std::mem::take(&mut self.visited)
    }

    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The first moment when there is something to do without being asked; `None` when there is none.
    #[must_use]
    pub fn deadline_ns(&self) -> Option<u64> {
        let waits = self.waiting.iter().map(|waiting| waiting.deadline_ns).min();
        let postponed = self.postponed.then_some(self.turned_ns + POSTPONED_INTERVAL_NS);
        self.shards
            .iter()
            .filter_map(|shard| shard.wal.deadline_ns())
            .chain(waits)
            .chain(postponed)
            .chain(self.look_ns())
            .chain(self.expires_ns())
            .chain(self.snapshots.gives_up_ns())
            .min()
    }

    /// Whether something is under way that goes on by itself: the device is at work, and not given up, or segments are
    /// being given up.
    #[must_use]
    pub fn is_at_work(&self) -> bool {
        (self.device.in_flight() > 0 && !self.stall.given_up)
            || self.snapshots.are_taken()
            || self.deallocation.due().is_some()
            || self.commits.may_end()
            || self.shards.iter().any(|shard| shard.reclaim.is_active(&shard.wal))
    }

    /// A request that waits for a segment may wait for one of another reactor, which may sleep.
    pub(super) fn rouse_others(&self) {
        if self.postponed {
            self.place.others().for_each(|other| other.sessions.bell().ring());
        }
    }

    /// Tells every client to ring when it has something, or that it need not.
    pub fn set_need_wakeup(&mut self, needed: bool) {
        for session in self.sessions.iter_mut().flatten() {
            session.set_need_wakeup(needed);
        }
        self.metrics.add(stats::SLEEPS, u64::from(needed));
    }

    /// How long nothing has happened, as of the last turn.
    #[must_use]
    pub fn idle_ns(&self) -> u64 {
        self.turned_ns - self.worked_ns
    }

    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.clock.now_ns()
    }

    /// Blocks until a client or another thread rings, or the time is over.
    pub(super) fn doze(&self, timeout: Option<std::time::Duration>) -> std::io::Result<()> {
        self.place.wakes.wait(timeout)
    }

    /// For those who look whether this thread turns: it sleeps, or ends.
    pub fn rest(&self) {
        self.place.own().pulse.rest();
    }

    /// The shards that stopped writing, and why.
    #[must_use]
    pub fn fenced(&self) -> Vec<(ShardId, Fence)> {
        self.shards.iter().filter_map(|shard| Some((shard.wal.shard(), shard.wal.fenced()?))).collect()
    }

    /// The shards, for reports and the simulator.
    #[must_use]
    pub fn shards(&self) -> &[super::Shard] {
        &self.shards
    }
}

/// What an answer that tells of an object waits for: its own record, if that is not durable yet.
fn told_after(wal: &mut Wal, object: &Object) -> Lsn {
    if object.lsn <= wal.durable_lsn() {
        return Lsn::NONE;
    }
    wal.want_durable();
    object.lsn
}
