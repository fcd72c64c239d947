//! A client that writes all the time, and holds what is there after a restart against what it issued and was told.

use std::collections::HashMap;

use forebay::ring::client::{Answer, Client, ClientError, Object, Request, SubmitError, Write};
use forebay::ring::protocol::{Status, shard_of_key, shard_of_stream};
use forebay::types::Durability;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus as Random;

use crate::history::{Events, Extent, Register, one_prefix};

const KEYS: usize = 40;
const IN_FLIGHT_MAX: usize = 12;
/// So that a life does not fill the device.
const OPERATIONS_PER_LIFE: u64 = 400;
/// Before a power cut: how often all that was answered is made durable.
const SYNC_EVERY: u64 = 50;
const ABSENT: u64 = 0;

/// What a client does, and what its answers are to tell.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write { key: usize },
    Append { first: u64, end: u64 },
    Trim,
}

/// What ends a life, and so which answers have to hold afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The process is gone: every answer but those of `memory` writes holds.
    Kill,
    /// The drive's cache and the flight recorders are gone: what is durable on the drive holds.
    PowerCut,
}

/// A client with a space and a stream that it alone writes to.
pub struct Writer {
    name: &'static str,
    durability: Durability,
    end: End,
    /// Asks for another durability with every request.
    mixed: bool,
    random: Random,
    /// Of the last operation: how many were issued.
    pub number: u64,
    keys: Vec<Register>,
    begin: Register,
    trimmed: u64,
    events: Events,
    /// Answers that had to hold.
    pub acknowledged: u64,
}

/// A content that tells whose it is, in every byte.
fn content(name: &str, number: u64, bytes: usize) -> Vec<u8> {
    let mut out = number.to_le_bytes().to_vec();
    out.extend_from_slice(&(bytes as u64).to_le_bytes());
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(name.as_bytes()[0]);
    while out.len() < bytes {
        word = word.rotate_left(9).wrapping_add(0x0123_4567_89ab_cdef);
        out.extend_from_slice(&word.to_le_bytes());
    }
    out.truncate(bytes.max(16));
    out
}

/// The number of the operation that wrote this.
fn number_of(name: &str, found: &[u8]) -> u64 {
    let number = u64::from_le_bytes(found[..8].try_into().expect("eight bytes"));
    assert!(found == content(name, number, found.len()), "{name}: content of operation {number} is not its own");
    number
}

fn key(at: usize) -> [u8; 5] {
    format!("key{at:02}").into_bytes().try_into().expect("five bytes")
}

impl Writer {
    /// One of each kind, each with its own choices.
    pub fn all(seed: u64, end: End) -> Vec<Writer> {
        let kinds = [
            ("strict", Durability::Strict, false),
            ("buffered", Durability::Buffered, false),
            ("memory", Durability::Memory, false),
            ("mixed", Durability::Strict, true),
        ];
        let numbered = kinds.into_iter().zip(0..);
        numbered.map(|((name, how, mixed), number)| Writer::new(name, how, mixed, end, seed ^ number)).collect()
    }

    fn new(name: &'static str, durability: Durability, mixed: bool, end: End, seed: u64) -> Writer {
        Writer {
            name,
            durability,
            end,
            mixed,
            random: Random::seed_from_u64(seed),
            number: 0,
            keys: vec![Register::new(ABSENT); KEYS],
            begin: Register::new(0),
            trimmed: 0,
            events: Events::default(),
            acknowledged: 0,
        }
    }

    fn open(&self, client: &mut Client) -> Result<(Object, Object), ClientError> {
        let space = client.open_space(&format!("{} space", self.name), Some(self.durability))?;
        Ok((space, client.open_stream(&format!("{} stream", self.name), Some(self.durability))?))
    }

    /// Issues until the daemon, or at a power cut its drive, is gone. Whatever else happens is a failure.
    pub fn live(&mut self, client: &mut Client) {
        match self.issue(client) {
            Ok(()) | Err(ClientError::Disconnected) => {}
            Err(ClientError::Status(Status::Fenced)) if self.end == End::PowerCut => {}
            Err(error) => panic!("{}: {error}", self.name),
        }
    }

    fn issue(&mut self, client: &mut Client) -> Result<(), ClientError> {
        let (space, stream) = self.open(client)?;
        let (mut under_way, mut reply) = (HashMap::new(), Vec::new());
        let mut next = None;
        for _ in 0..OPERATIONS_PER_LIFE {
            self.number += 1;
            loop {
                let full = under_way.len() >= IN_FLIGHT_MAX;
                if !full && self.submit(client, space, stream, &mut next, &mut under_way)? {
                    break;
                }
                let answer = client.wait(&mut reply)?;
                self.take(answer, &mut under_way)?;
            }
            if self.end == End::PowerCut && self.number.is_multiple_of(SYNC_EVERY) {
                self.drain(client, &mut under_way)?;
                client.sync()?;
                self.all_is_durable();
            }
        }
        self.drain(client, &mut under_way)
    }

    fn drain(&mut self, client: &mut Client, under_way: &mut HashMap<u64, Step>) -> Result<(), ClientError> {
        let mut reply = Vec::new();
        while !under_way.is_empty() {
            let answer = client.wait(&mut reply)?;
            self.take(answer, under_way)?;
        }
        Ok(())
    }

    /// A sync ended after everything else had been answered.
    fn all_is_durable(&mut self) {
        if self.durability == Durability::Memory {
            return;
        }
        self.keys.iter_mut().chain([&mut self.begin]).for_each(Register::acknowledge_all);
        self.events.acknowledge(self.events.next());
        self.acknowledged += 1;
    }

    /// Submits the operation of this number. `false`: there is no room before an answer is taken.
    fn submit(
        &mut self,
        client: &mut Client,
        space: Object,
        stream: Object,
        kept: &mut Option<(u32, Vec<Vec<u8>>)>,
        under_way: &mut HashMap<u64, Step>,
    ) -> Result<bool, ClientError> {
        let number = self.number;
        let (dice, contents) = kept.take().unwrap_or_else(|| self.choose());
        let at = usize::try_from(number).expect("usize has 64 bits") * 7 % KEYS;
        let how = Write { durability: self.durability_of(number), ..Write::default() };
        let key = key(at);
        let batch: Vec<&[u8]> = contents.iter().map(Vec::as_slice).collect();
        let before = self.events.next() * 3 / 4;
        let request = match dice {
            0..55 => Request::Put { space, key: &key, value: &contents[0], how },
            55..65 => Request::Delete { space, key: &key, how },
            65..88 => Request::Append { stream, event: &contents[0], how },
            88..97 => Request::AppendBatch { stream, events: &batch, how },
            _ => Request::Trim { stream, before },
        };
        match client.submit(number, &request) {
            Ok(()) => {}
            Err(SubmitError::Full) => {
                *kept = Some((dice, contents));
                return Ok(false);
            }
            Err(SubmitError::Client(error)) => return Err(error),
        }
        let step = match request {
            Request::Put { .. } | Request::Delete { .. } => {
                self.keys[at].issue(number, if dice < 55 { number } else { ABSENT });
                Step::Write { key: at }
            }
            Request::Append { .. } | Request::AppendBatch { .. } => {
                let first = self.events.issue(number, contents.len());
                Step::Append { first, end: self.events.next() }
            }
            _ => {
                self.trimmed = self.trimmed.max(before);
                self.begin.issue(number, self.trimmed);
                Step::Trim
            }
        };
        under_way.insert(number, step);
        Ok(true)
    }

    fn choose(&mut self) -> (u32, Vec<Vec<u8>>) {
        let dice = self.random.random_range(0..100);
        let count = if (88..97).contains(&dice) { self.random.random_range(1..6) } else { 1 };
        let contents = (0..count).map(|_| {
            let bytes = match self.random.random_range(0..200) {
                0..140 => self.random.random_range(16..200),
                140..190 => self.random.random_range(200..6_000),
                190..199 => self.random.random_range(6_000..40_000),
                // Larger than a frame. A batch of them would be over the limit.
                _ if count == 1 => self.random.random_range(64 << 10..250 << 10),
                _ => 16,
            };
            content(self.name, self.number, bytes)
        });
        (dice, contents.collect())
    }

    fn take(&mut self, answer: Answer, under_way: &mut HashMap<u64, Step>) -> Result<(), ClientError> {
        let step = under_way.remove(&answer.user_data).expect("an answer to what was asked");
        if answer.status == Status::Fenced && self.end == End::PowerCut {
            return Err(ClientError::Status(Status::Fenced));
        }
        let missing = matches!(step, Step::Write { .. }) && answer.status == Status::NotFound;
        assert!(answer.status == Status::Ok || missing, "{}: {step:?}: {:?}", self.name, answer.status);
        if let Step::Append { first, .. } = step {
            assert_eq!(answer.version, first, "{}: the offset of an event", self.name);
        }
        let number = answer.user_data;
        if let (Step::Write { key }, true, End::PowerCut) = (&step, missing, self.end) {
            // It left no record, so it tells nothing about where the log was cut.
            self.keys[*key].retract(number);
            return Ok(());
        }
        if self.end == End::PowerCut && self.durability_of(number).unwrap_or(self.durability) != Durability::Strict {
            return Ok(());
        }
        self.acknowledged += 1;
        match step {
            Step::Write { key } => self.keys[key].acknowledge(number),
            Step::Append { end, .. } => self.events.acknowledge(end),
            Step::Trim => self.begin.acknowledge(number),
        }
        Ok(())
    }

    /// What the operation of this number asks for; None: what its object has.
    fn durability_of(&self, number: u64) -> Option<Durability> {
        match (self.mixed, number % 3) {
            (true, 0) => Some(Durability::Memory),
            (true, 1) => Some(Durability::Buffered),
            _ => None,
        }
    }

    /// Holds what is there against what was issued. Gives how much was recovered beyond what was acknowledged.
    pub fn check(&mut self, client: &mut Client) -> u64 {
        let (space, stream) = self.open(client).expect("the daemon is up");
        let mut by_shard: HashMap<u32, Vec<Extent>> = HashMap::new();
        let what = self.name;
        for at in 0..KEYS {
            let found = client.get(space, &key(at)).expect("the daemon is up");
            let found = found.map_or(ABSENT, |(_, value)| number_of(what, &value));
            if self.durability == Durability::Memory {
                assert!(found <= self.number, "{what}: nobody wrote {found}");
                self.keys[at] = Register::new(found);
                continue;
            }
            let extent = self.keys[at].recovered(found).unwrap_or_else(|error| panic!("{what} key {at}: {error}"));
            by_shard.entry(shard_of_key(space.id.0, &key(at), client.shards()).0).or_default().push(extent);
        }
        let (begin, end) = self.read(client, stream);
        if self.durability == Durability::Memory {
            self.events = Events::default();
            self.events.issue(0, usize::try_from(end).expect("usize has 64 bits"));
            (self.begin, self.trimmed) = (Register::new(begin), begin);
            return 0;
        }
        let parts = by_shard.entry(shard_of_stream(stream.id.0, client.shards()).0).or_default();
        parts.push(self.begin.recovered(begin).unwrap_or_else(|error| panic!("{what} trims: {error}")));
        parts.push(self.events.recovered(end).unwrap_or_else(|error| panic!("{what}: {error}")));
        self.trimmed = begin;
        for (shard, extents) in &by_shard {
            one_prefix(extents).unwrap_or_else(|error| panic!("{what}, shard {shard}: {error}"));
        }
        by_shard.values().flatten().map(|extent| extent.beyond).sum()
    }

    /// Reads the whole stream and holds every event against its offset. Gives where it begins and ends.
    fn read(&self, client: &mut Client, stream: Object) -> (u64, u64) {
        let begin = match client.read(stream, 0, None) {
            Ok(_) => 0,
            Err(ClientError::Trimmed { first }) => first,
            Err(error) => panic!("{}: {error}", self.name),
        };
        let mut next = begin;
        loop {
            let events = client.read(stream, next, None).expect("the daemon is up");
            if events.is_empty() {
                return (begin, next);
            }
            for (offset, event) in events {
                assert_eq!(offset, next, "{}: a hole", self.name);
                let number = number_of(self.name, &event);
                let issued = self.events.number(offset);
                assert!(issued == Some(number) || issued == Some(0), "{}: {offset}: {number}, {issued:?}", self.name);
                next += 1;
            }
        }
    }
}
