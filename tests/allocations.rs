//! The reactor allocates nothing in steady state: its turns run under a counting allocator while a client on another
//! thread puts, gets, compares, commits, appends, trims and waits for the drive.
#![cfg(feature = "server")]

#[path = "small/mod.rs"]
mod small;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use forebay::appliance::recover;
use forebay::buffer::Pool;
use forebay::device::memory::{MemoryDevice, MemoryDisk};
use forebay::reactor::{self, Clock, Phase, Reactor};
use forebay::ring::client::{Client, Entry, Object, Request, SubmitError, What, Write};
use forebay::ring::protocol::{Status, shard_of_key};
use forebay::ring::server::{Rights, SessionId, pair_in_process};
use forebay::types::{DeviceAddress, Durability, ShardId};
use forebay::wal::flight;
use forebay_sys::dma::{DmaRegion, Pages};
use forebay_sys::shm::SharedMap;

use small::{LIMITS, SHAPE};

const CAPACITY: u64 = 768 << 20;
const FRAME_BYTES: usize = 64 << 10;
const KEYS: u64 = 500;
const IN_FLIGHT_MAX: usize = 32;

struct TestClock(Instant);

impl Clock for TestClock {
    fn now_ns(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).expect("a test does not take centuries")
    }

    fn wall_ms(&self) -> u64 {
        0
    }
}

/// An appliance of one reactor over a memory device, with flight recorders, and one client of it.
fn appliance() -> (Reactor<MemoryDevice, TestClock>, Client) {
    let disk = MemoryDisk::new(CAPACITY);
    // A memory disk takes its memory as it is written; a drive has it already.
    for address in (0..CAPACITY).step_by(64 << 10) {
        disk.write(DeviceAddress(address), &[0; 8]).expect("the address lies inside the disk");
    }
    small::format(&disk, CAPACITY, 4 << 20);
    let recorder = || SharedMap::anonymous(flight::HEADER_BYTES + 32 * FRAME_BYTES).ok();
    let recover::Begun { shards, catalog, .. } = small::begin(&disk, CAPACITY, recorder, None);
    let limits = reactor::Limits { turn_requests_max: 16, ..LIMITS };
    let region = DmaRegion::allocate(32 * FRAME_BYTES, Pages::Ordinary).expect("memory is there");
    let device = MemoryDevice::new(&disk, 16);
    let pool = Pool::new(region, FRAME_BYTES);
    let mut reactor = Reactor::new(small::place(), limits, TestClock(Instant::now()), device, pool, catalog, shards);
    let (parts, rings) = pair_in_process(SessionId(1), Rights::ReadWrite, SHAPE).expect("memory is there");
    rings.into_iter().for_each(|ring| reactor.begin_session(ring));
    while reactor.phase() == Phase::Settling {
        reactor.turn();
    }
    (reactor, Client::from_parts(parts, Duration::ZERO).expect("the parts fit"))
}

/// A client with two spaces and a stream, and what it remembers of them.
struct Load {
    client: Client,
    buffered: Object,
    strict: Object,
    stream: Object,
    /// The version of every key in `buffered`.
    versions: Vec<u64>,
    appended: u64,
    value: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Put,
    Get,
    CompareAndSet,
    AppendAndTrim,
    BatchAndTrim,
    Read,
    Scan,
    StrictPut,
    Commit,
    CommitAcross,
    Sync,
    PutFor,
}

use Kind::{
    AppendAndTrim, BatchAndTrim, Commit, CommitAcross, CompareAndSet, Get, Put, PutFor, Read, Scan, StrictPut, Sync,
};

/// What is measured, and how many operations of it.
const KINDS: [(Kind, u64); 12] = [
    (Put, 100_000),
    (Get, 100_000),
    (CompareAndSet, 100_000),
    (AppendAndTrim, 100_000),
    (StrictPut, 100_000),
    (Commit, 100_000),
    (CommitAcross, 30_000),
    (BatchAndTrim, 10_000),
    (Read, 10_000),
    (Scan, 10_000),
    (Sync, 10_000),
    (PutFor, 100_000),
];

fn key(number: u64) -> [u8; 8] {
    (number % KEYS).to_be_bytes()
}

/// A key, always the same, that lies in the shard where this number's does not. No other operation writes it.
fn other_shard(space: Object, number: u64) -> [u8; 8] {
    let shard = |key: &[u8]| shard_of_key(space.id.0, key, small::SHARDS);
    let own = shard(&key(number));
    let keys = (0..).map(|more| ((number % KEYS) | ((1 + more) << 32)).to_be_bytes());
    keys.into_iter().find(|other| shard(other) != own).expect("half of all keys lie there")
}

impl Load {
    fn new(mut client: Client) -> Load {
        let buffered = client.open_space("buffered", Some(Durability::Buffered)).expect("the reactor turns");
        let strict = client.open_space("strict", Some(Durability::Strict)).expect("the reactor turns");
        let stream = client.open_stream("stream", Some(Durability::Buffered)).expect("the reactor turns");
        let versions = (0..KEYS).map(|number| {
            client.put(strict, &key(number), b"first", Write::default()).expect("the reactor turns");
            client.put(buffered, &key(number), b"first", Write::default()).expect("the reactor turns")
        });
        let versions = versions.collect();
        Load { client, buffered, strict, stream, versions, appended: 0, value: vec![0x5a; 1_000] }
    }

    /// So many operations of a kind, many of them in flight.
    fn run(&mut self, kind: Kind, operations: u64) {
        let mut reply = Vec::with_capacity(1 << 20);
        let mut number = 0;
        while number < operations || self.client.in_flight() > 0 {
            if number < operations && self.client.in_flight() < IN_FLIGHT_MAX && self.submit(kind, number) {
                number += 1;
                continue;
            }
            let answer = self.client.wait(&mut reply).expect("the reactor turns");
            assert_eq!(answer.status, Status::Ok, "{kind:?} {}", answer.user_data);
            if matches!(kind, Put | CompareAndSet) {
                self.versions[usize::try_from(answer.user_data % KEYS).expect("a small number")] = answer.version;
            }
        }
    }

    /// `false`: there is no room before an answer is taken.
    fn submit(&mut self, kind: Kind, number: u64) -> bool {
        let key = key(number);
        let at = usize::try_from(number % KEYS).expect("a small number");
        // Sizes of several classes, each key always of the same.
        let value = &self.value[..at * 2];
        let how = Write::default();
        let (space, stream, wait) = (self.buffered, self.stream, Duration::ZERO);
        let if_version = Some(self.versions[at]);
        let entry = |what| Entry { object: space.id, key: &key, what };
        let commit = [entry(What::Put(&[7; 200])), entry(What::Put(value))];
        let other = other_shard(space, number);
        let across = [entry(What::Put(value)), Entry { key: &other, ..entry(What::Put(&self.value[..300])) }];
        let batch: [&[u8]; 3] = [b"one", b"", b"three"];
        let trims = number % 4 == 3;
        let before = self.appended.saturating_sub(100);
        let request = match kind {
            Put => Request::Put { space, key: &key, value, how },
            CompareAndSet => Request::Put { space, key: &key, value, how: Write { if_version, ..how } },
            PutFor => {
                let expires = Some(Duration::from_secs(3_600));
                Request::Put { space, key: &key, value, how: Write { expires, ..how } }
            }
            StrictPut => Request::Put { space: self.strict, key: &key, value, how },
            Commit => Request::Commit { entries: &commit, durability: None, relaxed: false },
            CommitAcross => Request::Commit { entries: &across, durability: None, relaxed: false },
            Get => Request::Get { space, key: &key, relaxed: false, value_bytes_max: 1_000 },
            AppendAndTrim | BatchAndTrim if trims => Request::Trim { stream, before },
            AppendAndTrim => Request::Append { stream, event: value, how },
            BatchAndTrim => Request::AppendBatch { stream, events: &batch, how },
            Read => Request::Read { stream, from: before, wait, reply_bytes_max: 100 << 10, relaxed: false },
            Scan => {
                let shard = ShardId(u32::from(number % 2 == 1));
                let (begin, reply_bytes_max) = (&key[..], 100 << 10);
                Request::Scan {
                    space,
                    shard,
                    begin,
                    end: &[],
                    prefix: false,
                    limit: 10,
                    reply_bytes_max,
                    relaxed: false,
                }
            }
            Sync => Request::Sync { reactor: 0 },
        };
        match self.client.submit(number, &request) {
            Ok(()) => {}
            Err(SubmitError::Full) => return false,
            Err(error) => panic!("{error}"),
        }
        match kind {
            AppendAndTrim if !trims => self.appended += 1,
            BatchAndTrim if !trims => self.appended += 3,
            _ => {}
        }
        true
    }
}

#[test]
fn the_reactor_allocates_nothing_in_steady_state() {
    let (mut reactor, client) = appliance();
    // The reactor measures one kind after the other. The client says how many it has begun and ended, and goes on when
    // the reactor has measured that one: the first request of the next may allocate.
    let (begun, ended, quit) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    let measured = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // By a panic too, so that the reactor does not turn for ever.
            scopeguard::defer!(quit.store(true, Ordering::Release));
            let mut load = Load::new(client);
            for (number, (kind, operations)) in KINDS.into_iter().enumerate() {
                load.run(kind, 20_000.min(operations));
                begun.store(number + 1, Ordering::Release);
                load.run(kind, operations);
                ended.store(number + 1, Ordering::Release);
                while measured.load(Ordering::Acquire) == number {
                    std::thread::yield_now();
                }
            }
        });
        let mut total = 0;
        for (number, (kind, operations)) in KINDS.into_iter().enumerate() {
            let turn_while = |reactor: &mut Reactor<_, _>, phases: &AtomicUsize| {
                while phases.load(Ordering::Acquire) == number && !quit.load(Ordering::Acquire) {
                    reactor.turn();
                }
            };
            turn_while(&mut reactor, &begun);
            let info = allocation_counter::measure(|| turn_while(&mut reactor, &ended));
            measured.store(number + 1, Ordering::Release);
            println!("{kind:?}: {} allocations in {operations} operations", info.count_total);
            total += info.count_total;
        }
        assert_eq!(total, 0, "the reactor's thread allocated");
    });
}

#[test]
fn the_counter_counts() {
    let info = allocation_counter::measure(|| drop(std::hint::black_box(vec![1_u8; 100])));
    assert_eq!(info.count_total, 1);
}
