//! Producers of a stream: what each appended last, so that a retry appends nothing. A stream remembers so many of them;
//! the one whose last append is the oldest is forgotten.

use std::hash::BuildHasher;

use hashbrown::HashTable;

use crate::bytes::{get_u64, index, len_u32};
use crate::ring::protocol::{PRODUCER_WINDOW, Status};
use crate::store::heap::Heap;
use crate::store::stream::{Stream, Streams, check_batch};
use crate::store::{Context, Mode, Outcome, Reply, Request, Store};
use crate::types::{Durability, Lsn};
use crate::wal::record::{Kind, Record};

const WINDOW: u64 = PRODUCER_WINDOW as u64;
/// What one counts against the memory budget.
const PRODUCER_BYTES: usize = size_of::<Producer>() + 16;
/// No producer comes before the oldest one, and none after the newest.
const NOBODY: u32 = u32::MAX;

/// The key of an `AppendOnce` record: the producer, and its sequence number.
fn key_of(producer: u64, sequence: u64) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&producer.to_le_bytes());
    key[8..].copy_from_slice(&sequence.to_le_bytes());
    key
}

fn of_key(key: &[u8]) -> (u64, u64) {
    (get_u64(key, 0), get_u64(key, 8))
}

/// What a sequence number became. `Lsn::NONE`: it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Appended {
    /// Of the first event.
    offset: u64,
    lsn: Lsn,
}

const UNKNOWN: Appended = Appended { offset: 0, lsn: Lsn::NONE };

struct Producer {
    id: u64,
    /// Its last sequence number.
    last: u64,
    /// The last ones, each at its number modulo `WINDOW`.
    window: [Appended; PRODUCER_WINDOW],
    older: u32,
    newer: u32,
}

impl Producer {
    fn get(&self, sequence: u64) -> Appended {
        if sequence <= self.last && self.last - sequence < WINDOW {
            self.window[index(sequence % WINDOW)]
        } else {
            UNKNOWN
        }
    }

    fn set(&mut self, sequence: u64, appended: Appended) {
        if sequence > self.last {
            (self.last + 1..sequence)
                .take(PRODUCER_WINDOW)
                .for_each(|gone| self.window[index(gone % WINDOW)] = UNKNOWN);
            self.last = sequence;
        }
        if self.last - sequence < WINDOW {
            self.window[index(sequence % WINDOW)] = appended;
        }
    }

    /// Notes an append that is not the newest one for certain. One that was forgotten may have begun with 1 again, and
    /// offsets tell which is which.
    fn recover(&mut self, sequence: u64, appended: Appended) {
        let (newest, before) = (self.last_offset(), self.get(sequence));
        if self.last == 0 || appended.offset > newest {
            if sequence <= self.last {
                (self.last, self.window) = (0, [UNKNOWN; PRODUCER_WINDOW]);
            }
            self.set(sequence, appended);
        } else if sequence <= self.last && (before == UNKNOWN || before.offset <= appended.offset) {
            self.set(sequence, appended);
        }
    }

    /// Where its last append begins.
    fn last_offset(&self) -> u64 {
        self.get(self.last).offset
    }
}

/// What a sequence number is to a stream.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    /// The one that comes next.
    Next,
    /// It was appended.
    Taken(Appended),
    /// Neither: this one comes next, and the last one has this LSN.
    Elsewhere(u64, Lsn),
}

/// The producers that a stream remembers, linked in the order of their last appends.
pub(super) struct Producers {
    slots: Vec<Producer>,
    by_id: HashTable<u32>,
    hasher: foldhash::fast::RandomState,
    oldest: u32,
    newest: u32,
}

impl Producers {
    fn new() -> Producers {
        let (slots, by_id, hasher) = (Vec::new(), HashTable::new(), foldhash::fast::RandomState::default());
        Producers { slots, by_id, hasher, oldest: NOBODY, newest: NOBODY }
    }

    fn find(&self, id: u64) -> Option<u32> {
        self.by_id.find(self.hasher.hash_one(id), |slot| self.slots[*slot as usize].id == id).copied()
    }

    fn place(&self, id: u64, sequence: u64) -> Place {
        let Some(slot) = self.find(id) else {
            return if sequence == 1 { Place::Next } else { Place::Elsewhere(1, Lsn::NONE) };
        };
        let producer = &self.slots[slot as usize];
        let next = producer.last.saturating_add(1);
        match producer.get(sequence) {
            UNKNOWN if sequence == next => Place::Next,
            UNKNOWN => Place::Elsewhere(next, producer.get(producer.last).lsn),
            appended => Place::Taken(appended),
        }
    }

    /// Whether such a producer needs memory.
    fn grows(&self, id: u64, producers_max: usize) -> bool {
        self.slots.len() < producers_max && self.find(id).is_none()
    }

    /// Notes the newest append of all.
    fn note(&mut self, id: u64, sequence: u64, appended: Appended, producers_max: usize) {
        let slot = match self.find(id) {
            Some(slot) => slot,
            None if self.slots.len() < producers_max => self.add(id),
            None => self.replace_oldest(id),
        };
        self.slots[slot as usize].set(sequence, appended);
        self.unlink(slot);
        self.link_newest(slot);
    }

    fn add(&mut self, id: u64) -> u32 {
        let slot = len_u32(self.slots.len());
        self.slots.push(Producer { id, last: 0, window: [UNKNOWN; PRODUCER_WINDOW], older: NOBODY, newer: NOBODY });
        self.insert(slot);
        slot
    }

    fn insert(&mut self, slot: u32) {
        let (slots, hasher) = (&self.slots, &self.hasher);
        let hash = |slot: &u32| hasher.hash_one(slots[*slot as usize].id);
        self.by_id.insert_unique(hash(&slot), slot, hash);
    }

    fn replace_oldest(&mut self, id: u64) -> u32 {
        let slot = self.oldest;
        let hash = self.hasher.hash_one(self.slots[slot as usize].id);
        if let Ok(entry) = self.by_id.find_entry(hash, |found| *found == slot) {
            entry.remove();
        }
        let producer = &mut self.slots[slot as usize];
        (producer.id, producer.last, producer.window) = (id, 0, [UNKNOWN; PRODUCER_WINDOW]);
        self.insert(slot);
        slot
    }

    /// Takes it out of the order, if it is in it.
    fn unlink(&mut self, slot: u32) {
        let Producer { older, newer, .. } = self.slots[slot as usize];
        if older != NOBODY {
            self.slots[older as usize].newer = newer;
        } else if self.oldest == slot {
            self.oldest = newer;
        }
        if newer != NOBODY {
            self.slots[newer as usize].older = older;
        } else if self.newest == slot {
            self.newest = older;
        }
    }

    fn link_newest(&mut self, slot: u32) {
        let before = std::mem::replace(&mut self.newest, slot);
        (self.slots[slot as usize].older, self.slots[slot as usize].newer) = (before, NOBODY);
        if before == NOBODY {
            self.oldest = slot;
        } else {
            self.slots[before as usize].newer = slot;
        }
    }

    /// Notes a recovered append; they come in any order.
    fn replay(&mut self, heap: &mut Heap, record: &Record<'_>, producers_max: usize) -> Result<(), Status> {
        let (id, sequence) = of_key(record.key);
        let slot = match self.find(id) {
            Some(slot) => slot,
            None => {
                if self.slots.len() >= 2 * producers_max {
                    self.keep_last(heap, producers_max);
                }
                if !heap.charge(PRODUCER_BYTES) {
                    return Err(Status::NoMemory);
                }
                self.add(id)
            }
        };
        self.slots[slot as usize].recover(sequence, Appended { offset: record.version, lsn: record.lsn });
        Ok(())
    }

    /// Forgets all but the last ones, by the offsets of their last appends, and puts those in order.
    pub fn keep_last(&mut self, heap: &mut Heap, producers_max: usize) {
        let gone = self.slots.len().saturating_sub(producers_max);
        heap.refund(gone * PRODUCER_BYTES);
        self.slots.sort_by_key(Producer::last_offset);
        self.slots.drain(..gone);
        self.by_id.clear();
        (self.oldest, self.newest) = (NOBODY, NOBODY);
        for slot in 0..len_u32(self.slots.len()) {
            self.insert(slot);
            self.link_newest(slot);
        }
    }
}

impl Stream {
    /// What the producer in a slot appended after sequence number `said`, or another one behind it: the key of its record,
    /// the offset, and the LSN. Both move there.
    pub fn appended_once(&self, slot: &mut u64, said: &mut u64) -> Option<([u8; 16], u64, Lsn)> {
        let slots = &self.producers.as_ref()?.slots;
        loop {
            let producer = slots.get(index(*slot))?;
            // It may have gone on since the last look.
            let window = (producer.last.saturating_sub(WINDOW) + 1).max(*said + 1)..=producer.last;
            let known = |sequence: &u64| producer.get(*sequence).lsn != Lsn::NONE;
            let Some(sequence) = window.into_iter().find(known) else {
                (*slot, *said) = (*slot + 1, 0);
                continue;
            };
            *said = sequence;
            let Appended { offset, lsn } = producer.get(sequence);
            return Some((key_of(producer.id, sequence), offset, lsn));
        }
    }

    fn producers(&mut self) -> &mut Producers {
        self.producers.get_or_insert_with(|| Box::new(Producers::new()))
    }
}

impl Streams {
    /// Takes what a recovered record says of its producer.
    pub fn replay_producer(
        &mut self,
        heap: &mut Heap,
        record: &Record<'_>,
        producers_max: usize,
    ) -> Result<(), Status> {
        self.stream(record.object).producers().replay(heap, record, producers_max)
    }

    /// Whether a record says what its producer did in one of its last appends, and the log does not say it at `end_lsn`
    /// or behind.
    pub fn remembers(&self, record: &Record<'_>, end_lsn: Lsn) -> bool {
        let (id, sequence) = of_key(record.key);
        let stream = self.streams.get(record.object.index());
        stream.and_then(|stream| stream.producers.as_deref()).is_some_and(|producers| {
            let found = producers.find(id).map(|slot| producers.slots[slot as usize].get(sequence));
            found.is_some_and(|found| found != UNKNOWN && found.offset == record.version && found.lsn < end_lsn)
        })
    }
}

impl Store {
    /// Appends a batch unless its producer did so before. It is always logged.
    #[inline(never)]
    pub(in crate::store) fn append_once<R: Reply>(
        &mut self,
        context: &mut Context<'_>,
        request: &Request<'_>,
        mode: Mode,
        chained: bool,
        reply: &mut R,
    ) -> Outcome {
        let (producer, sequence) = (request.submission.arg0, request.submission.arg1);
        let mode = Mode { logged: true, ..mode };
        if sequence == 0 {
            return Outcome::status(Status::BadRequest);
        }
        if request.value.len() > self.limits.value_bytes_max {
            return Outcome::status(Status::TooLarge);
        }
        if let Err(status) = check_batch(request.value) {
            return Outcome::status(status);
        }
        let producers_max = self.limits.producers_max;
        let producers = self.streams.stream(mode.object).producers();
        match producers.place(producer, sequence) {
            Place::Next => {}
            Place::Taken(Appended { offset, lsn }) => {
                let outcome = already(context, mode, offset, lsn);
                return self.tell_head(outcome, context, request, mode, reply);
            }
            Place::Elsewhere(next, lsn) => {
                return Outcome::version(Status::OutOfSequence, next, mode.visible_after(context.wal, lsn));
            }
        }
        let grows = producers.grows(producer, producers_max);
        if grows && !self.heap.charge(PRODUCER_BYTES) {
            return self.no_memory(context.wal, Status::NoMemory);
        }
        let key = key_of(producer, sequence);
        let outcome = if chained {
            self.append_linked(context, Kind::AppendOnce, &key, request.value, mode, reply)
        } else {
            self.append_events(context, Kind::AppendOnce, &key, request.value, mode)
        };
        match outcome {
            Outcome::Answer { completion, .. } if completion.status == Status::Ok as u16 => {
                let appended = Appended { offset: completion.version, lsn: Lsn(completion.lsn) };
                let producers = self.streams.stream(mode.object).producers();
                producers.note(producer, sequence, appended, producers_max);
            }
            _ if grows => self.heap.refund(PRODUCER_BYTES),
            _ => {}
        }
        outcome
    }
}

/// The answer to what was appended before: the same, with the same promise.
fn already(context: &mut Context<'_>, mode: Mode, offset: u64, lsn: Lsn) -> Outcome {
    let durable = lsn <= context.wal.durable_lsn();
    if !durable && context.wal.fenced().is_some() {
        return Outcome::status(Status::Fenced);
    }
    let strict = mode.durability == Durability::Strict && !durable;
    let mut outcome = Outcome::version(Status::Ok, offset, if strict { lsn } else { Lsn::NONE });
    if strict {
        context.wal.want_durable();
    }
    if let Outcome::Answer { completion, .. } = &mut outcome {
        completion.lsn = lsn.0;
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ObjectId;

    fn appended(offset: u64) -> Appended {
        Appended { offset, lsn: Lsn(offset + 1) }
    }

    #[test]
    fn the_last_numbers_are_known_and_the_next_one_is_free() {
        let mut producers = Producers::new();
        assert_eq!(producers.place(7, 1), Place::Next);
        assert_eq!(producers.place(7, 2), Place::Elsewhere(1, Lsn::NONE));
        for sequence in 1..=20 {
            assert_eq!(producers.place(7, sequence), Place::Next);
            producers.note(7, sequence, appended(sequence * 10), 4);
        }
        for sequence in 1..=12 {
            assert_eq!(producers.place(7, sequence), Place::Elsewhere(21, Lsn(201)));
        }
        for sequence in 13..=20 {
            assert_eq!(producers.place(7, sequence), Place::Taken(appended(sequence * 10)));
        }
        assert_eq!(producers.place(7, 22), Place::Elsewhere(21, Lsn(201)));
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut producers = Producers::new();
        (1..=4).for_each(|id| producers.note(id, 1, appended(id), 4));
        producers.note(1, 2, appended(5), 4);
        producers.note(9, 1, appended(6), 4);
        let known = |producers: &Producers, id| producers.place(id, 1) != Place::Next;
        assert_eq!([1, 2, 3, 4, 9].map(|id| known(&producers, id)), [true, false, true, true, true]);
        producers.note(2, 1, appended(7), 4);
        assert_eq!([1, 2, 3, 4, 9].map(|id| known(&producers, id)), [true, true, false, true, true]);
    }

    #[test]
    fn a_recovery_remembers_the_same_ones_in_any_order() {
        let mut heap = Heap::new(1 << 20);
        let (mut live, mut recovered) = (Producers::new(), Producers::new());
        let (mut last, mut records) = ([0; 30], Vec::new());
        for offset in 0..300_u64 {
            let id = offset * offset % 29;
            last[index(id)] = if live.find(id).is_some() { last[index(id)] + 1 } else { 1 };
            live.note(id, last[index(id)], appended(offset), 4);
            records.push((offset, key_of(id, last[index(id)])));
        }
        // A copy of what is old stands behind what is new.
        records[200..].reverse();
        for (offset, key) in &records[200..] {
            let (kind, object) = (Kind::AppendOnce, ObjectId(1));
            let lsn = Lsn(*offset + 1);
            let record = Record { kind, flags: 0, lsn, object, version: *offset, key, value: &[] };
            recovered.replay(&mut heap, &record, 4).unwrap();
        }
        recovered.keep_last(&mut heap, 4);
        assert_eq!(heap.used_bytes(), 4 * PRODUCER_BYTES as u64);
        for id in 0..30 {
            assert_eq!(live.place(id, last[index(id)]), recovered.place(id, last[index(id)]), "producer {id}");
        }
        live.note(99, 1, appended(300), 4);
        recovered.note(99, 1, appended(300), 4);
        for id in 0..30 {
            assert_eq!(live.find(id).is_some(), recovered.find(id).is_some(), "producer {id}");
        }
    }
}
