//! What is recognised on a device, and what of its use by the kernel.

use super::*;
use crate::device::scratch::Scratch;

const DEVICE_BYTES: usize = 4 << 20;

fn with(at: usize, bytes: &[u8]) -> Option<String> {
    let mut device = vec![0; DEVICE_BYTES];
    device[at..at + bytes.len()].copy_from_slice(bytes);
    contents(&device)
}

fn contents(device: &[u8]) -> Option<String> {
    let bytes = END_BYTES.min(device.len());
    let (head, tail) = (device[..bytes].to_vec(), device[device.len() - bytes..].to_vec());
    Ends { head, tail, device_bytes: device.len() as u64 }.contents()
}

#[test]
fn every_signature_is_recognised_and_none_in_zeros() {
    for (name, at, bytes) in SIGNATURES {
        assert_eq!(with(*at, bytes).as_deref(), Some(*name));
    }
    for (name, back, bytes) in SIGNATURES_FROM_END {
        assert_eq!(with(DEVICE_BYTES - back, bytes).as_deref(), Some(*name));
    }
    assert!(with(12_345, b"x").unwrap().contains("12345"));
    assert_eq!(with(DEVICE_BYTES - 100, b"x"), None, "what has no signature counts at the front only");
    assert_eq!((contents(&[0; DEVICE_BYTES]), contents(&[0; 4096]), contents(&[])), (None, None, None));
}

#[test]
fn what_stands_at_the_end_is_found_on_devices_of_any_size() {
    let raid = Some("a Linux RAID member");
    for (device_bytes, old, new) in
        [(4 << 20, (4 << 20) - 65_536, (4 << 20) - 8192), ((4 << 20) + 12_288, (4 << 20) - 65_536, (4 << 20) + 4096)]
    {
        for at in [old, new] {
            let mut device = vec![0; device_bytes];
            device[at..at + 4].copy_from_slice(RAID_MAGIC);
            assert_eq!(contents(&device).as_deref(), raid, "at {at} of {device_bytes}");
        }
        // One uberblock in each of the four labels.
        let end = device_bytes / ZFS_LABEL_BYTES * ZFS_LABEL_BYTES;
        for label in [0, ZFS_LABEL_BYTES, end - 2 * ZFS_LABEL_BYTES, end - ZFS_LABEL_BYTES] {
            let mut device = vec![0; device_bytes];
            device[label + (200 << 10)..][..8].copy_from_slice(&ZFS_MAGIC.to_be_bytes());
            assert_eq!(contents(&device).as_deref(), Some("a ZFS pool member"), "label at {label} of {device_bytes}");
        }
    }
}

#[test]
fn any_copy_of_a_superblock_names_its_namespace() {
    let mut copy = [0; 4096];
    copy[..8].copy_from_slice(FOREBAY);
    copy[FOREBAY_UUID..FOREBAY_UUID + 16].fill(0xab);
    let ours = Some("a Forebay namespace, abababab-abab-abab-abab-abababababab");
    for at in [64 << 10, 128 << 10, DEVICE_BYTES - (128 << 10), DEVICE_BYTES - (192 << 10)] {
        assert_eq!(with(at, &copy).as_deref(), ours);
    }
}

#[test]
fn a_protective_mbr_is_called_gpt_and_ours_is_told_from_others() {
    let mut device = vec![0; DEVICE_BYTES];
    device[510..512].copy_from_slice(b"\x55\xaa");
    device[512..520].copy_from_slice(b"EFI PART");
    assert_eq!(contents(&device).as_deref(), Some("a GPT partition table"));
    let table = partition_table::protective(DEVICE_BYTES as u64, 512, 64 << 10, [1; 16]).unwrap();
    device[..table.head.len()].copy_from_slice(&table.head);
    assert_eq!(contents(&device).as_deref(), Some("a partition table of Forebay's, without a namespace"));
}

#[test]
fn a_file_is_looked_into_and_a_missing_one_named() {
    let scratch = Scratch::file(8192);
    assert_eq!(what_is_on(scratch.path()).unwrap(), None);
    std::fs::write(scratch.path(), b"XFSB").unwrap();
    assert_eq!(what_is_on(scratch.path()).unwrap().as_deref(), Some("an XFS file system"));
    let missing = Scratch::name();
    let error = what_is_on(missing.path()).unwrap_err().to_string();
    assert!(error.contains(missing.path().to_str().unwrap()), "{error}");
}

#[test]
fn a_mounted_device_is_found_by_number() {
    let mountinfo = "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/nowhere rw\n\
                     23 1 259:3 / /srv rw - xfs /dev/nowhere rw\n";
    let find = |number: &str| mount_point(mountinfo, &[number.to_owned()]);
    assert_eq!((find("259:3").as_deref(), find("254:0").as_deref(), find("8:0")), (Some("/srv"), Some("/"), None));
}

/// A made-up directory of a disk with one partition, removed when it is over.
struct Disk(PathBuf);

impl Disk {
    fn new(name: &str) -> Disk {
        let root = std::env::temp_dir().join(format!("forebay-occupant-{name}-{}", std::process::id()));
        for (directory, number) in [("disk0", "259:0"), ("disk0/disk0p1", "259:1")] {
            std::fs::create_dir_all(root.join(directory).join("holders")).unwrap();
            std::fs::write(root.join(directory).join("dev"), format!("{number}\n")).unwrap();
        }
        std::fs::write(root.join("disk0/disk0p1/partition"), "1\n").unwrap();
        Disk(root)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_partition_speaks_for_its_drive_and_a_drive_for_its_partitions() {
    let disk = Disk::new("both");
    let (whole, part) = (disk.0.join("disk0"), disk.0.join("disk0/disk0p1"));
    for (directory, other) in [(&whole, &part), (&part, &whole)] {
        let (numbers, directories) = same_drive(directory).unwrap();
        assert_eq!((numbers.len(), holder(&directories)), (2, None), "no one uses it: a partition alone is no use");
        std::fs::write(other.join("holders/md7"), "").unwrap();
        assert_eq!(holder(&directories).as_deref(), Some("md7"));
        std::fs::remove_file(other.join("holders/md7")).unwrap();
    }
}

#[test]
fn a_member_of_a_btrfs_and_what_a_loop_device_shows_are_in_use() {
    let disk = Disk::new("unlisted");
    let find = || unlisted(&disk.0, "disk0p1");
    std::fs::create_dir_all(disk.0.join("class/block/loop3/loop")).unwrap();
    std::fs::write(disk.0.join("class/block/loop3/loop/backing_file"), "/dev/disk0p11\n").unwrap();
    assert_eq!(find(), None);
    std::fs::write(disk.0.join("class/block/loop3/loop/backing_file"), "/dev/disk0p1\n").unwrap();
    assert_eq!(find().as_deref(), Some("what loop3 shows"));
    std::fs::create_dir_all(disk.0.join("fs/btrfs/some-uuid/devices/disk0p1")).unwrap();
    assert_eq!(find().as_deref(), Some("a part of a mounted Btrfs file system"));
}

#[test]
fn swap_space_is_found_by_the_number_of_its_device() {
    let swaps = "Filename Type Size Used Priority\n/dev/null file 1 0 -2\n/nowhere partition 1 0 -2\n";
    assert_eq!(swap_device(swaps, &["1:3".to_owned()]), None, "no block device");
    let Ok(entries) = std::fs::read_dir("/dev") else { return };
    let mut devices = entries.flatten().filter_map(|entry| entry.path().to_str().map(str::to_owned));
    let Some((device, number)) = devices.find_map(|device| number_of(&device).map(|number| (device, number))) else {
        eprintln!("skipped: no block device to be named");
        return;
    };
    let swaps = format!("Filename Type Size Used Priority\n{device} partition 1 0 -2\n");
    assert_eq!(swap_device(&swaps, &[number]), Some(device));
}
