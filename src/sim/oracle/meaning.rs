//! What a set of records means, whatever their order in the log: reclaim drops what is dead and copies the rest.

use std::collections::BTreeMap;

use crate::bytes::get_u64;
use crate::sim::action::Action;
use crate::sim::machine::Found;
use crate::sim::oracle::recovered::batch;
use crate::sim::oracle::{Verdict, ensure};
use crate::types::ObjectId;
use crate::wal::record::Kind;

/// What a key holds.
#[derive(Clone, Debug, Default)]
struct Held {
    version: u64,
    /// `None`: it is deleted.
    value: Option<Vec<u8>>,
    /// It is gone then, or later.
    until_ms: Option<u64>,
}

#[derive(Default)]
pub struct Meaning {
    keys: BTreeMap<(ObjectId, Vec<u8>), Held>,
    pub streams: BTreeMap<ObjectId, StreamMeaning>,
}

#[derive(Default)]
pub struct StreamMeaning {
    /// Every event that stands in a record.
    pub events: BTreeMap<u64, Vec<u8>>,
    /// The highest trim.
    pub trimmed: u64,
    /// By producer and sequence number, the offsets.
    pub producers: BTreeMap<u64, BTreeMap<u64, u64>>,
    /// By name, the LSN of the last record and the offset that it says.
    pub cursors: BTreeMap<Vec<u8>, (u64, u64)>,
    /// The LSN of the last record, and the bounds that it says.
    pub bounds: (u64, (u64, u64)),
}

impl StreamMeaning {
    /// The offset after the last event there ever was.
    pub fn next(&self) -> u64 {
        self.events.last_key_value().map_or(0, |(offset, _)| offset + 1).max(self.trimmed)
    }

    fn kept(&self) -> impl Iterator<Item = (&u64, &Vec<u8>)> {
        self.events.range(self.trimmed..)
    }
}

impl Meaning {
    /// What a store makes of records in the order of the log: the last one of a key holds.
    pub fn in_order<'a>(records: impl Iterator<Item = &'a Found>) -> Meaning {
        Meaning::of(records, |_, _| true)
    }

    /// What was ever said: the highest version of a key holds.
    pub fn highest<'a>(records: impl Iterator<Item = &'a Found>) -> Meaning {
        Meaning::of(records, |before, version| before <= version)
    }

    fn of<'a>(records: impl Iterator<Item = &'a Found>, replaces: impl Fn(u64, u64) -> bool) -> Meaning {
        let mut meaning = Meaning::default();
        for record in records {
            let version = record.version;
            for (object, key, value) in record.key_writes() {
                let held = meaning.keys.entry((object, key.to_vec())).or_default();
                if replaces(held.version, version) {
                    *held = Held { version, value: value.map(<[u8]>::to_vec), until_ms: record.until_ms() };
                }
            }
            match record.kind {
                Kind::Append => {
                    meaning.streams.entry(record.object).or_default().events.insert(version, record.value.clone());
                }
                Kind::AppendBatch | Kind::AppendOnce => {
                    let events = batch(&record.value);
                    let numbered = (version..).zip(events).map(|(offset, event)| (offset, event.to_vec()));
                    let stream = meaning.streams.entry(record.object).or_default();
                    stream.events.extend(numbered);
                    if let Some(once) = record.once() {
                        stream.producers.entry(once.producer).or_default().insert(once.sequence, version);
                    }
                }
                Kind::Cursor => {
                    let stream = meaning.streams.entry(record.object).or_default();
                    let held = stream.cursors.entry(record.key.clone()).or_default();
                    *held = (*held).max((record.lsn.0, version));
                }
                Kind::Retain => {
                    let stream = meaning.streams.entry(record.object).or_default();
                    stream.bounds = stream.bounds.max((record.lsn.0, (version, get_u64(&record.key, 0))));
                }
                Kind::Trim => {
                    let stream = meaning.streams.entry(record.object).or_default();
                    stream.trimmed = stream.trimmed.max(version);
                }
                Kind::Expire => {
                    let held = meaning.keys.get_mut(&(record.object, record.key.clone()));
                    if let Some(held) = held.filter(|held| held.version == version) {
                        held.value = None;
                    }
                }
                Kind::Put
                | Kind::PutUntil
                | Kind::Delete
                | Kind::Commit
                | Kind::Decision
                | Kind::Create
                | Kind::Mark
                | Kind::Reclaim => {}
                // They say what others say.
                Kind::Keys | Kind::Events | Kind::CheckpointBegin | Kind::CheckpointEnd => {}
            }
        }
        meaning
    }

    /// Holds what was found against all that was ever said. `possible`: writes that may have happened, and whose
    /// records may be gone again. `now_ms`: what keys with a time to live went by when it ended.
    pub fn is_all_of(&self, said: &Meaning, possible: &[&Action], now_ms: u64) -> Verdict {
        for ((object, key), held) in &said.keys {
            let found = self.keys.get(&(*object, key.clone()));
            let absent = |held: Option<&Held>| held.is_none_or(|held| held.value.is_none());
            let deletes = (*object, key.as_slice(), None);
            let own =
                |action: &&&Action| action.object().is_some_and(|own| own.id == *object) && action.key() == Some(key);
            let ends = possible.iter().filter(own).any(|action| action.ttl_ms().is_some());
            let deleted = ends || possible.iter().any(|action| action.key_writes().contains(&deletes));
            let over = held.until_ms.is_some_and(|until_ms| until_ms <= now_ms);
            let there = found.is_some_and(|found| (found.version, &found.value) == (held.version, &held.value));
            let same = there || absent(found) && (absent(Some(held)) || deleted || over);
            ensure!(same, "key {key:?} of {object} held version {}; recovered: {found:?}", held.version);
        }
        for (object, stream) in &said.streams {
            let trimmed = possible.iter().filter_map(|action| match action {
                Action::Trim { stream, before } if stream.id == *object => Some(*before),
                _ => None,
            });
            let trimmed = trimmed.max().unwrap_or(0);
            let none = StreamMeaning::default();
            let found = self.streams.get(object).unwrap_or(&none);
            for (offset, event) in stream.kept().filter(|(offset, _)| **offset >= trimmed) {
                let same = found.events.get(offset) == Some(event);
                ensure!(same, "event {offset} of {object} is gone; trimmed before {}", stream.trimmed);
            }
            found.keeps_cursors(stream, *object, possible).map_err(|what| format!("{object}: {what}"))?;
            found.is_bounded_as(stream, *object, possible).map_err(|what| format!("{object}: {what}"))?;
            found.remembers(stream).map_err(|what| format!("{object}: {what}"))?;
            let ends = (found.next(), stream.next());
            ensure!(ends.0 == ends.1, "{object} ended at {}; recovered: {}", ends.1, ends.0);
        }
        Ok(())
    }
}
