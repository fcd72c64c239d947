//! One shard's part of a commit over several shards: its reads are checked and its keys locked, and memory for its writes is
//! put aside; later all of it takes place, or nothing. Who decides, and when, is the reactor's (`reactor/across.rs`).

use crate::buffer::Pool;
use crate::ring::protocol::commit::{Entry, What, entries};
use crate::ring::protocol::{Completion, Status, durability_of, flag, shard_of_key};
use crate::store::decisions::PART_KEY_BYTES;
use crate::store::heap::Cell;
use crate::store::space::{Home, Said, Until};
use crate::store::transaction::Checked;
use crate::store::{Context, Mode, Request, Store};
use crate::types::{Durability, Lsn, ObjectId, ObjectKind, ShardId};
use crate::wal::planted::Planted;
use crate::wal::pool::Writer;
use crate::wal::record::Kind;
use crate::wal::{Fence, Room, Wal};

/// What a commit over several shards asks of each of them.
#[derive(Clone, Copy)]
pub struct Across<'a> {
    /// Of all shards, the reads first.
    pub entries: &'a [u8],
    pub flags: u8,
    pub coordinator: ShardId,
    pub scope: Scope,
}

/// What the entries of such a commit concern.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    pub writes: bool,
    pub puts: bool,
    /// Something is promised for it, so it is logged.
    pub logged: bool,
    /// It touches what may be durable.
    pub durable: bool,
}

/// What a shard holds ready.
#[derive(Debug, Default)]
pub struct Prepared {
    cells: Vec<Cell>,
    keys: usize,
    index_bytes: usize,
    /// A key that it writes is logged already, so the commit has to be.
    pub logged: bool,
    /// The version of the commit is to be at least this.
    pub version_min: u64,
    /// It is ready when this is durable.
    pub after: Lsn,
}

/// Why a shard does not take part.
#[derive(Debug)]
pub enum Unready {
    /// There is no room now.
    Later,
    /// Another one holds a key.
    Locked(Completion),
    /// To be answered when this is durable.
    No(Completion, Lsn),
}

fn refuse(status: Status) -> Unready {
    Unready::No(Completion { status: status as u16, ..Completion::default() }, Lsn::NONE)
}

/// The entries that lie in a shard, with their places.
pub(super) fn own(all: &[u8], shards: u32, shard: ShardId) -> impl Iterator<Item = (u64, Entry<'_>)> {
    (0..).zip(entries(all)).filter(move |(_, entry)| shard_of_key(entry.object.0, entry.key, shards) == shard)
}

impl Store {
    /// Looks at every entry of a commit over several shards, but at no version. Hands the shard of each to `shard`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn scope(
        &self,
        context: &Context<'_>,
        request: &Request<'_>,
        mut shard: impl FnMut(ShardId),
    ) -> Result<Scope, Status> {
        let asked = durability_of(request.submission.flags);
        let mut scope = Scope::default();
        for checked in self.checked(context, request.value, ObjectKind::Space) {
            let Checked { entry, object, .. } = checked?;
            let durability = if entry.is_read() { object.durability } else { asked.unwrap_or(object.durability) };
            let durable = durability.max(object.durability) != Durability::Memory;
            scope.durable |= durable;
            if !entry.is_read() {
                (scope.writes, scope.logged) = (true, scope.logged | durable);
            }
            scope.puts |= matches!(entry.what, What::Put(_));
            shard(shard_of_key(entry.object.0, entry.key, context.shards));
        }
        Ok(scope)
    }

    /// Whether a write of this key, or a commit that read it, has to wait for a commit over several shards. Those who read a
    /// key together see it alike: where its time ended meanwhile nobody else joins them.
    #[cold]
    pub(super) fn is_locked(&self, context: &Context<'_>, object: ObjectId, key: &[u8], writes: bool) -> bool {
        let held = self.across.locks.of(self.spaces.hash(object, key));
        held.is_some_and(|held| {
            let until = || self.spaces.until_of(&self.heap, object, key);
            let ended = |Until { lived_ms, .. }| held.since_ms < lived_ms && lived_ms <= context.lived_ms();
            writes || held.writer || until().is_some_and(ended)
        })
    }

    /// Whether a key whose time is over is removed later: who holds it saw it, or is about to write to it.
    #[cold]
    pub(super) fn outlives(&self, object: ObjectId, key: &[u8], until_ms: u64) -> bool {
        let held = self.across.locks.of(self.spaces.hash(object, key));
        held.is_some_and(|held| held.writer || held.since_ms < until_ms)
    }

    /// Checks the reads, locks the keys, and puts memory for the writes aside; or does nothing.
    ///
    /// # Errors
    /// Why not, or not now.
    pub fn prepare(&mut self, context: &mut Context<'_>, across: &Across<'_>) -> Result<Prepared, Unready> {
        let shard = context.wal.shard();
        let (mut bytes, mut keys, mut seen, mut logged) = (0, 0, Lsn::NONE, false);
        for (at, entry) in own(across.entries, context.shards, shard) {
            let object = context.catalog.get(entry.object).ok_or(refuse(Status::UnknownObject))?;
            let strict = object.durability == Durability::Strict && across.flags & flag::RELAXED == 0;
            let mode =
                Mode { object: entry.object, durability: Durability::Memory, logged: false, strict_reads: strict };
            let (version, lsn) = self.present(context, entry.object, entry.key);
            if self.is_locked(context, entry.object, entry.key, !entry.is_read()) {
                let status = Status::Locked as u16;
                return Err(Unready::Locked(Completion { status, version, aux: at, ..Completion::default() }));
            }
            keys += 1;
            match entry.what {
                What::Read(expected) if version != expected => {
                    let after = mode.visible_after(context.wal, lsn);
                    let status = Status::Conflict as u16;
                    return Err(Unready::No(Completion { status, version, aux: at, ..Completion::default() }, after));
                }
                What::Read(_) if strict => seen = seen.max(lsn),
                What::Read(_) => {}
                What::Put(_) | What::Delete => {
                    bytes += entry.bytes();
                    logged |= self.spaces.is_logged(&self.heap, entry.object, entry.key);
                }
            }
        }
        if !self.across.locks.has_room(keys) {
            return Err(Unready::Later);
        }
        let logs = across.scope.logged || logged;
        self.has_room(context, across, if logs && bytes > 0 { Some(bytes) } else { None })?;
        let mut prepared = self.put_aside(context, across)?;
        let decides = shard == across.coordinator;
        prepared.logged = logged;
        prepared.version_min = self.next_version;
        // What it stands on must not be lost where it is kept: in another log. In this one it stands before it anyway.
        prepared.after = match across.scope {
            Scope { writes: true, durable: true, .. } if !decides => context.wal.last_lsn(),
            Scope { writes: true, .. } => Lsn::NONE,
            _ => seen,
        };
        self.lock(across.entries, context, true);
        Ok(prepared)
    }

    fn has_room(&self, context: &Context<'_>, across: &Across<'_>, bytes: Option<usize>) -> Result<(), Unready> {
        let Some(bytes) = bytes else { return Ok(()) };
        let writer = if across.scope.puts { Writer::Ordinary } else { Writer::Privileged };
        match context.wal.room(context.pool, PART_KEY_BYTES, bytes, writer) {
            Room::Yes => Ok(()),
            Room::Later => Err(Unready::Later),
            Room::NoSpace => Err(refuse(Status::NoSpace)),
            Room::Fenced => Err(refuse(Status::Fenced)),
        }
    }

    /// Takes all the memory that the puts may need, until they take place. Whether the commit is logged another shard may
    /// say only later.
    fn put_aside(&mut self, context: &Context<'_>, across: &Across<'_>) -> Result<Prepared, Unready> {
        let homes = if across.scope.logged { &[Home::Cache][..] } else { &[Home::Cache, Home::Cell] };
        let (mut prepared, mut fits) = (Prepared::default(), true);
        for (_, entry) in own(across.entries, context.shards, context.wal.shard()) {
            let What::Put(value) = entry.what else { continue };
            for home in homes {
                let needs = self.spaces.needs(&self.heap, entry.object, entry.key, value.len(), *home);
                if *home == Home::Cache {
                    prepared.keys += needs.keys;
                    let charged = self.heap.charge(needs.index_bytes);
                    prepared.index_bytes += if charged { needs.index_bytes } else { 0 };
                    fits &= charged;
                }
                if let Some(bytes) = needs.cell_bytes {
                    let cell = self.heap.take(bytes);
                    fits &= cell.is_some();
                    prepared.cells.extend(cell);
                }
            }
        }
        if fits && self.spaces.expect_keys(prepared.keys) {
            return Ok(prepared);
        }
        prepared.keys = 0;
        self.give_back(&mut prepared);
        if fits {
            // Memory is there: the keys are too many.
            return Err(refuse(Status::NoMemory));
        }
        match self.no_memory(context.wal, Status::NoMemory) {
            crate::store::Outcome::Later => Err(Unready::Later),
            _ => Err(refuse(Status::NoMemory)),
        }
    }

    fn give_back(&mut self, prepared: &mut Prepared) {
        prepared.cells.drain(..).for_each(|cell| self.heap.give(cell));
        self.heap.refund(std::mem::take(&mut prepared.index_bytes));
        self.spaces.expect_no_more(std::mem::take(&mut prepared.keys));
    }

    fn lock(&mut self, all: &[u8], context: &Context<'_>, locks: bool) {
        let unread = context.wal.planted().is(Planted::SkipReadLocks);
        for (_, entry) in own(all, context.shards, context.wal.shard()) {
            let (hash, writes) = (self.spaces.hash(entry.object, entry.key), !entry.is_read());
            match locks {
                _ if unread && !writes => {}
                true => self.across.locks.lock(hash, writes, context.lived_ms()),
                false => self.across.locks.unlock(hash, writes),
            }
        }
    }

    /// Nothing of it takes place, or there is nothing to do.
    pub fn release(&mut self, context: &Context<'_>, across: &Across<'_>, mut prepared: Prepared) {
        self.give_back(&mut prepared);
        self.lock(across.entries, context, false);
    }

    /// Logs the decision: from the moment when it is durable the commit has taken place. Gives its version, at least
    /// `version_min`, and its place. `room` said yes to the key and the writes.
    pub fn decide(&mut self, context: &mut Context<'_>, writes: &[u8], version_min: u64) -> Said {
        let version = self.version_from(version_min);
        let forgets = context.wal.is_planted(Planted::ForgetDecision);
        let before = if forgets { version } else { self.across.resolved_before(version) };
        let key = before.to_le_bytes();
        let writes_here = own(writes, context.shards, context.wal.shard()).next().is_some();
        self.across.note_decided(version, writes_here);
        let (kind, object) = (Kind::Decision, ObjectId(0));
        let lsn = context.wal.append(context.pool, context.now_ns, kind, object, version, &key, writes);
        if !context.wal.is_planted(Planted::DecideTooEarly) {
            context.wal.want_durable();
        }
        Said { version, lsn, place: context.wal.last_place(), in_commit: true, until: None }
    }

    /// No version was given out above this one.
    #[must_use]
    pub fn last_version(&self) -> u64 {
        self.next_version - 1
    }

    /// A version that is new here, and at least this.
    pub fn version_from(&mut self, version_min: u64) -> u64 {
        self.next_version = self.next_version.max(version_min);
        self.next_version()
    }

    /// Does the writes that lie here, which were prepared. `said`: what the coordinator logged, nothing where the commit is
    /// not. Gives the LSN of what this shard logged, if anything.
    ///
    /// # Errors
    /// The log has no room now: nothing was done. It will be asked again.
    pub fn take_place(
        &mut self,
        context: &mut Context<'_>,
        across: &Across<'_>,
        prepared: &mut Prepared,
        said: Said,
    ) -> Result<Lsn, Room> {
        let (mut part, decided) = (std::mem::take(&mut self.part), said.place);
        part.clear();
        let writes = own(across.entries, context.shards, context.wal.shard()).map(|(_, entry)| entry);
        writes.filter(|entry| !entry.is_read()).for_each(|entry| entry.encode(|bytes| part.extend_from_slice(bytes)));
        let logged = self.log_part(context, across.coordinator, &part, said);
        if let Ok(said) = logged {
            if said.lsn != Lsn::NONE && !part.is_empty() {
                // If there is none the budget is exceeded for a while: there is no way back.
                let _ = self.spaces.make_room(&mut self.heap, part.len(), context.wal.readable_lsn());
            }
            // Behind this nothing takes memory before all keys have theirs.
            self.give_back(prepared);
            self.write_all(&part, said, context.wal.readable_lsn());
            self.next_version = self.next_version.max(said.version + 1);
            if context.wal.shard() == across.coordinator {
                self.across.note_done(said.version);
            }
            self.lock(across.entries, context, false);
        }
        self.part = part;
        logged.map(|said| if said.place == decided { Lsn::NONE } else { said.lsn })
    }

    /// It is decided, so it cannot be refused. It takes of what is kept for copies only when they wait for this shard, or
    /// nothing else would come.
    fn has_room_for_part(&self, context: &mut Context<'_>, part: &[u8]) -> Result<(), Room> {
        let room = |wal: &Wal, pool: &Pool, writer| wal.room(pool, PART_KEY_BYTES, part.len(), writer);
        let last = self.across.has_undone() || room(context.wal, context.pool, Writer::Privileged) == Room::NoSpace;
        let writer = if last { Writer::Reclaim } else { Writer::Privileged };
        let room = room(context.wal, context.pool, writer);
        if room == Room::NoSpace && !context.wal.segments().reclaims() {
            // Nothing else can be written here either. The next start shows the part, and has no room for it, too.
            context.wal.fence(Fence::PartNoSpace);
            return Err(Room::Fenced);
        }
        if matches!(room, Room::Later | Room::NoSpace) {
            context.wal.want_room(context.pool);
            if last {
                context.wal.want_segment();
            }
        }
        if room == Room::Yes { Ok(()) } else { Err(room) }
    }

    fn log_part(
        &mut self,
        context: &mut Context<'_>,
        coordinator: ShardId,
        part: &[u8],
        said: Said,
    ) -> Result<Said, Room> {
        let decides = context.wal.shard() == coordinator;
        if said.lsn == Lsn::NONE || decides || part.is_empty() {
            return Ok(said);
        }
        self.has_room_for_part(context, part)?;
        let key = coordinator.0.to_le_bytes();
        let (kind, object, version) = (Kind::Commit, ObjectId(0), said.version);
        let lsn = context.wal.append(context.pool, context.now_ns, kind, object, version, &key, part);
        self.across.note_applied(coordinator.index(), version, lsn);
        Ok(Said { lsn, place: context.wal.last_place(), ..said })
    }
}
