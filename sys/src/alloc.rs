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
    let (first, inner) = whole_pages(pointer, bytes);
    // SAFETY: the range lies inside memory that was just allocated, and this advice changes none of it.
    let advised = unsafe { madvise(first.cast(), inner, Advice::LinuxHugepage) };
    // A kernel without huge pages is as good as before.
    let _ = advised;
}

/// Frees memory so that the machine has it again. The allocator alone keeps what lies between other allocations, for more
/// of its own.
#[expect(clippy::boxed_local, reason = "it is freed here")]
pub fn give_back(mut bytes: Box<[u8]>) {
    let (first, inner) = whole_pages(bytes.as_mut_ptr(), bytes.len());
    // SAFETY: the range lies inside `bytes`, which is owned here and which nobody reads again; reading it would give zeros.
    let given = unsafe { madvise(first.cast(), inner, Advice::LinuxDontNeed) };
    // It is free for the allocator all the same.
    let _ = given;
}

/// The whole pages inside an allocation, and their bytes: no neighbour is advised with it.
fn whole_pages(pointer: *mut u8, bytes: usize) -> (*mut u8, usize) {
    let skip = pointer.align_offset(PAGE_BYTES).min(bytes);
    (pointer.wrapping_add(skip), (bytes - skip) / PAGE_BYTES * PAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_touches_no_neighbour() {
        for bytes in [0, 1, 4_095, 4_096, 12_287, 1 << 20] {
            let before = vec![1_u8; 5_000];
            let given = vec![2_u8; bytes].into_boxed_slice();
            let behind = vec![3_u8; 5_000];
            give_back(given);
            assert!(before.iter().all(|byte| *byte == 1) && behind.iter().all(|byte| *byte == 3));
            assert!(vec![0_u8; bytes].iter().all(|byte| *byte == 0));
        }
    }
}
