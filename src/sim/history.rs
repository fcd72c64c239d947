//! One history: an appliance lives, dies, recovers, and lives again, with clients all the while.

use std::rc::Rc;

use crate::reactor::Phase;
use crate::sim::action::Action;
use crate::sim::client::Modelled;
use crate::sim::device::Fate;
use crate::sim::hostile::Hostile;
use crate::sim::machine::Machine;
use crate::sim::oracle::{End, Oracle, Times, Verdict, ensure};
use crate::sim::profile::{Plot, Profile};
use crate::sim::random::Random;
use crate::sim::report::{Count, Counts};
use crate::sim::workload::Workload;
use crate::types::{Durability, ObjectKind, ShardId};

const ARENA_BYTES: u64 = 128 << 10;
/// Virtual time in which every request must be answered: stalls last seconds.
const PATIENCE_NS: u64 = 600_000_000_000;
/// Turns that must suffice for it.
const TURNS_MAX: u64 = 100_000;

/// Those of histories with pages.
const PAGES: [(&str, ObjectKind, Durability); 3] = [
    ("pages in memory", ObjectKind::Pages, Durability::Memory),
    ("buffered pages", ObjectKind::Pages, Durability::Buffered),
    ("strict pages", ObjectKind::Pages, Durability::Strict),
];

/// The objects of every history; a seed uses some of them.
const OBJECTS: [(&str, ObjectKind, Durability); 8] = [
    ("space in memory", ObjectKind::Space, Durability::Memory),
    ("buffered space", ObjectKind::Space, Durability::Buffered),
    ("strict space", ObjectKind::Space, Durability::Strict),
    ("stream in memory", ObjectKind::Stream, Durability::Memory),
    ("buffered stream", ObjectKind::Stream, Durability::Buffered),
    ("strict stream", ObjectKind::Stream, Durability::Strict),
    ("chained stream", ObjectKind::Stream, Durability::Strict),
    ("chained buffered stream", ObjectKind::Stream, Durability::Buffered),
];

pub struct History {
    pub(super) profile: Profile,
    pub(super) machine: Machine,
    pub(super) oracle: Oracle,
    pub(super) random: Random,
    pub(super) counts: Counts,
    pub(super) clients: Vec<Modelled>,
    hostile: Option<Hostile>,
    workload: Workload,
    objects: Vec<(&'static str, ObjectKind, Durability)>,
    pub life: u64,
    pub step: u64,
    pub(super) verbose: bool,
}

impl History {
    pub fn new(machine: Machine, mut random: Random, counts: Counts, verbose: bool) -> History {
        let profile = machine.profile;
        let mut objects = OBJECTS.to_vec();
        if profile.plot == Plot::SameAgain {
            objects = vec![if random.chance(500) { OBJECTS[2] } else { OBJECTS[5] }];
        }
        while objects.len() > 2 && random.chance(300) {
            objects.remove(random.index(objects.len()));
        }
        if profile.pages {
            objects.extend(PAGES);
        }
        let mut oracle = Oracle::new(profile.shards, Times::new(machine.clock.clone()));
        oracle.strangers = profile.hostile;
        oracle.may_spoil = profile.may_spoil();
        oracle.snapshots.may_be_given_up = profile.store.snapshot_bytes_max < 1 << 20
            || profile.vanish > 0
            || profile.rates.write_error > 0
            || profile.rates.hang > 0;
        let workload = Workload::new(random.fork(), &profile);
        let (clients, hostile) = (Vec::new(), None);
        History {
            profile,
            machine,
            oracle,
            random,
            counts,
            clients,
            hostile,
            workload,
            objects,
            life: 0,
            step: 0,
            verbose,
        }
    }

    pub fn run(&mut self) -> Verdict {
        self.counts.add(Count::Histories);
        self.recover(End::Daemon, 0)?;
        for _ in 0..self.profile.lives {
            self.begin_life()?;
            let (end, fate) = match self.profile.plot {
                Plot::Mixed => self.mixed_life()?,
                Plot::SameAgain => self.same_again_life()?,
            };
            let dead = self.end_life(end, fate)?;
            self.begin_life_again(dead)?;
        }
        Ok(())
    }

    pub(super) fn say(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            eprintln!("{:>12} ns, life {}, step {}: {}", self.machine.now_ns(), self.life, self.step, what());
        }
    }

    /// Clients connect, open what they use, and look at all that is there.
    fn begin_life(&mut self) -> Verdict {
        if self.clients.is_empty() {
            self.enter()?;
        }
        Ok(())
    }

    fn enter(&mut self) -> Verdict {
        self.life += 1;
        self.step = 0;
        self.counts.add(Count::Lives);
        self.oracle.reactors = crate::bytes::len_u32(self.machine.reactors.len());
        for _ in 0..self.profile.clients {
            self.connect()?;
        }
        for (name, kind, durability) in self.objects.clone() {
            self.clients[0].open(name, kind, durability)?;
            self.until(|history| !history.clients[0].is_opening())?;
            if let Some(object) = self.clients[0].take_opened() {
                self.oracle.opened(name, object)?;
            }
        }
        self.audit()?;
        // Only then it is known which objects it must not write to.
        if self.profile.hostile && self.oracle.objects.len() == self.objects.len() {
            self.connect_hostile()?;
        }
        Ok(())
    }

    /// The life after a crash begins; what was lost may be tried again with the same bytes.
    fn begin_life_again(&mut self, dead: Vec<Rc<Action>>) -> Verdict {
        self.enter()?;
        let again = match self.profile.plot {
            Plot::SameAgain => dead.len().min(1 + self.random.index(2)),
            Plot::Mixed if self.random.chance(500) => dead.len(),
            Plot::Mixed => 0,
        };
        for action in dead.into_iter().take(again) {
            self.counts.add(Count::Retries);
            self.ask(0, &action)?;
            self.turn()?;
            if self.profile.plot == Plot::SameAgain {
                self.settle_all()?;
            }
        }
        Ok(())
    }

    fn connect(&mut self) -> Verdict {
        let (id, parts) = self.machine.connect(ARENA_BYTES).map_err(|error| error.to_string())?;
        self.clients.push(Modelled::new(id, parts)?);
        Ok(())
    }

    fn connect_hostile(&mut self) -> Verdict {
        let (id, parts) = self.machine.connect(ARENA_BYTES / 8).map_err(|error| error.to_string())?;
        self.hostile = Some(Hostile::new(id, parts, self.counts.clone())?);
        Ok(())
    }

    /// Reads everything there is, so that the oracle sees all of it.
    fn audit(&mut self) -> Verdict {
        let all = usize::try_from(ARENA_BYTES / 4).map_err(|error| error.to_string())?;
        let objects: Vec<_> = self.oracle.objects.iter().map(|known| known.object).collect();
        for object in objects {
            if object.kind == ObjectKind::Stream {
                self.audit_stream(object, all)?;
                continue;
            }
            for shard in (0..self.profile.shards).map(ShardId) {
                let (prefix, limit, relaxed) = (Vec::new(), 0, self.random.chance(500));
                let action = Action::Scan { space: object, shard, prefix, limit, reply_bytes_max: all, relaxed };
                self.ask(0, &Rc::new(action))?;
            }
            self.settle_all()?;
        }
        Ok(())
    }

    fn audit_stream(&mut self, stream: crate::ring::client::Object, all: usize) -> Verdict {
        let (first, next) = self.oracle.extent(stream);
        let read =
            |from| Action::Read { stream, from, wait: std::time::Duration::ZERO, reply_bytes_max: all, relaxed: true };
        self.ask(0, &Rc::new(read(first)))?;
        self.ask(0, &Rc::new(read(next)))?;
        if first > 0 {
            self.ask(0, &Rc::new(read(first - 1)))?;
        }
        if self.oracle.is_chained(stream) {
            self.ask(0, &Rc::new(Action::ReadChain { stream, from: first, reply_bytes_max: all }))?;
        }
        self.settle_all()
    }

    /// Asks, as soon as there is room.
    pub(super) fn ask(&mut self, client: usize, action: &Rc<Action>) -> Verdict {
        let client = client % self.clients.len();
        for _ in 0..TURNS_MAX {
            if self.clients[client].ask(&mut self.oracle, action)? {
                self.counts.add(Count::Operations);
                self.say(|| format!("client {client} asks {action:?}"));
                return Ok(());
            }
            self.turn()?;
        }
        Err("the ring stays full".to_owned())
    }

    /// Turns until nobody waits for an answer.
    pub(super) fn settle_all(&mut self) -> Verdict {
        self.until(|history| !history.oracle.waits(None))
    }

    /// Turns until something holds.
    pub(super) fn until(&mut self, holds: impl Fn(&History) -> bool) -> Verdict {
        let deadline_ns = self.machine.now_ns() + PATIENCE_NS;
        for _ in 0..TURNS_MAX {
            if holds(self) {
                return Ok(());
            }
            ensure!(self.machine.now_ns() < deadline_ns, "no answer to {}", self.oracle.oldest());
            self.turn()?;
        }
        Err(format!("no answer after {TURNS_MAX} turns to {}", self.oracle.oldest()))
    }

    /// One turn of all reactors, then of the clock. Clients take their answers.
    pub(super) fn turn(&mut self) -> Verdict {
        self.turn_until(None)
    }

    /// A turn. When nothing happened, time goes on to the next event, or to `until_ns` if that comes before.
    fn turn_until(&mut self, until_ns: Option<u64>) -> Verdict {
        let watched = self.profile.watch_arenas;
        if watched {
            self.clients.iter_mut().for_each(Modelled::look);
        }
        self.oracle.fenced = self.machine.fenced();
        let first = self.random.index(self.machine.reactors.len());
        let worked = self.machine.turn(first);
        if watched {
            self.clients.iter_mut().try_for_each(Modelled::look_again)?;
        }
        self.take_answers()?;
        if !worked && let Some(next_ns) = self.machine.next_ns().into_iter().chain(until_ns).min() {
            self.machine.clock.advance_to(next_ns);
        }
        let (low, high) = if worked { (50, 1_000) } else { (100, 3_000) };
        self.machine.clock.advance(self.random.between(low, high));
        Ok(())
    }

    pub(super) fn take_answers(&mut self) -> Verdict {
        let now_ns = self.machine.now_ns();
        let (oracle, counts) = (&mut self.oracle, &self.counts);
        self.clients.iter_mut().try_for_each(|client| client.take_answers(oracle, now_ns, counts))
    }

    /// Anything may happen.
    fn mixed_life(&mut self) -> Verdict<(End, Fate)> {
        let moves = self.profile.recorder_moves > 0;
        // A short life leaves the log where an old flight recorder could go on.
        let steps = if moves && self.random.chance(500) { self.random.below(4) } else { self.profile.steps };
        let vanish_at = self.random.chance(self.profile.vanish).then(|| self.random.below(steps + 1));
        // Drawn where a drive vanishes alone, so that other seeds keep their histories.
        let return_at =
            vanish_at.filter(|_| self.random.chance(700)).map(|at| at + 1 + self.random.below(steps / 2 + 1));
        for step in 0..steps {
            self.step = step;
            if vanish_at == Some(step) {
                self.machine.drive.borrow_mut().vanish();
            }
            if return_at == Some(step) {
                self.take_back()?;
            }
            for client in 0..self.clients.len() {
                let burst = self.random.below(4);
                for _ in 0..burst {
                    if self.clients[client].in_flight() < self.profile.in_flight_max && !self.oracle.objects.is_empty()
                    {
                        let action = self.workload.action(&self.oracle);
                        self.ask(client, &action)?;
                    }
                }
            }
            if self.profile.snapshots {
                self.look_at_snapshots()?;
            }
            self.disturb()?;
            self.come_to();
            self.turn()?;
            if self.random.chance(15) {
                self.settle_all()?;
                // Idle long enough for a watermark, at times.
                let idle_ns = self.random.between(0, 2 * self.profile.wal.watermark_interval_ns);
                self.idle(idle_ns)?;
                self.look_at_bounds()?;
                self.set_wall()?;
            }
        }
        if self.random.chance(300) {
            self.settle_all()?;
        }
        // A power cut takes the flight recorders with it: few where they are to meet again.
        let power_cuts = if moves { 2 } else { 9 };
        Ok(match self.random.below(20) {
            draw if draw < power_cuts => (End::PowerCut, Fate::Random),
            ..16 => {
                self.counts.add(Count::Kills);
                (End::Daemon, Fate::Random)
            }
            _ => {
                self.stop()?;
                (End::Daemon, Fate::Random)
            }
        })
    }

    /// A client takes a snapshot, or one that has some reads or releases one.
    fn look_at_snapshots(&mut self) -> Verdict {
        let client = self.random.index(self.clients.len());
        if self.random.chance(60) && !self.oracle.objects.is_empty() {
            self.counts.add(Count::Snapshots);
            return self.ask(client, &Rc::new(Action::Snapshot));
        }
        let open = self.oracle.snapshots.open();
        if open.is_empty() || self.random.chance(400) {
            return Ok(());
        }
        let (snapshot, session) = open[self.random.index(open.len())];
        if self.random.chance(30) {
            let owner = self.clients.iter().position(|client| client.id == session);
            return owner.map_or(Ok(()), |owner| self.ask(owner, &Rc::new(Action::Release { snapshot })));
        }
        self.counts.add(Count::SnapshotReads);
        if self.random.chance(200) {
            let all = self.workload.all_of_snapshot(&self.oracle, snapshot);
            return all.into_iter().try_for_each(|action| self.ask(client, &Rc::new(action)));
        }
        let action = self.workload.of_snapshot(&self.oracle, snapshot);
        self.ask(client, &Rc::new(action))
    }

    /// Somebody sets the wall clock, while nobody waits for an answer. Every reactor sees it before the next request.
    fn set_wall(&mut self) -> Verdict {
        if !self.profile.expires || self.random.chance(300) {
            return Ok(());
        }
        let ms = self.random.pick(&[1, 4, 20, 2_000, 4_000_000, -1, -30, -3_000, -4_000_000]);
        self.say(|| format!("the wall clock is set by {ms} ms"));
        self.counts.add(if ms > 0 { Count::WallForward } else { Count::WallBack });
        self.machine.clock.set_wall(ms);
        self.oracle.times.was_set();
        self.machine.clock.advance(1_000_000);
        let idle_ns = self.random.pick(&[0, 0, 2_000_000, 30_000_000]);
        self.idle(idle_ns)
    }

    /// Streams that are left alone keep no more than they are to.
    fn look_at_bounds(&mut self) -> Verdict {
        if !self.profile.retains {
            return Ok(());
        }
        // Where room is short a mark or a trim may have found none, and is tried again after 100 ms.
        self.idle(if self.profile.seasons { 150_000_000 } else { 10_000_000 })?;
        let bounded = self.oracle.bounded(|shard| self.machine.is_calm(shard));
        // What was durable only now is still to be trimmed. That may find no room, and waits for it then.
        self.idle(8_000_000)?;
        let still = self.oracle.bounded(|shard| self.machine.is_calm(shard));
        for stream in bounded.into_iter().filter(|stream| still.iter().any(|object| object.id == stream.id)) {
            let (wait, reply_bytes_max) = (std::time::Duration::ZERO, 60_000);
            self.ask(0, &Rc::new(Action::Read { stream, from: 0, wait, reply_bytes_max, relaxed: true }))?;
            self.settle_all()?;
            self.oracle.keeps_no_more(stream)?;
        }
        Ok(())
    }

    /// Nobody asks for anything, but the reactors do what falls due.
    fn idle(&mut self, ns: u64) -> Verdict {
        let until_ns = self.machine.now_ns() + ns;
        for _ in 0..TURNS_MAX {
            if self.machine.now_ns() >= until_ns {
                return Ok(());
            }
            self.turn_until(Some(until_ns))?;
        }
        Err("an idle appliance does not come to rest".to_owned())
    }

    /// A drive that hangs may come to itself: before it was given up, or after.
    fn come_to(&mut self) {
        if !self.machine.drive.borrow().hangs() || !self.random.chance(30) {
            return;
        }
        let late = self.machine.reactors.iter().any(crate::reactor::Reactor::is_stuck);
        self.counts.add_many(Count::LateEnds, u64::from(late));
        self.machine.drive.borrow_mut().come_to();
    }

    /// Clients die, and the hostile one does its worst.
    fn disturb(&mut self) -> Verdict {
        if self.random.chance(self.profile.client_death) {
            let victim = self.random.index(self.clients.len());
            let client = self.clients.swap_remove(victim);
            if self.random.chance(500) {
                client.publish_half(&mut self.random);
                self.counts.add(Count::HalfPublished);
            }
            let id = client.id;
            drop(client);
            if self.random.chance(500) {
                // The reactors hear of it only later.
                self.turn()?;
            }
            self.machine.disconnect(id);
            self.oracle.died(id);
            self.counts.add(Count::ClientDeaths);
            self.connect()?;
        }
        if let Some(hostile) = &mut self.hostile {
            for _ in 0..self.random.below(4) {
                hostile.act(&mut self.random, &self.oracle);
            }
            if hostile.is_ended() {
                self.counts.add(Count::HostileEnded);
                self.machine.disconnect(hostile.id);
                self.connect_hostile()?;
            }
        }
        Ok(())
    }

    /// Stops in good order: what is in the log is on the drive then, unless its shard had stopped writing.
    fn stop(&mut self) -> Verdict {
        self.machine.order_stop();
        self.until(|history| history.machine.is_in(Phase::Stopped))?;
        self.take_answers()?;
        let mut landed = Vec::new();
        for reactor in &self.machine.reactors {
            for shard in reactor.shards().iter().filter(|shard| shard.wal.fenced().is_none()) {
                self.oracle.stopped(shard.wal.shard());
            }
            landed.extend(reactor.shards().iter().filter(|shard| shard.has_landed()).map(|shard| shard.wal.shard()));
        }
        for shard in landed {
            self.machine.remove_recorder(shard).map_err(|error| error.to_string())?;
            self.counts.add(Count::RecordersRemoved);
        }
        self.counts.add(Count::Stops);
        Ok(())
    }

    /// One write a frame, several frames in flight, and then no power.
    fn same_again_life(&mut self) -> Verdict<(End, Fate)> {
        if self.life.is_multiple_of(2) {
            // The life of the second attempt: nothing more happens in it.
            return Ok((End::PowerCut, Fate::Random));
        }
        for _ in 0..2 {
            self.write_once()?;
            self.settle_all()?;
        }
        self.until(|history| history.machine.drive.borrow().next_due_ns().is_none())?;
        for _ in 0..self.profile.steps.min(6) {
            self.step += 1;
            self.write_once()?;
            self.turn_at_once()?;
        }
        Ok((End::PowerCut, Fate::FirstLost))
    }

    fn write_once(&mut self) -> Verdict {
        let Some(known) = self.oracle.objects.first() else { return Ok(()) };
        let (object, how) = (known.object, crate::ring::client::Write::default());
        let value = self.workload.value_of(30);
        let action = match object.kind {
            ObjectKind::Space | ObjectKind::Pages => {
                Action::Put { space: object, key: value[..8].to_vec(), value, how }
            }
            ObjectKind::Stream => Action::Append { stream: object, events: vec![value], batch: false, once: None, how },
        };
        self.ask(0, &Rc::new(action))
    }

    /// A turn in which no time passes to speak of.
    fn turn_at_once(&mut self) -> Verdict {
        self.machine.turn(0);
        self.machine.clock.advance(1_000);
        self.take_answers()
    }

    /// Everybody is gone.
    pub(super) fn forget_clients(&mut self) {
        self.clients.clear();
        self.hostile = None;
    }
}
