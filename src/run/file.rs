//! A run as one file: its steps as they are, compressed, with a digest at the end. docs/ring.md has the layout.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Seek, Write};
use std::path::{Path, PathBuf};

use crate::bytes::{array, get_u64, len_u32};
use crate::ring::client::{Client, ClientError, CursorMove, Head, Object, Write as How};
use crate::ring::protocol::{HEAD_BYTES, OFFSETS_END, Status, VALUE_BYTES_MAX, name_is_valid};
use crate::types::Durability;

use super::step::Step;
use super::{RunError, STATE_CURSOR, begin_of, step_of};

const MAGIC: [u8; 8] = *b"FBRUN\0\0\x01";
/// Magic, u64 offset of the first step, u64 offset behind the last, u8 durability, u8 chained, u8 name bytes, five zeros, and
/// the head before the first step.
const HEADER_BYTES: usize = 32 + HEAD_BYTES;
/// Stands in the place of a step's size behind the last one.
const END: u32 = u32::MAX;
const LEVEL: i32 = 3;
/// Steps that share one request.
const BATCH_STEPS_MAX: usize = 256;
const BATCH_BYTES_MAX: usize = 256 << 10;

/// What such a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub name: String,
    /// The run was compacted below this offset.
    pub first: u64,
    /// The offset behind the last step.
    pub next: u64,
    pub durability: Durability,
    pub chained: bool,
    /// Before the first step, where they are linked.
    head: Head,
    pub step_bytes_max: usize,
}

/// Writes a run as it is now to a file, which must not be there. The file has its name only when all of it is durable; a crash
/// leaves at most one whose name begins with `.unfinished`. `progress` hears how many steps are written. Blocks.
///
/// # Errors
/// `NotAStep`, `Trimmed`, `Io`; else those of `Client::read`. Nothing has the name then.
pub fn export(
    client: &mut Client,
    name: &str,
    path: &Path,
    mut progress: impl FnMut(u64),
) -> Result<Summary, RunError> {
    let (stream, chained) = client.find_stream(name)?;
    let mut unfinished = Unfinished::create(path)?;
    let summary = loop {
        let (kept, _) = extent(client, stream)?;
        let begin = if kept == 0 { None } else { begin_of(client, stream, kept)? };
        // Behind the state that the run is read from.
        let (_, next) = extent(client, stream)?;
        let (name, first, durability, head) = (name.to_owned(), begin.unwrap_or(0), stream.durability, [0; HEAD_BYTES]);
        let summary = Summary { name, first, next, durability, chained, head, step_bytes_max: 0 };
        match write(client, stream, summary, &mut unfinished.file, &mut progress) {
            // It was compacted meanwhile.
            Err(RunError::Trimmed { .. } | RunError::Client(ClientError::Trimmed { .. })) => unfinished.rewind()?,
            written => break written?,
        }
    };
    unfinished.finish()?;
    Ok(summary)
}

/// The first offset that a stream keeps, and the one behind its last event.
fn extent(client: &mut Client, stream: Object) -> Result<(u64, u64), RunError> {
    let snapshot = client.snapshot()?;
    let extent = client.extent(snapshot, stream);
    client.release(snapshot)?;
    Ok(extent?)
}

/// Writes the run that `summary` tells of, and gives what is known then.
fn write(
    client: &mut Client,
    stream: Object,
    mut summary: Summary,
    out: &mut File,
    progress: &mut impl FnMut(u64),
) -> Result<Summary, RunError> {
    let Summary { first, next, durability, chained, .. } = summary;
    if chained {
        summary.head = client.head_before(stream, first)?;
    }
    let mut encoder = zstd::Encoder::new(out, LEVEL)?;
    encoder.include_checksum(true)?;
    let mut sink = Digested { inner: encoder, hasher: blake3::Hasher::new() };
    let mut header = [0; HEADER_BYTES];
    header[..8].copy_from_slice(&MAGIC);
    header[8..16].copy_from_slice(&first.to_le_bytes());
    header[16..24].copy_from_slice(&next.to_le_bytes());
    header[24..26].copy_from_slice(&[durability as u8, u8::from(chained)]);
    header[26] = u8::try_from(summary.name.len()).map_err(|_| ClientError::BadName)?;
    header[32..].copy_from_slice(&summary.head);
    sink.write_all(&header)?;
    sink.write_all(summary.name.as_bytes())?;
    let mut at = first;
    while at < next {
        let events = super::read(client, stream, at)?;
        for (offset, event) in events.iter().filter(|(offset, _)| *offset < next) {
            step_of(*offset, event)?;
            sink.write_all(&len_u32(event.len()).to_le_bytes())?;
            sink.write_all(event)?;
            summary.step_bytes_max = summary.step_bytes_max.max(event.len());
            at = offset + 1;
        }
        if events.is_empty() {
            return Err(RunError::BadFile(format!("the run ends at offset {at}, and was to end at {next}")));
        }
        progress(at - first);
    }
    sink.write_all(&END.to_le_bytes())?;
    let Digested { inner: mut encoder, hasher } = sink;
    encoder.write_all(hasher.finalize().as_bytes())?;
    encoder.finish()?;
    Ok(summary)
}

/// A file that has another name until it is whole, in the same directory. Dropped before its end, it is gone.
struct Unfinished<'a> {
    file: File,
    path: PathBuf,
    last_path: &'a Path,
}

impl Unfinished<'_> {
    fn create(last_path: &Path) -> Result<Unfinished<'_>, RunError> {
        if last_path.symlink_metadata().is_ok() {
            return Err(io::Error::from(io::ErrorKind::AlreadyExists).into());
        }
        for number in 0_u32.. {
            let path = last_path.with_file_name(format!(".unfinished-{}-{number}.run", std::process::id()));
            match File::create_new(&path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                file => return Ok(Unfinished { file: file?, path, last_path }),
            }
        }
        Err(io::Error::from(io::ErrorKind::AlreadyExists).into())
    }

    fn rewind(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()
    }

    fn finish(&self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, self.last_path)?;
        let directory = self.last_path.parent().filter(|parent| *parent != Path::new(""));
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        // It has another name by then, or is no run.
        _ = fs::remove_file(&self.path);
    }
}

/// Reads all of a file, and proves that it is what was written. Blocks.
///
/// # Errors
/// `BadFile` says where it is damaged; `Io`.
pub fn check(path: &Path) -> Result<Summary, RunError> {
    read(path, |_, _| Ok(()))
}

/// Makes a run of a file, under another name with `name`. All of the file is checked before anything is written; when
/// it ends all is durable. Steps have the offsets that they had. A run that holds the first of them and nothing else is an import
/// that was interrupted: it goes on. Blocks.
///
/// # Errors
/// `BadFile`, `IsThere`, `TooLarge`, `Io`: nothing was written. Else those of `Client::append_batch`, after which a part of it
/// may be there.
pub fn import(
    client: &mut Client,
    path: &Path,
    name: Option<&str>,
    mut progress: impl FnMut(u64),
) -> Result<Summary, RunError> {
    let mut summary = check(path)?;
    summary.name = name.map_or(summary.name, str::to_owned);
    let found = match client.find_stream(&summary.name) {
        Err(ClientError::Status(Status::UnknownObject)) => None,
        Err(ClientError::Status(Status::WrongKind)) => return Err(RunError::IsThere(summary.name)),
        found => Some(found?),
    };
    if summary.step_bytes_max > client.value_bytes_max() {
        return Err(RunError::TooLarge { bytes: summary.step_bytes_max, bytes_max: client.value_bytes_max() });
    }
    let mut at = found.map_or(Ok(0), |(stream, chained)| held_of(client, stream, chained, path, &summary))?;
    let stream = match found {
        Some((stream, _)) => stream,
        None if summary.chained => client.open_chained(&summary.name, summary.durability)?,
        None => client.open_stream(&summary.name, Some(summary.durability))?,
    };
    if at < summary.first {
        client.begin_stream(stream, summary.first, if summary.chained { &summary.head } else { &[] })?;
        at = summary.first;
    }
    let (mut batch, mut batch_bytes, bytes_max) = (Vec::new(), 0, client.value_bytes_max());
    read(path, |offset, event| {
        if offset < at {
            return Ok(());
        }
        // In a request each stands behind its size.
        let bytes = event.len() + size_of::<u32>();
        if batch.len() == BATCH_STEPS_MAX || batch_bytes + bytes > BATCH_BYTES_MAX.min(bytes_max) {
            at = flush(client, stream, at, &mut batch)?;
            batch_bytes = 0;
            progress(at - summary.first);
        }
        batch_bytes += bytes;
        batch.push(event.to_vec());
        Ok(())
    })?;
    flush(client, stream, at, &mut batch)?;
    if summary.first > 0 {
        client.set_cursor(stream, STATE_CURSOR, summary.first, CursorMove::default())?;
    }
    client.sync()?;
    Ok(summary)
}

/// The offset behind the last step that a stream holds, where all that it holds are the first steps of a file, but not all.
fn held_of(
    client: &mut Client,
    stream: Object,
    chained: bool,
    path: &Path,
    summary: &Summary,
) -> Result<u64, RunError> {
    let another = || RunError::IsThere(summary.name.clone());
    let (first, next) = extent(client, stream)?;
    let begins = first == if next == 0 { 0 } else { summary.first };
    if !begins || next >= summary.next || (chained, stream.durability) != (summary.chained, summary.durability) {
        return Err(another());
    }
    if chained && next > 0 && client.head_before(stream, first)? != summary.head {
        return Err(another());
    }
    let mut held = VecDeque::new();
    read(path, |offset, event| {
        if offset >= next {
            return Ok(());
        }
        if held.is_empty() {
            held.extend(super::read(client, stream, offset)?);
        }
        let same = held.pop_front().is_some_and(|(at, step)| at == offset && step == event);
        if same { Ok(()) } else { Err(another()) }
    })?;
    Ok(next)
}

/// Writes steps that have their offsets from `at` on. Gives the offset behind the last.
fn flush(client: &mut Client, stream: Object, at: u64, batch: &mut Vec<Vec<u8>>) -> Result<u64, RunError> {
    let events: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
    let offset = match events.as_slice() {
        [] => at,
        [event] => client.append(stream, event, How::default())?,
        events => client.append_batch(stream, events, How::default())?,
    };
    if offset != at {
        return Err(RunError::WrittenBeside { offset: at });
    }
    let next = at + batch.len() as u64;
    batch.clear();
    Ok(next)
}

/// What is written or read, and the digest of it.
struct Digested<T> {
    inner: T,
    hasher: blake3::Hasher,
}

impl<W: Write> Digested<W> {
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), RunError> {
        self.hasher.update(bytes);
        Ok(self.inner.write_all(bytes)?)
    }
}

impl<R: Read> Digested<R> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], RunError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), RunError> {
        self.inner.read_exact(bytes).map_err(|error| bad(&error.to_string()))?;
        self.hasher.update(bytes);
        Ok(())
    }
}

fn bad(cause: &str) -> RunError {
    RunError::BadFile(format!("the file is damaged, cut short or no run: {cause}"))
}

/// Reads a file, and hands each step with its offset to `take`. The digest is checked when all of it is read.
fn read(path: &Path, mut take: impl FnMut(u64, &[u8]) -> Result<(), RunError>) -> Result<Summary, RunError> {
    let inner = zstd::Decoder::new(BufReader::with_capacity(1 << 20, File::open(path)?))?;
    let mut source = Digested { inner, hasher: blake3::Hasher::new() };
    let header: [u8; HEADER_BYTES] = source.take()?;
    let (first, next) = (get_u64(&header, 8), get_u64(&header, 16));
    let (chained, head) = (header[25] == 1, array(&header, 32));
    if header[..8] != MAGIC || header[25] > 1 || header[27..32] != [0; 5] || !chained && head != [0; HEAD_BYTES] {
        return Err(bad("it does not begin as one"));
    }
    if next < first || next >= OFFSETS_END {
        return Err(bad("no run has such offsets"));
    }
    let durability = Durability::from_wire(header[24]).filter(|durability| *durability != Durability::Memory);
    let durability = durability.ok_or_else(|| bad("no run has its durability"))?;
    let mut name = vec![0; usize::from(header[26])];
    source.fill(&mut name)?;
    let name = String::from_utf8(name).ok().filter(|name| name_is_valid(name.as_bytes()));
    let name = name.ok_or_else(|| bad("no run can be called so"))?;
    let (mut at, mut event, mut step_bytes_max) = (first, Vec::new(), 0);
    loop {
        let bytes = u32::from_le_bytes(source.take()?);
        if bytes == END {
            break;
        }
        if bytes as usize > VALUE_BYTES_MAX || at == next {
            return Err(bad(&format!("step {at} is none")));
        }
        event.resize(bytes as usize, 0);
        source.fill(&mut event)?;
        Step::decode(&event).ok_or_else(|| bad(&format!("step {at} is none")))?;
        take(at, &event)?;
        step_bytes_max = step_bytes_max.max(event.len());
        at += 1;
    }
    let digest = source.hasher.finalize();
    let stated: [u8; blake3::OUT_LEN] = source.take()?;
    let ends = source.inner.read(&mut [0]).is_ok_and(|bytes| bytes == 0);
    if at != next || *digest.as_bytes() != stated || !ends {
        return Err(bad("its digest is another one"));
    }
    Ok(Summary { name, first, next, durability, chained, head, step_bytes_max })
}
