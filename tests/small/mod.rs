//! A small appliance without threads, over a drive in memory: for tests that turn its reactor themselves.

use std::sync::Arc;

use forebay::appliance::recover::{self, Begun, Settings};
use forebay::device::DeviceError;
use forebay::device::memory::MemoryDisk;
use forebay::reactor::{Address, Limits, Place};
use forebay::ring::segment::Shape;
use forebay::types::{DeviceAddress, ShardId};
use forebay::wal::blocks::Blocks;
use forebay::wal::flight::{Contents, Flight, Owner};
use forebay::wal::planted::Planted;
use forebay::wal::superblock::Superblock;
use forebay::wal::{self, format, survey};
use forebay_sys::net::WakeSet;
use forebay_sys::shm::SharedMap;

pub const SHARDS: u32 = 2;

pub const SETTINGS: Settings = Settings {
    wal: wal::Limits {
        frames_in_flight_max: 4,
        window_interval_ns: 1_000_000,
        window_bytes: 16 << 10,
        watermark_interval_ns: 1_000_000,
        recovery_bytes_max: u64::MAX,
    },
    store: forebay::store::Limits {
        key_bytes_max: 1_024,
        value_bytes_max: 256 << 10,
        memory_bytes_max: 64 << 20,
        keys_max: 10_000,
        producers_max: 1_024,
        cursors_max: 1_024,
        snapshots_max: 6,
        snapshot_bytes_max: 1 << 20,
        cache_bytes_max: 1 << 20,
        cache_chunk_bytes: 64 << 10,
    },
    planted: Planted::None,
};

/// What every session of it gets.
pub const SHAPE: Shape = Shape {
    reactors: 1,
    sq_entries: 64,
    cq_entries: 64,
    arena_bytes: 4 << 20,
    shards: SHARDS,
    key_bytes_max: 1_024,
    value_bytes_max: 256 << 10,
    lineage: forebay::types::Lineage::NONE,
};

pub const LIMITS: Limits = Limits {
    snapshots_max: 6,
    turn_requests_max: 64,
    waiting_reads_max: 8,
    objects_max: 16,
    key_bytes_max: 1_024,
    value_bytes_max: 256 << 10,
    device_timeout_ns: 60_000_000_000,
};

/// The drive as recovery has it.
pub struct DiskBlocks(pub MemoryDisk);

impl Blocks for DiskBlocks {
    fn read(&mut self, address: DeviceAddress, out: &mut [u8]) -> Result<(), DeviceError> {
        self.0.read(address, out)
    }

    fn write(&mut self, address: DeviceAddress, bytes: &[u8]) -> Result<(), DeviceError> {
        self.0.write(address, bytes)
    }
}

/// Formats all of a drive.
pub fn format(disk: &MemoryDisk, capacity_bytes: u64, segment_bytes: u64) {
    let mut blocks = DiskBlocks(disk.clone());
    format::format(&mut blocks, capacity_bytes, segment_bytes, SHARDS, [9; 16], None)
        .expect("the disk is large enough");
}

/// A start on a formatted drive: `recorder` gives each shard's flight recorder, `contents` is what that of shard 0 held.
pub fn begin(
    disk: &MemoryDisk,
    capacity_bytes: u64,
    recorder: impl Fn() -> Option<SharedMap>,
    contents: Option<&Contents>,
) -> Begun {
    let mut blocks = DiskBlocks(disk.clone());
    let superblock = Superblock::load(&mut blocks, capacity_bytes).expect("it was formatted");
    let found = survey::survey(&mut blocks, &superblock, &mut |_, _| {});
    recover::check_survey(&found).expect("nothing is damaged");
    let (mut states, mut flights) = (Vec::new(), Vec::new());
    for shard in (0..SHARDS).map(ShardId) {
        let owner = Owner { namespace: superblock.namespace, shard, boot: [1; 16] };
        flights.push(Flight::new(recorder(), owner, superblock.epoch));
        let contents = contents.filter(|_| shard == ShardId(0));
        let state = recover::read_shard(&mut blocks, &superblock, &found, shard, contents, &SETTINGS, &mut |_| {});
        states.push(state.expect("nothing is damaged"));
    }
    recover::begin(&mut blocks, &superblock, &found, states, flights, &SETTINGS).expect("the disk is writable")
}

/// The place of the only reactor.
pub fn place() -> Place {
    let reactors: Arc<[Address]> = vec![Address::new().expect("descriptors are there")].into();
    let wakes = WakeSet::new().expect("descriptors are there");
    Place { reactor: 0, shards: SHARDS, reactors, wakes, drive: Arc::default() }
}
