//! Checkpoints of a shard: when the log behind the last one is long, the store says in pieces what it holds, a bounded part a
//! turn, among the records of the clients. See `wal::checkpoint`.

use crate::buffer::Pool;
use crate::store::Store;
use crate::store::catalog::{Catalog, Object};
use crate::store::checkpoint::{Piece, Progress};
use crate::types::{Lsn, ShardId};
use crate::wal::checkpoint::{Begin, OWN_BYTES};
use crate::wal::pool::Writer;
use crate::wal::record::{FLAG_CHECKPOINT, Kind, Record};
use crate::wal::{Room, Wal};

/// Bytes that may be written at once when nobody else writes.
const SLICE_BYTES: usize = 32 << 10;
/// A piece takes about so much, and no more than half a frame.
const PIECE_BYTES: usize = 8 << 10;
/// Pieces that a turn looks for, said or not.
const TURN_PIECES_MAX: usize = 16;
/// A checkpoint is not begun before clients have written this part of what the last one took: what it costs stays small,
/// and it never has itself for a reason.
const CLIENT_PART: u64 = 2;

#[derive(Debug, Default)]
enum Step {
    #[default]
    Idle,
    /// Says the names of all objects, those after this number next. Only in the shard that has them.
    Names(Begin, u64),
    /// Says what the store holds.
    Store(Begin, Progress),
    /// Says that it is whole.
    End(Begin),
    /// Waits until that is durable.
    Landing(Begin, Lsn),
}

/// The checkpoints of one shard. Owned by its reactor.
#[derive(Debug, Default)]
pub(super) struct Checkpoint {
    step: Step,
    piece: Piece,
    credit: usize,
    /// What clients had written when the last turn was, and when the last checkpoint began.
    written_bytes: u64,
    begun_at_bytes: u64,
    /// What the last one took.
    last_bytes: u64,
    before_bytes: u64,
    /// The last version that was given out when it began.
    version: u64,
    /// When the last one ended; 0: the start.
    ended_ns: u64,
}

impl Checkpoint {
    /// One slice. Says whether anything happened.
    #[inline]
    pub(super) fn turn(
        &mut self,
        store: &Store,
        wal: &mut Wal,
        pool: &mut Pool,
        catalog: &Catalog,
        now_ns: u64,
    ) -> bool {
        let idle = matches!(self.step, Step::Idle);
        if idle && wal.recovery_bytes() < wal.limits().recovery_bytes_max / 2 {
            return false;
        }
        self.slice(store, wal, pool, catalog, now_ns)
    }

    /// How long ago the last one ended, or the start was.
    pub(super) fn age_ns(&self, now_ns: u64) -> u64 {
        now_ns.saturating_sub(self.ended_ns)
    }

    /// Whether the last one is long ago enough: half of what recovery may read, and several times what it takes.
    fn is_due(&self, wal: &Wal) -> bool {
        let written = wal.client_bytes() - self.begun_at_bytes;
        wal.recovery_bytes() >= 4 * self.last_bytes && written > 0 && written >= self.last_bytes / CLIENT_PART
    }

    #[cold]
    fn slice(&mut self, store: &Store, wal: &mut Wal, pool: &mut Pool, catalog: &Catalog, now_ns: u64) -> bool {
        if wal.fenced().is_some() {
            self.step = Step::Idle;
            return false;
        }
        self.earn(wal);
        let mut worked = false;
        for _ in 0..TURN_PIECES_MAX {
            if self.credit == 0 || !self.step(store, wal, pool, catalog, now_ns) {
                break;
            }
            worked = true;
        }
        worked
    }

    /// As much as clients wrote; and a slice when nothing is on its way to the drive.
    fn earn(&mut self, wal: &Wal) {
        let written = wal.client_bytes();
        let earned = usize::try_from(written - self.written_bytes).unwrap_or(usize::MAX);
        self.written_bytes = written;
        self.credit = self.credit.saturating_add(earned).min(SLICE_BYTES);
        if wal.frames_in_flight() == 0 {
            self.credit = SLICE_BYTES;
        }
    }

    /// The next piece. `false`: there is no room for it, or nothing to do.
    fn step(&mut self, store: &Store, wal: &mut Wal, pool: &mut Pool, catalog: &Catalog, now_ns: u64) -> bool {
        let due = !matches!(self.step, Step::Idle) || self.is_due(wal);
        let lands = matches!(self.step, Step::Landing(..));
        if !due || self.waits_for_commits(store) || !lands && !has_room(wal, pool, 0, OWN_BYTES) {
            return false;
        }
        self.step = match std::mem::take(&mut self.step) {
            Step::Idle => {
                (self.before_bytes, self.begun_at_bytes) = (wal.counters.checkpoint_bytes, wal.client_bytes());
                self.version = store.last_version();
                let begin = wal.begin_checkpoint(pool, now_ns);
                if wal.shard() == ShardId(0) { Step::Names(begin, 0) } else { Step::Store(begin, Progress::default()) }
            }
            Step::Names(begin, after) => match catalog.iter_after(after).next() {
                Some(object) if !has_room(wal, pool, object.name.len(), size_of::<Lsn>()) => {
                    self.step = Step::Names(begin, after);
                    return false;
                }
                Some(object) => {
                    self.append(wal, pool, now_ns, &name_of(object, &object.lsn.0.to_le_bytes()));
                    Step::Names(begin, after + 1)
                }
                None => Step::Store(begin, Progress::default()),
            },
            Step::Store(begin, mut progress) => {
                let (before, mut piece) = (progress.clone(), std::mem::take(&mut self.piece));
                let bytes_max = PIECE_BYTES.min(pool.buffer_bytes() / 2);
                let more = store.next_piece(&mut progress, &mut piece, bytes_max, wal.planted());
                let said = piece.record();
                // What it says holds now: without room for it another one is made.
                let fits = said.is_none_or(|said| has_room(wal, pool, said.key.len(), said.value.len()));
                if let Some(said) = said.filter(|_| fits) {
                    self.append(wal, pool, now_ns, &said);
                }
                self.piece = piece;
                if !fits {
                    self.step = Step::Store(begin, before);
                    return false;
                }
                if more { Step::Store(begin, progress) } else { Step::End(begin) }
            }
            Step::End(begin) => {
                let lsn = wal.end_checkpoint(pool, now_ns, &begin);
                wal.want_durable();
                self.last_bytes = wal.counters.checkpoint_bytes - self.before_bytes;
                Step::Landing(begin, lsn)
            }
            Step::Landing(begin, lsn) if wal.checkpoint_has_landed(lsn) => {
                wal.name_checkpoint(&begin);
                self.ended_ns = now_ns;
                Step::Idle
            }
            landing @ Step::Landing(..) => {
                self.step = landing;
                return false;
            }
        };
        true
    }

    /// Who reads from here on sees no decision that stands before. So what is said of keys is said when this shard has done its
    /// part of all of those, and the end when nobody lacks a part.
    fn waits_for_commits(&self, store: &Store) -> bool {
        match self.step {
            Step::Store(..) => !store.across.is_done_to(self.version),
            Step::End(_) => !store.across.is_resolved_to(self.version),
            _ => false,
        }
    }

    fn append(&mut self, wal: &mut Wal, pool: &mut Pool, now_ns: u64, record: &Record<'_>) {
        let before = wal.counters.checkpoint_bytes;
        wal.append_checkpoint(pool, now_ns, record);
        let taken = usize::try_from(wal.counters.checkpoint_bytes - before).unwrap_or(usize::MAX);
        self.credit = self.credit.saturating_sub(taken);
    }
}

/// Says once more that there is such an object, which the record with this LSN said first.
fn name_of<'a>(object: &'a Object, value: &'a [u8]) -> Record<'a> {
    let (kind, flags, lsn, version) = (Kind::Create, FLAG_CHECKPOINT, Lsn::NONE, object.attributes());
    Record { kind, flags, lsn, object: object.id, version, key: &object.name, value }
}

fn has_room(wal: &Wal, pool: &Pool, key_bytes: usize, value_bytes: usize) -> bool {
    wal.room(pool, key_bytes, value_bytes, Writer::Ordinary) == Room::Yes
}
