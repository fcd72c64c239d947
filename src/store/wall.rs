//! The time that keys with a time to live go by: the wall clock, but it never goes back while the daemon lives.

const NS_A_MS: u64 = 1_000_000;

/// The wall clock of one reactor, as what it is ahead of the reactor's own clock. So between two looks it goes on by
/// that clock, and a wall clock that is set back changes nothing of what is over.
#[derive(Clone, Copy, Debug)]
pub struct Wall {
    /// The most that it ever was ahead, in ms.
    lived_ms: i64,
    /// As of the last look.
    ahead_ms: i64,
}

impl Wall {
    /// A first look at the wall clock, in ms since 1970, `now_ns` being the reactor's own time.
    #[must_use]
    pub fn new(now_ns: u64, wall_ms: u64) -> Wall {
        let ahead_ms = ahead_ms(now_ns, wall_ms);
        Wall { lived_ms: ahead_ms, ahead_ms }
    }

    /// Looks again: one that was set forward is followed at once, one that was set back is not.
    pub fn look(&mut self, now_ns: u64, wall_ms: u64) {
        self.ahead_ms = ahead_ms(now_ns, wall_ms);
        self.lived_ms = self.lived_ms.max(self.ahead_ms);
    }

    /// What keys go by while the daemon lives. Never goes back.
    #[must_use]
    pub fn lived_ms(&self, now_ns: u64) -> u64 {
        moment_ms(now_ns, self.lived_ms)
    }

    /// What goes into the log, and is compared with the wall clock of another life.
    #[must_use]
    pub fn wall_ms(&self, now_ns: u64) -> u64 {
        moment_ms(now_ns, self.ahead_ms)
    }

    /// When `lived_ms` will be this, by the reactor's own clock.
    #[must_use]
    pub fn ns_of(&self, lived_ms: u64) -> u64 {
        lived_ms.checked_add_signed(-self.lived_ms).unwrap_or(0).saturating_mul(NS_A_MS)
    }

    /// When `wall_ms` will be this, by the reactor's own clock, if nobody sets the wall clock.
    #[must_use]
    pub fn ns_of_wall(&self, wall_ms: u64) -> u64 {
        wall_ms.checked_add_signed(-self.ahead_ms).unwrap_or(0).saturating_mul(NS_A_MS)
    }
}

fn ahead_ms(now_ns: u64, wall_ms: u64) -> i64 {
    let [now_ms, wall_ms] = [now_ns / NS_A_MS, wall_ms].map(|ms| i64::try_from(ms).unwrap_or(i64::MAX));
    wall_ms - now_ms
}

fn moment_ms(now_ns: u64, ahead_ms: i64) -> u64 {
    (now_ns / NS_A_MS).saturating_add_signed(ahead_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_follows_forward_and_never_goes_back() {
        let mut wall = Wall::new(5_000_000, 10_000_000);
        assert_eq!((wall.lived_ms(5_000_000), wall.wall_ms(7_000_000)), (10_000_000, 10_000_002));
        // Set back by an hour: it goes on from where it stood, and the log is told what the clock says.
        wall.look(10_000_000, 10_000_005 - 3_600_000);
        assert_eq!((wall.lived_ms(12_000_000), wall.wall_ms(12_000_000)), (10_000_007, 6_400_007));
        wall.look(20_000_000, 19_000_000);
        assert_eq!((wall.lived_ms(21_000_000), wall.wall_ms(21_000_000)), (19_000_001, 19_000_001));
        assert_eq!(wall.ns_of(19_000_005), 25_000_000);
        assert_eq!(wall.lived_ms(wall.ns_of(19_000_005)), 19_000_005);
        assert_eq!(wall.ns_of(3), 0, "over since before this machine started");
    }
}
