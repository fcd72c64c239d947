//! What a segment carries, kept in memory while it is filled: enough to see later that nothing in it counts any more,
//! without reading it back. Only events and what is said of their streams are told apart; anything else is read.

use crate::types::ObjectId;
use crate::wal::Link;
use crate::wal::record::{FLAG_CHECKPOINT, FLAG_COPY, Kind};

/// Streams of which a segment says more than events. One that names more of them is read.
const STREAMS_MAX: usize = 8;

/// What a segment carries beside events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Carries {
    /// Something that has to be looked at: what is kept by key, names, copies, and all that an earlier daemon wrote.
    other: bool,
    count: u8,
    streams: [ObjectId; STREAMS_MAX],
}

impl Carries {
    /// A segment that was not filled from its beginning on by this daemon.
    pub const UNKNOWN: Carries = Carries { other: true, count: 0, streams: [ObjectId(0); STREAMS_MAX] };
    /// One that is not filled yet.
    pub const NOTHING: Carries = Carries { other: false, ..Carries::UNKNOWN };

    /// A record is appended.
    #[inline]
    pub fn note(&mut self, kind: Kind, flags: u8, object: ObjectId) {
        match kind {
            // Those of this daemon are found by their LSNs.
            Kind::Append | Kind::AppendBatch if flags & FLAG_COPY == 0 => {}
            Kind::Trim | Kind::Cursor | Kind::Retain | Kind::Mark if flags & FLAG_COPY == 0 => {
                self.note_stream(flags, object)
            }
            // They never count, and no part of a checkpoint does.
            Kind::Delete | Kind::Expire | Kind::Reclaim | Kind::CheckpointBegin | Kind::CheckpointEnd => {}
            _ => self.other |= flags & FLAG_CHECKPOINT == 0,
        }
    }

    #[cold]
    fn note_stream(&mut self, flags: u8, object: ObjectId) {
        let count = usize::from(self.count);
        if flags & FLAG_CHECKPOINT != 0 || self.streams[..count].contains(&object) {
            return;
        }
        match self.streams.get_mut(count) {
            Some(next) => (*next, self.count) = (object, self.count + 1),
            None => self.other = true,
        }
    }
}

impl Link {
    /// The streams of which the segment says more than events; `None`: it has to be read.
    #[must_use]
    pub fn streams(&self) -> Option<&[ObjectId]> {
        let Carries { other, count, streams } = &self.carries;
        (!other).then(|| &streams[..usize::from(*count)])
    }
}
