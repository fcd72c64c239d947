//! The bytes of a simulated drive, and beside them what would stand there had nothing lied: so that a refusal can be
//! proven right, and healed.

use std::collections::{BTreeMap, BTreeSet};

use crate::bytes::index;
use crate::sim::random::Random;
use crate::sim::report::{Count, Counts};
use crate::types::DeviceAddress;
use crate::wal::layout::BLOCK_BYTES;

/// One block; never written reads as zeros.
type Block = Option<Box<[u8]>>;

pub struct Disk {
    blocks: Vec<Block>,
    /// Where a fault made the drive hold something else: what should stand there.
    truth: BTreeMap<usize, Block>,
    /// In a cache that lied about being flushed: what the medium below still holds.
    below_cache: BTreeMap<usize, Block>,
    /// In an honest cache, not flushed: what the medium below still holds.
    unflushed: BTreeMap<usize, Block>,
    counts: Counts,
}

impl Disk {
    pub fn new(capacity_bytes: u64, counts: Counts) -> Disk {
        let blocks = index(capacity_bytes) / BLOCK_BYTES;
        Disk {
            blocks: vec![None; blocks],
            truth: BTreeMap::new(),
            below_cache: BTreeMap::new(),
            unflushed: BTreeMap::new(),
            counts,
        }
    }

    pub fn capacity_bytes(&self) -> u64 {
        (self.blocks.len() * BLOCK_BYTES) as u64
    }

    pub fn blocks(&self) -> usize {
        self.blocks.len()
    }

    pub fn is_inside(&self, address: DeviceAddress, bytes: usize) -> bool {
        address.0 + bytes as u64 <= self.capacity_bytes()
    }

    pub fn read(&self, address: DeviceAddress, out: &mut [u8]) {
        let first = block_of(address);
        for (number, out) in out.chunks_mut(BLOCK_BYTES).enumerate() {
            match &self.blocks[first + number] {
                Some(bytes) => out.copy_from_slice(&bytes[..out.len()]),
                None => out.fill(0),
            }
        }
    }

    /// An honest durable write of those blocks that `lands` names.
    pub fn write(&mut self, address: DeviceAddress, data: &[u8], mut lands: impl FnMut(usize) -> bool) {
        for (number, data) in data.chunks(BLOCK_BYTES).enumerate() {
            if lands(number) {
                let block = block_of(address) + number;
                self.blocks[block] = Some(data.into());
                self.truth.remove(&block);
                self.below_cache.remove(&block);
                self.unflushed.remove(&block);
            }
        }
    }

    /// A write into the drive's volatile cache, which says that it is one.
    pub fn write_volatile(&mut self, address: DeviceAddress, data: &[u8]) {
        for (number, data) in data.chunks(BLOCK_BYTES).enumerate() {
            let block = block_of(address) + number;
            let before = self.blocks[block].replace(data.into());
            self.unflushed.entry(block).or_insert(before);
            self.truth.remove(&block);
        }
    }

    /// The drive was told that a block carries nothing: it reads as before, as zeros, or as ones.
    pub fn deallocate(&mut self, address: DeviceAddress, volatile: bool, random: &mut Random) {
        let block = block_of(address);
        let reads: Block = match random.below(3) {
            0 => return,
            1 => None,
            _ => Some([0xff; BLOCK_BYTES].into()),
        };
        let before = std::mem::replace(&mut self.blocks[block], reads);
        if volatile {
            self.unflushed.entry(block).or_insert(before);
        } else {
            self.unflushed.remove(&block);
        }
        self.truth.remove(&block);
        self.below_cache.remove(&block);
    }

    /// What a flush that begins now will cover.
    pub fn unflushed(&self) -> BTreeSet<usize> {
        self.unflushed.keys().copied().collect()
    }

    pub fn flush(&mut self, covered: &BTreeSet<usize>) {
        self.unflushed.retain(|block, _| !covered.contains(block));
    }

    /// The drive loses power: of its cache, some was written out by itself.
    pub fn lose_unflushed(&mut self, random: &mut Random) {
        for (block, before) in std::mem::take(&mut self.unflushed) {
            if random.chance(700) {
                self.blocks[block] = before;
                self.counts.add(Count::Unflushed);
            }
        }
    }

    /// A write that the drive says is done and never does.
    pub fn lose_write(&mut self, address: DeviceAddress, data: &[u8]) {
        for (number, data) in data.chunks(BLOCK_BYTES).enumerate() {
            self.truth.insert(block_of(address) + number, Some(data.into()));
        }
        self.counts.add(Count::LostWrites);
    }

    /// A write that lands somewhere else.
    pub fn misdirect(&mut self, address: DeviceAddress, data: &[u8], landed: DeviceAddress) {
        for (number, data) in data.chunks(BLOCK_BYTES).enumerate() {
            let wrong = block_of(landed) + number;
            let before = self.blocks[wrong].replace(data.into());
            self.truth.entry(wrong).or_insert(before);
            self.below_cache.remove(&wrong);
        }
        for (number, data) in data.chunks(BLOCK_BYTES).enumerate() {
            self.truth.insert(block_of(address) + number, Some(data.into()));
        }
        self.counts.add(Count::Misdirected);
    }

    /// A write that is done in a volatile cache alone, which claims that it is flushed.
    pub fn write_to_cache(&mut self, address: DeviceAddress, data: &[u8]) {
        for (number, data) in data.chunks(BLOCK_BYTES).enumerate() {
            let block = block_of(address) + number;
            let before = self.blocks[block].replace(data.into());
            self.below_cache.entry(block).or_insert(before);
            self.truth.remove(&block);
        }
    }

    /// Power fails: of what stands in a lying cache, some is gone.
    pub fn lose_cache(&mut self, random: &mut Random) {
        let cached = std::mem::take(&mut self.below_cache);
        for (block, before) in cached {
            if random.chance(700) {
                let lost = std::mem::replace(&mut self.blocks[block], before);
                self.truth.entry(block).or_insert(lost);
                self.counts.add(Count::LostCache);
            }
        }
    }

    /// Flips a bit of something that was written.
    pub fn rot(&mut self, random: &mut Random) {
        let start = random.index(self.blocks.len());
        let written = (0..self.blocks.len()).map(|at| (start + at) % self.blocks.len());
        if let Some(block) = written.into_iter().find(|block| self.blocks[*block].is_some())
            && let Some(bytes) = &mut self.blocks[block]
        {
            let before = bytes.clone();
            let bit = random.index(BLOCK_BYTES * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            self.truth.entry(block).or_insert(Some(before));
            self.counts.add(Count::Rot);
        }
    }

    pub fn is_corrupt(&self) -> bool {
        !self.truth.is_empty()
    }

    /// What was recovered is what there is from here on. Damage that recovery passed over lies where nothing is kept:
    /// to heal it later would bring back what was cut. Only headers that say of a segment that it is free are put right: it was
    /// known from another one, which may be gone when this one is needed.
    pub fn accept(&mut self, is_free: impl Fn(DeviceAddress, &[u8]) -> bool) {
        for (block, bytes) in std::mem::take(&mut self.truth) {
            let address = DeviceAddress((block * BLOCK_BYTES) as u64);
            if bytes.as_ref().is_some_and(|bytes| is_free(address, bytes)) {
                self.blocks[block] = bytes;
            }
        }
    }

    /// Puts right what faults did: as if the drive had never lied.
    pub fn heal(&mut self) {
        for (block, bytes) in std::mem::take(&mut self.truth) {
            self.blocks[block] = bytes;
        }
    }
}

fn block_of(address: DeviceAddress) -> usize {
    index(address.0) / BLOCK_BYTES
}
