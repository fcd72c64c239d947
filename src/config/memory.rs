//! What a configuration needs in memory, known before anything is started.

use super::{ByteSize, Config};
use crate::buffer::{SMALL_BYTES, SMALL_COUNT};
use crate::ring::protocol::segment;
use crate::wal::layout::BLOCK_BYTES;

/// One part of the memory that an appliance needs at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPart {
    /// What it is for.
    pub name: &'static str,
    /// How it follows from the configuration.
    pub reason: String,
    pub bytes: u64,
}

/// What a frame and a part of a record in it take beside the value, at most.
const FRAME_OVERHEAD_BYTES: u64 = 160;

impl Config {
    /// Of the memory budget: for what only snapshots see.
    #[must_use]
    pub fn snapshot_bytes_max(&self) -> u64 {
        self.limits.snapshot_bytes_max.map_or(self.limits.memory_bytes_max.0 / 8, |bytes| bytes.0)
    }

    /// Frames that a record of the largest value takes, its key and one for the end included.
    #[must_use]
    pub fn frames_per_record_max(&self) -> u64 {
        // Also of a configuration that is still to be checked.
        let carried = self.wal.frame_bytes_max.0.saturating_sub(FRAME_OVERHEAD_BYTES).max(1);
        self.limits.value_bytes_max.0.div_ceil(carried).saturating_add(2)
    }

    /// Why a namespace with segments of this size cannot be served with these limits, and what to do; `None` where it
    /// can: a record of the largest value has to fit a segment, beside the segment's header.
    #[must_use]
    pub fn segment_too_small(&self, segment_bytes: u64) -> Option<String> {
        let needed = self.segment_bytes_min();
        (needed > segment_bytes).then(|| {
            format!(
                "`serve` refuses segments of {} with limits.value_bytes_max = \"{}\" and wal.frame_bytes_max = \"{}\": \
                 they need {} KiB; lower one of both in the configuration that it is started with, or format with larger \
                 --segment-bytes",
                ByteSize(segment_bytes),
                self.limits.value_bytes_max,
                self.wal.frame_bytes_max,
                needed.div_ceil(1 << 10)
            )
        })
    }

    /// The smallest segment that holds a record of the largest value.
    #[must_use]
    pub fn segment_bytes_min(&self) -> u64 {
        self.frames_per_record_max().saturating_mul(self.wal.frame_bytes_max.0).saturating_add(BLOCK_BYTES as u64)
    }

    /// The smallest segment that `format` chooses by itself: a power of two that holds a record of the largest value, and
    /// two frames.
    #[must_use]
    pub fn segment_bytes_chosen_min(&self) -> u64 {
        let needed = self.segment_bytes_min().max(self.wal.frame_bytes_max.0.saturating_mul(2));
        needed.clamp(1 << 20, 1 << 40).next_power_of_two()
    }

    /// Frame buffers of one reactor: one large record and the header of a segment, and for every shard the frames in
    /// flight, one that is open, and a segment's header.
    #[must_use]
    pub fn buffers_per_reactor(&self, shards: u32, reactors: u32) -> u64 {
        let own = u64::from(shards.div_ceil(reactors));
        self.frames_per_record_max() + 1 + own * (u64::from(self.wal.frames_in_flight_max) + 2)
    }

    /// Frame buffers of all reactors.
    #[must_use]
    pub fn frame_buffer_bytes(&self, shards: u32, reactors: u32) -> u64 {
        u64::from(reactors) * self.buffers_per_reactor(shards, reactors) * self.wal.frame_bytes_max.0
    }

    /// Buffers of all reactors for values that are read from the drive.
    #[must_use]
    pub fn read_buffer_bytes(&self, reactors: u32) -> u64 {
        u64::from(reactors) * (SMALL_COUNT * SMALL_BYTES) as u64
    }

    /// The most memory that an appliance with this configuration and so many shards uses, part by part. The shards
    /// are those of the formatted device; before there is one, `format.shards`. Clients' rings are touched only as
    /// far as they are used.
    #[must_use]
    pub fn memory_parts(&self, shards: u32) -> Vec<MemoryPart> {
        let reactors = self.reactors.count().min(shards);
        let buffers = self.buffers_per_reactor(shards, reactors);
        let frame_bytes = self.wal.frame_bytes_max;
        let mut parts = vec![
            MemoryPart {
                name: "spaces and streams",
                reason: "limits.memory_bytes_max".into(),
                bytes: self.limits.memory_bytes_max.0,
            },
            MemoryPart {
                name: "frame buffers",
                reason: format!("{reactors} reactors x {buffers} frames of {frame_bytes}"),
                bytes: self.frame_buffer_bytes(shards, reactors),
            },
        ];
        parts.push(MemoryPart {
            name: "read buffers",
            reason: format!("{reactors} reactors x {SMALL_COUNT} values that are read at once"),
            bytes: self.read_buffer_bytes(reactors),
        });
        if self.flight_recorder() {
            parts.push(MemoryPart {
                name: "flight recorder",
                reason: format!("{shards} shards x all the frames of a reactor"),
                bytes: u64::from(shards) * buffers * frame_bytes.0,
            });
        }
        let ring_block = segment::ring_block_bytes(self.rings.sq_entries, self.rings.cq_entries) as u64;
        let rings = segment::HEADER_BYTES as u64 + u64::from(self.reactors.count()) * ring_block;
        parts.push(MemoryPart {
            name: "clients' rings",
            reason: format!(
                "{} sessions x ({} + an arena of {})",
                self.limits.sessions_max,
                ByteSize(rings),
                self.rings.arena_bytes
            ),
            bytes: u64::from(self.limits.sessions_max) * (rings + self.rings.arena_bytes.0),
        });
        parts
    }
}
