//! A commit over several shards, as the reactors that take part share it: words that each looks at in its own turn.

use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64};

use crate::bytes::len_u32;
use crate::ring::protocol::commit::split_first;
use crate::ring::protocol::{Completion, Status};
use crate::store::Said;
use crate::store::across::{Across, Scope};
use crate::types::{DeviceAddress, Lsn, ShardId};

/// Where a commit stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum State {
    Preparing,
    /// Nothing of it takes place; or it only read, and has been told what.
    Released,
    /// The decision is logged, and its shard was fenced before it was durable: it may take place, or not.
    InDoubt,
    Decided,
}

/// One commit, as the reactors that take part share it.
#[derive(Debug)]
pub struct Shared {
    pub(super) coordinator: ShardId,
    pub(super) flags: u8,
    pub(super) scope: Scope,
    /// Of all shards, the reads first.
    pub(super) entries: Vec<u8>,
    /// Every shard that has one of them, once.
    pub(super) shards: Vec<ShardId>,
    state: AtomicU8,
    /// Shards that have not said whether they can.
    unready: AtomicU32,
    /// One cannot: the first to say so also says why.
    refused: AtomicBool,
    refusal: [AtomicU64; 3],
    /// The lowest that all shards can give it; then what it has.
    version: AtomicU64,
    logged: AtomicBool,
    /// Of the decision.
    lsn: AtomicU64,
    place: AtomicU64,
    /// Shards that have not done their part, and those where it is not durable.
    undone: AtomicU32,
    unlanded: AtomicU32,
    /// A shard cannot do its part, for it is fenced.
    stuck: AtomicBool,
}

impl Shared {
    pub(super) fn new() -> Shared {
        Shared {
            coordinator: ShardId(0),
            flags: 0,
            scope: Scope::default(),
            entries: Vec::new(),
            shards: Vec::new(),
            state: AtomicU8::new(State::Preparing as u8),
            unready: AtomicU32::new(0),
            refused: AtomicBool::new(false),
            refusal: [const { AtomicU64::new(0) }; 3],
            version: AtomicU64::new(0),
            logged: AtomicBool::new(false),
            lsn: AtomicU64::new(0),
            place: AtomicU64::new(0),
            undone: AtomicU32::new(0),
            unlanded: AtomicU32::new(0),
            stuck: AtomicBool::new(false),
        }
    }

    pub(super) fn begin(&mut self) {
        let shards = len_u32(self.shards.len());
        for count in [&mut self.unready, &mut self.undone, &mut self.unlanded] {
            *count.get_mut() = shards;
        }
        for word in [&mut self.version, &mut self.lsn, &mut self.place] {
            *word.get_mut() = 0;
        }
        for is_so in [&mut self.refused, &mut self.stuck] {
            *is_so.get_mut() = false;
        }
        *self.logged.get_mut() = self.scope.logged;
        *self.state.get_mut() = State::Preparing as u8;
    }

    pub(super) fn across(&self) -> Across<'_> {
        Across { entries: &self.entries, flags: self.flags, coordinator: self.coordinator, scope: self.scope }
    }

    pub(super) fn state(&self) -> State {
        match self.state.load(Acquire) {
            0 => State::Preparing,
            1 => State::Released,
            2 => State::InDoubt,
            _ => State::Decided,
        }
    }

    pub(super) fn set_state(&self, state: State) {
        self.state.store(state as u8, Release);
    }

    /// A shard is ready.
    pub(super) fn ready(&self, version_min: u64, logged: bool) {
        self.version.fetch_max(version_min, Relaxed);
        self.logged.fetch_or(logged, Relaxed);
        self.unready.fetch_sub(1, AcqRel);
    }

    /// A shard cannot.
    pub(super) fn refuse(&self, completion: &Completion) {
        if !self.refused.swap(true, Relaxed) {
            let words = [u64::from(completion.status), completion.aux, completion.version];
            self.refusal.iter().zip(words).for_each(|(place, word)| place.store(word, Relaxed));
        }
        self.unready.fetch_sub(1, AcqRel);
    }

    /// Whether every shard has said whether it can.
    pub(super) fn is_heard(&self) -> bool {
        self.unready.load(Acquire) == 0
    }

    /// Why a shard cannot, the first one to say so.
    pub(super) fn refusal(&self) -> Option<Completion> {
        if !self.refused.load(Relaxed) {
            return None;
        }
        let [status, aux, version] = [0, 1, 2].map(|at: usize| self.refusal[at].load(Relaxed));
        let status = u16::try_from(status).unwrap_or(Status::BadRequest as u16);
        Some(Completion { status, aux, version, ..Completion::default() })
    }

    /// Whether it has to be logged.
    pub(super) fn is_logged(&self) -> bool {
        self.logged.load(Relaxed)
    }

    /// What the coordinator logged; before that, the lowest version that it may have.
    pub(super) fn said(&self) -> Said {
        let (version, lsn) = (self.version.load(Relaxed), Lsn(self.lsn.load(Relaxed)));
        Said { version, lsn, place: DeviceAddress(self.place.load(Relaxed)), in_commit: true, until: None }
    }

    pub(super) fn say(&self, said: Said) {
        self.version.store(said.version, Relaxed);
        self.lsn.store(said.lsn.0, Relaxed);
        self.place.store(said.place.0, Relaxed);
    }

    pub(super) fn done(&self) {
        self.undone.fetch_sub(1, AcqRel);
    }

    pub(super) fn landed(&self) {
        self.unlanded.fetch_sub(1, AcqRel);
    }

    /// Whether every shard has done its part, and whether all of it is durable.
    pub(super) fn is_done(&self) -> bool {
        self.undone.load(Acquire) == 0
    }

    pub(super) fn has_landed(&self) -> bool {
        self.unlanded.load(Acquire) == 0
    }

    pub(super) fn set_stuck(&self, stuck: bool) {
        self.stuck.store(stuck, Release);
    }

    pub(super) fn is_stuck(&self) -> bool {
        self.stuck.load(Acquire)
    }

    /// Its writes alone.
    pub(super) fn writes(&self) -> &[u8] {
        let mut rest = self.entries.as_slice();
        while let Some((entry, next)) = split_first(rest).filter(|(entry, _)| entry.is_read()) {
            debug_assert!(entry.is_read(), "reads stand first");
            rest = next;
        }
        rest
    }
}

pub(super) const fn refused(status: Status) -> Completion {
    Completion { user_data: 0, status: status as u16, version: 0, aux: 0, lsn: 0, reply_bytes: 0 }
}
