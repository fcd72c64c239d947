//! Values and events that say who wrote them, where, and by which operation.

use rand::{Rng, RngExt};

use crate::load::payload::{HEADER_BYTES, Payload, Stamp, write_key};
use crate::ring::protocol::BATCH_HEADER_BYTES;

pub const KEY_BYTES: usize = 16;
/// Set in the stamp of an event, beside its offset.
const EVENT: u64 = 1 << 63;
/// What `Sizes::draw` gives on average with factor 1.
pub const BYTES_MEAN: u64 = 2_700;
/// The largest that it gives then.
const BYTES_MAX: usize = 250 << 10;

/// The key of a number.
#[must_use]
pub fn key(at: usize) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    write_key(&mut key, at as u64);
    key
}

/// How large values and events are: most are small, one in two hundred is larger than a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    factor: usize,
    pub bytes_max: usize,
}

impl Sizes {
    /// `factor` times as large, up to what the daemon takes, also as a batch of one event.
    #[must_use]
    pub fn new(factor: usize, value_bytes_max: usize) -> Sizes {
        let taken_max = value_bytes_max.saturating_sub(BATCH_HEADER_BYTES).max(HEADER_BYTES);
        Sizes { factor, bytes_max: BYTES_MAX.saturating_mul(factor).min(taken_max) }
    }

    /// Bytes of the next one. Those of one batch are small, so that all of it is a value's size at most.
    pub fn draw(&self, random: &mut impl Rng, in_batch: bool) -> usize {
        let bytes = match random.random_range(0..200) {
            0..140 => random.random_range(HEADER_BYTES..200),
            140..190 => random.random_range(200..6_000),
            190..199 => random.random_range(6_000..40_000),
            _ => random.random_range(64 << 10..BYTES_MAX),
        };
        let bytes_max = if in_batch { self.bytes_max / 8 } else { self.bytes_max };
        (bytes * self.factor).min(bytes_max.max(HEADER_BYTES))
    }
}

/// Where a content stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Key(usize),
    /// By its offset.
    Event(u64),
}

impl Place {
    fn word(self) -> u64 {
        match self {
            Place::Key(at) => at as u64,
            Place::Event(offset) => offset | EVENT,
        }
    }
}

fn told(word: u64) -> String {
    if word & EVENT == 0 { format!("key {word}") } else { format!("offset {}", word & !EVENT) }
}

/// Makes and checks the contents of one writer.
pub struct Content {
    writer: u64,
    payload: Payload,
}

impl Content {
    #[must_use]
    pub fn new(writer: u64, sizes: Sizes) -> Content {
        Content { writer, payload: Payload::new(sizes.bytes_max, 0) }
    }

    pub fn write(&mut self, place: Place, number: u64, bytes: usize) -> &[u8] {
        self.payload.fill(Stamp { writer: self.writer, key: place.word(), write: number }, bytes)
    }

    /// The number of the operation that wrote what was found here; 0 where nothing was.
    ///
    /// # Errors
    /// Bytes that are nobody's, or another writer's, or another place's.
    pub fn number(&self, place: Place, found: Option<&[u8]>) -> Result<u64, String> {
        let Some(found) = found else { return Ok(0) };
        let named =
            |cause: String| format!("{}: expected a content that proves itself; found {cause}", told(place.word()));
        let Stamp { writer, key, write } =
            self.payload.check(found).map_err(|cause| named(format!("{} B of which {cause}", found.len())))?;
        if writer != self.writer {
            return Err(named(format!("one that writer {writer:#x} wrote, not {:#x}", self.writer)));
        }
        if key != place.word() {
            return Err(named(format!("what operation {write} wrote to {}", told(key))));
        }
        Ok(write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_xoshiro::Xoshiro256PlusPlus as Random;

    #[test]
    fn a_content_of_another_place_or_writer_or_a_flipped_byte_is_named() {
        let sizes = Sizes::new(1, 1 << 20);
        let mut own = Content::new(7, sizes);
        let value = own.write(Place::Key(3), 41, 500).to_vec();
        assert_eq!(own.number(Place::Key(3), Some(&value)), Ok(41));
        assert_eq!(own.number(Place::Key(3), None), Ok(0));
        let wrong = |place| own.number(place, Some(&value)).unwrap_err();
        assert!(wrong(Place::Key(4)).contains("key 4: expected") && wrong(Place::Key(4)).contains("to key 3"));
        assert!(wrong(Place::Event(3)).contains("offset 3: expected"));
        assert!(Content::new(8, sizes).number(Place::Key(3), Some(&value)).unwrap_err().contains("writer 0x7"));
        for at in [0, 5, 31, 32, 499] {
            let mut flipped = value.clone();
            flipped[at] ^= 1;
            assert!(own.number(Place::Key(3), Some(&flipped)).is_err(), "byte {at}");
        }
    }

    #[test]
    fn sizes_have_the_mean_that_is_told_and_keep_their_bounds() {
        let (sizes, mut random) = (Sizes::new(1, 1 << 20), Random::seed_from_u64(1));
        let drawn: Vec<u64> = (0..200_000).map(|_| sizes.draw(&mut random, false) as u64).collect();
        let mean = drawn.iter().sum::<u64>() / drawn.len() as u64;
        assert!(mean.abs_diff(BYTES_MEAN) < BYTES_MEAN / 20, "{mean}");
        let sizes = Sizes::new(10, 256 << 10);
        assert!((0..10_000).all(|_| sizes.draw(&mut random, false) < 256 << 10));
        assert!((0..10_000).all(|_| sizes.draw(&mut random, true) <= 32 << 10));
    }
}
