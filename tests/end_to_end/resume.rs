//! A drive that fails and is taken back without a restart: clients keep their sessions, and nothing acknowledged is lost.

use forebay::appliance::prepare::{FormatOptions, SegmentSize, format_device};
use forebay::ring::client::{Client, ClientError, Object, Write};
use forebay::ring::protocol::{Status, stats};
use forebay::types::Durability;

use crate::daemon::{Daemon, Place};

const ALL: [Durability; 3] = [Durability::Memory, Durability::Buffered, Durability::Strict];

/// What `forebay resume` says, and whether it was done.
fn resume(place: &Place, more: &[&str]) -> (bool, String) {
    let output = place.forebay(&[&["resume"], more].concat()).output().expect("the program runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

fn key(number: u32) -> [u8; 4] {
    number.to_le_bytes()
}

fn assert_stored(client: &mut Client, space: Object, numbers: impl IntoIterator<Item = u32>) {
    for number in numbers {
        let found = client.get(space, &key(number)).expect("reads go on").map(|(_, value)| value);
        assert_eq!(found.as_deref(), Some([7; 600].as_slice()), "{space:?}, key {number}");
    }
}

fn put(client: &mut Client, space: Object, number: u32) -> Result<(), ClientError> {
    client.put(space, &key(number), &[7; 600], Write::default()).map(|_| ())
}

/// Those of these writes that were acknowledged: on a slow machine a window ends, and fences, between two of them.
fn acknowledged(client: &mut Client, space: Object, numbers: std::ops::Range<u32>) -> Vec<u32> {
    numbers.filter(|number| put(client, space, *number).is_ok()).collect()
}

/// Strict writes until both shards have met the failure. Gives the first number that was not tried.
fn fence_all(client: &mut Client, space: Object, from: u32) -> u32 {
    let mut number = from;
    while client.stats().expect("it answers").iter().map(|words| words[stats::SHARDS_FENCED]).sum::<u64>() < 2 {
        assert!(number < from + 1_000, "the shards are not fenced");
        let refused = put(client, space, number);
        assert!(matches!(refused, Err(ClientError::Status(Status::Fenced))), "{refused:?}");
        number += 1;
    }
    number
}

#[test]
fn a_drive_that_failed_is_taken_back_without_a_restart() {
    let place = Place::new("resume").configured(2, "");
    place.format(32, 2);
    let mut daemon = Daemon::start_breakable(&place);
    let mut client = daemon.connect(&place);
    let spaces = ALL.map(|durability| client.open_space(&format!("{durability:?}"), Some(durability)).unwrap());
    assert!(resume(&place, &[]).1.contains("there is nothing to take back"), "nothing has failed");
    let (mut next, mut promised) = (0, Vec::new());
    for round in 0..3 {
        for number in next..next + 50 {
            spaces.iter().for_each(|space| put(&mut client, *space, number).expect("the drive works"));
        }
        // Acknowledged, and at most in the recorder when the drive fails.
        daemon.let_write(false);
        let late = spaces.map(|space| acknowledged(&mut client, space, next + 50..next + 60));
        let tried = fence_all(&mut client, spaces[2], next + 100);
        let (done, said) = resume(&place, &[]);
        assert!(!done && said.contains("File too large"), "it cannot be written yet: {said}");
        assert_stored(&mut client, spaces[1], (0..50).chain(promised.iter().copied()));
        daemon.let_write(true);
        let (done, said) = resume(&place, &[]);
        assert!(done && said.contains("taken back"), "round {round}: {said}");
        for (space, late) in spaces.iter().zip(&late) {
            assert_stored(&mut client, *space, (next..next + 50).chain(late.iter().copied()));
        }
        promised.extend(late[1].iter().copied());
        put(&mut client, spaces[2], tried).expect("it writes again");
        client.sync().expect("all of it is on the drive");
        next += 2_000;
    }
    let errors = daemon.log().matches("ERROR").count();
    let (done, said) = resume(&place, &[]);
    assert!(done && said.contains("every shard writes: there is nothing to take back"), "{said}");
    assert_eq!(daemon.log().matches("ERROR").count(), errors, "that is no error: {}", daemon.log());
    daemon.kill();
    let mut daemon = Daemon::start(&place);
    let mut client = daemon.connect(&place);
    assert_stored(&mut client, spaces[1], promised);
    for start in [0, 2_000, 4_000] {
        assert_stored(&mut client, spaces[1], start..start + 50);
        assert_stored(&mut client, spaces[2], start..start + 50);
    }
}

#[test]
fn another_drive_and_one_that_others_wrote_to_are_refused() {
    let place = Place::new("resume-other").configured(1, "");
    place.format(32, 2);
    let other = place.path("other");
    let options = FormatOptions {
        capacity_bytes: Some(32 << 20),
        segment_size: SegmentSize::Bytes(1 << 20),
        shards: 2,
        force: true,
    };
    format_device(&other, &options, &mut |_, _| {}).expect("there is room");
    let mut daemon = Daemon::start_breakable(&place);
    let mut client = daemon.connect(&place);
    let space = client.open_space("space", Some(Durability::Strict)).expect("it is made");
    for number in 0..20 {
        put(&mut client, space, number).expect("the drive works");
    }
    let copy = place.path("copy");
    std::fs::copy(place.device(), &copy).expect("there is room");
    daemon.let_write(false);
    fence_all(&mut client, space, 100);
    daemon.let_write(true);
    let (done, said) = resume(&place, &["--device", other.to_str().unwrap()]);
    assert!(!done && said.contains("the daemon serves"), "{said}");
    let (done, said) = resume(&place, &["--device", "/nonexistent"]);
    assert!(!done && said.contains("No such file"), "{said}");
    // Two daemons of other machines had the copy: no flight recorder of this one went with it.
    let elsewhere = Place::new("resume-elsewhere").configured(1, "");
    std::fs::copy(&copy, elsewhere.device()).expect("there is room");
    let mut stranger = Daemon::start(&elsewhere);
    drop(stranger.connect(&elsewhere));
    assert!(stranger.stop().success(), "{}", stranger.log());
    let (done, said) = resume(&place, &["--device", elsewhere.device().to_str().unwrap()]);
    assert!(!done && said.contains("another daemon wrote to it"), "{said}");
    // A copy from before the last writes lacks them.
    assert_stored(&mut client, space, 0..20);
    let (done, said) = resume(&place, &[]);
    assert!(done, "{said}");
    put(&mut client, space, 50).expect("it writes again");
}

#[test]
fn without_a_flight_recorder_nothing_is_taken_back_that_cannot_be_proven() {
    let place = Place::new("resume-bare").configured(1, "");
    let config = std::fs::read_to_string(place.path("config.toml")).expect("it was written");
    let lines = config.lines().map(|line| if line.starts_with("flight") { "flight.directory = \"\"" } else { line });
    std::fs::write(place.path("config.toml"), lines.collect::<Vec<_>>().join("\n")).expect("the place is writable");
    place.format(32, 2);
    let mut daemon = Daemon::start_breakable(&place);
    let mut client = daemon.connect(&place);
    let space = client.open_space("space", Some(Durability::Strict)).expect("it is made");
    put(&mut client, space, 1).expect("the drive works");
    daemon.let_write(false);
    fence_all(&mut client, space, 100);
    daemon.let_write(true);
    let (done, said) = resume(&place, &[]);
    assert!(!done && said.contains("restart the daemon"), "{said}");
    assert_stored(&mut client, space, 1..2);
}
