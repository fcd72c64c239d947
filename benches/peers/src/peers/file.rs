//! A file that is appended to: the floor of everything that keeps a log in a file. It is made and written once before,
//! for a file that grows costs a write of metadata a sync. At its end it begins again.

use std::fs::File;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicU64, Ordering};

use forebay::device::prepare::preallocate_and_zero;
use forebay_sys::dma::{DmaBuffer, DmaRegion, Pages};
use rustix::fs::OFlags;

use super::{Setup, Store, Worker};
use crate::case::{Class, KEY_BYTES};
use crate::figures::Failure;

const FILE_BYTES: u64 = 1 << 30;
const BLOCK_BYTES: usize = 4_096;
/// For 500 records, as many as are put at once.
const BUFFER_BYTES: usize = 4 << 20;

pub struct AppendFile {
    file: File,
    next: AtomicU64,
    sync: bool,
    /// O_DIRECT and O_DSYNC: whole blocks.
    direct: bool,
}

impl AppendFile {
    pub fn open(setup: &Setup<'_>, direct: bool) -> Result<AppendFile, Failure> {
        let path = setup.kept.join("append");
        if path.metadata().map_or(0, |metadata| metadata.len()) != FILE_BYTES {
            preallocate_and_zero(&path, FILE_BYTES, &mut |_, _| {})?;
        }
        let flags = if direct { OFlags::DIRECT | OFlags::DSYNC } else { OFlags::empty() };
        let file = File::options().write(true).custom_flags(i32::try_from(flags.bits())?).open(&path)?;
        Ok(AppendFile { file, next: AtomicU64::new(0), sync: !direct && setup.class == Class::Strict, direct })
    }
}

struct Writer<'a> {
    file: &'a AppendFile,
    records: DmaBuffer,
}

impl Store for AppendFile {
    fn worker(&self) -> Result<Box<dyn Worker + '_>, Failure> {
        let region = DmaRegion::allocate(BUFFER_BYTES, Pages::Ordinary)?;
        let records = region.split(BUFFER_BYTES).pop().ok_or("a region of one buffer")?;
        Ok(Box::new(Writer { file: self, records }))
    }
}

impl Worker for Writer<'_> {
    fn put(&mut self, keys: &[[u8; KEY_BYTES]], value: &[u8]) -> Result<(), Failure> {
        let mut at = 0;
        for part in keys.iter().flat_map(|key| [key.as_slice(), value]) {
            self.records[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        let bytes = if self.file.direct { at.next_multiple_of(BLOCK_BYTES) } else { at };
        let mut offset = self.file.next.fetch_add(bytes as u64, Ordering::Relaxed) % FILE_BYTES;
        if offset + bytes as u64 > FILE_BYTES {
            offset = 0;
        }
        self.file.file.write_all_at(&self.records[..bytes], offset)?;
        if self.file.sync {
            self.file.file.sync_data()?;
        }
        Ok(())
    }

    fn get(&mut self, _key: &[u8; KEY_BYTES]) -> Result<usize, Failure> {
        Err("a file that is appended to has no keys".into())
    }
}
