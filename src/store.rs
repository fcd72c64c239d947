//! The store of one shard: what its log means, in memory. Requests become records; reads are answered.

pub mod across;
mod cache;
pub mod catalog;
pub mod checkpoint;
pub mod decisions;
mod figures;
mod heap;
mod kept;
mod locks;
mod order;
pub mod redo;
mod snapshot;
mod space;
mod stream;
mod table;
#[cfg(test)]
mod tests;
mod transaction;
mod wall;
mod want;

use crate::buffer::Pool;
use crate::bytes::put_u64;
use crate::ring::protocol::{
    Completion, KEY_BYTES_MAX, Opcode, Status, Submission, TRIM_BEGINS, commit, durability_of, flag,
};
use crate::types::{DeviceAddress, Durability, Lsn, ObjectId, ShardId};
use crate::wal::pool::Writer;
use crate::wal::record::{Kind, Record, UNTIL_BYTES};
use crate::wal::{Room, Wal};

pub use cache::CHUNK_BYTES as CACHE_CHUNK_BYTES;
use cache::{Cache, Full};
use catalog::Catalog;
use decisions::AcrossState;
use heap::{Cell, Heap};
pub use space::{Expired, PagesRead, Rest, Said};
use space::{Spaces, Until};
pub use stream::Retired;
use stream::Streams;
pub use wall::Wall;
pub use want::{Fetched, Want, Whose};

/// Bounds of one shard's store; from the configuration.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub key_bytes_max: usize,
    pub value_bytes_max: usize,
    /// Memory for keys and values.
    pub memory_bytes_max: u64,
    pub keys_max: usize,
    /// Producers that a stream remembers.
    pub producers_max: usize,
    /// Cursors of a stream.
    pub cursors_max: usize,
    /// Snapshots at once.
    pub snapshots_max: usize,
    /// Of the memory: for what only snapshots see.
    pub snapshot_bytes_max: u64,
    /// Of that memory: for values that are on the drive too.
    pub cache_bytes_max: usize,
    /// The unit in which the cache forgets.
    pub cache_chunk_bytes: usize,
}

/// Where a reply's bytes go: the client's memory, write-only.
pub trait Reply {
    /// Appends bytes, or says that they do not fit.
    fn push(&mut self, parts: &[&[u8]]) -> bool;
    /// Bytes appended so far.
    fn bytes(&self) -> usize;
    /// Whether so many more bytes fit.
    fn fits(&self, bytes: usize) -> bool;
    /// Writes bytes at a place of the room, which `fits` said is there, instead of appending them.
    fn write(&mut self, at: usize, bytes: &[u8]);
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answer once everything up to `after` is durable; `Lsn::NONE`: at once.
    Answer { completion: Completion, after: Lsn },
    /// A later stage is full: leave the request where it is.
    Later,
    /// A read that waits for an event.
    Wait,
    /// Taken; the answer comes by another way (a sync).
    Deferred,
    /// A value has to be read from the drive first.
    Fetch(Want),
    /// A commit whose keys lie in several shards: nothing was looked at.
    Across,
}

impl Outcome {
    #[must_use]
    pub fn status(status: Status) -> Outcome {
        Outcome::Answer { completion: Completion { status: status as u16, ..Completion::default() }, after: Lsn::NONE }
    }

    #[must_use]
    pub fn version(status: Status, version: u64, after: Lsn) -> Outcome {
        Outcome::Answer { completion: Completion { status: status as u16, version, ..Completion::default() }, after }
    }
}

/// A request with its payload, copied out of the client's memory and validated.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub submission: &'a Submission,
    pub opcode: Opcode,
    pub key: &'a [u8],
    pub value: &'a [u8],
}

impl Request<'_> {
    fn is_relaxed(&self) -> bool {
        self.submission.flags & flag::RELAXED != 0
    }

    /// The version that a conditional write expects; 0 for "absent".
    fn if_version(&self) -> Option<u64> {
        (self.submission.flags & flag::IF_VERSION != 0).then_some(self.submission.arg0)
    }

    /// After how long a key that is put is gone.
    fn ttl_ms(&self) -> Option<u64> {
        (self.submission.flags & flag::EXPIRES != 0).then_some(self.submission.arg1)
    }
}

/// The stages that a request goes through after the store.
pub struct Context<'a> {
    pub catalog: &'a Catalog,
    /// Of the namespace.
    pub shards: u32,
    pub wal: &'a mut Wal,
    pub pool: &'a mut Pool,
    pub now_ns: u64,
    pub wall: &'a Wall,
    /// What this request had to wait for.
    pub fetched: Option<&'a Fetched<'a>>,
    /// What a scan wants next, beside what it waits for: as much as there is room for.
    pub ahead: &'a mut Vec<Want>,
    /// What a read of pages has in its reply already.
    pub pages: &'a mut PagesRead,
}

impl Context<'_> {
    /// What keys with a time to live go by.
    fn lived_ms(&self) -> u64 {
        self.wall.lived_ms(self.now_ns)
    }
}

/// How a write of one object is logged and acknowledged.
#[derive(Clone, Copy)]
struct Mode {
    object: ObjectId,
    durability: Durability,
    /// A write that promises nothing, in an object that promises nothing, is not logged: unless it changes what was
    /// logged, or a recovery would bring back what is gone.
    logged: bool,
    /// Reads of this object wait for durability.
    strict_reads: bool,
}

impl Mode {
    /// Appends a record where this write is logged. Gives its LSN, and the one that the answer waits for.
    fn log(self, context: &mut Context<'_>, kind: Kind, version: u64, key: &[u8], value: &[u8]) -> (Lsn, Lsn) {
        if !self.logged {
            return (Lsn::NONE, Lsn::NONE);
        }
        let lsn = context.wal.append(context.pool, context.now_ns, kind, self.object, version, key, value);
        if self.durability == Durability::Strict {
            context.wal.want_durable();
            return (lsn, lsn);
        }
        (lsn, Lsn::NONE)
    }

    /// Appends a put that holds for so long from now on.
    #[cold]
    fn log_until(self, context: &mut Context<'_>, version: u64, key: &[u8], ttl_ms: u64, value: &[u8]) -> (Lsn, Lsn) {
        let mut room = [0; KEY_BYTES_MAX + UNTIL_BYTES];
        let until_ms = context.wall.wall_ms(context.now_ns) + ttl_ms;
        room[..key.len()].copy_from_slice(key);
        put_u64(&mut room, key.len(), until_ms);
        self.log(context, Kind::PutUntil, version, &room[..key.len() + UNTIL_BYTES], value)
    }

    /// The LSN of this write's record, or of its first part; none where it is not logged.
    fn next_lsn(self, context: &Context<'_>) -> Lsn {
        if self.logged { context.wal.last_lsn().next() } else { Lsn::NONE }
    }

    /// The outcome when there is no room in the log for a record of this size.
    fn refused(self, context: &Context<'_>, key_bytes: usize, value_bytes: usize, writer: Writer) -> Option<Outcome> {
        if !self.logged {
            return None;
        }
        match context.wal.room(context.pool, key_bytes, value_bytes, writer) {
            Room::Yes => None,
            Room::Later => Some(Outcome::Later),
            Room::NoSpace => Some(Outcome::status(Status::NoSpace)),
            Room::Fenced => Some(Outcome::status(Status::Fenced)),
        }
    }

    /// What a read that saw a change of `lsn` waits for.
    fn visible_after(self, wal: &mut Wal, lsn: Lsn) -> Lsn {
        if !self.strict_reads || lsn <= wal.durable_lsn() {
            return Lsn::NONE;
        }
        wal.want_durable();
        lsn
    }
}

/// The store of one shard. Owned by its reactor.
pub struct Store {
    limits: Limits,
    heap: Heap,
    spaces: Spaces,
    streams: Streams,
    /// What a commit has to be able to take; empty between two.
    reserved: Vec<Cell>,
    pub across: AcrossState,
    /// The writes of a commit over several shards that lie here, while they take place.
    part: Vec<u8>,
    shard: ShardId,
    /// Of the namespace.
    shards: u32,
    /// The next version: the epoch in the high bits, so that a version that was lost never comes back.
    next_version: u64,
}

/// Chunks of a cache that are left unused for the other one.
const BALANCED_CHUNKS: u64 = 2;

/// Bits of a version that count within an epoch.
const VERSION_COUNTER_BITS: u32 = 40;

impl Store {
    #[must_use]
    pub fn new(limits: Limits, shard: ShardId, shards: u32) -> Store {
        let cache_bytes_max = limits.cache_bytes_max.max(limits.value_bytes_max + 2 * limits.cache_chunk_bytes);
        Store {
            limits,
            heap: Heap::new(limits.memory_bytes_max),
            spaces: Spaces::new(
                limits.keys_max,
                limits.snapshots_max,
                limits.snapshot_bytes_max,
                Cache::new(limits.cache_chunk_bytes, cache_bytes_max),
            ),
            streams: Streams::new(Cache::new(limits.cache_chunk_bytes, cache_bytes_max)),
            reserved: Vec::with_capacity(commit::ENTRIES_MAX),
            across: AcrossState::default(),
            part: Vec::new(),
            shard,
            shards,
            next_version: 1,
        }
    }

    /// Versions from here on belong to this epoch. Called once, after recovery.
    pub fn begin_epoch(&mut self, epoch: u64) {
        self.streams.finish_replay(&mut self.heap, self.limits.producers_max);
        self.next_version = self.next_version.max(epoch << VERSION_COUNTER_BITS).max(1);
        self.across.begin(self.next_version);
    }

    /// Takes a record of the recovered log, which stands at `place`.
    ///
    /// # Errors
    /// `NoMemory` when the memory budget is smaller than what has to be in memory.
    pub fn replay(&mut self, record: &Record<'_>, place: DeviceAddress) -> Result<(), Status> {
        loop {
            match self.take(record, place) {
                // What is on the drive too makes room for what has to be in memory, whichever of the two holds it.
                Err(Status::NoMemory)
                    if self.spaces.shrink_recovered(&mut self.heap)
                        || self.streams.shrink_recovered(&mut self.heap) => {}
                taken => return taken,
            }
        }
    }

    /// Takes as much of a recovered record as there is memory for: it may be taken once more.
    fn take(&mut self, record: &Record<'_>, place: DeviceAddress) -> Result<(), Status> {
        if matches!(record.kind, Kind::Put | Kind::PutUntil | Kind::Delete | Kind::Commit | Kind::Decision) {
            self.next_version = self.next_version.max(record.version.saturating_add(1));
        }
        match record.kind {
            Kind::Put | Kind::PutUntil => {
                let (Record { object, version, lsn, key, value, .. }, until_ms) = record.split_until();
                let until = until_ms.map(Until::recovered);
                let said = Said { version, lsn, place, in_commit: false, until };
                self.spaces.replay(&mut self.heap, object, key, value, said)
            }
            Kind::Expire => {
                self.spaces.remove_version(&mut self.heap, record);
                Ok(())
            }
            Kind::Delete => {
                self.spaces.remove(&mut self.heap, record.object, record.key, record.lsn);
                Ok(())
            }
            Kind::Append | Kind::AppendBatch => self.streams.replay(&mut self.heap, record, place),
            Kind::AppendOnce => {
                self.streams.replay(&mut self.heap, record, place)?;
                self.streams.replay_producer(&mut self.heap, record, self.limits.producers_max)
            }
            Kind::Cursor => self.streams.replay_cursor(&mut self.heap, record),
            Kind::Trim => {
                self.streams.replay_trim(&mut self.heap, record.object, record.version, record.lsn);
                self.streams.replay_head(record);
                Ok(())
            }
            Kind::Retain | Kind::Mark => self.streams.replay_retention(&mut self.heap, record),
            Kind::Commit => self.replay_commit(record, place),
            Kind::Decision => self.replay_decision(record, place),
            Kind::Keys => self.replay_keys(record),
            Kind::Events => self.streams.replay_places(&mut self.heap, record),
            Kind::Create | Kind::Reclaim | Kind::CheckpointBegin | Kind::CheckpointEnd => Ok(()),
        }
    }

    /// Answers a request on a space or stream, or turns it into a record.
    #[inline]
    pub fn apply<R: Reply>(&mut self, context: &mut Context<'_>, request: &Request<'_>, reply: &mut R) -> Outcome {
        if request.opcode == Opcode::Commit {
            return self.commit(context, request);
        }
        let id = ObjectId(request.submission.object);
        let Some(object) = context.catalog.get(id) else { return Outcome::status(Status::UnknownObject) };
        if !request.opcode.suits(object.kind) {
            return Outcome::status(Status::WrongKind);
        }
        let durability = durability_of(request.submission.flags).unwrap_or(object.durability);
        let mode = Mode {
            object: id,
            durability,
            logged: durability != Durability::Memory || object.durability != Durability::Memory,
            strict_reads: object.durability == Durability::Strict && !request.is_relaxed(),
        };
        match request.opcode {
            Opcode::Put => self.put(context, request, mode),
            Opcode::Delete => self.delete(context, request, mode),
            Opcode::Get => self.get(context, request, mode, reply),
            Opcode::Scan => self.scan(context, request, mode, reply),
            Opcode::GetAt => self.get_at(context, request, mode, reply),
            Opcode::ScanAt => self.scan_at(context, request, mode, reply),
            Opcode::Extent => self.extent(context, request, mode),
            Opcode::Append | Opcode::AppendBatch if object.chained => {
                self.append_chained(context, request, mode, reply)
            }
            Opcode::Append => self.append(context, Kind::Append, request.value, mode),
            Opcode::AppendBatch => self.append(context, Kind::AppendBatch, request.value, mode),
            Opcode::AppendOnce => self.append_once(context, request, mode, object.chained, reply),
            Opcode::ReadChain => self.read_chain(context, request, mode, object.chained, reply),
            Opcode::SetCursor => self.set_cursor(context, request, mode),
            Opcode::GetCursor => self.get_cursor(context, request, mode),
            Opcode::Cursors => self.cursors(context, request, mode, reply),
            Opcode::DropCursor => self.drop_cursor(context, request, mode),
            Opcode::Read => self.read(context, request, mode, reply),
            Opcode::Trim if request.submission.arg1 == TRIM_BEGINS => self.begin_stream(context, request, mode),
            Opcode::Trim => self.trim(context, request, mode),
            Opcode::Retain => self.retain(context, request, mode),
            Opcode::WritePages | Opcode::ReadPages => self.on_pages(context, request, mode, object.page, reply),
            Opcode::Noop
            | Opcode::Sync
            | Opcode::Open
            | Opcode::Catalog
            | Opcode::Stats
            | Opcode::Commit
            | Opcode::Snapshot
            | Opcode::Release => Outcome::status(Status::BadRequest),
        }
    }

    fn next_version(&mut self) -> u64 {
        let version = self.next_version;
        self.next_version += 1;
        version
    }

    /// What a write that found no memory is told: to come again, while trimmed events or cached values give theirs back.
    fn no_memory(&mut self, wal: &Wal, status: Status) -> Outcome {
        let durable = wal.readable_lsn();
        let given = self.spaces.shrink(&mut self.heap, durable)
            || self.streams.shrink(&mut self.heap, durable)
            || self.spaces.kept.yield_memory();
        if given || self.streams.is_reclaiming() { Outcome::Later } else { Outcome::status(status) }
    }

    /// What a write is told that found no room in the cache.
    #[cold]
    fn no_cache(&mut self, full: Full) -> Outcome {
        let comes = full == Full::Now || full == Full::Memory && self.spaces.kept.yield_memory();
        if comes { Outcome::Later } else { Outcome::status(Status::NoMemory) }
    }

    /// Gives the memory of trimmed events back, and of what no snapshot sees any more, of about `budget_bytes`. Says whether there was any.
    #[inline]
    pub fn reclaim(&mut self, budget_bytes: usize, durable: Lsn) -> bool {
        let (keys, events) = (self.spaces.cache_bytes(), self.streams.cache_bytes());
        let unlike = keys.abs_diff(events) > 2 * BALANCED_CHUNKS * self.limits.cache_chunk_bytes as u64;
        if unlike && self.heap.unused_bytes() < BALANCED_CHUNKS * self.limits.cache_chunk_bytes as u64 {
            self.balance(durable);
        }
        self.spaces.sweep(&mut self.heap) | self.streams.reclaim(&mut self.heap, budget_bytes)
    }

    /// Values and events share what memory is left: when it is used up, those who have more leave some to the others.
    #[cold]
    fn balance(&mut self, durable: Lsn) {
        if self.spaces.cache_bytes() > self.streams.cache_bytes() {
            self.spaces.shrink(&mut self.heap, durable);
        } else {
            self.streams.shrink(&mut self.heap, durable);
        }
    }

    /// A record stands at another place now, and is durable there when the log is up to `lsn`. Until then its value is in
    /// memory.
    pub fn moved(&mut self, record: &Record<'_>, place: DeviceAddress, lsn: Lsn, durable: Lsn) {
        let Record { object, key, value, .. } = *record;
        match record.kind {
            Kind::Put => self.moved_put(record, object, key, value, place, lsn, durable),
            Kind::PutUntil => self.moved_put(record, object, record.split_until().0.key, value, place, lsn, durable),
            Kind::Commit | Kind::Decision => {
                for entry in commit::entries(value) {
                    if let commit::What::Put(value) = entry.what {
                        self.moved_put(record, entry.object, entry.key, value, place, lsn, durable);
                    }
                }
            }
            Kind::Append | Kind::AppendBatch | Kind::AppendOnce => {
                self.streams.moved(&mut self.heap, record, place, lsn, durable);
            }
            _ => {}
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a put, and where it stands")]
    fn moved_put(
        &mut self,
        record: &Record<'_>,
        object: ObjectId,
        key: &[u8],
        value: &[u8],
        place: DeviceAddress,
        lsn: Lsn,
        durable: Lsn,
    ) {
        let put = Record { kind: Kind::Put, object, key, value, ..*record };
        self.spaces.moved(&mut self.heap, &put, place, lsn, durable);
    }

    /// Takes a key's value that was read into the cache.
    pub fn keep(&mut self, fetched: &Fetched<'_>, durable: Lsn) {
        if let Whose::Key { slot, version, .. } = fetched.whose {
            self.spaces.keep(&mut self.heap, slot, version, fetched.value, durable);
        }
    }

    /// Takes the events of a record that was read at `place` into the cache, those that are said there.
    pub fn keep_events(&mut self, record: &Record<'_>, place: DeviceAddress, durable: Lsn) {
        self.streams.keep(&mut self.heap, record, place, durable);
    }

    /// An event in a record that was read back.
    #[must_use]
    pub fn find_event<'a>(&self, offset: u64, record: &Record<'a>) -> Option<Fetched<'a>> {
        stream::find_event(offset, record)
    }

    /// The value of a key in a commit that was read back; `None` when the key holds another one by now.
    #[must_use]
    pub fn find_in_commit<'a>(&self, want: &Want, commit: &'a [u8]) -> Option<&'a [u8]> {
        let Whose::Key { slot, version, .. } = want.whose else { return None };
        let key = self.spaces.key_of(&self.heap, slot, version)?;
        let puts = commit::entries(commit).filter(|entry| entry.object == want.object && entry.key == key);
        // Of several writes of one key the last one counts.
        match puts.last()?.what {
            commit::What::Put(value) => Some(value),
            commit::What::Read(_) | commit::What::Delete => None,
        }
    }
}
