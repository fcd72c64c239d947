//! Values of spaces with compression: what they are stored as. docs/ring.md has the form.
//!
//! A value is tried where it may pay, and stays plain where the saving is small. What never pays is tried rarely.

use std::collections::BTreeMap;

use crate::ring::protocol::{COMPRESSED_HEADER_BYTES, PAIR_HEADER_BYTES, PLAIN_HEADER_BYTES, VALUE_BYTES_MAX, low_u32};
use crate::types::{Compression, ObjectId};

use super::codec::Codecs;
use super::reply::{Listed, listed};
use super::{ClientError, Object, Request};

/// Smaller values are not tried.
const TRIED_BYTES_MIN: usize = 64;
/// A value is stored compressed if that saves this part of it.
const SAVED_PART_MIN: usize = 8;
/// After so many values in a row that did not pay ...
const MISSES_MAX: u32 = 8;
/// ... only every so manieth of the space is tried, until one pays.
const TRY_EVERY: u32 = 16;

/// What a client did with the values that it put into spaces with compression.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompressionStats {
    pub values: u64,
    /// Of the values as they were given.
    pub plain_bytes: u64,
    /// As they went to the daemon, with the byte or the five that say how they are stored.
    pub stored_bytes: u64,
    /// Values that were tried, and those of them that are stored compressed.
    pub tried: u64,
    pub compressed: u64,
}

impl CompressionStats {
    /// Values that were not tried: too small, or like others of the space that did not pay.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.values - self.tried
    }

    /// Plain bytes a stored byte; 1 where there are none.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
    pub fn ratio(&self) -> f64 {
        if self.stored_bytes == 0 { 1.0 } else { self.plain_bytes as f64 / self.stored_bytes as f64 }
    }

    pub fn add(&mut self, other: &CompressionStats) {
        self.values += other.values;
        self.plain_bytes += other.plain_bytes;
        self.stored_bytes += other.stored_bytes;
        self.tried += other.tried;
        self.compressed += other.compressed;
    }
}

impl Object {
    /// A space of deltas with the keys and values that the daemon has, bases too: for a copy that takes all of it along, as it
    /// was at one moment. Any other object stays as it is.
    #[must_use]
    pub fn stored(self) -> Object {
        let plain = Object { compression: Compression::None, ..self };
        if self.compression == Compression::Delta { plain } else { self }
    }

    /// # Errors
    /// `HoldsDeltas`.
    pub(super) fn check_plain(self) -> Result<(), ClientError> {
        if self.compression == Compression::Delta { Err(ClientError::HoldsDeltas) } else { Ok(()) }
    }
}

/// Refuses what would take a delta for a value, or write a value beside its base.
pub(super) fn check_plain(request: &Request<'_>) -> Result<(), ClientError> {
    match request {
        Request::Put { space, .. }
        | Request::Get { space, .. }
        | Request::GetAt { space, .. }
        | Request::Delete { space, .. }
        | Request::Scan { space, .. }
        | Request::ScanAt { space, .. }
        | Request::List { space, .. } => space.check_plain(),
        _ => Ok(()),
    }
}

/// How a value came to its stored form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tried {
    No,
    Missed,
    Paid,
}

/// A value in its stored form: the first bytes of the room that it was encoded to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encoded {
    pub bytes: usize,
    plain_bytes: usize,
    tried: Tried,
}

/// How the values of one space did of late.
#[derive(Debug, Default)]
struct Sample {
    misses: u32,
    untried: u32,
}

#[derive(Debug, Default)]
pub(super) struct Compressor {
    codecs: Codecs,
    samples: BTreeMap<ObjectId, Sample>,
    pub stats: CompressionStats,
}

impl Compressor {
    /// Puts the stored form of a value to the begin of `room`.
    pub fn encode(&mut self, space: Object, plain: &[u8], room: &mut Vec<u8>) -> Encoded {
        let plain_bytes = plain.len();
        let mut tried = Tried::No;
        if self.is_due(space, plain_bytes) {
            tried = Tried::Missed;
            let bytes_max = plain_bytes - plain_bytes / SAVED_PART_MIN - COMPRESSED_HEADER_BYTES;
            let at = COMPRESSED_HEADER_BYTES;
            if let Some(bytes) = self.codecs.compress(space.compression, plain, room, at, bytes_max) {
                room[0] = space.compression as u8;
                room[1..at].copy_from_slice(&low_u32(plain_bytes as u64).to_le_bytes());
                return Encoded { bytes: at + bytes, plain_bytes, tried: Tried::Paid };
            }
        }
        room.clear();
        room.push(Compression::None as u8);
        room.extend_from_slice(plain);
        Encoded { bytes: room.len(), plain_bytes, tried }
    }

    fn is_due(&self, space: Object, bytes: usize) -> bool {
        let sample = self.samples.get(&space.id);
        Codecs::has(space.compression)
            && bytes >= TRIED_BYTES_MIN
            && sample.is_none_or(|sample| sample.misses < MISSES_MAX || sample.untried + 1 >= TRY_EVERY)
    }

    /// The value was taken.
    pub fn count(&mut self, space: Object, encoded: Encoded) {
        let Encoded { bytes, plain_bytes, tried } = encoded;
        let sample = self.samples.entry(space.id).or_default();
        match tried {
            // Small ones say nothing of the others.
            Tried::No if plain_bytes < TRIED_BYTES_MIN => {}
            Tried::No => sample.untried += 1,
            Tried::Missed => (sample.misses, sample.untried) = (sample.misses.saturating_add(1), 0),
            Tried::Paid => *sample = Sample::default(),
        }
        self.stats.add(&CompressionStats {
            values: 1,
            plain_bytes: plain_bytes as u64,
            stored_bytes: bytes as u64,
            tried: u64::from(tried != Tried::No),
            compressed: u64::from(tried == Tried::Paid),
        });
    }

    /// Appends the plain form of a stored value to `out`. A length over `value_bytes_max` is refused before any room is
    /// taken for it.
    ///
    /// # Errors
    /// What is wrong with the value.
    pub fn decode(&mut self, stored: &[u8], value_bytes_max: usize, out: &mut Vec<u8>) -> Result<(), String> {
        let wrong = || "no client that compresses wrote it so".to_owned();
        let (form, rest) = stored.split_at_checked(PLAIN_HEADER_BYTES).ok_or_else(wrong)?;
        let compression =
            Compression::from_wire(form[0]).ok_or_else(|| format!("its form {} is not known", form[0]))?;
        if compression == Compression::None {
            out.extend_from_slice(rest);
            return Ok(());
        }
        let (plain_bytes, bytes) = rest.split_first_chunk().ok_or_else(wrong)?;
        let plain_bytes = u32::from_le_bytes(*plain_bytes) as usize;
        if plain_bytes > value_bytes_max {
            return Err(format!("it would have {plain_bytes} B, over the limit of {value_bytes_max} B"));
        }
        if !Codecs::has(compression) {
            return self.codecs.decompress(compression, bytes, &mut []);
        }
        let at = out.len();
        out.resize(at + plain_bytes, 0);
        let result = self.codecs.decompress(compression, bytes, &mut out[at..]);
        if result.is_err() {
            out.truncate(at);
        }
        result
    }

    /// Appends a scan's reply to `out`, its values plain. The pairs that it holds then, and whether some were left out: no
    /// more are added after so many bytes, however far they would grow.
    ///
    /// # Errors
    /// The key whose value is wrong, and why; or a reply that is malformed.
    pub fn decode_pairs(
        &mut self,
        reply: &[u8],
        value_bytes_max: usize,
        out: &mut Vec<u8>,
    ) -> Result<(u64, bool), ClientError> {
        let mut taken = 0;
        for pair in listed(reply) {
            if out.len() > VALUE_BYTES_MAX {
                return Ok((taken, true));
            }
            let Listed { key, version, value: stored, until_ms } = pair?;
            let (header, until) = (out.len(), until_ms.map(u64::to_le_bytes));
            // The key's length, and `PAIR_TIMED` behind it.
            out.extend_from_slice(&low_u32(key.len() as u64 | u64::from(until.is_some()) << 16).to_le_bytes());
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&version.to_le_bytes());
            debug_assert_eq!(out.len() - header, PAIR_HEADER_BYTES);
            out.extend_from_slice(until.as_ref().map_or(&[], |until| until));
            out.extend_from_slice(key);
            let value = out.len();
            let decoded = self.decode(stored, value_bytes_max, out);
            decoded.map_err(|cause| ClientError::bad_value(Some(key), cause))?;
            let value_bytes = low_u32((out.len() - value) as u64);
            out[header + 4..header + 8].copy_from_slice(&value_bytes.to_le_bytes());
            taken += 1;
        }
        Ok((taken, false))
    }
}

#[cfg(test)]
#[path = "compression_tests.rs"]
mod tests;
