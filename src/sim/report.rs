//! What the simulator counts, so that one that injects nothing is seen.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

macro_rules! counts {
    ($($variant:ident = $name:literal,)*) => {
        /// Everything that is counted.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Count { $($variant,)* }

        impl Count {
            pub const ALL: &[Count] = &[$(Count::$variant,)*];

            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Count::$variant => $name,)* }
            }
        }
    };
}

counts! {
    Histories = "histories",
    Lives = "lives",
    Operations = "operations",
    Acknowledgements = "acknowledgements",
    Retries = "identical_retries",
    Commits = "commits",
    Conflicts = "conflicts",
    CommitsAcross = "commits_across_shards",
    PartsDoneAgain = "parts_done_again",
    PowerCuts = "power_cuts",
    Kills = "kills",
    CrashesWhileSettling = "crashes_while_settling",
    Stops = "graceful_stops",
    Recoveries = "recoveries",
    InterruptedRecoveries = "interrupted_recoveries",
    ReplayedRecords = "replayed_flight_records",
    RecorderMoves = "recorder_moves",
    StaleRecorders = "stale_recorders",
    RecordersRemoved = "recorders_removed",
    Cuts = "cut_tails",
    Refusals = "refusals",
    ExcusedLosses = "excused_losses",
    FramesLost = "lost_in_flight",
    FramesTorn = "torn",
    Reordered = "reordered",
    LostCache = "lost_cache",
    Unflushed = "lost_unflushed",
    Misdirected = "misdirected",
    LostWrites = "lost_writes",
    Rot = "bit_rot",
    WriteErrors = "write_errors",
    ReadErrors = "read_errors",
    SpoiledReads = "spoiled_reads",
    Stalls = "stalls",
    Hangs = "hangs",
    LateEnds = "late_ends",
    Vanished = "vanished",
    Returned = "returned",
    ReturnsRefused = "returns_refused",
    Expired = "keys_expired",
    EventsRetired = "events_retired",
    WallForward = "wall_clock_set_forward",
    WallBack = "wall_clock_set_back",
    Snapshots = "snapshots",
    SnapshotReads = "snapshot_reads",
    SnapshotsGivenUp = "snapshots_given_up",
    NoSpace = "no_space_answers",
    SegmentsReclaimed = "segments_reclaimed",
    SegmentsUnread = "segments_given_up_unread",
    Checkpoints = "checkpoints",
    ShortRecoveries = "recoveries_from_checkpoints",
    Coalesced = "page_writes_coalesced",
    Fetches = "values_read_back",
    FetchesAhead = "values_read_ahead",
    FetchesFailed = "values_unreadable",
    DeallocatedBlocks = "deallocated_blocks",
    DeallocateErrors = "deallocate_errors",
    ClientDeaths = "client_deaths",
    HalfPublished = "half_published",
    HostileWords = "hostile_words",
    HostileEnded = "hostile_sessions_ended",
}

impl Count {
    /// The kinds of faults, and what they are to strike: a run of some length must have had each.
    pub const FAULTS: &[Count] = &[
        Count::Commits,
        Count::Conflicts,
        Count::CommitsAcross,
        Count::PartsDoneAgain,
        Count::PowerCuts,
        Count::Kills,
        Count::CrashesWhileSettling,
        Count::InterruptedRecoveries,
        Count::RecorderMoves,
        Count::StaleRecorders,
        Count::FramesLost,
        Count::FramesTorn,
        Count::Reordered,
        Count::LostCache,
        Count::Unflushed,
        Count::Misdirected,
        Count::LostWrites,
        Count::Rot,
        Count::WriteErrors,
        Count::ReadErrors,
        Count::Stalls,
        Count::SpoiledReads,
        Count::Hangs,
        Count::LateEnds,
        Count::Vanished,
        Count::SegmentsReclaimed,
        Count::SegmentsUnread,
        Count::Checkpoints,
        Count::ShortRecoveries,
        Count::Coalesced,
        Count::Fetches,
        Count::FetchesAhead,
        Count::DeallocatedBlocks,
        Count::DeallocateErrors,
        Count::Returned,
        Count::Expired,
        Count::EventsRetired,
        Count::WallForward,
        Count::WallBack,
        Count::Snapshots,
        Count::SnapshotReads,
        Count::SnapshotsGivenUp,
        Count::NoSpace,
        Count::ClientDeaths,
        Count::HalfPublished,
        Count::HostileWords,
    ];
}

/// The counters of one history, shared by its parts.
#[derive(Clone)]
pub struct Counts(Rc<[Cell<u64>; Count::ALL.len()]>);

impl Default for Counts {
    fn default() -> Self {
        Counts(Rc::new([const { Cell::new(0) }; Count::ALL.len()]))
    }
}

impl Counts {
    pub fn add(&self, count: Count) {
        self.add_many(count, 1);
    }

    pub fn add_many(&self, count: Count, many: u64) {
        let cell = &self.0[count as usize];
        cell.set(cell.get() + many);
    }

    pub fn report(&self) -> Report {
        Report(std::array::from_fn(|at| self.0[at].get()))
    }
}

/// Counts of one history, or the sum of many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report([u64; Count::ALL.len()]);

impl Default for Report {
    fn default() -> Self {
        Report([0; Count::ALL.len()])
    }
}

impl Report {
    #[must_use]
    pub fn get(&self, count: Count) -> u64 {
        self.0[count as usize]
    }

    pub fn merge(&mut self, other: &Report) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
    }

    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        Count::ALL.iter().map(|count| (count.name().to_owned(), serde_json::Value::from(self.get(*count)))).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for count in Count::ALL {
            writeln!(f, "{:<24} {:>12}", count.name(), self.get(*count))?;
        }
        Ok(())
    }
}
