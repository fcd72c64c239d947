//! A segment read back record by record, to give it up. Takes the bytes as the device brings them; does no I/O itself.

use crate::bytes::index;
use crate::types::Lsn;
use crate::wal::frame::{self, Header, Invalid};
use crate::wal::layout::BLOCK_BYTES;
use crate::wal::record::{self, FLAG_CONTINUED, FLAG_MORE, FLAGS_WHOLE, Record};
use crate::wal::recovery::Break;
use crate::wal::{Identity, Link, segment};

/// What comes next in a segment.
#[derive(Debug)]
pub enum Next<'a> {
    /// A whole record. It stays the next one until `advance`.
    Record(Record<'a>),
    /// More has to be read first: see `wanted`.
    Wait,
    /// Every record was handed out.
    End,
    /// What the log holds can be read no more.
    Damaged(Break),
}

/// The record at hand, without its bytes.
#[derive(Clone, Copy)]
struct Current {
    head: Record<'static>,
    key_bytes: usize,
    value_bytes: usize,
    /// Bytes of the frame that it takes; of a large one, those of its last part.
    taken: usize,
    large: bool,
}

/// Where the reading of one segment stands.
pub struct Reread {
    identity: Identity,
    seed: u32,
    link: Link,
    /// The LSN after the segment's last record.
    end_lsn: Lsn,
    loaded: Vec<u8>,
    /// Offset of `loaded` in the segment.
    loaded_at: usize,
    /// The next record, or frame, in `loaded`.
    at: usize,
    /// Where the present frame's records end, and the frame, in `loaded`.
    records_end: usize,
    frame_end: usize,
    records_left: u32,
    next_lsn: Lsn,
    previous_crc: Option<u32>,
    epoch: u64,
    /// What stands where the log does not go on.
    gap: Option<Break>,
    /// Bytes that must be loaded from `at` on before anything comes next.
    needed: usize,
    current: Option<Current>,
    key: Vec<u8>,
    value: Vec<u8>,
    /// A large record has begun and not ended.
    is_open: bool,
}

impl Reread {
    /// Reads a closed segment whose records end before `end_lsn`. `loaded` is memory to use again.
    #[must_use]
    pub fn new(identity: Identity, link: Link, end_lsn: Lsn, mut loaded: Vec<u8>) -> Reread {
        loaded.clear();
        Reread {
            identity,
            seed: record::crc_seed(&identity.namespace, identity.shard),
            link,
            end_lsn,
            loaded,
            loaded_at: segment::HEADER_BYTES,
            at: 0,
            records_end: 0,
            frame_end: 0,
            records_left: 0,
            next_lsn: link.first_lsn,
            previous_crc: None,
            epoch: 0,
            gap: None,
            needed: BLOCK_BYTES,
            current: None,
            key: Vec::new(),
            value: Vec::new(),
            is_open: false,
        }
    }

    #[must_use]
    pub fn link(&self) -> Link {
        self.link
    }

    #[must_use]
    pub fn end_lsn(&self) -> Lsn {
        self.end_lsn
    }

    /// Its memory, for the next one.
    #[must_use]
    pub fn into_loaded(self) -> Vec<u8> {
        self.loaded
    }

    /// The offset in the segment, and the bytes, of the next read: at most `bytes_max`, ahead of what is looked at.
    #[must_use]
    pub fn wanted(&self, bytes_max: usize) -> Option<(usize, usize)> {
        let offset = self.loaded_at + self.loaded.len();
        let ahead = self.loaded.len() - self.at;
        let bytes = bytes_max.min(index(self.identity.layout.segment_bytes) - offset);
        let wanted = self.next_lsn < self.end_lsn && bytes > 0 && ahead < self.needed.max(bytes_max);
        wanted.then_some((offset, bytes))
    }

    /// Takes what was read from the offset that `wanted` named.
    pub fn load(&mut self, bytes: &[u8]) {
        self.loaded.drain(..self.at);
        self.loaded_at += self.at;
        self.records_end = self.records_end.saturating_sub(self.at);
        self.frame_end = self.frame_end.saturating_sub(self.at);
        self.at = 0;
        self.loaded.extend_from_slice(bytes);
    }

    /// The next whole record of the segment.
    pub fn peek(&mut self) -> Next<'_> {
        while self.current.is_none() {
            if self.records_left > 0 {
                if let Err(found) = self.take_record() {
                    return Next::Damaged(found);
                }
                continue;
            }
            if self.next_lsn >= self.end_lsn {
                // A large record is never torn over two segments.
                let bad = Break::BadRecord { lsn: self.next_lsn };
                return if self.is_open { Next::Damaged(bad) } else { Next::End };
            }
            match self.enter_frame() {
                Ok(true) => {}
                Ok(false) => return Next::Wait,
                // A watermark that is gone leaves a gap without records. Recovery passes over it too.
                Err(found) if self.has_more_blocks() => {
                    self.gap.get_or_insert(found);
                    (self.previous_crc, self.at) = (None, self.at + BLOCK_BYTES);
                }
                Err(found) => return Next::Damaged(self.gap.unwrap_or(found)),
            }
        }
        match &self.current {
            Some(current) if current.large => {
                Next::Record(Record { key: &self.key, value: &self.value, ..current.head })
            }
            Some(current) => {
                let (key, rest) = self.loaded[self.at + record::HEADER_BYTES..].split_at(current.key_bytes);
                Next::Record(Record { key, value: &rest[..current.value_bytes], ..current.head })
            }
            None => Next::Wait,
        }
    }

    /// Goes on behind the record that `peek` gave.
    pub fn advance(&mut self) {
        if let Some(current) = self.current.take() {
            self.at += current.taken;
            self.after_part();
        }
    }

    fn has_more_blocks(&self) -> bool {
        self.loaded_at + self.at + 2 * BLOCK_BYTES <= index(self.identity.layout.segment_bytes)
    }

    fn after_part(&mut self) {
        self.records_left -= 1;
        self.next_lsn = self.next_lsn.next();
        if self.records_left == 0 {
            self.at = self.frame_end;
        }
    }

    /// Enters the frame that stands at `at`. `false`: it is not loaded.
    fn enter_frame(&mut self) -> Result<bool, Break> {
        let offset = self.loaded_at + self.at;
        let bytes_max = index(self.identity.layout.segment_bytes) - offset;
        if bytes_max < BLOCK_BYTES {
            return Err(Break::Invalid(Invalid::NoFrame));
        }
        self.needed = BLOCK_BYTES;
        let ahead = self.loaded.len() - self.at;
        if ahead < BLOCK_BYTES {
            return Ok(false);
        }
        self.needed = frame::claimed_bytes(&self.loaded[self.at..], bytes_max).map_err(Break::Invalid)?;
        if ahead < self.needed {
            return Ok(false);
        }
        let address = self.identity.layout.segment_address(self.link.chained.segment).plus(offset as u64);
        let bytes = &self.loaded[self.at..self.at + self.needed];
        let (header, crc) = frame::parse(bytes, &self.identity.namespace, address).map_err(Break::Invalid)?;
        let Header { first_lsn, epoch, .. } = header;
        let follows = header.shard == self.identity.shard
            && header.segment_sequence == self.link.chained.sequence
            && first_lsn == self.next_lsn
            && epoch >= self.epoch
            && self.previous_crc.is_none_or(|previous| previous == header.previous_crc);
        if !follows {
            return Err(Break::NotNext { first_lsn, epoch });
        }
        (self.previous_crc, self.epoch, self.records_left) = (Some(crc), epoch, header.records);
        self.gap = None;
        self.frame_end = self.at + self.needed;
        self.records_end = self.at + header.used_bytes as usize;
        self.at += if header.records == 0 { self.needed } else { frame::HEADER_BYTES };
        Ok(true)
    }

    /// Takes the record at `at`: a whole one becomes the current one, a part goes to the others.
    fn take_record(&mut self) -> Result<(), Break> {
        let bad = Break::BadRecord { lsn: self.next_lsn };
        let (part, taken) = record::decode(&self.loaded[self.at..self.records_end], self.seed).ok_or(bad)?;
        if part.lsn != self.next_lsn {
            return Err(bad);
        }
        let (more, continued) = (part.flags & FLAG_MORE != 0, part.flags & FLAG_CONTINUED != 0);
        let (key_bytes, value_bytes, large) = (part.key.len(), part.value.len(), more || continued);
        if more && !continued {
            self.key.clear();
            self.value.clear();
            self.key.extend_from_slice(part.key);
        }
        self.is_open = more;
        if large {
            self.value.extend_from_slice(part.value);
        }
        let Record { kind, flags, lsn, object, version, .. } = part;
        let head = Record { kind, flags: flags & FLAGS_WHOLE, lsn, object, version, key: &[], value: &[] };
        if more {
            self.at += taken;
            self.after_part();
        } else {
            self.current = Some(Current { head, key_bytes, value_bytes, taken, large });
        }
        Ok(())
    }
}
