//! `forebay load`: run a job file against an appliance and report as fio does.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use forebay::appliance::embedded::{Embedded, Temporary};
use forebay::config::Config;
use forebay::error::Error;
use forebay::load::{self, Figures, LoadOptions, Report};
use forebay::ring::client::{Client, ConnectOptions};
use forebay::timing;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::context::{Context, Failure};
use super::progress::Progress;

/// Run a job file, in fio's format, and report as fio does.
///
/// Without --socket an embedded appliance is started on a temporary file (or on --device), stopped at the end,
/// recovered, and checked to hold what was written. With --socket the job drives a running daemon.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job file; - for standard input. configs/load/ holds examples.
    #[arg(value_name = "JOBFILE")]
    job: PathBuf,
    /// Start the embedded appliance on this file or block device, which `forebay format` has prepared.
    #[arg(long, value_name = "PATH")]
    device: Option<PathBuf>,
    /// The report: for people, JSON with fio's names, or that with its latency bins. --json is short for json.
    #[arg(long, value_enum, default_value_t = OutputFormat::Normal)]
    output_format: OutputFormat,
    /// Write the report to a file instead of standard output.
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Also write the report as an HTML page with charts that needs nothing beside it.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Compare with an earlier run on that page: what --output-format=json wrote.
    #[arg(long, value_name = "JSON", requires = "report")]
    against: Option<PathBuf>,
    /// Say where the time goes, layer by layer. Needs the feature perf-diagnostics and the embedded appliance.
    #[arg(long)]
    layers: bool,
    /// Show a progress line on standard error: always, never, or when it is a terminal.
    #[arg(long, value_enum, default_value_t = When::Auto)]
    progress: When,
    /// Keep the temporary device and name it in the report.
    #[arg(long)]
    keep: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OutputFormat {
    Normal,
    Json,
    #[value(name = "json+")]
    JsonPlus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum When {
    Auto,
    Always,
    Never,
}

impl OutputFormat {
    fn as_json(self) -> OutputFormat {
        if self == OutputFormat::Normal { OutputFormat::Json } else { self }
    }
}

impl When {
    fn holds(self) -> bool {
        match self {
            When::Auto => io::IsTerminal::is_terminal(&io::stderr()),
            When::Always => true,
            When::Never => false,
        }
    }
}

pub fn run(args: Args, context: &mut Context) -> Result<(), Failure> {
    let name = args.job.display().to_string();
    let text = read_job(&args.job)?;
    // What is wrong with the job is said before anything is formatted.
    load::parse(&text, &name)?;
    check_layers(args.layers, context.socket.is_some())?;
    let against = args.against.as_deref().map(read_figures).transpose()?;
    check_outputs(&args)?;
    let mut options = LoadOptions { progress: args.progress.holds(), layers: args.layers, ..LoadOptions::default() };
    let report = match (context.socket.clone(), &args.device) {
        (Some(_), Some(_)) => {
            let error =
                Error::new("--socket and --device exclude each other").remedy("the daemon has its device already");
            return Err(Failure::Usage(error));
        }
        (Some(socket), None) => load::run(&text, &name, &options, |connect| Client::connect(&socket, connect))?,
        (None, _) => embedded(&args, context, &text, &name, &mut options)?,
    };
    let format = if context.json { args.output_format.as_json() } else { args.output_format };
    print(&report, format, args.output, context)?;
    if let Some(path) = &args.report {
        let figures = Figures::of(&report);
        if against.as_ref().is_some_and(|against| !figures.has_job_of(against)) {
            _ = writeln!(io::stderr(), "forebay: no job has the name of one of the earlier run: nothing is compared");
        }
        write_file(path, &load::page(&figures, against.as_ref())?)?;
    }
    match report.cause() {
        None => Ok(()),
        Some(cause) => Err(Error::new(format!("the load did not end well: {cause}")).into()),
    }
}

/// A run of minutes is not to end with a file that cannot be written.
fn check_outputs(args: &Args) -> Result<(), Failure> {
    if args.output.is_some() && args.output == args.report {
        let error = Error::new("--output and --report name the same file").remedy("give them different names");
        return Err(Failure::Usage(error));
    }
    for path in args.output.iter().chain(&args.report) {
        let opened = fs::File::options().create(true).append(true).open(path);
        opened.map_err(|error| Error::from(error).context(format_args!("write {}", path.display())))?;
    }
    Ok(())
}

/// Layers are measured in this process alone, and only by a program that was built for it.
fn check_layers(wanted: bool, has_socket: bool) -> Result<(), Failure> {
    let error = match (wanted, timing::ENABLED, has_socket) {
        (true, false, _) => Error::new("this program does not measure layers")
            .remedy("build one that does with `cargo build --release --features perf-diagnostics`"),
        (true, true, true) => {
            Error::new("--layers sees only an appliance in this process").remedy("leave out --socket")
        }
        _ => return Ok(()),
    };
    Err(Failure::Usage(error))
}

/// What an earlier run measured.
fn read_figures(path: &Path) -> Result<Figures, Error> {
    let name = path.display();
    let text = fs::read_to_string(path).map_err(|error| Error::from(error).context(format_args!("read {name}")))?;
    Figures::from_json(&text, &name.to_string())
}

fn write_file(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|error| Error::from(error).context(format_args!("write {}", path.display())))
}

fn read_job(path: &Path) -> Result<String, Failure> {
    let read = if path == Path::new("-") { io::read_to_string(io::stdin()) } else { fs::read_to_string(path) };
    Ok(read.map_err(|error| {
        Error::new(format!("read {}: {error}", path.display())).remedy("configs/load/ holds job files")
    })?)
}

/// Runs the jobs against an appliance in this process, then stops it, recovers it, and reads everything back.
fn embedded(
    args: &Args,
    context: &mut Context,
    text: &str,
    name: &str,
    options: &mut LoadOptions,
) -> Result<Report, Error> {
    let mut config = context.config.clone();
    place(&mut config, options);
    let mut progress = |line: &str| {
        // Progress that nobody can see is no reason to stop.
        _ = writeln!(io::stderr(), "forebay: {line}");
    };
    let mut embedded = match &args.device {
        Some(device) => Embedded::on_device(config, device, &mut progress)?,
        None => {
            let frames_at_once = u64::from(config.format.shards) * u64::from(config.wal.frames_in_flight_max);
            let log_bytes = load::parse(text, name)?.log_bytes(frames_at_once);
            let mut due = Progress::new();
            let temporary = Temporary::make(&mut config)?;
            if !args.keep {
                remove_on_signal(temporary.clone())?;
            }
            Embedded::temporary(config, temporary, log_bytes, &mut |line| due.show(|| line.to_owned()))?
        }
    };
    if args.keep {
        embedded.keep();
    }
    if let Some(started) = embedded.started() {
        options.device = Some(format!("{} · {}", started.tier.name(), started.durability));
        started.notes.iter().for_each(|note| progress(note));
    }
    let socket = embedded.socket().to_owned();
    let mut report = load::run(text, name, options, |connect| Client::connect(&socket, connect))?;
    if args.keep {
        progress(&format!("the device is kept: {}", embedded.device_path().display()));
    }
    embedded.stop()?;
    embedded.start(&mut progress)?;
    let mut client = Client::connect(embedded.socket(), &ConnectOptions::default())?;
    let what = "verify: reading everything back after stop and recovery";
    load::while_shown(what, options.progress, || report.verify_after_restart(&mut client))?;
    drop(client);
    embedded.stop()?;
    Ok(report)
}

/// An interrupted load leaves no gigabytes behind.
fn remove_on_signal(temporary: Temporary) -> Result<(), Error> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    std::thread::spawn(move || {
        if let Some(signal) = signals.forever().next() {
            temporary.remove();
            std::process::exit(128 + signal);
        }
    });
    Ok(())
}

/// Where nothing else is asked for: the reactor on the first core, the clients on the others.
fn place(config: &mut Config, options: &mut LoadOptions) {
    let cores: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    let reactors = config.reactors.count() as usize;
    if config.reactors.cores.is_empty() && cores.len() > reactors {
        config.reactors.cores = cores[..reactors].to_vec();
        options.cores = cores[reactors..].to_vec();
    }
}

fn print(report: &Report, format: OutputFormat, output: Option<PathBuf>, context: &mut Context) -> Result<(), Failure> {
    if format != OutputFormat::Normal {
        for warning in &report.warnings {
            _ = writeln!(io::stderr(), "forebay: {warning}");
        }
    }
    let text = match format {
        OutputFormat::Normal => report.to_string(),
        json => format!("{:#}\n", report.to_json(json == OutputFormat::JsonPlus)),
    };
    match output {
        Some(path) => Ok(write_file(&path, &text)?),
        None => context.out.raw(text.as_bytes()),
    }
}
