//! Chained streams: every event is linked to the one before it by a hash, so that one which is changed, moved or left out
//! is found. The head after event n is BLAKE3(head before it, offset, event); that before event 0 is all zeros.
//!
//! Each event keeps the head before it behind its bytes. A record states the heads before and after its events, a trim
//! the one before the first event that it leaves: so what stands in the log can be proven whatever is gone before it.

use crate::bytes::len_u32;
use crate::ring::protocol::{AUX_MORE, Completion, EVENT_HEADER_BYTES, HEAD_BYTES, Opcode, Status};
use crate::store::heap::{Cell, Heap};
use crate::store::stream::{Event, READ_BYTES_MAX, Stream, Streams, check_batch, events};
use crate::store::{Context, Mode, Outcome, Reply, Request, Store};
use crate::types::{Lsn, ObjectId};
use crate::wal::pool::Writer;
use crate::wal::record::{self, Kind, LINKS_BYTES, Record};

pub type Head = [u8; HEAD_BYTES];

/// Before a producer's links.
const ONCE_BYTES: usize = 16;

/// The head after the stream's last event.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    head: Head,
    /// The offset that the next event gets.
    end: u64,
}

/// The head after an event.
fn head_after(before: &Head, offset: u64, event: &[u8]) -> Head {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before).update(&offset.to_le_bytes()).update(event);
    *hasher.finalize().as_bytes()
}

/// Keeps the bytes of an event, and the head before it behind them.
pub(super) fn keep_linked(heap: &mut Heap, event: &[u8], before: &Head) -> Result<Cell, Status> {
    let bytes = event.len() + HEAD_BYTES;
    let cell = heap.take(bytes).ok_or(Status::NoMemory)?;
    let (own, head) = heap.bytes_mut(cell, bytes).split_at_mut(event.len());
    own.copy_from_slice(event);
    head.copy_from_slice(before);
    Ok(cell)
}

/// The heads between the events of a record that is read, from the one that it states.
pub(super) struct Links(Option<Head>);

impl Links {
    pub fn of(record: &Record<'_>) -> Links {
        Links(record.links().map(|(before, _)| *before))
    }

    pub fn before(&self) -> Option<&Head> {
        self.0.as_ref()
    }

    pub fn follow(&mut self, offset: u64, event: &[u8]) {
        self.0 = self.0.map(|before| head_after(&before, offset, event));
    }
}

impl Stream {
    /// The head after the last event.
    fn head(&self) -> Head {
        self.chain.map_or([0; HEAD_BYTES], |chain| chain.head)
    }

    /// Takes what a recovered record says: the head before offset `end`.
    pub fn state_head(&mut self, head: Option<&Head>, end: u64) {
        if let Some(head) = head
            && self.chain.is_none_or(|chain| end >= chain.end)
        {
            self.chain = Some(Chain { head: *head, end });
        }
    }

    /// The head before an event that is kept, or after the last one. `None` where events are not linked.
    pub fn head_before(&self, heap: &Heap, offset: u64) -> Option<Head> {
        let chain = self.chain?;
        if offset >= self.next {
            return Some(chain.head);
        }
        let Event { cell, bytes, .. } = self.get(offset);
        let bytes = bytes as usize;
        heap.bytes(cell, bytes + HEAD_BYTES)[bytes..].try_into().ok()
    }
}

impl Streams {
    /// Takes the head that a recovered trim states.
    pub fn replay_head(&mut self, record: &Record<'_>) {
        self.stream(record.object).state_head(record.value.try_into().ok(), record.version);
    }

    /// Appends one event with the head before it.
    fn link(&mut self, heap: &mut Heap, object: ObjectId, event: &[u8], before: &Head) -> Result<(), Status> {
        let cell = keep_linked(heap, event, before)?;
        let stream = self.stream(object);
        if !stream.make_room(heap) {
            heap.give(cell);
            return Err(Status::NoMemory);
        }
        stream.push(Event { cell, lsn: Lsn::NONE, bytes: len_u32(event.len()) });
        self.events += 1;
        Ok(())
    }
}

impl Store {
    /// An append to a chained stream.
    #[cold]
    pub(in crate::store) fn append_chained<R: Reply>(
        &mut self,
        context: &mut Context<'_>,
        request: &Request<'_>,
        mode: Mode,
        reply: &mut R,
    ) -> Outcome {
        let (value, single) = (request.value, request.opcode == Opcode::Append);
        if value.len() > self.limits.value_bytes_max {
            return Outcome::status(Status::TooLarge);
        }
        if let (false, Err(status)) = (single, check_batch(value)) {
            return Outcome::status(status);
        }
        let kind = if single { Kind::Append } else { Kind::AppendBatch };
        self.append_linked(context, kind, &[], value, mode, reply)
    }

    /// Appends what was checked. `once` is the producer's part of the record's key.
    pub(super) fn append_linked<R: Reply>(
        &mut self,
        context: &mut Context<'_>,
        kind: Kind,
        once: &[u8],
        value: &[u8],
        mode: Mode,
        reply: &mut R,
    ) -> Outcome {
        let stream = self.streams.stream(mode.object);
        let mode = Mode { logged: mode.logged || stream.logged, ..mode };
        let key_bytes = once.len() + LINKS_BYTES;
        if let Some(refused) = mode.refused(context, key_bytes, value.len(), Writer::Ordinary) {
            return refused;
        }
        let (first, before) = (stream.next, stream.head());
        let (mut head, mut end) = (before, first);
        let single = (kind == Kind::Append).then_some(value);
        let batch = events(if kind == Kind::Append { &[] } else { value });
        for event in single.into_iter().chain(batch) {
            if let Err(status) = self.streams.link(&mut self.heap, mode.object, event, &head) {
                self.streams.take_back(&mut self.heap, mode.object, end - first);
                return self.no_memory(context.wal, status);
            }
            head = head_after(&head, end, event);
            end += 1;
        }
        let mut key = [0; ONCE_BYTES + LINKS_BYTES];
        let (own, links) = key.split_at_mut(once.len());
        own.copy_from_slice(once);
        links[..HEAD_BYTES].copy_from_slice(&before);
        links[HEAD_BYTES..LINKS_BYTES].copy_from_slice(&head);
        let (lsn, after) = mode.log(context, kind, first, &key[..key_bytes], value);
        if lsn != Lsn::NONE {
            self.streams.stamp(mode.object, end - first, lsn, record::encoded_bytes(key_bytes, value.len()));
        }
        self.streams.stream(mode.object).chain = Some(Chain { head, end });
        // A client that gave no room does not want it.
        reply.push(&[&head]);
        let reply_bytes = len_u32(reply.bytes());
        let completion = Completion { version: first, lsn: lsn.0, reply_bytes, ..Completion::default() };
        Outcome::Answer { completion, after }
    }

    /// Adds the head to the answer of an append that took place before, unless what follows it is trimmed.
    pub(super) fn tell_head<R: Reply>(
        &mut self,
        mut outcome: Outcome,
        request: &Request<'_>,
        mode: Mode,
        reply: &mut R,
    ) -> Outcome {
        if let Outcome::Answer { completion, .. } = &mut outcome {
            let end = completion.version + events(request.value).count() as u64;
            let stream = self.streams.stream(mode.object);
            let kept = (stream.first..=stream.next).contains(&end);
            if kept && let Some(head) = stream.head_before(&self.heap, end) {
                reply.push(&[&head]);
                completion.reply_bytes = len_u32(reply.bytes());
            }
        }
        outcome
    }

    /// Events with the heads between them.
    #[inline(never)]
    pub(in crate::store) fn read_chain<R: Reply>(
        &mut self,
        context: &mut Context<'_>,
        request: &Request<'_>,
        mode: Mode,
        chained: bool,
        reply: &mut R,
    ) -> Outcome {
        if !chained {
            return Outcome::status(Status::WrongKind);
        }
        let durable = if mode.strict_reads { context.wal.durable_lsn() } else { Lsn(u64::MAX) };
        let stream = self.streams.stream(mode.object);
        let from = request.submission.arg0.min(stream.next);
        if from < stream.first {
            let after = mode.visible_after(context.wal, stream.trimmed_lsn);
            return Outcome::version(Status::Trimmed, stream.first, after);
        }
        let head = |offset| stream.head_before(&self.heap, offset).unwrap_or([0; HEAD_BYTES]);
        let (mut offset, mut needed) = (from, 0);
        if !reply.push(&[&head(from)]) {
            needed = HEAD_BYTES as u64;
        }
        while needed == 0 && offset < stream.next {
            let Event { cell, lsn, bytes } = stream.get(offset);
            if lsn > durable {
                context.wal.want_durable();
                break;
            }
            let event = &self.heap.bytes(cell, bytes as usize + HEAD_BYTES)[..bytes as usize];
            let parts = [&bytes.to_le_bytes()[..], &[0; 4], &offset.to_le_bytes(), &head(offset + 1), event];
            if reply.bytes() >= READ_BYTES_MAX || !reply.push(&parts) {
                needed = (event.len() + EVENT_HEADER_BYTES + 2 * HEAD_BYTES) as u64;
                break;
            }
            offset += 1;
        }
        let count = offset - from;
        let (status, aux) = match needed {
            0 => (Status::Ok, count),
            needed if count == 0 => (Status::ReplyTooSmall, needed),
            _ => (Status::Ok, count | AUX_MORE),
        };
        let reply_bytes = if status == Status::Ok { len_u32(reply.bytes()) } else { 0 };
        let completion =
            Completion { status: status as u16, version: offset, aux, reply_bytes, ..Completion::default() };
        Outcome::Answer { completion, after: Lsn::NONE }
    }
}
