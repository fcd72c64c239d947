//! A connection to the daemon: one ring pair a reactor, for one thread.
//!
//! `submit` and `poll` pipeline; the blocking calls stand on top of them. Both may be mixed: answers to pipelined
//! requests that come during a blocking call are kept for the next `poll`.

mod answer;
mod arena;
mod calls;
mod chain;
mod codec;
mod compression;
mod connect;
mod cursors;
#[cfg(feature = "zstd")]
mod delta;
mod error;
mod link;
mod pages;
mod reply;
mod request;
mod retention;
mod scan;
mod slots;
mod snapshot;
mod transaction;

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use forebay_sys::cpu;
use forebay_sys::net::{EventFd, PollFd, PollFlags, Socket, wait};
use forebay_sys::shm::SharedMap;

use super::protocol::{self, AUX_MORE, BATCH_HEADER_BYTES, Completion, PLAIN_HEADER_BYTES, Status, notice, to_usize};
use super::segment::{self, Layout};
use crate::timing;
use crate::types::{Compression, Lineage, ObjectId};
use arena::Arena;
use compression::Compressor;
use link::Link;
use request::{Form, Payload, Plan};
use slots::{Flight, Owner, Slots};

pub use super::protocol::commit::{Entry, What};
pub use answer::Answer;
pub use chain::{ChainCheck, Head, Verified};
pub use compression::CompressionStats;
pub use connect::{ConnectOptions, resume};
#[cfg(feature = "zstd")]
pub use delta::{DeltaSpace, DeltaStats};
pub use error::{ClientError, SubmitError};
pub use pages::{FoundPage, Pages, pages};
pub use reply::{Listed, chain_events, cursors, events, listed, pairs};
pub use request::{Creation, CursorMove, Object, Once, Request, Snapshot, Version, Write};
pub use retention::Retention;
pub use scan::{Pair, ScanPage, ScanRange};
pub use transaction::{Retry, Transaction};

/// How many fruitless polls pass between two looks at whether the daemon is still there.
const POLLS_PER_LIFE_SIGN: u32 = 4_096;
const LINE_BYTES: u64 = protocol::CACHE_LINE_BYTES as u64;

/// What makes a session: from the handshake, or from `server::pair_in_process`.
#[derive(Debug)]
pub struct ClientParts {
    pub map: Arc<SharedMap>,
    pub connection: Socket,
    /// One a reactor, in their order.
    pub doorbells: Vec<EventFd>,
}

/// An answer as it came from the ring, with whom it is for, and how its reply is stored.
#[derive(Clone, Copy, Debug)]
struct Found {
    owner: Owner,
    answer: Answer,
    form: Form,
}

/// One connection. It may move to another thread, but only one thread may use it.
#[derive(Debug)]
pub struct Client {
    map: Arc<SharedMap>,
    connection: Socket,
    layout: Layout,
    links: Vec<Link>,
    arena: Arena,
    slots: Slots,
    /// Answers to pipelined requests that came while a blocking call waited.
    stashed: VecDeque<(Found, Vec<u8>)>,
    next_link: usize,
    next_call: u64,
    ticket: u32,
    polls: u32,
    lost: bool,
    /// The last look found an answer.
    burst: bool,
    spin: Duration,
    /// What a value is expected to need; grows with what was seen.
    value_bytes: usize,
    compressor: Compressor,
    /// Room for the stored form of one value or reply.
    stored: Vec<u8>,
    _one_thread: PhantomData<Cell<()>>,
}

impl Client {
    /// A session over memory that both sides hold already. `connect` uses it after the handshake; a program that holds
    /// the daemon's side in itself (tests, the simulator) calls it with what `server::pair_in_process` gave. `spin` is
    /// how long blocking waits poll before they sleep.
    ///
    /// # Errors
    /// `Broken` when the segment does not hold what its header tells.
    pub fn from_parts(parts: ClientParts, spin: Duration) -> Result<Client, ClientError> {
        let ClientParts { map, connection, doorbells } = parts;
        let layout = Layout::read_from(&map).map_err(ClientError::Broken)?;
        if doorbells.len() != layout.shape.reactors as usize {
            return Err(ClientError::Broken("the number of eventfds is not the number of reactors".into()));
        }
        let links = doorbells
            .into_iter()
            .zip(0..)
            .map(|(doorbell, reactor)| Link::new(&map, &layout, reactor, doorbell))
            .collect::<Result<Vec<Link>, ClientError>>()?;
        Ok(Client {
            map,
            connection,
            layout,
            links,
            arena: Arena::new(layout.shape.arena_bytes),
            slots: Slots::default(),
            stashed: VecDeque::new(),
            next_link: 0,
            next_call: 0,
            ticket: 0,
            polls: 0,
            lost: false,
            burst: false,
            spin,
            value_bytes: 4_096,
            compressor: Compressor::default(),
            stored: Vec::new(),
            _one_thread: PhantomData,
        })
    }

    #[must_use]
    pub fn reactors(&self) -> u32 {
        self.layout.shape.reactors
    }

    #[must_use]
    pub fn shards(&self) -> u32 {
        self.layout.shape.shards
    }

    #[must_use]
    pub fn key_bytes_max(&self) -> usize {
        self.layout.shape.key_bytes_max as usize
    }

    #[must_use]
    pub fn value_bytes_max(&self) -> usize {
        self.layout.shape.value_bytes_max as usize
    }

    /// The largest value that `object` takes: in a space with compression a byte less than elsewhere.
    #[must_use]
    pub fn value_bytes_max_in(&self, object: Object) -> usize {
        let header = if object.compression == Compression::None { 0 } else { PLAIN_HEADER_BYTES };
        self.value_bytes_max().saturating_sub(header)
    }

    /// Which appliance it is connected to.
    #[must_use]
    pub fn lineage(&self) -> Lineage {
        self.layout.shape.lineage
    }

    /// What this client did with the values that it put into spaces with compression.
    #[must_use]
    pub fn compression_stats(&self) -> CompressionStats {
        self.compressor.stats
    }

    /// Requests whose answer was not yet handed out.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.in_flight() + self.stashed.len()
    }

    /// Publishes a request. Never blocks and makes no system call: a sleeping reactor is rung by the next `poll`, `flush`
    /// or `wait`.
    ///
    /// # Errors
    /// `Full` when there is no room before some answer is taken; else why the request or the session is no good.
    pub fn submit(&mut self, user_data: u64, request: &Request<'_>) -> Result<(), SubmitError> {
        self.submit_for(Owner::User, user_data, request)
    }

    fn submit_for(&mut self, owner: Owner, user_data: u64, request: &Request<'_>) -> Result<(), SubmitError> {
        if self.lost {
            return Err(self.loss().into());
        }
        match *request {
            Request::Put { space, key, value, how } if space.compression != Compression::None => {
                if value.len() > self.value_bytes_max_in(space) {
                    return Err(ClientError::Status(Status::TooLarge).into());
                }
                let plan = Plan::new(request, self.shards(), self.reactors())?;
                if !self.links[plan.reactor as usize].has_room()? {
                    // Before any work is done for it.
                    return Err(SubmitError::Full);
                }
                let mut stored = std::mem::take(&mut self.stored);
                let encoded = self.compressor.encode(space, value, &mut stored);
                let put = Request::Put { space, key, value: &stored[..encoded.bytes], how };
                let result = self.publish(owner, user_data, &put);
                self.stored = stored;
                result.inspect(|()| self.compressor.count(space, encoded))
            }
            _ => self.publish(owner, user_data, request),
        }
    }

    fn publish(&mut self, owner: Owner, user_data: u64, request: &Request<'_>) -> Result<(), SubmitError> {
        let begun = timing::now();
        let mut plan = Plan::new(request, self.shards(), self.reactors())?;
        let link = &mut self.links[plan.reactor as usize];
        if !link.has_room()? {
            return Err(SubmitError::Full);
        }
        let key_bytes = plan.key.len() as u64;
        let payload_bytes = key_bytes + u64::from(plan.submission.value_bytes);
        let reply_bytes_max = plan.submission.reply_bytes_max;
        let reply_at = payload_bytes.next_multiple_of(LINE_BYTES);
        let needed = reply_at + u64::from(reply_bytes_max);
        let block = match needed {
            0 => None,
            _ if needed > self.arena.block_bytes_max() => {
                return Err(ClientError::ArenaTooSmall { needed, block_bytes_max: self.arena.block_bytes_max() }.into());
            }
            _ => Some(self.arena.take(needed).ok_or(SubmitError::Full)?),
        };
        let offset = block.map_or(0, |block| block.offset);
        let reply_offset = if reply_bytes_max == 0 { 0 } else { offset + reply_at };
        plan.submission.payload_offset = offset;
        plan.submission.reply_offset = reply_offset;
        self.write_payload(offset, &plan);
        let (reactor, form) = (plan.reactor, plan.form);
        let flight = Flight { owner, user_data, reactor, form, block, reply_offset, reply_bytes_max };
        plan.submission.user_data = self.slots.take(flight);
        timing::submitted(plan.submission.user_data, begun);
        Ok(self.links[plan.reactor as usize].submit(&plan.submission)?)
    }

    fn write_payload(&self, offset: u64, plan: &Plan<'_>) {
        let mut at = self.layout.arena_offset() + to_usize(offset);
        let mut put = |bytes: &[u8]| {
            self.map.write(at, bytes).expect("the block lies inside the arena, and holds the payload");
            at += bytes.len();
        };
        put(plan.key);
        match plan.payload {
            Payload::Bytes(bytes) => put(bytes),
            Payload::Entries(entries) => entries.iter().for_each(|entry| entry.encode(&mut put)),
            Payload::Page(page) => {
                let (object, key) = (ObjectId(plan.submission.object), plan.submission.arg0.to_be_bytes());
                Entry { object, key: &key, what: What::Put(page) }.encode(&mut put);
            }
            Payload::Numbers(numbers) => numbers.iter().for_each(|number| put(&number.to_le_bytes())),
            Payload::Batch(events) => {
                for event in events {
                    let bytes: [u8; BATCH_HEADER_BYTES] = protocol::low_u32(event.len() as u64).to_le_bytes();
                    put(&bytes);
                    put(event);
                }
            }
        }
    }

    /// An answer, if one is there. `reply` is cleared and filled with the reply's bytes; it is allocated only if its
    /// capacity does not suffice. Rings reactors that sleep over what was submitted; a reactor that falls asleep at
    /// this very moment is rung for certain only by a poll that found nothing, by `flush` and by `wait`. So poll until
    /// nothing is there, or flush, before turning to other things. Does not block.
    ///
    /// # Errors
    /// The session is over; or the daemon broke the protocol. `BadValue` is the answer to one request, which it names:
    /// the session goes on.
    pub fn poll(&mut self, reply: &mut Vec<u8>) -> Result<Option<Answer>, ClientError> {
        if let Some(found) = self.unstash(reply) {
            return self.hand_out(&found, reply).map(Some);
        }
        loop {
            match self.poll_any(reply)? {
                Some(found) if found.owner == Owner::User => return self.hand_out(&found, reply).map(Some),
                // A blocking call gave up on it.
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    fn unstash(&mut self, reply: &mut Vec<u8>) -> Option<Found> {
        let (found, bytes) = self.stashed.pop_front()?;
        *reply = bytes;
        Some(found)
    }

    /// The answer, with the values in its reply as they were given.
    fn hand_out(&mut self, found: &Found, reply: &mut Vec<u8>) -> Result<Answer, ClientError> {
        let mut answer = found.answer;
        if found.form == Form::Plain || answer.status != Status::Ok {
            return Ok(answer);
        }
        std::mem::swap(reply, &mut self.stored);
        reply.clear();
        let value_bytes_max = self.value_bytes_max();
        let named = |error: ClientError| error.of_request(answer.user_data);
        if found.form == Form::Value {
            let decoded = self.compressor.decode(&self.stored, value_bytes_max, reply);
            decoded.map_err(|cause| named(ClientError::bad_value(None, cause)))?;
        } else {
            let (pairs, cut) = self.compressor.decode_pairs(&self.stored, value_bytes_max, reply).map_err(named)?;
            answer.aux = pairs | if cut { AUX_MORE } else { answer.aux & AUX_MORE };
        }
        Ok(answer)
    }

    fn poll_any(&mut self, reply: &mut Vec<u8>) -> Result<Option<Found>, ClientError> {
        let found = self.look(reply)?;
        if found.is_none() {
            self.polls = self.polls.wrapping_add(1);
            if self.polls.is_multiple_of(POLLS_PER_LIFE_SIGN) {
                // An answer may have come before the end: it is found by the next poll.
                self.hear()?;
            }
        }
        Ok(found)
    }

    /// Takes an answer out of the rings, and leaves what came on the socket there.
    fn look(&mut self, reply: &mut Vec<u8>) -> Result<Option<Found>, ClientError> {
        for _ in 0..self.links.len() {
            let index = self.next_link;
            self.next_link = if index + 1 == self.links.len() { 0 } else { index + 1 };
            if let Some(completion) = self.links[index].pop()? {
                if self.burst && completion.reply_bytes > 0 {
                    self.look_ahead(index);
                }
                self.burst = true;
                self.links.iter_mut().filter(|link| link.unflushed()).for_each(Link::ring_if_asleep);
                return self.finish(index, &completion, reply).map(Some);
            }
        }
        self.burst = false;
        self.flush();
        if self.lost {
            return Err(self.loss());
        }
        Ok(None)
    }

    /// Asks for the reply of the next answer while this one is worked on: the reactor's core has it. Within a burst it is likely
    /// there, and where this one has a reply that one probably has one too.
    #[inline(never)]
    fn look_ahead(&self, link: usize) {
        let Some(flight) = self.slots.look(self.links[link].glance()) else { return };
        let reply = self.layout.arena_offset() + to_usize(flight.reply_offset);
        for line in (0..to_usize(u64::from(flight.reply_bytes_max))).step_by(to_usize(LINE_BYTES)).take(2) {
            self.map.prefetch(reply + line);
        }
    }

    fn finish(&mut self, link: usize, completion: &Completion, reply: &mut Vec<u8>) -> Result<Found, ClientError> {
        let broken = |what: &str| ClientError::Broken(what.into());
        let flight = self
            .slots
            .give(completion.user_data, protocol::low_u32(link as u64))
            .ok_or_else(|| broken("an answer belongs to no request in flight"))?;
        timing::seen(completion.user_data);
        let status = Status::from_wire(completion.status).ok_or_else(|| broken("an answer has an unknown status"))?;
        if completion.reply_bytes > flight.reply_bytes_max {
            return Err(broken("a reply is longer than the room given for it"));
        }
        reply.clear();
        let at = self.layout.arena_offset() + to_usize(flight.reply_offset);
        self.map
            .read_append(at, completion.reply_bytes as usize, reply)
            .expect("the block lies inside the arena, and the reply inside the block");
        if let Some(block) = flight.block {
            self.arena.give(block);
        }
        let Completion { version, aux, lsn, .. } = *completion;
        let answer = Answer { user_data: flight.user_data, status, version, aux, lsn };
        Ok(Found { owner: flight.owner, answer, form: flight.form })
    }

    /// Rings every reactor that sleeps over what was submitted. Costs one fence if something was; a system call only for
    /// a reactor that sleeps.
    pub fn flush(&mut self) {
        if self.links.iter().any(Link::unflushed) {
            // Either this sees that the reactor sleeps, or the reactor, before it sleeps, sees the requests.
            fence(Ordering::SeqCst);
            for link in self.links.iter_mut().filter(|link| link.unflushed()) {
                link.ring_if_asleep();
                link.flushed();
            }
        }
    }

    /// The next answer, as `poll`. Blocks: spins for the configured time, then sleeps until the daemon wakes it.
    ///
    /// # Errors
    /// As `poll`; `NothingInFlight` instead of waiting for ever.
    pub fn wait(&mut self, reply: &mut Vec<u8>) -> Result<Answer, ClientError> {
        if let Some(found) = self.unstash(reply) {
            return self.hand_out(&found, reply);
        }
        loop {
            let found = self.wait_any(reply)?;
            if found.owner == Owner::User {
                return self.hand_out(&found, reply);
            }
        }
    }

    fn wait_any(&mut self, reply: &mut Vec<u8>) -> Result<Found, ClientError> {
        if self.slots.in_flight() == 0 {
            return Err(if self.lost { self.loss() } else { ClientError::NothingInFlight });
        }
        let mut spun_since = None;
        loop {
            for _ in 0..64 {
                if let Some(found) = self.poll_any(reply)? {
                    return Ok(found);
                }
                // An answer from memory comes within the first round, and a pause of some 25 ns would only delay it.
                if spun_since.is_some() {
                    cpu::pause();
                }
            }
            let now = Instant::now();
            if now.duration_since(*spun_since.get_or_insert(now)) < self.spin {
                continue;
            }
            if let Some(found) = self.sleep(reply)? {
                return Ok(found);
            }
            spun_since = None;
        }
    }

    /// Sleeps until the daemon wakes this client or is gone.
    fn sleep(&mut self, reply: &mut Vec<u8>) -> Result<Option<Found>, ClientError> {
        self.ticket = self.ticket.wrapping_add(1).max(1);
        self.links.iter().for_each(|link| link.set_need_wakeup(self.ticket));
        // Either the daemon sees the ticket after it posted, or this sees what it posted. A wake-up that came already stays
        // on the socket: a ticket is answered once.
        fence(Ordering::SeqCst);
        let found = self.look(reply);
        if matches!(found, Ok(None)) && !self.lost {
            wait(&mut [PollFd::new(&self.connection, PollFlags::IN)], None)?;
        }
        self.links.iter().for_each(|link| link.set_need_wakeup(0));
        self.hear()?;
        found
    }

    /// Reads what came on the socket: wake-ups, or the end.
    fn hear(&mut self) -> Result<(), ClientError> {
        let mut message = [0u8; protocol::welcome::BYTES];
        while !self.lost {
            match self.connection.receive(&mut message) {
                Ok(1) if message[0] == notice::WAKE => {}
                Ok(_) => self.lost = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => self.lost = true,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Why the session is over.
    fn loss(&self) -> ClientError {
        segment::end_reason(&self.map).map_or(ClientError::Disconnected, ClientError::Ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::segment::Shape;

    /// The daemon answers a sleep once: who takes its wake-up off the socket before the wait would sleep for ever.
    #[test]
    fn the_last_look_before_a_sleep_leaves_the_wake_up_where_it_is() {
        let shape = Shape {
            reactors: 1,
            sq_entries: 16,
            cq_entries: 16,
            arena_bytes: 1 << 20,
            shards: 1,
            key_bytes_max: 1_024,
            value_bytes_max: 4_096,
            lineage: crate::types::Lineage::NONE,
        };
        let layout = Layout::new(shape).unwrap();
        let (_, map) = SharedMap::create_sealed(c"forebay-test", layout.bytes()).unwrap();
        layout.write_to(&map).unwrap();
        let (connection, daemon) = Socket::pair().unwrap();
        let parts = ClientParts { map: Arc::new(map), connection, doorbells: vec![EventFd::new().unwrap()] };
        let mut client = Client::from_parts(parts, Duration::ZERO).unwrap();
        client.submit(1, &Request::Noop { reactor: 0 }).unwrap();
        client.polls = POLLS_PER_LIFE_SIGN - 1;
        daemon.send(&[notice::WAKE], &[]).unwrap();
        let (done, finished) = std::sync::mpsc::channel();
        std::thread::spawn(move || done.send(client.sleep(&mut Vec::new()).is_ok_and(|found| found.is_none())));
        assert_eq!(finished.recv_timeout(Duration::from_secs(20)), Ok(true), "the wake-up is lost");
    }
}
