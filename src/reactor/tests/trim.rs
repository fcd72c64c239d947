//! The trim of a huge stream: answered at once, and its memory comes back over many turns. A stream that begins at an offset.

use super::*;
use crate::ring::client::{chain_events, events};

fn memory(bench: &Bench) -> u64 {
    bench.reactor.shards().iter().map(|shard| shard.store.memory_bytes()).sum()
}

#[test]
fn a_huge_trim_is_spread_over_turns_and_nobody_is_refused_meanwhile() {
    let mut bench = start(&formatted());
    let stream = bench.open(ObjectKind::Stream, "stream", Durability::Memory);
    let how = Write::default();
    // As many as the budget of 64 MiB holds.
    let events = vec![&[][..]; 50_000];
    let batch = Request::AppendBatch { stream, events: &events, how };
    let mut appended = 0;
    while bench.call(&batch).0.status == Status::Ok {
        appended += 50_000;
    }
    assert!(appended > 2_000_000, "{appended} events");
    let full = memory(&bench);
    bench.client.submit(1, &Request::Trim { stream, before: appended }).unwrap();
    bench.client.submit(2, &batch).unwrap();
    bench.reactor.turn();
    let mut reply = Vec::new();
    assert_eq!(bench.client.poll(&mut reply).unwrap().map(|answer| answer.user_data), Some(1), "the trim at once");
    assert!(memory(&bench) + (256 << 10) > full, "little of it in one turn");
    let (mut turns, mut stored) = (1, false);
    while bench.reactor.turn() {
        turns += 1;
        if let Some(answer) = bench.client.poll(&mut reply).unwrap() {
            assert_eq!((answer.user_data, answer.status), (2, Status::Ok));
            stored = true;
        }
    }
    assert!(stored && turns >= appended / 4_096, "{turns} turns");
    assert!(memory(&bench) < 2 << 20, "{} B are kept", memory(&bench));
}

#[test]
fn a_stream_begins_where_it_is_told_to_and_stays_so() {
    let disk = formatted();
    let mut bench = start(&disk);
    let plain = bench.open(ObjectKind::Stream, "plain", Durability::Buffered);
    let empty = bench.open(ObjectKind::Stream, "empty", Durability::Strict);
    let creation = Creation { chained: true, ..Creation::from(Durability::Buffered) };
    let chained = bench.create(ObjectKind::Stream, "chained", creation);
    let head = [0xab_u8; 32];
    let begin = |bench: &mut Bench, stream, at, head: &[u8]| bench.call(&Request::Begin { stream, at, head }).0.status;
    assert_eq!(begin(&mut bench, plain, 5, &head), Status::BadRequest, "it has no heads");
    assert_eq!(begin(&mut bench, chained, 5, &head[..31]), Status::BadRequest);
    assert_eq!(begin(&mut bench, plain, u64::MAX, &[]), Status::BadRequest, "no event fits behind it");
    assert_eq!(begin(&mut bench, plain, 5_000, &[]), Status::Ok);
    assert_eq!(begin(&mut bench, plain, 6_000, &[]), Status::BadRequest, "it has a begin");
    assert_eq!(begin(&mut bench, empty, 77, &[]), Status::Ok);
    assert_eq!(begin(&mut bench, chained, 12, &head), Status::Ok);
    let how = Write::default();
    for number in 0..3_u64 {
        for (stream, first) in [(plain, 5_000), (chained, 12)] {
            let (answer, _) = bench.call(&Request::Append { stream, event: &number.to_le_bytes(), how });
            assert_eq!((answer.status, answer.version), (Status::Ok, first + number));
        }
    }
    assert_eq!(bench.call(&Request::Sync { reactor: 0 }).0.status, Status::Ok);
    for round in 0..3 {
        for (stream, first) in [(plain, 5_000), (empty, 77), (chained, 12)] {
            let read =
                |from| Request::Read { stream, from, wait: Duration::ZERO, reply_bytes_max: 4_096, relaxed: false };
            let (answer, _) = bench.call(&read(first - 1));
            assert_eq!((answer.status, answer.version), (Status::Trimmed, first), "round {round}");
            let (_, reply) = bench.call(&read(first));
            let found: Vec<u64> = events(&reply).map(|event| event.unwrap().0).collect();
            assert_eq!(found, if stream == empty { vec![] } else { vec![first, first + 1, first + 2] });
        }
        let (answer, reply) = bench.call(&Request::ReadChain { stream: chained, from: 12, reply_bytes_max: 4_096 });
        assert_eq!((answer.status, &reply[..32]), (Status::Ok, &head[..]), "round {round}");
        let mut before = head;
        for link in chain_events(&reply[32..]) {
            let (offset, after, event) = link.unwrap();
            before = *blake3::hash(&[&before[..], &offset.to_le_bytes(), event].concat()).as_bytes();
            assert_eq!(*after, before, "round {round}, event {offset}");
        }
        drop(bench);
        bench = start(&disk);
    }
    // A begin of one that was never logged goes with the daemon, as its events do.
    let memory = bench.open(ObjectKind::Stream, "memory", Durability::Memory);
    assert_eq!(begin(&mut bench, memory, 9, &[]), Status::Ok);
    assert_eq!(bench.call(&Request::Append { stream: memory, event: b"e", how }).0.version, 9);
}
