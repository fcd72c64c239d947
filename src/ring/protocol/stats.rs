//! The u64 words of a `Stats` reply, in order. New words are appended; none ever changes its meaning.

pub const TURNS: usize = 0;
pub const REQUESTS: usize = 1;
pub const WRITES: usize = 2;
pub const READS: usize = 3;
pub const BACK_PRESSURE: usize = 4;
pub const SESSIONS: usize = 5;
pub const WAITING_READS: usize = 6;
pub const SHARDS: usize = 7;
pub const SHARDS_FENCED: usize = 8;
pub const RECORDS: usize = 9;
pub const RECORD_BYTES: usize = 10;
pub const FRAMES: usize = 11;
pub const FRAME_BYTES: usize = 12;
pub const WATERMARKS: usize = 13;
pub const SEGMENTS_FREE: usize = 14;
pub const KEYS: usize = 15;
pub const EVENTS: usize = 16;
pub const MEMORY_BYTES: usize = 17;
pub const BUFFERS_FREE: usize = 18;
pub const SLEEPS: usize = 19;
pub const SEGMENTS_RECLAIMED: usize = 20;
pub const COPIED_BYTES: usize = 21;
pub const LIVE_BYTES: usize = 22;
/// `DRIVE_ALL_KNOWN`: the words below are what the drive said within the last 20 s. `DRIVE_TEMPERATURE_KNOWN`: only the
/// temperature and its warning are. 0: none is. The same from each reactor.
pub const DRIVE_HEALTH_KNOWN: usize = 23;
pub const DRIVE_ALL_KNOWN: u64 = 1;
pub const DRIVE_TEMPERATURE_KNOWN: u64 = 2;
/// Bit by bit as byte 0 of the NVMe SMART log.
pub const DRIVE_CRITICAL_WARNING: usize = 24;
pub const DRIVE_TEMPERATURE_KELVIN: usize = 25;
pub const DRIVE_SPARE_PERCENT: usize = 26;
pub const DRIVE_USED_PERCENT: usize = 27;
pub const DRIVE_MEDIA_ERRORS: usize = 28;
/// Reads that waited for a value from the drive.
pub const FETCHES: usize = 29;
/// Values that scans had read before they were asked for.
pub const FETCHES_AHEAD: usize = 30;
pub const FETCHED_BYTES: usize = 31;
/// Values that the drive did not give back as they were written.
pub const FETCHES_FAILED: usize = 32;
/// Memory of values that are on the drive too.
pub const CACHE_BYTES: usize = 33;
/// What the drive was told that it carries nothing any more, and how often it refused to be told.
pub const DEALLOCATED_BYTES: usize = 34;
pub const DEALLOCATE_FAILURES: usize = 35;
/// How long the oldest operation has been with the device; 0: none is.
pub const DEVICE_OLDEST_NS: usize = 36;
/// How often one had been there for 5 s.
pub const DEVICE_STALLS: usize = 37;
/// Transactions that were committed, and commits that met a conflict.
pub const COMMITS: usize = 38;
pub const CONFLICTS: usize = 39;
/// Keys with a time to live, and those whose time was over since the start.
pub const KEYS_TIMED: usize = 40;
pub const KEYS_EXPIRED: usize = 41;
/// Of keys, values and events in writes that were done.
pub const TAKEN_BYTES: usize = 42;
/// What the device was given: log written, values and old segments read back.
pub const DEVICE_READS: usize = 43;
pub const DEVICE_READ_BYTES: usize = 44;
pub const DEVICE_WRITES: usize = 45;
pub const DEVICE_WRITE_BYTES: usize = 46;
/// Gets that were answered, and those of them that waited for the drive.
pub const GETS: usize = 47;
pub const GETS_FETCHED: usize = 48;
/// In the last second, and in the second with the most.
pub const REQUESTS_PER_SECOND: usize = 49;
pub const REQUESTS_PER_SECOND_MAX: usize = 50;
pub const DEVICE_OPERATIONS_PER_SECOND: usize = 51;
pub const DEVICE_OPERATIONS_PER_SECOND_MAX: usize = 52;
/// Frames by the records that they carry, which is how many writes shared one commit: from here on 1, 2 to 3, 4 to 7, and
/// so on to 64 and more.
pub const FRAMES_OF_RECORDS: usize = 53;
pub const FRAME_CLASSES: usize = 7;
pub const FRAME_RECORDS_MAX: usize = 60;
/// Checkpoints that were ended, and what they take of `RECORD_BYTES`.
pub const CHECKPOINTS: usize = 61;
pub const CHECKPOINT_BYTES: usize = 62;
/// Snapshots of all clients, and how long the oldest has been there; of reactor 0.
pub const SNAPSHOTS: usize = 63;
pub const SNAPSHOT_OLDEST_NS: usize = 64;
/// Versions of keys that only snapshots see, and the memory that they take.
pub const SNAPSHOT_VERSIONS: usize = 65;
pub const SNAPSHOT_BYTES: usize = 66;
/// How often a shard gave a snapshot up, for want of memory.
pub const SNAPSHOTS_GIVEN_UP: usize = 67;
/// Events that retention trimmed.
pub const EVENTS_RETIRED: usize = 68;
/// Pages that were written over while their frame was open: writes that the drive was spared, and the bytes of their
/// records.
pub const COALESCED_WRITES: usize = 69;
pub const COALESCED_BYTES: usize = 70;
/// Pages in requests that were done, those that were not there included.
pub const PAGES_WRITTEN: usize = 71;
pub const PAGES_READ: usize = 72;
/// The words that tell of the drive, and not of a reactor.
pub const DRIVE: [usize; 6] = [
    DRIVE_HEALTH_KNOWN,
    DRIVE_CRITICAL_WARNING,
    DRIVE_TEMPERATURE_KELVIN,
    DRIVE_SPARE_PERCENT,
    DRIVE_USED_PERCENT,
    DRIVE_MEDIA_ERRORS,
];

/// Name and unit of every word.
pub const NAMES: [&str; 73] = [
    "turns",
    "requests",
    "writes",
    "reads",
    "back_pressure",
    "sessions",
    "waiting_reads",
    "shards",
    "shards_fenced",
    "records",
    "record_bytes",
    "frames",
    "frame_bytes",
    "watermarks",
    "segments_free",
    "keys",
    "events",
    "memory_bytes",
    "buffers_free",
    "sleeps",
    "segments_reclaimed",
    "copied_bytes",
    "live_bytes",
    "drive_health_known",
    "drive_critical_warning",
    "drive_temperature_kelvin",
    "drive_spare_percent",
    "drive_used_percent",
    "drive_media_errors",
    "fetches",
    "fetches_ahead",
    "fetched_bytes",
    "fetches_failed",
    "cache_bytes",
    "deallocated_bytes",
    "deallocate_failures",
    "device_oldest_ns",
    "device_stalls",
    "commits",
    "conflicts",
    "keys_timed",
    "keys_expired",
    "taken_bytes",
    "device_reads",
    "device_read_bytes",
    "device_writes",
    "device_write_bytes",
    "gets",
    "gets_fetched",
    "requests_per_second",
    "requests_per_second_max",
    "device_operations_per_second",
    "device_operations_per_second_max",
    "frames_of_1_record",
    "frames_of_2_records",
    "frames_of_4_records",
    "frames_of_8_records",
    "frames_of_16_records",
    "frames_of_32_records",
    "frames_of_64_records",
    "frame_records_max",
    "checkpoints",
    "checkpoint_bytes",
    "snapshots",
    "snapshot_oldest_ns",
    "snapshot_versions",
    "snapshot_bytes",
    "snapshots_given_up",
    "events_retired",
    "coalesced_writes",
    "coalesced_bytes",
    "pages_written",
    "pages_read",
];

/// What a `Stats` request asks for, in its arg0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum About {
    /// The words above.
    Reactor = 0,
    /// A row of `SHARD_NAMES` for each shard of the reactor.
    Shards = 1,
    /// A row of `OBJECT_NAMES` for each space and stream whose number is above arg1, as far as there is room: what the
    /// shards of the reactor have of it.
    Objects = 2,
}

impl About {
    #[must_use]
    pub fn from_wire(word: u64) -> Option<About> {
        [About::Reactor, About::Shards, About::Objects].into_iter().find(|about| *about as u64 == word)
    }
}

pub const SHARD: usize = 0;
pub const SHARD_KEYS: usize = 1;
pub const SHARD_EVENTS: usize = 2;
pub const SHARD_LIVE_BYTES: usize = 3;
pub const SHARD_MEMORY_BYTES: usize = 4;
/// Log space that it holds, and that all shards share.
pub const SHARD_LOG_BYTES: usize = 5;
pub const SHARD_LOG_BYTES_ALL: usize = 6;
pub const SHARD_LAST_LSN: usize = 7;
/// The lag behind the last one is what waits for the drive, in records.
pub const SHARD_DURABLE_LSN: usize = 8;
pub const SHARD_FENCED: usize = 9;
/// What a start would read of the log, about.
pub const SHARD_RECOVERY_BYTES: usize = 10;
/// Since the last checkpoint ended, or since the start.
pub const SHARD_CHECKPOINT_AGE_MS: usize = 11;

pub const SHARD_NAMES: [&str; 12] = [
    "shard",
    "keys",
    "events",
    "live_bytes",
    "memory_bytes",
    "log_bytes",
    "log_bytes_all",
    "last_lsn",
    "durable_lsn",
    "fenced",
    "recovery_bytes",
    "checkpoint_age_ms",
];

pub const OBJECT: usize = 0;
pub const OBJECT_KEYS: usize = 1;
pub const OBJECT_EVENTS: usize = 2;
pub const OBJECT_LIVE_BYTES: usize = 3;
/// Of a stream: how many events were ever appended to it, so how long its chain is, if it has one.
pub const OBJECT_NEXT_OFFSET: usize = 4;
/// 1: its events are linked by hashes.
pub const OBJECT_CHAINED: usize = 5;
/// Of a stream: its retention, 0 for no bound, and what that trimmed since the start.
pub const OBJECT_RETAIN_BYTES: usize = 6;
pub const OBJECT_RETAIN_AGE_MS: usize = 7;
pub const OBJECT_RETIRED: usize = 8;
/// Requests on it that were answered, since the start, and the entries of commits that were done.
pub const OBJECT_READS: usize = 9;
pub const OBJECT_WRITES: usize = 10;
/// Both in the last second, and in the second with the most.
pub const OBJECT_REQUESTS_PER_SECOND: usize = 11;
pub const OBJECT_REQUESTS_PER_SECOND_MAX: usize = 12;

pub const OBJECT_NAMES: [&str; 13] = [
    "object",
    "keys",
    "events",
    "live_bytes",
    "next_offset",
    "chained",
    "retain_bytes",
    "retain_age_ms",
    "events_retired",
    "reads",
    "writes",
    "requests_per_second",
    "requests_per_second_max",
];
