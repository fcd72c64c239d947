//! What one core can do with memory: copy it, and take a CRC32C of it. GB/s, with 1 GB = 10^9 B.

use std::hint::black_box;
use std::time::{Duration, Instant};

use forebay_sys::crc::crc32c_append;

/// A log begins each sum with one, of its namespace and shard.
const SEED: u32 = 0x5eed_5eed;

/// Bytes a second that `step` gets through, `bytes` a call, called again and again for `run`.
fn gb_per_second(bytes: usize, run: Duration, mut step: impl FnMut()) -> f64 {
    // As many calls between two looks at the clock as take far longer than the look.
    let calls = (1_usize << 20).div_ceil(bytes);
    // The first touch of fresh memory is the kernel's work.
    step();
    let (mut done, begun) = (0, Instant::now());
    while begun.elapsed() < run {
        (0..calls).for_each(|_| step());
        done += calls * bytes;
    }
    done as f64 / begun.elapsed().as_secs_f64() / 1e9
}

/// Copies `bytes` from one place to another. Counted once, though it is read and written.
pub fn copy(bytes: usize, run: Duration) -> f64 {
    let (from, mut to) = (vec![7_u8; bytes], vec![0_u8; bytes]);
    gb_per_second(bytes, run, || black_box(to.as_mut_slice()).copy_from_slice(black_box(&from)))
}

/// The CRC32C as the log takes it, over records of `bytes`: a word at a time up to 512 B, by the crate `crc32c` beyond.
pub fn crc32c(bytes: usize, run: Duration) -> f64 {
    let record = vec![7_u8; bytes];
    gb_per_second(bytes, run, || {
        black_box(crc32c_append(black_box(SEED), black_box(&record)));
    })
}

/// The same sum by another library, as fast as it goes: without a seed, which a log needs, it takes a shorter way.
pub fn crc_fast(bytes: usize, run: Duration) -> f64 {
    let record = vec![7_u8; bytes];
    gb_per_second(bytes, run, || {
        black_box(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, black_box(&record)));
    })
}

/// Whether both libraries mean the same sum, at a length that each of them splits in its own way.
pub fn crcs_agree() -> bool {
    let record: Vec<u8> = (0..=250).cycle().take(65_521).collect();
    u64::from(crc32c_append(0, &record)) == crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, &record)
}
