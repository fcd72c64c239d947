//! What of the oldest segment still counts, and is said again before the segment is given up.

use crate::ring::protocol::commit::{What, entries};
use crate::ring::protocol::shard_of_key;
use crate::store::{Store, stream};
use crate::types::{Lsn, ObjectId};
use crate::wal::Link;
use crate::wal::planted::Planted;
use crate::wal::record::{Kind, Record};

/// A look at more streams takes a turn too long: then the segment is read.
const STREAMS_MAX: usize = 1 << 10;

impl Store {
    /// What of a record has to be said again, before its segment is given up: see `counts`. Of a commit the puts that
    /// keys still hold, as one record, which is put together in `room`. A copy of the others would bring back what was
    /// written over.
    #[must_use]
    pub fn kept<'a>(
        &self,
        record: Record<'a>,
        end_lsn: Lsn,
        room: &'a mut Vec<u8>,
        planted: Planted,
    ) -> Option<Record<'a>> {
        room.clear();
        if record.is_of_checkpoint() {
            // One whose beginning is given up is none.
            return None;
        }
        if record.kind == Kind::Decision {
            return self.kept_decision(record, end_lsn, room, planted);
        }
        if record.kind != Kind::Commit {
            if self.counts(&record, end_lsn) {
                return Some(record);
            }
            // Of an append whose events are gone, its producer's place.
            let producer = record.kind == Kind::AppendOnce && self.streams.remembers(&record, end_lsn);
            return producer.then_some(Record { value: &[], ..record });
        }
        for entry in entries(record.value) {
            let put = matches!(entry.what, What::Put(_));
            if put && self.holds(entry.object, entry.key, record.version, end_lsn) {
                entry.encode(|part| room.extend_from_slice(part));
            }
        }
        (!room.is_empty() || self.across.is_last_part(&record, end_lsn)).then_some(Record { value: room, ..record })
    }

    /// Whether a record of the log still says something: what replaces it, or makes up for it, must not stand in the
    /// same segment or before. Holds for the oldest segment only, whose records end before `end_lsn`. What recovery found
    /// a copy of behind it is said already: a daemon that is killed again and again comes further each time.
    fn counts(&self, record: &Record<'_>, end_lsn: Lsn) -> bool {
        match record.kind {
            Kind::Put | Kind::PutUntil => {
                self.holds(record.object, record.split_until().0.key, record.version, end_lsn)
            }
            // Some of its writes may; see `kept`.
            Kind::Commit | Kind::Decision => true,
            Kind::Append => self.streams.keeps(record.object, record.version, 1, end_lsn),
            Kind::AppendBatch | Kind::AppendOnce => {
                let events = stream::events(record.value).count() as u64;
                self.streams.keeps(record.object, record.version, events, end_lsn)
            }
            Kind::Cursor => self.streams.has_cursor(record, end_lsn),
            Kind::Trim => self.streams.begins_at(record.object, record.version, end_lsn),
            Kind::Retain | Kind::Mark => self.streams.says_retention(record, end_lsn),
            Kind::Create => true,
            // No put of the key stands before the oldest segment, and those in it do not count.
            Kind::Delete | Kind::Expire | Kind::Reclaim => false,
            Kind::Keys | Kind::Events | Kind::CheckpointBegin | Kind::CheckpointEnd => false,
        }
    }

    /// Whether nothing in the oldest segment counts, as far as that can be told without reading it back.
    #[must_use]
    pub fn is_spent(&self, link: &Link, end_lsn: Lsn, planted: Planted) -> bool {
        let lsns = link.first_lsn..end_lsn;
        let told = self.streams.objects() <= STREAMS_MAX;
        let says = |stream: &ObjectId| self.streams.says_of(*stream, &lsns) && !planted.is(Planted::SpendTrims);
        let streams = link.streams().filter(|_| told);
        streams.is_some_and(|streams| !streams.iter().any(says) && !self.streams.has_event(&lsns, planted))
    }

    /// Whether a put of this version is what a key holds, and the log says it before `end_lsn` only.
    fn holds(&self, object: ObjectId, key: &[u8], version: u64, end_lsn: Lsn) -> bool {
        self.spaces.holds(&self.heap, object, key, version).is_some_and(|lsn| lsn < end_lsn)
    }

    /// Whether a record has to stay where it is for now, because this shard has not carried out itself what it decided: the
    /// decision, for what it writes is not in the index yet; and what it writes over, for a copy would stand behind it.
    #[inline]
    #[must_use]
    pub fn stays(&self, record: &Record<'_>, end_lsn: Lsn, planted: Planted) -> bool {
        self.across.has_undone() && self.is_about_to_go(record, end_lsn, planted)
    }

    #[cold]
    fn is_about_to_go(&self, record: &Record<'_>, end_lsn: Lsn, planted: Planted) -> bool {
        let goes = |object, key: &[u8]| {
            let held = self.across.locks.of(self.spaces.hash(object, key));
            held.is_some_and(|held| held.writer) && self.holds(object, key, record.version, end_lsn)
        };
        match record.kind {
            Kind::Decision if self.across.is_undone(record.version) => true,
            _ if planted.is(Planted::CopyLocked) => false,
            Kind::Commit | Kind::Decision => entries(record.value).any(|entry| goes(entry.object, entry.key)),
            Kind::Put | Kind::PutUntil => goes(record.object, record.split_until().0.key),
            _ => false,
        }
    }

    /// What of a decision has to be said again: see `kept`. Until every part is durable also what lies in other shards.
    fn kept_decision<'a>(
        &self,
        record: Record<'a>,
        end_lsn: Lsn,
        room: &'a mut Vec<u8>,
        planted: Planted,
    ) -> Option<Record<'a>> {
        let resolved = self.across.is_resolved(record.version) || planted.is(Planted::ForgetDecision);
        for entry in entries(record.value) {
            let own = shard_of_key(entry.object.0, entry.key, self.shards) == self.shard;
            let put = matches!(entry.what, What::Put(_));
            if !own && !resolved || own && put && self.holds(entry.object, entry.key, record.version, end_lsn) {
                entry.encode(|part| room.extend_from_slice(part));
            }
        }
        let (kind, key) = if resolved { (Kind::Commit, &[][..]) } else { (Kind::Decision, record.key) };
        (!room.is_empty()).then_some(Record { kind, key, value: room, ..record })
    }
}
