//! Commits over several shards. The reactor that a client sends one to coordinates it: every shard that has a key prepares
//! its part; when all have, one record in the coordinator's log decides, with all writes of all shards in it; when that is
//! durable, each does its part, and logs it in a record of its own. Nobody ever waits for another thread: what the reactors
//! tell each other are words of a shared object, which each looks at in its turn.

use std::sync::Arc;

use crate::bytes::index;
use crate::device::Device;
use crate::reactor::participant::Part;
use crate::reactor::shared::{Shared, State, refused};
use crate::reactor::{Clock, Phase, Reactor};
use crate::ring::protocol::commit::entries;
use crate::ring::protocol::{Completion, Opcode, Status, Submission, stats};
use crate::store::across::Scope;
use crate::store::decisions::DECISION_KEY_BYTES;
use crate::store::{Context, Outcome, Request, Said, Store};
use crate::types::{DeviceAddress, Lsn, ShardId};
use crate::wal::Room;
use crate::wal::planted::Planted;
use crate::wal::pool::Writer;

/// Commits over several shards that a reactor coordinates at once, and those of which some part is not durable yet. Others
/// stay in their rings.
const COMMITS_MAX: usize = 64;
const LANDING_MAX: usize = 512;
/// The memory of a larger one is not kept for the next.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// A commit that this reactor coordinates.
#[derive(Debug)]
struct Coordinated {
    shared: Arc<Shared>,
    /// The place of the shard that decides.
    at: usize,
    /// The client, until it is answered.
    client: Option<(usize, u64)>,
    logged: bool,
}

/// The commits over several shards of one reactor.
#[derive(Debug)]
pub(super) struct Commits {
    coordinated: Vec<Coordinated>,
    /// What its own shards take part in.
    pub(super) parts: Vec<Part>,
    /// Memory of those that ended.
    ended: Vec<Arc<Shared>>,
}

impl Default for Commits {
    /// With room for as many as a reactor usually has, so that none of them allocates.
    fn default() -> Commits {
        let (coordinated, parts) = (Vec::with_capacity(LANDING_MAX), Vec::with_capacity(2 * LANDING_MAX));
        Commits { coordinated, parts, ended: Vec::with_capacity(COMMITS_MAX) }
    }
}

impl Commits {
    /// Whether something is under way that needs no more than turns.
    pub(super) fn may_end(&self) -> bool {
        self.coordinated.iter().any(|commit| commit.client.is_some()) || self.parts.iter().any(Part::may_end)
    }

    /// Whether some have keys of this reactor locked.
    pub(super) fn hold_keys(&self) -> bool {
        self.parts.iter().any(Part::holds_keys)
    }

    /// Whether one cannot do its part in a shard.
    pub(super) fn are_stuck_in(&self, shard: ShardId) -> bool {
        self.parts.iter().any(|part| part.is_of(shard) && part.is_in_vain())
    }

    fn are_many(&self) -> bool {
        let unanswered = self.coordinated.iter().filter(|commit| commit.client.is_some()).count();
        unanswered >= COMMITS_MAX || self.coordinated.len() >= LANDING_MAX
    }

    /// Memory for a commit, which nobody shares yet.
    fn take(&mut self) -> Arc<Shared> {
        let free = self.ended.iter_mut().position(|shared| Arc::get_mut(shared).is_some());
        free.map_or_else(|| Arc::new(Shared::new()), |at| self.ended.swap_remove(at))
    }

    fn give(&mut self, shared: Arc<Shared>) {
        if self.ended.len() < COMMITS_MAX && shared.entries.capacity() <= KEPT_BYTES_MAX {
            self.ended.push(shared);
        }
    }
}

impl<D: Device, C: Clock> Reactor<D, C> {
    /// Begins a commit whose keys lie in several shards. What its own shards have to say against it is said at once.
    #[cold]
    pub(super) fn commit_across(
        &mut self,
        at: usize,
        slot: usize,
        submission: &Submission,
        now_ns: u64,
    ) -> (Outcome, usize) {
        if self.commits.coordinated.iter().any(|commit| commit.at == at && commit.client.is_none() && commit.is_stuck())
        {
            // What it decided is not done everywhere, and another would not be either. Nothing is piled up.
            return (Outcome::status(Status::Fenced), 0);
        }
        if self.commits.are_many() {
            return (Outcome::Later, 0);
        }
        let mut shared = self.commits.take();
        let free = Arc::get_mut(&mut shared).expect("nobody shares it yet");
        if let Err(status) = self.fill(free, at, submission) {
            self.commits.give(shared);
            return (Outcome::status(status), 0);
        }
        self.take_part(&shared);
        if let Some(refused) = self.prepare_parts_of(&shared, now_ns) {
            self.drop_parts_of(&shared, now_ns);
            self.commits.give(shared);
            return refused;
        }
        if !self.tell_others(&shared) {
            shared.set_state(State::Released);
            self.drop_parts_of(&shared, now_ns);
            self.commits.give(shared);
            return (Outcome::Later, 0);
        }
        let client = Some((slot, submission.user_data));
        self.commits.coordinated.push(Coordinated { shared, at, client, logged: false });
        (Outcome::Deferred, 0)
    }

    fn fill(&mut self, shared: &mut Shared, at: usize, submission: &Submission) -> Result<(), Status> {
        shared.entries.clear();
        shared.entries.extend_from_slice(&self.payload[usize::from(submission.key_bytes)..]);
        shared.shards.clear();
        shared.coordinator = self.shards[at].wal.shard();
        shared.flags = submission.flags;
        let Shared { entries, shards, scope, .. } = shared;
        let request = Request { submission, opcode: Opcode::Commit, key: &[], value: entries };
        self.with_store(at, 0, |store, context| {
            *scope = store.scope(context, &request, |shard| {
                if !shards.contains(&shard) {
                    shards.push(shard);
                }
            })?;
            Ok(())
        })?;
        shared.begin();
        Ok(())
    }

    /// Calls `f` with a shard's store and what it needs beside it.
    pub(super) fn with_store<T>(
        &mut self,
        at: usize,
        now_ns: u64,
        f: impl FnOnce(&mut Store, &mut Context<'_>) -> T,
    ) -> T {
        let shard = &mut self.shards[at];
        let (catalog, wall, wal, pool) = (&self.catalog, &self.wall, &mut shard.wal, &mut self.pool);
        let (shards, fetched) = (self.place.shards, None);
        let (ahead, pages) = (&mut self.fetches.wanted, &mut self.fetches.pages);
        f(&mut shard.store, &mut Context { catalog, shards, wal, pool, now_ns, wall, fetched, ahead, pages })
    }

    /// Sends it to the other reactors that have shards in it. `false`: one of them is too far behind.
    fn tell_others(&mut self, shared: &Arc<Shared>) -> bool {
        let reactors = self.place.count();
        (0..reactors).filter(|reactor| *reactor != self.place.reactor).all(|reactor| {
            let concerned = shared.shards.iter().any(|shard| shard.0 % reactors == reactor);
            let order = super::Order::Commit(shared.clone());
            !concerned || self.place.reactors[reactor as usize].send(order).is_ok()
        })
    }

    /// Wakes the other reactors that take part.
    fn ring(&self, shared: &Shared) {
        let reactors = self.place.count();
        for (number, other) in (0..).zip(self.place.reactors.iter()) {
            if number != self.place.reactor && shared.shards.iter().any(|shard| shard.0 % reactors == number) {
                other.sessions.bell().ring();
            }
        }
    }

    /// Looks at every commit over several shards that is under way here. Says whether anything happened.
    #[inline]
    pub(super) fn go_on_with_commits(&mut self, now_ns: u64) -> bool {
        if self.commits.coordinated.is_empty() && self.commits.parts.is_empty() || self.phase == Phase::Settling {
            return false;
        }
        self.look_at_commits(now_ns)
    }

    #[cold]
    fn look_at_commits(&mut self, now_ns: u64) -> bool {
        let mut any = false;
        // What is ready may be decided, and what is decided done, in the same turn.
        loop {
            let mut worked = self.look_at_parts(now_ns) | self.announce_decisions();
            let mut number = 0;
            while number < self.commits.coordinated.len() {
                worked |= self.coordinate(number, now_ns);
                if self.commits.coordinated[number].is_over() {
                    let ended = self.commits.coordinated.swap_remove(number);
                    if ended.logged {
                        self.shards[ended.at].store.across.resolve(ended.shared.said().version);
                    }
                    self.commits.give(ended.shared);
                    worked = true;
                } else {
                    number += 1;
                }
            }
            any |= worked;
            if !worked {
                return any;
            }
        }
    }

    /// One step of a commit. Says whether it took one.
    fn coordinate(&mut self, number: usize, now_ns: u64) -> bool {
        let Coordinated { shared, at, client, logged } = &self.commits.coordinated[number];
        let (shared, at, answered, logged) = (shared.clone(), *at, client.is_none(), *logged);
        match shared.state() {
            State::Preparing if logged => self.await_decision(number, &shared, at),
            State::Preparing if !shared.is_heard() => {
                let stopping = self.phase != Phase::Serving;
                if stopping {
                    self.release(number, &shared, refused(Status::Stopping));
                }
                stopping
            }
            State::Preparing => match shared.refusal() {
                Some(refusal) => {
                    self.release(number, &shared, refusal);
                    true
                }
                None => self.decide(number, &shared, at, now_ns),
            },
            State::InDoubt => self.await_decision(number, &shared, at),
            State::Released => false,
            State::Decided if answered => false,
            State::Decided if shared.is_done() => {
                self.tell_client(number, Status::Ok);
                true
            }
            State::Decided => {
                let stuck = shared.is_stuck();
                if stuck {
                    self.tell_client(number, Status::Fenced);
                }
                stuck
            }
        }
    }

    /// Everybody is ready.
    fn decide(&mut self, number: usize, shared: &Arc<Shared>, at: usize, now_ns: u64) -> bool {
        let Scope { writes, puts, .. } = shared.scope;
        if !writes {
            self.release(number, shared, Completion::default());
            return true;
        }
        let version_min = shared.said().version;
        if !shared.is_logged() {
            let version = self.shards[at].store.version_from(version_min);
            shared.say(Said { version, lsn: Lsn::NONE, place: DeviceAddress::NONE, in_commit: true, until: None });
            shared.set_state(State::Decided);
            self.ring(shared);
            return true;
        }
        let (bytes, writer) = (shared.writes().len(), if puts { Writer::Ordinary } else { Writer::Privileged });
        match self.shards[at].wal.room(&self.pool, DECISION_KEY_BYTES, bytes, writer) {
            Room::Yes => {}
            Room::Later => {
                self.shards.iter_mut().for_each(|shard| shard.wal.want_room(&self.pool));
                return false;
            }
            Room::NoSpace => {
                self.release(number, shared, refused(Status::NoSpace));
                return true;
            }
            Room::Fenced => {
                self.release(number, shared, refused(Status::Fenced));
                return true;
            }
        }
        let said = self.with_store(at, now_ns, |store, context| store.decide(context, shared.writes(), version_min));
        shared.say(said);
        self.commits.coordinated[number].logged = true;
        if self.shards[at].wal.is_planted(Planted::DecideTooEarly) {
            shared.set_state(State::Decided);
        }
        true
    }

    /// A commit takes place when its decision is durable. Those of a shard do in the order of their versions, for the others
    /// log their parts in this order.
    fn announce_decisions(&mut self) -> bool {
        let mut any = false;
        loop {
            let waiting = self.commits.coordinated.iter().filter(|commit| {
                let undecided = commit.logged && commit.shared.state() != State::Decided;
                undecided && commit.shared.said().lsn <= self.shards[commit.at].wal.durable_lsn()
            });
            let Some(next) = waiting.min_by_key(|commit| commit.shared.said().version) else { return any };
            next.shared.set_state(State::Decided);
            self.ring(&next.shared);
            any = true;
        }
    }

    /// Nobody can know any more whether a decision is durable.
    fn await_decision(&mut self, number: usize, shared: &Arc<Shared>, at: usize) -> bool {
        let wal = &self.shards[at].wal;
        let durable = shared.said().lsn <= wal.durable_lsn();
        let lost = !durable && wal.is_hopeless() && shared.state() != State::InDoubt;
        if lost {
            shared.set_state(State::InDoubt);
            self.tell_client(number, Status::Fenced);
        }
        lost
    }

    /// Nothing of it takes place.
    fn release(&mut self, number: usize, shared: &Arc<Shared>, completion: Completion) {
        shared.set_state(State::Released);
        self.ring(shared);
        self.answer_commit(number, completion);
    }

    fn tell_client(&mut self, number: usize, status: Status) {
        let Said { version, lsn, .. } = self.commits.coordinated[number].shared.said();
        self.answer_commit(number, Completion { version, lsn: lsn.0, ..refused(status) });
    }

    fn answer_commit(&mut self, number: usize, completion: Completion) {
        let Some((slot, user_data)) = self.commits.coordinated[number].client.take() else { return };
        self.count_commit(&completion);
        if completion.status == Status::Ok as u16 {
            self.requests.count_commit(&self.commits.coordinated[number].shared.entries);
        }
        self.reply(slot, &Completion { user_data, ..completion });
    }

    pub(super) fn count_commit(&mut self, completion: &Completion) {
        let is = |status: Status| u64::from(completion.status == status as u16);
        self.metrics.add(stats::COMMITS, is(Status::Ok));
        self.metrics.add(stats::CONFLICTS, is(Status::Conflict) + is(Status::Locked));
    }

    /// Whether a request that meets a locked key would wait for a drive that does not write: the commit that holds the key is
    /// in doubt, or a part of it cannot be logged.
    #[cold]
    pub(super) fn waits_in_vain(&self, at: usize, opcode: Opcode, submission: &Submission) -> bool {
        let Some(shard) = self.shards.get(at).map(|shard| shard.wal.shard()) else { return false };
        let hopeless = |part: &&Part| part.is_of(shard) && part.is_in_vain();
        let (key, value) = match opcode {
            Opcode::Put | Opcode::Delete | Opcode::Commit => {
                self.payload.split_at(usize::from(submission.key_bytes).min(self.payload.len()))
            }
            _ => return false,
        };
        self.commits.parts.iter().filter(hopeless).any(|part| {
            entries(&part.shared.entries).any(|held| match opcode {
                Opcode::Commit => entries(value).any(|own| own.object == held.object && own.key == held.key),
                _ => held.object.0 == submission.object && held.key == key,
            })
        })
    }
}

impl Coordinated {
    fn is_stuck(&self) -> bool {
        self.shared.state() == State::InDoubt || self.shared.is_stuck()
    }

    /// Whether nothing more comes of it.
    fn is_over(&self) -> bool {
        match self.shared.state() {
            State::Released => true,
            State::Decided => self.client.is_none() && self.shared.has_landed(),
            State::Preparing | State::InDoubt => false,
        }
    }
}

/// The places of a reactor's own shards among those of a commit.
pub(super) fn own_places(shards: &[ShardId], reactor: u32, reactors: u32) -> impl Iterator<Item = usize> {
    let own = shards.iter().filter(move |shard| shard.0 % reactors == reactor);
    own.map(move |shard| index(u64::from(shard.0 / reactors)))
}
