//! What the records of a space of deltas look like. docs/ring.md has it for other clients.

use std::ops::Range;

use crate::ring::client::codec::{Patcher, ZSTD_DICTIONARY, compress_against};
use crate::ring::protocol::{DELTA_BASES, DELTA_HEADER_BYTES, DELTA_PREFIX_BYTES, DELTA_VALUES, low_u32};
use crate::types::Compression;

/// Bytes of a base's number, which stands before its value.
pub const NUMBER_BYTES: usize = 8;

/// The key of the record that says what a key's value is.
pub fn value_key(key: &[u8]) -> Vec<u8> {
    [&DELTA_VALUES, key].concat()
}

/// The key of the record of its base: it has the same hash, so that both lie in one shard.
pub fn base_key(key: &[u8]) -> Vec<u8> {
    [&DELTA_BASES, key].concat()
}

/// Where all the keys of values lie.
pub fn value_keys() -> Range<[u8; DELTA_PREFIX_BYTES]> {
    let mut end = DELTA_VALUES;
    end[DELTA_PREFIX_BYTES - 1] += 1;
    DELTA_VALUES..end
}

/// A value as a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delta<'a> {
    /// The number of the base that it was made against.
    pub base: u64,
    value_bytes: u32,
    /// CRC32C of the value.
    checksum: u32,
    /// Empty where the value is that of the base.
    frame: &'a [u8],
}

impl Delta<'_> {
    /// `None`: the record is no delta but a value in its stored form.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(record: &[u8]) -> Result<Option<Delta<'_>>, String> {
        if record.first() != Some(&(Compression::Delta as u8)) {
            return Ok(None);
        }
        let words = || {
            let (_, rest) = record.split_first()?;
            let (base, rest) = rest.split_first_chunk()?;
            let (value_bytes, rest) = rest.split_first_chunk()?;
            let (checksum, frame) = rest.split_first_chunk()?;
            let [value_bytes, checksum] = [value_bytes, checksum].map(|word| u32::from_le_bytes(*word));
            Some(Delta { base: u64::from_le_bytes(*base), value_bytes, checksum, frame })
        };
        words().map(Some).ok_or_else(|| format!("has no value: it has {} B, fewer than its header", record.len()))
    }

    /// The value.
    ///
    /// # Errors
    /// What is wrong with it: a length over `value_bytes_max`, before there is room for it, or another value than was written.
    pub fn apply(&self, base: &[u8], value_bytes_max: usize, patcher: &mut Patcher) -> Result<Vec<u8>, String> {
        let bytes = self.value_bytes as usize;
        if bytes > value_bytes_max {
            return Err(format!("would have {bytes} B, over the limit of {value_bytes_max} B"));
        }
        let value = if self.frame.is_empty() {
            base.to_vec()
        } else {
            let mut value = vec![0; bytes];
            if !patcher.decompress(base, self.frame, &mut value) {
                return Err(format!("is no zstd frame of {bytes} B"));
            }
            value
        };
        if value.len() == bytes && crc32c::crc32c(&value) == self.checksum {
            Ok(value)
        } else {
            Err("gives another value than was written (CRC32C)".into())
        }
    }
}

fn header(base: u64, value: &[u8]) -> Vec<u8> {
    let mut record = vec![Compression::Delta as u8];
    record.extend_from_slice(&base.to_le_bytes());
    record.extend_from_slice(&low_u32(value.len() as u64).to_le_bytes());
    record.extend_from_slice(&crc32c::crc32c(value).to_le_bytes());
    debug_assert_eq!(record.len(), DELTA_HEADER_BYTES);
    record
}

/// The record of a value that is its base.
pub fn same(base: u64, value: &[u8]) -> Vec<u8> {
    header(base, value)
}

/// The record of a value as a delta; `None` where it would have more than `bytes_max`, or the base takes none.
pub fn delta(number: u64, base: &[u8], value: &[u8], bytes_max: usize) -> Option<Vec<u8>> {
    if base.starts_with(&ZSTD_DICTIONARY) {
        return None;
    }
    let frame_bytes_max = bytes_max.checked_sub(DELTA_HEADER_BYTES)?;
    let mut record = header(number, value);
    compress_against(base, value, &mut record, frame_bytes_max).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::protocol::shard_of_key;

    #[test]
    fn a_key_and_its_base_lie_in_one_shard_whatever_the_space() {
        for object in [0, 1, 2, 77, u32::MAX] {
            for bytes in [0, 1, 2, 3, 4, 5, 31, 1_000] {
                let key: Vec<u8> = (0..bytes).map(|at| u8::try_from(at * 37 % 251).unwrap()).collect();
                // As many shards as hashes, about.
                let [value, base] = [value_key(&key), base_key(&key)].map(|key| shard_of_key(object, &key, u32::MAX));
                assert_eq!(value, base, "space {object}, {bytes} B");
            }
        }
        assert!(value_key(&[0xff; 10]) < value_keys().end.to_vec() && base_key(b"") > value_keys().end.to_vec());
    }

    fn value(bytes: usize, changed: usize) -> Vec<u8> {
        let mut word = 1_u64;
        let mut value: Vec<u8> = std::iter::repeat_with(|| {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            word.to_be_bytes()[0]
        })
        .take(bytes)
        .collect();
        value[changed..changed + 8].copy_from_slice(b"changed!");
        value
    }

    #[test]
    fn deltas_are_small_and_come_back_up_to_the_largest_values() {
        let patcher = &mut Patcher::default();
        for bytes in [64, 1_000, 16_384, 200_000, 3 << 20] {
            let (base, new) = (value(bytes, 0), value(bytes, bytes / 2));
            let record = delta(9, &base, &new, 60 + bytes / 100).unwrap_or_else(|| panic!("{bytes} B"));
            let parsed = Delta::parse(&record).unwrap().unwrap();
            assert_eq!((parsed.base, parsed.apply(&base, bytes, patcher)), (9, Ok(new.clone())));
            assert!(parsed.apply(&base, bytes - 1, patcher).unwrap_err().contains("over the limit"));
            assert!(parsed.apply(&new[..bytes / 3], bytes, patcher).is_err(), "another base");
            assert_eq!(delta(9, &base, &value(bytes, 0)[..bytes / 2], 20), None);
        }
        let (mut base, new) = (value(1_000, 500), value(1_000, 600));
        base[..4].copy_from_slice(&ZSTD_DICTIONARY);
        assert_eq!(delta(9, &base, &new, 1_000), None, "a base that zstd would not take for one");
        let record = same(7, b"base");
        assert_eq!(Delta::parse(&record).unwrap().unwrap().apply(b"base", 4, patcher), Ok(b"base".to_vec()));
        assert!(Delta::parse(&record).unwrap().unwrap().apply(b"bass", 4, patcher).is_err());
        assert_eq!((Delta::parse(b"\0plain"), Delta::parse(b"")), (Ok(None), Ok(None)));
    }

    #[test]
    fn damage_is_an_error_and_never_another_value() {
        let (base, new, patcher) = (value(1_000, 0), value(1_000, 500), &mut Patcher::default());
        let record = delta(9, &base, &new, 500).unwrap();
        for at in 9..record.len() {
            let mut wrong = record.clone();
            wrong[at] ^= 0x41;
            let applied = Delta::parse(&wrong).unwrap().unwrap().apply(&base, 1 << 20, patcher);
            assert!(applied.as_ref().is_err_and(|cause| !cause.is_empty()) || applied == Ok(new.clone()), "byte {at}");
        }
        for end in 1..record.len() {
            let applied = Delta::parse(&record[..end]).and_then(|delta| delta.unwrap().apply(&base, 1 << 20, patcher));
            assert!(applied.is_err(), "cut at {end}");
        }
    }
}
