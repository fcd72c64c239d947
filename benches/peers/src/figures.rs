//! What a measurement gives, and how latencies become it.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// One case, once. A latency is from the start of a request to its acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    pub per_second: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// Acknowledged, all together.
    pub count: u64,
    /// FLUSH commands that the drive carried out meanwhile, for whomever; None where the kernel does not count them.
    pub flushes: Option<u64>,
}

/// More than this many latencies are thinned out: every second one is left out, again and again.
const KEPT_MAX: usize = 1 << 20;

/// Latencies of one thread.
pub struct Latencies {
    kept_ns: Vec<u32>,
    /// One of so many is kept.
    stride: u64,
    count: u64,
}

impl Default for Latencies {
    fn default() -> Latencies {
        Latencies { kept_ns: Vec::with_capacity(1 << 14), stride: 1, count: 0 }
    }
}

impl Latencies {
    pub fn add(&mut self, latency: Duration) {
        if self.count.is_multiple_of(self.stride) {
            if self.kept_ns.len() == KEPT_MAX {
                let mut odd = false;
                self.kept_ns.retain(|_| {
                    odd = !odd;
                    odd
                });
                self.stride *= 2;
            }
            self.kept_ns.push(u32::try_from(latency.as_nanos()).unwrap_or(u32::MAX));
        }
        self.count += 1;
    }
}

/// Together. Threads that ran equally long kept equal shares.
pub fn figures(all: Vec<Latencies>, begun: Instant, ended: Instant) -> Figures {
    let count: u64 = all.iter().map(|latencies| latencies.count).sum();
    let stride = all.iter().map(|latencies| latencies.stride).max().unwrap_or(1);
    let mut sorted = Vec::new();
    for latencies in all {
        let step = usize::try_from(stride / latencies.stride).unwrap_or(1);
        sorted.extend(latencies.kept_ns.into_iter().step_by(step));
    }
    sorted.sort_unstable();
    let at = |percent: usize| sorted.get(sorted.len().saturating_sub(1) * percent / 100).copied().unwrap_or(0);
    Figures {
        per_second: count as f64 / ended.duration_since(begun).as_secs_f64(),
        p50_us: f64::from(at(50)) / 1e3,
        p99_us: f64::from(at(99)) / 1e3,
        count,
        flushes: None,
    }
}

/// Median (of an even number the mean of the middle two), least and most; None of nothing.
pub fn summary(values: &[f64]) -> Option<[f64; 3]> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (least, most) = (*sorted.first()?, *sorted.last()?);
    let middle = f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    Some([middle, least, most])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_two_is_neither_of_them() {
        assert_eq!(summary(&[]), None);
        assert_eq!(summary(&[3.0]), Some([3.0; 3]));
        assert_eq!(summary(&[4.0, 2.0]), Some([3.0, 2.0, 4.0]));
        assert_eq!(summary(&[9.0, 2.0, 4.0]), Some([4.0, 2.0, 9.0]));
    }
}
