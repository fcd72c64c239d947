//! Draws the operations of a thread, turns them into requests, and judges their answers.

use super::generators::{Operations, What};
use super::job::Job;
use super::ledger::Ledger;
use super::operation::{Action, Kind, Operation, failed, failure_of, wrong};
use super::payload::{Payload, Stamp, key_number, write_key};
use super::prepare::Prepared;
use super::stats::Failure;
use super::transactions::Transactions;
use crate::ring::client::{Answer, Object, Request, Write, events, pairs};
use crate::ring::protocol::{
    AUX_MORE, EVENT_HEADER_BYTES, KEY_BYTES_MAX, PAGE_HEADER_BYTES, PAIR_HEADER_BYTES, Status,
};
use crate::types::{ObjectKind, ShardId};
use std::time::Duration;

/// What follows an operation.
pub enum Next {
    Nothing,
    /// Its other half.
    Submit(Operation),
    /// All of it once more, after so long: it met a conflict.
    Again(Operation, Duration),
    /// Nothing, and it did not take place: it met too many.
    GiveUp,
}

pub struct Source {
    object: Object,
    how: Write,
    writer: u64,
    events: std::ops::Range<u64>,
    key: [u8; KEY_BYTES_MAX],
    key_bytes: usize,
    /// The number of the page that is read.
    page: [u64; 1],
    read_bytes_max: usize,
    scan_pairs_max: usize,
    shards: u32,
    verify: bool,
    operations: Operations,
    transactions: Transactions,
    payload: Payload,
    writes: u64,
    next_offset: u64,
    sync_every: Option<u32>,
    writes_since_sync: u32,
    /// Reactors that a due sync has still to be asked of.
    syncs_due: u32,
    pub ledger: Option<Ledger>,
}

impl Source {
    #[must_use]
    pub fn new((job, clone): (&Job, u32), prepared: &Prepared, writer: u64, ledger: Option<Ledger>) -> Source {
        let bytes_max = prepared.read_bytes_max.max(job.sizes.bytes_max() as usize);
        Source {
            object: prepared.object,
            how: Write { durability: job.durability, expires: job.ttl, ..Write::default() },
            writer,
            events: prepared.events.clone(),
            key: [0; KEY_BYTES_MAX],
            key_bytes: job.key_bytes,
            page: [0],
            read_bytes_max: prepared.read_bytes_max,
            scan_pairs_max: job.scan_length.map_or(0, |(_, most)| most as usize),
            shards: prepared.shards,
            verify: job.verify,
            operations: Operations::new(job, clone),
            transactions: Transactions::new(job),
            payload: Payload::new(bytes_max, job.compress_percent),
            writes: 0,
            next_offset: prepared.events.start,
            sync_every: job.sync_every,
            writes_since_sync: 0,
            syncs_due: 0,
            ledger,
        }
    }

    /// The bytes of the largest reply.
    #[must_use]
    pub fn reply_bytes_max(&self) -> usize {
        (self.read_bytes_max + EVENT_HEADER_BYTES).max(self.scan_bytes_max(self.scan_pairs_max))
    }

    /// Room for the pairs that one shard gives for a scan.
    fn scan_bytes_max(&self, pairs: usize) -> usize {
        pairs * (PAIR_HEADER_BYTES + self.key_bytes + self.read_bytes_max)
    }

    /// Requests that an operation takes at the same time.
    #[must_use]
    pub fn parts(&self, action: Action) -> u32 {
        match action {
            Action::Scan { .. } => self.shards,
            Action::ReadRows { slot } => self.transactions.reads(slot),
            _ => 1,
        }
    }

    #[must_use]
    pub fn sync_is_due(&self) -> bool {
        self.syncs_due > 0
    }

    /// The next operation, for this slot of the worker: a sync if one is due, else what the job's generators give.
    pub fn draw(&mut self, slot: u32) -> Operation {
        if self.syncs_due > 0 {
            return Operation { action: Action::Sync { reactor: self.syncs_due - 1 }, bytes: 0, kind: Kind::Sync };
        }
        if self.transactions.any() {
            self.transactions.begin(slot, &mut self.operations);
            return Operation { action: self.first_of_transaction(slot), bytes: 0, kind: Kind::Transaction };
        }
        let draw = self.operations.draw();
        let key = draw.key;
        let (action, kind) = match (self.object.kind, draw.what) {
            (ObjectKind::Space | ObjectKind::Pages, What::Read) => (Action::Get { key }, Kind::Read),
            (_, What::Scan(pairs)) => (Action::Scan { key, pairs }, Kind::Scan),
            (ObjectKind::Stream, What::Read) => {
                let offset = self.next_offset;
                self.next_offset = if offset + 1 == self.events.end { self.events.start } else { offset + 1 };
                (Action::Read { offset }, Kind::Read)
            }
            (_, What::Modify) => (Action::Get { key }, Kind::Modify),
            (_, What::Insert) => (Action::Put { key, write: self.next_write() }, Kind::Insert),
            (ObjectKind::Space | ObjectKind::Pages, What::Write) => {
                (Action::Put { key, write: self.next_write() }, Kind::Write)
            }
            (ObjectKind::Stream, What::Write) => (Action::Append { write: self.next_write() }, Kind::Write),
        };
        Operation { action, bytes: draw.bytes, kind }
    }

    /// Of one that reads nothing its commit.
    fn first_of_transaction(&self, slot: u32) -> Action {
        if self.transactions.reads(slot) > 0 { Action::ReadRows { slot } } else { Action::Commit { slot } }
    }

    fn next_write(&mut self) -> u64 {
        self.writes += 1;
        self.writes - 1
    }

    /// What follows an operation that was answered so and judged well.
    pub fn next(&mut self, Operation { kind, action, bytes }: Operation, status: Status) -> Next {
        let next = |action| Operation { action, bytes, kind };
        match (kind, action) {
            (Kind::Modify, Action::Get { key }) => Next::Submit(next(Action::Put { key, write: self.next_write() })),
            (_, Action::ReadRows { slot }) => Next::Submit(next(Action::Commit { slot })),
            (_, Action::Commit { slot }) if is_conflict(status) => match self.transactions.conflict(slot) {
                Some(wait) => Next::Again(next(self.first_of_transaction(slot)), wait),
                None => Next::GiveUp,
            },
            _ => Next::Nothing,
        }
    }

    /// Which of the job's profiles the transaction in this slot has.
    #[must_use]
    pub fn profile(&self, slot: u32) -> usize {
        self.transactions.profile(slot)
    }

    /// An operation was published: after every so many writes, a sync is due on each of the `reactors`.
    pub fn started(&mut self, action: Action, reactors: u32) {
        match (action, self.sync_every) {
            (Action::Sync { .. }, _) => self.syncs_due -= 1,
            (Action::Put { .. } | Action::Append { .. }, Some(every)) => {
                self.writes_since_sync += 1;
                if self.writes_since_sync == every {
                    (self.writes_since_sync, self.syncs_due) = (0, reactors);
                }
            }
            _ => {}
        }
    }

    /// Hands the request to `submit`: `part` of an operation that takes several. Allocates for the entries of a commit.
    pub fn with_request<T>(&mut self, operation: Operation, part: u32, submit: impl FnOnce(&Request<'_>) -> T) -> T {
        if let Action::Commit { slot } = operation.action {
            let Source { object, writer, writes, payload, transactions, .. } = self;
            let next_write = || {
                *writes += 1;
                *writes - 1
            };
            return transactions.commit((*object, slot), (payload, *writer), next_write, submit);
        }
        submit(&self.request(operation, part))
    }

    fn request(&mut self, Operation { action, bytes, .. }: Operation, part: u32) -> Request<'_> {
        let action = self.one(action, part);
        let scan_bytes_max = |pairs: u32| self.scan_bytes_max(pairs as usize);
        let scan_bytes_max = if let Action::Scan { pairs, .. } = action { scan_bytes_max(pairs) } else { 0 };
        let (object, how, writer, bytes) = (self.object, self.how, self.writer, bytes as usize);
        if object.kind == ObjectKind::Pages {
            return self.page_request(action, bytes);
        }
        let key = &mut self.key[..self.key_bytes];
        match action {
            Action::Put { key: number, write } => {
                write_key(key, number);
                let value = self.payload.fill(Stamp { writer, key: number, write }, bytes);
                Request::Put { space: object, key, value, how }
            }
            Action::Get { key: number } => {
                write_key(key, number);
                Request::Get { space: object, key, relaxed: false, value_bytes_max: self.read_bytes_max }
            }
            Action::Scan { key: number, pairs } => {
                write_key(key, number);
                let (shard, limit) = (ShardId(part), u64::from(pairs));
                Request::Scan {
                    space: object,
                    shard,
                    begin: key,
                    end: &[],
                    prefix: false,
                    limit,
                    reply_bytes_max: scan_bytes_max,
                    relaxed: false,
                }
            }
            Action::Append { write } => {
                let event = self.payload.fill(Stamp { writer, key: write, write }, bytes);
                Request::Append { stream: object, event, how }
            }
            Action::Read { offset } => Request::Read {
                stream: object,
                from: offset,
                wait: Duration::ZERO,
                reply_bytes_max: self.read_bytes_max + EVENT_HEADER_BYTES,
                relaxed: false,
            },
            Action::Sync { reactor } => Request::Sync { reactor },
            Action::ReadRows { .. } | Action::Commit { .. } => unreachable!("a row is a get, a commit is made above"),
        }
    }

    /// A part of the reads of a transaction is a get.
    fn one(&self, action: Action, part: u32) -> Action {
        match action {
            Action::ReadRows { slot } => Action::Get { key: self.transactions.key(slot, part) },
            action => action,
        }
    }

    /// The same on pages.
    fn page_request(&mut self, action: Action, bytes: usize) -> Request<'_> {
        let (space, durability) = (self.object, self.how.durability);
        match action {
            Action::Put { key: number, write } => {
                let stamp = Stamp { writer: self.writer, key: number, write };
                let page = self.payload.fill(stamp, bytes);
                Request::WritePage { space, number, page, durability }
            }
            Action::Get { key } => {
                self.page = [key];
                let reply_bytes_max = PAGE_HEADER_BYTES + bytes;
                Request::ReadPages { space, numbers: &self.page, snapshot: None, relaxed: false, reply_bytes_max }
            }
            Action::Sync { reactor } => Request::Sync { reactor },
            _ => unreachable!("a job on pages reads and writes them"),
        }
    }

    /// Whether `part` of an operation did what it should; the bytes it moved. A conflict is not wrong.
    pub fn judge(&mut self, operation: Operation, part: u32, answer: &Answer, reply: &[u8]) -> Result<u64, Failure> {
        let action = self.one(operation.action, part);
        if matches!(action, Action::Commit { .. }) && is_conflict(answer.status) {
            return Ok(0);
        }
        let is_over = self.how.expires.is_some() && answer.status == Status::NotFound;
        if is_over && matches!(action, Action::Get { .. }) {
            return Ok(0);
        }
        if answer.status != Status::Ok {
            if let (Action::Append { write }, Some(ledger)) = (action, &mut self.ledger) {
                ledger.failed.push(write);
            }
            return Err(failed(action, answer.status));
        }
        match (action, &mut self.ledger) {
            (Action::Put { key, write }, Some(ledger)) => ledger.acknowledge(key, write, answer.version),
            (Action::Append { write }, Some(ledger)) => ledger.acknowledge(u64::MAX, write, answer.version),
            (Action::Commit { slot }, Some(ledger)) => {
                self.transactions.written(slot).for_each(|row| ledger.acknowledge_row(row, answer.version));
            }
            _ => {}
        }
        if let Action::ReadRows { slot } = operation.action {
            self.transactions.take(slot, part, answer.version, reply);
        }
        match action {
            Action::Get { key } => {
                let value = match self.object.kind {
                    ObjectKind::Pages if answer.aux == 0 => return Err(wrong(action, "it was never written")),
                    ObjectKind::Pages => reply.get(PAGE_HEADER_BYTES..).unwrap_or(&[]),
                    ObjectKind::Space | ObjectKind::Stream => reply,
                };
                self.check(value, Some(key)).map_err(|cause| wrong(action, &cause))?;
                Ok(value.len() as u64)
            }
            Action::Scan { pairs, .. } => self.judge_scan(action, pairs, answer, reply),
            Action::Read { offset } => match events(reply).next() {
                Some(Ok((found, event))) if found == offset => {
                    self.check(event, None).map_err(|cause| wrong(action, &cause))?;
                    Ok(event.len() as u64)
                }
                Some(Ok((found, _))) => Err(wrong(action, &format!("offset {found} came instead"))),
                Some(Err(error)) => Err(failure_of(&error)),
                None => Err(wrong(action, "the event is gone")),
            },
            Action::Commit { slot } => Ok(self.transactions.written(slot).map(|row| u64::from(row.bytes)).sum()),
            _ => Ok(u64::from(operation.bytes)),
        }
    }

    fn judge_scan(&self, action: Action, pairs_max: u32, answer: &Answer, reply: &[u8]) -> Result<u64, Failure> {
        let (mut found, mut bytes) = (0, 0);
        for pair in pairs(reply) {
            let (key, _, value) = pair.map_err(|error| failure_of(&error))?;
            self.check(value, key_number(key)).map_err(|cause| wrong(action, &cause))?;
            found += 1;
            bytes += value.len() as u64;
        }
        if found < pairs_max && answer.aux & AUX_MORE != 0 {
            return Err(wrong(action, &format!("a shard gave {found} and has more; make scan_length= smaller")));
        }
        Ok(bytes)
    }

    /// With `verify`, a read value has to be one that a load wrote, and to this key.
    fn check(&self, value: &[u8], key: Option<u64>) -> Result<(), String> {
        if !self.verify {
            return Ok(());
        }
        let stamp = self.payload.check(value)?;
        match key {
            Some(key) if key != stamp.key => Err(format!("it holds what was written to key {}", stamp.key)),
            _ => Ok(()),
        }
    }
}

/// Another transaction was quicker, or is about to commit at this moment.
fn is_conflict(status: Status) -> bool {
    matches!(status, Status::Conflict | Status::Locked)
}
