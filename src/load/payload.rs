//! Keys, and values that say what they are: a header names the writer, the key and the number of the write, the rest
//! follows from these. So whoever reads a value can tell whether it was written to this key, and by which write.

use super::generators::mix;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// Header: magic u32, CRC32C u32 of the three words that follow and the value's length, writer u64, key number u64, write number u64.
pub const HEADER_BYTES: usize = super::draft::VERIFY_BYTES_MIN as usize;
const MAGIC: u32 = u32::from_le_bytes(*b"FBLD");
/// Bodies are cut from so many pseudo-random bytes, at a place that the header gives.
const POOL_BYTES: usize = 64 << 10;
const POOL_SEED: u64 = 0x464f_5245_4241_5901;

/// Who wrote a value, to which key, and with which of its writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// A thread of a job in one run.
    pub writer: u64,
    /// The key's number; in a stream the number of the event among its writer's.
    pub key: u64,
    /// Counts the writes of this writer, from 0.
    pub write: u64,
}

/// Of each chunk of a body the end compresses away, as in fio.
const COMPRESS_CHUNK_BYTES: usize = 512;

/// Makes and checks values of up to `bytes_max`. Allocates once.
pub struct Payload {
    pool: Vec<u8>,
    value: Vec<u8>,
}

impl Payload {
    /// So many percent of the bodies are zeros, in pieces.
    #[must_use]
    pub fn new(bytes_max: usize, compress_percent: u32) -> Payload {
        let mut pool = vec![0; POOL_BYTES + bytes_max];
        Xoshiro256PlusPlus::seed_from_u64(POOL_SEED).fill_bytes(&mut pool);
        let kept = COMPRESS_CHUNK_BYTES * (100 - compress_percent as usize) / 100;
        pool.chunks_mut(COMPRESS_CHUNK_BYTES).for_each(|chunk| chunk.iter_mut().skip(kept).for_each(|byte| *byte = 0));
        Payload { pool, value: vec![0; bytes_max] }
    }

    /// The value of `bytes` bytes with this stamp. One too short for the header is all body.
    pub fn fill(&mut self, stamp: Stamp, bytes: usize) -> &[u8] {
        let value = &mut self.value[..bytes];
        let header = header_of(stamp, bytes);
        let header_bytes = if bytes < HEADER_BYTES { 0 } else { HEADER_BYTES };
        value[..header_bytes].copy_from_slice(&header[..header_bytes]);
        let place = body_place(stamp);
        value[header_bytes..].copy_from_slice(&self.pool[place..place + bytes - header_bytes]);
        value
    }

    /// Reads the stamp of a value and compares all its bytes with what that stamp implies.
    ///
    /// # Errors
    /// What is wrong with the value.
    pub fn check(&self, value: &[u8]) -> Result<Stamp, String> {
        let Some((header, body)) = value.split_at_checked(HEADER_BYTES) else {
            return Err(format!("{} B are too short for a header", value.len()));
        };
        let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 of 32 bytes"));
        let stamp = Stamp { writer: word(8), key: word(16), write: word(24) };
        if header[..8] != header_of(stamp, value.len())[..8] {
            return Err("the header is not one that a load wrote".into());
        }
        let place = body_place(stamp);
        match self.pool.get(place..place + body.len()) {
            Some(expected) if expected == body => Ok(stamp),
            Some(expected) => {
                let at = body.iter().zip(expected).position(|(a, b)| a != b).unwrap_or(0) + HEADER_BYTES;
                Err(format!("write {} differs from what was written from byte {at} on", stamp.write))
            }
            None => Err(format!("{} B are more than any value of this job has", value.len())),
        }
    }
}

/// The number of the write that a value's header states, unchecked; 0 where there is no room for a header.
#[must_use]
pub fn stated_write(value: &[u8]) -> u64 {
    let word = value.get(HEADER_BYTES - size_of::<u64>()..HEADER_BYTES);
    word.map_or(0, |word| u64::from_le_bytes(word.try_into().expect("8 bytes")))
}

fn header_of(stamp: Stamp, bytes: usize) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[8..16].copy_from_slice(&stamp.writer.to_le_bytes());
    header[16..24].copy_from_slice(&stamp.key.to_le_bytes());
    header[24..32].copy_from_slice(&stamp.write.to_le_bytes());
    header[..4].copy_from_slice(&MAGIC.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[8..]), &bytes.to_le_bytes());
    header[4..8].copy_from_slice(&crc.to_le_bytes());
    header
}

fn body_place(stamp: Stamp) -> usize {
    let word = mix(stamp.writer ^ mix(stamp.key ^ mix(stamp.write)));
    usize::try_from(word % POOL_BYTES as u64).expect("below 64 Ki")
}

/// The key of a number: decimal, filled with zeros to all of `key`, so that scans go in order of the numbers.
pub fn write_key(key: &mut [u8], mut number: u64) {
    for digit in key.iter_mut().rev() {
        *digit = b'0' + (number % 10).to_le_bytes()[0];
        number /= 10;
    }
}

/// The number of a key, `None` of one that no load wrote.
#[must_use]
pub fn key_number(key: &[u8]) -> Option<u64> {
    std::str::from_utf8(key).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { writer: 7, key: 42, write: 3 };

    #[test]
    fn a_value_names_its_write() {
        let mut payload = Payload::new(4_096, 0);
        for bytes in [32, 33, 100, 4_096] {
            let value = payload.fill(STAMP, bytes).to_vec();
            assert_eq!(value.len(), bytes);
            assert_eq!((payload.check(&value), stated_write(&value)), (Ok(STAMP), STAMP.write));
            assert_eq!(Payload::new(8_192, 0).check(&value), Ok(STAMP), "another reader agrees");
        }
        assert_eq!(payload.fill(STAMP, 10).len(), 10);
        assert_eq!(stated_write(payload.fill(STAMP, 31)), 0);
        assert_eq!(payload.fill(STAMP, 0).len(), 0);
    }

    #[test]
    fn a_share_of_a_value_is_zeros() {
        let mut payload = Payload::new(10_000, 70);
        let value = payload.fill(STAMP, 10_000).to_vec();
        let zeros = value.iter().filter(|byte| **byte == 0).count();
        assert!((6_900..7_150).contains(&zeros), "{zeros}");
        assert_eq!(payload.check(&value), Ok(STAMP));
        assert!(Payload::new(10_000, 60).check(&value).is_err(), "each share has its own values");
        assert!(Payload::new(100, 100).fill(STAMP, 100)[HEADER_BYTES..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn every_flipped_byte_is_seen() {
        let mut payload = Payload::new(128, 0);
        let value = payload.fill(STAMP, 128).to_vec();
        for at in 0..value.len() {
            let mut wrong = value.clone();
            wrong[at] ^= 0x10;
            assert!(payload.check(&wrong).is_err(), "byte {at}");
        }
        assert!(payload.check(&value[..31]).is_err());
        assert!(payload.check(&value[..127]).is_err(), "a value cut short");
        assert!(payload.check(&[0; 128]).is_err());
        let other = payload.fill(Stamp { write: 4, ..STAMP }, 128).to_vec();
        let torn = [&value[..64], &other[64..]].concat();
        assert!(payload.check(&torn).is_err());
    }

    #[test]
    fn keys_sort_as_their_numbers() {
        let key = |number| {
            let mut key = [0; 16];
            write_key(&mut key, number);
            key
        };
        assert_eq!(&key(1_234), b"0000000000001234");
        assert!(key(9) < key(10) && key(99_999) < key(100_000));
        assert_eq!((key_number(&key(1_234)), key_number(b"k1")), (Some(1_234), None));
        let mut wide = [0; 30];
        write_key(&mut wide, u64::MAX);
        assert_eq!(&wide, b"000000000018446744073709551615");
    }
}
