//! What one thread measured, and what it cost.

use super::histogram::{Depths, Direction, Latency};
use super::timeline::Timelines;
use crate::ring::client::CompressionStats;
use crate::timing::Measured;
use std::fmt;
use std::time::Duration;

/// The measurements of a thread, or of all threads of a job.
#[derive(Clone, Default)]
pub struct Stats {
    pub read: Direction,
    pub write: Direction,
    pub sync: Latency,
    /// One a profile of the job.
    pub transactions: Vec<TransactionStats>,
    /// From the end of the ramp to the last completion; of several threads the longest.
    pub elapsed_ns: u64,
    /// Operations in flight at each submission, and answers taken at once.
    pub depth: Depths,
    pub taken: Depths,
    pub usage: Usage,
    /// Of the whole thread, its ramp included.
    pub compression: CompressionStats,
    /// The same latencies by what an operation is, and by when it ended.
    pub timelines: Timelines,
    /// Empty without the feature `perf-diagnostics`.
    pub layers: Measured,
}

impl Stats {
    pub fn merge(&mut self, other: &Stats) {
        self.read.merge(&other.read);
        self.write.merge(&other.write);
        self.sync.merge(&other.sync);
        // A thread that never began has none.
        self.transactions.resize_with(self.transactions.len().max(other.transactions.len()), TransactionStats::default);
        self.transactions.iter_mut().zip(&other.transactions).for_each(|(sum, other)| sum.merge(other));
        self.elapsed_ns = self.elapsed_ns.max(other.elapsed_ns);
        self.depth.merge(&other.depth);
        self.taken.merge(&other.taken);
        self.usage.add(&other.usage);
        self.compression.add(&other.compression);
        self.timelines.merge(&other.timelines);
        self.layers.merge(&other.layers);
    }
}

/// The transactions of one profile.
#[derive(Clone, Default)]
pub struct TransactionStats {
    pub name: String,
    /// Of each that was committed: from its first read to the answer of its commit, all tries and waits included.
    pub latency: Latency,
    /// Commits that were refused, because another one was quicker.
    pub conflicts: u64,
    /// Those that met too many and did not take place.
    pub given_up: u64,
}

impl TransactionStats {
    #[must_use]
    pub fn new(name: &str) -> TransactionStats {
        TransactionStats { name: name.to_owned(), ..TransactionStats::default() }
    }

    #[must_use]
    pub fn committed(&self) -> u64 {
        self.latency.count()
    }

    fn merge(&mut self, other: &TransactionStats) {
        self.name.clone_from(&other.name);
        self.latency.merge(&other.latency);
        self.conflicts += other.conflicts;
        self.given_up += other.given_up;
    }
}

/// Processor time and faults of a thread, as /proc counts them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub user_ms: u64,
    pub system_ms: u64,
    pub switches: u64,
    pub major_faults: u64,
    pub minor_faults: u64,
    /// Of the whole thread, its ramp included; of several threads the sum.
    pub wall_ms: u64,
}

/// Of `utime` and `stime` in /proc: USER_HZ is 100 on every Linux.
const TICK_MS: u64 = 10;

impl Usage {
    /// Of the calling thread since it began. Zeros where /proc is not there.
    #[must_use]
    pub fn of_thread() -> Usage {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap_or_default();
        // The name, in parentheses, may hold anything; the numbers follow it, the first is field 3.
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse().ok()).unwrap_or(0);
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let switches = status.lines().filter(|line| line.contains("ctxt_switches:"));
        Usage {
            user_ms: field(14) * TICK_MS,
            system_ms: field(15) * TICK_MS,
            switches: switches.filter_map(|line| line.split_once(':')?.1.trim().parse::<u64>().ok()).sum(),
            major_faults: field(12),
            minor_faults: field(10),
            wall_ms: 0,
        }
    }

    #[must_use]
    pub fn since(&self, earlier: &Usage, wall: Duration) -> Usage {
        Usage {
            user_ms: self.user_ms.saturating_sub(earlier.user_ms),
            system_ms: self.system_ms.saturating_sub(earlier.system_ms),
            switches: self.switches.saturating_sub(earlier.switches),
            major_faults: self.major_faults.saturating_sub(earlier.major_faults),
            minor_faults: self.minor_faults.saturating_sub(earlier.minor_faults),
            wall_ms: u64::try_from(wall.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn add(&mut self, other: &Usage) {
        self.user_ms += other.user_ms;
        self.system_ms += other.system_ms;
        self.switches += other.switches;
        self.major_faults += other.major_faults;
        self.minor_faults += other.minor_faults;
        self.wall_ms += other.wall_ms;
    }
}

/// Why a thread ended before its time. The code is an errno, as fio reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub code: i32,
    pub text: String,
}

impl Failure {
    pub const IO: i32 = 5;
    pub const NO_MEMORY: i32 = 12;
    pub const INVALID: i32 = 22;
    pub const NO_SPACE: i32 = 28;
    pub const DISCONNECTED: i32 = 32;
    pub const WRONG_DATA: i32 = 84;

    #[must_use]
    pub fn new(code: i32, text: impl Into<String>) -> Failure {
        Failure { code, text: text.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_counts_this_thread() {
        let before = Usage::of_thread();
        let mut pages = vec![0_u8; 8 << 20];
        pages.iter_mut().step_by(4_096).for_each(|byte| *byte = 1);
        std::hint::black_box(&pages);
        let used = Usage::of_thread().since(&before, Duration::from_millis(9));
        assert!(used.minor_faults > 0 && used.wall_ms == 9, "{used:?}");
    }
}
