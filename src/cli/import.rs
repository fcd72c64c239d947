//! `forebay import`: what `export` printed, back into an appliance.
//!
//! The file is read twice: once to see that all of it is good and fits, and once to write it. So a file that is not good
//! changes nothing.

pub mod apply;
pub mod check;

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use forebay::error::Error;
use serde_json::json;

use super::context::{Context, Failure};
use super::dump::reading::Reading;
use super::dump::{Counts, LINE_BYTES_MAX};
use super::progress::Progress;
use apply::{Apply, Done};
use check::{Check, Policy};

/// Damaged lines that are named one by one.
const DAMAGE_TOLD_MAX: u64 = 20;

/// Write what `export` printed.
///
/// Spaces, page spaces and streams are made as they were; those that are there stay as they are. Pairs and pages replace what
/// is there; a pair whose time to live is over is left out.
/// Events that a stream holds already, from its first on, are not written again: so an import can be repeated. Nothing is
/// changed if a line is damaged, or a stream holds other events. When it ends, all is durable on the drive.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file; it is read twice, so not a pipe.
    file: PathBuf,
    /// Write all events behind those that a stream holds.
    #[arg(long)]
    append: bool,
    /// Leave out lines that are damaged, name them, and exit with 1.
    #[arg(long)]
    skip_damaged: bool,
}

pub fn run(args: Args, context: &mut Context) -> Result<(), Failure> {
    let mut client = context.connect()?;
    let mut lines = Lines::open(&args.file)?;
    let mut first = Check::new(&mut client, Policy { append: args.append, fresh: false });
    let Checked { damage, counts } = check(&mut first, &mut lines, args.skip_damaged)?;
    let targets = first.targets;
    let path = args.file.display();
    let found = damage.first.as_ref().map(|(line, cause)| {
        format!("{path}: {} damaged, the first is line {line}: {cause}", plural(damage.lines, "line"))
    });
    if let (Some(found), false) = (&found, args.skip_damaged) {
        return Err(Error::new(format!("{found}; nothing was imported"))
            .remedy("mend the file, or import the other lines with --skip-damaged")
            .into());
    }
    lines.rewind()?;
    let there: u64 = targets.iter().map(|target| target.there).sum();
    let Done { expired, cursors_left } = apply(Apply::new(client, targets, counts), &mut lines)?;
    if context.json {
        context.out.json(&json!({
            "objects": counts.objects, "pairs": counts.pairs, "pages": counts.pages, "events": counts.events,
            "cursors": counts.cursors, "events_there": there, "expired": expired, "cursors_left_out": cursors_left,
            "lines_left_out": damage.lines,
        }))?;
    } else {
        context.out.line(format!(
            "{counts}; {there} of the events were there, {expired} of the pairs were over, {cursors_left} of the cursors \
             were there or have no place"
        ))?;
    }
    context.out.flush()?;
    found.map_or(Ok(()), |found| Err(Error::new(format!("{found}; all other lines are imported")).into()))
}

fn plural(count: u64, of: &str) -> String {
    format!("{count} {of}{}", if count == 1 { "" } else { "s" })
}

/// The lines of a file, with their numbers.
struct Lines {
    input: BufReader<File>,
    line: Vec<u8>,
    number: u64,
}

impl Lines {
    fn open(path: &Path) -> Result<Lines, Failure> {
        let failed = |error: Error| error.context(format_args!("read {}", path.display()));
        let file = File::open(path).map_err(|error| failed(error.into()))?;
        if !file.metadata().map_err(|error| failed(error.into()))?.is_file() {
            return Err(failed(Error::new("it is not a file").remedy("write the export to a file first")).into());
        }
        Ok(Lines { input: BufReader::with_capacity(1 << 20, file), line: Vec::new(), number: 0 })
    }

    fn rewind(&mut self) -> Result<(), Failure> {
        self.number = 0;
        Ok(self.input.rewind().map_err(|error| Error::from(error).context("read the file again"))?)
    }

    /// Whether there is another line. One that is too long is cut, so that it does not parse.
    fn advance(&mut self) -> Result<bool, Failure> {
        let failed = |error: std::io::Error| Error::from(error).context("read the file");
        self.line.clear();
        let mut limited = (&mut self.input).take(LINE_BYTES_MAX as u64);
        if limited.read_until(b'\n', &mut self.line).map_err(failed)? == 0 {
            return Ok(false);
        }
        self.number += 1;
        if self.line.pop_if(|last| *last == b'\n').is_none() {
            self.input.skip_until(b'\n').map_err(failed)?;
        }
        Ok(true)
    }

    /// Puts the line's number before what went wrong with it.
    fn named(&self, failure: impl Into<Failure>) -> Failure {
        match failure.into() {
            Failure::Operation(error) | Failure::Usage(error) => {
                Failure::Operation(error.context(format_args!("line {}", self.number)))
            }
            closed => closed,
        }
    }
}

#[derive(Default)]
struct Damage {
    lines: u64,
    first: Option<(u64, String)>,
}

struct Checked {
    damage: Damage,
    counts: Counts,
}

/// The first reading: changes nothing.
fn check(check: &mut Check<'_>, lines: &mut Lines, skips: bool) -> Result<Checked, Failure> {
    let (mut reading, mut damage, mut progress) = (Reading::default(), Damage::default(), Progress::new());
    let mut damaged = |line: u64, cause: String| {
        damage.lines += 1;
        if skips && damage.lines <= DAMAGE_TOLD_MAX {
            eprintln!("forebay: line {line} is left out: {cause}");
        }
        damage.first.get_or_insert((line, cause));
    };
    while lines.advance()? {
        match reading.line(&lines.line) {
            Ok(item) => check.item(item).map_err(|failure| lines.named(failure))?,
            Err(cause) => damaged(lines.number, cause),
        }
        progress.show(|| format!("checking: {} lines so far", lines.number));
    }
    if !reading.ended {
        damaged(lines.number + 1, "the end line is missing, so the file was cut short".into());
    }
    Ok(Checked { damage, counts: reading.counts })
}

/// The second reading: writes.
fn apply(mut apply: Apply, lines: &mut Lines) -> Result<Done, Failure> {
    let mut reading = Reading::default();
    while lines.advance()? {
        // What is damaged was told of at the first reading.
        let Ok(item) = reading.line(&lines.line) else { continue };
        apply.item(item).map_err(|failure| lines.named(failure))?;
    }
    apply.finish().map_err(|failure| lines.named(failure))
}
