//! The oracle: what may be answered and what must be recovered. It sees what clients asked and were told, never the
//! store. Versions and LSNs in the answers give the order in which the daemon took the writes.

mod across;
mod chain;
mod commit;
mod cursor;
mod cycles;
mod evidence;
mod meaning;
mod pages;
mod producer;
mod recovered;
mod retention;
mod snapshot;
mod space;
mod stream;
mod times;

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use crate::ring::client::{Answer, Object};
use crate::ring::protocol::{Status, shard_of_stream};
use crate::ring::server::SessionId;
use crate::sim::action::{Action, Step};
use crate::sim::machine::Found;
use crate::types::{Durability, ObjectId, ShardId};

use cycles::Graph;
pub use evidence::evidence;
use pages::coalesce;
pub use recovered::{End, Judgement, Loss};
use snapshot::Snapshots;
use space::Space;
use stream::Stream;
pub use times::{Moment, Times};

/// What is wrong, in words.
pub type Verdict<T = ()> = Result<T, String>;

/// What clients know of an object.
pub struct Known {
    pub name: String,
    pub object: Object,
    space: Space,
    stream: Stream,
    /// When the append of an event was asked for, by offset, in this life or one before.
    appended: BTreeMap<u64, Moment>,
}

/// What an answer may not fall behind, as of the moment the request was made.
enum Floor {
    None,
    Key(u64),
    Keys(BTreeMap<Vec<u8>, u64>),
    Stream {
        next: u64,
        promised_next: u64,
        first: u64,
        sequence: u64,
    },
    Cursor {
        lsn: u64,
    },
    Retention {
        lsn: u64,
    },
    Logs(Vec<(ShardId, u64)>),
    /// By step.
    Commit(Vec<u64>),
}

struct Pending {
    session: SessionId,
    action: Rc<Action>,
    floor: Floor,
    asked: Moment,
    /// The same, in requests and answers.
    moment: u64,
}

/// A logged write whose LSN is known.
struct Logged {
    action: Rc<Action>,
    version: u64,
    asked: Moment,
    answered: Moment,
}

/// What is known of one shard's log, in this life.
#[derive(Default)]
struct ShardLog {
    entries: BTreeMap<u64, Logged>,
    /// Promised to survive anything, up to this LSN.
    durable_lsn: u64,
    /// Promised to survive the daemon, up to this LSN.
    recorded_lsn: u64,
    /// Buffered acknowledgements with their moments: on the drive once the window is over.
    windows: VecDeque<(u64, u64)>,
    /// Versions that a strict read showed.
    shown: Vec<u64>,
    /// The same of pages, each with its space and number.
    shown_pages: Vec<(ObjectId, Vec<u8>, u64)>,
    version_max: u64,
    /// What the last recovery found, by LSN.
    base: BTreeMap<u64, Found>,
    /// Parts of commits that were missing in it, and done once more.
    redone: Vec<Found>,
    /// The highest version of earlier lives: none of them may come back.
    version_floor: u64,
}

pub struct Oracle {
    shards: u32,
    pub reactors: u32,
    pub objects: Vec<Known>,
    logs: Vec<ShardLog>,
    pending: BTreeMap<u64, Pending>,
    /// Writes of clients that died: they may or may not have happened.
    doubtful: Vec<Rc<Action>>,
    next_operation: u64,
    /// By shard: before this turn it had stopped writing.
    pub fenced: Vec<bool>,
    /// What was done in this life, and what it saw.
    graph: Graph,
    pub snapshots: Snapshots,
    /// Records of objects that nobody here knows may be in the log.
    pub strangers: bool,
    /// The drive may not give back what was written.
    pub may_spoil: bool,
    pub times: Times,
}

macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+));
        }
    };
}
pub(crate) use ensure;

impl Oracle {
    pub fn new(shards: u32, times: Times) -> Oracle {
        Oracle {
            shards,
            reactors: 1,
            objects: Vec::new(),
            logs: (0..shards).map(|_| ShardLog::default()).collect(),
            pending: BTreeMap::new(),
            doubtful: Vec::new(),
            next_operation: 0,
            fenced: vec![false; shards as usize],
            graph: Graph::default(),
            snapshots: Snapshots::default(),
            strangers: false,
            may_spoil: false,
            times,
        }
    }

    /// A space or stream was opened: its number never changes.
    pub fn opened(&mut self, name: &str, object: Object) -> Verdict {
        if let Some(known) = self.objects.iter().find(|known| known.name == name) {
            ensure!(known.object == object, "{name} was {:?} and is now {object:?}", known.object);
            return Ok(());
        }
        let taken = self.objects.iter().find(|known| known.object.id == object.id);
        ensure!(taken.is_none(), "{name} has the number of another: {object:?}");
        let (space, stream, appended) = (Space::default(), Stream::default(), BTreeMap::new());
        self.objects.push(Known { name: name.to_owned(), object, space, stream, appended });
        Ok(())
    }

    fn known(&mut self, object: Object) -> &mut Known {
        self.objects.iter_mut().find(|known| known.object.id == object.id).expect("clients use what was opened")
    }

    /// The first offset of a stream and its next one, as far as clients know: where to read.
    pub fn extent(&self, object: Object) -> (u64, u64) {
        let known = self.objects.iter().find(|known| known.object.id == object.id);
        // A stream may begin behind what anybody was told of.
        known.map_or((0, 0), |known| (known.stream.first, known.stream.next.max(known.stream.first)))
    }

    /// The last version that clients know of a key; 0: absent, or never heard of.
    pub fn version(&self, object: Object, key: &[u8]) -> u64 {
        let known = self.objects.iter().find(|known| known.object.id == object.id);
        known.map_or(0, |known| known.space.present(key, self.times.now()))
    }

    /// A client makes a request. Gives the operation's number.
    pub fn ask(&mut self, session: SessionId, action: Rc<Action>) -> u64 {
        let (floor, asked) = (self.floor(&action), self.times.now());
        let number = self.next_operation;
        self.next_operation += 1;
        if let Action::Release { snapshot } = *action {
            self.snapshots.release(snapshot);
        }
        self.snapshots.moment += 1;
        let moment = self.snapshots.moment;
        self.pending.insert(number, Pending { session, action, floor, asked, moment });
        number
    }

    fn floor(&mut self, action: &Action) -> Floor {
        let shards = self.shards;
        if let Action::Sync { reactor } = action {
            let own = self.logs.iter().enumerate().map(|(shard, log)| (ShardId(crate::bytes::len_u32(shard)), log));
            let last = |log: &ShardLog| log.entries.last_key_value().map_or(0, |(lsn, _)| *lsn);
            let reactors = self.reactors;
            let own = own.filter(|(shard, _)| shard.0 % reactors == *reactor);
            return Floor::Logs(own.map(|(shard, log)| (shard, last(log))).collect());
        }
        if let Action::Commit { steps, .. } = action {
            let floor = |step: &Step| self.known(step.space).space.floor(&step.key);
            return Floor::Commit(steps.iter().map(floor).collect());
        }
        let Some(object) = action.object().filter(|_| action.snapshot().is_none()) else { return Floor::None };
        let known = self.known(object);
        if let Some(keys) = pages::keys(action) {
            return Floor::Commit(keys.iter().map(|key| known.space.floor(key)).collect());
        }
        match action {
            Action::Scan { space, shard, prefix, .. } => {
                let own = |key: &[u8]| key.starts_with(prefix) && pages::shard_of(*space, key, shards) == *shard;
                Floor::Keys(known.space.floors(own))
            }
            Action::Retain { .. } => Floor::Retention { lsn: known.stream.retention.floor },
            _ if action.cursor().is_some() => {
                Floor::Cursor { lsn: action.cursor().map_or(0, |name| known.stream.cursor_floor(name)) }
            }
            _ => match action.key() {
                Some(key) => Floor::Key(known.space.floor(key)),
                None => Floor::Stream {
                    next: known.stream.next,
                    promised_next: known.stream.promised_next,
                    first: known.stream.first,
                    sequence: action.once().map_or(0, |once| known.stream.last_sequence(once.producer)),
                },
            },
        }
    }

    /// The request did not fit the ring: nobody saw it.
    pub fn retract(&mut self, number: u64) {
        self.pending.remove(&number);
    }

    /// Whether requests of this client, or of any, are not answered yet.
    pub fn waits(&self, session: Option<SessionId>) -> bool {
        self.pending.values().any(|pending| session.is_none_or(|session| pending.session == session))
    }

    /// The oldest request without an answer, in words.
    pub fn oldest(&self) -> String {
        self.pending.first_key_value().map_or_else(String::new, |(_, pending)| format!("{:?}", pending.action))
    }

    /// A client died: what it asked for may or may not happen.
    pub fn died(&mut self, session: SessionId) {
        self.snapshots.died(session);
        let (gone, stay) =
            std::mem::take(&mut self.pending).into_iter().partition(|(_, pending)| pending.session == session);
        self.pending = stay;
        let gone: BTreeMap<u64, Pending> = gone;
        self.doubtful.extend(gone.into_values().map(|pending| pending.action).filter(|action| action.is_write()));
    }

    /// Writes that may have happened without anybody having been told.
    fn possible(&self) -> impl Iterator<Item = &Rc<Action>> {
        self.pending.values().map(|pending| &pending.action).chain(&self.doubtful)
    }

    /// A client was answered.
    pub fn answer(&mut self, number: u64, answer: &Answer, reply: &[u8], now_ns: u64) -> Verdict {
        let pending = self.pending.remove(&number).ok_or_else(|| format!("operation {number} was answered twice"))?;
        let action = pending.action.clone();
        self.times.asked = pending.asked;
        self.snapshots.moment += 1;
        self.judge(pending, answer, reply, now_ns)
            .map_err(|what| format!("{what}; asked: {action:?}; answered: {answer:?}"))
    }

    fn judge(&mut self, pending: Pending, answer: &Answer, reply: &[u8], now_ns: u64) -> Verdict {
        match (&*pending.action, &pending.floor) {
            (Action::Sync { .. }, Floor::Logs(logs)) => {
                if answer.status == Status::Ok {
                    logs.iter().for_each(|(shard, lsn)| self.promise_durable(*shard, *lsn));
                }
                Ok(())
            }
            (action, _) if action.is_write() && applied(answer) => {
                self.logged(&pending.action, answer, now_ns)?;
                self.note_write(&pending, answer);
                self.written(&pending, answer)
            }
            (action, Floor::Stream { sequence, .. }) if answer.status == Status::OutOfSequence => {
                self.out_of_sequence(action, *sequence, answer)
            }
            (action, Floor::Cursor { lsn }) => self.cursor_answer(action, *lsn, answer),
            (action, Floor::Retention { lsn }) => self.retention_answer(action, *lsn, answer),
            (_, Floor::Key(floor)) => self.key_answer(&pending.action, *floor, answer, reply),
            (_, Floor::Keys(floors)) => self.scan_answer(&pending.action, floors, answer, reply),
            (Action::WritePages { .. } | Action::ReadPages { .. }, Floor::Commit(floors)) => {
                self.pages_answer(&pending.action, floors, answer, reply)
            }
            (_, Floor::Commit(floors)) => self.commit_answer(&pending.action, floors, answer),
            (_, Floor::Stream { next, promised_next, first, .. }) => {
                self.stream_answer(&pending.action, (*next, *promised_next, *first), answer, reply)
            }
            (_, Floor::None) => self.snapshot_answer(&pending, answer, reply),
            _ => Ok(()),
        }
    }

    fn written(&mut self, pending: &Pending, answer: &Answer) -> Verdict {
        match &pending.floor {
            Floor::Key(floor) => self.key_written(&pending.action, *floor, answer),
            Floor::Cursor { .. } => self.cursor_written(&pending.action, answer),
            Floor::Retention { .. } => self.retention_written(&pending.action, answer),
            Floor::Stream { next, first, .. } => self.stream_written(&pending.action, (*next, *first), answer),
            Floor::Commit(floors) => self.commit_written(&pending.action, floors, answer),
            _ => Ok(()),
        }
    }

    /// Notes a write's place in the log, and what was promised with the answer.
    fn logged(&mut self, action: &Rc<Action>, answer: &Answer, now_ns: u64) -> Verdict {
        let Some(shard) = action.shard(self.shards) else { return Ok(()) };
        let (durability, is_logged) = action.promise();
        if answer.lsn == 0 {
            let noop = matches!(**action, Action::Trim { .. });
            ensure!(noop || !is_logged, "a write that promises something is not in the log");
            return Ok(());
        }
        // Of several shards another may be the one that stopped.
        let across = action.is_across(self.shards);
        // What was appended before may be said again.
        if answer.status == Status::Ok && action.once().is_none() && !across {
            self.still_writes(shard)?;
        }
        if !self.is_said_again(action, shard, answer)? {
            let log = &mut self.logs[shard.index()];
            let (asked, answered) = (self.times.asked, self.times.now());
            let logged = Logged { action: action.clone(), version: answer.version, asked, answered };
            coalesce(&mut log.entries, answer.lsn, logged)?;
        }
        if action.is_on_space() {
            self.versions_follow_lsns(shard, answer)?;
        }
        let log = &mut self.logs[shard.index()];
        match if across { Durability::Strict } else { durability } {
            _ if answer.status != Status::Ok => {}
            Durability::Strict => log.durable_lsn = log.durable_lsn.max(answer.lsn),
            Durability::Buffered => {
                log.recorded_lsn = log.recorded_lsn.max(answer.lsn);
                log.windows.push_back((now_ns, answer.lsn));
            }
            Durability::Memory => {}
        }
        Ok(())
    }

    /// Who waited for a shard that stopped writing was told so in that turn: nobody hears anything better later.
    fn still_writes(&self, shard: ShardId) -> Verdict {
        ensure!(!self.fenced[shard.index()], "shard {shard} had stopped writing, and acknowledges");
        Ok(())
    }

    /// Versions of a shard rise with its LSNs, and those of earlier lives never come back.
    fn versions_follow_lsns(&mut self, shard: ShardId, answer: &Answer) -> Verdict {
        let log = &mut self.logs[shard.index()];
        let in_space = |(_, logged): &(&u64, &Logged)| logged.action.is_on_space();
        let before = log.entries.range(..answer.lsn).rev().find(in_space).map_or(0, |(_, logged)| logged.version);
        let after = log.entries.range(answer.lsn + 1..).find(in_space).map_or(u64::MAX, |(_, logged)| logged.version);
        let version = answer.version;
        ensure!(before < version && version < after, "version {version} is out of order: {before} .. {after}");
        Ok(())
    }

    fn version_is_new(&mut self, shard: ShardId, version: u64) -> Verdict {
        let log = &mut self.logs[shard.index()];
        ensure!(
            version > log.version_floor,
            "version {version} came back: {} is of an earlier life",
            log.version_floor
        );
        log.version_max = log.version_max.max(version);
        Ok(())
    }

    /// What the last recovery found in a shard is on the drive now.
    pub fn settled(&mut self, shard: ShardId) {
        let log = &mut self.logs[shard.index()];
        log.durable_lsn = log.durable_lsn.max(log.base.last_key_value().map_or(0, |(lsn, _)| *lsn));
        for known in &mut self.objects {
            if shard_of_stream(known.object.id.0, self.shards) == shard {
                known.stream.promised_next = known.stream.next;
            }
        }
    }

    /// The shard was written out in good order.
    pub fn stopped(&mut self, shard: ShardId) {
        let log = &mut self.logs[shard.index()];
        let last = log.entries.last_key_value().map_or(0, |(lsn, _)| *lsn);
        log.durable_lsn = log.durable_lsn.max(last);
    }

    fn promise_durable(&mut self, shard: ShardId, lsn: u64) {
        let log = &mut self.logs[shard.index()];
        log.durable_lsn = log.durable_lsn.max(lsn);
    }
}

/// Whether a write took place: it was done, or it is in the log and its shard stopped before it was durable.
fn applied(answer: &Answer) -> bool {
    answer.status == Status::Ok || answer.status == Status::Fenced && answer.lsn != 0
}

/// Whether this read waits for durability.
fn is_strict(object: Object, relaxed: bool) -> bool {
    object.durability == Durability::Strict && !relaxed
}
