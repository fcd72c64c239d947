//! What `stats` tells beside the counters of a reactor: of its shards, and of the spaces and streams in them.

use crate::bytes::{len_u32, put_u64};
use crate::device::Device;
use crate::reactor::{Clock, Reactor, SessionReply};
use crate::ring::protocol::stats::About;
use crate::ring::protocol::{AUX_MORE, Completion, Status, Submission, stats};
use crate::store::{Outcome, Reply};
use crate::types::Lsn;

/// Of one answer: no turn looks at more.
const OBJECTS_MAX: usize = 256;

impl<D: Device, C: Clock> Reactor<D, C> {
    pub(super) fn stats(&mut self, slot: usize, submission: &Submission) -> Outcome {
        match About::from_wire(submission.arg0) {
            Some(About::Reactor) => self.own_stats(slot, submission),
            Some(About::Shards) => {
                let rows = self.shards.iter().map(|shard| shard_words(shard, self.turned_ns));
                self.rows(slot, submission, rows, false)
            }
            Some(About::Objects) => {
                let mut objects = self.catalog.iter_after(submission.arg1);
                let rows: Vec<_> = objects.by_ref().take(OBJECTS_MAX).map(|object| self.object_words(object)).collect();
                self.rows(slot, submission, rows.into_iter(), objects.next().is_some())
            }
            None => Outcome::status(Status::BadRequest),
        }
    }

    fn own_stats(&mut self, slot: usize, submission: &Submission) -> Outcome {
        self.gauge();
        let Some(session) = &self.sessions[slot] else { return Outcome::Later };
        let mut reply = SessionReply::new(session, submission);
        let fits = reply.push(&[&self.metrics.encode()]);
        let status = if fits { Status::Ok } else { Status::ReplyTooSmall } as u16;
        let aux = stats::NAMES.len() as u64 * 8;
        let completion = Completion { status, aux, reply_bytes: len_u32(reply.bytes()), ..Completion::default() };
        Outcome::Answer { completion, after: Lsn::NONE }
    }

    /// As many rows as there is room for.
    fn rows<const N: usize>(
        &self,
        slot: usize,
        submission: &Submission,
        rows: impl Iterator<Item = [u64; N]>,
        mut more: bool,
    ) -> Outcome {
        let Some(session) = &self.sessions[slot] else { return Outcome::Later };
        let mut reply = SessionReply::new(session, submission);
        let mut count = 0;
        for words in rows {
            let mut row = [[0; 8]; N];
            row.iter_mut().zip(words).for_each(|(bytes, word)| put_u64(bytes, 0, word));
            if !reply.push(&[row.as_flattened()]) {
                more = true;
                break;
            }
            count += 1;
        }
        let status = if count == 0 && more { Status::ReplyTooSmall } else { Status::Ok } as u16;
        let aux = count | if more { AUX_MORE } else { 0 };
        let completion = Completion { status, aux, reply_bytes: len_u32(reply.bytes()), ..Completion::default() };
        Outcome::Answer { completion, after: Lsn::NONE }
    }

    fn object_words(&self, object: &super::Object) -> [u64; stats::OBJECT_NAMES.len()] {
        let mut sum = [0; stats::OBJECT_NAMES.len()];
        for shard in &self.shards {
            sum.iter_mut().zip(shard.store.of_object(object.id)).for_each(|(sum, word)| *sum += word);
        }
        sum[stats::OBJECT] = u64::from(object.id.0);
        sum[stats::OBJECT_CHAINED] = u64::from(object.chained);
        self.requests.tell(object.id, [self.turned_ns, self.worked_ns], &mut sum);
        sum
    }
}

fn shard_words(shard: &super::Shard, now_ns: u64) -> [u64; stats::SHARD_NAMES.len()] {
    let (store, wal) = (&shard.store, &shard.wal);
    let layout = wal.identity().layout;
    let mut words = [0; stats::SHARD_NAMES.len()];
    let told = [
        (stats::SHARD, u64::from(wal.shard().0)),
        (stats::SHARD_KEYS, store.keys()),
        (stats::SHARD_EVENTS, store.events()),
        (stats::SHARD_LIVE_BYTES, store.live_bytes()),
        (stats::SHARD_MEMORY_BYTES, store.memory_bytes()),
        (stats::SHARD_LOG_BYTES, wal.segments_held() as u64 * layout.segment_bytes),
        (stats::SHARD_LOG_BYTES_ALL, u64::from(layout.segments) * layout.segment_bytes),
        (stats::SHARD_LAST_LSN, wal.last_lsn().0),
        (stats::SHARD_DURABLE_LSN, wal.durable_lsn().0),
        (stats::SHARD_FENCED, u64::from(wal.fenced().is_some())),
        (stats::SHARD_RECOVERY_BYTES, wal.recovery_bytes()),
        (stats::SHARD_CHECKPOINT_AGE_MS, shard.checkpoint.age_ns(now_ns) / 1_000_000),
    ];
    told.into_iter().for_each(|(at, value)| words[at] = value);
    words
}
