//! Snapshots: whether what was read of one has a place in time. In each shard there must be a version up to which it sees
//! all writes and beyond which it sees none, and in each stream an offset, so that
//!
//! - each write that was acknowledged before the snapshot was asked for is in it,
//! - none that was asked for after it was answered is,
//! - and with a write all that was acknowledged before that one was asked for.
//!
//! Higher places only ask for more, so the lowest ones that explain what was read are raised until all of this holds.

use std::collections::BTreeMap;

use crate::ring::client::{Answer, pages, pairs};
use crate::ring::protocol::{AUX_MORE, Status};
use crate::ring::server::SessionId;
use crate::sim::action::{Action, PAGE};
use crate::sim::oracle::pages::shard_of;
use crate::sim::oracle::{Oracle, Pending, Verdict, ensure, is_strict};
use crate::types::{ObjectId, ShardId};

/// No snapshot is given up before it was waited for so long; whole milliseconds.
const BARRIER_MS: u64 = 999;

/// When a write was asked for and when it was acknowledged, in requests and answers of this life.
#[derive(Clone, Copy)]
struct Wrote {
    asked: u64,
    acknowledged: u64,
}

/// A snapshot that a client was given.
struct Taken {
    id: u64,
    session: SessionId,
    asked: u64,
    answered: u64,
    /// Between which moments keys with a time to live are over.
    lived_ms: (u64, u64),
    /// The version that was shown of each key; 0: it was absent.
    reads: BTreeMap<(ObjectId, Vec<u8>), u64>,
    /// The next offset that was told of each stream.
    ends: BTreeMap<ObjectId, u64>,
    /// It was released, or its client died.
    over: bool,
}

/// What is known of the snapshots of this life.
#[derive(Default)]
pub struct Snapshots {
    taken: Vec<Taken>,
    /// By shard and version.
    writes: BTreeMap<ShardId, BTreeMap<u64, Wrote>>,
    /// By stream and the offset behind the last event.
    appends: BTreeMap<ObjectId, BTreeMap<u64, (u64, Wrote)>>,
    /// Requests and answers so far.
    pub moment: u64,
    /// A shard may have too little memory for what only a snapshot sees.
    pub may_be_given_up: bool,
}

impl Snapshots {
    /// The snapshots that a client can name, and whose they are.
    pub fn open(&self) -> Vec<(u64, SessionId)> {
        self.taken.iter().filter(|taken| !taken.over).map(|taken| (taken.id, taken.session)).collect()
    }

    pub fn begin_life(&mut self) {
        *self = Snapshots { may_be_given_up: self.may_be_given_up, ..Snapshots::default() };
    }

    /// A client is gone.
    pub fn died(&mut self, session: SessionId) {
        self.taken.iter_mut().filter(|taken| taken.session == session).for_each(|taken| taken.over = true);
    }

    /// A snapshot is to be released.
    pub fn release(&mut self, id: u64) {
        self.taken.iter_mut().filter(|taken| taken.id == id).for_each(|taken| taken.over = true);
    }

    /// The lowest place for a snapshot in each shard, and in the streams, that what was acknowledged asks for, before that
    /// moment.
    fn raise(&self, low: &mut BTreeMap<ShardId, u64>, before: u64) {
        for (shard, writes) in &self.writes {
            let last = writes.iter().rev().find(|(_, wrote)| wrote.acknowledged < before);
            let place = low.entry(*shard).or_default();
            *place = (*place).max(last.map_or(0, |(version, _)| *version));
        }
    }
}

impl Oracle {
    /// A write was done.
    pub(super) fn note_write(&mut self, pending: &Pending, answer: &Answer) {
        let acknowledged = if answer.status == Status::Ok { self.snapshots.moment } else { u64::MAX };
        let asked = if pending.action.once().is_some() { 0 } else { pending.moment };
        let wrote = Wrote { asked, acknowledged };
        match &*pending.action {
            Action::Append { stream, events, .. } => {
                let end = answer.version + events.len() as u64;
                self.snapshots.appends.entry(stream.id).or_default().entry(end).or_insert((answer.version, wrote));
            }
            // It has the same version in each of its shards.
            Action::Commit { steps, .. } => {
                for step in steps.iter().filter(|step| step.is_write()) {
                    let shard = shard_of(step.space, &step.key, self.shards);
                    self.snapshots.writes.entry(shard).or_default().insert(answer.version, wrote);
                }
            }
            action if action.is_on_space() || matches!(action, Action::WritePages { .. }) => {
                let Some(shard) = action.shard(self.shards) else { return };
                self.snapshots.writes.entry(shard).or_default().insert(answer.version, wrote);
            }
            _ => {}
        }
    }

    /// A request about a snapshot was answered.
    pub(super) fn snapshot_answer(&mut self, pending: &Pending, answer: &Answer, reply: &[u8]) -> Verdict {
        if let (Action::Snapshot, Status::Ok) = (&*pending.action, answer.status) {
            let reused = self.snapshots.taken.iter().any(|taken| taken.id == answer.version);
            ensure!(!reused, "snapshot {} has the number of another", answer.version);
            self.snapshots.taken.push(Taken {
                id: answer.version,
                session: pending.session,
                asked: pending.moment,
                answered: self.snapshots.moment,
                lived_ms: self.times.judged(),
                reads: BTreeMap::new(),
                ends: BTreeMap::new(),
                over: false,
            });
            return Ok(());
        }
        match (answer.status, &*pending.action) {
            (Status::Ok | Status::NotFound | Status::ReplyTooSmall, action) => {
                self.snapshot_read(action, answer, reply)
            }
            (Status::Fenced | Status::Stopping | Status::TooManySnapshots, _) => Ok(()),
            (Status::Busy, Action::Snapshot) => {
                let (asked_ms, now_ms) = self.times.judged();
                ensure!(now_ms - asked_ms >= BARRIER_MS, "given up after {} ms", now_ms - asked_ms);
                Ok(())
            }
            (Status::Unreadable, _) if self.may_spoil => Ok(()),
            (Status::SnapshotGone, action) => {
                let named = action.snapshot();
                let open = self.snapshots.taken.iter().any(|taken| Some(taken.id) == named && !taken.over);
                ensure!(!open || self.snapshots.may_be_given_up, "an open snapshot is gone");
                Ok(())
            }
            (status, _) => Err(format!("unexpected status {status:?}")),
        }
    }

    fn snapshot_read(&mut self, action: &Action, answer: &Answer, reply: &[u8]) -> Verdict {
        let small = answer.status == Status::ReplyTooSmall;
        match action {
            Action::GetAt { snapshot, space, key, .. } => {
                let value = (!small).then_some(reply);
                let version = if answer.status == Status::NotFound { 0 } else { answer.version };
                self.snapshot_showed(*snapshot, space.id, key, version, value)?;
                if is_strict(*space, false) {
                    self.promise_version(space.id, key, version);
                }
                Ok(())
            }
            Action::ScanAt { snapshot, space, shard, prefix, limit, .. } if !small => {
                let known = self.known(*space).space.floors(|key| key.starts_with(prefix)).into_keys();
                let keys: Vec<Vec<u8>> = known.filter(|key| shard_of(*space, key, self.shards) == *shard).collect();
                let (mut shown, mut last) = (Vec::new(), None);
                for pair in pairs(reply) {
                    let (key, version, value) = pair.map_err(|error| error.to_string())?;
                    ensure!(last.as_deref() < Some(key), "keys out of order: {key:?} after {last:?}");
                    self.snapshot_showed(*snapshot, space.id, key, version, Some(value))
                        .map_err(|what| format!("key {key:?}: {what}"))?;
                    last = Some(key.to_vec());
                    shown.push(key.to_vec());
                }
                ensure!(*limit == 0 || shown.len() <= *limit as usize, "more pairs than the limit");
                let more = answer.aux & AUX_MORE != 0;
                for key in keys.iter().filter(|key| !shown.contains(key) && (!more || Some(*key) < last.as_ref())) {
                    self.snapshot_showed(*snapshot, space.id, key, 0, None)
                        .map_err(|what| format!("key {key:?}: {what}"))?;
                }
                Ok(())
            }
            Action::ReadPages { snapshot: Some(snapshot), space, numbers, relaxed } => {
                let found = pages(reply, numbers.len(), PAGE).map_err(|error| error.to_string())?;
                for (number, page) in numbers.iter().zip(found) {
                    let (key, version) = (number.to_be_bytes(), page.map_or(0, |(version, _)| version));
                    self.snapshot_showed(*snapshot, space.id, &key, version, page.map(|(_, bytes)| bytes))
                        .map_err(|what| format!("page {number}: {what}"))?;
                    if is_strict(*space, *relaxed) {
                        self.promise_version(space.id, &key, version);
                    }
                }
                Ok(())
            }
            Action::Extent { snapshot, stream } => {
                ensure!(answer.version <= answer.aux, "a stream ends before it begins");
                let taken = self.snapshots.taken.iter_mut().find(|taken| taken.id == *snapshot);
                let before = taken.and_then(|taken| taken.ends.insert(stream.id, answer.aux));
                ensure!(before.is_none_or(|before| before == answer.aux), "the snapshot had another end: {before:?}");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A snapshot showed a version of a key, with its value or without; 0: the key was absent.
    fn snapshot_showed(
        &mut self,
        id: u64,
        object: ObjectId,
        key: &[u8],
        version: u64,
        value: Option<&[u8]>,
    ) -> Verdict {
        if version != 0 {
            self.is_version(object, key, version, value)?;
        }
        let Some(taken) = self.snapshots.taken.iter_mut().find(|taken| taken.id == id) else { return Ok(()) };
        let before = taken.reads.insert((object, key.to_vec()), version);
        ensure!(before.is_none_or(|before| before == version), "the snapshot had shown version {before:?}");
        Ok(())
    }

    /// A life is over: each snapshot must have a place in it.
    pub fn check_snapshots(&self) -> Verdict {
        self.snapshots.taken.iter().try_for_each(|taken| {
            self.place(taken).map_err(|what| {
                format!(
                    "snapshot {} has no place in time: {what}; it showed {:?}, {:?}",
                    taken.id, taken.reads, taken.ends
                )
            })
        })
    }

    fn place(&self, taken: &Taken) -> Verdict {
        let mut low = BTreeMap::new();
        let mut before = taken.asked;
        loop {
            self.snapshots.raise(&mut low, before);
            let mut asked = before;
            for (shard, writes) in &self.snapshots.writes {
                let floor = low.get(shard).copied().unwrap_or(0);
                let place = self.place_in(taken, *shard, floor)?;
                low.insert(*shard, place);
                asked = writes.range(..=place).map(|(_, wrote)| wrote.asked).fold(asked, u64::max);
            }
            for (stream, end) in &taken.ends {
                let appends = self.snapshots.appends.get(stream).into_iter().flatten();
                for (next, (first, wrote)) in appends {
                    if next <= end {
                        ensure!(wrote.asked <= taken.answered, "event {first} of {stream} was appended after it");
                        asked = asked.max(wrote.asked);
                    } else {
                        ensure!(first >= end, "the append at {first} of {stream} is in it by half: {end}");
                        ensure!(wrote.acknowledged >= before, "event {first} of {stream} is missing");
                    }
                }
            }
            if asked == before {
                return Ok(());
            }
            before = asked;
        }
    }

    /// The lowest place in a shard, from `floor` on, that explains what was read there.
    fn place_in(&self, taken: &Taken, shard: ShardId, floor: u64) -> Verdict<u64> {
        let writes = &self.snapshots.writes[&shard];
        let later = |(_, wrote): &(&u64, &Wrote)| wrote.asked > taken.answered;
        let end = writes.iter().find(later).map_or(u64::MAX, |(version, _)| *version);
        let reads: Vec<_> =
            taken.reads.iter().filter(|((object, key), _)| self.shard_of(*object, key) == shard).collect();
        let shown = reads.iter().map(|(_, version)| **version);
        let mut places: Vec<u64> = writes.keys().copied().chain(shown).chain([floor]).collect();
        places.sort_unstable();
        let explains = |place: &u64| {
            let mut reads = reads.iter();
            reads.all(|((object, key), version)| self.holds_at(taken, (*object, key), *place, **version))
        };
        let mut possible = places.into_iter().filter(|place| (floor..end).contains(place));
        possible
            .find(explains)
            .ok_or_else(|| format!("shard {shard}: no version from {floor} on, and before {end}, does"))
    }

    /// Whether a key may have shown this version to who sees all up to `place`.
    fn holds_at(&self, taken: &Taken, (object, key): (ObjectId, &[u8]), place: u64, version: u64) -> bool {
        let Some(known) = self.objects.iter().find(|known| known.object.id == object) else { return true };
        let found = known.space.at(key, place, taken.lived_ms);
        // One that is in doubt may have been there, or have ended what was.
        let doubtful = version == 0 && self.may_be_deleted(object, key);
        found.contains(&version) || doubtful
    }
}
