//! What kind of history a seed gives: sizes, speeds, and which faults may strike.

use crate::sim::device::Rates;
use crate::sim::random::Random;
use crate::{store, wal};

/// The shape of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plot {
    /// Anything may happen.
    Mixed,
    /// Frames of one record, several in flight; power fails so that the first is lost and later ones land; what was
    /// lost is tried again with the very same bytes; power fails again.
    SameAgain,
}

#[derive(Clone, Copy, Debug)]
pub struct Profile {
    pub plot: Plot,
    pub shards: u32,
    pub capacity_bytes: u64,
    pub segment_bytes: u64,
    pub frame_bytes: usize,
    pub pool_buffers: usize,
    pub operations_max: u32,
    pub recorder_bytes: usize,
    pub turn_requests_max: u32,
    pub wal: wal::Limits,
    pub store: store::Limits,
    pub rates: Rates,
    pub device_timeout_ns: u64,
    pub lives: u64,
    pub steps: u64,
    pub clients: usize,
    pub in_flight_max: u64,
    /// Bit rot between lives, of a thousand.
    pub rot: u64,
    /// Of a thousand: lives in which one thing happens at some step.
    pub vanish: u64,
    pub client_death: u64,
    pub hostile: bool,
    /// Keys get times to live, and somebody sets the wall clock.
    pub expires: bool,
    /// Streams get a retention.
    pub retains: bool,
    /// Clients take snapshots, and reactors turn at different speeds.
    pub snapshots: bool,
    pub pages: bool,
    /// For a while clients do nothing but append to a stream, and trim it, so that whole segments hold nothing else.
    pub seasons: bool,
    /// Of a thousand recoveries.
    pub read_errors: u64,
    pub interrupted: u64,
    /// Of a thousand starts: the flight recorders are elsewhere, or off, or one is gone.
    pub recorder_moves: u64,
    /// Checks at every turn that replies stay in their rooms.
    pub watch_arenas: bool,
}

const RATES_NONE: Rates = Rates {
    lying_cache: 0,
    misdirected: 0,
    lost_write: 0,
    write_error: 0,
    stall: 0,
    spoiled_read: 0,
    hang: 0,
    latency_ns: (10_000, 200_000),
};

impl Profile {
    pub fn choose(random: &mut Random, steps: Option<u64>) -> Profile {
        if random.chance(120) {
            return Profile { steps: steps.unwrap_or(8), ..Profile::same_again(random) };
        }
        let mut profile = Profile::plain(random);
        profile.steps = steps.unwrap_or_else(|| random.between(40, 250));
        if random.chance(250) {
            profile.recorder_moves = 600;
            profile.lives += 3;
            profile.interrupted = random.pick(&[0, 400]);
        }
        if random.chance(400) {
            profile.corrupt(random);
        }
        if random.chance(400) {
            profile.rates.write_error = random.pick(&[0, 0, 5, 20]);
            profile.rates.stall = random.pick(&[0, 5, 30]);
            profile.rates.spoiled_read = random.pick(&[0, 0, 20, 200]);
            profile.vanish = random.pick(&[0, 100, 300]);
        }
        if random.chance(150) {
            profile.capacity_bytes = least_capacity(&profile, 1 + random.below(3));
        } else if random.chance(300) {
            profile.churn(random, steps);
        }
        profile
    }

    /// A drive that does not answer, for ever or for long. No other stalls: then the wait for it can be short.
    pub fn hang(&mut self) {
        self.rates.hang = 5;
        self.rates.stall = 0;
        self.device_timeout_ns = 2_000_000_000;
    }

    /// So little room, and so much written, that segments are given up again and again.
    fn churn(&mut self, random: &mut Random, steps: Option<u64>) {
        self.shards = crate::bytes::len_u32(1 + random.index(2));
        self.segment_bytes = 64 << 10;
        let segments =
            wal::layout::RECLAIM_SEGMENTS_PER_SHARD_MIN * self.shards + crate::bytes::len_u32(random.index(5));
        self.capacity_bytes =
            wal::layout::HEAD_BYTES + wal::layout::TAIL_BYTES + u64::from(segments) * self.segment_bytes;
        self.steps = steps.unwrap_or_else(|| random.between(200, 600));
        self.in_flight_max = 12;
        self.store.keys_max = random.pick(&[12, 64]);
        self.lives += 2;
    }

    /// Little room, in one shard, for what comes and goes in seasons.
    pub fn seasons(&mut self, steps: Option<u64>) {
        self.seasons = true;
        self.shards = 1;
        self.segment_bytes = 64 << 10;
        let segments = u64::from(wal::layout::RECLAIM_SEGMENTS_PER_SHARD_MIN) + 2;
        self.capacity_bytes = wal::layout::HEAD_BYTES + wal::layout::TAIL_BYTES + segments * self.segment_bytes;
        self.steps = steps.unwrap_or(self.steps.max(400));
        self.in_flight_max = 12;
    }

    fn corrupt(&mut self, random: &mut Random) {
        let rate = random.pick(&[2, 10, 40]);
        match random.below(4) {
            0 => self.rates.misdirected = rate,
            1 => self.rates.lost_write = rate,
            2 => self.rates.lying_cache = rate * 4,
            _ => self.rot = random.between(100, 700),
        }
    }

    fn plain(random: &mut Random) -> Profile {
        let frame_bytes = random.pick(&[4_096, 8_192, 16_384, 32_768]);
        let shards = crate::bytes::len_u32(1 + random.index(5));
        let frames_in_flight_max = random.pick(&[1, 2, 4, 8]);
        let value_bytes_max = random.pick(&[1_000, 9_000, 20_000]);
        let own = shards as usize * (frames_in_flight_max as usize + 2);
        let record = value_bytes_max_frames(value_bytes_max, frame_bytes);
        let profile = Profile {
            plot: Plot::Mixed,
            shards,
            capacity_bytes: 0,
            segment_bytes: 128 << 10,
            frame_bytes,
            pool_buffers: record + own,
            operations_max: random.pick(&[2, 8, 64]),
            recorder_bytes: (record * frame_bytes).next_multiple_of(4_096) * random.pick(&[1, 2, 8]),
            turn_requests_max: random.pick(&[1, 4, 64]),
            wal: wal::Limits {
                frames_in_flight_max,
                window_interval_ns: random.pick(&[100_000, 1_000_000, 5_000_000]),
                window_bytes: frame_bytes / 2,
                watermark_interval_ns: random.pick(&[200_000, 1_000_000, 50_000_000]),
                recovery_bytes_max: u64::MAX,
            },
            store: store::Limits {
                key_bytes_max: 64,
                value_bytes_max,
                memory_bytes_max: 32 << 20,
                keys_max: random.pick(&[64, 64, 12]),
                producers_max: 4,
                cursors_max: 4,
                snapshots_max: 3,
                snapshot_bytes_max: 1 << 20,
                cache_bytes_max: random.pick(&[0, 64 << 10, 32 << 20]),
                cache_chunk_bytes: random.pick(&[1 << 10, 4 << 10, 64 << 10]),
            },
            rates: Rates {
                latency_ns: random.pick(&[(8_000, 12_000), (10_000, 200_000), (1_000, 2_000_000)]),
                ..RATES_NONE
            },
            // Longer than any stall that passes.
            device_timeout_ns: 10_000_000_000,
            lives: random.between(2, 5),
            steps: 0,
            clients: 1 + random.index(3),
            in_flight_max: random.pick(&[1, 4, 12]),
            rot: 0,
            vanish: 0,
            client_death: random.pick(&[0, 0, 5]),
            hostile: random.chance(250),
            expires: false,
            retains: false,
            snapshots: false,
            pages: false,
            seasons: false,
            read_errors: random.pick(&[0, 0, 200]),
            interrupted: random.pick(&[0, 100]),
            recorder_moves: 0,
            watch_arenas: random.chance(60),
        };
        let profile = Profile { capacity_bytes: least_capacity(&profile, 24 + random.below(24)), ..profile };
        // So that no number drawn before means anything else.
        let recovery_bytes_max = random.peek().pick(&[10_000, 60_000, 300_000, u64::MAX]);
        Profile { wal: wal::Limits { recovery_bytes_max, ..profile.wal }, ..profile }
    }

    fn same_again(random: &mut Random) -> Profile {
        let plain = Profile::plain(random);
        Profile {
            plot: Plot::SameAgain,
            shards: 1,
            capacity_bytes: 4 << 20,
            wal: wal::Limits {
                frames_in_flight_max: 8,
                window_interval_ns: 50_000,
                window_bytes: 2_048,
                // Never: a watermark would make the second attempt another frame than the first.
                watermark_interval_ns: 1 << 61,
                recovery_bytes_max: u64::MAX,
            },
            frame_bytes: 8_192,
            pool_buffers: 16,
            operations_max: 64,
            recorder_bytes: 128 << 10,
            turn_requests_max: 1,
            store: store::Limits { value_bytes_max: 1_000, keys_max: 64, ..plain.store },
            rates: Rates { latency_ns: (900_000, 1_000_000), ..RATES_NONE },
            lives: 3,
            clients: 1,
            in_flight_max: 8,
            client_death: 0,
            hostile: false,
            read_errors: 0,
            interrupted: 0,
            recorder_moves: 0,
            watch_arenas: false,
            ..plain
        }
    }

    /// Whether a value may be there that the drive does not give back.
    pub fn may_spoil(&self) -> bool {
        let Rates { lying_cache, misdirected, lost_write, spoiled_read, hang, .. } = self.rates;
        lying_cache + misdirected + lost_write + spoiled_read + hang + self.rot + self.vanish > 0
    }

    /// The longest that a write takes when nothing stalls.
    pub fn latency_max_ns(&self) -> u64 {
        self.rates.latency_ns.1
    }
}

/// Frames that a record of the largest size takes, with what `Wal::room` keeps beside them.
fn value_bytes_max_frames(value_bytes_max: usize, frame_bytes: usize) -> usize {
    value_bytes_max.div_ceil(frame_bytes - wal::frame::HEADER_BYTES - 64) + 3
}

/// A drive with `spare` segments more than the least.
fn least_capacity(profile: &Profile, spare: u64) -> u64 {
    let least = u64::from(profile.shards) * wal::layout::SEGMENTS_PER_SHARD_MIN;
    wal::layout::HEAD_BYTES + wal::layout::TAIL_BYTES + (least + spare) * profile.segment_bytes
}
