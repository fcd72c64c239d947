//! Cursors: each is where its last write put it; LSNs say which one that is.

use std::collections::BTreeMap;

use crate::ring::client::{Answer, Object};
use crate::ring::protocol::{CURSOR_ABSENT, Status};
use crate::sim::action::Action;
use crate::sim::oracle::meaning::StreamMeaning;
use crate::sim::oracle::stream::Stream;
use crate::sim::oracle::{Oracle, Verdict, ensure, is_strict};
use crate::types::ObjectId;

#[derive(Default)]
pub struct Cursor {
    /// Where it was put, by LSN; `CURSOR_ABSENT`: nowhere.
    puts: BTreeMap<u64, u64>,
    /// The last one that somebody was told of.
    floor: u64,
    /// The record that a start found, which may be a copy of an older one.
    recovered: u64,
}

impl Cursor {
    pub fn recovered((lsn, offset): (u64, u64)) -> Cursor {
        Cursor { puts: BTreeMap::from([(lsn, offset)]), floor: lsn, recovered: lsn }
    }
}

impl Stream {
    pub fn cursor_floor(&self, name: &str) -> u64 {
        self.cursors.get(name.as_bytes()).map_or(0, |cursor| cursor.floor)
    }

    fn cursor(&mut self, name: &str) -> &mut Cursor {
        self.cursors.entry(name.as_bytes().to_vec()).or_default()
    }
}

impl StreamMeaning {
    /// The last record of each cursor stands in the log.
    pub fn keeps_cursors(&self, said: &StreamMeaning, id: ObjectId, possible: &[&Action]) -> Verdict {
        for (name, (_, offset)) in &said.cursors {
            let found = self.cursors.get(name).map_or(CURSOR_ABSENT, |(_, offset)| *offset);
            let dropped = possible.iter().any(|action| {
                matches!(action, Action::DropCursor { stream, name: own } if stream.id == id && own.as_bytes() == name)
            });
            let same = found == *offset || found == CURSOR_ABSENT && dropped;
            ensure!(same, "cursor {name:?} stood at {offset}; recovered: {found}");
        }
        Ok(())
    }
}

impl Oracle {
    /// Where a cursor stands as far as clients know.
    pub fn cursor(&self, stream: Object, name: &str) -> u64 {
        let known = self.objects.iter().find(|known| known.object.id == stream.id);
        let cursor = known.and_then(|known| known.stream.cursors.get(name.as_bytes()));
        cursor.and_then(|cursor| cursor.puts.get(&cursor.floor).copied()).unwrap_or(CURSOR_ABSENT)
    }

    /// Whether a write of this cursor has no answer; with `to`, one that puts it there.
    fn may_be_put_to(&self, action: &Action, to: Option<u64>) -> bool {
        self.possible().any(|own| {
            let same = own.object() == action.object() && own.cursor() == action.cursor();
            same && own.is_write() && to.is_none_or(|to| own.cursor_to() == Some(to))
        })
    }

    /// A cursor was set or dropped.
    pub(super) fn cursor_written(&mut self, action: &Action, answer: &Answer) -> Verdict {
        let (Some(object), Some(name), Some(to)) = (action.object(), action.cursor(), action.cursor_to()) else {
            return Ok(());
        };
        ensure!(answer.lsn != 0 && answer.version == to, "a cursor that was put to {to} is not");
        let unresolved = self.may_be_put_to(action, None);
        let cursor = self.known(object).stream.cursor(name);
        let before = cursor.puts.range(..answer.lsn).next_back().map_or(CURSOR_ABSENT, |(_, offset)| *offset);
        if let (Action::SetCursor { how, .. }, false) = (action, unresolved) {
            ensure!(how.rewind || before == CURSOR_ABSENT || before <= to, "it went back from {before}");
            ensure!(how.if_at.is_none_or(|at| at == before), "it stood at {before}");
        }
        ensure!(unresolved || to != CURSOR_ABSENT || before != CURSOR_ABSENT, "what was absent is dropped");
        let seen = cursor.puts.insert(answer.lsn, to);
        ensure!(seen.is_none_or(|seen| seen == to), "it was seen at {seen:?}");
        if answer.status == Status::Ok {
            cursor.floor = cursor.floor.max(answer.lsn);
        }
        Ok(())
    }

    /// A cursor was shown, or a write of it did not take place.
    pub(super) fn cursor_answer(&mut self, action: &Action, floor: u64, answer: &Answer) -> Verdict {
        let relaxed = matches!(action, Action::GetCursor { relaxed: true, .. });
        match answer.status {
            Status::Ok => self.showed_cursor(action, floor, answer.version, answer.lsn, relaxed),
            Status::CursorTrimmed => {
                ensure!(answer.aux < answer.version, "it is not below the first event");
                self.showed_cursor(action, floor, answer.aux, answer.lsn, relaxed)
            }
            Status::NotFound => {
                let may_be_dropped = self.may_be_put_to(action, Some(CURSOR_ABSENT));
                let (Some(object), Some(name)) = (action.object(), action.cursor()) else { return Ok(()) };
                let cursor = self.known(object).stream.cursor(name);
                let dropped = floor == 0 || cursor.puts.range(floor..).any(|(_, offset)| *offset == CURSOR_ABSENT);
                ensure!(dropped || may_be_dropped, "the cursor is gone, and nobody dropped it");
                Ok(())
            }
            Status::CursorMoved => {
                let Action::SetCursor { offset, how, .. } = action else { return Err("nothing was set".to_owned()) };
                let present = answer.version;
                let back = present != CURSOR_ABSENT && *offset < present && !how.rewind;
                ensure!(back || how.if_at.is_some_and(|at| at != present), "it may be set");
                Ok(())
            }
            Status::NoSpace | Status::NoMemory | Status::Fenced | Status::Stopping => Ok(()),
            Status::BadRequest => {
                // Tried again after a crash that took the events below it.
                let Action::SetCursor { stream, offset, .. } = action else { return Err("it is good".to_owned()) };
                let next = self.known(*stream).stream.next;
                ensure!(*offset > next, "{offset} is not beyond the end {next}");
                Ok(())
            }
            status => Err(format!("unexpected status {status:?}")),
        }
    }

    fn showed_cursor(&mut self, action: &Action, floor: u64, offset: u64, lsn: u64, relaxed: bool) -> Verdict {
        let (Some(object), Some(name)) = (action.object(), action.cursor()) else { return Ok(()) };
        let held = self.known(object).stream.cursor(name);
        // The log says it in a copy, and a checkpoint what it was before.
        let is_copy = lsn < floor && floor == held.recovered && held.puts.get(&floor) == Some(&offset);
        let lsn = if is_copy { floor } else { lsn };
        ensure!(lsn >= floor, "an old cursor was shown: LSN {floor} had been acknowledged");
        let may_be = self.may_be_put_to(action, Some(offset));
        let cursor = self.known(object).stream.cursor(name);
        let known = cursor.puts.get(&lsn).copied();
        ensure!(known.map_or(may_be, |known| known == offset), "nobody put it there; known: {known:?}");
        cursor.puts.insert(lsn, offset);
        cursor.floor = cursor.floor.max(lsn);
        if let (Some(shard), true) = (action.shard(self.shards), is_strict(object, relaxed)) {
            self.promise_durable(shard, lsn);
        }
        Ok(())
    }
}
