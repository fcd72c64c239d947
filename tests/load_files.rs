//! Every job file of configs/load, run by the program to its end on a device of the program's own.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Runs a job that is read from standard input.
fn load(job: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command
        .args(["load", "-", "--output-format=json+"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program starts");
    child.stdin.take().expect("it is piped").write_all(job.as_bytes()).expect("it is read");
    child.wait_with_output().expect("it ends")
}

/// What is written must go well and read back; the report.
fn run_well(name: &str, job: &str) -> serde_json::Value {
    let output = load(job);
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{name}: {stderr}{stdout}");
    serde_json::from_str(&stdout).expect("the report is JSON")
}

/// The same file with shorter times. What ends by a count, and what the file writes at most, stays as it is.
fn shortened(text: &str) -> String {
    let shorter = |line: &str| match line.split('=').next() {
        Some("runtime") => "runtime=300ms\n".to_owned(),
        Some("ramp_time") => "ramp_time=50ms\n".to_owned(),
        _ => format!("{line}\n"),
    };
    text.lines().map(shorter).collect()
}

#[test]
fn an_interrupted_load_leaves_nothing_behind() {
    let places = ["place", "memory"].map(|name| {
        let place = std::env::temp_dir().join(format!("forebay-load-{name}-{}", std::process::id()));
        fs::create_dir_all(&place).expect("the temporary directory is writable");
        place
    });
    let entries = |at: usize| fs::read_dir(&places[at]).expect("it is there").count();
    let config = places[1].join("config.toml");
    fs::write(&config, format!("flight.directory = {:?}\n", places[1])).expect("it is writable");
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(["load", "-", "--config"]).arg(&config).env("TMPDIR", &places[0]).stdin(Stdio::piped());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    let job = b"[j]\nrw=randwrite\nkeys=100\nruntime=60\n";
    child.stdin.take().expect("it is piped").write_all(job).expect("it is read");
    while (entries(0), entries(1)) != (1, 2) {
        assert_eq!(child.try_wait().expect("it is our child"), None, "it ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
    assert_eq!(child.wait().expect("it is our child").code(), Some(128 + 15));
    assert_eq!((entries(0), entries(1)), (0, 1));
    for place in places {
        fs::remove_dir_all(place).expect("it is ours");
    }
}

#[test]
fn every_job_file_runs_to_its_end() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("configs/load");
    let mut names = Vec::new();
    let mut total = 0;
    for entry in fs::read_dir(folder).expect("configs/load is there") {
        let path = entry.expect("configs/load is readable").path();
        let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
        let report = run_well(&name, &shortened(&fs::read_to_string(&path).expect("it is text")));
        let jobs = report["jobs"].as_array().expect("there are jobs");
        let operations = |job: &serde_json::Value| {
            ["read", "write"].iter().filter_map(|way| job[way]["total_ios"].as_u64()).sum::<u64>()
        };
        assert!(!jobs.is_empty() && jobs.iter().all(|job| job["error"] == 0), "{name}: {report:#}");
        total += jobs.iter().map(operations).sum::<u64>();
        names.push(name);
    }
    // A busy machine may not come to measure one operation of one job in its short time.
    assert!(names.len() >= 7 && total > 1_000, "{names:?}, {total} operations");
}

#[test]
fn what_a_job_is_known_to_write_has_room() {
    // Few keys that are overwritten: little memory, and more log than a device of a fixed small size would hold.
    let job = "[fill]\nrw=randwrite\nspace=s\nkeys=64\nvalue_size=256k\nsize=700m\niodepth=8\nnorandommap\n";
    let report = run_well("fill", job);
    assert_eq!(report["jobs"][0]["write"]["total_ios"], 2_800);
    assert!(report["jobs"][0]["write"]["clat_ns"]["bins"].is_object(), "json+ has the bins");
}

#[test]
fn a_device_that_fills_up_says_that_it_stays_full() {
    let file = std::env::temp_dir().join(format!("forebay-load-{}.toml", std::process::id()));
    fs::write(&file, "[format]\ncapacity = \"200MiB\"\nsegment_bytes = \"16MiB\"\n")
        .expect("the temporary directory is writable");
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(["load", "-", "--config"]).arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
    let job = b"[fill]\nrw=randwrite\nspace=s\nkeys=64\nvalue_size=256k\nsize=700m\niodepth=8\n";
    child.stdin.take().expect("it is piped").write_all(job).expect("it is read");
    let output = child.wait_with_output().expect("it ends");
    fs::remove_file(&file).expect("it is ours");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(report.contains("the namespace is full; it stays full for writes"), "{report}");
}
