//! Snapshots over several reactors: with a write all that was acknowledged before it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use forebay::appliance::Appliance;
use forebay::device::open::{OpenOptions, open};
use forebay::ring::client::{Client, ClientError, Object, ScanRange, Snapshot, Write};
use forebay::ring::protocol::Status;
use forebay::types::Durability;
use serde_json::Value;

use crate::commands::json;
use crate::daemon::Place;

const SHARDS: u32 = 4;
const KEYS: u64 = 12;

/// An appliance on a file, with two reactors, that sleep when they have nothing to do.
fn start(place: &Place) -> Appliance {
    let device = open(&place.device(), &OpenOptions::default()).expect("the device opens");
    Appliance::start(&place.config(), &device, &place.socket(), None, &mut |_| {}).expect("the appliance starts")
}

struct Objects {
    space: Object,
    stream: Object,
}

impl Objects {
    fn open(client: &mut Client) -> Objects {
        let space = client.open_space("space", Some(Durability::Buffered)).expect("it is made");
        let stream = client.open_stream("stream", Some(Durability::Buffered)).expect("it is made");
        Objects { space, stream }
    }

    /// Writes the number of the round to every key, one after another, then to the stream.
    fn write_round(&self, client: &mut Client, round: u64) {
        for key in 0..KEYS {
            // At times it is absent for a moment.
            if (round + key).is_multiple_of(7) {
                client.delete(self.space, &key.to_be_bytes(), Write::default()).expect("it can be deleted");
            }
            let value = round.to_le_bytes();
            client.put(self.space, &key.to_be_bytes(), &value, Write::default()).expect("there is room");
        }
        client.append(self.stream, &round.to_le_bytes(), Write::default()).expect("there is room");
    }
}

/// What a snapshot shows of each key, and the events of the stream: `floor` rounds were done before it was asked for.
fn is_a_moment(rounds: &[Option<u64>], events: u64, floor: u64) {
    let shown = || rounds.iter().flatten().copied();
    let (first, last) = (shown().next().unwrap_or(0), shown().next_back().unwrap_or(0));
    // Who sees a round of one key sees it of all keys before.
    assert!(shown().is_sorted_by(|before, after| before >= after) && first - last <= 1, "{rounds:?}");
    assert!(rounds.iter().filter(|round| round.is_none()).count() <= 1, "one is absent for a moment: {rounds:?}");
    assert!(events == last || first == last && events + 1 == last, "{rounds:?}, {events} events");
    assert!(events >= floor, "{floor} rounds were done, and only {events} events are there");
}

fn number(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

fn look(client: &mut Client, objects: &Objects, snapshot: Snapshot, by_scan: bool) -> (Vec<Option<u64>>, u64) {
    let keys = (0..KEYS).map(u64::to_be_bytes);
    let rounds = if by_scan {
        let range = ScanRange::Range { begin: &[], end: &[] };
        let page = client.scan_at(snapshot, objects.space, &range, 100).expect("it can be read");
        let of = |key: [u8; 8]| page.pairs.iter().find(|pair| pair.key == key).map(|pair| number(&pair.value));
        keys.map(of).collect()
    } else {
        let mut of = |key: [u8; 8]| client.get_at(snapshot, objects.space, &key).expect("it can be read");
        keys.map(|key| of(key).map(|(_, value)| number(&value))).collect()
    };
    let (first, next) = client.extent(snapshot, objects.stream).expect("it can be read");
    assert_eq!(first, 0);
    (rounds, next)
}

#[test]
fn a_snapshot_is_of_one_moment() {
    let place = Place::new("snapshots").configured(2, "limits.snapshots_max = 3");
    place.format(64, SHARDS);
    let appliance = start(&place);
    let mut client = place.connect();
    let objects = Objects::open(&mut client);
    objects.write_round(&mut client, 1);
    let (done, stop) = (AtomicU64::new(1), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = place.connect();
            for round in 2.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                objects.write_round(&mut client, round);
                done.store(round, Ordering::SeqCst);
            }
        });
        // Also when a check below fails.
        let _stop = scopeguard::guard((), |()| stop.store(true, Ordering::Relaxed));
        for turn in 0..40 {
            let floor = done.load(Ordering::SeqCst);
            let snapshot = client.snapshot().expect("one is allowed");
            let (rounds, events) = look(&mut client, &objects, snapshot, turn % 2 == 0);
            is_a_moment(&rounds, events, floor);
            // It stays so.
            assert_eq!(look(&mut client, &objects, snapshot, turn % 2 == 1), (rounds, events));
            client.release(snapshot).expect("it is there");
            let again = client.release(snapshot);
            assert!(matches!(again, Err(ClientError::Status(Status::SnapshotGone))), "{again:?}");
        }
        for _ in 0..3 {
            let floor = done.load(Ordering::SeqCst);
            let lines = json(&place, &["export", "--consistent"]);
            let hex = |line: &Value, field: &str| line[field].as_str().map(str::to_owned);
            let bytes = |line: &Value, name: &str| match hex(line, name) {
                Some(text) => text.into_bytes(),
                None => {
                    let text = hex(line, &format!("{name}_hex")).expect("one of the two");
                    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII"));
                    digits.map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect()
                }
            };
            let of = |key: u64| {
                let mut pairs = lines.iter().filter(|line| line["kind"] == "pair");
                pairs.find(|line| bytes(line, "key") == key.to_be_bytes()).map(|line| number(&bytes(line, "value")))
            };
            let rounds: Vec<Option<u64>> = (0..KEYS).map(of).collect();
            let events = lines.iter().filter(|line| line["kind"] == "event").count() as u64;
            is_a_moment(&rounds, events, floor);
        }
    });
    end_with_their_connection(&place, &mut client);
    drop(client);
    appliance.stop().expect("it stops");
}

/// Those of a connection that is gone are gone. Of three, one connection has two at most.
fn end_with_their_connection(place: &Place, client: &mut Client) {
    for _ in 0..4 {
        let mut other = place.connect();
        (0..2).for_each(|_| _ = other.snapshot().expect("those of the one before are gone, or soon"));
        let too_many = Err(Status::TooManySnapshots);
        let taken = |client: &mut Client| match client.snapshot() {
            Err(ClientError::Status(status)) => Err(status),
            snapshot => Ok(snapshot.expect("the daemon answers")),
        };
        assert_eq!(taken(&mut other), too_many, "it has its share");
        let own = taken(client).expect("one is left");
        assert_eq!(taken(client), too_many, "all are taken");
        drop(other);
        let mut tries = 0;
        while matches!(client.snapshot().map(|snapshot| client.release(snapshot)), Err(ClientError::Status(_))) {
            tries += 1;
            assert!(tries < 10_000, "the snapshots of a client that is gone stay");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        client.release(own).expect("it is there");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
