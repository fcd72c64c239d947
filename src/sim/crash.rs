//! The end of a life, and the recovery after it, with what may go wrong in both.

use std::collections::BTreeSet;
use std::rc::Rc;

use crate::reactor::{Phase, Reactor};
use crate::sim::action::Action;
use crate::sim::device::{Fate, SimBlocks};
use crate::sim::history::History;
use crate::sim::machine::{FoundLog, NAMESPACE, RecoveryFaults};
use crate::sim::oracle::{End, Judgement, Loss, Verdict, ensure, evidence};
use crate::sim::profile::Plot;
use crate::sim::report::Count;
use crate::types::ShardId;
use crate::wal::Fence;
use crate::wal::layout::HEAD_BYTES;
use crate::wal::segment;
use crate::wal::superblock::Superblock;

/// Recoveries of one crash that may go wrong before one must succeed.
const ATTEMPTS_MAX: u32 = 12;

impl History {
    /// The daemon or the machine ends as it is; then it recovers. Gives the writes that are dead.
    pub(super) fn end_life(&mut self, end: End, fate: Fate) -> Verdict<Vec<Rc<Action>>> {
        // What was answered before the end was acknowledged, seen or not.
        self.take_answers()?;
        self.oracle.check_order()?;
        self.oracle.check_snapshots()?;
        self.say(|| format!("the end: {end:?}"));
        self.forget_clients();
        // Longer ago than a window and what a busy drive needs: but not where it stalled or failed.
        let calm = self.profile.rates.stall == 0
            && self.profile.rates.hang == 0
            && self.profile.rates.write_error == 0
            && self.profile.vanish == 0;
        let slack_ns = self.profile.wal.window_interval_ns + 1_000 * self.profile.latency_max_ns() + 10_000_000;
        let buffered_before_ns = if calm { self.machine.now_ns().saturating_sub(slack_ns) } else { 0 };
        self.crash(end, fate)?;
        if self.profile.expires && self.random.chance(500) {
            // As a machine that boots with another clock, or was off for a while.
            let ms = self.random.pick(&[3, 50, 6_000, 4_000_000, -2, -60, -6_000, -4_000_000]);
            self.machine.clock.set_wall(ms);
            self.oracle.times.note_set();
        }
        for _ in 0..u64::from(self.random.chance(self.profile.rot)) * self.random.between(1, 3) {
            self.machine.drive.borrow_mut().disk.rot(&mut self.random);
        }
        self.recover(end, buffered_before_ns)
    }

    fn crash(&mut self, end: End, fate: Fate) -> Verdict {
        let power = end == End::PowerCut;
        if power {
            self.counts.add(Count::PowerCuts);
        }
        self.machine.crash(power, fate).map_err(|error| error.to_string())
    }

    /// Recovers until the appliance serves again, and holds what it found against what was promised.
    pub(super) fn recover(&mut self, mut end: End, buffered_before_ns: u64) -> Verdict<Vec<Rc<Action>>> {
        let mut dead = None;
        let shards = self.profile.shards as usize;
        let mut recorded = vec![end == End::Daemon; shards];
        for attempt in 0..ATTEMPTS_MAX {
            self.move_recorders(&mut recorded)?;
            let faults = self.recovery_faults(attempt);
            let (unreadable, interrupted) = (!faults.unreadable.is_empty(), faults.writes_left.is_some());
            let reactors = 1 + crate::bytes::len_u32(self.random.index(self.profile.shards.min(3) as usize));
            match self.machine.start(reactors, faults) {
                Err(error) if interrupted => {
                    self.say(|| format!("recovery was interrupted: {error}"));
                    self.counts.add(Count::InterruptedRecoveries);
                    let power_cuts = if self.profile.recorder_moves > 0 { 100 } else { 500 };
                    end = if self.random.chance(power_cuts) { End::PowerCut } else { End::Daemon };
                    self.crash(end, Fate::Random)?;
                    recorded.iter_mut().for_each(|recorded| *recorded &= end == End::Daemon);
                }
                Err(error) => {
                    if let Some(what) = self.machine.differs.take() {
                        return Err(what);
                    }
                    self.say(|| format!("recovery refuses: {error}"));
                    let corrupt = self.machine.drive.borrow().disk.is_corrupt();
                    ensure!(unreadable || corrupt, "recovery refuses, and nothing was damaged: {error}");
                    self.counts.add(Count::Refusals);
                    if corrupt && !unreadable {
                        self.machine.drive.borrow_mut().disk.heal();
                    }
                }
                Ok(logs) => {
                    self.say(|| format!("recovered with {reactors} reactors"));
                    self.counts.add(Count::Recoveries);
                    let judgement = self.oracle.judge_recovery(&recorded, buffered_before_ns, &logs)?;
                    if !judgement.losses.is_empty() {
                        self.excuse(&judgement, &logs)?;
                        continue;
                    }
                    self.counts.add_many(Count::PartsDoneAgain, judgement.redone as u64);
                    let first = dead.get_or_insert(judgement.dead);
                    self.oracle.begin_anew(&logs)?;
                    let freed = |address, block: &[u8]| {
                        segment::decode(block, &NAMESPACE, address).is_some_and(|header| header.freed)
                    };
                    self.machine.drive.borrow_mut().disk.accept(freed);
                    let first = std::mem::take(first);
                    if self.settle(&mut end)? {
                        return Ok(first);
                    }
                    dead = Some(first);
                    recorded = vec![end == End::Daemon; shards];
                }
            }
        }
        Err(format!("no recovery succeeds in {ATTEMPTS_MAX} attempts"))
    }

    /// The drive is there again, and is taken back while clients go on. Refused only where something cannot be proven.
    pub(super) fn take_back(&mut self) -> Verdict {
        let fenced: Vec<_> = self.machine.reactors.iter().flat_map(Reactor::fenced).map(|(_, why)| why).collect();
        let replay = fenced.iter().any(|why| !matches!(why, Fence::Device(_) | Fence::Stalled));
        if fenced.is_empty() || replay {
            // Nothing was written meanwhile: the daemon never noticed. Or a recorder waits for a larger namespace. A drive
            // that was without power would have ended what was under way with an error, and its old name would be gone.
            self.machine.drive.borrow_mut().reappear();
            return Ok(());
        }
        self.machine.step_aside();
        // Nothing is taken back while the old way to the drive may still write.
        self.machine.drive.borrow_mut().come_to();
        self.until(|history| history.machine.is_aside())?;
        self.machine.drive.borrow_mut().come_back();
        match self.machine.resume() {
            Ok(()) => {
                self.say(|| "the drive is taken back".to_owned());
                self.counts.add(Count::Returned);
                self.until(|history| history.machine.is_settled())
            }
            Err(error) => {
                self.say(|| format!("the drive is not taken back: {error}"));
                self.counts.add(Count::ReturnsRefused);
                let corrupt = self.machine.drive.borrow().disk.is_corrupt();
                ensure!(corrupt || self.machine.directory.is_none(), "nothing was lost, and it is refused: {error}");
                Ok(())
            }
        }
    }

    /// The next start may look for its flight recorders elsewhere, have none, or miss one: then what only they held is
    /// given up, and must never come back.
    fn move_recorders(&mut self, recorded: &mut [bool]) -> Verdict {
        if !self.random.chance(self.profile.recorder_moves) {
            if self.machine.directory.is_none() {
                recorded.fill(false);
            }
            return Ok(());
        }
        self.counts.add(Count::RecorderMoves);
        let lost = self.random.index(recorded.len());
        let directory = self.random.pick(&[None, Some(0), Some(1)]);
        if directory == self.machine.directory && directory.is_some() {
            self.say(|| format!("the flight recorder of shard {lost} is removed"));
            recorded[lost] = false;
            return self
                .machine
                .remove_recorder(ShardId(crate::bytes::len_u32(lost)))
                .map_err(|error| error.to_string());
        }
        self.say(|| format!("flight recorders: {directory:?} instead of {:?}", self.machine.directory));
        self.machine.directory = directory;
        recorded.fill(false);
        Ok(())
    }

    fn recovery_faults(&mut self, attempt: u32) -> RecoveryFaults {
        let mut faults = RecoveryFaults::default();
        if attempt > 2 {
            return faults;
        }
        if self.random.chance(self.profile.read_errors) {
            let capacity = self.profile.capacity_bytes;
            let places = self.random.between(1, 3);
            faults.unreadable = (0..places).map(|_| self.random.between(HEAD_BYTES, capacity) / 4_096).collect();
        } else if self.random.chance(self.profile.interrupted) {
            faults.writes_left = Some(self.random.pick(&[0, 0, 0, 0, 1, 3, 4, 6]));
        }
        faults
    }

    /// A promise was broken. Only damage excuses it, and only where nothing on the drive, and no flight recorder,
    /// still told of what is missing. Put right, the drive must give it all back.
    fn excuse(&mut self, judgement: &Judgement, logs: &[FoundLog]) -> Verdict {
        for loss in &judgement.losses {
            let Loss { shard, missing_lsn, promised_lsn, promise } = *loss;
            let what = format!("shard {shard}: {promise} up to LSN {promised_lsn}, missing from {missing_lsn} on");
            let drive = self.machine.drive.borrow();
            ensure!(drive.disk.is_corrupt(), "{what}, and the drive was not damaged");
            let recorder_lsn = logs[shard.index()].recorder_lsn.0;
            ensure!(recorder_lsn < missing_lsn, "{what}, and the flight recorder says that {recorder_lsn} was durable");
            drop(drive);
            let superblock = self.superblock()?;
            let told = evidence(&self.machine.drive.borrow().disk, &superblock.layout, loss);
            if let Some(address) = told {
                return Err(format!("{what}, and the frame at {address} tells of it"));
            }
        }
        self.counts.add(Count::ExcusedLosses);
        self.machine.reactors.clear();
        self.machine.drive.borrow_mut().disk.heal();
        Ok(())
    }

    fn superblock(&self) -> Verdict<Superblock> {
        let drive = self.machine.drive.clone();
        let mut blocks = SimBlocks { drive, unreadable: BTreeSet::new(), writes_left: None };
        Superblock::load(&mut blocks, self.profile.capacity_bytes).map_err(|error| error.to_string())
    }

    /// Makes durable what the flight recorders held. False when it all ended once more meanwhile.
    fn settle(&mut self, end: &mut End) -> Verdict<bool> {
        let patience = (self.profile.plot == Plot::Mixed && self.random.chance(100)).then(|| self.random.below(6));
        let mut turns = 0;
        while !self.machine.is_settled() {
            if patience == Some(turns) {
                let power = self.random.chance(500);
                *end = if power { End::PowerCut } else { End::Daemon };
                self.counts.add(Count::CrashesWhileSettling);
                self.crash(*end, Fate::Random)?;
                return Ok(false);
            }
            self.turn()?;
            turns += 1;
            ensure!(turns < 100_000, "the appliance does not settle");
        }
        ensure!(self.machine.is_in(Phase::Serving), "the appliance does not serve");
        let whole = self.machine.reactors.iter().flat_map(|reactor| reactor.shards());
        for shard in whole.filter(|shard| shard.wal.fenced().is_none()) {
            self.oracle.settled(shard.wal.shard());
        }
        Ok(true)
    }
}
