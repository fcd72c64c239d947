//! A drive that is full, or fails: writers are told, readers go on, and nothing acknowledged is lost. And a daemon
//! without work, which sleeps.

use std::time::{Duration, Instant};

use forebay::ring::client::{Client, ClientError, ConnectOptions, Object, Request, Write};
use forebay::ring::protocol::{Status, stats};
use forebay::types::Durability;

use crate::daemon::{Daemon, PATIENCE, Place};

fn value(number: u32) -> Vec<u8> {
    let mut value = number.to_le_bytes().to_vec();
    value.resize(3_000 + number as usize % 5_000, 7);
    value
}

fn assert_stored(client: &mut Client, space: Object, numbers: std::ops::Range<u32>) {
    for number in numbers {
        let found = client.get(space, &number.to_le_bytes()).expect("reads go on");
        assert!(found.is_some_and(|(_, found)| found == value(number)), "key {number}");
    }
}

#[test]
fn a_full_device_refuses_writes_and_keeps_everything_else_going() {
    let place = Place::new("full").configured(1, "");
    place.format(12, 2);
    let mut daemon = Daemon::start(&place);
    let mut client = daemon.connect(&place);
    for durability in [Durability::Buffered, Durability::Strict] {
        let space = client.open_space(&format!("{durability:?}"), Some(durability)).expect("it is made");
        client.put(space, b"to delete", b"", Write::default()).expect("there is room");
    }
    let spaces = [Durability::Buffered, Durability::Strict]
        .map(|durability| client.open_space(&format!("{durability:?}"), None).expect("it is there"));
    let stream = client.open_stream("stream", Some(Durability::Buffered)).expect("it is made");
    client.append_batch(stream, &[b"event".as_slice(); 100], Write::default()).expect("there is room");
    // Each shard fills by itself: writes to the other one may go on.
    let (mut stored, mut refused) = ([Vec::new(), Vec::new()], 0);
    for number in 0..100_000_u32 {
        let which = number as usize % 2;
        match client.put(spaces[which], &number.to_le_bytes(), &value(number), Write::default()) {
            Ok(_) => stored[which].push(number),
            Err(ClientError::Status(Status::NoSpace)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
        if refused > 200 {
            break;
        }
    }
    assert!(refused > 200 && stored[0].len() > 100, "{refused} refused, {} stored", stored[0].len());
    let check = |client: &mut Client, gone: usize| {
        for which in 0..2 {
            for (at, number) in stored[which].iter().enumerate() {
                let found = client.get(spaces[which], &number.to_le_bytes()).expect("reads go on");
                let expected = (at >= gone).then(|| value(*number));
                assert!(found.map(|(_, value)| value) == expected, "key {number}");
            }
        }
    };
    check(&mut client, 0);
    for which in 0..2 {
        for number in &stored[which][..20] {
            assert!(client.delete(spaces[which], &number.to_le_bytes(), Write::default()).expect("deletes go on"));
        }
    }
    client.trim(stream, 50).expect("trims go on");
    client.sync().expect("a full device can be synced");
    check(&mut client, 20);

    daemon.kill();
    let mut daemon = Daemon::start(&place);
    let mut client = daemon.connect(&place);
    check(&mut client, 20);
    assert!(matches!(client.read(stream, 0, None), Err(ClientError::Trimmed { first: 50 })));
    assert_eq!(client.read(stream, 50, None).expect("reads go on").len(), 50);
    assert!(client.delete(spaces[0], b"to delete", Write::default()).expect("deletes go on after a restart"));
    assert!(daemon.stop().success(), "{}", daemon.log());
    let mut daemon = Daemon::start(&place);
    let mut client = daemon.connect(&place);
    check(&mut client, 20);
    assert_eq!(client.get(spaces[0], b"to delete").expect("reads go on"), None);
}

#[test]
fn a_drive_that_fails_fences_writers_and_readers_go_on() {
    let place = Place::new("fenced").configured(1, "");
    place.format(32, 2);
    let mut daemon = Daemon::start_breakable(&place);
    let mut client = daemon.connect(&place);
    let strict = client.open_space("strict", Some(Durability::Strict)).expect("it is made");
    let buffered = client.open_space("buffered", Some(Durability::Buffered)).expect("it is made");
    for number in 0..100 {
        client.put(strict, &number_key(number), &value(number), Write::default()).expect("the drive works");
        client.put(buffered, &number_key(number), &value(number), Write::default()).expect("the drive works");
    }
    daemon.let_write(false);
    let mut in_doubt = 0;
    let begun = Instant::now();
    let mut fenced = 0;
    // Both shards meet the failure, strict writes at once.
    while fenced < 50 {
        assert!(begun.elapsed() < PATIENCE, "the shards are not fenced");
        let key = number_key(1_000 + in_doubt);
        match client.put(strict, &key, b"in doubt", Write::default()) {
            Err(ClientError::Status(Status::Fenced)) => fenced += 1,
            other => panic!("a strict write to a broken drive: {other:?}"),
        }
        in_doubt += 1;
    }
    let refused = client.put(buffered, &number_key(2_000), b"", Write::default());
    assert!(matches!(refused, Err(ClientError::Status(Status::Fenced))), "{refused:?}");
    assert!(matches!(client.sync(), Err(ClientError::Status(Status::Fenced))));
    assert_stored(&mut client, strict, 0..100);
    assert_stored(&mut client, buffered, 0..100);
    assert_eq!(client.stats().expect("it answers")[0][stats::SHARDS_FENCED], 2);
    // Its log is a file too.
    daemon.let_write(true);
    assert_eq!(daemon.stop().code(), Some(1));
    let log = daemon.log();
    for words in ["shard 0 (a write failed: File too large", "shard 1 (a write failed", "forebay verify"] {
        assert!(log.contains(words), "{words}: {log}");
    }
    assert!(!log.contains("everything acknowledged"), "{log}");

    let mut daemon = Daemon::start(&place);
    let mut client = daemon.connect(&place);
    assert_stored(&mut client, strict, 0..100);
    assert_stored(&mut client, buffered, 0..100);
    client.put(strict, b"after", b"the drive works again", Write::default()).expect("a new start writes again");
}

/// Somebody cuts the file, or removes it, while it is served: no write is acknowledged into what will not be found again.
#[test]
fn a_file_that_is_cut_or_removed_fences_writers_and_says_so() {
    if std::env::var_os("FOREBAY_TEST_DEVICE").is_some() {
        eprintln!("skipped: a drive cannot be cut");
        return;
    }
    for (name, removed) in [("cut", false), ("removed", true)] {
        let place = Place::new(name).configured(1, "");
        place.format(32, 1);
        let mut daemon = Daemon::start(&place);
        let mut client = daemon.connect(&place);
        let space = client.open_space("space", Some(Durability::Strict)).expect("it is made");
        for number in 0..100 {
            client.put(space, &number_key(number), &value(number), Write::default()).expect("the file is whole");
        }
        if removed {
            std::fs::remove_file(place.device()).expect("it is ours");
        } else {
            let file = std::fs::File::options().write(true).open(place.device()).expect("it is ours");
            file.set_len(1 << 20).expect("it can be cut");
        }
        let refused = client.put(space, b"late", b"", Write::default());
        assert!(matches!(refused, Err(ClientError::Status(Status::Fenced))), "{name}: {refused:?}");
        assert_stored(&mut client, space, 0..100);
        assert_eq!(daemon.stop().code(), Some(1), "{name}");
        let log = daemon.log();
        assert!(log.contains("was truncated or deleted by somebody while it was served"), "{name}: {log}");
        assert!(!Daemon::start(&place).wait().success(), "{name}: nothing is made up for what is gone");
    }
}

fn number_key(number: u32) -> [u8; 4] {
    number.to_le_bytes()
}

/// Processor time of a process, in ticks of 10 ms.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let (_, fields) = stat.rsplit_once(')').expect("the name stands in parentheses");
    fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum()
}

#[test]
fn an_idle_daemon_sleeps_and_wakes() {
    let place = Place::new("idle").configured(2, "");
    place.format(32, 2);
    let mut daemon = Daemon::start(&place);
    let mut client = daemon.connect(&place);
    let space = client.open_space("space", Some(Durability::Buffered)).expect("it is made");
    for number in 0..100 {
        client.put(space, &number_key(number), b"", Write::default()).expect("there is room");
    }
    // Windows and watermarks are over by then.
    std::thread::sleep(Duration::from_millis(500));
    let before = ticks(daemon.pid());
    std::thread::sleep(Duration::from_secs(1));
    let used = ticks(daemon.pid()) - before;
    assert!(used < 20, "an idle daemon used {used} of 100 ticks");
    // Long sleeps and short ones, each ended by a request.
    for round in 0..200_u64 {
        std::thread::sleep(Duration::from_micros(round * 10));
        client.put(space, &round.to_le_bytes(), b"", Write::default()).expect("it wakes");
    }
    let slept: u64 = client.stats().expect("it answers").iter().map(|reactor| reactor[stats::SLEEPS]).sum();
    assert!(slept > 10, "the reactors slept {slept} times");
}

#[test]
fn a_pipelined_client_that_sleeps_is_woken() {
    let place = Place::new("sleeper").configured(2, "");
    place.format(32, 2);
    let mut daemon = Daemon::start(&place);
    let sleepy = ConnectOptions { spin: Duration::ZERO, ..ConnectOptions::default() };
    let mut client = daemon.connect_with(&place, &sleepy);
    let space = client.open_space("space", Some(Durability::Strict)).expect("it is made");
    let stream = client.open_stream("stream", Some(Durability::Strict)).expect("it is made");
    let mut other = daemon.connect_with(&place, &sleepy);
    let mut reply = Vec::new();
    for round in 0..100_u64 {
        // Answers that the drive makes wait, and one that another client makes wait.
        let wait = Duration::from_secs(600);
        let read = Request::Read { stream, from: round, wait, reply_bytes_max: 100, relaxed: false };
        client.submit(round, &read).expect("there is room");
        for number in 0..5_u64 {
            let how = Write::default();
            let put = Request::Put { space, key: &number.to_le_bytes(), value: b"", how };
            client.submit(1_000 + number, &put).expect("there is room");
        }
        for _ in 0..5 {
            assert!(client.wait(&mut reply).expect("it is woken").user_data >= 1_000);
        }
        let waker = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(round * 20));
            other.append(stream, b"event", Write::default()).expect("there is room");
            other
        });
        let answer = client.wait(&mut reply).expect("it is woken");
        assert_eq!((answer.user_data, answer.status), (round, Status::Ok));
        other = waker.join().expect("it does not panic");
    }
}
