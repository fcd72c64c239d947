//! What a client is told of one request.

use crate::ring::client::ClientError;
use crate::ring::protocol::{CURSOR_ABSENT, Status};

/// How one request ended. Its reply, if it has one, comes beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    pub user_data: u64,
    pub status: Status,
    /// A key's version, an event's offset, or an object's number.
    pub version: u64,
    /// See `protocol::Completion`.
    pub aux: u64,
    /// Of the record written; 0: none.
    pub lsn: u64,
}

impl Answer {
    /// # Errors
    /// The status as an error, unless it is `Ok`.
    pub fn ok(self) -> Result<Answer, ClientError> {
        match self.status {
            Status::Ok => Ok(self),
            Status::VersionMismatch => Err(ClientError::VersionMismatch { present: self.version }),
            Status::Trimmed => Err(ClientError::Trimmed { first: self.version }),
            Status::CursorTrimmed => Err(ClientError::CursorTrimmed { cursor: self.aux, first: self.version }),
            Status::CursorMoved => {
                Err(ClientError::CursorMoved { present: Some(self.version).filter(|at| *at != CURSOR_ABSENT) })
            }
            Status::OutOfSequence => Err(ClientError::OutOfSequence { next: self.version }),
            Status::Conflict | Status::Locked => Err(ClientError::Conflict { entry: self.aux, present: self.version }),
            status => Err(ClientError::Status(status)),
        }
    }
}
