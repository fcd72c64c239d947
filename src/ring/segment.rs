//! Where everything lies in a session's shared segment. The daemon writes it into the header, the client reads it there.

use std::ops::RangeInclusive;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use forebay_sys::shm::{OutOfRange, SharedMap};
use forebay_sys::spsc::Placement;

use super::protocol::{self, EndReason, segment, to_usize};
use crate::types::Lineage;

const PAGE_BYTES: u64 = 4_096;

/// The numbers that the daemon chooses for a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub reactors: u32,
    /// Entries of each submission ring, a power of two.
    pub sq_entries: u32,
    /// Entries of each completion ring, a power of two; also the most requests outstanding on one reactor.
    pub cq_entries: u32,
    /// A multiple of 4,096.
    pub arena_bytes: u64,
    pub shards: u32,
    pub key_bytes_max: u32,
    pub value_bytes_max: u32,
    /// Of the appliance.
    pub lineage: Lineage,
}

impl Shape {
    /// Says which number is out of its bounds.
    ///
    /// # Errors
    /// One sentence.
    pub fn check(&self) -> Result<(), String> {
        const ENTRIES: RangeInclusive<u32> = protocol::RING_ENTRIES_MIN..=protocol::RING_ENTRIES_MAX;
        for (name, entries) in [("sq_entries", self.sq_entries), ("cq_entries", self.cq_entries)] {
            if !entries.is_power_of_two() || !ENTRIES.contains(&entries) {
                return Err(format!("{name} is {entries}; it must be a power of two in {ENTRIES:?}"));
            }
        }
        if !(1..=protocol::REACTORS_MAX).contains(&self.reactors) {
            return Err(format!("reactors is {}; it must be in 1..={}", self.reactors, protocol::REACTORS_MAX));
        }
        if !(1..=protocol::SHARDS_MAX).contains(&self.shards) {
            return Err(format!("shards is {}; it must be in 1..={}", self.shards, protocol::SHARDS_MAX));
        }
        if self.arena_bytes == 0 || !self.arena_bytes.is_multiple_of(PAGE_BYTES) || self.arena_bytes > 1 << 46 {
            return Err(format!("arena_bytes is {}; it must be a multiple of {PAGE_BYTES}", self.arena_bytes));
        }
        Ok(())
    }
}

/// A shape and the offsets that follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub shape: Shape,
    rings_offset: usize,
    ring_stride: usize,
    arena_offset: usize,
}

impl Layout {
    /// # Errors
    /// One sentence, when a number of the shape is out of its bounds.
    pub fn new(shape: Shape) -> Result<Layout, String> {
        shape.check()?;
        let rings_offset = segment::HEADER_BYTES;
        let ring_stride = segment::ring_block_bytes(shape.sq_entries, shape.cq_entries);
        let arena_offset = rings_offset + ring_stride * shape.reactors as usize;
        Ok(Layout { shape, rings_offset, ring_stride, arena_offset })
    }

    /// Bytes of the whole segment.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.arena_offset + to_usize(self.shape.arena_bytes)
    }

    #[must_use]
    pub fn arena_offset(&self) -> usize {
        self.arena_offset
    }

    #[must_use]
    pub fn submissions(&self, reactor: u32) -> Placement {
        let block = self.block(reactor);
        Placement {
            entries_offset: block + segment::SQ_ENTRIES_OFFSET,
            entries: self.shape.sq_entries,
            head_offset: block + segment::SQ_HEAD,
        }
    }

    #[must_use]
    pub fn completions(&self, reactor: u32) -> Placement {
        let block = self.block(reactor);
        Placement {
            entries_offset: block + segment::cq_entries_offset(self.shape.sq_entries),
            entries: self.shape.cq_entries,
            head_offset: block + segment::CQ_HEAD,
        }
    }

    #[must_use]
    pub fn server_need_wakeup(&self, reactor: u32) -> usize {
        self.block(reactor) + segment::SERVER_NEED_WAKEUP
    }

    #[must_use]
    pub fn client_need_wakeup(&self, reactor: u32) -> usize {
        self.block(reactor) + segment::CLIENT_NEED_WAKEUP
    }

    fn block(&self, reactor: u32) -> usize {
        self.rings_offset + self.ring_stride * reactor as usize
    }

    /// Writes the header. The magic comes last.
    ///
    /// # Errors
    /// `OutOfRange` when the map is smaller than the layout.
    pub fn write_to(&self, map: &SharedMap) -> Result<(), OutOfRange> {
        let Shape { reactors, sq_entries, cq_entries, arena_bytes, shards, key_bytes_max, value_bytes_max, lineage } =
            self.shape;
        map.write(segment::NAMESPACE, &lineage.namespace)?;
        for (offset, value) in [
            (segment::VERSION, protocol::VERSION),
            (segment::REACTORS, reactors),
            (segment::SQ_ENTRIES, sq_entries),
            (segment::CQ_ENTRIES, cq_entries),
            (segment::SHARDS, shards),
            (segment::KEY_BYTES_MAX, key_bytes_max),
            (segment::VALUE_BYTES_MAX, value_bytes_max),
            (segment::CUTS, lineage.cuts),
        ] {
            map.atomic_u32(offset)?.store(value, Relaxed);
        }
        for (offset, value) in [
            (segment::RINGS_OFFSET, self.rings_offset as u64),
            (segment::RING_STRIDE, self.ring_stride as u64),
            (segment::ARENA_OFFSET, self.arena_offset as u64),
            (segment::ARENA_BYTES, arena_bytes),
        ] {
            map.atomic_u64(offset)?.store(value, Relaxed);
        }
        map.atomic_u64(segment::MAGIC)?.store(protocol::MAGIC, Release);
        Ok(())
    }

    /// Reads the header and holds it against the size of the map.
    ///
    /// # Errors
    /// One sentence that says what does not fit.
    pub fn read_from(map: &SharedMap) -> Result<Layout, String> {
        let word = |offset| map.atomic_u64(offset).map(|at| at.load(Acquire)).map_err(|error| error.to_string());
        let half = |offset| map.atomic_u32(offset).map(|at| at.load(Relaxed)).map_err(|error| error.to_string());
        if word(segment::MAGIC)? != protocol::MAGIC {
            return Err("the segment's magic is not FBRING01".into());
        }
        let version = half(segment::VERSION)?;
        if version != protocol::VERSION {
            return Err(format!("the segment has layout version {version}, not {}", protocol::VERSION));
        }
        let mut namespace = [0; 16];
        map.read(segment::NAMESPACE, &mut namespace).map_err(|error| error.to_string())?;
        let shape = Shape {
            reactors: half(segment::REACTORS)?,
            sq_entries: half(segment::SQ_ENTRIES)?,
            cq_entries: half(segment::CQ_ENTRIES)?,
            arena_bytes: word(segment::ARENA_BYTES)?,
            shards: half(segment::SHARDS)?,
            key_bytes_max: half(segment::KEY_BYTES_MAX)?,
            value_bytes_max: half(segment::VALUE_BYTES_MAX)?,
            lineage: Lineage { namespace, cuts: half(segment::CUTS)? },
        };
        let layout = Layout::new(shape)?;
        let offsets = (word(segment::RINGS_OFFSET)?, word(segment::RING_STRIDE)?, word(segment::ARENA_OFFSET)?);
        if offsets != (layout.rings_offset as u64, layout.ring_stride as u64, layout.arena_offset as u64) {
            return Err(format!("the segment's offsets {offsets:?} do not follow from its sizes"));
        }
        if layout.bytes() != map.len() {
            return Err(format!("the segment has {} B where its header tells of {} B", map.len(), layout.bytes()));
        }
        Ok(layout)
    }
}

/// Why the daemon ended the session, `None` while it lives.
#[must_use]
pub fn end_reason(map: &SharedMap) -> Option<EndReason> {
    EndReason::from_wire(map.atomic_u32(segment::ENDED).ok()?.load(Acquire))
}

/// Lets the client know why its session ended. The first reason stays.
pub fn set_end_reason(map: &SharedMap, reason: EndReason) {
    if let Ok(word) = map.atomic_u32(segment::ENDED) {
        let _ = word.compare_exchange(0, reason as u32, Release, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        reactors: 3,
        sq_entries: 4,
        cq_entries: 8,
        arena_bytes: 8_192,
        shards: 5,
        key_bytes_max: 1_024,
        value_bytes_max: 4_096,
        lineage: Lineage { namespace: [7; 16], cuts: 3 },
    };

    #[test]
    fn the_header_reads_back() {
        let layout = Layout::new(SHAPE).unwrap();
        let map = SharedMap::anonymous(layout.bytes()).unwrap();
        layout.write_to(&map).unwrap();
        assert_eq!(Layout::read_from(&map).unwrap(), layout);
        assert_eq!(end_reason(&map), None);
        set_end_reason(&map, EndReason::BadRange);
        set_end_reason(&map, EndReason::Stopping);
        assert_eq!(end_reason(&map), Some(EndReason::BadRange));
    }

    #[test]
    fn every_field_of_the_header_is_checked() {
        let layout = Layout::new(SHAPE).unwrap();
        let map = SharedMap::anonymous(layout.bytes()).unwrap();
        layout.write_to(&map).unwrap();
        for offset in (0..segment::KEY_BYTES_MAX).step_by(4).filter(|offset| *offset != segment::SHARDS) {
            let word = map.atomic_u32(offset).unwrap();
            let good = word.load(Relaxed);
            for bad in [good ^ 1 << 13, u32::MAX] {
                word.store(bad, Relaxed);
                assert!(Layout::read_from(&map).is_err(), "offset {offset}, value {bad}");
            }
            word.store(good, Relaxed);
        }
        assert!(Layout::read_from(&map).is_ok());
        assert!(Layout::read_from(&SharedMap::anonymous(4_096).unwrap()).is_err());
    }

    #[test]
    fn shapes_out_of_bounds_are_refused() {
        for bad in [
            Shape { reactors: 0, ..SHAPE },
            Shape { reactors: protocol::REACTORS_MAX + 1, ..SHAPE },
            Shape { sq_entries: 3, ..SHAPE },
            Shape { sq_entries: 1, ..SHAPE },
            Shape { cq_entries: 1 << 17, ..SHAPE },
            Shape { arena_bytes: 0, ..SHAPE },
            Shape { arena_bytes: 100, ..SHAPE },
            Shape { arena_bytes: !4_095, ..SHAPE },
            Shape { shards: 0, ..SHAPE },
        ] {
            assert!(Layout::new(bad).is_err(), "{bad:?}");
        }
    }
}
