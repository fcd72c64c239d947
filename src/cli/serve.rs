//! `forebay serve`: run the daemon.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use forebay::appliance::{Appliance, Started, open_options};
use forebay::config::{self, Config, Spin};
use forebay::device::open::open;
use forebay::error::Error;
use forebay::types::TierChoice;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::context::{Context, Failure};

/// Run the daemon on a formatted device.
///
/// Runs until SIGTERM or SIGINT. Options override the configuration.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file or block device, or a controller for SPDK (pcie:, vfio-user:, tcp:). Default: device.path.
    #[arg(long, value_name = "PATH")]
    device: Option<PathBuf>,
    /// The number of reactors, each a thread that polls.
    #[arg(long, value_name = "COUNT")]
    reactors: Option<u32>,
    /// The cores to pin them to, as 2,3. One a reactor.
    #[arg(long, value_name = "CORES", value_delimiter = ',')]
    cores: Vec<usize>,
    /// Poll so long without work before sleeping, as 100us; 0 sleeps at once, "forever" never.
    #[arg(long, value_name = "DURATION")]
    spin: Option<Spin>,
    /// Where the flight recorder stands; "" for none: buffered writes then die with the daemon.
    #[arg(long, value_name = "DIRECTORY", value_parser = OsStringValueParser::new().map(PathBuf::from))]
    flight_directory: Option<PathBuf>,
    /// The way to the drive; auto takes the best that works.
    #[arg(long, value_enum, value_name = "TIER")]
    tier: Option<TierChoice>,
    /// Check the configuration, print what memory it needs, and end.
    #[arg(long)]
    check: bool,
}

impl Args {
    fn flags(&self) -> [(bool, &'static str, &'static str); 3] {
        [
            (self.reactors.is_some(), "reactors.count", "--reactors"),
            (!self.cores.is_empty(), "reactors.cores", "--cores"),
            (self.flight_directory.is_some(), "flight.directory", "--flight-directory"),
        ]
    }

    fn apply(self, config: &mut Config) {
        config.device.path = self.device.or(config.device.path.take());
        config.device.tier = self.tier.unwrap_or(config.device.tier);
        if !self.cores.is_empty() {
            config.reactors.cores = self.cores;
            config.reactors.count = None;
        }
        config.reactors.count = self.reactors.or(config.reactors.count);
        config.reactors.spin = self.spin.unwrap_or(config.reactors.spin);
        if let Some(directory) = self.flight_directory {
            config.flight.directory = directory;
        }
    }
}

pub fn run(args: Args, context: &mut Context) -> Result<(), Failure> {
    let (check, flags) = (args.check, args.flags());
    args.apply(&mut context.config);
    context.check(&flags)?;
    if check {
        return print_memory(context);
    }
    let Some(device) = context.config.device.path.clone() else {
        return Err(Failure::Usage(
            Error::new("no device is named").remedy("use --device, or device.path in the configuration"),
        ));
    };
    let named = context.socket.take().or_else(|| context.config.rings.socket.clone());
    let socket = named.map_or_else(config::default_for_daemon, Ok)?;
    serve(context, &device, &socket)?;
    Ok(())
}

/// Runs until SIGTERM or SIGINT, then stops in good order.
fn serve(context: &Context, path: &Path, socket: &Path) -> Result<(), Error> {
    start_log(context.config.log.level);
    let device = open(path, &open_options(&context.config))?;
    for warning in context.config.warnings() {
        tracing::warn!("{warning}");
    }
    let appliance = Appliance::start(&context.config, &device, socket, &mut |line| tracing::info!("{line}"))?;
    // Until here a signal ends the process at once: a recovery may be cut off anywhere.
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let Started { tier, durability, notes, epoch, records, log_bytes, replayed_bytes, recovery } = &appliance.started;
    for note in notes {
        tracing::warn!("{note}");
    }
    tracing::info!(
        device = device.label(),
        tier = tier.name(),
        durability,
        epoch,
        records,
        log_mib = log_bytes >> 20,
        replayed_bytes,
        recovery_ms = recovery.as_millis(),
        "recovered"
    );
    tracing::info!(socket = %socket.display(), "ready");
    let signal = signals.forever().next();
    tracing::info!(signal, "stopping");
    appliance.stop()?;
    tracing::info!("stopped: everything acknowledged is on the drive");
    Ok(())
}

fn start_log(level: config::Level) {
    let default = match level {
        config::Level::Error => "error",
        config::Level::Warn => "warn",
        config::Level::Info => "info",
        config::Level::Debug => "debug",
        config::Level::Trace => "trace",
    };
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        // A log that cannot be written must not end a reactor, and to complain of it in the same place would panic.
        .log_internal_errors(false)
        .init();
}

fn print_memory(context: &mut Context) -> Result<(), Failure> {
    for part in context.config.memory_parts(context.config.format.shards) {
        if context.json {
            context.out.json(&serde_json::json!({ "what": part.name, "bytes": part.bytes, "reason": part.reason }))?;
        } else {
            context.out.line(format!("{:>8} MiB  {}: {}", part.bytes.div_ceil(1 << 20), part.name, part.reason))?;
        }
    }
    Ok(())
}
