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

/// What the operations of a job file are.
fn kinds_of(name: &str) -> &'static [&'static str] {
    match name {
        "ycsb-a.fio" | "ycsb-b.fio" | "mixed-zipf.fio" | "pages.fio" | "page-iops.fio" => &["read", "write"],
        "ycsb-c.fio" => &["read"],
        "ycsb-d.fio" => &["read", "insert"],
        "ycsb-e.fio" | "time-series.fio" => &["scan", "insert"],
        "ycsb-f.fio" => &["read", "write", "read-modify-write"],
        "tpcc.fio" => &["read", "write", "transaction"],
        "scan.fio" => &["scan"],
        "quickstart.fio" | "stream-append.fio" => &["read", "write"],
        "buffered.fio" | "memory.fio" | "overwrite.fio" | "strict-64.fio" | "strict-qd1.fio" => &["write"],
        _ => panic!("say here what the operations of configs/load/{name} are"),
    }
}

#[test]
fn every_job_file_opens_with_why_and_what_to_expect() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("configs/load");
    for entry in fs::read_dir(folder).expect("configs/load is there") {
        let path = entry.expect("configs/load is readable").path();
        let text = fs::read_to_string(&path).expect("it is text");
        let opening: Vec<&str> = text.lines().take_while(|line| line.starts_with('#')).collect();
        assert!(opening.iter().any(|line| line.starts_with("# Why: ")), "{}", path.display());
        assert!(opening.iter().any(|line| line.starts_with("# Expect: ")), "{}", path.display());
    }
}

#[test]
fn a_page_is_written_and_a_saved_report_is_what_it_compares_with() {
    let place = std::env::temp_dir().join(format!("forebay-load-page-{}", std::process::id()));
    fs::create_dir_all(&place).expect("the temporary directory is writable");
    let job = place.join("job.fio");
    fs::write(&job, "[put]\nrw=randwrite\nkeys=500\nvalue_size=64\ndurability=buffered\n").expect("it is writable");
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.current_dir(&place).args(["load", "job.fio"]).args(arguments).output().expect("the program starts")
    };
    let first = run(&["--json", "--output", "first.json", "--report", "first.html"]);
    assert!(first.status.success(), "{first:?}");
    let second = run(&["--report", "second.html", "--against", "first.json"]);
    assert!(second.status.success(), "{second:?}");
    let page = |name| fs::read_to_string(place.join(name)).expect("it was written");
    assert!(page("first.html").contains("put: latency distribution") && !page("first.html").contains("the other run"));
    assert!(page("second.html").contains("dashed, the other run: job.fio"));
    let refused = run(&["--report", "third.html", "--against", "job.fio"]);
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains("job.fio: not a report of a load") && told.lines().count() == 1, "{told}");
    assert!(!place.join("third.html").exists(), "what is wrong is said before anything runs");
    for (arguments, cause) in [
        (["--output", "same", "--report", "same"], "name the same file"),
        (["--output", "missing/first.json", "--report", "fourth.html"], "write missing/first.json"),
    ] {
        let refused = run(&arguments);
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains(cause) && !told.contains("device:"), "{told}");
    }
    let job = fs::read_to_string(&job).expect("it is readable").replace("[put]", "[other]");
    fs::write(place.join("job.fio"), job).expect("it is writable");
    let other = run(&["--report", "other.html", "--against", "first.json"]);
    let told = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(other.status.success() && told.contains("nothing is compared"), "{told}");
    fs::remove_dir_all(place).expect("it is ours");
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
        let measured = jobs.iter().map(operations).sum::<u64>();
        total += measured;
        let expected = kinds_of(&name);
        let jobs = report["forebay"]["figures"]["jobs"].as_array().expect("the figures of each job");
        let kinds = |job: &serde_json::Value| -> Vec<String> {
            let kinds = job["kinds"].as_array().expect("kinds").iter();
            kinds.map(|kind| kind["kind"].as_str().expect("a name").to_owned()).collect()
        };
        assert!(jobs.iter().all(|job| kinds(job).iter().all(|kind| expected.contains(&kind.as_str()))), "{name}");
        // A busy machine may not come to each of them in its short time.
        let found = |kind: &&str| jobs.iter().any(|job| kinds(job).iter().any(|found| found == kind));
        assert!(measured < 1_000 || expected.iter().all(found), "{name}: {report:#}");
        names.push(name);
    }
    // A busy machine may not come to measure one operation of one job in its short time.
    assert!(names.len() >= 19 && total > 1_000, "{names:?}, {total} operations");
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
    assert!(report.contains("the namespace is full; delete or trim"), "{report}");
}

/// What `load --layers` prints, for a strict put on a file.
#[test]
fn layers_are_told_or_how_to_have_them() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(["load", "-", "--layers", "--json"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
    let job = b"[put]\nrw=randwrite\nkeys=300\nvalue_size=64\niodepth=4\n";
    // A program that refuses does not read it.
    let _ = child.stdin.take().expect("it is piped").write_all(job);
    let output = child.wait_with_output().expect("it ends");
    if !forebay::timing::ENABLED {
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{told}");
        assert!(told.contains("cargo build --release --features perf-diagnostics"), "{told}");
        return;
    }
    assert!(output.status.success(), "{output:?}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("the report is JSON");
    let layers = &report["forebay"]["figures"]["jobs"][0]["layers"];
    assert_eq!(layers["requests"], 300, "{layers:#}");
    for split in ["p50", "p999"] {
        let spent = layers[split]["spent_ns"].as_array().expect("a figure a layer");
        let sum: u64 = spent.iter().filter_map(serde_json::Value::as_u64).sum();
        let latency = layers[split]["latency_ns"].as_u64().expect("a latency");
        assert!(sum.abs_diff(latency) <= latency / 50, "{split}: {sum} of {latency} ns");
        // Ring wait, decode, store, encode, checksums, device and post: no strict put does without.
        for at in [0, 1, 2, 3, 4, 7, 8] {
            assert!(spent[at].as_u64() > Some(0), "{split}: {layers:#}");
        }
    }
}
