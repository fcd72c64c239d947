//! What can go wrong for a client, with what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::ring::protocol::{EndReason, NAME_BYTES_MAX, PAGES_MAX, Status};
use crate::types::{Compression, ObjectId};

/// The kernel's limit, without the zero at the end.
const SOCKET_BYTES_MAX: usize = 107;

/// Why a call failed. `Display` says the cause and what to do.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// The daemon answered, and this is its answer.
    Status(Status),
    /// A conditional write found another version; 0: the key is absent.
    VersionMismatch {
        present: u64,
    },
    /// A commit found that a key which it read has another version, 0: it is absent. `entry`: which of its entries.
    Conflict {
        entry: u64,
        present: u64,
    },
    /// A transaction met a conflict each time, and gives up. Nothing of it was done.
    TooManyConflicts {
        conflicts: u32,
        waited: Duration,
        /// What the last conflict was about.
        space: ObjectId,
        key: Vec<u8>,
    },
    /// The stream begins only at this offset.
    Trimmed {
        first: u64,
    },
    /// The producer's next sequence number is this one. A lower one was appended, and its offset is forgotten; with 1,
    /// the stream does not know the producer, or has forgotten it.
    OutOfSequence {
        next: u64,
    },
    /// The cursor lies below the first event that is kept.
    CursorTrimmed {
        cursor: u64,
        first: u64,
    },
    /// The cursor stands there, and not where it was expected; or setting it would move it back. `None`: it is absent.
    CursorMoved {
        present: Option<u64>,
    },
    /// The stream's events are not linked by hashes.
    NotChained,
    /// The first event that does not lead to the head which the stream states after it.
    ChainBroken {
        offset: u64,
    },
    /// The stream has as many cursors as the daemon's `limits.cursors_max` allows.
    TooManyCursors,
    /// A request for more pages than one may hold, or more bytes of them than the daemon's `limits.value_bytes_max`.
    PagesTooLarge {
        count: usize,
        bytes: usize,
        bytes_max: usize,
    },
    /// What is to be a page has another size.
    BadPage {
        number: u64,
        bytes: usize,
        page_bytes: usize,
    },
    /// The name of a space, stream or cursor that none can have.
    BadName,
    /// The daemon has as many spaces and streams as its `limits.objects_max` allows.
    TooManyObjects,
    /// The daemon ended the session, and said why.
    Ended(EndReason),
    /// The daemon did not take the connection, in its own words.
    Refused(String),
    /// The daemon is gone without a word.
    Disconnected,
    /// Nobody listens there, or this user may not connect (`PermissionDenied`).
    NoDaemon {
        socket: PathBuf,
        error: io::Error,
    },
    /// The daemon took the connection but did not answer in time.
    TimedOut {
        socket: PathBuf,
    },
    /// A request that this session's arena cannot hold, however empty.
    ArenaTooSmall {
        needed: u64,
        block_bytes_max: u64,
    },
    /// A value of a space with compression that cannot be read: it is damaged, or this program lacks the codec.
    BadValue {
        /// The request that it answers; of a blocking call nothing.
        user_data: u64,
        /// Where the request did not name it.
        key: Option<Vec<u8>>,
        cause: String,
    },
    /// A request of plain keys on a space of deltas.
    HoldsDeltas,
    /// `DeltaSpace` on a space that was made with another compression.
    NoDeltas {
        compression: Compression,
    },
    /// A time to live for a key of a space of deltas.
    NeverExpires,
    /// A delta of which no value can be made.
    BadDelta {
        key: Vec<u8>,
        version: u64,
        /// The version of the key's base; 0: there is none.
        base: u64,
        cause: String,
    },
    /// `wait` without a request in flight would never return.
    NothingInFlight,
    /// The daemon broke the protocol.
    Broken(String),
    Io(io::Error),
}

impl ClientError {
    /// What only streams answer.
    fn fmt_stream(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::NotChained => {
                f.write_str("the stream's events are not chained; only one that was created so (--chained) can be verified")
            }
            ClientError::ChainBroken { offset } => write!(
                f,
                "the chain breaks at offset {offset}: its event, place or predecessor is not what was appended; compare \
                 with a copy, and look at the drive (`forebay verify`)"
            ),
            ClientError::CursorTrimmed { cursor, first } => write!(
                f,
                "the cursor stands at offset {cursor}, and the stream begins at {first}: what was between is trimmed; set \
                 it to {first} (`forebay cursor set`)"
            ),
            ClientError::CursorMoved { present: Some(present) } => write!(
                f,
                "the cursor stands at offset {present}; look again, or say that it may go back (`forebay cursor set --back`)"
            ),
            ClientError::CursorMoved { present: None } => f.write_str("the cursor is absent; look again, or make it"),
            ClientError::TooManyCursors => f.write_str(
                "the stream has as many cursors as limits.cursors_max allows; delete one (`forebay cursor delete`), or \
                 raise it in the daemon's configuration",
            ),
            ClientError::OutOfSequence { next: 1 } => f.write_str(
                "the stream does not know this producer, or has forgotten it; begin with sequence number 1 of a producer \
                 that is new, or raise limits.producers_max of the daemon",
            ),
            ClientError::OutOfSequence { next } => write!(
                f,
                "the producer's next sequence number is {next}; lower ones are appended already, send what follows from \
                 {next} on"
            ),
            _ => Ok(()),
        }
    }

    /// What only page spaces answer.
    fn fmt_pages(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::PagesTooLarge { count, bytes, bytes_max } => write!(
                f,
                "{count} pages in one request, {bytes} B with what stands before each, and it takes {PAGES_MAX} pages and \
                 {bytes_max} B at most; ask for fewer at once, or raise limits.value_bytes_max in the daemon's configuration"
            ),
            ClientError::BadPage { number, bytes, page_bytes } => write!(
                f,
                "page {number} is to have {bytes} B, and each page of this space has {page_bytes} B; give whole pages"
            ),
            _ => Ok(()),
        }
    }

    /// What only spaces of deltas answer.
    fn fmt_delta(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::HoldsDeltas => f.write_str(
                "the space holds deltas (compression delta), and this is for spaces of plain keys; use DeltaSpace of the client \
                 library (feature \"zstd\"), or `forebay put`, `get`, `delete` and `scan`",
            ),
            ClientError::NoDeltas { compression } => write!(
                f,
                "the space is there with compression {}, and holds no deltas; read and write it without DeltaSpace, or \
                 choose another name",
                compression.name()
            ),
            ClientError::NeverExpires => f.write_str(
                "a key of a space of deltas has no time to live, for its base would outlive it; delete it when it is over, \
                 or use a space with another compression",
            ),
            ClientError::BadDelta { key, version, base, cause } => {
                write!(f, "version {version} of key \"{}\" is a delta, and ", key.escape_ascii())?;
                match base {
                    0 => f.write_str("its base is absent")?,
                    base => write!(f, "with version {base} of its base {cause}")?,
                }
                f.write_str("; write the key anew, delete it, or restore it from a backup")
            }
            _ => Ok(()),
        }
    }

    pub(super) fn bad_value(key: Option<&[u8]>, cause: String) -> ClientError {
        ClientError::BadValue { user_data: 0, key: key.map(<[u8]>::to_vec), cause }
    }

    /// The same, as the answer to a request.
    pub(super) fn of_request(self, user_data: u64) -> ClientError {
        match self {
            ClientError::BadValue { key, cause, .. } => ClientError::BadValue { user_data, key, cause },
            other => other,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Status(status) => {
                f.write_str(status.text())?;
                remedy_of(*status).map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
            }
            ClientError::VersionMismatch { present: 0 } => {
                f.write_str("the key is absent, where a version of it was expected; read it and decide again")
            }
            ClientError::VersionMismatch { present } => {
                write!(f, "the key has version {present}, not the expected one; read it and decide again")
            }
            ClientError::Conflict { .. } | ClientError::TooManyConflicts { .. } => self.conflict(f),
            ClientError::Trimmed { first } => {
                write!(f, "the stream begins at offset {first}, what was before is trimmed; read from there")
            }
            ClientError::NotChained
            | ClientError::ChainBroken { .. }
            | ClientError::TooManyCursors
            | ClientError::CursorTrimmed { .. }
            | ClientError::CursorMoved { .. }
            | ClientError::OutOfSequence { .. } => self.fmt_stream(f),
            ClientError::PagesTooLarge { .. } | ClientError::BadPage { .. } => self.fmt_pages(f),
            ClientError::BadName => write!(
                f,
                "this is no name; choose one of 1 to {NAME_BYTES_MAX} bytes of UTF-8 without control characters"
            ),
            ClientError::TooManyObjects => f.write_str(
                "there are as many spaces and streams as limits.objects_max allows; raise it in the daemon's \
                 configuration and restart it",
            ),
            ClientError::Ended(EndReason::Stopping) => {
                f.write_str("the daemon stopped; connect again when it has started")
            }
            ClientError::Ended(reason) => {
                write!(f, "the daemon ended the session: {}; this client is at fault, connect anew", reason.text())
            }
            ClientError::Refused(text) => write!(f, "the daemon refused the connection: {text}"),
            ClientError::Disconnected => {
                f.write_str("the daemon is gone; start it again (`forebay serve`) and look into its log")
            }
            ClientError::NoDaemon { .. } | ClientError::TimedOut { .. } => self.no_daemon(f),
            ClientError::ArenaTooSmall { needed, block_bytes_max } => write!(
                f,
                "a request needs {needed} B in one piece and this session's arena has pieces of at most \
                 {block_bytes_max} B; connect with a larger arena_bytes"
            ),
            ClientError::BadValue { key, cause, .. } => {
                let key = key.as_ref().map(|key| format!(" of key {:?}", String::from_utf8_lossy(key)));
                write!(
                    f,
                    "the stored value{} cannot be read: {cause}; write the key anew or delete it",
                    key.unwrap_or_default()
                )
            }
            ClientError::HoldsDeltas
            | ClientError::NoDeltas { .. }
            | ClientError::NeverExpires
            | ClientError::BadDelta { .. } => self.fmt_delta(f),
            ClientError::NothingInFlight => f.write_str("nothing is in flight to wait for; submit a request first"),
            ClientError::Broken(what) => {
                write!(f, "the daemon broke the ring protocol: {what}; use one that is healthy")
            }
            ClientError::Io(error) => write!(f, "talking to the daemon failed: {error}"),
        }
    }
}

impl ClientError {
    fn no_daemon(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::NoDaemon { socket, error } if socket.as_os_str().len() > SOCKET_BYTES_MAX => write!(
                f,
                "no daemon listens on {}: {error}; a socket's path has at most {SOCKET_BYTES_MAX} bytes, choose a \
                 shorter one for the daemon too",
                socket.display()
            ),
            ClientError::NoDaemon { socket, error } if error.kind() == io::ErrorKind::PermissionDenied => write!(
                f,
                "this user may not connect to {}: {error}; run this as one who may (rings.mode and [access] of the daemon), \
                 or name another socket (--socket)",
                socket.display()
            ),
            ClientError::NoDaemon { socket, error } => write!(
                f,
                "no daemon listens on {}: {error}; start one (`forebay serve`) or name its socket (--socket)",
                socket.display()
            ),
            ClientError::TimedOut { socket } => write!(
                f,
                "the daemon on {} did not answer in time; see whether it is overloaded or stopped",
                socket.display()
            ),
            _ => Ok(()),
        }
    }

    fn conflict(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Conflict { entry, present: 0 } => {
                write!(f, "entry {entry} of the commit read a key that is absent now; read again and decide again")
            }
            ClientError::Conflict { entry, present } => write!(
                f,
                "entry {entry} of the commit read a key that has version {present} now; read again and decide again"
            ),
            ClientError::TooManyConflicts { conflicts, waited, space, key } => write!(
                f,
                "the transaction met {conflicts} conflicts within {} ms and gave up, the last one about key \"{}\" of \
                 space number {space}; have fewer clients write that key at once, or allow more \
                 (Retry::conflicts_max, Retry::time_max)",
                waited.as_millis(),
                key.escape_ascii()
            ),
            _ => Ok(()),
        }
    }
}

fn remedy_of(status: Status) -> Option<&'static str> {
    Some(match status {
        Status::NoSpace => "delete or trim what is not needed, or use a larger device",
        Status::NoMemory => {
            "delete or trim what is old, or raise limits.memory_bytes_max or limits.keys_max of the daemon"
        }
        Status::TooLarge => "split it, or raise limits.value_bytes_max or limits.key_bytes_max of the daemon",
        Status::BadRequest => "a key and a batch must not be empty",
        Status::UnknownObject => "create it first, or look at the names in the catalog",
        Status::Fenced => "restart the daemon, which recovers, and look at the device",
        Status::Busy => "try again later",
        Status::Stopping => "connect again when it has started",
        Status::TransactionTooLarge => {
            "split it (at most 1,024 keys), or raise limits.value_bytes_max of the daemon, which bounds all of its bytes"
        }
        Status::SnapshotGone => "take another one, and read it faster or raise the limit of the daemon",
        Status::TooManySnapshots => "release one, or raise the limit of the daemon",
        Status::Locked => "try again",
        Status::Denied => "have this user added to the daemon's writers",
        _ => return None,
    })
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ClientError::Io(error) | ClientError::NoDaemon { error, .. } => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for ClientError {
    fn from(error: io::Error) -> Self {
        ClientError::Io(error)
    }
}

impl From<ClientError> for crate::error::Error {
    fn from(error: ClientError) -> Self {
        crate::error::Error::new(error.to_string())
    }
}

/// Why a request was not taken.
#[derive(Debug)]
pub enum SubmitError {
    /// A ring or the arena is full: `poll` or `wait` for an answer first. Something is always in flight then.
    Full,
    Client(ClientError),
}

impl fmt::Display for SubmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SubmitError::Full => f.write_str("the ring or its arena is full; poll for an answer first"),
            SubmitError::Client(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for SubmitError {}

impl From<ClientError> for SubmitError {
    fn from(error: ClientError) -> Self {
        SubmitError::Client(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_may_not_be_opened_is_not_called_absent() {
        let told =
            |kind: io::ErrorKind| ClientError::NoDaemon { socket: "/run/x".into(), error: kind.into() }.to_string();
        assert!(told(io::ErrorKind::NotFound).contains("no daemon listens on /run/x"));
        let denied = told(io::ErrorKind::PermissionDenied);
        assert!(denied.contains("may not connect to /run/x") && denied.contains("rings.mode"), "{denied}");
    }
}
