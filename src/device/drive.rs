//! What the kernel says about the drive below a file or block device. Read, never assumed.

use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};

/// What a segment of a command holds at least: a page of memory, where no two of a buffer are neighbours.
const PAGE_BYTES: u32 = 4096;

/// The properties of a block queue that decide how a write becomes durable, and how its end is seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drive {
    /// The kernel's name, "nvme0n1".
    pub name: String,
    /// The drive has a volatile write cache: a completed write is not yet durable.
    pub volatile_cache: bool,
    /// The drive takes a single write through its cache.
    pub fua: bool,
    /// The queue was made for polling.
    pub polls: bool,
    pub logical_block_bytes: u32,
    /// What the kernel sends the drive in one command, at most.
    pub transfer_bytes_max: u32,
    /// A partition, not the whole drive.
    pub partition: bool,
}

impl Drive {
    /// The drive with device number `device` (`st_dev` of a file, `st_rdev` of a block device). None where the kernel
    /// shows none: a network or memory file system, or one that spans drives.
    #[must_use]
    pub fn of(device: u64) -> Option<Drive> {
        Drive::at(&sysfs(device))
    }

    /// The same, by the directory in which the kernel describes the disk or partition.
    #[must_use]
    pub fn at(sysfs: &Path) -> Option<Drive> {
        let sysfs = sysfs.canonicalize().ok()?;
        // A partition has no queue of its own.
        let disk = if sysfs.join("queue").is_dir() { sysfs.as_path() } else { sysfs.parent()? };
        let attribute =
            |name: &str| Some(std::fs::read_to_string(disk.join("queue").join(name)).ok()?.trim().to_owned());
        let number = |name: &str, unit_bytes: u32| {
            let count = attribute(name).and_then(|text| text.parse::<u32>().ok());
            count.map_or(u32::MAX, |count| count.saturating_mul(unit_bytes))
        };
        Some(Drive {
            name: disk.file_name()?.to_string_lossy().into_owned(),
            volatile_cache: attribute("write_cache").is_none_or(|cache| cache != "write through"),
            fua: attribute("fua").is_some_and(|fua| fua == "1"),
            polls: attribute("io_poll").is_some_and(|polls| polls == "1"),
            logical_block_bytes: attribute("logical_block_size")?.parse().ok()?,
            transfer_bytes_max: number("max_sectors_kb", 1024).min(number("max_segments", PAGE_BYTES)),
            partition: sysfs.join("partition").exists(),
        })
    }

    /// The generic character device of the same NVMe namespace; None when this is none, or a part of one.
    #[must_use]
    pub fn generic(&self) -> Option<PathBuf> {
        let numbers = self.name.strip_prefix("nvme").filter(|_| !self.partition)?;
        Some(PathBuf::from(format!("/dev/ng{numbers}")))
    }

    /// The kernel's NVMe driver has it.
    #[must_use]
    pub fn is_nvme(&self) -> bool {
        self.name.starts_with("nvme")
    }

    /// One command makes one write durable: the drive has no volatile cache, or writes through it.
    #[must_use]
    pub fn writes_through(&self) -> bool {
        self.fua || !self.volatile_cache
    }
}

/// Where the kernel describes the block device with this number.
#[must_use]
pub fn sysfs(device: u64) -> PathBuf {
    PathBuf::from(format!("/sys/dev/block/{}:{}", major(device), minor(device)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that looks like a disk with one partition.
    fn fake(name: &str, write_cache: &str, fua: &str) -> (PathBuf, Option<Drive>) {
        let root = std::env::temp_dir().join(format!("forebay-drive-{name}-{}", std::process::id()));
        let disk = root.join("disk0");
        std::fs::create_dir_all(disk.join("queue")).unwrap();
        std::fs::create_dir_all(disk.join("disk0p1")).unwrap();
        for (name, value) in [
            ("write_cache", write_cache),
            ("fua", fua),
            ("io_poll", "1"),
            ("logical_block_size", "512"),
            ("max_sectors_kb", "1280"),
            ("max_segments", "127"),
        ] {
            std::fs::write(disk.join("queue").join(name), format!("{value}\n")).unwrap();
        }
        let drive = Drive::at(&disk.join("disk0p1"));
        (root, drive)
    }

    #[test]
    fn a_partition_has_its_disk_s_properties() {
        for (name, cache, fua, through) in
            [("a", "write back", "0", false), ("b", "write back", "1", true), ("c", "write through", "0", true)]
        {
            let (root, drive) = fake(name, cache, fua);
            std::fs::remove_dir_all(root).unwrap();
            let drive = drive.unwrap();
            assert_eq!((drive.name.as_str(), drive.polls, drive.logical_block_bytes), ("disk0", true, 512));
            assert_eq!(drive.writes_through(), through, "{cache} fua={fua}");
            assert_eq!(drive.transfer_bytes_max, 127 * 4096, "ordinary pages count as a segment each");
        }
    }

    #[test]
    fn no_drive_is_not_an_error() {
        assert_eq!(Drive::of(0), None);
    }
}
