//! One peer in one class at one size, in a process of its own: set up, measured in each shape, taken down.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::case::{Class, PeerName, Shape};
use crate::figures::{Failure, Figures};
use crate::peers::{Setup, start};

/// What a mark in a trace of system calls looks like: a file that is looked for and never there.
pub const MARK: &str = "/forebay-peers-mark";

#[derive(Debug, clap::Args)]
pub struct Args {
    #[arg(long)]
    pub peer: PeerName,
    #[arg(long)]
    pub class: Class,
    #[arg(long)]
    pub value_bytes: usize,
    /// As 64x1: clients, and requests of each.
    #[arg(long, value_delimiter = ',')]
    pub shapes: Vec<Shape>,
    #[arg(long)]
    pub run_ms: u64,
    #[arg(long)]
    pub directory: PathBuf,
    #[arg(long, value_delimiter = ',')]
    pub cores: Vec<usize>,
}

/// What a session prints.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    pub shape: Shape,
    pub figures: Figures,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let &[first, second] = args.cores.as_slice() else { return Err("--cores takes two, as 0,1".into()) };
    let (directory, kept) = (args.directory.join("session"), args.directory.join("kept"));
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory)?;
    fs::create_dir_all(&kept)?;
    let setup = Setup {
        class: args.class,
        value_bytes: args.value_bytes,
        directory: &directory,
        kept: &kept,
        cores: [first, second],
    };
    let measured = measure(args, &setup);
    let _ = fs::remove_dir_all(&directory);
    println!("{}", serde_json::to_string(&measured?)?);
    Ok(())
}

fn measure(args: &Args, setup: &Setup<'_>) -> Result<Vec<Measured>, Failure> {
    let mut peer = start(args.peer, setup)?;
    let drive = drive_statistics(setup.directory);
    let mut all = Vec::new();
    for shape in args.shapes.iter().copied() {
        mark("begin", shape);
        let before = drive.as_deref().and_then(flushes);
        let mut figures = peer.measure(shape, Duration::from_millis(args.run_ms))?;
        mark("end", shape);
        let after = drive.as_deref().and_then(flushes);
        figures.flushes = after.zip(before).map(|(after, before)| after - before);
        all.push(Measured { shape, figures });
    }
    Ok(all)
}

fn mark(what: &str, shape: Shape) {
    let _ = fs::metadata(format!("{MARK}/{what}/{shape}"));
}

/// The counters of the drive below a directory.
fn drive_statistics(directory: &Path) -> Option<PathBuf> {
    let device = fs::metadata(directory).ok()?.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let node = fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()?;
    // Flushes are counted for the whole drive only.
    let drive = if node.join("partition").exists() { node.parent()?.to_owned() } else { node };
    Some(drive.join("stat"))
}

/// FLUSH commands carried out: the 16th counter.
fn flushes(statistics: &Path) -> Option<u64> {
    fs::read_to_string(statistics).ok()?.split_whitespace().nth(15)?.parse().ok()
}
