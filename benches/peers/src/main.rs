//! Forebay beside its peers: the same operations, the same promise, the same two cores. `benches/peers/run` starts it.

mod case;
mod figures;
mod peers;
mod plot;
mod proof;
mod report;
mod run;
mod session;
mod versions;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// As Forebay's own program has it.
#[global_allocator]
static ALLOCATOR: forebay_sys::alloc::HugePages = forebay_sys::alloc::HugePages;

#[derive(Debug, Parser)]
#[command(args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Compare all: tables, JSON and a picture.
    #[command(args_override_self = true)]
    Run(run::Args),
    /// One peer in one class at one size. Prints JSON.
    Session(session::Args),
    /// Keep a core from halting, until killed.
    Spin,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Session(args) => session::run(&args),
        Command::Spin => {
            run::spin();
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}
