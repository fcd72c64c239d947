//! Raw drives, as loop devices over files: other tools see that Forebay uses them, and nothing that others use is taken.
#![cfg(feature = "server")]

use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use forebay::device::partition_table;

const BYTES: u64 = 16 << 20;
const LAYOUT: [&str; 4] = ["--segment-bytes", "1MiB", "--shards", "2"];

/// A loop device over a file of zeros; both are gone when it is over.
struct Drive {
    image: PathBuf,
    node: String,
}

impl Drive {
    /// None, with the reason printed, where there are no loop devices.
    fn new(lba_bytes: u32) -> Option<Drive> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("forebay-drives-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let image = std::env::temp_dir().join(name);
        std::fs::File::create(&image).and_then(|file| file.set_len(BYTES)).expect("there is room");
        let size = lba_bytes.to_string();
        let made = Command::new("losetup").args(["--find", "--show", "--sector-size", &size]).arg(&image).output();
        let node = match made {
            Ok(output) if output.status.success() => String::from_utf8(output.stdout).expect("a path is UTF-8"),
            Ok(output) => {
                eprintln!("skipped: no loop device: {}", String::from_utf8_lossy(&output.stderr).trim());
                String::new()
            }
            Err(error) => {
                eprintln!("skipped: losetup: {error}");
                String::new()
            }
        };
        let drive = Drive { image, node: node.trim().to_owned() };
        (!drive.node.is_empty()).then_some(drive)
    }

    fn overwrite(&self, at: u64, bytes: &[u8]) {
        std::fs::File::options()
            .write(true)
            .open(&self.node)
            .expect("it is there")
            .write_all_at(bytes, at)
            .expect("room");
    }

    fn read(&self, at: u64, bytes: usize) -> Vec<u8> {
        let mut out = vec![0; bytes];
        std::fs::File::open(&self.node).expect("it is there").read_exact_at(&mut out, at).expect("it is long enough");
        out
    }

    fn format(&self, more: &[&str]) -> Output {
        forebay(&[&["format", &self.node], LAYOUT.as_slice(), more].concat())
    }

    /// Formats, and gives the namespace's UUID.
    fn formatted(&self, more: &[&str]) -> String {
        let output = self.format(&[more, &["--json"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let made: serde_json::Value = serde_json::from_slice(&output.stdout).expect("one object");
        made["uuid"].as_str().expect("it has one").to_owned()
    }

    /// A format that is refused, with its one line. Nothing of the drive may change.
    fn refused(&self, more: &[&str]) -> String {
        let before = std::fs::read(&self.node).expect("it is there");
        let output = self.format(more);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(std::fs::read(&self.node).expect("it is there") == before, "a refused format changes nothing");
        String::from_utf8(output.stderr).expect("an error is UTF-8")
    }

    /// What a tool says of the drive; None, with the reason printed, where it is not installed.
    fn ask(&self, tool: &str, arguments: &[&str]) -> Option<String> {
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        match Command::new(tool).args(arguments).arg(&self.node).env("PATH", path).output() {
            Ok(output) => {
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text).into_owned();
                assert!(output.status.success(), "{tool}: {text}");
                Some(text)
            }
            Err(error) => {
                eprintln!("skipped: {tool}: {error}");
                None
            }
        }
    }
}

impl Drop for Drive {
    fn drop(&mut self) {
        if !self.node.is_empty() {
            _ = Command::new("losetup").args(["--detach", &self.node]).status();
        }
        _ = std::fs::remove_file(&self.image);
    }
}

fn forebay(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_forebay")).args(arguments).output().expect("it starts")
}

fn done(arguments: &[&str]) -> String {
    let output = forebay(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("output is UTF-8")
}

#[test]
fn other_tools_see_one_partition_of_ours() {
    for lba_bytes in [512, 4096] {
        let Some(drive) = Drive::new(lba_bytes) else { return };
        let uuid = drive.formatted(&[]);
        let kind = partition_table::TYPE.to_string();
        if let Some(text) = drive.ask("sfdisk", &["--verify"]) {
            assert!(text.contains("No errors detected"), "{text}");
        }
        if let Some(text) = drive.ask("sfdisk", &["--dump"]) {
            let lba = u64::from(lba_bytes);
            let (start, size) = ((64 << 10) / lba, (BYTES - (128 << 10)) / lba);
            let words: Vec<&str> = text.lines().filter(|line| line.contains("start=")).collect();
            assert_eq!(words.len(), 1, "{text}");
            let line = words[0].to_lowercase().replace(' ', "");
            for word in [
                format!("start={start},"),
                format!("size={size},"),
                format!("type={kind},"),
                format!("uuid={uuid},"),
                "name=\"forebay\"".to_owned(),
            ] {
                assert!(line.contains(&word), "{word} is not in {line}");
            }
        }
        // gdisk asks the kernel for the size of an LBA, and checks both copies with their checksums.
        if let Some(text) = drive.ask("sgdisk", &["--verify"]) {
            assert!(text.contains("No problems found"), "{text}");
        }
        if let Some(text) = drive.ask("blkid", &["-p", "-o", "export"]) {
            assert!(text.contains("PTTYPE=gpt") && !text.contains("\nTYPE="), "{text}");
        }
        done(&["verify", &drive.node]);
    }
}

#[test]
fn a_drive_of_ours_is_called_so_as_long_as_anything_is_left() {
    let Some(drive) = Drive::new(512) else { return };
    let uuid = drive.formatted(&[]);
    let ours = format!("{} holds a Forebay namespace, {uuid}; use another device, or --force", drive.node);
    assert!(drive.refused(&[]).contains(&ours));
    assert!(done(&["doctor", "--device", &drive.node]).contains(&format!("holds a Forebay namespace, {uuid}")));
    // Whatever else is gone: the front, with table and superblocks; all superblocks.
    let last = drive.read(BYTES - (256 << 10), 256 << 10);
    drive.overwrite(0, &[0; 256 << 10]);
    assert!(drive.refused(&[]).contains(&ours));
    drive.overwrite(BYTES - (256 << 10), &[0; 192 << 10]);
    assert!(drive.refused(&[]).contains("holds the backup of a GPT partition table"));
    drive.overwrite(BYTES - (256 << 10), &last);
    assert!(drive.refused(&[]).contains(&ours));
    let again = drive.formatted(&["--force"]);
    assert_ne!(again, uuid);
    drive.overwrite(64 << 10, &[0; 192 << 10]);
    drive.overwrite(BYTES - (256 << 10), &[0; 192 << 10]);
    assert!(drive.refused(&[]).contains("holds a partition table of Forebay's, without a namespace"));
}

#[test]
fn what_others_left_is_gone_after_a_forced_format() {
    let Some(drive) = Drive::new(512) else { return };
    let zfs = 0x00ba_b10c_u64.to_le_bytes();
    for at in [0x438, 0x1_0040, (128 << 10) + 512, (512 << 10) - 1024, BYTES - (300 << 10), BYTES - 8192] {
        drive.overwrite(at, &[0xfe; 256]);
    }
    drive.overwrite(0x438, b"\x53\xef");
    drive.overwrite(0x1_0040, b"_BHRfS_M");
    drive.overwrite(BYTES - (384 << 10), &zfs);
    assert!(drive.refused(&[]).contains("holds an ext2/3/4 file system"));
    drive.formatted(&["--force"]);
    if let Some(text) = drive.ask("wipefs", &["--no-act", "--noheadings", "--output", "TYPE"]) {
        let mut kinds: Vec<&str> = text.split_whitespace().collect();
        kinds.dedup();
        assert_eq!(kinds, ["gpt", "PMBR"], "{text}");
    }
}

/// A namespace that was formatted on a file, or by a release that wrote no table.
#[test]
fn a_drive_without_a_table_is_used_as_before() {
    let Some(drive) = Drive::new(512) else { return };
    let image = drive.image.with_extension("image");
    let path = image.to_str().expect("a scratch path is UTF-8");
    done(&[&["format", path, "--capacity", "16MiB"], LAYOUT.as_slice()].concat());
    let bytes = std::fs::read(&image).expect("it was made");
    std::fs::remove_file(&image).expect("it was made");
    assert!(bytes[..64 << 10].iter().all(|byte| *byte == 0), "a file has no table");
    drive.overwrite(0, &bytes);
    done(&["verify", &drive.node]);
    assert_eq!(done(&["repair", &drive.node, "--superblocks"]).trim(), "nothing to do");
    // A loop device has no serial number: nothing to be tied to.
    assert!(done(&["repair", &drive.node, "--adopt"]).contains("names no drive already"));
    assert!(drive.read(0, 64 << 10).iter().all(|byte| *byte == 0));
}

#[test]
fn a_mounted_drive_is_refused_by_force_too() {
    let Some(drive) = Drive::new(512) else { return };
    let place = drive.image.with_extension("mount");
    let run = |program: &str, arguments: &[&str]| {
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        Command::new(program).args(arguments).env("PATH", path).output().is_ok_and(|output| output.status.success())
    };
    std::fs::create_dir(&place).expect("the directory is writable");
    let at = place.to_str().expect("a scratch path is UTF-8");
    if run("mkfs.ext4", &["-q", &drive.node]) && run("mount", &[&drive.node, at]) {
        for more in [[].as_slice(), &["--force"]] {
            let line = drive.refused(more);
            assert!(line.contains(&format!("is in use: it holds a file system mounted on {at}")), "{line}");
        }
        assert!(run("umount", &[at]));
        assert!(drive.refused(&[]).contains("holds an ext2/3/4 file system"));
    } else {
        eprintln!("skipped: nothing can be mounted here");
    }
    std::fs::remove_dir(&place).expect("it is empty");
}
