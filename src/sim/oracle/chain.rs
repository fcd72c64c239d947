//! Chained streams: the events in a reply or a log lead from each stated head to the next, and a head never changes.

use std::collections::BTreeMap;

use crate::ring::client::{ChainCheck, Head, Object, chain_events};
use crate::ring::protocol::HEAD_BYTES;
use crate::sim::client::is_chained;
use crate::sim::machine::FoundLog;
use crate::sim::oracle::recovered::batch;
use crate::sim::oracle::stream::Stream;
use crate::sim::oracle::{Oracle, Verdict, ensure};
use crate::wal::record::{Kind, Record};

/// The events of a reply, each with its offset.
pub type Shown = Vec<(u64, Vec<u8>)>;

impl Stream {
    /// Proves the reply of a chained read. Gives its events.
    pub fn proven(&mut self, from: u64, reply: &[u8]) -> Verdict<Shown> {
        ChainCheck::new().take(from, reply).map_err(|error| error.to_string())?;
        let (before, rest) = reply.split_at(HEAD_BYTES);
        let mut shown = Vec::new();
        self.states(from, before)?;
        for event in chain_events(rest) {
            let (offset, head, event) = event.map_err(|error| error.to_string())?;
            self.states(offset + 1, head)?;
            shown.push((offset, event.to_vec()));
        }
        Ok(shown)
    }

    fn states(&mut self, offset: u64, head: &[u8]) -> Verdict {
        let head: Head = head.try_into().map_err(|_| "a head is too short".to_owned())?;
        let known = *self.heads.entry(offset).or_insert(head);
        ensure!(known == head, "another head is stated before offset {offset}");
        Ok(())
    }
}

impl FoundLog {
    /// What the records of chained streams state about heads fits together and to the events.
    pub fn holds_chains(&self) -> Verdict {
        let mut heads = BTreeMap::new();
        for found in &self.records {
            let (kind, flags, lsn, object, version) = (found.kind, 0, found.lsn, found.object, found.version);
            let record = Record { kind, flags, lsn, object, version, key: &found.key, value: &found.value };
            let mut state = |offset: u64, head: Head| {
                let known = *heads.entry((object, offset)).or_insert(head);
                ensure!(known == head, "{found:?} states another head before offset {offset}");
                Ok(())
            };
            if let (Kind::Trim, Ok(head)) = (kind, <Head>::try_from(found.value.as_slice())) {
                state(version, head)?;
            }
            let Some((before, after)) = record.links().filter(|_| kind == Kind::Append || !found.value.is_empty())
            else {
                continue;
            };
            state(version, *before)?;
            let events = if kind == Kind::Append { vec![found.value.as_slice()] } else { batch(&found.value) };
            let (mut head, mut end) = (*before, version);
            for event in events {
                head = *blake3::hash(&[&head[..], &end.to_le_bytes(), event].concat()).as_bytes();
                end += 1;
            }
            ensure!(head == *after, "{found:?} does not lead to the head that it states");
            state(end, head)?;
        }
        Ok(())
    }
}

impl Oracle {
    pub fn is_chained(&self, stream: Object) -> bool {
        self.objects.iter().any(|known| known.object == stream && is_chained(&known.name))
    }
}
