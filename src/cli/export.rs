//! `forebay export`: what an appliance holds as JSON, an object a line.

use forebay::error::Error;
use forebay::ring::client::Object;
use forebay::types::Compression;
use serde_json::json;

use super::context::{Context, Failure};
use super::dump::Line;
use super::take::Take;

/// Print spaces, page spaces and streams as JSON, an object a line, for `import`.
///
/// All of them, or those that are named. Each pair is as it was at some moment of the export, unless --consistent says
/// otherwise. The last line counts what came before, so that `import` sees a file that was cut short.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names of spaces, page spaces and streams. Default: all.
    objects: Vec<String>,
    /// Everything as it was at one moment, from a snapshot. An error, if the daemon has to give the snapshot up
    /// (limits.snapshot_bytes_max), or a stream is trimmed meanwhile.
    #[arg(long)]
    consistent: bool,
}

pub fn run(args: Args, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.connect()?;
    let all = client.catalog()?;
    if let Some(name) = args.objects.iter().find(|name| !all.iter().any(|(known, _)| known == *name)) {
        return Err(Error::new(format!("no space or stream is named {name:?}"))
            .remedy("leave out the names to export everything there is")
            .into());
    }
    let chosen = |name: &String| args.objects.is_empty() || args.objects.contains(name);
    let is_delta = |object: &Object| object.compression == Compression::Delta;
    if let Some((name, _)) = all.iter().find(|(name, object)| !args.consistent && chosen(name) && is_delta(object)) {
        return Err(Error::new(format!(
            "the space {name:?} holds deltas, which belong to the bases of the same moment"
        ))
        .remedy("export with --consistent, or name other spaces and streams")
        .into());
    }
    let out = &mut context.out;
    let mut print = |line: &Line| out.json(&json!(line));
    let mut take = Take::new(&mut client, args.consistent, None, &mut print)?;
    // What was made before the snapshot is in it.
    let all = take.client().catalog()?;
    for (name, object) in all.iter().filter(|(name, _)| chosen(name)) {
        take.object(name, *object)?;
    }
    let (counts, _) = take.end()?;
    context.out.json(&json!(counts.end(None)))
}
