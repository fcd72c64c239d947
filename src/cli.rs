//! The command line: parse, run, exit code. A subcommand is a file below this one.
//!
//! Exit codes: 0 done, 1 the operation failed, 2 the command was not understood. An error is one line on standard
//! error, "forebay: cause; what to do". Only a configuration or a job with several errors takes a line for each.

mod append;
mod backup;
mod bytes;
mod check;
mod context;
mod cursor;
mod delete;
mod doctor;
mod dump;
mod export;
mod format;
mod get;
mod import;
mod inspect;
mod load;
mod page;
mod progress;
mod put;
mod read;
mod repair;
mod restore;
mod resume;
mod retain;
mod run;
mod scan;
mod serve;
mod sim;
mod soak;
mod stats;
mod sync;
mod tail;
mod take;
mod trim;
mod verify;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand};

use context::{Context, Failure, Globals};

/// Durable key-value spaces and event streams on raw NVMe, over shared-memory rings.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, max_term_width = 100)]
struct Arguments {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Format(format::Args),
    Serve(serve::Args),
    Load(load::Args),
    Put(put::Args),
    Get(get::Args),
    Delete(delete::Args),
    Scan(scan::Args),
    Append(append::Args),
    Read(read::Args),
    Tail(tail::Args),
    Trim(trim::Args),
    Retain(retain::Args),
    Cursor(cursor::Args),
    Page(page::Args),
    Run(run::Args),
    Sync(sync::Args),
    Export(export::Args),
    Import(import::Args),
    Backup(backup::Args),
    Restore(restore::Args),
    Stats(stats::Args),
    Sim(sim::Args),
    Soak(soak::Args),
    Inspect(inspect::Args),
    Verify(verify::Args),
    Repair(repair::Args),
    Resume(resume::Args),
    Doctor(doctor::Args),
}

/// Runs the program with the arguments of the process.
pub fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return refuse(&error),
    };
    match Context::new(arguments.globals).and_then(|context| run(arguments.command, context)) {
        // Whoever reads our output has had enough: not an error.
        Ok(()) | Err(Failure::OutputClosed) => ExitCode::SUCCESS,
        Err(Failure::Operation(error)) => fail(&error.to_string(), 1),
        Err(Failure::Usage(error)) => fail(&error.to_string(), 2),
    }
}

fn run(command: Command, mut context: Context) -> Result<(), Failure> {
    match command {
        Command::Format(args) => format::run(args, &mut context)?,
        Command::Load(args) => load::run(args, &mut context)?,
        Command::Serve(args) => serve::run(args, &mut context)?,
        Command::Put(args) => put::run(args, &mut context)?,
        Command::Get(args) => get::run(args, &mut context)?,
        Command::Delete(args) => delete::run(args, &mut context)?,
        Command::Scan(args) => scan::run(args, &mut context)?,
        Command::Append(args) => append::run(args, &mut context)?,
        Command::Read(args) => read::run(args, &mut context)?,
        Command::Tail(args) => tail::run(args, &mut context)?,
        Command::Trim(args) => trim::run(args, &mut context)?,
        Command::Retain(args) => retain::run(args, &mut context)?,
        Command::Cursor(args) => cursor::run(args, &mut context)?,
        Command::Page(args) => page::run(args, &mut context)?,
        Command::Run(args) => run::run(args, &mut context)?,
        Command::Sync(args) => sync::run(args, &mut context)?,
        Command::Export(args) => export::run(args, &mut context)?,
        Command::Import(args) => import::run(args, &mut context)?,
        Command::Backup(args) => backup::run(&args, &mut context)?,
        Command::Restore(args) => restore::run(&args, &mut context)?,
        Command::Sim(args) => sim::run(&args, &mut context)?,
        Command::Soak(args) => soak::run(&args, &mut context)?,
        Command::Stats(args) => stats::run(&args, &mut context)?,
        Command::Inspect(args) => inspect::run(&args, &mut context)?,
        Command::Verify(args) => verify::run(&args, &mut context)?,
        Command::Repair(args) => repair::run(&args, &mut context)?,
        Command::Resume(args) => resume::run(&args, &mut context)?,
        Command::Doctor(args) => doctor::run(args, &mut context)?,
    }
    context.out.flush()
}

/// One line on standard error. Nothing more can be done when even that is closed.
fn fail(message: &str, code: u8) -> ExitCode {
    _ = writeln!(io::stderr(), "forebay: {message}");
    ExitCode::from(code)
}

/// Help and version go to standard output; anything else is one line that says what was not understood.
fn refuse(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            _ = error.print();
            ExitCode::SUCCESS
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => fail("no subcommand; see forebay --help", 2),
        _ => fail(&usage_line(&error.to_string()), 2),
    }
}

/// What clap says in a paragraph, in one line: the cause, its tips, and where the help is.
fn usage_line(paragraph: &str) -> String {
    let usage = paragraph.lines().find_map(|line| line.strip_prefix("Usage: "));
    let lines = paragraph.lines().map(str::trim).filter(|line| !line.is_empty());
    let mut message = String::new();
    for line in lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more information")) {
        match (line.strip_prefix("error: "), line.strip_prefix("tip: ")) {
            (Some(cause), _) => message.push_str(cause),
            (None, Some(tip)) => message.extend(["; ", tip]),
            (None, None) => message.extend([" ", line]),
        }
    }
    // "Usage: forebay put [OPTIONS] <KEY>" names the subcommand whose help is meant.
    let words = usage.into_iter().flat_map(str::split_whitespace);
    let command: Vec<&str> = words.take_while(|word| word.starts_with(|c: char| c.is_ascii_lowercase())).collect();
    let command = if command.is_empty() { "forebay".to_owned() } else { command.join(" ") };
    format!("{message}; see {command} --help")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_hold_together() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn a_usage_error_is_one_line() {
        let line = |arguments: &[&str]| {
            usage_line(&Arguments::try_parse_from(arguments).expect_err("they are no good").to_string())
        };
        assert_eq!(
            line(&["forebay", "get", "s", "k", "--jsno"]),
            "unexpected argument '--jsno' found; a similar argument exists: '--json'; see forebay get --help"
        );
        assert_eq!(
            line(&["forebay", "get"]),
            "the following required arguments were not provided: <SPACE> <KEY>; see forebay get --help"
        );
    }
}
