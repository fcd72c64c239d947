//! Keys with a time to live, and streams with a retention: the wall clock is looked at once a millisecond, and what is
//! over is removed a part a turn.

use crate::device::Device;
use crate::reactor::{Clock, Phase, Reactor, Shard};
use crate::ring::protocol::stats;
use crate::store::{Context, Rest};

/// From one look at the wall clock to the next.
const LOOK_INTERVAL_NS: u64 = 1_000_000;
/// A reactor that sleeps looks again so much later when a log had no room to say that a key is gone.
const BLOCKED_INTERVAL_NS: u64 = 100_000_000;

impl<D: Device, C: Clock> Reactor<D, C> {
    /// Looks at the wall clock, and removes keys whose time is over, and events that are not to be kept. Where there are
    /// more the next turn looks again.
    #[cold]
    pub(super) fn expire(&mut self, now_ns: u64) {
        self.wall.look(now_ns, self.clock.wall_ms());
        self.look_at_wall_ns = now_ns + LOOK_INTERVAL_NS;
        if self.phase != Phase::Serving {
            return;
        }
        let lived_ms = self.wall.lived_ms(now_ns);
        let (mut keys, mut events, mut more) = (0, 0, false);
        for shard in &mut self.shards {
            let expired = shard.store.expire(&mut shard.wal, &mut self.pool, now_ns, lived_ms);
            let Shard { store, wal, .. } = shard;
            let (catalog, shards, pool) = (&self.catalog, self.place.shards, &mut self.pool);
            let (wall, fetched) = (&self.wall, None);
            let (ahead, pages) = (&mut self.fetches.wanted, &mut self.fetches.pages);
            let retired =
                store.retire(&mut Context { catalog, shards, wal, pool, now_ns, wall, fetched, ahead, pages });
            shard.expiry_blocked = [expired.rest, retired.rest].contains(&Rest::Blocked);
            (keys, events) = (keys + expired.keys, events + retired.events);
            more |= [expired.rest, retired.rest].contains(&Rest::More);
        }
        if more {
            self.look_at_wall_ns = now_ns;
        }
        self.progressed |= events > 0;
        self.metrics.add(stats::KEYS_EXPIRED, keys);
        self.metrics.add(stats::EVENTS_RETIRED, events);
    }

    /// When keys may be over, or streams may keep too much, for a reactor that sleeps. A shard that stopped writing removes none.
    pub fn expires_ns(&self) -> Option<u64> {
        let of_shards = self.shards.iter().filter(|shard| shard.wal.fenced().is_none()).filter_map(|shard| {
            let expires_ns = shard.store.expires_ms().map(|ms| self.wall.ns_of(ms));
            let due_ns = expires_ns.into_iter().chain(shard.store.retires_ns(&self.wall, self.turned_ns)).min()?;
            let blocked_ns = if shard.expiry_blocked { self.turned_ns + BLOCKED_INTERVAL_NS } else { 0 };
            Some(due_ns.max(blocked_ns).max(self.look_at_wall_ns))
        });
        of_shards.min()
    }
}
