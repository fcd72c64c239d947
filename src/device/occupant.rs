//! What a device carries already, so that `format` can refuse to overwrite it.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

use super::drive::sysfs;
use super::partition_table;
use crate::bytes::{array, index};
use crate::error::{Error, Result};

/// The part of a device that is looked at, at either end: every signature below lies in it.
pub const END_BYTES: usize = 1 << 20;

/// A superblock of Forebay's begins with this. Where its copies stand, from the front and from the end.
const FOREBAY: &[u8] = b"FBSUPER1";
const FOREBAY_FROM_FRONT: [usize; 2] = [64 << 10, 128 << 10];
const FOREBAY_FROM_END: [usize; 2] = [128 << 10, 192 << 10];
const FOREBAY_UUID: usize = 16;

/// A signature: its name, where it stands, and its bytes.
type Signature = (&'static str, usize, &'static [u8]);

/// From the front. Of two that fit the first one counts, so the boot sector that many of them have comes last.
const SIGNATURES: &[Signature] = &[
    ("a GPT partition table", 512, b"EFI PART"),
    ("a GPT partition table", 4096, b"EFI PART"),
    ("an LVM physical volume", 0, b"LABELONE"),
    ("an LVM physical volume", 512, b"LABELONE"),
    ("an LVM physical volume", 1024, b"LABELONE"),
    ("an LVM physical volume", 1536, b"LABELONE"),
    ("a LUKS volume", 0, b"LUKS\xba\xbe"),
    ("a BitLocker volume", 3, b"-FVE-FS-"),
    ("an NTFS file system", 3, b"NTFS    "),
    ("an exFAT file system", 3, b"EXFAT   "),
    ("an XFS file system", 0, b"XFSB"),
    ("an ext2/3/4 file system", 0x438, b"\x53\xef"),
    ("an F2FS file system", 0x400, b"\x10\x20\xf5\xf2"),
    ("a Btrfs file system", 0x1_0040, b"_BHRfS_M"),
    ("a bcache or bcachefs device", 0x1018, b"\xc6\x85\x73\xf6"),
    ("a Ceph BlueStore device", 0, b"bluestore block device"),
    ("an Oracle ASM disk", 32, b"ORCLDISK"),
    ("swap space", 4086, b"SWAPSPACE2"),
    ("swap space", 65_526, b"SWAPSPACE2"),
    ("a Linux RAID member", 4096, b"\xfc\x4e\x2b\xa9"),
    ("a Linux RAID member", 0, b"\xfc\x4e\x2b\xa9"),
    ("a boot sector or MBR partition table", 510, b"\x55\xaa"),
];

/// So many bytes before the end.
const SIGNATURES_FROM_END: &[Signature] = &[
    ("the backup of a GPT partition table", 512, b"EFI PART"),
    ("the backup of a GPT partition table", 4096, b"EFI PART"),
    ("a member of an Intel RAID", 1024, b"Intel Raid ISM Cfg Sig. "),
    ("a member of an Intel RAID", 8192, b"Intel Raid ISM Cfg Sig. "),
    ("a member of a DDF RAID", 512, b"\xde\x11\xde\x11"),
];

/// Linux RAID that stands at the end, in units of the device's size: 0.90 in the last whole 64 KiB but one, 1.0 at least
/// 8 KiB before the end.
const RAID_MAGIC: &[u8] = b"\xfc\x4e\x2b\xa9";

/// ZFS keeps its uberblocks in the second half of each label, 1 KiB each; any one of them tells. Two labels of 256 KiB
/// stand at the front, two at the end.
const ZFS_UBERBLOCKS: std::ops::Range<usize> = (128 << 10)..(256 << 10);
const ZFS_LABEL_BYTES: usize = 256 << 10;
const ZFS_MAGIC: u64 = 0x00ba_b10c;

/// The two ends of a device; each the whole device where that is smaller.
pub struct Ends {
    pub head: Vec<u8>,
    pub tail: Vec<u8>,
    pub device_bytes: u64,
}

impl Ends {
    /// Reads them from a file or block device.
    ///
    /// # Errors
    /// What the kernel says.
    fn read(path: &Path) -> io::Result<Ends> {
        let mut file = File::open(path)?;
        let device_bytes = io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
        let bytes = END_BYTES.min(index(device_bytes));
        let (mut head, mut tail) = (vec![0; bytes], vec![0; bytes]);
        file.read_exact_at(&mut head, 0)?;
        file.read_exact_at(&mut tail, device_bytes - bytes as u64)?;
        Ok(Ends { head, tail, device_bytes })
    }

    /// Names what stands there, best known first; None when nothing does. Data at the end that has no signature does
    /// not count.
    #[must_use]
    pub fn contents(&self) -> Option<String> {
        if let Some(namespace) = self.forebay() {
            return Some(format!("a Forebay namespace, {namespace}"));
        }
        if partition_table::is_ours(&self.head) {
            return Some("a partition table of Forebay's, without a namespace".to_owned());
        }
        let from_front = SIGNATURES.iter().find(|(_, at, bytes)| self.starts_with(&self.head, Some(*at), bytes));
        let at_end = || {
            SIGNATURES_FROM_END.iter().find(|(_, back, bytes)| self.starts_with(&self.tail, self.back(*back), bytes))
        };
        if let Some((name, ..)) = from_front.or_else(at_end) {
            return Some((*name).to_owned());
        }
        if self.raid_at_end() {
            return Some("a Linux RAID member".to_owned());
        }
        if self.zfs() {
            return Some("a ZFS pool member".to_owned());
        }
        let first = self.head.iter().position(|byte| *byte != 0)?;
        Some(format!("unknown data (the first byte that is not zero is at {first})"))
    }

    /// The UUID of a namespace of which any superblock copy is left.
    fn forebay(&self) -> Option<uuid::Uuid> {
        let front = FOREBAY_FROM_FRONT.map(|at| self.head.get(at..));
        let end = FOREBAY_FROM_END.map(|back| self.back(back).and_then(|at| self.tail.get(at..)));
        let copies = front.into_iter().chain(end).flatten();
        let mut ours = copies.filter(|copy| copy.len() >= FOREBAY_UUID + 16 && copy.starts_with(FOREBAY));
        ours.next().map(|copy| uuid::Uuid::from_bytes(array(copy, FOREBAY_UUID)))
    }

    /// Where in `tail` lies what stands so many bytes before the end.
    fn back(&self, bytes: usize) -> Option<usize> {
        self.tail.len().checked_sub(bytes)
    }

    /// Where in `tail` lies this address.
    fn in_tail(&self, address: u64) -> Option<usize> {
        address.checked_sub(self.device_bytes - self.tail.len() as u64).map(index)
    }

    fn starts_with(&self, end: &[u8], at: Option<usize>, bytes: &[u8]) -> bool {
        at.and_then(|at| end.get(at..)).is_some_and(|rest| rest.starts_with(bytes))
    }

    fn raid_at_end(&self) -> bool {
        let old = (self.device_bytes & !0xffff).checked_sub(0x1_0000);
        let new = (self.device_bytes & !0x1ff).checked_sub(0x2000).map(|at| at & !0xfff);
        let at_end = [old, new].into_iter().flatten().filter_map(|address| self.in_tail(address));
        at_end.into_iter().any(|at| self.starts_with(&self.tail, Some(at), RAID_MAGIC))
    }

    fn zfs(&self) -> bool {
        let labels_end = self.in_tail(self.device_bytes / ZFS_LABEL_BYTES as u64 * ZFS_LABEL_BYTES as u64);
        let from_end = [1, 2].map(|label| labels_end.and_then(|end| end.checked_sub(label * ZFS_LABEL_BYTES)));
        let in_tail = from_end.into_iter().flatten().filter_map(|label| self.tail.get(label..));
        let in_head = [0, ZFS_LABEL_BYTES].into_iter().filter_map(|label| self.head.get(label..));
        in_head.chain(in_tail).any(|label| {
            let uberblocks = label.get(ZFS_UBERBLOCKS).unwrap_or_default().chunks_exact(1024);
            let mut magics = uberblocks.filter_map(|block| block.first_chunk::<8>());
            magics.any(|magic| [u64::from_le_bytes(*magic), u64::from_be_bytes(*magic)].contains(&ZFS_MAGIC))
        })
    }
}

/// Whether the first copy of a superblock stands at address 0: this is the partition of a raw drive of ours, and only
/// the whole drive can be opened.
///
/// # Errors
/// When it cannot be read.
pub fn is_our_partition(path: &Path) -> io::Result<bool> {
    let mut magic = [0; FOREBAY.len()];
    File::open(path)?.read_exact_at(&mut magic, 0)?;
    Ok(magic == FOREBAY)
}

/// Names what stands on the file or block device at `path`, or who uses it; None when neither.
///
/// # Errors
/// When it cannot be looked at.
pub fn what_is_on(path: &Path) -> Result<Option<String>> {
    if let Some(user) = in_use(path)? {
        return Ok(Some(user));
    }
    let ends = Ends::read(path).map_err(|error| Error::from(error).context(path.display()))?;
    Ok(ends.contents())
}

/// Names what the kernel uses the block device at `path` for, or a partition of it, or the drive of which it is one; None
/// for a file. What has no name here is still refused when the device is opened.
///
/// # Errors
/// When it cannot be looked at.
pub fn in_use(path: &Path) -> Result<Option<String>> {
    let look = || -> io::Result<Option<String>> {
        let metadata = std::fs::metadata(path)?;
        if metadata.file_type().is_block_device() { user_of(&metadata) } else { Ok(None) }
    };
    look().map_err(|error| Error::from(error).context(path.display()))
}

fn user_of(metadata: &Metadata) -> io::Result<Option<String>> {
    let (numbers, directories) = same_drive(&sysfs(metadata.rdev()))?;
    if let Some(point) = mount_point(&std::fs::read_to_string("/proc/self/mountinfo")?, &numbers) {
        return Ok(Some(format!("a file system mounted on {point}")));
    }
    if let Some(device) = swap_device(&std::fs::read_to_string("/proc/swaps").unwrap_or_default(), &numbers) {
        return Ok(Some(format!("swap space in use, {device}")));
    }
    if let Some(holder) = holder(&directories) {
        return Ok(Some(format!("something that {holder} uses")));
    }
    let names = directories.iter().filter_map(|directory| Some(directory.file_name()?.to_string_lossy().into_owned()));
    Ok(names.into_iter().find_map(|name| unlisted(Path::new("/sys"), &name)))
}

/// Who uses the device with this name without standing in the lists of mounts, swap space and holders.
fn unlisted(sys: &Path, name: &str) -> Option<String> {
    let entries = |directory: &str| std::fs::read_dir(sys.join(directory)).into_iter().flatten().flatten();
    // Only one device of a Btrfs is listed as mounted.
    if entries("fs/btrfs").any(|system| system.path().join("devices").join(name).exists()) {
        return Some("a part of a mounted Btrfs file system".to_owned());
    }
    let node = Path::new("/dev").join(name);
    let mut loops = entries("class/block").filter(|entry| {
        let backing = std::fs::read_to_string(entry.path().join("loop/backing_file"));
        backing.is_ok_and(|backing| Path::new(backing.trim_end()) == node)
    });
    loops.next().map(|entry| format!("what {} shows", entry.file_name().to_string_lossy()))
}

/// The numbers and the directories of a device, of its partitions, and of the whole drive when it is a partition.
fn same_drive(directory: &Path) -> io::Result<(Vec<String>, Vec<PathBuf>)> {
    let directory = directory.canonicalize()?;
    let mut directories = vec![directory.clone()];
    for entry in std::fs::read_dir(&directory)?.flatten() {
        if entry.path().join("partition").exists() {
            directories.push(entry.path());
        }
    }
    if let Some(whole) = directory.parent().filter(|_| directory.join("partition").exists()) {
        directories.push(whole.to_owned());
    }
    let number = |directory: &PathBuf| Ok(std::fs::read_to_string(directory.join("dev"))?.trim().to_owned());
    Ok((directories.iter().map(number).collect::<io::Result<_>>()?, directories))
}

fn holder(directories: &[PathBuf]) -> Option<String> {
    let holders = directories.iter().filter_map(|directory| std::fs::read_dir(directory.join("holders")).ok());
    let mut held = holders.filter_map(|mut all| all.next()?.ok());
    held.next().map(|entry| entry.file_name().to_string_lossy().into_owned())
}

/// Where one of the devices (as "major:minor", or the source of a mount with an anonymous number) is mounted.
fn mount_point(mountinfo: &str, numbers: &[String]) -> Option<String> {
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(2);
        let (number, point) = (fields.next()?, fields.nth(1)?);
        // Btrfs shows a number of its own; its source still names the device.
        let source = file_system.split(' ').nth(1).filter(|source| source.starts_with('/')).and_then(number_of);
        let ours = numbers.iter().any(|ours| ours == number || Some(ours) == source.as_ref());
        ours.then(|| point.to_owned())
    })
}

/// Which of the devices the kernel swaps to.
fn swap_device(swaps: &str, numbers: &[String]) -> Option<String> {
    let devices = swaps.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    let mut ours = devices.filter(|device| number_of(device).is_some_and(|number| numbers.contains(&number)));
    ours.next().map(str::to_owned)
}

/// The number of a block device by its path.
fn number_of(device: &str) -> Option<String> {
    let metadata = std::fs::metadata(device).ok().filter(|metadata| metadata.file_type().is_block_device())?;
    Some(format!("{}:{}", major(metadata.rdev()), minor(metadata.rdev())))
}

#[cfg(test)]
#[path = "occupant_tests.rs"]
mod tests;
