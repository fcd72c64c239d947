//! `forebay serve`: run the daemon.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver};

use clap::builder::{OsStringValueParser, TypedValueParser as _};
use forebay::appliance::resume::Resumed;
use forebay::appliance::{Appliance, Started, open_options};
use forebay::config::{self, Config, Spin};
use forebay::device::open::{OpenDevice, open};
use forebay::error::Error;
use forebay::ring::server::Ordered;
use forebay::types::TierChoice;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::check;
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
    /// Check the configuration and the device, which is only read; print what memory they need and what a start would
    /// do, and end.
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
        return check::run(context);
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

/// What the daemon's main thread waits for.
enum Event {
    Signal(i32),
    Ordered(Ordered),
}

/// Runs until SIGTERM or SIGINT, then stops in good order.
fn serve(context: &Context, path: &Path, socket: &Path) -> Result<(), Error> {
    start_log(context.config.log.level);
    let device = open(path, &open_options(&context.config))?;
    for warning in context.config.warnings() {
        tracing::warn!("{warning}");
    }
    let (orders, ordered) = mpsc::channel();
    let mut appliance =
        Appliance::start(&context.config, &device, socket, Some(orders), &mut |line| tracing::info!("{line}"))?;
    // Until here a signal ends the process at once: a recovery may be cut off anywhere.
    let events = events(Signals::new([SIGTERM, SIGINT])?, ordered)?;
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
    let mut device = Some(device);
    for event in events {
        match event {
            Event::Ordered(ordered) => resume(&mut appliance, context, &mut device, path, ordered),
            Event::Signal(signal) => {
                tracing::info!(signal, "stopping");
                break;
            }
        }
    }
    appliance.stop()?;
    tracing::info!("stopped: everything acknowledged is on the drive");
    Ok(())
}

/// Signals and orders in one queue. Each has a thread that waits for it, and ends with the process.
fn events(mut signals: Signals, ordered: Receiver<Ordered>) -> Result<Receiver<Event>, Error> {
    let (sender, events) = mpsc::channel();
    let orders = sender.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || signals.forever().try_for_each(|signal| sender.send(Event::Signal(signal))))?;
    std::thread::Builder::new()
        .name("orders".into())
        .spawn(move || ordered.iter().try_for_each(|ordered| orders.send(Event::Ordered(ordered))))?;
    Ok(events)
}

/// Takes the drive back, and says what came of it, to the log and to who asked.
fn resume(
    appliance: &mut Appliance,
    context: &Context,
    device: &mut Option<OpenDevice>,
    path: &Path,
    ordered: Ordered,
) {
    let path = ordered.path.as_deref().unwrap_or(path).to_owned();
    tracing::info!(device = %path.display(), "taking the drive back");
    match appliance.resume(&context.config, device, &path, &mut |line| tracing::info!("{line}")) {
        Ok(None) => {
            tracing::info!("every shard writes: there is nothing to take back");
            ordered.answer(Ok("every shard writes: there is nothing to take back"));
        }
        Ok(Some(Resumed { tier, epoch, log_bytes, replayed_bytes, notes, taken })) => {
            for note in notes {
                tracing::warn!("{note}");
            }
            tracing::info!(
                device = %path.display(), tier = tier.name(), epoch, log_mib = log_bytes >> 20, replayed_bytes,
                taken_ms = taken.as_millis(), "taken back: every shard writes again"
            );
            ordered.answer(Ok(&format!(
                "taken back by {}: epoch {epoch}, {replayed_bytes} B written again from the flight recorder, in {} ms",
                tier.name(),
                taken.as_millis()
            )));
        }
        Err(error) => {
            tracing::error!(%error, "the drive is not taken back; reads go on");
            ordered.answer(Err(&error.to_string()));
        }
    }
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
