//! One shard of a reactor: its store, its log, and the answers that wait for durability, in LSN order.

use std::collections::VecDeque;

use crate::buffer::Pool;
use crate::reactor::Log;
use crate::reactor::checkpoint::Checkpoint;
use crate::reactor::reclaim::Reclaim;
use crate::ring::protocol::{Completion, Status};
use crate::store::Store;
use crate::store::redo::{Redo, Replay};
use crate::types::Lsn;
use crate::wal::pool::Writer;
use crate::wal::record;
use crate::wal::{Fence, Room, Wal};

/// Something that waits for an LSN to become durable.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pending {
    Reply {
        slot: usize,
        completion: Completion,
    },
    /// A part of a sync: see `SyncTable`.
    Sync {
        sync: usize,
        status: Status,
    },
}

/// Owned by its reactor.
pub struct Shard {
    pub store: Store,
    pub wal: Wal,
    pub(super) reclaim: Reclaim,
    pub(super) checkpoint: Checkpoint,
    /// The log had no room to say that a key is gone.
    pub(super) expiry_blocked: bool,
    pending: VecDeque<(Lsn, Pending)>,
    /// What the flight recorder held beyond the durable log, and how much of it is appended again.
    replay: Vec<u8>,
    replayed_bytes: usize,
    /// Parts of commits over several shards that this log lacks.
    missing: VecDeque<Redo>,
    attached: bool,
    /// Was attached since the start.
    settled: bool,
}

impl Shard {
    #[must_use]
    pub fn new(store: Store, wal: Wal, replay: Vec<u8>, missing: Vec<Redo>) -> Shard {
        Shard {
            store,
            wal,
            reclaim: Reclaim::default(),
            checkpoint: Checkpoint::default(),
            expiry_blocked: false,
            pending: VecDeque::new(),
            replay,
            replayed_bytes: 0,
            missing: missing.into(),
            attached: false,
            settled: false,
        }
    }

    /// Goes on with another log over the same memory.
    pub(super) fn resume(&mut self, log: Log, epoch: u64) {
        debug_assert!(self.pending.is_empty(), "a fenced shard answers all at once");
        self.wal = log.wal;
        self.reclaim = Reclaim::default();
        self.checkpoint = Checkpoint::default();
        (self.replay, self.replayed_bytes, self.attached) = (log.replay, 0, false);
        self.store.begin_epoch(epoch);
    }

    /// Room for so many answers in all, so that deferring one never allocates.
    pub(super) fn reserve(&mut self, answers: usize) {
        self.pending.reserve(answers.saturating_sub(self.pending.len()));
    }

    /// Answers that there is room for.
    #[cfg(test)]
    pub(super) fn reserved(&self) -> usize {
        self.pending.capacity()
    }

    /// Answers once `after` is durable. Answers leave in LSN order: one for an earlier LSN waits for those before it.
    pub(super) fn defer(&mut self, slot: usize, completion: Completion, after: Lsn) {
        self.push(after, Pending::Reply { slot, completion });
    }

    pub(super) fn defer_sync(&mut self, sync: usize) {
        self.push(self.wal.last_lsn(), Pending::Sync { sync, status: Status::Ok });
    }

    fn push(&mut self, after: Lsn, pending: Pending) {
        let after = self.pending.back().map_or(after, |(last, _)| after.max(*last));
        self.pending.push_back((after, pending));
    }

    /// The next answer whose promise holds. In a fenced shard, the next one whose promise never will.
    pub(super) fn take_ready(&mut self) -> Option<Pending> {
        let (after, _) = self.pending.front()?;
        let durable = *after <= self.wal.durable_lsn();
        if !durable && !self.wal.is_hopeless() {
            return None;
        }
        let (_, pending) = self.pending.pop_front()?;
        if durable {
            return Some(pending);
        }
        let fenced = Status::Fenced;
        Some(match pending {
            Pending::Reply { slot, completion } => {
                let completion = Completion { status: fenced as u16, reply_bytes: 0, ..completion };
                Pending::Reply { slot, completion }
            }
            Pending::Sync { sync, .. } => Pending::Sync { sync, status: fenced },
        })
    }

    /// Whether everything is on the drive, and the drive says so: its flight recorder is not needed any more.
    #[must_use]
    pub fn has_landed(&self) -> bool {
        self.attached && self.wal.is_stated()
    }

    /// Whether it writes, has room for what falls due, and all that it took is durable.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.wal.fenced().is_none() && self.wal.is_durable() && !self.expiry_blocked
    }

    /// The record that was appended again, the last `taken` bytes of those, stands in the log now.
    fn tell_place(&mut self, taken: usize) {
        let encoded = &self.replay[self.replayed_bytes - taken..self.replayed_bytes];
        let (place, lsn, durable) = (self.wal.last_place(), self.wal.last_lsn(), self.wal.durable_lsn());
        let mut assembler = record::Assembler::default();
        let store = &mut self.store;
        let mut at = 0;
        while let Some((part, bytes)) = self.wal.decode(&encoded[at..]) {
            assembler.push(&part, place, &mut |record, place| store.moved(record, place, lsn, durable));
            at += bytes;
        }
    }

    /// Appends what is missing of commits that other shards decided: when it is sure that their decisions are durable. Else
    /// nothing may be written here, for the next start would do those parts again, after it.
    fn redo(&mut self, pool: &mut Pool, now_ns: u64) {
        let Shard { store, wal, .. } = self;
        while let Some(part) = self.missing.front() {
            let key = part.coordinator.0.to_le_bytes();
            match store.across.settling.replay(part.coordinator) {
                Replay::UnderWay => return,
                Replay::Failed => return wal.fence(Fence::DecisionInDoubt),
                Replay::Durable => {}
            }
            match wal.room(pool, key.len(), part.writes.len(), Writer::Replay) {
                Room::Yes => {}
                Room::NoSpace => return wal.fence(Fence::PartNoSpace),
                Room::Later => return wal.want_segment(),
                Room::Fenced => return,
            }
            let record = part.record(&key, Lsn::NONE);
            let lsn = wal.append_record(pool, now_ns, &record);
            wal.want_durable();
            store.moved(&record, wal.last_place(), lsn, wal.durable_lsn());
            self.missing.pop_front();
        }
    }

    /// Appends again what the flight recorder held, as far as there is room, and attaches the recorder when all of
    /// it is durable and the first segment is there. What can never be appended fences the shard: it serves reads, and
    /// the recorder keeps what it holds for another start. Says whether this shard is ready.
    pub(super) fn settle(&mut self, pool: &mut Pool, now_ns: u64) -> bool {
        while self.replayed_bytes < self.replay.len() && self.wal.fenced().is_none() {
            let rest = &self.replay[self.replayed_bytes..];
            let taken = record::claimed_whole_bytes(rest);
            match self.wal.room(pool, 0, taken - record::HEADER_BYTES, Writer::Replay) {
                Room::Yes => match self.wal.replay(pool, &rest[..taken], now_ns) {
                    Ok(()) => {
                        self.replayed_bytes += taken;
                        self.tell_place(taken);
                    }
                    Err(_) => self.wal.fence(Fence::ReplayFrameTooSmall),
                },
                Room::NoSpace => self.wal.fence(Fence::ReplayNoSpace),
                Room::Later => {
                    self.wal.want_segment();
                    break;
                }
                Room::Fenced => break,
            }
        }
        if self.wal.fenced().is_none() && self.wal.is_durable() && self.replayed_bytes == self.replay.len() {
            self.attach();
        }
        if self.attached {
            self.redo(pool, now_ns);
        }
        if self.wal.fenced().is_some() {
            self.store.across.settling.set_replay(self.wal.shard(), Replay::Failed);
            return true;
        }
        let done = self.attached && self.missing.is_empty() && self.wal.is_durable() && self.wal.has_segment();
        if done && !std::mem::replace(&mut self.settled, true) {
            self.store.across.settling.end_one();
        }
        done
    }

    /// All that the recorder held is durable: it begins anew.
    fn attach(&mut self) {
        if !std::mem::replace(&mut self.attached, true) {
            self.wal.reset_flight();
            self.replay = Vec::new();
            self.replayed_bytes = 0;
            self.store.across.settling.set_replay(self.wal.shard(), Replay::Durable);
        }
    }
}
