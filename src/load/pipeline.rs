//! Many requests, some of them in flight: for what is done before and after the measurement.

use crate::error::{Error, Result};
use crate::ring::client::{Answer, Client, ConnectOptions, SubmitError};

/// In flight at once. Enough to share frames, not enough to matter to memory.
pub const DEPTH: u32 = 64;

/// An arena larger than this has room for few requests rather than for all: large values need no depth.
const ARENA_BYTES_MAX: u64 = 64 << 20;

/// Room for `depth` requests of each of these sizes, keys included, in flight at the same time.
#[must_use]
pub fn connect_options(depth: u32, sizes: impl Iterator<Item = usize>) -> ConnectOptions {
    // The client deals out powers of two, and keeps those of one size apart from those of another.
    let blocks: Vec<u64> = sizes.map(|bytes| (bytes as u64 + 64).next_power_of_two()).collect();
    let largest = blocks.iter().max().copied().unwrap_or(0);
    let wanted = blocks.iter().map(|block| block * u64::from(depth)).sum::<u64>().next_power_of_two();
    let arena_bytes = wanted.min(ARENA_BYTES_MAX.max(largest)).max(1 << 20);
    let entries = depth.next_power_of_two().max(64);
    ConnectOptions { sq_entries: entries, cq_entries: entries, arena_bytes, ..ConnectOptions::default() }
}

/// Submits requests 0..count, several in flight, and hands each answer to `done` with its number.
///
/// # Errors
/// What `submit` or `done` returned, or a connection that broke.
pub fn pipeline(
    client: &mut Client,
    count: u64,
    mut submit: impl FnMut(&mut Client, u64) -> Result<(), SubmitError>,
    mut done: impl FnMut(&Answer, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut reply = Vec::new();
    let (mut next, mut ended) = (0, 0);
    while ended < count {
        let mut full = next - ended >= u64::from(DEPTH);
        while next < count && !full {
            match submit(client, next) {
                Ok(()) => next += 1,
                Err(SubmitError::Full) if next == ended => {
                    return Err(Error::new("the ring is full, although nothing is in flight"));
                }
                Err(SubmitError::Full) => break,
                Err(SubmitError::Client(error)) => return Err(error.into()),
            }
            full = next - ended >= u64::from(DEPTH);
        }
        let answer = client.wait(&mut reply)?;
        done(&answer, &reply)?;
        ended += 1;
    }
    Ok(())
}
