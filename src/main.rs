#![forbid(unsafe_code)]
//! The `forebay` program: the daemon, its tools, and a client for the command line.

mod cli;

/// Indexes are large and read at random.
#[global_allocator]
static ALLOCATOR: forebay_sys::alloc::HugePages = forebay_sys::alloc::HugePages;

fn main() -> std::process::ExitCode {
    cli::main()
}
