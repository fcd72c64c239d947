//! Records what a thread measures, and tells the progress line of it.

use super::job::Job;
use super::operation::{Action, Kind, Operation};
use super::progress::Live;
use super::stats::{Stats, TransactionStats};
use super::timeline::Timelines;
use std::sync::atomic::Ordering::Relaxed;

/// Samples of the rates, and the figures for the progress line, are taken this often.
const TICK_NS: u64 = 500_000_000;

/// When an operation was meant to begin, and when its submit call began and ended. Nanoseconds since the thread began.
#[derive(Clone, Copy, Debug, Default)]
pub struct Times {
    pub intended: u64,
    pub submitting: u64,
    pub submitted: u64,
}

pub struct Meter<'a> {
    pub stats: Stats,
    live: &'a Live,
    /// The progress line is shown, so its percentile is worth computing.
    watched: bool,
    measured_from: u64,
    next_tick: u64,
    /// Operations and bytes, of reads and of writes, at the last tick.
    ticked: [(u64, u64); 2],
}

impl<'a> Meter<'a> {
    #[must_use]
    pub fn new(job: &Job, measured_from: u64, live: &'a Live, watched: bool) -> Meter<'a> {
        let next_tick = measured_from.saturating_add(TICK_NS);
        let transactions = job.transactions.iter().map(|profile| TransactionStats::new(&profile.name)).collect();
        let stats = Stats { timelines: Timelines::new(job), transactions, ..Stats::default() };
        Meter { stats, live, watched, measured_from, next_tick, ticked: [(0, 0); 2] }
    }

    /// An operation that succeeded. One that was meant to begin during the ramp does not count.
    /// `began` is the intended start of the whole of a read-modify-write, whose parts come here one after the other.
    pub fn record(&mut self, operation: Operation, bytes: u64, began: u64, times: Times, now: u64) {
        if began < self.measured_from {
            return;
        }
        let at = now - self.measured_from;
        self.stats.elapsed_ns = at;
        let direction = match operation.action {
            Action::Put { .. } | Action::Append { .. } | Action::Commit { .. } => &mut self.stats.write,
            Action::Get { .. } | Action::Scan { .. } | Action::Read { .. } | Action::ReadRows { .. } => {
                &mut self.stats.read
            }
            Action::Sync { .. } => {
                self.stats.timelines.record(Kind::Sync, at, now - times.submitting, 0);
                return self.stats.sync.record(now - times.submitting);
            }
        };
        direction.operations += 1;
        direction.bytes += bytes;
        direction.slat.record(times.submitted - times.submitting);
        direction.clat.record(now - times.submitted);
        direction.lat.record(now - times.intended);
        match (operation.kind, operation.action) {
            (Kind::Modify, Action::Get { .. }) | (_, Action::ReadRows { .. }) => {
                self.stats.timelines.record(Kind::Read, at, now - times.intended, bytes);
            }
            (Kind::Modify, _) => {
                self.stats.timelines.record(Kind::Write, at, now - times.intended, bytes);
                self.stats.timelines.record(Kind::Modify, at, now - began, 0);
            }
            (_, Action::Commit { .. }) => {
                self.stats.timelines.record(Kind::Write, at, now - times.intended, bytes);
                self.stats.timelines.record(Kind::Transaction, at, now - began, 0);
            }
            (kind, _) => self.stats.timelines.record(kind, at, now - times.intended, bytes),
        }
    }

    /// A transaction of this profile was committed.
    pub fn commit(&mut self, profile: usize, began: u64, now: u64) {
        if began >= self.measured_from {
            self.stats.transactions[profile].latency.record(now - began);
        }
    }

    /// One met a conflict, and is tried again.
    pub fn conflict(&mut self, profile: usize, began: u64) {
        self.stats.transactions[profile].conflicts += u64::from(began >= self.measured_from);
    }

    /// One met its last conflict.
    pub fn give_up(&mut self, profile: usize, began: u64) {
        self.conflict(profile, began);
        self.stats.transactions[profile].given_up += u64::from(began >= self.measured_from);
    }

    /// Takes a sample when one is due. `per_mille` says how far the job is.
    pub fn tick(&mut self, now: u64, per_mille: impl FnOnce() -> u64) {
        if now < self.next_tick {
            return;
        }
        self.sample(now);
        if self.watched {
            self.tell(per_mille());
        }
    }

    fn tell(&self, per_mille: u64) {
        let Stats { read, write, .. } = &self.stats;
        self.live.per_mille.store(per_mille, Relaxed);
        self.live.operations.store(read.operations + write.operations, Relaxed);
        self.live.bytes.store(read.bytes + write.bytes, Relaxed);
        self.live.p99_ns.store(read.lat.percentile(99.0).max(write.lat.percentile(99.0)), Relaxed);
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of half a second")]
    fn sample(&mut self, now: u64) {
        let seconds = (now - self.next_tick + TICK_NS) as f64 / 1e9;
        self.next_tick = now + TICK_NS;
        let directions = [&mut self.stats.read, &mut self.stats.write];
        for (direction, (operations, bytes)) in directions.into_iter().zip(&mut self.ticked) {
            if direction.operations > 0 {
                direction.iops.add((direction.operations - *operations) as f64 / seconds);
                direction.bandwidth.add((direction.bytes - *bytes) as f64 / 1_024.0 / seconds);
            }
            (*operations, *bytes) = (direction.operations, direction.bytes);
        }
    }

    /// The job is over.
    pub fn finish(&self) {
        self.tell(1_000);
    }
}
