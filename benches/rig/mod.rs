//! An appliance of one shard on a drive in memory, whose reactor turns when it is told to: in the thread of its client,
//! so that an operation is a fixed piece of work, or in one of its own.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use forebay::appliance::recover::{self, Settings};
use forebay::buffer::Pool;
use forebay::device::DeviceError;
use forebay::device::memory::{MemoryDevice, MemoryDisk};
use forebay::reactor::{self, Address, Clock, Phase, Place, Reactor, Shard};
use forebay::ring::client::{Answer, Client, Object, Request, Write};
use forebay::ring::segment::Shape;
use forebay::ring::server::{Rights, SessionId, pair_in_process};
use forebay::store::{self, catalog::Catalog};
use forebay::types::{Compression, DeviceAddress, Durability, ObjectId, ObjectKind, ShardId};
use forebay::wal::blocks::Blocks;
use forebay::wal::flight::{self, Flight, Owner};
use forebay::wal::planted::Planted;
use forebay::wal::superblock::Superblock;
use forebay::wal::{self, format, survey};
use forebay_sys::dma::{DmaRegion, Pages};
use forebay_sys::net::WakeSet;
use forebay_sys::shm::SharedMap;

pub mod bare;

pub type Failure = Box<dyn Error>;

const FRAME_BYTES: usize = 64 << 10;
pub const KEYS: u64 = 1_000;
pub const VALUE: [u8; 100] = [7; 100];

struct DiskBlocks(MemoryDisk);

impl Blocks for DiskBlocks {
    fn read(&mut self, address: DeviceAddress, out: &mut [u8]) -> Result<(), DeviceError> {
        self.0.read(address, out)
    }

    fn write(&mut self, address: DeviceAddress, bytes: &[u8]) -> Result<(), DeviceError> {
        self.0.write(address, bytes)
    }
}

const SETTINGS: Settings = Settings {
    wal: wal::Limits {
        frames_in_flight_max: 4,
        window_interval_ns: 1_000_000,
        window_bytes: 16 << 10,
        watermark_interval_ns: 1_000_000_000,
        recovery_bytes_max: u64::MAX,
    },
    store: store::Limits {
        key_bytes_max: 1_024,
        value_bytes_max: 256 << 10,
        memory_bytes_max: 64 << 20,
        keys_max: 10_000,
        producers_max: 1_024,
        cursors_max: 1_024,
        snapshots_max: 4,
        snapshot_bytes_max: 64 << 20,
        cache_bytes_max: 16 << 20,
        cache_chunk_bytes: 256 << 10,
    },
    planted: Planted::None,
};

pub const SHAPE: Shape = Shape {
    reactors: 1,
    sq_entries: 64,
    cq_entries: 64,
    arena_bytes: 1 << 20,
    shards: 1,
    key_bytes_max: 1_024,
    value_bytes_max: 256 << 10,
    lineage: forebay::types::Lineage::NONE,
};

/// A shard as recovery leaves it, with what it needs beside it. `capacity_bytes` bounds what may be logged.
pub fn parts(capacity_bytes: u64) -> Result<(MemoryDisk, Pool, Catalog, Vec<Shard>), Failure> {
    let disk = MemoryDisk::new(capacity_bytes);
    let mut blocks = DiskBlocks(disk.clone());
    format::format(&mut blocks, capacity_bytes, 4 << 20, 1, [9; 16], None)?;
    let superblock = Superblock::load(&mut blocks, capacity_bytes)?;
    let found = survey::survey(&mut blocks, &superblock, &mut |_, _| {});
    let shard = ShardId(0);
    let owner = Owner { namespace: superblock.namespace, shard, boot: [1; 16] };
    let map = SharedMap::anonymous(flight::HEADER_BYTES + 32 * FRAME_BYTES)?;
    let flights = vec![Flight::new(Some(map), owner, superblock.epoch)];
    let state = recover::read_shard(&mut blocks, &superblock, &found, shard, None, &SETTINGS, &mut |_| {})?;
    let recover::Begun { shards, catalog, .. } =
        recover::begin(&mut blocks, &superblock, &found, vec![state], flights, &SETTINGS)?;
    let pool = Pool::new(DmaRegion::allocate(32 * FRAME_BYTES, Pages::Ordinary)?, FRAME_BYTES);
    Ok((disk, pool, catalog, shards))
}

/// A client and its reactor.
pub struct Rig<C> {
    pub reactor: Reactor<MemoryDevice, C>,
    pub client: Client,
    /// To the last request.
    pub reply: Vec<u8>,
}

impl<C: Clock> Rig<C> {
    pub fn new(capacity_bytes: u64, clock: C) -> Result<Rig<C>, Failure> {
        let (disk, pool, catalog, shards) = parts(capacity_bytes)?;
        let reactors: Arc<[Address]> = vec![Address::new()?].into();
        let place = Place { reactor: 0, shards: 1, reactors, wakes: WakeSet::new()?, drive: Arc::default() };
        let limits = reactor::Limits {
            snapshots_max: 4,
            turn_requests_max: 16,
            waiting_reads_max: 8,
            objects_max: 16,
            key_bytes_max: 1_024,
            value_bytes_max: 256 << 10,
            device_timeout_ns: 60_000_000_000,
        };
        let mut reactor = Reactor::new(place, limits, clock, MemoryDevice::new(&disk, 16), pool, catalog, shards);
        let (parts, rings) = pair_in_process(SessionId(1), Rights::ReadWrite, SHAPE)?;
        rings.into_iter().for_each(|ring| reactor.begin_session(ring));
        while reactor.phase() == Phase::Settling {
            reactor.turn();
        }
        // A blocking call beside a reactor in a thread of its own does not sleep.
        Ok(Rig {
            reactor,
            client: Client::from_parts(parts, Duration::from_secs(1))?,
            reply: Vec::with_capacity(64 << 10),
        })
    }

    /// One request, and turns until it is answered.
    pub fn call(&mut self, request: &Request<'_>) -> Result<Answer, Failure> {
        self.client.submit(0, request)?;
        loop {
            self.reactor.turn();
            if let Some(answer) = self.client.poll(&mut self.reply)? {
                return Ok(answer.ok()?);
            }
        }
    }

    /// A space with every key in it.
    pub fn space(&mut self, name: &str, durability: Durability) -> Result<Object, Failure> {
        let kind = ObjectKind::Space;
        let answer = self.call(&Request::Open { name, kind, create: Some(durability.into()) })?;
        let space =
            Object { id: ObjectId(u32::try_from(answer.version)?), kind, durability, compression: Compression::None };
        for number in 0..KEYS {
            self.call(&put(space, &key(number)))?;
        }
        Ok(space)
    }
}

#[must_use]
pub fn key(number: u64) -> [u8; 16] {
    let mut key = [b'k'; 16];
    // Each key once a pass, in an order that a cache does not know.
    key[8..].copy_from_slice(&(number.wrapping_mul(7_919) % KEYS).to_le_bytes());
    key
}

#[must_use]
pub fn put<'a>(space: Object, key: &'a [u8]) -> Request<'a> {
    Request::Put { space, key, value: &VALUE, how: Write::default() }
}
