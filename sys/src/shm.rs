//! Memory shared with another process that may write to it at any moment, or lie.
//!
//! No Rust reference is ever formed over it, except to atomics. Bulk bytes are copied in or out; what was copied is
//! the only thing that may be validated and used.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence};

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, OFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise};

use crate::prefetch;

const _: () = assert!(cfg!(target_endian = "little"), "the shared layout is little-endian, and so must the machine be");

/// Bytes of one line: what two cores hand to each other at once.
pub const LINE_BYTES: usize = 64;
/// Words of one line.
pub const LINE_WORDS: usize = LINE_BYTES / 8;

/// Mappings from here on ask for huge pages; below, the edges that none covers would be most of it.
const LARGE_BYTES: usize = 4 << 20;

const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// An access outside of the mapping, or not aligned to its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfRange;

impl std::fmt::Display for OutOfRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an access lies outside of the shared memory, or is not aligned")
    }
}

impl std::error::Error for OutOfRange {}

/// A `MAP_SHARED` mapping, unmapped on drop. Any thread may use it at any time; bytes that two sides write at once
/// are garbage, and nothing worse. Nothing here blocks or allocates, except where said.
#[derive(Debug)]
pub struct SharedMap {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the mapping belongs to the process, not to a thread, and this value is its only owner.
unsafe impl Send for SharedMap {}
// SAFETY: every access is an atomic or a copy of plain bytes; whoever copies plain bytes has to order the copies by
// atomics, as between two processes.
unsafe impl Sync for SharedMap {}

impl SharedMap {
    /// Makes a memfd of `bytes` zeros, sealed so that nobody can ever resize it, and maps it. The name is for
    /// /proc/PID/maps.
    ///
    /// # Errors
    /// What the kernel answers: out of descriptors or memory.
    pub fn create_sealed(name: &CStr, bytes: usize) -> io::Result<(OwnedFd, SharedMap)> {
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, bytes as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SEALS)?;
        let map = SharedMap::map(fd.as_fd(), bytes)?;
        Ok((fd, map))
    }

    /// Maps a memfd that somebody else made. Its seals and size are checked first, so that no truncation can ever
    /// turn an access into SIGBUS.
    ///
    /// # Errors
    /// `InvalidData` when a seal is missing or the size is another; else what the kernel answers.
    pub fn map_sealed(fd: &OwnedFd, bytes: usize) -> io::Result<SharedMap> {
        let seals = rustix::fs::fcntl_get_seals(fd)?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::GROW) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the shared segment is not sealed against resizing",
            ));
        }
        let actual = file_bytes(fd.as_fd())?;
        if actual != bytes as u64 {
            let text = format!("the shared segment has {actual} B instead of the announced {bytes} B");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        SharedMap::map(fd.as_fd(), bytes)
    }

    /// Opens or creates the file at `path` (mode 0600) and maps it; it outlives the process. All of its memory is
    /// reserved at once, so that a full /dev/shm is an error here and not a SIGBUS later: a file without room is removed.
    /// May block.
    ///
    /// # Errors
    /// `InvalidInput` when the file exists with another size, is no regular file, belongs to somebody else or is open
    /// to others; else what the kernel answers.
    pub fn named(path: &Path, bytes: usize) -> io::Result<SharedMap> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path.as_os_str().as_bytes(), flags, Mode::RUSR | Mode::WUSR)?;
        let stat = rustix::fs::fstat(&fd)?;
        let refuse =
            |why: String| Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{} {why}", path.display())));
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            return refuse("is not a regular file".into());
        }
        if stat.st_uid != rustix::process::geteuid().as_raw() || stat.st_mode & 0o077 != 0 {
            return refuse("must belong to this user and be closed to all others (mode 0600)".into());
        }
        let actual = file_bytes(fd.as_fd())?;
        if actual != 0 && actual != bytes as u64 {
            return refuse(format!("has {actual} B instead of {bytes} B"));
        }
        let sized = rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, bytes as u64);
        if sized.is_err() && actual == 0 {
            // Nobody needs an empty file. That it could not be sized is the error to tell.
            let _ = rustix::fs::unlink(path.as_os_str().as_bytes());
        }
        sized?;
        SharedMap::map(fd.as_fd(), bytes)
    }

    /// Memory without a name or a descriptor, shared by the threads of this process alone.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn anonymous(bytes: usize) -> io::Result<SharedMap> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: without MAP_FIXED and at a null address the kernel picks free addresses, so no memory of ours changes.
        let base = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED) }?;
        SharedMap::own(base.cast(), bytes)
    }

    fn map(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<SharedMap> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: without MAP_FIXED and at a null address the kernel picks free addresses, so no memory of ours changes.
        let base = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, fd, 0) }?;
        SharedMap::own(base.cast(), bytes)
    }

    fn own(base: *mut u8, bytes: usize) -> io::Result<SharedMap> {
        let base = NonNull::new(base).ok_or(io::ErrorKind::AddrNotAvailable)?;
        if bytes >= LARGE_BYTES {
            // SAFETY: the mapping is ours, and advice changes no contents.
            let advised = unsafe { madvise(base.as_ptr().cast(), bytes, Advice::LinuxHugepage) };
            // Where the host gives shared memory no huge pages (docs/operations.md), it is as good as before.
            let _ = advised;
        }
        Ok(SharedMap { base, bytes })
    }

    /// Bytes of the mapping.
    #[inline]
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "the kernel makes no empty mapping")]
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Copies bytes out. After the return nothing looks at the shared memory again: what was copied stays as it is.
    ///
    /// # Errors
    /// `OutOfRange`, with nothing copied.
    #[inline]
    pub fn read(&self, offset: usize, into: &mut [u8]) -> Result<(), OutOfRange> {
        let from = self.at(offset, into.len())?;
        // SAFETY: `at` checked that all the bytes lie inside the mapping; `into` is ours alone, so they do not overlap.
        // A peer may write them meanwhile: every value is a valid u8.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), into.as_mut_ptr(), into.len()) };
        // The compiler must not read the source again in place of the copy, where the peer may have changed it.
        compiler_fence(Ordering::SeqCst);
        Ok(())
    }

    /// Copies bytes out to the end of a vector. Allocates only if its capacity does not suffice.
    ///
    /// # Errors
    /// `OutOfRange`, with nothing copied.
    #[inline]
    pub fn read_append(&self, offset: usize, bytes: usize, into: &mut Vec<u8>) -> Result<(), OutOfRange> {
        let from = self.at(offset, bytes)?;
        into.reserve(bytes);
        let length = into.len();
        let to = into.spare_capacity_mut().as_mut_ptr().cast::<u8>();
        // SAFETY: `at` checked the source, `reserve` made room for as many bytes behind the vector's end, and the
        // vector is ours alone. A peer may write the source meanwhile: every value is a valid u8.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, bytes) };
        // SAFETY: the bytes up to the new length were filled just now.
        unsafe { into.set_len(length + bytes) };
        compiler_fence(Ordering::SeqCst);
        Ok(())
    }

    /// Copies bytes in.
    ///
    /// # Errors
    /// `OutOfRange`, with nothing copied.
    #[inline]
    pub fn write(&self, offset: usize, from: &[u8]) -> Result<(), OutOfRange> {
        let to = self.at(offset, from.len())?;
        // SAFETY: `at` checked that all the bytes lie inside the mapping, and nothing of ours borrows them as plain
        // bytes. A peer may read them meanwhile: it sees garbage, as it would in its own fault.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.as_ptr(), from.len()) };
        Ok(())
    }

    /// Asks for the cache line at `offset`: see `prefetch`. Out of range: does nothing.
    #[inline]
    pub fn prefetch(&self, offset: usize) {
        if let Ok(at) = self.at(offset, 1) {
            prefetch::to_read(at.as_ptr());
        }
    }

    /// Asks for what will be written from `offset` on. Out of range: does nothing.
    #[inline]
    pub fn prefetch_write(&self, offset: usize, bytes: usize) {
        if let Ok(at) = self.at(offset, bytes) {
            prefetch::to_write(at.as_ptr(), bytes);
        }
    }

    /// The u32 at `offset`, a multiple of 4.
    ///
    /// # Errors
    /// `OutOfRange`
    #[inline]
    pub fn atomic_u32(&self, offset: usize) -> Result<&AtomicU32, OutOfRange> {
        let at = self.aligned(offset, 4, 4)?.cast::<u32>();
        // SAFETY: in range and aligned, as `aligned` checked; the mapping lives as long as the borrow of self.
        Ok(unsafe { AtomicU32::from_ptr(at.as_ptr()) })
    }

    /// The u64 at `offset`, a multiple of 8.
    ///
    /// # Errors
    /// `OutOfRange`
    #[inline]
    pub fn atomic_u64(&self, offset: usize) -> Result<&AtomicU64, OutOfRange> {
        let at = self.aligned(offset, 8, 8)?.cast::<u64>();
        // SAFETY: in range and aligned, as `aligned` checked; the mapping lives as long as the borrow of self.
        Ok(unsafe { AtomicU64::from_ptr(at.as_ptr()) })
    }

    /// The cache line at `offset`, a multiple of 64, as its words.
    ///
    /// # Errors
    /// `OutOfRange`
    #[inline]
    pub fn line(&self, offset: usize) -> Result<&[AtomicU64; LINE_WORDS], OutOfRange> {
        let at = self.aligned(offset, LINE_BYTES, LINE_BYTES)?.cast::<[AtomicU64; LINE_WORDS]>();
        // SAFETY: in range and aligned, as `aligned` checked; AtomicU64 has the layout of u64 and allows others to
        // write; the mapping lives as long as the borrow of self.
        Ok(unsafe { at.as_ref() })
    }

    #[inline]
    fn aligned(&self, offset: usize, bytes: usize, alignment: usize) -> Result<NonNull<u8>, OutOfRange> {
        // The mapping begins at a page, so an offset's alignment is the address's.
        if !offset.is_multiple_of(alignment) {
            return Err(OutOfRange);
        }
        self.at(offset, bytes)
    }

    #[inline]
    fn at(&self, offset: usize, bytes: usize) -> Result<NonNull<u8>, OutOfRange> {
        if offset > self.bytes || bytes > self.bytes - offset {
            return Err(OutOfRange);
        }
        // SAFETY: the offset is at most the mapping's length, so the result lies in it or one past its end.
        Ok(unsafe { self.base.add(offset) })
    }
}

impl Drop for SharedMap {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by this value, is unmapped once, and every borrow of it has ended.
        let result = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
        debug_assert!(result.is_ok(), "munmap of a whole mapping cannot fail");
    }
}

fn file_bytes(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let size = rustix::fs::fstat(fd)?.st_size;
    u64::try_from(size).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_stay_inside_the_mapping() {
        let map = SharedMap::anonymous(4096).unwrap();
        let mut two = [0u8; 2];
        map.write(4094, b"ab").unwrap();
        map.read(4094, &mut two).unwrap();
        assert_eq!(&two, b"ab");
        assert_eq!(map.write(4095, b"ab"), Err(OutOfRange));
        assert_eq!(map.read(4095, &mut two), Err(OutOfRange));
        assert_eq!(map.read(usize::MAX, &mut two), Err(OutOfRange));
        assert_eq!(map.read(usize::MAX - 1, &mut two), Err(OutOfRange));
        assert_eq!(map.write(4096, b""), Ok(()));
        assert_eq!(map.write(4097, b""), Err(OutOfRange));
        let mut vector = b"x".to_vec();
        map.read_append(4094, 2, &mut vector).unwrap();
        assert_eq!(vector, b"xab");
        assert_eq!(map.read_append(1, 4096, &mut vector), Err(OutOfRange));
        assert_eq!(vector, b"xab");
    }

    #[test]
    fn atomics_are_checked_and_little_endian() {
        let map = SharedMap::anonymous(4096).unwrap();
        map.atomic_u64(8).unwrap().store(0x0102_0304, Ordering::Relaxed);
        let mut bytes = [0u8; 8];
        map.read(8, &mut bytes).unwrap();
        assert_eq!(bytes, [4, 3, 2, 1, 0, 0, 0, 0]);
        assert!(map.atomic_u64(4).is_err());
        assert!(map.atomic_u64(4096).is_err());
        assert!(map.atomic_u32(2).is_err());
        assert!(map.atomic_u32(4092).is_ok());
        assert!(map.line(32).is_err());
        assert!(map.line(4032).is_ok());
        assert!(map.line(4096).is_err());
    }

    #[test]
    fn a_sealed_segment_is_shared_and_cannot_shrink() {
        let (fd, map) = SharedMap::create_sealed(c"forebay-test", 8192).unwrap();
        let other = SharedMap::map_sealed(&fd, 8192).unwrap();
        map.write(5000, b"hello").unwrap();
        let mut bytes = [0u8; 5];
        other.read(5000, &mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        assert!(rustix::fs::ftruncate(&fd, 4096).is_err());
        assert!(rustix::fs::ftruncate(&fd, 16384).is_err());
        assert!(SharedMap::map_sealed(&fd, 4096).is_err());
    }

    #[test]
    fn an_unsealed_segment_is_refused() {
        let fd = rustix::fs::memfd_create(c"forebay-test", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, 4096).unwrap();
        assert_eq!(SharedMap::map_sealed(&fd, 4096).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_named_file_outlives_its_mapping() {
        let path = std::env::temp_dir().join(format!("forebay-shm-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        SharedMap::named(&path, 8192).unwrap().write(0, b"kept").unwrap();
        let mut bytes = [0u8; 4];
        SharedMap::named(&path, 8192).unwrap().read(0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"kept");
        let error = SharedMap::named(&path, 4096).unwrap_err();
        assert!(error.to_string().contains("has 8192 B instead of 4096 B"), "{error}");
        let huge = path.with_extension("huge");
        SharedMap::named(&huge, 1 << 50).unwrap_err();
        assert!(!huge.exists(), "a file that could not be sized is gone");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(&path, mode).unwrap();
        assert!(SharedMap::named(&path, 8192).unwrap_err().to_string().contains("0600"));
        std::fs::remove_file(&path).unwrap();
    }
}
