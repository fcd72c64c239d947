//! Clients that come and go: what is kept for them is enough, and does not grow.

use super::hostile::Raw;
use super::*;
use crate::ring::protocol::{Opcode, Submission};

const SMALL: Shape = Shape { sq_entries: 2, cq_entries: 2, arena_bytes: 4_096, ..SHAPE };

fn reserved(bench: &Bench) -> usize {
    bench.reactor.shards().iter().map(Shard::reserved).min().unwrap()
}

#[test]
fn there_is_room_for_the_answers_of_all_who_are_there() {
    let mut bench = start(&formatted());
    let space = bench.open(ObjectKind::Space, "space", Durability::Strict);
    let key = key_of_shard_0(space, 1);
    let mut clients: Vec<_> =
        (2..10).map(|id| Raw::new(&mut bench, id, Shape { sq_entries: 256, cq_entries: 256, ..SMALL })).collect();
    assert!(reserved(&bench) >= 64 + 8 * 256, "{}", reserved(&bench));
    let before = reserved(&bench);
    // All of it waits for one frame of one shard.
    for raw in &mut clients {
        raw.write(0, &key);
        let put = Submission { opcode: Opcode::Put as u8, object: space.id.0, key_bytes: 8, ..Submission::default() };
        (0..256).for_each(|_| raw.submit(&put));
    }
    while clients.iter_mut().all(|raw| raw.take().is_none()) {
        bench.reactor.turn();
    }
    assert_eq!(reserved(&bench), before);
}

#[test]
fn who_leaves_takes_his_room_along() {
    let mut bench = start(&formatted());
    for id in 2..10_002 {
        let raw = Raw::new(&mut bench, id, SMALL);
        bench.reactor.close_session(SessionId(id));
        bench.reactor.turn();
        drop(raw);
    }
    assert!(bench.reactor.sessions.len() <= 2, "{} slots", bench.reactor.sessions.len());
    assert!(reserved(&bench) <= 256, "room for {} answers of 66", reserved(&bench));
}
