//! The protective partition table of a raw drive: one GPT partition over all that Forebay uses, so that other tools see
//! that the drive is in use. Forebay itself only looks whose table stands there.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types::{OperatingSystem, Type};
use uuid::{Uuid, uuid};

use crate::bytes::{get_u64, index};

/// Forebay's partition type.
pub const TYPE: Uuid = uuid!("0b622365-3d52-4c70-ab90-60eab0b6b94c");
pub const NAME: &str = "forebay";

/// The sizes of an LBA that the format of the table is defined for here.
const LBA_BYTES: [u32; 2] = [512, 4096];
const SIGNATURE: &[u8] = b"EFI PART";
/// In the header: where the entries begin, as an LBA.
const ENTRIES: usize = 72;

/// What is written at the two ends of a drive.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// From address 0 on.
    pub head: Vec<u8>,
    /// Up to the end of the drive.
    pub tail: Vec<u8>,
}

/// Whether a table can be made for LBAs of this size.
#[must_use]
pub fn fits(lba_bytes: u32) -> bool {
    LBA_BYTES.contains(&lba_bytes)
}

/// A table for a drive of `capacity_bytes`, whose partition begins and ends `room_bytes` from the ends of the drive and
/// has the namespace's UUID. 32 KiB are room enough for both sizes of LBA.
///
/// # Errors
/// An LBA of another size, a drive that is too small.
pub fn protective(capacity_bytes: u64, lba_bytes: u32, room_bytes: u64, namespace: [u8; 16]) -> io::Result<Table> {
    let lba = u64::from(lba_bytes);
    let block_size = LogicalBlockSize::try_from(lba)?;
    let room = vec![0; index(room_bytes)];
    let mut ends = Ends { table: Table { head: room.clone(), tail: room }, capacity_bytes, position: 0 };
    // Beyond what 32 bits count it stands for "all of the drive".
    let protected = u32::try_from(capacity_bytes / lba - 1).unwrap_or(u32::MAX);
    ProtectiveMBR::with_lb_size(protected).overwrite_lba0(&mut ends).map_err(io::Error::other)?;
    let partition = Partition {
        part_type_guid: Type { guid: TYPE, os: OperatingSystem::Custom("Forebay".to_owned()) },
        part_guid: Uuid::from_bytes(namespace),
        first_lba: room_bytes / lba,
        last_lba: (capacity_bytes - room_bytes) / lba - 1,
        flags: 0,
        name: NAME.to_owned(),
    };
    let config = GptConfig::new().writable(true).logical_block_size(block_size);
    let mut disk = config.create_from_device(ends, None).map_err(io::Error::other)?;
    disk.update_partitions(BTreeMap::from([(1, partition)])).map_err(io::Error::other)?;
    Ok(disk.write().map_err(io::Error::other)?.table)
}

/// Whether a GPT of Forebay's stands at the front of a drive: its first partition is ours.
#[must_use]
pub fn is_ours(head: &[u8]) -> bool {
    LBA_BYTES.iter().any(|lba| {
        let lba = index(u64::from(*lba));
        let Some(header) = head.get(lba..2 * lba).filter(|header| header.starts_with(SIGNATURE)) else { return false };
        let first =
            get_u64(header, ENTRIES).checked_mul(lba as u64).and_then(|at| head.get(usize::try_from(at).ok()?..));
        first.is_some_and(|entry| entry.starts_with(&TYPE.to_bytes_le()))
    })
}

/// The two ends of a drive as a file that the library can write. What lies between them is not there.
#[derive(Debug)]
struct Ends {
    table: Table,
    capacity_bytes: u64,
    position: u64,
}

impl Ends {
    /// The next bytes, all in one end.
    fn next(&mut self, bytes: usize) -> io::Result<&mut [u8]> {
        let tail_at = self.capacity_bytes - self.table.tail.len() as u64;
        let (end, from) = match self.position.checked_sub(tail_at) {
            Some(from) => (&mut self.table.tail, from),
            None => (&mut self.table.head, self.position),
        };
        let from = index(from);
        let found = end.get_mut(from..from + bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.position += bytes as u64;
        Ok(found)
    }
}

impl Read for Ends {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        out.copy_from_slice(self.next(out.len())?);
        Ok(out.len())
    }
}

impl Write for Ends {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.next(bytes.len())?.copy_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Ends {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => self.capacity_bytes.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    const CAPACITY: u64 = 4 << 20;
    const ROOM: u64 = 64 << 10;
    const NAMESPACE: [u8; 16] = *b"0123456789abcdef";

    fn image(lba_bytes: u32) -> Vec<u8> {
        let Table { head, tail } = protective(CAPACITY, lba_bytes, ROOM, NAMESPACE).unwrap();
        let mut image = vec![0; index(CAPACITY)];
        image[..head.len()].copy_from_slice(&head);
        let tail_at = image.len() - tail.len();
        image[tail_at..].copy_from_slice(&tail);
        image
    }

    #[test]
    fn one_partition_covers_what_is_used_and_both_copies_say_so() {
        for lba_bytes in LBA_BYTES {
            let lba = u64::from(lba_bytes);
            let image = image(lba_bytes);
            let config = GptConfig::new().only_valid_headers(true).logical_block_size(lba.try_into().unwrap());
            let disk = config.open_from_device(Cursor::new(image.clone())).unwrap();
            let (primary, backup) = (disk.primary_header().unwrap(), disk.backup_header().unwrap());
            assert_eq!((primary.current_lba, primary.backup_lba), (1, CAPACITY / lba - 1));
            assert_eq!((backup.current_lba, backup.backup_lba), (CAPACITY / lba - 1, 1));
            let partition = &disk.partitions()[&1];
            assert_eq!(disk.partitions().len(), 1);
            assert_eq!((partition.part_type_guid.guid, partition.name.as_str()), (TYPE, NAME));
            assert_eq!(partition.part_guid.as_bytes(), &NAMESPACE);
            let covered = partition.first_lba * lba..(partition.last_lba + 1) * lba;
            assert_eq!(covered, ROOM..CAPACITY - ROOM);
            assert!(primary.first_usable <= partition.first_lba && partition.last_lba <= primary.last_usable);
            assert!(image[index(covered.start)..index(covered.end)].iter().all(|byte| *byte == 0));
        }
    }

    #[test]
    fn ours_is_told_from_others() {
        for lba_bytes in LBA_BYTES {
            let mut image = image(lba_bytes);
            assert!(is_ours(&image));
            let entry = 2 * index(u64::from(lba_bytes));
            image[entry] ^= 1;
            assert!(!is_ours(&image), "another type");
            image[entry] ^= 1;
            image[entry / 2 + ENTRIES..][..8].fill(0xff);
            assert!(!is_ours(&image), "entries beyond the end");
        }
        assert!(!is_ours(&[]) && !is_ours(&[0; 600]));
    }

    #[test]
    fn a_drive_beyond_32_bits_of_blocks_and_an_odd_block() {
        let table = protective(1 << 45, 512, ROOM, NAMESPACE).unwrap();
        assert_eq!(table.head[446 + 12..446 + 16], [0xff; 4]);
        assert!(is_ours(&table.head));
        assert!(protective(CAPACITY, 1024, ROOM, NAMESPACE).is_err() && !fits(1024));
    }
}
