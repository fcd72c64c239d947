//! Whether a device is the one that its namespace was formatted on.

use crate::device::any::AnyDevice;
use crate::device::blocks::BlockReader;
use crate::device::open::OpenDevice;
use crate::error::{Error, Result};
use crate::wal::superblock::Superblock;

/// The superblock of a device that is to be written. Blocks.
///
/// # Errors
/// No superblock that can be used; another drive than that of the superblock: a copy, or one that took its place.
pub fn load(blocks: &mut BlockReader<AnyDevice>, device: &OpenDevice) -> Result<Superblock> {
    let superblock = Superblock::load(blocks, device.geometry().capacity_bytes)?;
    match other_drive(&superblock, device) {
        Some(cause) => Err(Error::new(cause).remedy(format!(
            "name the right drive; or, if it was copied or replaced on purpose and the other one is out of use, run \
             `forebay repair {} --adopt --yes`",
            device.name()
        ))),
        None => Ok(superblock),
    }
}

/// How the drive differs from the one that the superblock names.
#[must_use]
pub fn other_drive(superblock: &Superblock, device: &OpenDevice) -> Option<String> {
    let named = superblock.drive.filter(|_| superblock.drive != device.drive())?;
    let found = device.drive().map_or("has no serial number".to_owned(), |drive| format!("is {drive}"));
    Some(format!("the namespace belongs to the drive with {named}; this one {found}"))
}

/// What is worth knowing of a namespace that is not tied to its drive.
#[must_use]
pub fn note(superblock: &Superblock, device: &OpenDevice) -> Option<String> {
    let drive = device.drive().filter(|_| superblock.drive.is_none())?;
    Some(format!(
        "the namespace is not tied to this drive ({drive}): a copy of it would be taken for it; \
         `forebay repair {} --adopt --yes` ties it",
        device.name()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::appliance::{Appliance, block_reader, prepare::format_memory};
    use crate::config::Config;
    use crate::device::identity::DriveId;
    use crate::device::memory::MemoryDisk;
    use crate::device::open::OpenOptions;
    use crate::wal::repair;
    use crate::wal::superblock::READ_ORDER;

    const BYTES: u64 = 64 << 20;

    fn on(disk: &MemoryDisk, drive: Option<DriveId>) -> OpenDevice {
        OpenDevice::memory(disk, &OpenOptions::default()).on_drive(drive)
    }

    /// How a start on this drive ends, and how a repair of it does.
    fn load_on(disk: &MemoryDisk, drive: Option<DriveId>) -> Result<Superblock> {
        let device = on(disk, drive);
        load(&mut block_reader(&device).unwrap(), &device)
    }

    fn adopt(disk: &MemoryDisk, drive: Option<DriveId>) -> repair::Plan {
        let mut blocks = block_reader(&on(disk, None)).unwrap();
        let plan = repair::adopt(&mut blocks, BYTES, drive).unwrap();
        plan.carry_out(&mut blocks).unwrap();
        plan
    }

    #[test]
    fn only_the_drive_of_the_superblock_is_taken() {
        let disk = MemoryDisk::new(BYTES);
        let (drive, copy) = (DriveId::new("S1", 2), DriveId::new("S9", 2));
        let other_namespace = DriveId::new("S1", 3);
        let made = format_memory(&on(&disk, drive), 1 << 20, 2).unwrap();
        assert_eq!((made.drive, load_on(&disk, drive).unwrap()), (drive, made));
        for (other, found) in
            [(copy, "serial S9, namespace 2"), (other_namespace, "serial S1, namespace 3"), (None, "no serial number")]
        {
            let error = load_on(&disk, other).unwrap_err().to_string();
            assert!(error.contains("serial S1, namespace 2; this one") && error.contains(found), "{error}");
            assert!(error.contains("repair memory --adopt --yes"), "{error}");
        }
        let socket = std::env::temp_dir().join(format!("forebay-own-{}.sock", std::process::id()));
        let error = Appliance::start(&Config::default(), &on(&disk, copy), &socket, None, &mut |_| {}).err().unwrap();
        assert!(error.to_string().starts_with("memory (serial S9, namespace 2): the namespace belongs"), "{error}");
        // A clone that is wanted, and back.
        for wanted in [copy, None, drive] {
            assert_eq!(adopt(&disk, wanted).steps.len(), READ_ORDER.len());
            assert_eq!(load_on(&disk, wanted).unwrap().drive, wanted);
            assert!(adopt(&disk, wanted).is_empty(), "done already");
        }
        assert!(load_on(&disk, copy).is_err());
    }

    #[test]
    fn a_namespace_of_before_is_taken_with_a_note() {
        let disk = MemoryDisk::new(BYTES);
        format_memory(&on(&disk, None), 1 << 20, 2).unwrap();
        let drive = DriveId::new("S1", 0);
        let superblock = load_on(&disk, drive).unwrap();
        let text = note(&superblock, &on(&disk, drive)).unwrap();
        assert!(text.contains("serial S1") && text.contains("--adopt"), "{text}");
        assert_eq!(note(&superblock, &on(&disk, None)), None, "a file has no drive to be tied to");
        // Cut off after the second copy: the newest one counts, whichever it is.
        let mut blocks = block_reader(&on(&disk, None)).unwrap();
        let mut plan = repair::adopt(&mut blocks, BYTES, drive).unwrap();
        plan.steps.truncate(2);
        plan.carry_out(&mut blocks).unwrap();
        assert_eq!(load_on(&disk, drive).unwrap().drive, drive);
    }
}
