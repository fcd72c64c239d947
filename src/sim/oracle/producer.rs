//! Producers: what one said under a sequence number stands in the stream once, and is answered with its one offset.

use std::collections::BTreeMap;
use std::rc::Rc;

use crate::bytes::get_u64;
use crate::ring::client::{Answer, Object, Once};
use crate::ring::protocol::PRODUCER_WINDOW;
use crate::sim::action::Action;
use crate::sim::machine::{Found, FoundLog};
use crate::sim::oracle::meaning::StreamMeaning;
use crate::sim::oracle::recovered::is_of;
use crate::sim::oracle::stream::Stream;
use crate::sim::oracle::{Oracle, Verdict, ensure};
use crate::types::{Lsn, ShardId};
use crate::wal::record::Kind;

const WINDOW: u64 = PRODUCER_WINDOW as u64;

impl Found {
    /// What makes it stand there once.
    pub fn once(&self) -> Option<Once> {
        let of_key = || Once { producer: get_u64(&self.key, 0), sequence: get_u64(&self.key, 8) };
        (self.kind == Kind::AppendOnce).then(of_key)
    }
}

impl FoundLog {
    /// No producer's number stands at two offsets.
    pub fn holds_once(&self) -> Verdict {
        let mut offsets = BTreeMap::new();
        for record in &self.records {
            if let Some(Once { producer, sequence }) = record.once() {
                let first = *offsets.entry((record.object, producer, sequence)).or_insert(record.version);
                ensure!(first == record.version, "{record:?} was appended twice, at {first} before");
            }
        }
        Ok(())
    }
}

impl Stream {
    /// The last sequence number of a producer that somebody was told of; 0: none.
    pub fn last_sequence(&self, producer: u64) -> u64 {
        let known = self.producers.get(&producer);
        known.and_then(|known| known.last_key_value()).map_or(0, |(sequence, _)| *sequence)
    }

    pub fn appended_once(&mut self, once: Once, offset: u64) -> Verdict {
        let known = self.producers.entry(once.producer).or_default();
        let before = known.insert(once.sequence, offset);
        ensure!(before.is_none_or(|before| before == offset), "{once:?} was at {before:?} before");
        let older = known.range(..once.sequence).next_back().is_none_or(|(_, older)| *older < offset);
        let newer = known.range(once.sequence + 1..).next().is_none_or(|(_, newer)| offset < *newer);
        ensure!(older && newer, "{once:?} is out of order at {offset}");
        Ok(())
    }
}

impl StreamMeaning {
    /// The last numbers of each producer stand in the log, whatever was trimmed.
    pub fn remembers(&self, said: &StreamMeaning) -> Verdict {
        for (producer, known) in &said.producers {
            let last = known.last_key_value().map_or(0, |(sequence, _)| *sequence);
            for (sequence, offset) in known.range((last + 1).saturating_sub(WINDOW)..) {
                let found = self.producers.get(producer).and_then(|found| found.get(sequence));
                ensure!(found == Some(offset), "append {sequence} of producer {producer} at {offset} is forgotten");
            }
        }
        Ok(())
    }
}

impl Oracle {
    /// The number that a producer uses next, as far as clients know.
    pub fn next_sequence(&self, stream: Object, producer: u64) -> u64 {
        let known = self.objects.iter().find(|known| known.object.id == stream.id);
        let told = known.map_or(0, |known| known.stream.last_sequence(producer));
        let asked = self.possible().filter(|action| action.object() == Some(stream)).filter_map(|action| action.once());
        asked.filter(|once| once.producer == producer).map(|once| once.sequence).max().unwrap_or(0).max(told) + 1
    }

    /// Whether an answer tells again of an append that is known.
    pub(super) fn is_said_again(&self, action: &Rc<Action>, shard: ShardId, answer: &Answer) -> Verdict<bool> {
        let Some(once) = action.once() else { return Ok(false) };
        let log = &self.logs[shard.index()];
        if let Some(logged) = log.entries.get(&answer.lsn) {
            ensure!(logged.action == *action, "{once:?} is answered as {:?}", logged.action);
            ensure!(logged.version == answer.version, "{once:?} was at {} before", logged.version);
            return Ok(true);
        }
        let Some(found) = log.base.get(&answer.lsn) else { return Ok(false) };
        let (asked, answered) = (self.times.asked, self.times.now());
        let logged = super::Logged { action: action.clone(), version: answer.version, asked, answered };
        ensure!(is_of(&logged, found) && found.lsn == Lsn(answer.lsn), "{once:?} is answered as {found:?}");
        Ok(true)
    }

    /// A producer was told that its number is not the next, nor one of its last. `floor`: what it was told before.
    pub(super) fn out_of_sequence(&self, action: &Action, floor: u64, answer: &Answer) -> Verdict {
        let Some(once) = action.once() else { return Err("only producers have sequence numbers".to_owned()) };
        let next = answer.version;
        ensure!(next > floor, "the next number is {next}, but {floor} had been acknowledged");
        ensure!(once.sequence != next && once.sequence + WINDOW < next || once.sequence > next, "{next} is near");
        let asked = |sequence: u64| {
            let same =
                |own: &Rc<Action>| own.object() == action.object() && own.once() == Some(Once { sequence, ..once });
            self.possible().any(same)
        };
        let known = self.objects.iter().find(|known| Some(known.object) == action.object());
        let told = known.map_or(0, |known| known.stream.last_sequence(once.producer));
        ensure!(next <= told + 1 || asked(next - 1), "nobody said {}, the one before the next", next - 1);
        Ok(())
    }
}
