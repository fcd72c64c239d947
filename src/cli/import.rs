//! `forebay import`: what `export` printed, back into spaces and streams.
//!
//! The file is read twice: once to see that all of it is good and fits, and once to write it. So a file that is not good
//! changes nothing.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use forebay::error::Error;
use forebay::ring::client::{Client, ClientError, Creation, Object, Request, SubmitError, Write};
use forebay::ring::protocol::{BATCH_HEADER_BYTES, Status};
use forebay::types::{Durability, ObjectId, ObjectKind};
use serde_json::json;

use super::context::{Context, Failure, check_key, check_value};
use super::dump::{Counts, Item, LINE_BYTES_MAX, Reading};
use super::progress::Progress;
use super::read::begin;

/// Events that share one request.
const BATCH_EVENTS_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 64 << 10;
/// Damaged lines that are named one by one.
const DAMAGE_TOLD_MAX: u64 = 20;

/// Write what `export` printed.
///
/// Spaces and streams are made as they were; those that are there stay as they are. Pairs replace what their keys hold.
/// Events that a stream holds already, from its first on, are not written again: so an import can be repeated. Nothing is
/// changed if a line is damaged, or a stream holds other events. When it ends, all is durable on the drive.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file; it is read twice, so not a pipe.
    file: PathBuf,
    /// Write all events behind those that a stream holds.
    #[arg(long)]
    append: bool,
    /// Leave out lines that are damaged, name them, and exit with 1.
    #[arg(long)]
    skip_damaged: bool,
}

pub fn run(args: Args, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.connect()?;
    let mut lines = Lines::open(&args.file)?;
    let mut check = Check { client: &mut client, args: &args, targets: Vec::new() };
    let Checked { damage, counts } = check.file(&mut lines)?;
    let targets = check.targets;
    let path = args.file.display();
    let found = damage.first.as_ref().map(|(line, cause)| {
        format!("{path}: {} damaged, the first is line {line}: {cause}", plural(damage.lines, "line"))
    });
    if let (Some(found), false) = (&found, args.skip_damaged) {
        return Err(Error::new(format!("{found}; nothing was imported"))
            .remedy("mend the file, or import the other lines with --skip-damaged")
            .into());
    }
    lines.rewind()?;
    let there: u64 = targets.iter().map(|target| target.there).sum();
    Apply::new(client, targets, counts).file(&mut lines)?;
    if context.json {
        context.out.json(&json!({
            "objects": counts.objects, "pairs": counts.pairs, "events": counts.events, "events_there": there,
            "lines_left_out": damage.lines,
        }))?;
    } else {
        let [objects, pairs, events] =
            [(counts.objects, "object"), (counts.pairs, "pair"), (counts.events, "event")].map(|(n, of)| plural(n, of));
        context.out.line(format!("{objects}, {pairs} and {events}; {there} of the events were there"))?;
    }
    context.out.flush()?;
    found.map_or(Ok(()), |found| Err(Error::new(format!("{found}; all other lines are imported")).into()))
}

fn plural(count: u64, of: &str) -> String {
    format!("{count} {of}{}", if count == 1 { "" } else { "s" })
}

/// The lines of a file, with their numbers.
struct Lines {
    input: BufReader<File>,
    line: Vec<u8>,
    number: u64,
}

impl Lines {
    fn open(path: &Path) -> Result<Lines, Failure> {
        let failed = |error: Error| error.context(format_args!("read {}", path.display()));
        let file = File::open(path).map_err(|error| failed(error.into()))?;
        if !file.metadata().map_err(|error| failed(error.into()))?.is_file() {
            return Err(failed(Error::new("it is not a file").remedy("write the export to a file first")).into());
        }
        Ok(Lines { input: BufReader::with_capacity(1 << 20, file), line: Vec::new(), number: 0 })
    }

    fn rewind(&mut self) -> Result<(), Failure> {
        self.number = 0;
        Ok(self.input.rewind().map_err(|error| Error::from(error).context("read the file again"))?)
    }

    /// Whether there is another line. One that is too long is cut, so that it does not parse.
    fn advance(&mut self) -> Result<bool, Failure> {
        let failed = |error: std::io::Error| Error::from(error).context("read the file");
        self.line.clear();
        let mut limited = (&mut self.input).take(LINE_BYTES_MAX as u64);
        if limited.read_until(b'\n', &mut self.line).map_err(failed)? == 0 {
            return Ok(false);
        }
        self.number += 1;
        if self.line.pop_if(|last| *last == b'\n').is_none() {
            self.input.skip_until(b'\n').map_err(failed)?;
        }
        Ok(true)
    }

    /// Puts the line's number before what went wrong with it.
    fn named(&self, failure: impl Into<Failure>) -> Failure {
        match failure.into() {
            Failure::Operation(error) | Failure::Usage(error) => {
                Failure::Operation(error.context(format_args!("line {}", self.number)))
            }
            closed => closed,
        }
    }
}

/// A space or stream of the file, and what there is of it.
struct Target {
    name: String,
    kind: ObjectKind,
    creation: Creation,
    /// `None`: it has to be made.
    object: Option<Object>,
    /// Events of the file that the stream holds already.
    there: u64,
    /// Where the events that the stream holds go on, and some of them; `None`: behind the last.
    next: Option<u64>,
    ahead: VecDeque<Vec<u8>>,
}

impl Target {
    /// What it is or will be; without a number until it is made.
    fn as_object(&self) -> Object {
        let Creation { durability, compression, .. } = self.creation;
        self.object.unwrap_or(Object { id: ObjectId(0), kind: self.kind, durability, compression })
    }
}

#[derive(Default)]
struct Damage {
    lines: u64,
    first: Option<(u64, String)>,
}

struct Checked {
    damage: Damage,
    counts: Counts,
}

/// The first reading: changes nothing.
struct Check<'a> {
    client: &'a mut Client,
    args: &'a Args,
    targets: Vec<Target>,
}

impl Check<'_> {
    fn file(&mut self, lines: &mut Lines) -> Result<Checked, Failure> {
        let (mut reading, mut damage, mut progress) = (Reading::default(), Damage::default(), Progress::new());
        let skips = self.args.skip_damaged;
        let mut damaged = |line: u64, cause: String| {
            damage.lines += 1;
            if skips && damage.lines <= DAMAGE_TOLD_MAX {
                eprintln!("forebay: line {line} is left out: {cause}");
            }
            damage.first.get_or_insert((line, cause));
        };
        while lines.advance()? {
            match reading.line(&lines.line) {
                Ok(item) => self.item(item).map_err(|failure| lines.named(failure))?,
                Err(cause) => damaged(lines.number, cause),
            }
            progress.show(|| format!("checking: {} lines so far", lines.number));
        }
        if !reading.ended {
            damaged(lines.number + 1, "the end line is missing, so the file was cut short".into());
        }
        Ok(Checked { damage, counts: reading.counts })
    }

    /// Whether it fits the daemon's limits and what is there.
    fn item(&mut self, item: Item) -> Result<(), Failure> {
        match item {
            Item::Object { name, kind, creation } => self.object(name, kind, creation),
            Item::Pair { object, key, value } => {
                check_key(self.client, &key)?;
                check_value(self.client, self.targets[object].as_object(), &value)
            }
            Item::Event { object, event } => {
                let target = &mut self.targets[object];
                check_value(self.client, target.as_object(), &event)?;
                compare(self.client, target, &event)
            }
            Item::End => Ok(()),
        }
    }

    fn object(&mut self, name: String, kind: ObjectKind, creation: Creation) -> Result<(), Failure> {
        let is_space = kind == ObjectKind::Space;
        let opened = if is_space { self.client.open_space(&name, None) } else { self.client.open_stream(&name, None) };
        let object = match opened {
            Err(ClientError::Status(Status::UnknownObject)) => None,
            Err(ClientError::Status(Status::WrongKind)) => {
                return Err(Error::new(format!("{name:?} is there and is no {}", kind.name()))
                    .remedy("import into another appliance")
                    .into());
            }
            object => Some(object?),
        };
        let mut next = None;
        if let Some(Object { durability, compression, .. }) = object {
            if creation != (Creation { durability, compression, chained: false }) {
                let (durability, compression) = (durability.name(), compression.name());
                eprintln!(
                    "forebay: {name:?} is there with durability {durability} and compression {compression}, not as in \
                     the file, and stays so"
                );
            }
            if let (Some(stream), ObjectKind::Stream, false) = (object, kind, self.args.append) {
                next = Some(begin(self.client, stream, None)?);
            }
        }
        self.targets.push(Target { name, kind, creation, object, there: 0, next, ahead: VecDeque::new() });
        Ok(())
    }
}

/// Holds an event of the file against the one that the stream has in its place, if it has one.
fn compare(client: &mut Client, target: &mut Target, event: &[u8]) -> Result<(), Failure> {
    if let (Some(stream), Some(next), true) = (target.object, target.next, target.ahead.is_empty()) {
        let events = client.read(stream, next, None)?;
        target.next = events.last().map(|(last, _)| last + 1);
        target.ahead.extend(events.into_iter().map(|(_, event)| event));
    }
    match target.ahead.pop_front() {
        None => Ok(()),
        Some(there) if there == event => {
            target.there += 1;
            Ok(())
        }
        Some(_) => Err(Error::new(format!("the stream {:?} holds another event in this place", target.name))
            .remedy("import into another stream, or write all events behind those that are there with --append")
            .into()),
    }
}

/// The second reading: writes.
struct Apply {
    client: Client,
    targets: Vec<Target>,
    total: Counts,
    done: Counts,
    /// Events that go out together, and their stream.
    batch: Vec<Vec<u8>>,
    batch_bytes: usize,
    batch_of: usize,
    reply: Vec<u8>,
    progress: Progress,
}

impl Apply {
    fn new(client: Client, targets: Vec<Target>, total: Counts) -> Apply {
        let (done, batch, reply, progress) = (Counts::default(), Vec::new(), Vec::new(), Progress::new());
        Apply { client, targets, total, done, batch, batch_bytes: 0, batch_of: 0, reply, progress }
    }

    fn file(mut self, lines: &mut Lines) -> Result<(), Failure> {
        let mut reading = Reading::default();
        let mut objects = 0;
        while lines.advance()? {
            // What is damaged was told of at the first reading.
            let Ok(item) = reading.line(&lines.line) else { continue };
            let applied = match item {
                Item::Object { name, kind, .. } => {
                    objects += 1;
                    self.make(objects - 1, &name, kind)
                }
                Item::Pair { object, key, value } => self.put(object, &key, &value, lines.number),
                Item::Event { object, event } => self.append(object, event),
                Item::End => Ok(()),
            };
            applied.map_err(|failure| lines.named(failure))?;
            let (done, total) = (self.done, self.total);
            self.progress.show(|| {
                format!(
                    "importing: {} of {} pairs, {} of {} events",
                    done.pairs, total.pairs, done.events, total.events
                )
            });
        }
        self.flush().map_err(|failure| lines.named(failure))?;
        while self.client.in_flight() > 0 {
            self.take()?;
        }
        Ok(self.client.sync()?)
    }

    fn make(&mut self, number: usize, name: &str, kind: ObjectKind) -> Result<(), Failure> {
        let same = |target: &&mut Target| target.name == name && target.kind == kind;
        let Some(target) = self.targets.get_mut(number).filter(same) else {
            return Err(Error::new("the file changed while it was read").remedy("import it again").into());
        };
        if target.object.is_none() {
            let Target { name, creation, .. } = target;
            target.object = Some(if kind == ObjectKind::Space {
                self.client.create_space(name, *creation)?
            } else {
                self.client.open_stream(name, Some(creation.durability))?
            });
        }
        Ok(())
    }

    /// Of a line: what is written, and how. A sync at the end makes all of it durable.
    fn of(&self, number: usize) -> (Object, Write) {
        let object = self.targets[number].as_object();
        (object, Write { durability: Some(object.durability.min(Durability::Buffered)), ..Write::default() })
    }

    fn put(&mut self, object: usize, key: &[u8], value: &[u8], line: u64) -> Result<(), Failure> {
        let (space, how) = self.of(object);
        self.done.pairs += 1;
        loop {
            match self.client.submit(line, &Request::Put { space, key, value, how }) {
                Ok(()) => return Ok(()),
                Err(SubmitError::Full) => self.take()?,
                Err(SubmitError::Client(error)) => return Err(error.into()),
            }
        }
    }

    /// Waits for the answer to a put.
    fn take(&mut self) -> Result<(), Failure> {
        let answer = self.client.wait(&mut self.reply)?;
        answer.ok().map_err(|error| Error::from(error).context(format_args!("line {}", answer.user_data)))?;
        Ok(())
    }

    fn append(&mut self, object: usize, event: Vec<u8>) -> Result<(), Failure> {
        self.done.events += 1;
        let target = &mut self.targets[object];
        if target.there > 0 {
            target.there -= 1;
            return Ok(());
        }
        let bytes = BATCH_HEADER_BYTES + event.len();
        let bytes_max = BATCH_BYTES_MAX.min(self.client.value_bytes_max());
        let full = self.batch.len() >= BATCH_EVENTS_MAX || self.batch_bytes + bytes > bytes_max;
        if full || self.batch_of != object {
            self.flush()?;
        }
        self.batch_of = object;
        self.batch_bytes += bytes;
        self.batch.push(event);
        Ok(())
    }

    /// One batch at a time, so that none comes before one that failed.
    fn flush(&mut self) -> Result<(), Failure> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let (stream, how) = self.of(self.batch_of);
        match self.batch.as_slice() {
            [event] => self.client.append(stream, event, how)?,
            events => {
                let events: Vec<&[u8]> = events.iter().map(Vec::as_slice).collect();
                self.client.append_batch(stream, &events, how)?
            }
        };
        self.batch.clear();
        self.batch_bytes = 0;
        Ok(())
    }
}
