//! Deallocation: the drive is told that a segment which was given up carries nothing, so that it need not move the old
//! bytes about. One operation at a time, on the side: no write waits for it.
//!
//! Until the drive has answered, the segment is nobody's: free on the drive, and not in the pool. So it is never written
//! to while it is being deallocated. The header stays, it says that the segment is free.

use crate::buffer::Pool;
use crate::bytes::{index, len_u32};
use crate::device::{Completion, Device};
use crate::types::SegmentIndex;
use crate::wal::planted::Planted;
use crate::wal::pool::Writer;
use crate::wal::{Wal, segment};

/// What one operation names, so that no drive is long at it.
const PIECE_BYTES_MAX: u32 = 64 << 20;

/// A segment on its way back to the pool.
#[derive(Clone, Copy)]
struct Leaving {
    segment: SegmentIndex,
    /// The place of the shard that gave it up.
    at: usize,
    /// Up to here the drive was told.
    offset: u64,
}

/// The deallocation of one reactor. Owned by it.
#[derive(Default)]
pub(super) struct Deallocation {
    leaving: Option<Leaving>,
    under_way: bool,
}

impl Deallocation {
    /// Takes a segment of shard `at` whose header says durably that it is free. While another one is on its way, it goes
    /// back to the pool as it is.
    pub(super) fn take(&mut self, wal: &Wal, at: usize, segment: SegmentIndex) {
        if self.leaving.is_some() || self.under_way {
            return wal.segments().give(segment);
        }
        wal.segments().announce();
        self.leaving = Some(Leaving { segment, at, offset: segment::HEADER_BYTES as u64 });
    }

    /// The shard whose segment the drive is to be told of now.
    #[inline]
    pub(super) fn due(&self) -> Option<usize> {
        self.leaving.filter(|_| !self.under_way).map(|leaving| leaving.at)
    }

    /// Tells the drive of the next part, or gives the segment back: all is told, writers wait for it, the drive is not
    /// to be told. Says whether anything happened.
    #[cold]
    pub(super) fn turn<D: Device>(&mut self, wal: &mut Wal, pool: &mut Pool, device: &mut D) -> bool {
        let Some(Leaving { segment, offset, .. }) = self.leaving.filter(|_| !self.under_way) else { return false };
        let left_bytes = wal.identity().layout.segment_bytes - offset;
        let bytes = left_bytes.min(u64::from(device.geometry().deallocate_bytes_max.min(PIECE_BYTES_MAX)));
        let segments = wal.segments();
        if bytes == 0 || !segments.deallocates() || !segments.has(Writer::Ordinary) || wal.fenced().is_some() {
            self.give(wal);
            return true;
        }
        let Some(operation) = wal.deallocate(pool, segment, offset, len_u32(index(bytes))) else { return false };
        match device.submit(operation) {
            Ok(()) => self.under_way = true,
            Err(operation) => pool.give(operation.buffer),
        }
        if self.under_way && wal.is_planted(Planted::DeallocateInUse) {
            self.give(wal);
        }
        self.under_way
    }

    /// Takes the drive's answer. A drive that refuses is not told any more; nothing depends on it.
    #[cold]
    pub(super) fn complete(&mut self, wal: &mut Wal, pool: &mut Pool, completion: Completion) {
        self.under_way = false;
        let Completion { operation, result } = completion;
        wal.deallocated(operation.bytes, result);
        if let Some(leaving) = &mut self.leaving {
            leaving.offset += u64::from(operation.bytes);
        }
        pool.give(operation.buffer);
    }

    fn give(&mut self, wal: &Wal) {
        if let Some(leaving) = self.leaving.take() {
            wal.segments().give_announced(leaving.segment);
        }
    }
}
