//! Snapshots of one shard: from when on one is taken, what it sees stays as it was for whoever names it.

use crate::ring::protocol::{Completion, Opcode, Status, commit};
use crate::store::space::{Snapshot, View};
use crate::store::{Context, Mode, Outcome, Reply, Request, Store};
use crate::types::Lsn;
use crate::wal::planted::Planted;
use crate::wal::record::{Kind, Record};

impl Store {
    /// A number that no snapshot had, in this life or before.
    pub fn next_snapshot(&mut self) -> u64 {
        self.next_version()
    }

    /// Takes a snapshot: what is written from here on is not in it. `last`: the LSN of the last record.
    pub fn take_snapshot(&mut self, id: u64, last: Lsn, lived_ms: u64) {
        let view = View { version: self.next_version(), lsn: last, lived_ms };
        self.spaces.kept.open(Snapshot { id, view, extents: self.streams.extents() });
    }

    /// Ends a snapshot, if it is there.
    pub fn end_snapshot(&mut self, id: u64) {
        self.spaces.kept.end(id);
    }

    /// Versions that only snapshots see, the memory that they take, and the snapshots that were given up since the start.
    #[must_use]
    pub fn kept_for_snapshots(&self) -> [u64; 3] {
        let kept = &self.spaces.kept;
        [kept.len() as u64, kept.bytes(), kept.given_up()]
    }

    /// A record is about to go with its segment: what only snapshots see of it comes into memory.
    #[inline]
    pub fn rescue(&mut self, record: &Record<'_>, planted: Planted) {
        if self.spaces.kept.len() > 0 && !planted.is(Planted::ForgetKept) {
            self.rescue_values(record);
        }
    }

    #[cold]
    fn rescue_values(&mut self, record: &Record<'_>) {
        let (spaces, heap) = (&mut self.spaces, &mut self.heap);
        match record.kind {
            Kind::Put | Kind::PutUntil => {
                let Record { object, key, version, value, .. } = record.split_until().0;
                spaces.rescue(heap, object, key, version, value);
            }
            Kind::Commit | Kind::Decision => {
                for (at, entry) in commit::entries(record.value).enumerate() {
                    let same = |later: &commit::Entry<'_>| later.object == entry.object && later.key == entry.key;
                    // Of several writes of one key the last one counts.
                    let last = !commit::entries(record.value).skip(at + 1).any(|later| same(&later));
                    if let (commit::What::Put(value), true) = (entry.what, last) {
                        spaces.rescue(heap, entry.object, entry.key, record.version, value);
                    }
                }
            }
            _ => {}
        }
    }

    /// What the snapshot that a request names sees of this shard.
    pub(super) fn view(&self, context: &Context<'_>, request: &Request<'_>) -> Result<View, Outcome> {
        let found = self.spaces.kept.find(request.submission.arg0).map(|snapshot| snapshot.view);
        let seen = |view: View| {
            let later = context.wal.planted().is(Planted::SeeLaterWrites);
            View { version: if later { u64::MAX } else { view.version }, ..view }
        };
        found.map(seen).ok_or(Outcome::status(Status::SnapshotGone))
    }

    pub(super) fn get_at<R: Reply>(
        &mut self,
        context: &mut Context<'_>,
        request: &Request<'_>,
        mode: Mode,
        reply: &mut R,
    ) -> Outcome {
        debug_assert_eq!(request.opcode, Opcode::GetAt);
        let view = match self.view(context, request) {
            Ok(view) => view,
            Err(gone) => return gone,
        };
        let Some(slot) = self.spaces.find_at(&self.heap, mode.object, request.key, view.version) else {
            let lsn = self.spaces.deleted_lsn(mode.object).min(view.lsn);
            return Outcome::version(Status::NotFound, 0, mode.visible_after(context.wal, lsn));
        };
        let after = mode.visible_after(context.wal, self.spaces.lsn_of(slot));
        if self.spaces.was_over(&self.heap, slot, view.lived_ms) {
            return Outcome::version(Status::NotFound, 0, after);
        }
        self.get_slot(context, slot, after, reply)
    }

    /// The first event and the next offset that a stream had.
    pub(super) fn extent(&mut self, context: &mut Context<'_>, request: &Request<'_>, mode: Mode) -> Outcome {
        let Some(snapshot) = self.spaces.kept.find(request.submission.arg0) else {
            return Outcome::status(Status::SnapshotGone);
        };
        let (first, next) = snapshot.extents.get(mode.object.index()).copied().unwrap_or((0, 0));
        let lsn = self.streams.last_lsn(mode.object, next).min(snapshot.view.lsn);
        let completion = Completion { version: first, aux: next, ..Completion::default() };
        Outcome::Answer { completion, after: mode.visible_after(context.wal, lsn) }
    }
}
