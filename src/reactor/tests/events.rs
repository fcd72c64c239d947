//! Streams that are larger than the memory for them: read back from the drive.

use super::*;
use crate::bytes::index;
use crate::ring::client::{Head, Once, chain_events, events};
use crate::ring::protocol::stats;

/// More than the cache holds, several times.
const EVENTS: u64 = 3_000;

fn event_of(offset: u64) -> Vec<u8> {
    // Some are larger than a frame, some are empty.
    let bytes = match offset % 500 {
        499 => 150_000,
        7 => 0,
        _ => 900 + index(offset) % 300,
    };
    offset.to_le_bytes().iter().copied().cycle().take(bytes).collect()
}

/// Appends all of them, one by one and in batches.
fn fill(bench: &mut Bench, stream: Object) {
    let mut offset = 0;
    while offset < EVENTS {
        let count = [1, 3, 20][index(offset) % 3].min(EVENTS - offset);
        let all: Vec<Vec<u8>> = (offset..offset + count).map(event_of).collect();
        let all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
        let how = Write::default();
        let request = match count {
            1 => Request::Append { stream, event: all[0], how },
            _ => Request::AppendBatch { stream, events: &all, how },
        };
        let (answer, _) = bench.call(&request);
        assert_eq!((answer.status, answer.version), (Status::Ok, offset));
        offset += count;
    }
}

fn read(bench: &mut Bench, stream: Object, from: u64) -> Vec<(u64, Vec<u8>)> {
    let wait = Duration::ZERO;
    let (answer, reply) = bench.call(&Request::Read { stream, from, wait, reply_bytes_max: 256 << 10, relaxed: false });
    assert_eq!(answer.status, Status::Ok, "from {from}");
    events(&reply).map(|event| event.map(|(offset, event)| (offset, event.to_vec())).unwrap()).collect()
}

/// Reads all of them from `from` on. How many answers that took.
fn read_all(bench: &mut Bench, stream: Object, from: u64) -> u64 {
    let (mut next, mut answers) = (from, 0);
    while next < EVENTS {
        let found = read(bench, stream, next);
        assert!(!found.is_empty(), "nothing at {next}");
        for (offset, event) in found {
            assert_eq!((offset, event), (next, event_of(next)));
            next += 1;
        }
        answers += 1;
    }
    answers
}

fn fetches(bench: &Bench) -> u64 {
    bench.reactor.metrics.get(stats::FETCHES)
}

fn cached(bench: &Bench) -> u64 {
    bench.reactor.shards().iter().map(|shard| shard.store.cache_bytes()).sum()
}

#[test]
fn events_beyond_the_memory_are_read_back() {
    let disk = formatted();
    let mut bench = start(&disk);
    let stream = bench.open(ObjectKind::Stream, "stream", Durability::Buffered);
    fill(&mut bench, stream);
    for round in 0..2 {
        let before = fetches(&bench);
        let answers = read_all(&mut bench, stream, 0);
        let read = fetches(&bench) - before;
        assert!(read > 30 && answers < EVENTS / 10, "round {round}: {read} reads, {answers} answers");
        assert!(cached(&bench) < 3 << 20, "the cache takes {} B", cached(&bench));
        // Back to front, one by one.
        for offset in (0..EVENTS).rev().step_by(101) {
            assert_eq!(read_one(&mut bench, stream, offset), event_of(offset));
        }
        assert_eq!(bench.call(&Request::Sync { reactor: 0 }).0.status, Status::Ok);
        drop(bench);
        bench = start(&disk);
    }
    let (answer, _) = bench.call(&Request::Trim { stream, before: 1_234 });
    assert_eq!(answer.status, Status::Ok);
    drop(bench);
    let mut bench = start(&disk);
    read_all(&mut bench, stream, 1_234);
}

fn read_one(bench: &mut Bench, stream: Object, offset: u64) -> Vec<u8> {
    let (at, event) = read(bench, stream, offset).swap_remove(0);
    assert_eq!(at, offset);
    event
}

#[test]
fn heads_beyond_the_memory_are_those_that_were_stated() {
    let disk = formatted();
    let mut bench = start(&disk);
    let creation = Creation { chained: true, ..Creation::from(Durability::Buffered) };
    let stream = bench.create(ObjectKind::Stream, "chained", creation);
    let once = |number: u64| Once { producer: 7, sequence: number };
    let all: Vec<Vec<u8>> = (500..506).map(event_of).collect();
    let all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
    let how = Write::default();
    let first = Request::AppendChained { stream, once: Some(once(1)), events: &all, how };
    let (answer, first_head) = bench.call(&first);
    assert_eq!((answer.status, answer.version, first_head.len()), (Status::Ok, 0, 32));
    let mut stated: Vec<(u64, Head)> = Vec::new();
    for number in 6..EVENTS {
        let event = event_of(number);
        let (answer, head) = bench.call(&Request::AppendChained { stream, once: None, events: &[&event], how });
        assert_eq!((answer.status, answer.version), (Status::Ok, number));
        stated.push((number + 1, head.try_into().unwrap()));
    }
    for round in 0..2 {
        let (mut from, before) = (6, fetches(&bench));
        while from < EVENTS {
            let request = Request::ReadChain { stream, from, reply_bytes_max: 256 << 10 };
            let (answer, reply) = bench.call(&request);
            assert_eq!(answer.status, Status::Ok);
            // The head before the first one stands before them.
            for link in chain_events(&reply[32..]) {
                let (offset, head, event) = link.unwrap();
                assert_eq!(event, event_of(offset), "event {offset}");
                assert_eq!((offset + 1, *head), stated[index(offset) - 6]);
                from = offset + 1;
            }
        }
        assert!(fetches(&bench) > before + 30, "round {round}");
        // A retry is told the head of the first time, wherever that is.
        let before = fetches(&bench);
        let (answer, head) = bench.call(&first);
        assert_eq!((answer.status, answer.version, &head), (Status::Ok, 0, &first_head));
        assert!(fetches(&bench) > before, "round {round}: it was in memory");
        assert_eq!(bench.call(&Request::Sync { reactor: 0 }).0.status, Status::Ok);
        drop(bench);
        bench = start(&disk);
    }
}
