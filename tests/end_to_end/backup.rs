//! `backup` and `restore`: chains of files, what each stands for, and what is refused.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forebay::ring::client::{Client, CursorMove, Head, Retry, Write};
use forebay::run::Run;
use forebay::run::step::Change;
use forebay::types::{Durability, PageHint};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::commands::{json, refused, run};
use crate::daemon::{Daemon, Place};
use crate::dump::{contents, fill, started};

/// A directory of backups, of a place.
struct Backups<'a> {
    place: &'a Place,
    path: PathBuf,
}

impl<'a> Backups<'a> {
    fn new(place: &'a Place) -> Backups<'a> {
        Backups { place, path: place.path("backups") }
    }

    fn directory(&self) -> &str {
        self.path.to_str().expect("the path is text")
    }

    fn file(&self, sequence: u64) -> PathBuf {
        self.path.join(format!("{sequence:06}.backup"))
    }

    fn take(&self, more: &[&str]) -> Value {
        json(self.place, &[&["backup", self.directory()], more].concat()).remove(0)
    }

    /// The one line that refuses a backup.
    fn refused(&self) -> String {
        refused(self.place, &["backup", self.directory()])
    }

    fn bytes(&self) -> u64 {
        let all = fs::read_dir(&self.path).expect("it is there").map(|entry| entry.expect("it is readable"));
        all.map(|entry| entry.metadata().expect("it is there").len()).sum()
    }
}

fn index(number: u64) -> usize {
    usize::try_from(number).expect("it is small")
}

/// What a backup stands for, in an appliance of its own, after a power cut.
fn restored(name: &str, backups: &Backups<'_>, at: u64) -> (Vec<Value>, Option<Head>) {
    let (to, mut daemon, client) = started(name);
    drop(client);
    let told = json(&to, &["restore", backups.directory(), "--at", &at.to_string()]);
    assert_eq!(told[0]["sequence"], at);
    daemon.kill();
    to.lose_memory();
    let mut daemon = Daemon::start(&to);
    let mut client = daemon.connect(&to);
    let found = contents(&to);
    let events = found.iter().filter(|line| line["kind"] == "event").count();
    assert_eq!(told[0]["events"], events);
    let line = refused(&to, &["restore", backups.directory()]);
    assert!(line.contains("is there already; nothing was changed"), "{line}");
    assert!(contents(&to) == found, "what refused changed something");
    let chained = client.open_stream("chained", None).expect("it is there");
    (found, Some(client.verify_stream(chained).expect("it is proven").head))
}

fn overwrite(client: &mut Client, round: u64) {
    let how = Write { durability: Some(Durability::Buffered), ..Write::default() };
    let orders = client.open_space("orders", None).expect("it is there");
    for number in (0..300_u64).filter(|number| number % 7 == round) {
        client.put(orders, format!("k{number:03}").as_bytes(), &[b'r'; 90], how).expect("there is room");
        client.delete(orders, format!("k{:03}", number + 2).as_bytes(), how).expect("it is there, or not");
    }
    client.put(orders, format!("new {round}").as_bytes(), b"of this round", how).expect("there is room");
    let brief = Write { expires: Some(Duration::from_millis(1)), ..how };
    client.put(orders, b"brief", b"over at once", brief).expect("there is room");
    client
        .put(orders, b"longer", b"x", Write { expires: Some(Duration::from_secs(900)), ..how })
        .expect("there is room");
    std::thread::sleep(Duration::from_millis(5));
    let events = client.open_stream("events", None).expect("it is there");
    let chained = client.open_stream("chained", None).expect("it is there");
    for number in 0..30_u64 {
        client.append(events, format!("round {round}, {number}").as_bytes(), how).expect("there is room");
        client.append(chained, &number.to_le_bytes(), how).expect("there is room");
    }
    client.trim(events, 100 * round).expect("it is there");
    client.trim(chained, 7 + 15 * (round - 1)).expect("it is there");
    let forward = CursorMove { rewind: true, ..CursorMove::default() };
    client.set_cursor(events, "reader", 700 + round, forward).expect("it is there");
    let pages = client.open_pages("heap", None).expect("it is there");
    for number in round..round + 5 {
        client.write_pages(pages, &[(number, &[0xee; 4_096])], None).expect("there is room");
    }
    client.discard_pages(pages, &[60 + round], None).expect("it is there");
    let made = client.open_space(&format!("made in round {round}"), Some(Durability::Strict)).expect("it is made");
    client.put(made, b"k", b"v", Write::default()).expect("there is room");
}

#[test]
fn a_chain_brings_back_each_moment() {
    let (from, mut daemon, mut client) = started("backup-chain");
    fill(&mut client);
    let backups = Backups::new(&from);
    let head = |client: &mut Client| {
        let chained = client.open_stream("chained", None).expect("it is there");
        client.verify_stream(chained).expect("it is proven").head
    };
    let mut expected = vec![(contents(&from), Some(head(&mut client)))];
    let first = backups.take(&[]);
    assert_eq!(
        (&first["sequence"], &first["parent"], &first["new_pairs_and_pages"]),
        (&1.into(), &Value::Null, &403.into())
    );
    overwrite(&mut client, 1);
    expected.push((contents(&from), Some(head(&mut client))));
    let second = backups.take(&[]);
    assert_eq!((&second["sequence"], &second["parent"]), (&2.into(), &1.into()));
    // In another life of the daemon.
    daemon.kill();
    let mut daemon = Daemon::start(&from);
    let mut client = daemon.connect(&from);
    overwrite(&mut client, 2);
    overwrite(&mut client, 3);
    expected.push((contents(&from), Some(head(&mut client))));
    let third = backups.take(&[]);
    for (backup, new_max) in [(second, 70), (third, 130)] {
        let new = backup["new_pairs_and_pages"].as_u64().expect("it is a number");
        assert!((30..=new_max).contains(&new), "{new} of {} pairs and {} pages", backup["pairs"], backup["pages"]);
    }
    // Nothing changed: nothing is written twice.
    let before = backups.bytes();
    assert_eq!(backups.take(&[])["new_pairs_and_pages"], 0);
    assert!(backups.bytes() - before < 20_000, "{} B", backups.bytes() - before);
    expected.push(expected[2].clone());
    let whole = backups.take(&["--full"]);
    assert_eq!((&whole["sequence"], &whole["parent"]), (&5.into(), &Value::Null));
    expected.push(expected[2].clone());
    let checked = json(&from, &["restore", "--check", backups.directory(), "--at", "4"]);
    assert_eq!(checked.len(), 4);
    // The last one needs none of the others.
    for at in (1..=5).rev() {
        let expected = &expected[index(at) - 1];
        let found = restored("backup-restored", &backups, at);
        assert!(found.0 == expected.0, "backup {at} is not what was there");
        assert!(found.1 == expected.1, "backup {at}: another head");
        if at == 5 {
            fs::rename(backups.file(3), backups.file(9)).expect("it is there");
            assert!(run(&from, &["restore", "--check", backups.directory(), "--at", "5"]).contains("good; whole"));
            fs::rename(backups.file(9), backups.file(3)).expect("it is there");
        }
    }
}

#[test]
fn a_damaged_chain_is_refused_and_nothing_changes() {
    let (from, _daemon, mut client) = started("backup-damaged");
    let space = client.open_space("space", Some(Durability::Strict)).expect("it is made");
    let stream = client.open_stream("stream", Some(Durability::Strict)).expect("it is made");
    let backups = Backups::new(&from);
    for round in 0..3_u64 {
        client.put(space, &round.to_le_bytes(), b"a value", Write::default()).expect("there is room");
        client.append(stream, &round.to_le_bytes(), Write::default()).expect("there is room");
        backups.take(&[]);
    }
    let (to, _daemon_of_to, mut client) = started("backup-untouched");
    let mut refuse = |cause: &str, daemon: bool| {
        let line = refused(&from, &["restore", "--check", backups.directory(), "--at", "3"]);
        assert!(line.contains(cause) && line.contains("nothing was changed"), "{cause}: {line}");
        if daemon {
            assert!(refused(&to, &["restore", backups.directory()]).contains(cause));
            assert_eq!(client.catalog().expect("it answers"), [], "{cause}");
        }
    };
    for sequence in 1..=3 {
        let file = backups.file(sequence);
        let good = fs::read(&file).expect("it is there");
        for at in (0..good.len()).step_by(if sequence == 2 { 1 } else { 7 }) {
            let mut bad = good.clone();
            bad[at] ^= 1 << (at % 8);
            fs::write(&file, bad).expect("the place is writable");
            // Where a line is damaged depends on where its compressed bytes are.
            refuse("backup", at % 97 == 0);
        }
        for length in [0, 5, 6, good.len() / 2, good.len() - 4, good.len() - 1] {
            fs::write(&file, &good[..length]).expect("the place is writable");
            refuse("damaged", length == 5);
        }
        fs::write(&file, [&good[..], b"\0"].concat()).expect("the place is writable");
        refuse("damaged", false);
        fs::write(&file, [&good[..], &good[..]].concat()).expect("the place is writable");
        refuse("damaged", false);
        fs::remove_file(&file).expect("it is there");
        if sequence < 3 {
            refuse("No such file", true);
        }
        let other = fs::read(backups.file(sequence % 3 + 1)).expect("it is there");
        fs::write(&file, other).expect("the place is writable");
        refuse("under another's name", true);
        fs::write(&file, good).expect("the place is writable");
    }
    // Another whole one in the place of the first: each is good by itself.
    let good = fs::read(backups.file(1)).expect("it is there");
    let other = Backups { place: &from, path: from.path("others") };
    other.take(&[]);
    fs::copy(other.file(1), backups.file(1)).expect("it is there");
    refuse("does not go on from", true);
    fs::write(backups.file(1), good).expect("the place is writable");
    let (line, empty) = (refused(&from, &["restore", backups.directory(), "--at", "7"]), from.path("empty"));
    assert!(line.contains("holds no backup 7; the first is 1, the last 3"), "{line}");
    fs::create_dir(&empty).expect("the place is writable");
    let line = refused(&from, &["restore", "--check", empty.to_str().expect("the path is text")]);
    assert!(line.contains("holds no backup") && line.contains("forebay backup"), "{line}");
    run(&to, &["restore", backups.directory()]);
    assert_eq!(run(&to, &["export"]).lines().count(), 9);
}

/// A whole backup of these lines, with digests that are right.
fn forged(lines: &[&str]) -> Vec<u8> {
    let head = r#"{"kind":"backup","format":1,"appliance":"","cuts":0,"sequence":1,"parent":null,"snapshot":1,"taken_unix_ms":0}"#;
    let mut text: String = [&[head], lines].concat().iter().flat_map(|line| [*line, "\n"]).collect();
    let count = |kinds: &[&str]| {
        let of = |line: &&&str| kinds.iter().any(|kind| line.contains(&format!(r#""kind":"{kind}""#)));
        lines.iter().filter(of).count()
    };
    let end = serde_json::json!({
        "kind": "end", "objects": count(&["space", "stream"]), "pairs": count(&["pair"]), "pages": 0, "events": count(&["event"]),
        "cursors": 0, "digest": blake3::hash(text.as_bytes()).to_hex().to_string(),
    });
    text += &format!("{end}\n");
    let mut file = zstd::encode_all(text.as_bytes(), 3).expect("there is memory");
    let seal = blake3::hash(&file);
    file.extend([0x50, 0x2a, 0x4d, 0x18, 32, 0, 0, 0]);
    file.extend(seal.as_bytes());
    file
}

#[test]
fn what_no_backup_says_is_refused_under_digests_that_are_right() {
    const SPACE: &str = r#"{"kind":"space","object":"s","durability":"strict","compression":"none"}"#;
    let (place, _daemon, mut client) = started("backup-forged");
    let backups = Backups::new(&place);
    fs::create_dir(&backups.path).expect("the place is writable");
    let stream = |from: u64, next: u64| {
        format!(r#"{{"kind":"stream","object":"t","durability":"strict","first":{from},"from":{from},"next":{next}}}"#)
    };
    let pair = |key: &str| format!(r#"{{"kind":"pair","object":"s",{key},"value":"v","version":1}}"#);
    let last = format!(r#"{{"kind":"event","object":"t","event":"e","offset":{}}}"#, u64::MAX);
    for (lines, cause) in [
        (vec![SPACE, &pair(r#""key_hex":"6""#)], "line 3: it may not stand here"),
        (vec![SPACE, &pair(r#""key":"""#)], "line 3: it may not stand here"),
        (vec![SPACE, SPACE], "line 3: it may not stand here"),
        (vec![SPACE, &stream(0, 0).replace("\"t\"", "\"s\"")], "line 3: it may not stand here"),
        (vec![&SPACE.replace("\"s\"", r#""a\nb""#)], "line 2: it may not stand here"),
        (vec![&stream(u64::MAX, u64::MAX)], "no stream comes as far"),
        (vec![&stream(u64::MAX, u64::MAX), &last], "line 3: it may not stand here"),
        (vec![&stream(0, 0), r#"{"kind":"trimmed","object":"t","first":0,"next":7}"#], "line 4: it may not stand here"),
        (vec![&stream(7, 7), r#"{"kind":"trimmed","object":"t","first":7,"next":5}"#], "line 3: it may not stand here"),
    ] {
        fs::write(backups.file(1), forged(&lines)).expect("the place is writable");
        for arguments in [&["restore", backups.directory(), "--check"][..], &["restore", backups.directory()]] {
            let line = refused(&place, arguments);
            assert!(line.contains(cause), "{cause}: {line}");
        }
        assert_eq!(client.catalog().expect("it answers"), [], "{cause}");
    }
    fs::write(backups.file(1), forged(&[SPACE, &pair(r#""key":"k""#), &stream(7, 7)])).expect("the place is writable");
    run(&place, &["restore", backups.directory()]);
    assert_eq!(run(&place, &["get", "s", "k"]), "v");
    // No number follows the last one.
    fs::rename(backups.file(1), backups.file(u64::MAX)).expect("it is there");
    let line = refused(&place, &["backup", backups.directory(), "--full"]);
    assert!(line.contains("the last backup that can have a number"), "{line}");
}

#[test]
fn a_backup_does_not_go_on_from_what_it_must_not() {
    let (from, mut daemon, mut client) = started("backup-parent");
    fill(&mut client);
    let volatile = client.open_stream("volatile", Some(Durability::Memory)).expect("it is made");
    client.append(volatile, b"before", Write::default()).expect("there is room");
    let backups = Backups::new(&from);
    backups.take(&[]);
    let good = fs::read(backups.file(1)).expect("it is there");
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    fs::write(backups.file(1), bad).expect("the place is writable");
    let line = backups.refused();
    assert!(line.contains("damaged") && line.contains("--full"), "{line}");
    assert!(!backups.file(2).exists() && !backups.path.join("unfinished").exists());
    fs::write(backups.file(1), good).expect("the place is writable");
    fs::write(backups.path.join("unfinished"), b"of a crash").expect("the place is writable");
    backups.take(&[]);
    fs::rename(backups.file(1), backups.path.join("elsewhere")).expect("it is there");
    let line = backups.refused();
    assert!(line.contains("000001.backup") && line.contains("--full"), "{line}");
    fs::rename(backups.path.join("elsewhere"), backups.file(1)).expect("it is there");
    // A stream that is not logged has other events in the same places now.
    daemon.kill();
    let mut daemon = Daemon::start(&from);
    let mut client = daemon.connect(&from);
    client.append(volatile, b"after", Write::default()).expect("there is room");
    client.append(volatile, b"this", Write::default()).expect("there is room");
    backups.take(&[]);
    let (to, _daemon_of_to, mut restored) = started("backup-volatile");
    run(&to, &["restore", backups.directory()]);
    let stream = restored.open_stream("volatile", None).expect("it is there");
    let events: Vec<Vec<u8>> =
        restored.read(stream, 0, None).expect("it answers").into_iter().map(|(_, event)| event).collect();
    assert_eq!(events, [&b"after"[..], b"this"]);
    // Another appliance, which holds nothing that the backups do.
    let (other, _daemon_of_other, _client) = started("backup-other");
    let line = refused(&other, &["backup", backups.directory()]);
    assert!(line.contains("is of the appliance") && line.contains("--full"), "{line}");
    run(&other, &["backup", backups.directory(), "--full"]);
    // An older copy of the drive, after what it never saw was backed up.
    assert!(daemon.stop().success());
    let copy = from.path("copy");
    fs::copy(from.device(), &copy).expect("there is room");
    let more = Backups { place: &from, path: from.path("more") };
    let mut daemon = Daemon::start(&from);
    drop(daemon.connect(&from));
    for _ in 0..3 {
        more.take(&[]);
    }
    assert!(daemon.stop().success());
    fs::copy(&copy, from.device()).expect("there is room");
    let mut daemon = Daemon::start(&from);
    drop(daemon.connect(&from));
    let line = more.refused();
    assert!(line.contains("an older copy of its drive") && line.contains("--full"), "{line}");
}

#[test]
fn a_backup_is_of_one_moment() {
    const WHOLE: u64 = 1_000;
    let (from, _daemon, mut client) = started("backup-moment");
    let space = client.open_space("accounts", Some(Durability::Buffered)).expect("it is made");
    let create = Some((PageHint::Point.page_size(), Durability::Buffered));
    let pages = client.open_pages("heap", create).expect("it is made");
    let stream = client.open_stream("kept short", Some(Durability::Buffered)).expect("it is made");
    let accounts: Vec<[u8; 8]> = (0..16_u64).map(u64::to_be_bytes).collect();
    for account in &accounts {
        client.put(space, account, &WHOLE.to_le_bytes(), Write::default()).expect("there is room");
    }
    let backups = Backups::new(&from);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = from.connect();
            for round in 0_u64.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let (one, other) = (index(round % 16), index((round * 7 + 3) % 16));
                let moved = client.transaction(&Retry::default(), |transaction| {
                    let mut of = |account: &[u8]| -> Result<u64, forebay::ring::client::ClientError> {
                        let value = transaction.get(space, account)?.expect("it is there");
                        Ok(u64::from_le_bytes(value.try_into().expect("eight bytes")))
                    };
                    let (a, b) = (of(&accounts[one])?, of(&accounts[other])?);
                    if one != other && a > 0 {
                        transaction.put(space, &accounts[one], &(a - 1).to_le_bytes());
                        transaction.put(space, &accounts[other], &(b + 1).to_le_bytes());
                    }
                    Ok::<_, forebay::ring::client::ClientError>(())
                });
                moved.expect("it commits");
                let page = [round.to_le_bytes()[0]; 4_096];
                client.write_pages(pages, &[(1, &page), (2, &page)], None).expect("there is room");
                client.append(stream, &[7; 2_000], Write::default()).expect("there is room");
                client.trim(stream, (round + 1).saturating_sub(40)).expect("it is there");
            }
        });
        let _stop = scopeguard::guard((), |()| stop.store(true, Ordering::Relaxed));
        for _ in 0..6 {
            backups.take(&[]);
        }
    });
    for at in 1..=6_u64 {
        let (to, _daemon, mut client) = started("backup-moment-to");
        run(&to, &["restore", backups.directory(), "--at", &at.to_string()]);
        let space = client.open_space("accounts", None).expect("it is there");
        let of = |account: &[u8; 8]| {
            let (_, value) = client.get(space, account).expect("it answers").expect("it is there");
            u64::from_le_bytes(value.try_into().expect("eight bytes"))
        };
        assert_eq!(accounts.iter().map(of).sum::<u64>(), 16 * WHOLE, "backup {at}");
        let pages = client.open_pages("heap", None).expect("it is there");
        let found = client.read_pages(pages, &[1, 2]).expect("they are read");
        let bytes: Vec<Option<&Vec<u8>>> = found.iter().map(|page| page.as_ref().map(|(_, bytes)| bytes)).collect();
        assert_eq!(bytes[0], bytes[1], "backup {at}");
    }
}

/// What the space `state` of a run holds.
fn held(run: &Run) -> Vec<(Vec<u8>, Vec<u8>)> {
    run.scan("state").map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
}

#[test]
fn a_run_that_is_compacted_meanwhile_is_whole_in_the_backup() {
    let (from, _daemon, mut client) = started("backup-run");
    let big = client.open_space("before the runs", Some(Durability::Buffered)).expect("it is made");
    for key in 0..60_u32 {
        // What zstd cannot make small: the file grows while the space is read.
        let value: Vec<u8> =
            (0..50_000_u32).flat_map(|at| (at + 50_000 * key).wrapping_mul(0x9e37_79b1).to_le_bytes()).collect();
        client.put(big, &key.to_le_bytes(), &value, Write::default()).expect("there is room");
    }
    client.open_chained("chained run", Durability::Buffered).expect("it is made");
    client.open_chained("chained", Durability::Buffered).expect("it is made");
    let names = ["run", "chained run"];
    let mut runs = names.map(|name| Run::open(&mut client, name, Some(Durability::Buffered)).expect("it is made"));
    let backups = Backups::new(&from);
    for round in 0..2_u8 {
        let chained = client.open_stream("chained", None).expect("it is there");
        client.append(chained, &[round], Write::default()).expect("there is room");
        for run in &mut runs {
            for key in 0..20 {
                let changes = [Change::Put { space: "state", key: &[key], value: &[round; 100] }];
                run.write(&mut client, &changes, None).expect("there is room");
            }
        }
        let full: &[&str] = if round == 0 { &[] } else { &["--full"] };
        let mut taken = from.forebay(&[&["backup", backups.directory()], full].concat());
        let mut taken = taken.stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("the program starts");
        let pid = Pid::from_child(&taken);
        let unfinished = backups.path.join("unfinished");
        while fs::metadata(&unfinished).map_or(0, |metadata| metadata.len()) == 0 {
            assert!(taken.try_wait().expect("it is ours").is_none(), "it ended too soon");
            std::thread::yield_now();
        }
        // It has its snapshot, and reads the space.
        kill_process(pid, Signal::STOP).expect("it runs");
        for run in &mut runs {
            run.write(&mut client, &[Change::Put { space: "state", key: b"new", value: &[round] }], None)
                .expect("there is room");
            run.compact(&mut client, true).expect("it is compacted");
        }
        client.append(chained, b"behind the snapshot", Write::default()).expect("there is room");
        let next = client.append(chained, b"the last one", Write::default()).expect("there is room");
        client.trim(chained, next).expect("it is there");
        kill_process(pid, Signal::CONT).expect("it is stopped");
        assert!(taken.wait().expect("it is ours").success(), "round {round}");
        let compacted = runs.each_ref().map(held);
        // What goes on from it takes over where it ended.
        for run in &mut runs {
            run.write(&mut client, &[Change::Put { space: "state", key: b"then", value: &[round] }], None)
                .expect("there is room");
        }
        backups.take(&[]);
        let then = runs.each_ref().map(held);
        for (at, expected) in (2 * u64::from(round) + 1..).zip([compacted, then]) {
            let (to, _daemon, mut restored) = started("backup-run-to");
            run(&to, &["restore", backups.directory(), "--at", &at.to_string()]);
            for (name, expected) in names.iter().zip(expected) {
                let again = Run::open(&mut restored, name, None);
                let again = again.unwrap_or_else(|error| panic!("{name}, backup {at}: {error}"));
                assert!(held(&again) == expected, "{name}, backup {at}");
            }
            let chained = restored.open_stream("chained", None).expect("it is there");
            restored.verify_stream(chained).expect("it is proven");
        }
    }
}
