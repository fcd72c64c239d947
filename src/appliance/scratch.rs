//! How large the temporary device of an embedded appliance is made.

use std::path::Path;

use rustix::fs::statvfs;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::wal::layout::Layout;

/// Space is given out in segments. Small ones leave little unused in each shard when all are taken.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Zeroing more would take longer than most jobs.
const LOG_BYTES_MAX: u64 = 8 << 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scratch {
    pub capacity_bytes: u64,
    pub segment_bytes: u64,
}

impl Scratch {
    /// A device with room for `log_bytes` of log, but for at most three quarters of what is free in `directory`;
    /// `format.capacity` comes first.
    ///
    /// # Errors
    /// When not even the smallest one has room there.
    pub fn plan(config: &Config, log_bytes: u64, directory: &Path) -> Result<Scratch> {
        let segment_bytes = segment_bytes(config);
        if let Some(capacity) = config.format.capacity {
            return Ok(Scratch { capacity_bytes: capacity.0, segment_bytes });
        }
        let space = statvfs(directory).map_err(|errno| {
            Error::new(format!("{}: {}", directory.display(), std::io::Error::from(errno)))
                .remedy("set TMPDIR to a directory on a disk")
        })?;
        let room_bytes = space.f_bavail.saturating_mul(space.f_frsize) / 4 * 3;
        let least = capacity_bytes(config.format.shards, segment_bytes, 0);
        if room_bytes < least {
            return Err(Error::new(format!(
                "{}: a temporary device needs at least {} MiB, and three quarters of what is free are {} MiB",
                directory.display(),
                least >> 20,
                room_bytes >> 20
            ))
            .remedy("make room, set TMPDIR, or run on a device of your own with --device"));
        }
        let wanted = capacity_bytes(config.format.shards, segment_bytes, log_bytes.min(LOG_BYTES_MAX));
        Ok(Scratch { capacity_bytes: wanted.min(room_bytes), segment_bytes })
    }
}

/// At most what the configuration says, and enough for a record of the largest value.
fn segment_bytes(config: &Config) -> u64 {
    let suiting = SEGMENT_BYTES.max(config.segment_bytes_min());
    config.format.segment_bytes.map_or(suiting, |bytes| bytes.0.min(suiting))
}

/// Every shard holds one segment that it writes in, one that is prepared and one that is kept for deletes. The ends of
/// segments that a frame did not fit are a small share more.
fn capacity_bytes(shards: u32, segment_bytes: u64, log_bytes: u64) -> u64 {
    let segments = (log_bytes + log_bytes / 32).div_ceil(segment_bytes);
    Layout::device_bytes_min(segment_bytes, shards) + segments * segment_bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ByteSize;

    #[test]
    fn segments_are_small_and_hold_the_largest_value() {
        let mut config = Config::default();
        assert_eq!(segment_bytes(&config), SEGMENT_BYTES);
        config.format.segment_bytes = Some(ByteSize::mib(4));
        assert_eq!(segment_bytes(&config), 4 << 20, "the configuration may want smaller ones");
        config.format.segment_bytes = Some(ByteSize::mib(64));
        config.wal.frame_bytes_max = ByteSize::mib(16);
        assert!(segment_bytes(&config) >= 2 * config.wal.frame_bytes_max.0);
        config.wal.frame_bytes_max = ByteSize::mib(1);
        config.limits.value_bytes_max = ByteSize::mib(16);
        assert_eq!(config.segment_too_small(segment_bytes(&config)), None);
    }

    #[test]
    fn a_plan_follows_the_job_and_the_disk() {
        let mut config = Config::default();
        let here = std::env::temp_dir();
        let small = Scratch::plan(&config, 0, &here).unwrap();
        assert_eq!(small.capacity_bytes, (512 << 10) + 3 * 4 * SEGMENT_BYTES);
        let large = Scratch::plan(&config, 100 << 20, &here).unwrap();
        assert_eq!(large.capacity_bytes, small.capacity_bytes + 7 * SEGMENT_BYTES);
        let endless = Scratch::plan(&config, u64::MAX, &here).unwrap();
        assert!(endless.capacity_bytes <= LOG_BYTES_MAX / 32 * 33 + small.capacity_bytes + SEGMENT_BYTES);
        config.format.capacity = Some(ByteSize::mib(300));
        assert_eq!(Scratch::plan(&config, 100 << 20, &here).unwrap().capacity_bytes, 300 << 20);
        let nowhere = Scratch::plan(&Config::default(), 0, Path::new("/nonexistent")).unwrap_err().to_string();
        assert!(nowhere.contains("/nonexistent") && nowhere.contains("TMPDIR"), "{nowhere}");
    }
}
