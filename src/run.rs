//! Runs: all that one agent or job wrote and that happened to it, in one order. A run is one stream, so it lies in one shard,
//! and its steps are recovered in the order in which they were acknowledged. A step changes keys of the run's spaces and
//! adds events to its streams, all or nothing. What the spaces hold follows from the steps alone: whoever opens a run
//! reads them, and a replay says the same each time.

#[cfg(feature = "zstd")]
pub mod file;
mod state;
pub mod step;

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::ring::client::{Client, ClientError, CursorMove, Object, Write};
use crate::types::Durability;

use state::State;
use step::{Change, HEADER_BYTES, StatePart, Step};

/// The cursor that stands where the last whole state begins: a run is read from there.
pub const STATE_CURSOR: &str = "run-state";
/// Bytes of a part of a state, about.
const PART_BYTES: usize = 256 << 10;

/// Why a run could not be read or written. `Display` says the cause and what to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError {
    Client(ClientError),
    /// An event of the stream is no step: the stream is no run, or something else wrote to it.
    NotAStep {
        offset: u64,
    },
    /// What came before this offset is trimmed, and no state says what it was.
    Trimmed {
        first: u64,
    },
    /// The stream is one of durability `memory`: after a crash it would begin in the middle of the run.
    InMemory,
    /// A name of a space or stream that none can have, a key that is empty or longer than 65,535 B, or no change at all.
    BadChange,
    TooLarge {
        bytes: usize,
        bytes_max: usize,
    },
    /// A file that holds no run, or not all of one.
    BadFile(String),
    /// There is a stream of this name already.
    IsThere(String),
    /// Another program wrote a step to a run while it was imported.
    WrittenBeside {
        offset: u64,
    },
    Io(std::io::Error),
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RunError::Client(error) => error.fmt(f),
            RunError::NotAStep { offset } => write!(
                f,
                "event {offset} of the stream is no step of a run: it is no run, or something else wrote to it; look at it \
                 with `forebay read --from {offset} --limit 1 --hex`"
            ),
            RunError::Trimmed { first } => write!(
                f,
                "the run's stream begins at offset {first}, and no state says what came before; import a copy \
                 (`forebay run import`), and compact runs with `forebay run compact`, not with `forebay trim`"
            ),
            RunError::InMemory => f.write_str("a run cannot be of durability memory; create it as buffered or strict"),
            RunError::BadChange => f.write_str(
                "these changes are no step; give at least one, names of 1 to 255 bytes of UTF-8 without control characters, \
                 and keys of 1 to 65,535 bytes",
            ),
            RunError::TooLarge { bytes, bytes_max } => write!(
                f,
                "the step has {bytes} B, and the daemon takes at most {bytes_max} B (limits.value_bytes_max); split it, or \
                 raise the limit in the daemon's configuration"
            ),
            RunError::BadFile(cause) => write!(f, "{cause}; export the run anew (`forebay run export`)"),
            RunError::IsThere(name) => {
                write!(f, "a stream or space is named {name:?} already; import under another name (--as)")
            }
            RunError::WrittenBeside { offset } => write!(
                f,
                "another program wrote step {offset} while the run was imported; import under another name (--as)"
            ),
            RunError::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RunError {}

impl From<ClientError> for RunError {
    fn from(error: ClientError) -> RunError {
        RunError::Client(error)
    }
}

impl From<std::io::Error> for RunError {
    fn from(error: std::io::Error) -> RunError {
        RunError::Io(error)
    }
}

impl From<RunError> for crate::error::Error {
    fn from(error: RunError) -> crate::error::Error {
        crate::error::Error::new(error.to_string())
    }
}

/// A run that was opened, with what its spaces hold, in the memory of this program.
#[derive(Debug)]
pub struct Run {
    stream: Object,
    /// The offset behind the last step that the state knows.
    next: u64,
    state: State,
}

/// What a compaction did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// The run is read from this offset on.
    pub as_of: u64,
    pub pairs: u64,
}

impl Run {
    /// Opens a run by the name of its stream, and reads it. With `create`, makes it with that default durability where it is
    /// absent. Blocks as long as reading takes.
    ///
    /// # Errors
    /// `InMemory`, `NotAStep`, `Trimmed`; else those of `Client::open_stream` and `Client::read`.
    pub fn open(client: &mut Client, name: &str, create: Option<Durability>) -> Result<Run, RunError> {
        let stream = open(client, name, create)?;
        Run::read(client, stream, 0)
    }

    /// Reads a run whose stream begins at `first` or behind it.
    fn read(client: &mut Client, stream: Object, mut first: u64) -> Result<Run, RunError> {
        loop {
            let begin = begin_of(client, stream, first)?;
            let mut run = Run { stream, next: begin.unwrap_or(0), state: State::new(begin) };
            match run.read_on(client) {
                // It was compacted meanwhile.
                Err(RunError::Trimmed { first: now }) => first = now,
                Ok(()) if run.state.is_partial() => return Err(RunError::Trimmed { first: run.next }),
                read => return read.map(|()| run),
            }
        }
    }

    #[must_use]
    pub fn stream(&self) -> Object {
        self.stream
    }

    /// The offset behind the last step that is known here.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Reads what others wrote since, from their state where they compacted the run beyond what is known here. Gives by how many
    /// steps the run is longer. Blocks.
    ///
    /// # Errors
    /// As `open`.
    pub fn refresh(&mut self, client: &mut Client) -> Result<u64, RunError> {
        let before = self.next;
        match self.read_on(client) {
            Err(RunError::Trimmed { first }) => *self = Run::read(client, self.stream, first)?,
            read => read?,
        }
        Ok(self.next - before)
    }

    fn read_on(&mut self, client: &mut Client) -> Result<(), RunError> {
        loop {
            let events = read(client, self.stream, self.next)?;
            if events.is_empty() {
                return Ok(());
            }
            for (offset, event) in &events {
                self.state.take(&step_of(*offset, event)?);
                self.next = offset + 1;
            }
        }
    }

    /// Writes a step: all of its changes or none, with the run's default durability or another one. Gives its offset. Steps
    /// that others wrote before it are read first. Blocks.
    ///
    /// # Errors
    /// `BadChange`, `TooLarge`: nothing was written. Else those of `Client::append`; where one leaves it in doubt whether the
    /// step was written, `refresh` tells.
    pub fn write(
        &mut self,
        client: &mut Client,
        changes: &[Change<'_>],
        durability: Option<Durability>,
    ) -> Result<u64, RunError> {
        let offset = append(client, self.stream, None, changes, durability)?;
        if offset == self.next {
            changes.iter().for_each(|change| self.state.change(change));
            self.next += 1;
        } else {
            self.refresh(client)?;
        }
        Ok(offset)
    }

    /// The value of a key, as of the last step that is known here.
    #[must_use]
    pub fn get(&self, space: &str, key: &[u8]) -> Option<&[u8]> {
        self.state.spaces().get(space)?.get(key).map(Vec::as_slice)
    }

    /// The names of the spaces that hold something.
    pub fn spaces(&self) -> impl Iterator<Item = &str> {
        self.state.spaces().keys().map(String::as_str)
    }

    /// The keys of a space with their values, in their order.
    pub fn scan(&self, space: &str) -> impl Iterator<Item = (&[u8], &[u8])> {
        let keys = self.state.spaces().get(space).into_iter().flatten();
        keys.map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    /// Says again what the run holds, so that it is read from here on, and trims what came before with `trim`. Others may
    /// write meanwhile. What it says is durable before anything is trimmed. Blocks.
    ///
    /// # Errors
    /// As `write`. Whatever it is, the run is as it was.
    pub fn compact(&mut self, client: &mut Client, trim: bool) -> Result<Compacted, RunError> {
        self.refresh(client)?;
        let (as_of, mut part, mut part_bytes, mut pairs) = (self.next, Vec::new(), HEADER_BYTES, 0);
        let part_bytes_max = PART_BYTES.min(client.value_bytes_max_in(self.stream));
        let strict = Some(Durability::Strict);
        for (space, keys) in self.state.spaces() {
            for (key, value) in keys {
                let change = Change::Put { space, key, value };
                if part_bytes + change.bytes() > part_bytes_max && !part.is_empty() {
                    append(client, self.stream, Some(StatePart { as_of, last: false }), &part, strict)?;
                    (part, part_bytes) = (Vec::new(), HEADER_BYTES);
                }
                part_bytes += change.bytes();
                part.push(change);
                pairs += 1;
            }
        }
        append(client, self.stream, Some(StatePart { as_of, last: true }), &part, strict)?;
        let how = CursorMove { durability: strict, ..CursorMove::default() };
        match client.set_cursor(self.stream, STATE_CURSOR, as_of, how) {
            // Another one has compacted it further meanwhile.
            Err(ClientError::CursorMoved { .. }) => {}
            moved => moved?,
        }
        if trim {
            client.trim(self.stream, as_of)?;
        }
        Ok(Compacted { as_of, pairs })
    }
}

/// Writes a step without reading the run, but for a look whether it is one. Gives its offset. Blocks.
///
/// # Errors
/// As `Run::open` and `Run::write`.
pub fn write(
    client: &mut Client,
    name: &str,
    create: Option<Durability>,
    changes: &[Change<'_>],
    durability: Option<Durability>,
) -> Result<u64, RunError> {
    let stream = open(client, name, create)?;
    let events = match client.read(stream, 0, None) {
        Err(ClientError::Trimmed { first }) => client.read(stream, first, None),
        events => events,
    };
    for (offset, event) in &events? {
        step_of(*offset, event)?;
    }
    append(client, stream, None, changes, durability)
}

fn open(client: &mut Client, name: &str, create: Option<Durability>) -> Result<Object, RunError> {
    if create == Some(Durability::Memory) {
        return Err(RunError::InMemory);
    }
    let stream = client.open_stream(name, create)?;
    if stream.durability == Durability::Memory { Err(RunError::InMemory) } else { Ok(stream) }
}

fn append(
    client: &mut Client,
    stream: Object,
    state: Option<StatePart>,
    changes: &[Change<'_>],
    durability: Option<Durability>,
) -> Result<u64, RunError> {
    if state.is_none() && changes.is_empty() {
        return Err(RunError::BadChange);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wall_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let event = step::encode(wall_ms, state, changes).ok_or(RunError::BadChange)?;
    let (bytes, bytes_max) = (event.len(), client.value_bytes_max_in(stream));
    if bytes > bytes_max {
        return Err(RunError::TooLarge { bytes, bytes_max });
    }
    Ok(client.append(stream, &event, Write { durability, ..Write::default() })?)
}

/// Some of a run's steps, with their offsets.
fn read(client: &mut Client, stream: Object, from: u64) -> Result<Vec<(u64, Vec<u8>)>, RunError> {
    match client.read(stream, from, None) {
        Err(ClientError::Trimmed { first }) => Err(RunError::Trimmed { first }),
        events => Ok(events?),
    }
}

fn step_of(offset: u64, event: &[u8]) -> Result<Step<'_>, RunError> {
    Step::decode(event).ok_or(RunError::NotAStep { offset })
}

/// Where a run is to be read from whose stream begins at `first`: where its last whole state begins, `None`: from its first step.
fn begin_of(client: &mut Client, stream: Object, first: u64) -> Result<Option<u64>, RunError> {
    match client.cursor(stream, STATE_CURSOR) {
        Ok(Some(begin)) if begin >= first => Ok(Some(begin)),
        Ok(_) if first == 0 => Ok(None),
        Ok(_) => find_state(client, stream, first).map(Some),
        Err(ClientError::CursorTrimmed { first, .. }) => find_state(client, stream, first).map(Some),
        Err(error) => Err(error.into()),
    }
}

/// Where the last state begins that is whole in a stream that begins at `first`. The cursor need not say it: a backup has it as it
/// stood before, an export may be without it.
fn find_state(client: &mut Client, stream: Object, first: u64) -> Result<u64, RunError> {
    let (mut next, mut found) = (first, None);
    loop {
        let events = match read(client, stream, next) {
            Err(RunError::Trimmed { first: now }) => {
                next = now;
                continue;
            }
            events => events?,
        };
        if events.is_empty() {
            return found.ok_or(RunError::Trimmed { first });
        }
        for (offset, event) in &events {
            next = offset + 1;
            // All parts stand behind the offset that they name.
            let state = step_of(*offset, event)?.state.filter(|part| part.last && part.as_of >= first);
            found = found.max(state.map(|part| part.as_of));
        }
    }
}
