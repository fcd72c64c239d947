//! `forebay serve --check`: what a start would do, and what memory it would take. Changes nothing.

use forebay::appliance::open_options;
use forebay::appliance::plan::Plan;
use forebay::config::{Memory, shown};
use forebay::device::open::{OpenDevice, OpenOptions, open};
use forebay::wal::superblock::Superblock;
use serde_json::json;

use super::context::{Context, Failure};

/// Says what a start would do, of which only the memory is known while no device is named, or a daemon has it.
pub fn run(context: &mut Context) -> Result<(), Failure> {
    let mut notes = Vec::new();
    let plan = match &context.config.device.path {
        None => Err("no device is named, so none was looked at (--device, or device.path)".to_owned()),
        Some(path) => {
            let options = OpenOptions { read_only: true, ..open_options(&context.config) };
            match open(path, &options) {
                Ok(device) => {
                    let plan = Plan::of(&context.config, &device)?;
                    notes.extend_from_slice(&plan.notes);
                    Ok((device, plan))
                }
                Err(error) if context.connect().is_ok() => {
                    Err(format!("not looked at while a daemon runs on {}: {error}", context.client_socket().display()))
                }
                Err(error) => return Err(error.into()),
            }
        }
    };
    let shards = plan.as_ref().map_or(context.config.format.shards, |(_, plan)| plan.superblock.layout.shards);
    print_memory(context, shards)?;
    let (found, object) = match &plan {
        Err(why) => (why.clone(), json!({ "what": "device", "found": why })),
        Ok((device, plan)) => outlook(device, plan),
    };
    if context.json {
        return context.out.json(&object);
    }
    context.out.line(format!("device: {found}"))?;
    notes.iter().try_for_each(|note| context.out.line(format!("note: {note}")))
}

/// What a start would do with this device, in words and as JSON.
fn outlook(device: &OpenDevice, plan: &Plan) -> (String, serde_json::Value) {
    let Superblock { namespace, epoch, layout, .. } = &plan.superblock;
    let (uuid, tier, durability) = (uuid::Uuid::from_bytes(*namespace), device.tier().name(), device.durability());
    let found = format!(
        "{}: would recover namespace {uuid}, epoch {epoch}, {} shards, {} segments of {}, and serve it with {} reactors by \
         {tier}; {durability}; {}",
        device.label(),
        layout.shards,
        layout.segments,
        shown(layout.segment_bytes),
        plan.reactors,
        device.deallocation()
    );
    let object = json!({
        "what": "device", "found": device.label(), "uuid": uuid.to_string(), "epoch": epoch, "shards": layout.shards,
        "segments": layout.segments, "segment_bytes": layout.segment_bytes, "reactors": plan.reactors, "tier": tier,
        "durability": durability, "deallocation": device.deallocation(), "notes": plan.notes,
    });
    (found, object)
}

/// The parts, their sum, and how that fits this machine. A machine on which it cannot start is an error.
fn print_memory(context: &mut Context, shards: u32) -> Result<(), Failure> {
    let config = &context.config;
    let memory = Memory::of_this_machine();
    let (total, warnings) = (config.memory_bytes(shards), config.memory_warnings(shards, memory));
    for part in config.memory_parts(shards) {
        if context.json {
            context.out.json(&json!({ "what": part.name, "bytes": part.bytes, "reason": part.reason }))?;
        } else {
            context.out.line(format!("{:>9}  {}: {}", shown(part.bytes), part.name, part.reason))?;
        }
    }
    if context.json {
        return context.out.json(&json!({
            "what": "total", "bytes": total, "available_bytes": memory.available_bytes,
            "hugepage_bytes": memory.hugepage_bytes, "warnings": warnings?,
        }));
    }
    let available = memory.available_bytes.map_or_else(|| "not known".to_owned(), shown);
    context.out.line(format!("{:>9}  in all, at most; available: {available}", shown(total)))?;
    warnings?.iter().try_for_each(|warning| context.out.line(format!("warning: {warning}")))
}
