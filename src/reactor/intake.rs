//! Requests out of the clients' rings. A payload is copied only as far as its opcode uses it, within bounds that no
//! client chooses, and a large one only when there is room for it.

use crate::bytes::index;
use crate::device::Device;
use crate::reactor::shared::refused;
use crate::reactor::{Asked, Clock, Limits, Phase, Reactor};
use crate::ring::protocol::{
    Completion, HEAD_BYTES, KEY_BYTES_MAX, Opcode, PAGE_NUMBER_BYTES, Status, Submission, TRIM_BEGINS, commit, low_u32,
    page_request_bytes_max, shard_of_key, shard_of_stream, stats,
};
use crate::store::Outcome;
use crate::timing;
use crate::types::{Lsn, ShardId};
use crate::wal::Room;
use crate::wal::pool::Writer;

/// A larger value is copied only when its log has room: a request that stays in its ring is looked at every turn.
const COPIED_IN_VAIN_BYTES_MAX: usize = 4 << 10;

/// Bytes that a turn copies out of the clients' memory and into it before it leaves the rest to the next one. The request
/// that goes over it is still served.
pub(super) const TURN_BYTES_MAX: usize = 4 << 20;

/// The largest payload that is ever copied: any key, with the most pages of a request or the end of a scan.
pub(super) fn payload_bytes_max(limits: &Limits) -> usize {
    KEY_BYTES_MAX + page_request_bytes_max(limits.value_bytes_max).max(KEY_BYTES_MAX)
}

/// Leaves of a payload what its opcode uses. What an entry says beyond it counts as nothing.
#[inline]
fn cut_payload(opcode: Opcode, submission: &mut Submission) {
    match opcode {
        Opcode::Put
        | Opcode::Scan
        | Opcode::ScanAt
        | Opcode::Append
        | Opcode::AppendBatch
        | Opcode::AppendOnce
        | Opcode::Commit => {}
        Opcode::Get
        | Opcode::GetAt
        | Opcode::Delete
        | Opcode::Open
        | Opcode::SetCursor
        | Opcode::GetCursor
        | Opcode::Cursors
        | Opcode::DropCursor => submission.value_bytes = 0,
        Opcode::Trim if submission.arg1 == TRIM_BEGINS => submission.key_bytes = 0,
        Opcode::WritePages | Opcode::ReadPages => submission.key_bytes = 0,
        Opcode::Noop
        | Opcode::Read
        | Opcode::ReadChain
        | Opcode::Trim
        | Opcode::Retain
        | Opcode::Sync
        | Opcode::Catalog
        | Opcode::Snapshot
        | Opcode::Release
        | Opcode::Extent
        | Opcode::Stats => {
            (submission.key_bytes, submission.value_bytes) = (0, 0);
        }
    }
}

impl<D: Device, C: Clock> Reactor<D, C> {
    /// rings.poll, store.apply, wal.append: takes what the clients' rings hold, as far as the later stages have room.
    pub(super) fn take_requests(&mut self, now_ns: u64) -> bool {
        if self.phase == Phase::Settling || self.snapshots.are_taken() {
            return false;
        }
        (self.moved_bytes, self.postponed) = (0, false);
        let taken = self.take_in_turn(now_ns);
        self.metrics.add(stats::REQUESTS, taken);
        taken > 0
    }

    /// Every client in turn, each turn beginning with another one: behind the one where the last turn had to stop.
    fn take_in_turn(&mut self, now_ns: u64) -> u64 {
        let slots = self.sessions.len();
        let after = |slot: usize| if slot + 1 < slots { slot + 1 } else { 0 };
        let mut slot = self.first_slot;
        self.first_slot = after(slot);
        let mut taken = 0;
        for _ in 0..slots {
            for nth in 0..self.limits.turn_requests_max {
                if self.moved_bytes >= TURN_BYTES_MAX {
                    self.first_slot = after(slot);
                    return taken;
                }
                if !self.take_request(slot, nth > 0, now_ns) {
                    break;
                }
                taken += 1;
            }
            slot = after(slot);
        }
        taken
    }

    /// Takes one request. `again`: right behind another one of the client. `false`: there is none, or it has to stay where it is.
    fn take_request(&mut self, slot: usize, again: bool, now_ns: u64) -> bool {
        let looked = timing::now();
        let Some(session) = &mut self.sessions[slot] else { return false };
        let mut submission = match session.peek() {
            Ok(Some(submission)) => submission,
            Ok(None) => return false,
            Err(reason) => {
                self.end_session(slot, reason);
                return false;
            }
        };
        if again {
            session.look_ahead();
        }
        let opcode = Opcode::from_wire(submission.opcode).expect("`peek` validated the opcode");
        timing::taken(submission.user_data, looked);
        cut_payload(opcode, &mut submission);
        let asked = Asked { slot, opcode, submission: &submission, fetched: None };
        let mut at = None;
        let mut outcome = if submission.value_bytes as usize > self.value_bytes_max(opcode) {
            self.too_large(opcode)
        } else if self.copy_payload(slot, opcode, &submission) {
            self.dispatch(&asked, now_ns, &mut at)
        } else {
            Outcome::Later
        };
        let at = self.settle(&mut outcome, &asked, now_ns, at);
        match &mut outcome {
            Outcome::Answer { completion, after } => {
                self.accept(slot);
                self.answer(slot, submission.user_data, at, completion, *after);
                if !self.fetches.wanted.is_empty() {
                    self.read_ahead(at, None);
                }
            }
            Outcome::Fetch(want) => {
                if !self.fetch(slot, at, submission, *want) {
                    return false;
                }
                self.accept(slot);
            }
            Outcome::Wait => {
                self.accept(slot);
                self.wait(slot, at, submission, now_ns);
            }
            Outcome::Deferred => self.accept(slot),
            Outcome::Later | Outcome::Across if self.waits_in_vain(at, opcode, &submission) => {
                self.accept(slot);
                self.answer(slot, submission.user_data, at, &mut refused(Status::Fenced), Lsn::NONE);
            }
            Outcome::Later | Outcome::Across => {
                self.postponed = true;
                self.metrics.add(stats::BACK_PRESSURE, 1);
                // What is open holds buffers that this request needs.
                self.shards.iter_mut().for_each(|shard| shard.wal.want_room(&self.pool));
                return false;
            }
        }
        true
    }

    fn accept(&mut self, slot: usize) {
        if let Some(session) = &mut self.sessions[slot] {
            session.advance();
        }
    }

    /// Bytes of the value of such a request. The end of a scan is a key.
    fn value_bytes_max(&self, opcode: Opcode) -> usize {
        match opcode {
            Opcode::Scan | Opcode::ScanAt => KEY_BYTES_MAX,
            Opcode::Trim => HEAD_BYTES,
            opcode if opcode.is_on_pages() => page_request_bytes_max(self.limits.value_bytes_max),
            _ => self.limits.value_bytes_max,
        }
    }

    #[cold]
    fn too_large(&self, opcode: Opcode) -> Outcome {
        let status = if opcode == Opcode::Commit { Status::TransactionTooLarge } else { Status::TooLarge } as u16;
        let aux = if opcode.is_on_pages() { self.value_bytes_max(opcode) as u64 } else { 0 };
        Outcome::Answer { completion: Completion { status, aux, ..Completion::default() }, after: Lsn::NONE }
    }

    /// Copies the payload of a request out of the client's memory. `false`: it is large, and its log has no room yet.
    #[inline]
    fn copy_payload(&mut self, slot: usize, opcode: Opcode, submission: &Submission) -> bool {
        if submission.value_bytes as usize > COPIED_IN_VAIN_BYTES_MAX && self.has_no_room(slot, opcode, submission) {
            return false;
        }
        let Some(session) = &self.sessions[slot] else { return false };
        self.payload.clear();
        session.copy_payload(submission, &mut self.payload);
        self.moved_bytes += self.payload.len();
        true
    }

    /// Whether the log of a large write has no room yet. The client may change the key afterwards: this is a hint.
    #[cold]
    fn has_no_room(&mut self, slot: usize, opcode: Opcode, submission: &Submission) -> bool {
        let (Some(session), Phase::Serving) = (&self.sessions[slot], self.phase) else { return false };
        self.payload.clear();
        session.copy_payload(&Submission { value_bytes: 0, ..*submission }, &mut self.payload);
        let (key_bytes, value_bytes) = (usize::from(submission.key_bytes), submission.value_bytes as usize);
        let room = |at: usize| self.shards[at].wal.room(&self.pool, key_bytes, value_bytes, Writer::Ordinary);
        self.route(opcode, submission).map(room) == Some(Room::Later)
    }

    /// The request at hand, of several keys or pages, was answered.
    #[inline(never)]
    pub(super) fn count_several(&mut self, opcode: Opcode, submission: &Submission, completion: &Completion) {
        let done = completion.status == Status::Ok as u16;
        match opcode {
            Opcode::ReadPages if done => {
                self.metrics.add(stats::PAGES_READ, (self.payload.len() / PAGE_NUMBER_BYTES) as u64);
            }
            Opcode::WritePages if done => {
                let written = commit::entries(&self.payload).filter(|entry| !entry.is_read()).count();
                self.metrics.add(stats::PAGES_WRITTEN, written as u64);
            }
            Opcode::Commit => {
                self.metrics.add(stats::COMMITS, u64::from(done));
                if done {
                    self.requests.count_commit(&self.payload[usize::from(submission.key_bytes)..]);
                }
                self.metrics.add(stats::CONFLICTS, u64::from(completion.status == Status::Conflict as u16));
            }
            _ => {}
        }
    }

    /// The shard of a request, as its place in `self.shards`; `None` when another reactor serves it.
    #[inline]
    pub(super) fn route(&self, opcode: Opcode, submission: &Submission) -> Option<usize> {
        let shard = match opcode {
            opcode if opcode.is_on_stream() || opcode.is_on_pages() => {
                shard_of_stream(submission.object, self.place.shards)
            }
            Opcode::ScanAt => ShardId(Some(low_u32(submission.arg1)).filter(|shard| *shard < self.place.shards)?),
            Opcode::Scan | Opcode::Commit => {
                ShardId(u32::try_from(submission.arg1).ok().filter(|shard| *shard < self.place.shards)?)
            }
            _ => {
                let key = &self.payload[..usize::from(submission.key_bytes)];
                shard_of_key(submission.object, key, self.place.shards)
            }
        };
        (shard.0 % self.place.count() == self.place.reactor).then_some(index(u64::from(shard.0 / self.place.count())))
    }
}
