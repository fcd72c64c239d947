//! Reclaim: while free segments are few, a shard reads its oldest one back, appends again what still counts, and gives
//! it up; unread where it is known that nothing counts. In slices, a bounded part a turn, so that those who write do not wait for it.

use crate::buffer::Pool;
use crate::device::{Completion, Device, OperationKind};
use crate::store::Store;
use crate::types::{Lsn, SegmentIndex};
use crate::wal::planted::{self, Planted};
use crate::wal::pool::Writer;
use crate::wal::reread::{Next, Reread};
use crate::wal::{Fence, Link, Room, Wal};

/// What a turn looks at of a segment when nothing else is under way, and when writers wait for it.
const SLICE_BYTES: usize = 32 << 10;
const SLICE_BYTES_MAX: usize = 256 << 10;
/// For every byte that clients write, so many are looked at: enough to stay ahead while at most three of four count.
const BYTES_PER_WRITTEN: u64 = 4;

enum Step {
    Idle,
    /// Reads, and copies what counts.
    Copying(Box<Reread>),
    /// Waits until this LSN is durable, which gives the segment up.
    Landing(Link, Lsn),
    /// The header that marks it free is to be written, or under way.
    Freeing(Link),
    /// What stands in the oldest segment cannot be read: nothing is given up any more.
    Stopped,
}

/// A round through all segments of the chain, to see whether it gains anything.
#[derive(Default)]
struct Round {
    /// The chain's last segment when it began.
    last_sequence: u64,
    closed: usize,
    written_bytes: u64,
}

/// The reclaim of one shard. Owned by its reactor.
pub(super) struct Reclaim {
    step: Step,
    under_way: bool,
    /// Memory of the last reading, for the next one.
    loaded: Vec<u8>,
    /// What still counts of a commit.
    kept: Vec<u8>,
    /// Bytes that may be looked at.
    credit: usize,
    written_bytes: u64,
    round: Round,
    /// A round gained nothing; until clients have written so much.
    exhausted_at: Option<u64>,
    /// Copies found no segment at all: only another shard can help.
    starved: bool,
    told_live_bytes: i64,
    told_hopeful: bool,
    /// Told again when the log has so many bytes of records.
    due_bytes: u64,
}

impl Default for Reclaim {
    fn default() -> Reclaim {
        Reclaim {
            step: Step::Idle,
            under_way: false,
            loaded: Vec::new(),
            kept: Vec::new(),
            credit: 0,
            written_bytes: 0,
            round: Round::default(),
            exhausted_at: None,
            starved: false,
            told_live_bytes: 0,
            told_hopeful: true,
            due_bytes: 0,
        }
    }
}

impl Reclaim {
    /// Whether it has work that does not wait for the device or for clients.
    pub(super) fn is_active(&self, wal: &Wal) -> bool {
        match self.step {
            Step::Stopped => false,
            Step::Idle => self.is_wanted(wal),
            Step::Copying(_) if self.starved => false,
            _ => wal.fenced().is_none(),
        }
    }

    fn is_wanted(&self, wal: &Wal) -> bool {
        wal.segments().is_low() && self.told_hopeful && wal.fenced().is_none() && wal.oldest().is_some()
    }

    /// One slice. `low`: free segments are few. Says whether anything happened.
    #[inline]
    pub(super) fn turn<D: Device>(
        &mut self,
        store: &mut Store,
        wal: &mut Wal,
        pool: &mut Pool,
        device: &mut D,
        low: bool,
        now_ns: u64,
    ) -> bool {
        let rests = !low && !self.starved && matches!(self.step, Step::Idle);
        if rests && wal.counters.record_bytes < self.due_bytes {
            return false;
        }
        self.tell(store, wal);
        let starved = self.starved && wal.fenced().is_none();
        if !starved && !self.is_active(wal) {
            return false;
        }
        self.slice(store, wal, pool, device, now_ns)
    }

    /// Tells the others how much here counts, and whether anything here can be given up: in every turn while free
    /// segments are few, else now and then.
    #[cold]
    fn tell(&mut self, store: &Store, wal: &Wal) {
        if !wal.segments().reclaims() {
            self.due_bytes = u64::MAX;
            return;
        }
        let live_bytes = i64::try_from(store.live_bytes()).unwrap_or(i64::MAX);
        let segment_bytes = i64::try_from(wal.identity().layout.segment_bytes).unwrap_or(i64::MAX);
        let change = live_bytes - self.told_live_bytes;
        self.due_bytes = wal.counters.record_bytes + wal.identity().layout.segment_bytes / 16;
        let closed = i64::try_from(wal.segments_closed()).unwrap_or(i64::MAX);
        let exhausted = self.exhausted_at.is_some_and(|at| wal.client_bytes() <= at);
        let hopeful = wal.fenced().is_none()
            && !matches!(self.step, Step::Stopped)
            && !exhausted
            && !self.starved
            && closed.saturating_mul(segment_bytes) > live_bytes.saturating_add(segment_bytes / 2);
        wal.segments().tell(change, (hopeful != self.told_hopeful).then_some(hopeful));
        (self.told_live_bytes, self.told_hopeful) = (live_bytes, hopeful);
    }

    #[cold]
    fn slice<D: Device>(
        &mut self,
        store: &mut Store,
        wal: &mut Wal,
        pool: &mut Pool,
        device: &mut D,
        now_ns: u64,
    ) -> bool {
        self.earn(wal);
        match std::mem::replace(&mut self.step, Step::Idle) {
            Step::Idle => return self.begin(store, wal, pool, now_ns),
            Step::Copying(reread) => return self.copy(reread, store, wal, pool, device, now_ns),
            Step::Landing(link, lsn) if !wal.has_landed(lsn) => {
                self.step = Step::Landing(link, lsn);
                let early = if self.under_way { None } else { wal.deallocate_early(pool, &link) };
                return early.is_some_and(|early| self.submit(device, pool, early));
            }
            Step::Landing(link, _) => self.step = Step::Freeing(link),
            Step::Freeing(link) => {
                self.step = Step::Freeing(link);
                let write = if self.under_way { None } else { wal.mark_free(pool, &link) };
                let Some(write) = write else { return false };
                return self.submit(device, pool, write);
            }
            // Nothing is worked at: who says so keeps the reactor awake.
            Step::Stopped => {
                self.step = Step::Stopped;
                return false;
            }
        }
        true
    }

    /// What may be looked at in this turn.
    fn earn(&mut self, wal: &Wal) {
        let written = wal.client_bytes();
        let earned = (written - self.written_bytes).saturating_mul(BYTES_PER_WRITTEN);
        self.written_bytes = written;
        self.credit = self.credit.saturating_add(usize::try_from(earned).unwrap_or(usize::MAX)).min(SLICE_BYTES_MAX);
        if !wal.segments().has(Writer::Ordinary) {
            self.credit = SLICE_BYTES_MAX;
        } else if wal.frames_in_flight() == 0 {
            self.credit = self.credit.max(SLICE_BYTES);
        }
    }

    fn begin(&mut self, store: &Store, wal: &mut Wal, pool: &mut Pool, now_ns: u64) -> bool {
        let Some((link, end_lsn)) = wal.oldest() else { return false };
        if link.chained.sequence > self.round.last_sequence {
            self.begin_round(wal, &link);
        }
        if wal.is_given_up(&link) {
            self.step = Step::Freeing(link);
            return true;
        }
        if store.is_spent(&link, end_lsn, wal.planted()) {
            if !self.has_room(wal, pool, 0, 8) {
                return false;
            }
            self.step = Step::Landing(link, wal.append_give_up(pool, now_ns, &link, end_lsn));
            wal.counters.segments_unread += 1;
            return true;
        }
        let loaded = std::mem::take(&mut self.loaded);
        self.step = Step::Copying(Box::new(Reread::new(wal.identity(), link, end_lsn, loaded)));
        true
    }

    /// The round before is over: if it gained nothing, and clients wrote next to nothing, the next would not either.
    fn begin_round(&mut self, wal: &Wal, oldest: &Link) {
        // Of this shard's own chain, with what frames take: others use up what this one frees, and a small record a whole block.
        let (closed, written_bytes) = (wal.segments_closed(), wal.client_frame_bytes());
        let quiet = written_bytes - self.round.written_bytes < wal.identity().layout.segment_bytes;
        if self.round.last_sequence > 0 && quiet && closed >= self.round.closed {
            self.exhausted_at = Some(wal.client_bytes());
        }
        let last_sequence = oldest.chained.sequence + closed as u64;
        self.round = Round { last_sequence, closed, written_bytes };
    }

    fn copy<D: Device>(
        &mut self,
        mut reread: Box<Reread>,
        store: &mut Store,
        wal: &mut Wal,
        pool: &mut Pool,
        device: &mut D,
        now_ns: u64,
    ) -> bool {
        let (mut worked, end_lsn, mut room) = (false, reread.end_lsn(), std::mem::take(&mut self.kept));
        while self.credit > 0 {
            match reread.peek() {
                Next::Record(record) => {
                    let bytes = crate::wal::record::encoded_bytes(record.key.len(), record.value.len());
                    let (key_bytes, value_bytes) = (record.key.len(), record.value.len());
                    if !wal.can_hold(pool, key_bytes, value_bytes) {
                        self.stop_at_large(wal, value_bytes);
                        return true;
                    }
                    if store.stays(&record, end_lsn, wal.planted()) {
                        break;
                    }
                    store.rescue(&record, wal.planted());
                    let drops = wal.is_planted(Planted::FreeNamedSegment) && wal.counters.checkpoints > 0;
                    let kept = store.kept(record, end_lsn, &mut room, wal.planted()).filter(|_| !drops);
                    if let Some(kept) = kept.and_then(|kept| planted::copied(kept, wal.planted())) {
                        if !self.has_room(wal, pool, kept.key.len(), kept.value.len()) {
                            break;
                        }
                        wal.append_copy(pool, now_ns, &kept);
                        store.moved(&kept, wal.last_place(), wal.last_lsn(), wal.readable_lsn());
                    }
                    self.credit = self.credit.saturating_sub(bytes);
                    reread.advance();
                    worked = true;
                }
                Next::Wait => break,
                // A read ahead that is under way ends first: after this step nobody would know what it is for.
                Next::End if self.under_way => break,
                Next::End => {
                    if !self.has_room(wal, pool, 0, 8) {
                        break;
                    }
                    let link = reread.link();
                    self.step = Step::Landing(link, wal.append_give_up(pool, now_ns, &link, reread.end_lsn()));
                    (self.loaded, self.kept) = (reread.into_loaded(), room);
                    return true;
                }
                Next::Damaged(found) => {
                    let (shard, segment) = (wal.shard(), reread.link().chained.segment);
                    tracing::error!(%shard, %segment, %found, "a segment cannot be read back: run `forebay verify`");
                    self.step = Step::Stopped;
                    return true;
                }
            }
        }
        if !self.under_way
            && let Some((offset, bytes)) = reread.wanted(pool.buffer_bytes())
            && is_roomy(pool)
            && let Some(read) = wal.read_segment(pool, &reread.link(), offset, bytes)
        {
            worked |= self.submit(device, pool, read);
        }
        self.kept = room;
        self.step = Step::Copying(reread);
        worked
    }

    #[cold]
    fn stop_at_large(&mut self, wal: &Wal, value_bytes: usize) {
        let shard = wal.shard();
        tracing::error!(
            %shard, value_bytes,
            "a record is larger than what this configuration can write, so no segment is given up any more: \
             restart with the limits.value_bytes_max that wrote it"
        );
        self.step = Step::Stopped;
    }

    /// Whether a copy can be appended. While there is no segment to take, this shard has nothing to give.
    fn has_room(&mut self, wal: &mut Wal, pool: &Pool, key_bytes: usize, value_bytes: usize) -> bool {
        // As a replay is told: whether others may still give something up does not matter here.
        let room = wal.room(pool, key_bytes, value_bytes, Writer::Replay);
        self.starved = room == Room::NoSpace;
        if matches!(room, Room::Later | Room::NoSpace) {
            // What is open holds buffers that this needs.
            wal.want_durable();
            wal.want_segment();
        }
        room == Room::Yes
    }

    fn submit<D: Device>(&mut self, device: &mut D, pool: &mut Pool, operation: crate::device::Operation) -> bool {
        match device.submit(operation) {
            Ok(()) => self.under_way = true,
            Err(operation) => pool.give(operation.buffer),
        }
        self.under_way
    }

    /// Takes the completion of a read or of a header. Gives the segment that is free with it.
    #[cold]
    pub(super) fn complete(&mut self, wal: &mut Wal, pool: &mut Pool, completion: Completion) -> Option<SegmentIndex> {
        self.under_way = false;
        let mut free = None;
        let Completion { operation, result } = completion;
        match (&mut self.step, operation.kind, result) {
            (Step::Copying(reread), OperationKind::Read, Ok(())) => {
                reread.load(&operation.buffer[..operation.bytes as usize]);
            }
            (Step::Freeing(_), OperationKind::WriteDurable, Ok(())) => {
                free = wal.drop_oldest();
                self.step = Step::Idle;
            }
            (_, OperationKind::WriteDurable, Err(error)) => wal.fence(Fence::Device(error)),
            (_, OperationKind::Deallocate, _) => {}
            (step, _, result) => {
                if let Err(error) = result {
                    let (shard, address) = (wal.shard(), operation.address);
                    tracing::error!(%shard, %address, %error, "a segment cannot be read back");
                }
                *step = Step::Stopped;
            }
        }
        pool.give(operation.buffer);
        free
    }
}

/// Reads leave most buffers to those who write.
fn is_roomy(pool: &Pool) -> bool {
    pool.available() > pool.count() / 4
}
