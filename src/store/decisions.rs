//! What a shard knows of commits over several shards: what it decided itself and is not durable everywhere, and how far it has
//! logged its parts of what others decided.

use std::sync::Arc;

use crate::bytes::{get_u32, get_u64, index, len_u32};
use crate::ring::protocol::Status;
use crate::ring::protocol::commit::{What, entries};
use crate::store::Store;
use crate::store::across::own;
use crate::store::checkpoint::Piece;
use crate::store::locks::Locks;
use crate::store::redo::Settling;
use crate::types::{DeviceAddress, Lsn, ObjectId};
use crate::wal::record::{Kind, Record};

/// Bytes of the key of a part's record: the coordinator's shard.
pub const PART_KEY_BYTES: usize = 4;
/// Bytes of the key of a decision's record: see `AcrossState::resolved_before`.
pub const DECISION_KEY_BYTES: usize = 8;

/// A commit that was decided by this shard and may be missing in another one, as its log says.
pub struct Decision {
    pub version: u64,
    /// All entries, of all shards.
    pub writes: Vec<u8>,
}

/// What a shard knows of commits over several shards.
#[derive(Default)]
pub struct AcrossState {
    pub locks: Locks,
    /// By coordinator: the version of the last part that this shard logged, and where.
    applied: Vec<(u64, Lsn)>,
    /// During a replay: what this shard decided, as far as not all parts are known to be durable.
    pub decisions: Vec<Decision>,
    /// Versions decided by this shard since the start of which a part may not be durable yet.
    unresolved: Vec<u64>,
    /// Those of them whose own part has not taken place yet.
    undone: Vec<u64>,
    /// The first version given since the start.
    begun: u64,
    /// The start of all shards.
    pub settling: Arc<Settling>,
}

impl AcrossState {
    /// The version of the last part of this coordinator's commits that is logged here; 0: none.
    pub fn applied_of(&self, coordinator: usize) -> u64 {
        self.applied.get(coordinator).map_or(0, |(version, _)| *version)
    }

    /// Whether this is the last part of a coordinator's commits here, and the log says so before `end_lsn` only: it says that all
    /// before it are done, too.
    pub fn is_last_part(&self, record: &Record<'_>, end_lsn: Lsn) -> bool {
        record.key.len() == PART_KEY_BYTES && {
            let applied = self.applied.get(get_u32(record.key, 0) as usize);
            applied.is_some_and(|(version, lsn)| *version == record.version && *lsn < end_lsn)
        }
    }

    pub fn note_applied(&mut self, coordinator: usize, version: u64, lsn: Lsn) {
        if self.applied.len() <= coordinator {
            self.applied.resize(coordinator + 1, (0, Lsn::NONE));
        }
        self.applied[coordinator] = self.applied[coordinator].max((version, lsn));
    }

    pub fn begin(&mut self, version: u64) {
        if self.begun == 0 {
            self.begun = version;
        }
    }

    /// This shard logs a decision. `own`: it has to carry out a part of it itself.
    pub fn note_decided(&mut self, version: u64, own: bool) {
        self.unresolved.push(version);
        if own {
            self.undone.push(version);
        }
    }

    /// It did its own part.
    pub fn note_done(&mut self, version: u64) {
        self.undone.retain(|other| *other != version);
    }

    /// Whether it has not done its own part of this one, or of any one.
    pub fn is_undone(&self, version: u64) -> bool {
        self.undone.contains(&version)
    }

    pub fn has_undone(&self) -> bool {
        !self.undone.is_empty()
    }

    pub fn is_resolved(&self, version: u64) -> bool {
        if version < self.begun { self.settling.is_over() } else { !self.unresolved.contains(&version) }
    }

    /// Every commit that this shard decided with a lower version stands durably in all of its shards.
    pub fn resolved_before(&self, version: u64) -> u64 {
        if !self.settling.is_over() { 0 } else { self.unresolved.iter().copied().min().unwrap_or(version) }
    }

    /// Whether this shard has done its own part of all that it decided up to this version.
    pub fn is_done_to(&self, version: u64) -> bool {
        self.undone.iter().all(|undone| *undone > version)
    }

    /// Whether all parts of all that it decided up to this version are durable.
    pub fn is_resolved_to(&self, version: u64) -> bool {
        self.settling.is_over() && self.unresolved.iter().all(|unresolved| *unresolved > version)
    }

    /// Says again, in a checkpoint, the last part of the next coordinator that has one here. `false`: all is said.
    pub fn say_applied(&self, next: &mut u64, piece: &mut Piece) -> bool {
        while let Some((version, lsn)) = self.applied.get(index(*next)) {
            let coordinator = len_u32(index(*next));
            *next += 1;
            if *version > 0 {
                piece.key.extend_from_slice(&coordinator.to_le_bytes());
                piece.say_again(Kind::Commit, ObjectId(0), *version, *lsn);
                return true;
            }
        }
        false
    }

    /// During a replay: whether a decision deleted this version of a key. A checkpoint may say the key behind the decision,
    /// which had not taken place there.
    pub fn has_deleted(&self, object: ObjectId, key: &[u8], version: u64) -> bool {
        let later = self.decisions.iter().filter(|decision| decision.version > version);
        let mut writes = later.flat_map(|decision| entries(&decision.writes));
        writes.any(|entry| entry.object == object && entry.key == key && matches!(entry.what, What::Delete))
    }

    /// All parts of a commit that this shard decided are durable.
    pub fn resolve(&mut self, version: u64) {
        self.unresolved.retain(|other| *other != version);
    }

    /// Takes a decision of the recovered log.
    fn replay_decision(&mut self, record: &Record<'_>) {
        if record.key.len() == DECISION_KEY_BYTES {
            let before = get_u64(record.key, 0);
            self.decisions.retain(|decision| decision.version >= before);
        }
        self.decisions.retain(|decision| decision.version != record.version);
        self.decisions.push(Decision { version: record.version, writes: record.value.to_vec() });
    }

    /// Takes a part of the recovered log.
    fn replay_part(&mut self, record: &Record<'_>) {
        if record.key.len() == PART_KEY_BYTES {
            self.note_applied(get_u32(record.key, 0) as usize, record.version, record.lsn);
        }
    }
}

impl Store {
    /// Takes a decision of the recovered log: what of it lies here.
    pub(super) fn replay_decision(&mut self, record: &Record<'_>, place: DeviceAddress) -> Result<(), Status> {
        self.across.replay_decision(record);
        let own = own(record.value, self.shards, self.shard).map(|(_, entry)| entry);
        self.replay_writes(own, record, place)
    }

    /// Takes a commit of the recovered log, or a part of one, which stands at `place`.
    pub(super) fn replay_commit(&mut self, record: &Record<'_>, place: DeviceAddress) -> Result<(), Status> {
        self.across.replay_part(record);
        self.replay_writes(entries(record.value), record, place)
    }
}
