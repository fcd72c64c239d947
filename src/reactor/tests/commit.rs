//! Commits: all or nothing, whatever stands in the way, and what is left of them after reclaim and restarts.

use super::*;
use crate::ring::client::{Entry, What};
use crate::ring::protocol::{commit::ENTRIES_MAX, stats};

pub(super) fn read(space: Object, key: &[u8], version: u64) -> Entry<'_> {
    Entry { object: space.id, key, what: What::Read(version) }
}

pub(super) fn put<'a>(space: Object, key: &'a [u8], value: &'a [u8]) -> Entry<'a> {
    Entry { object: space.id, key, what: What::Put(value) }
}

pub(super) fn delete(space: Object, key: &[u8]) -> Entry<'_> {
    Entry { object: space.id, key, what: What::Delete }
}

impl Bench {
    pub(super) fn commit(&mut self, entries: &[Entry<'_>]) -> Answer {
        self.call(&Request::Commit { entries, durability: None, relaxed: false }).0
    }

    /// The version and the value of a key; 0: it is absent.
    pub(super) fn held(&mut self, space: Object, key: &[u8]) -> (u64, Vec<u8>) {
        let (answer, value) = self.call(&Request::Get { space, key, relaxed: false, value_bytes_max: 256 << 10 });
        (answer.version, value)
    }

    pub(super) fn stat(&mut self, at: usize) -> u64 {
        let (_, reply) = self.call(&Request::Stats { reactor: 0, about: stats::About::Reactor, after: ObjectId(0) });
        u64::from_le_bytes(reply[at * 8..at * 8 + 8].try_into().unwrap())
    }
}

/// Two spaces, and keys that lie in shard 0 in both.
fn spaces(bench: &mut Bench) -> (Object, Object, Vec<[u8; 8]>) {
    let strict = bench.open(ObjectKind::Space, "strict", Durability::Strict);
    let keys: Vec<_> = (0..8).map(|number| key_of_shard_0(strict, number)).collect();
    // CRC is linear: with two shards all keys of a space lie where those of another one do, or all elsewhere.
    let more = (0..9).map(|number| bench.open(ObjectKind::Space, &format!("space {number}"), Durability::Buffered));
    let mut more = more.filter(|space| keys.iter().all(|key| shard_of_key(space.id.0, key, SHARDS) == ShardId(0)));
    (strict, more.next().unwrap(), keys)
}

#[test]
fn all_writes_have_one_version_and_come_back_after_a_restart() {
    let disk = formatted();
    let mut bench = start(&disk);
    let (strict, buffered, keys) = spaces(&mut bench);
    let large = vec![7; 100_000];
    let first =
        bench.commit(&[put(strict, &keys[0], b"a"), put(buffered, &keys[0], b"b"), put(strict, &keys[1], &large)]);
    assert_eq!(first.status, Status::Ok);
    // One record, in several frames, durable when it is answered: the strictest space decides.
    assert!(bench.reactor.shards()[0].wal.durable_lsn().0 >= first.lsn && first.lsn > 2);
    let version = first.version;
    let second = bench.commit(&[
        read(strict, &keys[0], version),
        read(strict, &keys[2], 0),
        delete(strict, &keys[0]),
        put(strict, &keys[2], b"c"),
        delete(buffered, &keys[3]),
    ]);
    assert!(second.status == Status::Ok && second.version > version);
    assert_eq!((bench.stat(stats::COMMITS), bench.stat(stats::CONFLICTS)), (2, 0));
    for restarts in 0..3 {
        assert_eq!(bench.held(strict, &keys[0]).0, 0, "after {restarts} restarts");
        assert_eq!(bench.held(buffered, &keys[0]), (version, b"b".to_vec()));
        assert_eq!(bench.held(strict, &keys[1]), (version, large.clone()));
        assert_eq!(bench.held(strict, &keys[2]), (second.version, b"c".to_vec()));
        drop(bench);
        bench = start(&disk);
    }
}

#[test]
fn a_conflict_names_its_entry_and_changes_nothing() {
    let mut bench = start(&formatted());
    let (strict, buffered, keys) = spaces(&mut bench);
    let version = bench.commit(&[put(strict, &keys[0], b"a"), put(buffered, &keys[1], b"b")]).version;
    let entries = [read(strict, &keys[0], version), read(buffered, &keys[1], version), put(strict, &keys[0], b"c")];
    let how = Write::default();
    let (written, _) = bench.call(&Request::Put { space: buffered, key: &keys[1], value: b"d", how });
    let answer = bench.commit(&entries);
    assert_eq!((answer.status, answer.aux, answer.version), (Status::Conflict, 1, written.version));
    bench.call(&Request::Delete { space: buffered, key: &keys[1], how });
    let answer = bench.commit(&entries);
    assert_eq!((answer.status, answer.aux, answer.version), (Status::Conflict, 1, 0));
    let answer = bench.commit(&[read(strict, &keys[5], 9), put(strict, &keys[0], b"c")]);
    assert_eq!((answer.status, answer.aux, answer.version), (Status::Conflict, 0, 0));
    assert_eq!(bench.held(strict, &keys[0]), (version, b"a".to_vec()));
    // Without writes it only says whether all of it is there at one moment.
    let answer = bench.commit(&[read(strict, &keys[0], version), read(buffered, &keys[1], 0)]);
    assert_eq!((answer.status, answer.version, answer.lsn), (Status::Ok, 0, 0));
    assert_eq!((bench.stat(stats::COMMITS), bench.stat(stats::CONFLICTS)), (2, 3));
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    let mut bench = start(&formatted());
    let (strict, _, keys) = spaces(&mut bench);
    let stream = bench.open(ObjectKind::Stream, "stream", Durability::Strict);
    let good = put(strict, &keys[0], b"a");
    let unknown = Object { id: ObjectId(99), ..strict };
    let of_shard_0 = |object: Object| (0..).map(|number| key_of_shard_0(object, number)).next().unwrap();
    let (of_stream, of_unknown) = (of_shard_0(stream), of_shard_0(unknown));
    let status = |bench: &mut Bench, entries: &[Entry<'_>]| bench.commit(entries).status;
    assert_eq!(status(&mut bench, &[good, put(stream, &of_stream, b"b")]), Status::WrongKind);
    assert_eq!(status(&mut bench, &[good, put(unknown, &of_unknown, b"b")]), Status::UnknownObject);
    assert_eq!(status(&mut bench, &[put(strict, b"", b"b")]), Status::BadRequest);
    let many: Vec<_> = (0..=ENTRIES_MAX).map(|_| good).collect();
    for (entries, why) in [
        (&many[..], "the client counts too"),
        (&[good, read(strict, &keys[0], 0)], "reads stand first"),
        (&[], "of nothing"),
    ] {
        let request = Request::Commit { entries, durability: None, relaxed: false };
        assert!(bench.client.submit(1, &request).is_err(), "{why}");
    }
    assert_eq!(status(&mut bench, &many[1..]), Status::Ok, "as many as may be");
    let large = vec![0; 200 << 10];
    assert_eq!(
        status(&mut bench, &[put(strict, &keys[0], &large), put(strict, &keys[1], &large)]),
        Status::TransactionTooLarge
    );
    assert_eq!((bench.held(strict, &keys[0]).1, bench.held(strict, &keys[1]).0), (b"a".to_vec(), 0));
}

#[test]
fn a_client_that_writes_garbage_is_refused() {
    let mut bench = start(&formatted());
    let (strict, _, keys) = spaces(&mut bench);
    let mut raw = super::hostile::Raw::new(&mut bench, 2, SHAPE);
    let mut good = Vec::new();
    for entry in [read(strict, &keys[0], 0), put(strict, &keys[0], b"value")] {
        entry.encode(|part| good.extend_from_slice(part));
    }
    let mut payloads: Vec<(Vec<u8>, Status)> = (0..good.len())
        .filter(|cut| *cut != read(strict, &keys[0], 0).bytes())
        .map(|cut| (good[..cut].to_vec(), Status::BadRequest))
        .collect();
    let one = put(strict, &keys[0], b"");
    let mut many = Vec::new();
    (0..=ENTRIES_MAX).for_each(|_| one.encode(|part| many.extend_from_slice(part)));
    payloads.push((many, Status::TransactionTooLarge));
    payloads.push((good.iter().rev().copied().collect(), Status::BadRequest));
    payloads.push((good.clone(), Status::Ok));
    for (payload, status) in payloads {
        raw.write(0, &payload);
        let value_bytes = u32::try_from(payload.len()).unwrap();
        let opcode = crate::ring::protocol::Opcode::Commit as u8;
        raw.submit(&crate::ring::protocol::Submission { opcode, value_bytes, ..Default::default() });
        let answer = (0..10_000).find_map(|_| {
            bench.reactor.turn();
            raw.take()
        });
        assert_eq!(answer.unwrap().status, status as u16, "{payload:?}");
    }
}

#[test]
fn a_commit_that_memory_cannot_hold_changes_nothing() {
    let mut bench = start(&formatted());
    let (strict, buffered, keys) = spaces(&mut bench);
    let version = bench.commit(&[put(strict, &keys[0], b"small"), put(buffered, &keys[1], b"small")]).version;
    let fillers = (0..).map(|number| key_of_shard_0(buffered, 1_000 + number));
    let full = fillers.take_while(|key| bench.put(buffered, key, b"") == Status::Ok).count();
    assert_eq!(full, 9_998, "limits.keys_max");
    let (answer, large) =
        (bench.call(&Request::Delete { space: buffered, key: &keys[1], how: Write::default() }).0, [7; 9_000]);
    assert_eq!(answer.status, Status::Ok);
    let entries = [
        put(strict, &keys[0], &large),
        delete(strict, &keys[0]),
        put(strict, &keys[2], b"a"),
        put(strict, &keys[3], b"b"),
    ];
    assert_eq!(bench.commit(&entries).status, Status::NoMemory, "two more keys");
    assert_eq!(bench.held(strict, &keys[0]), (version, b"small".to_vec()));
    assert_eq!((bench.held(strict, &keys[2]).0, bench.held(strict, &keys[3]).0), (0, 0));
    assert_eq!(bench.commit(&entries[..3]).status, Status::Ok, "one more");
    assert_eq!(bench.held(strict, &keys[0]).0, 0);
    // Of several writes of one key the last one counts, also where each needs other memory.
    let twice = [put(strict, &keys[2], &large), put(strict, &keys[2], b"last")];
    let version = bench.commit(&twice).version;
    assert_eq!(bench.held(strict, &keys[2]), (version, b"last".to_vec()));
}

#[test]
fn commits_are_given_up_in_part_and_nothing_comes_back() {
    let disk = super::reclaim::formatted_small(CAPACITY);
    let mut bench = start(&disk);
    let space = bench.open(ObjectKind::Space, "space", Durability::Buffered);
    let keys: Vec<_> = (0..400).map(|number| key_of_shard_0(space, number)).collect();
    let mut held: Vec<Option<(u64, u8)>> = vec![None; keys.len()];
    let mut random = 1_u64;
    let mut next = |below: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        crate::bytes::index(random >> 33) % below
    };
    let values: Vec<Vec<u8>> = (0..=u8::MAX).map(|fill| vec![fill; 1_600]).collect();
    for _ in 0..16_000 {
        // Some keys are written rarely, so that of most commits one is left.
        let chosen: Vec<usize> = (0..4).map(|at| if at == 0 { next(400) } else { next(30) }).collect();
        let fill = u8::try_from(next(256)).unwrap();
        let deletes: Vec<bool> = chosen.iter().map(|_| next(4) == 0).collect();
        let entries = chosen.iter().zip(&deletes).map(|(at, deleted)| {
            if *deleted { delete(space, &keys[*at]) } else { put(space, &keys[*at], &values[usize::from(fill)]) }
        });
        let answer = bench.commit(&entries.collect::<Vec<_>>());
        assert_eq!(answer.status, Status::Ok);
        for (at, deleted) in chosen.iter().zip(&deletes) {
            held[*at] = (!deleted).then_some((answer.version, fill));
        }
    }
    assert!(bench.sum(|counters| counters.segments_reclaimed) > 200);
    let copied = bench.sum(|counters| counters.copied_bytes);
    let client_bytes = bench.sum(|counters| counters.record_bytes) - copied;
    assert!(copied * 4 < client_bytes, "only what counts is copied: {copied} B of {client_bytes} B");
    assert_eq!(bench.call(&Request::Sync { reactor: 0 }).0.status, Status::Ok);
    for _ in 0..2 {
        for (key, held) in keys.iter().zip(&held) {
            let wanted = held.map_or((0, Vec::new()), |(version, fill)| (version, values[usize::from(fill)].clone()));
            assert_eq!(bench.held(space, key), wanted, "key {key:?}");
        }
        drop(bench);
        bench = start(&disk);
    }
}

#[test]
fn a_commit_over_two_shards_at_the_bound_of_memory_finds_what_was_put_aside() {
    let mut done = 0;
    for spare_bytes in (16_u64 << 10..32 << 10).step_by(2 << 10) {
        let mut bench = start(&formatted());
        let ballast = bench.open(ObjectKind::Space, "ballast", Durability::Memory);
        let space = bench.open(ObjectKind::Space, "space", Durability::Buffered);
        // The first key takes a chunk for small cells.
        assert_eq!(bench.put(space, &key_of_shard_0(space, 1_000), b""), Status::Ok);
        // Large values take just their bytes of the budget: so much of it is left in shard 0.
        for number in 0.. {
            let store = &bench.reactor.shards()[0].store;
            let left = small::SETTINGS.store.memory_bytes_max - store.memory_bytes();
            let bytes = match left.saturating_sub(spare_bytes) >> 10 {
                0 => break,
                // Fewer than 64 KiB would be a cell of a chunk.
                1..=200 => left - spare_bytes,
                201..=400 => (left - spare_bytes) / 2,
                _ => 200 << 10,
            };
            let value = vec![7; crate::bytes::index(bytes)];
            assert_eq!(bench.put(ballast, &key_of_shard_0(ballast, number), &value), Status::Ok);
        }
        let keys: Vec<_> = (0..60).map(|number| key_of_shard_0(space, number)).collect();
        let other = (0_u64..).map(u64::to_be_bytes).find(|key| shard_of_key(space.id.0, key, SHARDS) != ShardId(0));
        let other = other.unwrap();
        let mut entries: Vec<_> = keys.iter().map(|key| put(space, key, &[7; 300])).collect();
        entries.push(put(space, &other, b"elsewhere"));
        let status = bench.commit(&entries).status;
        assert!(matches!(status, Status::Ok | Status::NoMemory), "{status:?} with {spare_bytes} B left");
        for key in keys.iter().chain([&other]) {
            assert_eq!(bench.held(space, key).0 > 0, status == Status::Ok, "with {spare_bytes} B left");
        }
        done += u32::from(status == Status::Ok);
    }
    assert!(done > 0, "none of them found its memory");
}
