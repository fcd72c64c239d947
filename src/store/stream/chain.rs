//! Chained streams: every event is linked to the one before it by a hash, so that one which is changed, moved or left out
//! is found. The head after event n is BLAKE3(head before it, offset, event); that before event 0 is all zeros.
//!
//! Each event keeps the head before it behind its bytes. A record states the heads before and after its events, a trim,
//! where it is at hand, the one before the first event that it leaves: so what stands in the log can be proven whatever is gone before it.

use crate::bytes::len_u32;
use crate::ring::protocol::{AUX_MORE, Completion, EVENT_HEADER_BYTES, HEAD_BYTES, Opcode, Status};
use crate::store::heap::Heap;
use crate::store::stream::{READ_BYTES_MAX, Stream, Streams, check_batch, events};
use crate::store::{Context, Fetched, Mode, Outcome, Reply, Request, Store, Want, Whose};
use crate::types::{Lsn, ObjectId};
use crate::wal::pool::Writer;
use crate::wal::record::{self, Kind, LINKS_BYTES, Record};

pub type Head = [u8; HEAD_BYTES];

/// Before a producer's links.
const ONCE_BYTES: usize = 16;

/// The head after the stream's last event.
#[derive(Clone, Copy)]
pub(super) struct Chain {
    pub head: Head,
    /// The offset that the next event gets.
    end: u64,
}

/// The head after an event.
fn head_after(before: &Head, offset: u64, event: &[u8]) -> Head {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before).update(&offset.to_le_bytes()).update(event);
    *hasher.finalize().as_bytes()
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
}

impl Streams {
    /// Takes the head that a recovered trim states.
    pub fn replay_head(&mut self, record: &Record<'_>) {
        self.stream(record.object).state_head(record.value.try_into().ok(), record.version);
    }

    /// The head before an event that is kept, or after the last one; `None` where events are not linked.
    ///
    /// # Errors
    /// What has to be read from the drive for it.
    pub fn head_before(
        &mut self,
        heap: &Heap,
        object: ObjectId,
        offset: u64,
        fetched: Option<&Fetched<'_>>,
    ) -> Result<Option<Head>, Want> {
        let Streams { streams, cache, .. } = self;
        let stream = &streams[object.index()];
        let Some(chain) = stream.chain else { return Ok(None) };
        if offset >= stream.next {
            return Ok(Some(chain.head));
        }
        let event = stream.get(offset);
        let just_read = fetched.filter(|fetched| (fetched.object, fetched.whose) == (object, Whose::Event(offset)));
        let head = event.linked(heap, cache).map(|(_, head)| *head);
        head.or(just_read.and_then(|fetched| fetched.head)).map(Some).ok_or(event.want(object, offset))
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
        if mode.logged
            && let Err(refused) = self.room_in_cache(context, kind, value, true)
        {
            return refused;
        }
        let (mut head, mut end, expected) = (before, first, mode.next_lsn(context));
        let single = (kind == Kind::Append).then_some(value);
        let batch = events(if kind == Kind::Append { &[] } else { value });
        for event in single.into_iter().chain(batch) {
            if let Err(status) = self.streams.append(&mut self.heap, mode.object, event, &head, expected) {
                self.streams.take_back(&mut self.heap, mode.object, end - first, mode.logged);
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
            let record_bytes = record::encoded_bytes(key_bytes, value.len());
            self.streams.stamp(mode.object, end - first, expected, lsn, context.wal.last_place(), record_bytes);
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
        context: &Context<'_>,
        request: &Request<'_>,
        mode: Mode,
        reply: &mut R,
    ) -> Outcome {
        if let Outcome::Answer { completion, .. } = &mut outcome {
            let end = completion.version + events(request.value).count() as u64;
            let stream = self.streams.stream(mode.object);
            if !(stream.first..=stream.next).contains(&end) {
                return outcome;
            }
            match self.streams.head_before(&self.heap, mode.object, end, context.fetched) {
                Ok(Some(head)) => {
                    reply.push(&[&head]);
                    completion.reply_bytes = len_u32(reply.bytes());
                }
                Ok(None) => {}
                Err(want) => return Outcome::Fetch(want),
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
        let mut head = match self.streams.head_before(&self.heap, mode.object, from, context.fetched) {
            Ok(head) => head.unwrap_or([0; HEAD_BYTES]),
            Err(want) => return Outcome::Fetch(want),
        };
        let (mut offset, mut needed, mut more) = (from, 0, false);
        if !reply.push(&[&head]) {
            needed = HEAD_BYTES as u64;
        }
        let fetched = context.fetched.filter(|fetched| fetched.object == mode.object);
        while needed == 0 && offset < self.streams.stream(mode.object).next {
            // What is stated before the next one, so that a break shows; where that is not in memory, the next answer does.
            let stated = self.streams.head_before(&self.heap, mode.object, offset + 1, None).ok().flatten();
            let Streams { streams, cache, .. } = &mut self.streams;
            let event = streams[mode.object.index()].get(offset);
            if event.lsn() > durable {
                context.wal.want_durable();
                break;
            }
            let just_read = fetched.filter(|fetched| fetched.whose == Whose::Event(offset));
            let value = event.value(&self.heap, cache).or(just_read.map(|fetched| fetched.value));
            let Some(value) = value else {
                // The first one is here, or its head would not be.
                more = true;
                break;
            };
            let after = stated.unwrap_or_else(|| head_after(&head, offset, value));
            let parts = [&len_u32(value.len()).to_le_bytes()[..], &[0; 4], &offset.to_le_bytes(), &after, value];
            if reply.bytes() >= READ_BYTES_MAX || !reply.push(&parts) {
                needed = (value.len() + EVENT_HEADER_BYTES + 2 * HEAD_BYTES) as u64;
                break;
            }
            (offset, head) = (offset + 1, after);
        }
        let count = offset - from;
        let (status, aux) = match needed {
            0 => (Status::Ok, count | if more { AUX_MORE } else { 0 }),
            needed if count == 0 => (Status::ReplyTooSmall, needed),
            _ => (Status::Ok, count | AUX_MORE),
        };
        let reply_bytes = if status == Status::Ok { len_u32(reply.bytes()) } else { 0 };
        let completion =
            Completion { status: status as u16, version: offset, aux, reply_bytes, ..Completion::default() };
        Outcome::Answer { completion, after: Lsn::NONE }
    }
}
