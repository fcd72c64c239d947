//! The daemon is killed with SIGKILL at random moments, also while it starts, and started again. What is there then
//! must hold all that was acknowledged and nothing that was not issued, in order. FOREBAY_KILLS says how often,
//! FOREBAY_SEED repeats the choices of a run (not its timing).

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use forebay::ring::client::{Answer, Client, ClientError, Object, Request, SubmitError, Write};
use forebay::ring::protocol::{Status, shard_of_key, shard_of_stream};
use forebay::types::Durability;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus as Random;

use crate::daemon::{Daemon, Place};
use crate::history::{Events, Extent, Register, one_prefix};

const KEYS: usize = 40;
const IN_FLIGHT_MAX: usize = 12;
/// So that a life does not fill the device.
const OPERATIONS_PER_LIFE: u64 = 400;
const KILLS_PER_NAMESPACE: u32 = 10;
const ABSENT: u64 = 0;

/// What a client does, and what its answers are to tell.
#[derive(Clone, Copy, Debug)]
enum Step {
    Write { key: usize, number: u64 },
    Append { first: u64, end: u64 },
    Trim { number: u64 },
}

/// A client with a space and a stream that it alone writes to.
struct Writer {
    name: &'static str,
    durability: Durability,
    /// Asks for another durability with every request.
    mixed: bool,
    random: Random,
    number: u64,
    keys: Vec<Register>,
    begin: Register,
    trimmed: u64,
    events: Events,
    acknowledged: u64,
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
    fn new(name: &'static str, durability: Durability, mixed: bool, seed: u64) -> Writer {
        Writer {
            name,
            durability,
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

    /// Issues until the daemon is gone. Whatever else happens is a failure.
    fn live(&mut self, client: &mut Client) {
        match self.issue(client) {
            Ok(()) | Err(ClientError::Disconnected) => {}
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
                self.take(answer, &mut under_way);
            }
        }
        while !under_way.is_empty() {
            let answer = client.wait(&mut reply)?;
            self.take(answer, &mut under_way);
        }
        Ok(())
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
        let durability = match (self.mixed, number % 3) {
            (true, 0) => Some(Durability::Memory),
            (true, 1) => Some(Durability::Buffered),
            _ => None,
        };
        let how = Write { durability, if_version: None };
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
                Step::Write { key: at, number }
            }
            Request::Append { .. } | Request::AppendBatch { .. } => {
                let first = self.events.issue(number, contents.len());
                Step::Append { first, end: self.events.next() }
            }
            _ => {
                self.trimmed = self.trimmed.max(before);
                self.begin.issue(number, self.trimmed);
                Step::Trim { number }
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

    fn take(&mut self, answer: Answer, under_way: &mut HashMap<u64, Step>) {
        let step = under_way.remove(&answer.user_data).expect("an answer to what was asked");
        let missing = matches!(step, Step::Write { .. }) && answer.status == Status::NotFound;
        assert!(answer.status == Status::Ok || missing, "{}: {step:?}: {:?}", self.name, answer.status);
        self.acknowledged += 1;
        match step {
            Step::Write { key, number } => self.keys[key].acknowledge(number),
            Step::Append { first, end } => {
                assert_eq!(answer.version, first, "{}: the offset of an event", self.name);
                self.events.acknowledge(end);
            }
            Step::Trim { number } => self.begin.acknowledge(number),
        }
    }

    /// Holds what is there against what was issued. Gives how much was recovered beyond what was acknowledged.
    fn check(&mut self, client: &mut Client) -> u64 {
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

/// What happened, over all namespaces.
#[derive(Debug, Default)]
struct Counts {
    kills: u32,
    kills_at_start: u32,
    acknowledged: u64,
    issued: u64,
    recovered_beyond_acknowledged: u64,
    flight_replays: u32,
    flight_replayed_bytes: u64,
}

/// One namespace from `format` on, with so many kills.
fn namespace(seed: u64, kills: u32, counts: &mut Counts) {
    let mut random = Random::seed_from_u64(seed);
    let place = Place::new("kill").configured(1 + u32::from(seed % 2 == 1), "");
    place.format(96, 2);
    let mut writers: VecDeque<Writer> = [
        ("strict", Durability::Strict, false),
        ("buffered", Durability::Buffered, false),
        ("memory", Durability::Memory, false),
        ("mixed", Durability::Strict, true),
    ]
    .into_iter()
    .enumerate()
    .map(|(number, (name, durability, mixed))| Writer::new(name, durability, mixed, seed ^ number as u64))
    .collect();
    for _ in 0..kills {
        while random.random_range(0..4) == 0 {
            let mut daemon = Daemon::start(&place);
            std::thread::sleep(Duration::from_micros(random.random_range(0..60_000)));
            daemon.kill();
            counts.kills_at_start += 1;
        }
        let mut daemon = Daemon::start(&place);
        let mut client = daemon.connect(&place);
        counts.recovered_beyond_acknowledged += writers.iter_mut().map(|writer| writer.check(&mut client)).sum::<u64>();
        let replayed = daemon.logged("replayed_bytes").unwrap_or(0);
        counts.flight_replays += u32::from(replayed > 0);
        counts.flight_replayed_bytes += replayed;
        let mut clients: Vec<Client> = writers.iter().map(|_| daemon.connect(&place)).collect();
        std::thread::scope(|scope| {
            for (writer, client) in writers.iter_mut().zip(&mut clients) {
                scope.spawn(move || writer.live(client));
            }
            std::thread::sleep(Duration::from_micros(random.random_range(0..60_000)));
            daemon.kill();
            counts.kills += 1;
        });
    }
    let mut daemon = Daemon::start(&place);
    writers.iter_mut().for_each(|writer| _ = writer.check(&mut daemon.connect(&place)));
    assert!(daemon.stop().success());
    let mut daemon = Daemon::start(&place);
    writers.iter_mut().for_each(|writer| assert_eq!(writer.check(&mut daemon.connect(&place)), 0));
    assert_eq!(daemon.logged("replayed_bytes"), Some(0), "a daemon that stops in good order leaves nothing behind");
    counts.acknowledged += writers.iter().map(|writer| writer.acknowledged).sum::<u64>();
    counts.issued += writers.iter().map(|writer| writer.number).sum::<u64>();
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    let begun = Instant::now();
    let kills = u32::try_from(number_from("FOREBAY_KILLS").unwrap_or(100)).expect("not that many");
    let seed = number_from("FOREBAY_SEED").unwrap_or_else(rand::random);
    println!("FOREBAY_SEED={seed} FOREBAY_KILLS={kills}");
    let mut counts = Counts::default();
    while counts.kills < kills {
        let present = (kills - counts.kills).min(KILLS_PER_NAMESPACE);
        namespace(seed.wrapping_add(u64::from(counts.kills / KILLS_PER_NAMESPACE)), present, &mut counts);
    }
    println!("{counts:?} in {:?}", begun.elapsed());
    assert!(counts.acknowledged > 0, "nothing was ever acknowledged");
    assert!(counts.flight_replayed_bytes > 0 || kills < 10, "the flight recorder was never needed");
}
