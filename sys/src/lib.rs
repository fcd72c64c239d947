//! Every line of Forebay that the compiler cannot check, behind safe types. Imports nothing of ours.

#[cfg(feature = "server")]
pub mod alloc;
pub mod cpu;
pub mod crc;
#[cfg(feature = "server")]
pub mod dma;
pub mod net;
pub mod prefetch;
pub mod shm;
#[cfg(feature = "spdk")]
pub mod spdk;
pub mod spsc;
#[cfg(feature = "server")]
pub mod uring;
