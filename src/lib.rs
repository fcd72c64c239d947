#![forbid(unsafe_code)]
//! Forebay: durable key-value spaces and event streams on raw NVMe, over shared-memory rings.

// So that what tests share has one set of paths, in this crate's own tests and in tests/.
#[cfg(all(test, feature = "server"))]
extern crate self as forebay;

pub mod bytes;
pub mod error;
#[cfg(feature = "server")]
pub mod load;
pub mod ring;
#[cfg(feature = "client")]
pub mod run;
pub mod timing;
pub mod types;

#[cfg(feature = "server")]
pub mod appliance;
#[cfg(feature = "server")]
pub mod buffer;
#[cfg(feature = "server")]
pub mod config;
#[cfg(feature = "server")]
pub mod device;
#[cfg(feature = "server")]
pub mod doctor;
#[cfg(feature = "server")]
pub mod metrics;
#[cfg(feature = "server")]
pub mod reactor;
#[cfg(feature = "server")]
pub mod sim;
#[cfg(feature = "server")]
pub mod soak;
#[cfg(feature = "server")]
pub mod store;
#[cfg(feature = "server")]
pub mod wal;
