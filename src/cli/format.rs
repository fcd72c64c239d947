//! `forebay format`: lay an empty appliance on a device.

use std::path::PathBuf;

use forebay::appliance::prepare::{FormatOptions, Formatted, SegmentSize, format_device};
use forebay::config::{ByteSize, Config};
use forebay::wal::layout::{
    Layout, RECLAIM_SEGMENTS_PER_SHARD_MIN, SEGMENT_BYTES_CHOSEN_MAX, SEGMENTS_PER_SHARD_CHOSEN,
};
use forebay::wal::superblock::Superblock;
use serde_json::json;

use super::context::{Context, Failure};
use super::progress::Progress;

/// Lay an empty appliance on a device. What was there is lost.
///
/// A device that holds anything Forebay knows (a partition table, a file system, a mount, an appliance) is refused
/// without --force. A file is created when --capacity is given, preallocated and zeroed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file or block device, or a controller for SPDK (pcie:, vfio-user:, tcp:), by name. It is never taken from
    /// the configuration.
    device: PathBuf,
    /// The size of the file to create, as 1GiB. A block device is used whole.
    #[arg(long, value_name = "SIZE")]
    capacity: Option<ByteSize>,
    /// Independent logs; the most reactors that can ever share the work.
    #[arg(long, value_name = "COUNT")]
    shards: Option<u32>,
    /// The unit in which log space is given out, as 64MiB. Default: the largest power of two up to 64MiB with which every
    /// shard has 32 of them.
    #[arg(long, value_name = "SIZE")]
    segment_bytes: Option<ByteSize>,
    /// Format even what holds data. A mounted device is refused all the same.
    #[arg(long)]
    force: bool,
}

impl Args {
    fn flags(&self) -> [(bool, &'static str, &'static str); 3] {
        [
            (self.capacity.is_some(), "format.capacity", "--capacity"),
            (self.shards.is_some(), "format.shards", "--shards"),
            (self.segment_bytes.is_some(), "format.segment_bytes", "--segment-bytes"),
        ]
    }

    fn apply(&self, config: &mut Config) {
        let format = &mut config.format;
        format.capacity = self.capacity.or(format.capacity);
        format.shards = self.shards.unwrap_or(format.shards);
        format.segment_bytes = self.segment_bytes.or(format.segment_bytes);
    }
}

pub fn run(args: Args, context: &mut Context) -> Result<(), Failure> {
    args.apply(&mut context.config);
    context.check(&args.flags())?;
    let options = options_of(&context.config, args.force);
    let segment_size = options.segment_size;
    let mut progress = Progress::new();
    let made = format_device(&args.device, &options, &mut |done, total| {
        progress.show(|| format!("zeroing: {} of {} MiB", done >> 20, total >> 20));
    })
    .map_err(|error| error.context("format"))?;
    let Formatted { superblock: Superblock { namespace, layout, drive, .. }, label, controllers } = &made;
    if let Some(warning) = context.config.segment_too_small(layout.segment_bytes) {
        // The data is safe, and the device may be meant for another configuration.
        eprintln!("forebay: warning: {warning}");
    }
    if !layout.reclaims() {
        let Layout { segments, shards, segment_bytes, .. } = layout;
        eprintln!(
            "forebay: warning: {segments} segments of {segment_bytes} B for {shards} shards: with fewer than \
             {RECLAIM_SEGMENTS_PER_SHARD_MIN} a shard nothing that is overwritten or deleted makes room again; use smaller \
             --segment-bytes or fewer --shards"
        );
    }
    let uuid = uuid::Uuid::from_bytes(*namespace);
    if context.json {
        return context.out.json(&json!({
            "device": args.device, "uuid": uuid.to_string(), "capacity_bytes": layout.capacity_bytes,
            "segments": layout.segments, "segment_bytes": layout.segment_bytes, "shards": layout.shards,
            "segment_bytes_given": matches!(segment_size, SegmentSize::Bytes(_)),
            "serial": drive.map(|drive| drive.serial()), "drive_namespace": drive.map(|drive| drive.fields().1),
            "controllers": controllers,
        }));
    }
    context.out.line(format!(
        "{label}: {} segments of {}{}, {} shards, {uuid}",
        layout.segments,
        ByteSize(layout.segment_bytes),
        why(segment_size, layout),
        layout.shards,
    ))
}

/// What the configuration asks for.
pub fn options_of(config: &Config, force: bool) -> FormatOptions {
    let (chosen, bytes_min) = (&config.format, config.segment_bytes_chosen_min());
    FormatOptions {
        capacity_bytes: chosen.capacity.map(|capacity| capacity.0),
        segment_size: chosen.segment_bytes.map_or(SegmentSize::Suiting { bytes_min }, |b| SegmentSize::Bytes(b.0)),
        shards: chosen.shards,
        force,
    }
}

/// Why segments are as large as they are, where nobody said it.
fn why(asked: SegmentSize, layout: &Layout) -> String {
    match asked {
        SegmentSize::Bytes(_) => String::new(),
        SegmentSize::Suiting { bytes_min } if bytes_min == layout.segment_bytes => {
            " (the least that the largest value and frame of the configuration allow)".into()
        }
        SegmentSize::Suiting { .. } if layout.segment_bytes == SEGMENT_BYTES_CHOSEN_MAX => {
            " (the most that is chosen)".into()
        }
        SegmentSize::Suiting { .. } => {
            format!(" (the largest with about {SEGMENTS_PER_SHARD_CHOSEN} a shard or more, to give up in small steps)")
        }
    }
}
