//! How much log the jobs of a file may write: what a scratch device has to be made for.

use super::job::{Job, JobFile};
use super::profile::Profile;
use crate::types::{Durability, ObjectKind};
use std::time::Duration;

/// What a record takes beside its key and value, rounded up.
const RECORD_OVERHEAD_BYTES: u64 = 40;
/// What a frame takes beside its records: its header, and the rest of its last block.
const FRAME_OVERHEAD_BYTES: u64 = 96 + 4_096;
/// What a job that nothing but time ends is taken to write: more than small durable writes reach on most drives.
const BYTES_PER_SECOND: u64 = 512 << 20;

impl JobFile {
    /// Bytes of log that the jobs may write: of a job that a count ends, or that a rate holds, what follows from that;
    /// of one that only time ends, an assumption. `frames_at_once` is how many frames the appliance has under way at
    /// once: strict writes beyond that share one.
    #[must_use]
    pub fn log_bytes(&self, frames_at_once: u64) -> u64 {
        let logged = self.jobs.iter().filter(|job| self.is_logged(job));
        logged.map(|job| job.log_bytes(frames_at_once)).fold(0, u64::saturating_add)
    }

    /// A write of durability `memory` is not logged in an object that was made with it.
    fn is_logged(&self, job: &Job) -> bool {
        let mut same_target = self.jobs.iter().filter(|other| other.target == job.target);
        !same_target.all(|other| other.durability == Some(Durability::Memory))
    }
}

impl Job {
    fn log_bytes(&self, frames_at_once: u64) -> u64 {
        let filled = if self.reads() { self.filled_max().saturating_mul(batched(self.record_bytes())) } else { 0 };
        if !self.writes() {
            return filled;
        }
        let of_time = |time: Duration| milliseconds(time).saturating_mul(BYTES_PER_SECOND / 1_000);
        let of_count = self.writes_max().map(|writes| writes.saturating_mul(self.write_bytes(frames_at_once)));
        let of_runtime = self.runtime.map(of_time);
        let measured = [of_count, of_runtime].into_iter().flatten().min().unwrap_or(0);
        // A count says nothing of the ramp, a rate does.
        let ramp = if self.rate_iops.is_none() { of_time(self.ramp_time) } else { 0 };
        filled.saturating_add(measured).saturating_add(ramp)
    }

    /// Writes of all threads, where a count or a rate bounds them.
    fn writes_max(&self) -> Option<u64> {
        let counted = self.operations_max.filter(|_| !self.time_based);
        let scheduled = self
            .rate_iops
            .zip(self.runtime)
            .map(|(rate, runtime)| milliseconds(runtime + self.ramp_time).saturating_mul(u64::from(rate)) / 1_000 + 1);
        let operations = [counted, scheduled].into_iter().flatten().min()?;
        Some(operations.saturating_mul(u64::from(self.numjobs)).saturating_mul(self.writes_percent()) / 100)
    }

    /// Writes of a hundred operations. A commit over several shards writes its rows twice, and each may need its own frame.
    fn writes_percent(&self) -> u64 {
        let rows = |profile: &Profile| u64::from(profile.percent) * u64::from(profile.writes());
        match self.transactions.as_slice() {
            [] => u64::from(100 - self.read_percent),
            profiles => profiles.iter().map(|profile| 2 * rows(profile)).sum(),
        }
    }

    /// Keys or events that may have to be written before a job can read.
    fn filled_max(&self) -> u64 {
        match self.target.kind {
            ObjectKind::Space | ObjectKind::Pages => self.keys,
            ObjectKind::Stream => self.operations_max.unwrap_or(0),
        }
    }

    fn record_bytes(&self) -> u64 {
        RECORD_OVERHEAD_BYTES + self.key_bytes as u64 + self.sizes.bytes_mean()
    }

    /// What one write takes of the log. Only a job that has more in flight than frames are under way shares frames.
    fn write_bytes(&self, frames_at_once: u64) -> u64 {
        let strict = self.durability.unwrap_or(Durability::Strict) == Durability::Strict;
        let slow = self.rate_iops.is_some() || !self.thinktime.is_zero();
        let in_flight = u64::from(self.iodepth) * u64::from(self.numjobs);
        match (strict, slow || self.sync_every.is_some()) {
            (_, true) => self.record_bytes() + FRAME_OVERHEAD_BYTES,
            (true, false) => self.record_bytes() + FRAME_OVERHEAD_BYTES / (in_flight / frames_at_once.max(1)).max(1),
            (false, false) => batched(self.record_bytes()),
        }
    }
}

/// What a record takes in frames that wait until they are full or their window is over.
fn batched(record_bytes: u64) -> u64 {
    record_bytes + record_bytes / 4
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use crate::load::parse;

    const MIB: u64 = 1 << 20;

    fn log_mib(text: &str) -> u64 {
        parse(text, "t").expect("the job is right").log_bytes(16) / MIB
    }

    #[test]
    fn a_count_a_rate_and_a_time_bound_what_is_written() {
        let strict = "[a]\nrw=randwrite\nvalue_size=128\nnumber_ios=1m\n";
        assert_eq!(log_mib(strict), 4_376, "a lone strict write takes a block of its own");
        assert_eq!(log_mib(&format!("{strict}iodepth=64\n")), 1_232, "four share one");
        assert_eq!(log_mib(&format!("{strict}numjobs=2\n")), 2 * 4_376);
        assert_eq!(log_mib(&format!("{strict}durability=buffered\n")), 230);
        assert_eq!(log_mib(&format!("{strict}durability=memory\n")), 0);
        assert_eq!(log_mib(&format!("{strict}runtime=2\n")), 1_023, "the time ends it first");
        assert_eq!(log_mib(&format!("{strict}runtime=2\ntime_based\nramp_time=1\n")), 1_535);
        let rate = "[a]\nrw=randrw\nrwmixread=90\nkeys=1k\nvalue_size=4k\nrate_iops=1000\nruntime=10\ntime_based\n";
        assert_eq!(log_mib(rate), 13, "a thousand writes, and the keys to read");
        assert_eq!(log_mib("[a]\nrw=read\nstream=s\nbs=1m\nsize=8m\n"), 10);
    }

    #[test]
    fn a_memory_write_is_logged_beside_others() {
        let beside = "[global]\nspace=s\nrw=randwrite\nnumber_ios=1m\nvalue_size=128\n\
                      [a]\ndurability=memory\n[b]\ndurability=buffered\n";
        assert_eq!(log_mib(beside), 2 * 230);
    }

    #[test]
    fn every_job_file_that_comes_along_fits_a_few_gigabytes() {
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/configs/load")).unwrap() {
            let path = entry.unwrap().path();
            let file = parse(&std::fs::read_to_string(&path).unwrap(), "t").unwrap();
            assert!(file.log_bytes(16) < 2_500 * MIB, "{}: {} MiB", path.display(), file.log_bytes(16) / MIB);
            for job in file.jobs.iter().filter(|job| job.writes() && file.is_logged(job)) {
                assert!(job.writes_max().is_some(), "{}: only time ends [{}]", path.display(), job.name);
            }
        }
    }
}
