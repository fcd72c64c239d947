//! CRC32C of what is mostly short: keys and small records. The crate `crc32c` first cuts its input to size for three streams
//! at once, which is all that counts for long input, and costs some 20 ns for a key.

/// Longer input goes to the crate.
const SHORT_BYTES_MAX: usize = 512;

/// The CRC32C of bytes that follow on those with this one; 0: on nothing. As `crc32c::crc32c_append`.
#[inline]
#[must_use]
pub fn crc32c_append(crc: u32, bytes: &[u8]) -> u32 {
    #[cfg(target_arch = "x86_64")]
    if bytes.len() <= SHORT_BYTES_MAX && std::arch::is_x86_feature_detected!("sse4.2") {
        // SAFETY: the processor has SSE4.2.
        return unsafe { short(crc, bytes) };
    }
    crc32c::crc32c_append(crc, bytes)
}

/// With the processor's own instruction (Intel SDM, volume 2A, CRC32), a word at a time.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse4.2")]
fn short(crc: u32, bytes: &[u8]) -> u32 {
    use std::arch::x86_64::{_mm_crc32_u8, _mm_crc32_u32, _mm_crc32_u64};
    let (words, rest) = bytes.as_chunks::<8>();
    let wide = words.iter().fold(u64::from(!crc), |crc, word| _mm_crc32_u64(crc, u64::from_le_bytes(*word)));
    let crc = u32::try_from(wide).expect("the instruction clears the upper half");
    let (half, rest) = match rest.split_first_chunk::<4>() {
        Some((half, rest)) => (_mm_crc32_u32(crc, u32::from_le_bytes(*half)), rest),
        None => (crc, rest),
    };
    !rest.iter().fold(half, |crc, byte| _mm_crc32_u8(crc, *byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_input_and_long_give_what_the_crate_gives() {
        let bytes: Vec<u8> = (0..2_000_u32).map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
        for begin in 0..9 {
            for end in (begin..700).chain([1_999]) {
                for crc in [0, 1, 0x8000_0001, u32::MAX] {
                    let part = &bytes[begin..end];
                    assert_eq!(crc32c_append(crc, part), crc32c::crc32c_append(crc, part), "{begin}..{end}");
                }
            }
        }
    }
}
