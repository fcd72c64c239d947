//! The vertical path over the memory device, with real rings, in one thread of control.

mod across;
mod barrier;
mod catalog;
mod commit;
mod events;
mod expiry;
mod fetch;
mod full;
mod hostile;
mod pages;
mod reclaim;
mod requests;
mod sessions;
mod slow;
#[path = "../../tests/small/mod.rs"]
mod small;
mod snapshots;
mod stall;
mod stuck;
mod trim;
mod waits;

use std::time::Duration;

use forebay_sys::dma::{DmaRegion, Pages};

use super::{Clock, Phase, Reactor, Shard};
use crate::appliance::recover;
use crate::buffer::Pool;
use crate::device::DeviceError;
use crate::device::memory::{MemoryDevice, MemoryDisk};
use crate::ring::client::{Answer, Client, Creation, Object, Request, Write};
use crate::ring::protocol::{Status, shard_of_key};
use crate::ring::segment::Shape;
use crate::ring::server::{Rights, SessionId, pair_in_process};
use crate::types::{Compression, DeviceAddress, Durability, ObjectId, ObjectKind, ShardId};
use crate::wal;
use crate::wal::flight::Contents;

use small::{LIMITS, SHAPE, SHARDS};

/// A microsecond passes with every look at it, so with every turn.
#[derive(Default)]
struct TestClock {
    ns: std::cell::Cell<u64>,
    /// What the wall clock is ahead.
    ahead_ms: std::cell::Cell<u64>,
}

impl Clock for TestClock {
    fn now_ns(&self) -> u64 {
        self.ns.set(self.ns.get() + 1_000);
        self.ns.get()
    }

    fn wall_ms(&self) -> u64 {
        self.ns.get() / 1_000_000 + self.ahead_ms.get()
    }
}

const CAPACITY: u64 = 16 << 20;

struct Bench {
    reactor: Reactor<MemoryDevice, TestClock>,
    client: Client,
}

fn start(disk: &MemoryDisk) -> Bench {
    start_after(disk, None)
}

/// A start that finds this in the flight recorder of shard 0.
fn start_after(disk: &MemoryDisk, contents: Option<&Contents>) -> Bench {
    let recover::Begun { shards, catalog, .. } = small::begin(disk, disk.capacity_bytes(), || None, contents);
    let (parts, rings) = pair_in_process(SessionId(1), Rights::ReadWrite, SHAPE).unwrap();
    let region = DmaRegion::allocate(16 * (64 << 10), Pages::Ordinary).unwrap();
    let (device, pool) = (MemoryDevice::new(disk, 16), Pool::new(region, 64 << 10));
    let mut reactor = Reactor::new(small::place(), LIMITS, TestClock::default(), device, pool, catalog, shards);
    for ring in rings {
        reactor.begin_session(ring);
    }
    let mut turns = 0..10_000;
    while reactor.phase() == Phase::Settling && turns.next().is_some() {
        reactor.turn();
    }
    assert_eq!(reactor.phase(), Phase::Serving, "the start hangs");
    Bench { reactor, client: Client::from_parts(parts, Duration::ZERO).unwrap() }
}

/// A key of this space that lies in shard 0.
fn key_of_shard_0(space: Object, number: u32) -> [u8; 8] {
    let key = |more: u32| (u64::from(number) << 32 | u64::from(more)).to_be_bytes();
    let in_shard_0 = |key: &[u8; 8]| shard_of_key(space.id.0, key, SHARDS) == ShardId(0);
    (0..).map(key).find(in_shard_0).unwrap()
}

impl Bench {
    fn call(&mut self, request: &Request<'_>) -> (Answer, Vec<u8>) {
        self.client.submit(7, request).unwrap();
        let mut reply = Vec::new();
        for _ in 0..1_000_000 {
            self.reactor.turn();
            if let Some(answer) = self.client.poll(&mut reply).unwrap() {
                return (answer, reply);
            }
        }
        panic!("no answer to {request:?}");
    }

    fn open(&mut self, kind: ObjectKind, name: &str, durability: Durability) -> Object {
        self.create(kind, name, durability.into())
    }

    fn create(&mut self, kind: ObjectKind, name: &str, creation: Creation) -> Object {
        let durability = creation.durability;
        let request = Request::Open { kind, name, create: Some(creation) };
        let (answer, _) = self.call(&request);
        assert_eq!(answer.status, Status::Ok);
        Object {
            id: ObjectId(u32::try_from(answer.version).unwrap()),
            kind,
            durability,
            compression: Compression::None,
        }
    }
}

fn formatted() -> MemoryDisk {
    let disk = MemoryDisk::new(CAPACITY);
    small::format(&disk, CAPACITY, 1 << 20);
    disk
}

#[test]
fn what_was_put_is_there_after_a_restart() {
    let disk = formatted();
    let mut bench = start(&disk);
    let space = bench.open(ObjectKind::Space, "accounts", Durability::Strict);
    let stream = bench.open(ObjectKind::Stream, "events", Durability::Strict);
    let large = vec![0xab; 200_000];
    for number in 0..100_u32 {
        let key = format!("key{number:03}");
        let how = Write::default();
        let (answer, _) = bench.call(&Request::Put { space, key: key.as_bytes(), value: &number.to_le_bytes(), how });
        assert_eq!(answer.status, Status::Ok);
        let (answer, _) = bench.call(&Request::Append { stream, event: key.as_bytes(), how });
        assert_eq!((answer.status, answer.version), (Status::Ok, u64::from(number)));
    }
    let (answer, _) = bench.call(&Request::Put { space, key: b"large", value: &large, how: Write::default() });
    assert_eq!(answer.status, Status::Ok);
    let (answer, _) = bench.call(&Request::Delete { space, key: b"key007", how: Write::default() });
    assert_eq!(answer.status, Status::Ok);
    drop(bench);

    let mut bench = start(&disk);
    let get = |bench: &mut Bench, key: &[u8]| {
        bench.call(&Request::Get { space, key, relaxed: false, value_bytes_max: 256 << 10 })
    };
    let (answer, value) = get(&mut bench, b"key042");
    assert_eq!((answer.status, value), (Status::Ok, 42_u32.to_le_bytes().to_vec()));
    assert_eq!(get(&mut bench, b"key007").0.status, Status::NotFound);
    assert_eq!(get(&mut bench, b"large").1, large);
    let again = bench.open(ObjectKind::Space, "accounts", Durability::Strict);
    assert_eq!(again.id, space.id);
}

#[test]
fn a_watermark_that_rots_takes_nothing_with_it() {
    let disk = formatted();
    let mut bench = start(&disk);
    let space = bench.open(ObjectKind::Space, "accounts", Durability::Strict);
    let put = |bench: &mut Bench, key: &[u8]| {
        let (answer, _) = bench.call(&Request::Put { space, key, value: b"1", how: Write::default() });
        assert_eq!(answer.status, Status::Ok);
    };
    // Both keys go to one shard; in between it falls idle and writes its watermark.
    let shard = shard_of_key(space.id.0, b"first", 2);
    let second =
        (0..).map(|number| format!("second{number}")).find(|key| shard_of_key(space.id.0, key.as_bytes(), 2) == shard);
    let second = second.unwrap();
    put(&mut bench, b"first");
    let before = watermarks(&disk);
    while watermarks(&disk).len() < before.len() + 1 {
        bench.reactor.turn();
    }
    put(&mut bench, second.as_bytes());
    drop(bench);
    for address in watermarks(&disk) {
        disk.write(address, &[0xee; 4_096]).unwrap();
    }
    let mut bench = start(&disk);
    for key in [b"first", second.as_bytes()] {
        let request = Request::Get { space, key, relaxed: false, value_bytes_max: 16 };
        assert_eq!(bench.call(&request).0.status, Status::Ok);
    }
}

/// Where watermarks stand on the disk.
fn watermarks(disk: &MemoryDisk) -> Vec<DeviceAddress> {
    let mut block = vec![0; 4_096];
    let addresses = (0..CAPACITY / 4_096).map(|number| DeviceAddress(number * 4_096));
    addresses
        .filter(|address| {
            disk.read(*address, &mut block).unwrap();
            let found = wal::frame::parse(&block, &[9; 16], *address);
            found.is_ok_and(|(header, _)| header.flags & wal::frame::FLAG_WATERMARK != 0)
        })
        .collect()
}
