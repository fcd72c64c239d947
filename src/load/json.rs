//! The report as JSON with the keys of fio, so that tools made for fio read it. What fio does not know stands under
//! "forebay" in each job and at the end.

use super::figures::Figures;
use super::histogram::{Depths, Direction, Latency, Samples};
use super::report::{JobReport, Report, calendar, percent_of};
use super::stats::Stats;
use crate::types::Compression;
use serde_json::{Map, Value, json};
use std::time::UNIX_EPOCH;

/// Upper bounds of fio's latency classes; in nanoseconds, microseconds and milliseconds.
const CLASSES: [u64; 10] = [2, 4, 10, 20, 50, 100, 250, 500, 750, 1_000];

impl Report {
    /// As `fio --output-format=json`; with `bins` as `json+`, which adds how often each latency occurred.
    #[must_use]
    pub fn to_json(&self, bins: bool) -> Value {
        let since_epoch = self.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        json!({
            "fio version": concat!("forebay-", env!("CARGO_PKG_VERSION")),
            "timestamp": since_epoch.as_secs(),
            "timestamp_ms": u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX),
            "time": calendar(since_epoch.as_secs()),
            "global options": options(&self.global_options),
            "jobs": self.jobs.iter().map(|job| job_json(job, bins)).collect::<Vec<Value>>(),
            "disk_util": [],
            "forebay": {
                "device": self.device,
                "figures": serde_json::to_value(Figures::of(self)).expect("numbers and names"),
                "warnings": self.warnings,
                "verify": self.verdicts.iter().map(|verdict| json!({
                    "kind": verdict.target.kind.name(),
                    "name": verdict.target.name,
                    "checked": verdict.checked,
                    "wrong": verdict.wrong,
                    "findings": verdict.findings,
                    "after_restart": verdict.restarted,
                    "elapsed_ms": u64::try_from(verdict.elapsed.as_millis()).unwrap_or(u64::MAX),
                })).collect::<Vec<Value>>(),
            },
        })
    }
}

fn options(pairs: &[(String, String)]) -> Value {
    pairs.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect::<Map<String, Value>>().into()
}

fn job_json(report: &JobReport, bins: bool) -> Value {
    let JobReport { job, stats, .. } = report;
    let percentiles = &job.percentiles;
    let cpu = |ms: u64| percent_of(ms, stats.usage.wall_ms);
    let mut value = json!({
        "jobname": job.name,
        "groupid": job.group,
        "error": report.failure.as_ref().map_or(0, |failure| failure.code),
        "eta": 0,
        "elapsed": stats.elapsed_ns.div_ceil(1_000_000_000),
        "job options": options(&job.options),
        "read": direction_json(&stats.read, stats.elapsed_ns, percentiles, bins),
        "write": direction_json(&stats.write, stats.elapsed_ns, percentiles, bins),
        "trim": direction_json(&Direction::default(), 0, &[], false),
        "sync": { "total_ios": stats.sync.count(), "lat_ns": latency_json(&stats.sync, percentiles, bins) },
        "job_runtime": stats.elapsed_ns / 1_000_000 * u64::from(report.threads),
        "usr_cpu": cpu(stats.usage.user_ms),
        "sys_cpu": cpu(stats.usage.system_ms),
        "ctx": stats.usage.switches,
        "majf": stats.usage.major_faults,
        "minf": stats.usage.minor_faults,
        "iodepth_level": depths_json(&stats.depth),
        // Each operation is published by itself.
        "iodepth_submit": batches_json(&{ let mut one = Depths::default(); one.add(1); one }),
        "iodepth_complete": batches_json(&stats.taken),
        "latency_depth": job.iodepth,
        "latency_target": 0,
        "latency_percentile": 100.0,
        "latency_window": 0,
        "forebay": {
            "kind": job.target.kind.name(),
            "name": job.target.name,
            "durability": report.durability.map(crate::types::Durability::name),
            "compression": compression_json(report),
            "transactions": stats.transactions.iter().map(|profile| json!({
                "name": profile.name,
                "committed": profile.committed(),
                "conflicts": profile.conflicts,
                "given_up": profile.given_up,
                "lat_ns": latency_json(&profile.latency, percentiles, bins),
            })).collect::<Vec<Value>>(),
            "open_loop": job.rate_iops.is_some(),
            "filled": report.filled,
            "threads": report.threads,
            "error": report.failure.as_ref().map(ToString::to_string),
        },
    });
    let fields = value.as_object_mut().expect("made as an object above");
    fields.extend(latency_classes(stats));
    value
}

/// What became of the values that it wrote; null where its space has no compression.
fn compression_json(report: &JobReport) -> Value {
    let found = report.stats.compression;
    if report.compression == Compression::None {
        return Value::Null;
    }
    json!({
        "codec": report.compression.name(),
        "values": found.values,
        "plain_bytes": found.plain_bytes,
        "stored_bytes": found.stored_bytes,
        "ratio": found.ratio(),
        "tried": found.tried,
        "compressed": found.compressed,
        "skipped": found.skipped(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "rates are shown in few digits")]
fn direction_json(direction: &Direction, elapsed_ns: u64, percentiles: &[f64], bins: bool) -> Value {
    let seconds = elapsed_ns.max(1) as f64 / 1e9;
    let rate = |count: u64| if count == 0 { 0.0 } else { count as f64 / seconds };
    // Whole numbers, as in fio; floor of a rate is far below 2^53.
    let bw_bytes = u128::from(direction.bytes) * 1_000_000_000 / u128::from(elapsed_ns.max(1));
    let bw_bytes = u64::try_from(bw_bytes).unwrap_or(u64::MAX);
    let runtime = if direction.operations == 0 { 0 } else { elapsed_ns.div_ceil(1_000_000) };
    let Direction { bandwidth, iops, .. } = direction;
    json!({
        "io_bytes": direction.bytes,
        "io_kbytes": direction.bytes / 1_024,
        "bw_bytes": bw_bytes,
        "bw": bw_bytes / 1_024,
        "iops": rate(direction.operations),
        "runtime": runtime,
        "total_ios": direction.operations,
        "short_ios": 0,
        "drop_ios": 0,
        "slat_ns": latency_json(&direction.slat, &[], bins),
        "clat_ns": latency_json(&direction.clat, percentiles, bins),
        "lat_ns": latency_json(&direction.lat, percentiles, bins),
        "bw_min": whole(bandwidth.min),
        "bw_max": whole(bandwidth.max),
        "bw_agg": if bandwidth.count == 0 { 0.0 } else { 100.0 },
        "bw_mean": bandwidth.mean(),
        "bw_dev": bandwidth.stdev(),
        "bw_samples": bandwidth.count,
        "iops_min": whole(iops.min),
        "iops_max": whole(iops.max),
        "iops_mean": iops.mean(),
        "iops_stddev": Samples::stdev(iops),
        "iops_samples": iops.count,
    })
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate: positive and below 2^63")]
fn whole(rate: f64) -> u64 {
    rate as u64
}

fn latency_json(latency: &Latency, percentiles: &[f64], bins: bool) -> Value {
    let mut value = json!({
        "min": latency.min(),
        "max": latency.max(),
        "mean": latency.mean(),
        "stddev": latency.stdev(),
        "N": latency.count(),
    });
    if latency.count() > 0 && !percentiles.is_empty() {
        let table = percentiles.iter().map(|p| (format!("{p:.6}"), Value::from(latency.percentile(*p))));
        value["percentile"] = table.collect::<Map<String, Value>>().into();
    }
    if bins && latency.count() > 0 {
        let table = latency.values().map(|(ns, count)| (ns.to_string(), Value::from(count)));
        value["bins"] = table.collect::<Map<String, Value>>().into();
    }
    value
}

fn depths_json(depths: &Depths) -> Value {
    let counts = depths.counts();
    let total: u64 = counts.iter().sum();
    let names = ["1", "2", "4", "8", "16", "32", ">=64"];
    let shares = names.iter().zip(counts).map(|(name, count)| ((*name).to_owned(), percent_of(count, total).into()));
    shares.collect::<Map<String, Value>>().into()
}

/// fio's classes of batch sizes: up to 4, 8, 16, 32, 64, and more.
fn batches_json(batches: &Depths) -> Value {
    let [one, two, four, eight, sixteen, thirty_two, more] = batches.counts();
    let total: u64 = batches.counts().iter().sum();
    let share = |count| percent_of(count, total);
    json!({
        "0": 0.0, "4": share(one + two), "8": share(four), "16": share(eight), "32": share(sixteen),
        "64": share(thirty_two), ">=64": share(more),
    })
}

/// The share of operations in each of fio's latency classes.
fn latency_classes(stats: &Stats) -> Map<String, Value> {
    let mut counts = [[0_u64; 12]; 3];
    let mut total = 0;
    for (ns, count) in stats.read.lat.values().chain(stats.write.lat.values()) {
        total += count;
        let (unit, value) = match ns {
            ..1_000 => (0, ns),
            1_000..1_000_000 => (1, ns / 1_000),
            _ => (2, ns / 1_000_000),
        };
        let class = CLASSES.iter().position(|bound| value < *bound);
        counts[unit][class.unwrap_or(if value < 2_000 { 10 } else { 11 })] += count;
    }
    let mut tables = Map::new();
    for (name, counts) in ["latency_ns", "latency_us", "latency_ms"].into_iter().zip(counts) {
        let mut table = Map::new();
        for (bound, count) in CLASSES.iter().zip(counts) {
            table.insert(bound.to_string(), percent_of(count, total).into());
        }
        if name == "latency_ms" {
            table.insert("2000".into(), percent_of(counts[10], total).into());
            table.insert(">=2000".into(), percent_of(counts[11], total).into());
        }
        tables.insert(name.into(), table.into());
    }
    tables
}

#[cfg(test)]
#[path = "json_tests.rs"]
mod tests;
