//! The image of the kinds of records that came after the first ones: times to live, transactions in one shard and over two, pages,
//! retention. A real store writes them, by requests of a client, so what stands in their keys and values is its too. It is read in two
//! ways: record by record, held against what is written today; and by a start, which has to find what was meant.
//! To write it anew (never for a format that is out): `FOREBAY_REGENERATE=1 cargo test --test images kinds`.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use forebay::appliance::recover::Begun;
use forebay::buffer::Pool;
use forebay::device::memory::{MemoryDevice, MemoryDisk};
use forebay::reactor::{Address, Clock, Order, Phase, Reactor};
use forebay::ring::client::{
    Answer, Client, Creation, CursorMove, Entry, Object, Once, Request, Retention, What, Write, events, pages,
};
use forebay::ring::protocol::{Status, shard_of_key};
use forebay::ring::server::{Rights, SessionId, pair_in_process};
use forebay::types::{Compression, DeviceAddress, Durability, ObjectId, ObjectKind, PageHint, PageSize, ShardId};
use forebay::wal::planted::Planted;
use forebay::wal::record::{Kind, Record};
use forebay::wal::recovery::{self, Walker};
use forebay_sys::dma::{DmaRegion, Pages};

use crate::golden::{from_text, to_text};
use crate::image::{Image, read};
use crate::small::{self, LIMITS, SHAPE, SHARDS};

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1-kinds.img.txt");
const CAPACITY: u64 = 8 << 20;
const FRAME_BYTES: usize = 64 << 10;
const PAGE: PageSize = PageHint::Point.page_size();
/// Of the wall clock, when the time of a life is 0.
const WALL_MS: u64 = 1_700_000_000_000;
const HOUR_MS: u64 = 3_600_000;

/// Goes on by a microsecond a look, and from one request to the next as the test says.
#[derive(Clone, Default)]
struct Hand(Rc<Cell<u64>>);

impl Clock for Hand {
    fn now_ns(&self) -> u64 {
        self.0.set(self.0.get() + 1_000);
        self.0.get()
    }

    fn wall_ms(&self) -> u64 {
        WALL_MS + self.0.get() / 1_000_000
    }
}

struct Life {
    reactor: Reactor<MemoryDevice, Hand>,
    address: std::sync::Arc<[Address]>,
    client: Client,
    clock: Hand,
}

impl Life {
    fn begin(disk: &MemoryDisk, at_ms: u64) -> Life {
        let Begun { shards, catalog, .. } = small::begin(disk, CAPACITY, || None, None);
        let (parts, rings) = pair_in_process(SessionId(1), Rights::ReadWrite, SHAPE).unwrap();
        let region = DmaRegion::allocate(16 * FRAME_BYTES, Pages::Ordinary).unwrap();
        let (device, pool) = (MemoryDevice::new(disk, 16), Pool::new(region, FRAME_BYTES));
        let (place, clock) = (small::place(), Hand(Rc::new(Cell::new(at_ms * 1_000_000))));
        let address = place.reactors.clone();
        let mut reactor = Reactor::new(place, LIMITS, clock.clone(), device, pool, catalog, shards);
        rings.into_iter().for_each(|ring| reactor.begin_session(ring));
        let client = Client::from_parts(parts, Duration::ZERO).unwrap();
        let mut life = Life { reactor, address, client, clock };
        life.turn_until(|life| life.reactor.phase() == Phase::Serving);
        life
    }

    fn turn_until(&mut self, holds: impl Fn(&Life) -> bool) {
        for _ in 0..10_000 {
            if holds(self) {
                return;
            }
            self.reactor.turn();
        }
        panic!("it does not come");
    }

    /// It is so late now, and the reactor has seen it.
    fn at(&mut self, at_ms: u64) {
        self.clock.0.set(at_ms * 1_000_000);
        (0..200).for_each(|_| _ = self.reactor.turn());
    }

    fn call(&mut self, request: &Request<'_>) -> (Answer, Vec<u8>) {
        self.client.submit(1, request).unwrap();
        let mut reply = Vec::new();
        for _ in 0..100_000 {
            self.reactor.turn();
            if let Some(answer) = self.client.poll(&mut reply).unwrap() {
                return (answer, reply);
            }
        }
        panic!("no answer to {request:?}");
    }

    fn done(&mut self, request: &Request<'_>) -> (Answer, Vec<u8>) {
        let (answer, reply) = self.call(request);
        assert_eq!(answer.status, Status::Ok, "{request:?}");
        (answer, reply)
    }

    fn open(&mut self, name: &str, kind: ObjectKind, durability: Durability) -> Object {
        let create = Creation { chained: kind == ObjectKind::Stream, ..durability.into() };
        let request = match kind {
            ObjectKind::Pages => Request::OpenPages { name, create: Some((PAGE, durability)) },
            ObjectKind::Space | ObjectKind::Stream => Request::Open { name, kind, create: Some(create) },
        };
        let id = ObjectId(u32::try_from(self.done(&request).0.version).unwrap());
        Object { id, kind, durability, compression: Compression::None }
    }

    fn objects(&mut self) -> [Object; 3] {
        [
            self.open("space", ObjectKind::Space, Durability::Strict),
            self.open("stream", ObjectKind::Stream, Durability::Strict),
            self.open("pages", ObjectKind::Pages, Durability::Strict),
        ]
    }

    fn get(&mut self, space: Object, key: &[u8]) -> Option<Vec<u8>> {
        let (answer, value) = self.call(&Request::Get { space, key, relaxed: false, value_bytes_max: 1_000 });
        (answer.status == Status::Ok).then_some(value)
    }

    /// The events that a stream still has.
    fn offsets(&mut self, stream: Object) -> Vec<u64> {
        let (_, _, first) = self.bounds(stream);
        let (wait, relaxed) = (Duration::ZERO, false);
        let (_, reply) = self.call(&Request::Read { stream, from: first, wait, reply_bytes_max: 1_000, relaxed });
        events(&reply).map(|event| event.unwrap().0).collect()
    }

    /// What bounds a stream, in bytes and ms, and its first offset.
    fn bounds(&mut self, stream: Object) -> (u64, u64, u64) {
        let told = self.done(&Request::Retain { stream, set: None }).0;
        let first = self.done(&Request::Trim { stream, before: 0 }).0.version;
        (told.version, told.aux, first)
    }

    fn stop(mut self) {
        self.address[0].send(Order::Stop).map_err(|_| ()).unwrap();
        self.turn_until(|life| life.reactor.phase() == Phase::Stopped);
    }
}

/// A key that lies in this shard.
fn key_in(space: Object, shard: u32) -> String {
    let mut keys = (0..).map(|number| format!("key {number}"));
    keys.find(|key| shard_of_key(space.id.0, key.as_bytes(), SHARDS) == ShardId(shard)).unwrap()
}

fn page(tag: u8) -> Vec<u8> {
    let mut page = vec![0; PAGE.bytes()];
    (page[0], page[PAGE.bytes() - 1]) = (tag, !tag);
    page
}

/// When the event was appended that is not kept for long.
const APPENDED_MS: u64 = 10_000;
const AGE_MS: u64 = 2 * HOUR_MS;

fn write_image() -> Image {
    let disk = MemoryDisk::new(CAPACITY);
    small::format(&disk, CAPACITY, 1 << 20);
    let mut life = Life::begin(&disk, 0);
    let [space, stream, paged] = life.objects();
    let keys = [key_in(space, 0), key_in(space, 1)];
    let ttl = |ms| Write { expires: Some(Duration::from_millis(ms)), ..Write::default() };
    for (key, ms) in [(&b"over"[..], 500), (b"for an hour", HOUR_MS), (b"written over", HOUR_MS)] {
        life.done(&Request::Put { space, key, value: b"timed", how: ttl(ms) });
    }
    life.at(1_000);
    let entry = |object: Object, key, what| Entry { object: object.id, key, what };
    let in_one = [entry(space, keys[0].as_bytes(), What::Put(b"1")), entry(space, keys[0].as_bytes(), What::Put(b"2"))];
    let over_two = [
        entry(space, b"absent", What::Read(0)),
        entry(space, keys[0].as_bytes(), What::Put(b"3")),
        entry(space, keys[1].as_bytes(), What::Put(b"3")),
        entry(space, b"written over", What::Put(b"stays")),
        entry(space, b"absent", What::Delete),
    ];
    for entries in [&in_one[..], &over_two] {
        life.done(&Request::Commit { entries, durability: None, relaxed: false });
    }
    let (numbers, bytes) = ([7_u64.to_be_bytes(), (1_u64 << 40).to_be_bytes()], [page(1), page(2)]);
    let entries = [0, 1].map(|at: usize| entry(paged, &numbers[at], What::Put(&bytes[at])));
    life.done(&Request::WritePages { space: paged, entries: &entries, durability: None });
    life.done(&Request::WritePage { space: paged, number: 8, page: &page(3), durability: None });
    let set = Retention { bytes: Some(1 << 30), age: Some(Duration::from_millis(AGE_MS)) };
    life.done(&Request::Retain { stream, set: Some(set) });
    life.at(APPENDED_MS);
    let (how, once) = (Write::default(), Once { producer: 77, sequence: 1 });
    life.done(&Request::Append { stream, event: b"first", how });
    life.done(&Request::AppendOnce { stream, once, events: &[b"second", b"third"], how });
    life.done(&Request::SetCursor { stream, name: "reader", offset: 2, how: CursorMove::default() });
    // Marks come a 64th of the age after each other.
    life.at(APPENDED_MS + AGE_MS / 32);
    life.done(&Request::Append { stream, event: b"later", how });
    life.stop();
    image_of(&disk)
}

fn image_of(disk: &MemoryDisk) -> Image {
    let mut bytes = vec![0; usize::try_from(CAPACITY).unwrap()];
    disk.read(DeviceAddress(0), &mut bytes).unwrap();
    Image(bytes)
}

fn golden() -> (String, Image) {
    if std::env::var_os("FOREBAY_REGENERATE").is_some() {
        std::fs::write(PATH, to_text(&write_image())).unwrap();
    }
    let text = std::fs::read_to_string(PATH).expect("the image is there");
    let image = from_text(&text);
    (text, image)
}

/// Every record of a shard, in words.
fn records(mut image: Image) -> Vec<(u32, Kind, String)> {
    let found = read(&mut image, CAPACITY).unwrap();
    let mut all = Vec::new();
    for shard in 0..SHARDS {
        let chain = &found.survey.chains[shard as usize];
        let mut walker = Walker::new(&mut image, &found.superblock, ShardId(shard), chain);
        let mut sink = |record: &Record<'_>, _| {
            let Record { kind, flags, lsn, object, version, key, value } = *record;
            all.push((shard, kind, format!("{flags} {lsn} {object} {version:#x} {key:?} {value:?}")));
        };
        recovery::recover(&mut walker, None, Planted::None, &mut sink, &mut |_| {}).unwrap();
    }
    all
}

#[test]
fn kinds_are_written_as_they_were() {
    let (text, image) = golden();
    assert!(text.len() < 64 << 10, "the golden image has {} B", text.len());
    let held = records(image);
    let of = [Kind::PutUntil, Kind::Expire, Kind::Commit, Kind::Decision, Kind::Retain, Kind::Mark];
    for kind in of.into_iter().chain([Kind::AppendOnce, Kind::Cursor]) {
        assert!(held.iter().any(|(_, own, _)| *own == kind), "there is no {kind:?}");
    }
    for (held, written) in held.iter().zip(&records(write_image())) {
        assert_eq!(held, written);
    }
    assert_eq!(held.len(), records(write_image()).len());
}

#[test]
fn kinds_mean_what_they_meant() {
    let disk = MemoryDisk::new(CAPACITY);
    disk.write(DeviceAddress(0), &golden().1.0).unwrap();
    let mut life = Life::begin(&disk, HOUR_MS / 2);
    let [space, stream, paged] = life.objects();
    let keys = [key_in(space, 0), key_in(space, 1)];
    let held = |life: &mut Life| {
        let keys = [b"over", keys[0].as_bytes(), keys[1].as_bytes(), b"for an hour", b"written over", b"absent"];
        keys.map(|key| life.get(space, key))
    };
    let some = |value: &[u8]| Some(value.to_vec());
    assert_eq!(held(&mut life), [None, some(b"3"), some(b"3"), some(b"timed"), some(b"stays"), None]);
    let numbers = [7, 8, 1 << 40, 9];
    let read = Request::ReadPages {
        space: paged,
        numbers: &numbers,
        snapshot: None,
        relaxed: false,
        reply_bytes_max: 5 * PAGE.bytes(),
    };
    let reply = life.done(&read).1;
    let found: Vec<_> = pages(&reply, numbers.len(), PAGE).unwrap().collect();
    let bytes = |at: usize| found[at].map(|(_, bytes)| bytes.to_vec());
    assert_eq!([bytes(0), bytes(1), bytes(2), bytes(3)], [Some(page(1)), Some(page(3)), Some(page(2)), None]);
    assert_eq!(found[0].map(|page| page.0), found[2].map(|page| page.0), "one commit has one version");
    assert_eq!((life.bounds(stream), life.offsets(stream)), ((1 << 30, AGE_MS, 0), vec![0, 1, 2, 3]));
    assert_eq!(life.done(&Request::GetCursor { stream, name: "reader", relaxed: false }).0.version, 2);
    let once = Once { producer: 77, sequence: 1 };
    let again = Request::AppendOnce { stream, once, events: &[b"second", b"third"], how: Write::default() };
    assert_eq!(life.done(&again).0.version, 1, "it was appended before");
    // An hour after they were put, and as old as the mark says, not as this life is.
    life.at(HOUR_MS + 2_000);
    assert_eq!(held(&mut life)[3..], [None, some(b"stays"), None]);
    life.at(APPENDED_MS + AGE_MS + AGE_MS / 24);
    assert_eq!((life.bounds(stream), life.offsets(stream)), ((1 << 30, AGE_MS, 3), vec![3]));
}
