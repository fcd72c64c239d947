//! Small namespaces in memory, written by the real log and read by the real recovery.

use std::collections::BTreeMap;
use std::sync::Arc;

use forebay::buffer::Pool;
use forebay::device::memory::{MemoryDevice, MemoryDisk};
use forebay::device::{Device, DeviceError};
use forebay::error::{Error, Result};
use forebay::types::{DeviceAddress, ObjectId, ShardId};
use forebay::wal::blocks::Blocks;
use forebay::wal::flight::{Flight, Owner};
use forebay::wal::format;
use forebay::wal::planted::Planted;
use forebay::wal::pool::{SegmentPool, Writer};
use forebay::wal::record::{Kind, Record};
use forebay::wal::recovery::{self, Recovered, Walker};
use forebay::wal::superblock::Superblock;
use forebay::wal::survey::{self, Survey};
use forebay::wal::{Identity, Limits, Room, Wal};
use forebay_sys::dma::{DmaRegion, Pages};

pub const BLOCK: usize = 4_096;
pub const SEGMENT_BYTES: u64 = 64 << 10;
pub const SHARDS: u32 = 2;
pub const NAMESPACE: [u8; 16] = *b"forebay golden 1";
/// A record of more than this takes several frames.
const FRAME_BYTES: usize = 16 << 10;

/// A device as plain bytes.
#[derive(Clone)]
pub struct Image(pub Vec<u8>);

impl Blocks for Image {
    fn read(&mut self, address: DeviceAddress, out: &mut [u8]) -> Result<(), DeviceError> {
        let at = usize::try_from(address.0).unwrap();
        out.copy_from_slice(self.0.get(at..at + out.len()).ok_or(DeviceError::INVALID)?);
        Ok(())
    }

    fn write(&mut self, address: DeviceAddress, bytes: &[u8]) -> Result<(), DeviceError> {
        let at = usize::try_from(address.0).unwrap();
        self.0.get_mut(at..at + bytes.len()).ok_or(DeviceError::INVALID)?.copy_from_slice(bytes);
        Ok(())
    }
}

/// What the records of a namespace say: shard and key to value.
pub type Data = BTreeMap<(u32, Vec<u8>), Vec<u8>>;

/// Everything that was read of an image.
pub struct Read {
    pub superblock: Superblock,
    pub survey: Survey,
    pub shards: Vec<Recovered>,
    pub data: Data,
}

/// Reads a namespace as a start does: superblock, survey, every shard.
pub fn read(blocks: &mut impl Blocks, device_bytes: u64) -> Result<Read> {
    let superblock = Superblock::load(blocks, device_bytes)?;
    let survey = survey::survey(blocks, &superblock, &mut |_, _| {});
    if let Some(damage) = survey.damage.first() {
        return Err(Error::new(damage.to_string()));
    }
    let (mut shards, mut data) = (Vec::new(), Data::new());
    for number in 0..superblock.layout.shards {
        let mut walker = Walker::new(blocks, &superblock, ShardId(number), &survey.chains[number as usize]);
        let mut sink = |record: &Record<'_>, _| {
            data.insert((number, record.key.to_vec()), record.value.to_vec());
        };
        let recovered = recovery::recover(&mut walker, None, Planted::None, &mut sink, &mut |_| {});
        shards.push(recovered.map_err(|damage| Error::new(damage.to_string()))?);
    }
    Ok(Read { superblock, survey, shards, data })
}

/// A namespace with its logs open for writing, over a copy of an image.
pub struct Open {
    disk: MemoryDisk,
    device: MemoryDevice,
    pool: Pool,
    wals: Vec<Wal>,
    now_ns: u64,
}

impl Open {
    /// Starts on an image, as the daemon does: reads it, raises the epoch, goes on.
    pub fn start(image: &Image) -> Open {
        let mut image = image.clone();
        let bytes = image.0.len() as u64;
        let found = read(&mut image, bytes).unwrap();
        let seen = found.shards.iter().map(|shard| shard.epoch_max).max().unwrap();
        let epoch = found.superblock.epoch.max(found.survey.epoch_max).max(seen) + 1;
        let raised = Superblock { epoch, generation: found.superblock.generation + 1, ..found.superblock };
        raised.write(&mut image).unwrap();
        let disk = MemoryDisk::new(bytes);
        disk.write(DeviceAddress(0), &image.0).unwrap();
        let segments = Arc::new(SegmentPool::new(&found.superblock.layout, &found.survey.free));
        let limits = Limits {
            recovery_bytes_max: u64::MAX,
            frames_in_flight_max: 4,
            window_interval_ns: 1_000,
            window_bytes: FRAME_BYTES / 2,
            watermark_interval_ns: 1_000,
        };
        let wals = found.shards.into_iter().zip(0..).map(|(recovered, number)| {
            let namespace = found.superblock.namespace;
            let shard = ShardId(number);
            let identity = Identity { namespace, shard, epoch, layout: found.superblock.layout };
            let flight = Flight::new(None, Owner { namespace, shard, boot: [0; 16] }, found.superblock.epoch);
            Wal::new(identity, limits, recovered.tail, segments.clone(), flight, Planted::None)
        });
        let region = DmaRegion::allocate(16 * FRAME_BYTES, Pages::Ordinary).unwrap();
        let wals = wals.collect();
        let device = MemoryDevice::new(&disk, 16);
        let mut open = Open { device, disk, pool: Pool::new(region, FRAME_BYTES), wals, now_ns: 0 };
        open.settle();
        open
    }

    /// Lets everything under way end.
    fn settle(&mut self) {
        for _ in 0..100 {
            self.now_ns += 10;
            for wal in &mut self.wals {
                wal.seal(&mut self.pool, &mut self.device, self.now_ns);
            }
            while let Some(completion) = self.device.poll() {
                let shard = Wal::shard_of_tag(completion.operation.tag).index();
                self.wals[shard].complete(&mut self.pool, completion, self.now_ns);
            }
        }
        assert!(self.wals.iter().all(Wal::is_quiet));
    }

    /// One strict put in a frame of its own.
    pub fn put(&mut self, shard: u32, key: &[u8], value: &[u8]) {
        let version = self.wals[shard as usize].last_lsn().next().0;
        self.record(shard, Kind::Put, ObjectId(1), version, key, value);
    }

    /// One strict record in a frame of its own, or in several when it is large.
    pub fn record(&mut self, shard: u32, kind: Kind, object: ObjectId, version: u64, key: &[u8], value: &[u8]) {
        let wal = &mut self.wals[shard as usize];
        assert_eq!(wal.room(&self.pool, key.len(), value.len(), Writer::Ordinary), Room::Yes);
        wal.append(&mut self.pool, self.now_ns, kind, object, version, key, value);
        wal.want_durable();
        self.settle();
        assert!(self.wals[shard as usize].is_durable());
    }

    /// States the durable LSN of every shard; `clean` as a stop in good order does.
    pub fn watermark(&mut self, clean: bool) {
        self.now_ns += 1_000_000;
        for wal in &mut self.wals {
            wal.watermark(&mut self.pool, self.now_ns, clean);
        }
        self.settle();
    }

    /// The device as it is now.
    pub fn image(&self) -> Image {
        let mut bytes = vec![0; usize::try_from(self.disk.capacity_bytes()).unwrap()];
        self.disk.read(DeviceAddress(0), &mut bytes).unwrap();
        Image(bytes)
    }
}

/// A freshly formatted namespace with room for `segments`.
pub fn formatted(segments: u64, namespace: [u8; 16]) -> Image {
    let bytes = (512 << 10) + segments * SEGMENT_BYTES;
    let mut image = Image(vec![0; usize::try_from(bytes).unwrap()]);
    format::format(&mut image, bytes, SEGMENT_BYTES, SHARDS, namespace, None).unwrap();
    image
}

/// Values that no two keys share.
pub fn value(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| seed ^ u8::try_from(at % 251).unwrap()).collect()
}
