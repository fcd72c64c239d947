//! `export` and `import`: what is carried, what can be repeated, and what a bad file does.

use std::path::PathBuf;

use forebay::ring::client::{Client, Creation, Write};
use forebay::types::{Compression, Durability};
use serde_json::Value;

use crate::commands::{json, refused, run};
use crate::daemon::{Daemon, Place};

/// A formatted place with a daemon, which writes nothing to the drive before it is told to.
fn started(name: &str) -> (Place, Daemon, Client) {
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

fn fill(client: &mut Client) {
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
}

/// The lines of an export, without what an import cannot carry: versions, and where offsets begin.
fn contents(place: &Place) -> Vec<Value> {
    let mut lines = json(place, &["export"]);
    for line in &mut lines {
        let line = line.as_object_mut().expect("each line is an object");
        for moved in ["version", "offset", "first"] {
            line.remove(moved);
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
    assert_eq!(end, r#"{"events":704,"kind":"end","objects":6,"pairs":302}"#);
    let (to, mut daemon, mut client) = started("dump-to");
    // Somebody began already: a part of a stream, and an older value.
    let events = client.open_stream("events", Some(Durability::Buffered)).expect("it is made");
    client.append_batch(events, &[b"event 0", b"event 1"], Write::default()).expect("there is room");
    let imported = json(&to, &["import", file]);
    let counts = ["objects", "pairs", "events", "events_there", "lines_left_out"].map(|key| imported[0][key].as_u64());
    assert_eq!(counts, [6, 302, 704, 2, 0].map(Some));
    // It is on the drive: a kill and a lost flight recorder take nothing.
    daemon.kill();
    to.lose_memory();
    let mut daemon = Daemon::start(&to);
    let mut client = daemon.connect(&to);
    let mut found = contents(&to);
    let mut expected = contents(&from);
    // The stream that was there comes first now.
    let by_object = |line: &Value| (line["object"].as_str().map(str::to_owned), line["kind"] == "event");
    found.sort_by_key(by_object);
    expected.sort_by_key(by_object);
    assert!(found == expected, "what was imported differs");

    assert_eq!(run(&to, &["import", file]), "6 objects, 302 pairs and 704 events; 704 of the events were there");
    let mut again = contents(&to);
    again.sort_by_key(by_object);
    assert!(again == expected, "the second time nothing changes");

    assert_eq!(run(&to, &["import", file, "--append"]).split("; ").nth(1), Some("0 of the events were there"));
    assert_eq!(client.read(events, 704 - 4, None).expect("it is there")[0].1, b"event 0");
}

#[test]
fn named_objects_alone_are_exported() {
    let (place, _daemon, mut client) = started("dump-named");
    fill(&mut client);
    let lines = json(&place, &["export", "trimmed", "empty"]);
    let kinds: Vec<&str> = lines.iter().filter_map(|line| line["kind"].as_str()).collect();
    assert_eq!(kinds, ["space", "stream", "event", "event", "event", "event", "end"]);
    assert_eq!((&lines[1]["first"], &lines[2]["offset"], &lines[2]["event"]), (&1.into(), &1.into(), &"".into()));
    assert_eq!((&lines[3]["event_hex"], &lines[6]["objects"]), (&"ff00".into(), &2.into()));
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
