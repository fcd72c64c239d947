//! A stream that begins at an offset: one that is restored goes on with the offsets, and the chain, that it had.

use crate::ring::protocol::{Completion, OFFSETS_END, Status};
use crate::store::heap::Heap;
use crate::store::stream::{Head, Streams};
use crate::store::{Context, Mode, Outcome, Request, Store};
use crate::types::Lsn;
use crate::wal::pool::Writer;
use crate::wal::record::Kind;

impl Store {
    /// Makes a stream that never had an event begin at an offset. In the log it is a trim of all that was before.
    #[cold]
    pub(in crate::store) fn begin_stream(
        &mut self,
        context: &mut Context<'_>,
        request: &Request<'_>,
        mode: Mode,
    ) -> Outcome {
        let (first, head) = (request.submission.arg0, request.value);
        let chained = context.catalog.get(mode.object).is_some_and(|object| object.chained);
        let head_fits = head.is_empty() || chained && head.len() == size_of::<Head>();
        let stream = self.streams.stream(mode.object);
        if stream.next != 0 || first >= OFFSETS_END || !head_fits {
            return Outcome::status(Status::BadRequest);
        }
        let mode = Mode { logged: mode.logged || stream.logged, ..mode };
        if let Some(refused) = mode.refused(context, 0, head.len(), Writer::Ordinary) {
            return refused;
        }
        let (lsn, after) = mode.log(context, Kind::Trim, first, &[], head);
        self.streams.begin(&mut self.heap, mode, first, lsn);
        self.streams.stream(mode.object).state_head(head.try_into().ok(), first);
        Outcome::Answer { completion: Completion { version: first, lsn: lsn.0, ..Completion::default() }, after }
    }
}

impl Streams {
    /// As `replay_trim` finds it.
    fn begin(&mut self, heap: &mut Heap, mode: Mode, first: u64, lsn: Lsn) {
        let stream = self.stream(mode.object);
        stream.logged |= mode.logged;
        stream.trimmed = first;
        stream.trimmed_lsn = stream.trimmed_lsn.max(lsn);
        stream.begin_at(heap, first);
    }
}
