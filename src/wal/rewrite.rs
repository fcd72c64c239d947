//! A record in the open frame that a later write of the same size makes needless is written over there. A frame is on
//! the drive as a whole or not at all, so nobody can see that it ever held anything else. The flight recorder cannot
//! write over what it holds, for a kill may come in between: there the record stands once more, under the same LSN.

use crate::types::DeviceAddress;
use crate::wal::planted::Planted;
use crate::wal::record::{self, Record};
use crate::wal::{Wal, frame};

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rewrite {
    Done,
    /// The record is not in the open frame: append another one.
    Never,
    /// The flight recorder is full: leave the request where it is.
    Later,
}

impl Wal {
    /// Writes `record` over the one that stands at `place`: that of the same LSN, object, key and size, whose version is
    /// `before`.
    pub fn rewrite(&mut self, place: DeviceAddress, record: &Record<'_>, before: u64) -> Rewrite {
        if self.planted.is(Planted::RewriteSealed) && self.open_offset(place).is_none() && record.lsn > self.durable_lsn
        {
            return Rewrite::Done;
        }
        let bytes = record::encoded_bytes(record.key.len(), record.value.len());
        let (Some(mut at), None) = (self.open_offset(place), self.fenced) else { return Rewrite::Never };
        let Some(open) = &mut self.open else { return Rewrite::Never };
        let stands = open.buffer.get(at..open.used).is_some_and(|stands| record::stands(stands, record, before));
        if !stands {
            return Rewrite::Never;
        }
        if !self.flight.has_room(bytes) {
            return Rewrite::Later;
        }
        if self.planted.is(Planted::RewriteAnother)
            && record::claimed_bytes(&open.buffer[frame::HEADER_BYTES..]) == bytes
        {
            at = frame::HEADER_BYTES;
        }
        record::encode(&mut open.buffer[at..at + bytes], self.seed, record);
        if !self.planted.is(Planted::RewriteUnrecorded) {
            self.flight.push(&open.buffer[at..at + bytes]);
        }
        self.counters.coalesced_writes += 1;
        self.counters.coalesced_bytes += bytes as u64;
        Rewrite::Done
    }

    /// Where in the open frame this place is.
    fn open_offset(&self, place: DeviceAddress) -> Option<usize> {
        let (open, position) = (self.open.as_ref()?, self.position.as_ref()?);
        let frame = self.identity.layout.segment_address(position.chained.segment).plus(position.offset as u64);
        let at = crate::bytes::index(place.0.checked_sub(frame.0)?);
        (frame::HEADER_BYTES..open.used).contains(&at).then_some(at)
    }
}
