//! The barrier of a snapshot: nobody stands there for ever.

use super::across::{Pair, key_in};
use super::commit::put;
use super::*;
use crate::ring::client::Snapshot;

impl Pair {
    fn ask(&mut self, user_data: u64, request: &Request<'_>) {
        self.client.submit(user_data, request).unwrap();
    }

    /// One reactor alone goes on. The answers meanwhile, with their words.
    fn turn_one(&mut self, reactor: usize) -> Vec<(u64, Status)> {
        (0..50).for_each(|_| _ = self.reactors[reactor].turn());
        let mut reply = Vec::new();
        let answers = std::iter::from_fn(|| self.client.poll(&mut reply).unwrap());
        answers.map(|answer| (answer.user_data, answer.status)).collect()
    }

    fn wait_a_second(&self, reactor: usize) {
        let ns = &self.reactors[reactor].clock.ns;
        ns.set(ns.get() + 1_000_000_000);
    }
}

fn get(space: Object, key: &[u8]) -> Request<'_> {
    Request::Get { space, key, relaxed: false, value_bytes_max: 16 }
}

fn begin() -> (Pair, Object, [[u8; 8]; 2]) {
    let mut pair = Pair::start(&formatted());
    let space = pair.open("space", Durability::Buffered);
    let keys = [key_in(space, 0, 1), key_in(space, 1, 1)];
    for key in &keys {
        let how = Write::default();
        assert_eq!(pair.call(&Request::Put { space, key, value: b"1", how }).0.status, Status::Ok);
    }
    (pair, space, keys)
}

/// A snapshot is there again, of both shards.
fn goes_on(mut pair: Pair, space: Object, keys: &[[u8; 8]; 2]) {
    (0..100).for_each(|_| pair.turn());
    assert!(pair.reactors.iter().all(|reactor| !reactor.snapshots.are_taken()));
    assert_eq!(pair.reactors[0].snapshots.len(), 0);
    let (answer, _) = pair.call(&Request::Snapshot);
    assert_eq!(answer.status, Status::Ok);
    let snapshot = Snapshot(answer.version);
    for key in keys {
        let how = Write::default();
        assert_eq!(pair.call(&Request::Put { space, key, value: b"3", how }).0.status, Status::Ok);
        let (answer, value) = pair.call(&Request::GetAt { snapshot, space, key, value_bytes_max: 16 });
        assert!(answer.status == Status::Ok && value != b"3", "{answer:?} {value:?}");
    }
}

#[test]
fn who_waits_for_a_reactor_that_does_not_come_goes_on_after_a_second() {
    let (mut pair, space, keys) = begin();
    pair.ask(1, &Request::Snapshot);
    pair.ask(2, &get(space, &keys[0]));
    assert_eq!(pair.turn_one(0), []);
    pair.wait_a_second(0);
    assert_eq!(pair.turn_one(0), [(1, Status::Busy), (2, Status::Ok)]);
    // The other one hears of a snapshot that is given up.
    pair.ask(3, &get(space, &keys[1]));
    assert_eq!(pair.turn_one(1), [(3, Status::Ok)]);
    goes_on(pair, space, &keys);
}

#[test]
fn who_waits_for_reactor_0_goes_on_as_well_and_nobody_takes_a_part() {
    let (mut pair, space, keys) = begin();
    // The commit has keys locked in reactor 0, which so does not count itself.
    let entries = [put(space, &keys[0], b"2"), put(space, &keys[1], b"2")];
    pair.ask(1, &Request::Commit { entries: &entries, durability: None, relaxed: false });
    pair.ask(2, &Request::Snapshot);
    pair.reactors[0].turn();
    pair.ask(3, &get(space, &keys[1]));
    assert_eq!(pair.turn_one(1), []);
    pair.wait_a_second(1);
    assert_eq!(pair.turn_one(1), [(3, Status::Ok)]);
    assert_eq!(pair.turn_one(0), [(2, Status::Busy), (1, Status::Locked)]);
    goes_on(pair, space, &keys);
}

#[test]
fn who_comes_late_but_in_time_takes_its_part() {
    let (mut pair, space, keys) = begin();
    pair.ask(1, &Request::Snapshot);
    assert_eq!(pair.turn_one(0), []);
    let ns = &pair.reactors[0].clock.ns;
    ns.set(ns.get() + 900_000_000);
    assert_eq!(pair.turn_one(0), []);
    // All have come: it is taken, however late reactor 0 looks.
    assert_eq!(pair.turn_one(1), []);
    pair.wait_a_second(0);
    assert_eq!(pair.turn_one(0), [(1, Status::Ok)]);
    let (answer, _) = pair.call(&Request::GetAt { snapshot: Snapshot(0), space, key: &keys[1], value_bytes_max: 16 });
    assert_eq!(answer.status, Status::SnapshotGone);
    assert_eq!(pair.reactors[0].snapshots.len(), 1);
}
