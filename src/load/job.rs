//! One job: what a section of a job file asks for, checked and complete.

use super::operation::Kind;
use super::profile::{Profile, Table};
use crate::ring::protocol::commit;
use crate::types::{Compression, Durability, ObjectKind};
use std::time::Duration;

/// What a job drives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub kind: ObjectKind,
    pub name: String,
}

/// In which order a job visits its keys. A stream knows only `Sequential`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Order {
    /// Ascending, and from the start again.
    Sequential,
    /// Every key once in a random order, then again in another one: fio's `random` with its block map.
    Shuffled,
    /// Each draw independent of the others (`norandommap`).
    Uniform,
    /// Zipf with this theta; the hot keys are scattered over the key range.
    Zipf(f64),
    /// Zipf with this theta over the age of keys: the newest is the hottest.
    Latest(f64),
}

/// Sizes of values or events, with their share in percent. The shares add up to 100.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizes(pub Vec<(u32, u32)>);

impl Sizes {
    #[must_use]
    pub fn bytes_max(&self) -> u32 {
        self.0.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0)
    }

    #[must_use]
    pub fn bytes_min(&self) -> u32 {
        self.0.iter().map(|(bytes, _)| *bytes).min().unwrap_or(0)
    }

    /// The expected size.
    #[must_use]
    pub fn bytes_mean(&self) -> u64 {
        self.0.iter().map(|(bytes, percent)| u64::from(*bytes) * u64::from(*percent)).sum::<u64>() / 100
    }
}

/// A checked job. Every thread of its `numjobs` runs all of it.
#[derive(Clone, Debug)]
pub struct Job {
    pub name: String,
    pub target: Target,
    pub order: Order,
    /// Share of reads among the operations; 0 writes only, 100 reads only.
    pub read_percent: u32,
    /// Share of the writes that read the value of their key first.
    pub modify_percent: u32,
    /// Share of the writes that make a new key, the next one beyond `keys`.
    pub insert_percent: u32,
    /// Not empty: every operation is a transaction, one of these.
    pub transactions: Vec<Profile>,
    /// Their rows: the keys, in this order.
    pub tables: Vec<Table>,
    /// Reads are scans of so many pairs, from the first number to the second.
    pub scan_length: Option<(u32, u32)>,
    pub sizes: Sizes,
    pub key_bytes: usize,
    /// Keys are drawn from 0..keys. Streams ignore it.
    pub keys: u64,
    pub iodepth: u32,
    pub numjobs: u32,
    /// The job ends after so many operations, unless `time_based`.
    pub operations_max: Option<u64>,
    /// The job ends after this time.
    pub runtime: Option<Duration>,
    pub time_based: bool,
    /// Runs before the measurement; adds to `runtime`.
    pub ramp_time: Duration,
    /// Operations a second of one thread, started on schedule whether or not earlier ones have ended.
    pub rate_iops: Option<u32>,
    pub thinktime: Duration,
    /// A sync after every so many writes.
    pub sync_every: Option<u32>,
    pub verify: bool,
    /// `None`: the default of the space or stream.
    pub durability: Option<Durability>,
    /// After so long what it puts is gone; a get that finds no key reads nothing then. `None`: it stays.
    pub ttl: Option<Duration>,
    /// Of the space: it is made with this, and has to have it. `None`: whatever it has, a new one none.
    pub compression: Option<Compression>,
    /// Share of a value that compresses away.
    pub compress_percent: u32,
    pub group_reporting: bool,
    /// Jobs of one group run at the same time; `stonewall` begins a new one.
    pub group: u32,
    pub percentiles: Vec<f64>,
    pub seed: u64,
    /// The section's own options as they stand in the file, for the JSON report.
    pub options: Vec<(String, String)>,
}

impl Job {
    #[must_use]
    pub fn reads(&self) -> bool {
        self.read_percent > 0 || self.modify_percent > 0
    }

    /// Whether it has operations of this kind, or parts of them.
    #[must_use]
    pub fn has(&self, kind: Kind) -> bool {
        match kind {
            Kind::Read => self.modify_percent > 0 || (self.read_percent > 0 && self.scan_length.is_none()),
            Kind::Scan => self.scan_length.is_some(),
            Kind::Write => self.writes() && self.insert_percent < 100,
            Kind::Insert => self.insert_percent > 0,
            Kind::Modify => self.modify_percent > 0,
            Kind::Transaction => !self.transactions.is_empty(),
            Kind::Sync => self.sync_every.is_some(),
        }
    }

    #[must_use]
    pub fn writes(&self) -> bool {
        self.read_percent < 100
    }

    /// Most rows that one transaction reads; 0: none does.
    #[must_use]
    pub fn rows_read_max(&self) -> u32 {
        self.transactions.iter().map(Profile::reads).max().unwrap_or(0)
    }

    /// Of the largest commit.
    #[must_use]
    pub fn commit_bytes_max(&self) -> usize {
        let entry = |value_bytes| commit::HEADER_BYTES + self.key_bytes + value_bytes;
        let (read, write) = (entry(size_of::<u64>()), entry(self.sizes.bytes_max() as usize));
        let bytes = |profile: &Profile| profile.reads() as usize * read + profile.writes() as usize * write;
        self.transactions.iter().map(bytes).max().unwrap_or(0)
    }
}

/// A whole job file.
#[derive(Clone, Debug)]
pub struct JobFile {
    /// In the order of the file. Never empty.
    pub jobs: Vec<Job>,
    pub global_options: Vec<(String, String)>,
    /// Options of fio that have no meaning here, each with its line.
    pub warnings: Vec<String>,
}
