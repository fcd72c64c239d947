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
pub const NAMES: [&str; 42] = [
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
];
