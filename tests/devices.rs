//! Devices that are no good, and the offline tools, as a user meets them: one line, exit code 1, the cause and what to do.
#![cfg(feature = "server")]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use forebay::wal::layout::Layout;

const CAPACITY: u64 = 16 << 20;
const BLOCK: u64 = 4_096;

/// A directory of a test's own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("forebay-devices-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).expect("the temporary directory is writable");
        let flight = format!("flight.directory = {path:?}\n");
        let limits = "limits.value_bytes_max = \"64KiB\"\nlimits.memory_bytes_max = \"64MiB\"\n";
        let sizes = "wal.frame_bytes_max = \"64KiB\"\ndevice.hugepages = false\nreactors.spin = \"0\"\n";
        std::fs::write(path.join("test.toml"), flight + limits + sizes).expect("the directory is writable");
        Scratch(path)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("the temporary directory is UTF-8").to_owned()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
        command.args(arguments).args(["--config", &self.path("test.toml"), "--socket", &self.path("socket")]);
        command.stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the program starts")
    }

    /// Runs what must succeed, and gives what it printed.
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).expect("output is UTF-8")
    }

    /// Runs what must fail, and gives its one line: the cause, and what to do.
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {text}");
        let own: Vec<&str> = text.lines().filter(|line| line.starts_with("forebay: ")).collect();
        assert_eq!((own.len(), text.lines().last()), (1, own.last().copied()), "not one line: {text:?}");
        assert!(own[0].contains("; "), "it does not say what to do: {text}");
        own[0].to_owned()
    }

    /// A formatted file.
    fn formatted(&self, name: &str) -> String {
        let device = self.path(name);
        self.done(&["format", &device, "--capacity", "16MiB", "--segment-bytes", "1MiB", "--shards", "2"]);
        device
    }

    fn serve(&self, device: &str) -> Daemon {
        Daemon::ready(self.command(&["serve", "--device", device]))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Daemon(Child);

impl Daemon {
    /// Starts it and waits until it says that it is ready.
    fn ready(mut command: Command) -> Daemon {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut log = String::new();
        while !log.contains("ready") {
            let bytes = lines.read_line(&mut log).expect("the log is UTF-8");
            assert!(bytes > 0, "the daemon ended: {log}");
        }
        // What it says later must not fill the pipe.
        std::thread::spawn(move || std::io::copy(&mut lines, &mut std::io::sink()));
        Daemon(child)
    }

    fn stop(mut self) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it runs");
        assert!(self.0.wait().expect("it is our child").success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

fn overwrite(device: &str, at: u64, bytes: &[u8]) {
    File::options().write(true).open(device).expect("it is there").write_all_at(bytes, at).expect("it is writable");
}

fn read(device: &str, at: u64, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    File::open(device).expect("it is there").read_exact_at(&mut out, at).expect("it is long enough");
    out
}

fn copies() -> [u64; 4] {
    Layout::superblock_addresses(CAPACITY).map(|address| address.0)
}

/// Every command that opens a device.
fn openers(device: &str) -> [Vec<&str>; 4] {
    [
        vec!["serve", "--device", device],
        vec!["verify", device],
        vec!["inspect", device],
        vec!["repair", device, "--segment-headers"],
    ]
}

#[test]
fn missing_directory_empty_and_too_small() {
    let scratch = Scratch::new();
    let (missing, directory) = (scratch.path("missing"), scratch.path(""));
    let empty = scratch.path("empty");
    std::fs::write(&empty, "").expect("the directory is writable");
    let small = scratch.path("small");
    std::fs::write(&small, vec![0; 64 << 10]).expect("the directory is writable");
    for (device, cause) in [
        (&missing, "No such file"),
        (&directory, "neither a file, a block device, nor an NVMe namespace"),
        (&empty, "too small: 0 B"),
        (&small, "too small"),
    ] {
        for arguments in openers(device) {
            let line = scratch.refused(&arguments);
            assert!(line.contains(cause) && line.contains(device.as_str()), "{arguments:?}: {line}");
        }
    }
    for device in [&missing, &directory, &empty, &small] {
        scratch.refused(&["format", device]);
    }
    // Options that can never fit each other are a matter of usage.
    assert_eq!(scratch.run(&["format", &missing, "--capacity", "1MiB"]).status.code(), Some(2));
    assert!(!Path::new(&missing).exists(), "a refused format leaves nothing behind");
}

#[test]
fn not_formatted() {
    let scratch = Scratch::new();
    let zeros = scratch.path("zeros");
    File::create(&zeros).and_then(|file| file.set_len(CAPACITY)).expect("the directory is writable");
    for arguments in openers(&zeros) {
        let line = scratch.refused(&arguments);
        assert!(line.contains("no Forebay superblock") && line.contains("forebay format"), "{arguments:?}: {line}");
    }
}

#[test]
fn format_does_not_overwrite_what_is_there() {
    let scratch = Scratch::new();
    let device = scratch.formatted("device");
    let before = std::fs::read(&device).expect("it is there");
    let line = scratch.refused(&["format", &device]);
    assert!(line.contains("holds a Forebay namespace") && line.contains("--force"), "{line}");
    assert!(std::fs::read(&device).expect("it is there") == before, "a refused format changes nothing");
    let photo = scratch.path("photo");
    std::fs::write(&photo, vec![7; 8 << 20]).expect("the directory is writable");
    let line = scratch.refused(&["format", &photo, "--segment-bytes", "1MiB", "--shards", "2"]);
    assert!(line.contains("holds unknown data") && line.contains("--force"), "{line}");
    scratch.done(&["format", &photo, "--segment-bytes", "1MiB", "--shards", "2", "--force"]);
    scratch.done(&["verify", &photo]);
}

#[test]
fn in_use_by_a_daemon() {
    let scratch = Scratch::new();
    let device = scratch.formatted("device");
    let daemon = scratch.serve(&device);
    let mut all = openers(&device).to_vec();
    all.push(vec!["repair", &device, "--superblocks", "--yes"]);
    all.push(vec!["format", &device, "--force"]);
    // Each waits for the lock for a while: at once, not one after another.
    std::thread::scope(|scope| {
        for arguments in &all {
            let scratch = &scratch;
            scope.spawn(move || {
                let line = scratch.refused(arguments);
                assert!(line.contains("locked by another process") && line.contains("stop the daemon"), "{line}");
            });
        }
    });
    daemon.stop();
    scratch.done(&["verify", &device]);
}

#[test]
fn read_only() {
    if rustix::process::geteuid().is_root() {
        eprintln!("skipped: root may write to everything");
        return;
    }
    let scratch = Scratch::new();
    let device = scratch.formatted("device");
    let mut permissions = std::fs::metadata(&device).expect("it is there").permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&device, permissions).expect("it is ours");
    let line = scratch.refused(&["serve", "--device", &device]);
    assert!(line.contains("cannot be written") && line.contains("check its owner and mode"), "{line}");
    scratch.done(&["verify", &device]);
}

#[test]
fn another_format_version() {
    let scratch = Scratch::new();
    let device = scratch.formatted("device");
    for address in copies() {
        let mut block = read(&device, address, 4_096);
        block[12] = 2;
        let crc = crc32c::crc32c(&block[12..]).to_le_bytes();
        block[8..12].copy_from_slice(&crc);
        overwrite(&device, address, &block);
        // One copy is enough: a newer Forebay was here.
        for arguments in openers(&device) {
            let line = scratch.refused(&arguments);
            assert!(line.contains("format version 2; this Forebay knows version 1"), "{line}");
            assert!(line.contains("use the Forebay release that wrote it"), "{line}");
        }
    }
}

#[test]
fn another_namespace() {
    let scratch = Scratch::new();
    let (device, other) = (scratch.formatted("device"), scratch.formatted("other"));
    overwrite(&device, copies()[3], &read(&other, copies()[3], 4_096));
    for arguments in openers(&device) {
        let line = scratch.refused(&arguments);
        assert!(line.contains("superblock copies of two namespaces"), "{arguments:?}: {line}");
    }
}

#[test]
fn truncated() {
    let scratch = Scratch::new();
    let device = scratch.formatted("device");
    for bytes in [CAPACITY - 1, CAPACITY / 2, 600 << 10] {
        File::options().write(true).open(&device).and_then(|file| file.set_len(bytes)).expect("it is writable");
        for arguments in openers(&device) {
            let line = scratch.refused(&arguments);
            assert!(line.contains("it is truncated") && line.contains("restore the whole image"), "{line}");
        }
    }
}

#[test]
fn repair_wants_a_choice() {
    let scratch = Scratch::new();
    let device = scratch.formatted("device");
    for arguments in [
        ["repair", &device].as_slice(),
        &["repair", &device, "--cut"],
        &["repair", &device, "--shard", "0"],
        &["repair", &device, "--superblocks", "--segment-headers"],
    ] {
        assert_eq!(scratch.run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    let line = scratch.refused(&["repair", &device, "--cut", "--shard", "2"]);
    assert!(line.contains("there is no shard 2; choose one below 2"), "{line}");
    assert!(scratch.done(&["repair", &device, "--cut", "--shard", "1"]).contains("nothing to do"));
}

/// A namespace with `count` keys in it, of a daemon that was stopped.
fn filled(scratch: &Scratch, count: u32) -> String {
    let device = scratch.formatted("device");
    let daemon = scratch.serve(&device);
    for number in 0..count {
        let key = format!("key-{number}");
        scratch.done(&["put", "accounts", &key, "some value", "--create=strict"]);
    }
    daemon.stop();
    device
}

fn lines(text: &str, what: &str) -> Vec<serde_json::Value> {
    let all = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a line is JSON"));
    all.filter(|object| object["what"] == what).collect()
}

#[test]
fn verify_and_inspect_tell_what_is_there() {
    let scratch = Scratch::new();
    let device = filled(&scratch, 6);
    let table = scratch.done(&["verify", &device]);
    assert!(table.contains("clean end after LSN") && !table.contains("WRONG"), "{table}");
    let json = scratch.done(&["verify", &device, "--json"]);
    assert_eq!((lines(&json, "superblock").len(), lines(&json, "shard").len()), (4, 2), "{json}");
    // Six puts and what made the space.
    assert_eq!((&lines(&json, "summary")[0]["records"], &lines(&json, "summary")[0]["wrong"]), (&7.into(), &0.into()));
    let json = scratch.done(&["inspect", &device, "--json", "--segments", "--frames", "--records"]);
    assert_eq!(lines(&json, "object")[0]["name"], "accounts");
    assert_eq!((lines(&json, "namespace").len(), lines(&json, "record").len()), (1, 7), "{json}");
    assert!(lines(&json, "frame").len() >= 7 && lines(&json, "segment").len() >= 2, "{json}");
    let table = scratch.done(&["inspect", &device, "--records", "--shard", "0"]);
    assert!(table.contains("space \"accounts\": number 1, strict") && table.contains("create object 1"), "{table}");
    let line = scratch.refused(&["inspect", &device, "--shard", "9"]);
    assert!(line.contains("there is no shard 9"), "{line}");
}

#[test]
fn repair_mends_what_can_be_mended_and_the_daemon_starts() {
    let scratch = Scratch::new();
    let device = filled(&scratch, 4);
    overwrite(&device, copies()[0], &[1; 4_096]);
    overwrite(&device, copies()[1] + 100, &[1]);
    let json = scratch.done(&["inspect", &device, "--json", "--segments", "--frames"]);
    let used = lines(&json, "frame")[0]["address"].as_u64().expect("it is a number");
    overwrite(&device, used - BLOCK, &[0; 4_096]);
    let output = scratch.run(&["verify", &device]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!((output.status.code(), text.matches("WRONG superblock").count()), (Some(1), 2), "{text}");
    assert!(text.contains("WRONG shard") && text.contains("the header of segment"), "{text}");
    let line = scratch.refused(&["serve", "--device", &device]);
    assert!(line.contains("the header of segment") && line.contains("forebay verify"), "{line}");
    for choice in ["--superblocks", "--segment-headers"] {
        let before = std::fs::read(&device).expect("it is there");
        let text = scratch.done(&["repair", &device, choice]);
        let command = format!("nothing was changed; to do it: forebay repair {device} {choice} --yes");
        assert!(text.contains("lost: nothing") && text.contains(&command), "{text}");
        assert!(std::fs::read(&device).expect("it is there") == before, "a dry run changes nothing");
        assert!(scratch.done(&["repair", &device, choice, "--yes"]).ends_with("done\n"));
        assert!(scratch.done(&["repair", &device, choice]).contains("nothing to do"));
    }
    scratch.done(&["verify", &device]);
    let daemon = scratch.serve(&device);
    for number in 0..4 {
        assert_eq!(scratch.done(&["get", "accounts", &format!("key-{number}")]), "some value");
    }
    daemon.stop();
}

#[test]
fn a_cut_gives_up_what_it_says_and_no_more() {
    let scratch = Scratch::new();
    let device = filled(&scratch, 12);
    let json = scratch.done(&["inspect", &device, "--json", "--frames", "--records", "--shard", "1"]);
    let frames = lines(&json, "frame");
    let records = lines(&json, "record");
    assert!(records.len() >= 3, "{json}");
    let (lsn, key) = (&records[1]["lsn"], records[1]["key"].as_str().expect("it is text").to_owned());
    let frame = frames.iter().find(|frame| frame["first_lsn"] == *lsn).expect("every put has its own frame");
    let at = frame["address"].as_u64().expect("it is a number");
    overwrite(&device, at + 120, b"rot");
    let line = scratch.refused(&["serve", "--device", &device]);
    assert!(line.contains(&format!("damaged at address {at} ")) && line.contains("forebay repair"), "{line}");
    let text = scratch.done(&["repair", &device, "--cut", "--shard", "1"]);
    let lost = records.len() - 1;
    assert!(text.contains(&format!("lost: shard 1: every record from LSN {lsn} on, at address {at}")), "{text}");
    assert!(text.contains(&format!("at least {lost} records are given up")), "{text}");
    assert!(text.contains("--cut --shard 1 --yes"), "{text}");
    scratch.refused(&["serve", "--device", &device]);
    scratch.done(&["repair", &device, "--cut", "--shard", "1", "--yes"]);
    for life in 0..3 {
        let daemon = scratch.serve(&device);
        let listed = scratch.done(&["scan", "accounts"]);
        assert_eq!(listed.matches("key-").count(), 12 - lost, "{listed}");
        assert_eq!(scratch.run(&["get", "accounts", &key]).status.code(), Some(1));
        for number in 0..3 {
            scratch.done(&["put", "accounts", &format!("new-{life}-{number}"), "new"]);
        }
        let listed = scratch.done(&["scan", "accounts"]);
        assert_eq!(listed.matches("new-").count(), 3 * (life + 1), "{listed}");
        daemon.stop();
    }
    scratch.done(&["verify", &device]);
}

#[test]
fn little_locked_memory_is_slower_and_no_failure() {
    let tools = ["prlimit", "setpriv"].map(|tool| Command::new(tool).arg("--version").output().is_ok());
    if tools != [true, true] {
        eprintln!("skipped: it takes util-linux's prlimit and setpriv");
        return;
    }
    let scratch = Scratch::new();
    let device = scratch.formatted("namespace");
    // How much the kernel charges for a ring differs; each limit must do, whatever part of the rings fits in.
    for limit_bytes in ["0", "20000", "40000", "80000"] {
        let mut command = Command::new("prlimit");
        let allowed = Command::new("prlimit").args([&format!("--memlock={limit_bytes}"), "true"]).output();
        if !allowed.is_ok_and(|output| output.status.success()) {
            eprintln!("skipped: a limit of {limit_bytes} B is above this user's own (`ulimit -Hl`)");
            continue;
        }
        // Root is held to no limit while it has the capability.
        let no_capability = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"];
        let root = rustix::process::geteuid().is_root();
        command.arg(format!("--memlock={limit_bytes}")).args(no_capability.iter().filter(|_| root));
        command.args([env!("CARGO_BIN_EXE_forebay"), "serve", "--device", &device]);
        command.args(["--config", &scratch.path("test.toml"), "--socket", &scratch.path("socket")]);
        let daemon = Daemon::ready(command);
        scratch.done(&["put", "--create", "accounts", limit_bytes, "kept"]);
        daemon.stop();
    }
    scratch.done(&["verify", &device]);
}
