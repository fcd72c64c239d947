//! Clients that break every rule, and daemons too: an error each time, never a panic, and nobody else notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay::ring::client::{Client, ClientError, ClientParts, Request, SubmitError};
use forebay::ring::protocol::{Completion, EndReason, Opcode, Submission};
use forebay::ring::segment::{Layout, Shape, end_reason};
use forebay::ring::server::{Rights, SessionId, SessionRing, pair_in_process};
use forebay_sys::spsc::Producer;
use rand::{RngExt, SeedableRng};

use crate::toy::{SHAPE, Store, pair, turn};

struct Attacker {
    parts: ClientParts,
    layout: Layout,
    submissions: Producer,
    ring: SessionRing,
}

impl Attacker {
    fn new(shape: Shape) -> Attacker {
        let (parts, mut rings) = pair_in_process(SessionId(7), Rights::ReadWrite, shape).unwrap();
        let layout = Layout::read_from(&parts.map).unwrap();
        let submissions = Producer::new(parts.map.clone(), layout.submissions(0)).unwrap();
        Attacker { parts, layout, submissions, ring: rings.remove(0) }
    }

    fn submit(&mut self, submission: &Submission) {
        assert!(self.submissions.push(&submission.to_words()).unwrap());
    }
}

fn noop() -> Submission {
    Submission { opcode: Opcode::Noop as u8, ..Submission::default() }
}

#[test]
fn every_breach_ends_the_session_with_its_reason() {
    let arena = SHAPE.arena_bytes;
    let put = Submission { opcode: Opcode::Put as u8, key_bytes: 4, value_bytes: 16, ..Submission::default() };
    for (submission, reason) in [
        (Submission { opcode: u8::MAX, ..noop() }, EndReason::BadOpcode),
        (Submission { opcode: 255, ..noop() }, EndReason::BadOpcode),
        (Submission { flags: 0x80, ..noop() }, EndReason::BadFlags),
        (Submission { key_bytes: 1_025, ..put }, EndReason::BadPayload),
        (Submission { payload_offset: arena - 19, ..put }, EndReason::BadRange),
        (Submission { payload_offset: u64::MAX, ..put }, EndReason::BadRange),
        (Submission { payload_offset: u64::MAX - 19, ..put }, EndReason::BadRange),
        (Submission { value_bytes: (16 << 20) + 1, ..put }, EndReason::BadPayload),
        (Submission { value_bytes: u32::MAX, ..noop() }, EndReason::BadPayload),
        (Submission { value_bytes: 16 << 20, ..put }, EndReason::BadRange),
        (Submission { reply_offset: arena, reply_bytes_max: 1, ..put }, EndReason::BadRange),
        (Submission { reply_offset: u64::MAX, reply_bytes_max: u32::MAX, ..put }, EndReason::BadRange),
        (Submission { reply_offset: arena + 1, ..put }, EndReason::BadRange),
    ] {
        let mut attacker = Attacker::new(SHAPE);
        attacker.submit(&submission);
        assert_eq!(attacker.ring.peek(), Err(reason), "{submission:?}");
        attacker.ring.end(reason);
        assert_eq!(attacker.ring.peek(), Ok(None));
        assert_eq!(end_reason(&attacker.parts.map), Some(reason));
        let mut message = [0u8; 512];
        assert_eq!(attacker.parts.connection.receive(&mut message).unwrap(), 512);
        assert!(String::from_utf8_lossy(&message).contains(reason.text()));
        assert_eq!(attacker.parts.connection.receive(&mut message).unwrap(), 0);
    }
    let mut attacker = Attacker::new(SHAPE);
    attacker.submit(&Submission { payload_offset: arena - 20, ..put });
    assert!(attacker.ring.peek().unwrap().is_some(), "the last bytes of the arena are its own");
}

#[test]
fn positions_that_jump_end_the_session() {
    let mut attacker = Attacker::new(SHAPE);
    let sequence = &attacker.parts.map.line(attacker.layout.submissions(0).entries_offset).unwrap()[7];
    for bad in [2, 17, u64::MAX] {
        sequence.store(bad, Ordering::Relaxed);
        assert_eq!(attacker.ring.peek(), Err(EndReason::BadSequence));
    }
    for bad in [17, u64::MAX] {
        let mut attacker = Attacker::new(SHAPE);
        for _ in 0..SHAPE.cq_entries {
            attacker.submit(&noop());
        }
        turn(&mut attacker.ring, &mut Store::default(), usize::MAX);
        attacker.submit(&noop());
        attacker
            .parts
            .map
            .atomic_u64(attacker.layout.completions(0).head_offset)
            .unwrap()
            .store(bad, Ordering::Relaxed);
        assert_eq!(attacker.ring.peek(), Err(EndReason::BadCompletionHead));
    }
}

#[test]
fn a_client_that_never_reads_its_answers_waits_alone() {
    let shape = Shape { sq_entries: 64, ..SHAPE };
    let mut attacker = Attacker::new(shape);
    let (mut client, mut rings) = pair(SHAPE);
    let mut store = Store::default();
    for _ in 0..64 {
        attacker.submit(&noop());
    }
    let mut served = 0;
    for round in 0..100 {
        served += turn(&mut attacker.ring, &mut store, usize::MAX);
        client.submit(round, &Request::Noop { reactor: 0 }).unwrap();
        assert_eq!(turn(&mut rings[0], &mut store, usize::MAX), 1);
        assert!(client.poll(&mut Vec::new()).unwrap().is_some());
    }
    assert_eq!(served, 16, "as many as there are places for answers");
    assert_eq!(attacker.ring.unanswered(), 0);
    attacker.parts.map.atomic_u64(attacker.layout.completions(0).head_offset).unwrap().store(5, Ordering::Relaxed);
    assert_eq!(turn(&mut attacker.ring, &mut store, usize::MAX), 5);
}

#[test]
fn requests_under_way_keep_their_places_for_answers() {
    let shape = Shape { sq_entries: 32, ..SHAPE };
    let mut attacker = Attacker::new(shape);
    for _ in 0..32 {
        attacker.submit(&noop());
    }
    let mut taken = 0;
    while attacker.ring.peek().unwrap().is_some() {
        attacker.ring.advance();
        taken += 1;
    }
    assert_eq!((taken, attacker.ring.unanswered()), (16, 16));
    for _ in 0..16 {
        attacker.ring.post(&Completion::default());
    }
    assert_eq!(attacker.ring.peek(), Ok(None));
}

#[test]
fn a_request_that_waits_for_long_does_not_stop_the_others() {
    let (mut client, mut rings) = pair(SHAPE);
    let ring = &mut rings[0];
    client.submit(999, &Request::Noop { reactor: 0 }).unwrap();
    let waiting = ring.peek().unwrap().unwrap();
    ring.advance();
    let mut store = Store::default();
    for round in 0..100 {
        client.submit(round, &Request::Noop { reactor: 0 }).unwrap();
        assert_eq!(turn(ring, &mut store, usize::MAX), 1, "round {round}");
        assert_eq!(client.poll(&mut Vec::new()).unwrap().unwrap().user_data, round);
    }
    ring.post(&Completion { user_data: waiting.user_data, ..Completion::default() });
    assert_eq!(client.poll(&mut Vec::new()).unwrap().unwrap().user_data, 999);
}

#[test]
fn an_answer_shows_that_its_request_left_the_ring() {
    let (mut client, mut rings) = pair(Shape { sq_entries: 2, ..SHAPE });
    for round in 0..20 {
        client.submit(round, &Request::Noop { reactor: 0 }).unwrap();
        let submission = rings[0].peek().unwrap().unwrap();
        rings[0].advance();
        // In the middle of a turn, which publishes the heads only at its end.
        rings[0].post(&Completion { user_data: submission.user_data, ..Completion::default() });
        assert!(client.poll(&mut Vec::new()).unwrap().is_some());
    }
}

#[test]
fn entries_that_change_while_they_are_read_do_no_harm() {
    let mut attacker = Attacker::new(SHAPE);
    let stop = Arc::new(AtomicBool::new(false));
    let (map, layout, hammer_stop) = (attacker.parts.map.clone(), attacker.layout, stop.clone());
    let hammer = std::thread::spawn(move || {
        let mut random = rand_xoshiro::Xoshiro256PlusPlus::seed_from_u64(1);
        let placement = layout.submissions(0);
        while !hammer_stop.load(Ordering::Relaxed) {
            let entry = placement.entries_offset + 64 * random.random_range(0..16);
            let line = map.line(entry).unwrap();
            // Legal words most of the time, so that the torn ones get far.
            let words = Submission {
                opcode: random.random_range(0..13),
                key_bytes: random.random_range(0..1_024),
                value_bytes: random.random_range(0..4_096),
                payload_offset: random.random_range(0..SHAPE.arena_bytes + 64),
                reply_bytes_max: random.random(),
                ..Submission::default()
            }
            .to_words();
            let word = random.random_range(0..7);
            line[word].store(words[word], Ordering::Relaxed);
        }
    });
    let mut payload = Vec::new();
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..30_000 {
        attacker.submit(&noop());
        match attacker.ring.peek() {
            Ok(Some(submission)) => {
                payload.clear();
                attacker.ring.copy_payload(&submission, &mut payload);
                assert_eq!(payload.len(), usize::from(submission.key_bytes) + submission.value_bytes as usize);
                accepted += 1;
            }
            Ok(None) => panic!("a published entry"),
            Err(_) => refused += 1,
        }
        // A real session would be over after a refusal; here the next entry has its turn.
        attacker.ring.advance();
        attacker.ring.post(&Completion::default());
        attacker.ring.finish_turn();
        let head = attacker.parts.map.atomic_u64(attacker.layout.completions(0).head_offset).unwrap();
        head.fetch_add(1, Ordering::Relaxed);
    }
    stop.store(true, Ordering::Relaxed);
    hammer.join().unwrap();
    assert!(accepted > 0, "accepted {accepted}, refused {refused}");
}

#[test]
fn garbage_all_over_the_segment_is_no_more_than_an_end() {
    for seed in 0..200 {
        let mut random = rand_xoshiro::Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut attacker = Attacker::new(SHAPE);
        let mut store = Store::default();
        let mut garbage = vec![0u8; attacker.layout.arena_offset()];
        random.fill(&mut garbage[..]);
        if seed % 2 == 0 {
            // Sequence numbers that are right, so that the garbage is looked at.
            for entry in 0..16usize {
                let at = attacker.layout.submissions(0).entries_offset + entry * 64 + 56;
                garbage[at..at + 8].copy_from_slice(&(entry as u64 + 1).to_le_bytes());
            }
        }
        attacker.parts.map.write(0, &garbage).unwrap();
        attacker.ring.set_need_wakeup(true);
        turn(&mut attacker.ring, &mut store, usize::MAX);
        attacker.ring.set_need_wakeup(false);
        assert!(attacker.ring.ended(), "seed {seed}");
    }
}

#[test]
fn a_reply_never_leaves_its_room() {
    let mut attacker = Attacker::new(SHAPE);
    attacker.submit(&Submission { reply_offset: 128, reply_bytes_max: 8, ..noop() });
    let submission = attacker.ring.peek().unwrap().unwrap();
    let room = forebay::ring::server::ReplyRoom::of(&submission);
    assert!(attacker.ring.write_reply(room, 0, b"12345678").is_ok());
    assert!(attacker.ring.write_reply(room, 4, b"1234").is_ok());
    assert!(attacker.ring.write_reply(room, 5, b"1234").is_err());
    assert!(attacker.ring.write_reply(room, usize::MAX, b"1").is_err());
}

/// A client over a session whose daemon says what the test wants.
fn client_of_a_liar() -> (Client, Layout, Arc<forebay_sys::shm::SharedMap>, Producer, SessionRing) {
    let (parts, mut rings) =
        pair_in_process(SessionId(1), Rights::ReadWrite, Shape { sq_entries: 4, ..SHAPE }).unwrap();
    let map = parts.map.clone();
    let layout = Layout::read_from(&map).unwrap();
    let completions = Producer::new(map.clone(), layout.completions(0)).unwrap();
    (Client::from_parts(parts, Duration::ZERO).unwrap(), layout, map, completions, rings.remove(0))
}

#[test]
fn a_daemon_that_lies_is_an_error() {
    let lies: [fn(u64) -> Completion; 4] = [
        |user_data| Completion { user_data: user_data + 1, ..Completion::default() },
        |user_data| Completion { user_data: user_data + (1 << 32), ..Completion::default() },
        |user_data| Completion { user_data, status: u16::MAX, ..Completion::default() },
        |user_data| Completion { user_data, reply_bytes: 1, ..Completion::default() },
    ];
    for lie in lies {
        let (mut client, _, _, mut completions, mut ring) = client_of_a_liar();
        client.submit(9, &Request::Noop { reactor: 0 }).unwrap();
        let user_data = ring.peek().unwrap().unwrap().user_data;
        assert!(completions.push(&lie(user_data).to_words()).unwrap());
        let error = client.poll(&mut Vec::new()).unwrap_err();
        assert!(matches!(error, ClientError::Broken(_)), "{error}");
    }
    let (mut client, layout, map, _, _ring) = client_of_a_liar();
    map.line(layout.completions(0).entries_offset).unwrap()[7].store(3, Ordering::Relaxed);
    assert!(matches!(client.poll(&mut Vec::new()), Err(ClientError::Broken(_))));
    let (mut client, layout, map, mut completions, _ring) = client_of_a_liar();
    assert!(completions.push(&Completion::default().to_words()).unwrap());
    assert!(matches!(client.poll(&mut Vec::new()), Err(ClientError::Broken(_))), "an answer to nothing");
    map.atomic_u64(layout.submissions(0).head_offset).unwrap().store(99, Ordering::Relaxed);
    let error = (0..5).find_map(|_| client.submit(0, &Request::Noop { reactor: 0 }).err()).unwrap();
    assert!(matches!(error, SubmitError::Client(ClientError::Broken(_))), "{error}");
}

#[test]
fn a_client_of_a_broken_segment_is_told_so() {
    let (parts, _rings) = pair_in_process(SessionId(1), Rights::ReadWrite, SHAPE).unwrap();
    parts.map.write(12, &[9]).unwrap();
    assert!(matches!(Client::from_parts(parts, Duration::ZERO), Err(ClientError::Broken(_))));
}
