//! A record: one change, verifiable by itself, in a frame and in the flight recorder alike.

use forebay_sys::crc::crc32c_append;

use crate::bytes::{get_u16, get_u32, get_u64, len_u16, len_u32, put_u16, put_u32, put_u64};
use crate::timing::{self, Layer};
use crate::types::{DeviceAddress, Lsn, ObjectId, ShardId};

/// Header of a record; key, value and zeros to the next multiple of 8 follow.
pub const HEADER_BYTES: usize = 32;
pub const CRC: usize = 0; // u32, over all from VALUE_BYTES to the end of the value, seeded by namespace and shard
pub const VALUE_BYTES: usize = 4; // u32, of this part
pub const LSN: usize = 8; // u64
pub const OBJECT: usize = 16; // u32
pub const KEY_BYTES: usize = 20; // u16
pub const KIND: usize = 22; // u8
pub const FLAGS: usize = 23; // u8
pub const VERSION: usize = 24; // u64: a space's version, a stream's first offset, or what the kind says

/// More parts of this record follow, each with the next LSN.
pub const FLAG_MORE: u8 = 1;
/// A part that continues the one before it.
pub const FLAG_CONTINUED: u8 = 2;
/// Says again what a record before it said, whose segment is to be given up.
pub const FLAG_COPY: u8 = 4;
/// A part of a checkpoint: says what others say, and counts for a recovery from there alone.
pub const FLAG_CHECKPOINT: u8 = 8;
/// What is said of the whole record, not of a part.
pub const FLAGS_WHOLE: u8 = FLAG_COPY | FLAG_CHECKPOINT;

/// What a record changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Put = 1,
    Delete = 2,
    /// One event; `version` is its offset.
    Append = 3,
    /// Events, each as u32 bytes and the event; `version` is the first one's offset.
    AppendBatch = 4,
    /// Forget the events below offset `version`.
    Trim = 5,
    /// A space or stream: key is its name, `version` is kind | durability << 8 | compression << 24.
    Create = 6,
    /// All that counts in the shard's segments before number `version` stands behind them too: they are given up.
    Reclaim = 7,
    /// The writes of a transaction, all of this `version`: puts and deletes, as `ring::protocol::commit` lays them out.
    Commit = 8,
    /// The writes of a transaction over several shards, of all of them, in the log of the shard that decided it: from the
    /// moment when this is durable it has taken place. Key: what other shards need no more, see docs/format.md.
    Decision = 9,
    /// As `AppendBatch`, by a producer: key is its number and its sequence number, u64 each. Without events: they are
    /// trimmed, and only the producer's place still counts.
    AppendOnce = 11,
    /// A cursor of a stream: key is its name, `version` its offset; 2^64 - 1: there is none any more.
    Cursor = 12,
    /// A put that holds until a moment: the key ends with that moment, u64 ms since 1970.
    PutUntil = 20,
    /// The moment of the put of this `version` is over: the key is gone, if that is what it holds.
    Expire = 21,
    /// Of a checkpoint: what keys of a space hold, see `checkpoint::keys`.
    Keys = 24,
    /// Of a checkpoint: where events of a stream stand, from offset `version` on, see `checkpoint::events`. Key is u64 the
    /// offset at which the stream begins; of a chained one the head after its last event, and u64 the offset behind that.
    Events = 25,
    /// A checkpoint begins. `version` and the u64 value are those of the last `Reclaim`.
    CheckpointBegin = 26,
    /// A checkpoint is whole: value is u64 the LSN of its `CheckpointBegin` and u64 the epoch of all of it, `version` the segment
    /// in which it begins.
    CheckpointEnd = 27,
    /// How much of a stream is kept: `version` is the most bytes, key the greatest age, u64 ms; 0: no bound.
    Retain = 28,
    /// The events below offset `version` were appended by a moment: key is that, u64 ms since 1970.
    Mark = 29,
}

impl Kind {
    #[must_use]
    pub fn from_wire(value: u8) -> Option<Kind> {
        use Kind::{Append, AppendBatch, AppendOnce, CheckpointBegin, CheckpointEnd, Commit, Create, Cursor, Decision};
        use Kind::{Delete, Events, Expire, Keys, Mark, Put, PutUntil, Reclaim, Retain, Trim};
        let of_keys = [Put, PutUntil, Delete, Expire, Commit, Decision];
        let of_streams = [Append, AppendBatch, AppendOnce, Trim, Cursor, Retain, Mark];
        let of_log = [Create, Reclaim, Keys, Events, CheckpointBegin, CheckpointEnd];
        let mut all = of_keys.into_iter().chain(of_streams).chain(of_log);
        all.find(|kind| *kind as u8 == value)
    }
}

/// A record, or one part of one that is larger than a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    pub kind: Kind,
    pub flags: u8,
    pub lsn: Lsn,
    pub object: ObjectId,
    pub version: u64,
    pub key: &'a [u8],
    pub value: &'a [u8],
}

/// Bytes of the moment that ends the key of a `PutUntil`.
pub const UNTIL_BYTES: usize = 8;

/// Bytes of a key that link a record of a chained stream: the head before its first event, and that after its last.
pub const LINKS_BYTES: usize = 64;

impl<'a> Record<'a> {
    /// Whether it is a part of a checkpoint, between its two ends.
    #[must_use]
    pub fn is_of_checkpoint(&self) -> bool {
        self.flags & FLAG_CHECKPOINT != 0
    }

    /// What a part of a checkpoint says again, as the record that said it: its LSN is the value of the part, beside the key.
    #[must_use]
    pub fn said_again(&self) -> Option<Record<'a>> {
        let (lsn, &[]) = self.value.split_first_chunk::<8>()? else { return None };
        use Kind::{AppendOnce, Commit, Create, Cursor, Mark, Retain};
        let whole = matches!(self.kind, Create | Cursor | AppendOnce | Commit | Retain | Mark);
        let said = Record { flags: 0, lsn: Lsn(u64::from_le_bytes(*lsn)), value: &[], ..*self };
        (whole && self.is_of_checkpoint()).then_some(said)
    }

    /// The heads before and after the events of a linked append.
    #[must_use]
    pub fn links(&self) -> Option<(&'a [u8; 32], &'a [u8; 32])> {
        let appends = matches!(self.kind, Kind::Append | Kind::AppendBatch | Kind::AppendOnce);
        let at = self.key.len().checked_sub(LINKS_BYTES).filter(|_| appends)?;
        let (before, after) = self.key[at..].split_at(32);
        Some((before.try_into().ok()?, after.try_into().ok()?))
    }

    /// A put with its key alone, and the moment until which it holds. Other records as they are.
    #[must_use]
    pub fn split_until(self) -> (Record<'a>, Option<u64>) {
        let at = self.key.len().checked_sub(UNTIL_BYTES).filter(|_| self.kind == Kind::PutUntil);
        let Some(at) = at else { return (self, None) };
        let (key, until) = self.key.split_at(at);
        (Record { kind: Kind::Put, key, ..self }, Some(get_u64(until, 0)))
    }
}

/// The checksum seed that binds a record to its namespace and shard.
#[must_use]
pub fn crc_seed(namespace: &[u8; 16], shard: ShardId) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(namespace), &shard.0.to_le_bytes())
}

/// Bytes that a record with such a key and value takes, padding included.
#[must_use]
pub const fn encoded_bytes(key_bytes: usize, value_bytes: usize) -> usize {
    (HEADER_BYTES + key_bytes + value_bytes).next_multiple_of(8)
}

/// Encodes into the front of `out`, which has room for `encoded_bytes`. Gives the bytes taken.
pub fn encode(out: &mut [u8], seed: u32, record: &Record<'_>) -> usize {
    let end = HEADER_BYTES + record.key.len() + record.value.len();
    let taken = end.next_multiple_of(8);
    put_u32(out, VALUE_BYTES, len_u32(record.value.len()));
    put_u64(out, LSN, record.lsn.0);
    put_u32(out, OBJECT, record.object.0);
    put_u16(out, KEY_BYTES, len_u16(record.key.len()));
    out[KIND] = record.kind as u8;
    out[FLAGS] = record.flags;
    put_u64(out, VERSION, record.version);
    let value_at = HEADER_BYTES + record.key.len();
    out[HEADER_BYTES..value_at].copy_from_slice(record.key);
    out[value_at..end].copy_from_slice(record.value);
    out[end..taken].fill(0);
    let _layer = timing::enter(Layer::Crc);
    let crc = crc32c_append(seed, &out[VALUE_BYTES..end]);
    put_u32(out, CRC, crc);
    taken
}

/// Whether the record at the front of `bytes`, which this shard encoded there, differs from `record` in nothing but its
/// version, `before`, and the bytes of its value.
#[must_use]
pub fn stands(bytes: &[u8], record: &Record<'_>, before: u64) -> bool {
    let Record { kind, flags, lsn, object, key, value, .. } = *record;
    bytes.len() >= encoded_bytes(key.len(), value.len())
        && (bytes[KIND], bytes[FLAGS]) == (kind as u8, flags)
        && (get_u64(bytes, LSN), get_u64(bytes, VERSION)) == (lsn.0, before)
        && get_u32(bytes, OBJECT) == object.0
        && get_u32(bytes, VALUE_BYTES) as usize == value.len()
        && usize::from(get_u16(bytes, KEY_BYTES)) == key.len()
        && bytes[HEADER_BYTES..].starts_with(key)
}

/// The bytes that the record at the front of `bytes` takes, as its header says.
#[must_use]
pub fn claimed_bytes(bytes: &[u8]) -> usize {
    encoded_bytes(usize::from(get_u16(bytes, KEY_BYTES)), get_u32(bytes, VALUE_BYTES) as usize)
}

/// The bytes that the record at the front of `bytes` takes with all of its parts, as their headers say.
#[must_use]
pub fn claimed_whole_bytes(bytes: &[u8]) -> usize {
    let mut taken = 0;
    while bytes.len() >= taken + HEADER_BYTES {
        let part = &bytes[taken..];
        taken += claimed_bytes(part);
        if part[FLAGS] & FLAG_MORE == 0 {
            break;
        }
    }
    taken
}

/// Decodes the record at the front of `bytes`, with the bytes that it takes. `None`: there is no valid record.
#[must_use]
pub fn decode(bytes: &[u8], seed: u32) -> Option<(Record<'_>, usize)> {
    if bytes.len() < HEADER_BYTES {
        return None;
    }
    let key_bytes = usize::from(get_u16(bytes, KEY_BYTES));
    let value_bytes = get_u32(bytes, VALUE_BYTES) as usize;
    let end = HEADER_BYTES + key_bytes + value_bytes;
    let taken = end.next_multiple_of(8);
    if taken > bytes.len() || crc32c_append(seed, &bytes[VALUE_BYTES..end]) != get_u32(bytes, CRC) {
        return None;
    }
    if bytes[FLAGS] & !(FLAG_MORE | FLAG_CONTINUED | FLAGS_WHOLE) != 0
        || bytes[end..taken].iter().any(|byte| *byte != 0)
    {
        return None;
    }
    let record = Record {
        kind: Kind::from_wire(bytes[KIND])?,
        flags: bytes[FLAGS],
        lsn: Lsn(get_u64(bytes, LSN)),
        object: ObjectId(get_u32(bytes, OBJECT)),
        version: get_u64(bytes, VERSION),
        key: &bytes[HEADER_BYTES..HEADER_BYTES + key_bytes],
        value: &bytes[HEADER_BYTES + key_bytes..end],
    };
    Some((record, taken))
}

/// Who takes the whole records of a log, each with the place of its first part; none for one of the flight recorder.
pub type Sink<'a> = dyn FnMut(&Record<'_>, DeviceAddress) + 'a;

/// Puts the parts of a large record together again. A record counts only when all of its parts are there.
#[derive(Default)]
pub struct Assembler {
    /// Where the first part stands.
    place: DeviceAddress,
    key: Vec<u8>,
    value: Vec<u8>,
    open: bool,
}

impl Assembler {
    /// Takes the next part in LSN order, which stands at `place`, and hands the whole record to `sink`, with the place of
    /// its first part, when it is the last one. A part without its beginning, or a beginning without its end, was never
    /// acknowledged and is passed over.
    pub fn push(&mut self, part: &Record<'_>, place: DeviceAddress, sink: &mut Sink<'_>) {
        let (more, continued) = (part.flags & FLAG_MORE != 0, part.flags & FLAG_CONTINUED != 0);
        if !continued {
            self.open = more;
            if !more {
                sink(part, place);
                return;
            }
            self.place = place;
            self.key.clear();
            self.value.clear();
            self.key.extend_from_slice(part.key);
        } else if !self.open {
            return;
        }
        self.value.extend_from_slice(part.value);
        if !more {
            self.open = false;
            let whole = Record { flags: part.flags & FLAGS_WHOLE, key: &self.key, value: &self.value, ..*part };
            sink(&whole, self.place);
        }
    }

    /// Whether a record has begun and not ended.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample<'a>(key: &'a [u8], value: &'a [u8], flags: u8) -> Record<'a> {
        Record { kind: Kind::Put, flags, lsn: Lsn(7), object: ObjectId(3), version: 9, key, value }
    }

    #[test]
    fn a_record_comes_back_as_it_went_in() {
        let record = sample(b"key", b"some value", 0);
        let mut out = vec![0xff; 128];
        let taken = encode(&mut out, 5, &record);
        assert_eq!(taken, encoded_bytes(3, 10));
        assert_eq!(decode(&out, 5), Some((record, taken)));
    }

    #[test]
    fn every_flipped_bit_is_seen() {
        let mut out = vec![0; 64];
        let taken = encode(&mut out, 5, &sample(b"k", b"value", 0));
        for bit in 0..taken * 8 {
            let mut bad = out[..taken].to_vec();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bad, 5), None, "bit {bit}");
        }
    }

    #[test]
    fn another_shard_does_not_decode_it() {
        let mut out = vec![0; 64];
        encode(&mut out, crc_seed(&[1; 16], ShardId(0)), &sample(b"k", b"v", 0));
        assert!(decode(&out, crc_seed(&[1; 16], ShardId(1))).is_none());
        assert!(decode(&out, crc_seed(&[2; 16], ShardId(0))).is_none());
    }

    #[test]
    fn parts_become_one_record_only_when_all_are_there() {
        let mut whole = Vec::new();
        let mut assembler = Assembler::default();
        let mut sink = |record: &Record<'_>, _| whole.push((record.key.to_vec(), record.value.to_vec()));
        assembler.push(&sample(b"k", b"ab", FLAG_MORE), DeviceAddress::NONE, &mut sink);
        assembler.push(&sample(b"", b"cd", FLAG_MORE | FLAG_CONTINUED), DeviceAddress::NONE, &mut sink);
        assembler.push(&sample(b"", b"ef", FLAG_CONTINUED), DeviceAddress::NONE, &mut sink);
        // A beginning that a crash cut off, then a whole one, then an end without a beginning.
        assembler.push(&sample(b"lost", b"xx", FLAG_MORE), DeviceAddress::NONE, &mut sink);
        assembler.push(&sample(b"k2", b"v", 0), DeviceAddress::NONE, &mut sink);
        assembler.push(&sample(b"", b"yy", FLAG_CONTINUED), DeviceAddress::NONE, &mut sink);
        assert_eq!(whole, vec![(b"k".to_vec(), b"abcdef".to_vec()), (b"k2".to_vec(), b"v".to_vec())]);
    }
}
