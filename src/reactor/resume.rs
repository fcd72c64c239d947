//! A reactor whose drive is taken away and given back while it runs. What its shards hold in memory stays.

use crate::device::Device;
use crate::reactor::deallocation::Deallocation;
use crate::reactor::stall::Stall;
use crate::reactor::{Clock, Phase, Reactor};
use crate::types::{Lsn, ShardId};
use crate::wal::{Fence, Wal};

/// The log of a shard as recovery left it, and the encoded records that it has to write again first of all.
pub struct Log {
    pub wal: Wal,
    pub replay: Vec<u8>,
}

impl<D: Device, C: Clock> Reactor<D, C> {
    /// Writes nothing more: whoever waits for durability gets an error. Reads go on, from memory.
    pub fn step_aside(&mut self) {
        self.shards.iter_mut().for_each(|shard| shard.wal.fence(Fence::Aside));
    }

    /// Whether the device holds nothing of this reactor any more, some turns after `step_aside`.
    #[must_use]
    pub fn is_aside(&self) -> bool {
        let quiet = self.shards.iter().all(|shard| shard.wal.fenced().is_some() && shard.wal.is_quiet());
        quiet && self.device.in_flight() == 0
    }

    /// Gives the device back for another one. Nothing may be under way, see `is_aside`.
    pub fn replace_device(&mut self, device: D) -> D {
        self.device.replace(device)
    }

    /// The last LSN that each shard gave out: what its memory holds.
    pub fn held(&self) -> impl Iterator<Item = (ShardId, Lsn)> {
        self.shards.iter().map(|shard| (shard.wal.shard(), shard.wal.last_lsn()))
    }

    /// Goes on with recovered logs, those of its shards in order, which end where the shards' memory does. Requests wait
    /// in their rings until what is to be written again is durable.
    pub fn resume(&mut self, logs: Vec<Log>, epoch: u64) {
        for (shard, log) in self.shards.iter_mut().zip(logs) {
            shard.resume(log, epoch);
        }
        // What was on its way back to the pool is in the new one.
        self.deallocation = Deallocation::default();
        self.stall = Stall::default();
        self.free_stuck_parts();
        self.phase = Phase::Settling;
    }
}
