//! The program as a user meets it: exit codes, one line for an error, and output that may be cut short.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

fn forebay(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_forebay"));
    command.args(arguments).stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    forebay(arguments).output().expect("the program starts")
}

/// The error line, without its "forebay: ".
fn error_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.matches('\n').count(), 1, "not one line: {text:?}");
    assert!(output.stdout.is_empty(), "an error also prints on standard output");
    text.trim_end().strip_prefix("forebay: ").unwrap_or_else(|| panic!("no program name: {text:?}")).to_owned()
}

/// A file of this test's own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str, text: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("forebay-cli-{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("the temporary directory is writable");
        Scratch(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("the temporary directory is UTF-8")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for arguments in [["--help"].as_slice(), &["--version"], &["put", "--help"]] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn every_subcommand_explains_itself() {
    let help = String::from_utf8(run(&["--help"]).stdout).expect("help is UTF-8");
    let commands =
        help.split("Commands:\n").nth(1).and_then(|text| text.split("\n\n").next()).expect("help lists them");
    let names: Vec<&str> = commands
        .lines()
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.contains(&"put") && names.contains(&"doctor"), "{names:?}");
    for name in names.into_iter().filter(|name| *name != "help") {
        let output = run(&[name, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{name}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("Usage: forebay") && text.contains("--json"), "{name}: {text}");
    }
}

#[test]
fn what_is_not_understood_is_exit_code_2() {
    for (arguments, cause) in [
        ([].as_slice(), "no subcommand; see forebay --help"),
        (&["xyzzy"], "unrecognized subcommand 'xyzzy'; see forebay --help"),
        (&["get", "space"], "the following required arguments were not provided: <KEY>; see forebay get --help"),
        (&["put", "s", "k"], "<VALUE>"),
        (&["put", "s", "k", "v", "--file", "f"], "cannot be used with"),
        (
            &["put", "s", "k", "v", "--durability", "firm"],
            "unknown durability \"firm\"; use memory, buffered or strict",
        ),
        (&["put", "s", "k", "v", "--create=firm"], "unknown durability \"firm\""),
        (&["put", "s", "k", "v", "--compression", "lz4"], "required arguments were not provided: --create"),
        (&["put", "s", "k", "v", "--create", "--compression", "rar"], "unknown compression \"rar\"; use none, lz4"),
        (&["get", "s", "k", "--jso"], "a similar argument exists: '--json'"),
        (&["trim", "s", "many"], "invalid value 'many' for '<BEFORE>'"),
        (&["scan", "s", "--prefix", "a", "--end", "b"], "cannot be used with"),
        (&["append", "s"], "<EVENTS>"),
        (&["get", "--hex", "s", "zz"], "\"zz\" is not hexadecimal; write pairs of digits"),
        (&["sim", "--seeds", "0"], "invalid value '0' for '--seeds <COUNT>': 0 is not in 1.."),
        (&["format", "/nonexistent", "--capacity", "1MiB"], "--capacity is 1MiB, too small for 3 segments of 2MiB"),
        (&["format", "/nonexistent", "--shards", "0"], "--shards is 0; use a value from 1 to 1024"),
        (&["format", "/nonexistent", "--segment-bytes", "2GiB"], "--segment-bytes is 2GiB; use a value from 1MiB"),
        (&["serve", "--reactors", "0"], "--reactors is 0; use a value from 1"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        let line = error_line(&output);
        assert!(line.contains(cause), "{arguments:?}: {line}");
    }
}

#[test]
fn no_daemon_is_exit_code_1_and_says_what_to_do() {
    for arguments in [
        ["put", "s", "k", "v"].as_slice(),
        &["get", "s", "k"],
        &["delete", "s", "k"],
        &["scan", "s"],
        &["append", "s", "e"],
        &["read", "s"],
        &["tail", "s"],
        &["trim", "s", "1"],
        &["sync"],
        &["stats"],
    ] {
        let output = forebay(arguments).args(["--socket", "/nonexistent/forebay.sock"]).output().expect("it starts");
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let line = error_line(&output);
        assert!(line.contains("/nonexistent/forebay.sock") && line.contains("; "), "{arguments:?}: {line}");
    }
}

#[test]
fn every_error_of_a_configuration_is_named() {
    let file = Scratch::new("errors.toml", "[wal]\nframes = 1\n[log]\nlevel = \"loud\"\n");
    let output = run(&["sync", "--config", file.path()]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(text.starts_with(&format!("forebay: {}: 2 errors\n", file.path())), "{text}");
    assert!(text.contains(&format!("{}:2: ", file.path())) && text.contains(&format!("{}:4: ", file.path())), "{text}");
}

#[test]
fn the_socket_of_the_configuration_is_used() {
    let file = Scratch::new("socket.toml", "[rings]\nsocket = \"/nonexistent/of-the-file.sock\"\n");
    let line = error_line(&run(&["sync", "--config", file.path()]));
    assert!(line.contains("/nonexistent/of-the-file.sock"), "{line}");
    let line = error_line(&run(&["sync", "--config", file.path(), "--socket", "/nonexistent/of-the-option.sock"]));
    assert!(line.contains("/nonexistent/of-the-option.sock"), "{line}");
}

#[test]
fn a_value_that_is_too_large_is_refused_before_it_is_in_memory() {
    let output = run(&["put", "s", "k", "--file", "/dev/zero"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        error_line(&output)
            .contains("holds more than 16777216 B (16 MiB), the most that any value or event may have; split it")
    );
}

#[test]
fn a_path_that_is_no_device_says_what_to_name() {
    for arguments in [["format", "/proc/self/mem"].as_slice(), &["verify", "/proc/self/mem"], &["verify", "/dev/null"]]
    {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let line = error_line(&output);
        assert!(line.contains("; name "), "{arguments:?}: {line}");
    }
}

#[test]
fn a_socket_path_that_is_too_long_says_so() {
    let path = format!("/tmp/{}", "x".repeat(110));
    let line = error_line(&run(&["sync", "--socket", &path]));
    assert!(line.contains("at most 107 bytes, choose a shorter one"), "{line}");
}

#[test]
fn doctor_prints_a_finding_a_line() {
    let device = Scratch::new("device.img", &"\0".repeat(8_192));
    let output = run(&["doctor", "--json", "--device", device.path()]);
    let text = String::from_utf8(output.stdout).expect("JSON is UTF-8");
    let findings: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a line is JSON")).collect();
    let of = |what: &str| findings.iter().find(|finding| finding["what"] == what).unwrap_or_else(|| panic!("{what}"));
    let found = |what: &str| of(what)["found"].as_str().unwrap_or_default().to_owned();
    assert!(found("device").contains("file (") || found("device").contains("O_DIRECT"), "{text}");
    assert!(found("memory").contains("this configuration needs at most"), "{text}");
    assert_eq!(output.status.code(), Some(0), "{text}");
    let missing = run(&["doctor", "--device", "/nonexistent/device"]);
    assert_eq!(missing.status.code(), Some(1));
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let mut child = forebay(&["doctor"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    let mut errors = String::new();
    child.stderr.take().expect("it is piped").read_to_string(&mut errors).expect("errors are UTF-8");
    let status = child.wait().expect("the program ends");
    assert_eq!((status.code(), errors.as_str()), (Some(0), ""));
}

#[test]
fn a_full_disk_under_the_output_is_an_error() {
    let Ok(full) = File::options().write(true).open("/dev/full") else {
        eprintln!("skipped: there is no /dev/full here");
        return;
    };
    let output = forebay(&["doctor"]).stdout(full).stderr(Stdio::piped()).output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    assert!(error_line(&output).starts_with("write standard output: "));
}
