//! What a device carries already, so that `format` can refuse to overwrite it.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::fs::{major, minor};

use super::drive::sysfs;
use crate::error::{Error, Result};

/// The part of a device that is looked at: every signature below lies in it.
pub const HEAD_BYTES: usize = 1 << 20;

/// A signature: its name, where it stands, and its bytes.
type Signature = (&'static str, usize, &'static [u8]);

const SIGNATURES: &[Signature] = &[
    ("a GPT partition table", 512, b"EFI PART"),
    ("a GPT partition table", 4096, b"EFI PART"),
    ("an LVM physical volume", 0, b"LABELONE"),
    ("an LVM physical volume", 512, b"LABELONE"),
    ("an LVM physical volume", 1024, b"LABELONE"),
    ("an LVM physical volume", 1536, b"LABELONE"),
    ("a LUKS volume", 0, b"LUKS\xba\xbe"),
    ("an XFS file system", 0, b"XFSB"),
    ("an ext2/3/4 file system", 0x438, b"\x53\xef"),
    ("a Btrfs file system", 0x1_0040, b"_BHRfS_M"),
    ("swap space", 4086, b"SWAPSPACE2"),
    ("a Linux RAID member", 4096, b"\xfc\x4e\x2b\xa9"),
    ("a Linux RAID member", 0, b"\xfc\x4e\x2b\xa9"),
    ("a boot sector or MBR partition table", 510, b"\x55\xaa"),
];

/// ZFS keeps its uberblocks from here on, 1 KiB each; any one of them tells.
const ZFS_UBERBLOCKS: std::ops::Range<usize> = (128 << 10)..(256 << 10);
const ZFS_MAGIC: u64 = 0x00ba_b10c;

/// Names what stands on the file or block device at `path`, best known first; None when nothing is there.
/// Does not know Forebay's own superblock: ask for that first.
///
/// # Errors
/// When it cannot be looked at.
pub fn what_is_on(path: &Path) -> Result<Option<String>> {
    let look = || -> io::Result<Option<String>> {
        let metadata = std::fs::metadata(path)?;
        if metadata.file_type().is_block_device()
            && let Some(use_) = in_use(&metadata)?
        {
            return Ok(Some(use_));
        }
        Ok(contents(&head(&File::open(path)?)?))
    };
    look().map_err(|error| Error::from(error).context(path.display()))
}

fn head(file: &File) -> io::Result<Vec<u8>> {
    let mut head = vec![0; HEAD_BYTES];
    let mut filled = 0;
    while filled < head.len() {
        match file.read_at(&mut head[filled..], filled as u64)? {
            0 => break,
            bytes => filled += bytes,
        }
    }
    head.truncate(filled);
    Ok(head)
}

/// Names what stands in the first `HEAD_BYTES` of a device; None when all are zero.
#[must_use]
pub fn contents(head: &[u8]) -> Option<String> {
    let known = SIGNATURES.iter().find(|(_, at, bytes)| head.get(*at..).is_some_and(|rest| rest.starts_with(bytes)));
    if let Some((name, ..)) = known {
        return Some((*name).to_owned());
    }
    let uberblocks = head.get(ZFS_UBERBLOCKS).unwrap_or_default().chunks_exact(1024);
    let magics = uberblocks.filter_map(|block| block.first_chunk::<8>());
    if magics.into_iter().any(|magic| [u64::from_le_bytes(*magic), u64::from_be_bytes(*magic)].contains(&ZFS_MAGIC)) {
        return Some("a ZFS pool member".to_owned());
    }
    let first = head.iter().position(|byte| *byte != 0)?;
    Some(format!("unknown data (the first byte that is not zero is at {first})"))
}

/// Whether the kernel uses this block device, or a partition of it.
fn in_use(metadata: &Metadata) -> io::Result<Option<String>> {
    let directory = sysfs(metadata.rdev());
    let mut numbers = vec![format!("{}:{}", major(metadata.rdev()), minor(metadata.rdev()))];
    let mut parts = vec![directory.clone()];
    for entry in std::fs::read_dir(&directory)?.flatten() {
        if entry.path().join("partition").exists() {
            numbers.push(std::fs::read_to_string(entry.path().join("dev"))?.trim().to_owned());
            parts.push(entry.path());
        }
    }
    if let Some(point) = mount_point(&std::fs::read_to_string("/proc/self/mountinfo")?, &numbers) {
        return Ok(Some(format!("a file system mounted on {point}")));
    }
    for part in &parts {
        if let Some(holder) = std::fs::read_dir(part.join("holders")).ok().and_then(|mut all| all.next()) {
            return Ok(Some(format!("something that {} uses", holder?.file_name().to_string_lossy())));
        }
    }
    Ok(None)
}

/// Where one of the devices (as "major:minor", or the source of a mount with an anonymous number) is mounted.
fn mount_point(mountinfo: &str, numbers: &[String]) -> Option<String> {
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(2);
        let (number, point) = (fields.next()?, fields.nth(1)?);
        // Btrfs shows a number of its own; its source still names the device.
        let source = file_system.split(' ').nth(1).filter(|source| source.starts_with("/dev/"));
        let source = source.and_then(|source| std::fs::metadata(source).ok());
        let source = source.map(|device| format!("{}:{}", major(device.rdev()), minor(device.rdev())));
        let ours = numbers.iter().any(|ours| ours == number || Some(ours) == source.as_ref());
        ours.then(|| point.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::scratch::Scratch;

    fn with(at: usize, bytes: &[u8]) -> Option<String> {
        let mut head = vec![0; HEAD_BYTES];
        head[at..at + bytes.len()].copy_from_slice(bytes);
        contents(&head)
    }

    #[test]
    fn every_signature_is_recognised_and_none_in_zeros() {
        for (name, at, bytes) in SIGNATURES {
            assert_eq!(with(*at, bytes).as_deref(), Some(*name));
        }
        assert_eq!(with(200 << 10, &ZFS_MAGIC.to_be_bytes()).as_deref(), Some("a ZFS pool member"));
        assert!(with(12_345, b"x").unwrap().contains("12345"));
        assert_eq!(contents(&vec![0; HEAD_BYTES]), None);
        assert_eq!(contents(&[]), None);
    }

    #[test]
    fn a_protective_mbr_is_called_gpt() {
        let mut head = vec![0; HEAD_BYTES];
        head[510..512].copy_from_slice(b"\x55\xaa");
        head[512..520].copy_from_slice(b"EFI PART");
        assert_eq!(contents(&head).as_deref(), Some("a GPT partition table"));
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
}
