//! `forebay sync`: wait until everything is on the drive.

use serde_json::json;

use super::context::{Context, Failure};

/// Wait until all that was written is durable on the drive.
///
/// Covers everything that the daemon took before, from any client and of any durability.
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args, context: &mut Context) -> Result<(), Failure> {
    context.connect()?.sync()?;
    if context.json { context.out.json(&json!({ "synced": true })) } else { Ok(()) }
}
