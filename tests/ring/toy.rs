//! A reactor as small as can be: everything in memory, everything answered at once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::JoinHandle;
use std::time::Duration;

use forebay::ring::client::{Client, ConnectOptions};
use forebay::ring::protocol::{AUX_MORE, Completion, EndReason, Opcode, Status, Submission, flag, shard_of_key};
use forebay::ring::segment::Shape;
use forebay::ring::server::{
    Access, Control, Listener, ListenerOptions, Mailbox, ReplyRoom, Rights, SessionId, SessionRing, pair_in_process,
};
use forebay_sys::net::WakeSet;

pub const SHAPE: Shape = Shape {
    reactors: 1,
    sq_entries: 16,
    cq_entries: 16,
    arena_bytes: 4 << 20,
    shards: 5,
    key_bytes_max: 1_024,
    value_bytes_max: 1 << 20,
    lineage: forebay::types::Lineage::NONE,
};

/// Object, shard, key.
type Place = (u32, u32, Vec<u8>);

/// What all toys of one appliance know.
#[derive(Default)]
pub struct Store {
    /// Name, kind, durability, compression.
    names: Vec<(String, u8, u8, u8)>,
    pairs: BTreeMap<Place, (u64, Vec<u8>)>,
    events: BTreeMap<(u32, u64), Vec<u8>>,
    first: BTreeMap<u32, u64>,
    next: BTreeMap<u32, u64>,
    clock: u64,
}

/// One turn over one session, at most `most` requests. Their number.
pub fn turn(ring: &mut SessionRing, store: &mut Store, most: usize) -> usize {
    let mut served = 0;
    while served < most {
        match ring.peek() {
            Ok(Some(submission)) => {
                ring.advance();
                let mut payload = Vec::new();
                ring.copy_payload(&submission, &mut payload);
                let (key, value) = payload.split_at(usize::from(submission.key_bytes));
                let completion = store.apply(ring, &submission, key, value);
                ring.post(&completion);
                served += 1;
            }
            Ok(None) => break,
            Err(reason) => {
                ring.end(reason);
                break;
            }
        }
    }
    ring.finish_turn();
    served
}

impl Store {
    fn apply(&mut self, ring: &SessionRing, submission: &Submission, key: &[u8], value: &[u8]) -> Completion {
        let mut answer = Completion { user_data: submission.user_data, ..Completion::default() };
        let mut reply = Vec::new();
        let status = match Opcode::from_wire(submission.opcode).unwrap() {
            _ if ring.rights() == Rights::ReadOnly => Status::Denied,
            Opcode::Noop | Opcode::Sync => Status::Ok,
            Opcode::Put | Opcode::Delete => self.write(submission, key, value, &mut answer),
            Opcode::Get => match self.pairs.get(&self.place(submission.object, key)) {
                Some((version, value)) => {
                    answer.version = *version;
                    reply.extend_from_slice(value);
                    Status::Ok
                }
                None => Status::NotFound,
            },
            Opcode::Scan => self.scan(submission, key, value, &mut answer, &mut reply),
            Opcode::Append => self.append(submission.object, &[value], &mut answer),
            Opcode::AppendOnce
            | Opcode::SetCursor
            | Opcode::GetCursor
            | Opcode::Cursors
            | Opcode::ReadChain
            | Opcode::DropCursor
            | Opcode::Retain => Status::BadRequest,
            Opcode::AppendBatch => self.append(submission.object, &batch(value), &mut answer),
            Opcode::Read => self.read(submission, &mut answer, &mut reply),
            Opcode::Trim => {
                self.first.insert(submission.object, submission.arg0);
                Status::Ok
            }
            Opcode::Open => self.open(submission, key, &mut answer),
            Opcode::Catalog => {
                for (number, (name, kind, durability, compression)) in (1u32..).zip(&self.names) {
                    if u64::from(number) <= submission.arg0 {
                        continue;
                    }
                    // One a page, so that paging is tested.
                    if !reply.is_empty() {
                        answer.aux |= AUX_MORE;
                        break;
                    }
                    reply.extend_from_slice(&number.to_le_bytes());
                    let name_bytes = u8::try_from(name.len()).unwrap();
                    reply.extend_from_slice(&[*kind, *durability, name_bytes, *compression]);
                    reply.extend_from_slice(name.as_bytes());
                }
                Status::Ok
            }
            Opcode::Stats => {
                reply.extend_from_slice(&self.clock.to_le_bytes());
                Status::Ok
            }
            // The toy has nothing else.
            _ => Status::BadRequest,
        };
        answer.status = status as u16;
        if ring.write_reply(ReplyRoom::of(submission), 0, &reply).is_ok() {
            answer.reply_bytes = u32::try_from(reply.len()).unwrap();
        } else {
            answer.status = Status::ReplyTooSmall as u16;
            answer.aux = reply.len() as u64;
        }
        answer
    }

    fn place(&self, object: u32, key: &[u8]) -> Place {
        (object, shard_of_key(object, key, SHAPE.shards).0, key.to_vec())
    }

    fn write(&mut self, submission: &Submission, key: &[u8], value: &[u8], answer: &mut Completion) -> Status {
        let place = self.place(submission.object, key);
        let present = self.pairs.get(&place).map_or(0, |(version, _)| *version);
        if submission.flags & flag::IF_VERSION != 0 && submission.arg0 != present {
            answer.version = present;
            return Status::VersionMismatch;
        }
        self.clock += 1;
        answer.version = self.clock;
        if submission.opcode == Opcode::Put as u8 {
            self.pairs.insert(place, (self.clock, value.to_vec()));
            return Status::Ok;
        }
        if self.pairs.remove(&place).is_some() { Status::Ok } else { Status::NotFound }
    }

    fn scan(
        &self,
        submission: &Submission,
        key: &[u8],
        value: &[u8],
        answer: &mut Completion,
        reply: &mut Vec<u8>,
    ) -> Status {
        let shard = u32::try_from(submission.arg1).unwrap();
        let prefix = submission.flags & flag::PREFIX != 0;
        let mut count = 0;
        let mut needed = 0;
        for ((object, at, name), (version, content)) in &self.pairs {
            let inside = if prefix {
                name.starts_with(key) && (value.is_empty() || name.as_slice() > value)
            } else {
                name.as_slice() >= key && (value.is_empty() || name.as_slice() < value)
            };
            if *object != submission.object || *at != shard || !inside {
                continue;
            }
            needed = 16 + name.len() + content.len();
            if count == submission.arg0 || reply.len() + needed > submission.reply_bytes_max as usize {
                answer.aux |= AUX_MORE;
                break;
            }
            reply.extend_from_slice(&u16::try_from(name.len()).unwrap().to_le_bytes());
            reply.extend_from_slice(&[0, 0]);
            reply.extend_from_slice(&u32::try_from(content.len()).unwrap().to_le_bytes());
            reply.extend_from_slice(&version.to_le_bytes());
            reply.extend_from_slice(name);
            reply.extend_from_slice(content);
            count += 1;
        }
        if count == 0 && answer.aux & AUX_MORE != 0 {
            answer.aux = needed as u64;
            return Status::ReplyTooSmall;
        }
        answer.aux |= count;
        Status::Ok
    }

    fn append(&mut self, object: u32, events: &[&[u8]], answer: &mut Completion) -> Status {
        let next = self.next.entry(object).or_default();
        answer.version = *next;
        for event in events {
            self.events.insert((object, *next), event.to_vec());
            *next += 1;
        }
        Status::Ok
    }

    fn read(&self, submission: &Submission, answer: &mut Completion, reply: &mut Vec<u8>) -> Status {
        let first = self.first.get(&submission.object).copied().unwrap_or(0);
        if submission.arg0 < first {
            answer.version = first;
            return Status::Trimmed;
        }
        let range = (submission.object, submission.arg0)..(submission.object + 1, 0);
        for ((_, offset), event) in self.events.range(range) {
            if reply.len() + 16 + event.len() > submission.reply_bytes_max as usize {
                break;
            }
            reply.extend_from_slice(&u32::try_from(event.len()).unwrap().to_le_bytes());
            reply.extend_from_slice(&[0; 4]);
            reply.extend_from_slice(&offset.to_le_bytes());
            reply.extend_from_slice(event);
        }
        if reply.is_empty() { Status::TimedOut } else { Status::Ok }
    }

    fn open(&mut self, submission: &Submission, key: &[u8], answer: &mut Completion) -> Status {
        let name = String::from_utf8(key.to_vec()).unwrap();
        let [kind, durability, create, compression, ..] = submission.arg0.to_le_bytes();
        let at = match self.names.iter().position(|(known, ..)| *known == name) {
            Some(at) => at,
            None if create == 0 => return Status::UnknownObject,
            None => {
                self.names.push((name, kind, durability, compression));
                self.names.len() - 1
            }
        };
        if self.names[at].1 != kind {
            return Status::WrongKind;
        }
        answer.version = at as u64 + 1;
        answer.aux = u64::from(kind) | u64::from(self.names[at].2) << 8 | u64::from(self.names[at].3) << 24;
        Status::Ok
    }
}

/// A reactor's thread behind a mailbox. It spins for `spins` empty turns before it sleeps.
pub fn reactor(mailbox: Arc<Mailbox>, stop: Arc<AtomicBool>, spins: u32) -> JoinHandle<Vec<SessionId>> {
    std::thread::spawn(move || {
        let wake = WakeSet::new().unwrap();
        wake.add(mailbox.bell()).unwrap();
        let mut store = Store::default();
        let mut sessions: Vec<Box<SessionRing>> = Vec::new();
        let mut opened = Vec::new();
        let mut idle = 0;
        while !stop.load(Ordering::Relaxed) {
            while let Some(control) = mailbox.receive() {
                match control {
                    Control::Open(ring) => {
                        wake.add(ring.doorbell()).unwrap();
                        opened.push(ring.id());
                        sessions.push(ring);
                    }
                    Control::Close(id) => sessions.retain(|ring| ring.id() != id),
                }
            }
            let served: usize = sessions.iter_mut().map(|ring| turn(ring, &mut store, usize::MAX)).sum();
            idle = if served == 0 { idle + 1 } else { 0 };
            if idle <= spins {
                std::thread::yield_now();
                continue;
            }
            sessions.iter_mut().for_each(|ring| ring.set_need_wakeup(true));
            fence(Ordering::SeqCst);
            if sessions.iter_mut().all(|ring| matches!(ring.peek(), Ok(None))) {
                wake.wait(Some(Duration::from_secs(20))).unwrap();
            }
            sessions.iter_mut().for_each(|ring| ring.set_need_wakeup(false));
        }
        for ring in &mut sessions {
            ring.end(EndReason::Stopping);
        }
        opened
    })
}

/// A listener with reactors behind it, in a directory of its own.
pub struct Appliance {
    pub socket: PathBuf,
    pub listener: Option<Listener>,
    pub mailboxes: Vec<Arc<Mailbox>>,
    stop: Arc<AtomicBool>,
    reactors: Vec<JoinHandle<Vec<SessionId>>>,
}

impl Appliance {
    pub fn start(name: &str, sessions_max: usize, spins: u32) -> Appliance {
        let socket = socket_path(name);
        let mailboxes = vec![Arc::new(Mailbox::new().unwrap())];
        let listener = Some(Listener::start(options(&socket, sessions_max), mailboxes.clone()).unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let reactors = mailboxes.iter().map(|mailbox| reactor(mailbox.clone(), stop.clone(), spins)).collect();
        Appliance { socket, listener, mailboxes, stop, reactors }
    }

    pub fn connect(&self) -> Client {
        Client::connect(&self.socket, &ConnectOptions::default()).unwrap()
    }

    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.mailboxes.iter().for_each(|mailbox| mailbox.bell().ring());
        self.reactors.drain(..).for_each(|reactor| drop(reactor.join().unwrap()));
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        self.stop();
        self.listener = None;
    }
}

pub fn options(socket: &std::path::Path, sessions_max: usize) -> ListenerOptions {
    ListenerOptions {
        socket: socket.to_owned(),
        mode: 0o600,
        access: Access::default(),
        sessions_max,
        offer: SHAPE,
        arena_bytes_max: 64 << 20,
        orders: None,
    }
}

pub fn socket_path(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("forebay-{}-{name}.sock", std::process::id()));
    let _ = std::fs::remove_file(&path);
    path
}

/// A client, and its session's rings, without a listener.
pub fn pair(shape: Shape) -> (Client, Vec<SessionRing>) {
    let (parts, rings) = pair_in_process(SessionId(1), Rights::ReadWrite, shape).unwrap();
    (Client::from_parts(parts, Duration::ZERO).unwrap(), rings)
}

/// A client over reactors that run as threads and never stop by themselves.
pub fn pair_with_threads(shape: Shape) -> (Client, Arc<AtomicBool>, Vec<JoinHandle<()>>) {
    let (client, rings) = pair(shape);
    let stop = Arc::new(AtomicBool::new(false));
    // One store for all: the toy does not shard by reactor.
    let store = Arc::new(std::sync::Mutex::new(Store::default()));
    let threads = rings
        .into_iter()
        .map(|mut ring| {
            let (stop, store) = (stop.clone(), store.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    turn(&mut ring, &mut store.lock().unwrap(), 3);
                    std::thread::yield_now();
                }
            })
        })
        .collect();
    (client, stop, threads)
}

/// The events of a batch.
fn batch(mut rest: &[u8]) -> Vec<&[u8]> {
    let mut events = Vec::new();
    while let Some(header) = rest.split_off(..4) {
        let bytes = u32::from_le_bytes(header.try_into().unwrap()) as usize;
        events.push(rest.split_off(..bytes).unwrap());
    }
    events
}
