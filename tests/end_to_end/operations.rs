//! Every operation against a real appliance, in memory and on a file, over several shards and reactors.

use std::time::Duration;

use forebay::appliance::Appliance;
use forebay::device::memory::MemoryDisk;
use forebay::device::open::{OpenDevice, OpenOptions, open};
use forebay::ring::client::{Client, ClientError, Request, ScanRange, Write};
use forebay::ring::protocol::{Status, stats};
use forebay::types::{Durability, ObjectKind};
use forebay::wal::blocks::Blocks;

use crate::daemon::Place;

const DURABILITIES: [Durability; 3] = [Durability::Memory, Durability::Buffered, Durability::Strict];

fn start(place: &Place, device: &OpenDevice) -> Appliance {
    Appliance::start(&place.config(), device, &place.socket(), None, &mut |_| {}).expect("the appliance starts")
}

fn file(place: &Place) -> OpenDevice {
    open(&place.device(), &OpenOptions::default()).expect("the device opens")
}

/// A formatted namespace in memory.
fn memory(capacity: u64, shards: u32) -> OpenDevice {
    struct Disk(MemoryDisk);
    impl Blocks for Disk {
        fn read(
            &mut self,
            address: forebay::types::DeviceAddress,
            out: &mut [u8],
        ) -> Result<(), forebay::device::DeviceError> {
            self.0.read(address, out)
        }
        fn write(
            &mut self,
            address: forebay::types::DeviceAddress,
            bytes: &[u8],
        ) -> Result<(), forebay::device::DeviceError> {
            self.0.write(address, bytes)
        }
    }
    let disk = MemoryDisk::new(capacity);
    forebay::wal::format::format(
        &mut Disk(disk.clone()),
        capacity,
        1 << 20,
        shards,
        *uuid::Uuid::new_v4().as_bytes(),
        None,
    )
    .expect("the disk is large enough");
    OpenDevice::memory(&disk, &OpenOptions::default())
}

fn status<T: std::fmt::Debug>(result: Result<T, ClientError>) -> Status {
    match result {
        Err(ClientError::Status(status)) => status,
        other => panic!("no status: {other:?}"),
    }
}

#[test]
fn every_operation_in_memory() {
    let place = Place::new("operations-memory").configured(2, "");
    let appliance = start(&place, &memory(32 << 20, 5));
    every_operation(&mut place.connect());
    appliance.stop().expect("it stops");
}

#[test]
fn every_operation_on_a_file() {
    let place = Place::new("operations-file").configured(2, "");
    place.format(64, 5);
    let appliance = start(&place, &file(&place));
    every_operation(&mut place.connect());
    appliance.stop().expect("it stops");
}

fn every_operation(client: &mut Client) {
    assert_eq!((client.reactors(), client.shards()), (2, 5));
    for durability in DURABILITIES {
        spaces(client, durability);
        scans(client, durability);
        streams(client, durability);
    }
    tails(client);
    refusals(client);
    catalog_and_stats(client);
    client.sync().expect("everything can be made durable");
}

fn spaces(client: &mut Client, durability: Durability) {
    let space = client.open_space(&format!("{durability:?} space"), Some(durability)).expect("it is made");
    assert_eq!(client.open_space(&format!("{durability:?} space"), None).expect("it is found"), space);
    // Sizes: none, one, of several classes, larger than a frame, the largest.
    let sizes = [0, 1, 15, 16, 17, 1_000, 4_096, 65_000, 65_536, 65_537, 200_000, 256 << 10];
    let mut versions = std::collections::HashMap::new();
    for how in [None, Some(Durability::Memory), Some(Durability::Buffered), Some(Durability::Strict)] {
        let how = Write { durability: how, ..Write::default() };
        for (number, bytes) in sizes.into_iter().chain(sizes.into_iter().rev()).enumerate() {
            let key = format!("key {}", number % 7);
            let value: Vec<u8> =
                (0..bytes).map(|at| u8::try_from((at + number) % 251).expect("a small number")).collect();
            let version = client.put(space, key.as_bytes(), &value, how).expect("there is room");
            let found = client.get(space, key.as_bytes()).expect("it can be read").expect("it is there");
            assert!(found == (version, value), "{durability:?} {how:?} {bytes} B");
            let before = versions.insert(key, version);
            assert!(before.is_none_or(|before| before < version), "a key's versions grow");
        }
    }
    let key = b"key 0";
    let (version, _) = client.get(space, key).expect("it can be read").expect("it is there");
    let expecting = |if_version| Write { if_version: Some(if_version), ..Write::default() };
    let refused = client.put(space, key, b"x", expecting(version + 1)).expect_err("another version");
    assert!(matches!(refused, ClientError::VersionMismatch { present } if present == version), "{refused}");
    let next = client.put(space, key, b"x", expecting(version)).expect("the right version");
    assert!(next > version);
    let refused = client.put(space, key, b"y", expecting(0)).expect_err("it is there");
    assert!(matches!(refused, ClientError::VersionMismatch { present } if present == next), "{refused}");
    let refused = client.delete(space, key, expecting(version)).expect_err("an older version");
    assert!(matches!(refused, ClientError::VersionMismatch { .. }), "{refused}");
    assert!(client.delete(space, key, expecting(next)).expect("the right version"));
    assert!(!client.delete(space, key, Write::default()).expect("it is gone"));
    assert_eq!(client.get(space, key).expect("it can be read"), None);
    let again = client.put(space, key, b"z", expecting(0)).expect("it is absent");
    assert!(again > next, "a version never comes again");
}

fn scans(client: &mut Client, durability: Durability) {
    let space = client.open_space(&format!("{durability:?} scans"), Some(durability)).expect("it is made");
    let keys: Vec<Vec<u8>> = (0..200).map(|number| format!("k{number:03}").into_bytes()).collect();
    for key in keys.iter().rev() {
        client.put(space, key, &[key.as_slice(), &[7; 3_000]].concat(), Write::default()).expect("there is room");
    }
    client.delete(space, b"k042", Write::default()).expect("it is there");
    client.put(space, b"other", b"", Write::default()).expect("there is room");
    let expected: Vec<&Vec<u8>> = keys[10..150].iter().filter(|key| *key != b"k042").collect();
    let (mut begin, mut seen) = (b"k010".to_vec(), Vec::new());
    loop {
        let page = client.scan(space, &ScanRange::Range { begin: &begin, end: b"k150" }, 7).expect("it can be read");
        assert!(page.pairs.len() <= 7);
        assert!(page.pairs.iter().all(|pair| pair.value.starts_with(&pair.key) && pair.version > 0));
        seen.extend(page.pairs.into_iter().map(|pair| pair.key));
        let Some(cursor) = page.cursor else { break };
        begin = cursor;
    }
    assert_eq!(seen.iter().collect::<Vec<_>>(), expected);
    let (mut after, mut seen) = (Vec::new(), Vec::new());
    loop {
        let page = client.scan(space, &ScanRange::Prefix { prefix: b"k1", after: &after }, 33).expect("it can be read");
        seen.extend(page.pairs.into_iter().map(|pair| pair.key));
        let Some(cursor) = page.cursor else { break };
        after = cursor;
    }
    assert_eq!(seen, keys[100..200]);
    let all = client.scan(space, &ScanRange::Range { begin: b"", end: b"" }, 1_000).expect("it can be read");
    assert_eq!((all.pairs.len(), all.cursor), (200, None));
    let none = client.scan(space, &ScanRange::Prefix { prefix: b"nothing", after: b"" }, 10).expect("it can be read");
    assert!(none.pairs.is_empty() && none.cursor.is_none());
}

fn streams(client: &mut Client, durability: Durability) {
    let stream = client.open_stream(&format!("{durability:?} stream"), Some(durability)).expect("it is made");
    let large = vec![3; 200_000];
    let events: [&[u8]; 5] = [b"zero", b"", b"two", &large, b"four"];
    let how = Write::default();
    assert_eq!(client.append(stream, events[0], how).expect("there is room"), 0);
    assert_eq!(client.append_batch(stream, &events[1..3], how).expect("there is room"), 1);
    for (offset, event) in (3..).zip(&events[3..]) {
        let how = Write { durability: Some(DURABILITIES[usize::from(offset == 3)]), ..Write::default() };
        assert_eq!(client.append(stream, event, how).expect("there is room"), offset);
    }
    client.sync().expect("everything can be made durable");
    let mut seen = Vec::new();
    loop {
        let page = client.read(stream, seen.len() as u64, None).expect("it can be read");
        if page.is_empty() {
            break;
        }
        seen.extend(page);
    }
    let expected: Vec<(u64, Vec<u8>)> = (0..).zip(events.map(<[u8]>::to_vec)).collect();
    assert!(seen == expected, "{durability:?}");
    assert_eq!(client.read(stream, 100, None).expect("beyond the end is nothing"), []);
    client.trim(stream, 2).expect("it can be trimmed");
    assert!(matches!(client.read(stream, 1, None), Err(ClientError::Trimmed { first: 2 })));
    assert_eq!(client.read(stream, 2, None).expect("it is kept")[0], (2, b"two".to_vec()));
    client.trim(stream, u64::MAX).expect("all of it");
    assert!(matches!(client.read(stream, 4, None), Err(ClientError::Trimmed { first: 5 })));
    assert_eq!(client.append(stream, b"five", how).expect("there is room"), 5);
    // Over several chunks of the index, trimmed as it grows.
    for _ in 0..100 {
        let first = client.append_batch(stream, &[b"e".as_slice(); 100], how).expect("there is room");
        client.trim(stream, first - 3).expect("it can be trimmed");
    }
    client.sync().expect("everything can be made durable");
    let kept = client.read(stream, 6 + 9_900 - 3, None).expect("they are kept");
    assert_eq!((kept.len(), kept[0].0), (103, 9_903));
}

fn tails(client: &mut Client) {
    let stream = client.open_stream("Strict stream", None).expect("it is there");
    let end = client.append(stream, b"last", Write::default()).expect("there is room") + 1;
    let wait = Some(Duration::from_millis(20));
    let nothing = client.read(stream, end, wait);
    assert!(
        matches!(&nothing, Ok(events) if events.is_empty())
            || matches!(nothing, Err(ClientError::Status(Status::TimedOut))),
        "{nothing:?}"
    );
    // A read that waits is answered by what comes later, on the same connection.
    let read =
        Request::Read { stream, from: end, wait: Duration::from_secs(60), reply_bytes_max: 1_024, relaxed: false };
    client.submit(77, &read).expect("there is room");
    let mut reply = Vec::new();
    assert!(client.poll(&mut reply).expect("the daemon is up").is_none());
    assert_eq!(client.append(stream, b"news", Write::default()).expect("there is room"), end);
    let answer = client.wait(&mut reply).expect("the daemon is up");
    assert_eq!((answer.user_data, answer.status, answer.version), (77, Status::Ok, end + 1));
    assert!(reply.ends_with(b"news"));
}

fn refusals(client: &mut Client) {
    let space = client.open_space("Strict space", None).expect("it is there");
    let stream = client.open_stream("Strict stream", None).expect("it is there");
    let how = Write::default();
    assert_eq!(status(client.open_space("Strict stream", None)), Status::WrongKind);
    assert_eq!(status(client.open_space("nobody made it", None)), Status::UnknownObject);
    assert_eq!(status(client.put(stream, b"key", b"", how)), Status::WrongKind);
    assert_eq!(status(client.append(space, b"event", how)), Status::WrongKind);
    assert_eq!(status(client.put(space, &[1; 1_025], b"", how)), Status::TooLarge);
    assert_eq!(status(client.put(space, b"key", &vec![1; (256 << 10) + 1], how)), Status::TooLarge);
    assert_eq!(status(client.append(stream, &vec![1; (256 << 10) + 1], how)), Status::TooLarge);
    assert_eq!(status(client.put(space, b"", b"", how)), Status::BadRequest);
    assert_eq!(status(client.append_batch(stream, &[], how)), Status::BadRequest);
    let unknown = forebay::ring::client::Object { id: forebay::types::ObjectId(999), ..space };
    assert_eq!(status(client.put(unknown, b"key", b"", how)), Status::UnknownObject);
    assert!(matches!(client.open_space("a\nb", Some(Durability::Strict)), Err(ClientError::BadName)));
    client.put(space, &[1; 1_024], b"the longest key", how).expect("it is within the limit");
}

fn catalog_and_stats(client: &mut Client) {
    let catalog = client.catalog().expect("it can be read");
    assert_eq!(catalog.len(), 9);
    for durability in DURABILITIES {
        let (_, stream) =
            catalog.iter().find(|(name, _)| *name == format!("{durability:?} stream")).expect("it is there");
        assert_eq!((stream.kind, stream.durability), (ObjectKind::Stream, durability));
    }
    let counters = client.stats().expect("they can be read");
    let sum = |at: usize| counters.iter().map(|reactor| reactor[at]).sum::<u64>();
    assert_eq!((sum(stats::SHARDS), sum(stats::SHARDS_FENCED), sum(stats::SESSIONS)), (5, 0, 2));
    assert!(counters.iter().all(|reactor| reactor[stats::REQUESTS] > 0 && reactor[stats::FRAMES] > 0));
}

#[test]
fn what_is_stored_outlives_a_change_of_reactors() {
    let place = Place::new("reactors").configured(1, "");
    place.format(64, 4);
    let mut last = 0;
    for (round, reactors) in [1, 2, 4, 2, 7, 1].into_iter().enumerate() {
        let place_now = place.config();
        let config = forebay::config::Config {
            reactors: forebay::config::Reactors { count: Some(reactors), ..place_now.reactors.clone() },
            ..place_now
        };
        let device = file(&place);
        let appliance =
            Appliance::start(&config, &device, &place.socket(), None, &mut |_| {}).expect("the appliance starts");
        assert_eq!(appliance.started.replayed_bytes, 0, "a stop in good order leaves nothing to replay");
        let mut client = place.connect();
        assert_eq!(client.reactors(), reactors.min(4), "there is a shard for every reactor");
        let space = client.open_space("space", Some(Durability::Strict)).expect("it is there");
        let stream = client.open_stream("stream", Some(Durability::Buffered)).expect("it is there");
        for number in 0..round * 50 {
            let (version, value) =
                client.get(space, &number.to_le_bytes()).expect("it can be read").expect("it outlived the stop");
            assert_eq!(value, number.to_string().as_bytes());
            assert!(version <= last);
        }
        assert_eq!(client.read(stream, 0, None).expect("it can be read").len(), round * 50);
        for number in round * 50..(round + 1) * 50 {
            let how = Write { durability: Some(DURABILITIES[number % 3]), ..Write::default() };
            let key = number.to_le_bytes();
            last = client.put(space, &key, number.to_string().as_bytes(), how).expect("there is room").max(last);
            client.append(stream, &key, how).expect("there is room");
        }
        appliance.stop().expect("it stops");
    }
}

#[test]
fn a_memory_budget_that_is_used_up_is_told_and_comes_back_with_deletes() {
    let place = Place::new("budget").configured(1, "");
    let mut config = place.config();
    config.limits.memory_bytes_max = forebay::config::ByteSize::mib(4);
    let device = memory(64 << 20, 1);
    let appliance =
        Appliance::start(&config, &device, &place.socket(), None, &mut |_| {}).expect("the appliance starts");
    let mut client = place.connect();
    // What is not logged stands nowhere but in memory.
    let space = client.open_space("space", Some(Durability::Memory)).expect("it is made");
    let stream = client.open_stream("stream", Some(Durability::Memory)).expect("it is made");
    let value = vec![5; 10_000];
    let how = Write::default();
    let mut stored = 0_u32;
    let refused = loop {
        match client.put(space, &stored.to_le_bytes(), &value, how) {
            Ok(_) => stored += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, ClientError::Status(Status::NoMemory)), "{refused}");
    assert!(stored > 100, "{stored} values of 10 kB in 4 MiB");
    assert_eq!(status(client.append(stream, &value, how)), Status::NoMemory);
    assert_eq!(status(client.append_batch(stream, &[b"small", &value], how)), Status::NoMemory);
    assert_eq!(client.read(stream, 0, None).expect("it can be read"), [], "all of a batch or nothing");
    for number in 0..stored {
        let found = client.get(space, &number.to_le_bytes()).expect("it can be read").expect("it is there");
        assert!(found.1 == value);
    }
    for number in 0..10_u32 {
        assert!(client.delete(space, &number.to_le_bytes(), how).expect("deletes go on"));
    }
    for number in 0..10_u32 {
        client.put(space, &number.to_le_bytes(), &value, how).expect("there is room again");
    }
    appliance.stop().expect("it stops");
}

#[test]
fn a_strict_read_waits_and_a_relaxed_one_does_not() {
    let place = Place::new("strict-reads").configured(1, "");
    let appliance = start(&place, &memory(32 << 20, 1));
    let mut client = place.connect();
    let space = client.open_space("space", Some(Durability::Strict)).expect("it is made");
    let relaxed_write = Write { durability: Some(Durability::Buffered), ..Write::default() };
    let mut reply = Vec::new();
    let mut lsn = 0;
    for number in 0..200_u64 {
        let value = number.to_le_bytes();
        client.submit(1, &Request::Put { space, key: b"key", value: &value, how: relaxed_write }).expect("room");
        client.submit(2, &Request::Get { space, key: b"key", relaxed: true, value_bytes_max: 8 }).expect("room");
        client.submit(3, &Request::Get { space, key: b"key", relaxed: false, value_bytes_max: 8 }).expect("room");
        client.submit(4, &Request::Noop { reactor: 0 }).expect("room");
        for _ in 0..4 {
            let answer = client.wait(&mut reply).expect("the daemon is up");
            assert_eq!(answer.status, Status::Ok);
            match answer.user_data {
                1 => {
                    assert!(answer.lsn > lsn);
                    lsn = answer.lsn;
                }
                2 | 3 => assert_eq!(reply, value, "a read sees the write before it, durable or not"),
                _ => {}
            }
        }
    }
    appliance.stop().expect("it stops");
}
