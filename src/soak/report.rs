//! What a soak did and measured, for people and as JSON.

use std::fmt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::writer::Writer;
use crate::load::histogram::Latency;
use crate::ring::client::{Client, ClientError};
use crate::ring::protocol::stats;

/// What the daemon of one life had counted when it was last asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    written_bytes: u64,
    taken_bytes: u64,
    copied_bytes: u64,
    segments_reclaimed: u64,
}

impl Sample {
    pub fn of(client: &mut Client) -> Result<Sample, ClientError> {
        let reactors = client.stats()?;
        let sum = |at: usize| reactors.iter().filter_map(|words| words.get(at)).sum::<u64>();
        Ok(Sample {
            written_bytes: sum(stats::FRAME_BYTES),
            taken_bytes: sum(stats::RECORD_BYTES).saturating_sub(sum(stats::COPIED_BYTES)),
            copied_bytes: sum(stats::COPIED_BYTES),
            segments_reclaimed: sum(stats::SEGMENTS_RECLAIMED),
        })
    }
}

/// What came of a soak. Nothing in it was wrong: that is an error.
pub struct Report {
    pub seed: u64,
    pub capacity_bytes: u64,
    pub target_bytes: u64,
    /// Keys, values and events that were acknowledged.
    pub taken_bytes: u64,
    /// Somebody ended it before all was written: what was written since the last restart was not read back.
    pub interrupted: bool,
    pub kills: u32,
    pub kills_at_start: u32,
    /// From the start of the daemon's process to the first client that is connected, after each kill.
    pub recovery_ms: Vec<u64>,
    /// What the flight recorders held beyond the logs.
    pub replayed_bytes: u64,
    pub issued: u64,
    pub acknowledged: u64,
    /// Recovered, though the kill came before the answer.
    pub beyond: u64,
    /// How often everything was read back, and how many keys and events proved themselves, then and in between.
    pub checks: u32,
    pub proven: u64,
    /// What `verify` read on the stopped device.
    pub verified_records: u64,
    pub strict_puts: Latency,
    pub elapsed: Duration,
    pub writing: Duration,
    pub checking: Duration,
    sampled: Sample,
}

impl Report {
    pub(super) fn new(seed: u64, capacity_bytes: u64, target_bytes: u64) -> Report {
        Report {
            seed,
            capacity_bytes,
            target_bytes,
            taken_bytes: 0,
            interrupted: false,
            kills: 0,
            kills_at_start: 0,
            recovery_ms: Vec::new(),
            replayed_bytes: 0,
            issued: 0,
            acknowledged: 0,
            beyond: 0,
            checks: 0,
            proven: 0,
            verified_records: 0,
            strict_puts: Latency::default(),
            elapsed: Duration::ZERO,
            writing: Duration::ZERO,
            checking: Duration::ZERO,
            sampled: Sample::default(),
        }
    }

    /// One life is over, and its daemon had counted this.
    pub(super) fn sampled(&mut self, last: &Sample, taken_bytes: u64) {
        let Sample { written_bytes, taken_bytes: taken, copied_bytes, segments_reclaimed } = &mut self.sampled;
        *written_bytes += last.written_bytes;
        *taken += last.taken_bytes;
        *copied_bytes += last.copied_bytes;
        *segments_reclaimed += last.segments_reclaimed;
        self.taken_bytes = taken_bytes;
    }

    pub(super) fn take(&mut self, writers: &[Writer]) {
        for writer in writers {
            self.issued += writer.number;
            self.acknowledged += writer.acknowledged;
            self.proven += writer.proven;
            self.strict_puts.merge(&writer.strict_puts);
        }
    }

    /// While clients wrote, with the life that began at `life`.
    pub(super) fn bytes_per_second(&self, taken_bytes: u64, life: Instant) -> u64 {
        rate(taken_bytes, self.writing + life.elapsed())
    }

    /// Bytes of log that were written to the drive for each byte of records that clients asked for, as the daemons had
    /// counted shortly before they were killed. `None`: nothing was counted.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio of two counts is told with two digits")]
    pub fn write_amplification(&self) -> Option<f64> {
        let Sample { written_bytes, taken_bytes, .. } = self.sampled;
        (taken_bytes > 0).then(|| written_bytes as f64 / taken_bytes as f64)
    }

    /// Least, median and most.
    #[must_use]
    pub fn recovery_ms_spread(&self) -> Option<[u64; 3]> {
        let mut sorted = self.recovery_ms.clone();
        sorted.sort_unstable();
        Some([*sorted.first()?, sorted[sorted.len() / 2], *sorted.last()?])
    }

    #[must_use]
    pub fn to_json(&self) -> Value {
        let percentile = |percent| self.strict_puts.percentile(percent);
        json!({
            "seed": self.seed,
            "interrupted": self.interrupted,
            "capacity_bytes": self.capacity_bytes,
            "target_bytes": self.target_bytes,
            "taken_bytes": self.taken_bytes,
            "elapsed_ms": ms(self.elapsed),
            "writing_ms": ms(self.writing),
            "checking_ms": ms(self.checking),
            "taken_bytes_per_second": rate(self.taken_bytes, self.writing),
            "kills": self.kills,
            "kills_at_start": self.kills_at_start,
            "recovery_ms": self.recovery_ms,
            "replayed_bytes": self.replayed_bytes,
            "issued": self.issued,
            "acknowledged": self.acknowledged,
            "recovered_beyond_acknowledged": self.beyond,
            "checks": self.checks,
            "proven": self.proven,
            "verified_records": self.verified_records,
            "write_amplification": self.write_amplification(),
            "copied_bytes": self.sampled.copied_bytes,
            "segments_reclaimed": self.sampled.segments_reclaimed,
            "strict_put_ns": {
                "count": self.strict_puts.count(), "p50": percentile(50.0), "p99": percentile(99.0),
                "p99_9": percentile(99.9), "max": self.strict_puts.max(),
            },
        })
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn rate(bytes: u64, duration: Duration) -> u64 {
    bytes.saturating_mul(1_000) / ms(duration).max(1)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes >> 20;
        let end = if self.interrupted { "interrupted" } else { "done" };
        writeln!(
            f,
            "{end:<20} {} of {} MiB taken from clients, on {} MiB; seed {}",
            mib(self.taken_bytes),
            mib(self.target_bytes),
            mib(self.capacity_bytes),
            self.seed
        )?;
        writeln!(
            f,
            "{:<20} {} s, of which {} s writing ({} MiB/s) and {} s reading everything back {} times",
            "time",
            self.elapsed.as_secs(),
            self.writing.as_secs(),
            mib(rate(self.taken_bytes, self.writing)),
            self.checking.as_secs(),
            self.checks
        )?;
        writeln!(f, "{:<20} {}, and {} while the daemon started", "kills", self.kills, self.kills_at_start)?;
        if let Some([least, median, most]) = self.recovery_ms_spread() {
            let replayed = self.replayed_bytes >> 10;
            writeln!(
                f,
                "{:<20} {least} / {median} / {most} ms (least, median, most); {replayed} KiB from the flight recorders",
                "recovery"
            )?;
        }
        let Report { issued, acknowledged, beyond, .. } = self;
        writeln!(
            f,
            "{:<20} {issued} issued, {acknowledged} acknowledged writes, {beyond} recovered beyond",
            "operations"
        )?;
        writeln!(
            f,
            "{:<20} {} keys and events proved themselves; verify read {} records",
            "verified", self.proven, self.verified_records
        )?;
        let amplification = self.write_amplification().map_or_else(|| "not known".to_owned(), |x| format!("{x:.2}"));
        let Sample { copied_bytes, segments_reclaimed, .. } = self.sampled;
        writeln!(
            f,
            "{:<20} {amplification}; reclaim copied {} MiB and gave {segments_reclaimed} segments up",
            "write amplification",
            mib(copied_bytes)
        )?;
        let us = |percent| self.strict_puts.percentile(percent) / 1_000;
        writeln!(
            f,
            "{:<20} {} with p50 {} us, p99 {} us, p99.9 {} us, most {} us",
            "strict puts",
            self.strict_puts.count(),
            us(50.0),
            us(99.0),
            us(99.9),
            self.strict_puts.max() / 1_000
        )
    }
}
