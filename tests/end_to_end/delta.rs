//! Spaces of deltas: what comes back is what was written, by several writers, with kill -9 between; and copies of them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay::ring::client::{Client, ClientError, DeltaSpace, Object, Retry, ScanRange, Transaction, Write};
use forebay::ring::protocol::{DELTA_BASES, DELTA_HEADER_BYTES, DELTA_VALUES, Status, stats};
use forebay::types::{Compression, Durability};

use crate::commands::{refused, run};
use crate::daemon::{Daemon, Place};

fn started(name: &str) -> (Place, Daemon, Client) {
    let place = Place::new(name).configured(2, "");
    place.format(64, 3);
    let mut daemon = Daemon::start(&place);
    let client = daemon.connect(&place);
    (place, daemon, client)
}

/// The value that a writer gives a key with its nth write. Every fifth has nothing in common with the one before, the others change in
/// two places; all of it follows from the three numbers at its begin.
fn document(writer: u64, nth: u64, key: u64) -> Vec<u8> {
    let mut word = (writer << 40 | (nth / 5) << 8 | key).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = format!("{writer:08}{nth:08}{key:08}").into_bytes();
    while text.len() < 1_500 {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        text.extend_from_slice(&word.to_be_bytes()[..4]);
    }
    text[900..908].copy_from_slice(&nth.to_be_bytes());
    text
}

/// Holds a value against what its begin says: the writer, and which of its writes.
fn proven(value: &[u8], key: u64) -> (u64, u64) {
    let word = |at: usize| std::str::from_utf8(&value[at..at + 8]).ok().and_then(|word| word.parse().ok());
    let said = [0, 8, 16].map(|at| word(at).expect("the begin of a document"));
    assert!(value == document(said[0], said[1], said[2]), "{said:?} is another value");
    assert_eq!(said[2], key);
    (said[0], said[1])
}

fn get(space: &mut DeltaSpace, client: &mut Client, key: &[u8]) -> Option<Vec<u8>> {
    space.get(client, key).expect("it can be read").map(|(_, value)| value)
}

fn all(space: &mut DeltaSpace, client: &mut Client) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let (mut all, mut begin) = (BTreeMap::new(), Vec::new());
    loop {
        let range = ScanRange::Range { begin: &begin, end: &[] };
        let page = space.scan(client, None, &range, 7).expect("it can be read");
        all.extend(page.pairs.into_iter().map(|pair| (pair.key, pair.value)));
        match page.cursor {
            Some(cursor) => begin = cursor,
            None => return all,
        }
    }
}

#[test]
fn values_are_written_as_deltas_and_come_back_whole() {
    let (_place, mut daemon, mut client) = started("delta-values");
    for durability in [Durability::Memory, Durability::Buffered, Durability::Strict] {
        let name = format!("{durability:?}");
        let mut space = DeltaSpace::open(&mut client, &name, Some(durability)).expect("it is made");
        let mut cold = DeltaSpace::open(&mut client, &name, None).expect("it is there").with_cache_bytes_max(0);
        let mut last = 0;
        for nth in 0..20 {
            let value = document(1, nth, 7);
            let version = space.put(&mut client, b"k", &value, Write::default()).expect("there is room");
            assert!(version > last);
            last = version;
            for reader in [&mut space, &mut cold] {
                assert_eq!(
                    reader.get(&mut client, b"k").expect("it is there"),
                    Some((version, value.clone())),
                    "{nth}"
                );
            }
        }
        let told = space.stats();
        // One whole, one base of each five, and the second one, which finds the first whole.
        assert_eq!((told.whole, told.rebased, told.deltas), (1, 4, 15), "{told:?}");
        assert!(told.ratio() > 3.0 && told.bases_cached == 1 && told.conflicts == 0, "{told:?}");
        assert_eq!((told.bases_read, cold.stats().bases_cached), (0, 0), "a hot key needs no read");
        // A writer that knows nothing goes on with the base that is there.
        cold.put(&mut client, b"k", &document(1, 21, 7), Write::default()).expect("there is room");
        assert_eq!(get(&mut space, &mut client, b"k"), Some(document(1, 21, 7)));
    }
    let counted = client.stats().expect("there are counters");
    assert!(counted.iter().all(|words| words[stats::CONFLICTS] == 0), "{counted:?}");
    assert!(daemon.stop().success());
}

#[test]
fn versions_scans_snapshots_and_deletes() {
    let (_place, _daemon, mut client) = started("delta-calls");
    let mut space = DeltaSpace::open(&mut client, "s", Some(Durability::Buffered)).expect("it is made");
    let mut other = DeltaSpace::open(&mut client, "s", None).expect("it is there");
    let at = |version| Write { if_version: Some(version), ..Write::default() };
    let first = space.put(&mut client, b"k", &document(1, 0, 1), at(0)).expect("it is absent");
    for (version, nth) in [(0, 1), (first + 1, 2)] {
        let refused = space.put(&mut client, b"k", &document(1, nth, 1), at(version));
        assert!(matches!(refused, Err(ClientError::VersionMismatch { present }) if present == first), "{refused:?}");
    }
    let second = space.put(&mut client, b"k", &document(1, 1, 1), at(first)).expect("it has this version");
    let third = space.put(&mut client, b"k", &document(1, 2, 1), at(second)).expect("it has this version");
    assert_eq!((space.stats().rebased, space.stats().deltas), (1, 1));
    let refused = space.put(&mut client, b"k", &document(1, 3, 1), at(second));
    assert!(matches!(refused, Err(ClientError::VersionMismatch { present }) if present == third), "{refused:?}");

    for key in 0..30_u64 {
        for nth in 0..=key % 4 {
            let value = if key % 9 == 8 { vec![7; 10] } else { document(2, nth, key) };
            space.put(&mut client, &[&b"n"[..], &key.to_be_bytes()].concat(), &value, Write::default()).expect("room");
        }
    }
    let snapshot = client.snapshot().expect("it is taken");
    let before = all(&mut other, &mut client);
    assert_eq!(before.len(), 31);
    // As `other` sees it, which knows no base yet.
    assert!(before.iter().all(|(key, value)| get(&mut space, &mut client, key).as_ref() == Some(value)));
    let prefix = ScanRange::Prefix { prefix: b"n\0", after: &[] };
    let page = other.scan(&mut client, None, &prefix, 5).expect("it can be read");
    assert_eq!((page.pairs.len(), &page.pairs[0].key[..2]), (5, &b"n\0"[..]));
    let after = ScanRange::Prefix { prefix: b"n\0", after: page.cursor.as_deref().expect("there is more") };
    assert_eq!(other.scan(&mut client, None, &after, 100).expect("it can be read").pairs.len(), 25);
    let range = ScanRange::Range { begin: b"a", end: b"n" };
    assert_eq!(other.scan(&mut client, None, &range, 100).expect("it can be read").pairs.len(), 1);

    for key in before.keys().filter(|key| key.last().is_some_and(|byte| byte % 2 == 0)) {
        assert!(space.delete(&mut client, key, Write::default()).expect("it is there"));
        assert!(!space.delete(&mut client, key, Write::default()).expect("it answers"));
        assert_eq!(get(&mut other, &mut client, key), None);
        let base = [&DELTA_BASES, key.as_slice()].concat();
        assert_eq!(client.get(space.object().stored(), &base).expect("it answers"), None, "its base too");
        // What others know of it is old.
        other.put(&mut client, key, &document(3, 8, 1), Write::default()).expect("there is room");
        assert_eq!(get(&mut space, &mut client, key), Some(document(3, 8, 1)));
    }
    let refused = space.delete(&mut client, b"k", at(second));
    assert!(matches!(refused, Err(ClientError::VersionMismatch { .. })), "{refused:?}");
    let range = ScanRange::Range { begin: &[], end: &[] };
    let page = other.scan(&mut client, Some(snapshot), &range, 100).expect("it is kept");
    let seen: BTreeMap<_, _> = page.pairs.into_iter().map(|pair| (pair.key, pair.value)).collect();
    assert_eq!(seen, before);
    assert!(before.iter().all(|(key, value)| {
        space.get_at(&mut client, snapshot, key).expect("it is kept").map(|(_, value)| value).as_ref() == Some(value)
    }));
}

#[test]
fn what_is_no_request_of_such_a_space_is_refused() {
    let (_place, _daemon, mut client) = started("delta-refusals");
    let mut deltas = DeltaSpace::open(&mut client, "s", Some(Durability::Buffered)).expect("it is made");
    let space = deltas.object();
    for nth in 0..3 {
        deltas.put(&mut client, b"k", &document(1, nth, 7), Write::default()).expect("there is room");
    }
    let range = ScanRange::Range { begin: &[], end: &[] };
    let write = |client: &mut Client, body: fn(&mut Transaction<'_>, Object)| {
        let write = |transaction: &mut Transaction<'_>| {
            body(transaction, space);
            Ok::<_, ClientError>(())
        };
        client.transaction(&Retry::default(), write).err()
    };
    let refusals = [
        client.get(space, b"k").err(),
        client.put(space, b"k", b"v", Write::default()).err(),
        client.delete(space, b"k", Write::default()).err(),
        client.scan(space, &range, 9).err(),
        client.list(None, space, &range, 9, true).err(),
        client.transaction(&Retry::default(), |tries| tries.get(space, b"k")).err(),
        write(&mut client, |transaction, space| transaction.put(space, b"k", b"v")),
        write(&mut client, |transaction, space| transaction.delete(space, b"k")),
    ];
    for refused in refusals {
        let refused = refused.expect("it is refused");
        assert!(matches!(refused, ClientError::HoldsDeltas) && refused.to_string().contains("DeltaSpace"), "{refused}");
    }
    let timed = Write { expires: Some(Duration::from_secs(1)), ..Write::default() };
    assert!(matches!(deltas.put(&mut client, b"k", b"v", timed), Err(ClientError::NeverExpires)));
    let long = vec![b'k'; DeltaSpace::key_bytes_max(&client) + 1];
    for (key, status) in [(&b""[..], Status::BadRequest), (&long, Status::TooLarge)] {
        let refused = deltas.put(&mut client, key, b"v", Write::default());
        assert!(matches!(refused, Err(ClientError::Status(told)) if told == status), "{refused:?}");
    }
    deltas.put(&mut client, &long[1..], b"v", Write::default()).expect("it is just short enough");
    // The largest value does not fit a commit of base and value; it stays whole, again and again.
    let mut large = document(1, 1, 1).repeat(200);
    large.truncate(client.value_bytes_max_in(space));
    for byte in 0..3 {
        large[0] = byte;
        deltas.put(&mut client, b"large", &large, Write::default()).expect("there is room");
        assert!(get(&mut deltas, &mut client, b"large").as_ref() == Some(&large));
    }
    large.push(0);
    let refused = deltas.put(&mut client, b"large", &large, Write::default());
    assert!(matches!(refused, Err(ClientError::Status(Status::TooLarge))), "{refused:?}");
    client.open_space("plain", Some(Durability::Buffered)).expect("it is made");
    let refused = DeltaSpace::open(&mut client, "plain", Some(Durability::Buffered));
    assert!(matches!(refused, Err(ClientError::NoDeltas { compression: Compression::None })), "{refused:?}");
}

#[test]
fn what_is_no_value_is_told_by_key_and_version() {
    let (_place, _daemon, mut client) = started("delta-damage");
    let mut cold = DeltaSpace::open(&mut client, "s", Some(Durability::Buffered)).expect("it is made");
    let (space, range) = (cold.object(), ScanRange::Range { begin: &[], end: &[] });
    for nth in 0..3 {
        cold.put(&mut client, b"k", &document(1, nth, 7), Write::default()).expect("there is room");
    }
    let mut cold = DeltaSpace::of(space).expect("it holds deltas").with_cache_bytes_max(0);
    let (value_key, base_key) = ([&DELTA_VALUES[..], b"k"].concat(), [&DELTA_BASES[..], b"k"].concat());
    let stored = space.stored();
    let (_, base) = client.get(stored, &base_key).expect("it answers").expect("it is there");
    let (_, value) = client.get(stored, &value_key).expect("it answers").expect("it is there");
    let mut strange = base.clone();
    strange[0] ^= 1;
    client.put(stored, &base_key, &strange, Write::default()).expect("there is room");
    let told = cold.get(&mut client, b"k").expect_err("the base is another").to_string();
    assert!(told.contains("key \"k\"") && told.contains("belongs to another value; write the key anew"), "{told}");
    let snapshot = client.snapshot().expect("it is taken");
    client.delete(stored, &base_key, Write::default()).expect("it is there");
    for told in [cold.get(&mut client, b"k"), cold.scan(&mut client, None, &range, 9).map(|_| None)] {
        let told = told.expect_err("the base is gone").to_string();
        assert!(told.contains("its base is absent"), "{told}");
    }
    assert!(matches!(cold.get_at(&mut client, snapshot, b"k"), Err(ClientError::BadDelta { .. })));
    client.put(stored, &base_key, &base, Write::default()).expect("there is room");
    assert_eq!(get(&mut cold, &mut client, b"k"), Some(document(1, 2, 7)), "the same base, with another version");
    let mut damaged = value.clone();
    damaged[DELTA_HEADER_BYTES - 1] ^= 1;
    client.put(stored, &value_key, &damaged, Write::default()).expect("there is room");
    let told = cold.get(&mut client, b"k").expect_err("its checksum is another").to_string();
    assert!(told.contains("CRC32C"), "{told}");
    cold.put(&mut client, b"k", &document(1, 3, 7), Write::default()).expect("there is room");
    assert_eq!(get(&mut cold, &mut client, b"k"), Some(document(1, 3, 7)));
}

#[test]
fn writers_that_rebase_leave_no_delta_without_its_base_after_kill_9() {
    const KEYS: u64 = 2;
    const WRITERS: u64 = 2;
    let (place, mut daemon, mut client) = started("delta-kill");
    let open = |client: &mut Client| DeltaSpace::open(client, "s", Some(Durability::Buffered)).expect("it is made");
    // What a writer knows of bases outlives the daemon.
    let mut spaces: Vec<DeltaSpace> = (0..WRITERS).map(|_| open(&mut client)).collect();
    // By key: the highest version that was acknowledged.
    let mut acknowledged: Vec<Vec<u64>> = vec![vec![0; 2]; 2];
    let mut nths = vec![0; 2];
    for _ in 0..4 {
        let mut clients: Vec<Client> = (0..=WRITERS).map(|_| daemon.connect(&place)).collect();
        let mut reader = clients.pop().expect("there is one more");
        let stopped = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writers = (0..).zip(clients).zip(&mut spaces).zip(&mut acknowledged).zip(&mut nths);
            for ((((writer, mut client), space), acknowledged), nth) in writers {
                scope.spawn(move || {
                    loop {
                        *nth += 1;
                        let key = *nth % KEYS;
                        let value = document(writer, *nth / KEYS, key);
                        match space.put(&mut client, &key.to_le_bytes(), &value, Write::default()) {
                            Ok(version) => acknowledged[usize::from(key == 1)] = version,
                            Err(ClientError::Disconnected | ClientError::Ended(_)) => return,
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
            let stopped = &stopped;
            scope.spawn(move || {
                let mut space = open(&mut reader);
                let mut last = [0; 2];
                while !stopped.load(Ordering::Relaxed) {
                    for key in 0..KEYS {
                        match space.get(&mut reader, &key.to_le_bytes()) {
                            Ok(Some((version, value))) => {
                                proven(&value, key);
                                let last = &mut last[usize::from(key == 1)];
                                assert!(version >= *last, "an older value after a newer one");
                                *last = version;
                            }
                            Ok(None) => {}
                            Err(ClientError::Disconnected | ClientError::Ended(_)) => return,
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            });
            std::thread::sleep(Duration::from_millis(250));
            daemon.kill();
            stopped.store(true, Ordering::Relaxed);
        });
        daemon = Daemon::start(&place);
        client = daemon.connect(&place);
        let mut cold = open(&mut client);
        for key in 0..KEYS {
            let found = cold.get(&mut client, &key.to_le_bytes()).expect("it can be read");
            let (version, value) = found.expect("it was acknowledged");
            let (writer, nth) = proven(&value, key);
            assert!(nth <= nths[usize::from(writer == 1)] / KEYS, "nobody wrote it");
            let last = acknowledged.iter().map(|versions| versions[usize::from(key == 1)]).max();
            assert!(Some(version) >= last, "{version} of {last:?} acknowledged");
        }
    }
    let told: Vec<_> = spaces.iter().map(DeltaSpace::stats).collect();
    assert!(told.iter().all(|told| told.rebased > 20 && told.deltas > 20), "{told:?}");
    assert!(told.iter().map(|told| told.conflicts).sum::<u64>() > 20, "they met: {told:?}");
}

#[test]
fn copies_carry_the_bases_along() {
    let (place, _daemon, mut client) = started("delta-copies");
    let mut space = DeltaSpace::open(&mut client, "s", Some(Durability::Buffered)).expect("it is made");
    let write = |space: &mut DeltaSpace, client: &mut Client, nths: std::ops::Range<u64>| {
        for key in 0..20_u64 {
            for nth in nths.clone().take(usize::try_from(key % 7).expect("it is small") + 1) {
                space.put(client, &key.to_le_bytes(), &document(1, nth, key), Write::default()).expect("there is room");
            }
        }
    };
    write(&mut space, &mut client, 0..7);
    let (backups, export) = (place.path("backups"), place.path("export"));
    let (backups, export) = (backups.to_str().expect("text"), export.to_str().expect("text"));
    let first = all(&mut space, &mut client);
    run(&place, &["backup", backups]);
    write(&mut space, &mut client, 20..27);
    let second = all(&mut space, &mut client);
    run(&place, &["backup", backups]);
    let refusal = refused(&place, &["export", "s"]);
    assert!(refusal.contains("--consistent"), "{refusal}");
    std::fs::write(export, run(&place, &["export", "--consistent"])).expect("the place is writable");
    assert!(first != second && first.len() == 20);
    for (arguments, expected) in [
        (&["restore", backups, "--at", "1"][..], &first),
        (&["restore", backups], &second),
        (&["import", export], &second),
    ] {
        // Numbers of spaces differ there, so that keys have other hashes.
        let (to, _daemon, mut client) = started("delta-copies-to");
        client.open_stream("before", Some(Durability::Buffered)).expect("it is made");
        run(&to, arguments);
        let mut copy = DeltaSpace::open(&mut client, "s", None).expect("it is there");
        assert_eq!(&all(&mut copy, &mut client), expected, "{arguments:?}");
        let own = copy.stats().bases_read;
        assert!(own > 5, "some are deltas");
        copy.put(&mut client, &6_u64.to_le_bytes(), &document(1, 28, 6), Write::default()).expect("there is room");
        assert_eq!(copy.stats().deltas, u64::from(expected == &second), "it goes on with the base that is there");
    }
    // What is deltas in one of the two is no import.
    let (to, _daemon, mut client) = started("delta-copies-other");
    client.open_space("s", Some(Durability::Buffered)).expect("it is made");
    let refusal = refused(&to, &["import", export]);
    assert!(refusal.contains("holds deltas here or in the file"), "{refusal}");
}

#[test]
fn the_commands_know_such_a_space() {
    let (place, _daemon, mut client) = started("delta-commands");
    let file = place.path("value");
    let path = file.to_str().expect("the path is text");
    for nth in 0..4 {
        std::fs::write(&file, document(1, nth, 7)).expect("the place is writable");
        run(&place, &["put", "s", "k", "--file", path, "--create", "--compression", "delta"]);
    }
    run(&place, &["put", "s", "small", "v"]);
    let mut space = DeltaSpace::open(&mut client, "s", None).expect("it is there");
    assert_eq!(get(&mut space, &mut client, b"k"), Some(document(1, 3, 7)));
    assert_eq!(space.stats().bases_read, 1, "it is a delta");
    assert_eq!(run(&place, &["get", "s", "small"]), "v");
    assert_eq!(run(&place, &["scan", "s", "--begin", "l"]), "small\tv");
    assert_eq!(run(&place, &["scan", "s", "--keys-only"]), "k\nsmall");
    run(&place, &["delete", "s", "k"]);
    assert!(refused(&place, &["get", "s", "k"]).contains("no such key"));
    assert!(refused(&place, &["put", "s", "k", "v", "--ttl", "10s"]).contains("time to live"));
}
