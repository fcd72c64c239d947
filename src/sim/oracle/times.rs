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
    /// How often somebody had set the wall clock.
    sets: usize,
}

/// Nobody sets the wall clock while a request is under way, so a request has one moment, or two close ones.
#[derive(Default)]
pub struct Times {
    clock: VirtualClock,
    /// The most that the wall clock was ahead in this life.
    ahead_ms: u64,
    /// What the wall clock said before and after each time that it was set, and how far ahead it is since.
    sets: Vec<(u64, u64)>,
    set_ahead_ms: u64,
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
        self.note_set();
        self.ahead_ms = self.clock.ahead_ms();
    }

    /// Somebody set the wall clock.
    pub fn was_set(&mut self) {
        self.note_set();
        self.ahead_ms = self.ahead_ms.max(self.clock.ahead_ms());
    }

    pub fn now(&self) -> Moment {
        let (wall_ms, sets) = (self.clock.wall_ms(), self.sets.len());
        Moment { wall_ms, lived_ms: self.clock.now_ns() / 1_000_000 + self.ahead_ms, sets }
    }

    /// Somebody may have set the wall clock, before a life or in it.
    pub fn note_set(&mut self) {
        let now_ms = self.clock.now_ns() / 1_000_000;
        let before_ahead_ms = std::mem::replace(&mut self.set_ahead_ms, self.clock.ahead_ms());
        if before_ahead_ms != self.set_ahead_ms {
            self.sets.push((now_ms + before_ahead_ms, now_ms + self.set_ahead_ms));
        }
    }

    /// The greatest age that something of that moment was ever seen to have, by the wall clock as people set it.
    pub fn age_max_ms(&self, since: Moment) -> u64 {
        let sets = &self.sets[since.sets..];
        let least_ms = sets.iter().map(|(_, after_ms)| *after_ms).fold(since.wall_ms, u64::min);
        let most_ms = sets.iter().map(|(before_ms, _)| *before_ms).fold(self.clock.wall_ms(), u64::max);
        most_ms.saturating_sub(least_ms)
    }

    /// The age of something of that moment, where nobody set the clock since.
    pub fn age_ms(&self, since: Moment) -> Option<u64> {
        (since.sets == self.sets.len()).then(|| self.clock.wall_ms().saturating_sub(since.wall_ms))
    }

    /// Between which moments of this life the request took place that is judged now.
    pub fn judged(&self) -> (u64, u64) {
        (self.asked.lived_ms, self.now().lived_ms)
    }
}
