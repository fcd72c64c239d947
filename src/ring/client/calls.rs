//! Blocking calls on top of `submit` and `poll`.

use std::time::Duration;

use crate::ring::protocol::stats::{self, About};
use crate::ring::protocol::{AUX_MORE, Status, name_is_valid, to_usize};
use crate::types::{Compression, Durability, ObjectId, ObjectKind};

use super::reply::{events, objects};
use super::slots::Owner;
use super::{Answer, Client, ClientError, Creation, Object, Once, Request, SubmitError, Version, Write};

/// Room asked for where the size of the reply is anyone's guess. A larger one is asked for again.
pub(super) const REPLY_BYTES: usize = 64 << 10;

impl Client {
    /// Finds a space by name; with `create`, makes it with that default durability where it is absent.
    ///
    /// # Errors
    /// `UnknownObject`, `WrongKind`, `BadName`, `TooManyObjects`; else as `wait`.
    pub fn open_space(&mut self, name: &str, create: Option<Durability>) -> Result<Object, ClientError> {
        self.open(name, ObjectKind::Space, create.map(Creation::from))
    }

    /// Finds a space by name, or makes it as `creation` says. One that is there stays as it is: look at what was given.
    ///
    /// # Errors
    /// As `open_space`.
    pub fn create_space(&mut self, name: &str, creation: Creation) -> Result<Object, ClientError> {
        self.open(name, ObjectKind::Space, Some(creation))
    }

    /// Finds or makes a stream, as `open_space`.
    ///
    /// # Errors
    /// As `open_space`.
    pub fn open_stream(&mut self, name: &str, create: Option<Durability>) -> Result<Object, ClientError> {
        self.open(name, ObjectKind::Stream, create.map(Creation::from))
    }

    fn open(&mut self, name: &str, kind: ObjectKind, create: Option<Creation>) -> Result<Object, ClientError> {
        self.open_by(name, &Request::Open { name, kind, create }).map(|(object, _)| object)
    }

    /// Opens by such a request. Gives the attributes of the object too.
    pub(super) fn open_by(&mut self, name: &str, request: &Request<'_>) -> Result<(Object, u64), ClientError> {
        if !name_is_valid(name.as_bytes()) {
            return Err(ClientError::BadName);
        }
        let answer = match self.call(request)?.0.ok() {
            Err(ClientError::Status(Status::BadRequest)) => return Err(ClientError::BadName),
            // A name has no size but the one above.
            Err(ClientError::Status(Status::TooLarge)) => return Err(ClientError::TooManyObjects),
            answer => answer?,
        };
        let [kind, durability, _, form, ..] = answer.aux.to_le_bytes();
        let broken = || ClientError::Broken("an opened object has no kind, durability, compression or number".into());
        let kind = ObjectKind::from_wire(kind).ok_or_else(broken)?;
        let form = if kind == ObjectKind::Pages { Compression::None as u8 } else { form };
        let object = Object {
            id: ObjectId(u32::try_from(answer.version).map_err(|_| broken())?),
            kind,
            durability: Durability::from_wire(durability).ok_or_else(broken)?,
            compression: Compression::from_wire(form).ok_or_else(broken)?,
        };
        Ok((object, answer.aux))
    }

    /// All spaces and streams, in the order of their creation.
    ///
    /// # Errors
    /// As `wait`.
    pub fn catalog(&mut self) -> Result<Vec<(String, Object)>, ClientError> {
        let mut all: Vec<(String, Object)> = Vec::new();
        loop {
            let after = all.last().map_or(ObjectId(0), |(_, object)| object.id);
            let (answer, reply) = self.call(&Request::Catalog { after, reply_bytes_max: REPLY_BYTES })?;
            let answer = answer.ok()?;
            for item in objects(&reply) {
                let (name, object) = item?;
                all.push((name.to_owned(), object));
            }
            if answer.aux & AUX_MORE == 0 {
                return Ok(all);
            }
            if all.last().is_none_or(|(_, object)| object.id <= after) {
                return Err(ClientError::Broken("a catalog that has more does not go on".into()));
            }
        }
    }

    /// Writes a pair. The new version.
    ///
    /// # Errors
    /// `VersionMismatch` with `if_version`; else as `wait`.
    pub fn put(&mut self, space: Object, key: &[u8], value: &[u8], how: Write) -> Result<Version, ClientError> {
        Ok(self.call(&Request::Put { space, key, value, how })?.0.ok()?.version)
    }

    /// The value of a key and its version, `None` when it is absent.
    ///
    /// # Errors
    /// As `wait`.
    pub fn get(&mut self, space: Object, key: &[u8]) -> Result<Option<(Version, Vec<u8>)>, ClientError> {
        loop {
            let request = Request::Get { space, key, relaxed: false, value_bytes_max: self.value_bytes };
            let (answer, value) = self.call(&request)?;
            match answer.status {
                Status::NotFound => return Ok(None),
                Status::ReplyTooSmall => self.value_bytes = larger_reply(self.value_bytes, answer.aux)?,
                _ => return Ok(Some((answer.ok()?.version, value))),
            }
        }
    }

    /// Deletes a key. Whether it was there.
    ///
    /// # Errors
    /// As `put`.
    pub fn delete(&mut self, space: Object, key: &[u8], how: Write) -> Result<bool, ClientError> {
        let (answer, _) = self.call(&Request::Delete { space, key, how })?;
        if answer.status == Status::NotFound {
            return Ok(false);
        }
        answer.ok().map(|_| true)
    }

    /// Appends one event. Its offset.
    ///
    /// # Errors
    /// As `wait`.
    pub fn append(&mut self, stream: Object, event: &[u8], how: Write) -> Result<u64, ClientError> {
        Ok(self.call(&Request::Append { stream, event, how })?.0.ok()?.version)
    }

    /// Appends all the events or none. The offset of the first; the others follow without a hole.
    ///
    /// # Errors
    /// As `wait`.
    pub fn append_batch(&mut self, stream: Object, events: &[&[u8]], how: Write) -> Result<u64, ClientError> {
        Ok(self.call(&Request::AppendBatch { stream, events, how })?.0.ok()?.version)
    }

    /// Appends one event, however often it is tried. Its offset.
    ///
    /// # Errors
    /// `OutOfSequence`; else as `wait`.
    pub fn append_once(&mut self, stream: Object, once: Once, event: &[u8], how: Write) -> Result<u64, ClientError> {
        self.append_batch_once(stream, once, &[event], how)
    }

    /// Appends all the events or none, however often it is tried. The offset of the first.
    ///
    /// # Errors
    /// `OutOfSequence`; else as `wait`.
    pub fn append_batch_once(
        &mut self,
        stream: Object,
        once: Once,
        events: &[&[u8]],
        how: Write,
    ) -> Result<u64, ClientError> {
        Ok(self.call(&Request::AppendOnce { stream, once, events, how })?.0.ok()?.version)
    }

    /// Some events from an offset on, with their offsets; with `wait`, waits at most so long for the first. Empty when
    /// there is none.
    ///
    /// # Errors
    /// `Trimmed` when the stream begins later; else as `wait`.
    pub fn read(
        &mut self,
        stream: Object,
        from: u64,
        wait: Option<Duration>,
    ) -> Result<Vec<(u64, Vec<u8>)>, ClientError> {
        let wait = wait.unwrap_or(Duration::ZERO);
        let mut reply_bytes_max = REPLY_BYTES;
        loop {
            let request = Request::Read { stream, from, wait, reply_bytes_max, relaxed: false };
            let (answer, reply) = self.call(&request)?;
            match answer.status {
                Status::TimedOut => return Ok(Vec::new()),
                Status::ReplyTooSmall => reply_bytes_max = larger_reply(reply_bytes_max, answer.aux)?,
                _ => {
                    answer.ok()?;
                    return events(&reply).map(|event| event.map(|(offset, event)| (offset, event.to_vec()))).collect();
                }
            }
        }
    }

    /// Forgets all events below an offset.
    ///
    /// # Errors
    /// As `wait`.
    pub fn trim(&mut self, stream: Object, before: u64) -> Result<(), ClientError> {
        self.call(&Request::Trim { stream, before })?.0.ok().map(|_| ())
    }

    /// Makes a stream that never had an event begin at an offset: one that is restored. `head` is that before the offset
    /// where events are linked, else empty.
    ///
    /// # Errors
    /// `BadRequest` when it had events; else as `wait`.
    pub fn begin_stream(&mut self, stream: Object, at: u64, head: &[u8]) -> Result<(), ClientError> {
        let answer = self.call(&Request::Begin { stream, at, head })?.0.ok()?;
        // An older daemon takes it for a trim of nothing.
        if answer.version == at { Ok(()) } else { Err(ClientError::Status(Status::BadRequest)) }
    }

    /// Waits until all that any reactor took before is durable on the drive.
    ///
    /// # Errors
    /// As `wait`.
    pub fn sync(&mut self) -> Result<(), ClientError> {
        let requests: Vec<Request<'_>> = (0..self.reactors()).map(|reactor| Request::Sync { reactor }).collect();
        self.call_all(&requests)?.into_iter().try_for_each(|(answer, _)| answer.ok().map(|_| ()))
    }

    /// The counters of every reactor, in their order: see `stats::NAMES`.
    ///
    /// # Errors
    /// As `wait`.
    pub fn stats(&mut self) -> Result<Vec<Vec<u64>>, ClientError> {
        let answers = self.stats_about(About::Reactor, ObjectId(0))?;
        Ok(answers.into_iter().map(|(words, _)| words).collect())
    }

    /// What every shard holds, in their order: see `stats::SHARD_NAMES`.
    ///
    /// # Errors
    /// As `wait`.
    pub fn shard_stats(&mut self) -> Result<Vec<Vec<u64>>, ClientError> {
        let answers = self.stats_about(About::Shards, ObjectId(0))?;
        let mut shards: Vec<Vec<u64>> = answers.iter().flat_map(rows).collect();
        shards.sort_unstable_by_key(|words| words.first().copied());
        Ok(shards)
    }

    /// What every space and stream holds, in the order of their creation: see `stats::OBJECT_NAMES`.
    ///
    /// # Errors
    /// As `wait`.
    pub fn object_stats(&mut self) -> Result<Vec<Vec<u64>>, ClientError> {
        let (mut all, mut after): (Vec<Vec<u64>>, _) = (Vec::new(), ObjectId(0));
        loop {
            let answers = self.stats_about(About::Objects, after)?;
            // All reactors know the same objects, but for one that was made a moment ago.
            let known = answers.iter().map(|answer| rows(answer).count()).min().unwrap_or(0);
            let more = answers.iter().any(|(_, aux)| aux & AUX_MORE != 0);
            let begin = all.len();
            for answer in &answers {
                for (at, words) in rows(answer).take(known).enumerate() {
                    match all.get_mut(begin + at) {
                        Some(sum) => merge(sum, &words),
                        None => all.push(words),
                    }
                }
            }
            let last =
                all.get(begin..).and_then(<[_]>::last).and_then(|words| u32::try_from(words[stats::OBJECT]).ok());
            match last.filter(|_| more) {
                Some(last) => after = ObjectId(last),
                None => return Ok(all),
            }
        }
    }

    /// The words that each reactor answers with, and its `aux`.
    fn stats_about(&mut self, about: About, after: ObjectId) -> Result<Vec<(Vec<u64>, u64)>, ClientError> {
        let requests: Vec<Request<'_>> =
            (0..self.reactors()).map(|reactor| Request::Stats { reactor, about, after }).collect();
        let answers = self.call_all(&requests)?.into_iter();
        let words = answers.map(|(answer, reply)| {
            let aux = answer.ok()?.aux;
            let (words, rest) = reply.as_chunks::<8>();
            if !rest.is_empty() {
                return Err(ClientError::Broken("counters are not whole words".into()));
            }
            Ok((words.iter().map(|word| u64::from_le_bytes(*word)).collect(), aux))
        });
        words.collect()
    }

    /// Runs one request to its answer.
    pub(super) fn call(&mut self, request: &Request<'_>) -> Result<(Answer, Vec<u8>), ClientError> {
        let mut answers = self.call_all(std::slice::from_ref(request))?;
        answers.pop().ok_or_else(|| ClientError::Broken("a call without an answer".into()))
    }

    /// Runs requests side by side; their answers in the order of the requests.
    pub(super) fn call_all(&mut self, requests: &[Request<'_>]) -> Result<Vec<(Answer, Vec<u8>)>, ClientError> {
        let call = Owner::Call(self.next_call);
        self.next_call += 1;
        let mut answers: Vec<Option<(Answer, Vec<u8>)>> = vec![None; requests.len()];
        let (mut submitted, mut answered) = (0, 0);
        while answered < requests.len() {
            if let Some(request) = requests.get(submitted) {
                match self.submit_for(call, submitted as u64, request) {
                    Ok(()) => {
                        submitted += 1;
                        continue;
                    }
                    Err(SubmitError::Full) => {}
                    Err(SubmitError::Client(error)) => return Err(error),
                }
            }
            let mut reply = Vec::new();
            let found = self.wait_any(&mut reply)?;
            if found.owner == Owner::User {
                self.stashed.push_back((found, reply));
            } else if found.owner == call {
                let answer = self.hand_out(&found, &mut reply)?;
                answers[to_usize(answer.user_data)] = Some((answer, reply));
                answered += 1;
            }
            // Anything else was left by a call that failed half-way.
        }
        Ok(answers.into_iter().flatten().collect())
    }
}

/// The rows of an answer that has some.
fn rows((words, aux): &(Vec<u64>, u64)) -> impl Iterator<Item = Vec<u64>> {
    let count = to_usize(aux & !AUX_MORE);
    let width = words.len().checked_div(count).unwrap_or(0).max(1);
    words.chunks_exact(width).map(<[u64]>::to_vec)
}

/// Adds what other shards have of the same object. A stream is in one of them, and a chain is known to all.
fn merge(sum: &mut [u64], words: &[u64]) {
    for (at, (sum, word)) in sum.iter_mut().zip(words).enumerate() {
        match at {
            stats::OBJECT => {}
            stats::OBJECT_CHAINED => *sum = (*sum).max(*word),
            _ => *sum += word,
        }
    }
}

/// The room to ask for after a reply did not fit.
pub(super) fn larger_reply(asked: usize, needed: u64) -> Result<usize, ClientError> {
    match usize::try_from(needed) {
        Ok(needed) if needed > asked => Ok(needed),
        _ => Err(ClientError::Broken("a reply needs more room and does not say how much".into())),
    }
}
