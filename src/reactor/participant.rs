//! What the shards of a reactor do for commits over several shards, its own and those of other reactors.

use std::sync::Arc;

use crate::device::Device;
use crate::reactor::across::own_places;
use crate::reactor::shared::{Shared, State, refused};
use crate::reactor::{Clock, Phase, Reactor};
use crate::ring::protocol::{Completion, Status};
use crate::store::Outcome;
use crate::store::across::{Prepared, Unready};
use crate::types::{Lsn, ShardId};
use crate::wal::Room;

/// Where a shard's part stands.
#[derive(Debug)]
enum Step {
    Asked,
    /// Refused, as soon as what it was refused for is durable.
    Refusing(Completion, Lsn),
    /// Its keys are locked; ready when what it stands on is durable.
    Preparing,
    Ready,
    /// Its keys are free, and what it logged is not durable yet.
    Landing(Lsn),
    Over,
}

const FENCED: Completion = refused(Status::Fenced);

/// One shard's part of a commit.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) shared: Arc<Shared>,
    at: usize,
    shard: ShardId,
    step: Step,
    prepared: Prepared,
    /// It cannot be logged, for its shard is fenced.
    stuck: bool,
}

impl Part {
    pub(super) fn is_of(&self, shard: ShardId) -> bool {
        self.shard == shard
    }

    /// Whether it waits for a drive that does not write.
    pub(super) fn is_in_vain(&self) -> bool {
        self.stuck || self.shared.state() == State::InDoubt && matches!(self.step, Step::Ready)
    }

    /// Whether it has keys locked that it will let go of.
    pub(super) fn holds_keys(&self) -> bool {
        matches!(self.step, Step::Preparing | Step::Ready) && !self.is_in_vain()
    }

    /// Whether it needs no more than turns.
    pub(super) fn may_end(&self) -> bool {
        !self.is_in_vain() && !matches!(self.step, Step::Landing(_))
    }
}

impl<D: Device, C: Clock> Reactor<D, C> {
    /// Shards of this reactor are asked to take part.
    pub(super) fn take_part(&mut self, shared: &Arc<Shared>) {
        for at in own_places(&shared.shards, self.place.reactor, self.place.count()) {
            let (shared, shard, prepared) = (shared.clone(), self.shards[at].wal.shard(), Prepared::default());
            self.commits.parts.push(Part { shared, at, shard, step: Step::Asked, prepared, stuck: false });
        }
    }

    /// Prepares what a new commit asks of the coordinator's own shards. Gives what the client is told, when one of them
    /// cannot, and the place of that one.
    pub(super) fn prepare_parts_of(&mut self, shared: &Arc<Shared>, now_ns: u64) -> Option<(Outcome, usize)> {
        for number in 0..self.commits.parts.len() {
            let part = &self.commits.parts[number];
            if !Arc::ptr_eq(&part.shared, shared) {
                continue;
            }
            let at = part.at;
            match self.prepare(number, now_ns) {
                Ok(()) => {}
                // It holds nothing, so it may wait in its ring.
                Err(Unready::Later | Unready::Locked(_)) => return Some((Outcome::Later, at)),
                Err(Unready::No(completion, after)) => {
                    self.count_commit(&completion);
                    return Some((Outcome::Answer { completion, after }, at));
                }
            }
        }
        None
    }

    /// Forgets a commit that nobody else heard of.
    pub(super) fn drop_parts_of(&mut self, shared: &Arc<Shared>, now_ns: u64) {
        for number in (0..self.commits.parts.len()).rev() {
            if Arc::ptr_eq(&self.commits.parts[number].shared, shared) {
                self.free_part(number, now_ns);
                self.commits.parts.swap_remove(number);
            }
        }
    }

    fn prepare(&mut self, number: usize, now_ns: u64) -> Result<(), Unready> {
        let Part { shared, at, .. } = &self.commits.parts[number];
        let (shared, at) = (shared.clone(), *at);
        let prepared = self.with_store(at, now_ns, |store, context| store.prepare(context, &shared.across()))?;
        let part = &mut self.commits.parts[number];
        (part.prepared, part.step) = (prepared, Step::Preparing);
        Ok(())
    }

    /// Gives locks and memory back.
    fn free_part(&mut self, number: usize, now_ns: u64) {
        let part = &mut self.commits.parts[number];
        if matches!(part.step, Step::Preparing | Step::Ready) {
            let (shared, at, prepared) = (part.shared.clone(), part.at, std::mem::take(&mut part.prepared));
            self.with_store(at, now_ns, |store, context| store.release(context, &shared.across(), prepared));
        }
        self.commits.parts[number].step = Step::Over;
    }

    /// Looks at every part. Says whether anything happened.
    pub(super) fn look_at_parts(&mut self, now_ns: u64) -> bool {
        let mut worked = self.do_what_is_decided(now_ns);
        let mut number = 0;
        while number < self.commits.parts.len() {
            worked |= self.look_at_part(number, now_ns);
            if matches!(self.commits.parts[number].step, Step::Over) {
                self.commits.parts.swap_remove(number);
                worked = true;
            } else {
                number += 1;
            }
        }
        worked
    }

    fn look_at_part(&mut self, number: usize, now_ns: u64) -> bool {
        let Part { shared, at, step, prepared, .. } = &self.commits.parts[number];
        let (shared, wal) = (shared.clone(), &mut self.shards[*at].wal);
        let is_durable = |lsn: Lsn| lsn <= wal.durable_lsn();
        match step {
            Step::Landing(lsn) if is_durable(*lsn) => {
                shared.landed();
                self.tell_coordinator(number, Step::Over)
            }
            Step::Landing(_) | Step::Over => false,
            _ if shared.state() == State::Released => {
                self.free_part(number, now_ns);
                true
            }
            Step::Asked => self.try_to_prepare(number, now_ns),
            Step::Refusing(completion, after) if is_durable(*after) || wal.is_hopeless() => {
                shared.refuse(if is_durable(*after) { completion } else { &FENCED });
                self.tell_coordinator(number, Step::Over)
            }
            Step::Preparing if is_durable(prepared.after) => {
                shared.ready(prepared.version_min, prepared.logged);
                self.tell_coordinator(number, Step::Ready)
            }
            Step::Preparing if wal.is_hopeless() => {
                self.free_part(number, now_ns);
                shared.refuse(&FENCED);
                self.tell_coordinator(number, Step::Over)
            }
            Step::Refusing(..) | Step::Preparing => {
                wal.want_durable();
                false
            }
            Step::Ready => false,
        }
    }

    fn try_to_prepare(&mut self, number: usize, now_ns: u64) -> bool {
        if self.phase != Phase::Serving {
            self.commits.parts[number].shared.refuse(&refused(Status::Stopping));
            return self.tell_coordinator(number, Step::Over);
        }
        if self.snapshots.are_taken() {
            self.commits.parts[number].shared.refuse(&refused(Status::Locked));
            return self.tell_coordinator(number, Step::Over);
        }
        match self.prepare(number, now_ns) {
            Ok(()) => true,
            Err(Unready::Later) => {
                self.shards.iter_mut().for_each(|shard| shard.wal.want_room(&self.pool));
                false
            }
            Err(Unready::Locked(completion)) => {
                let part = &self.commits.parts[number];
                let vain = self.commits.parts.iter().any(|other| other.is_of(part.shard) && other.is_in_vain());
                part.shared.refuse(if vain { &FENCED } else { &completion });
                self.tell_coordinator(number, Step::Over)
            }
            Err(Unready::No(completion, after)) => {
                self.commits.parts[number].step = Step::Refusing(completion, after);
                true
            }
        }
    }

    fn tell_coordinator(&mut self, number: usize, step: Step) -> bool {
        self.commits.parts[number].step = step;
        let reactor = self.commits.parts[number].shared.coordinator.0 % self.place.count();
        if reactor != self.place.reactor {
            self.place.reactors[reactor as usize].sessions.bell().ring();
        }
        true
    }

    /// Does the parts of all commits that are decided, in the order of their versions: one that saw what another wrote has
    /// the higher one. Whoever sees one decided sees all decided that it depends on, so it looks twice.
    fn do_what_is_decided(&mut self, now_ns: u64) -> bool {
        let decided = |part: &Part| {
            let ready = matches!(part.step, Step::Ready) && part.shared.state() == State::Decided;
            ready.then(|| part.shared.said().version)
        };
        let Some(last) = self.commits.parts.iter().filter_map(decided).max() else { return false };
        let (mut worked, mut full) = (false, Vec::new());
        loop {
            let parts = self.commits.parts.iter().enumerate();
            let ready = parts.filter_map(|(number, part)| Some((decided(part)?, number)));
            let waiting = ready.filter(|(version, number)| {
                let part = &self.commits.parts[*number];
                *version <= last && !part.stuck && !full.contains(&part.at)
            });
            let Some((_, number)) = waiting.min() else { return worked };
            let at = self.commits.parts[number].at;
            if self.do_part(number, now_ns) {
                worked = true;
            } else {
                // No later one of this shard comes before it.
                full.push(at);
            }
        }
    }

    /// `false`: there is no room now.
    fn do_part(&mut self, number: usize, now_ns: u64) -> bool {
        let part = &mut self.commits.parts[number];
        let (shared, at, mut prepared) = (part.shared.clone(), part.at, std::mem::take(&mut part.prepared));
        let said = shared.said();
        let done = self
            .with_store(at, now_ns, |store, context| store.take_place(context, &shared.across(), &mut prepared, said));
        let part = &mut self.commits.parts[number];
        part.prepared = prepared;
        match done {
            Ok(Lsn::NONE) => {
                shared.done();
                shared.landed();
                self.tell_coordinator(number, Step::Over)
            }
            Ok(lsn) => {
                shared.done();
                self.tell_coordinator(number, Step::Landing(lsn))
            }
            Err(Room::Fenced) => {
                part.stuck = true;
                shared.set_stuck(true);
                self.tell_coordinator(number, Step::Ready)
            }
            Err(_) => false,
        }
    }

    /// The drive is back: parts that could not be logged can be.
    pub(super) fn free_stuck_parts(&mut self) {
        for part in self.commits.parts.iter_mut().filter(|part| part.stuck) {
            part.stuck = false;
            part.shared.set_stuck(false);
        }
    }
}
