//! A client that speaks the protocol by hand and asks for as much as it can: no turn does more than it should.

use forebay_sys::spsc::{Consumer, Producer};

use super::*;
use crate::ring::client::ClientParts;
use crate::ring::protocol::{Completion, EndReason, KEY_BYTES_MAX, Opcode, Submission, VALUE_BYTES_MAX};
use crate::ring::segment::{Layout, end_reason};

pub(super) struct Raw {
    parts: ClientParts,
    submissions: Producer,
    completions: Consumer,
}

impl Raw {
    pub fn new(bench: &mut Bench, id: u64, shape: Shape) -> Raw {
        let (parts, rings) = pair_in_process(SessionId(id), Rights::ReadWrite, shape).unwrap();
        rings.into_iter().for_each(|ring| bench.reactor.begin_session(ring));
        let layout = Layout::read_from(&parts.map).unwrap();
        let submissions = Producer::new(parts.map.clone(), layout.submissions(0)).unwrap();
        let completions = Consumer::new(parts.map.clone(), layout.completions(0)).unwrap();
        Raw { parts, submissions, completions }
    }

    pub fn submit(&mut self, submission: &Submission) {
        assert!(self.submissions.push(&submission.to_words()).unwrap(), "the ring is full");
    }

    pub fn write(&self, arena_offset: usize, bytes: &[u8]) {
        let layout = Layout::read_from(&self.parts.map).unwrap();
        self.parts.map.write(layout.arena_offset() + arena_offset, bytes).unwrap();
    }

    /// An answer that is there.
    pub fn take(&mut self) -> Option<Completion> {
        let words = self.completions.pop().unwrap()?;
        self.completions.publish();
        Some(Completion::from_words(&words))
    }
}

#[test]
fn a_payload_that_is_too_large_is_never_copied() {
    let mut bench = start(&formatted());
    let space = bench.open(ObjectKind::Space, "space", Durability::Strict);
    let stream = bench.open(ObjectKind::Stream, "stream", Durability::Strict);
    let reserved = bench.reactor.payload.capacity();
    let mut raw = Raw::new(&mut bench, 2, Shape { arena_bytes: 32 << 20, ..SHAPE });
    let limit = 256 << 10;
    let large = u32::try_from(VALUE_BYTES_MAX).unwrap();
    let key_bytes_max = u32::try_from(KEY_BYTES_MAX).unwrap();
    let put = Submission { object: space.id.0, key_bytes: 1_024, ..Submission::default() };
    let append = Submission { object: stream.id.0, ..Submission::default() };
    // The opcode, its entry, what it answers, and how much of it the daemon copies.
    for (opcode, entry, value_bytes, status, copied) in [
        (Opcode::Put, put, limit, Status::Ok, 1_024 + limit),
        (Opcode::Put, put, limit + 1, Status::TooLarge, 0),
        (Opcode::Put, put, large, Status::TooLarge, 0),
        (Opcode::Append, append, limit, Status::Ok, limit),
        (Opcode::Append, append, large, Status::TooLarge, 0),
        (Opcode::AppendBatch, append, limit + 1, Status::TooLarge, 0),
        (Opcode::Scan, put, key_bytes_max, Status::Ok, 1_024 + key_bytes_max),
        (Opcode::Scan, put, key_bytes_max + 1, Status::TooLarge, 0),
        (Opcode::Get, put, large, Status::ReplyTooSmall, 1_024),
        (Opcode::Delete, put, large, Status::Ok, 1_024),
        (Opcode::Read, append, large, Status::ReplyTooSmall, 0),
        (Opcode::Noop, put, large, Status::Ok, 0),
        (Opcode::Sync, put, large, Status::Ok, 0),
        (Opcode::Stats, put, large, Status::ReplyTooSmall, 0),
    ] {
        bench.reactor.payload.clear();
        raw.submit(&Submission { opcode: opcode as u8, value_bytes, ..entry });
        let answer = (0..1_000_000).find_map(|_| {
            bench.reactor.turn();
            raw.take()
        });
        assert_eq!(answer.unwrap().status, status as u16, "{opcode:?} of {value_bytes} B");
        assert_eq!(bench.reactor.payload.len(), copied as usize, "{opcode:?} of {value_bytes} B");
    }
    assert_eq!(bench.reactor.payload.capacity(), reserved, "the buffer grew");
    raw.submit(&Submission { opcode: Opcode::Noop as u8, value_bytes: large + 1, ..put });
    bench.reactor.turn();
    assert_eq!(end_reason(&raw.parts.map), Some(EndReason::BadPayload));
}

#[test]
fn a_large_value_that_must_wait_is_not_copied_turn_after_turn() {
    let mut bench = start(&formatted());
    let space = bench.open(ObjectKind::Space, "space", Durability::Strict);
    let mut raw = Raw::new(&mut bench, 2, SHAPE);
    // Frames are 64 KiB and there are 16: no more than two such values have room at once.
    let put = Submission { opcode: Opcode::Put as u8, object: space.id.0, key_bytes: 8, ..Submission::default() };
    (0..20).for_each(|number| raw.submit(&Submission { user_data: number, value_bytes: 250 << 10, ..put }));
    let (mut answered, mut waited) = (0, 0);
    for _ in 0..1_000_000 {
        bench.reactor.turn();
        waited += u32::from(bench.reactor.payload.len() == 8);
        while let Some(answer) = raw.take() {
            assert_eq!(answer.status, Status::Ok as u16);
            answered += 1;
        }
        if answered == 20 {
            break;
        }
    }
    assert_eq!(answered, 20);
    assert!(waited > 0, "the values were never short of room");
}

#[test]
fn a_turn_is_bounded_in_bytes_and_begins_with_another_client() {
    let mut bench = start(&formatted());
    let space = bench.open(ObjectKind::Space, "space", Durability::Buffered);
    let key = key_of_shard_0(space, 1);
    let value = vec![1; 250 << 10];
    assert_eq!(
        bench.call(&Request::Put { space, key: &key, value: &value, how: Write::default() }).0.status,
        Status::Ok
    );
    let mut greedy: Vec<_> = (2..4).map(|id| Raw::new(&mut bench, id, SHAPE)).collect();
    let mut modest = Raw::new(&mut bench, 4, SHAPE);
    let get = Submission { opcode: Opcode::Get as u8, object: space.id.0, key_bytes: 8, ..Submission::default() };
    for raw in &mut greedy {
        raw.write(0, &key);
        (0..64).for_each(|_| raw.submit(&Submission { reply_offset: 4_096, reply_bytes_max: 256 << 10, ..get }));
    }
    let (mut answered, mut waited) = (0, 0);
    while answered < 128 {
        modest.submit(&Submission { opcode: Opcode::Noop as u8, ..Submission::default() });
        bench.reactor.turn();
        let now: usize = greedy.iter_mut().map(|raw| std::iter::from_fn(|| raw.take()).count()).sum();
        assert!(now <= 17, "{now} answers of 250 KiB in one turn");
        answered += now;
        waited = if modest.take().is_some() { 0 } else { waited + 1 };
        assert!(waited <= 2, "a client with small requests waits for {waited} turns");
    }
}
