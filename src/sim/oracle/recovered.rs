//! The rule of recovery: acknowledged ⊆ recovered ⊆ issued, in order, as each durability promised it.

use std::rc::Rc;

use crate::bytes::get_u64;
use crate::ring::protocol::commit::{What, entries};
use crate::ring::protocol::shard_of_stream;
use crate::sim::action::{Action, KeyWrite, once_key};
use crate::sim::machine::{Found, FoundLog};
use crate::sim::oracle::meaning::Meaning;
use crate::sim::oracle::{Known, Logged, Oracle, ShardLog, Space, Stream, Verdict, ensure};
use crate::types::{Durability, Lsn, ObjectId, ObjectKind, ShardId};
use crate::wal::record::{Kind, UNTIL_BYTES};

/// How a life ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The machine lost its power.
    PowerCut,
    /// The daemon was killed, or stopped in good order: what the flight recorder holds is still there.
    Daemon,
}

/// A promise that was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    pub shard: ShardId,
    /// The first LSN that was not recovered.
    pub missing_lsn: u64,
    /// What was promised, up to this LSN.
    pub promised_lsn: u64,
    pub promise: &'static str,
}

/// What came of a recovery.
pub struct Judgement {
    /// Promises that were broken: damage to the drive may excuse them.
    pub losses: Vec<Loss>,
    /// Writes without an answer that were not recovered. They are dead: none of them may ever appear.
    pub dead: Vec<Rc<Action>>,
    /// Parts of commits that are missing in some shard's log, and are done once more.
    pub redone: usize,
}

impl Oracle {
    /// Judges what a recovery found. `recorded`: the shards whose flight recorder came through it all.
    /// `buffered_before_ns`: buffered writes acknowledged before this moment had time to reach the drive.
    ///
    /// # Errors
    /// What no damage excuses: something that nobody wrote, or not in this order.
    pub fn judge_recovery(&self, recorded: &[bool], buffered_before_ns: u64, logs: &[FoundLog]) -> Verdict<Judgement> {
        let mut losses = Vec::new();
        let mut issued: Vec<Rc<Action>> = self.possible().filter(|action| action.is_write()).cloned().collect();
        let missing = self.missing_parts(logs);
        for (number, found) in logs.iter().enumerate() {
            let shard = ShardId(crate::bytes::len_u32(number));
            let parts = found.records.iter().filter(|record| record.part_of.is_some());
            let new = parts.filter(|part| !self.logs[number].base.contains_key(&part.lsn.0));
            losses.extend(new.filter_map(|part| self.match_part(shard, part, logs).err()));
            let in_part = self.match_log(shard, found, &mut issued);
            let unknown = in_part.map(|in_part| [issued.clone(), in_part].concat());
            unknown
                .and_then(|unknown| self.match_meaning(shard, logs, &missing[number], &unknown))
                .map_err(|what| format!("shard {shard}: {what}"))?;
            let last = found.last_lsn();
            let log = &self.logs[number];
            let shown =
                log.shown.iter().any(|version| {
                    found.has_lost_version(*version) && missing[number].iter().all(|part| part.version != *version)
                }) || log.shown_pages.iter().any(|(object, key, version)| found.has_lost_page(*object, key, *version));
            let (missing_lsn, promised_lsn) = (found.missing_lsn(), log.promised(recorded[number], buffered_before_ns));
            if promised_lsn > last {
                losses.push(Loss { shard, missing_lsn, promised_lsn, promise: "acknowledged" });
            } else if shown {
                let promise = "shown by a strict read of a space";
                losses.push(Loss { shard, missing_lsn, promised_lsn: missing_lsn, promise });
            }
        }
        self.check_given_up(logs, &mut losses);
        self.check_opened(logs, &mut losses);
        self.check_shown(logs, &mut losses);
        Ok(Judgement { losses, dead: issued, redone: missing.iter().map(Vec::len).sum() })
    }

    /// Holds every record against what was asked for, and what was known of the log against the records.
    /// Gives the writes of which only a part was found.
    fn match_log(&self, shard: ShardId, found: &FoundLog, issued: &mut Vec<Rc<Action>>) -> Verdict<Vec<Rc<Action>>> {
        let log = &self.logs[shard.index()];
        found.holds_once()?;
        found.holds_chains()?;
        let (mut version, mut matched) = (0, 0);
        // Of which copies are left: of a commit without what it deleted, of an append perhaps the producer's place first.
        let mut in_part = Vec::new();
        for record in &found.records {
            let entry = log.entries.get(&record.lsn.0);
            if matches!(record.kind, Kind::Reclaim | Kind::CheckpointBegin | Kind::CheckpointEnd) {
                ensure!(entry.is_none(), "{record:?} stands where a write was acknowledged");
                continue;
            }
            if let Some(before) = log.base.get(&record.lsn.0) {
                ensure!(before == record, "{record:?} stands where {before:?} was recovered before");
                continue;
            }
            if record.part_of.is_some() {
                ensure!(entry.is_none(), "{record:?} stands where a write was acknowledged");
                continue;
            }
            let known = self.known_of(record);
            let Some(known) = known.filter(|_| record.kind != Kind::Create) else {
                ensure!(entry.is_none(), "{record:?} stands where a write was acknowledged");
                ensure!(self.strangers || record.kind == Kind::Create, "a record of nobody: {record:?}");
                continue;
            };
            let of_pages = known.object.kind == ObjectKind::Pages;
            let fits = if of_pages { is_of_pages(record.kind) } else { known.object.kind == kind_of(record.kind) };
            ensure!(fits, "a record of the wrong kind: {record:?}");
            if entry.is_none() && self.is_own_doing(shard, found, record, issued)? {
                continue;
            }
            if record.copy {
                ensure!(entry.is_none(), "{record:?} stands where a write was acknowledged");
                if log.said(record) || found.says_before(record) {
                    continue;
                }
                // The first that is seen of it: its original is gone, and nobody was told.
            } else if known.object.kind == ObjectKind::Space {
                ensure!(record.version > version, "version {} follows {version}", record.version);
                version = record.version;
            }
            let coalesced = entry.is_some_and(|logged| logged.may_be_coalesced(record));
            if let Some(logged) = entry.filter(|_| !coalesced) {
                ensure!(!is_torn(&logged.action, record), "a commit is torn: {record:?} of {:?}", logged.action);
                ensure!(is_of(logged, record), "{record:?} stands where {:?} was", logged.action);
                ensure!(logged.is_until(record), "another moment than that of {:?}: {record:?}", logged.action);
                matched += 1;
            } else if !in_part.iter().any(|action: &Rc<Action>| record.copy && may_be(action, record)) {
                matched += usize::from(coalesced);
                let fits = issued.iter().enumerate().filter(|(_, action)| may_be(action, record));
                // Of several trims, the one that asked for the least: the others may have done more.
                let best = fits.min_by_key(|(at, action)| (asked_to_trim(action), *at)).map(|(at, _)| at);
                let torn = log.entries.values().map(|logged| &logged.action).chain(&*issued);
                ensure!(
                    best.is_some() || !torn.into_iter().any(|action| is_torn(action, record)),
                    "a commit is torn: {record:?}"
                );
                let why = self.was_retired(log, found, record).err().unwrap_or_default();
                ensure!(best.is_some(), "nobody asked for this, or it was dead: {record:?}; {why}");
                let action = best.map(|at| issued.remove(at));
                in_part.extend(action.filter(|_| record.copy));
            }
        }
        log.is_all_in(found, matched).map(|()| in_part)
    }

    /// Holds what the records of a shard mean against all that was ever said to it. `unknown`: writes without an answer of
    /// which no record was found, or only a part.
    fn match_meaning(&self, shard: ShardId, logs: &[FoundLog], missing: &[Found], unknown: &[Rc<Action>]) -> Verdict {
        let (log, found) = (&self.logs[shard.index()], &logs[shard.index()]);
        let first = found.first_lsn.0;
        if first == 1 && missing.is_empty() {
            return Ok(());
        }
        let said = log.entries.range(..first).filter_map(|(lsn, logged)| logged.record(*lsn, shard, self.shards));
        let said: Vec<Found> = said.chain(self.decided_elsewhere(shard, logs)).collect();
        let said = log.base.range(..first).map(|(_, record)| record).chain(&said).chain(&found.records);
        // Nobody here knows what strangers did with theirs.
        let said = said.filter(|record| self.known_of(record).is_some()).chain(missing);
        // Where a decision was found its part in this shard may be gone again.
        let across = self.possible().filter(|action| action.is_across(self.shards));
        let possible: Vec<&Action> = unknown.iter().chain(across).map(Rc::as_ref).collect();
        let now_ms = self.times.now().lived_ms;
        Meaning::in_order(found.records.iter().chain(missing)).is_all_of(&Meaning::highest(said), &possible, now_ms)
    }

    /// Whether the daemon wrote this by itself, as it had to.
    fn is_own_doing(&self, shard: ShardId, found: &FoundLog, record: &Found, issued: &[Rc<Action>]) -> Verdict<bool> {
        let log = &self.logs[shard.index()];
        match record.kind {
            Kind::Mark => Ok(true),
            Kind::Expire => self.was_over(shard, found, record, issued).map(|()| true),
            _ => Ok(self.was_retired(log, found, record).is_ok_and(|retired| retired)),
        }
    }

    /// The log says that the time of a version was over: it had one, and it was. Of a put that nobody was told of the record may
    /// be gone, and its version with it.
    fn was_over(&self, shard: ShardId, found: &FoundLog, record: &Found, issued: &[Rc<Action>]) -> Verdict {
        let log = &self.logs[shard.index()];
        let now_ms = self.times.now().lived_ms;
        let own =
            |put: &&Found| put.kind == Kind::PutUntil && (put.object, put.version) == (record.object, record.version);
        let ended = |put: &Found| put.until_ms().is_some_and(|until_ms| until_ms <= now_ms);
        let logged = log.entries.iter().filter_map(|(lsn, logged)| logged.record(*lsn, shard, self.shards));
        let known: Vec<Found> = log.base.values().cloned().chain(logged).filter(|put| own(&put)).collect();
        let mut puts = known.iter().chain(found.records.iter().filter(own)).peekable();
        if puts.peek().is_none() {
            let own = |action: &&Rc<Action>| {
                action.object().is_some_and(|own| own.id == record.object) && action.key() == Some(&record.key)
            };
            let untold = issued.iter().filter(own).any(|action| action.ttl_ms().is_some());
            ensure!(untold, "the end of a version that had no time to live: {record:?}");
            return Ok(());
        }
        ensure!(puts.any(ended), "the end of a version before its time: {record:?}");
        Ok(())
    }

    /// What is known of the object of a record; of a commit, of one of its spaces.
    fn known_of(&self, record: &Found) -> Option<&Known> {
        let across = record.across.as_ref().and_then(|writes| entries(writes).next());
        let writes = record.key_writes();
        let object = writes.first().map(|(object, ..)| *object).or(across.map(|entry| entry.object));
        let object = object.unwrap_or(record.object);
        self.objects.iter().find(|known| known.object.id == object)
    }

    /// What was opened is in the catalog.
    fn check_opened(&self, logs: &[FoundLog], losses: &mut Vec<Loss>) {
        let created = |known: &Known| {
            let named = |record: &&Found| record.kind == Kind::Create && record.key == known.name.as_bytes();
            logs[0].records.iter().find(named).is_some_and(|record| record.object == known.object.id)
        };
        if !self.objects.iter().all(created) {
            let missing_lsn = logs[0].missing_lsn();
            let promise = "an object that was opened";
            losses.push(Loss { shard: ShardId(0), missing_lsn, promised_lsn: missing_lsn, promise });
        }
    }

    /// What clients know from here on is what was recovered.
    ///
    /// # Errors
    /// Records that make no sense one after another.
    pub fn begin_anew(&mut self, logs: &[FoundLog]) -> Verdict {
        self.pending.clear();
        self.doubtful.clear();
        self.times.begin_life();
        self.snapshots.begin_life();
        for known in &mut self.objects {
            known.space = Space::default();
            known.stream = Stream::default();
        }
        let missing = self.missing_parts(logs);
        for ((log, found), missing) in self.logs.iter_mut().zip(logs).zip(&missing) {
            let version_floor = log.version_floor.max(log.version_max);
            let base = found.records.iter().map(|record| (record.lsn.0, record.clone())).collect();
            let (redone, recorded_lsn) = (missing.clone(), found.last_lsn());
            *log = ShardLog { version_max: version_floor, base, redone, recorded_lsn, ..ShardLog::default() };
            for record in found.records.iter().chain(missing) {
                log.version_max = log.version_max.max(record.space_version());
                for (object, key, value) in record.key_writes() {
                    if let Some(known) = self.objects.iter_mut().find(|known| known.object.id == object) {
                        known.space.replay(key, record.version, value, record.until_ms());
                    }
                }
                let expired = (record.kind == Kind::Expire).then_some(record.object);
                if let Some(known) = self.objects.iter_mut().find(|known| Some(known.object.id) == expired) {
                    known.space.replay_over(&record.key, record.version);
                }
            }
            for (object, meaning) in Meaning::in_order(found.records.iter()).streams {
                if let Some(known) = self.objects.iter_mut().find(|known| known.object.id == object) {
                    let may_skip = known.object.durability == Durability::Memory;
                    known.stream =
                        Stream::recovered(meaning, may_skip).map_err(|what| format!("{}: {what}", known.name))?;
                }
            }
            log.version_max = log.version_max.max(found.version_max());
            log.version_floor = log.version_max;
        }
        Ok(())
    }

    /// What a strict read of a stream showed must be there.
    fn check_shown(&self, logs: &[FoundLog], losses: &mut Vec<Loss>) {
        for known in self.objects.iter().filter(|known| known.object.kind == ObjectKind::Stream) {
            let shard = shard_of_stream(known.object.id.0, self.shards);
            let of_stream = logs[shard.index()].records.iter().filter(|record| record.object == known.object.id);
            let next = of_stream.map(Found::events_end).max().unwrap_or(0);
            if known.stream.shown_next > next {
                let missing_lsn = logs[shard.index()].missing_lsn();
                let promise = "shown by a strict read of a stream";
                losses.push(Loss { shard, missing_lsn, promised_lsn: missing_lsn, promise });
            }
        }
    }
}

impl Found {
    /// Whether this says what `copy` says: of a commit, all that still counted; of an append whose events are gone, that its
    /// producer made it.
    fn says_as(&self, copy: &Found) -> bool {
        let without_events = copy.copy && copy.once().is_some() && copy.value.is_empty();
        let in_part = self.kind == Kind::Commit && is_part(&self.value, &copy.value);
        (self.kind, self.object, self.version) == (copy.kind, copy.object, copy.version)
            && (self.key == copy.key || without_events && self.once() == copy.once())
            && (self.value == copy.value || without_events || in_part)
    }

    /// The version of its keys, if it writes some.
    fn space_version(&self) -> u64 {
        if kind_of(self.kind) == ObjectKind::Space { self.version } else { 0 }
    }

    /// What it writes to keys, once more and simply.
    pub fn key_writes(&self) -> Vec<KeyWrite<'_>> {
        match self.kind {
            Kind::Put => vec![(self.object, &self.key, Some(&self.value))],
            Kind::PutUntil => {
                let (key, _) = self.key.split_at(self.key.len() - UNTIL_BYTES);
                vec![(self.object, key, Some(&self.value))]
            }
            Kind::Delete => vec![(self.object, &self.key, None)],
            Kind::Commit => {
                let value = |what| if let What::Put(value) = what { Some(value) } else { None };
                entries(&self.value).map(|entry| (entry.object, entry.key, value(entry.what))).collect()
            }
            _ => Vec::new(),
        }
    }

    /// Until when a put holds.
    pub fn until_ms(&self) -> Option<u64> {
        let at = self.key.len().checked_sub(UNTIL_BYTES).filter(|_| self.kind == Kind::PutUntil)?;
        Some(get_u64(&self.key, at))
    }

    /// The offset after the last event that there was.
    pub fn events_end(&self) -> u64 {
        match self.kind {
            Kind::Trim => self.version,
            Kind::Append => self.version + 1,
            Kind::AppendBatch | Kind::AppendOnce => self.version + batch(&self.value).len() as u64,
            _ => 0,
        }
    }
}

/// The events of a batch's record.
pub fn batch(value: &[u8]) -> Vec<&[u8]> {
    let (mut events, mut rest) = (Vec::new(), value);
    while rest.len() >= 4 {
        let (event, next) = rest[4..].split_at(crate::bytes::get_u32(rest, 0) as usize);
        events.push(event);
        rest = next;
    }
    events
}

impl Logged {
    /// Whether a record in its place may be that of a later write of the same page, of which nobody was told.
    fn may_be_coalesced(&self, record: &Found) -> bool {
        let own = self.action.one_page().is_some_and(|(key, _)| key == record.key);
        own && record.kind == Kind::Put && self.action.record_object() == record.object && record.version > self.version
    }

    /// Whether a put holds until when it should, by the wall clock as it was.
    fn is_until(&self, record: &Found) -> bool {
        let Some(ttl_ms) = self.action.ttl_ms() else { return record.until_ms().is_none() };
        let moments = self.asked.wall_ms + ttl_ms..=self.answered.wall_ms + ttl_ms;
        record.until_ms().is_some_and(|until_ms| moments.contains(&until_ms))
    }

    /// The record that this write was, where it changed anything. A put holds until the first moment at which it may have been
    /// over in this life.
    pub fn record(&self, lsn: u64, shard: ShardId, shards: u32) -> Option<Found> {
        let until_ms = self.action.ttl_ms().map(|ttl_ms| self.asked.lived_ms + ttl_ms);
        let (kind, key) = match (&*self.action, until_ms) {
            (Action::Put { key, .. }, Some(until_ms)) => {
                (Kind::PutUntil, [key.as_slice(), &until_ms.to_le_bytes()].concat())
            }
            (action, _) => Logged::kind_and_key(action)?,
        };
        let object = self.action.record_object();
        let (version, value) = (self.version, self.action.payload());
        let (across, part_of, copy) = (None, None, false);
        let found = Found { lsn: Lsn(lsn), kind, object, version, key, value, copy, across, part_of };
        let decides = self.action.is_across(shards);
        Some(if decides { Found { kind: Kind::Decision, ..found }.of_commit(shard, shards) } else { found })
    }

    fn kind_and_key(action: &Action) -> Option<(Kind, Vec<u8>)> {
        Some(match action {
            Action::Put { key, .. } => (Kind::Put, key.clone()),
            Action::Delete { key, .. } => (Kind::Delete, key.clone()),
            Action::Append { once: Some(once), .. } => (Kind::AppendOnce, once_key(*once)),
            Action::Append { batch: false, .. } => (Kind::Append, Vec::new()),
            Action::Append { .. } => (Kind::AppendBatch, Vec::new()),
            Action::Trim { .. } => (Kind::Trim, Vec::new()),
            Action::Retain { .. } => (Kind::Retain, action.bounds()?.1.to_le_bytes().to_vec()),
            Action::SetCursor { name, .. } | Action::DropCursor { name, .. } => {
                (Kind::Cursor, name.as_bytes().to_vec())
            }
            Action::Commit { .. } => (Kind::Commit, Vec::new()),
            Action::WritePages { .. } => {
                action.one_page().map_or((Kind::Commit, Vec::new()), |(key, _)| (Kind::Put, key.to_vec()))
            }
            _ => return None,
        })
    }
}

impl ShardLog {
    /// Whether all that was known of it is found: `matched` of what was acknowledged.
    fn is_all_in(&self, found: &FoundLog, matched: usize) -> Verdict {
        let (first, last) = (found.first_lsn.0, found.last_lsn());
        let base = self.base.keys().filter(|lsn| (first..=last).contains(lsn)).count();
        let still = found.records.iter().filter(|record| self.base.contains_key(&record.lsn.0)).count();
        ensure!(still == base, "{} records that were recovered before are gone from before LSN {last}", base - still);
        let known = self.entries.keys().filter(|lsn| (first..=last).contains(lsn)).count();
        ensure!(matched == known, "{} acknowledged writes are gone from before LSN {last}", known - matched);
        Ok(())
    }

    /// Whether this was said by a record that is known.
    fn said(&self, record: &Found) -> bool {
        self.base.values().any(|before| before.says_as(record))
            || self.entries.values().any(|logged| is_of(logged, record))
    }

    fn promised(&self, recorded: bool, buffered_before_ns: u64) -> u64 {
        let windows = self.windows.iter().take_while(|(at_ns, _)| *at_ns < buffered_before_ns);
        let on_drive = windows.map(|(_, lsn)| *lsn).max().unwrap_or(0).max(self.durable_lsn);
        if recorded { on_drive.max(self.recorded_lsn) } else { on_drive }
    }
}

impl FoundLog {
    fn says_before(&self, record: &Found) -> bool {
        self.records.iter().any(|before| before.lsn < record.lsn && before.says_as(record))
    }

    pub fn last_lsn(&self) -> u64 {
        self.records.last().map_or(0, |record| record.lsn.0)
    }

    /// The first LSN that is gone.
    pub(super) fn missing_lsn(&self) -> u64 {
        self.next_lsn.0.max(self.last_lsn() + 1)
    }

    fn of_spaces(&self) -> impl Iterator<Item = &Found> {
        let of_space = |record: &&Found| kind_of(record.kind) == ObjectKind::Space && record.kind != Kind::Expire;
        self.records.iter().filter(of_space)
    }

    /// Whether the record of a version should be there and is not. Before the log's beginning only what counts is kept,
    /// and `Meaning` sees to that.
    fn has_lost_version(&self, version: u64) -> bool {
        // A part may have a lower version than what was written while its commit was decided.
        let plain = |record: &&Found| !record.copy && record.part_of.is_none();
        let begin = self.of_spaces().find(plain).map_or(u64::MAX, |record| record.version);
        let kept = self.first_lsn == Lsn(1) || version >= begin;
        kept && !self.of_spaces().any(|record| record.version == version)
    }

    /// The same of a page: what is written over in its frame is in no record.
    fn has_lost_page(&self, object: ObjectId, key: &[u8], version: u64) -> bool {
        let writes = |record: &Found| record.key_writes().iter().any(|(own, name, _)| *own == object && *name == key);
        self.first_lsn == Lsn(1) && !self.records.iter().any(|record| record.version >= version && writes(record))
    }

    fn version_max(&self) -> u64 {
        self.of_spaces().map(|record| record.version).max().unwrap_or(0)
    }
}

fn is_of_pages(kind: Kind) -> bool {
    matches!(kind, Kind::Put | Kind::Commit)
}

fn kind_of(kind: Kind) -> ObjectKind {
    match kind {
        Kind::Put | Kind::PutUntil | Kind::Delete | Kind::Expire | Kind::Commit => ObjectKind::Space,
        _ => ObjectKind::Stream,
    }
}

pub(super) fn is_of(logged: &Logged, record: &Found) -> bool {
    logged.version == record.version && may_be(&logged.action, record)
}

/// Whether `part` has only entries of `whole`, in their order.
pub(super) fn is_part(whole: &[u8], part: &[u8]) -> bool {
    let mut whole = entries(whole);
    entries(part).all(|wanted| whole.any(|entry| entry == wanted))
}

/// Whether a record that is no copy has some of a commit's writes, and not all.
fn is_torn(action: &Action, record: &Found) -> bool {
    let commits = action.commits() && record.kind == Kind::Commit && !record.copy;
    let whole = if commits { action.payload() } else { Vec::new() };
    let writes = record.across.as_ref().unwrap_or(&record.value);
    commits && whole != *writes && is_part(&whole, writes)
}

fn may_be(action: &Action, record: &Found) -> bool {
    let kind = match action {
        Action::Put { how, .. } if how.expires.is_some() => Kind::PutUntil,
        Action::Put { .. } => Kind::Put,
        Action::Delete { .. } => Kind::Delete,
        Action::Append { once: Some(_), .. } => Kind::AppendOnce,
        Action::Append { batch: false, .. } => Kind::Append,
        Action::Append { .. } => Kind::AppendBatch,
        Action::Trim { .. } => Kind::Trim,
        Action::Retain { set: Some(_), .. } => Kind::Retain,
        Action::SetCursor { .. } | Action::DropCursor { .. } => Kind::Cursor,
        action if action.commits() && record.copy && record.kind == Kind::Commit => {
            return is_part(&action.payload(), record.across.as_ref().unwrap_or(&record.value));
        }
        Action::Commit { .. } if record.across.is_some() => return record.across == Some(action.payload()),
        action if action.commits() => Kind::Commit,
        Action::WritePages { .. } => Kind::Put,
        _ => return false,
    };
    let trimmed = |before: u64| record.version <= before;
    kind == record.kind
        && action.cursor_to().is_none_or(|offset| offset == record.version)
        && action.bounds().is_none_or(|(bytes, _)| bytes == record.version)
        && action.wrote(record.object, &record.key, &record.value)
        && !matches!(action, Action::Trim { before, .. } if !trimmed(*before))
}

fn asked_to_trim(action: &Action) -> u64 {
    if let Action::Trim { before, .. } = action { *before } else { 0 }
}
