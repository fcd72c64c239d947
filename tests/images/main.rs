//! Namespaces as plain bytes: damaged in every way, mended, and kept for later versions.
#![cfg(feature = "server")]

#[cfg(test)]
mod flips;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod image;
#[cfg(test)]
mod kinds;
#[cfg(test)]
mod repair;
#[cfg(test)]
mod replay;
#[cfg(test)]
mod sample;
#[cfg(test)]
#[path = "../small/mod.rs"]
mod small;
