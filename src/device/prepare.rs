//! Making the file of a file-backed device, so that no later write waits for metadata of the file system.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use forebay_sys::dma::{DmaRegion, Pages};
use rustix::fs::{FallocateFlags, FlockOperation, OFlags, fallocate, flock, fstatvfs};
use rustix::io::Errno;

use super::BLOCK_BYTES;
use crate::error::{Error, Result};

const STEP_BYTES: usize = 1 << 20;

/// Creates the file at `path` (or takes the one that is there) and writes `bytes` of zeros, rounded up to 4 KiB: space
/// allocated, extents written, file and directory synced. `progress` gets the bytes done and the total. Blocks.
///
/// # Errors
/// No room, no permission, in use. A file that this made is removed again.
pub fn preallocate_and_zero(path: &Path, bytes: u64, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
    let created = !path.exists();
    let done = fill(path, bytes.next_multiple_of(u64::from(BLOCK_BYTES)), progress);
    if done.is_err() && created {
        let _ = std::fs::remove_file(path);
    }
    done.map_err(|error| error.context(path.display()))
}

fn fill(path: &Path, bytes: u64, progress: &mut dyn FnMut(u64, u64)) -> Result<()> {
    let file = create(path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        Error::new("locked by another process").remedy("stop the daemon or tool that has it open, or use another file")
    })?;
    let old_bytes = file.metadata()?.len();
    check_room(&file, bytes.saturating_sub(old_bytes))?;
    file.set_len(bytes).map_err(|error| explain(error, bytes))?;
    match fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        // Not every file system can; the zeros below allocate as well.
        Ok(()) | Err(Errno::OPNOTSUPP) => {}
        Err(errno) => return Err(explain(errno.into(), bytes)),
    }
    let zeros = DmaRegion::allocate(STEP_BYTES, Pages::Ordinary)?.split(STEP_BYTES).pop().expect("one buffer");
    let mut done = 0;
    while done < bytes {
        let step = usize::try_from(bytes - done).map_or(STEP_BYTES, |rest| rest.min(STEP_BYTES));
        file.write_all_at(&zeros[..step], done).map_err(|error| explain(error, bytes))?;
        done += step as u64;
        progress(done, bytes);
    }
    file.sync_all()?;
    File::open(directory(path))?.sync_all()?;
    Ok(())
}

fn create(path: &Path) -> Result<File> {
    let try_open = |flags: OFlags| {
        let flags = i32::try_from(flags.bits()).expect("open flags are an int");
        File::options().read(true).write(true).create(true).truncate(false).custom_flags(flags).open(path)
    };
    match try_open(OFlags::DIRECT) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => Ok(try_open(OFlags::empty())?),
        opened => Ok(opened?),
    }
}

/// Refuses before the first byte what cannot fit, so that a full file system is not filled to the brim on the way.
fn check_room(file: &File, more_bytes: u64) -> Result<()> {
    let file_system = fstatvfs(file).map_err(io::Error::from)?;
    let room_bytes = file_system.f_bavail.saturating_mul(file_system.f_frsize);
    if more_bytes <= room_bytes {
        return Ok(());
    }
    Err(Error::new(format!("no room: {more_bytes} B are needed and {room_bytes} B are free"))
        .remedy("choose a smaller size or another file system"))
}

fn explain(error: io::Error, bytes: u64) -> Error {
    match Errno::from_io_error(&error) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => {
            Error::new(format!("no room for {bytes} B: {error}")).remedy("choose a smaller size or another file system")
        }
        _ => Error::from(error),
    }
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::scratch::Scratch;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_file_is_whole_zeroed_and_allocated() {
        let scratch = Scratch::name();
        std::fs::write(scratch.path(), b"an earlier life").unwrap();
        let mut seen = Vec::new();
        let bytes = (5 << 20) / 2 + 1;
        preallocate_and_zero(scratch.path(), bytes, &mut |done, total| seen.push((done, total))).unwrap();
        let total = (5 << 20) / 2 + 4096;
        assert_eq!(seen, [(1 << 20, total), (2 << 20, total), (total, total)]);
        let metadata = std::fs::metadata(scratch.path()).unwrap();
        assert!(metadata.len() == total && metadata.blocks() * 512 >= total, "{} blocks", metadata.blocks());
        assert!(std::fs::read(scratch.path()).unwrap().iter().all(|b| *b == 0));
    }

    #[test]
    fn no_room_leaves_nothing_behind() {
        for bytes in [1 << 60, u64::MAX / 4096 * 4096] {
            let scratch = Scratch::name();
            let error = preallocate_and_zero(scratch.path(), bytes, &mut |_, _| {}).unwrap_err().to_string();
            assert!(error.contains("no room") && error.contains("smaller size"), "{error}");
            assert!(!scratch.path().exists());
        }
    }

    #[test]
    fn a_locked_file_is_left_alone() {
        let scratch = Scratch::name();
        std::fs::write(scratch.path(), b"in use").unwrap();
        let holder = File::open(scratch.path()).unwrap();
        flock(&holder, FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(preallocate_and_zero(scratch.path(), 4096, &mut |_, _| {}).is_err());
        assert_eq!(std::fs::read(scratch.path()).unwrap(), b"in use");
    }
}
