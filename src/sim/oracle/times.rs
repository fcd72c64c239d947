//! What time it is for keys with a time to live: the model that the daemon's clock is held against.

use crate::reactor::Clock;
use crate::sim::device::VirtualClock;

/// A moment, in ms.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moment {
    /// What the wall clock says: it goes into the log.
    pub wall_ms: u64,
    /// What keys go by: the wall clock, but never back within one life.
    pub lived_ms: u64,
}

/// Nobody sets the wall clock while a request is under way, so a request has one moment, or two close ones.
#[derive(Default)]
pub struct Times {
    clock: VirtualClock,
    /// The most that the wall clock was ahead in this life.
    ahead_ms: u64,
    /// When the request was made whose answer is judged.
    pub asked: Moment,
}

impl Times {
    pub fn new(clock: VirtualClock) -> Times {
        let mut times = Times { clock, ..Times::default() };
        times.begin_life();
        times
    }

    /// A start takes the wall clock as it is.
    pub fn begin_life(&mut self) {
        self.ahead_ms = self.clock.ahead_ms();
    }

    /// Somebody set the wall clock.
    pub fn was_set(&mut self) {
        self.ahead_ms = self.ahead_ms.max(self.clock.ahead_ms());
    }

    pub fn now(&self) -> Moment {
        Moment { wall_ms: self.clock.wall_ms(), lived_ms: self.clock.now_ns() / 1_000_000 + self.ahead_ms }
    }

    /// Between which moments of this life the request took place that is judged now.
    pub fn judged(&self) -> (u64, u64) {
        (self.asked.lived_ms, self.now().lived_ms)
    }
}
