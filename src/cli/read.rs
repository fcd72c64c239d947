//! `forebay read`: print events of a stream.

use forebay::ring::client::{Client, ClientError, Object};
use serde_json::{Map, Value};

use super::bytes;
use super::context::{Context, Failure, Output};

/// Print events of a stream, up to its end.
///
/// An event a line; events that hold line ends are told apart with --json or --hex.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The stream's name.
    stream: String,
    /// Begin with this offset. Default: the first event that is kept.
    #[arg(long, value_name = "OFFSET")]
    from: Option<u64>,
    /// Print at most so many events.
    #[arg(long, value_name = "EVENTS", default_value_t = u64::MAX, hide_default_value = true)]
    limit: u64,
    /// Put the offset and a tab before every event.
    #[arg(long)]
    offsets: bool,
    /// Print the events as hexadecimal.
    #[arg(long)]
    hex: bool,
}

/// How events are printed.
#[derive(Clone, Copy)]
pub struct Format {
    pub json: bool,
    pub hex: bool,
    pub offsets: bool,
}

impl Format {
    pub fn print(self, out: &mut Output, offset: u64, event: &[u8]) -> Result<(), Failure> {
        if self.json {
            let mut object = Map::from_iter([("offset".to_owned(), Value::from(offset))]);
            bytes::insert(&mut object, "event", event, self.hex);
            return out.json(&Value::Object(object));
        }
        if self.offsets {
            out.raw(format!("{offset}\t").as_bytes())?;
        }
        bytes::print(out, event, self.hex)?;
        out.raw(b"\n")
    }
}

pub fn run(args: Args, context: &mut Context) -> Result<(), Failure> {
    let format = Format { json: context.json, hex: args.hex, offsets: args.offsets };
    let (mut client, stream) = context.stream(&args.stream, None)?;
    let mut next = begin(&mut client, stream, args.from)?;
    let mut left = args.limit;
    loop {
        let events = client.read(stream, next, None)?;
        if events.is_empty() || left == 0 {
            return Ok(());
        }
        for (offset, event) in events.iter().take(usize::try_from(left).unwrap_or(usize::MAX)) {
            format.print(&mut context.out, *offset, event)?;
            (next, left) = (offset + 1, left - 1);
        }
    }
}

/// Where to begin: where the user says, else with the first event that a trim left.
pub fn begin(client: &mut Client, stream: Object, from: Option<u64>) -> Result<u64, Failure> {
    match from.map_or_else(|| client.read(stream, 0, None).map(|_| 0), Ok) {
        Err(ClientError::Trimmed { first }) => Ok(first),
        other => Ok(other?),
    }
}
