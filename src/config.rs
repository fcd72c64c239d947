//! The configuration: a TOML file over defaults. Every field has a default, so that an empty file is a valid one.
//!
//! Sizes are written "64MiB", durations "5ms". An unknown key is an error, and all errors of a file are named at
//! once, each with its line.

mod check;
mod file;
mod machine;
mod memory;
mod socket;
mod units;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use check::Problem;
pub use machine::{Memory, shown};
pub use memory::MemoryPart;
pub use socket::{default_for_client, default_for_daemon};
pub use units::{ByteSize, Nanos, Spin};

use crate::error::{Error, Result};
use crate::types::{DriveDurability, Durability, TierChoice};

/// All that can be configured, by section of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub device: Device,
    pub format: Format,
    pub defaults: Defaults,
    pub reactors: Reactors,
    pub wal: Wal,
    pub limits: Limits,
    pub rings: Rings,
    pub access: Access,
    pub flight: Flight,
    pub log: Log,
}

/// The drive.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Device {
    /// A file, a block device, or a controller for SPDK ("pcie:0000:00:04.0"). There is no default: a drive is always
    /// named. `--device` does it too.
    pub path: Option<PathBuf>,
    /// Take DMA memory from hugepages where there are any. Without them ordinary memory is used, with a warning.
    pub hugepages: bool,
    /// "auto", or the way to the drive that must be taken: "passthrough", "uring", "blocking".
    pub tier: TierChoice,
    /// How a write is made durable. "auto": the fastest that the drive says it honours. "flush": a write, then a flush for
    /// all writes that have ended, for drives whose FUA lies or is slow.
    pub durability: DriveDurability,
    /// Tell the drive of log space that is given up, so that it need not move it about. Only by the tiers `passthrough`
    /// and `spdk`, where the drive can be told.
    pub deallocate: bool,
    /// A device that leaves an operation unanswered for longer is given up: its shards stop writing, and writers get an
    /// error. Longer than the kernel's own time-out, after which a command fails by itself (NVMe: 30 s). 1s to 60m.
    pub timeout: Nanos,
}

/// What `format` lays down. Fixed for the life of the data.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Format {
    /// The size of a file that `format` creates; a block device is used whole. Default: as large as the file is.
    pub capacity: Option<ByteSize>,
    /// The unit in which log space is given out and taken back. 1MiB to 1GiB. Default: as suits the device, at most 64MiB.
    pub segment_bytes: Option<ByteSize>,
    /// Independent logs; the most reactors that can share the work. 1 to 1,024.
    pub shards: u32,
}

/// What holds where a client does not say.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Defaults {
    /// The durability of a space or stream that the command line or a job creates without naming one.
    #[serde(deserialize_with = "durability")]
    pub durability: Durability,
}

/// The threads that poll.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reactors {
    /// 1 to 250. Default: as many as `cores` names, else 1.
    pub count: Option<u32>,
    /// The cores to pin reactors to, one each. Empty: the system's choice of distinct cores.
    pub cores: Vec<usize>,
    /// Poll so long without work before sleeping. "0" sleeps at once, "forever" never: then a core that the reactor is pinned to is
    /// kept from halting while it waits for a file's flush, too, if this is root or `setup/host.sh config --awake` was.
    pub spin: Spin,
    /// Requests taken from one client's ring in a turn, so that no client starves the others. 1 to 65,536.
    pub turn_requests_max: u32,
}

/// The write-ahead log.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wal {
    /// What one device write carries at most. 4KiB to 16MiB, at most half a segment.
    pub frame_bytes_max: ByteSize,
    /// While so many frames of a shard are under way, one that is not full waits for more records. 1 to 256.
    pub frames_in_flight_max: u32,
    /// A start reads about so much of the log at most: when half of it is written, checkpoints begin. One takes some 50 B a
    /// key and 24 B an event, and is no more than a quarter of what is written. 16MiB to 1TiB.
    pub recovery_bytes_max: ByteSize,
    /// An idle shard notes within this time that its last frame is durable. 1ms to 1m.
    pub watermark_interval: Nanos,
    /// Buffered writes reach the drive within this time. 10us to 1m.
    pub window_interval: Nanos,
    /// Buffered writes reach the drive when so many bytes wait. 4KiB to 1GiB.
    pub window_bytes: ByteSize,
}

/// Bounds on what clients may use. Beyond them a request is refused; nothing grows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// 1B to 1KiB.
    pub key_bytes_max: ByteSize,
    /// 1B to 16MiB.
    pub value_bytes_max: ByteSize,
    /// For the keys, index and events of all shards together, and for as many values as there is room for besides: the
    /// others are on the drive. At least 2MiB a shard.
    pub memory_bytes_max: ByteSize,
    /// Keys of all spaces together.
    pub keys_max: u64,
    /// Clients connected at once. 1 to 4,096.
    pub sessions_max: u32,
    /// Reads that wait for an event, on one reactor. A client may have as many as there are places left. At most
    /// 1,048,576.
    pub waiting_reads_max: u32,
    /// Spaces and streams together. 1 to 1,048,576.
    pub objects_max: u32,
    /// Producers that each stream remembers; the one whose last append is the oldest is forgotten. 1 to 65,536.
    pub producers_max: u32,
    /// Cursors of each stream. 1 to 65,536.
    pub cursors_max: u32,
    /// Snapshots of all clients together, of which each has half at most. 0 to 1,024.
    pub snapshots_max: u32,
    /// For values that were written over or deleted and that a snapshot still sees. Beyond it the oldest snapshot is given
    /// up. It is part of `memory_bytes_max`; default: an eighth of it, at most a half.
    pub snapshot_bytes_max: Option<ByteSize>,
}

/// The shared-memory rings and the socket that hands them over.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rings {
    /// Default: /run/forebay.sock for root, $XDG_RUNTIME_DIR/forebay.sock for others.
    pub socket: Option<PathBuf>,
    /// Permission bits of the socket. Who may connect is also a matter of `[access]`.
    pub mode: u32,
    /// Entries of a submission ring where the client does not say. A power of two from 2 to 65,536.
    pub sq_entries: u32,
    /// Entries of a completion ring where the client does not say. At least `sq_entries`.
    pub cq_entries: u32,
    /// A client's memory for keys, values and replies where it does not say. Twice the largest value at least.
    pub arena_bytes: ByteSize,
    /// The largest arena that a client may ask for. 64KiB to 64GiB.
    pub arena_bytes_max: ByteSize,
}

/// Who may connect, by the credentials of the peer. The daemon's own user always may.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Access {
    /// Users that may read and write.
    pub uids: Vec<u32>,
    /// Groups that may read and write.
    pub gids: Vec<u32>,
    /// Users that may only read.
    pub read_only_uids: Vec<u32>,
}

/// The flight recorder: keeps what is acknowledged but not yet durable across a kill of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Flight {
    /// A directory in memory (tmpfs). "" for none (also `--flight-directory ""`): then buffered writes do not survive kill -9 of the daemon.
    pub directory: PathBuf,
}

/// What the daemon says on standard error.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub level: Level,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl Default for Device {
    fn default() -> Self {
        Device {
            path: None,
            hugepages: true,
            tier: TierChoice::Auto,
            durability: DriveDurability::Auto,
            deallocate: true,
            timeout: Nanos::millis(60_000),
        }
    }
}

impl Default for Format {
    fn default() -> Self {
        Format { capacity: None, segment_bytes: None, shards: 4 }
    }
}

impl Default for Defaults {
    fn default() -> Self {
        Defaults { durability: Durability::Strict }
    }
}

impl Default for Reactors {
    fn default() -> Self {
        Reactors { count: None, cores: Vec::new(), spin: Spin::For(Nanos::micros(100)), turn_requests_max: 64 }
    }
}

impl Default for Wal {
    fn default() -> Self {
        Wal {
            frame_bytes_max: ByteSize::kib(256),
            frames_in_flight_max: 4,
            recovery_bytes_max: ByteSize::mib(4096),
            watermark_interval: Nanos::millis(100),
            window_interval: Nanos::millis(5),
            window_bytes: ByteSize::mib(1),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            key_bytes_max: ByteSize::kib(1),
            value_bytes_max: ByteSize::mib(1),
            memory_bytes_max: ByteSize::gib(1),
            keys_max: 4_000_000,
            sessions_max: 64,
            waiting_reads_max: 1_024,
            objects_max: 1_024,
            producers_max: 1_024,
            cursors_max: 1_024,
            snapshots_max: 16,
            snapshot_bytes_max: None,
        }
    }
}

impl Default for Rings {
    fn default() -> Self {
        Rings {
            socket: None,
            mode: 0o600,
            sq_entries: 256,
            cq_entries: 1_024,
            arena_bytes: ByteSize::mib(64),
            arena_bytes_max: ByteSize::mib(256),
        }
    }
}

impl Default for Flight {
    fn default() -> Self {
        Flight { directory: PathBuf::from("/dev/shm") }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log { level: Level::Info }
    }
}

impl Level {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Level::Error => "error",
            Level::Warn => "warn",
            Level::Info => "info",
            Level::Debug => "debug",
            Level::Trace => "trace",
        }
    }
}

impl Reactors {
    /// How many reactors there are: what is named, else one a core that is named, else one.
    #[must_use]
    pub fn count(&self) -> u32 {
        let cores = u32::try_from(self.cores.len()).unwrap_or(u32::MAX);
        self.count.unwrap_or(cores.max(1))
    }
}

impl Config {
    /// Reads a file. Blocks on it.
    ///
    /// # Errors
    /// The file cannot be read, or what is in it: then every error is named, a line each, as "file:line: message".
    pub fn load(path: &Path) -> Result<Config> {
        let text = fs::read_to_string(path).map_err(|error| {
            Error::from(error)
                .context(format_args!("read {}", path.display()))
                .remedy("name a readable file with --config")
        })?;
        Config::parse(&text, path)
    }

    /// Parses the text of a file; `path` stands in the messages.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(text: &str, path: &Path) -> Result<Config> {
        file::parse(text).map_err(|places| {
            let mut message = String::new();
            if places.len() > 1 {
                write!(message, "{}: {} errors", path.display(), places.len()).expect("a string takes all text");
            }
            for place in places {
                let separator = if message.is_empty() { "" } else { "\n" };
                let line = place.line.map(|line| format!(":{line}")).unwrap_or_default();
                write!(message, "{separator}{}{line}: {}", path.display(), place.message)
                    .expect("a string takes all text");
            }
            Error::new(message)
        })
    }

    /// Checks the bounds of every field, as `load` does; for a configuration that was changed after it was loaded.
    ///
    /// # Errors
    /// Names everything that is out of bounds.
    pub fn check(&self) -> Result<()> {
        let problems: Vec<String> = self.problems().iter().map(|p| format!("{} {}", p.key, p.message)).collect();
        if problems.is_empty() { Ok(()) } else { Err(Error::new(problems.join("\n"))) }
    }

    /// Whether there is a flight recorder.
    #[must_use]
    pub fn flight_recorder(&self) -> bool {
        !self.flight.directory.as_os_str().is_empty()
    }

    /// What a person should know before the daemon starts: choices that weaken a promise or cost speed.
    #[must_use]
    pub fn warnings(&self) -> Vec<&'static str> {
        let mut warnings = Vec::new();
        if !self.flight_recorder() {
            warnings.push("flight.directory is empty: buffered writes do not survive kill -9 of the daemon");
        }
        if self.device.tier == TierChoice::Blocking {
            warnings.push("device.tier is \"blocking\": every device write blocks its reactor");
        }
        warnings
    }
}

fn durability<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Durability, D::Error> {
    units::from_text(deserializer, "a durability in quotes: \"memory\", \"buffered\" or \"strict\"")
}

#[cfg(test)]
mod tests;
