//! What a run holds: its steps, one after the other.

use std::collections::{BTreeMap, BTreeSet};

use super::step::{Change, StatePart, Step};

/// A key of a space.
type Place = (String, Vec<u8>);

/// A state that is being read, from the offset of which it says what stood below.
#[derive(Debug)]
struct Base {
    as_of: u64,
    /// What later steps wrote, which the state does not undo: others write while it is written.
    written: BTreeSet<Place>,
}

/// The keys of a run's spaces, in their order.
#[derive(Debug, Default)]
pub struct State {
    spaces: BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>,
    base: Option<Base>,
}

impl State {
    /// Nothing, or what the parts of a state as of this offset will say.
    pub fn new(as_of: Option<u64>) -> State {
        State { spaces: BTreeMap::new(), base: as_of.map(|as_of| Base { as_of, written: BTreeSet::new() }) }
    }

    /// Whether a part of a state is yet to come.
    pub fn is_partial(&self) -> bool {
        self.base.is_some()
    }

    pub fn spaces(&self) -> &BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>> {
        &self.spaces
    }

    /// Takes the next step.
    pub fn take(&mut self, step: &Step<'_>) {
        match step.state {
            None => step.changes.iter().for_each(|change| self.change(change)),
            Some(part) => self.part(part, &step.changes),
        }
    }

    pub fn change(&mut self, change: &Change<'_>) {
        let (space, key, value) = match *change {
            Change::Put { space, key, value } => (space, key, Some(value)),
            Change::Delete { space, key } => (space, key, None),
            Change::Event { .. } => return,
        };
        if let Some(base) = &mut self.base {
            base.written.insert((space.to_owned(), key.to_vec()));
        }
        self.set(space, key, value);
    }

    /// Who has read all that came before knows what a state says.
    fn part(&mut self, part: StatePart, changes: &[Change<'_>]) {
        let Some(base) = self.base.take_if(|base| base.as_of == part.as_of) else { return };
        for change in changes {
            if let Change::Put { space, key, value } = *change
                && !base.written.contains(&(space.to_owned(), key.to_vec()))
            {
                self.set(space, key, Some(value));
            }
        }
        self.base = Some(base).filter(|_| !part.last);
    }

    fn set(&mut self, space: &str, key: &[u8], value: Option<&[u8]>) {
        match (value, self.spaces.get_mut(space)) {
            (Some(value), Some(keys)) => {
                keys.insert(key.to_vec(), value.to_vec());
            }
            (Some(value), None) => {
                self.spaces.insert(space.to_owned(), BTreeMap::from([(key.to_vec(), value.to_vec())]));
            }
            (None, Some(keys)) => {
                keys.remove(key);
                if keys.is_empty() {
                    self.spaces.remove(space);
                }
            }
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put<'a>(key: &'a [u8], value: &'a [u8]) -> Change<'a> {
        Change::Put { space: "s", key, value }
    }

    fn step<'a>(state: Option<(u64, bool)>, changes: &[Change<'a>]) -> Step<'a> {
        let state = state.map(|(as_of, last)| StatePart { as_of, last });
        Step { wall_ms: 0, state, changes: changes.to_vec() }
    }

    fn held(state: &State) -> Vec<(&[u8], &[u8])> {
        let keys = state.spaces().get("s").into_iter().flatten();
        keys.map(|(key, value)| (key.as_slice(), value.as_slice())).collect()
    }

    #[test]
    fn a_state_does_not_undo_what_was_written_meanwhile() {
        let gone = Change::Delete { space: "s", key: b"gone" };
        // Others write while the state as of 3 is written, and an older one is told again.
        let later = [
            step(None, &[put(b"new", b"1"), gone]),
            step(Some((2, true)), &[put(b"old", b"wrong")]),
            step(Some((3, false)), &[put(b"gone", b"wrong"), put(b"kept", b"1")]),
            step(None, &[put(b"kept", b"2")]),
            step(Some((3, true)), &[put(b"new", b"wrong"), put(b"other", b"1")]),
        ];
        let before = [step(None, &[put(b"gone", b"0"), put(b"kept", b"1"), put(b"other", b"1")])];
        let (mut from_state, mut from_begin) = (State::new(Some(3)), State::new(None));
        before.iter().chain(&later).for_each(|step| from_begin.take(step));
        for step in &later {
            assert!(from_state.is_partial());
            from_state.take(step);
        }
        assert!(!from_state.is_partial());
        let expected = [(&b"kept"[..], &b"2"[..]), (b"new", b"1"), (b"other", b"1")];
        assert_eq!((held(&from_state), held(&from_begin)), (expected.to_vec(), expected.to_vec()));
    }
}
