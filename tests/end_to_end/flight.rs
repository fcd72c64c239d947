//! The life of the flight recorders: who takes them along, who leaves them behind, and when their files go.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::commands::{refused, run};
use crate::daemon::{Daemon, Place};

/// A namespace of three shards whose buffered writes stay in the flight recorders.
fn formatted(name: &str, reactors: u32) -> Place {
    let place = Place::new(name).configured(reactors, "");
    let text = fs::read_to_string(place.path("config.toml")).expect("it was just written");
    assert!(text.contains("20ms"));
    fs::write(place.path("config.toml"), text.replace("20ms", "60s")).expect("the place is writable");
    place.format(32, 3);
    place
}

/// The flight recorders' files.
fn files(place: &Place) -> Vec<PathBuf> {
    let entries = fs::read_dir(place.config().flight.directory).expect("the directory is there");
    let paths = entries.map(|entry| entry.expect("it is readable").path());
    paths.filter(|path| path.extension().is_some_and(|extension| extension == "flight")).collect()
}

fn start(place: &Place, options: &[&str]) -> Daemon {
    let mut daemon = Daemon::run(place, place.forebay(&[&["serve"], options].concat()));
    drop(daemon.connect(place));
    // It listens before it has said all that it found.
    let begun = Instant::now();
    while !daemon.log().contains(" ready ") {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", daemon.log());
        std::thread::sleep(Duration::from_millis(1));
    }
    daemon
}

fn stop(mut daemon: Daemon) {
    assert_eq!(daemon.stop().code(), Some(0), "{}", daemon.log());
}

const WITHOUT: &[&str] = &["--flight-directory", ""];

#[test]
fn what_a_life_without_the_recorder_gave_up_does_not_come_back() {
    let place = formatted("flight-stale", 1);
    let mut daemon = start(&place, &[]);
    // The same key stays in one shard, so that the LSNs of both lives meet there.
    for value in ["one", "two", "three"] {
        run(&place, &["put", "space", "key", value, "--create=buffered"]);
    }
    daemon.kill();
    assert_eq!(files(&place).len(), 3);

    let daemon = start(&place, WITHOUT);
    assert!(daemon.log().contains("buffered writes do not survive"), "{}", daemon.log());
    assert!(refused(&place, &["get", "space", "key"]).contains("no such key"));
    run(&place, &["put", "space", "key", "four", "--create=buffered"]);
    stop(daemon);

    let (device, config) = (place.device(), place.path("config.toml"));
    let device = device.to_str().expect("the path is text");
    let config = config.to_str().expect("the path is text");
    let verified = run(&place, &["verify", device, "--config", config]);
    assert_eq!(verified.matches("is ignored").count(), 3, "{verified}");
    assert!(!verified.contains("flight recorder of this boot"), "{verified}");

    let daemon = start(&place, &[]);
    assert_eq!(daemon.log().matches("the log went on without it").count(), 3, "{}", daemon.log());
    assert_eq!(daemon.logged("replayed_bytes"), Some(0));
    assert_eq!(run(&place, &["get", "space", "key"]), "four");
    stop(daemon);
    assert_eq!(files(&place), Vec::<PathBuf>::new(), "nothing in them is needed");
}

#[test]
fn a_recorder_that_is_too_small_for_another_configuration_keeps_its_records() {
    let place = formatted("flight-small", 3);
    let mut daemon = start(&place, &[]);
    run(&place, &["put", "space", "key", "value", "--create=buffered"]);
    daemon.kill();
    // One reactor has more shards and more buffers, and any shard may have all of them in flight.
    let mut fewer = Daemon::run(&place, place.forebay(&["serve", "--reactors", "1"]));
    assert_eq!(fewer.wait().code(), Some(1));
    let log = fewer.log();
    assert!(log.contains("too small for this configuration") && log.contains("reactors.count"), "{log}");
    let daemon = start(&place, &[]);
    assert!(daemon.logged("replayed_bytes").is_some_and(|bytes| bytes > 0), "{}", daemon.log());
    assert_eq!(run(&place, &["get", "space", "key"]), "value");
    stop(daemon);
    let mut daemon = start(&place, &["--reactors", "1"]);
    assert_eq!(run(&place, &["get", "space", "key"]), "value");
    // Killed while the recorders hold nothing, it is followed by a larger configuration without a word.
    run(&place, &["sync"]);
    daemon.kill();
    stop(start(&place, &["--reactors", "1"]));
    assert_eq!(files(&place), Vec::<PathBuf>::new());
}

#[test]
fn a_copy_of_the_device_has_recorders_of_its_own() {
    let place = formatted("flight-copy", 1);
    let mut daemon = start(&place, &[]);
    run(&place, &["put", "space", "key", "original", "--create=buffered"]);
    daemon.kill();
    let (device, kept) = (place.device(), place.path("kept"));
    // The copy takes the device's name; the original comes back to it afterwards. A rename keeps its inode.
    fs::rename(&device, &kept).expect("the place is writable");
    fs::copy(&kept, &device).expect("there is room");
    let mut daemon = start(&place, &[]);
    assert!(daemon.log().contains("another copy of this namespace"), "{}", daemon.log());
    run(&place, &["put", "space", "key", "copy", "--create=buffered"]);
    daemon.kill();
    fs::rename(&kept, &device).expect("the place is writable");
    let daemon = start(&place, &[]);
    assert_eq!(run(&place, &["get", "space", "key"]), "original");
    stop(daemon);
}
