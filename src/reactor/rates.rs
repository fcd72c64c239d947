//! Requests and device operations a second, from counters that are looked at once a second.

const SECOND_NS: u64 = 1_000_000_000;

/// A second, what was counted at its begin, and what came of the seconds before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rates {
    since_ns: u64,
    counted: [u64; 2],
    last: [u64; 2],
    max: [u64; 2],
}

impl Rates {
    /// Ends the second when it is over. `counted`: requests and device operations so far. `worked_ns`: when anything last
    /// happened; who sleeps looks late, and did nothing meanwhile.
    pub fn look(&mut self, now_ns: u64, worked_ns: u64, counted: [u64; 2]) {
        if now_ns < self.since_ns + SECOND_NS {
            return;
        }
        let elapsed_ns = worked_ns.saturating_sub(self.since_ns).max(SECOND_NS);
        for (at, now) in counted.into_iter().enumerate() {
            let rate = u128::from(now - self.counted[at]) * u128::from(SECOND_NS) / u128::from(elapsed_ns);
            self.last[at] = u64::try_from(rate).unwrap_or(u64::MAX);
            self.max[at] = self.max[at].max(self.last[at]);
        }
        (self.since_ns, self.counted) = (now_ns, counted);
    }

    /// Requests a second, and most; device operations a second, and most. What is long past is not now.
    pub fn told(&self, now_ns: u64, worked_ns: u64) -> [u64; 4] {
        let idle = now_ns >= worked_ns + SECOND_NS;
        let last = if idle { [0; 2] } else { self.last };
        [last[0], self.max[0], last[1], self.max[1]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_what_happened_in_it_however_late_it_is_looked_at() {
        let mut rates = Rates::default();
        rates.look(SECOND_NS / 2, 0, [900, 90]);
        assert_eq!(rates.told(SECOND_NS / 2, 0), [0; 4], "it is not over");
        rates.look(SECOND_NS, SECOND_NS, [1_000, 100]);
        assert_eq!(rates.told(SECOND_NS, SECOND_NS), [1_000, 1_000, 100, 100]);
        rates.look(3 * SECOND_NS, 3 * SECOND_NS, [1_600, 300]);
        assert_eq!(rates.told(3 * SECOND_NS, 3 * SECOND_NS), [300, 1_000, 100, 100]);
        // 2,000 requests within half a second, then sleep.
        rates.look(60 * SECOND_NS, 3 * SECOND_NS + SECOND_NS / 2, [3_600, 301]);
        assert_eq!(rates.told(60 * SECOND_NS, 60 * SECOND_NS), [2_000, 2_000, 1, 100]);
        assert_eq!(rates.told(62 * SECOND_NS, 60 * SECOND_NS), [0, 2_000, 0, 100]);
    }
}
