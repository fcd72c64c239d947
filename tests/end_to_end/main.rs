//! The program from end to end: daemon and clients as they are used, with what kills, fills and attacks them.
#![cfg(all(test, feature = "server"))]

mod backup;
mod commands;
mod daemon;
mod delta;
mod dump;
mod flight;
mod hostile;
mod kill;
mod larger;
mod operations;
mod pages;
mod power;
mod resume;
mod runs;
mod snapshots;
mod soak;
mod streams;
mod trace;
mod transactions;
mod trouble;
mod writers;
