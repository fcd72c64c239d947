//! `forebay run`: runs, all that one agent or job wrote and that happened to it, in one order.

mod changes;

use std::ffi::OsString;
use std::io::{self, BufRead};
use std::path::{Path, PathBuf};

use forebay::error::Error;
use forebay::ring::client::{Client, ClientError};
use forebay::ring::protocol::Status;
use forebay::run::file::{self, Summary};
use forebay::run::step::{Change, Step};
use forebay::run::{Run, RunError};
use forebay::types::Durability;
use serde_json::{Map, Value, json};

use super::bytes;
use super::context::{Context, Failure, WriteArgs};
use super::progress::Progress;
use super::read::begin;

/// Keep runs: keys and events of one agent or job in one order, which a replay yields again.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

/// How a step is written.
#[derive(Debug, clap::Args)]
struct HowArgs {
    /// Create it as a chained stream, whose steps are linked by hashes: see `forebay verify --stream`.
    #[arg(long, requires = "create")]
    chained: bool,
    #[command(flatten)]
    write: WriteArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Write a key of one of the run's spaces; prints the offset of the step.
    Put {
        run: String,
        space: String,
        key: OsString,
        /// The value, or - for standard input.
        value: OsString,
        /// The key and the value are hexadecimal.
        #[arg(long)]
        hex: bool,
        #[command(flatten)]
        how: HowArgs,
    },
    /// Remove a key; prints the offset of the step.
    Delete {
        run: String,
        space: String,
        key: OsString,
        /// The key is hexadecimal.
        #[arg(long)]
        hex: bool,
        #[command(flatten)]
        how: HowArgs,
    },
    /// Add an event to one of the run's streams; prints the offset of the step.
    Append {
        run: String,
        stream: String,
        /// The event, or - for standard input.
        event: OsString,
        /// The event is hexadecimal.
        #[arg(long)]
        hex: bool,
        #[command(flatten)]
        how: HowArgs,
    },
    /// Write steps, each a line of standard input as `replay --json` prints it: all changes of a line, or none. Prints their
    /// offsets.
    Step {
        run: String,
        #[command(flatten)]
        how: HowArgs,
    },
    /// Print the value of a key.
    Get {
        run: String,
        space: String,
        key: OsString,
        /// The key is hexadecimal, and the value is printed so.
        #[arg(long)]
        hex: bool,
    },
    /// Print the keys of a space with their values, a tab between them; without a space the names of those that hold any.
    Scan {
        run: String,
        space: Option<String>,
        /// Print keys and values as hexadecimal.
        #[arg(long)]
        hex: bool,
    },
    /// Print every change and event in the order in which they happened, the same each time.
    Replay {
        run: String,
        /// Begin with this offset. Default: the first step that is kept.
        #[arg(long, value_name = "OFFSET")]
        from: Option<u64>,
        /// Print keys and values as hexadecimal.
        #[arg(long)]
        hex: bool,
    },
    /// Say again what the run holds, so that it is opened from here on and need not be read from its beginning.
    Compact {
        run: String,
        /// Trim what came before. A replay begins here then.
        #[arg(long)]
        trim: bool,
    },
    /// Write a run to a file, which must not be there. It has its name only when all of it is durable.
    Export { run: String, file: PathBuf },
    /// Make a run of a file. All of it is checked first.
    Import {
        file: PathBuf,
        /// The run's name. Default: as it was.
        #[arg(long = "as", value_name = "NAME")]
        name: Option<String>,
    },
    /// Check a file, without a daemon.
    Check { file: PathBuf },
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Failure {
        Failure::Operation(error.into())
    }
}

pub fn run(args: Args, context: &mut Context) -> Result<(), Failure> {
    match args.command {
        Command::Put { run, space, key, value, hex, how } => {
            let (key, value) = (bytes::decode(key, hex)?, source(value, hex)?);
            write(&run, &how, context, &[Change::Put { space: &space, key: &key, value: &value }])
        }
        Command::Delete { run, space, key, hex, how } => {
            let key = bytes::decode(key, hex)?;
            write(&run, &how, context, &[Change::Delete { space: &space, key: &key }])
        }
        Command::Append { run, stream, event, hex, how } => {
            let event = source(event, hex)?;
            write(&run, &how, context, &[Change::Event { stream: &stream, event: &event }])
        }
        Command::Step { run, how } => steps(&run, &how, context),
        Command::Get { run, space, key, hex } => get(&run, &space, &bytes::decode(key, hex)?, hex, context),
        Command::Scan { run, space, hex } => scan(&run, space.as_deref(), hex, context),
        Command::Replay { run, from, hex } => replay(&run, from, hex, context),
        Command::Compact { run, trim } => {
            let (mut client, mut opened) = open(&run, context)?;
            let done = opened.compact(&mut client, trim)?;
            if context.json {
                return context.out.json(&json!({ "as_of": done.as_of, "pairs": done.pairs }));
            }
            context.out.line(format!("{run:?} is read from offset {} on: {} pairs", done.as_of, done.pairs))
        }
        Command::Export { run, file } => export(&run, &file, context),
        Command::Import { file, name } => {
            let (mut client, mut progress) = (context.connect()?, Progress::new());
            let shown = |steps| progress.show(|| format!("importing: {steps} steps so far"));
            let summary = file::import(&mut client, &file, name.as_deref(), shown);
            told(summary.map_err(|error| of_file(&file, error))?, context)
        }
        Command::Check { file } => told(file::check(&file).map_err(|error| of_file(&file, error))?, context),
    }
}

fn of_file(path: &Path, error: RunError) -> Failure {
    match error {
        RunError::BadFile(_) | RunError::Io(_) => Failure::from(Error::from(error).context(path.display())),
        error => error.into(),
    }
}

fn source(value: OsString, hex: bool) -> Result<Vec<u8>, Failure> {
    if value == "-" { bytes::read_source(Path::new("-")) } else { bytes::decode(value, hex) }
}

/// Connects, and opens a run.
fn open(name: &str, context: &Context) -> Result<(Client, Run), Failure> {
    let mut client = context.connect()?;
    let run = Run::open(&mut client, name, None).map_err(|error| of_run(name, error))?;
    Ok((client, run))
}

fn of_run(name: &str, error: RunError) -> Failure {
    match error {
        RunError::Client(ClientError::Status(Status::UnknownObject)) => {
            Error::new(format!("no run is named {name:?}")).remedy("a write with --create makes one").into()
        }
        error => Error::from(error).context(format_args!("run {name:?}")).into(),
    }
}

/// Connects for writing to a run. Gives the durability with which it is made where it is absent.
fn connect(name: &str, how: &HowArgs, context: &Context) -> Result<(Client, Option<Durability>), Failure> {
    let mut client = context.connect()?;
    let create = how.write.created_with(&context.config);
    if let Some(durability) = create.filter(|durability| how.chained && *durability != Durability::Memory) {
        client.open_chained(name, durability)?;
    }
    Ok((client, create))
}

fn write(name: &str, how: &HowArgs, context: &mut Context, changes: &[Change<'_>]) -> Result<(), Failure> {
    let (mut client, create) = connect(name, how, context)?;
    let offset = forebay::run::write(&mut client, name, create, changes, how.write.durability);
    told_offset(offset.map_err(|error| of_run(name, error))?, context)
}

fn told_offset(offset: u64, context: &mut Context) -> Result<(), Failure> {
    if context.json { context.out.json(&json!({ "offset": offset })) } else { context.out.line(offset.to_string()) }
}

fn steps(name: &str, how: &HowArgs, context: &mut Context) -> Result<(), Failure> {
    let (mut client, create) = connect(name, how, context)?;
    let mut run = Run::open(&mut client, name, create).map_err(|error| of_run(name, error))?;
    for (number, line) in (1..).zip(io::stdin().lock().lines()) {
        let at = |error: Error| Failure::Operation(error.context(format_args!("line {number}")));
        let line = line.map_err(|error| at(error.into()))?;
        let owned = changes::read(&line).map_err(|cause| {
            at(Error::new(cause).remedy("write a step a line, as `forebay run replay --json` prints them"))
        })?;
        let changes: Vec<Change<'_>> = owned.iter().map(changes::Owned::as_change).collect();
        let offset = run.write(&mut client, &changes, how.write.durability).map_err(|error| at(error.into()))?;
        told_offset(offset, context)?;
        context.out.flush()?;
    }
    Ok(())
}

fn get(name: &str, space: &str, key: &[u8], hex: bool, context: &mut Context) -> Result<(), Failure> {
    let (_, run) = open(name, context)?;
    let Some(value) = run.get(space, key) else {
        return Err(Error::new(format!("the key is absent from space {space:?} of run {name:?}")).into());
    };
    if context.json {
        let mut object = Map::new();
        bytes::insert(&mut object, "value", value, hex);
        return context.out.json(&Value::Object(object));
    }
    bytes::print(&mut context.out, value, hex)?;
    if hex || context.out.terminal { context.out.raw(b"\n") } else { Ok(()) }
}

fn scan(name: &str, space: Option<&str>, hex: bool, context: &mut Context) -> Result<(), Failure> {
    let (_, run) = open(name, context)?;
    let Some(space) = space else {
        for space in run.spaces() {
            if context.json { context.out.json(&json!({ "space": space }))? } else { context.out.line(space)? }
        }
        return Ok(());
    };
    for (key, value) in run.scan(space) {
        if context.json {
            let mut object = Map::new();
            bytes::insert(&mut object, "key", key, hex);
            bytes::insert(&mut object, "value", value, hex);
            context.out.json(&Value::Object(object))?;
            continue;
        }
        bytes::print(&mut context.out, key, hex)?;
        context.out.raw(b"\t")?;
        bytes::print(&mut context.out, value, hex)?;
        context.out.raw(b"\n")?;
    }
    Ok(())
}

fn replay(name: &str, from: Option<u64>, hex: bool, context: &mut Context) -> Result<(), Failure> {
    let (mut client, stream) = context.stream(name, None)?;
    let (mut next, mut progress) = (begin(&mut client, stream, from)?, Progress::new());
    loop {
        let events = client.read(stream, next, None)?;
        if events.is_empty() {
            return Ok(());
        }
        for (offset, event) in &events {
            let step = Step::decode(event).ok_or(RunError::NotAStep { offset: *offset })?;
            next = offset + 1;
            // A state says again what was said: nothing happened.
            if step.state.is_none() {
                print(&step, *offset, hex, context)?;
            }
        }
        if !context.out.terminal {
            progress.show(|| format!("replaying {name:?}: {next} steps so far"));
        }
    }
}

fn print(step: &Step<'_>, offset: u64, hex: bool, context: &mut Context) -> Result<(), Failure> {
    if context.json {
        let changes: Vec<Value> = step.changes.iter().map(changes::json).collect();
        return context.out.json(&json!({ "offset": offset, "unix_ms": step.wall_ms, "changes": changes }));
    }
    for change in &step.changes {
        let (what, name, parts) = match *change {
            Change::Put { space, key, value } => ("put", space, [Some(key), Some(value)]),
            Change::Delete { space, key } => ("delete", space, [Some(key), None]),
            Change::Event { stream, event } => ("event", stream, [Some(event), None]),
        };
        context.out.raw(format!("{offset}\t{what}\t{name}").as_bytes())?;
        for part in parts.into_iter().flatten() {
            context.out.raw(b"\t")?;
            bytes::print(&mut context.out, part, hex)?;
        }
        context.out.raw(b"\n")?;
    }
    Ok(())
}

fn export(name: &str, path: &Path, context: &mut Context) -> Result<(), Failure> {
    let (mut client, mut progress) = (context.connect()?, Progress::new());
    let shown = |steps| progress.show(|| format!("exporting {name:?}: {steps} steps so far"));
    let summary = file::export(&mut client, name, path, shown);
    told(
        summary.map_err(|error| match error {
            RunError::Io(error) => Error::from(error).context(format_args!("write {}", path.display())).into(),
            error => of_run(name, error),
        })?,
        context,
    )
}

fn told(summary: Summary, context: &mut Context) -> Result<(), Failure> {
    let Summary { name, first, next, durability, chained, .. } = summary;
    let (steps, durability) = (next - first, durability.name());
    if context.json {
        return context.out.json(&json!({
            "run": name, "first": first, "steps": steps, "durability": durability, "chained": chained,
        }));
    }
    let chained = if chained { ", chained" } else { "" };
    context.out.line(format!("run {name:?}: {steps} steps from offset {first} on, {durability}{chained}"))
}
