//! SPDK's NVMe driver: a whole controller in user space, its queue pairs polled by the threads that own them.
//!
//! `Env` is SPDK in this process, `Controller` one drive or target, `QueuePair` one thread's way to a namespace of it.

mod controller;
mod env;
mod log_page;
mod queue;
#[cfg(test)]
mod tests;
mod transport;

#[expect(
    clippy::all,
    clippy::cast_possible_truncation,
    clippy::multiple_unsafe_ops_per_block,
    clippy::undocumented_unsafe_blocks,
    dead_code,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    reason = "written by bindgen from SPDK's headers"
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/spdk.rs"));
}

pub use controller::{AttachOptions, Controller, Identity};
pub use env::{Env, EnvMemory};
pub use queue::{Command, Ended, QueuePair, Refusal, Refused, Status};
pub use transport::Transport;

/// The SPDK that this build is linked with: year and month.
pub const VERSION: (u32, u32) = (bindings::SPDK_VERSION_MAJOR, bindings::SPDK_VERSION_MINOR);
