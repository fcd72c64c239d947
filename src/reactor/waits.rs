//! Reads of streams that wait for their first event.

use crate::device::Device;
use crate::reactor::intake::TURN_BYTES_MAX;
use crate::reactor::{Asked, Clock, Phase, Reactor};
use crate::ring::protocol::{Completion, Opcode, Status, Submission, stats};
use crate::ring::server::SessionRing;
use crate::store::Outcome;
use crate::types::Lsn;

/// A read of a stream that waits for its first event.
#[derive(Clone, Copy)]
pub(super) struct Waiting {
    slot: usize,
    /// The place of its shard.
    at: usize,
    submission: Submission,
    pub deadline_ns: u64,
}

impl<D: Device, C: Clock> Reactor<D, C> {
    /// A client may have as many reads waiting as there are places left: one alone gets half, and none can take all.
    pub(super) fn wait(&mut self, slot: usize, at: usize, submission: Submission, now_ns: u64) {
        if self.waiting_of[slot] >= self.limits.waiting_reads_max - self.waiting.len() {
            let user_data = submission.user_data;
            return self.reply(slot, &Completion { user_data, status: Status::Busy as u16, ..Completion::default() });
        }
        let deadline_ns = now_ns.saturating_add(submission.arg1);
        self.next_deadline_ns = self.next_deadline_ns.min(deadline_ns);
        self.waiting.push(Waiting { slot, at, submission, deadline_ns });
        self.waiting_of[slot] += 1;
    }

    /// Looks at the waiting reads again when a stream may have grown or a wait is over. What would be more bytes than a
    /// turn copies waits for the next one. Says whether anybody was answered.
    pub(super) fn wake_waiting_reads(&mut self, now_ns: u64) -> bool {
        let settling = self.phase == Phase::Settling;
        if self.waiting.is_empty() || settling || !(self.progressed || now_ns >= self.next_deadline_ns) {
            return false;
        }
        self.progressed = false;
        self.next_deadline_ns = u64::MAX;
        self.moved_bytes = 0;
        let (mut number, mut woken) = (0, false);
        while number < self.waiting.len() {
            if self.moved_bytes >= TURN_BYTES_MAX {
                self.progressed = true;
                break;
            }
            let waiting = self.waiting[number];
            let Outcome::Answer { mut completion, after } = self.look_at(&waiting, now_ns) else {
                self.next_deadline_ns = self.next_deadline_ns.min(waiting.deadline_ns);
                number += 1;
                continue;
            };
            self.waiting.swap_remove(number);
            self.waiting_of[waiting.slot] -= 1;
            self.answer(waiting.slot, waiting.submission.user_data, waiting.at, &mut completion, after);
            woken = true;
        }
        woken
    }

    /// What comes of a waiting read now. One whose event is not there yet costs a look and no more.
    fn look_at(&mut self, waiting: &Waiting, now_ns: u64) -> Outcome {
        let Waiting { slot, at, submission, deadline_ns } = waiting;
        let closed = self.sessions[*slot].as_ref().is_none_or(SessionRing::ended);
        let stopping = self.phase != Phase::Serving;
        if closed || stopping || now_ns >= *deadline_ns {
            self.metrics.add(stats::READS, 1);
            let status = if stopping { Status::Stopping } else { Status::TimedOut };
            return Outcome::version(status, submission.arg0, Lsn::NONE);
        }
        let shard = &mut self.shards[*at];
        if !shard.store.has_event(&self.catalog, &mut shard.wal, submission) {
            return Outcome::Wait;
        }
        let asked = Asked { slot: *slot, opcode: Opcode::Read, submission, fetched: None };
        self.dispatch_again(&asked, now_ns).0
    }
}
