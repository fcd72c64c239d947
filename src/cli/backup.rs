//! `forebay backup`: what an appliance holds at one moment as a file, which goes on from the one before.

pub mod chain;
pub mod files;
pub mod prior;
pub mod reader;

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use forebay::config::shown;
use forebay::error::Error;
use forebay::ring::client::Client;
use forebay::types::Lineage;
use serde_json::json;

use super::context::{Context, Failure};
use super::dump::{Head, Line};
use super::progress::Progress;
use super::take::Take;
use files::{Directory, Writer, Written};
use prior::Prior;
use reader::{FORMAT, Reader};

/// Write all that there is, as it is at one moment, to a file DIR/000001.backup, DIR/000002.backup and so on.
///
/// While the daemon serves everybody. The first backup in a directory is whole; each later one has only the values, pages and
/// events that the one before it lacks, and `restore` reads them together. A file has its name only when all of it is
/// durable. What was acknowledged before the command began is in it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory; made where it is not there. Of one appliance alone.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Write a whole one: it, and those after it, need none of the files before.
    #[arg(long)]
    full: bool,
}

/// What mends what is wrong with the backup before.
const WHOLE: &str = "begin anew with --full, or name another directory";

pub fn run(args: &Args, context: &mut Context) -> Result<(), Failure> {
    let directory = Directory::open(&args.directory)?;
    let newest = files::sequences(&directory.path)?.last().copied();
    let mut client = context.connect()?;
    let before = match newest.filter(|_| !args.full) {
        Some(newest) => Some(parent(&directory.path, newest, client.lineage()).map_err(|error| error.remedy(WHOLE))?),
        None => None,
    };
    let sequence = newest.unwrap_or(0).checked_add(1).ok_or_else(|| {
        Error::new(format!("{} holds the last backup that can have a number", directory.path.display()))
            .remedy("name another directory")
    })?;
    let base = before.as_ref().map(|whole| whole.head.sequence);
    let done = write(&mut client, &directory, sequence, before)?;
    let Done { written: Written { path, file_bytes }, counts, new } = done;
    if context.json {
        return context.out.json(&json!({
            "file": path.display().to_string(), "sequence": sequence, "parent": base, "objects": counts.objects,
            "pairs": counts.pairs, "pages": counts.pages, "events": counts.events, "cursors": counts.cursors,
            "new_pairs_and_pages": new, "file_bytes": file_bytes,
        }));
    }
    let kind = base.map_or_else(|| "whole".to_owned(), |base| format!("on backup {base}"));
    let (path, bytes) = (path.display(), shown(file_bytes));
    context.out.line(format!("{path}, {kind}: {counts}; {new} pairs and pages were new; {bytes}"))
}

/// The newest backup, if one of this appliance may go on from it.
fn parent(directory: &Path, newest: u64, lineage: Lineage) -> Result<chain::Whole, Error> {
    // Those before it are needed too. They were read to their ends when they were written on.
    let path = chain::files(directory, newest)?.pop().ok_or_else(|| Error::new("there is no backup"))?;
    let reader = Reader::open(&path)?;
    let Head { appliance, cuts, .. } = &reader.head;
    if (appliance, *cuts) != (&namespace(lineage), lineage.cuts) {
        return Err(Error::new(format!(
            "{} is of the appliance {appliance} after {cuts} cuts by `forebay repair`, and this is {} after {}",
            reader.path.display(),
            namespace(lineage),
            lineage.cuts
        )));
    }
    chain::whole(&path, &mut Progress::new())
}

fn namespace(lineage: Lineage) -> String {
    uuid::Uuid::from_bytes(lineage.namespace).to_string()
}

struct Done {
    written: Written,
    counts: super::dump::Counts,
    new: u64,
}

fn write(
    client: &mut Client,
    directory: &Directory,
    sequence: u64,
    before: Option<chain::Whole>,
) -> Result<Done, Failure> {
    let lineage = client.lineage();
    let mut writer = Writer::create(directory, sequence)?;
    let prior = before.as_ref().map(|whole| Ok::<_, Error>((Reader::open(&whole.path)?, whole))).transpose()?;
    let mut sink = |line: &Line| writer.line(line);
    let mut take = Take::new(client, true, Some(Prior(prior)), &mut sink)?;
    let snapshot = take.snapshot().map_or(0, |snapshot| snapshot.0);
    if let Some(whole) = before.as_ref().filter(|whole| whole.head.snapshot >= snapshot) {
        return Err(Error::new(format!(
            "{} is of a later state of this appliance: an older copy of its drive was put in place",
            whole.path.display()
        ))
        .remedy(WHOLE)
        .into());
    }
    // What goes on from this backup relies on it: no power cut may take events that stand in it, and give their offsets to others.
    take.client().sync().map_err(|error| {
        Error::from(error)
            .context("make what the snapshot saw durable")
            .remedy("`forebay export --consistent` takes out what can still be read")
    })?;
    let taken_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    take.say(&Line::Backup(Head {
        format: FORMAT,
        appliance: namespace(lineage),
        cuts: lineage.cuts,
        sequence,
        parent: before.as_ref().map(|whole| whole.digest.clone()),
        snapshot,
        taken_unix_ms: u64::try_from(taken_unix_ms).unwrap_or(u64::MAX),
    }))?;
    // What was made before the snapshot is in it.
    for (name, object) in take.client().catalog()? {
        take.object(&name, object)?;
    }
    let (counts, new) = take.end()?;
    Ok(Done { written: writer.finish(counts)?, counts, new })
}
