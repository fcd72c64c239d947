//! The command line as a user types it, against a daemon that it started.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};

use forebay::ring::client::Object;
use forebay::ring::protocol::stats::{DRIVE, NAMES};
use forebay::types::Compression;
use serde_json::Value;

use crate::daemon::{Daemon, PATIENCE, Place};

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("it is text")
}

/// What a command printed; it must succeed.
pub fn run(place: &Place, arguments: &[&str]) -> String {
    stdout(&place.forebay(arguments).output().expect("the program starts")).trim_end().to_owned()
}

/// The objects that a command printed, one a line.
pub fn json(place: &Place, arguments: &[&str]) -> Vec<Value> {
    let text = run(place, &[arguments, &["--json"]].concat());
    text.lines().map(|line| serde_json::from_str(line).expect("each line is an object")).collect()
}

/// The one line of an error; the exit code must be 1.
pub fn refused(place: &Place, arguments: &[&str]) -> String {
    let output = place.forebay(arguments).output().expect("the program starts");
    assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
    let text = String::from_utf8(output.stderr).expect("it is text");
    assert_eq!(text.lines().count(), 1, "{text}");
    text
}

pub fn with_input(mut command: Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
    child.stdin.take().expect("it is piped").write_all(input).expect("it is read");
    child.wait_with_output().expect("it ends")
}

pub fn formatted(name: &str) -> Place {
    let place = Place::new(name).configured(2, "");
    let device = place.device();
    let device = device.to_str().expect("the path is text");
    let format = ["format", device, "--capacity", "32MiB", "--segment-bytes", "1MiB", "--shards", "3"];
    assert!(run(&place, &format).contains("3 shards"));
    place
}

#[test]
fn format_refuses_what_holds_data() {
    let place = formatted("cli-format");
    let device = place.device();
    let device = device.to_str().expect("the path is text");
    let format = ["format", device, "--capacity", "32MiB", "--segment-bytes", "1MiB", "--shards", "3"];
    assert!(refused(&place, &format).contains("--force"));
    let made = json(&place, &[&format[..], &["--force"]].concat());
    assert_eq!((&made[0]["shards"], &made[0]["segment_bytes"]), (&Value::from(3), &Value::from(1 << 20)));
}

#[test]
fn format_chooses_segments_that_can_be_reclaimed() {
    let place = Place::new("cli-chosen");
    let device = place.device();
    let device = device.to_str().expect("the path is text");
    let format = |capacity: &str, more: &[&str]| {
        let arguments = ["format", device, "--capacity", capacity, "--force"];
        let output = place.forebay(&[&arguments[..], more].concat()).output().expect("the program starts");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!told.contains("warning"), "{told}");
        stdout(&output)
    };
    let made = format("256MiB", &["--shards", "2"]);
    assert!(made.contains(": 63 segments of 4MiB (the largest with about 32 a shard or more"), "{made}");
    let made = format("64MiB", &["--shards", "2"]);
    assert!(made.contains(": 31 segments of 2MiB (the least that the largest value"), "{made}");
    let made = format("64MiB", &["--shards", "1", "--segment-bytes", "4MiB", "--json"]);
    let made: Value = serde_json::from_str(&made).expect("it is JSON");
    assert_eq!((&made["segment_bytes"], &made["segment_bytes_given"]), (&Value::from(4 << 20), &Value::from(true)));
    let mut daemon = Daemon::start(&place);
    drop(daemon.connect(&place));
}

#[test]
fn format_warns_of_what_serve_would_refuse() {
    let place = Place::new("cli-small");
    let device = place.device();
    let device = device.to_str().expect("the path is text");
    let format = |more: &[&str]| {
        let arguments =
            ["format", device, "--capacity", "32MiB", "--segment-bytes", "1MiB", "--shards", "1", "--force"];
        let output = place.forebay(&[&arguments[..], more].concat()).output().expect("the program starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).expect("it is text")
    };
    let warning = format(&[]);
    assert!(warning.contains("warning") && warning.contains("limits.value_bytes_max"), "{warning}");
    let serve = place.forebay(&["serve", "--device", device]).output().expect("the program starts");
    let refusal = String::from_utf8(serve.stderr).expect("it is text");
    assert!(!serve.status.success() && refusal.contains("--segment-bytes"), "{refusal}");
    let config = place.path("config.toml");
    assert_eq!(format(&["--config", config.to_str().expect("the path is text")]), "");
}

#[test]
fn what_a_daemon_does_not_take_is_said_with_its_limit() {
    let place = Place::new("cli-limits").configured(1, "limits.objects_max = 2\nlimits.sessions_max = 4\n");
    place.format(32, 1);
    let mut daemon = Daemon::start(&place);
    drop(daemon.connect(&place));
    run(&place, &["put", "one", "k", "v", "--create"]);
    run(&place, &["append", "two", "e", "--create"]);
    assert!(refused(&place, &["put", "three", "k", "v", "--create"]).contains("limits.objects_max"));
    for name in ["", "a\nb", &"n".repeat(256)] {
        let line = refused(&place, &["put", name, "k", "v", "--create"]);
        assert!(line.contains("1 to 255 bytes of UTF-8 without control characters"), "{line}");
    }
    let large = place.path("large");
    std::fs::write(&large, vec![7; (256 << 10) + 1]).expect("the place is writable");
    let large = large.to_str().expect("the path is text");
    for arguments in [["put", "one", "k", "--file", large].as_slice(), &["append", "two", "--file", large]] {
        let line = refused(&place, arguments);
        assert!(line.contains("262145 B, and the daemon takes at most 262144 B (limits.value_bytes_max)"), "{line}");
    }
    let empty = place.forebay(&["get", "one", ""]).output().expect("the program starts");
    assert_eq!(empty.status.code(), Some(2), "{empty:?}");
    assert!(refused(&place, &["get", "one", &"k".repeat(2_000)]).contains("limits.key_bytes_max"));

    let job = b"[many]\nrw=randwrite\nspace=one\nkeys=10\nvalue_size=32\nnumjobs=8\ngroup_reporting\n";
    let mut load = place.forebay(&["load", "-"]);
    load.stderr(Stdio::piped());
    let output = with_input(load, job);
    let line = String::from_utf8(output.stderr).expect("it is text");
    assert_eq!(output.status.code(), Some(1), "{line}");
    assert!(line.contains("job [many]: ") && line.contains("limits.sessions_max allows; raise it"), "{line}");
}

#[test]
fn the_memory_that_limits_come_to_is_told() {
    let place = formatted("cli-memory");
    let config = place.path("config.toml");
    let config = config.to_str().expect("the path is text");
    let parts = json(&place, &["serve", "--check", "--config", config]);
    let (device, parts) = parts.split_last().expect("there are lines");
    assert!(device["found"].as_str().is_some_and(|found| found.contains("no device is named")), "{device}");
    let (total, parts) = parts.split_last().expect("there are lines");
    let sum: u64 = parts.iter().map(|part| part["bytes"].as_u64().expect("a number")).sum();
    assert_eq!((&total["what"], total["bytes"].as_u64()), (&"total".into(), Some(sum)));
    assert!(total["available_bytes"].as_u64().is_some_and(|bytes| bytes > 0));
    let text = run(&place, &["serve", "--check", "--config", config]);
    assert!(text.contains("in all, at most; available: "), "{text}");
    let mut daemon = Daemon::start(&place);
    drop(daemon.connect(&place));
    assert!(daemon.log().contains("this configuration needs at most "), "{}", daemon.log());
    // More than any machine has: of buffers a start is refused, of what is only a limit it is told.
    let huge = "limits.memory_bytes_max = \"16384GiB\"\n";
    let configured = std::fs::read_to_string(config).expect("it was written");
    let configured = configured.replace("limits.memory_bytes_max = \"64MiB\"\n", huge);
    std::fs::write(config, &configured).expect("the place is writable");
    assert!(run(&place, &["serve", "--check", "--config", config]).contains("warning: at most 16384."));
    let buffers = configured
        .replace("reactors.count = 2", "reactors.count = 250\nformat.shards = 1000\nwal.frames_in_flight_max = 256");
    let buffers = buffers.replace("\"64KiB\"", "\"16MiB\"").replace("format.segment_bytes = \"1MiB\"\n", "");
    std::fs::write(config, buffers).expect("the place is writable");
    let line = refused(&place, &["serve", "--check", "--config", config]);
    assert!(line.contains("the frame buffers need ") && line.contains("lower wal.frame_bytes_max"), "{line}");
}

#[test]
fn a_check_says_what_a_start_would_do_and_changes_nothing() {
    let place = formatted("cli-check");
    let (config, device) = (place.path("config.toml"), place.device());
    let arguments = |device: &std::path::Path| {
        ["serve", "--check", "--config", config.to_str().expect("text"), "--device", device.to_str().expect("text")]
            .map(str::to_owned)
    };
    let words = arguments(&device);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let before = std::fs::read(&device).expect("it is there");
    let found = json(&place, &words).pop().expect("there are lines");
    let uuid = json(&place, &["inspect", words[5]])[0]["uuid"].clone();
    assert_eq!((&found["uuid"], found["shards"].as_u64(), found["reactors"].as_u64()), (&uuid, Some(3), Some(2)));
    let text = run(&place, &words);
    assert!(text.contains("would recover namespace") && text.contains("3 shards") && text.contains("in all"), "{text}");
    assert!(before == std::fs::read(&device).expect("it is there"), "a check writes nothing");

    let mut daemon = Daemon::start(&place);
    drop(daemon.connect(&place));
    let text = run(&place, &words);
    assert!(text.contains("not looked at while a daemon runs on"), "{text}");
    daemon.stop();

    // What a start would be refused for.
    for (bytes, wanted) in [(vec![0; 32 << 20], "superblock"), (before[..16 << 20].to_vec(), "")] {
        let other = place.path("other");
        std::fs::write(&other, bytes).expect("the place is writable");
        let words = arguments(&other);
        let line = refused(&place, &words.iter().map(String::as_str).collect::<Vec<_>>());
        assert!(line.contains(wanted) && line.contains("; "), "{line}");
    }
    let gone = arguments(&place.path("gone"));
    let line = refused(&place, &gone.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(line.contains("forebay format"), "{line}");
}

#[test]
fn compressed_spaces_by_command() {
    let place = formatted("cli-compression");
    let mut daemon = Daemon::start(&place);
    drop(daemon.connect(&place));
    let text = "the same words again and again ".repeat(1_000);
    let file = place.path("text");
    std::fs::write(&file, &text).expect("the place is writable");
    let file = file.to_str().expect("the path is text");
    for codec in ["lz4", "zstd"] {
        let put = ["put", codec, "large", "--file", file, "--create=buffered", "--compression", codec];
        run(&place, &put);
        run(&place, &put);
        run(&place, &["put", codec, "small", "v"]);
        assert_eq!(run(&place, &["get", codec, "large"]), text.trim_end());
        assert_eq!(run(&place, &["scan", codec, "--begin", "s"]), "small\tv");
    }
    let line = refused(&place, &["put", "lz4", "k", "v", "--create", "--compression", "zstd"]);
    assert!(line.contains("is there with compression lz4; leave out --compression"), "{line}");
    let alone = place.forebay(&["put", "lz4", "k", "v", "--compression", "lz4"]).output().expect("the program starts");
    assert_eq!(alone.status.code(), Some(2), "{alone:?}");
    assert!(refused(&place, &["append", "lz4", "e", "--create"]).contains("not a stream"));
    assert!(daemon.stop().success());

    let device = place.device();
    let device = device.to_str().expect("the path is text");
    assert!(run(&place, &["inspect", device]).contains("space \"zstd\": number 2, buffered, values compressed: zstd"));
    let mut daemon = Daemon::start(&place);
    let mut client = daemon.connect(&place);
    let codecs: Vec<_> =
        client.catalog().expect("it answers").into_iter().map(|(_, space)| space.compression).collect();
    assert_eq!(codecs, [Compression::Lz4, Compression::Zstd], "the log of shard 0 says it");
    for codec in ["lz4", "zstd"] {
        assert_eq!(run(&place, &["get", codec, "large"]), text.trim_end());
        let space = client.open_space(codec, None).expect("it is there");
        let raw = Object { compression: Compression::None, ..space };
        let (_, stored) = client.get(raw, b"large").expect("it answers").expect("it is there");
        assert!(stored.len() < text.len() / 10, "{codec}: {} B", stored.len());
    }
}

#[test]
fn spaces_by_command() {
    let place = formatted("cli-spaces");
    let mut daemon = Daemon::start(&place);
    drop(daemon.connect(&place));
    let version: u64 = run(&place, &["put", "orders", "4711", "paid", "--create=strict"]).parse().expect("a version");
    assert_eq!(run(&place, &["get", "orders", "4711"]), "paid");
    let got = json(&place, &["get", "orders", "4711"]);
    assert_eq!((&got[0]["version"], &got[0]["value"]), (&Value::from(version), &Value::from("paid")));
    assert!(refused(&place, &["put", "orders", "4711", "x", "--if-version", "0"]).contains("version"));
    let expected = version.to_string();
    let next = json(&place, &["put", "orders", "4711", "sent", "--if-version", &expected, "--durability", "buffered"]);
    assert!(next[0]["version"].as_u64().expect("a version") > version);
    let value = [0_u8, 255, 10, 13];
    let put = with_input(place.forebay(&["put", "orders", "binary", "-"]), &value);
    assert!(put.status.success());
    assert_eq!(run(&place, &["get", "orders", "62696e617279", "--hex"]), "00ff0a0d");
    for number in 0..20 {
        run(&place, &["put", "orders", &format!("k{number:02}"), "v"]);
    }
    assert_eq!(run(&place, &["scan", "orders", "--prefix", "k1", "--keys-only"]).lines().count(), 10);
    assert_eq!(run(&place, &["scan", "orders", "--begin", "k05", "--end", "k08"]), "k05\tv\nk06\tv\nk07\tv");
    let pairs = json(&place, &["scan", "orders", "--prefix", "47"]);
    assert_eq!((&pairs[0]["key"], &pairs[0]["value"]), (&Value::from("4711"), &Value::from("sent")));
    run(&place, &["put", "orders", "short", "v", "--ttl", "1ms"]);
    run(&place, &["put", "orders", "long", "v", "--ttl", "60m"]);
    let gone = || !place.forebay(&["get", "orders", "short"]).output().expect("the program starts").status.success();
    let mut tries = 0..1_000;
    assert!(tries.any(|_| gone()), "a key outlives its time");
    assert_eq!(run(&place, &["get", "orders", "long"]), "v");
    assert!(refused(&place, &["get", "orders", "short"]).contains("no such key"));
    let usage = place.forebay(&["put", "orders", "k", "v", "--ttl", "0"]).output().expect("the program starts");
    assert_eq!(usage.status.code(), Some(2));
    run(&place, &["delete", "orders", "k05"]);
    refused(&place, &["delete", "orders", "k05"]);
    refused(&place, &["get", "orders", "k05"]);
    assert!(refused(&place, &["get", "nothing", "key"]).contains("--create"));
    assert!(refused(&place, &["tail", "orders"]).contains("not a stream"));
}

#[test]
fn streams_by_command() {
    let place = formatted("cli-streams");
    let mut daemon = Daemon::start(&place);
    drop(daemon.connect(&place));
    assert_eq!(run(&place, &["append", "events", "zero", "one", "--create=buffered"]), "0");
    let lines = with_input(place.forebay(&["append", "events", "--lines"]), b"two\nthree\n");
    assert_eq!(stdout(&lines).trim_end(), "2");
    assert_eq!(run(&place, &["read", "events", "--from", "1", "--limit", "2"]), "one\ntwo");
    let read = json(&place, &["read", "events"]);
    assert_eq!((read.len(), &read[3]["offset"], &read[3]["event"]), (4, &Value::from(3), &Value::from("three")));

    let mut tail = place.forebay(&["tail", "events", "--offsets", "--from", "3"]);
    let mut tail = tail.stdout(Stdio::piped()).spawn().expect("the program starts");
    let mut followed = BufReader::new(tail.stdout.take().expect("it is piped")).lines();
    let mut next = || followed.next().expect("there is a line").expect("it is text");
    assert_eq!(next(), "3\tthree");
    for number in 4..10 {
        run(&place, &["append", "events", "more"]);
        assert_eq!(next(), format!("{number}\tmore"));
    }
    run(&place, &["trim", "events", "8"]);
    assert_eq!(run(&place, &["read", "events", "--offsets"]), "8\tmore\n9\tmore");
    assert!(refused(&place, &["read", "events", "--from", "2"]).contains("begins at offset 8"));
    run(&place, &["sync"]);
    assert_eq!(json(&place, &["sync"])[0]["synced"], true);

    // A reader that goes away ends what writes to it, without a word.
    drop(followed);
    let deadline = std::time::Instant::now() + PATIENCE;
    let ended = loop {
        run(&place, &["append", "events", "nobody reads"]);
        if let Some(status) = tail.try_wait().expect("the child is ours") {
            break status;
        }
        assert!(std::time::Instant::now() < deadline, "tail does not notice that its reader is gone");
    };
    assert!(ended.success(), "{ended:?}");
}

#[test]
fn stats_by_command() {
    let place = formatted("cli-stats");
    let mut daemon = Daemon::start(&place);
    drop(daemon.connect(&place));
    for number in 0..20 {
        run(&place, &["put", "orders", &number.to_string(), "value", "--create=strict"]);
    }
    run(&place, &["delete", "orders", "7"]);
    run(&place, &["get", "orders", "3"]);
    run(&place, &["append", "ledger", "one", "--create=strict", "--chained"]);
    run(&place, &["append", "ledger", "two"]);
    let text = run(&place, &["stats"]);
    let of_reactors = |name: &str| text.lines().any(|line| line.split_whitespace().next() == Some(name));
    let own = || NAMES.iter().enumerate().filter(|(at, _)| !DRIVE.contains(at));
    assert!(own().all(|(_, name)| of_reactors(name)), "{text}");
    assert!(text.contains("write amplification") && text.contains("group commit"), "{text}");
    let lines = json(&place, &["stats"]);
    let with = |key: &str| -> Vec<&Value> { lines.iter().filter(|line| line.get(key).is_some()).collect() };
    let (reactors, shards, objects) = (with("reactor"), with("shard"), with("object"));
    // A file has no SMART log.
    assert!(with("drive")[0]["drive"].is_null() && text.contains("not known"), "{text}");
    assert_eq!(reactors[0]["shards"].as_u64().zip(reactors[1]["shards"].as_u64()), Some((2, 1)));
    let sum = |rows: &[&Value], name: &str| rows.iter().filter_map(|row| row[name].as_u64()).sum::<u64>();
    assert_eq!((shards.len(), sum(&shards, "keys"), sum(&shards, "events")), (3, 19, 2));
    assert_eq!(sum(&reactors, "gets"), 1);
    let [orders, ledger] = objects[..] else { panic!("{objects:?}") };
    assert_eq!((&orders["name"], &orders["keys"], &orders["kind"]), (&"orders".into(), &19.into(), &"space".into()));
    assert!(orders["live_bytes"].as_u64().is_some_and(|bytes| bytes > 19 * 5), "{orders}");
    assert_eq!((&ledger["name"], &ledger["events"], &ledger["next_offset"]), (&"ledger".into(), &2.into(), &2.into()));
    assert_eq!((&ledger["chained"], &orders["chained"]), (&1.into(), &0.into()));
    let total = &with("total")[0]["total"];
    // 20 puts of a key and "value", a delete of a key, two events.
    assert_eq!(total["taken_bytes"], 10 + 2 * 10 + 20 * 5 + 1 + 6, "{total}");
    assert!(total["write_amplification"].as_f64().is_some_and(|found| found > 100.0), "a block each: {total}");
    assert!(total["records_per_frame"].as_f64().is_some_and(|found| (1.0..3.0).contains(&found)), "{total}");
    let watched = json(&place, &["stats", "--watch", "20ms", "--count", "2"]);
    assert_eq!(watched.len(), 2);
    assert!(watched[0]["requests_per_second"].is_u64() && watched[0]["lag_records"] == 0, "{watched:?}");
    assert!(run(&place, &["stats", "--watch", "20ms", "--count", "1"]).starts_with("requests/s"));
}

#[test]
fn one_daemon_a_device_and_a_socket() {
    let place = formatted("cli-daemons");
    let mut first = Daemon::start(&place);
    drop(first.connect(&place));
    run(&place, &["put", "space", "key", "value", "--create=buffered"]);
    // The same device.
    let other = place.path("other-socket");
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(["serve", "--socket"]).arg(&other);
    let mut second = Daemon::run(&place, command);
    assert_eq!(second.wait().code(), Some(1));
    assert!(second.log().contains("locked by another process"), "{}", second.log());
    // The same socket, with a device of its own.
    let elsewhere = Place::new("cli-elsewhere");
    elsewhere.format(32, 1);
    let mut third = Daemon::run(&elsewhere, place.forebay(&["serve"]));
    assert_eq!(third.wait().code(), Some(1));
    assert!(third.log().contains("another daemon listens"), "{}", third.log());
    // The first one noticed nothing; killed, it leaves a socket that the next one takes over.
    assert_eq!(run(&place, &["get", "space", "key"]), "value");
    first.kill();
    assert!(place.socket().exists());
    assert!(refused(&place, &["get", "space", "key"]).contains("forebay serve"));
    let mut next = Daemon::start(&place);
    drop(next.connect(&place));
    assert_eq!(run(&place, &["get", "space", "key"]), "value");
    assert!(next.log().contains("taking over the socket"));
    assert_eq!(next.stop().code(), Some(0), "{}", next.log());
    assert!(!place.socket().exists(), "a daemon that stops takes its socket along");
    assert!(next.log().contains("everything acknowledged is on the drive"));
}

#[test]
fn the_example_of_a_client_runs() {
    // Cargo builds the examples of a package before its tests, next to the program.
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_forebay"));
    let example = program.parent().expect("it lies in a directory").join("examples/client");
    if !example.exists() {
        println!("skipped: {} was not built; `cargo test` builds it, `cargo test --test` does not", example.display());
        return;
    }
    let place = formatted("cli-example");
    let mut daemon = Daemon::start(&place);
    drop(daemon.connect(&place));
    let text = stdout(&Command::new(example).arg(place.socket()).output().expect("the example starts"));
    assert!(text.contains("order 4711: sent") && text.contains("1000: the last one"), "{text}");
}
