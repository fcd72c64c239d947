//! Commits: a transaction's reads are checked, then all of its writes are one record, with one version. So a crash
//! leaves all of them or none, and no reader sees some.

use crate::ring::protocol::commit::{ENTRIES_MAX, Entry, What, entries, split_first};
use crate::ring::protocol::{Completion, Opcode, Status, durability_of, shard_of_key};
use crate::store::cache::Full;
use crate::store::catalog::Object;
use crate::store::space::{Home, Said};
use crate::store::{Context, Mode, Outcome, Request, Store};
use crate::types::{DeviceAddress, Durability, Lsn, ObjectId, ObjectKind};
use crate::wal::planted::Planted;
use crate::wal::pool::Writer;
use crate::wal::record::{Kind, Record};

/// An entry that makes sense where it stands.
pub(super) struct Checked<'a, 'c> {
    pub entry: Entry<'a>,
    pub object: &'c Object,
    /// The request from it on.
    pub from: &'a [u8],
}

/// A commit whose entries make sense.
struct Plan<'a> {
    /// A key lies in another shard; nothing else is said then.
    across: bool,
    /// Its entries that write, as they go into the log.
    writes: &'a [u8],
    /// The strictest of the spaces that it writes, or what the request asks for.
    durability: Durability,
    logged: bool,
    /// Deletes may use what is kept for them.
    writer: Writer,
}

impl Store {
    /// Checks every version that was read, and then does all writes, or nothing.
    pub(super) fn commit(&mut self, context: &mut Context<'_>, request: &Request<'_>) -> Outcome {
        let Plan { writes, durability, logged, writer, across } = match self.plan(context, request) {
            Ok(plan) => plan,
            Err(status) => return Outcome::status(status),
        };
        if across {
            return Outcome::Across;
        }
        if !self.across.locks.is_empty()
            && entries(request.value).any(|entry| self.is_locked(context, entry.object, entry.key, !entry.is_read()))
        {
            return Outcome::Later;
        }
        let seen = match self.check_reads(context, request) {
            Ok(seen) => seen,
            Err(conflict) => return conflict,
        };
        if writes.is_empty() {
            // What was read is what is told: it must not be lost any more.
            return Outcome::Answer { completion: Completion::default(), after: seen };
        }
        let mode = Mode { object: ObjectId(0), durability, logged, strict_reads: false };
        if let Some(refused) = mode.refused(context, 0, writes.len(), writer) {
            return refused;
        }
        let home = if logged { Home::Cache } else { Home::Cell };
        if logged && let Err(full) = self.make_room_for_all(writes.len(), context.wal.readable_lsn()) {
            return self.no_cache(full);
        }
        // Behind this nothing takes memory before all keys have theirs.
        match self.reserve(writes, home) {
            Ok(()) => {}
            Err(Full::Never) => return Outcome::status(Status::NoMemory),
            Err(Full::Now | Full::Memory) => return self.no_memory(context.wal, Status::NoMemory),
        }
        let version = self.next_version();
        let (lsn, after) = if context.wal.planted().is(Planted::TornCommit) && logged {
            log_apart(context, mode, version, writes)
        } else {
            mode.log(context, Kind::Commit, version, &[], writes)
        };
        let said = Said { version, lsn, place: context.wal.last_place(), in_commit: true, until: None };
        self.write_all(writes, said, context.wal.readable_lsn());
        let completion = Completion { version, lsn: lsn.0, ..Completion::default() };
        Outcome::Answer { completion, after }
    }

    /// Looks at every entry, but at no version.
    fn plan<'a>(&self, context: &Context<'_>, request: &Request<'a>) -> Result<Plan<'a>, Status> {
        let asked = durability_of(request.submission.flags);
        let of_pages = request.opcode == Opcode::WritePages;
        let kind = if of_pages { ObjectKind::Pages } else { ObjectKind::Space };
        let (durability, logged, writer) = (Durability::Memory, false, Writer::Privileged);
        let mut plan = Plan { across: false, writes: &[], durability, logged, writer };
        for checked in self.checked(context, request.value, kind) {
            let Checked { entry, object, from } = checked?;
            // Pages of one space are all here.
            if !of_pages && shard_of_key(entry.object.0, entry.key, context.shards) != context.wal.shard() {
                return Ok(Plan { across: true, ..plan });
            }
            if !entry.is_read() {
                if plan.writes.is_empty() {
                    plan.writes = from;
                }
                let durability = asked.unwrap_or(object.durability);
                plan.durability = plan.durability.max(durability);
                let logged = durability != Durability::Memory || object.durability != Durability::Memory;
                let mode = Mode { object: entry.object, durability, logged, strict_reads: false };
                plan.logged |= self.logs(&Request { key: entry.key, ..*request }, mode).logged;
            }
            if let What::Put(_) = entry.what {
                plan.writer = Writer::Ordinary;
            }
        }
        if request.value.is_empty() { Err(Status::BadRequest) } else { Ok(plan) }
    }

    /// The entries of a request one after the other, or what is wrong with it.
    pub(super) fn checked<'a, 'c>(
        &self,
        context: &Context<'c>,
        all: &'a [u8],
        kind: ObjectKind,
    ) -> impl Iterator<Item = Result<Checked<'a, 'c>, Status>> {
        let (catalog, key_bytes_max) = (context.catalog, self.limits.key_bytes_max);
        let (mut from, mut count, mut wrote) = (all, 0, false);
        std::iter::from_fn(move || {
            if from.is_empty() {
                return None;
            }
            count += 1;
            if count > ENTRIES_MAX {
                return Some(Err(Status::TransactionTooLarge));
            }
            let Some((entry, next)) = split_first(from) else { return Some(Err(Status::BadRequest)) };
            let Some(object) = catalog.get(entry.object) else { return Some(Err(Status::UnknownObject)) };
            if object.kind != kind {
                return Some(Err(Status::WrongKind));
            }
            if entry.key.is_empty() || entry.is_read() && wrote {
                return Some(Err(Status::BadRequest));
            }
            if entry.key.len() > key_bytes_max {
                return Some(Err(Status::TooLarge));
            }
            wrote |= !entry.is_read();
            Some(Ok(Checked { entry, object, from: std::mem::replace(&mut from, next) }))
        })
    }

    /// Compares the versions. Gives the LSN that an answer which tells that they are right waits for.
    fn check_reads(&self, context: &mut Context<'_>, request: &Request<'_>) -> Result<Lsn, Outcome> {
        let mut seen = Lsn::NONE;
        for (at, entry) in (0..).zip(entries(request.value)) {
            let What::Read(expected) = entry.what else { break };
            let strict =
                context.catalog.get(entry.object).is_some_and(|object| object.durability == Durability::Strict);
            let mode = Mode {
                object: entry.object,
                durability: Durability::Memory,
                logged: false,
                strict_reads: strict && !request.is_relaxed(),
            };
            let (version, lsn) = self.present(context, entry.object, entry.key);
            if version != expected && !context.wal.planted().is(Planted::SkipReadCheck) {
                let after = mode.visible_after(context.wal, lsn);
                let status = Status::Conflict as u16;
                let completion = Completion { status, version, aux: at, ..Completion::default() };
                return Err(Outcome::Answer { completion, after });
            }
            seen = seen.max(mode.visible_after(context.wal, lsn));
        }
        Ok(seen)
    }

    /// Takes all the memory that the puts may need, and gives it back: so each of them finds its own.
    fn reserve(&mut self, writes: &[u8], home: Home) -> Result<(), Full> {
        let (mut fits, mut keys, mut index_bytes) = (true, 0, 0);
        for entry in entries(writes) {
            let What::Put(value) = entry.what else { continue };
            let needs = self.spaces.needs(&self.heap, entry.object, entry.key, value.len(), home);
            keys += needs.keys;
            index_bytes += needs.index_bytes;
            if let Some(bytes) = needs.cell_bytes {
                match self.heap.take(bytes) {
                    Some(cell) => self.reserved.push(cell),
                    None => fits = false,
                }
            }
        }
        fits &= self.heap.charge(index_bytes) && {
            self.heap.refund(index_bytes);
            true
        };
        while let Some(cell) = self.reserved.pop() {
            self.heap.give(cell);
        }
        if !self.spaces.has_room_for(keys) {
            return Err(Full::Never);
        }
        if fits { Ok(()) } else { Err(Full::Memory) }
    }

    /// Whether the cache may have so many bytes of values, and room to begin with. Until they are durable all of them stay, over
    /// the budget if need be: frames in flight bound that.
    fn make_room_for_all(&mut self, bytes: usize, durable: Lsn) -> Result<(), Full> {
        if bytes as u64 > self.heap.unused_bytes() + self.spaces.cache_bytes() {
            return Err(Full::Memory);
        }
        let begin = bytes.min(self.limits.cache_chunk_bytes / 8);
        self.spaces.make_room(&mut self.heap, begin, durable)
    }

    /// First every key has its place, then its value: what the cache takes of the memory, no key of the same commit finds gone.
    pub(super) fn write_all(&mut self, writes: &[u8], said: Said, durable: Lsn) {
        let in_cells = said.lsn == Lsn::NONE;
        let home = if in_cells { Home::Cell } else { Home::Cache };
        for Entry { object, key, what } in entries(writes) {
            match what {
                What::Put(value) => {
                    self.spaces.put_key(&mut self.heap, object, key, value.len(), home, said.version);
                    if in_cells {
                        self.spaces.put_value(&mut self.heap, object, key, value, said, durable);
                    }
                }
                What::Delete => self.spaces.remove(&mut self.heap, object, key, said.lsn),
                What::Read(_) => {}
            }
        }
        for Entry { object, key, what } in entries(writes).filter(|_| !in_cells) {
            if let What::Put(value) = what {
                self.spaces.put_value(&mut self.heap, object, key, value, said, durable);
            }
        }
    }

    /// Takes writes of the recovered log, whose record stands at `place`.
    pub(super) fn replay_writes<'a>(
        &mut self,
        writes: impl Iterator<Item = Entry<'a>>,
        record: &Record<'_>,
        place: DeviceAddress,
    ) -> Result<(), Status> {
        let said = Said { version: record.version, lsn: record.lsn, place, in_commit: true, until: None };
        for Entry { object, key, what } in writes {
            match what {
                What::Put(value) => self.spaces.replay(&mut self.heap, object, key, value, said)?,
                What::Delete => self.spaces.remove(&mut self.heap, object, key, said.lsn),
                What::Read(_) => {}
            }
        }
        Ok(())
    }
}

/// The planted bug: a crash between two of these leaves a part of the transaction.
#[cold]
fn log_apart(context: &mut Context<'_>, mode: Mode, version: u64, writes: &[u8]) -> (Lsn, Lsn) {
    let (mut rest, mut logged) = (writes, (Lsn::NONE, Lsn::NONE));
    while let Some((_, next)) = split_first(rest) {
        let (entry, _) = rest.split_at(rest.len() - next.len());
        logged = mode.log(context, Kind::Commit, version, &[], entry);
        rest = next;
    }
    logged
}
