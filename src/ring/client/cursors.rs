//! Cursors: where a consumer of a stream goes on, kept by the daemon.

use crate::ring::protocol::{AUX_MORE, Status, name_is_valid};

use super::calls::REPLY_BYTES;
use super::reply::cursors;
use super::{Client, ClientError, CursorMove, Object, Request};

impl Client {
    /// Moves a cursor to an offset, or makes it. It says that all events below are consumed.
    ///
    /// # Errors
    /// `CursorMoved`, `TooManyCursors`, `BadName`; `BadRequest` beyond the stream's end; else as `wait`.
    pub fn set_cursor(&mut self, stream: Object, name: &str, offset: u64, how: CursorMove) -> Result<(), ClientError> {
        if !name_is_valid(name.as_bytes()) {
            return Err(ClientError::BadName);
        }
        match self.call(&Request::SetCursor { stream, name, offset, how })?.0.ok() {
            Err(ClientError::Status(Status::TooLarge)) => Err(ClientError::TooManyCursors),
            answer => answer.map(|_| ()),
        }
    }

    /// Where a cursor stands, `None` when there is none of this name.
    ///
    /// # Errors
    /// `CursorTrimmed` when it lies below the first event; else as `wait`.
    pub fn cursor(&mut self, stream: Object, name: &str) -> Result<Option<u64>, ClientError> {
        let (answer, _) = self.call(&Request::GetCursor { stream, name, relaxed: false })?;
        if answer.status == Status::NotFound {
            return Ok(None);
        }
        answer.ok().map(|answer| Some(answer.version))
    }

    /// All cursors of a stream with their offsets, by name.
    ///
    /// # Errors
    /// As `wait`.
    pub fn cursors(&mut self, stream: Object) -> Result<Vec<(String, u64)>, ClientError> {
        let mut all: Vec<(String, u64)> = Vec::new();
        loop {
            let (after, before) = (all.last().map_or(String::new(), |(name, _)| name.clone()), all.len());
            let (answer, reply) =
                self.call(&Request::Cursors { stream, after: &after, reply_bytes_max: REPLY_BYTES })?;
            let answer = answer.ok()?;
            for cursor in cursors(&reply) {
                let (name, offset) = cursor?;
                all.push((name.to_owned(), offset));
            }
            if answer.aux & AUX_MORE == 0 {
                return Ok(all);
            }
            if all.len() == before {
                return Err(ClientError::Broken("a list of cursors that has more does not go on".into()));
            }
        }
    }

    /// Forgets a cursor. Whether it was there.
    ///
    /// # Errors
    /// As `wait`.
    pub fn drop_cursor(&mut self, stream: Object, name: &str) -> Result<bool, ClientError> {
        let (answer, _) = self.call(&Request::DropCursor { stream, name })?;
        if answer.status == Status::NotFound {
            return Ok(false);
        }
        answer.ok().map(|_| true)
    }
}
