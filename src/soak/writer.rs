//! A client that writes all the time, and holds what is there after a restart against what it issued and was told.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus as Random;

use super::content::{Content, KEY_BYTES, Place, Sizes, key};
use super::history::{Events, Extent, Register, one_prefix};
use crate::error::Error;
use crate::load::histogram::Latency;
use crate::load::pipeline::pipeline;
use crate::ring::client::{Answer, Client, ClientError, Head, Object, Request, Retry, SubmitError, Verified, Write};
use crate::ring::protocol::{Status, shard_of_key, shard_of_stream};
use crate::types::Durability;

/// What a key holds that holds nothing.
const ABSENT: u64 = 0;
/// Keys of one transaction.
const COMMIT_KEYS: usize = 2;
/// What its values have at most.
const COMMIT_VALUE_BYTES_MAX: usize = 2_000;

/// What a client does, and what its answers are to tell.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write {
        key: usize,
        strict_put_since: Option<Instant>,
        bytes: usize,
    },
    Append {
        first: u64,
        end: u64,
        bytes: usize,
    },
    /// With the last operation that trimmed anything.
    Trim {
        before: u64,
        last: u64,
    },
    /// When it was asked, this was the last operation that was issued, with what it leaves.
    Get {
        key: usize,
        last: (u64, u64),
    },
}

/// Why a client writes no more.
#[derive(Debug)]
enum Halt {
    Client(ClientError),
    Wrong(String),
}

impl From<ClientError> for Halt {
    fn from(error: ClientError) -> Self {
        Halt::Client(error)
    }
}

/// What ends a life, and so which answers have to hold afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The process is gone: every answer but those of `memory` writes holds.
    Kill,
    /// The drive's cache or the flight recorders are gone: what is durable on the drive holds.
    PowerCut,
}

/// What a writer's space and stream are like.
#[derive(Clone, Debug)]
pub struct Kind {
    pub name: String,
    pub durability: Durability,
    /// Asks for another durability with every request.
    pub mixed: bool,
    /// The events of its stream are linked by hashes.
    pub chained: bool,
}

/// How much a writer does.
#[derive(Clone, Copy, Debug)]
pub struct Volume {
    pub keys: usize,
    /// A trim leaves so many events, or a quarter of all where that is less.
    pub events_kept: u64,
    pub in_flight_max: usize,
    pub operations_per_life_max: u64,
    /// After so many operations all that was answered is made durable.
    pub sync_every: u64,
    pub sizes: Sizes,
}

/// What writers share with whoever watches them.
#[derive(Debug, Default)]
pub struct Watch {
    /// Set: every writer takes its answers and returns.
    pub stop: AtomicBool,
    /// Of keys, values and events that were acknowledged, by all writers.
    pub taken_bytes: AtomicU64,
}

/// A client with a space and a stream that it alone writes to.
pub struct Writer {
    kind: Kind,
    volume: Volume,
    end: End,
    random: Random,
    content: Content,
    watch: Arc<Watch>,
    /// Of the last operation: how many were issued.
    pub number: u64,
    keys: Vec<Register>,
    /// Keys below this one were written at least once.
    filled: usize,
    begin: Register,
    trimmed: u64,
    events: Events,
    /// Of a chained stream: an offset, and the head before it that an answer stated.
    head: Option<(u64, Head)>,
    /// Answers that had to hold.
    pub acknowledged: u64,
    /// Values and events that were read and proved themselves.
    pub proven: u64,
    /// From the call that submits a strict put to its answer.
    pub strict_puts: Latency,
}

impl Writer {
    /// `seed` tells its choices, and its contents from those of every other writer: give each another one.
    #[must_use]
    pub fn new(kind: Kind, volume: Volume, end: End, seed: u64, watch: Arc<Watch>) -> Writer {
        Writer {
            random: Random::seed_from_u64(seed),
            content: Content::new(seed, volume.sizes),
            kind,
            volume,
            end,
            watch,
            number: 0,
            keys: vec![Register::new(ABSENT); volume.keys],
            filled: 0,
            begin: Register::new(0),
            trimmed: 0,
            events: Events::default(),
            head: None,
            acknowledged: 0,
            proven: 0,
            strict_puts: Latency::default(),
        }
    }

    fn open(&self, client: &mut Client) -> Result<(Object, Object), ClientError> {
        let Kind { name, durability, chained, .. } = &self.kind;
        let space = client.open_space(&format!("{name} space"), Some(*durability))?;
        let stream = format!("{name} stream");
        let stream = match chained {
            true => client.open_chained(&stream, *durability)?,
            false => client.open_stream(&stream, Some(*durability))?,
        };
        Ok((space, stream))
    }

    /// Issues until the daemon, or at a power cut its drive, is gone, or the watch says to stop.
    ///
    /// # Errors
    /// Whatever else happens: a wrong answer, with the key, what was expected and what was found.
    pub fn live(&mut self, client: &mut Client) -> Result<(), Error> {
        let cause = match self.issue(client) {
            Ok(()) | Err(Halt::Client(ClientError::Disconnected)) => return Ok(()),
            Err(Halt::Client(ClientError::Status(Status::Fenced))) if self.end == End::PowerCut => return Ok(()),
            Err(Halt::Client(error)) => error.to_string(),
            Err(Halt::Wrong(cause)) => cause,
        };
        Err(Error::new(format!("{}, operation {}: {cause}", self.kind.name, self.number)))
    }

    fn issue(&mut self, client: &mut Client) -> Result<(), Halt> {
        let objects = self.open(client)?;
        let (mut under_way, mut reply) = (HashMap::new(), Vec::new());
        let mut next = None;
        for _ in 0..self.volume.operations_per_life_max {
            if self.watch.stop.load(Relaxed) {
                break;
            }
            self.number += 1;
            if self.kind.durability != Durability::Memory && self.random.random_range(0..100) < 3 {
                if let Err(halt) = self.transact(client, objects.0) {
                    // A write that it expected to see may have been refused, and the answer not been taken.
                    self.drain(client, &mut under_way)?;
                    return Err(halt);
                }
                continue;
            }
            loop {
                let full = under_way.len() >= self.volume.in_flight_max;
                if !full && self.submit(client, objects, &mut next, &mut under_way)? {
                    break;
                }
                let answer = client.wait(&mut reply)?;
                self.take(answer, &reply, &mut under_way)?;
            }
            if self.number.is_multiple_of(self.volume.sync_every) {
                self.drain(client, &mut under_way)?;
                client.sync()?;
                self.all_is_durable();
            }
        }
        self.drain(client, &mut under_way)
    }

    fn drain(&mut self, client: &mut Client, under_way: &mut HashMap<u64, Step>) -> Result<(), Halt> {
        let mut reply = Vec::new();
        while !under_way.is_empty() {
            let answer = client.wait(&mut reply)?;
            self.take(answer, &reply, under_way)?;
        }
        Ok(())
    }

    /// A sync ended after everything else had been answered.
    fn all_is_durable(&mut self) {
        if self.kind.durability == Durability::Memory {
            return;
        }
        self.keys.iter_mut().chain([&mut self.begin]).for_each(Register::acknowledge_all);
        self.events.acknowledge(self.events.next());
        self.acknowledged += 1;
    }

    /// Reads keys of one shard and writes them again, all or none.
    fn transact(&mut self, client: &mut Client, space: Object) -> Result<(), Halt> {
        let (number, shards, first) = (self.number, client.shards(), self.random.random_range(0..self.keys.len()));
        let shard_of = |at: usize| shard_of_key(space.id.0, &key(at), shards);
        let others = (first..self.keys.len()).chain(0..first);
        let chosen: Vec<usize> = others.filter(|at| shard_of(*at) == shard_of(first)).take(COMMIT_KEYS).collect();
        let bytes = self.random.random_range(32..COMMIT_VALUE_BYTES_MAX);
        let values: Vec<Vec<u8>> =
            chosen.iter().map(|at| self.content.write(Place::Key(*at), number, bytes).to_vec()).collect();
        let expected: Vec<u64> = chosen.iter().map(|at| self.keys[*at].last().1).collect();
        chosen.iter().for_each(|at| self.keys[*at].issue(number, number));
        let content = &self.content;
        client.transaction(&Retry::default(), |transaction| {
            for ((at, value), expected) in chosen.iter().zip(&values).zip(&expected) {
                let found = transaction.get(space, &key(*at))?;
                let found = content.number(Place::Key(*at), found.as_deref()).map_err(Halt::Wrong)?;
                if found != *expected {
                    return Err(Halt::Wrong(format!(
                        "key {at}: expected what operation {expected} left, as a transaction reads it; found operation {found}"
                    )));
                }
                transaction.put(space, &key(*at), value);
            }
            Ok(())
        })?;
        self.proven += chosen.len() as u64;
        let taken = values.iter().map(|value| value.len() + KEY_BYTES).sum();
        if self.holds(self.kind.durability) {
            chosen.iter().for_each(|at| self.keys[*at].acknowledge(number));
        }
        self.acknowledged(self.kind.durability, taken);
        Ok(())
    }

    /// Submits the operation of this number. `false`: there is no room before an answer is taken.
    fn submit(
        &mut self,
        client: &mut Client,
        (space, stream): (Object, Object),
        kept: &mut Option<Choice>,
        under_way: &mut HashMap<u64, Step>,
    ) -> Result<bool, Halt> {
        let number = self.number;
        let choice = kept.take().unwrap_or_else(|| self.choose());
        let (at, contents) = (choice.key, &choice.contents);
        let (key, batch) = (key(at), Vec::from_iter(contents.iter().map(Vec::as_slice)));
        let (asked, next) = (self.durability_of(number), self.events.next());
        let how = Write { durability: asked, ..Write::default() };
        let before = (next * 3 / 4).max(next.saturating_sub(self.volume.events_kept));
        let value_bytes_max = self.volume.sizes.bytes_max;
        let request = match choice.what {
            What::Put => Request::Put { space, key: &key, value: batch[0], how },
            What::Delete => Request::Delete { space, key: &key, how },
            What::Get => Request::Get { space, key: &key, relaxed: false, value_bytes_max },
            What::Append if self.kind.chained => Request::AppendChained { stream, once: None, events: &batch, how },
            What::Append if batch.len() == 1 => Request::Append { stream, event: batch[0], how },
            What::Append => Request::AppendBatch { stream, events: &batch, how },
            What::Trim => Request::Trim { stream, before },
        };
        let strict_put = choice.what == What::Put && asked.unwrap_or(self.kind.durability) == Durability::Strict;
        let strict_put_since = strict_put.then(Instant::now);
        match client.submit(number, &request) {
            Ok(()) => {}
            Err(SubmitError::Full) => {
                *kept = Some(choice);
                return Ok(false);
            }
            Err(SubmitError::Client(error)) => return Err(error.into()),
        }
        let bytes: usize = contents.iter().map(Vec::len).sum();
        let step = match choice.what {
            What::Put | What::Delete => {
                self.keys[at].issue(number, if choice.what == What::Put { number } else { ABSENT });
                self.filled += usize::from(choice.what == What::Put && at == self.filled);
                Step::Write { key: at, strict_put_since, bytes: KEY_BYTES + bytes }
            }
            What::Get => Step::Get { key: at, last: self.keys[at].last() },
            What::Append => {
                let first = self.events.issue(number, contents.len());
                Step::Append { first, end: self.events.next(), bytes }
            }
            What::Trim => {
                // One that trims nothing more leaves no record: its answer tells of the trim before it.
                if before > self.trimmed {
                    self.trimmed = before;
                    self.begin.issue(number, before);
                }
                Step::Trim { before, last: self.begin.last().0 }
            }
        };
        under_way.insert(number, step);
        Ok(true)
    }

    fn choose(&mut self) -> Choice {
        let (what, count) = match self.random.random_range(0..100) {
            0..50 => (What::Put, 1),
            50..58 => (What::Delete, 1),
            58..68 => (What::Get, 1),
            68..87 => (What::Append, 1),
            87..96 => (What::Append, self.random.random_range(1..6)),
            _ => (What::Trim, 1),
        };
        // Each key has a value before the first one gets its second.
        let fill = what == What::Put && self.filled < self.keys.len();
        let key = if fill { self.filled } else { self.random.random_range(0..self.keys.len()) };
        let place = |at| if what == What::Put { Place::Key(key) } else { Place::Event(self.events.next() + at) };
        let contents = (0..if matches!(what, What::Put | What::Append) { count } else { 0 }).map(|at| {
            let bytes = self.volume.sizes.draw(&mut self.random, count > 1);
            self.content.write(place(at), self.number, bytes).to_vec()
        });
        let contents = contents.collect();
        Choice { what, key, contents }
    }

    fn take(&mut self, answer: Answer, reply: &[u8], under_way: &mut HashMap<u64, Step>) -> Result<(), Halt> {
        let number = answer.user_data;
        let Some(step) = under_way.remove(&number) else {
            return Err(Halt::Wrong(format!("an answer to operation {number}, which is not under way")));
        };
        if answer.status == Status::Fenced && self.end == End::PowerCut {
            return Err(Halt::Client(ClientError::Status(Status::Fenced)));
        }
        let of_key = matches!(step, Step::Write { .. } | Step::Get { .. });
        let missing = of_key && answer.status == Status::NotFound;
        if answer.status != Status::Ok && !missing {
            return Err(Halt::Wrong(format!("operation {number}, {step:?}: {}", answer.status.text())));
        }
        let durability = self.durability_of(number).unwrap_or(self.kind.durability);
        match step {
            Step::Get { key, last } => {
                return self.look((!missing).then_some(reply), key, last).map_err(Halt::Wrong);
            }
            Step::Append { first, .. } if answer.version != first => {
                let found = answer.version;
                return Err(Halt::Wrong(format!("an event: expected it to get offset {first}; found offset {found}")));
            }
            // It left no record, so it tells nothing about where the log was cut.
            Step::Write { key, .. } if missing && self.end == End::PowerCut => {
                self.keys[key].retract(number);
                return Ok(());
            }
            _ => {}
        }
        let holds = self.holds(durability);
        let taken = match step {
            Step::Write { key, strict_put_since, bytes } => {
                if let Some(since) = strict_put_since {
                    self.strict_puts.record(u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX));
                }
                if holds {
                    self.keys[key].acknowledge(number);
                }
                bytes
            }
            Step::Append { end, bytes, .. } => {
                if let (true, Ok(head)) = (self.kind.chained, Head::try_from(reply)) {
                    self.head = self.head.filter(|(known, _)| *known > end).or(Some((end, head)));
                }
                if holds {
                    self.events.acknowledge(end);
                }
                bytes
            }
            Step::Trim { before, last } => {
                if holds {
                    self.begin.acknowledge(last);
                    self.events.forget(before);
                }
                0
            }
            Step::Get { .. } => 0,
        };
        self.acknowledged(durability, taken);
        Ok(())
    }

    /// Whether an answer of this durability has to hold after the end of this life.
    fn holds(&self, durability: Durability) -> bool {
        self.end == End::Kill || durability == Durability::Strict
    }

    fn acknowledged(&mut self, durability: Durability, taken: usize) {
        self.acknowledged += u64::from(self.holds(durability));
        self.watch.taken_bytes.fetch_add(taken as u64, Relaxed);
    }

    /// What a key was read to hold, in between: what the operation before it left, or one that was issued since.
    fn look(&mut self, found: Option<&[u8]>, key: usize, (last, left): (u64, u64)) -> Result<(), String> {
        let found = self.content.number(Place::Key(key), found)?;
        let since = self.keys[key].last().0;
        let fits = found == left || (found > last && found <= since) || (found == ABSENT && since > last);
        self.proven += 1;
        if fits {
            return Ok(());
        }
        Err(format!("key {key}: expected what operation {last} left, or one up to {since}; found operation {found}"))
    }

    /// What the operation of this number asks for; None: what its object has.
    fn durability_of(&self, number: u64) -> Option<Durability> {
        match (self.kind.mixed, number % 3) {
            (true, 0) => Some(Durability::Memory),
            (true, 1) => Some(Durability::Buffered),
            _ => None,
        }
    }

    /// Reads all there is, holds it against what was issued and acknowledged, and goes on from there. Gives how much was
    /// recovered beyond what was acknowledged.
    ///
    /// # Errors
    /// The first key or event that is not as it has to be: what was expected, what was found.
    pub fn check(&mut self, client: &mut Client) -> Result<u64, Error> {
        self.recovered(client).map_err(|error| error.context(&self.kind.name))
    }

    fn recovered(&mut self, client: &mut Client) -> Result<u64, Error> {
        let (space, stream) = self.open(client)?;
        let mut by_shard: HashMap<u32, Vec<Extent>> = HashMap::new();
        let found = self.read_keys(client, space)?;
        let (begin, end) = self.read_events(client, stream)?;
        if self.kind.durability == Durability::Memory {
            if let Some(found) = found.iter().find(|found| **found > self.number) {
                return Err(Error::new(format!("found operation {found}, which was not issued")));
            }
            self.keys = found.into_iter().map(Register::new).collect();
            self.events = Events::default();
            self.events.issue(0, usize::try_from(end).map_err(|_| Error::new("a stream beyond all memory"))?);
            (self.begin, self.trimmed) = (Register::new(begin), begin);
            return Ok(0);
        }
        for (at, (register, found)) in self.keys.iter_mut().zip(found).enumerate() {
            let extent = register.recovered(found).map_err(|cause| Error::new(format!("key {at}: {cause}")))?;
            by_shard.entry(shard_of_key(space.id.0, &key(at), client.shards()).0).or_default().push(extent);
        }
        let parts = by_shard.entry(shard_of_stream(stream.id.0, client.shards()).0).or_default();
        let named = |what: &'static str| move |cause: String| Error::new(format!("{what}: {cause}"));
        parts.push(self.begin.recovered(begin).map_err(named("where the stream begins"))?);
        parts.push(self.events.recovered(end).map_err(named("events"))?);
        self.trimmed = begin;
        if self.kind.chained {
            self.prove(client, stream)?;
        }
        for (shard, extents) in &by_shard {
            one_prefix(extents).map_err(|cause| Error::new(format!("shard {shard}: {cause}")))?;
        }
        Ok(by_shard.values().flatten().map(|extent| extent.beyond).sum())
    }

    /// Computes the heads of the chained stream anew, and compares with what an answer stated.
    fn prove(&mut self, client: &mut Client, stream: Object) -> Result<(), Error> {
        let Verified { next, head, .. } = client.verify_stream(stream)?;
        match self.head {
            Some((offset, stated)) if offset == next && stated != head => {
                let [expected, found] = [stated, head].map(|head| blake3::Hash::from_bytes(head).to_hex());
                Err(Error::new(format!("events: expected head {expected} before offset {next}; found {found}")))
            }
            _ => {
                // What lies beyond was not acknowledged, and is lost.
                self.head = self.head.filter(|(offset, _)| *offset <= next);
                Ok(())
            }
        }
    }

    /// The number of the operation that wrote what each key holds.
    fn read_keys(&mut self, client: &mut Client, space: Object) -> Result<Vec<u64>, Error> {
        let mut found = vec![ABSENT; self.keys.len()];
        let (content, value_bytes_max) = (&self.content, self.volume.sizes.bytes_max);
        let at = |number: u64| usize::try_from(number).expect("64-bit machines only");
        pipeline(
            client,
            self.keys.len() as u64,
            |client, number| {
                client.submit(number, &Request::Get { space, key: &key(at(number)), relaxed: false, value_bytes_max })
            },
            |answer, value| {
                let at = at(answer.user_data);
                let value = match answer.status {
                    Status::NotFound => None,
                    Status::Ok => Some(value),
                    status => return Err(Error::new(format!("key {at}: {}", status.text()))),
                };
                found[at] = content.number(Place::Key(at), value).map_err(Error::new)?;
                Ok(())
            },
        )?;
        self.proven += found.iter().filter(|found| **found != ABSENT).count() as u64;
        Ok(found)
    }

    /// Reads the whole stream and holds every event against its offset. Gives where it begins and ends.
    fn read_events(&mut self, client: &mut Client, stream: Object) -> Result<(u64, u64), Error> {
        let begin = match client.read(stream, 0, None) {
            Err(ClientError::Trimmed { first }) => first,
            read => read.map(|_| 0)?,
        };
        let mut next = begin;
        loop {
            let events = client.read(stream, next, None)?;
            if events.is_empty() {
                self.proven += next - begin;
                return Ok((begin, next));
            }
            for (offset, event) in events {
                let number = self.content.number(Place::Event(offset), Some(&event)).map_err(Error::new)?;
                let issued = self.events.number(next).unwrap_or(0);
                // Of what was there before a life with `memory` nothing is known.
                if offset != next || (issued != number && issued != 0) || number > self.number {
                    return Err(Error::new(format!(
                        "offset {next}: expected the event of operation {issued}; found offset {offset}, operation {number}"
                    )));
                }
                next += 1;
            }
        }
    }
}

/// An operation that was chosen, and may have to wait for room.
struct Choice {
    what: What,
    key: usize,
    contents: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Put,
    Delete,
    Get,
    Append,
    Trim,
}
