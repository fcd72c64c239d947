//! Which drive a block device is: where it is plugged in, its serial number, its namespace.

use std::fmt;
use std::fs::{read_dir, read_link, read_to_string};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::drive::sysfs;

/// What of a serial number is kept; NVMe's have 20 bytes.
pub const SERIAL_BYTES: usize = 40;

/// A serial number and a namespace of that drive, as a superblock holds them: what tells a drive from a copy of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriveId {
    serial: [u8; SERIAL_BYTES],
    namespace: u32,
}

impl DriveId {
    /// None for a drive without a serial number. A long one is cut off.
    #[must_use]
    pub fn new(serial: &str, namespace: u32) -> Option<DriveId> {
        let text = serial.trim().as_bytes();
        let bytes = text.len().min(SERIAL_BYTES);
        let mut field = [0; SERIAL_BYTES];
        field[..bytes].copy_from_slice(&text[..bytes]);
        DriveId::from_fields(field, namespace)
    }

    /// As it stands in a superblock; None where that names no drive.
    #[must_use]
    pub fn from_fields(serial: [u8; SERIAL_BYTES], namespace: u32) -> Option<DriveId> {
        (serial != [0; SERIAL_BYTES]).then_some(DriveId { serial, namespace })
    }

    /// The serial number, filled up with zeros, and the number of the namespace, 0 for none.
    #[must_use]
    pub fn fields(&self) -> (&[u8; SERIAL_BYTES], u32) {
        (&self.serial, self.namespace)
    }

    /// The serial number as text, whatever bytes the drive put into it.
    #[must_use]
    pub fn serial(&self) -> String {
        let end = self.serial.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        self.serial[..end].escape_ascii().to_string()
    }
}

impl fmt::Display for DriveId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "serial {}", self.serial())?;
        if self.namespace == 0 { Ok(()) } else { write!(f, ", namespace {}", self.namespace) }
    }
}

/// What the kernel says of where a drive is and which one it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The PCI addresses of its controllers; several where there are several paths.
    pub controllers: Vec<String>,
    pub drive: Option<DriveId>,
}

impl Identity {
    /// The drive of the block device with this number; empty where the kernel says nothing.
    #[must_use]
    pub fn of(device: u64) -> Identity {
        Identity::at(&sysfs(device))
    }

    /// The same, by the directory in which the kernel describes the disk or partition.
    #[must_use]
    pub fn at(sysfs: &Path) -> Identity {
        let Ok(found) = sysfs.canonicalize() else { return Identity::default() };
        let disk = if found.join("partition").exists() { found.parent().unwrap_or(&found) } else { &found };
        let text = |name: &str| Some(read_to_string(disk.join(name)).ok()?.trim().to_owned());
        // NVMe's stands with the controller or its subsystem, virtio's with the disk.
        let serial = text("device/serial").or_else(|| text("serial")).unwrap_or_default();
        let namespace = text("nsid").and_then(|id| id.parse().ok()).unwrap_or_default();
        Identity { controllers: controllers(disk), drive: DriveId::new(&serial, namespace) }
    }

    /// The drive behind a path to a block device; empty for anything else.
    #[must_use]
    pub fn of_path(path: &Path) -> Identity {
        match path.metadata() {
            Ok(metadata) if metadata.file_type().is_block_device() => Identity::of(metadata.rdev()),
            _ => Identity::default(),
        }
    }

    /// A device's name, with what is known of it, for people.
    #[must_use]
    pub fn label(&self, name: impl fmt::Display) -> String {
        let mut known = self.controllers.clone();
        known.extend(self.drive.map(|drive| drive.to_string()));
        if known.is_empty() { name.to_string() } else { format!("{name} ({})", known.join(", ")) }
    }
}

/// The PCI functions that a disk hangs on. With native multipath NVMe's hang on a subsystem, which lists its controllers.
fn controllers(disk: &Path) -> Vec<String> {
    let function = |path: &Path| {
        let mut parts = path.iter().filter_map(|part| part.to_str());
        parts.rfind(|part| is_pci_function(part)).map(str::to_owned)
    };
    if let Some(own) = function(disk) {
        return vec![own];
    }
    let entries = read_dir(disk.join("device")).into_iter().flatten().flatten();
    let links = entries.map(|entry| entry.path()).filter(|path| read_link(path).is_ok());
    let controllers =
        links.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nvme")));
    let mut all: Vec<String> = controllers.filter_map(|path| function(&path.canonicalize().ok()?)).collect();
    all.sort();
    all.dedup();
    all
}

/// As "0000:01:00.0".
fn is_pci_function(name: &str) -> bool {
    let shape = name.chars().map(|letter| if letter.is_ascii_hexdigit() { 'x' } else { letter });
    shape.eq("xxxx:xx:xx.x".chars())
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, write};
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    use super::*;

    /// A made-up /sys with a PCI controller nvme0; removed with it.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Tree {
            let root = std::env::temp_dir().join(format!("forebay-identity-{name}-{}", std::process::id()));
            create_dir_all(root.join("pci0000:00/0000:00:1c.0/0000:01:00.0/nvme/nvme0")).unwrap();
            Tree(root)
        }

        fn controller(&self) -> PathBuf {
            self.0.join("pci0000:00/0000:00:1c.0/0000:01:00.0/nvme/nvme0")
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_namespace_and_its_partitions_are_their_drive_s() {
        let tree = Tree::new("plain");
        let disk = tree.controller().join("nvme0n2");
        create_dir_all(disk.join("nvme0n2p1")).unwrap();
        write(disk.join("nvme0n2p1/partition"), "1\n").unwrap();
        symlink(tree.controller(), disk.join("device")).unwrap();
        write(tree.controller().join("serial"), "S 1                 \n").unwrap();
        write(disk.join("nsid"), "2\n").unwrap();
        let expected = Identity { controllers: vec!["0000:01:00.0".to_owned()], drive: DriveId::new("S 1", 2) };
        assert_eq!((Identity::at(&disk), Identity::at(&disk.join("nvme0n2p1"))), (expected.clone(), expected.clone()));
        assert_eq!(expected.label("/dev/x"), "/dev/x (0000:01:00.0, serial S 1, namespace 2)");
    }

    #[test]
    fn a_disk_of_several_paths_names_them_all() {
        let tree = Tree::new("paths");
        let (subsystem, disk) = (tree.0.join("virtual/nvme-subsys0"), tree.0.join("virtual/nvme-subsys0/nvme0n1"));
        create_dir_all(&disk).unwrap();
        symlink(&subsystem, disk.join("device")).unwrap();
        symlink(tree.controller(), subsystem.join("nvme0")).unwrap();
        write(subsystem.join("serial"), "S2\n").unwrap();
        let found = Identity::at(&disk);
        assert_eq!((found.controllers, found.drive), (vec!["0000:01:00.0".to_owned()], DriveId::new("S2", 0)));
    }

    #[test]
    fn a_disk_without_a_serial_number_is_named_by_its_path() {
        assert_eq!(Identity::of(0).label("/dev/x"), "/dev/x");
        assert_eq!(Identity::of_path(Path::new("/dev/null")), Identity::default());
        assert_eq!(DriveId::new("  ", 7), None);
    }

    #[test]
    fn a_long_or_odd_serial_number_is_kept_as_far_as_it_fits() {
        let long = DriveId::new(&"x".repeat(99), 0).unwrap();
        assert_eq!((long.fields().0, long.to_string()), (&[b'x'; SERIAL_BYTES], format!("serial {}", "x".repeat(40))));
        let odd = DriveId::new("a\u{1b}b", 1).unwrap();
        assert_eq!(odd.to_string(), "serial a\\x1bb, namespace 1");
        assert_eq!(DriveId::from_fields(*odd.fields().0, 1), Some(odd));
    }
}
