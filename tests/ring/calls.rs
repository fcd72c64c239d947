//! What a client can call.

use std::time::Duration;

use forebay::ring::client::{ClientError, Creation, Object, Request, ScanRange, SubmitError, Write};
use forebay::ring::protocol::Status;
use forebay::ring::segment::Shape;
use forebay::types::{Compression, Durability, ObjectId, ObjectKind};

use crate::toy::{SHAPE, Store, pair, pair_with_threads, turn};

#[test]
fn every_call_does_what_it_says() {
    let (mut client, stop, threads) = pair_with_threads(Shape { reactors: 2, ..SHAPE });
    assert!(matches!(client.open_space("a", None), Err(ClientError::Status(Status::UnknownObject))));
    let space = client.open_space("a", Some(Durability::Strict)).unwrap();
    let stream = client.open_stream("b", Some(Durability::Buffered)).unwrap();
    assert_eq!(
        (space.kind, space.durability, stream.kind),
        (ObjectKind::Space, Durability::Strict, ObjectKind::Stream)
    );
    assert!(matches!(client.open_stream("a", None), Err(ClientError::Status(Status::WrongKind))));
    assert_eq!(client.catalog().unwrap(), [("a".to_owned(), space), ("b".to_owned(), stream)]);

    let version = client.put(space, b"key", b"value", Write::default()).unwrap();
    assert_eq!(client.get(space, b"key").unwrap(), Some((version, b"value".to_vec())));
    assert_eq!(client.get(space, b"no").unwrap(), None);
    let absent = Write { if_version: Some(0), ..Write::default() };
    let error = client.put(space, b"key", b"new", absent).unwrap_err();
    assert!(matches!(error, ClientError::VersionMismatch { present } if present == version), "{error}");
    let large = vec![7u8; 1 << 20];
    client.put(space, b"large", &large, Write::default()).unwrap();
    assert_eq!(client.get(space, b"large").unwrap().unwrap().1, large);
    assert!(client.delete(space, b"key", Write::default()).unwrap());
    assert!(!client.delete(space, b"key", Write::default()).unwrap());

    assert_eq!(client.append(stream, b"zero", Write::default()).unwrap(), 0);
    assert_eq!(client.append_batch(stream, &[b"one", b"", b"three"], Write::default()).unwrap(), 1);
    let events = client.read(stream, 1, None).unwrap();
    assert_eq!(events, [(1, b"one".to_vec()), (2, Vec::new()), (3, b"three".to_vec())]);
    assert_eq!(client.read(stream, 4, Some(Duration::from_millis(1))).unwrap(), []);
    client.trim(stream, 2).unwrap();
    assert!(matches!(client.read(stream, 0, None), Err(ClientError::Trimmed { first: 2 })));
    client.sync().unwrap();
    assert_eq!(client.stats().unwrap().len(), 2);
    assert_eq!(client.in_flight(), 0);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn scans_merge_all_shards_in_order() {
    let (mut client, stop, threads) = pair_with_threads(Shape { reactors: 2, ..SHAPE });
    let space = client.open_space("a", Some(Durability::Memory)).unwrap();
    let other = client.open_space("b", Some(Durability::Memory)).unwrap();
    let value = vec![1u8; 3_000];
    let keys: Vec<Vec<u8>> = (0..300).map(|number| format!("k{number:03}").into_bytes()).collect();
    for key in &keys {
        client.put(space, key, &value, Write::default()).unwrap();
    }
    client.put(other, b"k000x", b"", Write::default()).unwrap();
    client.put(space, b"z", &vec![2u8; 200_000], Write::default()).unwrap();

    // In pages of 7, across replies that hold about 20 pairs each.
    let (mut begin, mut seen) = (b"k01".to_vec(), Vec::new());
    loop {
        let page = client.scan(space, &ScanRange::Range { begin: &begin, end: b"k290" }, 7).unwrap();
        seen.extend(page.pairs.into_iter().map(|pair| pair.key));
        match page.cursor {
            Some(cursor) => begin = cursor,
            None => break,
        }
    }
    assert_eq!(seen, keys[10..290]);

    let (mut after, mut seen) = (Vec::new(), Vec::new());
    loop {
        let page = client.scan(space, &ScanRange::Prefix { prefix: b"k1", after: &after }, 11).unwrap();
        seen.extend(page.pairs.into_iter().map(|pair| pair.key));
        match page.cursor {
            Some(cursor) => after = cursor,
            None => break,
        }
    }
    assert_eq!(seen, keys[100..200]);

    let all = client.scan(space, &ScanRange::Range { begin: b"", end: b"" }, 1_000).unwrap();
    assert_eq!((all.pairs.len(), all.cursor), (301, None), "one pair is larger than a reply");
    assert!(client.scan(space, &ScanRange::Range { begin: b"", end: b"" }, 0).unwrap().pairs.is_empty());
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn pipelined_answers_survive_a_blocking_call() {
    let (mut client, stop, threads) = pair_with_threads(SHAPE);
    let space = client.open_space("a", Some(Durability::Memory)).unwrap();
    for number in 0..10u64 {
        let key = number.to_le_bytes();
        let how = Write::default();
        client.submit(number, &Request::Put { space, key: &key, value: b"v", how }).unwrap();
    }
    assert_eq!(client.get(space, &3u64.to_le_bytes()).unwrap().unwrap().1, b"v");
    assert_eq!(client.in_flight(), 10);
    let mut reply = Vec::new();
    let mut seen: Vec<u64> = (0..10).map(|_| client.wait(&mut reply).unwrap().user_data).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..10).collect::<Vec<u64>>());
    assert!(matches!(client.wait(&mut reply), Err(ClientError::NothingInFlight)));
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn compressed_values_are_plain_to_every_call() {
    let (mut client, stop, threads) = pair_with_threads(Shape { reactors: 2, ..SHAPE });
    for compression in [Compression::Lz4, Compression::Zstd] {
        let creation = Creation { durability: Durability::Memory, compression, chained: false };
        let space = client.create_space(compression.name(), creation).unwrap();
        assert_eq!((space.compression, client.open_space(compression.name(), None).unwrap()), (compression, space));
        let before = client.compression_stats();
        let large = b"all work and no play ".repeat(20_000);
        for (key, value) in [(&b"k0"[..], &b"small"[..]), (b"k1", b""), (b"k2", &large), (b"k3", &vec![7; 100_000])] {
            let version = client.put(space, key, value, Write::default()).unwrap();
            assert_eq!(client.get(space, key).unwrap(), Some((version, value.to_vec())));
            let stale = Write { if_version: Some(version - 1), ..Write::default() };
            let error = client.put(space, key, value, stale).unwrap_err();
            assert!(matches!(error, ClientError::VersionMismatch { present } if present == version), "{error}");
        }
        let stats = client.compression_stats();
        assert_eq!((stats.values - before.values, stats.compressed - before.compressed), (8, 4), "refused ones count");
        let all = client.scan(space, &ScanRange::Range { begin: b"", end: b"" }, 10).unwrap();
        let values: Vec<usize> = all.pairs.iter().map(|pair| pair.value.len()).collect();
        assert_eq!(values, [5, 0, large.len(), 100_000]);
        assert!(all.pairs[2].value == large);

        // What stands there is small, with its form before it.
        let raw = Object { compression: Compression::None, ..space };
        let (_, stored) = client.get(raw, b"k2").unwrap().unwrap();
        assert!(stored.len() < 3_000 && stored[0] == compression as u8, "{} B", stored.len());
        assert_eq!(client.get(raw, b"k0").unwrap().unwrap().1, b"\0small");
        assert_eq!(client.value_bytes_max_in(space) + 1, client.value_bytes_max_in(raw));
        let too_large = vec![0; client.value_bytes_max()];
        let error = client.put(space, b"k4", &too_large, Write::default()).unwrap_err();
        assert!(matches!(error, ClientError::Status(Status::TooLarge)), "{error}");
        client.put(space, b"k4", &too_large[1..], Write::default()).unwrap();
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_full_ring_that_is_lost_is_no_back_pressure_for_compressed_values() {
    let (mut client, rings) = pair(SHAPE);
    let (id, kind, durability) = (ObjectId(1), ObjectKind::Space, Durability::Memory);
    let space = Object { id, kind, durability, compression: Compression::Lz4 };
    let put = Request::Put { space, key: b"k", value: &[7; 100], how: Write::default() };
    let full = (0..100).find_map(|number| client.submit(number, &put).err());
    assert!(matches!(full, Some(SubmitError::Full)), "{full:?}");
    assert_eq!(client.compression_stats().values, 16, "what found no room does not count");
    drop(rings);
    client.wait(&mut Vec::new()).unwrap_err();
    assert!(matches!(client.submit(0, &put), Err(SubmitError::Client(ClientError::Disconnected))));
}

#[test]
fn a_value_that_cannot_be_read_fails_its_own_request_alone() {
    let (mut client, stop, threads) = pair_with_threads(SHAPE);
    let creation = Creation { durability: Durability::Memory, compression: Compression::Zstd, chained: false };
    let space = client.create_space("a", creation).unwrap();
    let raw = Object { compression: Compression::None, ..space };
    let bomb = [&[2][..], &u32::MAX.to_le_bytes(), b"boom"].concat();
    let cut = [&[2][..], &100u32.to_le_bytes(), b"cut"].concat();
    for (key, stored) in [(&b"bomb"[..], &bomb[..]), (b"cut", &cut), (b"unknown", b"\x09v"), (b"void", b"")] {
        client.put(raw, key, stored, Write::default()).unwrap();
        let error = client.get(space, key).unwrap_err();
        assert!(matches!(error, ClientError::BadValue { .. }), "{error}");
    }
    client.put(space, b"good", b"value", Write::default()).unwrap();
    let get = |key| Request::Get { space, key, relaxed: false, value_bytes_max: 100 };
    for (user_data, key) in [(1, &b"good"[..]), (2, b"cut"), (3, b"good")] {
        client.submit(user_data, &get(key)).unwrap();
    }
    assert_eq!(client.get(space, b"good").unwrap().unwrap().1, b"value", "answers of others stay with them");
    let (mut reply, mut seen) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        match client.wait(&mut reply) {
            Ok(answer) => {
                assert_eq!(reply, b"value");
                seen.push(answer.user_data);
            }
            Err(ClientError::BadValue { user_data, .. }) => assert_eq!(user_data, 2),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((seen, client.in_flight()), (vec![1, 3], 0));
    let error = client.scan(space, &ScanRange::Range { begin: b"", end: b"" }, 10).unwrap_err().to_string();
    assert!(error.contains("of key \"") && error.contains("write the key anew"), "{error}");
    for key in [&b"bomb"[..], b"cut", b"unknown", b"void"] {
        client.put(space, key, b"mended", Write::default()).unwrap();
    }
    assert_eq!(client.scan(space, &ScanRange::Range { begin: b"", end: b"" }, 10).unwrap().pairs.len(), 5);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn a_full_ring_or_arena_is_back_pressure_and_nothing_is_lost() {
    for (sq_entries, cq_entries, value_bytes) in [(4, 8, 10), (8, 4, 10), (16, 16, 3_000), (2, 2, 60_000)] {
        let shape = Shape { sq_entries, cq_entries, arena_bytes: 64 << 10, ..SHAPE };
        let (mut client, mut rings) = pair(shape);
        let mut store = Store::default();
        let mut reply = Vec::new();
        let space = Object {
            id: ObjectId(1),
            kind: ObjectKind::Space,
            durability: Durability::Memory,
            compression: Compression::None,
        };
        let value = vec![5u8; value_bytes];
        let (mut sent, mut answered, mut full) = (0u64, 0u64, 0);
        while answered < 1_000 {
            let key = (sent % 50).to_le_bytes();
            let put = Request::Put { space, key: &key, value: &value, how: Write::default() };
            let get = Request::Get { space, key: &key, relaxed: true, value_bytes_max: value_bytes };
            match client.submit(sent, if sent % 3 == 0 { &get } else { &put }) {
                Ok(()) => sent += 1,
                Err(SubmitError::Full) => {
                    full += 1;
                    assert!(client.in_flight() > 0);
                    turn(&mut rings[0], &mut store, 3);
                    while let Some(answer) = client.poll(&mut reply).unwrap() {
                        assert_eq!(answer.user_data, answered, "this reactor answers in order");
                        assert!(reply.is_empty() || reply == value);
                        answered += 1;
                    }
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(full > 50);
    }
}

#[test]
fn what_no_daemon_would_take_is_refused_before_it_is_sent() {
    let (mut client, mut rings) = pair(SHAPE);
    let space = Object {
        id: ObjectId(1),
        kind: ObjectKind::Space,
        durability: Durability::Memory,
        compression: Compression::None,
    };
    let how = Write::default();
    let mut refused = |request: &Request<'_>| match client.submit(0, request) {
        Err(SubmitError::Client(error)) => error.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(refused(&Request::Put { space, key: &[0; 1_025], value: b"", how }).contains("limits"));
    assert!(refused(&Request::Put { space, key: b"k", value: &vec![0; 5 << 20], how }).contains("arena_bytes"));
    assert!(refused(&Request::Noop { reactor: 1 }).contains("make no sense"));
    let from_reply = Request::Get { space, key: b"k", relaxed: false, value_bytes_max: usize::MAX };
    assert!(refused(&from_reply).contains("limits"));
    assert_eq!(rings[0].peek(), Ok(None));
    assert!(matches!(client.open_space("", None), Err(ClientError::BadName)));
    assert!(matches!(client.open_space(&"n".repeat(256), None), Err(ClientError::BadName)));
}
