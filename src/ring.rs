//! The shared-memory rings between clients and the daemon.

#[cfg(feature = "client")]
pub mod client;
pub mod protocol;
pub mod segment;
#[cfg(feature = "server")]
pub mod server;
