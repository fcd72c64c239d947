//! Which of two ways carries out a lone write sooner: found by trying both, now and again.

use std::time::Duration;

/// How a small write that is alone is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// One durable write by the polling thread, which the kernel puts to sleep until it is done.
    Blocking,
    /// A write through the ring, during which the thread polls on, and then a flush. It spares a sleep where a core that
    /// halts takes long to wake.
    Ring,
}

/// One in so many writes takes the way that was slower, so that a drive whose mood changes is found out.
const TRY_EVERY: u32 = 64;
/// The weight of a new figure in the mean.
const WEIGHT: u64 = 8;

/// What each way took so far. Neither is better everywhere: of two machines with virtual drives, `Ring` took 0.85 of the time of
/// `Blocking` on one and some 1.15 on the other (docs/architecture.md).
#[derive(Debug, Default)]
pub struct Ways {
    blocking_ns: u64,
    ring_ns: u64,
    writes: u32,
}

impl Ways {
    /// The way of the next write.
    pub fn next(&mut self) -> Way {
        self.writes = self.writes.wrapping_add(1);
        let (quicker, slower) = match self.ring_ns < self.blocking_ns {
            true => (Way::Ring, Way::Blocking),
            false => (Way::Blocking, Way::Ring),
        };
        if self.writes.is_multiple_of(TRY_EVERY) { slower } else { quicker }
    }

    /// Takes in what a write took. One that was held up counts as twice the mean at most.
    pub fn took(&mut self, way: Way, time: Duration) {
        let mean_ns = match way {
            Way::Blocking => &mut self.blocking_ns,
            Way::Ring => &mut self.ring_ns,
        };
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        *mean_ns = match *mean_ns {
            0 => ns,
            mean => (mean * (WEIGHT - 1) + ns.min(2 * mean)) / WEIGHT,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(ways: &mut Ways, blocking_us: u64, ring_us: u64) -> u32 {
        let mut by_ring = 0;
        for _ in 0..10_000 {
            let way = ways.next();
            by_ring += u32::from(way == Way::Ring);
            ways.took(way, Duration::from_micros(if way == Way::Ring { ring_us } else { blocking_us }));
        }
        by_ring
    }

    #[test]
    fn the_quicker_way_is_taken_and_the_other_tried() {
        let mut ways = Ways::default();
        let by_ring = run(&mut ways, 150, 120);
        assert!((9_700..9_900).contains(&by_ring), "{by_ring}");
        let by_ring = run(&mut ways, 120, 150);
        assert!((150..1_000).contains(&by_ring), "a mood that changed: {by_ring}");
    }

    #[test]
    fn a_write_that_was_held_up_changes_nothing() {
        let mut ways = Ways::default();
        run(&mut ways, 150, 100);
        ways.took(Way::Ring, Duration::from_secs(3));
        assert_eq!((ways.next(), ways.next()), (Way::Ring, Way::Ring));
    }
}
