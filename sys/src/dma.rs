//! Memory that a device may read and write: mapped once, populated, and cut into buffers that are owned exclusively.

use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap};

/// Every buffer starts at a multiple of this, and is one long.
pub const BUFFER_ALIGN_BYTES: usize = 4096;
const HUGEPAGE_BYTES: usize = 2 << 20;

/// The memory to ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// 2 MiB hugepages; ordinary pages, with a warning, where there are not enough of them.
    HugeOrOrdinary,
    /// 4 KiB pages, and no warning.
    Ordinary,
}

/// The memory that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageKind {
    Huge2MiB,
    Ordinary,
}

/// Whom the memory goes back to.
#[derive(Clone, Copy)]
enum Owner {
    Kernel,
    #[cfg(feature = "spdk")]
    Spdk(crate::spdk::Env),
}

/// A mapping, given back when its last buffer, region and span are gone.
struct Mapping {
    address: NonNull<u8>,
    bytes: usize,
    owner: Owner,
}

// SAFETY: `Mapping` itself gives no access to the bytes; it only keeps them mapped, which any thread may do.
unsafe impl Send for Mapping {}
// SAFETY: as above; no method reads or writes the bytes.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `fd` whole, and populates it, so that no later access can fault for want of memory.
    fn populated(fd: &OwnedFd, bytes: usize) -> io::Result<Mapping> {
        ftruncate(fd, bytes as u64)?;
        let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::POPULATE);
        // SAFETY: a null hint lets the kernel choose a free range, so no existing mapping is replaced.
        let address = unsafe { mmap(std::ptr::null_mut(), bytes, prot, flags, fd, 0) }?;
        let first = NonNull::new(address.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = Mapping { address: first, bytes, owner: Owner::Kernel };
        // mmap hides a failed populate, and the first access would then be a SIGBUS. madvise tells.
        // SAFETY: the range is the mapping that was just made, and populating it changes no contents.
        match unsafe { madvise(address, bytes, Advice::LinuxPopulateWrite) } {
            // Kernels before 5.14 do not know this advice; there mmap's reservation has to do.
            Ok(()) | Err(Errno::INVAL) => Ok(mapping),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        match self.owner {
            Owner::Kernel => {
                // SAFETY: exactly the range that `populated` mapped; all that could reach into it held this `Mapping`
                // by Arc.
                let unmapped = unsafe { munmap(self.address.as_ptr().cast(), self.bytes) };
                debug_assert!(unmapped.is_ok(), "a whole mapping can always be unmapped");
            }
            #[cfg(feature = "spdk")]
            Owner::Spdk(env) => {
                // SAFETY: allocated by `allocate_spdk`, and all that could reach into it held this `Mapping` by Arc.
                unsafe { env.free(self.address) };
            }
        }
    }
}

/// A region of zeroed memory for a device, shared and populated, before it is cut into buffers.
pub struct DmaRegion {
    mapping: Arc<Mapping>,
    /// Where it begins in the mapping.
    offset: usize,
    bytes: usize,
    pages: PageKind,
    warning: Option<String>,
}

impl DmaRegion {
    /// Maps at least `bytes` bytes, rounded up to 4 KiB. Blocks while the memory is populated.
    ///
    /// # Errors
    /// What the kernel said when there is no memory, or `InvalidInput` for no bytes at all.
    pub fn allocate(bytes: usize, pages: Pages) -> io::Result<DmaRegion> {
        let too_large = || io::Error::new(io::ErrorKind::InvalidInput, "a DMA region of that size cannot be mapped");
        if bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a DMA region needs at least one byte"));
        }
        let bytes = bytes.checked_next_multiple_of(BUFFER_ALIGN_BYTES).ok_or_else(too_large)?;
        let mut warning = None;
        if pages == Pages::HugeOrOrdinary {
            let mapped_bytes = bytes.checked_next_multiple_of(HUGEPAGE_BYTES).ok_or_else(too_large)?;
            match map("forebay-dma-huge", MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB, mapped_bytes) {
                Ok(mapping) => {
                    return Ok(DmaRegion {
                        mapping: Arc::new(mapping),
                        offset: 0,
                        bytes,
                        pages: PageKind::Huge2MiB,
                        warning,
                    });
                }
                Err(error) => warning = Some(fallback_warning(mapped_bytes, &error)),
            }
        }
        let mapping = map("forebay-dma", MemfdFlags::empty(), bytes)?;
        Ok(DmaRegion { mapping: Arc::new(mapping), offset: 0, bytes, pages: PageKind::Ordinary, warning })
    }

    /// The same, of SPDK's memory: the only one that a controller driven by SPDK can reach. Does not block.
    ///
    /// # Errors
    /// `OutOfMemory` when SPDK has not so much left in one piece, or `InvalidInput` for no bytes at all.
    #[cfg(feature = "spdk")]
    pub fn allocate_spdk(env: crate::spdk::Env, bytes: usize) -> io::Result<DmaRegion> {
        if bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a DMA region needs at least one byte"));
        }
        let bytes = bytes.checked_next_multiple_of(BUFFER_ALIGN_BYTES).ok_or(io::ErrorKind::OutOfMemory)?;
        let address = env.allocate(bytes).ok_or(io::ErrorKind::OutOfMemory)?;
        let mapping = Arc::new(Mapping { address, bytes, owner: Owner::Spdk(env) });
        Ok(DmaRegion { mapping, offset: 0, bytes, pages: env.page_kind(), warning: None })
    }

    #[must_use]
    pub fn page_kind(&self) -> PageKind {
        self.pages
    }

    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// One line for people, when hugepages were asked for and ordinary memory was found.
    #[must_use]
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Cuts the last `bytes` off, as a region of its own over the same memory.
    ///
    /// # Panics
    /// When it is not larger than that, or `bytes` is not a multiple of 4,096.
    #[must_use]
    pub fn cut_off(mut self, bytes: usize) -> (DmaRegion, DmaRegion) {
        assert!(
            bytes < self.bytes && bytes.is_multiple_of(BUFFER_ALIGN_BYTES),
            "{bytes} B cannot be cut off a DMA region of {} B",
            self.bytes
        );
        self.bytes -= bytes;
        let (mapping, offset) = (Arc::clone(&self.mapping), self.offset + self.bytes);
        let tail = DmaRegion { mapping, offset, bytes, pages: self.pages, warning: None };
        (self, tail)
    }

    /// The region as a whole, for a ring to register it. Take it before `split` and `cut_off`.
    #[must_use]
    pub fn span(&self) -> DmaSpan {
        DmaSpan { mapping: Arc::clone(&self.mapping), bytes: self.bytes }
    }

    /// Cuts the region into as many buffers of `buffer_bytes` as fit.
    ///
    /// # Panics
    /// When `buffer_bytes` is not a positive multiple of 4,096.
    #[must_use]
    pub fn split(self, buffer_bytes: usize) -> Vec<DmaBuffer> {
        self.split_from(0, buffer_bytes)
    }

    /// The same, with numbers from `first` on: for buffers that are told apart from those of the region it was cut off.
    ///
    /// # Panics
    /// As `split`.
    #[must_use]
    pub fn split_from(self, first: usize, buffer_bytes: usize) -> Vec<DmaBuffer> {
        assert!(
            buffer_bytes > 0 && buffer_bytes.is_multiple_of(BUFFER_ALIGN_BYTES),
            "DMA buffers of {buffer_bytes} B: not a positive multiple of {BUFFER_ALIGN_BYTES}"
        );
        let buffer = |index: usize| DmaBuffer {
            // SAFETY: index < bytes / buffer_bytes and offset + bytes lies inside the mapping, so this does.
            address: unsafe { self.mapping.address.add(self.offset + index * buffer_bytes) },
            bytes: buffer_bytes,
            index: first + index,
            mapping: Arc::clone(&self.mapping),
        };
        (0..self.bytes / buffer_bytes).map(buffer).collect()
    }
}

fn map(name: &str, flags: MemfdFlags, bytes: usize) -> io::Result<Mapping> {
    let fd = memfd_create(name, flags | MemfdFlags::CLOEXEC)?;
    Mapping::populated(&fd, bytes)
}

fn fallback_warning(bytes: usize, error: &io::Error) -> String {
    let pages = bytes / HUGEPAGE_BYTES;
    format!(
        "no {pages} free hugepages of 2 MiB ({error}): DMA buffers are in ordinary memory, with more TLB misses; \
         reserve them with `sysctl vm.nr_hugepages={pages}`"
    )
}

/// A buffer that its holder owns alone: no other buffer covers any of its bytes.
pub struct DmaBuffer {
    address: NonNull<u8>,
    bytes: usize,
    index: usize,
    mapping: Arc<Mapping>,
}

// SAFETY: the bytes belong to this value alone (`split` and `cut_off` consume the region and cut disjoint ranges, and the type is
// not Clone), so they may move to another thread with it.
unsafe impl Send for DmaBuffer {}
// SAFETY: a shared reference gives shared access to the bytes only.
unsafe impl Sync for DmaBuffer {}

impl DmaBuffer {
    /// Its number, from 0 on in its region: see `split_from`.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// True when the buffer was cut from the region that `span` covers.
    #[must_use]
    pub fn is_within(&self, span: &DmaSpan) -> bool {
        Arc::ptr_eq(&self.mapping, &span.mapping)
    }

    /// True when the region came from SPDK.
    #[cfg(feature = "spdk")]
    #[must_use]
    pub fn is_from_spdk(&self) -> bool {
        matches!(self.mapping.owner, Owner::Spdk(_))
    }
}

impl Deref for DmaBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `bytes` initialised bytes (zeroed by whoever gave them), mapped while `mapping` lives, owned by this value.
        unsafe { std::slice::from_raw_parts(self.address.as_ptr(), self.bytes) }
    }
}

impl DerefMut for DmaBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`; `&mut self` makes this the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.address.as_ptr(), self.bytes) }
    }
}

impl std::fmt::Debug for DmaBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DmaBuffer({}, {} B)", self.index, self.bytes)
    }
}

/// A whole region, kept mapped, without access to its bytes.
#[derive(Clone)]
pub struct DmaSpan {
    mapping: Arc<Mapping>,
    bytes: usize,
}

impl DmaSpan {
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The first byte's address, for the kernel.
    #[must_use]
    pub fn address(&self) -> *mut u8 {
        self.mapping.address.as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_zeroed_aligned_disjoint_and_outlive_their_region() {
        let region = DmaRegion::allocate(5 * 4096 + 1, Pages::Ordinary).unwrap();
        assert_eq!((region.bytes(), region.page_kind(), region.warning()), (6 * 4096, PageKind::Ordinary, None));
        let span = region.span();
        let mut buffers = region.split(2 * 4096);
        assert_eq!(buffers.len(), 3);
        for (i, buffer) in buffers.iter_mut().enumerate() {
            assert_eq!((buffer.index(), buffer.len(), buffer.as_ptr().addr() % 4096), (i, 8192, 0));
            assert!(buffer.iter().all(|b| *b == 0) && buffer.is_within(&span));
            buffer.fill(u8::try_from(i + 1).unwrap());
        }
        let last = buffers.pop().unwrap();
        drop(buffers);
        drop(span);
        let last = std::thread::spawn(move || last).join().unwrap();
        assert!(last.iter().all(|b| *b == 3));
    }

    #[test]
    fn without_enough_hugepages_ordinary_memory_comes_with_one_warning() {
        // More than any machine of these tests reserves, so that the hugepage mapping must fail cleanly.
        let free: usize = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
            .map_or(0, |text| text.trim().parse().unwrap_or(0));
        if free > 32 {
            eprintln!("skipped: {free} hugepages are free, the fallback would need more memory than a test may take");
            return;
        }
        let bytes = (free + 1) * HUGEPAGE_BYTES;
        let region = DmaRegion::allocate(bytes, Pages::HugeOrOrdinary).unwrap();
        assert_eq!((region.page_kind(), region.bytes()), (PageKind::Ordinary, bytes));
        assert!(region.warning().unwrap().contains("vm.nr_hugepages"), "{:?}", region.warning());
        let mut buffers = region.split(HUGEPAGE_BYTES);
        for buffer in &mut buffers {
            buffer.fill(1);
        }
    }

    #[test]
    fn hugepages_are_used_where_there_are_any() {
        let region = DmaRegion::allocate(8192, Pages::HugeOrOrdinary).unwrap();
        if region.page_kind() == PageKind::Ordinary {
            eprintln!("skipped: {}", region.warning().unwrap());
            return;
        }
        assert_eq!((region.bytes(), region.warning()), (8192, None));
        let buffers = region.split(4096);
        assert_eq!((buffers.len(), buffers[0].as_ptr().addr() % HUGEPAGE_BYTES), (2, 0));
    }

    #[test]
    fn a_region_of_nothing_or_too_much_is_refused() {
        assert!(DmaRegion::allocate(0, Pages::Ordinary).is_err());
        assert!(DmaRegion::allocate(usize::MAX, Pages::Ordinary).is_err());
        assert!(DmaRegion::allocate(1 << 60, Pages::HugeOrOrdinary).is_err());
    }
}
