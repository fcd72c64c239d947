//! `forebay inspect`: show what stands on a device, without changing it.

use std::path::PathBuf;

use forebay::appliance::offline::Offline;
use forebay::error::Error;
use forebay::store::catalog::{attributes, page_size};
use forebay::types::{Compression, Durability, ObjectKind, PageSize, ShardId};
use forebay::wal::frame;
use forebay::wal::inspect::{self, Found, Summary};
use forebay::wal::record::{self, Kind, Record};
use forebay::wal::recovery::Walker;
use forebay::wal::superblock::Superblock;
use forebay::wal::survey::Survey;
use forebay::wal::verify::{self, Superblocks};
use serde_json::json;

use super::context::{Context, Failure};
use super::progress::Progress;

/// Show what stands on a device: geometry, superblocks, catalog, the log of every shard.
///
/// Reads only. The daemon must not run on the device.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file or block device.
    device: PathBuf,
    /// Show every segment of the chains.
    #[arg(long)]
    segments: bool,
    /// Show every frame: address, LSNs, records, durable LSN, CRC.
    #[arg(long)]
    frames: bool,
    /// Show every record: kind, object, key, sizes, version.
    #[arg(long)]
    records: bool,
    /// Only this shard.
    #[arg(long, value_name = "NUMBER")]
    shard: Option<u32>,
}

pub fn run(args: &Args, context: &mut Context) -> Result<(), Failure> {
    let mut offline = Offline::open(&args.device, true)?;
    let in_context = |error: Error| error.context(args.device.display());
    let superblocks = verify::superblocks(&mut offline.blocks, offline.device_bytes).map_err(in_context)?;
    head(&superblocks, context)?;
    let mut progress = Progress::new();
    let mut show = |line: &str| progress.show(|| format!("inspecting: {line}"));
    let (superblock, survey) = offline.survey(&mut show).map_err(in_context)?;
    let shards = superblock.layout.shards;
    if let Some(shard) = args.shard.filter(|shard| *shard >= shards) {
        return Err(Error::new(format!("there is no shard {shard}"))
            .remedy(format!("choose one below {shards}"))
            .into());
    }
    for shard in (0..shards).filter(|shard| args.shard.is_none_or(|only| only == *shard)) {
        let shard = ShardId(shard);
        if args.segments {
            segments(&superblock, &survey, shard, context)?;
        }
        let seed = record::crc_seed(&superblock.namespace, shard);
        let mut walker = Walker::new(&mut offline.blocks, &superblock, shard, &survey.chains[shard.index()]);
        let mut frames = 0_u64;
        let summary = inspect::frames(&mut walker, &mut |found| {
            frames += 1;
            progress.show(|| format!("inspecting: shard {shard}, {frames} frames"));
            one_frame(args, found, seed, context)
        })?;
        log(shard, survey.chains[shard.index()].len(), &summary, context)?;
    }
    Ok(())
}

fn head(superblocks: &Superblocks, context: &mut Context) -> Result<(), Failure> {
    if let Ok(Superblock { namespace, generation, epoch, layout, cuts, drive }) = &superblocks.newest {
        let uuid = uuid::Uuid::from_bytes(*namespace);
        if context.json {
            context.out.json(&json!({
                "what": "namespace", "uuid": uuid.to_string(), "generation": generation, "epoch": epoch,
                "capacity_bytes": layout.capacity_bytes, "segment_bytes": layout.segment_bytes,
                "segments": layout.segments, "shards": layout.shards, "cuts": cuts,
                "serial": drive.map(|drive| drive.serial()), "drive_namespace": drive.map(|drive| drive.fields().1),
            }))?;
        } else {
            context.out.line(format!(
                "namespace {uuid}: {} B, {} segments of {} B, {} shards, generation {generation}, epoch {epoch}{}",
                layout.capacity_bytes,
                layout.segments,
                layout.segment_bytes,
                layout.shards,
                drive.map(|drive| format!(", on the drive with {drive}")).unwrap_or_default(),
            ))?;
        }
    }
    for copy in &superblocks.copies {
        let (number, address) = (copy.number, copy.address);
        if context.json {
            let state = copy.to_string();
            let object = json!({ "what": "superblock", "copy": number, "address": address.0, "state": state });
            context.out.json(&object)?;
        } else {
            context.out.line(format!("superblock copy {number} at address {address}: {copy}"))?;
        }
    }
    Ok(())
}

fn segments(superblock: &Superblock, survey: &Survey, shard: ShardId, context: &mut Context) -> Result<(), Failure> {
    for chained in &survey.chains[shard.index()] {
        let address = superblock.layout.segment_address(chained.segment);
        if context.json {
            context.out.json(&json!({
                "what": "segment", "shard": shard.0, "sequence": chained.sequence, "segment": chained.segment.0,
                "address": address.0, "reserved": chained.reserved,
            }))?;
        } else {
            let reserved = if chained.reserved { ", from the reserve" } else { "" };
            let (sequence, segment) = (chained.sequence, chained.segment);
            context.out.line(format!(
                "shard {shard}: segment number {sequence} is segment {segment} at address {address}{reserved}"
            ))?;
        }
    }
    Ok(())
}

fn one_frame(args: &Args, found: &Found<'_>, seed: u32, context: &mut Context) -> Result<(), Failure> {
    let header = &found.header;
    if args.frames {
        let last_lsn = header.next_lsn().0 - 1;
        if context.json {
            context.out.json(&json!({
                "what": "frame", "shard": header.shard.0, "address": header.address.0, "in_log": found.in_log,
                "frame_bytes": header.frame_bytes, "used_bytes": header.used_bytes, "epoch": header.epoch,
                "segment_sequence": header.segment_sequence, "first_lsn": header.first_lsn.0, "last_lsn": last_lsn,
                "durable_lsn": header.durable_lsn.0, "records": header.records, "flags": flags(header.flags),
                "crc": found.crc, "previous_crc": header.previous_crc,
            }))?;
        } else {
            context.out.line(format!(
                "shard {}: frame at address {}: {} B, epoch {}, LSN {}..={last_lsn}, {} records, durable LSN {}, CRC {:08x}{}{}",
                header.shard,
                header.address,
                header.frame_bytes,
                header.epoch,
                header.first_lsn,
                header.records,
                header.durable_lsn,
                found.crc,
                flags(header.flags).iter().map(|flag| format!(", {flag}")).collect::<String>(),
                if found.in_log { "" } else { ", not part of the log" },
            ))?;
        }
    }
    for record in found.records(seed) {
        let of_catalog = found.in_log && record.kind == Kind::Create;
        if of_catalog && let Some(attributes) = attributes(record.version) {
            object(&record, attributes, context)?;
        }
        if args.records {
            one_record(found, &record, context)?;
        }
    }
    Ok(())
}

fn object(
    record: &Record<'_>,
    (kind, durability, compression): (ObjectKind, Durability, Compression),
    context: &mut Context,
) -> Result<(), Failure> {
    let name = String::from_utf8_lossy(record.key);
    let (kind, durability) = (kind.name(), durability.name());
    let page_bytes = page_size(record.version).map(PageSize::bytes);
    if context.json {
        let id = record.object.0;
        let object = json!({ "what": "object", "id": id, "kind": kind, "name": name,
            "durability": durability, "compression": compression.name(), "page_bytes": page_bytes });
        return context.out.json(&object);
    }
    let pages = page_bytes.map_or_else(String::new, |bytes| format!(", pages of {bytes} B"));
    let compressed = if compression == Compression::None { "" } else { ", values compressed: " };
    let codec = if compressed.is_empty() { "" } else { compression.name() };
    context.out.line(format!("{kind} {name:?}: number {}, {durability}{pages}{compressed}{codec}", record.object))
}

fn one_record(found: &Found<'_>, record: &Record<'_>, context: &mut Context) -> Result<(), Failure> {
    let kind = format!("{:?}", record.kind).to_lowercase();
    let (shard, Record { lsn, object, version, .. }) = (found.header.shard, record);
    let part = match record.flags {
        0 => "whole",
        record::FLAG_MORE => "first part",
        record::FLAG_CONTINUED => "last part",
        _ => "middle part",
    };
    let (put, until_ms) = record.split_until();
    let (key, value_bytes) = (put.key.escape_ascii(), record.value.len());
    if context.json {
        return context.out.json(&json!({
            "what": "record", "shard": shard.0, "lsn": lsn.0, "kind": kind, "object": object.0, "version": version,
            "key": key.to_string(), "value_bytes": value_bytes, "part": part, "in_log": found.in_log,
            "until_ms": until_ms,
        }));
    }
    let until = until_ms.map_or_else(String::new, |until_ms| format!(", until {until_ms} ms after 1970"));
    context.out.line(format!(
        "shard {shard}: LSN {lsn}: {kind} object {object}, key \"{key}\", value of {value_bytes} B, version {version}, {part}{until}"
    ))
}

fn flags(flags: u32) -> Vec<&'static str> {
    let known = [(frame::FLAG_WATERMARK, "watermark"), (frame::FLAG_CLEAN, "clean stop"), (frame::FLAG_CUT, "cut")];
    known.into_iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| name).collect()
}

fn log(shard: ShardId, segments: usize, summary: &Summary, context: &mut Context) -> Result<(), Failure> {
    let Summary { frames, bytes, last_lsn, epoch, frames_beside } = summary;
    if context.json {
        return context.out.json(&json!({
            "what": "shard", "shard": shard.0, "segments": segments, "first_lsn": u64::from(last_lsn.0 > 0),
            "last_lsn": last_lsn.0, "epoch": epoch, "frames": frames, "bytes": bytes, "frames_beside": frames_beside,
        }));
    }
    let lsns = if last_lsn.0 == 0 { "no records".to_owned() } else { format!("LSN 1..={last_lsn}") };
    let beside = match frames_beside {
        0 => String::new(),
        frames => format!("; {frames} more frames are not part of the log"),
    };
    context
        .out
        .line(format!("shard {shard}: {segments} segments, {lsns}, epoch {epoch}, {frames} frames, {bytes} B{beside}"))
}
