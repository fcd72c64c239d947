//! Before a job starts: its space or stream exists, and what it is going to read is there.

use super::generators::Operations;
use super::job::Job;
use super::payload::{Payload, Stamp, write_key};
use super::pipeline::pipeline;
use crate::error::{Error, Result};
use crate::ring::client::{Client, ClientError, Creation, Object, Request, Write, events};
use crate::ring::protocol::{EVENT_HEADER_BYTES, KEY_BYTES_MAX, PAGE_HEADER_BYTES, Status};
use crate::types::{Compression, Durability, ObjectKind, PageSize};
use std::ops::Range;
use std::time::Duration;

/// Keys that are looked at before the missing ones among them are put.
const KEYS_PER_STEP: u64 = 65_536;
/// Room for the events that one read brings, while a stream is walked.
pub const WALK_BYTES: usize = 256 << 10;

/// What the threads of a job share.
#[derive(Clone, Debug)]
pub struct Prepared {
    pub object: Object,
    /// Offsets of the events that a job which reads a stream may read.
    pub events: Range<u64>,
    /// Room that a read gives for a value or an event.
    pub read_bytes_max: usize,
    /// Keys or events that were missing and were written first.
    pub filled: u64,
    /// A scan asks each of them.
    pub shards: u32,
}

/// Opens the job's space or stream and writes what a reading job would miss.
///
/// # Errors
/// Limits of the daemon, a name of the other kind, nothing to read, or a failed request.
pub fn prepare(client: &mut Client, job: &Job, writer: u64, read_bytes_max: usize) -> Result<Prepared> {
    let largest = job.sizes.bytes_max() as usize;
    if largest > client.value_bytes_max() || job.key_bytes > client.key_bytes_max() {
        return Err(Error::new(format!(
            "keys of {} B with values of {largest} B are over the daemon's limits of {} B and {} B",
            job.key_bytes,
            client.key_bytes_max(),
            client.value_bytes_max()
        ))
        .remedy("make key_size= or value_size= smaller, or raise the limits in the daemon's configuration"));
    }
    let durability = job.durability.unwrap_or(Durability::Strict);
    let object = match job.target.kind {
        ObjectKind::Space => {
            let creation = Creation { durability, compression: job.compression.unwrap_or_default(), chained: false };
            client.create_space(&job.target.name, creation)?
        }
        ObjectKind::Stream => client.open_stream(&job.target.name, Some(durability))?,
        ObjectKind::Pages => open_pages(client, job, durability)?,
    };
    if object.compression == Compression::Delta {
        return Err(Error::new(format!("the space {:?} holds deltas, which load does not write", job.target.name))
            .remedy("name another space="));
    }
    if let Some(wanted) = job.compression.filter(|wanted| *wanted != object.compression) {
        let (name, has) = (&job.target.name, object.compression.name());
        return Err(Error::new(format!("the space {name:?} is there with compression={has}, not {}", wanted.name()))
            .remedy("name another space=, or leave out compression="));
    }
    check_transactions(client, job, object)?;
    // Of a compressed space the stored form needs the room.
    let read_bytes_max = read_bytes_max + client.value_bytes_max() - client.value_bytes_max_in(object);
    let mut prepared = Prepared { object, events: 0..0, read_bytes_max, filled: 0, shards: client.shards() };
    if job.reads() {
        match job.target.kind {
            ObjectKind::Space => fill_space(client, job, writer, &mut prepared)?,
            ObjectKind::Stream => fill_stream(client, job, writer, &mut prepared)?,
            ObjectKind::Pages => fill_pages(client, job, writer, &mut prepared)?,
        }
        if prepared.filled > 0 {
            client.sync()?;
        }
    }
    Ok(prepared)
}

/// Whether what the job's transactions commit is taken.
fn check_transactions(client: &Client, job: &Job, object: Object) -> Result<()> {
    let (bytes, bytes_max) = (job.commit_bytes_max(), client.value_bytes_max());
    if bytes > bytes_max {
        return Err(Error::new(format!("a commit of {bytes} B is over the daemon's limit of {bytes_max} B"))
            .remedy("make value_size= smaller, or let transaction= write fewer rows"));
    }
    if !job.transactions.is_empty() && object.compression != Compression::None {
        let (name, has) = (&job.target.name, object.compression.name());
        return Err(Error::new(format!("the space {name:?} has compression={has}, and load commits plain values"))
            .remedy("name another space="));
    }
    Ok(())
}

fn open_pages(client: &mut Client, job: &Job, durability: Durability) -> Result<Object> {
    let bytes = job.sizes.bytes_max() as usize;
    let size = PageSize::new(bytes).ok_or_else(|| Error::new(format!("no page has {bytes} B")))?;
    let pages = client.open_pages(&job.target.name, Some((size, durability)))?;
    if pages.size != size {
        let (name, has) = (&job.target.name, pages.size.bytes());
        return Err(Error::new(format!("the page space {name:?} is there with pages of {has} B, not {bytes} B"))
            .remedy("name another pages=, or make bs= that size"));
    }
    Ok(pages.object)
}

/// What is filled in need not be durable one by one: a sync at the end covers it.
fn fill_how(object: Object) -> Write {
    Write { durability: Some(object.durability.min(Durability::Buffered)), ..Write::default() }
}

/// Asks for every key without room for its value: the answer says whether it is there, and how large. Puts the others.
fn fill_space(client: &mut Client, job: &Job, writer: u64, prepared: &mut Prepared) -> Result<()> {
    let (object, how) = (prepared.object, fill_how(prepared.object));
    let mut draws = Operations::new(job, 0);
    let mut payload = Payload::new(job.sizes.bytes_max() as usize, job.compress_percent);
    let mut room = [0; KEY_BYTES_MAX];
    let key = &mut room[..job.key_bytes];
    let mut missing = Vec::new();
    for first in (0..job.keys).step_by(KEYS_PER_STEP.try_into().expect("64-bit machines only")) {
        let count = KEYS_PER_STEP.min(job.keys - first);
        missing.clear();
        pipeline(
            client,
            count,
            |client, place| {
                write_key(key, first + place);
                client.submit(place, &Request::Get { space: object, key, relaxed: true, value_bytes_max: 0 })
            },
            |answer, _| {
                match answer.status {
                    Status::Ok => {}
                    Status::ReplyTooSmall => {
                        let bytes = usize::try_from(answer.aux).expect("64-bit machines only");
                        prepared.read_bytes_max = prepared.read_bytes_max.max(bytes);
                    }
                    Status::NotFound => missing.push(first + answer.user_data),
                    status => return Err(ClientError::Status(status).into()),
                }
                Ok(())
            },
        )?;
        pipeline(
            client,
            missing.len() as u64,
            |client, place| {
                let number = missing[usize::try_from(place).expect("64-bit machines only")];
                write_key(key, number);
                let stamp = Stamp { writer, key: number, write: number };
                let value = payload.fill(stamp, draws.draw().bytes as usize);
                client.submit(place, &Request::Put { space: object, key, value, how })
            },
            |answer, _| Ok(answer.ok().map(drop)?),
        )?;
        prepared.filled += missing.len() as u64;
    }
    Ok(())
}

/// Reads every page, and writes those that are missing.
fn fill_pages(client: &mut Client, job: &Job, writer: u64, prepared: &mut Prepared) -> Result<()> {
    let (space, durability) = (prepared.object, fill_how(prepared.object).durability);
    let page_bytes = job.sizes.bytes_max() as usize;
    let reply_bytes_max = PAGE_HEADER_BYTES + page_bytes;
    let mut payload = Payload::new(page_bytes, job.compress_percent);
    let mut missing = Vec::new();
    pipeline(
        client,
        job.keys,
        |client, number| {
            client.submit(
                number,
                &Request::ReadPages { space, numbers: &[number], snapshot: None, relaxed: true, reply_bytes_max },
            )
        },
        |answer, _| {
            let answer = answer.ok()?;
            missing.extend((answer.aux == 0).then_some(answer.user_data));
            Ok(())
        },
    )?;
    pipeline(
        client,
        missing.len() as u64,
        |client, place| {
            let number = missing[usize::try_from(place).expect("64-bit machines only")];
            let page = payload.fill(Stamp { writer, key: number, write: number }, page_bytes);
            client.submit(place, &Request::WritePage { space, number, page, durability })
        },
        |answer, _| Ok(answer.ok().map(drop)?),
    )?;
    prepared.filled = missing.len() as u64;
    Ok(())
}

/// Counts the events of a stream, and appends until there are as many as the job reads.
fn fill_stream(client: &mut Client, job: &Job, writer: u64, prepared: &mut Prepared) -> Result<()> {
    let (object, how) = (prepared.object, fill_how(prepared.object));
    let mut largest = prepared.read_bytes_max;
    let found = walk(client, object, 0, |_, event| largest = largest.max(event.len()))?;
    let present = found.end - found.start;
    let wanted = job.operations_max.unwrap_or(present).max(present);
    if wanted == 0 {
        return Err(Error::new(format!("the stream {:?} is empty, there is nothing to read", job.target.name))
            .remedy("give size=, so that it is filled first, or write it in an earlier job"));
    }
    let mut draws = Operations::new(job, 0);
    let mut payload = Payload::new(job.sizes.bytes_max() as usize, job.compress_percent);
    pipeline(
        client,
        wanted - present,
        |client, place| {
            let event = payload.fill(Stamp { writer, key: place, write: place }, draws.draw().bytes as usize);
            client.submit(place, &Request::Append { stream: object, event, how })
        },
        |answer, _| Ok(answer.ok().map(drop)?),
    )?;
    prepared.filled = wanted - present;
    prepared.read_bytes_max = largest;
    prepared.events = if prepared.filled == 0 { found } else { walk(client, object, found.start, |_, _| {})? };
    Ok(())
}

/// Reads a stream from an offset to its end and returns the offsets seen.
///
/// # Errors
/// A failed request, or an event that has no room in a reply of the daemon's largest.
pub fn walk(client: &mut Client, object: Object, from: u64, mut each: impl FnMut(u64, &[u8])) -> Result<Range<u64>> {
    let mut reply = Vec::new();
    let mut room = WALK_BYTES;
    let (mut start, mut next) = (None, from);
    loop {
        let request =
            Request::Read { stream: object, from: next, wait: Duration::ZERO, reply_bytes_max: room, relaxed: false };
        match client.submit(0, &request) {
            Ok(()) => {}
            Err(error) => return Err(Error::new(error.to_string())),
        }
        let answer = client.wait(&mut reply)?;
        match answer.status {
            Status::Trimmed => next = answer.version.max(next + 1),
            Status::ReplyTooSmall => {
                let needed = usize::try_from(answer.aux).expect("64-bit machines only");
                room = needed.max(room + EVENT_HEADER_BYTES);
            }
            Status::TimedOut => return Ok(start.unwrap_or(next)..next),
            _ => {
                answer.ok()?;
                let before = next;
                for pair in events(&reply) {
                    let (offset, event) = pair?;
                    start.get_or_insert(offset);
                    each(offset, event);
                    next = offset + 1;
                }
                if next == before {
                    return Ok(start.unwrap_or(next)..next);
                }
            }
        }
    }
}
