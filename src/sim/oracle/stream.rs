//! Streams: every event has its one place, without holes, and what was shown stays.

use std::collections::BTreeMap;

use crate::ring::client::{Answer, Head, Object, events};
use crate::ring::protocol::{AUX_MORE, CURSOR_ABSENT, Status};
use crate::sim::action::Action;
use crate::sim::oracle::chain::Shown;
use crate::sim::oracle::cursor::Cursor;
use crate::sim::oracle::meaning::StreamMeaning;
use crate::sim::oracle::retention::Retention;
use crate::sim::oracle::{Known, Moment, Oracle, Verdict, ensure, is_strict};
use crate::types::{Durability, ObjectId};

#[derive(Default)]
pub struct Stream {
    pub events: BTreeMap<u64, Vec<u8>>,
    /// Below this everything was trimmed, and somebody was told so.
    pub first: u64,
    /// The highest trim that took place, whether or not its shard stopped before it was durable.
    trimmed_max: u64,
    /// The offset after the last event that somebody was told of.
    pub next: u64,
    /// The offset after the last event whose writer was answered in this life, be it that the shard had stopped writing.
    pub answered_next: u64,
    /// The offset after the last event that was promised to be durable.
    pub promised_next: u64,
    /// The offset after the last event that a strict read showed.
    pub shown_next: u64,
    /// By producer and sequence number, the offsets that are known.
    pub producers: BTreeMap<u64, BTreeMap<u64, u64>>,
    pub cursors: BTreeMap<Vec<u8>, Cursor>,
    pub retention: Retention,
    /// Where a read said that it begins.
    pub told_first: u64,
    /// When the append of an event was answered, by offset, in this life.
    pub answered: BTreeMap<u64, Moment>,
    /// Of a chained stream, the heads that were stated before offsets.
    pub heads: BTreeMap<u64, Head>,
}

impl Stream {
    /// What recovery found of a stream. Gives what is wrong with it.
    pub fn recovered(meaning: StreamMeaning, may_skip: bool) -> Verdict<Stream> {
        let (next, mut first) = (meaning.next(), meaning.trimmed);
        let holes = (first..next).rev().find(|offset| !meaning.events.contains_key(offset));
        if let Some(hole) = holes {
            ensure!(may_skip, "offset {hole} is a hole; it was trimmed before {first} and goes on to {next}");
            first = hole + 1;
        }
        let (mut events, producers) = (meaning.events, meaning.producers);
        for (name, (_, offset)) in &meaning.cursors {
            let inside = *offset == CURSOR_ABSENT || *offset <= next;
            ensure!(inside, "cursor {name:?} stands at {offset}, and the stream ends at {next}");
        }
        let cursors = meaning.cursors.into_iter().map(|(name, held)| (name, Cursor::recovered(held))).collect();
        let retention = Retention::recovered(meaning.bounds);
        Ok(Stream { events: events.split_off(&first), first, next, producers, cursors, retention, ..Stream::default() })
    }
}

impl Oracle {
    pub(super) fn stream_written(&mut self, action: &Action, (next, first): (u64, u64), answer: &Answer) -> Verdict {
        let Some(object) = action.object() else { return Ok(()) };
        let durability = action.how().durability.unwrap_or(object.durability);
        let (asked, now) = (self.times.asked, self.times.now());
        let Known { stream, appended, .. } = self.known(object);
        match action {
            Action::Append { events, .. } => {
                let offset = answer.version;
                let once = action.once();
                // Of what happens once, an earlier try may have been the one.
                ensure!(once.is_some() || offset >= next, "an offset below {next}, which was acknowledged before");
                if let Some(once) = once {
                    stream.appended_once(once, offset)?;
                }
                for (number, event) in events.iter().enumerate() {
                    let at = offset + number as u64;
                    let seen = stream.events.insert(at, event.clone());
                    // Of what happens once, an earlier try may have been the one, long ago.
                    if once.is_none() {
                        appended.insert(at, asked);
                        stream.answered.insert(at, now);
                    } else {
                        appended.remove(&at);
                    }
                    ensure!(seen.is_none_or(|seen| seen == *event), "another event was seen at offset {at}");
                }
                let end = offset + events.len() as u64;
                stream.answered_next = stream.answered_next.max(end);
                if answer.status == Status::Ok {
                    stream.next = stream.next.max(end);
                    if durability == Durability::Strict {
                        stream.promised_next = stream.promised_next.max(end);
                    }
                }
            }
            Action::Trim { .. } => {
                ensure!(answer.version >= first, "the first offset went back from {first}");
                stream.trimmed_max = stream.trimmed_max.max(answer.version);
                if answer.status == Status::Ok {
                    stream.first = stream.first.max(answer.version);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether a trim up to `first` can have happened without anybody having been told.
    fn may_be_trimmed(&self, id: ObjectId, first: u64) -> bool {
        self.possible()
            .any(|action| matches!(&**action, Action::Trim { stream, before } if stream.id == id && *before >= first))
    }

    fn may_be_appended(&self, id: ObjectId, event: &[u8]) -> bool {
        self.possible().any(|action| {
            matches!(&**action, Action::Append { stream, events, .. } if stream.id == id && events.iter().any(|own| own == event))
        })
    }

    /// A read was answered, or a write that did not take place.
    pub(super) fn stream_answer(
        &mut self,
        action: &Action,
        (next, promised_next, first): (u64, u64, u64),
        answer: &Answer,
        reply: &[u8],
    ) -> Verdict {
        let (Action::Read { stream: object, from, .. } | Action::ReadChain { stream: object, from, .. }) = action
        else {
            let refused =
                matches!(answer.status, Status::NoSpace | Status::NoMemory | Status::Fenced | Status::Stopping);
            // It took place before, and the head that is to be told is on the drive.
            let untold = answer.status == Status::Unreadable && self.may_spoil && action.once().is_some();
            ensure!(refused || untold, "unexpected status {:?}", answer.status);
            return Ok(());
        };
        let strict = is_strict(*object, matches!(action, Action::Read { relaxed: true, .. }));
        let due = if strict { promised_next } else { next };
        match answer.status {
            Status::Ok => {
                let shown = self.shown(action, reply)?;
                self.showed_events((*object, *from), strict, (first, due), answer, shown)
            }
            Status::Trimmed => {
                let told = answer.version;
                let stream = &self.known(*object).stream;
                let known = stream.first.max(stream.trimmed_max);
                ensure!(*from < told && told >= first, "{from} is not below the first offset {told}");
                let trimmed = told <= known || self.may_be_trimmed(object.id, told);
                if !trimmed {
                    self.may_be_retired(*object, told, u64::MAX)?;
                    self.was_told(*object, told)?;
                }
                let stream = &mut self.known(*object).stream;
                stream.told_first = stream.told_first.max(told);
                Ok(())
            }
            Status::TimedOut => {
                ensure!(due <= *from, "events up to {due} had been acknowledged");
                Ok(())
            }
            Status::ReplyTooSmall | Status::Busy | Status::Stopping | Status::Fenced => Ok(()),
            Status::Unreadable if self.may_spoil => Ok(()),
            status => Err(format!("unexpected status {status:?}")),
        }
    }

    /// The events of a read's reply.
    fn shown(&mut self, action: &Action, reply: &[u8]) -> Verdict<Shown> {
        if let Action::ReadChain { stream, from, .. } = action {
            return self.known(*stream).stream.proven(*from, reply);
        }
        let owned = |(offset, bytes): (u64, &[u8])| (offset, bytes.to_vec());
        events(reply).map(|event| event.map(owned).map_err(|error| error.to_string())).collect()
    }

    fn showed_events(
        &mut self,
        (object, from): (Object, u64),
        strict: bool,
        (first, due): (u64, u64),
        answer: &Answer,
        shown: Shown,
    ) -> Verdict {
        ensure!(from >= first, "events below {first} had been trimmed");
        let mut end = from;
        for (offset, bytes) in shown {
            ensure!(offset == end, "a hole: offset {offset} follows {end}");
            let may_be_appended = self.may_be_appended(object.id, &bytes);
            let stream = &mut self.known(object).stream;
            match stream.events.get(&offset) {
                Some(known) => ensure!(*known == bytes, "another event is at offset {offset}"),
                None => {
                    ensure!(may_be_appended, "nobody appended the event at offset {offset}");
                    stream.events.insert(offset, bytes);
                }
            }
            end += 1;
        }
        ensure!(answer.version == end, "the answer ends at {}, its events at {end}", answer.version);
        let complete = answer.aux & AUX_MORE == 0;
        ensure!(!complete || end >= due, "the events end at {end}, but up to {due} had been acknowledged");
        let stream = &mut self.known(object).stream;
        if end > from {
            stream.next = stream.next.max(end);
            if strict {
                stream.shown_next = stream.shown_next.max(end);
                stream.promised_next = stream.promised_next.max(end);
            }
        }
        Ok(())
    }
}
