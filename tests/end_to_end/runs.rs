//! Runs: steps that are whole after kill -9, a replay that says the same each time, states that others write beside, and
//! files that come back as they were.

use std::fs;
use std::path::PathBuf;

use forebay::ring::client::{Client, ClientError, CursorMove, Write};
use forebay::ring::protocol::to_usize;
use forebay::run::step::{Change, Step};
use forebay::run::{Run, RunError, STATE_CURSOR, file};
use forebay::types::Durability;

use crate::commands::{json, refused, run, with_input};
use crate::daemon::{Daemon, Place};

fn started(name: &str) -> (Place, Daemon, Client) {
    let place = Place::new(name).configured(2, "");
    place.format(64, 3);
    let mut daemon = Daemon::start(&place);
    let client = daemon.connect(&place);
    (place, daemon, client)
}

fn put<'a>(space: &'a str, key: &'a [u8], value: &'a [u8]) -> Change<'a> {
    Change::Put { space, key, value }
}

fn number(value: Option<&[u8]>) -> u64 {
    value.map_or(0, |value| u64::from_le_bytes(value.try_into().expect("eight bytes")))
}

/// All that a run's spaces hold.
fn held(run: &Run) -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let of = |space: &str| {
        let pairs = run.scan(space).map(|(key, value)| (space.to_owned(), key.to_vec(), value.to_vec()));
        pairs.collect::<Vec<_>>()
    };
    run.spaces().flat_map(of).collect()
}

/// The events of a run, with their offsets.
fn events(client: &mut Client, run: &Run) -> Vec<(u64, Vec<u8>)> {
    let mut all: Vec<(u64, Vec<u8>)> = Vec::new();
    loop {
        let from = all.last().map_or(0, |(offset, _)| offset + 1);
        let some = client.read(run.stream(), from, None).expect("it can be read");
        if some.is_empty() {
            return all;
        }
        all.extend(some);
    }
}

#[test]
fn steps_are_whole_and_in_order_after_kill_9() {
    const WRITERS: u8 = 3;
    let (place, mut daemon, mut client) = started("runs-kill");
    Run::open(&mut client, "agent", Some(Durability::Buffered)).expect("it is made");
    let mut acknowledged = vec![0; usize::from(WRITERS)];
    for _ in 0..4 {
        let mut clients: Vec<Client> = (0..WRITERS).map(|_| daemon.connect(&place)).collect();
        std::thread::scope(|scope| {
            for ((writer, client), last) in (0..).zip(&mut clients).zip(&mut acknowledged) {
                scope.spawn(move || {
                    let mut run = Run::open(client, "agent", None).expect("it is there");
                    loop {
                        let key = [writer];
                        let next = (number(run.get("one", &key)) + 1).to_le_bytes();
                        let changes = [
                            put("one", &key, &next),
                            Change::Event { stream: "log", event: &[&key[..], &next].concat() },
                            put("other", &key, &next),
                        ];
                        match run.write(client, &changes, None) {
                            Ok(_) => *last = u64::from_le_bytes(next),
                            Err(RunError::Client(_)) => break,
                            Err(error) => panic!("{error}"),
                        }
                    }
                });
            }
            std::thread::sleep(std::time::Duration::from_millis(150));
            daemon.kill();
        });
        daemon = Daemon::start(&place);
        let mut client = daemon.connect(&place);
        let run = Run::open(&mut client, "agent", None).expect("it is there");
        let mut told = vec![0; usize::from(WRITERS)];
        for (_, event) in events(&mut client, &run) {
            let step = Step::decode(&event).expect("it is a step");
            let Change::Event { event, .. } = step.changes[1] else { panic!("{step:?}") };
            let (writer, value) = event.split_first().expect("it has a writer");
            told[usize::from(*writer)] += 1;
            assert_eq!(number(Some(value)), told[usize::from(*writer)], "in the order in which it was written");
        }
        for (writer, last) in (0..).zip(&mut acknowledged) {
            let [one, other] = ["one", "other"].map(|space| number(run.get(space, &[writer])));
            assert!(one == other && one == told[usize::from(writer)], "writer {writer}: {one} {other} {told:?}");
            assert!(one >= *last && one <= *last + 1, "writer {writer}: {one} of {last} acknowledged");
            *last = one;
        }
    }
    assert!(acknowledged.iter().all(|last| *last > 20), "{acknowledged:?}");
}

#[test]
fn a_state_holds_what_others_write_beside_it_and_what_came_before_may_go() {
    let (place, mut daemon, mut client) = started("runs-compact");
    let mut run = Run::open(&mut client, "agent", Some(Durability::Buffered)).expect("it is made");
    // Several parts of a state.
    for key in 0..40_u64 {
        run.write(&mut client, &[put("big", &key.to_le_bytes(), &[7; 30_000])], None).expect("there is room");
    }
    run.write(&mut client, &[Change::Delete { space: "big", key: &3_u64.to_le_bytes() }], None).expect("there is room");
    let mut others = daemon.connect(&place);
    for round in 0..4_u64 {
        let (done, compacted) = std::thread::scope(|scope| {
            let busy = scope.spawn(|| {
                let mut run = Run::open(&mut others, "agent", None).expect("it is there");
                for value in 0..200_u64 {
                    let (gone, value) = ((value % 40).to_le_bytes(), (round * 200 + value).to_le_bytes());
                    let changes = [put("small", b"counter", &value), Change::Delete { space: "big", key: &gone }];
                    run.write(&mut others, &changes[..1 + usize::from(round > 1)], None).expect("there is room");
                }
                held(&run)
            });
            let compacted = run.compact(&mut client, round % 2 == 1).expect("it is compacted");
            (busy.join().expect("it ends"), compacted)
        });
        assert!(compacted.as_of > 0 && compacted.pairs <= 40, "{compacted:?}");
        let again = Run::open(&mut client, "agent", None).expect("it is there");
        run.refresh(&mut client).expect("it was read up to here");
        assert_eq!((held(&again), again.next()), (held(&run), run.next()), "round {round}");
        assert!(held(&again) == done, "round {round}");
        if round == 0 {
            assert_eq!(held(&again).len(), 40);
        }
    }
    assert_eq!(held(&run).len(), 1, "the last rounds deleted the others");
    // Trimmed, and none the less whole: after a restart, and as a file.
    assert!(daemon.stop().success());
    let mut daemon = Daemon::start(&place);
    let mut client = daemon.connect(&place);
    let again = Run::open(&mut client, "agent", None).expect("it is there");
    assert_eq!(held(&again), held(&run));
    let path = place.path("agent.run");
    let written = file::export(&mut client, "agent", &path, |_| {}).expect("it is written");
    assert!(written.first > 0);
    file::import(&mut client, &path, Some("again"), |_| {}).expect("it is read");
    let copy = Run::open(&mut client, "again", None).expect("it is made");
    assert_eq!((held(&copy), copy.next()), (held(&run), again.next()));
    // Without its state it is no run any more.
    client.trim(run.stream(), again.next()).expect("it is there");
    assert!(matches!(Run::open(&mut client, "agent", None), Err(RunError::Trimmed { .. })));
    let refused = refused(&place, &["run", "scan", "agent"]);
    assert!(refused.contains("forebay run import"), "{refused}");
}

#[test]
fn a_run_that_another_compacts_goes_on_and_is_found_again() {
    let (place, mut daemon, mut client) = started("runs-beside");
    let mut run = Run::open(&mut client, "agent", Some(Durability::Buffered)).expect("it is made");
    for key in 0..80_u64 {
        run.write(&mut client, &[put("big", &key.to_le_bytes(), &[7; 30_000])], None).expect("there is room");
    }
    let mut other = daemon.connect(&place);
    let mut beside = Run::open(&mut other, "agent", None).expect("it is there");
    let compact = |other: &mut Client, beside: &mut Run, key: u64| {
        let key = key.to_le_bytes();
        let changes = [Change::Delete { space: "big", key: &key }, put("small", b"last", &key)];
        beside.write(other, &changes, None).expect("there is room");
        beside.compact(other, true).expect("it is compacted").as_of
    };
    compact(&mut other, &mut beside, 0);
    // Who was behind goes on from the state, and is not told that its step failed.
    run.write(&mut client, &[put("small", b"own", b"1")], None).expect("it was not in the way");
    beside.refresh(&mut other).expect("it can be read");
    assert_eq!((held(&run), run.next()), (held(&beside), beside.next()));
    compact(&mut other, &mut beside, 1);
    assert!(run.refresh(&mut client).expect("it can be read") > 1);
    beside.refresh(&mut other).expect("it can be read");
    assert_eq!((held(&run), run.next()), (held(&beside), beside.next()));
    // An export that it overtakes begins anew.
    let (path, mut key) = (place.path("agent.run"), 2);
    let told = file::export(&mut client, "agent", &path, |_| {
        if key < 4 {
            compact(&mut other, &mut beside, key);
            key += 1;
        }
    });
    assert!(key > 2, "nothing overtook it");
    beside.refresh(&mut other).expect("it can be read");
    assert_eq!(told.expect("it is written").next, beside.next());
    assert_eq!(
        fs::read_dir(path.parent().unwrap())
            .unwrap()
            .filter(|entry| { entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".unfinished") })
            .count(),
        0
    );
    file::import(&mut client, &path, Some("copy"), |_| {}).expect("it is read");
    let copy = Run::open(&mut client, "copy", None).expect("it is there");
    assert_eq!((held(&copy), copy.next()), (held(&beside), beside.next()));
    // The cursor of a backup is older than the trim; an export may be without it.
    let back = CursorMove { rewind: true, ..CursorMove::default() };
    client.set_cursor(beside.stream(), STATE_CURSOR, 3, back).expect("it may go back");
    let again = Run::open(&mut client, "agent", None).expect("the state is there");
    assert_eq!((held(&again), again.next()), (held(&beside), beside.next()));
    client.drop_cursor(beside.stream(), STATE_CURSOR).expect("it is there");
    let again = Run::open(&mut client, "agent", None).expect("the state is there");
    assert_eq!((held(&again), again.next()), (held(&beside), beside.next()));
}

#[test]
fn a_file_holds_a_run_or_is_refused() {
    let (place, mut daemon, mut client) = started("runs-file");
    let stream = client.open_chained("agent", Durability::Buffered).expect("it is made");
    let mut run = Run::open(&mut client, "agent", None).expect("it is there");
    for step in 0..600_u64 {
        let (key, value) = ((step % 50).to_le_bytes(), step.to_le_bytes().repeat(1 + to_usize(step * 7 % 400)));
        let changes = [put("state", &key, &value), Change::Event { stream: "log", event: b"" }];
        run.write(&mut client, &changes, Some(Durability::Memory)).expect("there is room");
    }
    let (path, bad) = (place.path("agent.run"), place.path("bad.run"));
    let summary = file::export(&mut client, "agent", &path, |_| {}).expect("it is written");
    assert!(summary.chained && (summary.first, summary.next) == (0, 600));
    assert_eq!(file::check(&path).expect("it is whole"), summary);
    assert!(matches!(file::import(&mut client, &path, None, |_| {}), Err(RunError::IsThere(_))));
    let bytes = fs::read(&path).unwrap();
    let (mut tried, mut told) = (0, 0);
    for at in (0..bytes.len()).step_by(bytes.len() / 200) {
        for damage in [&bytes[..at], &[&bytes[..], &[0]].concat()] {
            fs::write(&bad, damage).unwrap();
            let refused = file::import(&mut client, &bad, Some("bad"), |_| {});
            assert!(matches!(refused, Err(RunError::BadFile(_))), "byte {at}: {refused:?}");
        }
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x40;
        fs::write(&bad, damaged).unwrap();
        tried += 1;
        match file::check(&bad) {
            Err(RunError::BadFile(_)) => told += 1,
            // A bit of the codec that says nothing: the digest proves the contents.
            checked => assert_eq!(checked.expect("it can be read"), summary),
        }
    }
    assert!(told * 10 > tried * 9, "{told} of {tried}");
    // Another byte of a step under a checksum of the codec that is right: the digest alone tells.
    let mut plain = zstd::decode_all(&bytes[..]).unwrap();
    let at = plain.len() - 100;
    plain[at] ^= 1;
    fs::write(&bad, zstd::encode_all(&plain[..], 3).unwrap()).unwrap();
    let error = file::import(&mut client, &bad, Some("bad"), |_| {}).expect_err("it is another one");
    assert!(error.to_string().contains("digest"), "{error}");
    assert!(client.open_stream("bad", None).is_err(), "nothing was written");
    // Another appliance has the same run, to the last hash.
    let (_to, _daemon, mut other) = started("runs-file-to");
    file::import(&mut other, &path, None, |_| {}).expect("it is read");
    let again = Run::open(&mut other, "agent", None).expect("it is made");
    assert_eq!(held(&again), held(&run));
    let head = client.verify_stream(stream).expect("it is whole").head;
    assert_eq!(other.verify_stream(again.stream()).expect("it is whole").head, head);
    assert_eq!(events(&mut other, &again), events(&mut client, &run));
    // Compacted and trimmed too: steps keep their offsets, and the chain goes on.
    run.compact(&mut client, true).expect("it is compacted");
    let short = place.path("short.run");
    let summary = file::export(&mut client, "agent", &short, |_| {}).expect("it is written");
    assert_eq!((summary.first, summary.next), (600, 601));
    file::import(&mut other, &short, Some("short"), |_| {}).expect("it is read");
    let again = Run::open(&mut other, "short", None).expect("it is made");
    assert_eq!((held(&again), again.next()), (held(&run), 601));
    let [here, there] = [client.verify_stream(stream), other.verify_stream(again.stream())];
    assert_eq!(here.expect("it is whole"), there.expect("it is whole"));
    // What is no step is told.
    client.append(stream, b"a stranger", Write::default()).expect("there is room");
    assert!(matches!(run.refresh(&mut client), Err(RunError::NotAStep { offset: 601 })));
    let refused = refused(&place, &["run", "replay", "agent", "--from", "601"]);
    assert!(refused.contains("event 601"), "{refused}");
    daemon.kill();
    let gone = run.write(&mut client, &[put("s", b"k", b"v")], None);
    assert!(matches!(gone, Err(RunError::Client(ClientError::Disconnected))), "{gone:?}");
}

/// A chained run of 600 steps, and a file of it.
fn exported(place: &Place, client: &mut Client) -> (Run, PathBuf) {
    client.open_chained("agent", Durability::Buffered).expect("it is made");
    let mut run = Run::open(client, "agent", None).expect("it is there");
    for step in 0..600_u64 {
        run.write(client, &[put("state", &step.to_le_bytes(), &[7; 900])], Some(Durability::Memory))
            .expect("there is room");
    }
    let path = place.path("agent.run");
    file::export(client, "agent", &path, |_| {}).expect("it is written");
    (run, path)
}

#[test]
fn what_no_run_has_is_refused_under_a_digest_that_is_right() {
    let (place, _daemon, mut client) = started("runs-forged");
    let (_, path) = exported(&place, &mut client);
    let (bytes, bad) = (fs::read(&path).unwrap(), place.path("bad.run"));
    for (at, byte, cause) in [
        (24, 1, "durability"),
        (23, 0x80, "offsets"),
        (27, 1, "begin"),
        (25, 0, "begin"),
        (26, 0, "called"),
        (64, 7, "called"),
    ] {
        let mut other = zstd::decode_all(&bytes[..]).unwrap();
        other[at] = byte;
        other[32] = 1;
        let digest = blake3::hash(&other[..other.len() - blake3::OUT_LEN]);
        let end = other.len() - blake3::OUT_LEN;
        other[end..].copy_from_slice(digest.as_bytes());
        fs::write(&bad, zstd::encode_all(&other[..], 3).unwrap()).unwrap();
        let error = file::import(&mut client, &bad, Some("bad"), |_| {}).expect_err("it is none");
        assert!(error.to_string().contains(cause), "byte {at}: {error}");
    }
    assert!(client.open_stream("bad", None).is_err(), "nothing was written");
}

#[test]
fn an_import_that_was_interrupted_goes_on() {
    let (place, mut daemon, mut client) = started("runs-part");
    let (run, path) = exported(&place, &mut client);
    let head = client.verify_stream(run.stream()).expect("it is whole").head;
    let mut other = daemon.connect(&place);
    let mut part: Vec<(u64, Vec<u8>)> = events(&mut client, &run);
    part.truncate(301);
    for (name, chained) in [("part", true), ("begun", true), ("longer", true), ("other", true), ("unlinked", false)] {
        let stream = if chained {
            other.open_chained(name, Durability::Buffered)
        } else {
            other.open_stream(name, Some(Durability::Buffered))
        };
        let stream = stream.expect("it is made");
        let (all, own) = (events(&mut client, &run), part[7].1.clone());
        let held: Vec<&[u8]> = match name {
            "begun" => vec![],
            "longer" => all.iter().map(|(_, event)| event.as_slice()).chain([own.as_slice()]).collect(),
            "other" => part.iter().map(|(_, event)| event.as_slice()).chain([own.as_slice()]).collect(),
            _ => part.iter().map(|(_, event)| event.as_slice()).collect(),
        };
        held.iter().for_each(|event| _ = other.append(stream, event, Write::default()).expect("there is room"));
        let imported = file::import(&mut other, &path, Some(name), |_| {});
        if !["part", "begun"].contains(&name) {
            assert!(matches!(imported, Err(RunError::IsThere(_))), "{name}: {imported:?}");
            continue;
        }
        assert_eq!(imported.expect("it goes on").next, 600);
        let again = Run::open(&mut other, name, None).expect("it is there");
        assert_eq!(events(&mut other, &again), events(&mut client, &run));
        assert_eq!(other.verify_stream(again.stream()).expect("it is whole").head, head);
    }
}

#[test]
fn the_commands_write_read_and_replay() {
    let (place, _daemon, mut client) = started("runs-commands");
    assert_eq!(run(&place, &["run", "put", "agent", "state", "goal", "find", "--create=strict"]), "0");
    assert_eq!(run(&place, &["run", "append", "agent", "log", "--hex", "00ff"]), "1");
    let two =
        r#"{"changes":[{"put":"state","key":"goal","value":"found"},{"put":"state","key":"n","value_hex":"ff"}]}"#;
    assert_eq!(with_input(place.forebay(&["run", "step", "agent"]), two.as_bytes()).stdout, b"2\n");
    assert_eq!(run(&place, &["run", "delete", "agent", "state", "n"]), "3");
    assert_eq!(run(&place, &["run", "get", "agent", "state", "goal"]), "found");
    assert!(refused(&place, &["run", "get", "agent", "state", "n"]).contains("absent"));
    assert_eq!(run(&place, &["run", "scan", "agent"]), "state");
    assert_eq!(run(&place, &["run", "scan", "agent", "state"]), "goal\tfound");
    let lines = run(&place, &["run", "replay", "agent", "--hex"]);
    let first = "0\tput\tstate\t676f616c\t66696e64\n1\tevent\tlog\t00ff\n";
    assert!(lines.starts_with(first) && lines.ends_with("3\tdelete\tstate\t6e"), "{lines}");
    let before = run(&place, &["--json", "run", "replay", "agent"]);
    assert!(run(&place, &["run", "compact", "agent"]).contains("1 pairs"));
    assert_eq!(run(&place, &["--json", "run", "replay", "agent"]), before, "the same each time");
    // What a replay says can be written again.
    assert!(with_input(place.forebay(&["run", "step", "copy", "--create"]), before.as_bytes()).status.success());
    let [one, copy] = ["agent", "copy"].map(|name| held(&Run::open(&mut client, name, None).expect("it is there")));
    assert_eq!(one, copy);
    let file = place.path("agent.run");
    let file = file.to_str().unwrap();
    assert_eq!(json(&place, &["run", "export", "agent", file])[0]["steps"], 5);
    assert!(refused(&place, &["run", "export", "agent", file]).contains("exists"));
    assert_eq!(run(&place, &["run", "check", file]), "run \"agent\": 5 steps from offset 0 on, strict");
    assert_eq!(json(&place, &["run", "import", file, "--as", "third"])[0]["run"], "third");
    assert_eq!(run(&place, &["append", "plain", "an event", "--create"]), "0");
    for arguments in [
        &["run", "put", "agent", "", "k", "v"][..],
        &["run", "put", "nobody", "state", "k", "v"],
        &["run", "put", "nobody", "state", "k", "v", "--create=memory"],
        &["run", "put", "plain", "state", "k", "v"],
        &["run", "replay", "nobody"],
        &["run", "import", file],
        &["run", "check", "/dev/null"],
    ] {
        assert!(refused(&place, arguments).contains(';'), "{arguments:?} with what to do");
    }
}
