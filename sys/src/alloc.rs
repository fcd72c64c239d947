//! The system's allocator, but large allocations ask for transparent huge pages: an index is read at random, and with
//! small pages nearly every look-up misses the TLB as well as the cache.

use std::alloc::{GlobalAlloc, Layout, System};

use rustix::mm::{Advice, madvise};

/// Allocations from here on are asked about; below, the edges that no huge page covers would be most of it.
const LARGE_BYTES: usize = 4 << 20;
const PAGE_BYTES: usize = 4 << 10;

/// For `#[global_allocator]` of a program that holds a store.
pub struct HugePages;

// SAFETY: every call goes to `System` with the caller's own arguments; advice changes no contents and no addresses.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps `GlobalAlloc::alloc`'s contract, which is the same here.
        let pointer = unsafe { System.alloc(layout) };
        advise(pointer, layout.size());
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps `GlobalAlloc::alloc_zeroed`'s contract, which is the same here.
        let pointer = unsafe { System.alloc_zeroed(layout) };
        advise(pointer, layout.size());
        pointer
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        // SAFETY: the pointer came from `System`, and the caller keeps `GlobalAlloc::realloc`'s contract.
        let pointer = unsafe { System.realloc(pointer, layout, new_bytes) };
        advise(pointer, new_bytes);
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System`, and the caller keeps `GlobalAlloc::dealloc`'s contract.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[inline]
fn advise(pointer: *mut u8, bytes: usize) {
    if bytes < LARGE_BYTES || pointer.is_null() {
        return;
    }
    // Whole pages inside the allocation, so that no neighbour is advised with it.
    let skip = pointer.align_offset(PAGE_BYTES);
    let inner = (bytes - skip) / PAGE_BYTES * PAGE_BYTES;
    let first = pointer.wrapping_add(skip);
    // SAFETY: the range lies inside memory that was just allocated, and this advice changes none of it.
    let advised = unsafe { madvise(first.cast(), inner, Advice::LinuxHugepage) };
    // A kernel without huge pages is as good as before.
    let _ = advised;
}
