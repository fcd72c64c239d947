//! What a client can ask for, and how it becomes a submission.

use std::time::Duration;

use crate::ring::protocol::commit::{self, Entry};
use crate::ring::protocol::stats::About;
use crate::ring::protocol::{
    BATCH_HEADER_BYTES, HEAD_BYTES, KEY_BYTES_MAX, Opcode, PAGE_ENTRY_BYTES, PLAIN_HEADER_BYTES, RETENTION_AS_IS,
    Status, Submission, TRIM_BEGINS, TTL_MS_MAX, VALUE_BYTES_MAX, flag, page_request_bytes_max, shard_of_key,
    shard_of_stream,
};
use crate::types::{Compression, Durability, ObjectId, ObjectKind, PageSize, ShardId};

use super::compression::check_plain;
use super::{ClientError, Retention};

/// Of a key: every write of it makes a larger one. 0: the key is absent.
pub type Version = u64;

/// A space or a stream, as the catalog knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object {
    pub id: ObjectId,
    pub kind: ObjectKind,
    /// What a write promises that does not say otherwise.
    pub durability: Durability,
    /// How clients store the values of this space; not of streams.
    pub compression: Compression,
}

/// What a space or stream is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Creation {
    /// What a write promises that does not say otherwise.
    pub durability: Durability,
    /// Of a space's values; a stream has none.
    pub compression: Compression,
    /// Whether the events of a stream are linked by hashes; a space has none.
    pub chained: bool,
}

impl Creation {
    /// As `Open` has it in its arg0.
    fn attributes(self) -> u64 {
        let flags = 1 << 16 | u64::from(self.chained) << 17;
        (self.durability as u64) << 8 | flags | (self.compression as u64) << 24
    }
}

impl From<Durability> for Creation {
    fn from(durability: Durability) -> Self {
        Creation { durability, compression: Compression::None, chained: false }
    }
}

/// How a write is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Write {
    /// `None`: as the object says.
    pub durability: Option<Durability>,
    /// Put and delete: only if the key has this version; 0: only if it is absent.
    pub if_version: Option<Version>,
    /// Put: the key is gone after so long; in ms, rounded up, 1 ms to `TTL_MS_MAX`. `None`: it stays, whatever was said
    /// of it before. Other writes with it are `BadRequest`; a `Commit` has no place for it, and its puts stay.
    pub expires: Option<Duration>,
}

/// What makes an append happen once: a number that no other producer of the stream has, and the sequence numbers of its
/// appends, which begin with 1 and have no gaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Once {
    pub producer: u64,
    pub sequence: u64,
}

/// How a cursor is to be moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CursorMove {
    /// `None`: as the stream says.
    pub durability: Option<Durability>,
    /// Only if it stands there; `CURSOR_ABSENT`: only if there is none.
    pub if_at: Option<u64>,
    /// Also back.
    pub rewind: bool,
}

/// The number of a snapshot: never that of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snapshot(pub u64);

/// One request. Nothing of it is borrowed after `submit`.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    /// Measures the ring.
    Noop { reactor: u32 },
    /// The answer's `version` is the new one.
    Put { space: Object, key: &'a [u8], value: &'a [u8], how: Write },
    /// The reply is the value, the answer's `version` its version. In a space with compression the room is for what is
    /// stored, which is never longer than the value and a byte; the reply may become longer.
    Get { space: Object, key: &'a [u8], relaxed: bool, value_bytes_max: usize },
    /// `NotFound` when there was no such key.
    Delete { space: Object, key: &'a [u8], how: Write },
    /// The answer's `version` is the event's offset.
    Append { stream: Object, event: &'a [u8], how: Write },
    /// The answer's `version` is the first event's offset. All of them or none.
    AppendBatch { stream: Object, events: &'a [&'a [u8]], how: Write },
    /// As `AppendBatch`, but a retry with the same `once` appends nothing and is answered as before.
    AppendOnce { stream: Object, once: Once, events: &'a [&'a [u8]], how: Write },
    /// As `AppendBatch` or `AppendOnce` to a chained stream; the reply is the head after the last event.
    AppendChained { stream: Object, once: Option<Once>, events: &'a [&'a [u8]], how: Write },
    /// Events of a chained stream with its heads. See `ChainCheck` for the reply.
    ReadChain { stream: Object, from: u64, reply_bytes_max: usize },
    /// Events from an offset on; `wait` at most so long for the first. See `events` for the reply.
    Read { stream: Object, from: u64, wait: Duration, reply_bytes_max: usize, relaxed: bool },
    /// Pairs of one shard, ordered by key; with `prefix`, `begin` is the prefix and `end` the key to begin after
    /// (empty: none), else `begin` is inclusive and `end` exclusive (empty: none). See `pairs` for the reply.
    Scan {
        space: Object,
        shard: ShardId,
        begin: &'a [u8],
        end: &'a [u8],
        prefix: bool,
        limit: u64,
        reply_bytes_max: usize,
        relaxed: bool,
    },
    /// As `Scan`, or as `ScanAt` of a snapshot, and tells until when keys hold that have a time to live. With `keys_only` the
    /// values are empty. See `listed` for the reply.
    List {
        snapshot: Option<Snapshot>,
        space: Object,
        shard: ShardId,
        begin: &'a [u8],
        end: &'a [u8],
        prefix: bool,
        limit: u32,
        keys_only: bool,
        reply_bytes_max: usize,
    },
    /// Takes a snapshot of everything. The answer's `version` is its number. It ends with the connection.
    Snapshot,
    /// Ends a snapshot of this connection.
    Release { snapshot: Snapshot },
    /// As `Get`, as a snapshot sees the key.
    GetAt { snapshot: Snapshot, space: Object, key: &'a [u8], value_bytes_max: usize },
    /// As `Scan`, as a snapshot sees the space. `limit`: at most 2^32 - 1; 0: no bound but the room.
    ScanAt {
        snapshot: Snapshot,
        space: Object,
        shard: ShardId,
        begin: &'a [u8],
        end: &'a [u8],
        prefix: bool,
        limit: u32,
        reply_bytes_max: usize,
    },
    /// What a stream had when the snapshot was taken: the answer's `version` is its first offset, `aux` its next one.
    Extent { snapshot: Snapshot, stream: Object },
    /// Forgets all events below an offset.
    Trim { stream: Object, before: u64 },
    /// Makes a stream that never had an event begin at an offset; `head` is that before it, empty where events are not
    /// linked.
    Begin { stream: Object, at: u64, head: &'a [u8] },
    /// All the writes, if every key that was read still has the version it had; the reads stand first, and at most
    /// `commit::ENTRIES_MAX` entries in all. The answer's `version` is that of every key written. `Conflict`: entry number
    /// `aux` read another version than the present one, `version`. Values go as they are: in a space with compression they
    /// must have their stored form already (docs/ring.md), which `Client::transaction` gives them.
    Commit { entries: &'a [Entry<'a>], durability: Option<Durability>, relaxed: bool },
    /// Writes one page of a page space. The answer's `version` is the new one.
    WritePage { space: Object, number: u64, page: &'a [u8], durability: Option<Durability> },
    /// Writes several pages, or forgets them, all or none: puts and deletes of this space, at most `PAGES_MAX`, each key a
    /// page's number, u64 big-endian. Versions that were read may stand first, as in `Commit`. The answer's `version` is
    /// that of all of them.
    WritePages { space: Object, entries: &'a [Entry<'a>], durability: Option<Durability> },
    /// Pages by number, at most `PAGES_MAX`, as they are at one moment, or as a snapshot sees them. See `pages` for the reply.
    ReadPages { space: Object, numbers: &'a [u64], snapshot: Option<Snapshot>, relaxed: bool, reply_bytes_max: usize },
    /// Finds a page space by name, or makes it.
    OpenPages { name: &'a str, create: Option<(PageSize, Durability)> },
    /// Answered when all that this reactor took before is durable on the drive.
    Sync { reactor: u32 },
    /// The reply is counters as u64 words: of this reactor, of its shards, or of the objects beyond a number.
    Stats { reactor: u32, about: About, after: ObjectId },
    /// Moves a cursor of a stream to an offset, or makes it. The answer's `version` is the offset.
    SetCursor { stream: Object, name: &'a str, offset: u64, how: CursorMove },
    /// The answer's `version` is the cursor's offset.
    GetCursor { stream: Object, name: &'a str, relaxed: bool },
    /// The cursors whose names come after this one. See `cursors` for the reply.
    Cursors { stream: Object, after: &'a str, reply_bytes_max: usize },
    /// `NotFound` when there was no such cursor.
    DropCursor { stream: Object, name: &'a str },
    /// Bounds what a stream keeps; `None` tells the bounds that hold, as the answer's `version` (bytes) and `aux` (ms).
    Retain { stream: Object, set: Option<Retention> },
    /// Finds a space or stream by name; creates it as `create` says.
    Open { name: &'a str, kind: ObjectKind, create: Option<Creation> },
    /// The objects beyond a number.
    Catalog { after: ObjectId, reply_bytes_max: usize },
}

/// What the reply to a request holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// What the caller sees.
    Plain,
    /// A value in its stored form.
    Value,
    /// Pairs with such values.
    Pairs,
}

impl Form {
    fn of(request: &Request<'_>) -> Form {
        match request {
            Request::Get { space, .. } | Request::GetAt { space, .. } if space.compression != Compression::None => {
                Form::Value
            }
            Request::List { keys_only: true, .. } => Form::Plain,
            Request::Scan { space, .. } | Request::ScanAt { space, .. } | Request::List { space, .. }
                if space.compression != Compression::None =>
            {
                Form::Pairs
            }
            _ => Form::Plain,
        }
    }
}

/// What a request carries behind its key.
#[derive(Clone, Copy)]
pub(super) enum Payload<'a> {
    Bytes(&'a [u8]),
    Batch(&'a [&'a [u8]]),
    Entries(&'a [Entry<'a>]),
    /// A page whose number stands in arg0.
    Page(&'a [u8]),
    Numbers(&'a [u64]),
}

impl Payload<'_> {
    pub fn bytes(&self) -> usize {
        match self {
            Payload::Bytes(bytes) => bytes.len(),
            Payload::Batch(events) => events.iter().map(|event| BATCH_HEADER_BYTES + event.len()).sum(),
            Payload::Entries(entries) => entries.iter().map(Entry::bytes).sum(),
            Payload::Page(page) => PAGE_ENTRY_BYTES + page.len(),
            Payload::Numbers(numbers) => size_of_val(*numbers),
        }
    }
}

/// A request as it goes on the wire, but for its place in the arena.
pub(super) struct Plan<'a> {
    pub reactor: u32,
    pub submission: Submission,
    pub key: &'a [u8],
    pub payload: Payload<'a>,
    pub form: Form,
}

const STATS_BYTES_MAX: u32 = 64 << 10;

impl<'a> Plan<'a> {
    /// # Errors
    /// `Status` for what no daemon would take.
    // Its many arms would crowd what `submit` does otherwise.
    #[inline(never)]
    pub fn new(request: &Request<'a>, shards: u32, reactors: u32) -> Result<Plan<'a>, ClientError> {
        let (submission, payload) = (Submission::default(), Payload::Bytes(&[]));
        let mut plan = Plan { reactor: 0, submission, key: &[], payload, form: Form::Plain };
        check_plain(request)?;
        let shard = plan.fill(request, shards)?;
        plan.form = Form::of(request);
        let expires = plan.submission.flags & flag::EXPIRES != 0 && !matches!(request, Request::List { .. });
        if expires && plan.submission.opcode != Opcode::Put as u8 {
            return Err(BAD_REQUEST);
        }
        if plan.form == Form::Value {
            // The caller's room is for the value as it was given.
            let room = plan.submission.reply_bytes_max as usize + PLAIN_HEADER_BYTES;
            plan.submission.reply_bytes_max = wire_bytes(room)?;
        }
        if let Some(ShardId(shard)) = shard {
            if shard >= shards {
                return Err(ClientError::Status(Status::BadRequest));
            }
            plan.reactor = shard % reactors;
        }
        if plan.reactor >= reactors {
            return Err(ClientError::Status(Status::BadRequest));
        }
        let bytes = plan.payload.bytes();
        if plan.key.len() > KEY_BYTES_MAX || bytes > VALUE_BYTES_MAX {
            plan.check_large(bytes)?;
        }
        plan.submission.key_bytes = u16::try_from(plan.key.len()).map_err(|_| ClientError::Status(Status::TooLarge))?;
        plan.submission.value_bytes = wire_bytes(bytes)?;
        Ok(plan)
    }

    /// Pages may be as many as a value may have bytes, and what stands before each.
    #[cold]
    fn check_large(&self, bytes: usize) -> Result<(), ClientError> {
        let paged = self.submission.opcode == Opcode::WritePages as u8;
        if paged && bytes <= page_request_bytes_max(VALUE_BYTES_MAX) {
            return Ok(());
        }
        let commits = matches!(self.payload, Payload::Entries(_)) && !paged;
        Err(ClientError::Status(if commits { Status::TransactionTooLarge } else { Status::TooLarge }))
    }

    /// Fills in everything but the lengths. The shard that the request belongs to, if it belongs to one.
    fn fill(&mut self, request: &Request<'a>, shards: u32) -> Result<Option<ShardId>, ClientError> {
        let submission = &mut self.submission;
        match *request {
            Request::Noop { reactor } => {
                (submission.opcode, self.reactor) = (Opcode::Noop as u8, reactor);
                Ok(None)
            }
            Request::Sync { reactor } => {
                (submission.opcode, self.reactor) = (Opcode::Sync as u8, reactor);
                Ok(None)
            }
            Request::Stats { reactor, about, after } => {
                (submission.opcode, self.reactor) = (Opcode::Stats as u8, reactor);
                (submission.arg0, submission.arg1) = (about as u64, u64::from(after.0));
                submission.reply_bytes_max = STATS_BYTES_MAX;
                Ok(None)
            }
            Request::Open { name, kind, create } => {
                submission.opcode = Opcode::Open as u8;
                self.key = name.as_bytes();
                submission.arg0 = kind as u64 | create.map_or(0, Creation::attributes);
                Ok(None)
            }
            Request::Catalog { after, reply_bytes_max } => {
                submission.opcode = Opcode::Catalog as u8;
                submission.arg0 = u64::from(after.0);
                submission.reply_bytes_max = wire_bytes(reply_bytes_max)?;
                Ok(None)
            }
            Request::Put { space, key, value, how } => {
                self.payload = Payload::Bytes(value);
                submission.arg1 = how.expires.map_or(Ok(0), ttl_ms)?;
                Ok(Some(self.keyed(Opcode::Put, space, key, how, shards)))
            }
            Request::Delete { space, key, how } => Ok(Some(self.keyed(Opcode::Delete, space, key, how, shards))),
            Request::Get { space, key, relaxed, value_bytes_max } => {
                submission.flags = relaxed_flag(relaxed);
                submission.reply_bytes_max = wire_bytes(value_bytes_max)?;
                Ok(Some(self.keyed(Opcode::Get, space, key, Write::default(), shards)))
            }
            Request::Scan { space, shard, begin, end, prefix, limit, reply_bytes_max, relaxed } => {
                submission.opcode = Opcode::Scan as u8;
                submission.flags = relaxed_flag(relaxed) | if prefix { flag::PREFIX } else { 0 };
                submission.object = space.id.0;
                submission.reply_bytes_max = wire_bytes(reply_bytes_max)?;
                (submission.arg0, submission.arg1) = (limit, u64::from(shard.0));
                (self.key, self.payload) = (begin, Payload::Bytes(end));
                Ok(Some(shard))
            }
            _ => self.fill_streamed(request, shards),
        }
    }

    /// The same for a request on a stream.
    fn fill_streamed(&mut self, request: &Request<'a>, shards: u32) -> Result<Option<ShardId>, ClientError> {
        let submission = &mut self.submission;
        match *request {
            Request::Append { stream, event, how } => {
                self.payload = Payload::Bytes(event);
                Ok(Some(self.streamed(Opcode::Append, stream, how, shards)))
            }
            Request::AppendBatch { stream, events, how } => {
                self.payload = Payload::Batch(events);
                Ok(Some(self.streamed(Opcode::AppendBatch, stream, how, shards)))
            }
            Request::AppendChained { stream, once, events, how } => {
                self.payload = Payload::Batch(events);
                let opcode = if once.is_some() { Opcode::AppendOnce } else { Opcode::AppendBatch };
                let shard = self.streamed(opcode, stream, how, shards);
                self.submission.reply_bytes_max = wire_bytes(HEAD_BYTES)?;
                if let Some(once) = once {
                    (self.submission.arg0, self.submission.arg1) = (once.producer, once.sequence);
                }
                Ok(Some(shard))
            }
            Request::ReadChain { stream, from, reply_bytes_max } => {
                (submission.arg0, submission.reply_bytes_max) = (from, wire_bytes(reply_bytes_max)?);
                Ok(Some(self.streamed(Opcode::ReadChain, stream, Write::default(), shards)))
            }
            Request::AppendOnce { stream, once, events, how } => {
                self.payload = Payload::Batch(events);
                let shard = self.streamed(Opcode::AppendOnce, stream, how, shards);
                (self.submission.arg0, self.submission.arg1) = (once.producer, once.sequence);
                Ok(Some(shard))
            }
            Request::Read { stream, from, wait, reply_bytes_max, relaxed } => {
                let wait_ns = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
                submission.flags = relaxed_flag(relaxed);
                submission.reply_bytes_max = wire_bytes(reply_bytes_max)?;
                (submission.arg0, submission.arg1) = (from, wait_ns);
                Ok(Some(self.streamed(Opcode::Read, stream, Write::default(), shards)))
            }
            Request::Commit { entries, durability, relaxed } => self.commit(entries, durability, relaxed, shards),
            Request::Trim { stream, before } => Ok(Some(self.trim(stream, before, None, shards))),
            Request::Begin { stream, at, head } => Ok(Some(self.trim(stream, at, Some(head), shards))),
            Request::SetCursor { stream, name, offset, how } => {
                self.key = name.as_bytes();
                let write = Write { durability: how.durability, ..Write::default() };
                let shard = self.streamed(Opcode::SetCursor, stream, write, shards);
                let flag = |is_set: bool, flag| if is_set { flag } else { 0 };
                self.submission.flags |= flag(how.if_at.is_some(), flag::IF_VERSION) | flag(how.rewind, flag::REWIND);
                (self.submission.arg0, self.submission.arg1) = (offset, how.if_at.unwrap_or(0));
                Ok(Some(shard))
            }
            Request::GetCursor { stream, name, relaxed } => {
                (submission.flags, self.key) = (relaxed_flag(relaxed), name.as_bytes());
                Ok(Some(self.streamed(Opcode::GetCursor, stream, Write::default(), shards)))
            }
            Request::Cursors { stream, after, reply_bytes_max } => {
                (submission.reply_bytes_max, self.key) = (wire_bytes(reply_bytes_max)?, after.as_bytes());
                Ok(Some(self.streamed(Opcode::Cursors, stream, Write::default(), shards)))
            }
            Request::Retain { stream, set } => self.retain(stream, set, shards),
            Request::DropCursor { stream, name } => {
                self.key = name.as_bytes();
                Ok(Some(self.streamed(Opcode::DropCursor, stream, Write::default(), shards)))
            }
            _ => self.fill_of_snapshot(request, shards),
        }
    }

    /// The same for a request about a snapshot.
    fn fill_of_snapshot(&mut self, request: &Request<'a>, shards: u32) -> Result<Option<ShardId>, ClientError> {
        let submission = &mut self.submission;
        match *request {
            Request::Snapshot => {
                submission.opcode = Opcode::Snapshot as u8;
                Ok(None)
            }
            Request::Release { snapshot } => {
                (submission.opcode, submission.arg0) = (Opcode::Release as u8, snapshot.0);
                Ok(None)
            }
            Request::GetAt { snapshot, space, key, value_bytes_max } => {
                (submission.arg0, submission.reply_bytes_max) = (snapshot.0, wire_bytes(value_bytes_max)?);
                Ok(Some(self.keyed(Opcode::GetAt, space, key, Write::default(), shards)))
            }
            Request::ScanAt { snapshot, space, shard, begin, end, prefix, limit, reply_bytes_max } => {
                submission.opcode = Opcode::ScanAt as u8;
                submission.flags = if prefix { flag::PREFIX } else { 0 };
                submission.object = space.id.0;
                submission.reply_bytes_max = wire_bytes(reply_bytes_max)?;
                (submission.arg0, submission.arg1) = (snapshot.0, u64::from(shard.0) | u64::from(limit) << u32::BITS);
                (self.key, self.payload) = (begin, Payload::Bytes(end));
                Ok(Some(shard))
            }
            Request::List { snapshot, space, shard, begin, end, prefix, limit, keys_only, reply_bytes_max } => {
                let (own, limit) = (u64::from(shard.0), u64::from(limit));
                let scan = (Opcode::Scan, limit, own);
                let at = |Snapshot(snapshot)| (Opcode::ScanAt, snapshot, own | limit << u32::BITS);
                let (opcode, arg0, arg1) = snapshot.map_or(scan, at);
                (submission.opcode, submission.arg0, submission.arg1) = (opcode as u8, arg0, arg1);
                let flag = |is_set: bool, flag| if is_set { flag } else { 0 };
                submission.flags = flag::EXPIRES | flag(prefix, flag::PREFIX) | flag(keys_only, flag::KEYS_ONLY);
                submission.object = space.id.0;
                submission.reply_bytes_max = wire_bytes(reply_bytes_max)?;
                (self.key, self.payload) = (begin, Payload::Bytes(end));
                Ok(Some(shard))
            }
            Request::Extent { snapshot, stream } => {
                submission.arg0 = snapshot.0;
                Ok(Some(self.streamed(Opcode::Extent, stream, Write::default(), shards)))
            }
            _ => self.fill_paged(request, shards),
        }
    }

    /// The same for a request on pages.
    fn fill_paged(&mut self, request: &Request<'a>, shards: u32) -> Result<Option<ShardId>, ClientError> {
        let how = |durability| Write { durability, ..Write::default() };
        match *request {
            Request::WritePage { space, number, page, durability } => {
                (self.submission.arg0, self.payload) = (number, Payload::Page(page));
                Ok(Some(self.streamed(Opcode::WritePages, space, how(durability), shards)))
            }
            Request::WritePages { space, entries, durability } => {
                if !entries.is_sorted_by_key(|entry| !entry.is_read()) {
                    return Err(BAD_REQUEST);
                }
                self.payload = Payload::Entries(entries);
                Ok(Some(self.streamed(Opcode::WritePages, space, how(durability), shards)))
            }
            Request::ReadPages { space, numbers, snapshot, relaxed, reply_bytes_max } => {
                self.submission.arg0 = snapshot.map_or(0, |Snapshot(number)| number);
                self.submission.flags = relaxed_flag(relaxed);
                self.submission.reply_bytes_max = wire_bytes(reply_bytes_max)?;
                self.payload = Payload::Numbers(numbers);
                Ok(Some(self.streamed(Opcode::ReadPages, space, Write::default(), shards)))
            }
            Request::OpenPages { name, create } => {
                self.submission.opcode = Opcode::Open as u8;
                self.key = name.as_bytes();
                let made = |(size, durability): (PageSize, Durability)| {
                    Creation::from(durability).attributes() | u64::from(size.to_wire()) << 24
                };
                self.submission.arg0 = ObjectKind::Pages as u64 | create.map_or(0, made);
                Ok(None)
            }
            _ => Err(BAD_REQUEST),
        }
    }

    fn commit(
        &mut self,
        entries: &'a [Entry<'a>],
        durability: Option<Durability>,
        relaxed: bool,
        shards: u32,
    ) -> Result<Option<ShardId>, ClientError> {
        let shard = shard_of_commit(entries, shards)?;
        self.submission.opcode = Opcode::Commit as u8;
        self.submission.flags = relaxed_flag(relaxed) | durability.map_or(0, |durability| durability as u8);
        self.submission.arg1 = u64::from(shard.0);
        self.payload = Payload::Entries(entries);
        Ok(Some(shard))
    }

    fn retain(&mut self, stream: Object, set: Option<Retention>, shards: u32) -> Result<Option<ShardId>, ClientError> {
        let words = set.map_or(Ok((RETENTION_AS_IS, RETENTION_AS_IS)), Retention::words)?;
        (self.submission.arg0, self.submission.arg1) = words;
        Ok(Some(self.streamed(Opcode::Retain, stream, Write::default(), shards)))
    }

    /// `begins`: the head before the offset at which the stream begins.
    fn trim(&mut self, stream: Object, before: u64, begins: Option<&'a [u8]>, shards: u32) -> ShardId {
        self.submission.arg0 = before;
        if let Some(head) = begins {
            (self.submission.arg1, self.payload) = (TRIM_BEGINS, Payload::Bytes(head));
        }
        self.streamed(Opcode::Trim, stream, Write::default(), shards)
    }

    fn keyed(&mut self, opcode: Opcode, space: Object, key: &'a [u8], how: Write, shards: u32) -> ShardId {
        self.key = key;
        self.common(opcode, space, how);
        shard_of_key(space.id.0, key, shards)
    }

    fn streamed(&mut self, opcode: Opcode, stream: Object, how: Write, shards: u32) -> ShardId {
        self.common(opcode, stream, how);
        shard_of_stream(stream.id.0, shards)
    }

    fn common(&mut self, opcode: Opcode, object: Object, how: Write) {
        self.submission.opcode = opcode as u8;
        self.submission.object = object.id.0;
        self.submission.flags |= how.durability.map_or(0, |durability| durability as u8);
        if let Some(version) = how.if_version {
            self.submission.flags |= flag::IF_VERSION;
            self.submission.arg0 = version;
        }
        if how.expires.is_some() {
            self.submission.flags |= flag::EXPIRES;
        }
    }
}

/// The lowest shard of a commit's keys.
fn shard_of_commit(entries: &[Entry<'_>], shards: u32) -> Result<ShardId, ClientError> {
    if entries.len() > commit::ENTRIES_MAX {
        return Err(ClientError::Status(Status::TransactionTooLarge));
    }
    if entries.iter().any(|entry| entry.key.len() > KEY_BYTES_MAX) {
        return Err(ClientError::Status(Status::TooLarge));
    }
    let of_keys = entries.iter().map(|entry| shard_of_key(entry.object.0, entry.key, shards));
    of_keys.min().filter(|_| entries.is_sorted_by_key(|entry| !entry.is_read())).ok_or(BAD_REQUEST)
}

pub(super) const BAD_REQUEST: ClientError = ClientError::Status(Status::BadRequest);

/// As the wire has it.
pub(super) fn ttl_ms(expires: Duration) -> Result<u64, ClientError> {
    let ms = u64::try_from(expires.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    Some(ms).filter(|ms| (1..=TTL_MS_MAX).contains(ms)).ok_or(BAD_REQUEST)
}

fn relaxed_flag(relaxed: bool) -> u8 {
    if relaxed { flag::RELAXED } else { 0 }
}

fn wire_bytes(bytes: usize) -> Result<u32, ClientError> {
    u32::try_from(bytes).map_err(|_| ClientError::Status(Status::TooLarge))
}
