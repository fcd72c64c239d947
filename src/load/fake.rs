//! A daemon small enough for tests: one reactor, a store in memory, and faults on request. Answers in order.

use crate::ring::client::{Client, ClientError, ConnectOptions};
use crate::ring::protocol::commit::{What, entries};
use crate::ring::protocol::{Completion, Opcode, Status, Submission, flag, shard_of_key};
use crate::ring::segment::Shape;
use crate::ring::server::{ReplyRoom, Rights, SessionId, SessionRing, pair_in_process};
use crate::types::ObjectKind;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SHARDS: u32 = 4;

/// What goes wrong. Counts are of writes, from 1.
#[derive(Clone, Copy, Default)]
pub struct Faults {
    /// Acknowledge this write without doing it.
    pub lose_write: Option<u64>,
    /// Flip a bit of this write's last byte.
    pub damage_write: Option<u64>,
    /// Answer "no space" from this write on.
    pub full_after: Option<u64>,
    /// Drop the session at this write.
    pub die_at: Option<u64>,
    /// Commit without a look at what was read.
    pub blind_commits: bool,
    /// Refuse every commit.
    pub locked: bool,
    /// Sleep before this write.
    pub stall_at: Option<(u64, Duration)>,
}

#[derive(Default)]
struct Store {
    /// Name, kind, durability, compression.
    objects: Vec<(String, u8, u8, u8)>,
    pairs: BTreeMap<(u32, Vec<u8>), (u64, Vec<u8>)>,
    events: BTreeMap<u32, Vec<Vec<u8>>>,
    version: u64,
    writes: u64,
    syncs: u64,
    sessions: u64,
}

#[derive(Clone, Default)]
pub struct Fake {
    store: Arc<Mutex<Store>>,
    pub faults: Faults,
}

impl Fake {
    pub fn with(faults: Faults) -> Fake {
        Fake { faults, ..Fake::default() }
    }

    pub fn writes(&self) -> u64 {
        self.store.lock().unwrap().writes
    }

    pub fn syncs(&self) -> u64 {
        self.store.lock().unwrap().syncs
    }

    /// Forgets the last events of all streams, as an appliance would that loses its tail.
    pub fn lose_tail(&self, count: usize) {
        for events in self.store.lock().unwrap().events.values_mut() {
            events.truncate(events.len().saturating_sub(count));
        }
    }

    pub fn connect(&self, options: &ConnectOptions) -> Result<Client, ClientError> {
        let shape = Shape {
            reactors: 1,
            sq_entries: options.sq_entries,
            cq_entries: options.cq_entries,
            arena_bytes: options.arena_bytes,
            shards: SHARDS,
            key_bytes_max: 1_024,
            value_bytes_max: 1 << 20,
            lineage: crate::types::Lineage::NONE,
        };
        let mut store = self.store.lock().unwrap();
        store.sessions += 1;
        let (parts, rings) = pair_in_process(SessionId(store.sessions), Rights::ReadWrite, shape)?;
        let fake = self.clone();
        std::thread::spawn(move || rings.into_iter().for_each(|ring| fake.serve(ring)));
        Client::from_parts(parts, options.spin)
    }

    /// Until the client has been silent for two seconds.
    fn serve(&self, mut ring: SessionRing) {
        let mut idle = 0;
        while idle < 20_000 {
            match ring.peek() {
                Ok(Some(submission)) => {
                    idle = 0;
                    ring.advance();
                    let mut payload = Vec::new();
                    ring.copy_payload(&submission, &mut payload);
                    match self.answer(&ring, &submission, &payload) {
                        Some(completion) => ring.post(&completion),
                        None => return,
                    }
                }
                Ok(None) => {
                    ring.finish_turn();
                    idle += 1;
                    std::thread::sleep(Duration::from_micros(if idle < 100 { 5 } else { 100 }));
                }
                Err(reason) => return ring.end(reason),
            }
        }
    }

    fn answer(&self, ring: &SessionRing, submission: &Submission, payload: &[u8]) -> Option<Completion> {
        let (key, value) = payload.split_at(usize::from(submission.key_bytes));
        let mut done = Completion { user_data: submission.user_data, ..Completion::default() };
        let opcode = Opcode::from_wire(submission.opcode).unwrap();
        if let (Opcode::Put | Opcode::Append, Some((write, stall))) = (opcode, self.faults.stall_at) {
            let due = self.store.lock().unwrap().writes + 1 == write;
            std::thread::sleep(if due { stall } else { Duration::ZERO });
        }
        let mut store = self.store.lock().unwrap();
        match opcode {
            Opcode::Open => store.open(submission, key, &mut done),
            Opcode::Put | Opcode::Append => return self.write(&mut store, submission, key, value, done),
            Opcode::Commit => return self.commit(&mut store, payload, done),
            Opcode::Get => match store.pairs.get(&(submission.object, key.to_vec())) {
                Some((version, value)) => {
                    done.version = *version;
                    reply(ring, submission, value, &mut done);
                }
                None => done.status = Status::NotFound as u16,
            },
            Opcode::Read => store.read(ring, submission, &mut done),
            Opcode::Scan => store.scan(ring, submission, key, &mut done),
            Opcode::Sync => store.syncs += 1,
            _ => done.status = Status::BadRequest as u16,
        }
        Some(done)
    }

    /// Each key that it puts is a write of its own to the faults.
    fn commit(&self, store: &mut Store, payload: &[u8], mut done: Completion) -> Option<Completion> {
        if self.faults.locked {
            done.status = Status::Locked as u16;
            return Some(done);
        }
        for (place, entry) in (0..).zip(entries(payload)) {
            let pair = store.pairs.get(&(entry.object.0, entry.key.to_vec()));
            let present = pair.map_or(0, |(version, _)| *version);
            if matches!(entry.what, What::Read(seen) if seen != present && !self.faults.blind_commits) {
                (done.status, done.aux, done.version) = (Status::Conflict as u16, place, present);
                return Some(done);
            }
        }
        let puts = entries(payload).filter(|entry| matches!(entry.what, What::Put(_))).count() as u64;
        let first = store.writes + 1;
        store.writes += puts;
        if self.faults.die_at.is_some_and(|at| store.writes >= at) {
            return None;
        }
        if self.faults.full_after.is_some_and(|after| store.writes > after) {
            done.status = Status::NoSpace as u16;
            return Some(done);
        }
        (store.version, done.version) =
            if puts > 0 { (store.version + 1, store.version + 1) } else { (store.version, 0) };
        for (write, entry) in (first..).zip(entries(payload).filter(|entry| !entry.is_read())) {
            if let (What::Put(value), true) = (entry.what, self.faults.lose_write != Some(write)) {
                store.pairs.insert((entry.object.0, entry.key.to_vec()), (done.version, value.to_vec()));
            }
        }
        Some(done)
    }

    fn write(
        &self,
        store: &mut Store,
        submission: &Submission,
        key: &[u8],
        value: &[u8],
        mut done: Completion,
    ) -> Option<Completion> {
        store.writes += 1;
        let write = store.writes;
        if self.faults.die_at.is_some_and(|at| write >= at) {
            return None;
        }
        if self.faults.full_after.is_some_and(|after| write > after) {
            done.status = Status::NoSpace as u16;
            return Some(done);
        }
        let mut value = value.to_vec();
        if self.faults.damage_write == Some(write) {
            *value.last_mut().unwrap() ^= 1;
        }
        let lost = self.faults.lose_write == Some(write);
        if submission.opcode == Opcode::Put as u8 {
            store.version += 1;
            done.version = store.version;
            if submission.flags & flag::EXPIRES != 0 {
                // What is to go is gone at once.
                store.pairs.remove(&(submission.object, key.to_vec()));
            } else if !lost {
                store.pairs.insert((submission.object, key.to_vec()), (done.version, value));
            }
        } else {
            let events = store.events.entry(submission.object).or_default();
            done.version = events.len() as u64;
            events.extend((!lost).then_some(value));
        }
        Some(done)
    }
}

impl Store {
    fn open(&mut self, submission: &Submission, name: &[u8], done: &mut Completion) {
        let name = String::from_utf8(name.to_vec()).unwrap();
        let [kind, durability, create, compression, ..] = submission.arg0.to_le_bytes();
        let known = self.objects.iter().position(|object| object.0 == name);
        if known.is_none() && create == 1 {
            self.objects.push((name, kind, durability, compression));
        }
        let place = known.or((create == 1).then(|| self.objects.len() - 1));
        match place.map(|place| (place, &self.objects[place])) {
            None => done.status = Status::UnknownObject as u16,
            Some((_, object)) if object.1 != kind => done.status = Status::WrongKind as u16,
            Some((place, object)) => {
                done.version = place as u64 + 1;
                done.aux = u64::from(kind) | u64::from(object.2) << 8 | u64::from(object.3) << 24;
            }
        }
        assert!(ObjectKind::from_wire(kind).is_some());
    }

    fn scan(&mut self, ring: &SessionRing, submission: &Submission, begin: &[u8], done: &mut Completion) {
        let mut bytes = Vec::new();
        let from = (submission.object, begin.to_vec());
        let of_shard = self.pairs.range(from..).filter(|((object, key), _)| {
            *object == submission.object && u64::from(shard_of_key(*object, key, SHARDS).0) == submission.arg1
        });
        for ((_, key), (version, value)) in of_shard.take(usize::try_from(submission.arg0).unwrap()) {
            bytes.extend_from_slice(&u16::try_from(key.len()).unwrap().to_le_bytes());
            bytes.extend_from_slice(&[0; 2]);
            bytes.extend_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
            bytes.extend_from_slice(&version.to_le_bytes());
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(value);
        }
        reply(ring, submission, &bytes, done);
    }

    fn read(&mut self, ring: &SessionRing, submission: &Submission, done: &mut Completion) {
        let events = self.events.entry(submission.object).or_default();
        let mut bytes = Vec::new();
        for (offset, event) in (0_u64..).zip(events.iter()).skip(usize::try_from(submission.arg0).unwrap()) {
            if !bytes.is_empty() && bytes.len() + 16 + event.len() > submission.reply_bytes_max as usize {
                break;
            }
            bytes.extend_from_slice(&u32::try_from(event.len()).unwrap().to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&offset.to_le_bytes());
            bytes.extend_from_slice(event);
        }
        if bytes.is_empty() {
            done.status = Status::TimedOut as u16;
        }
        reply(ring, submission, &bytes, done);
    }
}

fn reply(ring: &SessionRing, submission: &Submission, bytes: &[u8], done: &mut Completion) {
    match ring.write_reply(ReplyRoom::of(submission), 0, bytes) {
        Ok(()) => done.reply_bytes = u32::try_from(bytes.len()).unwrap(),
        Err(_) => {
            done.status = Status::ReplyTooSmall as u16;
            done.aux = bytes.len() as u64;
        }
    }
}
