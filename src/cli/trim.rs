//! `forebay trim`: forget the beginning of a stream.

use serde_json::json;

use super::context::{Context, Failure};

/// Forget all events of a stream below an offset.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The stream's name.
    stream: String,
    /// The first offset to keep.
    before: u64,
}

pub fn run(args: Args, context: &mut Context) -> Result<(), Failure> {
    let (mut client, stream) = context.stream(&args.stream, None)?;
    client.trim(stream, args.before)?;
    if context.json { context.out.json(&json!({ "first": args.before })) } else { Ok(()) }
}
