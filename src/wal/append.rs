//! Records into frames: encoded into DMA buffers and the flight recorder, LSN given. Touches no device.

use forebay_sys::prefetch;
use forebay_sys::shm::LINE_BYTES;

use crate::buffer::Pool;
use crate::bytes::{index, len_u32};
use crate::device::{Operation, OperationKind};
use crate::timing::{self, Layer};
use crate::types::{DeviceAddress, Lsn, ObjectId};
use crate::wal::carries::Carries;
use crate::wal::layout::blocks_up;
use crate::wal::pool::Writer;
use crate::wal::record::{self, Kind, Record};
use crate::wal::{InFlight, Link, OpenFrame, Position, Room, TAG_RECLAIM, Wal, frame, segment};

impl Wal {
    /// Whether a record of this size can be appended now, by such a writer.
    #[must_use]
    pub fn room(&self, pool: &Pool, key_bytes: usize, value_bytes: usize, writer: Writer) -> Room {
        if self.fenced.is_some() {
            return Room::Fenced;
        }
        let bytes = record::encoded_bytes(key_bytes, value_bytes);
        if let Some(open) = &self.open
            && open.used + bytes <= open.capacity
            && self.may_write_here(writer)
        {
            return if self.flight.has_room(bytes) { Room::Yes } else { Room::Later };
        }
        let span = self.span_bytes(pool.buffer_bytes(), bytes);
        let frames = span / pool.buffer_bytes() + 1;
        // One buffer stays for the header of the next segment.
        if pool.available() < frames + 1 || !self.flight.has_room(bytes + frames * record::HEADER_BYTES) {
            return Room::Later;
        }
        if self.remaining_bytes(writer) >= span {
            return Room::Yes;
        }
        match self.prepared.front() {
            Some(next) if !next.chained.reserved || self.segments.may_use_reserve(writer) => {
                if next.durable {
                    Room::Yes
                } else {
                    Room::Later
                }
            }
            None if self.may_take(writer) => Room::Later,
            _ if self.segments.is_hopeless(writer) => Room::NoSpace,
            _ => Room::Later,
        }
    }

    /// Whether a record of this size can be appended at all, with buffers and a flight recorder of these sizes.
    #[must_use]
    pub fn can_hold(&self, pool: &Pool, key_bytes: usize, value_bytes: usize) -> bool {
        let bytes = record::encoded_bytes(key_bytes, value_bytes);
        let frames = self.span_bytes(pool.buffer_bytes(), bytes) / pool.buffer_bytes() + 1;
        pool.count() > frames && self.flight.can_hold(bytes + frames * record::HEADER_BYTES)
    }

    /// Whether such a writer may use the present segment.
    fn may_write_here(&self, writer: Writer) -> bool {
        !self.in_reserve() || self.segments.may_use_reserve(writer)
    }

    /// Whether there is a segment that `prepare_next` takes for such a writer.
    pub(super) fn may_take(&self, writer: Writer) -> bool {
        // Where nothing is ever given back, a shard takes of the reserve once.
        let again = self.segments.reclaims() || writer == Writer::Ordinary || !self.in_reserve();
        again && self.segments.has(writer)
    }

    fn in_reserve(&self) -> bool {
        self.position.as_ref().is_some_and(|position| position.chained.reserved)
    }

    /// Bytes of the segment that a record takes when it begins a frame of its own.
    fn span_bytes(&self, buffer_bytes: usize, record_bytes: usize) -> usize {
        if record_bytes <= buffer_bytes - frame::HEADER_BYTES {
            return blocks_up(frame::HEADER_BYTES + record_bytes);
        }
        let part_bytes = buffer_bytes - frame::HEADER_BYTES - record::HEADER_BYTES - 8;
        (record_bytes.div_ceil(part_bytes) + 1) * buffer_bytes
    }

    /// What is left of the present segment after the open frame, for such a writer.
    pub(super) fn remaining_bytes(&self, writer: Writer) -> usize {
        match &self.position {
            Some(position) if self.may_write_here(writer) => {
                let open = self.open.as_ref().map_or(0, |open| blocks_up(open.used));
                index(self.identity.layout.segment_bytes) - position.offset - open
            }
            _ => 0,
        }
    }

    /// Appends one record, in parts where it is larger than a frame. `room` said yes. Gives its last LSN.
    #[expect(clippy::too_many_arguments, reason = "the fields of a record, without a copy of them")]
    #[inline]
    pub fn append(
        &mut self,
        pool: &mut Pool,
        now_ns: u64,
        kind: Kind,
        object: ObjectId,
        version: u64,
        key: &[u8],
        value: &[u8],
    ) -> Lsn {
        let lsn = self.next_lsn;
        self.append_record(pool, now_ns, &Record { kind, flags: 0, lsn, object, version, key, value })
    }

    /// Appends a record as it is but for its LSN. `room` said yes. Gives its last LSN.
    pub fn append_record(&mut self, pool: &mut Pool, now_ns: u64, record: &Record<'_>) -> Lsn {
        let Record { kind, object, version, key, value, .. } = *record;
        let _layer = timing::enter(Layer::Encode);
        let bytes = record::encoded_bytes(key.len(), value.len());
        if self.open.as_ref().is_none_or(|open| open.used + bytes > open.capacity) {
            self.seal_open(pool, 0);
            self.open_for(pool, bytes, now_ns);
        }
        self.last_place = self.next_place();
        self.carries.note(kind, record.flags, object);
        let (mut key, mut value, mut flags) = (key, value, record.flags);
        loop {
            let open = self.open.as_mut().expect("a frame was opened above");
            let free = open.capacity - open.used - record::HEADER_BYTES - key.len();
            let whole = record::encoded_bytes(key.len(), value.len()) <= open.capacity - open.used;
            let take = if whole { value.len() } else { free / 8 * 8 };
            let (part, rest) = value.split_at(take);
            let more = if whole { 0 } else { record::FLAG_MORE };
            let lsn = self.next_lsn;
            let part = Record { kind, flags: flags | more, lsn, object, version, key, value: part };
            let at = open.used;
            let taken = record::encode(&mut open.buffer[at..open.capacity], self.seed, &part);
            self.flight.push(&open.buffer[at..at + taken]);
            open.used += taken;
            // For the next record, as in the recorder: the drive had these lines last.
            prefetch::for_writing(&open.buffer[..open.capacity], open.used + LINE_BYTES, taken);
            open.records += 1;
            open.for_clients |= !self.own;
            self.next_lsn = lsn.next();
            self.counters.records += 1;
            self.counters.record_bytes += taken as u64;
            if whole {
                return lsn;
            }
            (key, value, flags) = (&[], rest, record.flags | record::FLAG_CONTINUED);
            self.seal_open(pool, 0);
            self.open_frame(pool, now_ns);
        }
    }

    /// Copies one encoded record from the flight recorder into the log with all of its parts, as they are. They stay in
    /// one segment, as if it were appended. `room` said yes to all of its bytes. Part of recovery.
    ///
    /// # Errors
    /// The size of a part that does not fit a frame: the frame size was made smaller meanwhile. Nothing was copied.
    pub fn replay(&mut self, pool: &mut Pool, encoded: &[u8], now_ns: u64) -> Result<(), usize> {
        let parts = || {
            let mut rest = encoded;
            std::iter::from_fn(move || {
                let (part, next) = rest.split_at_checked(record::claimed_bytes(rest.get(..record::HEADER_BYTES)?))?;
                rest = next;
                Some(part)
            })
        };
        let part_bytes_max = pool.buffer_bytes() - frame::HEADER_BYTES;
        if let Some(part) = parts().find(|part| part.len() > part_bytes_max) {
            return Err(part.len());
        }
        if self.open.as_ref().is_none_or(|open| open.used + encoded.len() > open.capacity) {
            self.seal_open(pool, 0);
            self.open_for(pool, encoded.len(), now_ns);
        }
        self.last_place = self.next_place();
        self.carries = Carries::UNKNOWN;
        for part in parts() {
            self.replay_part(pool, part, now_ns);
        }
        Ok(())
    }

    /// Where the next record begins, if it goes into the open frame.
    #[inline]
    fn next_place(&self) -> DeviceAddress {
        let (Some(open), Some(position)) = (&self.open, &self.position) else { return DeviceAddress::NONE };
        let frame = self.identity.layout.segment_address(position.chained.segment).plus(position.offset as u64);
        frame.plus(open.used as u64)
    }

    fn replay_part(&mut self, pool: &mut Pool, encoded: &[u8], now_ns: u64) {
        if self.open.as_ref().is_none_or(|open| open.used + encoded.len() > open.capacity) {
            self.seal_open(pool, 0);
            self.open_frame(pool, now_ns);
        }
        let open = self.open.as_mut().expect("a frame was opened above");
        open.buffer[open.used..open.used + encoded.len()].copy_from_slice(encoded);
        open.used += encoded.len();
        open.records += 1;
        self.next_lsn = self.next_lsn.next();
        self.urgent = true;
    }

    /// Opens a frame in a segment that holds a record of `record_bytes` to its end.
    pub(super) fn open_for(&mut self, pool: &mut Pool, record_bytes: usize, now_ns: u64) {
        let span = self.span_bytes(pool.buffer_bytes(), record_bytes);
        if self.remaining_bytes(Writer::Reclaim) < span {
            let next = self.prepared.pop_front().expect("room() saw a prepared segment");
            self.counters.segments += 1;
            let carries = std::mem::replace(&mut self.carries, Carries::NOTHING);
            if let Some(closed) = self.links.back_mut() {
                closed.carries = carries;
            }
            let carries = Carries::UNKNOWN;
            self.links.push_back(Link { chained: next.chained, first_lsn: self.next_lsn, carries });
            self.position = Some(Position { chained: next.chained, offset: segment::HEADER_BYTES });
        }
        self.open_frame(pool, now_ns);
    }

    pub(super) fn open_frame(&mut self, pool: &mut Pool, now_ns: u64) {
        let position = self.position.as_ref().expect("a segment is open before a frame is");
        let remaining = index(self.identity.layout.segment_bytes) - position.offset;
        let buffer = pool.take().expect("room() counted the buffers");
        let capacity = buffer.len().min(remaining);
        self.open = Some(OpenFrame {
            buffer,
            capacity,
            used: frame::HEADER_BYTES,
            first_lsn: self.next_lsn,
            records: 0,
            opened_ns: now_ns,
            for_clients: false,
        });
    }

    /// Seals the open frame, if any, into the outbox. An empty one without flags is given back.
    pub(super) fn seal_open(&mut self, pool: &mut Pool, flags: u32) {
        let Some(mut open) = self.open.take() else { return };
        if open.records == 0 && flags == 0 {
            pool.give(open.buffer);
            return;
        }
        let sealing = timing::seal_begins();
        let position = self.position.as_mut().expect("a frame has a segment");
        let address = self.identity.layout.segment_address(position.chained.segment).plus(position.offset as u64);
        let frame_bytes = blocks_up(open.used);
        let header = frame::Header {
            namespace: self.identity.namespace,
            address,
            frame_bytes: len_u32(frame_bytes),
            used_bytes: len_u32(open.used),
            shard: self.identity.shard,
            flags,
            epoch: self.identity.epoch,
            segment_sequence: position.chained.sequence,
            first_lsn: open.first_lsn,
            durable_lsn: self.durable_lsn,
            records: open.records,
            previous_crc: self.previous_crc,
        };
        self.previous_crc = frame::seal(&mut open.buffer[..frame_bytes], &header);
        position.offset += frame_bytes;
        let number = self.front_number + self.in_flight.len() as u64;
        self.in_flight.push_back(InFlight {
            last_lsn: Lsn(header.next_lsn().0 - 1),
            stated_lsn: self.durable_lsn,
            flight_end: self.flight.position(),
            opened_ns: open.opened_ns,
            stamp: sealing.ends(),
            done: false,
        });
        self.counters.frames += 1;
        self.counters.frame_bytes += frame_bytes as u64;
        self.client_frame_bytes += if open.for_clients { frame_bytes as u64 } else { 0 };
        self.counters.count_records(open.records);
        let tag = self.tag(number);
        self.outbox.push_back(Operation {
            tag,
            kind: OperationKind::WriteDurable,
            address,
            bytes: len_u32(frame_bytes),
            buffer: open.buffer,
        });
    }

    pub(super) fn tag(&self, number: u64) -> u64 {
        u64::from(self.identity.shard.0) << 48 | number & (TAG_RECLAIM - 1)
    }
}
