//! Pages: by command, by the client, over kills, and larger than memory.

use std::fs;

use forebay::ring::client::{Client, ClientError, Pages};
use forebay::ring::protocol::{PAGES_MAX, stats};
use forebay::types::{Durability, PageHint, PageSize};

use crate::commands::{refused, run};
use crate::daemon::{Daemon, Place};

fn page(size: PageSize, number: u64, round: u64) -> Vec<u8> {
    [number, round].iter().flat_map(|word| word.to_le_bytes()).cycle().take(size.bytes()).collect()
}

fn write(client: &mut Client, pages: Pages, numbers: &[u64], round: u64) {
    let bytes: Vec<(u64, Vec<u8>)> = numbers.iter().map(|number| (*number, page(pages.size, *number, round))).collect();
    let writes: Vec<(u64, &[u8])> = bytes.iter().map(|(number, page)| (*number, page.as_slice())).collect();
    client.write_pages(pages, &writes, None).expect("there is room");
}

fn assert_stored(client: &mut Client, pages: Pages, numbers: &[u64], round: u64) {
    let found = client.read_pages(pages, numbers).expect("they are read");
    for (number, found) in numbers.iter().zip(found) {
        assert!(found.is_some_and(|(_, bytes)| bytes == page(pages.size, *number, round)), "page {number}");
    }
}

#[test]
fn pages_of_every_size_live_over_a_kill_and_beyond_memory() {
    let place = Place::new("pages");
    let config = fs::read_to_string(place.path("config.toml")).expect("it was written");
    let larger = [
        ("memory_bytes_max = \"64MiB\"", "memory_bytes_max = \"24MiB\""),
        ("value_bytes_max = \"256KiB\"", "value_bytes_max = \"4MiB\""),
        ("segment_bytes = \"1MiB\"", "segment_bytes = \"8MiB\""),
        ("arena_bytes = \"2MiB\"", "arena_bytes = \"32MiB\""),
        ("arena_bytes_max = \"8MiB\"", "arena_bytes_max = \"32MiB\""),
    ];
    let config = larger.iter().fold(config, |config, (from, to)| config.replace(from, to));
    fs::write(place.path("config.toml"), config).expect("the place is writable");
    let device = place.device();
    let device = device.to_str().expect("the path is text");
    run(&place, &["format", device, "--capacity", "256MiB", "--segment-bytes", "8MiB", "--shards", "2"]);
    let mut daemon = Daemon::start(&place);
    let mut client = daemon.connect(&place);
    let mut spaces = Vec::new();
    for (name, bytes) in [("small", 4 << 10), ("middle", 16 << 10), ("wide", 64 << 10), ("large", 2 << 20)] {
        let size = PageSize::new(bytes).expect("a page may have it");
        let pages = client.open_pages(name, Some((size, Durability::Buffered))).expect("it is made");
        // What one request may hold, and 8 MiB in all.
        let numbers: Vec<u64> = (0..(8_u64 << 20) / size.bytes() as u64).collect();
        let at_once = PAGES_MAX.min((4 << 20) / size.bytes());
        for round in 0..2 {
            numbers.chunks(at_once).for_each(|numbers| write(&mut client, pages, numbers, round));
        }
        spaces.push((pages, numbers, at_once));
    }
    daemon.kill();
    let mut daemon = Daemon::start(&place);
    let mut client = daemon.connect(&place);
    for (pages, numbers, at_once) in &spaces {
        for numbers in numbers.chunks(*at_once) {
            assert_stored(&mut client, *pages, numbers, 1);
        }
        let absent = client.read_pages(*pages, &[0, u64::MAX]).expect("they are read");
        assert!(absent[0].is_some() && absent[1].is_none());
    }
    let (large, _, _) = spaces[3];
    let over = client.read_pages(large, &[0, 1, 2]).expect_err("that is too much");
    assert!(matches!(over, ClientError::PagesTooLarge { count: 3, .. }), "{over}");
    assert!(over.to_string().contains("limits.value_bytes_max"), "{over}");
    let counters = client.stats().expect("it answers").remove(0);
    assert!(counters[stats::FETCHES] > 16 && counters[stats::FETCHES_FAILED] == 0, "{}", counters[stats::FETCHES]);
    assert!(daemon.stop().success(), "{}", daemon.log());
}

#[test]
fn a_page_that_is_written_again_and_again_is_coalesced() {
    let place = Place::new("pages-coalesced");
    place.format(64, 1);
    let mut daemon = Daemon::start(&place);
    let mut client = daemon.connect(&place);
    let create = Some((PageHint::Point.page_size(), Durability::Buffered));
    let pages = client.open_pages("pages", create).expect("it is made");
    (0..2_000).for_each(|round| write(&mut client, pages, &[round % 4], round));
    let counters = client.stats().expect("it answers").remove(0);
    assert!(counters[stats::COALESCED_WRITES] > 0, "not one of 2,000 writes of 4 pages");
    assert_eq!(counters[stats::PAGES_WRITTEN], 2_000);
    daemon.kill();
    let mut daemon = Daemon::start(&place);
    let mut client = daemon.connect(&place);
    (0..4).for_each(|number| assert_stored(&mut client, pages, &[number], 1_996 + number));
    assert!(daemon.stop().success(), "{}", daemon.log());
}

#[test]
fn pages_by_command() {
    let place = crate::commands::formatted("cli-pages");
    let mut daemon = Daemon::start(&place);
    drop(daemon.connect(&place));
    let file = place.path("two-pages");
    let bytes = [vec![b'a'; 16 << 10], vec![b'b'; 16 << 10]].concat();
    fs::write(&file, &bytes).expect("the place is writable");
    let file = file.to_str().expect("the path is text");
    assert!(refused(&place, &["page", "put", "heap", "7", "--file", file]).contains("no page space is named"));
    run(&place, &["page", "put", "heap", "7", "--file", file, "--create=strict", "--hint", "random"]);
    let got = place.forebay(&["page", "get", "heap", "7", "--count", "2"]).output().expect("the program starts");
    assert!(got.stdout == bytes, "{got:?}");
    assert!(
        refused(&place, &["page", "get", "heap", "8", "--count", "2"]).contains("page 9 of \"heap\" was never written")
    );
    let other = ["page", "put", "heap", "7", "--file", file, "--create", "--page-size", "4KiB"];
    assert!(refused(&place, &other).contains("with pages of 16384 B"));
    run(&place, &["page", "discard", "heap", "7"]);
    assert!(refused(&place, &["page", "get", "heap", "7"]).contains("never written"));
    assert!(refused(&place, &["put", "heap", "k", "v"]).contains("is not a space"));
    run(&place, &["put", "keys", "k", "v", "--create"]);
    assert!(refused(&place, &["page", "get", "keys", "7"]).contains("is not a page space"));
    assert!(run(&place, &["stats"]).contains("coalesced pages"));
    assert!(daemon.stop().success());
    let device = place.device();
    let device = device.to_str().expect("the path is text");
    assert!(run(&place, &["inspect", device]).contains("page space \"heap\": number 1, strict, pages of 16384 B"));
    run(&place, &["verify", device]);
}
