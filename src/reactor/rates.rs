//! What happens a second, from counters that are looked at once a second.

const SECOND_NS: u64 = 1_000_000_000;

/// A second of one counter, what it counted at its begin, and what came of the seconds before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    since_ns: u64,
    counted: u64,
    last: u64,
    max: u64,
}

impl Rate {
    /// Ends the second when it is over. `counted`: so far. `worked_ns`: when anything last happened; who sleeps looks late,
    /// and did nothing meanwhile.
    pub fn look(&mut self, now_ns: u64, worked_ns: u64, counted: u64) {
        if now_ns < self.since_ns + SECOND_NS {
            return;
        }
        let elapsed_ns = worked_ns.saturating_sub(self.since_ns).max(SECOND_NS);
        self.last = match counted - self.counted {
            // Of thousands of objects most: without a division a look at all of them is short.
            0 => 0,
            more => {
                let rate = u128::from(more) * u128::from(SECOND_NS) / u128::from(elapsed_ns);
                u64::try_from(rate).unwrap_or(u64::MAX)
            }
        };
        self.max = self.max.max(self.last);
        (self.since_ns, self.counted) = (now_ns, counted);
    }

    /// In the last second, and in the one with the most. What is long past is not now.
    pub fn told(&self, now_ns: u64, worked_ns: u64) -> [u64; 2] {
        let idle = now_ns >= worked_ns + SECOND_NS;
        [if idle { 0 } else { self.last }, self.max]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_what_happened_in_it_however_late_it_is_looked_at() {
        let mut rate = Rate::default();
        rate.look(SECOND_NS / 2, 0, 900);
        assert_eq!(rate.told(SECOND_NS / 2, 0), [0; 2], "it is not over");
        rate.look(SECOND_NS, SECOND_NS, 1_000);
        assert_eq!(rate.told(SECOND_NS, SECOND_NS), [1_000, 1_000]);
        rate.look(3 * SECOND_NS, 3 * SECOND_NS, 1_600);
        assert_eq!(rate.told(3 * SECOND_NS, 3 * SECOND_NS), [300, 1_000]);
        // 2,000 requests within half a second, then sleep.
        rate.look(60 * SECOND_NS, 3 * SECOND_NS + SECOND_NS / 2, 3_600);
        assert_eq!(rate.told(60 * SECOND_NS, 60 * SECOND_NS), [2_000, 2_000]);
        assert_eq!(rate.told(62 * SECOND_NS, 60 * SECOND_NS), [0, 2_000]);
    }
}
