//! How much each client of a soak writes where, and when the daemon is killed.

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus as Random;

use super::content::{BYTES_MEAN, KEY_BYTES, Sizes};
use super::writer::{Kind, Volume};
use crate::config::Config;
use crate::error::{Error, Result};
use crate::types::Durability;
use crate::wal::layout::{Layout, RECLAIM_SEGMENTS_PER_SHARD_MIN};

const IN_FLIGHT_MAX: usize = 12;
const SYNC_EVERY: u64 = 2_000;
/// Kept free of each shard: see docs/architecture.md.
const SEGMENTS_KEPT_PER_SHARD: u32 = 4;
/// Memory that a key takes in the daemon, about.
const KEY_MEMORY_BYTES: u64 = 250;
/// Fewer make no histories.
const KEYS_MIN: u64 = 40;

/// What a soak does to one namespace.
#[derive(Clone, Debug)]
pub struct Plan {
    pub kinds: Vec<Kind>,
    pub volume: Volume,
    /// Taken from clients when the soak is done.
    pub target_bytes: u64,
    /// When so many bytes are taken, a kill each, in their order.
    pub kills_at: Vec<u64>,
}

/// The client of this number: strict, buffered with chained events, mixed by request, strict with chained events.
fn kind(number: u32) -> Kind {
    let (name, durability, mixed, chained) = match number % 4 {
        0 => ("strict", Durability::Strict, false, false),
        1 => ("buffered chained", Durability::Buffered, false, true),
        2 => ("mixed", Durability::Strict, true, false),
        _ => ("strict chained", Durability::Strict, false, true),
    };
    Kind { name: format!("soak {number} {name}"), durability, mixed, chained }
}

impl Plan {
    /// For a namespace of this layout, served with this configuration.
    ///
    /// # Errors
    /// One that is too small to be written over.
    pub fn new(config: &Config, layout: &Layout, options: &super::Options) -> Result<Plan> {
        let segments = layout.segments.saturating_sub(layout.shards * SEGMENTS_KEPT_PER_SHARD);
        let room_bytes = u64::from(segments) * layout.segment_bytes;
        let clients = u64::from(options.clients.max(1));
        let (limits, memory_bytes) = (&config.limits, config.limits.memory_bytes_max.0);
        let keys_bytes = room_bytes / 100 * u64::from(options.fill_percent);
        let keys_max = (limits.keys_max / 10 * 9).min(memory_bytes / 2 / KEY_MEMORY_BYTES).max(1);
        // A larger namespace has larger values, not more keys than memory is for.
        let factor = (keys_bytes / keys_max).div_ceil(BYTES_MEAN).max(1);
        let keys = keys_bytes / (factor * BYTES_MEAN + KEY_BYTES as u64) / clients;
        if !layout.reclaims() || keys < KEYS_MIN {
            return Err(Error::new(format!(
                "{} segments of {} KiB for {} shards and {clients} clients are too few to be written over",
                layout.segments,
                layout.segment_bytes >> 10,
                layout.shards
            ))
            .remedy(format!(
                "use a larger device (--size), or fewer format.shards, of which each needs {RECLAIM_SEGMENTS_PER_SHARD_MIN} segments or more"
            )));
        }
        let narrow = |number: u64| usize::try_from(number).expect("64-bit machines only");
        let sizes = Sizes::new(narrow(factor), narrow(limits.value_bytes_max.0));
        let events_bytes = (room_bytes / 16).min(memory_bytes / 8) / clients;
        let volume = Volume {
            keys: narrow(keys),
            events_kept: events_bytes / (factor * BYTES_MEAN),
            in_flight_max: IN_FLIGHT_MAX,
            operations_per_life_max: u64::MAX,
            sync_every: SYNC_EVERY,
            sizes,
        };
        let target_bytes = layout.capacity_bytes.saturating_mul(u64::from(options.overwrite));
        let mut random = Random::seed_from_u64(options.seed);
        let mut kills_at: Vec<u64> = (0..options.kills).map(|_| random.random_range(0..target_bytes)).collect();
        kills_at.sort_unstable();
        Ok(Plan { kinds: (0..options.clients.max(1)).map(kind).collect(), volume, target_bytes, kills_at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ByteSize;

    fn plan(capacity: u64, segment: u64, shards: u32) -> Result<Plan> {
        let options = super::super::Options { kills: 20, ..super::super::Options::default() };
        let config = Config::default();
        Plan::new(&config, &Layout::plan(capacity, segment, shards).unwrap(), &options)
    }

    #[test]
    fn what_is_alive_fits_the_device_and_the_keys_fit_memory() {
        for (capacity, segment) in [(64 << 20, 1 << 20), (1 << 30, 8 << 20), (1 << 40, 64 << 20), (8 << 40, 64 << 20)] {
            let plan = plan(capacity, segment, 2).unwrap();
            let (keys, kept) = (plan.volume.keys as u64, plan.volume.events_kept);
            let mean = (0..100_000).map(|seed| plan.volume.sizes.draw(&mut Random::seed_from_u64(seed), false) as u64);
            let mean = mean.sum::<u64>() / 100_000;
            let alive = 4 * (keys + kept) * mean;
            assert!(alive < capacity / 4 * 3, "{plan:?}");
            assert!(keys * 4 <= Config::default().limits.keys_max, "{plan:?}");
            // Of a larger device as much as the memory for its keys and the largest value allow.
            assert!(capacity > 1 << 30 || alive > capacity / 3, "{alive} of {capacity}: {plan:?}");
            assert!(plan.kills_at.is_sorted() && plan.kills_at.len() == 20);
            assert!(plan.kills_at.iter().all(|at| *at < plan.target_bytes));
        }
    }

    #[test]
    fn what_cannot_be_written_over_is_refused() {
        let error = plan(64 << 20, 16 << 20, 1).unwrap_err().to_string();
        assert!(error.contains("too few") && error.contains("--size"), "{error}");
        let few = Layout::plan(64 << 20, 1 << 20, 4).unwrap();
        let mut config = Config::default();
        config.limits.keys_max = 20;
        config.limits.value_bytes_max = ByteSize::mib(1);
        assert!(Plan::new(&config, &few, &super::super::Options::default()).is_err());
    }
}
