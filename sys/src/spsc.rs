//! A single-producer, single-consumer ring in shared memory, whose peer may lie.
//!
//! An entry is one cache line: seven message words, and a sequence word that says whose turn it is. The producer
//! stores the sequence last (release); the consumer polls the entry itself (acquire), so that one cache line carries
//! one message. Positions are monotonic u64. Only the consumer's position stands in shared memory, on a line that the
//! producer reads when its remembered view of it says that the ring is full.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::shm::{LINE_BYTES, LINE_WORDS, OutOfRange, SharedMap};

/// Words of an entry that carry the message.
pub const MESSAGE_WORDS: usize = LINE_WORDS - 1;

/// The consumer's published position went backwards or beyond the producer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHead;

/// The entry that is due carries neither its own sequence number nor that of the lap before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSequence;

/// Where a ring lies in its mapping. All rings of a new mapping are empty: zeros.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    /// Of the first entry, a multiple of 64.
    pub entries_offset: usize,
    /// A power of two.
    pub entries: u32,
    /// Of the consumer's published position, a multiple of 8.
    pub head_offset: usize,
}

impl Placement {
    /// Checks everything once, so that no later access can fail.
    fn check(&self, map: &SharedMap) -> Result<u64, OutOfRange> {
        let bytes = (self.entries as usize).checked_mul(LINE_BYTES).ok_or(OutOfRange)?;
        let end = self.entries_offset.checked_add(bytes).ok_or(OutOfRange)?;
        if !self.entries.is_power_of_two() || end > map.len() {
            return Err(OutOfRange);
        }
        map.line(self.entries_offset)?;
        map.atomic_u64(self.head_offset)?;
        Ok(u64::from(self.entries))
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "masked to less than 2^32 entries")]
    fn entry_offset(&self, position: u64) -> usize {
        self.entries_offset + (position & (u64::from(self.entries) - 1)) as usize * LINE_BYTES
    }
}

const CHECKED: &str = "the placement was checked when the ring was made";

/// The writing end. One thread.
#[derive(Debug)]
pub struct Producer {
    map: Arc<SharedMap>,
    at: Placement,
    entries: u64,
    tail: u64,
    /// The consumer's position as last read, and believed.
    head: u64,
}

impl Producer {
    /// # Errors
    /// `OutOfRange` when the ring does not lie inside the mapping, or is not aligned.
    pub fn new(map: Arc<SharedMap>, at: Placement) -> Result<Producer, OutOfRange> {
        let entries = at.check(&map)?;
        Ok(Producer { map, at, entries, tail: 0, head: 0 })
    }

    /// Free entries. Reads the consumer's line only if fewer than `wanted` are known to be free.
    ///
    /// # Errors
    /// `BadHead`: the consumer is broken. The ring stays usable.
    #[inline]
    pub fn free(&mut self, wanted: u64) -> Result<u64, BadHead> {
        if self.entries - (self.tail - self.head) < wanted {
            let head = self.map.atomic_u64(self.at.head_offset).expect(CHECKED).load(Ordering::Acquire);
            if head < self.head || head > self.tail {
                return Err(BadHead);
            }
            self.head = head;
        }
        Ok(self.entries - (self.tail - self.head))
    }

    /// Publishes a message; false when the ring is full.
    ///
    /// # Errors
    /// `BadHead`: the consumer is broken.
    #[inline(always)]
    pub fn push(&mut self, message: &[u64; MESSAGE_WORDS]) -> Result<bool, BadHead> {
        if self.free(1)? == 0 {
            return Ok(false);
        }
        let line = self.map.line(self.at.entry_offset(self.tail)).expect(CHECKED);
        for (to, from) in line.iter().zip(message) {
            to.store(*from, Ordering::Relaxed);
        }
        self.tail += 1;
        line[MESSAGE_WORDS].store(self.tail, Ordering::Release);
        Ok(true)
    }

    /// Entries of the ring.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Messages published so far.
    #[must_use]
    pub fn tail(&self) -> u64 {
        self.tail
    }
}

/// The reading end. One thread.
#[derive(Debug)]
pub struct Consumer {
    map: Arc<SharedMap>,
    at: Placement,
    entries: u64,
    head: u64,
    published: u64,
}

impl Consumer {
    /// # Errors
    /// `OutOfRange` when the ring does not lie inside the mapping, or is not aligned.
    pub fn new(map: Arc<SharedMap>, at: Placement) -> Result<Consumer, OutOfRange> {
        let entries = at.check(&map)?;
        Ok(Consumer { map, at, entries, head: 0, published: 0 })
    }

    /// A copy of the message that is due, left in the ring. Two peeks may differ if the producer is hostile: use one.
    ///
    /// # Errors
    /// `BadSequence`: the producer is broken.
    #[inline]
    pub fn peek(&self) -> Result<Option<[u64; MESSAGE_WORDS]>, BadSequence> {
        let line = self.map.line(self.at.entry_offset(self.head)).expect(CHECKED);
        let ready = self.head + 1;
        let sequence = line[MESSAGE_WORDS].load(Ordering::Acquire);
        if sequence == ready {
            return Ok(Some(std::array::from_fn(|word| line[word].load(Ordering::Relaxed))));
        }
        // The lap before; in the first lap that is the zero of a new mapping.
        if sequence == ready.saturating_sub(self.entries) { Ok(None) } else { Err(BadSequence) }
    }

    /// A word of the message so many places behind the one that is due, as it stands: not all of it may be there yet. A hint.
    #[inline]
    #[must_use]
    pub fn glance(&self, places: u64, word: usize) -> u64 {
        let line = self.map.line(self.at.entry_offset(self.head + places)).expect(CHECKED);
        line[word].load(Ordering::Relaxed)
    }

    /// Steps over the message that `peek` showed. The producer learns of it by `publish`.
    #[inline]
    pub fn advance(&mut self) {
        self.head += 1;
    }

    /// `peek` and `advance`.
    ///
    /// # Errors
    /// `BadSequence`: the producer is broken.
    #[inline]
    pub fn pop(&mut self) -> Result<Option<[u64; MESSAGE_WORDS]>, BadSequence> {
        let message = self.peek()?;
        if message.is_some() {
            self.advance();
        }
        Ok(message)
    }

    /// Gives the entries consumed so far back to the producer. Once a batch: it takes the line away from the producer.
    #[inline]
    pub fn publish(&mut self) {
        if self.published != self.head {
            self.map.atomic_u64(self.at.head_offset).expect(CHECKED).store(self.head, Ordering::Release);
            self.published = self.head;
        }
    }

    /// Messages consumed so far.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Placement = Placement { entries_offset: 64, entries: 4, head_offset: 0 };

    fn pair() -> (Arc<SharedMap>, Producer, Consumer) {
        let map = Arc::new(SharedMap::anonymous(4096).unwrap());
        (map.clone(), Producer::new(map.clone(), AT).unwrap(), Consumer::new(map, AT).unwrap())
    }

    fn sequence_of(map: &SharedMap, entry: usize) -> &std::sync::atomic::AtomicU64 {
        &map.line(64 + entry * 64).unwrap()[7]
    }

    #[test]
    fn messages_arrive_in_order_over_many_laps() {
        let (_, mut producer, mut consumer) = pair();
        let mut sent = 0u64;
        let mut received = 0u64;
        for round in 0..1_000 {
            for _ in 0..=round % 4 {
                assert!(producer.push(&[sent; 7]).unwrap());
                sent += 1;
            }
            while let Some(message) = consumer.pop().unwrap() {
                assert_eq!(message, [received; 7]);
                received += 1;
            }
            consumer.publish();
        }
        assert_eq!(sent, received);
    }

    #[test]
    fn a_full_ring_waits_for_the_published_head() {
        let (_, mut producer, mut consumer) = pair();
        for _ in 0..4 {
            assert!(producer.push(&[1; 7]).unwrap());
        }
        assert!(!producer.push(&[1; 7]).unwrap());
        consumer.pop().unwrap().unwrap();
        assert!(!producer.push(&[1; 7]).unwrap(), "consumed but not published");
        consumer.publish();
        assert_eq!(producer.free(1), Ok(1));
        assert!(producer.push(&[1; 7]).unwrap());
    }

    #[test]
    fn peek_leaves_the_message() {
        let (_, mut producer, mut consumer) = pair();
        producer.push(&[7; 7]).unwrap();
        assert_eq!(consumer.peek(), Ok(Some([7; 7])));
        assert_eq!(consumer.peek(), Ok(Some([7; 7])));
        consumer.advance();
        assert_eq!(consumer.peek(), Ok(None));
    }

    #[test]
    fn only_two_sequence_numbers_are_legal() {
        let (map, mut producer, mut consumer) = pair();
        for bad in [2, 5, u64::MAX, 1 << 63] {
            sequence_of(&map, 0).store(bad, Ordering::Relaxed);
            assert_eq!(consumer.peek(), Err(BadSequence), "first lap, {bad}");
        }
        sequence_of(&map, 0).store(0, Ordering::Relaxed);
        for _ in 0..4 {
            producer.push(&[0; 7]).unwrap();
            consumer.pop().unwrap().unwrap();
        }
        assert_eq!(consumer.peek(), Ok(None));
        for bad in [0, 2, 4, 6, 9] {
            sequence_of(&map, 0).store(bad, Ordering::Relaxed);
            assert_eq!(consumer.peek(), Err(BadSequence), "second lap, {bad}");
        }
        sequence_of(&map, 0).store(5, Ordering::Relaxed);
        assert!(consumer.peek().unwrap().is_some());
    }

    #[test]
    fn a_head_that_jumps_is_an_error() {
        let (map, mut producer, _) = pair();
        let head = map.atomic_u64(0).unwrap();
        for _ in 0..4 {
            producer.push(&[0; 7]).unwrap();
        }
        for bad in [5, u64::MAX] {
            head.store(bad, Ordering::Relaxed);
            assert_eq!(producer.push(&[0; 7]), Err(BadHead));
        }
        head.store(3, Ordering::Relaxed);
        assert_eq!(producer.free(4), Ok(3));
        head.store(2, Ordering::Relaxed);
        assert_eq!(producer.free(4), Err(BadHead), "backwards");
    }

    #[test]
    fn a_ring_outside_of_its_mapping_is_refused() {
        let map = Arc::new(SharedMap::anonymous(4096).unwrap());
        let refused =
            |at: Placement| Producer::new(map.clone(), at).is_err() && Consumer::new(map.clone(), at).is_err();
        assert!(refused(Placement { entries: 64, ..AT }));
        assert!(refused(Placement { entries: 3, ..AT }));
        assert!(refused(Placement { entries: 0, ..AT }));
        assert!(refused(Placement { entries_offset: 32, ..AT }));
        assert!(refused(Placement { entries_offset: usize::MAX - 63, ..AT }));
        assert!(refused(Placement { head_offset: 4, ..AT }));
        assert!(refused(Placement { head_offset: 4096, ..AT }));
    }

    #[test]
    fn two_threads_lose_nothing() {
        let (_, mut producer, mut consumer) = pair();
        const COUNT: u64 = 20_000;
        let writer = std::thread::spawn(move || {
            for value in 0..COUNT {
                while !producer
                    .push(&[value, value ^ 1, value ^ 2, value ^ 3, value ^ 4, value ^ 5, value ^ 6])
                    .unwrap()
                {
                    std::thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < COUNT {
            match consumer.pop().unwrap() {
                Some(message) => {
                    assert!(message.iter().zip(0..).all(|(word, at)| *word == expected ^ at), "{message:?}");
                    expected += 1;
                }
                None => {
                    consumer.publish();
                    std::thread::yield_now();
                }
            }
        }
        writer.join().unwrap();
    }
}
