//! Snapshots: what they see stays, whatever is written, and costs no more than it may.

use super::reclaim::formatted_small;
use super::*;
use crate::ring::client::{Entry, Snapshot, What, pairs};
use crate::ring::protocol::stats;

impl Bench {
    fn snapshot(&mut self) -> Snapshot {
        let (answer, _) = self.call(&Request::Snapshot);
        assert_eq!(answer.status, Status::Ok);
        Snapshot(answer.version)
    }

    fn release(&mut self, snapshot: Snapshot) -> Status {
        let status = self.call(&Request::Release { snapshot }).0.status;
        (0..100).for_each(|_| _ = self.reactor.turn());
        status
    }

    fn get_at(&mut self, snapshot: Snapshot, space: Object, key: &[u8]) -> (Status, Vec<u8>) {
        let (answer, value) = self.call(&Request::GetAt { snapshot, space, key, value_bytes_max: 256 << 10 });
        (answer.status, value)
    }

    /// All pairs of a space that a snapshot sees, so many at a time.
    fn scan_at(&mut self, snapshot: Snapshot, space: Object, limit: u32) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        for shard in (0..SHARDS).map(ShardId) {
            let mut begin = Vec::new();
            loop {
                let (end, prefix, reply_bytes_max) = (&[][..], false, 512 << 10);
                let scan =
                    Request::ScanAt { snapshot, space, shard, begin: &begin, end, prefix, limit, reply_bytes_max };
                let (answer, reply) = self.call(&scan);
                assert_eq!(answer.status, Status::Ok);
                let page =
                    pairs(&reply).map(|pair| pair.map(|(key, _, value)| (key.to_vec(), value.to_vec())).unwrap());
                found.extend(page);
                if answer.aux & crate::ring::protocol::AUX_MORE == 0 {
                    break;
                }
                begin = [&found[found.len() - 1].0[..], &[0]].concat();
            }
        }
        found.sort();
        found
    }

    fn delete(&mut self, space: Object, key: &[u8]) {
        let (answer, _) = self.call(&Request::Delete { space, key, how: Write::default() });
        assert_eq!(answer.status, Status::Ok);
    }

    /// Versions that only snapshots see, their memory, and snapshots that shards gave up.
    fn kept(&self) -> [u64; 3] {
        let shards = self.reactor.shards().iter().map(|shard| shard.store.kept_for_snapshots());
        shards.fold([0; 3], |sum, kept| std::array::from_fn(|at| sum[at] + kept[at]))
    }

    fn memory(&self) -> u64 {
        self.reactor.shards().iter().map(|shard| shard.store.memory_bytes()).sum()
    }
}

#[test]
fn a_snapshot_shows_what_was_there() {
    for durability in [Durability::Memory, Durability::Buffered, Durability::Strict] {
        let mut bench = start(&formatted());
        let space = bench.open(ObjectKind::Space, "space", durability);
        let empty = bench.snapshot();
        for number in 0..100_u32 {
            assert_eq!(bench.put(space, format!("key{number:03}").as_bytes(), &number.to_be_bytes()), Status::Ok);
        }
        let memory = bench.memory();
        let first = bench.snapshot();
        let all = bench.scan_at(first, space, 0);
        assert_eq!(all.len(), 100);
        // Written over, deleted, deleted and made again, of another size, by a commit.
        for number in 0..100_u32 {
            let key = format!("key{number:03}");
            match number % 5 {
                0 => assert_eq!(bench.put(space, key.as_bytes(), b"2222"), Status::Ok),
                1 => bench.delete(space, key.as_bytes()),
                2 => {
                    bench.delete(space, key.as_bytes());
                    assert_eq!(bench.put(space, key.as_bytes(), &[7; 900]), Status::Ok);
                }
                3 => {
                    let put = |value| Entry { object: space.id, key: key.as_bytes(), what: What::Put(value) };
                    let entries = [put(&[8; 50]), put(&[9; 500])];
                    let commit = Request::Commit { entries: &entries, durability: None, relaxed: false };
                    assert_eq!(bench.call(&commit).0.status, Status::Ok);
                }
                _ => {}
            }
            assert_eq!(bench.put(space, format!("new{number:03}").as_bytes(), b"new"), Status::Ok);
        }
        let second = bench.snapshot();
        let then = bench.scan_at(second, space, 0);
        for number in 0..100_u32 {
            assert_eq!(bench.put(space, format!("key{number:03}").as_bytes(), b"3"), Status::Ok);
        }
        assert!(bench.scan_at(empty, space, 0).is_empty());
        for limit in [0, 1, 7] {
            assert_eq!(bench.scan_at(first, space, limit), all, "{durability:?}");
            assert_eq!(bench.scan_at(second, space, limit), then, "{durability:?}");
        }
        for number in 0..100_u32 {
            let key = format!("key{number:03}");
            let shown = bench.get_at(first, space, key.as_bytes());
            assert_eq!(shown, (Status::Ok, number.to_be_bytes().to_vec()), "{key}");
            let was = then.iter().find(|(own, _)| own == key.as_bytes());
            let was = was.map_or((Status::NotFound, Vec::new()), |(_, value)| (Status::Ok, value.clone()));
            assert_eq!(bench.get_at(second, space, key.as_bytes()), was, "{key}");
            assert_eq!(bench.get_at(empty, space, key.as_bytes()).0, Status::NotFound);
            assert_eq!(bench.get(space, key.as_bytes()), (Status::Ok, b"3".to_vec()));
        }
        // What nobody sees any more is let go, and nothing of it is left.
        assert_eq!(bench.release(first), Status::Ok);
        assert_eq!(bench.get_at(first, space, b"key000").0, Status::SnapshotGone);
        assert_eq!(bench.release(first), Status::SnapshotGone);
        assert_eq!(bench.scan_at(second, space, 0), then);
        assert_eq!((bench.release(second), bench.release(empty)), (Status::Ok, Status::Ok));
        assert_eq!(bench.kept(), [0; 3]);
        (0..100_u32).for_each(|number| bench.delete(space, format!("new{number:03}").as_bytes()));
        assert_eq!(bench.memory() % 4_096, memory % 4_096, "chunks of the heap and the cache stay");
    }
}

#[test]
fn a_key_with_a_time_to_live_stays_for_a_snapshot_that_saw_it() {
    let mut bench = start(&formatted());
    let space = bench.open(ObjectKind::Space, "space", Durability::Buffered);
    let how = Write { expires: Some(Duration::from_millis(50)), ..Write::default() };
    for key in [b"removed", b"written"] {
        assert_eq!(bench.call(&Request::Put { space, key, value: b"timed", how }).0.status, Status::Ok);
    }
    let snapshot = bench.snapshot();
    assert_eq!(bench.put(space, b"written", b"again"), Status::Ok);
    let ns = &bench.reactor.clock.ns;
    ns.set(ns.get() + 100_000_000);
    // It is over, and not yet removed; then it is removed.
    for _ in 0..2 {
        assert_eq!(bench.get(space, b"removed").0, Status::NotFound);
        for key in [b"removed", b"written"] {
            assert_eq!(bench.get_at(snapshot, space, key), (Status::Ok, b"timed".to_vec()));
        }
        assert_eq!(bench.scan_at(snapshot, space, 0).len(), 2);
        (0..2_000).for_each(|_| _ = bench.reactor.turn());
    }
    let later = bench.snapshot();
    assert_eq!(bench.get_at(later, space, b"removed").0, Status::NotFound);
    assert_eq!((bench.release(snapshot), bench.release(later)), (Status::Ok, Status::Ok));
    assert_eq!(bench.kept()[..2], [0; 2]);
}

#[test]
fn values_outlive_their_segments() {
    let disk = formatted_small(CAPACITY);
    let mut bench = start(&disk);
    let space = bench.open(ObjectKind::Space, "space", Durability::Buffered);
    let value = |number: u32| number.to_be_bytes().repeat(300);
    let mut entries = Vec::new();
    for number in 0..200_u32 {
        let key = number.to_be_bytes();
        if number % 3 == 0 {
            let (value, how) = (value(number), Write { expires: Some(Duration::from_secs(3_600)), ..Write::default() });
            assert_eq!(bench.call(&Request::Put { space, key: &key, value: &value, how }).0.status, Status::Ok);
        } else {
            assert_eq!(bench.put(space, &key, &value(number)), Status::Ok);
        }
        entries.push(key_of_shard_0(space, 1_000 + number));
    }
    // Commits, some of which put a key twice.
    for keys in entries.chunks(3) {
        let put = |key, value| Entry { object: space.id, key, what: What::Put(value) };
        let commit = [put(&keys[0][..], &[1; 40][..]), put(&keys[keys.len() - 1], &[2; 40]), put(&keys[0], &[3; 400])];
        let commit = Request::Commit { entries: &commit, durability: None, relaxed: false };
        assert_eq!(bench.call(&commit).0.status, Status::Ok);
    }
    let snapshot = bench.snapshot();
    let then = bench.scan_at(snapshot, space, 0);
    for (key, _) in then.clone() {
        bench.delete(space, &key);
    }
    // The namespace is written over three times.
    for round in 0..3 * CAPACITY / 4_000 {
        assert_eq!(bench.put(space, &(round % 50).to_be_bytes(), &[7; 4_000]), Status::Ok);
    }
    assert!(bench.sum(|counters| counters.segments_reclaimed) > 50);
    assert_eq!(bench.scan_at(snapshot, space, 0), then);
    assert_eq!(bench.kept()[0], then.len() as u64);
    assert_eq!(bench.release(snapshot), Status::Ok);
    assert_eq!(bench.kept(), [0; 3]);
}

#[test]
fn a_snapshot_kept_too_long_is_given_up_and_nothing_else_is_lost() {
    let mut bench = start(&formatted());
    let space = bench.open(ObjectKind::Space, "space", Durability::Memory);
    let value = |round: u8| vec![round; 10_000];
    let keys: Vec<[u8; 8]> = (0..300).map(|number| key_of_shard_0(space, number)).collect();
    keys.iter().for_each(|key| assert_eq!(bench.put(space, key, &value(0)), Status::Ok));
    let old = bench.snapshot();
    // A third of what a shard may keep.
    keys[..30].iter().for_each(|key| assert_eq!(bench.put(space, key, &value(1)), Status::Ok));
    let young = bench.snapshot();
    assert_eq!(bench.get_at(old, space, &keys[0]), (Status::Ok, value(0)));
    keys[..90].iter().for_each(|key| assert_eq!(bench.put(space, key, &value(2)), Status::Ok));
    // The oldest goes first.
    assert_eq!(bench.get_at(old, space, &keys[0]).0, Status::SnapshotGone);
    assert_eq!(bench.get_at(young, space, &keys[0]), (Status::Ok, value(1)));
    assert!(bench.kept()[1] <= 2 << 20);
    keys.iter().for_each(|key| assert_eq!(bench.put(space, key, &value(3)), Status::Ok));
    assert_eq!(bench.get_at(young, space, &keys[0]).0, Status::SnapshotGone);
    keys.iter().for_each(|key| assert_eq!(bench.get(space, key), (Status::Ok, value(3))));
    (0..100).for_each(|_| _ = bench.reactor.turn());
    assert_eq!(bench.kept(), [0, 0, 2]);
    // The shard that had no need of it gives nothing up, and a new one is as good as ever.
    let new = bench.snapshot();
    assert_eq!(bench.put(space, &keys[0], b"new"), Status::Ok);
    assert_eq!(bench.get_at(new, space, &keys[0]), (Status::Ok, value(3)));
    let words = bench.call(&Request::Stats { reactor: 0, about: stats::About::Reactor, after: ObjectId(0) }).1;
    let word = |at: usize| u64::from_le_bytes(words[at * 8..at * 8 + 8].try_into().unwrap());
    let told = [stats::SNAPSHOTS, stats::SNAPSHOT_VERSIONS, stats::SNAPSHOTS_GIVEN_UP].map(word);
    assert_eq!(told, [3, 1, 2], "those given up are the client's until it releases them");
    assert!(word(stats::SNAPSHOT_OLDEST_NS) > 0 && word(stats::SNAPSHOT_BYTES) > 10_000);
    assert_eq!((bench.release(old), bench.release(young)), (Status::Ok, Status::Ok));
}

#[test]
fn a_snapshot_gives_way_to_a_write_that_finds_no_memory() {
    let mut bench = start(&formatted());
    let space = bench.open(ObjectKind::Space, "space", Durability::Memory);
    let value = vec![7; 200_000];
    let keys: Vec<[u8; 8]> = (0..1_000).map(|number| key_of_shard_0(space, number)).collect();
    let full = keys.iter().position(|key| bench.put(space, key, &value) == Status::NoMemory).unwrap();
    let snapshot = bench.snapshot();
    bench.delete(space, &keys[0]);
    assert_eq!(bench.get_at(snapshot, space, &keys[0]), (Status::Ok, value.clone()));
    assert_eq!(bench.put(space, &keys[full], &value), Status::Ok);
    assert_eq!(bench.get_at(snapshot, space, &keys[0]).0, Status::SnapshotGone);
    assert_eq!(bench.put(space, &keys[full + 1], &value), Status::NoMemory);
}

#[test]
fn snapshots_are_as_many_as_configured_and_end_with_their_client() {
    let mut bench = start(&formatted());
    let stream = bench.open(ObjectKind::Stream, "stream", Durability::Strict);
    for _ in 0..10 {
        assert_eq!(bench.call(&Request::Append { stream, event: b"1", how: Write::default() }).0.status, Status::Ok);
    }
    let (parts, rings) = pair_in_process(SessionId(2), Rights::ReadOnly, SHAPE).unwrap();
    rings.into_iter().for_each(|ring| bench.reactor.begin_session(ring));
    let mut other = Client::from_parts(parts, Duration::ZERO).unwrap();
    let mut of_other = Vec::new();
    let mut take = |bench: &mut Bench| {
        other.submit(1, &Request::Snapshot).unwrap();
        (0..10).for_each(|_| _ = bench.reactor.turn());
        other.poll(&mut Vec::new()).unwrap().unwrap()
    };
    (0..3).for_each(|_| of_other.push(Snapshot(take(&mut bench).version)));
    assert_eq!(take(&mut bench).status, Status::TooManySnapshots, "half of them are for others");
    assert_eq!(bench.call(&Request::Trim { stream, before: 4 }).0.status, Status::Ok);
    let own = [bench.snapshot(), bench.snapshot(), bench.snapshot()];
    assert_eq!(bench.call(&Request::Snapshot).0.status, Status::TooManySnapshots);
    assert_eq!(bench.call(&Request::Append { stream, event: b"1", how: Write::default() }).0.status, Status::Ok);
    let extent = |bench: &mut Bench, snapshot| {
        let (answer, _) = bench.call(&Request::Extent { snapshot, stream });
        (answer.status, answer.version, answer.aux)
    };
    assert_eq!(extent(&mut bench, of_other[0]), (Status::Ok, 0, 10));
    assert_eq!(extent(&mut bench, own[0]), (Status::Ok, 4, 10));
    assert_eq!(bench.release(of_other[0]), Status::SnapshotGone, "it belongs to another");
    bench.reactor.close_session(SessionId(2));
    (0..10).for_each(|_| _ = bench.reactor.turn());
    assert_eq!(extent(&mut bench, of_other[0]).0, Status::SnapshotGone);
    assert_eq!(extent(&mut bench, own[1]), (Status::Ok, 4, 10));
    assert_eq!(bench.call(&Request::Snapshot).0.status, Status::TooManySnapshots);
    assert_eq!(bench.release(own[2]), Status::Ok);
    bench.snapshot();
}
