//! `forebay stats --watch`: a line for each interval, of what was counted in it.

use std::thread;
use std::time::{Duration, Instant};

use forebay::ring::client::Client;
use forebay::ring::protocol::stats;
use serde_json::json;

use super::figures::Sum;
use crate::cli::context::{Context, Failure};

/// Lines between two headings.
const LINES: u64 = 20;
const HEADING: &str = "requests/s   writes/s    reads/s  hits %  dev reads/s dev writes/s  dev MiB/s  ampl.  recs/frame  commits/s  conflicts/s  lag recs";

/// What was counted in one interval, a second each.
struct Line {
    sum: Sum,
    elapsed: Duration,
    /// Records that wait for the drive, in the shard with the most.
    lag_records: u64,
}

impl Line {
    fn rate(&self, at: usize) -> u64 {
        let ms = u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        self.sum.get(at).saturating_mul(1_000) / ms
    }

    fn text(&self) -> String {
        let figure = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.1}"));
        format!(
            "{:>10} {:>10} {:>10} {:>7} {:>12} {:>12} {:>10} {:>6} {:>11} {:>10} {:>12} {:>9}",
            self.rate(stats::REQUESTS),
            self.rate(stats::WRITES),
            self.rate(stats::READS),
            figure(self.sum.cache_hit_percent()),
            self.rate(stats::DEVICE_READS),
            self.rate(stats::DEVICE_WRITES),
            self.rate(stats::DEVICE_WRITE_BYTES) >> 20,
            figure(self.sum.write_amplification()),
            figure(self.sum.records_per_frame()),
            self.rate(stats::COMMITS),
            self.rate(stats::CONFLICTS),
            self.lag_records,
        )
    }

    fn json(&self) -> serde_json::Value {
        json!({
            "interval_ms": u64::try_from(self.elapsed.as_millis()).unwrap_or(u64::MAX),
            "requests_per_second": self.rate(stats::REQUESTS),
            "writes_per_second": self.rate(stats::WRITES),
            "reads_per_second": self.rate(stats::READS),
            "cache_hit_percent": self.sum.cache_hit_percent(),
            "device_reads_per_second": self.rate(stats::DEVICE_READS),
            "device_writes_per_second": self.rate(stats::DEVICE_WRITES),
            "device_write_bytes_per_second": self.rate(stats::DEVICE_WRITE_BYTES),
            "write_amplification": self.sum.write_amplification(),
            "records_per_frame": self.sum.records_per_frame(),
            "commits_per_second": self.rate(stats::COMMITS),
            "conflicts_per_second": self.rate(stats::CONFLICTS),
            "lag_records": self.lag_records,
        })
    }
}

fn lag_records(client: &mut Client) -> Result<u64, Failure> {
    let shards = client.shard_stats()?;
    let word = |words: &[u64], at: usize| words.get(at).copied().unwrap_or(0);
    let lag =
        |words: &Vec<u64>| word(words, stats::SHARD_LAST_LSN).saturating_sub(word(words, stats::SHARD_DURABLE_LSN));
    Ok(shards.iter().map(lag).max().unwrap_or(0))
}

/// Prints a line each interval, so many or until it is interrupted.
pub fn watch(
    client: &mut Client,
    interval: Duration,
    count: Option<u64>,
    context: &mut Context,
) -> Result<(), Failure> {
    let (mut before, mut since) = (Sum::of(&client.stats()?), Instant::now());
    for number in 0..count.unwrap_or(u64::MAX) {
        thread::sleep(interval.saturating_sub(since.elapsed()));
        let (now, at) = (Sum::of(&client.stats()?), Instant::now());
        let line = Line { sum: now.since(&before), elapsed: at - since, lag_records: lag_records(client)? };
        (before, since) = (now, at);
        if context.json {
            context.out.json(&line.json())?;
        } else {
            if number.is_multiple_of(LINES) {
                context.out.line(HEADING)?;
            }
            context.out.line(line.text())?;
        }
        context.out.flush()?;
    }
    Ok(())
}
