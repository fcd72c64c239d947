//! Latencies by the interval in which an operation ended. All memory is taken and touched before a job starts; a
//! record costs one bucket, whatever the interval.

use super::job::Job;
use super::operation::Kind;
use hdrhistogram::Histogram;
use std::time::Duration;

/// At most so many intervals: points of a chart, and memory. Of a job that lasts longer each is made twice as long.
const INTERVALS_MAX: usize = 100;
const INTERVAL_NS_MIN: u64 = 100_000_000;
/// 1 ns to 100 s within 1 %: 16 KB an interval.
const NS_MAX: u64 = 100_000_000_000;
const DIGITS: u8 = 2;

/// The operations of one kind that ended within one interval.
#[derive(Clone)]
pub struct Interval {
    latency: Histogram<u32>,
    pub bytes: u64,
}

impl Interval {
    fn new() -> Interval {
        let mut latency = Histogram::new_with_bounds(1, NS_MAX, DIGITS).expect("the bounds are valid");
        // Touches every page.
        latency.clear();
        Interval { latency, bytes: 0 }
    }

    fn add(&mut self, other: &Interval) {
        self.latency.add(&other.latency).expect("all have the same bounds");
        self.bytes += other.bytes;
    }

    fn clear(&mut self) {
        self.latency.clear();
        self.bytes = 0;
    }

    #[must_use]
    pub fn operations(&self) -> u64 {
        self.latency.len()
    }

    /// Nanoseconds; at least so many percent are not above. 0 when nothing ended.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> u64 {
        self.latency.value_at_percentile(percent)
    }

    #[must_use]
    pub fn max(&self) -> u64 {
        self.latency.max()
    }
}

/// The operations of one kind, interval by interval.
#[derive(Clone)]
pub struct Timeline {
    interval_ns: u64,
    intervals: Vec<Interval>,
    current: usize,
    current_ends: u64,
}

impl Timeline {
    fn new(interval_ns: u64) -> Timeline {
        let intervals = vec![Interval::new(); INTERVALS_MAX];
        Timeline { interval_ns, intervals, current: 0, current_ends: interval_ns }
    }

    fn record(&mut self, at: u64, ns: u64, bytes: u64) {
        if at >= self.current_ends {
            self.advance(at);
        }
        let interval = &mut self.intervals[self.current];
        interval.latency.saturating_record(ns);
        interval.bytes += bytes;
    }

    #[cold]
    fn advance(&mut self, at: u64) {
        while at >= self.interval_ns.saturating_mul(INTERVALS_MAX as u64) {
            self.halve();
        }
        self.current = usize::try_from(at / self.interval_ns).expect("below the number of intervals");
        self.current_ends = (self.current as u64 + 1) * self.interval_ns;
    }

    /// Makes every interval twice as long.
    fn halve(&mut self) {
        for place in 0..self.intervals.len() {
            let (before, here) = self.intervals.split_at_mut(place);
            if let Some(into) = before.get_mut(place / 2) {
                if place % 2 == 0 {
                    into.clear();
                }
                into.add(&here[0]);
            }
        }
        self.intervals[INTERVALS_MAX / 2..].iter_mut().for_each(Interval::clear);
        self.interval_ns *= 2;
    }

    fn merge(&mut self, other: &Timeline) {
        let mut other = other.clone();
        while self.interval_ns < other.interval_ns {
            self.halve();
        }
        while other.interval_ns < self.interval_ns {
            other.halve();
        }
        for (sum, interval) in self.intervals.iter_mut().zip(&other.intervals) {
            sum.add(interval);
        }
    }

    #[must_use]
    pub fn interval_ns(&self) -> u64 {
        self.interval_ns
    }

    /// Up to the last one in which anything ended.
    #[must_use]
    pub fn intervals(&self) -> &[Interval] {
        let last = self.intervals.iter().rposition(|interval| interval.operations() > 0);
        &self.intervals[..last.map_or(0, |last| last + 1)]
    }

    /// All of them as one.
    #[must_use]
    pub fn total(&self) -> Interval {
        let mut total = Interval::new();
        self.intervals.iter().for_each(|interval| total.add(interval));
        total
    }
}

/// One timeline for every kind of operation that a job has.
#[derive(Clone, Default)]
pub struct Timelines([Option<Timeline>; Kind::ALL.len()]);

impl Timelines {
    #[must_use]
    pub fn new(job: &Job) -> Timelines {
        let interval_ns = job.runtime.map_or(INTERVAL_NS_MIN, interval_ns);
        let mut timelines = Timelines::default();
        for kind in Kind::ALL.into_iter().filter(|kind| job.has(*kind)) {
            timelines.0[kind as usize] = Some(Timeline::new(interval_ns));
        }
        timelines
    }

    /// An operation that ended `at` nanoseconds after the measurement began. Does not allocate.
    pub fn record(&mut self, kind: Kind, at: u64, ns: u64, bytes: u64) {
        if let Some(timeline) = &mut self.0[kind as usize] {
            timeline.record(at, ns, bytes);
        }
    }

    pub fn merge(&mut self, other: &Timelines) {
        for (sum, timeline) in self.0.iter_mut().zip(&other.0) {
            match (sum, timeline) {
                (Some(sum), Some(timeline)) => sum.merge(timeline),
                (sum @ None, Some(timeline)) => *sum = Some(timeline.clone()),
                (_, None) => {}
            }
        }
    }

    /// Those in which anything ended.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &Timeline)> {
        let kinds = Kind::ALL.into_iter().zip(&self.0);
        kinds.filter_map(|(kind, timeline)| Some((kind, timeline.as_ref().filter(|it| !it.intervals().is_empty())?)))
    }

    #[must_use]
    pub fn get(&self, kind: Kind) -> Option<&Timeline> {
        self.0[kind as usize].as_ref()
    }
}

/// 1, 2 or 5 times a power of ten, so that a run of this length has some tens of intervals.
fn interval_ns(runtime: Duration) -> u64 {
    let wanted = u64::try_from(runtime.as_nanos()).unwrap_or(u64::MAX) / INTERVALS_MAX as u64;
    let mut decade = INTERVAL_NS_MIN;
    loop {
        for step in [decade, 2 * decade, 5 * decade] {
            if step >= wanted {
                return step;
            }
        }
        decade *= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_counts_in_the_interval_in_which_it_ends() {
        let mut timeline = Timeline::new(100);
        for (at, ns, bytes) in [(0, 10, 1), (99, 30, 2), (100, 20, 4), (550, 50, 8)] {
            timeline.record(at, ns, bytes);
        }
        let intervals = timeline.intervals();
        let counts: Vec<(u64, u64)> = intervals.iter().map(|it| (it.operations(), it.bytes)).collect();
        assert_eq!(counts, [(2, 3), (1, 4), (0, 0), (0, 0), (0, 0), (1, 8)]);
        assert_eq!((intervals[0].percentile(50.0), intervals[0].max(), intervals[2].percentile(99.0)), (10, 30, 0));
        assert_eq!((timeline.total().operations(), timeline.total().bytes), (4, 15));
    }

    #[test]
    fn a_long_job_loses_nothing_and_has_longer_intervals() {
        let mut timeline = Timeline::new(100);
        for at in 0..1_000 {
            timeline.record(at * 100, at + 1, 1);
        }
        assert_eq!(timeline.interval_ns(), 1_600);
        let intervals = timeline.intervals();
        assert_eq!((intervals.len(), timeline.total().operations(), timeline.total().bytes), (63, 1_000, 1_000));
        assert!(intervals[..62].iter().all(|it| it.operations() == 16));
        assert_eq!(intervals[1].max(), 32);
    }

    #[test]
    fn threads_with_intervals_of_different_length_are_added() {
        let (mut short, mut long) = (Timeline::new(100), Timeline::new(100));
        short.record(250, 5, 1);
        long.record(150, 7, 1);
        long.record(15_000, 9, 1);
        for (mut sum, other) in [(short.clone(), &long), (long.clone(), &short)] {
            sum.merge(other);
            assert_eq!(sum.interval_ns(), 200);
            let counts: Vec<u64> = sum.intervals().iter().map(Interval::operations).collect();
            assert_eq!((counts[0], counts[1], counts[75], counts.len()), (1, 1, 1, 76));
        }
    }

    #[test]
    fn intervals_are_round_and_not_too_many() {
        for (seconds, ms) in [(1, 100), (10, 100), (11, 200), (30, 500), (100, 1_000), (3_600, 50_000)] {
            assert_eq!(interval_ns(Duration::from_secs(seconds)), ms * 1_000_000, "{seconds} s");
        }
    }
}
