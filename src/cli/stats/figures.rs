//! What follows from the counters: of all reactors together, since the daemon started or since they were last read.

use forebay::ring::protocol::stats::{self, FRAME_CLASSES, FRAMES_OF_RECORDS, NAMES};
use serde_json::{Value, json};

/// The counters of all reactors, added up.
#[derive(Clone, Debug)]
pub struct Sum {
    words: Vec<u64>,
}

/// `part` of `whole`, in percent. `None`: there is nothing that it could be a part of.
fn percent(part: u64, whole: u64) -> Option<f64> {
    ratio(part, whole).map(|ratio| ratio * 100.0)
}

#[expect(clippy::cast_precision_loss, reason = "told with two digits")]
fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// With two digits, or that it is not known yet.
fn shown(figure: Option<f64>, unit: &str) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.2}{unit}"))
}

impl Sum {
    pub fn of(reactors: &[Vec<u64>]) -> Sum {
        let sum = |at: usize| {
            reactors.iter().filter_map(|words| words.get(at)).fold(0, |sum: u64, word| sum.wrapping_add(*word))
        };
        Sum { words: (0..NAMES.len()).map(sum).collect() }
    }

    /// What was counted since then.
    pub fn since(&self, before: &Sum) -> Sum {
        Sum { words: self.words.iter().zip(&before.words).map(|(now, before)| now.saturating_sub(*before)).collect() }
    }

    pub fn get(&self, at: usize) -> u64 {
        self.words[at]
    }

    /// Bytes written to the drive for each byte of keys, values and events.
    pub fn write_amplification(&self) -> Option<f64> {
        ratio(self.get(stats::DEVICE_WRITE_BYTES), self.get(stats::TAKEN_BYTES))
    }

    /// Of all that is written to the log, what reclaim wrote again.
    pub fn copied_percent(&self) -> Option<f64> {
        percent(self.get(stats::COPIED_BYTES), self.get(stats::RECORD_BYTES))
    }

    /// Records that share a frame, and so its write and its flush: the size of a group commit.
    pub fn records_per_frame(&self) -> Option<f64> {
        ratio(self.get(stats::RECORDS), self.frames_by_records().iter().sum())
    }

    pub fn frames_by_records(&self) -> &[u64] {
        &self.words[FRAMES_OF_RECORDS..FRAMES_OF_RECORDS + FRAME_CLASSES]
    }

    /// Gets that did not wait for the drive.
    pub fn cache_hit_percent(&self) -> Option<f64> {
        let gets = self.get(stats::GETS);
        percent(gets.saturating_sub(self.get(stats::GETS_FETCHED)), gets)
    }

    /// Of all commits that were tried, those that met a conflict.
    pub fn conflict_percent(&self) -> Option<f64> {
        let conflicts = self.get(stats::CONFLICTS);
        percent(conflicts, conflicts + self.get(stats::COMMITS))
    }

    /// Name and value, with their units. `records_max`: of the fullest frame.
    pub fn lines(&self, records_max: u64) -> Vec<(&'static str, String)> {
        let mib = |at: usize| self.get(at) >> 20;
        let frames: u64 = self.frames_by_records().iter().sum();
        let shares = self.frames_by_records().iter().enumerate().filter(|(_, count)| **count > 0);
        let shares: Vec<String> = shares
            .map(|(class, count)| format!("{} {:.1} %", class_name(class), percent(*count, frames).unwrap_or(0.0)))
            .collect();
        vec![
            (
                "write amplification",
                format!(
                    "{} ({} MiB to the drive, {} MiB from clients)",
                    shown(self.write_amplification(), ""),
                    mib(stats::DEVICE_WRITE_BYTES),
                    mib(stats::TAKEN_BYTES)
                ),
            ),
            (
                "reclaim",
                format!(
                    "{} segments given up, {} MiB copied ({} of the log)",
                    self.get(stats::SEGMENTS_RECLAIMED),
                    mib(stats::COPIED_BYTES),
                    shown(self.copied_percent(), " %")
                ),
            ),
            ("checkpoints", format!("{}, {} MiB", self.get(stats::CHECKPOINTS), mib(stats::CHECKPOINT_BYTES))),
            ("group commit", format!("{} records a frame, most {records_max}", shown(self.records_per_frame(), ""))),
            ("frames by records", if shares.is_empty() { "-".to_owned() } else { shares.join(", ") }),
            ("cache hits", format!("{} of {} gets", shown(self.cache_hit_percent(), " %"), self.get(stats::GETS))),
            (
                "conflicts",
                format!(
                    "{} of {} commits",
                    shown(self.conflict_percent(), " %"),
                    self.get(stats::COMMITS) + self.get(stats::CONFLICTS)
                ),
            ),
            (
                "snapshots",
                format!(
                    "{}, the oldest {} s old, {} MiB for them alone; shards gave up {}",
                    self.get(stats::SNAPSHOTS),
                    self.get(stats::SNAPSHOT_OLDEST_NS) / 1_000_000_000,
                    mib(stats::SNAPSHOT_BYTES),
                    self.get(stats::SNAPSHOTS_GIVEN_UP)
                ),
            ),
            (
                "coalesced pages",
                format!(
                    "{} of {} written ({} MiB spared)",
                    self.get(stats::COALESCED_WRITES),
                    self.get(stats::PAGES_WRITTEN),
                    mib(stats::COALESCED_BYTES)
                ),
            ),
            ("requests now", format!("{}/s", self.get(stats::REQUESTS_PER_SECOND))),
            ("device operations now", format!("{}/s", self.get(stats::DEVICE_OPERATIONS_PER_SECOND))),
        ]
    }

    pub fn json(&self, records_max: u64) -> Value {
        json!({
            "write_amplification": self.write_amplification(),
            "device_write_bytes": self.get(stats::DEVICE_WRITE_BYTES),
            "taken_bytes": self.get(stats::TAKEN_BYTES),
            "segments_reclaimed": self.get(stats::SEGMENTS_RECLAIMED),
            "copied_bytes": self.get(stats::COPIED_BYTES),
            "copied_percent": self.copied_percent(),
            "checkpoints": self.get(stats::CHECKPOINTS),
            "checkpoint_bytes": self.get(stats::CHECKPOINT_BYTES),
            "records_per_frame": self.records_per_frame(),
            "frame_records_max": records_max,
            "frames_by_records": self.frames_by_records(),
            "cache_hit_percent": self.cache_hit_percent(),
            "conflict_percent": self.conflict_percent(),
            "snapshots": self.get(stats::SNAPSHOTS),
            "snapshot_oldest_ns": self.get(stats::SNAPSHOT_OLDEST_NS),
            "snapshot_versions": self.get(stats::SNAPSHOT_VERSIONS),
            "snapshot_bytes": self.get(stats::SNAPSHOT_BYTES),
            "snapshots_given_up": self.get(stats::SNAPSHOTS_GIVEN_UP),
            "pages_written": self.get(stats::PAGES_WRITTEN),
            "pages_read": self.get(stats::PAGES_READ),
            "coalesced_writes": self.get(stats::COALESCED_WRITES),
            "coalesced_bytes": self.get(stats::COALESCED_BYTES),
            "requests_per_second": self.get(stats::REQUESTS_PER_SECOND),
            "device_operations_per_second": self.get(stats::DEVICE_OPERATIONS_PER_SECOND),
        })
    }
}

/// "1", "2-3", "4-7", and so on, and "64+".
fn class_name(class: usize) -> String {
    match class {
        0 => "1:".to_owned(),
        class if class + 1 == FRAME_CLASSES => format!("{}+:", 1 << class),
        class => format!("{}-{}:", 1 << class, (2 << class) - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_follow_from_the_counters_of_all_reactors() {
        let mut reactors = vec![vec![0; NAMES.len()]; 2];
        assert!(Sum::of(&reactors).write_amplification().is_none() && Sum::of(&reactors).cache_hit_percent().is_none());
        for (at, words) in [
            (stats::DEVICE_WRITE_BYTES, [3 << 20, 2 << 20]),
            (stats::TAKEN_BYTES, [2 << 20, 0]),
            (stats::RECORDS, [10, 20]),
            (FRAMES_OF_RECORDS, [1, 1]),
            (FRAMES_OF_RECORDS + 6, [0, 8]),
            (stats::GETS, [100, 100]),
            (stats::GETS_FETCHED, [50, 0]),
            (stats::COMMITS, [9, 0]),
            (stats::CONFLICTS, [1, 0]),
        ] {
            (reactors[0][at], reactors[1][at]) = words.into();
        }
        let sum = Sum::of(&reactors);
        assert_eq!((sum.write_amplification(), sum.records_per_frame()), (Some(2.5), Some(3.0)));
        assert_eq!((sum.cache_hit_percent(), sum.conflict_percent()), (Some(75.0), Some(10.0)));
        let lines = sum.lines(99);
        assert!(lines[0].1.starts_with("2.50 (5 MiB to the drive, 2 MiB from clients"), "{lines:?}");
        assert_eq!(lines[4], ("frames by records", "1: 20.0 %, 64+: 80.0 %".to_owned()));
        let later = Sum::of(&[vec![1_000; NAMES.len()]]).since(&Sum::of(&[vec![400; NAMES.len()]]));
        assert_eq!(later.get(stats::REQUESTS), 600);
        // An older daemon knows fewer words.
        assert_eq!(Sum::of(&[vec![7; 3]]).get(stats::TAKEN_BYTES), 0);
    }
}
