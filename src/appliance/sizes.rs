//! What the configuration means in buffers and bytes, for one reactor and one shard.

use crate::buffer::{SMALL_BYTES, SMALL_COUNT};
use crate::bytes::index;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::{reactor, store, wal};

/// A shard takes memory for values by the MiB, and needs some for its index.
const SHARD_MEMORY_BYTES_MIN: u64 = 2 << 20;

pub struct Sizes {
    pub frame_bytes: usize,
    /// DMA buffers of one reactor.
    buffers: usize,
    shards: u32,
    shard_memory_bytes: u64,
    value_bytes_max: usize,
}

impl Sizes {
    pub fn of(config: &Config, shards: u32, reactors: u32) -> Sizes {
        let frame_bytes = index(config.wal.frame_bytes_max.0);
        let value_bytes_max = index(config.limits.value_bytes_max.0);
        let buffers = index(config.buffers_per_reactor(shards, reactors));
        let shard_memory_bytes = config.limits.memory_bytes_max.0 / u64::from(shards);
        Sizes { frame_bytes, buffers, shards, shard_memory_bytes, value_bytes_max }
    }

    /// Frame buffers of one reactor; a shard's flight recorder holds as much, for it may have all of it in flight.
    pub fn pool_bytes(&self) -> usize {
        self.buffers * self.frame_bytes
    }

    /// The same, with the buffers for values that are read from the drive.
    pub fn dma_bytes(&self) -> usize {
        self.pool_bytes() + SMALL_COUNT * SMALL_BYTES
    }

    /// # Errors
    /// When a shard's part of the memory budget cannot hold anything.
    pub fn check(&self) -> Result<()> {
        if self.shard_memory_bytes < SHARD_MEMORY_BYTES_MIN {
            return Err(Error::new(format!(
                "limits.memory_bytes_max leaves {} B to each of {} shards, and none can work with less than {} B",
                self.shard_memory_bytes, self.shards, SHARD_MEMORY_BYTES_MIN
            ))
            .remedy("raise limits.memory_bytes_max"));
        }
        Ok(())
    }

    pub fn wal_limits(&self, config: &Config) -> wal::Limits {
        wal::Limits {
            frames_in_flight_max: config.wal.frames_in_flight_max,
            window_interval_ns: config.wal.window_interval.0,
            window_bytes: index(config.wal.window_bytes.0).min(self.frame_bytes / 2),
            watermark_interval_ns: config.wal.watermark_interval.0,
            recovery_bytes_max: config.wal.recovery_bytes_max.0 / u64::from(self.shards),
        }
    }

    pub fn store_limits(&self, config: &Config) -> store::Limits {
        store::Limits {
            key_bytes_max: index(config.limits.key_bytes_max.0),
            value_bytes_max: self.value_bytes_max,
            memory_bytes_max: self.shard_memory_bytes,
            cache_bytes_max: index(self.shard_memory_bytes),
            cache_chunk_bytes: store::CACHE_CHUNK_BYTES,
            // Keys do not spread evenly over shards.
            keys_max: index(config.limits.keys_max / u64::from(self.shards) * 5 / 4 + 1_024),
            producers_max: config.limits.producers_max as usize,
            cursors_max: config.limits.cursors_max as usize,
            snapshots_max: config.limits.snapshots_max as usize,
            snapshot_bytes_max: config.snapshot_bytes_max() / u64::from(self.shards),
        }
    }

    pub fn reactor_limits(&self, config: &Config) -> reactor::Limits {
        reactor::Limits {
            turn_requests_max: config.reactors.turn_requests_max,
            waiting_reads_max: config.limits.waiting_reads_max as usize,
            objects_max: config.limits.objects_max as usize,
            key_bytes_max: index(config.limits.key_bytes_max.0),
            value_bytes_max: self.value_bytes_max,
            snapshots_max: config.limits.snapshots_max as usize,
            device_timeout_ns: config.device.timeout.0,
        }
    }
}
