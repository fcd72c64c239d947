//! What modelled clients do: random mixes over a few keys and streams, so that they meet.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use crate::ring::client::{CursorMove, Object, Once, Retention, Write};
use crate::ring::protocol::{PAGE_ENTRY_BYTES, shard_of_key};
use crate::sim::action::{Action, Does, PAGE, Step};
use crate::sim::oracle::Oracle;
use crate::sim::profile::Profile;
use crate::sim::random::Random;
use crate::types::{Durability, ObjectKind, ShardId};

const KEYS: u64 = 9;
const PAGES: u64 = 5;
/// Fewer than a stream remembers.
const PRODUCERS: u64 = 3;
const ONCE_KEPT: usize = 24;
/// Of one client.
const SEASON_ACTIONS: u64 = 120;

pub struct Workload {
    pub random: Random,
    /// Makes every value another one.
    tag: u64,
    value_bytes_max: usize,
    shards: u32,
    /// Transactions so far.
    commits: u64,
    expires: bool,
    retains: bool,
    seasons: bool,
    actions: u64,
    /// The page written last.
    page: u64,
    /// The last appends that happen once: any of them may be tried again.
    once: VecDeque<Rc<Action>>,
}

impl Workload {
    pub fn new(random: Random, profile: &Profile) -> Workload {
        Workload {
            random,
            tag: 0,
            value_bytes_max: profile.store.value_bytes_max,
            shards: profile.shards,
            commits: 0,
            expires: profile.expires,
            retains: profile.retains,
            seasons: profile.seasons,
            actions: 0,
            page: 0,
            once: VecDeque::new(),
        }
    }

    /// The next request, on one of the objects.
    pub fn action(&mut self, oracle: &Oracle) -> Rc<Action> {
        if self.random.chance(25) {
            let reactor = crate::bytes::len_u32(self.random.index(oracle.reactors as usize));
            return Rc::new(Action::Sync { reactor });
        }
        self.actions += 1;
        let streams = self.seasons && self.actions / SEASON_ACTIONS % 2 == 1;
        if !streams
            && self.random.chance(150)
            && let Some(commit) = self.commit(oracle)
        {
            return Rc::new(commit);
        }
        let mut object = oracle.objects[self.random.index(oracle.objects.len())].object;
        if streams {
            let mut of_kind = oracle.objects.iter().filter(|known| known.object.kind == ObjectKind::Stream);
            object = of_kind.next_back().map_or(object, |known| known.object);
        }
        if object.kind == ObjectKind::Stream && !streams && self.random.chance(200) {
            return self.append_once(oracle, object);
        }
        // In a stream in memory they have no order that anybody was told.
        if object.kind == ObjectKind::Stream && object.durability != Durability::Memory && self.random.chance(200) {
            return Rc::new(self.on_cursor(oracle, object));
        }
        if self.retains && object.kind == ObjectKind::Stream && self.random.chance(150) {
            return Rc::new(self.on_retention(object));
        }
        Rc::new(match object.kind {
            ObjectKind::Space => self.on_space(oracle, object),
            ObjectKind::Stream => self.on_stream(oracle, object),
            ObjectKind::Pages => self.on_pages(oracle, object),
        })
    }

    fn on_cursor(&mut self, oracle: &Oracle, stream: Object) -> Action {
        let name = self.random.pick(&["one", "another", "a third"]);
        let (first, next) = oracle.extent(stream);
        match self.random.below(100) {
            0..55 => {
                let durability = self.how(oracle, stream, &[]).durability;
                let if_at = self.random.chance(200).then(|| oracle.cursor(stream, name));
                let how = CursorMove { durability, if_at, rewind: self.random.chance(300) };
                Action::SetCursor { stream, name, offset: self.random.between(first / 2, next), how }
            }
            55..65 => Action::DropCursor { stream, name },
            _ => Action::GetCursor { stream, name, relaxed: self.random.chance(300) },
        }
    }

    /// Bounds from next to nothing to more than is ever there.
    fn on_retention(&mut self, stream: Object) -> Action {
        let bytes = self.random.pick(&[None, Some(1), Some(300), Some(3_000), Some(30_000), Some(1 << 40)]);
        let age_ms = self.random.pick(&[None, None, Some(1), Some(4), Some(30), Some(5_000), Some(3_600_000)]);
        let set = Retention { bytes, age: age_ms.map(Duration::from_millis) };
        Action::Retain { stream, set: self.random.chance(600).then_some(set) }
    }

    /// An append that happens once: the next of a producer, at times one beyond it, or one of the last again.
    fn append_once(&mut self, oracle: &Oracle, stream: Object) -> Rc<Action> {
        if !self.once.is_empty() && self.random.chance(350) {
            let at = self.random.index(self.once.len());
            return self.once[at].clone();
        }
        let producer = 1 + self.random.below(PRODUCERS);
        let gap = if self.random.chance(50) { self.random.below(12) } else { 0 };
        let once = Once { producer, sequence: oracle.next_sequence(stream, producer) + gap };
        // A producer never says anything else under the same number.
        let same = |action: &&Rc<Action>| action.object() == Some(stream) && action.once() == Some(once);
        if let Some(action) = self.once.iter().find(same) {
            return action.clone();
        }
        let how = Write { if_version: None, ..self.how(oracle, stream, &[]) };
        let events = (0..1 + self.random.below(3)).map(|_| self.small_value()).collect();
        let action = Rc::new(Action::Append { stream, events, batch: true, once: Some(once), how });
        if self.once.len() == ONCE_KEPT {
            self.once.pop_front();
        }
        self.once.push_back(action.clone());
        action
    }

    fn on_space(&mut self, oracle: &Oracle, space: Object) -> Action {
        let key = self.key();
        let relaxed = self.random.chance(300);
        match self.random.below(100) {
            0..45 => {
                let how = self.how(oracle, space, &key);
                // Over in a moment, in this life, or in some later one.
                let times_ms = [1, 2, 3, 5, 20, 100, 5_000, 3_600_000];
                let lives = self.expires && self.random.chance(500);
                let expires = lives.then(|| Duration::from_millis(self.random.pick(&times_ms)));
                let how = Write { expires, ..how };
                Action::Put { space, key, value: self.value(), how }
            }
            45..60 => {
                let how = self.how(oracle, space, &key);
                Action::Delete { space, key, how }
            }
            60..90 => {
                let value_bytes_max = if self.random.chance(50) { 20 } else { self.value_bytes_max };
                Action::Get { space, key, relaxed, value_bytes_max }
            }
            _ => {
                let shard = ShardId(crate::bytes::len_u32(self.random.index(self.shards as usize)));
                let prefix = if self.random.chance(500) { Vec::new() } else { vec![b'k'] };
                let limit = self.random.pick(&[0, 1, 3]);
                Action::Scan { space, shard, prefix, limit, reply_bytes_max: 60_000, relaxed }
            }
        }
    }

    /// Few pages, so that they are written again while their frame is open.
    fn on_pages(&mut self, oracle: &Oracle, space: Object) -> Action {
        let several = self.several_pages();
        let durability = self.how(oracle, space, &[]).durability;
        let count = if self.random.chance(700) { 1 } else { several };
        if self.random.chance(400) {
            return self.read_pages(space, None);
        }
        let deletes = self.random.chance(100);
        let steps = (0..count).map(|_| {
            if self.random.chance(600) {
                self.page = self.random.below(PAGES);
            }
            let key = self.page.to_be_bytes().to_vec();
            let does =
                if deletes && self.random.chance(700) { Does::Delete } else { Does::Put(self.value_of(PAGE.bytes())) };
            Step { space, key, does }
        });
        Action::WritePages { space, steps: steps.collect(), durability }
    }

    fn read_pages(&mut self, space: Object, snapshot: Option<u64>) -> Action {
        let numbers = (0..self.several_pages()).map(|_| self.random.below(PAGES)).collect();
        Action::ReadPages { space, numbers, snapshot, relaxed: self.random.chance(300) }
    }

    /// How many a request names, at most as many as fit it.
    fn several_pages(&mut self) -> usize {
        1 + self.random.index(self.value_bytes_max / (PAGE.bytes() + PAGE_ENTRY_BYTES))
    }

    /// A transaction over a few keys, every other time of one shard, which it read as clients know them. `None`: there is no space.
    fn commit(&mut self, oracle: &Oracle) -> Option<Action> {
        let spaces: Vec<Object> =
            oracle.objects.iter().map(|known| known.object).filter(|object| object.kind == ObjectKind::Space).collect();
        if spaces.is_empty() {
            return None;
        }
        let first = (self.random.pick(&spaces), self.key());
        let shard = shard_of_key(first.0.id.0, &first.1, self.shards);
        let mut places = vec![first];
        self.commits += 1;
        let across = self.commits.is_multiple_of(2);
        for _ in 0..16 {
            let place = (self.random.pick(&spaces), self.key());
            let new = !places.contains(&place) && places.len() < 4;
            if new && (across || shard_of_key(place.0.id.0, &place.1, self.shards) == shard) {
                places.push(place);
            }
        }
        let (reads, writes) = (self.random.below(4), self.random.below(4));
        let mut steps = Vec::new();
        for _ in 0..reads {
            let (space, key) = places[self.random.index(places.len())].clone();
            let known = oracle.version(space, &key);
            let version = if self.random.chance(40) { self.random.pick(&[0, 1]) } else { known };
            steps.push(Step { space, key, does: Does::Read(version) });
        }
        for _ in 0..writes.max(u64::from(reads == 0)) {
            let (space, key) = places[self.random.index(places.len())].clone();
            let large = self.value_bytes_max / 3;
            let does = match self.random.below(20) {
                0..4 => Does::Delete,
                4 => Does::Put(self.value_of(large)),
                _ => Does::Put(self.small_value()),
            };
            steps.push(Step { space, key, does });
        }
        let durabilities = [Durability::Memory, Durability::Buffered, Durability::Strict];
        let durability = self.random.chance(200).then(|| self.random.pick(&durabilities));
        let of_steps = steps.iter().map(|step| shard_of_key(step.space.id.0, &step.key, self.shards));
        let shard = of_steps.min().unwrap_or(shard);
        Some(Action::Commit { shard, steps, durability, relaxed: self.random.chance(300) })
    }

    /// A read of a snapshot.
    pub fn of_snapshot(&mut self, oracle: &Oracle, snapshot: u64) -> Action {
        let object = oracle.objects[self.random.index(oracle.objects.len())].object;
        match object.kind {
            ObjectKind::Stream => return Action::Extent { snapshot, stream: object },
            ObjectKind::Pages => return self.read_pages(object, Some(snapshot)),
            ObjectKind::Space => {}
        }
        if self.random.chance(700) {
            let value_bytes_max = if self.random.chance(50) { 20 } else { self.value_bytes_max };
            return Action::GetAt { snapshot, space: object, key: self.key(), value_bytes_max };
        }
        let shard = ShardId(crate::bytes::len_u32(self.random.index(self.shards as usize)));
        let prefix = if self.random.chance(500) { Vec::new() } else { vec![b'k'] };
        let limit = self.random.pick(&[0, 1, 3]);
        Action::ScanAt { snapshot, space: object, shard, prefix, limit, reply_bytes_max: 60_000 }
    }

    /// All of a snapshot.
    pub fn all_of_snapshot(&self, oracle: &Oracle, snapshot: u64) -> Vec<Action> {
        let shards = || (0..self.shards).map(ShardId);
        let of_object = |object: Object| -> Vec<Action> {
            if object.kind == ObjectKind::Stream {
                return vec![Action::Extent { snapshot, stream: object }];
            }
            if object.kind == ObjectKind::Pages {
                let read = |number| {
                    let (numbers, snapshot) = (vec![number], Some(snapshot));
                    Action::ReadPages { space: object, numbers, snapshot, relaxed: false }
                };
                return (0..PAGES).map(read).collect();
            }
            let (space, prefix, limit, reply_bytes_max) = (object, Vec::new(), 0, 60_000);
            let scan =
                |shard| Action::ScanAt { snapshot, space, shard, prefix: prefix.clone(), limit, reply_bytes_max };
            shards().map(scan).collect()
        };
        oracle.objects.iter().flat_map(|known| of_object(known.object)).collect()
    }

    fn on_stream(&mut self, oracle: &Oracle, stream: Object) -> Action {
        let (first, next) = oracle.extent(stream);
        let relaxed = self.random.chance(300);
        match self.random.below(100) {
            0..45 => {
                let how = Write { if_version: None, ..self.how(oracle, stream, &[]) };
                Action::Append { stream, events: vec![self.value()], batch: false, once: None, how }
            }
            45..60 => {
                let how = Write { if_version: None, ..self.how(oracle, stream, &[]) };
                let events = (0..1 + self.random.below(4)).map(|_| self.small_value()).collect();
                Action::Append { stream, events, batch: true, once: None, how }
            }
            60..75 if oracle.is_chained(stream) => {
                let from = self.random.between(first / 2, next);
                Action::ReadChain { stream, from, reply_bytes_max: self.random.pick(&[40, 60_000, 60_000]) }
            }
            60..90 => {
                let from = if self.random.chance(500) { next } else { self.random.between(first / 2, next) };
                let wait = Duration::from_nanos(self.random.pick(&[0, 0, 1_000, 400_000]));
                Action::Read { stream, from, wait, reply_bytes_max: 60_000, relaxed }
            }
            _ => Action::Trim { stream, before: self.random.between(first, next + 1) },
        }
    }

    fn key(&mut self) -> Vec<u8> {
        let number = self.random.below(KEYS);
        match number % 3 {
            0 => format!("k{number}").into_bytes(),
            1 => format!("key-{number}").into_bytes(),
            _ => vec![b'x'; 1 + crate::bytes::index(number * 7)],
        }
    }

    fn how(&mut self, oracle: &Oracle, object: Object, key: &[u8]) -> Write {
        let durabilities = [Durability::Memory, Durability::Buffered, Durability::Strict];
        let durability = self.random.chance(200).then(|| self.random.pick(&durabilities));
        let if_version = match self.random.below(8) {
            0 => Some(oracle.version(object, key)),
            1 => Some(self.random.pick(&[0, 1])),
            _ => None,
        };
        Write { durability, if_version, expires: None }
    }

    fn small_value(&mut self) -> Vec<u8> {
        let bytes = 8 + self.random.index(60);
        self.value_of(bytes)
    }

    fn value(&mut self) -> Vec<u8> {
        match self.random.below(100) {
            0..3 => Vec::new(),
            3..22 => {
                let bytes = 8 + self.random.index(self.value_bytes_max - 8 + 1);
                self.value_of(bytes)
            }
            _ => self.small_value(),
        }
    }

    /// Bytes that no other value has.
    pub fn value_of(&mut self, bytes: usize) -> Vec<u8> {
        self.tag += 1;
        let tag = self.tag.to_le_bytes();
        let filler = self.random.word().to_le_bytes();
        let mut value = Vec::with_capacity(bytes.max(8));
        value.extend_from_slice(&tag);
        value.extend(filler.iter().cycle().take(bytes.saturating_sub(8)));
        value
    }
}
