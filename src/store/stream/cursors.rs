//! Cursors of a stream: where each consumer goes on, by name.

use std::collections::BTreeMap;
use std::ops::{Bound, Range};

use crate::bytes::{len_u16, len_u32};
use crate::ring::protocol::{AUX_MORE, CURSOR_ABSENT, Completion, Status, flag, name_is_valid};
use crate::store::heap::Heap;
use crate::store::stream::{READ_BYTES_MAX, Stream, Streams};
use crate::store::{Context, Mode, Outcome, Reply, Request, Store};
use crate::types::{Lsn, ObjectId};
use crate::wal::pool::Writer;
use crate::wal::record::{Kind, Record};

/// What one counts against the memory budget beside its name: two allocations, which are a cache line apart.
const CURSOR_BYTES: usize = 136;
/// A look at more of them takes a turn too long.
const LOOKS_MAX: usize = 1 << 10;

#[derive(Clone, Copy)]
struct Cursor {
    offset: u64,
    lsn: Lsn,
}

#[derive(Default)]
pub(super) struct Cursors {
    by_name: BTreeMap<Box<[u8]>, Cursor>,
    /// The last change of any of them.
    changed_lsn: Lsn,
}

impl Cursors {
    /// Whether one stands where it was put with one of these LSNs, or may: of very many nobody looks.
    pub fn any_said(&self, lsns: &Range<Lsn>) -> bool {
        let looks = || self.by_name.len() > LOOKS_MAX || self.by_name.values().any(|cursor| lsns.contains(&cursor.lsn));
        self.changed_lsn >= lsns.start && looks()
    }
}

impl Stream {
    fn cursor(&self, name: &[u8]) -> Option<Cursor> {
        self.cursors.as_ref()?.by_name.get(name).copied()
    }

    /// The first cursor from a name on that the log says. One from before anything of the stream was logged is not there.
    pub fn cursor_from(&self, begin: Bound<&[u8]>) -> Option<(&[u8], u64, Lsn)> {
        let mut range = self.cursors.as_ref()?.by_name.range::<[u8], _>((begin, Bound::Unbounded));
        let (name, cursor) = range.find(|(_, cursor)| cursor.lsn != Lsn::NONE)?;
        Some((name, cursor.offset, cursor.lsn))
    }

    /// What a read that saw a cursor, or that it is not there, may wait for.
    fn cursor_lsn(&self, held: Option<Cursor>) -> Lsn {
        let changed = self.cursors.as_ref().map_or(Lsn::NONE, |cursors| cursors.changed_lsn);
        held.map_or(changed, |held| held.lsn)
    }

    /// Sets a cursor. `false`: the memory budget is used up.
    fn set_cursor(&mut self, heap: &mut Heap, name: &[u8], cursor: Cursor) -> bool {
        let cursors = self.cursors.get_or_insert_default();
        match cursors.by_name.get_mut(name) {
            Some(held) => *held = cursor,
            None if heap.charge(CURSOR_BYTES + name.len()) => _ = cursors.by_name.insert(name.into(), cursor),
            None => return false,
        }
        cursors.changed_lsn = cursors.changed_lsn.max(cursor.lsn);
        true
    }

    fn drop_cursor(&mut self, heap: &mut Heap, name: &[u8], lsn: Lsn) {
        let cursors = self.cursors.get_or_insert_default();
        if cursors.by_name.remove(name).is_some() {
            heap.refund(CURSOR_BYTES + name.len());
        }
        cursors.changed_lsn = cursors.changed_lsn.max(lsn);
    }
}

impl Streams {
    /// Takes a recovered cursor, or that there is none any more.
    pub fn replay_cursor(&mut self, heap: &mut Heap, record: &Record<'_>) -> Result<(), Status> {
        let stream = self.stream(record.object);
        stream.logged = true;
        if record.version == CURSOR_ABSENT {
            stream.drop_cursor(heap, record.key, record.lsn);
            return Ok(());
        }
        let cursor = Cursor { offset: record.version, lsn: record.lsn };
        stream.set_cursor(heap, record.key, cursor).then_some(()).ok_or(Status::NoMemory)
    }

    /// Whether a cursor stands where a record says, and the log does not say it at `end_lsn` or behind.
    pub fn has_cursor(&self, record: &Record<'_>, end_lsn: Lsn) -> bool {
        let held = self.streams.get(record.object.index()).and_then(|stream| stream.cursor(record.key));
        held.is_some_and(|held| held.offset == record.version && held.lsn < end_lsn)
    }

    /// A cursor is logged where the events are: it means nothing without them.
    fn logs_cursors(&mut self, mode: Mode, durable: bool) -> Mode {
        let stream = self.stream(mode.object);
        stream.logged |= durable;
        Mode { logged: stream.logged, ..mode }
    }

    fn cursor(&mut self, object: ObjectId, name: &[u8]) -> Option<Cursor> {
        self.stream(object).cursor(name)
    }
}

impl Store {
    #[inline(never)]
    pub(in crate::store) fn set_cursor(
        &mut self,
        context: &mut Context<'_>,
        request: &Request<'_>,
        mode: Mode,
    ) -> Outcome {
        let (name, offset) = (request.key, request.submission.arg0);
        let stream = self.streams.stream(mode.object);
        if !name_is_valid(name) || offset > stream.next {
            return Outcome::status(Status::BadRequest);
        }
        let held = stream.cursor(name);
        let present = held.map_or(CURSOR_ABSENT, |held| held.offset);
        let flags = request.submission.flags;
        let unexpected = flags & flag::IF_VERSION != 0 && request.submission.arg1 != present;
        let back = held.is_some() && offset < present && flags & flag::REWIND == 0;
        if unexpected || back {
            let lsn = stream.cursor_lsn(held);
            return Outcome::version(Status::CursorMoved, present, mode.visible_after(context.wal, lsn));
        }
        let full = stream.cursors.as_ref().is_some_and(|cursors| cursors.by_name.len() >= self.limits.cursors_max);
        if held.is_none() && full {
            return Outcome::status(Status::TooLarge);
        }
        let mode = self.streams.logs_cursors(mode, is_durable(context, mode));
        if let Some(refused) = mode.refused(context, name.len(), 0, Writer::Ordinary) {
            return refused;
        }
        let before = held.unwrap_or(Cursor { offset, lsn: Lsn::NONE });
        if !self.streams.stream(mode.object).set_cursor(&mut self.heap, name, before) {
            return self.no_memory(context.wal, Status::NoMemory);
        }
        let (lsn, after) = mode.log(context, Kind::Cursor, offset, name, &[]);
        self.streams.stream(mode.object).set_cursor(&mut self.heap, name, Cursor { offset, lsn });
        Outcome::Answer { completion: Completion { version: offset, lsn: lsn.0, ..Completion::default() }, after }
    }

    #[inline(never)]
    pub(in crate::store) fn get_cursor(
        &mut self,
        context: &mut Context<'_>,
        request: &Request<'_>,
        mode: Mode,
    ) -> Outcome {
        let held = self.streams.cursor(mode.object, request.key);
        let stream = self.streams.stream(mode.object);
        let after = mode.visible_after(context.wal, stream.cursor_lsn(held));
        let Some(Cursor { offset, lsn }) = held else {
            return Outcome::version(Status::NotFound, CURSOR_ABSENT, after);
        };
        let mut completion = Completion { version: offset, lsn: lsn.0, ..Completion::default() };
        if offset < stream.first {
            completion.status = Status::CursorTrimmed as u16;
            (completion.version, completion.aux) = (stream.first, offset);
            let after = after.max(mode.visible_after(context.wal, stream.trimmed_lsn));
            return Outcome::Answer { completion, after };
        }
        Outcome::Answer { completion, after }
    }

    #[inline(never)]
    pub(in crate::store) fn cursors<R: Reply>(
        &mut self,
        context: &mut Context<'_>,
        request: &Request<'_>,
        mode: Mode,
        reply: &mut R,
    ) -> Outcome {
        let stream = self.streams.stream(mode.object);
        let after = mode.visible_after(context.wal, stream.cursor_lsn(None));
        let (mut listed, mut more) = (0, 0);
        let begin = if request.key.is_empty() { Bound::Unbounded } else { Bound::Excluded(request.key) };
        let all = stream.cursors.iter();
        for (name, cursor) in all.flat_map(|cursors| cursors.by_name.range::<[u8], _>((begin, Bound::Unbounded))) {
            let name_bytes = len_u16(name.len()).to_le_bytes();
            let full = reply.bytes() >= READ_BYTES_MAX;
            if full || !reply.push(&[&name_bytes, &[0; 6], &cursor.offset.to_le_bytes(), name]) {
                more = AUX_MORE;
                break;
            }
            listed += 1;
        }
        let status = if listed == 0 && more != 0 { Status::ReplyTooSmall } else { Status::Ok } as u16;
        let completion =
            Completion { status, aux: listed | more, reply_bytes: len_u32(reply.bytes()), ..Completion::default() };
        Outcome::Answer { completion, after }
    }

    #[inline(never)]
    pub(in crate::store) fn drop_cursor(
        &mut self,
        context: &mut Context<'_>,
        request: &Request<'_>,
        mode: Mode,
    ) -> Outcome {
        let name = request.key;
        let stream = self.streams.stream(mode.object);
        if stream.cursor(name).is_none() {
            let lsn = stream.cursor_lsn(None);
            return Outcome::version(Status::NotFound, CURSOR_ABSENT, mode.visible_after(context.wal, lsn));
        }
        let mode = self.streams.logs_cursors(mode, is_durable(context, mode));
        if let Some(refused) = mode.refused(context, name.len(), 0, Writer::Privileged) {
            return refused;
        }
        let (lsn, after) = mode.log(context, Kind::Cursor, CURSOR_ABSENT, name, &[]);
        self.streams.stream(mode.object).drop_cursor(&mut self.heap, name, lsn);
        Outcome::Answer {
            completion: Completion { version: CURSOR_ABSENT, lsn: lsn.0, ..Completion::default() },
            after,
        }
    }
}

/// Whether the events of this stream are logged whatever a request says.
fn is_durable(context: &Context<'_>, mode: Mode) -> bool {
    let object = context.catalog.get(mode.object);
    object.is_some_and(|object| object.durability != crate::types::Durability::Memory)
}
