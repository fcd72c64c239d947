//! `forebay restore`: what backups hold, back into an appliance.

use std::path::PathBuf;

use forebay::config::shown;
use forebay::error::Error;
use serde_json::json;

use super::backup::chain::{self, Merge, Whole};
use super::context::{Context, Failure};
use super::import::apply::{Apply, Done};
use super::import::check::{Check, Policy};

/// Write what a backup stands for into an appliance that has none of it, or only check that it can be read.
///
/// All files that it takes are read to their ends first, and compared with their digests: if anything is wrong with one, nothing
/// is changed. Spaces, page spaces and streams are made as they were, with retention, times to live (a key whose time is over
/// is left out), cursors, and the offsets of events; versions of keys are new ones. When it ends, all is durable on the drive.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The directory that `backup` wrote to.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// The backup of this number. Default: the newest.
    #[arg(long, value_name = "NUMBER")]
    at: Option<u64>,
    /// Only read and compare, without a daemon.
    #[arg(long)]
    check: bool,
}

pub fn run(args: &Args, context: &mut Context) -> Result<(), Failure> {
    let sequence = chain::choose(&args.directory, args.at)?;
    let mend = "nothing was changed; bring the file back from another copy, or take an earlier backup with --at";
    let chain = chain::check(&args.directory, sequence).map_err(|error| error.remedy(mend))?;
    if args.check {
        Merge::new(&chain, &mut |_| Ok(()))?.run()?;
        return told(&chain, context);
    }
    let mut client = context.connect()?;
    let mut check = Check::new(&mut client, Policy { append: false, fresh: true });
    let counts = Merge::new(&chain, &mut |item| check.item(item))?.run()?;
    let targets = check.targets;
    let mut apply = Apply::new(client, targets, counts);
    Merge::new(&chain, &mut |item| apply.item(item))?.run().map_err(begun)?;
    let Done { expired, .. } = apply.finish().map_err(begun)?;
    if context.json {
        return context.out.json(&json!({
            "sequence": sequence, "objects": counts.objects, "pairs": counts.pairs - expired, "expired": expired,
            "pages": counts.pages, "events": counts.events, "cursors": counts.cursors,
        }));
    }
    let over = if expired > 0 { format!("; {expired} of the pairs were over, and left out") } else { String::new() };
    context.out.line(format!("backup {sequence} of {} files: {counts}{over}", chain.len()))
}

/// Of an appliance that has a part of it.
fn begun(failure: Failure) -> Failure {
    match failure {
        Failure::Operation(error) => Error::new(error.to_string())
            .context("the appliance has a part of the backup now")
            .remedy("mend that, make the appliance anew (`forebay format --force`), and restore again")
            .into(),
        other => other,
    }
}

fn told(chain: &[Whole], context: &mut Context) -> Result<(), Failure> {
    for whole in chain {
        let (head, counts) = (&whole.head, whole.counts);
        let file_bytes = std::fs::metadata(&whole.path).map_or(0, |metadata| metadata.len());
        let path = whole.path.display().to_string();
        if context.json {
            context.out.json(&json!({
                "file": path, "sequence": head.sequence, "whole": head.parent.is_none(), "appliance": head.appliance,
                "taken_unix_ms": head.taken_unix_ms, "objects": counts.objects, "pairs": counts.pairs,
                "pages": counts.pages, "events": counts.events, "cursors": counts.cursors,
                "new_pairs_and_pages": whole.written, "file_bytes": file_bytes, "good": true,
            }))?;
        } else {
            let kind = if head.parent.is_none() { "whole" } else { "goes on from the one before" };
            let bytes = shown(file_bytes);
            context.out.line(format!("{path}: good; {kind}; {counts}; {} new; {bytes}", whole.written))?;
        }
    }
    Ok(())
}
