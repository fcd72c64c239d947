//! `forebay verify`: read everything on a device and say what is wrong, where.

use std::path::{Path, PathBuf};

use forebay::appliance::offline;
use forebay::ring::client::Verified;
use forebay::wal::verify::{Copy, End, Report, ShardReport, failure};
use serde_json::{Value, json};

use super::context::{Context, Failure};
use super::progress::Progress;

/// Read all of a device and say what is wrong, and where.
///
/// Reads only. The daemon must not run on the device. Exit code 1 when anything is wrong; an unfinished tail after a
/// kill or a power cut is not.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file or block device.
    #[arg(required_unless_present = "stream", conflicts_with = "stream")]
    device: Option<PathBuf>,
    /// Prove a chained stream of the running daemon instead: read all of its events and compute every head anew. Names the
    /// first break. Prints the events proven and the head after the last, to be compared with one that was kept.
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
}

pub fn run(args: &Args, context: &mut Context) -> Result<(), Failure> {
    match (&args.device, &args.stream) {
        (_, Some(stream)) => prove(stream, context),
        (Some(device), None) => verify(device, context),
        (None, None) => Ok(()),
    }
}

fn prove(name: &str, context: &mut Context) -> Result<(), Failure> {
    let (mut client, stream) = context.stream(name, None)?;
    let Verified { first, next, head } = client.verify_stream(stream)?;
    let head = blake3::Hash::from_bytes(head).to_hex();
    if context.json {
        return context.out.json(&json!({ "first": first, "next": next, "head": head.as_str() }));
    }
    context.out.line(format!("ok    {} events from offset {first} on, head {head} before offset {next}", next - first))
}

fn verify(device: &Path, context: &mut Context) -> Result<(), Failure> {
    let mut progress = Progress::new();
    let mut show = |line: &str| progress.show(|| format!("verifying: {line}"));
    let report = offline::verify(&context.config, device, &mut show)?;
    if context.json {
        print_json(&report, context)?
    } else {
        print_table(&report, context)?
    }
    context.out.flush()?;
    let found = match &report.superblocks.newest {
        // The reason why nothing was read says more than a count.
        Err(error) => Some(forebay::error::Error::new(error.to_string())),
        Ok(_) => failure(&report),
    };
    found.map_or(Ok(()), |error| Err(error.context(device.display()).into()))
}

fn print_table(report: &Report, context: &mut Context) -> Result<(), Failure> {
    let mark = |wrong| if wrong { "WRONG" } else { "ok" };
    for copy in &report.superblocks.copies {
        let Copy { number, address, .. } = copy;
        let line = format!("{:<5} superblock copy {number} at address {address}: {copy}", mark(copy.is_wrong()));
        context.out.line(line)?;
    }
    if report.superblocks.newest.is_err() {
        return Ok(());
    }
    let segments = &report.segments;
    let used: usize = report.shards.iter().map(|shard| shard.segments).sum();
    context.out.line(format!(
        "{:<5} segments: {} in chains, {} free, of {}",
        mark(!segments.damage.is_empty()),
        used,
        segments.free,
        segments.total
    ))?;
    for damage in &segments.damage {
        context.out.line(format!("WRONG {damage}"))?;
    }
    for note in &report.notes {
        context.out.line(format!("note  {note}"))?;
    }
    for shard in &report.shards {
        let wrong = mark(matches!(shard.end, End::Damaged { .. }));
        let ShardReport { shard: number, segments, records, log_bytes, end, flight } = shard;
        context.out.line(format!(
            "{wrong:<5} shard {number}: {records} records, {log_bytes} B of log in {segments} segments; {end}"
        ))?;
        if let Some(flight) = flight {
            context.out.line(format!(
                "ok    shard {number}: flight recorder of this boot: {} records beyond the log, durable LSN {}",
                flight.beyond_records, flight.durable_lsn
            ))?;
        }
    }
    Ok(())
}

fn print_json(report: &Report, context: &mut Context) -> Result<(), Failure> {
    for copy in &report.superblocks.copies {
        context.out.json(&json!({
            "what": "superblock", "copy": copy.number, "address": copy.address.0, "wrong": copy.is_wrong(),
            "stale": copy.stale, "state": copy.to_string(),
        }))?;
    }
    for damage in &report.segments.damage {
        context.out.json(&json!({ "what": "segment", "wrong": true, "state": damage.to_string() }))?;
    }
    for note in &report.notes {
        context.out.json(&json!({ "what": "note", "wrong": false, "state": note }))?;
    }
    for shard in &report.shards {
        context.out.json(&shard_json(shard))?;
    }
    context.out.json(&json!({
        "what": "summary", "wrong": report.wrong(), "segments": report.segments.total, "free": report.segments.free,
        "records": report.shards.iter().map(|shard| shard.records).sum::<u64>(),
        "log_bytes": report.shards.iter().map(|shard| shard.log_bytes).sum::<u64>(),
    }))
}

fn shard_json(shard: &ShardReport) -> Value {
    let (end, lsn, place) = match &shard.end {
        End::Clean { lsn } => ("clean", *lsn, None),
        End::Open { lsn } => ("open", *lsn, None),
        End::Unfinished { lsn, address, found } => {
            ("unfinished", *lsn, Some(json!({ "address": address.0, "found": found.to_string() })))
        }
        End::Damaged { damage, beyond } => (
            "damaged",
            forebay::types::Lsn(damage.expected_lsn.0 - 1),
            Some(json!({
                "address": damage.address.0, "extent_bytes": damage.extent_bytes, "found": damage.found.to_string(),
                "expected_lsn": damage.expected_lsn.0, "readable_beyond_lsn": beyond.0, "text": damage.to_string(),
            })),
        ),
    };
    let flight = shard.flight.map(|flight| {
        json!({ "bytes": flight.bytes, "durable_lsn": flight.durable_lsn.0, "beyond_records": flight.beyond_records })
    });
    json!({
        "what": "shard", "shard": shard.shard.0, "wrong": end == "damaged", "end": end, "last_lsn": lsn.0,
        "place": place, "segments": shard.segments, "records": shard.records, "log_bytes": shard.log_bytes,
        "flight": flight,
    })
}
