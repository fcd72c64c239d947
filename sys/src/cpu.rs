//! What a spinning thread tells its core.

/// Tells the core that this is a spin loop: a sibling thread gets its share, and the loop's exit costs less.
#[inline(always)]
pub fn pause() {
    std::hint::spin_loop();
}
