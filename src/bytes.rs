//! Little-endian fields at fixed offsets, for every structure on the drive and in the rings.

#[must_use]
pub fn get_u16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

#[must_use]
pub fn get_u32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

#[must_use]
pub fn get_u64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

/// The `N` bytes at `at`.
#[must_use]
pub fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

pub fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub fn put_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub fn put_u64(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// The size as a 32-bit field, for lengths that a limit keeps below 4 GiB.
///
/// # Panics
/// When it is not: a limit was not checked.
#[must_use]
pub fn len_u32(length: usize) -> u32 {
    u32::try_from(length).expect("lengths are bounded far below 4 GiB")
}

/// The size as a 16-bit field, for key lengths.
///
/// # Panics
/// When it does not fit: a limit was not checked.
#[must_use]
pub fn len_u16(length: usize) -> u16 {
    u16::try_from(length).expect("key lengths are bounded by 1,024")
}

/// A 64-bit size as an index. Lossless: only 64-bit machines are supported.
#[must_use]
#[expect(clippy::cast_possible_truncation, reason = "usize has 64 bits, see types.rs")]
pub const fn index(value: u64) -> usize {
    value as usize
}
