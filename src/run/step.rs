//! A step of a run: changes that belong together, as one event of the run's stream. So a crash leaves all of a step or
//! nothing. docs/ring.md has the layout.

use crate::bytes::{get_u16, get_u32, get_u64, len_u16, len_u32, put_u16, put_u32, put_u64};
use crate::ring::protocol::name_is_valid;

/// Header of a step; its changes follow, without padding.
pub const HEADER_BYTES: usize = 24;
pub const MAGIC: u32 = 0x5354_4246; // "FBTS", at 0
pub const FORMAT: usize = 4; // u8, 1
pub const FLAGS: usize = 5; // u8, two zeros follow
pub const WALL_MS: usize = 8; // u64, ms since 1970 by the clock of who wrote it
pub const AS_OF: usize = 16; // u64, of a state: it holds what stood below this offset; else 0

/// It says again what the run holds: a part of a state.
const FLAG_STATE: u8 = 1;
/// The last part of a state.
const FLAG_LAST: u8 = 2;

/// Header of a change; name, key and value follow, without padding.
const CHANGE_HEADER_BYTES: usize = 8;
const KIND: usize = 0; // u8: 1 put, 2 delete, 3 event
const NAME_BYTES: usize = 1; // u8
const KEY_BYTES: usize = 2; // u16
const VALUE_BYTES: usize = 4; // u32

/// One change of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// A key of one of the run's spaces has this value from now on.
    Put { space: &'a str, key: &'a [u8], value: &'a [u8] },
    /// Of an absent key too.
    Delete { space: &'a str, key: &'a [u8] },
    /// Something happened, in one of the run's streams. It changes no key.
    Event { stream: &'a str, event: &'a [u8] },
}

/// Which part of a state a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatePart {
    /// The state holds what stood below this offset.
    pub as_of: u64,
    pub last: bool,
}

/// A step as it stands in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    /// When it was written, by the clock of who wrote it. The order of steps is that of their offsets.
    pub wall_ms: u64,
    /// `Some`: its puts say again what the run holds, and nothing happened.
    pub state: Option<StatePart>,
    pub changes: Vec<Change<'a>>,
}

impl<'a> Change<'a> {
    fn parts(&self) -> (u8, &'a str, &'a [u8], &'a [u8]) {
        match *self {
            Change::Put { space, key, value } => (1, space, key, value),
            Change::Delete { space, key } => (2, space, key, &[]),
            Change::Event { stream, event } => (3, stream, &[], event),
        }
    }

    /// Bytes that it takes in a step.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let (_, name, key, value) = self.parts();
        CHANGE_HEADER_BYTES + name.len() + key.len() + value.len()
    }

    /// Whether its name is one, and its key and value have sizes that a step can say.
    fn is_sound(&self) -> bool {
        let (kind, name, key, value) = self.parts();
        let keyed = kind == 3 || (1..=usize::from(u16::MAX)).contains(&key.len());
        name_is_valid(name.as_bytes()) && keyed && u32::try_from(value.len()).is_ok()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        let (kind, name, key, value) = self.parts();
        let mut header = [0; CHANGE_HEADER_BYTES];
        (header[KIND], header[NAME_BYTES]) = (kind, u8::try_from(name.len()).expect("a name has at most 255 B"));
        put_u16(&mut header, KEY_BYTES, len_u16(key.len()));
        put_u32(&mut header, VALUE_BYTES, len_u32(value.len()));
        out.extend_from_slice(&header);
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(value);
    }

    /// The first change, and what follows it.
    fn decode(bytes: &'a [u8]) -> Option<(Change<'a>, &'a [u8])> {
        let (header, rest) = bytes.split_at_checked(CHANGE_HEADER_BYTES)?;
        let (name, rest) = rest.split_at_checked(usize::from(header[NAME_BYTES]))?;
        let (key, rest) = rest.split_at_checked(usize::from(get_u16(header, KEY_BYTES)))?;
        let (value, rest) = rest.split_at_checked(get_u32(header, VALUE_BYTES) as usize)?;
        let name = std::str::from_utf8(name).ok()?;
        let change = match (header[KIND], key, value) {
            (1, key, value) => Change::Put { space: name, key, value },
            (2, key, []) => Change::Delete { space: name, key },
            (3, [], event) => Change::Event { stream: name, event },
            _ => return None,
        };
        change.is_sound().then_some((change, rest))
    }
}

/// Encodes a step. `None`: a name is none, a key is empty, or one of them is too long.
#[must_use]
pub fn encode(wall_ms: u64, state: Option<StatePart>, changes: &[Change<'_>]) -> Option<Vec<u8>> {
    let bytes = changes.iter().map(Change::bytes).sum::<usize>();
    let mut out = Vec::with_capacity(HEADER_BYTES + bytes);
    out.resize(HEADER_BYTES, 0);
    put_u32(&mut out, 0, MAGIC);
    out[FORMAT] = 1;
    put_u64(&mut out, WALL_MS, wall_ms);
    if let Some(StatePart { as_of, last }) = state {
        out[FLAGS] = FLAG_STATE | if last { FLAG_LAST } else { 0 };
        put_u64(&mut out, AS_OF, as_of);
    }
    let sound = changes.iter().all(Change::is_sound);
    sound.then(|| {
        changes.iter().for_each(|change| change.encode(&mut out));
        out
    })
}

impl<'a> Step<'a> {
    /// What an event of a run's stream says; `None` when it is no step.
    #[must_use]
    pub fn decode(event: &'a [u8]) -> Option<Step<'a>> {
        let (header, mut rest) = event.split_at_checked(HEADER_BYTES)?;
        let (flags, as_of) = (header[FLAGS], get_u64(header, AS_OF));
        let known = get_u32(header, 0) == MAGIC && header[FORMAT] == 1 && get_u16(header, FLAGS + 1) == 0;
        let state = match flags {
            0 if as_of == 0 => None,
            FLAG_STATE => Some(StatePart { as_of, last: false }),
            3 => Some(StatePart { as_of, last: true }),
            _ => return None,
        };
        let mut changes = Vec::new();
        while !rest.is_empty() {
            let (change, next) = Change::decode(rest)?;
            if state.is_some() && !matches!(change, Change::Put { .. }) {
                return None;
            }
            changes.push(change);
            rest = next;
        }
        let holds = state.is_some() || !changes.is_empty();
        (known && holds).then_some(Step { wall_ms: get_u64(header, WALL_MS), state, changes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::protocol::NAME_BYTES_MAX;

    const CHANGES: [Change<'_>; 4] = [
        Change::Put { space: "state", key: b"k", value: b"v" },
        Change::Put { space: "état", key: b"\0", value: b"" },
        Change::Delete { space: "state", key: b"gone" },
        Change::Event { stream: "log", event: b"it happened" },
    ];

    #[test]
    fn a_step_reads_back_and_no_other_bytes_do() {
        let event = encode(77, None, &CHANGES).unwrap();
        let step = Step { wall_ms: 77, state: None, changes: CHANGES.to_vec() };
        assert_eq!(Step::decode(&event), Some(step));
        let state = Some(StatePart { as_of: 9, last: true });
        let part = encode(77, state, &CHANGES[..2]).unwrap();
        assert_eq!(Step::decode(&part).unwrap().state, state);
        assert_eq!(Step::decode(&encode(77, state, &CHANGES).unwrap()), None, "a state holds puts alone");
        assert_eq!(Step::decode(&encode(77, None, &[]).unwrap()), None, "nothing happened");
        for cut in 0..event.len() {
            let whole_change = Step::decode(&event[..cut]).is_none_or(|step| step.changes.len() < CHANGES.len());
            assert!(whole_change, "{cut} B of it");
        }
        // Whatever a byte is, it is no panic.
        for at in 0..event.len() {
            let mut event = event.clone();
            event[at] ^= 0x81;
            _ = Step::decode(&event);
        }
    }

    #[test]
    fn names_and_keys_have_bounds() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        for change in [
            Change::Put { space: "", key: b"k", value: b"" },
            Change::Put { space: &long, key: b"k", value: b"" },
            Change::Put { space: "s", key: b"", value: b"" },
            Change::Put { space: "s", key: &[7; 1 << 16], value: b"" },
            Change::Event { stream: "line\n", event: b"" },
        ] {
            assert_eq!(encode(0, None, &[change]), None, "{change:?}");
        }
    }
}
