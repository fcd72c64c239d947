//! Commits over several shards: of one reactor and of two, cut off at every turn, and what stands in their way.

use super::commit::{delete, put, read};
use super::*;
use crate::device::memory::MemoryDevice;
use crate::reactor::Address;
use crate::reactor::Place;
use crate::ring::protocol::stats;
use forebay_sys::net::WakeSet;
use std::sync::Arc;

/// A key of this space that lies in this shard.
pub(super) fn key_in(space: Object, shard: u32, number: u32) -> [u8; 8] {
    let keys = (0..).map(|more: u32| (u64::from(number) << 32 | u64::from(more)).to_be_bytes());
    keys.into_iter().find(|key| shard_of_key(space.id.0, key, SHARDS) == ShardId(shard)).unwrap()
}

/// Two reactors with a shard each, over one drive, turned by hand.
pub(super) struct Pair {
    pub(super) reactors: Vec<Reactor<MemoryDevice, TestClock>>,
    pub(super) client: Client,
}

impl Pair {
    pub(super) fn start(disk: &MemoryDisk) -> Pair {
        let recover::Begun { shards, catalog, .. } = small::begin(disk, disk.capacity_bytes(), || None, None);
        let addresses: Arc<[Address]> = (0..2).map(|_| Address::new().unwrap()).collect();
        let shape = Shape { reactors: 2, ..SHAPE };
        let (parts, rings) = pair_in_process(SessionId(1), Rights::ReadWrite, shape).unwrap();
        let mut reactors = Vec::new();
        for ((number, shard), ring) in (0..).zip(shards).zip(rings) {
            let region = DmaRegion::allocate(16 * (64 << 10), Pages::Ordinary).unwrap();
            let (device, pool) = (MemoryDevice::new(disk, 16), Pool::new(region, 64 << 10));
            let (wakes, drive) = (WakeSet::new().unwrap(), Arc::default());
            let place = Place { reactor: number, shards: SHARDS, reactors: addresses.clone(), wakes, drive };
            let clock = TestClock::default();
            let mut reactor = Reactor::new(place, LIMITS, clock, device, pool, catalog.clone(), vec![shard]);
            reactor.begin_session(ring);
            reactors.push(reactor);
        }
        let mut pair = Pair { reactors, client: Client::from_parts(parts, Duration::ZERO).unwrap() };
        for _ in 0..10_000 {
            pair.turn();
        }
        pair
    }

    pub(super) fn turn(&mut self) {
        self.reactors.iter_mut().for_each(|reactor| _ = reactor.turn());
    }

    pub(super) fn call(&mut self, request: &Request<'_>) -> (Answer, Vec<u8>) {
        self.client.submit(7, request).unwrap();
        self.answer().unwrap_or_else(|| panic!("no answer to {request:?}"))
    }

    pub(super) fn answer(&mut self) -> Option<(Answer, Vec<u8>)> {
        let mut reply = Vec::new();
        (0..20_000).find_map(|_| {
            self.turn();
            self.client.poll(&mut reply).unwrap().map(|answer| (answer, reply.clone()))
        })
    }

    pub(super) fn open(&mut self, name: &str, durability: Durability) -> Object {
        let (kind, compression) = (ObjectKind::Space, Compression::None);
        let (answer, _) = self.call(&Request::Open { kind, name, create: Some(durability.into()) });
        Object { id: ObjectId(u32::try_from(answer.version).unwrap()), kind, durability, compression }
    }

    fn commit(&mut self, entries: &[crate::ring::client::Entry<'_>]) -> Answer {
        self.call(&Request::Commit { entries, durability: None, relaxed: false }).0
    }

    fn held(&mut self, space: Object, key: &[u8]) -> (u64, Vec<u8>) {
        let (answer, value) = self.call(&Request::Get { space, key, relaxed: false, value_bytes_max: 1_000 });
        (answer.version, value)
    }
}

#[test]
fn keys_of_two_shards_have_one_version_and_come_back() {
    let disk = formatted();
    let mut bench = start(&disk);
    for durability in [Durability::Memory, Durability::Buffered, Durability::Strict] {
        let space = bench.open(ObjectKind::Space, &format!("{durability:?}"), durability);
        let keys = [key_in(space, 0, 1), key_in(space, 1, 1)];
        let first = bench.commit(&[put(space, &keys[0], b"a"), put(space, &keys[1], b"b")]);
        assert_eq!(first.status, Status::Ok);
        let version = first.version;
        let second = bench.commit(&[
            read(space, &keys[0], version),
            read(space, &keys[1], version),
            put(space, &keys[1], b"c"),
            delete(space, &keys[0]),
        ]);
        assert!(second.status == Status::Ok && second.version > version, "{second:?}");
        let conflict =
            bench.commit(&[read(space, &keys[0], 0), read(space, &keys[1], version), put(space, &keys[0], b"d")]);
        assert_eq!((conflict.status, conflict.aux, conflict.version), (Status::Conflict, 1, second.version));
        let looked = bench.commit(&[read(space, &keys[0], 0), read(space, &keys[1], second.version)]);
        assert_eq!((looked.status, looked.version, looked.lsn), (Status::Ok, 0, 0));
        assert_eq!((bench.held(space, &keys[0]).0, bench.held(space, &keys[1])), (0, (second.version, b"c".to_vec())));
        // Plain writes of both keys go on behind it.
        assert_eq!(bench.put(space, &keys[0], b"e"), Status::Ok);
        assert_eq!(bench.commit(&[put(space, &keys[0], b"f"), put(space, &keys[1], b"f")]).status, Status::Ok);
    }
    assert_eq!((bench.stat(stats::COMMITS), bench.stat(stats::CONFLICTS)), (12, 3));
    assert_eq!(bench.call(&Request::Sync { reactor: 0 }).0.status, Status::Ok);
    for _ in 0..3 {
        drop(bench);
        bench = start(&disk);
        for (durability, value) in
            [(Durability::Memory, &b""[..]), (Durability::Buffered, b"f"), (Durability::Strict, b"f")]
        {
            let space = bench.open(ObjectKind::Space, &format!("{durability:?}"), durability);
            for shard in 0..2 {
                assert_eq!(bench.held(space, &key_in(space, shard, 1)).1, value, "{durability:?}, shard {shard}");
            }
        }
    }
}

#[test]
fn what_is_cut_off_at_any_turn_is_there_as_a_whole_or_not_at_all() {
    let (mut none, mut all, mut again) = (0, 0, 0);
    for turns in 0..24 {
        let disk = formatted();
        let mut pair = Pair::start(&disk);
        let space = pair.open("space", Durability::Buffered);
        let keys = [key_in(space, 0, 1), key_in(space, 1, 1)];
        let entries = [put(space, &keys[0], b"a"), put(space, &keys[1], b"b")];
        pair.client.submit(7, &Request::Commit { entries: &entries, durability: None, relaxed: false }).unwrap();
        (0..turns).for_each(|turn| _ = pair.reactors[turn % 2].turn());
        let logged = pair.reactors[1].shards()[0].wal.last_lsn();
        drop(pair);
        let mut pair = Pair::start(&disk);
        let held = [pair.held(space, &keys[0]), pair.held(space, &keys[1])];
        assert_eq!(held[0].0, held[1].0, "one version, after {turns} turns: {held:?}");
        let there = held[0].0 != 0;
        assert_eq!(
            [held[0].1.as_slice(), held[1].1.as_slice()],
            if there { [&b"a"[..], b"b"] } else { [&b""[..], b""] }
        );
        (none, all) = (none + u32::from(!there), all + u32::from(there));
        again += u32::from(there && pair.reactors[1].shards()[0].wal.last_lsn() > logged);
        // And once more, when the part is logged.
        drop(pair);
        let mut pair = Pair::start(&disk);
        assert_eq!(
            [pair.held(space, &keys[0]), pair.held(space, &keys[1])],
            held,
            "after {turns} turns and two starts"
        );
    }
    assert!(none > 1 && all > 1 && again > 0, "{none} without it, {all} with it, in {again} a part was missing");
}

#[test]
fn who_meets_a_locked_key_waits_in_its_ring_or_is_told() {
    let disk = formatted();
    let mut pair = Pair::start(&disk);
    let space = pair.open("space", Durability::Strict);
    let keys = [key_in(space, 0, 1), key_in(space, 1, 1)];
    let version = pair.commit(&[put(space, &keys[0], b"a"), put(space, &keys[1], b"b")]).version;
    let entries = [read(space, &keys[0], version), read(space, &keys[1], version), put(space, &keys[1], b"c")];
    pair.client.submit(1, &Request::Commit { entries: &entries, durability: None, relaxed: false }).unwrap();
    // The coordinator alone: it has locked its own key, which is only read.
    (0..20).for_each(|_| _ = pair.reactors[0].turn());
    let how = Write::default();
    pair.client.submit(2, &Request::Put { space, key: &keys[0], value: b"d", how }).unwrap();
    let mut reply = Vec::new();
    (0..50).for_each(|_| _ = pair.reactors[0].turn());
    assert!(pair.client.poll(&mut reply).unwrap().is_none(), "the key is locked");
    let answers: Vec<_> = (0..2).map(|_| pair.answer().unwrap().0).collect();
    assert_eq!(answers.iter().map(|answer| answer.user_data).collect::<Vec<_>>(), [1, 2]);
    assert!(answers.iter().all(|answer| answer.status == Status::Ok), "{answers:?}");
    assert_eq!(pair.held(space, &keys[1]), (answers[0].version, b"c".to_vec()));
    assert_eq!(pair.held(space, &keys[0]), (answers[1].version, b"d".to_vec()));
}

#[test]
fn a_client_that_goes_away_leaves_no_lock() {
    let disk = formatted();
    for turns in 0..12 {
        let mut pair = Pair::start(&disk);
        let space = pair.open("space", Durability::Strict);
        let keys = [key_in(space, 0, 1), key_in(space, 1, 1)];
        let entries = [put(space, &keys[0], b"a"), put(space, &keys[1], b"b")];
        pair.client.submit(1, &Request::Commit { entries: &entries, durability: None, relaxed: false }).unwrap();
        (0..turns).for_each(|turn| _ = pair.reactors[turn % 2].turn());
        pair.reactors.iter_mut().for_each(|reactor| reactor.close_session(SessionId(1)));
        (0..1_000).for_each(|_| pair.turn());
        assert!(pair.reactors.iter().all(|reactor| reactor.sessions.iter().all(Option::is_none)));
        let locked = |reactor: &Reactor<MemoryDevice, TestClock>| !reactor.shards()[0].store.across.locks.is_empty();
        assert!(!pair.reactors.iter().any(locked), "after {turns} turns");
        assert!(pair.reactors.iter().all(|reactor| !reactor.commits.may_end()));
    }
}

#[test]
fn a_shard_that_stopped_writing_ends_the_commit_with_that_status() {
    let mut pair = Pair::start(&formatted());
    let space = pair.open("space", Durability::Strict);
    let keys = [key_in(space, 0, 1), key_in(space, 1, 1)];
    let entries = [put(space, &keys[0], b"a"), put(space, &keys[1], b"b")];
    pair.reactors[1].shards[0].wal.fence(wal::Fence::Aside);
    assert_eq!(pair.commit(&entries).status, Status::Fenced);
    assert_eq!(pair.held(space, &keys[0]).0, 0);
    // Nothing is locked.
    let how = Write::default();
    let put = pair.call(&Request::Put { space, key: &keys[0], value: b"x", how }).0;
    assert_eq!(put.status, Status::Ok);
}

#[test]
fn a_key_that_is_held_does_not_end_for_those_who_hold_it() {
    for writes in [false, true] {
        let mut pair = Pair::start(&formatted());
        for reactor in &mut pair.reactors {
            reactor.wall = crate::store::Wall::new(0, 0);
        }
        let space = pair.open("space", Durability::Buffered);
        let keys = [key_in(space, 0, 1), key_in(space, 1, 1)];
        let how = Write { expires: Some(Duration::from_millis(500)), ..Write::default() };
        let version = pair.call(&Request::Put { space, key: &keys[0], value: b"a", how }).0.version;
        let mut entries = vec![read(space, &keys[0], version), put(space, &keys[1], b"b")];
        if writes {
            entries.push(put(space, &keys[0], b"c"));
        }
        pair.client.submit(1, &Request::Commit { entries: &entries, durability: None, relaxed: false }).unwrap();
        (0..20).for_each(|_| _ = pair.reactors[0].turn());
        let keys_timed = |pair: &Pair| pair.reactors[0].shards()[0].store.keys_timed();
        assert_eq!(keys_timed(&pair), 1, "its time is not over");
        let ns = &pair.reactors[0].clock.ns;
        ns.set(ns.get() + 1_000_000_000);
        // Whoever looks goes by the clock; a commit that would build on that waits.
        let alone = [read(space, &keys[0], 0)];
        pair.client.submit(2, &Request::Get { space, key: &keys[0], relaxed: false, value_bytes_max: 10 }).unwrap();
        pair.client.submit(3, &Request::Commit { entries: &alone, durability: None, relaxed: false }).unwrap();
        (0..3_000).for_each(|_| _ = pair.reactors[0].turn());
        assert_eq!(keys_timed(&pair), 1, "a commit under way holds it");
        let (answer, _) = pair.client.poll(&mut Vec::new()).unwrap().map(|answer| (answer, ())).unwrap();
        assert_eq!((answer.user_data, answer.status), (2, Status::NotFound));
        assert!(pair.client.poll(&mut Vec::new()).unwrap().is_none());
        // The key is free when its own shard has done its part, a moment before all have.
        let mut answers: Vec<_> = (0..2).map(|_| pair.answer().unwrap().0).collect();
        answers.sort_by_key(|answer| answer.user_data);
        let first = answers[0];
        assert_eq!((first.user_data, first.status), (1, Status::Ok), "it saw the key, and nobody took it away");
        let second = if writes { (3, Status::Conflict) } else { (3, Status::Ok) };
        assert_eq!((answers[1].user_data, answers[1].status), second);
        (0..3_000).for_each(|_| pair.turn());
        assert_eq!((keys_timed(&pair), pair.held(space, &keys[0]).0), (0, if writes { first.version } else { 0 }));
    }
}
