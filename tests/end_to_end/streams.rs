//! What streams offer beside events, on the command line and across a kill of the daemon.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Instant;

use forebay::ring::client::Write;

use crate::commands::{refused, run};
use crate::daemon::{Daemon, PATIENCE, Place};

fn started(name: &str) -> (Place, Daemon) {
    let place = Place::new(name).configured(2, "limits.producers_max = 2");
    place.format(32, 3);
    let daemon = restarted(&place);
    (place, daemon)
}

fn restarted(place: &Place) -> Daemon {
    let mut daemon = Daemon::start(place);
    drop(daemon.connect(place));
    daemon
}

#[test]
fn a_retry_never_doubles() {
    let (place, mut daemon) = started("streams-once");
    let once = |producer: &str, sequence: &str, events: &[&str]| {
        [&["append", "s", "--producer", producer, "--sequence", sequence], events]
            .concat()
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let append = |producer: &str, sequence: &str, events: &[&str]| {
        let words = once(producer, sequence, events);
        run(&place, &words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    run(&place, &["append", "s", "--create", "first"]);
    assert_eq!(append("7", "1", &["a", "b"]), "1");
    assert_eq!(append("7", "1", &["a", "b"]), "1");
    assert_eq!(append("7", "2", &["c"]), "3");
    daemon.kill();
    let _daemon = restarted(&place);
    assert_eq!(append("7", "2", &["c"]), "3");
    assert_eq!(append("7", "1", &["a", "b"]), "1");
    assert_eq!(run(&place, &["read", "s"]), "first\na\nb\nc");
    let gap = once("7", "4", &["d"]);
    let gap: Vec<&str> = gap.iter().map(String::as_str).collect();
    assert!(refused(&place, &gap).contains("next sequence number is 3"));
    // Two more producers, and the first is forgotten.
    assert_eq!(append("8", "1", &["x"]), "4");
    assert_eq!(append("9", "1", &["y"]), "5");
    let forgotten = once("7", "3", &["d"]);
    let forgotten: Vec<&str> = forgotten.iter().map(String::as_str).collect();
    assert!(refused(&place, &forgotten).contains("limits.producers_max"));
}

#[test]
fn a_stream_keeps_what_it_is_to_keep() {
    let (place, mut daemon) = started("streams-retention");
    // Each counts 100 B: 68 of its own and 32.
    let events: Vec<String> = (0..50).map(|number| format!("{number:068}")).collect();
    let append = |options: &[&str], events: &[String]| {
        let events: Vec<&str> = events.iter().map(String::as_str).collect();
        run(&place, &[&["append", "s"], options, &events].concat())
    };
    // The first offset that is kept, once that is what is asked for.
    let first = |wanted: u64| {
        let begun = Instant::now();
        loop {
            let output = place.forebay(&["read", "s", "--from", "0"]).output().expect("the program starts");
            let error = String::from_utf8_lossy(&output.stderr);
            let said = error.contains(&wanted.to_string());
            if said || begun.elapsed() > PATIENCE {
                return assert!(said, "{wanted}: {error}");
            }
        }
    };
    append(&["--create=strict", "--retain-bytes", "1KiB"], &events[..10]);
    assert_eq!(run(&place, &["retain", "s"]), "bytes 1KiB, age none");
    append(&[], &events[10..20]);
    // 1,008 B and less are kept: ten events.
    first(10);
    daemon.kill();
    let _daemon = restarted(&place);
    assert_eq!(run(&place, &["retain", "s", "--age", "7d"]), "bytes 1KiB, age 7d");
    append(&[], &events[20..]);
    first(40);
    let stats = run(&place, &["stats"]);
    assert!(stats.contains("s (kept at most 1KiB, for 7d, 30 events trimmed)"), "{stats}");
    let read = run(&place, &["read", "s", "--from", "40"]);
    assert_eq!(read.lines().collect::<Vec<_>>(), events[40..]);
    // All that is there is older than that in a moment.
    assert_eq!(run(&place, &["retain", "s", "--bytes", "none", "--age", "5ms"]), "bytes none, age 5ms");
    first(50);
    assert_eq!(run(&place, &["retain", "s", "--age", "none"]), "bytes none, age none");
    assert_eq!(append(&[], &events), "50");
    assert_eq!(run(&place, &["read", "s", "--from", "50"]).lines().count(), 50);
    for (bound, text) in [(["--bytes", "0"], "forebay trim"), (["--age", "0s"], "1 ms to 100 years")] {
        let output = place.forebay(&[&["retain", "s"], &bound[..]].concat()).output().expect("the program starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(2) && error.contains(text), "{error}");
    }
}

#[test]
fn a_cursor_stays_where_it_was_put() {
    let (place, mut daemon) = started("streams-cursors");
    let events: Vec<String> = (0..10).map(|number| format!("event{number}")).collect();
    let words: Vec<&str> = ["append", "s", "--create"].into_iter().chain(events.iter().map(String::as_str)).collect();
    run(&place, &words);
    assert!(refused(&place, &["cursor", "get", "s", "c"]).contains("cursor set"));
    run(&place, &["cursor", "set", "s", "c", "4", "--if-absent"]);
    assert!(refused(&place, &["cursor", "set", "s", "c", "3"]).contains("--back"));
    assert!(refused(&place, &["cursor", "set", "s", "c", "5", "--if-at", "3"]).contains("offset 4"));
    run(&place, &["cursor", "set", "s", "c", "3", "--back", "--if-at", "4"]);
    run(&place, &["cursor", "set", "s", "other", "10"]);
    refused(&place, &["cursor", "set", "s", "other", "11"]);
    daemon.kill();
    let _daemon = restarted(&place);
    assert_eq!(run(&place, &["cursor", "list", "s"]), "c\t3\nother\t10");
    run(&place, &["trim", "s", "6"]);
    let trimmed = refused(&place, &["cursor", "get", "s", "c"]);
    assert!(trimmed.contains("offset 3") && trimmed.contains("begins at 6"), "{trimmed}");
    assert_eq!(refused(&place, &["tail", "s", "--cursor", "c"]), trimmed);
    run(&place, &["cursor", "delete", "s", "c"]);
    assert!(refused(&place, &["cursor", "delete", "s", "c"]).contains("no cursor"));

    let mut tail = place.forebay(&["tail", "s", "--cursor", "tail"]).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut lines = BufReader::new(tail.stdout.take().expect("it is piped")).lines();
    let printed: Vec<String> = lines.by_ref().take(4).map(|line| line.expect("it is text")).collect();
    assert_eq!(printed, events[6..]);
    let deadline = Instant::now() + PATIENCE;
    while run(&place, &["cursor", "list", "s"]) != "other\t10\ntail\t10" {
        assert!(Instant::now() < deadline, "the cursor does not follow");
    }
    tail.kill().expect("it is ours");
    tail.wait().expect("it is ours");
}

#[test]
fn a_chain_is_proven_across_a_kill_and_a_trim() {
    let (place, mut daemon) = started("streams-chain");
    run(&place, &["append", "s", "--create", "--chained", "one", "two", "three"]);
    run(&place, &["append", "s", "four", "--producer", "5", "--sequence", "1"]);
    let before = run(&place, &["verify", "--stream", "s"]);
    assert!(before.starts_with("ok    4 events from offset 0 on, head "), "{before}");
    daemon.kill();
    let mut daemon = restarted(&place);
    assert_eq!(run(&place, &["verify", "--stream", "s"]), before);
    run(&place, &["trim", "s", "2"]);
    let (_, head) = before.split_once("head ").expect("seen above");
    assert!(run(&place, &["verify", "--stream", "s"]).ends_with(head));
    run(&place, &["trim", "s", "4"]);
    assert!(run(&place, &["verify", "--stream", "s"]).ends_with(head), "what is all trimmed goes on where it was");
    let mut client = daemon.connect(&place);
    let stream = client.open_stream("s", None).expect("it is there");
    let (offset, told) = client.append_chained(stream, None, &[b"five"], Write::default()).expect("it is chained");
    let verified = client.verify_stream(stream).expect("it holds");
    assert_eq!((offset, told), (4, Some(verified.head)));
    assert_eq!(client.read(stream, 4, None).expect("it is there"), [(4, b"five".to_vec())]);
    drop(client);
    daemon.kill();
    let _daemon = restarted(&place);
    assert!(run(&place, &["verify", "--stream", "s"]).starts_with("ok    1 events from offset 4 on"));
    run(&place, &["append", "plain", "--create", "event"]);
    assert!(refused(&place, &["verify", "--stream", "plain"]).contains("--chained"));
}
