//! Bugs planted on purpose, so that a test can show that the simulator finds them. None exists outside tests.

use crate::bytes::get_u32;
use crate::wal::record::{Kind, Record};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Planted {
    #[default]
    None,
    /// Frames count as durable when they are submitted.
    AcknowledgeBeforeDurable,
    /// A start goes on in the epoch before it.
    SkipEpochRaise,
    /// A flight recorder counts although the log has gone on without it.
    TrustStaleRecorder,
    /// Recovery cuts the log at damage instead of refusing.
    CutInsteadOfRefuse,
    /// A segment is marked free before the copies of what counts in it are durable.
    FreeBeforeCopiesDurable,
    /// A value is forgotten before it can be read back.
    ForgetTooEarly,
    /// What is read back for a value counts whatever its version is.
    BelieveAnyVersion,
    /// A segment goes back to the pool while the drive is still being told that it carries nothing.
    DeallocateInUse,
    /// The drive is told so before the copies, and the mark that the segment is free, are durable.
    DeallocateBeforeFreed,
    /// A write counts as durable when it stands in the drive's volatile cache.
    SkipFlush,
    /// Nobody remembers what producers appended before a start.
    ForgetProducers,
    /// The first two events of a linked batch are exchanged when the log is read.
    SwapEvents,
    /// Who waits for a device that was given up is not told, and waits on.
    WaitForStalled,
    /// A drive that came back is written again without its flight recorder, and nobody looks what is missing.
    ReturnUnproven,
    /// Every write of a transaction is a record of its own.
    TornCommit,
    /// A checkpoint counts before its last record does.
    NameCheckpointTooEarly,
    /// What a checkpoint names is not copied before its segment is freed.
    FreeNamedSegment,
    /// A segment is given up unread with events that are kept.
    SpendEvents,
    /// A segment is given up unread with the last trim of a stream, or a cursor.
    SpendTrims,
    /// Cursors and producers are not in a checkpoint.
    ForgetInCheckpoint,
    /// A transaction commits although a key that it read was written meanwhile.
    SkipReadCheck,
    /// The other shards do their parts of a commit before its decision is durable.
    DecideTooEarly,
    /// A decision counts as needless, for reclaim and for recovery, though a part of it is not durable yet.
    ForgetDecision,
    /// Reclaim copies what a decision, which is durable in a moment, writes over: the copy stands behind it.
    CopyLocked,
    /// A commit over several shards does not lock what it read.
    SkipReadLocks,
    /// A start does every part of a decision that it finds, also one that was done and written over since.
    RedoAgain,
    /// What reclaim copies of a key with a time to live has none.
    CopyWithoutUntil,
    /// A start takes keys with a time to live for ones without.
    ForgetUntil,
    /// A put without a time to live keeps the one that its key has.
    KeepUntil,
    /// Retention by bytes trims down to half of what it may keep.
    RetireTooMuch,
    /// It trims what is not durable yet.
    RetireUndurable,
    /// A mark says that events are as old as can be.
    MarkTooEarly,
    /// A start does not know what streams are to keep.
    ForgetRetention,
    /// Reclaim does not copy it.
    DropRetention,
    /// A snapshot sees what was written after it.
    SeeLaterWrites,
    /// A segment is given up with values that only a snapshot sees.
    ForgetKept,
    /// Each reactor takes its part of a snapshot when it hears of it, and goes on.
    SkipBarrier,
    /// A page is taken for coalesced although the frame of its record is sealed.
    RewriteSealed,
    /// A page is written over another record of the open frame.
    RewriteAnother,
    /// What is written over in the open frame is not told to the flight recorder.
    RewriteUnrecorded,
    /// A strict write that was coalesced is acknowledged before its frame is durable.
    RewriteEarly,
    /// A page that a snapshot sees is written over.
    RewriteSeen,
    /// A read of pages shows one that it got from the drive first, though it was written again before the last one came.
    MixMoments,
}

impl Planted {
    /// Whether this bug is planted. Constant `false` outside tests, so that nothing of it is compiled.
    #[must_use]
    pub fn is(self, bug: Planted) -> bool {
        cfg!(test) && self == bug
    }
}

/// What reclaim copies of a record that counts: all of it.
#[must_use]
pub fn copied(record: Record<'_>, planted: Planted) -> Option<Record<'_>> {
    let dropped = planted.is(Planted::DropRetention) && record.kind == Kind::Retain;
    let timeless = planted.is(Planted::CopyWithoutUntil);
    (!dropped).then(|| if timeless { record.split_until().0 } else { record })
}

/// The events of a linked batch with the first two exchanged; `None`: there are not two.
#[must_use]
pub fn swapped(record: &Record<'_>) -> Option<Vec<u8>> {
    record.links()?;
    let mut rest = record.value;
    let mut event = || {
        let bytes = get_u32(rest.get(..4)?, 0) as usize;
        rest.split_off(..4 + bytes)
    };
    let (first, second) = (event()?, event()?);
    Some([second, first, rest].concat())
}
