//! What streams offer beside events, on the command line and across a kill of the daemon.

use crate::commands::{refused, run};
use crate::daemon::{Daemon, Place};

fn started(name: &str) -> (Place, Daemon) {
    let place = Place::new(name).configured(2, "limits.producers_max = 2");
    place.format(32, 3);
    let daemon = restarted(&place);
    (place, daemon)
}

fn restarted(place: &Place) -> Daemon {
    let mut daemon = Daemon::start(place);
    drop(daemon.connect(place));
    daemon
}

#[test]
fn a_retry_never_doubles() {
    let (place, mut daemon) = started("streams-once");
    let once = |producer: &str, sequence: &str, events: &[&str]| {
        [&["append", "s", "--producer", producer, "--sequence", sequence], events]
            .concat()
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    let append = |producer: &str, sequence: &str, events: &[&str]| {
        let words = once(producer, sequence, events);
        run(&place, &words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    run(&place, &["append", "s", "--create", "first"]);
    assert_eq!(append("7", "1", &["a", "b"]), "1");
    assert_eq!(append("7", "1", &["a", "b"]), "1");
    assert_eq!(append("7", "2", &["c"]), "3");
    daemon.kill();
    let _daemon = restarted(&place);
    assert_eq!(append("7", "2", &["c"]), "3");
    assert_eq!(append("7", "1", &["a", "b"]), "1");
    assert_eq!(run(&place, &["read", "s"]), "first\na\nb\nc");
    let gap = once("7", "4", &["d"]);
    let gap: Vec<&str> = gap.iter().map(String::as_str).collect();
    assert!(refused(&place, &gap).contains("next sequence number is 3"));
    // Two more producers, and the first is forgotten.
    assert_eq!(append("8", "1", &["x"]), "4");
    assert_eq!(append("9", "1", &["y"]), "5");
    let forgotten = once("7", "3", &["d"]);
    let forgotten: Vec<&str> = forgotten.iter().map(String::as_str).collect();
    assert!(refused(&place, &forgotten).contains("limits.producers_max"));
}
