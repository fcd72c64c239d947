//! Takes objects out of an appliance, line by line: for `export`, and for `backup`, which leaves out what an earlier
//! backup has.

use std::collections::{HashMap, VecDeque};

use forebay::error::Error;
use forebay::ring::client::{Client, ClientError, Object, Pair, Retention, ScanPage, ScanRange, Snapshot};
use forebay::ring::protocol::{KEY_BYTES_MAX, PAGES_MAX};
use forebay::run::STATE_CURSOR;
use forebay::types::{Durability, ObjectKind};

use super::backup::prior::Prior;
use super::bytes::{to_base64, to_hex};
use super::context::Failure;
use super::dump::{self, Counts, Cursor, Event, Line, Page, Pages, Space, Stream, Trimmed};
use super::progress::Progress;
use super::read::begin;

/// What a page of pairs is to take in memory, about.
const PAGE_BYTES: usize = 8 << 20;
const PAGE_PAIRS_MAX: usize = 1_024;
/// Before it is known how large values are.
const PAGE_PAIRS_FIRST: usize = 16;
/// Where more values than this part of a page of keys are wanted, a scan gets them.
const BY_GET_PART: usize = 16;
/// Bytes of pages that one request reads.
const READ_BYTES: usize = 1 << 20;

/// Where lines go.
pub type Sink<'a> = &'a mut dyn FnMut(&Line) -> Result<(), Failure>;

pub struct Take<'a> {
    client: &'a mut Client,
    snapshot: Option<Snapshot>,
    /// The backup that this one goes on from; `Some` of a whole one is empty.
    backup: Option<Prior<'a>>,
    /// Where consumers stood before the snapshot: what they had done by then is in it.
    cursors: HashMap<String, Vec<(String, u64)>>,
    sink: Sink<'a>,
    pub counts: Counts,
    /// Values and pages that are in this file itself.
    pub written: u64,
    progress: Progress,
}

impl<'a> Take<'a> {
    /// Notes the cursors of all streams, then takes a snapshot where one is wanted.
    pub fn new(
        client: &'a mut Client,
        consistent: bool,
        backup: Option<Prior<'a>>,
        sink: Sink<'a>,
    ) -> Result<Take<'a>, Failure> {
        let mut cursors = HashMap::new();
        for (name, object) in client.catalog()? {
            if object.kind == ObjectKind::Stream {
                cursors.insert(name, client.cursors(object)?);
            }
        }
        let snapshot = if consistent { Some(client.snapshot()?) } else { None };
        let (counts, progress) = (Counts::default(), Progress::new());
        Ok(Take { client, snapshot, backup, cursors, sink, counts, written: 0, progress })
    }

    pub fn client(&mut self) -> &mut Client {
        self.client
    }

    pub fn snapshot(&self) -> Option<Snapshot> {
        self.snapshot
    }

    pub fn object(&mut self, name: &str, object: Object) -> Result<(), Failure> {
        let known = match &mut self.backup {
            Some(prior) => prior.begin(name)?,
            None => None,
        };
        match object.kind {
            ObjectKind::Space => self.space(name, object)?,
            ObjectKind::Stream => self.stream(name, object, known)?,
            ObjectKind::Pages => self.pages(name, object)?,
        }
        match &mut self.backup {
            Some(prior) => prior.end(),
            None => Ok(()),
        }
    }

    /// What ends it: the counts. The snapshot is given back.
    pub fn end(self) -> Result<(Counts, u64), Failure> {
        if let Some(snapshot) = self.snapshot {
            self.client.release(snapshot)?;
        }
        Ok((self.counts, self.written))
    }

    pub fn say(&mut self, line: &Line) -> Result<(), Failure> {
        self.counts.add(line);
        (self.sink)(line)
    }

    fn show(&mut self, name: &str) {
        let Counts { pairs, pages, events, .. } = self.counts;
        self.progress.show(|| format!("reading {name:?}: {pairs} pairs, {pages} pages and {events} events so far"));
    }

    /// The version that the backup before has of this key.
    fn known(&mut self, key: &[u8]) -> Result<Option<u64>, Failure> {
        self.backup.as_mut().map_or(Ok(None), |prior| prior.version_of(key))
    }

    fn space(&mut self, name: &str, space: Object) -> Result<(), Failure> {
        let (durability, compression) = (space.durability.name().to_owned(), space.compression.name().to_owned());
        self.say(&Line::Space(Space { object: name.into(), durability, compression }))?;
        let space = space.stored();
        if self.backup.as_ref().is_some_and(Prior::knows_keys) {
            return self.changed_pairs(name, space);
        }
        let mut pairs = Pairs::new(self.snapshot, space, &[], &[]);
        while let Some(pair) = pairs.next(self.client)? {
            self.pair(name, &pair)?;
        }
        Ok(())
    }

    fn pair(&mut self, name: &str, pair: &Pair) -> Result<(), Failure> {
        self.written += 1;
        self.say(&dump::Pair::line(name, &pair.key, Some(&pair.value), pair.version, pair.until_ms))?;
        self.show(name);
        Ok(())
    }

    /// All keys, with the values that the backup before does not have.
    fn changed_pairs(&mut self, name: &str, space: Object) -> Result<(), Failure> {
        let mut begin = Vec::new();
        loop {
            let range = ScanRange::Range { begin: &begin, end: &[] };
            let ScanPage { pairs, cursor } = self.client.list(self.snapshot, space, &range, PAGE_PAIRS_MAX, true)?;
            let mut due = Vec::with_capacity(pairs.len());
            for pair in &pairs {
                due.push(self.known(&pair.key)? != Some(pair.version));
            }
            let wanted = due.iter().filter(|due| **due).count();
            let mut values = (wanted > pairs.len() / BY_GET_PART)
                .then(|| Pairs::new(self.snapshot, space, &begin, cursor.as_deref().unwrap_or_default()));
            for (pair, due) in pairs.iter().zip(due) {
                let found = match &mut values {
                    Some(values) => values.next(self.client)?.filter(|found| found.key == pair.key),
                    None if due => self.value(space, pair)?,
                    None => None,
                };
                match found.filter(|_| due) {
                    Some(found) => self.pair(name, &Pair { until_ms: pair.until_ms, ..found })?,
                    None if due => return Err(moved(name)),
                    None => self.say(&dump::Pair::line(name, &pair.key, None, pair.version, None))?,
                }
            }
            self.show(name);
            match cursor {
                Some(cursor) => begin = cursor,
                None => return Ok(()),
            }
        }
    }

    fn value(&mut self, space: Object, pair: &Pair) -> Result<Option<Pair>, Failure> {
        let Some(snapshot) = self.snapshot else { return Ok(None) };
        let found = self.client.get_at(snapshot, space, &pair.key)?;
        Ok(found.map(|(version, value)| Pair { version, value, ..pair.clone() }))
    }

    fn pages(&mut self, name: &str, object: Object) -> Result<(), Failure> {
        let pages = self.client.open_pages(name, None)?;
        let page_bytes = pages.size.bytes();
        self.say(&Line::Pages(Pages { object: name.into(), durability: object.durability.name().into(), page_bytes }))?;
        let at_once = (READ_BYTES.min(self.client.value_bytes_max()) / page_bytes).clamp(1, PAGES_MAX);
        let mut begin = Vec::new();
        loop {
            let range = ScanRange::Range { begin: &begin, end: &[] };
            let ScanPage { pairs, cursor } = self.client.list(self.snapshot, object, &range, PAGE_PAIRS_MAX, true)?;
            let mut listed: VecDeque<(u64, u64, bool)> = VecDeque::with_capacity(pairs.len());
            for Pair { key, version, .. } in &pairs {
                let number = <[u8; 8]>::try_from(key.as_slice()).map_err(|_| moved(name))?;
                listed.push_back((u64::from_be_bytes(number), *version, self.known(key)? != Some(*version)));
            }
            while !listed.is_empty() {
                let numbers: Vec<u64> =
                    listed.iter().filter(|(.., due)| *due).map(|(number, ..)| *number).take(at_once).collect();
                let found = match (self.snapshot, numbers.is_empty()) {
                    (_, true) => Vec::new(),
                    (Some(snapshot), _) => self.client.read_pages_at(snapshot, pages, &numbers)?,
                    (None, _) => self.client.read_pages(pages, &numbers)?,
                };
                let mut found = found.into_iter();
                while let Some((number, version, due)) = listed.pop_front() {
                    let object = name.to_owned();
                    match due.then(|| found.next()) {
                        None => self.say(&Line::Page(Page { object, number, version, page: None }))?,
                        // Forgotten meanwhile, which no snapshot sees.
                        Some(Some(None)) => {}
                        Some(Some(Some((version, page)))) => {
                            self.written += 1;
                            self.say(&Line::Page(Page { object, number, version, page: Some(to_base64(&page)) }))?;
                        }
                        // The next request brings it.
                        Some(None) => {
                            listed.push_front((number, version, due));
                            break;
                        }
                    }
                }
                self.show(name);
            }
            match cursor {
                Some(cursor) => begin = cursor,
                None => return Ok(()),
            }
        }
    }

    /// `known`: where the backup before ended.
    fn stream(&mut self, name: &str, stream: Object, known: Option<u64>) -> Result<(), Failure> {
        let (mut first, mut end) = match self.snapshot {
            Some(snapshot) => self.client.extent(snapshot, stream)?,
            None => (begin(self.client, stream, None)?, u64::MAX),
        };
        let chained = self.client.find_stream(name)?.1;
        let Retention { bytes: retain_bytes, age } = self.client.retention(stream)?;
        let retain_age_ms = age.map(|age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
        let head = match self.head(stream, chained, first) {
            Err(ClientError::Trimmed { first: now }) => {
                let kept = self.trimmed(stream, chained, now, end).map_err(|error| unread(name, error))?;
                (first, end) = (kept.first, kept.next.unwrap_or(end));
                kept.head
            }
            head => head.map_err(|error| unread(name, error))?,
        };
        // Offsets of one whose events are not logged begin anew with the daemon.
        let goes_on = known.filter(|next| *next <= end && stream.durability != Durability::Memory);
        let mut next = goes_on.unwrap_or(first).max(first);
        let (object, durability, is_backup) = (name.to_owned(), stream.durability.name().into(), self.backup.is_some());
        let (from, last) = (is_backup.then_some(next), is_backup.then_some(end));
        let line = Stream { object, durability, first, chained, head, retain_bytes, retain_age_ms, from, next: last };
        self.say(&Line::Stream(line))?;
        while next < end {
            let mut events = match self.client.read(stream, next, None) {
                // Trimmed meanwhile.
                Err(ClientError::Trimmed { first: now }) if self.snapshot.is_none() || is_backup => {
                    if is_backup {
                        let kept = self.trimmed(stream, chained, now, end).map_err(|error| unread(name, error))?;
                        (next, end) = (kept.first, kept.next.unwrap_or(end));
                        self.say(&Line::Trimmed(Trimmed { object: name.into(), ..kept }))?;
                    } else {
                        next = now;
                    }
                    continue;
                }
                events => events.map_err(|error| unread(name, error))?,
            };
            events.retain(|(offset, _)| *offset < end);
            let Some((last, _)) = events.last() else { break };
            next = last + 1;
            for (offset, event) in &events {
                self.say(&Event::line(name, *offset, event))?;
            }
            self.show(name);
        }
        let end = if end == u64::MAX { next } else { end };
        for (cursor, offset) in self.cursors.remove(name).unwrap_or_default() {
            let offset = offset.min(end);
            self.say(&Line::Cursor(Cursor { object: name.into(), name: cursor, offset }))?;
        }
        Ok(())
    }

    /// What is kept of a stream that was trimmed to `now` since the snapshot, in which it ended at `end`. A backup follows two
    /// kinds to where they end by now, and makes that durable before anything relies on it: a run, whose state stands behind what the
    /// snapshot saw when the rest is trimmed, and a chained one of which nothing is left, for the head before `end` is gone.
    fn trimmed(&mut self, stream: Object, chained: bool, mut now: u64, mut end: u64) -> Result<Trimmed, ClientError> {
        let mut next = None;
        loop {
            if self.backup.is_some() && (chained && now > end || self.is_run(stream)?) {
                let snapshot = self.client.snapshot()?;
                let extent = self.client.extent(snapshot, stream);
                self.client.release(snapshot)?;
                self.client.sync()?;
                end = extent?.1;
                next = Some(end);
            }
            let first = now.min(end);
            match self.head(stream, chained, first) {
                Err(ClientError::Trimmed { first }) if first > now => now = first,
                head => return Ok(Trimmed { object: String::new(), first, head: head?, next }),
            }
        }
    }

    fn is_run(&mut self, stream: Object) -> Result<bool, ClientError> {
        match self.client.cursor(stream, STATE_CURSOR) {
            Err(ClientError::CursorTrimmed { .. }) => Ok(true),
            cursor => Ok(cursor?.is_some()),
        }
    }

    /// The head before an event of a chained stream.
    fn head(&mut self, stream: Object, chained: bool, first: u64) -> Result<Option<String>, ClientError> {
        if !chained || first == 0 {
            return Ok(None);
        }
        self.client.head_before(stream, first).map(|head| Some(to_hex(&head)))
    }
}

fn unread(name: &str, error: ClientError) -> Failure {
    Error::from(error).context(format_args!("read stream {name:?}")).into()
}

fn moved(name: &str) -> Failure {
    Error::new(format!("{name:?} does not stay as the snapshot saw it")).remedy("run the command again").into()
}

/// The pairs of a range with their values, a bounded part of them at a time.
struct Pairs {
    snapshot: Option<Snapshot>,
    space: Object,
    begin: Option<Vec<u8>>,
    end: Vec<u8>,
    limit: usize,
    read: VecDeque<Pair>,
}

impl Pairs {
    fn new(snapshot: Option<Snapshot>, space: Object, begin: &[u8], end: &[u8]) -> Pairs {
        debug_assert!(end.len() <= KEY_BYTES_MAX, "it is a key, or follows one");
        let (begin, end, limit) = (Some(begin.to_vec()), end.to_vec(), PAGE_PAIRS_FIRST);
        Pairs { snapshot, space, begin, end, limit, read: VecDeque::new() }
    }

    fn next(&mut self, client: &mut Client) -> Result<Option<Pair>, Failure> {
        while let (true, Some(begin)) = (self.read.is_empty(), &self.begin) {
            let range = ScanRange::Range { begin, end: &self.end };
            let ScanPage { pairs, cursor } = client.list(self.snapshot, self.space, &range, self.limit, false)?;
            let page_bytes: usize = pairs.iter().map(|pair| pair.key.len() + pair.value.len()).sum();
            self.limit = (PAGE_BYTES / (page_bytes / pairs.len().max(1)).max(1)).clamp(1, PAGE_PAIRS_MAX);
            (self.read, self.begin) = (pairs.into(), cursor);
        }
        Ok(self.read.pop_front())
    }
}
