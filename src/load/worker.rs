//! One thread of a job: its connection and its operations in flight. The loop does not allocate.

use super::job::Job;
use super::ledger::Ledger;
use super::meter::{Meter, Times};
use super::operation::{Action, Operation, failure_of};
use super::pace::Pace;
use super::prepare::Prepared;
use super::source::Source;
use super::stats::{Failure, Stats, Usage};
use crate::ring::client::{Answer, Client, SubmitError};
use crate::types::ObjectKind;
use quanta::Clock;
use std::time::Duration;

/// A wait longer than this is slept, but for its end, which is spun.
const SLEEP_NS_MIN: u64 = 300_000;
const SPIN_NS: u64 = 150_000;
/// The end of a job is seen at least this often.
const SLEEP_NS_MAX: u64 = 100_000_000;

/// An operation in flight.
#[derive(Clone, Copy, Debug)]
struct Flight {
    operation: Operation,
    times: Times,
}

pub struct Worker<'a> {
    client: Client,
    source: Source,
    meter: Meter<'a>,
    pace: Pace,
    open_loop: bool,
    clock: Clock,
    began: u64,
    flights: Vec<Flight>,
    free: Vec<u32>,
    /// Drawn, but there was no room to submit it.
    pending: Option<Operation>,
    reply: Vec<u8>,
    /// Measured operations that began, and how many there are to be.
    started: u64,
    started_max: u64,
}

impl<'a> Worker<'a> {
    /// `meter` has to count from the end of the job's ramp.
    #[must_use]
    pub fn new(
        job: &Job,
        client: Client,
        prepared: &Prepared,
        source: Source,
        pace: Pace,
        meter: Meter<'a>,
    ) -> Worker<'a> {
        let nothing = Operation { action: Action::Sync { reactor: 0 }, bytes: 0 };
        Worker {
            client,
            reply: Vec::with_capacity(source.reply_bytes_max()),
            source,
            meter,
            pace,
            open_loop: job.rate_iops.is_some(),
            clock: Clock::new(),
            began: 0,
            flights: vec![Flight { operation: nothing, times: Times::default() }; job.iodepth as usize],
            free: (0..job.iodepth).rev().collect(),
            pending: None,
            started: 0,
            started_max: limit(job, prepared),
        }
    }

    /// Runs the job to its end. Blocks for as long as it takes; a daemon that is gone ends it.
    pub fn run(mut self) -> (Stats, Option<Ledger>, Option<Failure>) {
        let before = Usage::of_thread();
        self.began = self.clock.raw();
        let failure = self.drive().err();
        self.meter.stats.usage = Usage::of_thread().since(&before, Duration::from_nanos(self.now()));
        self.meter.finish();
        (self.meter.stats, self.source.ledger, failure)
    }

    fn now(&self) -> u64 {
        self.clock.delta_as_nanos(self.began, self.clock.raw())
    }

    fn in_flight(&self) -> usize {
        self.flights.len() - self.free.len()
    }

    fn drive(&mut self) -> Result<(), Failure> {
        let mut failure = None;
        loop {
            let now = self.now();
            let (pace, started, started_max) = (&self.pace, self.started, self.started_max);
            self.meter.tick(now, || {
                let of_count = started.saturating_mul(1_000) / started_max.max(1);
                pace.per_mille(now).map_or(of_count, |of_time| of_time.max(of_count))
            });
            let over = failure.is_some() || self.is_over(now);
            if over && self.in_flight() == 0 {
                return failure.map_or(Ok(()), Err);
            }
            let step = if over { Ok(()) } else { self.issue(now) };
            // After a failure, what is in flight still has to come back: the ledger needs to know.
            if let Err(error) = step.and_then(|()| self.collect(over)) {
                if error.code == Failure::DISCONNECTED {
                    return Err(failure.unwrap_or(error));
                }
                failure.get_or_insert(error);
            }
        }
    }

    fn is_over(&self, now: u64) -> bool {
        self.pace.is_over(now) || (self.started >= self.started_max && !self.source.sync_is_due())
    }

    /// Starts operations until none is due, or no slot or room is left.
    fn issue(&mut self, mut now: u64) -> Result<(), Failure> {
        while let Some(&slot) = self.free.last() {
            if self.is_over(now) {
                break;
            }
            let due = if self.source.sync_is_due() { now } else { self.pace.due(now) };
            if due > now {
                break;
            }
            let operation = self.pending.take().unwrap_or_else(|| self.source.draw());
            let request = self.source.request(operation);
            // Latency begins with the submit call, not with the making of the value; on a schedule, when it was due.
            let submitting = self.clock.delta_as_nanos(self.began, self.clock.raw());
            match self.client.submit(u64::from(slot), &request) {
                Ok(()) => {}
                Err(SubmitError::Full) if self.in_flight() > 0 => {
                    self.pending = Some(operation);
                    break;
                }
                Err(SubmitError::Full) => {
                    return Err(Failure::new(Failure::INVALID, "the session's arena has no room for one operation"));
                }
                Err(SubmitError::Client(error)) => return Err(failure_of(&error)),
            }
            now = self.now();
            let times = Times { intended: if self.open_loop { due } else { submitting }, submitting, submitted: now };
            self.free.pop();
            self.flights[slot as usize] = Flight { operation, times };
            self.account_start(operation.action, times);
        }
        Ok(())
    }

    fn account_start(&mut self, action: Action, times: Times) {
        let in_flight = self.in_flight();
        self.meter.stats.depth.add(in_flight);
        self.source.started(action, self.client.reactors());
        if !matches!(action, Action::Sync { .. }) {
            self.pace.started(times.submitted);
            self.started += u64::from(times.intended >= self.pace.measured_from);
        }
    }

    /// Takes every answer that is there. With nothing else to do, waits for one.
    fn collect(&mut self, over: bool) -> Result<(), Failure> {
        let mut taken = 0;
        let mut result = Ok(());
        while let Some(answer) = self.client.poll(&mut self.reply).map_err(|error| failure_of(&error))? {
            taken += 1;
            result = result.and(self.complete(&answer));
        }
        if taken == 0 {
            if self.in_flight() > 0 && (over || self.free.is_empty() || self.pending.is_some()) {
                let answer = self.client.wait(&mut self.reply).map_err(|error| failure_of(&error))?;
                taken = 1;
                result = self.complete(&answer);
            } else {
                self.rest();
            }
        }
        if taken > 0 {
            self.meter.stats.taken.add(taken);
        }
        result
    }

    /// The next operation is not due yet. Sleeps only while nothing is in flight, so that no completion is seen late.
    fn rest(&self) {
        let now = self.now();
        let left = self.pace.due(now).saturating_sub(now);
        if self.in_flight() == 0 && left > SLEEP_NS_MIN {
            std::thread::sleep(Duration::from_nanos((left - SPIN_NS).min(SLEEP_NS_MAX)));
        } else {
            std::hint::spin_loop();
        }
    }

    fn complete(&mut self, answer: &Answer) -> Result<(), Failure> {
        let now = self.now();
        let slot = u32::try_from(answer.user_data).expect("a slot's number came back");
        let Flight { operation, times } = self.flights[slot as usize];
        self.free.push(slot);
        let bytes = self.source.judge(operation, answer, &self.reply)?;
        self.meter.record(operation.action, bytes, times, now);
        Ok(())
    }
}

/// Measured operations of a thread. A stream without `size=` is read once to its end.
fn limit(job: &Job, prepared: &Prepared) -> u64 {
    match job.operations_max {
        _ if job.time_based => u64::MAX,
        None if job.target.kind == ObjectKind::Stream && !job.writes() => prepared.events.end - prepared.events.start,
        limit => limit.unwrap_or(u64::MAX),
    }
}
