//! One operation of a job, and what is said when it fails.

use super::stats::Failure;
use crate::ring::client::ClientError;
use crate::ring::protocol::Status;
use std::fmt;

/// What an operation counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of a value or of an event.
    Read,
    Scan,
    /// Of a key that the job has, or of an event.
    Write,
    /// Of a new key.
    Insert,
    /// Read-modify-write: a read, then a write of the same key; measured as a whole, and each part by itself.
    Modify,
    /// Reads of rows, then a commit, and both again after a conflict; measured as a whole, and each part by itself.
    Transaction,
    Sync,
}

impl Kind {
    pub const ALL: [Kind; 7] =
        [Kind::Read, Kind::Scan, Kind::Write, Kind::Insert, Kind::Modify, Kind::Transaction, Kind::Sync];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Kind::Read => "read",
            Kind::Scan => "scan",
            Kind::Write => "write",
            Kind::Insert => "insert",
            Kind::Modify => "read-modify-write",
            Kind::Transaction => "transaction",
            Kind::Sync => "sync",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Action {
    /// `key` is the number of the key, `write` that of the write among this thread's.
    Put {
        key: u64,
        write: u64,
    },
    Get {
        key: u64,
    },
    /// Asks every shard for so many pairs from the key on, as the client's own scan does.
    Scan {
        key: u64,
        pairs: u32,
    },
    /// Asks for every row that the transaction under way in this slot reads.
    ReadRows {
        slot: u32,
    },
    Commit {
        slot: u32,
    },
    Append {
        write: u64,
    },
    Read {
        offset: u64,
    },
    Sync {
        reactor: u32,
    },
}

#[derive(Clone, Copy, Debug)]
pub struct Operation {
    pub action: Action,
    /// Of the value or event to write.
    pub bytes: u32,
    pub kind: Kind,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Put { key, .. } => write!(f, "put of key {key}"),
            Action::Get { key } => write!(f, "get of key {key}"),
            Action::Scan { key, pairs } => write!(f, "scan of {pairs} pairs from key {key}"),
            Action::ReadRows { .. } => f.write_str("read of a transaction's rows"),
            Action::Commit { .. } => f.write_str("commit of a transaction"),
            Action::Append { write } => write!(f, "append of event {write}"),
            Action::Read { offset } => write!(f, "read of offset {offset}"),
            Action::Sync { reactor } => write!(f, "sync of reactor {reactor}"),
        }
    }
}

/// What was read is not what was written.
pub fn wrong(action: Action, cause: &str) -> Failure {
    Failure::new(Failure::WRONG_DATA, format!("{action}: {cause}"))
}

/// The daemon answered that it did not do it.
pub fn failed(action: Action, status: Status) -> Failure {
    let code = match status {
        Status::NoSpace => Failure::NO_SPACE,
        Status::NoMemory => Failure::NO_MEMORY,
        Status::Stopping => Failure::DISCONNECTED,
        _ => Failure::IO,
    };
    Failure::new(code, format!("{action}: {}", ClientError::Status(status)))
}

/// The connection is of no more use.
pub fn failure_of(error: &ClientError) -> Failure {
    Failure::new(Failure::DISCONNECTED, error.to_string())
}
