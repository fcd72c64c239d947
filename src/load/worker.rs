//! One thread of a job: its connection and its operations in flight. The loop does not allocate, but for a commit's entries.

use super::job::Job;
use super::ledger::Ledger;
use super::meter::{Meter, Times};
use super::operation::{Action, Kind, Operation, failure_of};
use super::pace::Pace;
use super::prepare::Prepared;
use super::source::{Next, Source};
use super::stats::{Failure, Stats, Usage};
use crate::ring::client::{Answer, Client, SubmitError};
use crate::timing;
use crate::types::ObjectKind;
use quanta::Clock;
use std::time::Duration;

/// A wait longer than this is slept, but for its end, which is spun.
const SLEEP_NS_MIN: u64 = 300_000;
const SPIN_NS: u64 = 150_000;
/// The end of a job is seen at least this often.
const SLEEP_NS_MAX: u64 = 100_000_000;

/// An operation under way.
#[derive(Clone, Copy, Debug)]
struct Flight {
    operation: Operation,
    times: Times,
    /// When the whole of it was meant to begin: of a read-modify-write, its read.
    began: u64,
    /// It goes on with one that began before.
    continues: bool,
    /// Requests of it that are still to be submitted, and those whose answer is still to come.
    parts_due: u32,
    parts_open: u32,
    bytes: u64,
}

impl Flight {
    fn new(operation: Operation, parts_due: u32) -> Flight {
        Flight { operation, times: Times::default(), began: 0, continues: false, parts_due, parts_open: 0, bytes: 0 }
    }
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
    /// Slots of operations that have requests to submit: drawn ones that found no room, the other shards of a scan, the
    /// put of a read-modify-write, the reads and the commit of a transaction.
    due: Vec<u32>,
    /// Slots of transactions that met a conflict, and when each tries again.
    waiting: Vec<(u64, u32)>,
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
        let nothing = Operation { action: Action::Sync { reactor: 0 }, bytes: 0, kind: Kind::Sync };
        Worker {
            client,
            reply: Vec::with_capacity(source.reply_bytes_max()),
            source,
            meter,
            pace,
            open_loop: job.rate_iops.is_some(),
            clock: Clock::new(),
            began: 0,
            flights: vec![Flight::new(nothing, 0); job.iodepth as usize],
            free: (0..job.iodepth).rev().collect(),
            due: Vec::with_capacity(job.iodepth as usize),
            waiting: Vec::with_capacity(job.iodepth as usize),
            started: 0,
            started_max: limit(job, prepared),
        }
    }

    /// Runs the job to its end. Blocks for as long as it takes; a daemon that is gone ends it.
    pub fn run(mut self) -> (Stats, Option<Ledger>, Option<Failure>) {
        let before = Usage::of_thread();
        timing::measure_after(Duration::from_nanos(self.pace.measured_from));
        self.began = self.clock.raw();
        let failure = self.drive().err();
        self.meter.stats.usage = Usage::of_thread().since(&before, Duration::from_nanos(self.now()));
        self.meter.stats.compression = self.client.compression_stats();
        self.meter.stats.layers = timing::measured();
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
            if failure.is_some() {
                self.abandon();
            }
            if over && self.in_flight() == 0 {
                return failure.map_or(Ok(()), Err);
            }
            self.end_waits(now);
            let step = self.submit_due().and_then(|()| if over { Ok(()) } else { self.issue(now) });
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
        while let (Some(&slot), true) = (self.free.last(), self.due.is_empty()) {
            if self.is_over(now) {
                break;
            }
            let due = if self.source.sync_is_due() { now } else { self.pace.due(now) };
            if due > now {
                break;
            }
            let operation = self.source.draw(slot);
            let parts = self.source.parts(operation.action);
            self.free.pop();
            self.flights[slot as usize] = Flight { began: due, ..Flight::new(operation, parts) };
            self.due.push(slot);
            self.submit_due()?;
            now = self.now();
        }
        Ok(())
    }

    /// Submits what is due of operations under way, until there is no room.
    fn submit_due(&mut self) -> Result<(), Failure> {
        while let Some(&slot) = self.due.last() {
            let flight = &mut self.flights[slot as usize];
            let operation = flight.operation;
            flight.parts_due -= 1;
            let part = flight.parts_due;
            let (client, clock, began) = (&mut self.client, &self.clock, self.began);
            let (submitting, submitted) = self.source.with_request(operation, part, |request| {
                // Latency begins with the submit call, not with the making of the value; on a schedule, when it was due.
                let submitting = clock.delta_as_nanos(began, clock.raw());
                (submitting, client.submit(u64::from(part) << 32 | u64::from(slot), request))
            });
            match submitted {
                Ok(()) => {}
                Err(SubmitError::Full) if self.client.in_flight() > 0 => {
                    flight.parts_due += 1;
                    break;
                }
                Err(SubmitError::Full) => {
                    return Err(Failure::new(Failure::INVALID, "the session's arena has no room for one operation"));
                }
                Err(SubmitError::Client(error)) => return Err(failure_of(&error)),
            }
            flight.parts_open += 1;
            if flight.parts_due == 0 {
                self.due.pop();
            }
            if flight.times.submitted == 0 {
                self.account_start(slot, submitting);
            }
        }
        Ok(())
    }

    /// The first request of an operation, or of what goes on with it, was published.
    fn account_start(&mut self, slot: u32, submitting: u64) {
        let (now, in_flight) = (self.now(), self.in_flight());
        let flight = &mut self.flights[slot as usize];
        let (action, continues) = (flight.operation.action, flight.continues);
        let scheduled = self.open_loop && !continues && !matches!(action, Action::Sync { .. });
        flight.times =
            Times { intended: if scheduled { flight.began } else { submitting }, submitting, submitted: now };
        if !continues {
            flight.began = flight.times.intended;
        }
        let began = flight.began;
        self.meter.stats.depth.add(in_flight);
        self.source.started(action, self.client.reactors());
        if !continues && !matches!(action, Action::Sync { .. }) {
            self.pace.started(now);
            self.started += u64::from(began >= self.pace.measured_from);
        }
    }

    /// What has waited long enough after a conflict is due again.
    fn end_waits(&mut self, now: u64) {
        let Worker { waiting, due, .. } = self;
        waiting.retain(|(until, slot)| {
            if *until <= now {
                due.push(*slot);
            }
            *until > now
        });
    }

    /// After a failure nothing more is submitted, also not of operations under way.
    fn abandon(&mut self) {
        self.end_waits(u64::MAX);
        for slot in self.due.drain(..) {
            let flight = &mut self.flights[slot as usize];
            flight.parts_due = 0;
            if flight.parts_open == 0 {
                self.free.push(slot);
            }
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
            let idle = over || self.free.is_empty() || !self.due.is_empty();
            if self.client.in_flight() > 0 && idle && self.waiting.is_empty() {
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
        let number = |word: u64| u32::try_from(word).expect("32 bits");
        let (part, slot) = (number(answer.user_data >> 32), number(answer.user_data & u64::from(u32::MAX)));
        let flight = &mut self.flights[slot as usize];
        flight.parts_open -= 1;
        let judged = self.source.judge(flight.operation, part, answer, &self.reply);
        flight.bytes += *judged.as_ref().unwrap_or(&0);
        if flight.parts_open > 0 || flight.parts_due > 0 {
            return judged.map(drop);
        }
        let Flight { operation, times, began, bytes, .. } = *flight;
        let next = if judged.is_ok() { self.source.next(operation, answer.status) } else { Next::Nothing };
        if let Next::Submit(operation) | Next::Again(operation, _) = next {
            let parts_due = self.source.parts(operation.action);
            *flight = Flight { began, continues: true, ..Flight::new(operation, parts_due) };
        }
        match next {
            Next::Submit(_) => self.due.push(slot),
            Next::Again(_, wait) => {
                let until = now.saturating_add(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX));
                self.waiting.push((until, slot));
                self.meter.conflict(self.source.profile(slot), began);
                return Ok(());
            }
            Next::GiveUp => {
                self.free.push(slot);
                self.meter.give_up(self.source.profile(slot), began);
                return Ok(());
            }
            Next::Nothing => self.free.push(slot),
        }
        judged?;
        if let Action::Commit { slot } = operation.action {
            self.meter.commit(self.source.profile(slot), began, now);
        }
        self.meter.record(operation, bytes, began, times, now);
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
