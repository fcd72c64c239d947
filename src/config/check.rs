//! The bounds of every field, checked together so that all that is wrong is named at once.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::{ByteSize, Config, Nanos};
use crate::ring::protocol::{
    KEY_BYTES_MAX, REACTORS_MAX, RING_ENTRIES_MAX, RING_ENTRIES_MIN, SHARDS_MAX, VALUE_BYTES_MAX,
};
use crate::wal::layout::{Layout, SEGMENTS_PER_SHARD_MIN};

/// Every structure on the drive and every arena is a multiple of this.
const BLOCK: ByteSize = ByteSize::kib(4);

/// A bound that does not hold: the key as "section.field", and what is wrong with what to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub key: &'static str,
    pub message: String,
}

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn unless(&mut self, holds: bool, key: &'static str, message: impl FnOnce() -> String) {
        if !holds {
            self.0.push(Problem { key, message: message() });
        }
    }

    fn range<T: PartialOrd + Display>(&mut self, key: &'static str, value: T, range: RangeInclusive<T>) {
        self.unless(range.contains(&value), key, || {
            format!("is {value}; use a value from {} to {}", range.start(), range.end())
        });
    }

    fn blocks(&mut self, key: &'static str, value: ByteSize) {
        self.unless(value.0.is_multiple_of(BLOCK.0), key, || format!("is {value}; use a multiple of {BLOCK}"));
    }

    fn power_of_two(&mut self, key: &'static str, value: u32) {
        self.unless(value.is_power_of_two(), key, || {
            format!("is {value}; use a power of two, such as {}", value.checked_next_power_of_two().unwrap_or(4_096))
        });
    }
}

impl Config {
    /// Everything that is out of bounds; empty when the configuration can be used.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Problems::default();
        self.check_format(&mut problems);
        self.check_reactors(&mut problems);
        self.check_wal(&mut problems);
        self.check_limits(&mut problems);
        self.check_rings(&mut problems);
        self.check_places(&mut problems);
        problems.0
    }

    fn check_format(&self, problems: &mut Problems) {
        let format = &self.format;
        if let Some(segment_bytes) = format.segment_bytes {
            problems.range("format.segment_bytes", segment_bytes, ByteSize::mib(1)..=ByteSize::gib(1));
            problems.blocks("format.segment_bytes", segment_bytes);
        }
        let segment_bytes = format.segment_bytes.unwrap_or(ByteSize(self.segment_bytes_chosen_min()));
        problems.range("format.shards", format.shards, 1..=SHARDS_MAX);
        if let Some(capacity) = format.capacity {
            let least = Layout::device_bytes_min(segment_bytes.0, format.shards);
            problems.unless(capacity.0 >= least, "format.capacity", || {
                format!(
                    "is {capacity}, too small for {SEGMENTS_PER_SHARD_MIN} segments of {segment_bytes} for each of {} \
                     shards; use at least {}MiB, fewer shards or smaller segments",
                    format.shards,
                    least.div_ceil(1 << 20)
                )
            });
        }
    }

    fn check_reactors(&self, problems: &mut Problems) {
        let reactors = &self.reactors;
        if let Some(count) = reactors.count {
            problems.range("reactors.count", count, 1..=REACTORS_MAX);
            problems.unless(
                reactors.cores.is_empty() || reactors.cores.len() == count as usize,
                "reactors.cores",
                || format!("names {} cores for {count} reactors; name one a reactor", reactors.cores.len()),
            );
        }
        problems.unless(reactors.cores.len() <= REACTORS_MAX as usize, "reactors.cores", || {
            format!("names {} cores; use at most {REACTORS_MAX}", reactors.cores.len())
        });
        let mut cores = reactors.cores.clone();
        cores.sort_unstable();
        if let Some(pair) = cores.windows(2).find(|pair| pair[0] == pair[1]) {
            problems.unless(false, "reactors.cores", || format!("names core {} twice; one reactor a core", pair[0]));
        }
        problems.range("reactors.turn_requests_max", reactors.turn_requests_max, 1..=65_536);
    }

    fn check_wal(&self, problems: &mut Problems) {
        let wal = &self.wal;
        problems.range("wal.frame_bytes_max", wal.frame_bytes_max, BLOCK..=ByteSize::mib(16));
        problems.blocks("wal.frame_bytes_max", wal.frame_bytes_max);
        if let Some(segment_bytes) = self.format.segment_bytes {
            problems.unless(wal.frame_bytes_max.0 <= segment_bytes.0 / 2, "wal.frame_bytes_max", || {
                format!("is {}; use at most half of format.segment_bytes ({segment_bytes})", wal.frame_bytes_max)
            });
        }
        problems.range("wal.frames_in_flight_max", wal.frames_in_flight_max, 1..=256);
        let recovery = ByteSize::mib(16)..=ByteSize::mib(1 << 20);
        problems.range("wal.recovery_bytes_max", wal.recovery_bytes_max, recovery);
        problems.range("wal.watermark_interval", wal.watermark_interval, Nanos::millis(1)..=Nanos::millis(60_000));
        problems.range("wal.window_interval", wal.window_interval, Nanos::micros(10)..=Nanos::millis(60_000));
        problems.range("wal.window_bytes", wal.window_bytes, BLOCK..=ByteSize::gib(1));
    }

    fn check_limits(&self, problems: &mut Problems) {
        let limits = &self.limits;
        problems.range("limits.key_bytes_max", limits.key_bytes_max, ByteSize(1)..=ByteSize(KEY_BYTES_MAX as u64));
        problems.range(
            "limits.value_bytes_max",
            limits.value_bytes_max,
            ByteSize(1)..=ByteSize(VALUE_BYTES_MAX as u64),
        );
        problems.range("limits.memory_bytes_max", limits.memory_bytes_max, ByteSize::mib(1)..=ByteSize::gib(16_384));
        problems.range("limits.keys_max", limits.keys_max, 1..=u64::from(u32::MAX));
        problems.range("limits.sessions_max", limits.sessions_max, 1..=4_096);
        problems.range("limits.waiting_reads_max", limits.waiting_reads_max, 0..=1_048_576);
        problems.range("limits.objects_max", limits.objects_max, 1..=1_048_576);
        problems.range("limits.producers_max", limits.producers_max, 1..=65_536);
        problems.range("limits.cursors_max", limits.cursors_max, 1..=65_536);
        problems.range("limits.snapshots_max", limits.snapshots_max, 0..=1_024);
        let (kept, half) = (self.snapshot_bytes_max(), ByteSize(limits.memory_bytes_max.0 / 2));
        problems.unless(kept <= half.0, "limits.snapshot_bytes_max", || {
            format!("is {}; use at most half of limits.memory_bytes_max ({half})", ByteSize(kept))
        });
    }

    fn check_rings(&self, problems: &mut Problems) {
        let rings = &self.rings;
        problems.range("rings.sq_entries", rings.sq_entries, RING_ENTRIES_MIN..=RING_ENTRIES_MAX);
        problems.power_of_two("rings.sq_entries", rings.sq_entries);
        problems.range("rings.cq_entries", rings.cq_entries, RING_ENTRIES_MIN..=RING_ENTRIES_MAX);
        problems.power_of_two("rings.cq_entries", rings.cq_entries);
        problems.unless(rings.cq_entries >= rings.sq_entries, "rings.cq_entries", || {
            format!("is {}; use at least rings.sq_entries ({})", rings.cq_entries, rings.sq_entries)
        });
        problems.blocks("rings.arena_bytes", rings.arena_bytes);
        problems.blocks("rings.arena_bytes_max", rings.arena_bytes_max);
        problems.range("rings.arena_bytes_max", rings.arena_bytes_max, ByteSize::kib(64)..=ByteSize::gib(64));
        let largest = self.limits.key_bytes_max.0.saturating_add(self.limits.value_bytes_max.0);
        let least = largest.saturating_mul(2).min(1 << 60);
        problems.unless(rings.arena_bytes.0 >= least, "rings.arena_bytes", || {
            format!(
                "is {}; use at least {}, twice the largest key and value, or lower limits.value_bytes_max",
                rings.arena_bytes,
                ByteSize(least.next_multiple_of(BLOCK.0))
            )
        });
        problems.unless(rings.arena_bytes <= rings.arena_bytes_max, "rings.arena_bytes", || {
            format!("is {}; use at most rings.arena_bytes_max ({})", rings.arena_bytes, rings.arena_bytes_max)
        });
        problems.unless(rings.mode <= 0o777, "rings.mode", || {
            format!("is 0o{:o}; use permission bits only, such as 0o600", rings.mode)
        });
    }

    fn check_places(&self, problems: &mut Problems) {
        let named = |path: &Option<std::path::PathBuf>| path.as_ref().is_none_or(|path| !path.as_os_str().is_empty());
        problems.unless(named(&self.device.path), "device.path", || "is empty; name a file or a block device".into());
        problems.unless(named(&self.rings.socket), "rings.socket", || "is empty; name a path or leave it out".into());
        problems.range("device.timeout", self.device.timeout, Nanos::millis(1_000)..=Nanos::millis(3_600_000));
        let flight = &self.flight.directory;
        problems.unless(flight.as_os_str().is_empty() || flight.is_absolute(), "flight.directory", || {
            format!("is {}; use an absolute path, or \"\" for no flight recorder", flight.display())
        });
    }
}
