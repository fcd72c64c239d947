//! Keys with a time to live: gone at their moment, whatever is done to the wall clock, and nothing of them is left.

use super::hostile::Raw;
use super::*;
use crate::ring::client::{ClientError, Entry, Listed, Snapshot, SubmitError, What, listed};
use crate::ring::protocol::{Opcode, Submission, TTL_MS_MAX, flag, stats};

/// What the wall clock of these tests is ahead when they begin.
const WALL_MS: u64 = 1_000_000;

impl Bench {
    fn put_for(&mut self, space: Object, key: &[u8], value: &[u8], ttl_ms: u64) -> u64 {
        let how = Write { expires: Some(Duration::from_millis(ttl_ms)), ..Write::default() };
        let (answer, _) = self.call(&Request::Put { space, key, value, how });
        assert_eq!(answer.status, Status::Ok);
        answer.version
    }

    /// Time goes on by so much, and the reactor sees it.
    fn pass(&mut self, ms: u64) {
        let ns = &self.reactor.clock.ns;
        ns.set(ns.get() + ms * 1_000_000);
        (0..2_000).for_each(|_| _ = self.reactor.turn());
    }

    /// Somebody sets the wall clock.
    fn set_wall(&mut self, ahead_ms: u64) {
        self.reactor.clock.ahead_ms.set(ahead_ms);
        self.pass(0);
    }

    fn keys(&self) -> (u64, u64) {
        let sum = |of: fn(&Shard) -> u64| self.reactor.shards().iter().map(of).sum();
        (sum(|shard| shard.store.keys()), sum(|shard| shard.store.keys_timed()))
    }

    fn is_there(&mut self, space: Object, key: &[u8]) -> bool {
        let (answer, _) = self.call(&Request::Get { space, key, relaxed: false, value_bytes_max: 256 << 10 });
        assert!(matches!(answer.status, Status::Ok | Status::NotFound), "{answer:?}");
        answer.status == Status::Ok
    }

    /// Keys of a space, as scans show them.
    fn scanned(&mut self, space: Object) -> Vec<Vec<u8>> {
        let mut keys = Vec::new();
        for shard in (0..SHARDS).map(ShardId) {
            let (begin, end, prefix, limit, relaxed) = (&[][..], &[][..], true, 0, false);
            let scan = Request::Scan { space, shard, begin, end, prefix, limit, relaxed, reply_bytes_max: 512 << 10 };
            let (_, reply) = self.call(&scan);
            keys.extend(crate::ring::client::pairs(&reply).map(|pair| pair.unwrap().0.to_vec()));
        }
        keys.sort();
        keys
    }
}

fn begin(disk: &MemoryDisk, ahead_ms: u64) -> Bench {
    let mut bench = start(disk);
    // A start takes the wall clock as it is.
    bench.reactor.wall = crate::store::Wall::new(0, ahead_ms);
    bench.set_wall(ahead_ms);
    bench
}

#[test]
fn a_key_is_gone_at_its_moment_and_gives_back_what_it_took() {
    for durability in [Durability::Memory, Durability::Buffered, Durability::Strict] {
        let mut bench = begin(&formatted(), WALL_MS);
        let space = bench.open(ObjectKind::Space, "space", durability);
        assert_eq!(bench.put(space, b"stays", b"1"), Status::Ok);
        let memory: u64 = bench.reactor.shards().iter().map(|shard| shard.store.memory_bytes()).sum();
        let live: u64 = bench.reactor.shards().iter().map(|shard| shard.store.live_bytes()).sum();
        let version = bench.put_for(space, b"goes", b"12345", 60);
        bench.put_for(space, b"goes later", b"2", 5_000);
        assert_eq!((bench.keys(), bench.scanned(space).len()), ((3, 2), 3));
        bench.pass(40);
        assert!(bench.is_there(space, b"goes"));
        bench.pass(30);
        assert!(!bench.is_there(space, b"goes"));
        assert_eq!(bench.scanned(space), [&b"goes later"[..], b"stays"]);
        assert_eq!(bench.keys(), (2, 1), "nobody asked for it, and it is gone");
        // Its version is that of an absent key.
        let how = Write { if_version: Some(version), ..Write::default() };
        let put = Request::Put { space, key: b"goes", value: b"", how };
        assert_eq!(bench.call(&put).0.status, Status::VersionMismatch);
        bench.pass(6_000);
        assert_eq!(bench.keys(), (1, 0));
        let now = |of: fn(&Shard) -> u64| bench.reactor.shards().iter().map(of).sum::<u64>();
        assert_eq!(now(|shard| shard.store.live_bytes()), live);
        // Chunks of the heap and the cache stay; what was counted beside them does not.
        assert_eq!(now(|shard| shard.store.memory_bytes()) % 4_096, memory % 4_096);
        assert_eq!(bench.reactor.metrics.get(stats::KEYS_EXPIRED), 2);
    }
}

#[test]
fn a_write_without_a_time_to_live_takes_it_away() {
    let disk = formatted();
    let mut bench = begin(&disk, WALL_MS);
    let space = bench.open(ObjectKind::Space, "space", Durability::Buffered);
    for key in [&b"put"[..], b"commit", b"longer", b"deleted", b"shorter", b"across", b"over"] {
        bench.put_for(space, key, b"a value of some length", 50);
    }
    assert_eq!(bench.put(space, b"put", b"1"), Status::Ok);
    let entries = [Entry { object: space.id, key: b"commit", what: What::Put(b"a value of some length") }];
    assert_eq!(
        bench.call(&Request::Commit { entries: &entries, durability: None, relaxed: false }).0.status,
        Status::Ok
    );
    // In one shard, and over two.
    let put = |key| Entry { object: space.id, key, what: What::Put(b"2") };
    let entries = [put(b"across"), put(b"over")];
    let shard = |key| shard_of_key(space.id.0, key, SHARDS);
    assert_ne!(shard(b"across"), shard(b"over"));
    let commit = Request::Commit { entries: &entries, durability: None, relaxed: false };
    assert_eq!(bench.call(&commit).0.status, Status::Ok);
    bench.put_for(space, b"longer", b"2", 100_000);
    bench.put_for(space, b"shorter", b"2", 10);
    let delete = Request::Delete { space, key: b"deleted", how: Write::default() };
    assert_eq!(bench.call(&delete).0.status, Status::Ok);
    assert_eq!(bench.put(space, b"deleted", b"3"), Status::Ok);
    bench.pass(30);
    assert_eq!(bench.scanned(space).len(), 6);
    bench.pass(1_000);
    let stay = [&b"across"[..], b"commit", b"deleted", b"longer", b"over", b"put"];
    assert_eq!(bench.scanned(space), stay);
    assert_eq!(bench.keys(), (6, 1));
    assert_eq!(bench.call(&Request::Sync { reactor: 0 }).0.status, Status::Ok);
    drop(bench);
    let mut bench = begin(&disk, WALL_MS + 2_000);
    assert_eq!(bench.scanned(space), stay, "also after a start");
}

#[test]
fn between_its_moment_and_its_end_a_key_is_absent() {
    let mut bench = begin(&formatted(), WALL_MS);
    let space = bench.open(ObjectKind::Space, "space", Durability::Buffered);
    let key = |number: u32| key_of_shard_0(space, number);
    // More than go in one turn.
    for number in 0..1_000 {
        bench.put_for(space, &key(number), b"1", 10_000);
    }
    let ns = &bench.reactor.clock.ns;
    ns.set(ns.get() + 20_000_000_000);
    bench.reactor.turn();
    let (left, _) = bench.keys();
    assert!((900..1_000).contains(&left), "{left} of 1,000 are there after a turn");
    assert!(!bench.is_there(space, &key(999)));
    let read = Entry { object: space.id, key: &key(998), what: What::Read(0) };
    let put = Entry { object: space.id, key: &key(998), what: What::Put(b"2") };
    let commit = Request::Commit { entries: &[read, put], durability: None, relaxed: false };
    assert_eq!(bench.call(&commit).0.status, Status::Ok);
    let delete = Request::Delete { space, key: &key(997), how: Write::default() };
    assert_eq!(bench.call(&delete).0.status, Status::NotFound);
    assert!(bench.keys().0 > 300, "most are still to go");
    assert_eq!(bench.scanned(space), [key(998).to_vec()]);
    bench.pass(1);
    assert_eq!(bench.keys(), (1, 0));
}

#[test]
fn the_wall_clock_brings_nothing_back() {
    let disk = formatted();
    let mut bench = begin(&disk, WALL_MS);
    let space = bench.open(ObjectKind::Space, "space", Durability::Strict);
    bench.put_for(space, b"over", b"1", 60_000);
    bench.put_for(space, b"day", b"1", 86_400_000);
    // Forward by a minute and more: what the key waits for is the wall clock.
    bench.set_wall(WALL_MS + 70_000);
    assert_eq!(bench.scanned(space), [b"day"]);
    // Back by some minutes: it goes on from where it was.
    bench.set_wall(WALL_MS - 500_000);
    assert_eq!(bench.scanned(space), [b"day"]);
    bench.put_for(space, b"after", b"1", 100);
    bench.put_for(space, b"kept", b"1", 600_000);
    assert!(bench.is_there(space, b"after"));
    bench.pass(200);
    assert!(!bench.is_there(space, b"after"));
    assert_eq!(bench.call(&Request::Sync { reactor: 0 }).0.status, Status::Ok);
    // Another life with that clock: what was said to be over stays so, and the rest goes by the clock as it is.
    let mut bench = begin(&disk, WALL_MS - 500_000);
    assert_eq!(bench.scanned(space), [&b"day"[..], b"kept"]);
    bench.pass(610_000);
    assert_eq!(bench.scanned(space), [b"day"]);
}

#[test]
fn what_is_over_while_the_daemon_is_down_is_not_shown_and_goes() {
    let disk = formatted();
    let mut bench = begin(&disk, WALL_MS);
    let space = bench.open(ObjectKind::Space, "space", Durability::Strict);
    let large = vec![7; 150_000];
    bench.put_for(space, b"over", &large, 5_000);
    bench.put_for(space, b"day", &large, 86_400_000);
    assert_eq!(bench.put(space, b"stays", b"1"), Status::Ok);
    drop(bench);
    for (ahead_ms, expected) in [(20_000, vec![&b"day"[..], b"stays"]), (100_000_000, vec![&b"stays"[..]])] {
        let mut bench = start(&disk);
        assert_eq!(bench.keys().0, expected.len() as u64 + 1, "nothing is decided without the clock");
        bench.reactor.wall = crate::store::Wall::new(0, WALL_MS + ahead_ms);
        bench.set_wall(WALL_MS + ahead_ms);
        assert_eq!(bench.scanned(space), expected);
        assert_eq!(bench.keys().0, expected.len() as u64);
        if expected.len() == 2 {
            let get = Request::Get { space, key: b"day", relaxed: false, value_bytes_max: 256 << 10 };
            assert_eq!(bench.call(&get).1, large);
        }
        assert_eq!(bench.call(&Request::Sync { reactor: 0 }).0.status, Status::Ok);
    }
    // The log says it now, whatever the clock says.
    let mut bench = begin(&disk, WALL_MS);
    assert_eq!(bench.scanned(space), [b"stays"]);
}

#[test]
fn values_of_keys_with_a_time_to_live_are_read_back_from_the_drive() {
    let disk = formatted();
    let mut bench = begin(&disk, WALL_MS);
    let space = bench.open(ObjectKind::Space, "space", Durability::Buffered);
    let value = |number: u32| vec![number.to_le_bytes()[0]; if number % 50 == 7 { 180_000 } else { 5_000 }];
    for number in 0..400_u32 {
        bench.put_for(space, &number.to_be_bytes(), &value(number), 60_000);
    }
    let before = bench.reactor.metrics.get(stats::FETCHES);
    for number in 0..400_u32 {
        let key = number.to_be_bytes();
        let (answer, found) =
            bench.call(&Request::Get { space, key: &key, relaxed: false, value_bytes_max: 256 << 10 });
        assert_eq!((answer.status, found), (Status::Ok, value(number)), "key {number}");
    }
    assert!(bench.reactor.metrics.get(stats::FETCHES) > before + 100, "few were read back");
    bench.pass(70_000);
    assert_eq!(bench.keys(), (0, 0));
}

#[test]
fn a_sleeping_reactor_wakes_for_what_is_over() {
    let mut bench = begin(&formatted(), WALL_MS);
    let space = bench.open(ObjectKind::Space, "space", Durability::Memory);
    bench.pass(100);
    assert_eq!(bench.reactor.expires_ns(), None);
    bench.put_for(space, b"key", b"1", 10_000);
    let mut wakes = 0;
    while bench.keys().0 > 0 {
        let at_ns = bench.reactor.expires_ns().expect("a key has a time to live");
        let now_ns = bench.reactor.clock.ns.get();
        assert!(at_ns <= now_ns + 10_001_000_000, "it would sleep too long");
        bench.reactor.clock.ns.set(now_ns.max(at_ns));
        bench.reactor.turn();
        wakes += 1;
    }
    assert!(wakes <= 10, "{wakes} wakes for one key");
}

#[test]
fn times_to_live_that_make_no_sense_are_refused() {
    let mut bench = begin(&formatted(), WALL_MS);
    let space = bench.open(ObjectKind::Space, "space", Durability::Buffered);
    let how = |expires| Write { expires: Some(expires), ..Write::default() };
    let refused = |result| matches!(result, Err(SubmitError::Client(ClientError::Status(Status::BadRequest))));
    for expires in [Duration::ZERO, Duration::from_millis(TTL_MS_MAX + 1), Duration::MAX] {
        let put = Request::Put { space, key: b"key", value: b"", how: how(expires) };
        assert!(refused(bench.client.submit(1, &put)), "{expires:?}");
    }
    let delete = Request::Delete { space, key: b"key", how: how(Duration::from_secs(1)) };
    assert!(refused(bench.client.submit(1, &delete)));
    // A client that says it by hand. What is less than a millisecond is one.
    let mut raw = Raw::new(&mut bench, 2, SHAPE);
    for (arg1, status) in [
        (0, Status::BadRequest),
        (TTL_MS_MAX, Status::Ok),
        (TTL_MS_MAX + 1, Status::BadRequest),
        (u64::MAX, Status::BadRequest),
    ] {
        let (object, opcode) = (space.id.0, Opcode::Put as u8);
        raw.submit(&Submission { object, opcode, key_bytes: 3, flags: flag::EXPIRES, arg1, ..Submission::default() });
        (0..10).for_each(|_| _ = bench.reactor.turn());
        assert_eq!(raw.take().map(|completion| completion.status), Some(status as u16), "{arg1} ms");
    }
    bench.call(&Request::Put { space, key: b"short", value: b"", how: how(Duration::from_nanos(1)) });
    assert_eq!(bench.keys().1, 2);
}

/// What a list shows of each key: version, value, until when.
type Told = std::collections::BTreeMap<Vec<u8>, (u64, Vec<u8>, Option<u64>)>;

impl Bench {
    fn list(&mut self, snapshot: Option<Snapshot>, space: Object, keys_only: bool) -> Told {
        let mut told = Told::new();
        for shard in (0..SHARDS).map(ShardId) {
            let (begin, end, prefix, limit, reply_bytes_max) = (&[][..], &[][..], true, 0, 512 << 10);
            let list = Request::List { snapshot, space, shard, begin, end, prefix, limit, keys_only, reply_bytes_max };
            let (answer, reply) = self.call(&list);
            assert_eq!(answer.status, Status::Ok);
            for pair in listed(&reply) {
                let Listed { key, version, value, until_ms } = pair.unwrap();
                told.insert(key.to_vec(), (version, value.to_vec(), until_ms));
            }
        }
        told
    }
}

#[test]
fn a_list_tells_until_when_keys_hold_and_reads_no_value_it_does_not_show() {
    for durability in [Durability::Memory, Durability::Buffered] {
        let disk = formatted();
        let mut bench = begin(&disk, WALL_MS);
        let space = bench.open(ObjectKind::Space, "space", durability);
        let before_ms = bench.reactor.clock.wall_ms();
        let timed = bench.put_for(space, b"timed", b"12345", 60_000);
        let (answer, _) = bench.call(&Request::Put { space, key: b"plain", value: b"a value", how: Write::default() });
        let plain = answer.version;
        let snapshot = Snapshot(bench.call(&Request::Snapshot).0.version);
        let until = |told: &Told| told[&b"timed"[..]].2.unwrap();
        let all = bench.list(None, space, false);
        assert_eq!(all[&b"plain"[..]], (plain, b"a value".to_vec(), None));
        assert_eq!((all[&b"timed"[..]].0, &all[&b"timed"[..]].1), (timed, &b"12345".to_vec()));
        let until_ms = until(&all);
        assert!((before_ms + 59_000..=before_ms + 61_000).contains(&until_ms), "{until_ms} after {before_ms}");
        // What only the snapshot sees keeps its moment.
        assert_eq!(bench.put(space, b"timed", b"another"), Status::Ok);
        assert_eq!(bench.list(Some(snapshot), space, false), all);
        assert_eq!(bench.list(None, space, false)[&b"timed"[..]].2, None);
        let keys = bench.list(Some(snapshot), space, true);
        assert_eq!(keys[&b"timed"[..]], (timed, Vec::new(), Some(until_ms)));
        assert_eq!((keys.len(), keys[&b"plain"[..]].0), (2, plain));
        if durability == Durability::Memory {
            continue;
        }
        // Over a restart, where no value is in memory any more.
        let longer = bench.put_for(space, b"timed", &[7; 100_000], 90_000);
        assert_eq!(bench.call(&Request::Sync { reactor: 0 }).0.status, Status::Ok);
        let before = bench.list(None, space, true);
        drop(bench);
        let mut bench = begin(&disk, WALL_MS + 5);
        assert_eq!(bench.list(None, space, true), before);
        assert_eq!((before[&b"timed"[..]].0, bench.reactor.metrics.get(stats::FETCHES)), (longer, 0));
    }
}
