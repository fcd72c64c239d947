//! Cache lines asked for before they are needed. Nothing waits for them: a hint, which changes nothing that a program can see and
//! never faults, whatever the address. Not on x86-64: does nothing.

use crate::shm::LINE_BYTES;

/// Longer pieces are left to the processor, which sees by itself that it goes on.
const LINES_MAX: usize = 8;

/// Asks for the line at an address, to read it.
#[inline]
pub(crate) fn to_read(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch accesses nothing as far as a program can tell, and every x86-64 has SSE.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(address.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Asks for the lines of so many bytes from an address on, 8 at most, to write them: other cores give them up.
#[inline]
pub(crate) fn to_write(address: *const u8, bytes: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in 0..bytes.div_ceil(LINE_BYTES).min(LINES_MAX) {
        let address = address.wrapping_add(line * LINE_BYTES);
        // SAFETY: as in `to_read`; a processor that does not know it takes it for a no-op. The intrinsic of the same name would read.
        unsafe { std::arch::asm!("prefetchw [{}]", in(reg) address, options(nostack, preserves_flags, readonly)) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (address, bytes);
}

/// Asks for what will be written from `at` on in `buffer`, as far as it goes.
#[inline]
pub fn for_writing(buffer: &[u8], at: usize, bytes: usize) {
    if let Some(rest) = buffer.get(at..) {
        to_write(rest.as_ptr(), bytes.min(rest.len()));
    }
}
