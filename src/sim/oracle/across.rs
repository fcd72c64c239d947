//! Commits over several shards, as a recovery finds them: the decision in one log, parts in others. A part without its
//! decision is torn; a decision whose part is missing must be done again, and only then.

use crate::ring::protocol::commit::entries;
use crate::ring::protocol::shard_of_key;
use crate::sim::action::Action;
use crate::sim::machine::{Found, FoundLog};
use crate::sim::oracle::recovered::is_part;
use crate::sim::oracle::{Logged, Loss, Oracle};
use crate::types::ShardId;
use crate::wal::record::Kind;

/// The writes among these that lie in a shard.
pub fn part_of(writes: &[u8], shard: ShardId, shards: u32) -> Vec<u8> {
    let mut part = Vec::new();
    let own = entries(writes).filter(|entry| shard_of_key(entry.object.0, entry.key, shards) == shard);
    own.filter(|entry| !entry.is_read()).for_each(|entry| entry.encode(|bytes| part.extend_from_slice(bytes)));
    part
}

impl FoundLog {
    /// The last part that this shard logged of what another one decided.
    fn last_part_of(&self, coordinator: u32) -> u64 {
        let parts = self.records.iter().filter(|record| record.part_of == Some(coordinator));
        parts.map(|record| record.version).max().unwrap_or(0)
    }
}

impl Oracle {
    /// By shard, the parts that its log lacks: a start does them once more, in this order.
    pub(super) fn missing_parts(&self, logs: &[FoundLog]) -> Vec<Vec<Found>> {
        let missing = logs.iter().enumerate().map(|(number, found)| {
            let shard = ShardId(crate::bytes::len_u32(number));
            let mut parts = Vec::new();
            for (coordinator, log) in (0..).zip(logs).filter(|(coordinator, _)| *coordinator != shard.0) {
                let done = found.last_part_of(coordinator);
                for record in log.records.iter().filter(|record| record.version > done) {
                    let Some(writes) = &record.across else { continue };
                    let value = part_of(writes, shard, self.shards);
                    if !value.is_empty() {
                        let part_of = Some(coordinator);
                        parts.push(Found { value, part_of, across: None, copy: false, ..record.clone() });
                    }
                }
            }
            parts.sort_by_key(|part| part.version);
            parts.dedup_by_key(|part| (part.version, part.part_of));
            parts
        });
        missing.collect()
    }

    /// Holds a part in a log against the decision that it is of.
    ///
    /// # Errors
    /// The decision is gone, which damage may excuse.
    pub(super) fn match_part(&self, shard: ShardId, record: &Found, logs: &[FoundLog]) -> Result<(), Loss> {
        let coordinator = record.part_of.unwrap_or(0) as usize;
        let fits = |writes: &[u8]| {
            let part = part_of(writes, shard, self.shards);
            part == record.value || record.copy && is_part(&part, &record.value)
        };
        let found = &logs[coordinator];
        let decided = |decision: &Found| {
            decision.version == record.version && decision.across.as_ref().is_some_and(|writes| fits(writes))
        };
        if found.records.iter().any(decided) {
            return Ok(());
        }
        // It is given up when all of its parts are durable.
        let log = &self.logs[coordinator];
        let first = found.first_lsn.0;
        let acknowledged =
            |(_, logged): (&u64, &Logged)| logged.version == record.version && fits(&logged.action.payload());
        let unanswered = |action: &Action| matches!(action, Action::Commit { .. }) && fits(&action.payload());
        let known = log.base.range(..first).any(|(_, decision)| decided(decision))
            || log.entries.range(..first).any(acknowledged)
            || first > 1 && self.possible().any(|action| unanswered(action));
        let again = record.copy && first > 1;
        if known || again {
            return Ok(());
        }
        let missing_lsn = found.missing_lsn();
        let promise = "a commit that is torn, for another shard has its part,";
        Err(Loss { shard: ShardId(record.part_of.unwrap_or(0)), missing_lsn, promised_lsn: missing_lsn, promise })
    }

    /// What others decided in this life, and what was done once more at its beginning, as far as it lies in this shard and
    /// was done here.
    pub(super) fn decided_elsewhere(&self, shard: ShardId, logs: &[FoundLog]) -> Vec<Found> {
        let mut parts = self.logs[shard.index()].redone.clone();
        let own = &logs[shard.index()];
        for (number, (log, found)) in (0..).zip(self.logs.iter().zip(logs)).filter(|(number, _)| *number != shard.0) {
            for (lsn, logged) in log.entries.range(..=found.last_lsn()) {
                let decision = logged.record(*lsn, ShardId(number), self.shards);
                let Some((decision, writes)) = decision.and_then(|found| Some((found.clone(), found.across?))) else {
                    continue;
                };
                let value = part_of(&writes, shard, self.shards);
                parts.push(Found { value, across: None, part_of: Some(number), ..decision });
            }
        }
        parts.retain(|part| part.version <= own.last_part_of(part.part_of.unwrap_or(0)));
        parts
    }

    /// Decisions that are given up, and of which a part is not there.
    pub(super) fn check_given_up(&self, logs: &[FoundLog], losses: &mut Vec<Loss>) {
        for (coordinator, (log, found)) in (0..).zip(self.logs.iter().zip(logs)) {
            let first = found.first_lsn.0;
            let base = log.base.range(..first);
            let base = base.filter_map(|(_, record)| Some((record.version, record.across.clone()?)));
            let across = log.entries.range(..first).filter(|(_, logged)| logged.action.is_across(self.shards));
            let logged = across.map(|(_, logged)| (logged.version, logged.action.payload()));
            for (version, writes) in base.chain(logged) {
                if found.records.iter().any(|record| record.version == version && record.across.is_some()) {
                    continue;
                }
                for (number, other) in (0..).zip(logs).filter(|(number, _)| *number != coordinator) {
                    let shard = ShardId(number);
                    let gone = other.last_part_of(coordinator) < version;
                    if gone && !part_of(&writes, shard, self.shards).is_empty() {
                        let (missing_lsn, promise) = (other.missing_lsn(), "a part of a commit that is given up,");
                        losses.push(Loss { shard, missing_lsn, promised_lsn: missing_lsn, promise });
                    }
                }
            }
        }
    }
}

impl Action {
    /// Whether this is a commit whose keys lie in several shards.
    pub fn is_across(&self, shards: u32) -> bool {
        let Action::Commit { steps, shard, .. } = self else { return false };
        steps.iter().any(|step| shard_of_key(step.space.id.0, &step.key, shards) != *shard)
    }
}

impl Found {
    /// What a record of a decision, or of a part of one, says to its own shard.
    pub fn of_commit(mut self, shard: ShardId, shards: u32) -> Found {
        if self.kind == Kind::Decision {
            let own = part_of(&self.value, shard, shards);
            (self.kind, self.across) = (Kind::Commit, Some(std::mem::replace(&mut self.value, own)));
            self.key.clear();
        } else if self.kind == Kind::Commit && !self.key.is_empty() {
            self.part_of = Some(crate::bytes::get_u32(&self.key, 0));
            self.key.clear();
        }
        self
    }
}
