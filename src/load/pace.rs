//! When the next operation is due. Times are nanoseconds since the thread began.

use super::job::Job;
use std::time::Duration;

pub struct Pace {
    rate: Option<u64>,
    started: u64,
    think_ns: u64,
    not_before: u64,
    /// The measurement begins.
    pub measured_from: u64,
    deadline: u64,
}

impl Pace {
    #[must_use]
    pub fn new(job: &Job) -> Pace {
        let ramp_ns = nanoseconds(job.ramp_time);
        Pace {
            rate: job.rate_iops.map(u64::from),
            started: 0,
            think_ns: nanoseconds(job.thinktime),
            not_before: 0,
            measured_from: ramp_ns,
            deadline: job.runtime.map_or(u64::MAX, |runtime| ramp_ns.saturating_add(nanoseconds(runtime))),
        }
    }

    /// Nothing starts any more.
    #[must_use]
    pub fn is_over(&self, now: u64) -> bool {
        now >= self.deadline
    }

    /// The intended start of the next operation: on schedule with a rate, at once without one.
    #[must_use]
    pub fn due(&self, now: u64) -> u64 {
        let scheduled = self.rate.map_or(now, |rate| self.started.saturating_mul(1_000_000_000) / rate);
        scheduled.max(self.not_before)
    }

    /// An operation began.
    pub fn started(&mut self, now: u64) {
        self.started += 1;
        if self.think_ns > 0 {
            self.not_before = now.saturating_add(self.think_ns);
        }
    }

    /// How much of the time is over, in thousandths.
    #[must_use]
    pub fn per_mille(&self, now: u64) -> Option<u64> {
        (self.deadline < u64::MAX).then(|| now.min(self.deadline).saturating_mul(1_000) / self.deadline.max(1))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::parse::parse;

    fn pace(options: &str) -> Pace {
        Pace::new(&parse(&format!("[j]\nrw=randwrite\nkeys=10\n{options}"), "t").unwrap().jobs[0])
    }

    #[test]
    fn a_rate_keeps_its_schedule_however_late_it_is() {
        let mut pace = pace("rate_iops=1000");
        assert_eq!(pace.due(0), 0);
        for _ in 0..5 {
            pace.started(90_000_000);
        }
        assert_eq!(pace.due(90_000_000), 5_000_000, "late operations keep their intended start");
        assert_eq!(pace.due(0), 5_000_000, "early ones wait");
    }

    #[test]
    fn without_a_rate_the_next_one_is_due_at_once_or_after_thinking() {
        let mut at_once = pace("bs=4k");
        at_once.started(7);
        assert_eq!(at_once.due(9), 9);
        let mut thinking = pace("thinktime=20");
        thinking.started(1_000);
        assert_eq!((thinking.due(2_000), thinking.due(30_000)), (21_000, 30_000));
    }

    #[test]
    fn the_ramp_adds_to_the_runtime() {
        let pace = pace("runtime=2\nramp_time=1");
        assert_eq!(pace.measured_from, 1_000_000_000);
        assert!(!pace.is_over(2_999_999_999) && pace.is_over(3_000_000_000));
        assert_eq!(pace.per_mille(1_500_000_000), Some(500));
    }
}
