//! Writes what was checked.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use forebay::error::Error;
use forebay::ring::client::{Client, CursorMove, Object, Pages, Request, Retention, SubmitError, Write};
use forebay::ring::protocol::{BATCH_HEADER_BYTES, CURSOR_ABSENT, PAGES_MAX, TTL_MS_MAX};
use forebay::types::{Durability, ObjectKind};

use super::check::Target;
use crate::cli::context::Failure;
use crate::cli::dump::Counts;
use crate::cli::dump::reading::{Item, Told};
use crate::cli::progress::Progress;

/// Events that share one request.
const BATCH_EVENTS_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 64 << 10;
/// Bytes of pages that share one request.
const PAGES_BYTES_MAX: usize = 1 << 20;

/// What came of it, beside what the file counts.
#[derive(Clone, Copy, Default)]
pub struct Done {
    /// Keys whose time was over, which were left out.
    pub expired: u64,
    /// Cursors that were left out, for their stream numbers its events otherwise, or has one of that name.
    pub cursors_left: u64,
}

pub struct Apply {
    client: Client,
    targets: Vec<Target>,
    total: Counts,
    done: Counts,
    told: Done,
    /// Events, or pages with their numbers, that go out together, and their object.
    batch: Vec<(u64, Vec<u8>)>,
    batch_bytes: usize,
    batch_of: usize,
    reply: Vec<u8>,
    progress: Progress,
}

impl Apply {
    pub fn new(client: Client, targets: Vec<Target>, total: Counts) -> Apply {
        let (done, told, batch, reply) = (Counts::default(), Done::default(), Vec::new(), Vec::new());
        let progress = Progress::new();
        Apply { client, targets, total, done, told, batch, batch_bytes: 0, batch_of: 0, reply, progress }
    }

    pub fn item(&mut self, item: Item) -> Result<(), Failure> {
        match item {
            Item::Object(told) => self.make(&told)?,
            Item::Pair { object, key, value, until_unix_ms } => self.put(object, &key, &value, until_unix_ms)?,
            Item::Page { object, number, page } => {
                self.done.pages += 1;
                self.batch(object, number, page)?;
            }
            Item::Event { object, event, .. } => self.append(object, event)?,
            Item::Cursor { object, name, offset } => self.cursor(object, &name, offset)?,
            Item::End => {}
        }
        let (done, total) = (self.done, self.total);
        self.progress.show(|| {
            format!(
                "writing: {} of {} pairs, {} of {} pages, {} of {} events",
                done.pairs, total.pairs, done.pages, total.pages, done.events, total.events
            )
        });
        Ok(())
    }

    /// Waits until all of it is durable on the drive.
    pub fn finish(mut self) -> Result<Done, Failure> {
        self.flush()?;
        while self.client.in_flight() > 0 {
            self.take()?;
        }
        self.client.sync()?;
        Ok(self.told)
    }

    fn make(&mut self, told: &Told) -> Result<(), Failure> {
        let number = usize::try_from(self.done.objects).unwrap_or(usize::MAX);
        self.done.objects += 1;
        let Some(target) = self.targets.get_mut(number).filter(|target| target.told == *told) else {
            return Err(Error::new("the file changed while it was read").remedy("run the command again").into());
        };
        let (name, creation) = (&told.name, told.creation);
        let made = target.object.is_none();
        let object = match (target.object, told.kind, told.page) {
            (Some(object), ..) => object,
            (None, ObjectKind::Pages, size) => {
                self.client.open_pages(name, size.map(|size| (size, creation.durability)))?.object
            }
            (None, ObjectKind::Space, _) => self.client.create_space(name, creation)?,
            (None, ObjectKind::Stream, _) if creation.chained => self.client.open_chained(name, creation.durability)?,
            (None, ObjectKind::Stream, _) => self.client.open_stream(name, Some(creation.durability))?,
        };
        target.object = Some(object);
        if told.kind != ObjectKind::Stream {
            return Ok(());
        }
        if made && told.first > 0 {
            self.client.begin_stream(object, told.first, &told.head)?;
        }
        // One that is there with bounds keeps them; without, an import before this one was interrupted, or had none.
        let none = Retention::default();
        if told.retention != none && self.client.retention(object)? == none {
            self.client.set_retention(object, told.retention)?;
        }
        Ok(())
    }

    /// Of an object: what is written, and how. A sync at the end makes all of it durable.
    fn of(&self, number: usize) -> (Object, Write) {
        let object = self.targets[number].as_object();
        (object, Write { durability: Some(object.durability.min(Durability::Buffered)), ..Write::default() })
    }

    fn put(&mut self, object: usize, key: &[u8], value: &[u8], until_unix_ms: Option<u64>) -> Result<(), Failure> {
        let (space, mut how) = self.of(object);
        let space = space.stored();
        self.done.pairs += 1;
        if let Some(until_ms) = until_unix_ms {
            let left_ms = until_ms.saturating_sub(now_ms()).min(TTL_MS_MAX);
            if left_ms == 0 {
                self.told.expired += 1;
                return Ok(());
            }
            how.expires = Some(Duration::from_millis(left_ms));
        }
        loop {
            match self.client.submit(self.done.pairs, &Request::Put { space, key, value, how }) {
                Ok(()) => return Ok(()),
                Err(SubmitError::Full) => self.take()?,
                Err(SubmitError::Client(error)) => return Err(error.into()),
            }
        }
    }

    /// Waits for the answer to a put.
    fn take(&mut self) -> Result<(), Failure> {
        let answer = self.client.wait(&mut self.reply)?;
        answer.ok().map_err(|error| Error::from(error).context(format_args!("pair {}", answer.user_data)))?;
        Ok(())
    }

    fn append(&mut self, object: usize, event: Vec<u8>) -> Result<(), Failure> {
        self.done.events += 1;
        let target = &mut self.targets[object];
        if target.there > 0 {
            target.there -= 1;
            return Ok(());
        }
        self.batch(object, 0, event)
    }

    /// Adds an event or a page to those that go out together.
    fn batch(&mut self, object: usize, number: u64, bytes: Vec<u8>) -> Result<(), Failure> {
        let is_stream = self.targets[object].told.kind == ObjectKind::Stream;
        let (count_max, bytes_max, header_bytes) = match is_stream {
            true => (BATCH_EVENTS_MAX, BATCH_BYTES_MAX, BATCH_HEADER_BYTES),
            false => (PAGES_MAX, PAGES_BYTES_MAX, 0),
        };
        let bytes_max = bytes_max.min(self.client.value_bytes_max());
        let own_bytes = header_bytes + bytes.len();
        let full = self.batch.len() >= count_max || self.batch_bytes + own_bytes > bytes_max;
        if full || self.batch_of != object {
            self.flush()?;
        }
        self.batch_of = object;
        self.batch_bytes += own_bytes;
        self.batch.push((number, bytes));
        Ok(())
    }

    /// One batch at a time, so that none comes before one that failed.
    fn flush(&mut self) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let (object, how) = self.of(self.batch_of);
        let told = &self.targets[self.batch_of].told;
        let all: Vec<(u64, &[u8])> = self.batch.iter().map(|(number, bytes)| (*number, bytes.as_slice())).collect();
        let events: Vec<&[u8]> = all.iter().map(|(_, bytes)| *bytes).collect();
        let written = match (told.page, events.as_slice()) {
            (Some(size), _) => self.client.write_pages(Pages { object, size }, &all, how.durability),
            (None, [event]) => self.client.append(object, event, how),
            (None, events) => self.client.append_batch(object, events, how),
        };
        written.map_err(|error| Error::from(error).context(format_args!("write to {:?}", told.name)))?;
        self.batch.clear();
        self.batch_bytes = 0;
        Ok(())
    }

    fn cursor(&mut self, object: usize, name: &str, offset: u64) -> Result<(), Failure> {
        self.flush()?;
        self.done.cursors += 1;
        let stream = self.targets[object].as_object();
        if self.targets[object].numbered.is_none_or(|end| offset > end) {
            self.told.cursors_left += 1;
            return Ok(());
        }
        let durability = Some(stream.durability.min(Durability::Buffered));
        let how = CursorMove { durability, if_at: Some(CURSOR_ABSENT), rewind: false };
        match self.client.set_cursor(stream, name, offset, how) {
            Err(forebay::ring::client::ClientError::CursorMoved { .. }) => {
                self.told.cursors_left += 1;
                Ok(())
            }
            set => Ok(set?),
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
