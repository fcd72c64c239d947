//! `forebay resume`: the daemon takes its drive back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use forebay::ring::client::resume;
use serde_json::json;

use super::context::{Context, Failure};

/// Have the daemon take its drive back, after that vanished or a write failed.
///
/// Looks at the drive as a start does, and goes on writing where memory stands; clients keep their sessions. Refused, with
/// nothing changed, for another drive, and where the log and the flight recorder lack anything. Only root and the daemon's
/// own user may.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Where the drive is now, if it came back under another name. Default: where the daemon found it.
    #[arg(long, value_name = "PATH")]
    device: Option<PathBuf>,
}

/// A recovery reads all of the log.
const TIMEOUT: Duration = Duration::from_secs(24 * 3_600);

pub fn run(args: &Args, context: &mut Context) -> Result<(), Failure> {
    let path = args.device.as_deref().map(absolute);
    let words = resume(&context.client_socket(), path.as_deref(), TIMEOUT)?;
    if context.json { context.out.json(&json!({ "resumed": words })) } else { context.out.line(words) }
}

/// The daemon runs in another directory. A controller's name ("pcie:...") is no path, and stays.
fn absolute(path: &Path) -> PathBuf {
    if path.exists() { std::path::absolute(path).unwrap_or_else(|_| path.to_owned()) } else { path.to_owned() }
}
