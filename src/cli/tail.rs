//! `forebay tail`: follow a stream.

use std::time::Duration;

use forebay::ring::client::{ClientError, CursorMove};
use forebay::ring::protocol::Status;

use super::context::{Context, Failure};
use super::read::{Format, begin};

/// How long one read waits for an event before it is asked again.
const WAIT: Duration = Duration::from_secs(10);

/// Print events of a stream as they come, until interrupted.
///
/// An event a line; events that hold line ends are told apart with --json or --hex.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The stream's name.
    stream: String,
    /// Begin with this offset. Default: the first event that is kept.
    #[arg(long, value_name = "OFFSET")]
    from: Option<u64>,
    /// Begin where this cursor stands, and move it behind what was printed. Made where it is absent.
    #[arg(long, value_name = "NAME", conflicts_with = "from")]
    cursor: Option<String>,
    /// Put the offset and a tab before every event.
    #[arg(long)]
    offsets: bool,
    /// Print the events as hexadecimal.
    #[arg(long)]
    hex: bool,
}

pub fn run(args: Args, context: &mut Context) -> Result<(), Failure> {
    let format = Format { json: context.json, hex: args.hex, offsets: args.offsets };
    let (mut client, stream) = context.stream(&args.stream, None)?;
    let from = match &args.cursor {
        Some(name) => client.cursor(stream, name)?,
        None => args.from,
    };
    let mut next = begin(&mut client, stream, from)?;
    loop {
        let events = match client.read(stream, next, Some(WAIT)) {
            Err(ClientError::Status(Status::TimedOut)) => continue,
            events => events?,
        };
        for (offset, event) in events {
            format.print(&mut context.out, offset, &event)?;
            next = offset + 1;
        }
        context.out.flush()?;
        if let Some(name) = &args.cursor {
            client.set_cursor(stream, name, next, CursorMove::default())?;
        }
    }
}
