//! A namespace that is written over and over: old segments are given up, and what counts stays.

use super::*;

const SEGMENT_BYTES: u64 = 256 << 10;

pub fn formatted_small(capacity_bytes: u64) -> MemoryDisk {
    let disk = MemoryDisk::new(capacity_bytes);
    small::format(&disk, capacity_bytes, SEGMENT_BYTES);
    disk
}

fn value_of(key: u64, round: u64, bytes: usize) -> Vec<u8> {
    let seed = key << 32 | round;
    seed.to_le_bytes().repeat(bytes / 8)
}

impl Bench {
    pub fn put(&mut self, space: Object, key: &[u8], value: &[u8]) -> Status {
        self.call(&Request::Put { space, key, value, how: Write::default() }).0.status
    }

    pub fn get(&mut self, space: Object, key: &[u8]) -> (Status, Vec<u8>) {
        let request = Request::Get { space, key, relaxed: false, value_bytes_max: 64 << 10 };
        let (answer, value) = self.call(&request);
        (answer.status, value)
    }

    pub fn sum(&self, of: fn(&wal::Counters) -> u64) -> u64 {
        self.reactor.shards().iter().map(|shard| of(&shard.wal.counters)).sum()
    }
}

#[test]
fn a_data_set_of_70_percent_is_overwritten_ten_times() {
    const CAPACITY: u64 = 64 << 20;
    const VALUE_BYTES: usize = 5_600;
    let disk = formatted_small(CAPACITY);
    let mut bench = start(&disk);
    let space = bench.open(ObjectKind::Space, "space", Durability::Buffered);
    let keys = CAPACITY * 7 / 10 / (VALUE_BYTES as u64 + 40);
    let mut rounds = vec![0; crate::bytes::index(keys)];
    let (mut next, mut written) = (1_u64, 0);
    while written < 10 * CAPACITY {
        // Every key about as often, in no order.
        next = next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let key = if written < keys * VALUE_BYTES as u64 { written / VALUE_BYTES as u64 } else { (next >> 33) % keys };
        let round = &mut rounds[crate::bytes::index(key)];
        *round += 1;
        let status = bench.put(space, &key.to_be_bytes(), &value_of(key, *round, VALUE_BYTES));
        assert_eq!(status, Status::Ok, "after {written} B");
        written += VALUE_BYTES as u64;
    }
    let copied = bench.sum(|counters| counters.copied_bytes);
    let client_bytes = bench.sum(|counters| counters.record_bytes) - copied;
    let amplification = bench.sum(|counters| counters.frame_bytes) as f64 / client_bytes as f64;
    println!("write amplification {amplification:.2} with 70 % live, {} segments", bench.sum(|c| c.segments_reclaimed));
    // Theory for the oldest first, evenly overwritten: e / (1 - e) copied where (1 - e) / -ln e is the live part, 76 %
    // of what is not kept free: 2.3. Frames and the free ones come on top.
    assert!((1.5..4.0).contains(&amplification), "{amplification}");
    bench.reactor.shards().iter().for_each(|shard| assert_eq!(shard.wal.fenced(), None));
    assert_eq!(bench.call(&Request::Sync { reactor: 0 }).0.status, Status::Ok);
    drop(bench);
    let mut bench = start(&disk);
    for (key, round) in (0..).zip(&rounds) {
        let value = value_of(key, *round, VALUE_BYTES);
        assert_eq!(bench.get(space, &u64::to_be_bytes(key)), (Status::Ok, value), "key {key}");
    }
}

/// Each takes a block for a few bytes, so the log fills with padding and not with what counts.
#[test]
fn small_strict_puts_do_not_fill_it() {
    const CAPACITY: u64 = 8 << 20;
    let disk = formatted_small(CAPACITY);
    let mut bench = start(&disk);
    let space = bench.open(ObjectKind::Space, "space", Durability::Strict);
    let (mut number, mut reply, mut turns) = (0_u64, Vec::new(), 0..1_000_000);
    while number < 20 * CAPACITY / 4_096 {
        while bench.client.in_flight() < 8 {
            let (key, value) = ((number % 500).to_be_bytes(), number.to_le_bytes());
            let put = Request::Put { space, key: &key, value: &value, how: Write::default() };
            bench.client.submit(number, &put).unwrap();
            number += 1;
        }
        bench.reactor.turn();
        assert!(turns.next().is_some(), "no room comes for put {number}");
        while let Some(answer) = bench.client.poll(&mut reply).unwrap() {
            assert_eq!(answer.status, Status::Ok, "put {}", answer.user_data);
        }
    }
    assert!(bench.sum(|counters| counters.segments_reclaimed) > 100);
}

#[test]
fn what_is_deleted_on_a_full_namespace_makes_room() {
    let disk = formatted_small(CAPACITY);
    let mut bench = start(&disk);
    let space = bench.open(ObjectKind::Space, "space", Durability::Buffered);
    let value = [7; 4_000];
    for round in 0..3 {
        let full = (0..10_000_u32).find(|key| bench.put(space, &key.to_be_bytes(), &value) != Status::Ok).unwrap();
        assert!(full > 2_000, "round {round}: full after {full} keys");
        assert_eq!(bench.put(space, &full.to_be_bytes(), &value), Status::NoSpace);
        for key in 0..full {
            let request = Request::Delete { space, key: &key.to_be_bytes(), how: Write::default() };
            assert_eq!(bench.call(&request).0.status, Status::Ok, "round {round}: key {key} of {full}");
        }
        let mut turns = 0..1_000_000;
        while bench.put(space, b"again", &value) == Status::NoSpace && turns.next().is_some() {
            bench.reactor.turn();
        }
        assert_eq!(bench.get(space, b"again").0, Status::Ok);
    }
}

#[test]
fn streams_that_are_trimmed_go_on_for_ever_and_come_back() {
    const KEPT: u64 = 500;
    let disk = formatted_small(CAPACITY);
    let mut bench = start(&disk);
    // So many that those which nobody touches any more share a shard with the busy ones.
    let streams: Vec<Object> = (0..10)
        .map(|number| bench.open(ObjectKind::Stream, &format!("stream {number}"), Durability::Buffered))
        .collect();
    let (busy, quiet, emptied) = (&streams[..2], &streams[2..6], &streams[6..]);
    let append = |bench: &mut Bench, stream: Object, number: u64| {
        let event = value_of(u64::from(stream.id.0), number, 1_600);
        let (answer, _) = bench.call(&Request::Append { stream, event: &event, how: Write::default() });
        assert_eq!((answer.status, answer.version), (Status::Ok, number));
    };
    let trim = |bench: &mut Bench, stream: Object, before: u64| {
        assert_eq!(bench.call(&Request::Trim { stream, before }).0.status, Status::Ok);
    };
    for stream in &streams[2..] {
        (0..20).for_each(|number| append(&mut bench, *stream, number));
    }
    emptied.iter().for_each(|stream| trim(&mut bench, *stream, 20));
    let events = 40_000;
    for number in 0..events {
        for stream in busy {
            append(&mut bench, *stream, number);
            if number % 100 == 99 && number > KEPT {
                trim(&mut bench, *stream, number - KEPT);
            }
        }
    }
    assert!(bench.sum(|counters| counters.segments_reclaimed) > 400);
    assert_eq!(bench.call(&Request::Sync { reactor: 0 }).0.status, Status::Ok);
    drop(bench);
    let mut bench = start(&disk);
    let begin = events - 1 - KEPT;
    let kept = busy.iter().map(|stream| (*stream, begin, events));
    let kept = kept.chain(quiet.iter().map(|stream| (*stream, 0, 20)));
    for (stream, first, next) in kept.chain(emptied.iter().map(|stream| (*stream, 20, 20))) {
        let read = |bench: &mut Bench, from| {
            let wait = Duration::ZERO;
            bench.call(&Request::Read { stream, from, wait, reply_bytes_max: 4_000, relaxed: false })
        };
        for number in first..next {
            let (answer, reply) = read(&mut bench, number);
            assert_eq!(answer.status, Status::Ok, "event {number} of {stream:?}");
            assert_eq!(reply[16..16 + 1_600], value_of(u64::from(stream.id.0), number, 1_600));
        }
        if first > 0 {
            let (answer, _) = read(&mut bench, first - 1);
            assert_eq!((answer.status, answer.version), (Status::Trimmed, first));
        }
        append(&mut bench, stream, next);
    }
}
