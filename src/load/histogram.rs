//! What a job measures: latencies from 1 ns to 100 s in three digits, and the rates of its half seconds.

use hdrhistogram::Histogram;

const NS_MAX: u64 = 100_000_000_000;

/// Latencies in nanoseconds. Recording does not allocate.
#[derive(Clone)]
pub struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Self {
        Latency(Histogram::new_with_bounds(1, NS_MAX, 3).expect("1 ns to 100 s in 3 digits is a valid range"))
    }
}

impl Latency {
    /// Longer than 100 s counts as 100 s.
    pub fn record(&mut self, ns: u64) {
        self.0.saturating_record(ns);
    }

    pub fn merge(&mut self, other: &Latency) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    #[must_use]
    pub fn min(&self) -> u64 {
        if self.count() == 0 { 0 } else { self.0.min() }
    }

    #[must_use]
    pub fn max(&self) -> u64 {
        self.0.max()
    }

    #[must_use]
    pub fn mean(&self) -> f64 {
        self.0.mean()
    }

    #[must_use]
    pub fn stdev(&self) -> f64 {
        self.0.stdev()
    }

    /// At least so many percent are not above this.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> u64 {
        self.0.value_at_percentile(percent)
    }

    /// Each value that occurred, with how often.
    pub fn values(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value()))
    }
}

/// Extremes, mean and deviation of samples.
#[derive(Clone, Copy, Default)]
pub struct Samples {
    pub count: u64,
    pub min: f64,
    pub max: f64,
    sum: f64,
    squares: f64,
}

impl Samples {
    pub fn add(&mut self, sample: f64) {
        self.min = if self.count == 0 { sample } else { self.min.min(sample) };
        self.max = self.max.max(sample);
        self.count += 1;
        self.sum += sample;
        self.squares += sample * sample;
    }

    /// Adds those of a thread that ran at the same time.
    pub fn merge(&mut self, other: &Samples) {
        if other.count == 0 {
            return;
        }
        self.min = if self.count == 0 { other.min } else { self.min.min(other.min) };
        self.max = self.max.max(other.max);
        self.count += other.count;
        self.sum += other.sum;
        self.squares += other.squares;
    }

    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "two samples a second never reach 2^53")]
    pub fn mean(&self) -> f64 {
        self.sum / self.count.max(1) as f64
    }

    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "two samples a second never reach 2^53")]
    pub fn stdev(&self) -> f64 {
        (self.squares / self.count.max(1) as f64 - self.mean().powi(2)).max(0.0).sqrt()
    }
}

/// The reads, or the writes, of a thread or of a whole job.
#[derive(Clone, Default)]
pub struct Direction {
    pub operations: u64,
    pub bytes: u64,
    /// The submit call.
    pub slat: Latency,
    /// From the end of the submit call to the completion.
    pub clat: Latency,
    /// From the intended start to the completion.
    pub lat: Latency,
    /// KiB/s and operations a second, each half second.
    pub bandwidth: Samples,
    pub iops: Samples,
}

impl Direction {
    pub fn merge(&mut self, other: &Direction) {
        self.operations += other.operations;
        self.bytes += other.bytes;
        self.slat.merge(&other.slat);
        self.clat.merge(&other.clat);
        self.lat.merge(&other.lat);
        self.bandwidth.merge(&other.bandwidth);
        self.iops.merge(&other.iops);
    }
}

/// Counts by power of two: fio's 0 (or 1), 2, 4, ... and 64 or more.
#[derive(Clone, Copy, Default)]
pub struct Depths([u64; 7]);

impl Depths {
    pub fn add(&mut self, depth: usize) {
        let place = depth.checked_ilog2().unwrap_or(0).min(6) as usize;
        self.0[place] += 1;
    }

    pub fn merge(&mut self, other: &Depths) {
        for (sum, count) in self.0.iter_mut().zip(other.0) {
            *sum += count;
        }
    }

    #[must_use]
    pub fn counts(&self) -> [u64; 7] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_latencies_are_those_of_both() {
        let (mut low, mut high, mut both) = (Latency::default(), Latency::default(), Latency::default());
        for ns in 1..=1_000 {
            low.record(ns);
            high.record(ns * 1_000);
            both.record(ns);
            both.record(ns * 1_000);
        }
        low.merge(&high);
        assert_eq!(low.count(), 2_000);
        assert_eq!((low.min(), low.max()), (both.min(), both.max()));
        assert_eq!((low.mean(), low.stdev()), (both.mean(), both.stdev()));
        for percent in [1.0, 50.0, 75.0, 99.9] {
            assert_eq!(low.percentile(percent), both.percentile(percent));
        }
        assert!(low.percentile(50.0).abs_diff(1_000) <= 1 && low.percentile(75.0).abs_diff(500_000) <= 500);
    }

    #[test]
    fn an_empty_one_is_all_zero_and_an_extreme_one_is_kept() {
        let mut latency = Latency::default();
        assert_eq!((latency.count(), latency.min(), latency.max(), latency.percentile(99.0)), (0, 0, 0, 0));
        latency.record(u64::MAX);
        assert_eq!(latency.count(), 1);
        assert!(latency.max() >= NS_MAX);
    }

    #[test]
    fn samples_merge_as_if_taken_together() {
        let (mut one, mut two) = (Samples::default(), Samples::default());
        one.add(2.0);
        one.add(4.0);
        two.add(9.0);
        one.merge(&two);
        one.merge(&Samples::default());
        assert_eq!((one.count, one.min, one.max, one.mean()), (3, 2.0, 9.0, 5.0));
        assert!((one.stdev() - (26.0_f64 / 3.0).sqrt()).abs() < 1e-9);
    }
}
