//! What a set of records means, whatever their order in the log: reclaim drops what is dead and copies the rest.

use std::collections::BTreeMap;

use crate::sim::action::Action;
use crate::sim::machine::Found;
use crate::sim::oracle::recovered::batch;
use crate::sim::oracle::{Verdict, ensure};
use crate::types::ObjectId;
use crate::wal::record::Kind;

/// A version, and the value that it holds or `None` where it is a delete.
type Held = (u64, Option<Vec<u8>>);

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
                if replaces(held.0, version) {
                    *held = (version, value.map(<[u8]>::to_vec));
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
                Kind::Trim => {
                    let stream = meaning.streams.entry(record.object).or_default();
                    stream.trimmed = stream.trimmed.max(version);
                }
                Kind::Put | Kind::Delete | Kind::Commit | Kind::Create | Kind::Reclaim => {}
                // They say what others say.
                Kind::Keys | Kind::Events | Kind::CheckpointBegin | Kind::CheckpointEnd => {}
            }
        }
        meaning
    }

    /// Holds what was found against all that was ever said. `possible`: writes that may have happened, and whose
    /// records may be gone again.
    pub fn is_all_of(&self, said: &Meaning, possible: &[&Action]) -> Verdict {
        for ((object, key), held) in &said.keys {
            let found = self.keys.get(&(*object, key.clone()));
            let absent = |held: Option<&Held>| held.is_none_or(|(_, value)| value.is_none());
            let deletes = (*object, key.as_slice(), None);
            let deleted = possible.iter().any(|action| action.key_writes().contains(&deletes));
            let same = found == Some(held) || absent(found) && (absent(Some(held)) || deleted);
            ensure!(same, "key {key:?} of {object} held version {}; recovered: {found:?}", held.0);
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
            found.remembers(stream).map_err(|what| format!("{object}: {what}"))?;
            let ends = (found.next(), stream.next());
            ensure!(ends.0 == ends.1, "{object} ended at {}; recovered: {}", ends.1, ends.0);
        }
        Ok(())
    }
}
