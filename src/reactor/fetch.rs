//! Values and events that are on the drive and not in memory: read back, checked, handed to those who wait for them.
//!
//! A read that wants such a value leaves its ring and stands here, with its key, until the value is there; then it goes
//! through the store once more with the value in hand. What was read counts only if its checksum is right and it is the
//! version that the index names: a segment that was given up and written anew meanwhile is no harm.

mod pages;

use crate::buffer::{Buffer, Pool, SMALL_BYTES, SMALL_COUNT};
use crate::bytes::{index, len_u32};
use crate::device::{BLOCK_BYTES, Completion, Device, Operation, OperationKind};
use crate::reactor::{Asked, Clock, Phase, Reactor, Shard};
use crate::ring::protocol::{
    self, KEY_BYTES_MAX, Opcode, Status, Submission, VALUE_BYTES_MAX, page_request_bytes_max, stats,
};
use crate::store::{Fetched, Outcome, PagesRead, Want, Whose};
use crate::types::{DeviceAddress, Lsn, ObjectId};
use crate::wal::planted::Planted;
use crate::wal::record::{self, FLAG_CONTINUED, FLAG_MORE, Kind, Record};
use crate::wal::{Fence, frame};

/// Reads of values at once, those included that wait for a buffer. More stay in their rings.
const FETCHES_MAX: usize = SMALL_COUNT;
/// Values that a scan has read ahead.
const AHEAD_MAX: usize = 16;
/// A value that was not at its place is looked up and read again so often: its record may have moved meanwhile.
const TRIES_MAX: u32 = 3;
/// The place of the shard in a tag; no shard has this number.
const TAG: u64 = 0xffff << 48;

/// Who wants the value.
#[derive(Clone, Copy)]
enum For {
    /// A request, whose payload stands beside it.
    Request { slot: usize, submission: Submission },
    /// The cache: a scan that is here, or one that will come, goes on with it.
    Ahead { scan: Option<usize> },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Free,
    /// For a buffer, or for a place in the device's queue.
    Waiting,
    Reading,
    /// Another one reads the same.
    Joined(usize),
    /// Its own value was read; what it reads ahead was not.
    Scanning,
}

struct Fetch {
    step: Step,
    wanted_by: For,
    /// The place of its shard.
    at: usize,
    want: Want,
    tries: u32,
    /// Where its next part stands, and the LSN of that one when it is not the first.
    next: DeviceAddress,
    next_lsn: Option<Lsn>,
    /// It waits for the room of large values.
    wants_large: bool,
    /// Bytes of that part, when they are more than those of the value.
    needed: usize,
    /// That part was looked for where the one before ends, and is not there.
    skipped: bool,
    /// A scan's reads ahead that are under way.
    ahead: usize,
    payload: Vec<u8>,
    /// What a read of pages has in its reply.
    pages: PagesRead,
}

/// The reads of values of one reactor. Never grows, but for a value over the limits that are configured now.
pub(super) struct Fetches {
    all: Vec<Fetch>,
    used: usize,
    waiting: usize,
    reading: usize,
    /// The parts of a record that is larger than a frame: one at a time. Its key, and its version.
    large: Vec<u8>,
    large_key: Vec<u8>,
    large_version: u64,
    large_of: Option<usize>,
    /// Values that the drive did not give back.
    unreadable: u64,
    /// What a scan just asked for besides.
    pub(super) wanted: Vec<Want>,
    /// What the read of pages at hand has in its reply.
    pub(super) pages: PagesRead,
}

impl Fetches {
    pub(super) fn new(value_bytes_max: usize) -> Fetches {
        let none = Want {
            whose: Whose::Event(0),
            place: DeviceAddress::NONE,
            object: ObjectId(0),
            key_bytes: 0,
            value_bytes: 0,
        };
        let free = || Fetch {
            step: Step::Free,
            wanted_by: For::Ahead { scan: None },
            at: 0,
            want: none,
            tries: 0,
            next: DeviceAddress::NONE,
            next_lsn: None,
            wants_large: false,
            needed: 0,
            skipped: false,
            ahead: 0,
            payload: Vec::with_capacity(2 * KEY_BYTES_MAX),
            pages: PagesRead::default(),
        };
        Fetches {
            all: (0..FETCHES_MAX).map(|_| free()).collect(),
            used: 0,
            waiting: 0,
            reading: 0,
            large: Vec::with_capacity(page_request_bytes_max(value_bytes_max)),
            large_key: Vec::with_capacity(KEY_BYTES_MAX),
            large_version: 0,
            large_of: None,
            unreadable: 0,
            wanted: Vec::with_capacity(AHEAD_MAX),
            pages: PagesRead::default(),
        }
    }

    /// Whether an operation's tag is one of these.
    pub(super) fn is_tag(tag: u64) -> bool {
        tag & TAG == TAG
    }

    fn find(&self, at: usize, want: &Want) -> Option<usize> {
        let same = |fetch: &Fetch| {
            let under_way = matches!(fetch.step, Step::Waiting | Step::Reading);
            under_way && fetch.at == at && fetch.want == *want
        };
        self.all.iter().position(same)
    }

    /// Begins one. `None`: there are as many as there may be.
    fn begin(&mut self, at: usize, want: Want, wanted_by: For, payload: &[u8]) -> Option<usize> {
        let id = self.all.iter().position(|fetch| fetch.step == Step::Free)?;
        self.all[id].payload.clear();
        self.all[id].payload.extend_from_slice(payload);
        (self.all[id].wanted_by, self.all[id].tries, self.all[id].ahead) = (wanted_by, 0, 0);
        self.used += 1;
        self.aim(id, at, want);
        Some(id)
    }

    /// It wants this value.
    fn aim(&mut self, id: usize, at: usize, want: Want) {
        let other = self.find(at, &want);
        let fetch = &mut self.all[id];
        (fetch.at, fetch.want, fetch.next, fetch.next_lsn) = (at, want, want.place, None);
        (fetch.wants_large, fetch.needed, fetch.skipped) = (false, 0, false);
        fetch.step = other.map_or(Step::Waiting, Step::Joined);
        self.waiting += usize::from(other.is_none());
    }

    /// Begins it again.
    fn restart(&mut self, id: usize) {
        let Fetch { at, want, .. } = self.all[id];
        self.let_large_go(id);
        self.aim(id, at, want);
    }

    /// It reads on from here.
    fn go_on(&mut self, id: usize, next: DeviceAddress) {
        (self.all[id].next, self.all[id].step) = (next, Step::Waiting);
        self.waiting += 1;
    }

    /// Adds a part of a large value. `false`: another value has the room, or it would be longer than it is.
    fn add_part(&mut self, id: usize, part: &Record<'_>) -> bool {
        if self.all[id].next_lsn.is_none() {
            if self.large_of.is_some_and(|other| other != id) {
                return false;
            }
            self.large_of = Some(id);
            self.large.clear();
            self.large_key.clear();
            self.large_key.extend_from_slice(part.key);
            self.large_version = part.version;
        }
        let want = self.all[id].want;
        // What is shared may be of a time with higher limits; then the room grows.
        let bytes_max =
            if is_shared(&want) { page_request_bytes_max(VALUE_BYTES_MAX) } else { want.value_bytes as usize };
        let fits = self.large.len() + part.value.len() <= bytes_max;
        if fits {
            self.large.extend_from_slice(part.value);
        }
        fits
    }

    fn let_large_go(&mut self, id: usize) {
        if self.large_of == Some(id) {
            self.large_of = None;
        }
    }

    fn end(&mut self, id: usize) {
        self.all[id].step = Step::Free;
        if std::mem::take(&mut self.all[id].ahead) > 0 {
            // What it had read ahead is for nobody now.
            for other in &mut self.all {
                if matches!(other.wanted_by, For::Ahead { scan: Some(scan) } if scan == id) {
                    other.wanted_by = For::Ahead { scan: None };
                }
            }
        }
        self.used -= 1;
        self.let_large_go(id);
    }
}

/// Whether the record holds more than what is wanted, nobody knows how much.
fn is_shared(want: &Want) -> bool {
    !matches!(want.whose, Whose::Key { in_commit: false, .. })
}

/// Whether a part is the one that is looked for.
fn is_wanted(part: &Record<'_>, fetch: &Fetch) -> bool {
    let Fetch { want, next_lsn, .. } = fetch;
    let says_it = match want.whose {
        Whose::Key { version, in_commit: true, .. } => {
            matches!(part.kind, Kind::Commit | Kind::Decision) && part.version == version
        }
        Whose::Key { version, .. } => {
            let whole_key = next_lsn.is_some() || part.key.len() == usize::from(want.key_bytes);
            matches!(part.kind, Kind::Put | Kind::PutUntil)
                && part.object == want.object
                && part.version == version
                && whole_key
        }
        Whose::Event(offset) => is_append(part.kind) && part.object == want.object && part.version <= offset,
    };
    let follows = match next_lsn {
        None => part.flags & FLAG_CONTINUED == 0,
        Some(lsn) => part.flags & FLAG_CONTINUED != 0 && part.lsn == *lsn,
    };
    follows && says_it
}

fn is_append(kind: Kind) -> bool {
    matches!(kind, Kind::Append | Kind::AppendBatch | Kind::AppendOnce)
}

/// Where the frame begins that follows one whose last record ends at `end`, and its first record.
fn in_next_frame(end: DeviceAddress) -> DeviceAddress {
    DeviceAddress(end.0.next_multiple_of(u64::from(BLOCK_BYTES)) + frame::HEADER_BYTES as u64)
}

/// A small buffer where it does; else one of the others, which one read may have at any time, and more while most are there.
fn take_buffer(pool: &mut Pool, bytes: usize, reading: usize) -> Option<Buffer> {
    if bytes <= SMALL_BYTES
        && let Some(buffer) = pool.take_small()
    {
        return Some(buffer);
    }
    if reading == 0 || pool.available() > pool.count() / 4 { pool.take() } else { None }
}

impl<D: Device, C: Clock> Reactor<D, C> {
    /// A request wants a value that is not in memory. `false`: too many do, it has to stay where it is.
    pub(super) fn fetch(&mut self, slot: usize, at: usize, submission: Submission, want: Want) -> bool {
        let wanted_by = For::Request { slot, submission };
        let Some(id) = self.fetches.begin(at, want, wanted_by, &self.payload) else {
            self.fetches.wanted.clear();
            self.fetches.pages = PagesRead::default();
            return false;
        };
        if submission.opcode == Opcode::ReadPages as u8 {
            self.fetches.all[id].pages = std::mem::take(&mut self.fetches.pages);
        }
        self.metrics.add(stats::FETCHES, 1);
        self.read_ahead(at, Some(id));
        true
    }

    /// What a scan asked for besides: as far as there are places, of which half stay for those who wait.
    pub(super) fn read_ahead(&mut self, at: usize, scan: Option<usize>) {
        for number in 0..self.fetches.wanted.len() {
            let want = self.fetches.wanted[number];
            if self.fetches.used >= FETCHES_MAX / 2 {
                break;
            }
            if self.fetches.find(at, &want).is_none()
                && self.fetches.begin(at, want, For::Ahead { scan }, &[]).is_some()
            {
                self.metrics.add(stats::FETCHES_AHEAD, 1);
                if let Some(scan) = scan {
                    self.fetches.all[scan].ahead += 1;
                }
            }
        }
        self.fetches.wanted.clear();
    }

    /// device.submit for those that wait for it: half of the device's queue is left to the writers.
    pub(super) fn submit_fetches(&mut self, now_ns: u64) {
        if self.fetches.waiting == 0 {
            return;
        }
        let reading_max = (self.device.geometry().operations_max as usize / 2).max(1);
        for id in 0..FETCHES_MAX {
            if self.fetches.all[id].step != Step::Waiting {
                continue;
            }
            let aside = self.shards[self.fetches.all[id].at].wal.fenced() == Some(Fence::Aside);
            if aside || self.stall.given_up || !matches!(self.phase, Phase::Serving | Phase::Settling) {
                self.fetches.waiting -= 1;
                self.give_fetch_up(id, now_ns);
                continue;
            }
            if self.fetches.all[id].wants_large && self.fetches.large_of.is_some_and(|other| other != id) {
                continue;
            }
            if self.fetches.reading >= reading_max || !self.submit_fetch(id) {
                break;
            }
        }
    }

    fn submit_fetch(&mut self, id: usize) -> bool {
        let Fetch { at, want, next, needed, .. } = self.fetches.all[id];
        let wal = &self.shards[at].wal;
        let block = u64::from(BLOCK_BYTES);
        let begin = DeviceAddress(next.0 / block * block);
        let record_bytes = match want.whose {
            // Who reads an event reads those behind it.
            Whose::Event(_) => self.pool.buffer_bytes().max(needed),
            Whose::Key { .. } => {
                record::encoded_bytes(usize::from(want.key_bytes), want.value_bytes as usize).max(needed)
            }
        };
        let span = (index(next.0 - begin.0) + record_bytes).next_multiple_of(BLOCK_BYTES as usize);
        let span = span.min(self.pool.buffer_bytes().max(SMALL_BYTES)).min(wal.segment_bytes_left(begin));
        let Some(buffer) = take_buffer(&mut self.pool, span, self.fetches.reading) else { return false };
        let bytes = len_u32(span.min(buffer.len()));
        let operation = Operation { tag: TAG | id as u64, kind: OperationKind::Read, address: begin, bytes, buffer };
        if let Err(operation) = self.device.submit(operation) {
            self.pool.give(operation.buffer);
            return false;
        }
        self.fetches.all[id].step = Step::Reading;
        (self.fetches.waiting, self.fetches.reading) = (self.fetches.waiting - 1, self.fetches.reading + 1);
        true
    }

    /// A read of a value ended.
    #[cold]
    pub(super) fn fetched(&mut self, completion: Completion, now_ns: u64) {
        let Completion { operation, result } = completion;
        let id = index(operation.tag & 0xffff);
        self.fetches.reading -= 1;
        self.metrics.add(stats::FETCHED_BYTES, u64::from(operation.bytes));
        let buffer = operation.buffer;
        let at = index(self.fetches.all[id].next.0 - operation.address.0);
        let end = operation.bytes as usize;
        if let Err(error) = result {
            self.unreadable(id, &error, now_ns);
        } else {
            self.take_piece(id, &buffer[..end], at, operation.address, now_ns);
        }
        self.pool.give(buffer);
    }

    /// Takes what was read, whose record, or part of one, begins at `at`.
    fn take_piece(&mut self, id: usize, bytes: &[u8], at: usize, address: DeviceAddress, now_ns: u64) {
        let fetch = &mut self.fetches.all[id];
        let (first, wal) = (fetch.next_lsn.is_none(), &self.shards[fetch.at].wal);
        let part = wal
            .decode(bytes.get(at..).unwrap_or(&[]))
            .filter(|(part, _)| is_wanted(part, fetch) || wal.planted().is(Planted::BelieveAnyVersion));
        let Some((part, taken)) = part else {
            // A record that is shared holds more than the value. Its header says how much, if that is what stands here.
            let claimed =
                bytes.get(at..).filter(|rest| rest.len() >= record::HEADER_BYTES).map_or(0, record::claimed_bytes);
            if is_shared(&fetch.want) && fetch.needed == 0 && claimed > bytes.len() - at.min(bytes.len()) {
                fetch.needed = claimed;
                let next = fetch.next;
                return self.fetches.go_on(id, next);
            }
            if first || fetch.skipped {
                return self.missed(id, now_ns);
            }
            // Behind the part before it there was room for more, and nothing.
            (fetch.skipped, fetch.needed) = (true, 0);
            let next = in_next_frame(fetch.next);
            return self.fetches.go_on(id, next);
        };
        let more = part.flags & FLAG_MORE != 0;
        if first && !more {
            self.keep_events(id, &bytes[at..], address.plus(at as u64));
            return self.hand_over(id, &part, true, now_ns);
        }
        if !self.fetches.add_part(id, &part) {
            let next = self.fetches.all[id].next;
            self.fetches.all[id].wants_large = first;
            return if first { self.fetches.go_on(id, next) } else { self.missed(id, now_ns) };
        }
        if more {
            let fetch = &mut self.fetches.all[id];
            (fetch.next_lsn, fetch.skipped, fetch.needed) = (Some(part.lsn.next()), false, 0);
            let end = address.plus((at + taken) as u64);
            let left = in_next_frame(end).0 - frame::HEADER_BYTES as u64 - end.0;
            let next = if left < record::HEADER_BYTES as u64 { in_next_frame(end) } else { end };
            return self.fetches.go_on(id, next);
        }
        // A scan may wait on, for what it reads ahead: that may be large too.
        self.fetches.large_of = None;
        let (large, key) = (std::mem::take(&mut self.fetches.large), std::mem::take(&mut self.fetches.large_key));
        let whole = Record { version: self.fetches.large_version, key: &key, value: &large, ..part };
        self.hand_over(id, &whole, false, now_ns);
        (self.fetches.large, self.fetches.large_key) = (large, key);
    }

    /// Events that were read with the one wanted, in records of its stream that begin in this piece, which stands at
    /// `place`, stay in memory while there is room: who reads one reads the next.
    fn keep_events(&mut self, id: usize, piece: &[u8], place: DeviceAddress) {
        let Fetch { at, want, .. } = self.fetches.all[id];
        let Whose::Event(_) = want.whose else { return };
        let Shard { wal, store, .. } = &mut self.shards[at];
        let (mut at, durable) = (0, wal.readable_lsn());
        while let Some(rest) = piece.get(at..) {
            let here = place.plus(at as u64);
            match wal.decode(rest) {
                Some((part, taken)) => {
                    let whole = part.flags & (FLAG_MORE | FLAG_CONTINUED) == 0;
                    if whole && is_append(part.kind) && part.object == want.object {
                        store.keep_events(&part, here, durable);
                    }
                    at += taken;
                }
                // The frame ends here, or what was read.
                None => at += index(in_next_frame(here).0 - here.0),
            }
        }
    }

    /// What was read is not what was wanted. Its record may have moved: those who wait look it up again.
    fn missed(&mut self, id: usize, now_ns: u64) {
        self.free_joined(id);
        let fetch = &mut self.fetches.all[id];
        fetch.tries += 1;
        if fetch.tries >= TRIES_MAX {
            return self.unreadable(id, &"its record is not at its place", now_ns);
        }
        match fetch.wanted_by {
            For::Request { .. } => self.look_again(id, None, now_ns),
            For::Ahead { .. } => self.end_ahead(id, now_ns),
        }
    }

    /// Told at powers of two: a value may be asked for all the time.
    #[cold]
    fn unreadable(&mut self, id: usize, cause: &dyn std::fmt::Display, now_ns: u64) {
        self.fetches.unreadable += 1;
        let unreadable = self.fetches.unreadable;
        if unreadable.is_power_of_two() {
            let Fetch { at, want: Want { place, object, whose, .. }, .. } = self.fetches.all[id];
            let shard = self.shards[at].wal.shard();
            tracing::error!(%shard, address = %place, %object, ?whose, %cause, unreadable,
                "a value cannot be read: run `forebay verify`");
        }
        self.give_fetch_up(id, now_ns);
    }

    /// Those who joined a read that came to nothing read for themselves.
    fn free_joined(&mut self, id: usize) {
        self.fetches.all[id].step = Step::Scanning;
        for other in 0..FETCHES_MAX {
            if self.fetches.all[other].step == Step::Joined(id) {
                self.fetches.restart(other);
            }
        }
    }

    /// The value is here, or the commit that says it: for whoever wanted it. `small`: it is worth its place in the cache.
    fn hand_over(&mut self, id: usize, record: &Record<'_>, small: bool, now_ns: u64) {
        let Fetch { at, want: Want { whose, object, .. }, .. } = self.fetches.all[id];
        let shard = &mut self.shards[at];
        let of_key = |value| Fetched { whose, object, value, commit: record.value, head: None };
        let found = match whose {
            Whose::Key { in_commit: true, .. } => {
                shard.store.find_in_commit(&self.fetches.all[id].want, record.value).map(of_key)
            }
            Whose::Key { .. } => Some(of_key(record.value)),
            Whose::Event(offset) => shard.store.find_event(offset, record),
        };
        // The key may hold another version by now.
        let Some(fetched) = found else { return self.missed(id, now_ns) };
        if small {
            shard.store.keep(&fetched, shard.wal.readable_lsn());
        }
        self.fetches.all[id].step = Step::Scanning;
        for other in (0..FETCHES_MAX).filter(|other| *other != id) {
            if self.fetches.all[other].step == Step::Joined(id) {
                self.use_value(other, &fetched, now_ns);
            }
        }
        self.use_value(id, &fetched, now_ns);
    }

    fn use_value(&mut self, id: usize, fetched: &Fetched<'_>, now_ns: u64) {
        let fetch = &mut self.fetches.all[id];
        match fetch.wanted_by {
            For::Ahead { .. } => self.end_ahead(id, now_ns),
            // What it reads ahead is to be in the same answer.
            For::Request { .. } if fetch.ahead > 0 => fetch.step = Step::Scanning,
            For::Request { .. } => self.look_again(id, Some(fetched), now_ns),
        }
    }

    /// A read ahead ended. The scan that it was for goes on when it was the last.
    fn end_ahead(&mut self, id: usize, now_ns: u64) {
        let For::Ahead { scan } = self.fetches.all[id].wanted_by else { return };
        self.fetches.end(id);
        let Some(scan) = scan else { return };
        self.fetches.all[scan].ahead -= 1;
        if self.fetches.all[scan].ahead == 0 && self.fetches.all[scan].step == Step::Scanning {
            self.look_again(scan, None, now_ns);
        }
    }

    /// A request goes through the store again.
    fn look_again(&mut self, id: usize, fetched: Option<&Fetched<'_>>, now_ns: u64) {
        let fetch = &mut self.fetches.all[id];
        let For::Request { slot, submission } = fetch.wanted_by else { return };
        self.payload.clear();
        self.payload.extend_from_slice(&fetch.payload);
        let opcode = Opcode::from_wire(submission.opcode).expect("`peek` validated the opcode");
        if opcode == Opcode::ReadPages {
            self.fetches.pages = self.fetches.all[id].pages;
        }
        let asked = Asked { slot, opcode, submission: &submission, fetched };
        let (outcome, at) = self.dispatch_again(&asked, now_ns);
        if opcode == Opcode::ReadPages && !matches!(outcome, Outcome::Fetch(_)) {
            self.fetches.pages = PagesRead::default();
        }
        match outcome {
            Outcome::Answer { mut completion, after } => {
                self.fetches.end(id);
                self.answer(slot, submission.user_data, at, &mut completion, after);
            }
            Outcome::Fetch(want) if opcode == Opcode::ReadPages => self.read_pages_on(id, at, want),
            Outcome::Fetch(want) => {
                // What is read for it now it gets in hand: it does not wait for more.
                self.fetches.wanted.clear();
                self.fetches.let_large_go(id);
                self.fetches.aim(id, at, want);
            }
            Outcome::Later | Outcome::Wait | Outcome::Deferred | Outcome::Across => self.give_fetch_up(id, now_ns),
        }
    }

    /// The device does not answer: nobody waits for it. What it still gives back is taken for the cache.
    pub(super) fn abandon_fetches(&mut self) {
        for id in 0..FETCHES_MAX {
            let Fetch { step, wanted_by, .. } = self.fetches.all[id];
            match wanted_by {
                _ if step == Step::Free => {}
                For::Ahead { .. } => self.fetches.all[id].wanted_by = For::Ahead { scan: None },
                For::Request { slot, submission } => {
                    self.fetches.all[id].wanted_by = For::Ahead { scan: None };
                    if step != Step::Reading {
                        self.fetches.waiting -= usize::from(step == Step::Waiting);
                        self.fetches.end(id);
                    }
                    self.refuse(slot, &submission);
                }
            }
        }
    }

    fn refuse(&mut self, slot: usize, submission: &Submission) {
        self.metrics.add(stats::FETCHES_FAILED, 1);
        let status = if self.phase == Phase::Stopping { Status::Stopping } else { Status::Unreadable };
        let (user_data, status) = (submission.user_data, status as u16);
        self.reply(slot, &protocol::Completion { user_data, status, ..Default::default() });
    }

    fn give_fetch_up(&mut self, id: usize, now_ns: u64) {
        self.free_joined(id);
        let For::Request { slot, submission } = self.fetches.all[id].wanted_by else {
            return self.end_ahead(id, now_ns);
        };
        self.fetches.end(id);
        self.refuse(slot, &submission);
    }
}
