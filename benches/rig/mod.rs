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

/// Shards as recovery leaves them, with what they need beside them. `capacity_bytes` bounds what may be logged.
pub fn parts(capacity_bytes: u64, shards: u32) -> Result<(MemoryDisk, Catalog, Vec<Shard>), Failure> {
    let disk = MemoryDisk::new(capacity_bytes);
    let mut blocks = DiskBlocks(disk.clone());
    format::format(&mut blocks, capacity_bytes, 4 << 20, shards, [9; 16], None)?;
    let superblock = Superblock::load(&mut blocks, capacity_bytes)?;
    let found = survey::survey(&mut blocks, &superblock, &mut |_, _| {});
    let (mut flights, mut states) = (Vec::new(), Vec::new());
    for shard in (0..shards).map(ShardId) {
        let owner = Owner { namespace: superblock.namespace, shard, boot: [1; 16] };
        let map = SharedMap::anonymous(flight::HEADER_BYTES + 32 * FRAME_BYTES)?;
        flights.push(Flight::new(Some(map), owner, superblock.epoch));
        states.push(recover::read_shard(&mut blocks, &superblock, &found, shard, None, &SETTINGS, &mut |_| {})?);
    }
    let recover::Begun { shards, catalog, .. } =
        recover::begin(&mut blocks, &superblock, &found, states, flights, &SETTINGS)?;
    Ok((disk, catalog, shards))
}

/// A reactor's buffers.
pub fn pool() -> Result<Pool, Failure> {
    Ok(Pool::new(DmaRegion::allocate(32 * FRAME_BYTES, Pages::Ordinary)?, FRAME_BYTES))
}

/// A client and its reactors.
pub struct Rig<C> {
    /// The first one; its shard is the first.
    pub reactor: Reactor<MemoryDevice, C>,
    /// They turn only while the first one has no answer.
    others: Vec<Reactor<MemoryDevice, C>>,
    pub client: Client,
    /// To the last request.
    pub reply: Vec<u8>,
}

impl<C: Clock> Rig<C> {
    /// One reactor.
    pub fn new(capacity_bytes: u64, clock: C) -> Result<Rig<C>, Failure> {
        Rig::among(capacity_bytes, vec![clock])
    }

    /// A reactor, with a shard, for each clock.
    pub fn among(capacity_bytes: u64, clocks: Vec<C>) -> Result<Rig<C>, Failure> {
        let count = u32::try_from(clocks.len())?;
        let (disk, catalog, shards) = parts(capacity_bytes, count)?;
        let addresses = clocks.iter().map(|_| Address::new()).collect::<Result<Vec<Address>, _>>()?;
        let addresses: Arc<[Address]> = addresses.into();
        let limits = reactor::Limits {
            snapshots_max: 4,
            turn_requests_max: 16,
            waiting_reads_max: 8,
            objects_max: 16,
            key_bytes_max: 1_024,
            value_bytes_max: 256 << 10,
            device_timeout_ns: 60_000_000_000,
        };
        let (parts, rings) =
            pair_in_process(SessionId(1), Rights::ReadWrite, Shape { reactors: count, shards: count, ..SHAPE })?;
        let mut reactors = Vec::new();
        for ((number, clock), (shard, ring)) in (0..count).zip(clocks).zip(shards.into_iter().zip(rings)) {
            let (reactors_of, wakes) = (addresses.clone(), WakeSet::new()?);
            let place = Place { reactor: number, shards: count, reactors: reactors_of, wakes, drive: Arc::default() };
            let device = MemoryDevice::new(&disk, 16);
            let mut reactor = Reactor::new(place, limits, clock, device, pool()?, catalog.clone(), vec![shard]);
            reactor.begin_session(ring);
            reactors.push(reactor);
        }
        while reactors.iter().any(|reactor| reactor.phase() == Phase::Settling) {
            for reactor in &mut reactors {
                reactor.turn();
            }
        }
        let others = reactors.split_off(1);
        // A blocking call beside a reactor in a thread of its own does not sleep.
        let client = Client::from_parts(parts, Duration::from_secs(1))?;
        let reactor = reactors.pop().ok_or("there is a clock")?;
        Ok(Rig { reactor, others, client, reply: Vec::with_capacity(64 << 10) })
    }

    /// One request, and turns until it is answered.
    pub fn call(&mut self, request: &Request<'_>) -> Result<Answer, Failure> {
        self.client.submit(0, request)?;
        loop {
            self.reactor.turn();
            if let Some(answer) = self.client.poll(&mut self.reply)? {
                return Ok(answer.ok()?);
            }
            for other in &mut self.others {
                other.turn();
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
