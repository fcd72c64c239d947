//! More data than memory: what was put is read back from the drive, over a kill too, and the daemon stays small.

use std::fs;

use forebay::ring::client::{Client, Object, ScanRange, Write};
use forebay::ring::protocol::stats;
use forebay::types::Durability;

use crate::daemon::{Daemon, Place};

/// 40 MB of values, with memory for 8 MiB.
const KEYS: u32 = 9_000;

fn value(number: u32, round: u32) -> Vec<u8> {
    let bytes = if number.is_multiple_of(500) { 200_000 } else { 4_000 };
    [number, round].iter().flat_map(|word| word.to_le_bytes()).cycle().take(bytes).collect()
}

fn assert_stored(client: &mut Client, space: Object, round: impl Fn(u32) -> u32) {
    // In no order that the log knows.
    for number in (0..KEYS).map(|number| number * 7_919 % KEYS) {
        let found = client.get(space, &number.to_be_bytes()).expect("it is read").map(|found| found.1);
        assert!(found == Some(value(number, round(number))), "key {number}");
    }
    let (mut next, mut begin) = (0_u32, Some(Vec::new()));
    while let Some(from) = begin {
        let page = client.scan(space, &ScanRange::Range { begin: &from, end: &[] }, 500).expect("it is read");
        for pair in page.pairs {
            assert_eq!(pair.key, next.to_be_bytes());
            assert!(pair.value == value(next, round(next)), "key {next}");
            next += 1;
        }
        begin = page.cursor;
    }
    assert_eq!(next, KEYS);
}

#[test]
fn what_is_larger_than_memory_is_all_there() {
    let place = Place::new("larger");
    let config = fs::read_to_string(place.path("config.toml")).expect("it was written");
    let smaller = config.replace("memory_bytes_max = \"64MiB\"", "memory_bytes_max = \"8MiB\"");
    assert_ne!(smaller, config);
    fs::write(place.path("config.toml"), smaller).expect("the place is writable");
    place.format(256, 2);
    let mut daemon = Daemon::start(&place);
    let mut client = daemon.connect(&place);
    let space = client.open_space("space", Some(Durability::Buffered)).expect("it is made");
    for number in 0..KEYS {
        client.put(space, &number.to_be_bytes(), &value(number, 0), Write::default()).expect("there is room");
    }
    assert_stored(&mut client, space, |_| 0);
    for number in (0..KEYS).step_by(3) {
        client.put(space, &number.to_be_bytes(), &value(number, 1), Write::default()).expect("there is room");
    }
    daemon.kill();
    let mut daemon = Daemon::start(&place);
    let mut client = daemon.connect(&place);
    let space = client.open_space("space", None).expect("it is there");
    assert_stored(&mut client, space, |number| u32::from(number % 3 == 0));
    let counters = client.stats().expect("it answers").remove(0);
    assert!(counters[stats::MEMORY_BYTES] <= 9 << 20, "{} B of memory", counters[stats::MEMORY_BYTES]);
    assert!(counters[stats::FETCHES] > u64::from(KEYS) / 2 && counters[stats::FETCHES_FAILED] == 0);
    assert!(daemon.stop().success(), "{}", daemon.log());
}
