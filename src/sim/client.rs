//! A modelled client: the real client library over real rings, and the oracle beside it.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use forebay_sys::shm::SharedMap;

use crate::ring::client::{Client, ClientError, ClientParts, Creation, Object, Request, SubmitError};
use crate::ring::protocol::{ENTRY_BYTES, ENTRY_WORDS, EndReason, Status, Submission};
use crate::ring::segment::Layout;
use crate::ring::server::SessionId;
use crate::sim::action::{Action, PAGE};
use crate::sim::oracle::{Oracle, Verdict, ensure};
use crate::sim::random::Random;
use crate::sim::report::{Count, Counts};
use crate::types::{Compression, Durability, ObjectId, ObjectKind};

/// Whether an object of this name is a chained stream.
pub fn is_chained(name: &str) -> bool {
    name.starts_with("chained")
}

/// Number of the request that opens an object: never one of the oracle's.
const OPENING: u64 = u64::MAX;

pub struct Modelled {
    pub id: SessionId,
    client: Client,
    map: Arc<SharedMap>,
    layout: Layout,
    /// Submitted so far, by reactor.
    submitted: Vec<u64>,
    /// Where replies may be written, by operation.
    rooms: BTreeMap<u64, (usize, usize)>,
    /// Those of them that are commits, and whether over several shards.
    commits: BTreeMap<u64, bool>,
    arena: Vec<u8>,
    reply: Vec<u8>,
    opening: Option<Object>,
    opened: Option<Object>,
}

impl Modelled {
    pub fn new(id: SessionId, parts: ClientParts) -> Verdict<Modelled> {
        let map = parts.map.clone();
        let layout = Layout::read_from(&map)?;
        let client = Client::from_parts(parts, Duration::ZERO).map_err(|error| error.to_string())?;
        let submitted = vec![0; layout.shape.reactors as usize];
        let (rooms, commits, arena, reply) = (BTreeMap::new(), BTreeMap::new(), Vec::new(), Vec::new());
        Ok(Modelled { id, client, map, layout, submitted, rooms, commits, arena, reply, opening: None, opened: None })
    }

    pub fn in_flight(&self) -> u64 {
        self.client.in_flight() as u64
    }

    /// Asks, if the ring has room. Says whether it had.
    pub fn ask(&mut self, oracle: &mut Oracle, action: &Rc<Action>) -> Verdict<bool> {
        let number = oracle.ask(self.id, action.clone());
        let submitted = action.with_request(|request| self.client.submit(number, request));
        match submitted {
            Ok(()) => {
                let shards = self.layout.shape.shards;
                let reactor = match &**action {
                    Action::Sync { reactor } => *reactor,
                    action => action.shard(shards).map_or(0, |shard| shard.0 % self.layout.shape.reactors),
                };
                self.note_room(number, reactor)?;
                if let Action::Commit { .. } = **action {
                    self.commits.insert(number, action.is_across(shards));
                }
                Ok(true)
            }
            Err(SubmitError::Full) => {
                oracle.retract(number);
                Ok(false)
            }
            Err(SubmitError::Client(error)) => Err(format!("an honest request was refused: {error}; {action:?}")),
        }
    }

    /// The place in a submission ring that is written next.
    fn entry_at(&self, reactor: u32, position: u64) -> usize {
        let ring = self.layout.submissions(reactor);
        ring.entries_offset + crate::bytes::index(position % u64::from(ring.entries)) * ENTRY_BYTES
    }

    /// Looks into the ring for where the reply of what was just submitted goes.
    fn note_room(&mut self, number: u64, reactor: u32) -> Verdict {
        let position = self.submitted[reactor as usize];
        self.submitted[reactor as usize] += 1;
        let mut bytes = [0; ENTRY_BYTES];
        self.map.read(self.entry_at(reactor, position), &mut bytes).map_err(|error| error.to_string())?;
        let words: [u64; ENTRY_WORDS] = std::array::from_fn(|word| crate::bytes::get_u64(&bytes, word * 8));
        let submission = Submission::from_words(&words);
        let room = (crate::bytes::index(submission.reply_offset), submission.reply_bytes_max as usize);
        self.rooms.insert(number, room);
        Ok(())
    }

    /// Takes every answer that is there.
    pub fn take_answers(&mut self, oracle: &mut Oracle, now_ns: u64, counts: &Counts) -> Verdict {
        loop {
            let answer = match self.client.poll(&mut self.reply) {
                Ok(Some(answer)) => answer,
                // Once in some thousand looks it sees that the daemon stops in good order.
                Ok(None) | Err(ClientError::Ended(EndReason::Stopping)) => return Ok(()),
                Err(error) => return Err(format!("an honest client: {error}")),
            };
            counts.add(Count::Acknowledgements);
            counts.add_many(Count::NoSpace, u64::from(answer.status == Status::NoSpace));
            if answer.user_data == OPENING {
                let id = u32::try_from(answer.version).map_err(|error| error.to_string())?;
                self.opening = self.opening.take().map(|object| Object { id: ObjectId(id), ..object });
                self.opened = self.opening.take().filter(|_| answer.status == Status::Ok);
                continue;
            }
            self.rooms.remove(&answer.user_data);
            if let Some(across) = self.commits.remove(&answer.user_data) {
                counts.add_many(Count::CommitsAcross, u64::from(across && answer.status == Status::Ok));
                counts.add_many(Count::Commits, u64::from(answer.status == Status::Ok));
                counts.add_many(Count::Conflicts, u64::from(answer.status == Status::Conflict));
            }
            oracle.answer(answer.user_data, &answer, &self.reply, now_ns)?;
        }
    }

    /// Asks for an object by name.
    pub fn open(&mut self, name: &str, kind: ObjectKind, durability: Durability) -> Verdict {
        self.opening = Some(Object { id: ObjectId(0), kind, durability, compression: Compression::None });
        self.submitted[0] += 1;
        let create = Creation { chained: is_chained(name), ..Creation::from(durability) };
        let request = match kind {
            ObjectKind::Pages => Request::OpenPages { name, create: Some((PAGE, durability)) },
            ObjectKind::Space | ObjectKind::Stream => Request::Open { name, kind, create: Some(create) },
        };
        self.client.submit(OPENING, &request).map_err(|error| error.to_string())
    }

    /// Whether the answer to that is still to come.
    pub fn is_opening(&self) -> bool {
        self.opening.is_some()
    }

    /// The object that was asked for, if it was granted.
    pub fn take_opened(&mut self) -> Option<Object> {
        self.opened.take()
    }

    /// Remembers the arena as it is before a turn.
    pub fn look(&mut self) {
        self.arena.clear();
        let bytes = crate::bytes::index(self.layout.shape.arena_bytes);
        self.map.read_append(self.layout.arena_offset(), bytes, &mut self.arena).expect("the arena lies in the map");
    }

    /// Holds the arena after a turn against what it was: only rooms for replies may have changed.
    pub fn look_again(&mut self) -> Verdict {
        let before = std::mem::take(&mut self.arena);
        self.look();
        if before == self.arena {
            return Ok(());
        }
        let changed = before.iter().zip(&self.arena).enumerate().filter(|(_, (old, new))| old != new).map(|(at, _)| at);
        for at in changed {
            let inside = self.rooms.values().any(|(offset, bytes)| (*offset..offset + bytes).contains(&at));
            ensure!(inside, "byte {at} of a client's arena changed, and no reply has its room there");
        }
        Ok(())
    }

    /// Writes half of an entry, as one who dies in the middle of it.
    pub fn publish_half(&self, random: &mut Random) {
        let reactor = crate::bytes::len_u32(random.index(self.submitted.len()));
        let at = self.entry_at(reactor, self.submitted[reactor as usize]);
        let bytes: Vec<u8> = (0..ENTRY_WORDS).flat_map(|_| random.word().to_le_bytes()).collect();
        let half = 8 * (1 + random.index(ENTRY_WORDS));
        self.map.write(at, &bytes[..half]).expect("the entry lies in the map");
    }
}
