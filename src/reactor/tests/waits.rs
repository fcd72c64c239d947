//! Reads that wait: who may have how many, what wakes them, and what it costs.

use super::hostile::Raw;
use super::*;
use crate::ring::protocol::{Opcode, Submission, stats};

const MINUTE_NS: u64 = 60_000_000_000;

fn read(stream: Object, from: u64) -> Submission {
    let (opcode, arg1) = (Opcode::Read as u8, MINUTE_NS);
    let reply_bytes_max = 1 << 20;
    Submission { opcode, object: stream.id.0, arg0: from, arg1, reply_bytes_max, ..Submission::default() }
}

fn append(bench: &mut Bench, stream: Object, event: &[u8]) {
    assert_eq!(bench.call(&Request::Append { stream, event, how: Write::default() }).0.status, Status::Ok);
}

fn stat(bench: &mut Bench, at: usize) -> u64 {
    let (_, reply) = bench.call(&Request::Stats { reactor: 0, about: stats::About::Reactor, after: ObjectId(0) });
    u64::from_le_bytes(reply[at * 8..at * 8 + 8].try_into().unwrap())
}

#[test]
fn one_client_cannot_take_all_places() {
    let mut bench = start(&formatted());
    let stream = bench.open(ObjectKind::Stream, "stream", Durability::Buffered);
    let (mut greedy, mut modest) = (Raw::new(&mut bench, 2, SHAPE), Raw::new(&mut bench, 3, SHAPE));
    (0..8).for_each(|_| greedy.submit(&read(stream, 0)));
    bench.reactor.turn();
    let refused: Vec<_> = std::iter::from_fn(|| greedy.take()).collect();
    assert_eq!(refused.len(), 4, "half of the 8 places");
    assert!(refused.iter().all(|answer| answer.status == Status::Busy as u16));
    modest.submit(&read(stream, 0));
    bench.reactor.turn();
    assert_eq!(modest.take(), None, "there is a place");
    append(&mut bench, stream, b"event");
    assert_eq!(modest.take().unwrap().status, Status::Ok as u16);
    assert_eq!(std::iter::from_fn(|| greedy.take()).count(), 4);
    // The places came back.
    greedy.submit(&read(stream, 1));
    bench.reactor.turn();
    assert_eq!(greedy.take(), None);
}

#[test]
fn a_read_counts_once_and_only_its_own_stream_wakes_it() {
    let mut bench = start(&formatted());
    let streams = ["one", "two"].map(|name| bench.open(ObjectKind::Stream, name, Durability::Strict));
    let mut raw = Raw::new(&mut bench, 2, SHAPE);
    let before = stat(&mut bench, stats::READS);
    raw.submit(&read(streams[0], 0));
    bench.reactor.turn();
    (0..100).for_each(|_| append(&mut bench, streams[1], b"event"));
    assert_eq!((raw.take(), stat(&mut bench, stats::READS)), (None, before));
    append(&mut bench, streams[0], b"event");
    bench.reactor.turn();
    assert_eq!(raw.take().unwrap().aux, 1);
    assert_eq!(stat(&mut bench, stats::READS), before + 1);
    // It waits for what is not durable yet, and has it made durable.
    raw.submit(&read(streams[0], 1));
    bench.reactor.turn();
    let how = Write { durability: Some(Durability::Buffered), ..Write::default() };
    let (answer, _) = bench.call(&Request::Append { stream: streams[0], event: b"event", how });
    assert_eq!((answer.status, raw.take()), (Status::Ok, None));
    for _ in 0..10 {
        bench.reactor.turn();
    }
    assert_eq!(raw.take().unwrap().aux, 1, "long before the window is over");
}

#[test]
fn many_that_wake_at_once_are_answered_over_several_turns() {
    let mut bench = start(&formatted());
    let stream = bench.open(ObjectKind::Stream, "stream", Durability::Buffered);
    bench.reactor.limits.waiting_reads_max = 100;
    let mut readers: Vec<_> = (2..8).map(|id| Raw::new(&mut bench, id, SHAPE)).collect();
    readers.iter_mut().for_each(|raw| (0..10).for_each(|_| raw.submit(&read(stream, 0))));
    bench.reactor.turn();
    let event = vec![1; 250 << 10];
    let (event, how) = (&event[..], Write::default());
    bench.client.submit(1, &Request::Append { stream, event, how }).unwrap();
    let mut turns = Vec::new();
    while turns.iter().sum::<usize>() < 60 {
        assert!(bench.reactor.turn(), "it must not fall asleep over them");
        turns.push(readers.iter_mut().map(|raw| std::iter::from_fn(|| raw.take()).count()).sum::<usize>());
    }
    assert!(turns.len() >= 4 && turns.iter().all(|answers| *answers <= 17), "{turns:?}");
}
