//! Keys with a time to live: the wall clock is looked at once a millisecond, and what is over is removed a part a turn.

use crate::device::Device;
use crate::reactor::{Clock, Phase, Reactor};
use crate::ring::protocol::stats;
use crate::store::Rest;

/// From one look at the wall clock to the next.
const LOOK_INTERVAL_NS: u64 = 1_000_000;
/// A reactor that sleeps looks again so much later when a log had no room to say that a key is gone.
const BLOCKED_INTERVAL_NS: u64 = 100_000_000;

impl<D: Device, C: Clock> Reactor<D, C> {
    /// Looks at the wall clock, and removes keys whose time is over. Where there are more the next turn looks again.
    #[cold]
    pub(super) fn expire(&mut self, now_ns: u64) {
        self.wall.look(now_ns, self.clock.wall_ms());
        self.look_at_wall_ns = now_ns + LOOK_INTERVAL_NS;
        if self.phase != Phase::Serving {
            return;
        }
        let lived_ms = self.wall.lived_ms(now_ns);
        let (mut keys, mut more) = (0, false);
        for shard in &mut self.shards {
            let expired = shard.store.expire(&mut shard.wal, &mut self.pool, now_ns, lived_ms);
            shard.expiry_blocked = expired.rest == Rest::Blocked;
            keys += expired.keys;
            more |= expired.rest == Rest::More;
        }
        if more {
            self.look_at_wall_ns = now_ns;
        }
        self.metrics.add(stats::KEYS_EXPIRED, keys);
    }

    /// When keys may be over, for a reactor that sleeps. A shard that stopped writing removes none.
    pub(super) fn expires_ns(&self) -> Option<u64> {
        let of_shards = self.shards.iter().filter(|shard| shard.wal.fenced().is_none()).filter_map(|shard| {
            let due_ns = self.wall.ns_of(shard.store.expires_ms()?);
            let blocked_ns = if shard.expiry_blocked { self.turned_ns + BLOCKED_INTERVAL_NS } else { 0 };
            Some(due_ns.max(blocked_ns).max(self.look_at_wall_ns))
        });
        of_shards.min()
    }
}
