//! The system's allocator, with two differences. Large allocations ask for transparent huge pages: an index is read at
//! random, and with small pages nearly every look-up misses the TLB as well as the cache. And no two allocations share a
//! cache line: what one thread writes never slows down another that holds what was allocated next to it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::null_mut;

use rustix::mm::{Advice, madvise};

/// Allocations from here on are asked about; below, the edges that no huge page covers would be most of it.
const LARGE_BYTES: usize = 4 << 20;
const PAGE_BYTES: usize = 4 << 10;
const LINE_BYTES: usize = 64;

/// For `#[global_allocator]` of a program that holds a store. Each allocation costs `LINE_BYTES` more.
pub struct HugePages;

// SAFETY: every call goes to `System` with the caller's own arguments, but for a length that `apart` always makes longer
// in the same way; advice changes no contents and no addresses.
unsafe impl GlobalAlloc for HugePages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let Some(longer) = apart(layout) else { return null_mut() };
        // SAFETY: the caller keeps `GlobalAlloc::alloc`'s contract, which is the same here.
        let pointer = unsafe { System.alloc(longer) };
        advise(pointer, layout.size());
        pointer
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(longer) = apart(layout) else { return null_mut() };
        // SAFETY: the caller keeps `GlobalAlloc::alloc_zeroed`'s contract, which is the same here.
        let pointer = unsafe { System.alloc_zeroed(longer) };
        advise(pointer, layout.size());
        pointer
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_bytes: usize) -> *mut u8 {
        let new_layout = Layout::from_size_align(new_bytes, layout.align()).ok();
        let (Some(longer), Some(new)) = (apart(layout), new_layout.and_then(apart)) else { return null_mut() };
        // SAFETY: the pointer came from `System` with `longer`, and the caller keeps `GlobalAlloc::realloc`'s contract.
        let pointer = unsafe { System.realloc(pointer, longer, new.size()) };
        advise(pointer, new_bytes);
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let longer = apart(layout).expect("it was allocated with this length");
        // SAFETY: the pointer came from `System` with `longer`, and the caller keeps `GlobalAlloc::dealloc`'s contract.
        unsafe { System.dealloc(pointer, longer) }
    }
}

/// As many bytes and a line: from the last byte of an allocation to the first of another it is a line at least, wherever
/// the system puts them. `None`: no allocation is so long.
#[inline]
fn apart(layout: Layout) -> Option<Layout> {
    Layout::from_size_align(layout.size().checked_add(LINE_BYTES)?, layout.align()).ok()
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
    fn no_two_allocations_share_a_line() {
        let mut lines = std::collections::HashMap::new();
        let mut held = Vec::new();
        for number in 0..4_000_usize {
            let layout = Layout::from_size_align(1 + number * 7 % 300, 1 << (number % 5)).unwrap();
            // SAFETY: the length is not zero.
            let mut pointer = unsafe { HugePages.alloc(layout) };
            let mut bytes = layout.size();
            if number % 3 == 0 {
                bytes += 100;
                // SAFETY: the pointer came from this allocator with this layout; the length is not zero.
                pointer = unsafe { HugePages.realloc(pointer, layout, bytes) };
            }
            assert!(!pointer.is_null() && pointer.addr().is_multiple_of(layout.align()));
            for line in pointer.addr() / LINE_BYTES..=(pointer.addr() + bytes - 1) / LINE_BYTES {
                assert_eq!(lines.insert(line, number), None, "{number} has the line of another");
            }
            held.push((pointer, Layout::from_size_align(bytes, layout.align()).unwrap()));
        }
        for (pointer, layout) in held {
            // SAFETY: the pointer came from this allocator with this layout, and is used no more.
            unsafe { HugePages.dealloc(pointer, layout) };
        }
    }

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
