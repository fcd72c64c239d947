//! The trim of a huge stream: answered at once, and its memory comes back over many turns.

use super::*;

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
