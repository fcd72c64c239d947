//! `forebay append`: add events to a stream.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use forebay::config::{ByteSize, Nanos};
use forebay::error::Error;
use forebay::ring::client::{Client, Object, Once, Write};
use forebay::ring::protocol::VALUE_BYTES_MAX;
use serde_json::json;

use super::bytes;
use super::context::{Context, Failure, WriteArgs, check_value};
use super::progress::Progress;
use super::retain::{Bound, Bounds};

/// Lines that share one request.
const BATCH_EVENTS_MAX: usize = 64;
const BATCH_BYTES_MAX: usize = 64 << 10;

/// Add events to a stream; prints the offset of the first.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The stream's name.
    stream: String,
    /// The events, in order; - takes one from standard input.
    #[arg(required_unless_present_any = ["file", "lines"])]
    events: Vec<OsString>,
    /// Take one event from a file, or from standard input with -, byte for byte.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["events", "lines"])]
    file: Option<PathBuf>,
    /// Every line of standard input is an event.
    #[arg(long, conflicts_with = "events")]
    lines: bool,
    /// The events, as arguments or lines, are hexadecimal.
    #[arg(long)]
    hex: bool,
    /// Append only once, however often this is tried: the number of the producer, which nobody else uses.
    #[arg(long, value_name = "ID", requires = "sequence", conflicts_with = "lines")]
    producer: Option<u64>,
    /// The producer's sequence number of this append: 1, then without gaps.
    #[arg(long, value_name = "N", requires = "producer", value_parser = clap::value_parser!(u64).range(1..))]
    sequence: Option<u64>,
    /// Create it as a chained stream, whose events are linked by hashes: see `forebay verify --stream`.
    #[arg(long, requires = "create")]
    chained: bool,
    /// Keep at most so many bytes of events in the stream from now on: see `forebay retain`.
    #[arg(long, value_name = "BYTES")]
    retain_bytes: Option<Bound<ByteSize>>,
    /// Keep events for so long in the stream from now on.
    #[arg(long, value_name = "TIME")]
    retain_age: Option<Bound<Nanos>>,
    #[command(flatten)]
    write: WriteArgs,
}

/// What was appended so far.
#[derive(Default)]
struct Appended {
    first: Option<u64>,
    events: u64,
}

impl Appended {
    fn once(
        &mut self,
        client: &mut Client,
        stream: Object,
        once: Once,
        events: &[Vec<u8>],
        how: Write,
    ) -> Result<(), Failure> {
        events.iter().try_for_each(|event| check_value(client, stream, event))?;
        let slices: Vec<&[u8]> = events.iter().map(Vec::as_slice).collect();
        self.first = Some(client.append_batch_once(stream, once, &slices, how)?);
        self.events += slices.len() as u64;
        Ok(())
    }

    fn batch(&mut self, client: &mut Client, stream: Object, events: &[Vec<u8>], how: Write) -> Result<(), Failure> {
        events.iter().try_for_each(|event| check_value(client, stream, event))?;
        let slices: Vec<&[u8]> = events.iter().map(Vec::as_slice).collect();
        let first = match slices.as_slice() {
            [] => return Ok(()),
            [event] => client.append(stream, event, how)?,
            events => client.append_batch(stream, events, how)?,
        };
        self.first.get_or_insert(first);
        self.events += slices.len() as u64;
        Ok(())
    }
}

pub fn run(args: Args, context: &mut Context) -> Result<(), Failure> {
    let bounds = Bounds { bytes: args.retain_bytes, age: args.retain_age };
    bounds.check()?;
    let how = Write { durability: args.write.durability, ..Write::default() };
    let events = match &args.file {
        Some(path) => vec![bytes::read_source(path)?],
        None => args.events.into_iter().map(|event| source(event, args.hex)).collect::<Result<_, _>>()?,
    };
    let create = args.write.created_with(&context.config);
    let (mut client, stream) = match create {
        Some(durability) if args.chained => context.chained(&args.stream, durability)?,
        create => context.stream(&args.stream, create)?,
    };
    if bounds.is_given() {
        bounds.set(&mut client, stream)?;
    }
    let mut appended = Appended::default();
    match args.producer.zip(args.sequence) {
        Some((producer, sequence)) => {
            appended.once(&mut client, stream, Once { producer, sequence }, &events, how)?;
        }
        None => appended.batch(&mut client, stream, &events, how)?,
    }
    if args.lines {
        append_lines(&mut appended, &mut client, stream, args.hex, how)?;
    }
    if context.json {
        return context.out.json(&json!({ "first": appended.first, "events": appended.events }));
    }
    appended.first.map_or(Ok(()), |first| context.out.line(first.to_string()))
}

fn source(event: OsString, hex: bool) -> Result<Vec<u8>, Failure> {
    if event == "-" { bytes::read_source(Path::new("-")) } else { bytes::decode(event, hex) }
}

/// Appends as the lines come: what is ready goes out together, a slow writer's lines go out one by one.
fn append_lines(
    appended: &mut Appended,
    client: &mut Client,
    stream: Object,
    hex: bool,
    how: Write,
) -> Result<(), Failure> {
    let mut progress = Progress::new();
    let mut input = BufReader::with_capacity(BATCH_BYTES_MAX, io::stdin());
    let mut batch: Vec<Vec<u8>> = Vec::new();
    let mut batch_bytes = 0;
    while let Some(line) = next_line(&mut input)? {
        batch_bytes += line.len();
        batch.push(if hex { bytes::decode(OsString::from_vec(line), true)? } else { line });
        let more_lines = input.buffer().contains(&b'\n');
        if !more_lines || batch.len() >= BATCH_EVENTS_MAX || batch_bytes >= BATCH_BYTES_MAX {
            appended.batch(client, stream, &batch, how)?;
            batch.clear();
            batch_bytes = 0;
            progress.show(|| format!("{} events appended", appended.events));
        }
    }
    appended.batch(client, stream, &batch, how)
}

/// A line without its end, `None` at the end of input. A line over the largest value is an error, not memory.
fn next_line(input: &mut impl BufRead) -> Result<Option<Vec<u8>>, Failure> {
    let mut line = Vec::new();
    let mut limited = input.take(VALUE_BYTES_MAX as u64 + 1);
    let read =
        limited.read_until(b'\n', &mut line).map_err(|error| Error::from(error).context("read standard input"))?;
    if read == 0 {
        return Ok(None);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() > VALUE_BYTES_MAX {
        return Err(Error::new(format!("a line is longer than {VALUE_BYTES_MAX} B")).remedy("split it").into());
    }
    Ok(Some(line))
}
