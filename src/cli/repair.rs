//! `forebay repair`: mend a device, by an explicit choice, after saying what it costs.

use std::path::PathBuf;

use forebay::appliance::offline::{Choice, Repair};
use forebay::types::ShardId;
use serde_json::json;

use super::context::{Context, Failure};
use super::progress::Progress;

/// Mend a device that recovery refuses. Says what would be lost, and changes nothing without --yes.
///
/// Look with `forebay verify` first. The daemon must not run on the device. Choose one of --superblocks,
/// --segment-headers, --adopt (none of them loses anything) and --cut (which does).
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("choice").required(true).args(["superblocks", "segment_headers", "adopt", "cut"])))]
pub struct Args {
    /// The file or block device.
    device: PathBuf,
    /// Rewrite superblock copies that are damaged or stale from the newest one.
    #[arg(long)]
    superblocks: bool,
    /// Rewrite damaged segment headers from the frames behind them.
    #[arg(long)]
    segment_headers: bool,
    /// Name this drive in the superblocks, for a namespace that was copied to it on purpose. Use no other copy after it.
    #[arg(long)]
    adopt: bool,
    /// Give up everything of a shard from its damaged place on, acknowledged data included.
    #[arg(long, requires = "shard")]
    cut: bool,
    /// The shard to cut.
    #[arg(long, value_name = "NUMBER", requires = "cut")]
    shard: Option<u32>,
    /// Do it, instead of only saying what would be done.
    #[arg(long)]
    yes: bool,
}

pub fn run(args: &Args, context: &mut Context) -> Result<(), Failure> {
    let choice = match args.shard {
        Some(shard) => Choice::Cut(ShardId(shard)),
        None if args.superblocks => Choice::Superblocks,
        None if args.adopt => Choice::Adopt,
        None => Choice::SegmentHeaders,
    };
    let mut progress = Progress::new();
    let mut show = |line: &str| progress.show(|| format!("repairing: {line}"));
    let repair = Repair::plan(&context.config, &args.device, choice, !args.yes, &mut show)?;
    // What is lost is said before anything is changed.
    let command = (!args.yes && !repair.plan.is_empty()).then(|| args.command(choice));
    print(&repair, command.as_deref(), context)?;
    context.out.flush()?;
    if !args.yes || repair.plan.is_empty() {
        return Ok(());
    }
    repair.carry_out(&context.config)?;
    if context.json { context.out.json(&json!({ "done": true })) } else { context.out.line("done") }
}

impl Args {
    /// The command that does what was only shown.
    fn command(&self, choice: Choice) -> String {
        let choice = match choice {
            Choice::Superblocks => "--superblocks".to_owned(),
            Choice::SegmentHeaders => "--segment-headers".to_owned(),
            Choice::Adopt => "--adopt".to_owned(),
            Choice::Cut(shard) => format!("--cut --shard {shard}"),
        };
        format!("forebay repair {} {choice} --yes", self.device.display())
    }
}

fn print(repair: &Repair, command: Option<&str>, context: &mut Context) -> Result<(), Failure> {
    let plan = &repair.plan;
    if context.json {
        let steps = plan.steps.iter().map(|step| json!({ "what": step.what, "address": step.address.0 }));
        return context.out.json(&json!({
            "lost": plan.losses, "steps": steps.collect::<Vec<_>>(), "notes": plan.notes, "command": command,
            "forget_flight": plan.forget_flight.map(|shard| shard.0),
        }));
    }
    for note in &plan.notes {
        context.out.line(format!("note: {note}"))?;
    }
    if plan.is_empty() {
        return context.out.line("nothing to do");
    }
    if plan.losses.is_empty() {
        context.out.line("lost: nothing")?;
    }
    for loss in &plan.losses {
        context.out.line(format!("lost: {loss}"))?;
    }
    for step in &plan.steps {
        context.out.line(format!("step: {} at address {}", step.what, step.address))?;
    }
    if let Some(shard) = plan.forget_flight {
        context.out.line(format!("step: remove the flight recorder of shard {shard}"))?;
    }
    command.map_or(Ok(()), |command| context.out.line(format!("nothing was changed; to do it: {command}")))
}
