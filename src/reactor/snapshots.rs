//! Snapshots of all shards. Reactor 0 knows whose they are; each reactor takes its part of one at a barrier.
//!
//! A reactor that hears of a new snapshot takes no more requests. When all have heard of it each one takes its part, and
//! goes on. So nothing that one of them was asked after its part was taken is answered before all had stopped: what is in
//! the snapshot never rests on what is not.
//!
//! A commit over several shards is in all of its parts or in none: one that has keys locked here ends first, and none
//! begins here before the snapshot is taken.
//!
//! A reactor that does not come to the barrier, or a commit that waits for a slow drive, holds up all others: for a second at
//! most. Who has stood there for so long gives the snapshot up, in the word in which they count themselves: all take it, or none.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::device::Device;
use crate::reactor::{Clock, Order, Reactor, intake};
use crate::ring::protocol::{Completion, Status, Submission};
use crate::ring::server::SessionId;
use crate::store::Outcome;
use crate::wal::planted::Planted;

/// The longest that reactors stand at a barrier.
const BARRIER_NS_MAX: u64 = 1_000_000_000;
/// Beside the number of those who arrived: the snapshot is given up.
const GIVEN_UP: u32 = 1 << 31;

/// A snapshot that a client has.
struct Owned {
    id: u64,
    session: SessionId,
    taken_ns: u64,
    /// It ends when all others can be told.
    ends: bool,
}

/// A snapshot that is being taken.
struct Barrier {
    id: u64,
    /// Reactors that take no more requests, and have no part of a commit under way.
    arrived: Arc<AtomicU32>,
    /// This one is counted there.
    counted: bool,
    /// Whom to answer, and its word; of reactor 0.
    asked: Option<(usize, u64)>,
    since_ns: u64,
    /// Its client is gone meanwhile.
    ends: bool,
}

/// The snapshots of one reactor.
#[derive(Default)]
pub(super) struct Snapshots {
    owned: Vec<Owned>,
    /// Some of them end.
    ending: bool,
    barrier: Option<Barrier>,
}

impl Snapshots {
    /// Whether requests have to wait for other reactors.
    #[inline]
    pub(super) fn are_taken(&self) -> bool {
        self.barrier.is_some()
    }

    pub(super) fn len(&self) -> u64 {
        self.owned.len() as u64
    }

    /// When this reactor waits for the others no longer.
    pub(super) fn gives_up_ns(&self) -> Option<u64> {
        self.barrier.as_ref().map(|barrier| barrier.since_ns + BARRIER_NS_MAX)
    }

    /// Whether a client has as many as are its share: half of all, so that none takes them from the others.
    fn are_enough(&self, session: SessionId, snapshots_max: usize) -> bool {
        let own = self.owned.iter().filter(|owned| owned.session == session).count();
        self.owned.len() >= snapshots_max || own >= snapshots_max.div_ceil(2)
    }

    /// How long the oldest has been there.
    pub(super) fn oldest_ns(&self, now_ns: u64) -> u64 {
        self.owned.first().map_or(0, |oldest| now_ns.saturating_sub(oldest.taken_ns))
    }
}

impl<D: Device, C: Clock> Reactor<D, C> {
    /// A client wants a snapshot: tells all reactors. The answer comes when all have heard of it.
    pub(super) fn begin_snapshot(&mut self, slot: usize, submission: &Submission, now_ns: u64) -> Outcome {
        if self.place.reactor != 0 {
            return Outcome::status(Status::WrongReactor);
        }
        let Some(session) = &self.sessions[slot] else { return Outcome::Later };
        if self.snapshots.are_enough(session.id(), self.limits.snapshots_max) {
            return Outcome::status(Status::TooManySnapshots);
        }
        if self.orders_are_full() {
            return Outcome::Later;
        }
        let id = self.shards[0].store.next_snapshot();
        self.snapshots.owned.push(Owned { id, session: session.id(), taken_ns: now_ns, ends: false });
        let arrived = Arc::new(AtomicU32::new(0));
        for other in self.place.others() {
            other.send(Order::Snapshot(id, arrived.clone())).expect("half of its orders were free a moment ago");
        }
        self.arrive(id, arrived, Some((slot, submission.user_data)), now_ns);
        Outcome::Deferred
    }

    /// Takes no more requests until all reactors have heard of the snapshot.
    pub(super) fn arrive(&mut self, id: u64, arrived: Arc<AtomicU32>, asked: Option<(usize, u64)>, now_ns: u64) {
        // One that is still here has come to its end: the next one began after it.
        self.pass_barrier(now_ns);
        self.snapshots.barrier = Some(Barrier { id, arrived, counted: false, asked, since_ns: now_ns, ends: false });
        self.count_in();
        // This turn takes nothing more.
        self.moved_bytes = intake::TURN_BYTES_MAX;
    }

    /// Says that this reactor is at the barrier, once no commit has keys locked here: those wait for the device.
    fn count_in(&mut self) -> bool {
        let holds = self.commits.hold_keys();
        let Some(barrier) = self.snapshots.barrier.as_mut().filter(|barrier| !barrier.counted && !holds) else {
            return false;
        };
        barrier.counted = true;
        barrier.arrived.fetch_add(1, Ordering::AcqRel);
        true
    }

    /// Takes this reactor's part of a snapshot when all have heard of it. Says whether anything happened.
    #[cold]
    pub(super) fn pass_barrier(&mut self, now_ns: u64) -> bool {
        let counts = self.count_in();
        let Some(barrier) = &self.snapshots.barrier else { return false };
        let arrived = self.arrived_at(barrier, now_ns);
        if arrived & GIVEN_UP != 0 {
            self.leave_barrier();
            return true;
        }
        if !barrier.counted {
            return false;
        }
        let skips = self.shards[0].wal.planted().is(Planted::SkipBarrier);
        if arrived < self.place.count() && !skips {
            // The others may wait for the device.
            return counts;
        }
        let Barrier { id, asked, ends, .. } = *barrier;
        self.snapshots.barrier = None;
        let lived_ms = self.wall.lived_ms(now_ns);
        // What a commit did elsewhere is not done in a shard that is fenced: it has no part that would be right.
        let commits = &self.commits;
        let whole = |shard: &&mut super::Shard| !ends && !commits.are_stuck_in(shard.wal.shard());
        for shard in self.shards.iter_mut().filter(whole) {
            shard.store.take_snapshot(id, shard.wal.last_lsn(), lived_ms);
        }
        if let Some((slot, user_data)) = asked {
            let status = Status::Ok as u16;
            self.reply(slot, &Completion { user_data, status, version: id, ..Completion::default() });
        }
        true
    }

    /// How many have arrived, or `GIVEN_UP`: who has waited for too long says so, if one is missing still. One look, so that
    /// nobody takes its part of what another gives up.
    fn arrived_at(&self, barrier: &Barrier, now_ns: u64) -> u32 {
        if now_ns < barrier.since_ns + BARRIER_NS_MAX {
            return barrier.arrived.load(Ordering::Acquire);
        }
        let missing = |arrived| (arrived < self.place.count()).then_some(arrived | GIVEN_UP);
        let before = barrier.arrived.fetch_update(Ordering::AcqRel, Ordering::Acquire, missing);
        before.map_or_else(|arrived| arrived, |arrived| arrived | GIVEN_UP)
    }

    /// Goes on without a snapshot that was given up.
    fn leave_barrier(&mut self) {
        let Some(Barrier { id, asked, .. }) = self.snapshots.barrier.take() else { return };
        let Some((slot, user_data)) = asked else { return };
        self.snapshots.owned.retain(|owned| owned.id != id);
        let status = Status::Busy as u16;
        self.reply(slot, &Completion { user_data, status, ..Completion::default() });
    }

    /// A client has done with its snapshot.
    pub(super) fn release_snapshot(&mut self, slot: usize, submission: &Submission) -> Outcome {
        if self.place.reactor != 0 {
            return Outcome::status(Status::WrongReactor);
        }
        let own = self.sessions[slot].as_ref().map(crate::ring::server::SessionRing::id);
        let of_client = |owned: &&mut Owned| owned.id == submission.arg0 && Some(owned.session) == own && !owned.ends;
        let Some(owned) = self.snapshots.owned.iter_mut().find(of_client) else {
            return Outcome::status(Status::SnapshotGone);
        };
        (owned.ends, self.snapshots.ending) = (true, true);
        Outcome::status(Status::Ok)
    }

    /// A client is gone, and its snapshots with it.
    pub(super) fn release_snapshots_of(&mut self, session: SessionId) {
        for owned in self.snapshots.owned.iter_mut().filter(|owned| owned.session == session) {
            (owned.ends, self.snapshots.ending) = (true, true);
        }
    }

    /// Tells everybody of the snapshots that end, as far as there is room.
    pub(super) fn end_snapshots(&mut self) -> bool {
        if !self.snapshots.ending {
            return false;
        }
        while let Some(at) = self.snapshots.owned.iter().position(|owned| owned.ends) {
            if self.orders_are_full() {
                return true;
            }
            let id = self.snapshots.owned.remove(at).id;
            for other in self.place.others() {
                other.send(Order::Release(id)).expect("half of its orders were free a moment ago");
            }
            self.end_snapshot(id);
        }
        self.snapshots.ending = false;
        true
    }

    /// Lets this reactor's part of a snapshot go.
    pub(super) fn end_snapshot(&mut self, id: u64) {
        if let Some(barrier) = self.snapshots.barrier.as_mut().filter(|barrier| barrier.id == id) {
            barrier.ends = true;
        }
        self.shards.iter_mut().for_each(|shard| shard.store.end_snapshot(id));
    }

    /// Whether another reactor has so many orders to read that it is to be given no more.
    pub(super) fn orders_are_full(&self) -> bool {
        self.place.others().any(|other| other.orders.len() * 2 > other.orders.capacity())
    }
}
