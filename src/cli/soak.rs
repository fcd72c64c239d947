//! `forebay soak`: write over a device many times while the daemon is killed, and hold it to every answer.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use forebay::appliance::prepare::format_device;
use forebay::config::ByteSize;
use forebay::error::Error;
use forebay::soak::{self, Now, Options, Report};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::context::{Context, Failure};
use super::format::options_of;
use super::progress::Progress;

/// Write over a device many times, kill the daemon in between, and hold it to every answer.
///
/// Starts daemons of its own on a namespace that holds nothing (--device, or device.path in the configuration), or on a new
/// file (--scratch). Clients write, read, delete, append, trim and commit in spaces and streams of their own; after each
/// kill -9 all of it is read back. At the end `verify` reads the stopped device, and everything is read once more.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file or block device, which `forebay format` has prepared. Default: device.path.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["scratch", "size", "keep"])]
    device: Option<PathBuf>,
    /// Make this file and format it, and remove it at the end.
    #[arg(long, value_name = "PATH")]
    scratch: Option<PathBuf>,
    /// The size of that file.
    #[arg(long, value_name = "SIZE", requires = "scratch", default_value = "1GiB")]
    size: ByteSize,
    /// Take so many times the size of the device from clients.
    #[arg(long, value_name = "TIMES", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    overwrite: u32,
    /// Kill the daemon so often, at random moments; now and then once more while it starts.
    #[arg(long, value_name = "COUNT", default_value_t = 10)]
    kills: u32,
    /// Clients, a thread each. By turns: strict; buffered with chained events; mixed by request; strict with chained events.
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    clients: u32,
    /// How much of the room for log the keys fill.
    #[arg(long, value_name = "PERCENT", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=75))]
    fill: u32,
    /// Repeats the choices of a run, though not its timing. Default: another one each time.
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Keep the file that --scratch made.
    #[arg(long, requires = "scratch")]
    keep: bool,
}

pub fn run(args: &Args, context: &mut Context) -> Result<(), Failure> {
    let Some(device) = args.scratch.as_ref().or(args.device.as_ref()).or(context.config.device.path.as_ref()) else {
        return Err(Failure::Usage(
            Error::new("no device is named")
                .remedy("use --device, --scratch for a new file, or device.path in the configuration"),
        ));
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, interrupted.clone()).map_err(Error::from)?;
    }
    let seed = args.seed.unwrap_or_else(rand::random);
    let directory = env::temp_dir().join(format!("forebay-soak-{}", uuid::Uuid::new_v4().simple()));
    let options = Options {
        device: device.clone(),
        program: env::current_exe().map_err(|error| Error::from(error).context("this program"))?,
        config: context.config_path.clone(),
        directory: directory.clone(),
        overwrite: args.overwrite,
        kills: args.kills,
        clients: args.clients,
        fill_percent: args.fill,
        seed,
    };
    if let Some(scratch) = &args.scratch {
        format_scratch(scratch, args.size, context)?;
    }
    fs::create_dir(&directory).map_err(|error| Error::from(error).context(directory.display()))?;
    let mut progress = Progress::new();
    let report = soak::run(&context.config, &options, &interrupted, &mut |now| tell(now, &mut progress))
        .map_err(|error| failed(error, &directory, device, seed))?;
    // What has been left nobody needs.
    _ = fs::remove_dir_all(&directory);
    if let Some(scratch) = args.scratch.as_ref().filter(|_| !args.keep) {
        fs::remove_file(scratch).map_err(|error| Error::from(error).context(scratch.display()))?;
    }
    print(&report, context)
}

fn format_scratch(path: &Path, size: ByteSize, context: &Context) -> Result<(), Failure> {
    if path.exists() {
        return Err(Failure::Usage(
            Error::new(format!("{} is there already", path.display()))
                .remedy("name a file that is not; --device takes one that `forebay format` has prepared"),
        ));
    }
    let mut config = context.config.clone();
    config.format.capacity = Some(size);
    let mut progress = Progress::new();
    let mut zeroed =
        |done: u64, total: u64| progress.show(|| format!("zeroing: {} of {} MiB", done >> 20, total >> 20));
    format_device(path, &options_of(&config, false), &mut zeroed).map_err(|error| error.context("format"))?;
    Ok(())
}

fn tell(now: Now<'_>, progress: &mut Progress) {
    match now {
        Now::Doing(what) => progress.show(|| what.to_owned()),
        Now::Recovered { kills, ms } => eprintln!("forebay: kill {kills}: serves again after {ms} ms"),
        Now::Writing { taken_bytes, target_bytes, bytes_per_second, kills } => progress.show(|| {
            let percent = taken_bytes.saturating_mul(100) / target_bytes.max(1);
            format!(
                "{percent} %: {} of {} MiB, {} MiB/s, {kills} kills",
                taken_bytes >> 20,
                target_bytes >> 20,
                bytes_per_second >> 20
            )
        }),
    }
}

/// The first thing that is wrong, where to look, and how to see it again. Device and logs stay as they are.
fn failed(error: Error, directory: &Path, device: &Path, seed: u64) -> Error {
    let mut command: Vec<OsString> = env::args_os().collect();
    if !command.iter().any(|word| word.to_string_lossy().starts_with("--seed")) {
        command.extend(["--seed".into(), seed.to_string().into()]);
    }
    let command: Vec<_> = command.iter().map(|word| word.to_string_lossy()).collect();
    Error::new(error.to_string()).remedy(format!(
        "seed {seed}; {} and the daemon's logs in {} are kept as they are; with another device the same choices repeat by: {}",
        device.display(),
        directory.display(),
        command.join(" ")
    ))
}

fn print(report: &Report, context: &mut Context) -> Result<(), Failure> {
    if context.json {
        context.out.json(&report.to_json())?;
    } else {
        context.out.raw(report.to_string().as_bytes())?;
    }
    context.out.flush()?;
    if report.interrupted {
        let error = Error::new("the soak was interrupted: what was written since the last restart is not read back");
        return Err(error.remedy("run it again, or a shorter one with --overwrite").into());
    }
    Ok(())
}
