//! `export` and `import`: what is carried, what can be repeated, and what a bad file does.

use std::path::PathBuf;
use std::time::Duration;

use forebay::ring::client::{Client, Creation, CursorMove, Retention, Write};
use forebay::types::{Compression, Durability, PageHint};
use serde_json::Value;

use crate::commands::{json, refused, run};
use crate::daemon::{Daemon, Place};

/// A formatted place with a daemon, which writes nothing to the drive before it is told to.
pub fn started(name: &str) -> (Place, Daemon, Client) {
    let place = Place::new(name).configured(2, "");
    let config = place.path("config.toml");
    let text = std::fs::read_to_string(&config).expect("it was written");
    let text = text.replace("wal.window_interval = \"20ms\"", "wal.window_interval = \"50s\"");
    assert!(text.contains("50s"));
    std::fs::write(config, text).expect("the place is writable");
    place.format(32, 3);
    let mut daemon = Daemon::start(&place);
    let client = daemon.connect(&place);
    (place, daemon, client)
}

pub fn fill(client: &mut Client) {
    let creation = Creation { durability: Durability::Strict, compression: Compression::Zstd, chained: false };
    let orders = client.create_space("orders", creation).expect("it is made");
    let other = client.open_space("other \"space\"", Some(Durability::Buffered)).expect("it is made");
    client.open_space("empty", Some(Durability::Buffered)).expect("it is made");
    let how = Write { durability: Some(Durability::Memory), ..Write::default() };
    for number in 0..300 {
        let value = format!("{{\"order\": {number}, \"state\": \"paid\"}} ").repeat(number % 50);
        client.put(orders, format!("k{number:03}").as_bytes(), value.as_bytes(), how).expect("there is room");
    }
    client.put(other, &[0, 0xff, b'\n'], &[0xc3, 0x28], how).expect("there is room");
    client.put(other, "schlüssel\u{0}\n\"".as_bytes(), &vec![b'\\'; 200_000], how).expect("there is room");
    let events = client.open_stream("events", Some(Durability::Buffered)).expect("it is made");
    let trimmed = client.open_stream("trimmed", Some(Durability::Strict)).expect("it is made");
    for number in 0..700 {
        client.append(events, format!("event {number}").as_bytes(), how).expect("there is room");
    }
    for event in [&b"gone"[..], b"", &[0xff, 0x00], &vec![b'x'; 100_000], b"gone"] {
        client.append(trimmed, event, how).expect("there is room");
    }
    client.open_space("of memory", Some(Durability::Memory)).expect("it is made");
    client.trim(trimmed, 1).expect("it is there");
    let bounds = Retention { bytes: Some(1 << 30), age: Some(Duration::from_secs(3_600)) };
    client.set_retention(events, bounds).expect("it is there");
    client.set_cursor(events, "reader", 650, CursorMove::default()).expect("it is there");
    client.set_cursor(trimmed, "late", 0, CursorMove::default()).expect("it is there");
    let chained = client.open_chained("chained", Durability::Buffered).expect("it is made");
    for number in 0..20 {
        client.append(chained, &[number; 30], how).expect("there is room");
    }
    client.trim(chained, 7).expect("it is there");
    let create = Some((PageHint::Point.page_size(), Durability::Buffered));
    let pages = client.open_pages("heap", create).expect("it is made");
    for number in (0..100_u64).chain([u64::MAX]) {
        client.write_pages(pages, &[(number, &[number.to_le_bytes()[0]; 4_096])], None).expect("there is room");
    }
    client.discard_pages(pages, &[50], None).expect("it is there");
    let hour = Write { expires: Some(Duration::from_secs(3_600)), ..how };
    client.put(other, b"timed", b"for an hour", hour).expect("there is room");
}

/// The lines of an export, without what an import cannot carry, which are versions, and moments to the ms.
pub fn contents(place: &Place) -> Vec<Value> {
    let mut lines = json(place, &["export"]);
    for line in &mut lines {
        let line = line.as_object_mut().expect("each line is an object");
        line.remove("version");
        if let Some(until) = line.get_mut("until_unix_ms") {
            *until = until.as_u64().is_some_and(|ms| ms > 1_600_000_000_000).into();
        }
    }
    lines
}

fn export(place: &Place, objects: &[&str]) -> (PathBuf, String) {
    let text = run(place, &[&["export"], objects].concat()) + "\n";
    let path = place.path("dump");
    std::fs::write(&path, &text).expect("the place is writable");
    (path, text)
}

#[test]
fn what_is_exported_comes_back_and_an_import_can_be_repeated() {
    let (from, _daemon, mut client) = started("dump-from");
    fill(&mut client);
    let (file, text) = export(&from, &[]);
    let file = file.to_str().expect("the path is text");
    let end = text.lines().last().expect("there is one");
    assert_eq!(end, r#"{"cursors":2,"events":717,"kind":"end","objects":8,"pages":100,"pairs":303}"#);
    let (to, mut daemon, mut client) = started("dump-to");
    // Somebody began already: a part of a stream, and an older value.
    let events = client.open_stream("events", Some(Durability::Buffered)).expect("it is made");
    client.append_batch(events, &[b"event 0", b"event 1"], Write::default()).expect("there is room");
    let imported = json(&to, &["import", file]);
    let counts = ["objects", "pairs", "events", "events_there", "lines_left_out"].map(|key| imported[0][key].as_u64());
    assert_eq!(counts, [8, 303, 717, 2, 0].map(Some));
    // It is on the drive: a kill and a lost flight recorder take nothing.
    daemon.kill();
    to.lose_memory();
    let mut daemon = Daemon::start(&to);
    let mut client = daemon.connect(&to);
    let mut found = contents(&to);
    let mut expected = contents(&from);
    // The stream that was there comes first now.
    let by_object = |line: &Value| {
        let place = ["stream", "event", "cursor"].iter().position(|kind| line["kind"] == *kind);
        (line["object"].as_str().map(str::to_owned), place)
    };
    found.sort_by_key(by_object);
    expected.sort_by_key(by_object);
    assert!(found == expected, "what was imported differs");

    assert_eq!(
        run(&to, &["import", file]),
        "8 objects, 303 pairs, 100 pages, 717 events, 2 cursors; 717 of the events were there, 0 of the pairs were over, 2 \
         of the cursors were there or have no place"
    );
    let mut again = contents(&to);
    again.sort_by_key(by_object);
    assert!(again == expected, "the second time nothing changes");

    assert!(run(&to, &["import", file, "--append"]).contains("; 0 of the events were there"));
    assert_eq!(client.read(events, 704 - 4, None).expect("it is there")[0].1, b"event 0");
}

#[test]
fn an_import_that_was_interrupted_is_repeated_and_leaves_out_what_is_over() {
    let (from, _daemon, mut client) = started("dump-again");
    fill(&mut client);
    let (file, text) = export(&from, &[]);
    let path = file.to_str().expect("the path is text");
    // As if it had ended in the middle: bounds and cursors are set by the second one.
    let (to, _daemon, mut client) = started("dump-again-to");
    let stream = client.open_stream("events", Some(Durability::Buffered)).expect("it is made");
    client.append(stream, b"event 0", Write::default()).expect("there is room");
    assert_eq!(text.matches("until_unix_ms").count(), 1, "one pair has a time to live");
    let moment =
        text.split("\"until_unix_ms\":").nth(1).and_then(|rest| rest.split([',', '}']).next()).expect("it has");
    std::fs::write(&file, text.replace(moment, "1000")).expect("the place is writable");
    let imported = json(&to, &["import", path]);
    assert_eq!((&imported[0]["expired"], &imported[0]["cursors_left_out"]), (&1.into(), &0.into()));
    let other = client.open_space("other \"space\"", None).expect("it is there");
    assert_eq!(client.get(other, b"timed").expect("it answers"), None);
    let events = client.open_stream("events", None).expect("it is there");
    assert_eq!(client.retention(events).expect("it answers").bytes, Some(1 << 30));
    assert_eq!(client.cursors(events).expect("it answers"), [("reader".to_owned(), 650)]);
    let chained = client.open_stream("chained", None).expect("it is there");
    assert_eq!(client.verify_stream(chained).expect("it is chained").first, 7);
}

#[test]
fn named_objects_alone_are_exported() {
    let (place, _daemon, mut client) = started("dump-named");
    fill(&mut client);
    let lines = json(&place, &["export", "trimmed", "empty"]);
    let kinds: Vec<&str> = lines.iter().filter_map(|line| line["kind"].as_str()).collect();
    assert_eq!(kinds, ["space", "stream", "event", "event", "event", "event", "cursor", "end"]);
    assert_eq!((&lines[1]["first"], &lines[2]["offset"], &lines[2]["event"]), (&1.into(), &1.into(), &"".into()));
    assert_eq!((&lines[3]["event_hex"], &lines[7]["objects"]), (&"ff00".into(), &2.into()));
    assert!(refused(&place, &["export", "orders", "nothing"]).contains("no space or stream is named \"nothing\""));
}

#[test]
fn a_damaged_file_changes_nothing() {
    let (from, _daemon, mut client) = started("dump-damaged");
    fill(&mut client);
    let (file, text) = export(&from, &[]);
    let path = file.to_str().expect("the path is text");
    let (to, _daemon, mut client) = started("dump-untouched");
    let mut lines: Vec<&str> = text.lines().collect();
    let (good, pair) = (lines.clone(), lines[40]);
    assert!(pair.contains("\"kind\":\"pair\""));
    let mut import = |lines: &[&str], expected: &str| {
        std::fs::write(&file, lines.join("\n")).expect("the place is writable");
        let line = refused(&to, &["import", path]);
        assert!(line.contains(expected) && line.contains("nothing was imported"), "{line}");
        assert_eq!(client.catalog().expect("it answers"), [], "{expected}");
    };
    lines[40] = &pair[..pair.len() / 2];
    import(&lines, "2 lines damaged, the first is line 41");
    lines[40] = "";
    lines[50] = "\u{0}\u{1}";
    import(&lines, "3 lines damaged, the first is line 41");
    import(&good[..good.len() - 1], &format!("the first is line {}: the end line is missing", good.len()));
    import(&good[1..], "no line before it tells of the space \"orders\"");
    import(&[], "line 1: the end line is missing");
    import(&[&"[".repeat(1 << 20)], "no line of an export");
    import(&[&"x".repeat(1 << 20)], "no line of an export");
    for (kind, damaged) in [("page", "\"page\":\"*"), ("stream", "\"first\":-"), ("cursor", "\"offset\":9")] {
        let at = good.iter().position(|line| line.contains(&format!("\"kind\":\"{kind}\""))).expect("there is one");
        let field = damaged.split_once(':').expect("it has a value").0;
        let broken = good[at].replacen(&format!("{field}:"), damaged, 1);
        let mut lines = good.clone();
        lines[at] = &broken;
        import(&lines, &format!("the first is line {}", at + 1));
    }

    // The others, and an exit code that tells.
    lines[50] = good[50];
    std::fs::write(&file, lines.join("\n")).expect("the place is writable");
    let output = to.forebay(&["import", path, "--skip-damaged"]).output().expect("the program starts");
    let told = String::from_utf8(output.stderr).expect("it is text");
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("line 41 is left out") && told.contains("all other lines are imported"), "{told}");
    // The end line counts the pair that is gone.
    assert!(told.contains("2 lines damaged"), "{told}");
    assert_eq!(contents(&to).len(), good.len() - 1);
}

#[test]
fn what_does_not_fit_is_refused_before_anything_changes() {
    let (place, _daemon, mut client) = started("dump-misfit");
    let stream = client.open_stream("t", Some(Durability::Strict)).expect("it is made");
    client.append(stream, b"another", Write::default()).expect("there is room");
    let catalog = client.catalog().expect("it answers");
    let file = place.path("misfit");
    let path = file.to_str().expect("the path is text");
    let space = r#"{"kind":"space","object":"s","durability":"strict","compression":"none"}"#;
    let pair = |key: &str, value: &str| {
        format!(r#"{{"kind":"pair","object":"s","key":"{key}","value":"{value}","version":1}}"#)
    };
    let of_t = |line: &str| line.replace('@', r#""object":"t","durability":"strict""#);
    for (lines, cause) in [
        (vec![space.to_owned(), pair("k", "v"), pair("k", &"x".repeat(300_000))], "line 3: the value has 300000 B"),
        (vec![space.to_owned(), pair("", "v")], "line 2: the key is empty"),
        (vec![space.to_owned(), pair(&"k".repeat(2_000), "v")], "limits.key_bytes_max"),
        (vec![of_t(r#"{"kind":"space",@,"compression":"none"}"#)], "line 1: \"t\" is there and is no space"),
        (vec![r#"{"kind":"stream","object":"","durability":"strict","first":0}"#.to_owned()], "1 to 255 bytes"),
        (vec![space.to_owned(), pair("k", "v"), space.replace(r#""s""#, r#""a\nb""#)], "1 to 255 bytes"),
        (
            vec![
                space.to_owned(),
                of_t(r#"{"kind":"stream",@,"first":0}"#),
                r#"{"kind":"event","object":"t","event":"this one","offset":0}"#.to_owned(),
            ],
            "line 3: the stream \"t\" holds another event in this place",
        ),
    ] {
        std::fs::write(&file, lines.join("\n")).expect("the place is writable");
        for how in [&["import", path][..], &["import", path, "--skip-damaged"]] {
            let line = refused(&place, how);
            assert!(line.contains(cause), "{line}");
            assert_eq!(client.catalog().expect("it answers"), catalog, "{cause}");
        }
    }
    assert!(refused(&place, &["import", "/dev/zero"]).contains("it is not a file"));
    assert!(refused(&place, &["import", "/nowhere/at/all"]).contains("/nowhere/at/all"));
}
