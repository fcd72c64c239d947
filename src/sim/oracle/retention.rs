//! Retention: what is trimmed had to be, what had to be is trimmed, and what streams are to keep is not forgotten.

use std::collections::BTreeMap;

use crate::ring::client::{Answer, Object};
use crate::ring::protocol::{Status, shard_of_stream};
use crate::sim::action::Action;
use crate::sim::machine::{Found, FoundLog};
use crate::sim::oracle::meaning::StreamMeaning;
use crate::sim::oracle::{Known, Moment, Oracle, ShardLog, Verdict, ensure, is_strict};
use crate::types::ObjectId;
use crate::wal::record::Kind;

/// Bytes and ms; 0: no bound.
type Bounds = (u64, u64);

/// What an event counts beside its bytes, and how exact both bounds are: as README.md and docs/ring.md promise.
const EVENT_BYTES: u64 = 32;
const PARTS: u64 = 64;
/// A reactor looks once a millisecond, and so does whoever lets the simulated time go on.
const SLACK_MS: u64 = 4;

#[derive(Default)]
pub struct Retention {
    /// By LSN.
    sets: BTreeMap<u64, Bounds>,
    /// The last one that somebody was told of.
    pub floor: u64,
    /// The record that a start found, which may be a copy of an older one.
    recovered: u64,
    /// When they were last set in this life.
    set: Moment,
}

impl Retention {
    pub fn recovered((lsn, bounds): (u64, Bounds)) -> Retention {
        Retention { sets: BTreeMap::from([(lsn, bounds)]), floor: lsn, recovered: lsn, set: Moment::default() }
    }

    fn last(&self) -> Bounds {
        self.sets.last_key_value().map_or((0, 0), |(_, bounds)| *bounds)
    }
}

impl StreamMeaning {
    /// The last bounds stand in the log.
    pub fn is_bounded_as(&self, said: &StreamMeaning, id: ObjectId, possible: &[&Action]) -> Verdict {
        let (found, said) = (self.bounds.1, said.bounds.1);
        let own = |action: &&&Action| action.object().is_some_and(|own| own.id == id);
        let lifted = possible.iter().filter(own).any(|action| action.bounds() == Some((0, 0)));
        ensure!(found == said || found == (0, 0) && lifted, "it is kept by {said:?}; recovered: {found:?}");
        Ok(())
    }
}

impl Oracle {
    fn may_be_bound(&self, id: ObjectId, bounds: Bounds) -> bool {
        self.possible_bounds(id).any(|own| own == bounds)
    }

    fn possible_bounds(&self, id: ObjectId) -> impl Iterator<Item = Bounds> {
        let own = move |action: &Action| action.object().is_some_and(|own| own.id == id);
        self.possible().filter(move |action| own(action)).filter_map(|action| action.bounds())
    }

    /// The bounds of a stream were set.
    pub(super) fn retention_written(&mut self, action: &Action, answer: &Answer) -> Verdict {
        let (Some(object), Some(bounds)) = (action.object(), action.bounds()) else { return Ok(()) };
        ensure!(answer.lsn != 0 && (answer.version, answer.aux) == bounds, "other bounds were set");
        let now = self.times.now();
        let retention = &mut self.known(object).stream.retention;
        retention.set = now;
        let seen = retention.sets.insert(answer.lsn, bounds);
        ensure!(seen.is_none_or(|seen| seen == bounds), "they were seen as {seen:?}");
        if answer.status == Status::Ok {
            retention.floor = retention.floor.max(answer.lsn);
        }
        Ok(())
    }

    /// The bounds of a stream were told, or not set.
    pub(super) fn retention_answer(&mut self, action: &Action, floor: u64, answer: &Answer) -> Verdict {
        let (Some(object), Status::Ok) = (action.object(), answer.status) else {
            let refused =
                matches!(answer.status, Status::NoSpace | Status::NoMemory | Status::Fenced | Status::Stopping);
            ensure!(refused, "unexpected status {:?}", answer.status);
            return Ok(());
        };
        let told = (answer.version, answer.aux);
        let may_be = self.may_be_bound(object.id, told);
        let retention = &mut self.known(object).stream.retention;
        // The log says it in a copy, and a checkpoint what it was before.
        let is_copy = answer.lsn < floor && floor == retention.recovered && retention.sets.get(&floor) == Some(&told);
        let lsn = if is_copy { floor } else { answer.lsn };
        ensure!(lsn >= floor, "old bounds were told: LSN {floor} had been acknowledged");
        let known = retention.sets.get(&lsn).copied().or((lsn == 0).then_some((0, 0)));
        ensure!(known.map_or(may_be, |known| known == told), "nobody set these bounds; known: {known:?}");
        retention.sets.insert(lsn, told);
        retention.floor = retention.floor.max(lsn);
        if let (Some(shard), true) = (action.shard(self.shards), is_strict(object, false)) {
            self.promise_durable(shard, lsn);
        }
        Ok(())
    }

    /// Whether retention may have trimmed up to `before`, when the stream ended at `next` or before.
    pub(super) fn may_be_retired(&self, object: Object, before: u64, next: u64) -> Verdict {
        let known = self.objects.iter().find(|known| known.object.id == object.id);
        let Some(Known { stream, appended, .. }) = known else { return Ok(()) };
        let sizes: BTreeMap<u64, u64> = stream.events.iter().map(|(at, event)| (*at, event.len() as u64)).collect();
        let age_max_ms = before.checked_sub(1).and_then(|last| appended.get(&last));
        let age_max_ms = age_max_ms.map_or(u64::MAX, |asked| self.times.age_max_ms(*asked));
        let possible: Vec<Bounds> =
            stream.retention.sets.values().copied().chain(self.possible_bounds(object.id)).collect();
        // Who is told now may be told of events whose writers wait.
        let told = sizes.last_key_value().map_or(0, |(last, _)| last + 1);
        let under_way = if next > told { self.bytes_under_way(object) } else { 0 };
        let kept = kept_bytes(&sizes, before, next).saturating_add(under_way);
        let over = |age_ms: u64| age_ms > 0 && age_max_ms >= age_ms;
        let beyond = |bytes: u64| bytes > 0 && kept > bytes - bytes / PARTS;
        let fits = |(bytes, age_ms): &Bounds| over(*age_ms) || beyond(*bytes);
        let retired = possible.iter().any(fits);
        ensure!(
            retired,
            "nobody trimmed up to {before}, and none of {possible:?} asks for it: the last was {age_max_ms} ms old at most, and {kept} B were kept with it"
        );
        Ok(())
    }

    /// Of events whose writers were not answered.
    fn bytes_under_way(&self, object: Object) -> u64 {
        let own = |action: &&std::rc::Rc<Action>| action.object() == Some(object);
        let events = self.possible().filter(own).flat_map(|action| match &**action {
            Action::Append { events, .. } => events.as_slice(),
            _ => &[],
        });
        events.map(|event| event.len() as u64 + EVENT_BYTES).sum()
    }

    /// Nothing is retired whose writer is not told of it: all answers of a turn are there when any is looked at.
    pub(super) fn was_told(&self, object: Object, before: u64) -> Verdict {
        let doubtful = self.doubtful.iter().any(|action| action.object() == Some(object));
        let known = self.objects.iter().find(|known| known.object.id == object.id);
        let untold = known.is_some_and(|known| known.stream.next.max(known.stream.answered_next) < before);
        ensure!(doubtful || !untold, "events below {before} are trimmed, and their writers were not told of them");
        Ok(())
    }

    /// Whether a record of the log is a trim that retention made.
    pub(super) fn was_retired(&self, log: &ShardLog, found: &FoundLog, record: &Found) -> Verdict<bool> {
        let known = self.objects.iter().find(|known| known.object.id == record.object);
        let (Some(known), Kind::Trim) = (known, record.kind) else { return Ok(false) };
        // It ended where the next event that the log has was appended, or before: events of memory alone may have been between.
        let (shard, entries) = (shard_of_stream(record.object.0, self.shards), log.entries.range(record.lsn.0..));
        let logged: Vec<Found> = entries.filter_map(|(lsn, own)| own.record(*lsn, shard, self.shards)).collect();
        let after = log.base.range(record.lsn.0..).map(|(_, own)| own).chain(&logged).chain(&found.records);
        let appended = |own: &&Found| {
            let later = own.object == record.object && own.lsn > record.lsn && !own.copy;
            later && own.kind != Kind::Trim && own.events_end() > own.version
        };
        let next = after.filter(appended).map(|own| own.version).min().unwrap_or(u64::MAX);
        self.may_be_retired(known.object, record.version, next).map(|()| true)
    }

    /// The streams whose bounds are known, in shards for which `calm` holds.
    pub fn bounded(&self, calm: impl Fn(u32) -> bool) -> Vec<Object> {
        let bounded = self.objects.iter().filter(|known| {
            let certain = self.possible_bounds(known.object.id).next().is_none();
            certain && known.stream.retention.last() != (0, 0)
        });
        let objects = bounded.map(|known| known.object);
        objects.filter(|object| calm(shard_of_stream(object.id.0, self.shards).0)).collect()
    }

    /// A stream that was left alone for a while, and whose first event was just asked for, keeps no more than it is to.
    pub fn keeps_no_more(&self, object: Object) -> Verdict {
        let known = self.objects.iter().find(|known| known.object.id == object.id);
        let Some(Known { stream, name, .. }) = known else { return Ok(()) };
        let (bytes, age_ms) = stream.retention.last();
        let first = stream.told_first.max(stream.first);
        let kept: u64 = stream.events.range(first..).map(|(_, event)| event.len() as u64 + EVENT_BYTES).sum();
        let alone = stream.events.range(first..).count() < 2;
        ensure!(bytes == 0 || alone || kept <= bytes, "{name} keeps {kept} B from {first}, and may keep {bytes} B");
        // What was there before the bounds were set counts from then on.
        let age = |since: Moment| self.times.age_ms(since).unwrap_or(0);
        let age_now_ms = stream.answered.get(&first).map_or(0, |since| age(*since).min(age(stream.retention.set)));
        let over = age_ms > 0 && age_now_ms > age_ms + age_ms / PARTS + SLACK_MS;
        ensure!(!over, "{name} keeps event {first}, which is {age_now_ms} ms old, and may keep it for {age_ms} ms");
        Ok(())
    }
}

/// What a stream kept when it ended at `next`, had the event before `before` not been trimmed. An event of which nothing is
/// known is large.
fn kept_bytes(sizes: &BTreeMap<u64, u64>, before: u64, next: u64) -> u64 {
    let first = before.saturating_sub(1);
    let known = sizes.range(first..next.max(first)).count() as u64;
    let end = sizes.last_key_value().map_or(0, |(last, _)| last + 1).min(next);
    if known < end.max(before).saturating_sub(first) {
        return u64::MAX;
    }
    sizes.range(first..next.max(first)).map(|(_, bytes)| bytes + EVENT_BYTES).sum()
}
