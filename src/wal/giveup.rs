//! Giving a segment up: the log's side of reclaim. The reactor reads the oldest segment back and appends again what
//! still counts; a record then says that nothing in that segment does, and only when that is durable is its header
//! marked free. So whatever a crash leaves, each record that counts stands in the log once or twice, never not at all.

use crate::buffer::Pool;
use crate::bytes::{index, len_u32};
use crate::device::{DeviceError, Operation, OperationKind};
use crate::types::{Lsn, ObjectId, SegmentIndex};
use crate::wal::planted::Planted;
use crate::wal::pool::SegmentPool;
use crate::wal::record::{FLAG_COPY, Kind, Record};
use crate::wal::{Identity, Link, TAG_DEALLOCATION, TAG_RECLAIM, Wal, segment};

impl Wal {
    /// The oldest segment of the chain, when all of it is durable and the log has gone on to another; with the LSN
    /// after its last record.
    #[must_use]
    pub fn oldest(&self) -> Option<(Link, Lsn)> {
        let (oldest, next) = (self.links.front()?, self.links.get(1)?);
        (self.durable_lsn.next() >= next.first_lsn).then_some((*oldest, next.first_lsn))
    }

    #[must_use]
    pub fn identity(&self) -> Identity {
        self.identity
    }

    #[must_use]
    pub fn segments(&self) -> &SegmentPool {
        &self.segments
    }

    /// Segments that the log fills, the present one aside.
    #[must_use]
    pub fn segments_closed(&self) -> usize {
        self.links.len().saturating_sub(1)
    }

    /// Whether the oldest segment is given up already, by a daemon that ended before it marked it free.
    #[must_use]
    pub fn is_given_up(&self, link: &Link) -> bool {
        link.chained.sequence < self.kept_from
    }

    /// Appends the record that gives a segment up, whose records end before `end_lsn`. `room` said yes to 8 bytes, and
    /// every copy is appended.
    pub fn append_give_up(&mut self, pool: &mut Pool, now_ns: u64, link: &Link, end_lsn: Lsn) -> Lsn {
        let (object, version) = (ObjectId(0), link.chained.sequence + 1);
        let before = self.counters.record_bytes;
        self.own = true;
        let lsn = self.append(pool, now_ns, Kind::Reclaim, object, version, &[], &end_lsn.0.to_le_bytes());
        self.own = false;
        self.counters.copied_bytes += self.counters.record_bytes - before;
        self.logged_kept_from = version;
        self.want_durable();
        lsn
    }

    /// Appends a record that still counts once more.
    pub fn append_copy(&mut self, pool: &mut Pool, now_ns: u64, record: &Record<'_>) {
        let before = self.counters.record_bytes;
        self.own = true;
        self.append_record(pool, now_ns, &Record { flags: FLAG_COPY, ..*record });
        self.own = false;
        self.counters.copied_bytes += self.counters.record_bytes - before;
    }

    /// Whether the record with which a segment was given up is durable.
    #[must_use]
    pub fn has_landed(&self, lsn: Lsn) -> bool {
        lsn <= self.durable_lsn || self.planted.is(Planted::FreeBeforeCopiesDurable)
    }

    /// The write that marks a segment free; `None` while there is no buffer for it.
    pub fn mark_free(&mut self, pool: &mut Pool, link: &Link) -> Option<Operation> {
        let mut buffer = pool.take()?;
        self.kept_from = self.kept_from.max(link.chained.sequence + 1);
        let address = self.identity.layout.segment_address(link.chained.segment);
        let header = segment::Header {
            namespace: self.identity.namespace,
            address,
            shard: self.identity.shard,
            sequence: link.chained.sequence,
            epoch: self.identity.epoch,
            kept_from: self.kept_from,
            checkpoint: self.checkpoint.place,
            reserved: false,
            freed: true,
        };
        segment::encode(&mut buffer[..segment::HEADER_BYTES], &header);
        let bytes = len_u32(segment::HEADER_BYTES);
        let tag = self.tag(0) | TAG_RECLAIM;
        Some(Operation { tag, kind: OperationKind::WriteDurable, address, bytes, buffer })
    }

    /// A read of a segment.
    pub fn read_segment(&self, pool: &mut Pool, link: &Link, offset: usize, bytes: usize) -> Option<Operation> {
        let buffer = pool.take()?;
        let address = self.identity.layout.segment_address(link.chained.segment).plus(offset as u64);
        let tag = self.tag(0) | TAG_RECLAIM;
        Some(Operation { tag, kind: OperationKind::Read, address, bytes: len_u32(bytes), buffer })
    }

    /// The oldest segment is marked free, durably: it belongs to this log no more.
    pub fn drop_oldest(&mut self) -> Option<SegmentIndex> {
        let link = self.links.pop_front()?;
        self.counters.segments_reclaimed += 1;
        Some(link.chained.segment)
    }

    /// Tells the drive that a part of a segment that is free carries nothing; `None` while there is no buffer for it.
    pub fn deallocate(&self, pool: &mut Pool, segment: SegmentIndex, offset: u64, bytes: u32) -> Option<Operation> {
        let buffer = pool.take()?;
        let address = self.identity.layout.segment_address(segment).plus(offset);
        let tag = self.tag(0) | TAG_RECLAIM | TAG_DEALLOCATION;
        Some(Operation { tag, kind: OperationKind::Deallocate, address, bytes, buffer })
    }

    /// Nothing but a planted bug: the same for a segment that is not free yet.
    pub fn deallocate_early(&self, pool: &mut Pool, link: &Link) -> Option<Operation> {
        if !self.is_planted(Planted::DeallocateBeforeFreed) {
            return None;
        }
        let bytes = len_u32(index(self.identity.layout.segment_bytes)) - len_u32(segment::HEADER_BYTES);
        let operation = self.deallocate(pool, link.chained.segment, segment::HEADER_BYTES as u64, bytes)?;
        Some(Operation { tag: self.tag(0) | TAG_RECLAIM, ..operation })
    }

    /// What the drive said to that. One that refuses is not asked again: the log does without.
    pub fn deallocated(&mut self, bytes: u32, result: Result<(), DeviceError>) {
        match result {
            Ok(()) => self.counters.deallocated_bytes += u64::from(bytes),
            // The next write says so.
            Err(DeviceError::Vanished) => {}
            Err(error) => {
                self.counters.deallocate_failures += 1;
                if self.segments.stop_deallocating() {
                    tracing::warn!(
                        shard = %self.identity.shard, %error,
                        "the drive does not deallocate what is given up, and is not asked again until the next start;                          device.deallocate = false keeps it from being asked"
                    );
                }
            }
        }
    }
}
