//! The result of a job file, as text in the manner of fio.

use super::histogram::{Direction, Latency};
use super::job::{Job, Target};
use super::layers::LayerFigures;
use super::ledger::Ledger;
use super::operation::Kind;
use super::stats::{Failure, Stats, TransactionStats};
use super::units::{latency_unit, nanoseconds_text, short_bytes, short_bytes_decimal, short_count};
use super::verify::{self, Verdict};
use crate::error::Result;
use crate::ring::client::{Client, CompressionStats};
use crate::types::{Compression, Durability};
use std::fmt::{self, Write as _};
use std::time::SystemTime;

/// One job, or one of its threads where they are not reported together.
pub struct JobReport {
    pub job: Job,
    pub threads: u32,
    /// What its acknowledgements promised. `None` when it never came so far.
    pub durability: Option<Durability>,
    /// Of its space's values.
    pub compression: Compression,
    /// Keys or events that were missing and were written before it began, not counted.
    pub filled: u64,
    pub stats: Stats,
    pub failure: Option<Failure>,
    /// With the feature `perf-diagnostics`.
    pub layers: Option<LayerFigures>,
}

impl JobReport {
    /// What it drove and how, in a line.
    pub(super) fn describe(&self) -> String {
        let job = &self.job;
        let mut text = format!("{}={}", job.target.kind.name(), job.target.name);
        let sizes = &job.sizes;
        let _ = if sizes.bytes_min() == sizes.bytes_max() {
            write!(text, ", bs={}B", sizes.bytes_max())
        } else {
            write!(text, ", bs={}B-{}B", sizes.bytes_min(), sizes.bytes_max())
        };
        let _ = write!(text, ", iodepth={}", job.iodepth);
        if let Some(rate) = job.rate_iops {
            let _ = write!(text, ", rate_iops={rate} (open loop)");
        }
        if let Some(durability) = self.durability {
            let _ = write!(text, ", durability={}", durability.name());
        }
        if self.compression != Compression::None {
            let _ = write!(text, ", compression={}", self.compression.name());
        }
        text
    }
}

/// A whole run.
pub struct Report {
    pub name: String,
    pub warnings: Vec<String>,
    /// The live device tier, where the caller knows it.
    pub device: Option<String>,
    pub started: SystemTime,
    pub global_options: Vec<(String, String)>,
    pub jobs: Vec<JobReport>,
    pub verdicts: Vec<Verdict>,
    pub(super) ledgers: Vec<Ledger>,
}

impl Report {
    /// True when a job ended with an error, or something that was read back is not what was written.
    #[must_use]
    pub fn failed(&self) -> bool {
        self.cause().is_some()
    }

    /// The first thing that went wrong, in a line; `None` when all went well.
    #[must_use]
    pub fn cause(&self) -> Option<String> {
        let job = self.jobs.iter().find_map(|job| Some(format!("job [{}]: {}", job.job.name, job.failure.as_ref()?)));
        let wrong = || {
            let verdict = self.verdicts.iter().find(|verdict| verdict.wrong > 0)?;
            let Target { kind, name } = &verdict.target;
            Some(format!("{} {name:?}: {} of {} writes are wrong", kind.name(), verdict.wrong, verdict.checked))
        };
        job.or_else(wrong)
    }

    /// Reads everything back once more that jobs with `verify` wrote, after the appliance was stopped and recovered.
    /// Writes that were acknowledged in memory only may be gone then. Blocks until all is read.
    ///
    /// # Errors
    /// A connection that broke, or a space or stream that is gone. What is wrong with values stands in the report.
    pub fn verify_after_restart(&mut self, client: &mut Client) -> Result<()> {
        let mut targets: Vec<_> = self.ledgers.iter().map(|ledger| ledger.target.clone()).collect();
        let mut seen = Vec::new();
        targets.retain(|target| {
            !seen.contains(target) && {
                seen.push(target.clone());
                true
            }
        });
        for target in &targets {
            let verdict = verify::verify(client, target, &self.ledgers, true);
            self.verdicts
                .push(verdict.map_err(|error| error.context(format!("{} {:?}", target.kind.name(), target.name)))?);
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for warning in &self.warnings {
            writeln!(f, "warning: {warning}")?;
        }
        if let Some(device) = &self.device {
            writeln!(f, "device: {device}")?;
        }
        for job in &self.jobs {
            write_job(f, job)?;
        }
        for verdict in &self.verdicts {
            write_verdict(f, verdict)?;
        }
        Ok(())
    }
}

fn write_job(f: &mut fmt::Formatter<'_>, report: &JobReport) -> fmt::Result {
    let JobReport { job, stats, .. } = report;
    let code = report.failure.as_ref().map_or(0, |failure| failure.code);
    writeln!(
        f,
        "\n{}: (groupid={}, jobs={}): err={code:2}: {}",
        job.name,
        job.group,
        report.threads,
        report.describe()
    )?;
    if let Some(failure) = &report.failure {
        writeln!(f, "  error: {failure}")?;
    }
    if report.filled > 0 {
        let what = match job.target.kind {
            crate::types::ObjectKind::Space => "keys",
            crate::types::ObjectKind::Stream => "events",
            crate::types::ObjectKind::Pages => "pages",
        };
        writeln!(f, "  {} {what} were missing and were written first (not counted)", report.filled)?;
    }
    for (name, direction) in [("read", &stats.read), ("write", &stats.write)] {
        if direction.operations > 0 {
            write_direction(f, name, direction, job, stats.elapsed_ns)?;
        }
    }
    for (kind, timeline) in stats.timelines.iter() {
        if matches!(kind, Kind::Scan | Kind::Insert | Kind::Modify | Kind::Transaction) {
            let total = timeline.total();
            let time = |percent| nanoseconds_text(total.percentile(percent));
            writeln!(
                f,
                "  {}: {} of them, lat p50={}, p99={}, p99.9={}, max={}",
                kind.name(),
                total.operations(),
                time(50.0),
                time(99.0),
                time(99.9),
                time(100.0)
            )?;
        }
    }
    stats.transactions.iter().try_for_each(|profile| write_transactions(f, profile))?;
    if stats.sync.count() > 0 {
        writeln!(f, "  sync: {} of them", stats.sync.count())?;
        write_latency(f, " lat", &stats.sync)?;
    }
    if stats.compression.values > 0 {
        write_compression(f, &stats.compression)?;
    }
    if let Some(layers) = &report.layers {
        write!(f, "{layers}")?;
    }
    let percent = |ms: u64| percent_of(ms, stats.usage.wall_ms);
    let usage = &stats.usage;
    writeln!(
        f,
        "  cpu          : usr={:.2}%, sys={:.2}%, ctx={}, majf={}, minf={}",
        percent(usage.user_ms),
        percent(usage.system_ms),
        usage.switches,
        usage.major_faults,
        usage.minor_faults
    )
}

fn write_transactions(f: &mut fmt::Formatter<'_>, profile: &TransactionStats) -> fmt::Result {
    let TransactionStats { name, latency, conflicts, given_up } = profile;
    let time = |percent| nanoseconds_text(latency.percentile(percent));
    writeln!(
        f,
        "    {name}: {} committed, {conflicts} conflicts ({:.1}% of all tries), {given_up} given up, lat p50={}, p99={}, \
         p99.9={}, max={}",
        profile.committed(),
        percent_of(*conflicts, profile.committed() + conflicts),
        time(50.0),
        time(99.0),
        time(99.9),
        time(100.0)
    )
}

#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
fn write_compression(f: &mut fmt::Formatter<'_>, found: &CompressionStats) -> fmt::Result {
    writeln!(
        f,
        "  compression  : {} stored as {} ({:.2}:1), values: {:.1}% compressed, {:.1}% tried and plain, {:.1}% not tried",
        short_bytes(found.plain_bytes as f64),
        short_bytes(found.stored_bytes as f64),
        found.ratio(),
        percent_of(found.compressed, found.values),
        percent_of(found.tried - found.compressed, found.values),
        percent_of(found.skipped(), found.values)
    )
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn write_direction(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    direction: &Direction,
    job: &Job,
    elapsed_ns: u64,
) -> fmt::Result {
    let seconds = elapsed_ns.max(1) as f64 / 1e9;
    let bandwidth = direction.bytes as f64 / seconds;
    writeln!(
        f,
        "  {name}: IOPS={}, BW={}/s ({}/s)({}/{}msec)",
        short_count((direction.operations as f64 / seconds).round()),
        short_bytes(bandwidth.round()),
        short_bytes_decimal(bandwidth.round()),
        short_bytes(direction.bytes as f64),
        elapsed_ns / 1_000_000
    )?;
    write_latency(f, "slat", &direction.slat)?;
    write_latency(f, "clat", &direction.clat)?;
    write_latency(f, " lat", &direction.lat)?;
    // On a schedule, what counts is the time from the intended start.
    let (name, shown) = if job.rate_iops.is_some() { ("lat", &direction.lat) } else { ("clat", &direction.clat) };
    write_percentiles(f, name, shown, &job.percentiles)
}

#[expect(clippy::cast_precision_loss, reason = "latencies stay below 2^53 ns")]
fn write_latency(f: &mut fmt::Formatter<'_>, name: &str, latency: &Latency) -> fmt::Result {
    let (unit, scale) = latency_unit(latency.mean());
    let number = |ns: u64| short_count((ns as f64 / scale).floor());
    writeln!(
        f,
        "    {name} ({unit}): min={}, max={}, avg={:.2}, stdev={:.2}",
        number(latency.min()),
        number(latency.max()),
        latency.mean() / scale,
        latency.stdev() / scale
    )
}

#[expect(clippy::cast_precision_loss, reason = "latencies stay below 2^53 ns")]
fn write_percentiles(f: &mut fmt::Formatter<'_>, name: &str, latency: &Latency, percentiles: &[f64]) -> fmt::Result {
    let (unit, scale) = latency_unit(latency.percentile(50.0) as f64);
    writeln!(f, "    {name} percentiles ({unit}):")?;
    for (row, chunk) in percentiles.chunks(4).enumerate() {
        let cells: Vec<String> = chunk
            .iter()
            .map(|percent| format!("{percent:5.2}th=[{:8.1}]", latency.percentile(*percent) as f64 / scale))
            .collect();
        let end = if (row + 1) * 4 < percentiles.len() { "," } else { "" };
        writeln!(f, "     | {}{end}", cells.join(", "))?;
    }
    Ok(())
}

fn write_verdict(f: &mut fmt::Formatter<'_>, verdict: &Verdict) -> fmt::Result {
    let after = if verdict.restarted { " after stop and recovery" } else { "" };
    writeln!(
        f,
        "\nverify{after}: {} {}: {} acknowledged writes read back in {} ms, {} wrong",
        verdict.target.kind.name(),
        verdict.target.name,
        verdict.checked,
        verdict.elapsed.as_millis(),
        verdict.wrong
    )?;
    for finding in &verdict.findings {
        writeln!(f, "  {finding}")?;
    }
    let more = verdict.wrong.saturating_sub(verdict.findings.len() as u64);
    if more > 0 { writeln!(f, "  and {more} more") } else { Ok(()) }
}

#[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
pub(super) fn percent_of(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole.max(1) as f64
}

/// "Sat Nov 21 02:05:43 2026", in UTC.
pub(super) fn calendar(seconds: u64) -> String {
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [(&str, u64); 12] = [
        ("Jan", 31),
        ("Feb", 28),
        ("Mar", 31),
        ("Apr", 30),
        ("May", 31),
        ("Jun", 30),
        ("Jul", 31),
        ("Aug", 31),
        ("Sep", 30),
        ("Oct", 31),
        ("Nov", 30),
        ("Dec", 31),
    ];
    let leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (mut year, mut day) = (1970, days);
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    let mut month = "Dec";
    for (name, length) in MONTHS {
        let length = length + u64::from(name == "Feb" && leap(year));
        if day < length {
            month = name;
            break;
        }
        day -= length;
    }
    let weekday = WEEKDAYS[usize::try_from(days % 7).expect("below 7")];
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{weekday} {month} {:2} {hour:02}:{minute:02}:{second:02} {year}", day + 1)
}
