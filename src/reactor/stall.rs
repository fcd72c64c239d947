//! A device that does not answer. Nothing can be taken back from it: the memory of what is out may still be written to.
//! But nobody has to wait for it for ever.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::device::Device;
use crate::reactor::{Clock, Reactor};
use crate::ring::protocol::stats;
use crate::wal::Fence;

/// How often the device is looked at.
const LOOK_INTERVAL_NS: u64 = 1_000_000_000;

/// An operation that is out for longer counts as a stall. A drive that works takes a thousandth of it.
pub const STALL_NS: u64 = 5_000_000_000;

/// What a reactor knows of its device's silence.
#[derive(Default)]
pub(super) struct Stall {
    look_ns: u64,
    stalled: bool,
    /// Something has been out for longer than `Limits::device_timeout_ns`.
    pub given_up: bool,
}

/// What other threads see of a reactor: that it turns, and how long its device has been silent.
pub struct Pulse {
    beat_ns: AtomicU64,
    oldest_ns: AtomicU64,
}

/// Instead of a beat: the thread sleeps, or there is none.
const RESTING: u64 = u64::MAX;

impl Default for Pulse {
    fn default() -> Pulse {
        Pulse { beat_ns: AtomicU64::new(RESTING), oldest_ns: AtomicU64::new(0) }
    }
}

impl Pulse {
    #[inline]
    pub fn beat(&self, now_ns: u64) {
        self.beat_ns.store(now_ns, Relaxed);
    }

    /// The thread does not turn until its next beat, and that is as it should be.
    pub fn rest(&self) {
        self.beat_ns.store(RESTING, Relaxed);
    }

    /// When the last turn was, on the reactor's own clock; `None` while it rests.
    #[must_use]
    pub fn last_beat_ns(&self) -> Option<u64> {
        Some(self.beat_ns.load(Relaxed)).filter(|beat_ns| *beat_ns != RESTING)
    }

    /// How long the device's oldest operation had been out, at most a second ago; 0: not as long as a stall.
    #[must_use]
    pub fn oldest_ns(&self) -> u64 {
        self.oldest_ns.load(Relaxed)
    }
}

impl<D: Device, C: Clock> Reactor<D, C> {
    /// Once a second, while anything is out.
    #[inline]
    pub(super) fn watch_device(&mut self, now_ns: u64) {
        if now_ns >= self.stall.look_ns {
            self.look_at_device(now_ns);
        }
    }

    /// After `device_timeout_ns` every shard stops writing, and all who wait are told in this very turn. What completes
    /// after that is on the drive, but answers nobody.
    #[cold]
    fn look_at_device(&mut self, now_ns: u64) {
        self.look_at_rates(now_ns);
        // While this thread did not run it could not see what the device did.
        self.device.forgive(now_ns - self.stall.look_ns, now_ns);
        self.stall.look_ns = now_ns + LOOK_INTERVAL_NS;
        let oldest_ns = self.device.oldest_ns(now_ns);
        let stalled = oldest_ns >= STALL_NS.min(self.limits.device_timeout_ns);
        self.metrics.add(stats::DEVICE_STALLS, u64::from(stalled && !self.stall.stalled));
        self.place.own().pulse.oldest_ns.store(if stalled { oldest_ns } else { 0 }, Relaxed);
        self.stall.stalled = stalled;
        self.stall.given_up = oldest_ns >= self.limits.device_timeout_ns;
        if self.stall.given_up {
            self.shards.iter_mut().for_each(|shard| shard.wal.fence(Fence::Stalled));
            self.abandon_fetches();
        }
    }

    /// When to look again, though nothing else is to be done.
    #[must_use]
    pub fn look_ns(&self) -> Option<u64> {
        (self.device.in_flight() > 0 || self.stall.stalled).then_some(self.stall.look_ns)
    }

    /// Whether the device has been given up, and still holds memory: it must not be dropped, for that would wait.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.stall.given_up && self.device.in_flight() > 0
    }
}
