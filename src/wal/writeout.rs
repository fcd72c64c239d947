//! Frames to the device, and back: what is due is handed over, the durable prefix advances over what completed.

use crate::buffer::Pool;
use crate::bytes::{index, len_u32};
use crate::device::{Completion, Device, Operation, OperationKind};
use crate::wal::layout::BLOCK_BYTES;
use crate::wal::planted::Planted;
use crate::wal::pool::Writer;
use crate::wal::{ChainSegment, Fence, Prepared, TAG_HEADER, TAG_MASK, Wal, frame, record, segment};

/// A flush that nobody waits for may take so long before somebody counts as waiting.
const FLUSH_NS_MAX: u64 = 1_000_000;

impl Wal {
    /// Seals what is due, for those who wait at once while fewer than `frames_in_flight_max` are out, buffered records when their
    /// window is over, and hands over all that is sealed: a full frame has nothing to wait for. Gives the operations handed over.
    #[inline]
    pub fn seal<D: Device>(&mut self, pool: &mut Pool, device: &mut D, now_ns: u64) -> u32 {
        if self.fenced.is_some() {
            self.give_up(pool);
            return 0;
        }
        if self.prepared.is_empty() {
            self.prepare_next(pool);
        }
        let mut handed = 0;
        loop {
            let few = self.submitted < self.limits.frames_in_flight_max;
            if few && self.outbox.is_empty() && self.is_due(now_ns) {
                self.seal_open(pool, 0);
                if std::mem::take(&mut self.urgent) {
                    self.wanted_lsn = self.last_lsn();
                }
            }
            let Some(operation) = self.outbox.pop_front() else { return handed };
            if let Err(operation) = device.submit(operation) {
                self.outbox.push_front(operation);
                return handed;
            }
            self.submitted += 1;
            handed += 1;
            if self.planted.is(Planted::AcknowledgeBeforeDurable) {
                self.durable_lsn = self.in_flight.back().map_or(self.durable_lsn, |frame| frame.last_lsn);
            }
        }
    }

    /// A fenced shard holds no buffers that the others could use.
    fn give_up(&mut self, pool: &mut Pool) {
        let open = self.open.take().map(|open| open.buffer);
        for buffer in self.outbox.drain(..).map(|operation| operation.buffer).chain(open) {
            pool.give(buffer);
        }
    }

    fn is_due(&self, now_ns: u64) -> bool {
        self.open.as_ref().is_some_and(|open| {
            open.records > 0
                && (self.urgent
                    || open.used >= self.limits.window_bytes
                    || now_ns.saturating_sub(open.opened_ns) >= self.limits.window_interval_ns)
        })
    }

    /// Whether somebody waits for frames that are on their way, or one of them is so for so long that its window is over.
    #[must_use]
    #[inline]
    pub fn is_waited_for(&self, now_ns: u64) -> bool {
        let late_ns = self.limits.window_interval_ns.saturating_add(FLUSH_NS_MAX);
        self.fenced.is_none()
            && (self.durable_lsn < self.wanted_lsn
                || self.in_flight.front().is_some_and(|frame| now_ns.saturating_sub(frame.opened_ns) >= late_ns))
    }

    /// When this log next has something to do without being asked: a window or an idle watermark.
    #[must_use]
    pub fn deadline_ns(&self) -> Option<u64> {
        if self.fenced.is_some() {
            return None;
        }
        match &self.open {
            Some(open) if open.records > 0 => Some(open.opened_ns + self.limits.window_interval_ns),
            _ if self.in_flight.is_empty() && self.stated_lsn < self.durable_lsn => {
                Some(self.idle_since_ns + self.limits.watermark_interval_ns)
            }
            _ => None,
        }
    }

    /// States the durable LSN in a frame of its own when the shard has been idle (or stops: `clean`).
    pub fn watermark(&mut self, pool: &mut Pool, now_ns: u64, clean: bool) {
        let idle = self.open.is_none() && self.in_flight.is_empty() && self.stated_lsn < self.durable_lsn;
        let waited = now_ns.saturating_sub(self.idle_since_ns) >= self.limits.watermark_interval_ns;
        if !idle || !(waited || clean) || self.fenced.is_some() {
            return;
        }
        // If there is no room it is tried again an interval later. A deadline in the past would let nobody sleep.
        self.idle_since_ns = now_ns;
        if pool.available() == 0 {
            return;
        }
        if self.remaining_bytes(Writer::Reclaim) < BLOCK_BYTES {
            if !self.prepared.front().is_some_and(|next| next.durable) {
                return;
            }
            self.open_for(pool, record::HEADER_BYTES, now_ns);
        } else {
            self.open_frame(pool, now_ns);
        }
        self.seal_open(pool, frame::FLAG_WATERMARK | if clean { frame::FLAG_CLEAN } else { 0 });
        self.counters.watermarks += 1;
    }

    /// Readies the next segment: its header is durable before it is needed. When only the reserve is left, the
    /// shard takes of that.
    fn prepare_next(&mut self, pool: &mut Pool) {
        if pool.available() == 0 {
            return;
        }
        let last = if self.needs_segment { Writer::Reclaim } else { Writer::Privileged };
        let writers = [Writer::Ordinary, Writer::Privileged, last];
        let Some(writer) = writers.into_iter().find(|writer| self.may_take(*writer)) else { return };
        let Some(segment) = self.segments.take(writer) else { return };
        self.needs_segment = false;
        let reserved = writer != Writer::Ordinary;
        let sequence = self.position.as_ref().map_or(1, |position| position.chained.sequence + 1);
        let address = self.identity.layout.segment_address(segment);
        let mut buffer = pool.take().expect("counted above");
        let header = segment::Header {
            namespace: self.identity.namespace,
            address,
            shard: self.identity.shard,
            sequence,
            epoch: self.identity.epoch,
            kept_from: self.kept_from,
            checkpoint: self.checkpoint.place,
            reserved,
            freed: false,
        };
        segment::encode(&mut buffer[..segment::HEADER_BYTES], &header);
        let chained = ChainSegment { segment, sequence, reserved };
        self.prepared.push_back(Prepared { chained, durable: false });
        self.outbox.push_front(Operation {
            tag: self.tag(0) | TAG_HEADER,
            kind: OperationKind::WriteDurable,
            address,
            bytes: len_u32(segment::HEADER_BYTES),
            buffer,
        });
    }

    /// Takes one completion of this shard. The durable prefix advances over frames that are done, in order.
    pub fn complete(&mut self, pool: &mut Pool, completion: Completion, now_ns: u64) {
        self.submitted -= 1;
        self.idle_since_ns = now_ns;
        pool.give(completion.operation.buffer);
        if let Err(error) = completion.result {
            let (shard, address) = (self.identity.shard, completion.operation.address);
            tracing::error!(%shard, %address, %error, "a write failed");
            self.fence(Fence::Device(error));
            return;
        }
        let tag = completion.operation.tag & TAG_MASK;
        if tag & TAG_HEADER != 0 {
            if let Some(next) = self.prepared.back_mut() {
                next.durable = true;
            }
            return;
        }
        self.in_flight[index(tag - self.front_number)].done = true;
        while self.in_flight.front().is_some_and(|frame| frame.done) {
            let frame = self.in_flight.pop_front().expect("seen above");
            self.front_number += 1;
            self.landed = frame.stamp.landed();
            self.durable_lsn = self.durable_lsn.max(frame.last_lsn);
            self.stated_lsn = self.stated_lsn.max(frame.stated_lsn);
            self.flight.release(frame.flight_end, frame.last_lsn);
        }
    }
}

#[cfg(test)]
#[path = "writeout_tests.rs"]
mod tests;
