//! `forebay soak` as it is used: a short one that passes, and one that is lied to.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use forebay::ring::client::Write;
use forebay::soak::content::key;
use forebay::soak::{Now, Options, run};
use forebay::types::Durability;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::daemon::{Daemon, PATIENCE, Place};

const KILLS: u64 = 3;

/// The command, which leaves nothing outside of this place.
fn soak(place: &Place, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(["soak", "--json", "--config"]).arg(place.path("config.toml")).args(arguments);
    command.stdin(Stdio::null()).env_remove("RUST_LOG").env("TMPDIR", place.path(""));
    command
}

/// On a scratch file of this place.
fn soak_scratch(place: &Place, overwrite: &str) -> Command {
    let (kills, seed) = (KILLS.to_string(), "7");
    let mut command = soak(place, &["--seed", seed, "--kills", &kills, "--overwrite", overwrite, "--clients", "3"]);
    // With values of a quarter of a segment, copies take more room than what they are of.
    command.args(["--fill", "35", "--size", "64MiB", "--scratch"]).arg(place.path("scratch"));
    command
}

fn told(output: &Output) -> (String, Value) {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (errors, serde_json::from_slice(&output.stdout).unwrap_or_default())
}

#[test]
fn a_short_soak_ends_well() {
    let place = Place::new("soak").configured(2, "format.shards = 2");
    let (errors, report) = told(&soak_scratch(&place, "1").output().expect("the program starts"));
    println!("{report}");
    assert_eq!((&report["interrupted"], &report["seed"]), (&false.into(), &7.into()), "{errors}");
    let number = |name: &str| report[name].as_u64().unwrap_or_default();
    assert!(number("taken_bytes") >= 64 << 20, "{report}");
    assert_eq!(number("kills"), KILLS);
    assert_eq!(report["recovery_ms"].as_array().map(Vec::len), Some(usize::try_from(KILLS).expect("few")));
    // After the first start, each kill, and the stop.
    assert_eq!(number("checks"), KILLS + 2);
    assert!(number("proven") > 1_000 && number("acknowledged") > 1_000 && number("verified_records") > 0, "{report}");
    assert!(report["write_amplification"].as_f64().is_some_and(|found| found > 0.9), "{report}");
    assert!(report["strict_put_ns"]["p99_9"].as_u64().is_some_and(|found| found > 0), "{report}");
    assert!(!place.path("scratch").exists(), "a scratch file is removed");
}

/// A soak in this process, and something that is done to its stopped device before it is read back. Gives its error.
fn lied_to(place: &Place, lie: impl Fn(&Place)) -> String {
    place.format(64, 2);
    let options = Options {
        device: place.device(),
        program: env!("CARGO_BIN_EXE_forebay").into(),
        config: Some(place.path("config.toml")),
        directory: place.path(""),
        overwrite: 1,
        kills: 0,
        clients: 2,
        fill_percent: 35,
        seed: 11,
    };
    let mut lies = 0;
    let mut tell = |now: Now<'_>| {
        if matches!(now, Now::Doing("reading everything back")) {
            lie(place);
            lies += 1;
        }
    };
    let error = run(&place.config(), &options, &AtomicBool::new(false), &mut tell).err().expect("it was lied to");
    assert_eq!(lies, 1);
    println!("{error}");
    error.to_string()
}

#[test]
fn a_key_that_is_lost_behind_its_back_is_found_and_named() {
    let place = Place::new("soak").configured(1, "");
    let error = lied_to(&place, |place| {
        let mut daemon = Daemon::start(place);
        let mut client = daemon.connect(place);
        let space = client.open_space("soak 0 strict space", None).expect("the soak made it");
        let present = (0..).find(|at| client.get(space, &key(*at)).expect("the daemon is up").is_some());
        client.delete(space, &key(present.expect("some are")), Write::default()).expect("the daemon is up");
        assert!(daemon.stop().success());
    });
    assert!(error.starts_with("soak 0 strict: key ") && error.ends_with("found nothing"), "{error}");
    assert!(error.contains("expected what was acknowledged, the content of operation "), "{error}");
}

#[test]
fn a_flipped_byte_is_found() {
    let place = Place::new("soak").configured(1, "");
    let error = lied_to(&place, |place| {
        let mut bytes = fs::read(place.device()).expect("the device is a file");
        // The mark of a value: one that counts, or one that was written over.
        let marks: Vec<usize> = (0..bytes.len() - 4).filter(|at| bytes[*at..*at + 4] == *b"FBLD").collect();
        assert!(marks.len() > 100, "{} values", marks.len());
        marks.iter().for_each(|at| bytes[at + 20] ^= 1);
        fs::write(place.device(), bytes).expect("the device is a file");
    });
    assert!(error.contains("the daemon ended by itself") && error.contains("damage"), "{error}");
}

#[test]
fn a_namespace_that_holds_something_is_not_soaked() {
    let place = Place::new("soak").configured(1, "");
    place.format(64, 2);
    let mut daemon = Daemon::start(&place);
    daemon.connect(&place).open_space("orders", Some(Durability::Strict)).expect("the daemon is up");
    assert!(daemon.stop().success());
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command
        .args(["soak", "--seed", "5", "--config"])
        .arg(place.path("config.toml"))
        .arg("--device")
        .arg(place.device());
    let output = command.output().expect("the program starts");
    let (errors, _) = told(&output);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("\"orders\"") && errors.contains("seed 5") && errors.contains("by: "), "{errors}");
    let mut daemon = Daemon::start(&place);
    let client = &mut daemon.connect(&place);
    assert_eq!(client.catalog().expect("the daemon is up").len(), 1);
}

/// SIGINT, as Ctrl-C sends it.
#[test]
fn an_interrupted_soak_leaves_nothing_behind() {
    let place = Place::new("soak").configured(1, "format.shards = 2");
    let child = soak_scratch(&place, "1000").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("the program starts");
    let deadline = Instant::now() + PATIENCE;
    // It writes when its daemon has written what is behind the superblock.
    while fs::metadata(place.path("scratch")).map_or(0, |found| found.len()) < 64 << 20 {
        assert!(Instant::now() < deadline, "it does not begin");
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_secs(2));
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a child has a process id");
    kill_process(pid, Signal::INT).expect("the child is ours");
    let output = child.wait_with_output().expect("it ends");
    let (errors, report) = told(&output);
    assert_eq!((output.status.code(), &report["interrupted"]), (Some(1), &true.into()), "{errors}");
    assert!(errors.contains("the soak was interrupted") && !place.path("scratch").exists(), "{errors}");
}

#[test]
fn what_somebody_uses_is_not_soaked() {
    let place = Place::new("soak").configured(1, "");
    fs::write(place.path("scratch"), "mine").expect("the place is writable");
    let (errors, _) = told(&soak_scratch(&place, "1").output().expect("the program starts"));
    assert!(errors.contains("is there already"), "{errors}");
    assert_eq!(fs::read(place.path("scratch")).expect("it is kept"), b"mine");
}
