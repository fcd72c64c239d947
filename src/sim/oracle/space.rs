//! Linearizability of each key: one reactor's order, seen through versions that only rise.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::ring::client::{Answer, pairs};
use crate::ring::protocol::{AUX_MORE, Status};
use crate::sim::action::{Action, KeyWrite};
use crate::sim::oracle::{Moment, Oracle, Verdict, ensure, is_strict};
use crate::types::{ObjectId, ShardId};

/// One write of a key.
struct Event {
    /// `None`: a delete.
    value: Option<Vec<u8>>,
    if_version: Option<u64>,
    /// When it took place: not before, and not after.
    at: (u64, u64),
    /// When its key is gone, if it has a time to live: not before, and not after.
    until: Option<(u64, u64)>,
}

impl Event {
    /// What somebody finds of it who comes at this time. `None`: it may be over, or not.
    fn present(&self, version: u64, at: (u64, u64)) -> Option<u64> {
        match (&self.value, self.until) {
            (None, _) => Some(0),
            (_, Some((_, until))) if until <= at.0 => Some(0),
            (_, Some((until, _))) if until <= at.1 => None,
            _ => Some(version),
        }
    }

    fn may_be_over(&self, now_ms: u64) -> bool {
        self.until.is_some_and(|(until, _)| until <= now_ms)
    }
}

/// What a write may delete.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Deletes {
    /// A key that was there.
    Present,
    Any,
}

#[derive(Default)]
struct Key {
    events: BTreeMap<u64, Event>,
    /// The highest version that somebody was told of.
    floor: u64,
}

#[derive(Default)]
pub struct Space {
    keys: BTreeMap<Vec<u8>, Key>,
}

impl Space {
    pub fn floor(&self, key: &[u8]) -> u64 {
        self.keys.get(key).map_or(0, |key| key.floor)
    }

    pub fn floors(&self, own: impl Fn(&[u8]) -> bool) -> BTreeMap<Vec<u8>, u64> {
        let own = self.keys.iter().filter(|(key, _)| own(key));
        own.map(|(key, state)| (key.clone(), state.floor)).collect()
    }

    /// The version of a key as far as clients know; 0: absent.
    pub fn present(&self, key: &[u8], now: Moment) -> u64 {
        let state = self.keys.get(key);
        let event = state.and_then(|key| Some((key.floor, key.events.get(&key.floor)?)));
        event.and_then(|(floor, event)| event.present(floor, (now.lived_ms, now.lived_ms))).unwrap_or(0)
    }

    /// What somebody may find of a key who sees all writes up to a version, and comes at this time.
    pub fn at(&self, key: &[u8], version: u64, at: (u64, u64)) -> Vec<u64> {
        let events = self.keys.get(key).map(|state| &state.events);
        let last = events.and_then(|events| events.range(..=version).next_back());
        last.map_or(vec![0], |(version, event)| match event.present(*version, at) {
            Some(present) => vec![present],
            None => vec![0, *version],
        })
    }

    /// A write of the recovered log, in its order.
    pub fn replay(&mut self, key: &[u8], version: u64, value: Option<&[u8]>, until_ms: Option<u64>) {
        let state = self.keys.entry(key.to_vec()).or_default();
        state.events.clear();
        let (value, until) = (value.map(<[u8]>::to_vec), until_ms.map(|ms| (ms, ms)));
        state.events.insert(version, Event { value, if_version: None, at: (0, 0), until });
        state.floor = version;
    }

    /// The recovered log says that the time of this version was over.
    pub fn replay_over(&mut self, key: &[u8], version: u64) {
        if let Some(event) = self.keys.get_mut(key).and_then(|state| state.events.get_mut(&version)) {
            event.value = None;
        }
    }
}

impl Oracle {
    /// Whether some write of this key has no answer, so that its version is unknown.
    fn unresolved(&self, object: ObjectId, key: &[u8]) -> bool {
        self.may_write(object, key, |_| true)
    }

    /// Whether somebody may have written this to a key without having been told.
    fn may_write(&self, object: ObjectId, key: &[u8], fits: impl Fn(Option<&[u8]>) -> bool) -> bool {
        self.possible().any(|action| {
            let mut writes = action.key_writes().into_iter();
            writes.any(|(own, name, value)| own == object && name == key && fits(value))
        })
    }

    pub(super) fn may_be_deleted(&self, object: ObjectId, key: &[u8]) -> bool {
        let ends = |action: &Rc<Action>| {
            let own = action.object().map(|own| own.id) == Some(object) && action.key() == Some(key);
            own && action.ttl_ms().is_some()
        };
        self.may_write(object, key, |value| value.is_none()) || self.possible().any(ends)
    }

    pub(super) fn may_be_put(&self, object: ObjectId, key: &[u8], value: Option<&[u8]>) -> bool {
        self.may_write(object, key, |bytes| bytes.is_some_and(|bytes| value.is_none_or(|value| value == bytes)))
    }

    /// A put or delete was done, and has a version.
    pub(super) fn key_written(&mut self, action: &Rc<Action>, floor: u64, answer: &Answer) -> Verdict {
        let if_version = action.how().if_version;
        for (object, key, value) in action.key_writes() {
            let deletes = if value.is_none() { Deletes::Present } else { Deletes::Any };
            let ttl_ms = action.ttl_ms();
            self.one_written((object, key, value), (if_version, deletes, ttl_ms), floor, answer)?;
        }
        self.graph.note(action, answer.version);
        Ok(())
    }

    /// A key was written: `condition` says of what it was before.
    pub(super) fn one_written(
        &mut self,
        (object, key, value): KeyWrite<'_>,
        (if_version, deletes, ttl_ms): (Option<u64>, Deletes, Option<u64>),
        floor: u64,
        answer: &Answer,
    ) -> Verdict {
        let version = answer.version;
        let shard = self.shard_of(object, key);
        ensure!(version > floor, "the version did not rise from {floor}");
        self.version_is_new(shard, version)?;
        let unresolved = self.unresolved(object, key);
        let at = self.times.judged();
        let state = self.key_state(object, key);
        let value = value.map(<[u8]>::to_vec);
        if let Some(seen) = state.events.get(&version) {
            ensure!(seen.value == value, "another write of this version was seen before");
        }
        let event = Event { value, if_version, at, until: ttl_ms.map(|ttl_ms| (at.0 + ttl_ms, at.1 + ttl_ms)) };
        let before = state.events.range(..version).next_back();
        let before = before.map_or(Some(0), |(version, event)| event.present(*version, at));
        if let Some(before) = before.filter(|_| !unresolved) {
            ensure!(deletes == Deletes::Any || before != 0, "a key that was absent was deleted");
            ensure!(event.if_version.is_none_or(|expected| expected == before), "the version before was {before}");
        }
        if !unresolved
            && let Some((after, next)) = state.events.range(version + 1..).next()
            && let Some(present) = event.present(version, next.at)
        {
            ensure!(
                next.if_version.is_none_or(|expected| expected == present),
                "version {after} was written on condition of another version than {present}"
            );
        }
        state.events.insert(version, event);
        if answer.status == Status::Ok {
            state.floor = state.floor.max(version);
        }
        Ok(())
    }

    /// A get was answered, or a write that did not take place.
    pub(super) fn key_answer(&mut self, action: &Action, floor: u64, answer: &Answer, reply: &[u8]) -> Verdict {
        let (Some(object), Some(key)) = (action.object(), action.key()) else { return Ok(()) };
        let relaxed = matches!(action, Action::Get { relaxed: true, .. });
        let strict = is_strict(object, relaxed);
        match (answer.status, action) {
            (Status::Ok, _) => self.showed(object.id, key, floor, answer.version, Some(reply), strict),
            (Status::ReplyTooSmall, _) => self.showed(object.id, key, floor, answer.version, None, strict),
            (Status::NotFound, _) => self.showed_absent(object.id, key, floor, strict),
            (Status::VersionMismatch, _) => {
                let expected = action.how().if_version;
                ensure!(expected.is_some_and(|expected| expected != answer.version), "the version is the expected one");
                match answer.version {
                    0 => self.showed_absent(object.id, key, floor, strict),
                    version => self.showed(object.id, key, floor, version, None, strict),
                }
            }
            (Status::NoSpace | Status::NoMemory | Status::Fenced | Status::Stopping, _) => Ok(()),
            (Status::Unreadable, Action::Get { .. }) if self.may_spoil => Ok(()),
            (status, _) => Err(format!("unexpected status {status:?}")),
        }
    }

    /// Somebody saw a version of a key, with its value or without.
    pub(super) fn showed(
        &mut self,
        id: ObjectId,
        key: &[u8],
        floor: u64,
        version: u64,
        value: Option<&[u8]>,
        strict: bool,
    ) -> Verdict {
        ensure!(version >= floor, "an old version was shown: {floor} had been acknowledged");
        let may_be_put = self.may_be_put(id, key, value);
        let at = self.times.judged();
        let state = self.key_state(id, key);
        match (state.events.get(&version), value) {
            (Some(event), value) => {
                ensure!(event.value.is_some(), "a deleted version was shown");
                ensure!(event.present(version, at) != Some(0), "a version was shown whose time was over");
                ensure!(value.is_none_or(|value| event.value.as_deref() == Some(value)), "another value was shown");
                state.floor = state.floor.max(version);
            }
            (None, Some(value)) => {
                ensure!(may_be_put, "nobody wrote what was shown");
                state.events.insert(
                    version,
                    Event { value: Some(value.to_vec()), if_version: None, at: (0, at.1), until: None },
                );
                state.floor = state.floor.max(version);
            }
            (None, None) => ensure!(may_be_put, "nobody wrote the version that was shown"),
        }
        if strict {
            self.promise_version(id, key, version);
        }
        Ok(())
    }

    /// Somebody saw a version of a key, whenever it was: it must be one, and its value.
    pub(super) fn is_version(&mut self, id: ObjectId, key: &[u8], version: u64, value: Option<&[u8]>) -> Verdict {
        let may_be_put = self.may_be_put(id, key, value);
        let until = self.times.now().lived_ms;
        let state = self.key_state(id, key);
        match (state.events.get(&version), value) {
            (Some(event), value) => {
                ensure!(event.value.is_some(), "a deleted version was shown");
                ensure!(value.is_none_or(|value| event.value.as_deref() == Some(value)), "another value was shown");
            }
            (None, value) => {
                ensure!(may_be_put, "nobody wrote the version that was shown");
                if let Some(value) = value {
                    let (value, at) = (Some(value.to_vec()), (0, until));
                    state.events.insert(version, Event { value, if_version: None, at, until: None });
                }
            }
        }
        Ok(())
    }

    pub(super) fn showed_absent(&mut self, id: ObjectId, key: &[u8], floor: u64, strict: bool) -> Verdict {
        let may_be_deleted = self.may_be_deleted(id, key);
        let now_ms = self.times.now().lived_ms;
        let state = self.key_state(id, key);
        let is_delete = |version: &u64| state.events.get(version).is_some_and(|event| event.value.is_none());
        let deleted_later = state.events.range(floor + 1..).any(|(_, event)| event.value.is_none());
        let over = |version: &u64| state.events.get(version).is_some_and(|event| event.may_be_over(now_ms));
        let over_later = state.events.range(floor + 1..).any(|(_, event)| event.may_be_over(now_ms));
        let deleted = floor == 0 || is_delete(&floor) || over(&floor);
        ensure!(deleted || deleted_later || over_later || may_be_deleted, "the key is gone, and nobody deleted it");
        let shown = state.floor;
        if strict && shown != 0 && shown == floor && deleted {
            self.promise_version(id, key, shown);
        }
        Ok(())
    }

    /// A commit took place that had read this version.
    pub(super) fn still_held(&mut self, id: ObjectId, key: &[u8], version: u64) -> Verdict {
        let at = self.times.judged();
        let event = self.key_state(id, key).events.get(&version);
        let held = event.is_none_or(|event| event.present(version, at) != Some(0));
        ensure!(held, "a commit was based on a version whose time was over");
        Ok(())
    }

    fn key_state(&mut self, id: ObjectId, key: &[u8]) -> &mut Key {
        let known = self.objects.iter_mut().find(|known| known.object.id == id).expect("clients use what was opened");
        known.space.keys.entry(key.to_vec()).or_default()
    }

    pub(super) fn scan_answer(
        &mut self,
        action: &Rc<Action>,
        floors: &BTreeMap<Vec<u8>, u64>,
        answer: &Answer,
        reply: &[u8],
    ) -> Verdict {
        let Action::Scan { space, shard, prefix, limit, relaxed, .. } = &**action else { return Ok(()) };
        match answer.status {
            Status::Ok => {}
            Status::ReplyTooSmall | Status::Fenced | Status::Stopping => return Ok(()),
            Status::Unreadable if self.may_spoil => return Ok(()),
            status => return Err(format!("unexpected status {status:?}")),
        }
        let strict = is_strict(*space, *relaxed);
        let mut last: Option<Vec<u8>> = None;
        let mut count = 0;
        let mut seen = Vec::new();
        for pair in pairs(reply) {
            let (key, version, value) = pair.map_err(|error| error.to_string())?;
            ensure!(key.starts_with(prefix), "a pair outside of the prefix: {key:?}");
            ensure!(self.is_of_shard(space.id, key, *shard), "a pair of another shard: {key:?}");
            ensure!(last.as_deref().is_none_or(|last| last < key), "keys out of order: {key:?} after {last:?}");
            self.absent_between(space.id, floors, last.as_deref(), Some(key), strict)?;
            let floor = floors.get(key).copied().unwrap_or(0);
            self.showed(space.id, key, floor, version, Some(value), strict)
                .map_err(|what| format!("key {key:?}: {what}"))?;
            last = Some(key.to_vec());
            seen.push((space.id, key.to_vec(), version));
            count += 1;
        }
        self.graph.note_scan(action, seen);
        ensure!(*limit == 0 || count <= *limit, "{count} pairs are more than the limit");
        if answer.aux & AUX_MORE == 0 {
            self.absent_between(space.id, floors, last.as_deref(), None, strict)?;
        }
        Ok(())
    }

    fn is_of_shard(&self, id: ObjectId, key: &[u8], shard: ShardId) -> bool {
        self.shard_of(id, key) == shard
    }

    /// The keys that a scan passed over were absent.
    fn absent_between(
        &mut self,
        id: ObjectId,
        floors: &BTreeMap<Vec<u8>, u64>,
        after: Option<&[u8]>,
        before: Option<&[u8]>,
        strict: bool,
    ) -> Verdict {
        for (key, floor) in floors {
            let passed =
                after.is_none_or(|after| after < key.as_slice()) && before.is_none_or(|before| key.as_slice() < before);
            if passed {
                self.showed_absent(id, key, *floor, strict).map_err(|what| format!("key {key:?}: {what}"))?;
            }
        }
        Ok(())
    }
}
