//! Values that are larger than the memory for them: read back from the drive.

use super::reclaim::formatted_small;
use super::*;
use crate::ring::protocol::stats;
use crate::wal::record;

/// More than the cache holds, several times.
const KEYS: u32 = 1_000;

fn value_of(number: u32) -> Vec<u8> {
    // Every hundredth is larger than a frame.
    let bytes = if number % 100 == 99 { 200_000 } else { 4_000 + number as usize % 1_000 };
    number.to_le_bytes().iter().copied().cycle().take(bytes).collect()
}

fn get(bench: &mut Bench, space: Object, key: &[u8]) -> (Status, Vec<u8>) {
    let (answer, value) = bench.call(&Request::Get { space, key, relaxed: false, value_bytes_max: 256 << 10 });
    (answer.status, value)
}

fn fill(bench: &mut Bench) -> Object {
    let space = bench.open(ObjectKind::Space, "space", Durability::Buffered);
    for number in 0..KEYS {
        let (key, value) = (number.to_be_bytes(), value_of(number));
        assert_eq!(bench.put(space, &key, &value), Status::Ok);
    }
    space
}

fn fetches(bench: &Bench) -> u64 {
    bench.reactor.metrics.get(stats::FETCHES)
}

#[test]
fn values_beyond_the_memory_are_read_back() {
    let disk = formatted();
    let mut bench = start(&disk);
    let space = fill(&mut bench);
    for round in 0..2 {
        let before = fetches(&bench);
        for number in (0..KEYS).rev() {
            assert_eq!(get(&mut bench, space, &number.to_be_bytes()), (Status::Ok, value_of(number)), "key {number}");
        }
        assert!(fetches(&bench) - before > u64::from(KEYS) / 2, "round {round}: {}", fetches(&bench) - before);
        let cached: u64 = bench.reactor.shards().iter().map(|shard| shard.store.cache_bytes()).sum();
        assert!(cached < 3 << 20, "the cache takes {cached} B");
        assert_eq!(bench.call(&Request::Sync { reactor: 0 }).0.status, Status::Ok);
        drop(bench);
        bench = start(&disk);
    }
    // Overwritten, deleted, and what was asked for last.
    assert_eq!(bench.put(space, &7_u32.to_be_bytes(), b"new"), Status::Ok);
    assert_eq!(get(&mut bench, space, &7_u32.to_be_bytes()), (Status::Ok, b"new".to_vec()));
    let how = Write::default();
    assert_eq!(bench.call(&Request::Delete { space, key: &8_u32.to_be_bytes(), how }).0.status, Status::Ok);
    assert_eq!(get(&mut bench, space, &8_u32.to_be_bytes()).0, Status::NotFound);
    get(&mut bench, space, &9_u32.to_be_bytes());
    let before = fetches(&bench);
    assert_eq!(get(&mut bench, space, &9_u32.to_be_bytes()), (Status::Ok, value_of(9)));
    assert_eq!(fetches(&bench), before, "what was just read is in memory");
}

#[test]
fn a_scan_reads_ahead_what_is_not_in_memory() {
    let disk = formatted();
    let mut bench = start(&disk);
    let space = fill(&mut bench);
    let (mut found, mut answers) = (0, 0);
    for shard in (0..SHARDS).map(ShardId) {
        let mut begin: Vec<u8> = Vec::new();
        loop {
            let scan = Request::Scan {
                space,
                shard,
                begin: &begin,
                end: &[],
                prefix: false,
                limit: 0,
                relaxed: false,
                reply_bytes_max: 1 << 20,
            };
            let (answer, reply) = bench.call(&scan);
            assert_eq!(answer.status, Status::Ok);
            answers += 1;
            for pair in crate::ring::client::pairs(&reply) {
                let (key, _, value) = pair.unwrap();
                let number = u32::from_be_bytes(key.try_into().unwrap());
                assert_eq!(value, value_of(number), "key {number}");
                assert!(begin.as_slice() <= key, "in order");
                begin = [key, &[0]].concat();
                found += 1;
            }
            if answer.aux & crate::ring::protocol::AUX_MORE == 0 {
                break;
            }
        }
    }
    assert_eq!(found, KEYS);
    assert!(answers < KEYS / 4, "{answers} answers");
    assert!(bench.reactor.metrics.get(stats::FETCHES_AHEAD) > u64::from(KEYS) / 2);
}

#[test]
fn a_scan_over_values_larger_than_a_frame_ends() {
    let disk = formatted();
    let mut bench = start(&disk);
    let space = bench.open(ObjectKind::Space, "large", Durability::Buffered);
    let value = |number: u32| vec![number.to_le_bytes()[0]; 150_000 + number as usize];
    for number in 0_u32..12 {
        assert_eq!(bench.put(space, &number.to_be_bytes(), &value(number)), Status::Ok);
    }
    // The large ones are in memory no more.
    fill(&mut bench);
    let (mut found, before) = (0, fetches(&bench));
    for shard in (0..SHARDS).map(ShardId) {
        let mut begin: Vec<u8> = Vec::new();
        loop {
            let (prefix, limit, relaxed, reply_bytes_max) = (false, 0, false, 1 << 20);
            let scan = Request::Scan { space, shard, begin: &begin, end: &[], prefix, limit, relaxed, reply_bytes_max };
            let (answer, reply) = bench.call(&scan);
            assert_eq!(answer.status, Status::Ok);
            for pair in crate::ring::client::pairs(&reply) {
                let (key, _, bytes) = pair.unwrap();
                assert_eq!(bytes, value(u32::from_be_bytes(key.try_into().unwrap())));
                begin = [key, &[0]].concat();
                found += 1;
            }
            if answer.aux & crate::ring::protocol::AUX_MORE == 0 {
                break;
            }
        }
    }
    assert_eq!(found, 12);
    assert!(fetches(&bench) > before + 5, "{}", fetches(&bench) - before);
}

#[test]
fn what_a_commit_wrote_twice_is_read_back_after_reclaim() {
    use crate::ring::protocol::commit::{Entry, What};
    let disk = formatted_small(CAPACITY);
    let mut bench = start(&disk);
    let space = bench.open(ObjectKind::Space, "space", Durability::Buffered);
    let keys: Vec<[u8; 8]> = (0..3).map(|number| key_of_shard_0(space, number)).collect();
    let values = [vec![1; 3_000], vec![2; 3_000], vec![3; 3_000]];
    let entries: Vec<Entry<'_>> = [(0, 0), (1, 1), (0, 2)]
        .iter()
        .map(|(key, value)| Entry { object: space.id, key: &keys[*key], what: What::Put(&values[*value]) })
        .collect();
    let commit = Request::Commit { entries: &entries, durability: None, relaxed: false };
    assert_eq!(bench.call(&commit).0.status, Status::Ok);
    // Until the segment of the commit was given up, and its copies are in memory no more.
    let given_up = |bench: &Bench| bench.reactor.shards()[0].wal.counters.segments_reclaimed;
    for round in 0_u32.. {
        assert!(round < 400, "nothing is given up");
        if given_up(&bench) > 8 {
            break;
        }
        for number in 0..16_u32 {
            assert_eq!(bench.put(space, &number.to_be_bytes(), &[7; 15_000]), Status::Ok);
        }
    }
    for number in 0..1_200_u32 {
        assert_eq!(bench.put(space, &number.to_be_bytes(), &[9; 3_500]), Status::Ok);
    }
    let before = fetches(&bench);
    assert_eq!(get(&mut bench, space, &keys[0]), (Status::Ok, values[2].clone()));
    assert_eq!(get(&mut bench, space, &keys[1]), (Status::Ok, values[1].clone()));
    assert!(fetches(&bench) > before, "they were in memory");
    drop(bench);
    let mut bench = start(&disk);
    assert_eq!(get(&mut bench, space, &keys[0]), (Status::Ok, values[2].clone()));
}

#[test]
fn a_value_that_rotted_is_told_and_the_others_are_there() {
    let disk = formatted();
    let mut bench = start(&disk);
    let space = bench.open(ObjectKind::Space, "first", Durability::Strict);
    let rotten = [0xd5; 3_000];
    assert_eq!(bench.put(space, b"rotten", &rotten), Status::Ok);
    let others = fill(&mut bench);
    let mut block = vec![0; 4_096];
    let places = (0..CAPACITY / 4_096).map(|number| DeviceAddress(number * 4_096));
    for address in places {
        disk.read(address, &mut block).unwrap();
        if let Some(at) = block.windows(100).position(|window| window == &rotten[..100]) {
            block[at] ^= 1;
            disk.write(address, &block).unwrap();
        }
    }
    assert_eq!(get(&mut bench, space, b"rotten").0, Status::Unreadable);
    assert_eq!(get(&mut bench, others, &3_u32.to_be_bytes()), (Status::Ok, value_of(3)));
    assert_eq!(bench.put(space, b"rotten", b"again"), Status::Ok);
    assert_eq!(get(&mut bench, space, b"rotten"), (Status::Ok, b"again".to_vec()));
}

#[test]
fn what_the_flight_recorder_held_is_read_back_from_where_it_stands_now() {
    let disk = formatted();
    let mut bench = start(&disk);
    let space = bench.open(ObjectKind::Space, "space", Durability::Buffered);
    let durable_lsn = bench.reactor.shards()[0].wal.durable_lsn();
    let key = key_of_shard_0(space, 1);
    drop(bench);
    // In parts, as a smaller frame had them.
    let value: Vec<u8> = (0..150_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    let mut records = Vec::new();
    let parts = value.chunks(60_000).count();
    for (number, part) in value.chunks(60_000).enumerate() {
        let more = if number + 1 < parts { record::FLAG_MORE } else { 0 };
        let continued = if number > 0 { record::FLAG_CONTINUED } else { 0 };
        let part_key: &[u8] = if number == 0 { &key } else { &[] };
        let record = record::Record {
            kind: record::Kind::Put,
            flags: more | continued,
            lsn: crate::types::Lsn(durable_lsn.0 + 1 + number as u64),
            object: space.id,
            version: 1 << 50,
            key: part_key,
            value: part,
        };
        let mut out = vec![0; 64 << 10];
        let taken = record::encode(&mut out, record::crc_seed(&[9; 16], ShardId(0)), &record);
        records.extend_from_slice(&out[..taken]);
    }
    let mut bench = start_after(&disk, Some(&Contents { records, durable_lsn }));
    let others = fill(&mut bench);
    let before = fetches(&bench);
    assert_eq!(get(&mut bench, space, &key), (Status::Ok, value));
    assert_eq!(fetches(&bench), before + 1);
    assert_eq!(get(&mut bench, others, &3_u32.to_be_bytes()), (Status::Ok, value_of(3)));
}
